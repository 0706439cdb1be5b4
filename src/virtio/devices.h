/* SPDX-License-Identifier: MIT */
/* The virtio devices: constructors. Each returns NULL without memory; virtio_free frees any of them. */
#ifndef GAZDA_VIRTIO_DEVICES_H
#define GAZDA_VIRTIO_DEVICES_H

#include "virtio/virtio.h"

struct chardev;
struct disk;

/* Up to VIRTIO_QUEUES_MAX queues, 1 at least. The disk is not owned. */
struct virtio_dev *virtio_blk_new(const struct virtio_env *env, struct disk *disk, unsigned queues);

/* One port. Attaches to ch, which is not owned; cols and rows may be 0: no size is told. */
struct virtio_dev *virtio_console_new(const struct virtio_env *env, struct chardev *ch, uint16_t cols, uint16_t rows);
/* The terminal has another size now. Lock not held. */
void virtio_console_resize(struct virtio_dev *v, uint16_t cols, uint16_t rows);

struct virtio_dev *virtio_rng_new(const struct virtio_env *env);

#endif
