/* SPDX-License-Identifier: MIT */
/*
 * What all virtio devices share: feature negotiation, the status machine, queues, interrupts, reset, and serving
 * queues outside of the vCPU's thread. A device is one file: it embeds struct virtio_dev first and fills a
 * struct virtio_ops. The transport (transport_mmio.h) turns register accesses into calls of the lower half here.
 *
 * One lock a device. Unless said otherwise every function and every virtio_ops call runs with it held.
 */
#ifndef GAZDA_VIRTIO_VIRTIO_H
#define GAZDA_VIRTIO_VIRTIO_H

#include <pthread.h>

#include "base/lock.h"
#include "base/timer.h"
#include "bus/irq.h"
#include "host/pool.h"
#include "virtio/queue.h"

enum { VIRTIO_QUEUES_MAX = 20, VIRTIO_CONFIG_MAX = 128 };
/* virtio 1.2, "Device Types". */
enum {
    VIRTIO_ID_NET = 1,
    VIRTIO_ID_BLOCK = 2,
    VIRTIO_ID_CONSOLE = 3,
    VIRTIO_ID_RNG = 4,
    VIRTIO_ID_BALLOON = 5,
    VIRTIO_ID_9P = 9,
    VIRTIO_ID_VSOCK = 19,
};

/* virtio 1.2, "Device Status Field". */
enum {
    VIRTIO_ACKNOWLEDGE = 1,
    VIRTIO_DRIVER = 2,
    VIRTIO_DRIVER_OK = 4,
    VIRTIO_FEATURES_OK = 8,
    VIRTIO_NEEDS_RESET = 64,
    VIRTIO_FAILED = 128,
};
enum { VIRTIO_ISR_QUEUE = 1, VIRTIO_ISR_CONFIG = 2 };

#define VIRTIO_F_INDIRECT_DESC (1UL << 28)
#define VIRTIO_F_EVENT_IDX (1UL << 29)
#define VIRTIO_F_VERSION_1 (1UL << 32)
#define VIRTIO_F_RING_PACKED (1UL << 34)
#define VIRTIO_F_RING_RESET (1UL << 40)

struct virtio_dev;
struct virtio_put;

struct virtio_ops {
    const char *name;
    uint32_t id;
    bool on_worker; /* serve runs on a pool thread; otherwise in the vCPU's, as long as it returns false */
    /* The configuration space as it is now: fills buf (zeroed) and returns its length. */
    unsigned (*config)(struct virtio_dev *v, uint8_t buf[VIRTIO_CONFIG_MAX]);
    /* NULL: read-only. [off, off+len) is inside of the space. */
    void (*config_write)(struct virtio_dev *v, unsigned off, const uint8_t *buf, unsigned len);
    bool (*features_ok)(struct virtio_dev *v, uint64_t features); /* NULL: any subset of the offered is fine */
    void (*negotiated)(struct virtio_dev *v);                     /* FEATURES_OK was set; may be NULL */
    void (*activate)(struct virtio_dev *v);                       /* DRIVER_OK; may be NULL */
    /* Handles a bounded number of requests of queue q. True: there are more, call again. */
    bool (*serve)(struct virtio_dev *v, unsigned q);
    void (*queue_reset)(struct virtio_dev *v, unsigned q);   /* of one queue; forget what is left of it; may be NULL */
    void (*reset)(struct virtio_dev *v);                     /* nothing is in flight any more; may be NULL */
    void (*save)(struct virtio_dev *v, struct state_out *s); /* may be NULL, with load */
    int (*load)(struct virtio_dev *v, struct state_in *s);   /* hostile input; -EINVAL: unchanged */
    void (*stats)(struct virtio_dev *v, const struct virtio_put *put); /* what it counted; may be NULL */
    void (*free)(struct virtio_dev *v);                                /* lock not held; calls virtio_fini */
};

/* What a device is built with. The pool outlives it. */
struct virtio_env {
    struct mem *mem;
    struct irq_line irq;
    struct pool *pool;
    struct timer_svc *timers; /* may be NULL in tests of devices that need none */
};

struct virtio_dev {
    const struct virtio_ops *ops;
    struct mem *mem;
    struct irq_line irq;
    struct pool *pool;
    struct timer_svc *timers;
    struct lock lock; /* everything below */
    uint64_t offered, features;
    uint8_t status, isr;
    uint32_t config_gen;
    uint32_t sel_device, sel_driver, sel_queue, sel_shm; /* the transport's */
    unsigned complaints;                                 /* broken rules, over the device's life */
    uint64_t notifications, interrupts;                  /* counted too */
    bool resetting;
    bool in_notify; /* serve runs in the thread of the vCPU that rang */
    unsigned busy;  /* queued services and requests in flight */
    pthread_cond_t idle;
    unsigned n_queues;
    struct virtq q[VIRTIO_QUEUES_MAX];
    struct virtio_service {
        struct pool_job job; /* first */
        struct virtio_dev *v;
        unsigned q;
        bool queued;
    } service[VIRTIO_QUEUES_MAX];
    struct virtq_chain chain; /* scratch of serve */
};

/* ---- for devices ---- */

/* Lock not held. VERSION_1, INDIRECT_DESC, EVENT_IDX, RING_PACKED and RING_RESET are offered by all. */
void virtio_init(struct virtio_dev *v, const struct virtio_ops *ops, const struct virtio_env *env, uint64_t features);
void virtio_add_queue(struct virtio_dev *v, uint16_t max);
void virtio_fini(struct virtio_dev *v); /* waits for what is in flight; lock not held */

bool virtio_live(const struct virtio_dev *v); /* DRIVER_OK, and not broken, failed or resetting */
static inline bool virtio_has(const struct virtio_dev *v, uint64_t feature)
{
    return (v->features & feature) != 0;
}
/* Interrupts the driver if it wants to know of what was pushed to queue q. */
void virtio_signal(struct virtio_dev *v, unsigned q);
void virtio_config_changed(struct virtio_dev *v);
/* The driver broke a rule: stop until it resets the device. */
void virtio_needs_reset(struct virtio_dev *v, const char *why);
/* Serves queue q soon, on a worker. */
void virtio_kick(struct virtio_dev *v, unsigned q);
/* A request that outlives serve: reset waits for the release. */
void virtio_hold(struct virtio_dev *v);
void virtio_release(struct virtio_dev *v);

/* ---- for transports; lock held too ---- */

void virtio_set_status(struct virtio_dev *v, uint8_t status); /* 0 = reset */
void virtio_notify(struct virtio_dev *v, unsigned q);
/* The driver has set queue q up, or wants it reset alone. */
void virtio_queue_enable(struct virtio_dev *v, unsigned q);
void virtio_queue_reset(struct virtio_dev *v, unsigned q);
void virtio_ack(struct virtio_dev *v, uint8_t isr);
void virtio_config_read(struct virtio_dev *v, uint64_t off, void *buf, unsigned len);
void virtio_config_write(struct virtio_dev *v, uint64_t off, const void *buf, unsigned len);
/* Lock not held. */
void virtio_reset(struct virtio_dev *v);
int virtio_save(struct virtio_dev *v, struct state_out *s);
int virtio_load(struct virtio_dev *v, struct state_in *s);
void virtio_free(struct virtio_dev *v); /* NULL is fine */

#endif
