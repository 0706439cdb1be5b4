/* SPDX-License-Identifier: MIT */
/* One timer a device: the first queue that waits arms it, and when it fires all that wait are served again. */
#include "virtio/throttle.h"

#include <assert.h>

_Static_assert(VIRTIO_QUEUES_MAX <= 32, "a bit a queue");

static uint64_t now(const struct virtio_throttle *t)
{
    return t->v->timers ? timer_now(t->v->timers) : 0;
}

/* On the loop thread. A reset may have come first: then nobody waits. */
static void tokens_are_there(void *arg)
{
    struct virtio_throttle *t = arg;
    struct virtio_dev *v = t->v;
    lock_take(&v->lock);
    uint32_t waiting = t->waiting;
    t->waiting = 0;
    for (unsigned i = 0; i < v->n_queues; i++) {
        unsigned q = (t->first + i) % v->n_queues;
        if (waiting >> q & 1)
            virtio_kick(v, q);
    }
    lock_drop(&v->lock);
}

void virtio_throttle_init(struct virtio_throttle *t, struct virtio_dev *v, const struct limiter_cfg *cfg)
{
    static const struct limiter_cfg none;
    t->v = v;
    limiter_init(&t->limiter, cfg ? cfg : &none, now(t));
    assert(v->timers || !limiter_on(&t->limiter));
    timer_init(&t->timer, v->timers, tokens_are_there, t);
}

void virtio_throttle_fini(struct virtio_throttle *t)
{
    if (t->v->timers)
        timer_disarm(&t->timer);
}

bool virtio_throttle_take(struct virtio_throttle *t, unsigned q, uint64_t bytes)
{
    if (!limiter_on(&t->limiter))
        return true;
    /* All wait for the first: small requests of one queue would starve the large one of another. */
    if (!t->waiting) {
        uint64_t at = now(t), wait = limiter_take(&t->limiter, bytes, at);
        if (!wait)
            return true;
        t->first = q;
        timer_arm(&t->timer, wait > UINT64_MAX - at ? UINT64_MAX : at + wait);
    }
    t->waiting |= 1U << q;
    return false;
}

void virtio_throttle_reset(struct virtio_throttle *t)
{
    t->waiting = 0;
    virtio_throttle_fini(t);
}

void virtio_throttle_save(struct virtio_throttle *t, struct state_out *s)
{
    limiter_save(&t->limiter, now(t), s);
}

void virtio_throttle_load(struct virtio_throttle *t, struct state_in *s)
{
    struct limiter l = t->limiter;
    limiter_load(&l, now(t), s);
    if (s->bad)
        return;
    t->limiter = l;
    virtio_throttle_reset(t);
}
