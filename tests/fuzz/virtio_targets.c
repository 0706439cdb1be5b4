/* SPDX-License-Identifier: MIT */
#include "virtio_targets.h"

const struct virtio_target *const virtio_targets[] = {
    &virtio_target_blk,   &virtio_target_blk_ro,    &virtio_target_blk_limit, &virtio_target_console,
    &virtio_target_ports, &virtio_target_rng,       &virtio_target_vsock,     &virtio_target_9p,
    &virtio_target_net,   &virtio_target_blk_uring, &virtio_target_balloon,
};

unsigned virtio_target_count(void)
{
    return ARRAY_LEN(virtio_targets);
}

static void *rng_open(struct drv *d, const struct virtio_env *env, unsigned variant)
{
    (void)variant;
    d->v = virtio_rng_new(env, NULL);
    return NULL;
}
static void rng_close(void *back)
{
    (void)back;
}

const struct virtio_target virtio_target_rng = {
    .name = "rng", .unordered = true, .open = rng_open, .close = rng_close
};
