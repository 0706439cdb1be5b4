/* SPDX-License-Identifier: MIT */
/* What virtio devices count, from when they were made on: a reset of the device or the machine changes nothing. */
#ifndef GAZDA_VIRTIO_STATS_H
#define GAZDA_VIRTIO_STATS_H

#include "virtio/virtio.h"

/* Takes a counter. */
struct virtio_put {
    void (*fn)(void *arg, const char *name, uint64_t value);
    void *arg;
};
/* Lock not held; fn is called with it. */
void virtio_stats(struct virtio_dev *v, const struct virtio_put *put);

#endif
