/* SPDX-License-Identifier: MIT */
/* Fake time for virtio devices whose workers look at the clock and arm timers too: they do so with the device locked.
 */
#ifndef GAZDA_TESTS_VIRTIO_TIME_H
#define GAZDA_TESTS_VIRTIO_TIME_H

#include "fake_env.h"
#include "virtio_driver.h"

/* Time passes, what is due fires once, and the device comes to rest. */
static inline void virtio_time_pass(struct drv *d, struct fake_timers *f, uint64_t ns)
{
    struct timer *due = NULL;
    lock_take(&d->v->lock);
    f->now += ns;
    for (unsigned i = 0; i < f->n; i++)
        if (f->armed[i]->deadline <= f->now)
            due = f->armed[i];
    if (due)
        fake_disarm(&f->svc, due);
    lock_drop(&d->v->lock);
    if (due)
        due->fn(due->arg);
    drv_quiet(d);
}

#endif
