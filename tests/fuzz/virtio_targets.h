/* SPDX-License-Identifier: MIT */
/* The devices that fuzz_virtio drives. To add one: a file virtio_target_KIND.c, and its line in virtio_targets.c. */
#ifndef GAZDA_TESTS_FUZZ_VIRTIO_TARGETS_H
#define GAZDA_TESTS_FUZZ_VIRTIO_TARGETS_H

#include "../unit/virtio_driver.h"

struct virtio_target {
    const char *name;
    bool control;   /* its driver speaks to a multiport console */
    bool unordered; /* no two runs are the same: there is another thread, or answers are random or tell of times */
    /*
     * Makes the device (d->v) and what is behind it, which it returns. What costs time may be kept for the next case
     * (threads, files), but nothing of what a case has done to it.
     */
    void *(*open)(struct drv *d, const struct virtio_env *env, unsigned variant);
    /* The outside world says something; may be NULL. */
    void (*input)(void *back, const uint8_t *buf, size_t n);
    void (*close)(void *back); /* after the device was freed */
    void (*end)(void);         /* no more cases: drops what was kept, if anything; may be NULL */
};

extern const struct virtio_target *const virtio_targets[];
unsigned virtio_target_count(void);

extern const struct virtio_target virtio_target_blk, virtio_target_blk_ro, virtio_target_blk_limit,
    virtio_target_console, virtio_target_ports, virtio_target_rng;
extern const struct virtio_target virtio_target_vsock;
extern const struct virtio_target virtio_target_9p;
extern const struct virtio_target virtio_target_net;
extern const struct virtio_target virtio_target_blk_uring;
extern const struct virtio_target virtio_target_balloon;

#endif
