/* SPDX-License-Identifier: MIT */
/*
 * Clock and one-shot timers as devices see them. The event loop (base/loop.h) is the real service; unit tests
 * supply a fake one, so a device never asks the host for the time itself.
 */
#ifndef GAZDA_BASE_TIMER_H
#define GAZDA_BASE_TIMER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct timer;

struct timer_svc {
    /* Nanoseconds of a monotonic clock that stands still for nobody. Any thread. */
    uint64_t (*now)(struct timer_svc *svc);
    /* (Re)arms t for an absolute deadline in ns; a deadline in the past fires at once. Any thread. */
    void (*arm)(struct timer_svc *svc, struct timer *t, uint64_t deadline_ns);
    /* After it returns fn may still be running on the loop thread; fn must re-check under its own lock. Any thread. */
    void (*disarm)(struct timer_svc *svc, struct timer *t);
};

/* Owned and placed by its user; fn runs on the loop thread with no lock held. */
struct timer {
    struct timer_svc *svc;
    void (*fn)(void *arg);
    void *arg;
    uint64_t deadline; /* owned by the service */
    size_t slot;       /* owned by the service: heap index + 1, 0 = not armed */
};

static inline void timer_init(struct timer *t, struct timer_svc *svc, void (*fn)(void *arg), void *arg)
{
    *t = (struct timer){ .svc = svc, .fn = fn, .arg = arg };
}
static inline uint64_t timer_now(struct timer_svc *svc)
{
    return svc->now(svc);
}
static inline void timer_arm(struct timer *t, uint64_t deadline_ns)
{
    t->svc->arm(t->svc, t, deadline_ns);
}
static inline void timer_disarm(struct timer *t)
{
    t->svc->disarm(t->svc, t);
}

#endif
