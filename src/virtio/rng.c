/* SPDX-License-Identifier: MIT */
/* virtio entropy device (virtio 1.2, "Entropy Device"). A request gets at most RNG_MAX bytes, which is allowed. */
#include <errno.h>
#include <stdlib.h>

#include "host/entropy.h"
#include "state/state.h"
#include "virtio/devices.h"
#include "virtio/throttle.h"

enum { RNG_QUEUE = 64, RNG_MAX = 4096, RNG_BATCH = 16 };

struct rng {
    struct virtio_dev v; /* first */
    struct virtio_throttle throttle;
};

static uint32_t fill(struct virtio_dev *v, uint64_t want)
{
    uint8_t buf[512];
    uint32_t done = 0;
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
        if (virtq_pop(vq, &v->chain) != 1) {
            more = virtq_enable_notify(vq);
            continue;
        }
        uint64_t want = v->chain.in_len < RNG_MAX ? v->chain.in_len : RNG_MAX;
        if (!virtio_throttle_take(&((struct rng *)v)->throttle, q, want)) {
            virtq_unpop(vq);
            more = false;
            break;
        }
        virtq_push(vq, v->chain.head, fill(v, want));
    }
    virtio_signal(v, q);
    return more;
}

static void rng_reset(struct virtio_dev *v)
{
    virtio_throttle_reset(&((struct rng *)v)->throttle);
}

static void rng_save(struct virtio_dev *v, struct state_out *s)
{
    virtio_throttle_save(&((struct rng *)v)->throttle, s);
}

static int rng_load(struct virtio_dev *v, struct state_in *s)
{
    virtio_throttle_load(&((struct rng *)v)->throttle, s);
    return s->bad ? -EINVAL : 0;
}

static void rng_free(struct virtio_dev *v)
{
    virtio_throttle_fini(&((struct rng *)v)->throttle);
    virtio_fini(v);
    free(v);
}

static const struct virtio_ops rng_ops = {
    .name = "virtio-rng",
    .id = VIRTIO_ID_RNG,
    .serve = rng_serve,
    .reset = rng_reset,
    .save = rng_save,
    .load = rng_load,
    .free = rng_free,
};

struct virtio_dev *virtio_rng_new(const struct virtio_env *env, const struct limiter_cfg *limit)
{
    struct rng *r = calloc(1, sizeof(*r));
    if (!r)
        return NULL;
    virtio_init(&r->v, &rng_ops, env, 0);
    virtio_throttle_init(&r->throttle, &r->v, limit);
    virtio_add_queue(&r->v, RNG_QUEUE);
    return &r->v;
}
