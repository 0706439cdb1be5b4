/* SPDX-License-Identifier: MIT */
#include "virtio_targets.h"

/* A clock that fires when the outside world says something. */
struct clock {
    struct timer_svc svc; /* first */
    struct timer *timer;
    struct drv *d;
};

static uint64_t now(struct timer_svc *t)
{
    (void)t;
    return 1;
}
static void arm(struct timer_svc *t, struct timer *x, uint64_t deadline)
{
    (void)deadline;
    __atomic_store_n(&((struct clock *)t)->timer, x, __ATOMIC_SEQ_CST);
}
static void disarm(struct timer_svc *t, struct timer *x)
{
    (void)x;
    __atomic_store_n(&((struct clock *)t)->timer, NULL, __ATOMIC_SEQ_CST);
}

static void *balloon_open(struct drv *d, const struct virtio_env *env, unsigned variant)
{
    (void)variant;
    struct clock *k = calloc(1, sizeof(*k));
    struct virtio_env e = *env;
    *k = (struct clock){ .svc = { .now = now, .arm = arm, .disarm = disarm }, .d = d };
    e.timers = &k->svc;
    d->v =
        virtio_balloon_new(&e, &(struct virtio_balloon_cfg){ .target = 4096, .reporting = true, .stats_seconds = 1 });
    return k;
}

static void balloon_input(void *back, const uint8_t *buf, size_t n)
{
    struct clock *k = back;
    struct virtio_balloon_info info;
    struct timer *t = __atomic_exchange_n(&k->timer, NULL, __ATOMIC_SEQ_CST);
    if (t)
        t->fn(t->arg);
    if (n)
        virtio_balloon_set(k->d->v, (uint64_t)buf[0] << 16);
    virtio_balloon_get(k->d->v, &info);
}

const struct virtio_target virtio_target_balloon = {
    .name = "balloon", .open = balloon_open, .input = balloon_input, .close = free
};
