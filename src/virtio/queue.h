/* SPDX-License-Identifier: MIT */
/*
 * Virtqueues, device side, split and packed (virtio 1.2, "Split Virtqueues", "Packed Virtqueues"). The rings lie in
 * guest memory and are hostile: each descriptor is read once into a private copy, checked, and only the copy is used. A
 * queue that breaks a rule turns `broken` and gives nothing more until it is reset. Locks: the device's own.
 */
#ifndef GAZDA_VIRTIO_QUEUE_H
#define GAZDA_VIRTIO_QUEUE_H

#include "base/types.h"

struct mem;
struct state_out;
struct state_in;

enum { VIRTQ_MAX = 256 }; /* entries of a ring, and buffers of a chain */

/* How a queue lies in memory; queue_split.c and queue_packed.c. */
struct virtq_layout;

struct virtq_buf {
    gpa_t gpa;
    uint32_t len;
};

/* A request: buffers the device reads, then buffers it writes. All lie in RAM; lengths may be 0. */
struct virtq_chain {
    uint16_t head;            /* names it: for virtq_push */
    uint16_t n_out, n_in;     /* driver to device; device to driver */
    uint64_t out_len, in_len; /* sums */
    struct virtq_buf buf[VIRTQ_MAX];
};

struct virtq {
    struct mem *mem;
    const struct virtq_layout *layout;
    uint16_t max, size; /* size: 1..max; a split queue's is a power of two */
    bool ready;
    bool resetting;             /* by the driver, alone: what is in flight is waited for, and not given back */
    gpa_t desc, driver, device; /* the three areas */
    bool indirect, event_idx;   /* negotiated */
    const char *broken;         /* which rule the driver broke, or NULL */
    uint16_t avail_next;        /* where the next request will be: split, a free-running index; packed, a slot */
    uint16_t used_next;         /* where the next used entry goes; likewise */
    bool avail_wrap, used_wrap; /* packed: the wrap counters */
    uint16_t unsignalled;       /* entries (packed: slots) used since the last interrupt decision */
    uint16_t inflight;          /* requests taken and not given back */
    uint16_t slots;             /* packed: the slots of those */
    uint16_t last;              /* packed: the slots of the last one taken */
    uint16_t held[VIRTQ_MAX];   /* packed: by buffer ID, the slots of one in flight */
};

void virtq_init(struct virtq *q, struct mem *m, uint16_t max);
/* As after a device reset; mem and max stay. */
void virtq_reset(struct virtq *q);
/* The driver resets this queue alone: nothing is taken or given back from now on. */
void virtq_begin_reset(struct virtq *q);
/* False: still under way, because of what is in flight. */
bool virtq_reset_done(struct virtq *q);
/* With the negotiated features, before the driver is ready. */
void virtq_set_features(struct virtq *q, bool packed, bool indirect, bool event_idx);
/* The rings are aligned and in RAM. False also sets broken. */
bool virtq_check(struct virtq *q);

/* Takes the next request: 1, 0 = none, -EINVAL = broken. c is the caller's, filled on 1. */
int virtq_pop(struct virtq *q, struct virtq_chain *c);
/* Takes the popped chain back, as if never popped. Only for the chain popped last. */
void virtq_unpop(struct virtq *q);
/* Gives request head back with len bytes written into its buffers. */
void virtq_push(struct virtq *q, uint16_t head, uint32_t len);
/* Whether the driver wants an interrupt for what was pushed since the last call. */
bool virtq_wants_interrupt(struct virtq *q);
/* Asks the driver for notifications, or not. True: a request is there already, look again. */
bool virtq_enable_notify(struct virtq *q);
void virtq_disable_notify(struct virtq *q);

/* Copy between a chain's buffers of one direction, from byte off on, and host memory. They return the bytes copied. */
uint64_t virtq_read(const struct virtq *q, const struct virtq_chain *c, uint64_t off, void *dst, uint64_t len);
uint64_t virtq_write(const struct virtq *q, const struct virtq_chain *c, uint64_t off, const void *src, uint64_t len);

void virtq_save(const struct virtq *q, struct state_out *s);
/* Parses into *q (initialised by virtq_init): 0 or -EINVAL. Nothing is in flight in a saved queue. */
int virtq_load(struct virtq *q, struct state_in *s);

#endif
