/* SPDX-License-Identifier: MIT */
/* The virtio devices: constructors. Each returns NULL without memory; virtio_free frees any of them. */
#ifndef GAZDA_VIRTIO_DEVICES_H
#define GAZDA_VIRTIO_DEVICES_H

#include "virtio/virtio.h"

struct chardev;
struct disk;
struct limiter_cfg;

/* Up to VIRTIO_QUEUES_MAX queues, 1 at least. */
struct virtio_blk_cfg {
    struct disk *disk; /* not owned */
    unsigned queues;
    const struct limiter_cfg *limit; /* NULL: none. With one, env has timers. */
};
struct virtio_dev *virtio_blk_new(const struct virtio_env *env, const struct virtio_blk_cfg *cfg);

enum { VIRTIO_CONSOLE_PORTS_MAX = 9 };
struct virtio_console_port {
    const char *name;   /* copied; NULL: a console. Linux shows it as /dev/virtio-ports/NAME */
    struct chardev *ch; /* not owned; NULL: there is no port of this number */
};
/* Port 0 is the console or absent; several ports come with MULTIPORT. Attaches to the back ends. */
struct virtio_dev *virtio_console_new(const struct virtio_env *env, const struct virtio_console_port *port, unsigned n);

/* limit as for a disk. */
struct virtio_dev *virtio_rng_new(const struct virtio_env *env, const struct limiter_cfg *limit);

#endif
