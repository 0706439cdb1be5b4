/* SPDX-License-Identifier: MIT */
/* virtio entropy device (virtio 1.2, "Entropy Device"). A request gets at most RNG_MAX bytes, which is allowed. */
#include <stdlib.h>

#include "host/entropy.h"
#include "virtio/devices.h"

enum { RNG_QUEUE = 64, RNG_MAX = 4096, RNG_BATCH = 16 };

static uint32_t fill(struct virtio_dev *v)
{
    uint8_t buf[512];
    uint32_t done = 0;
    uint64_t want = v->chain.in_len < RNG_MAX ? v->chain.in_len : RNG_MAX;
    while (done < want) {
        size_t n = want - done < sizeof(buf) ? want - done : sizeof(buf);
        if (entropy_fill(buf, n) < 0 || virtq_write(&v->q[0], &v->chain, done, buf, n) != n)
            break;
        done += (uint32_t)n;
    }
    return done;
}

static bool rng_serve(struct virtio_dev *v, unsigned q)
{
    struct virtq *vq = &v->q[q];
    bool more = true;
    virtq_disable_notify(vq);
    for (int i = 0; i < RNG_BATCH && more; i++) {
        if (virtq_pop(vq, &v->chain) == 1)
            virtq_push(vq, v->chain.head, fill(v));
        else
            more = virtq_enable_notify(vq);
    }
    virtio_signal(v, q);
    return more;
}

static void rng_free(struct virtio_dev *v)
{
    virtio_fini(v);
    free(v);
}

static const struct virtio_ops rng_ops = {
    .name = "virtio-rng",
    .id = VIRTIO_ID_RNG,
    .serve = rng_serve,
    .free = rng_free,
};

struct virtio_dev *virtio_rng_new(const struct virtio_env *env)
{
    struct virtio_dev *v = calloc(1, sizeof(*v));
    if (!v)
        return NULL;
    virtio_init(v, &rng_ops, env, 0);
    virtio_add_queue(v, RNG_QUEUE);
    return v;
}
