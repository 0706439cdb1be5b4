/* SPDX-License-Identifier: MIT */
/* What a chip is built with in a unit test: a clock that the test moves, interrupt lines that count, a character
 * device. */
#ifndef GAZDA_TESTS_FAKE_ENV_H
#define GAZDA_TESTS_FAKE_ENV_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/timer.h"
#include "base/types.h"
#include "bus/bus.h"
#include "bus/irq.h"
#include "host/chardev.h"
#include "state/state.h"

/* ---- time ---- */

enum { FAKE_TIMERS = 64 };

struct fake_timers {
    struct timer_svc svc; /* first */
    uint64_t now;
    struct timer *armed[FAKE_TIMERS];
    unsigned n;
    uint64_t arms, fires;
};

static inline uint64_t fake_now(struct timer_svc *svc)
{
    return ((struct fake_timers *)svc)->now;
}
static inline void fake_disarm(struct timer_svc *svc, struct timer *t)
{
    struct fake_timers *f = (struct fake_timers *)svc;
    for (unsigned i = 0; i < f->n; i++) {
        if (f->armed[i] == t) {
            f->armed[i] = f->armed[--f->n];
            return;
        }
    }
}
static inline void fake_arm(struct timer_svc *svc, struct timer *t, uint64_t deadline)
{
    struct fake_timers *f = (struct fake_timers *)svc;
    fake_disarm(svc, t);
    assert_true(f->n < FAKE_TIMERS);
    t->deadline = deadline;
    f->armed[f->n++] = t;
    f->arms++;
}
static inline void fake_timers_init(struct fake_timers *f)
{
    *f = (struct fake_timers){ .svc = { .now = fake_now, .arm = fake_arm, .disarm = fake_disarm }, .now = 1000000 };
}
/* Fires everything due, in order, at its own time; late adds that much to when each fires. At most 100000 firings. */
static inline void fake_run_to(struct fake_timers *f, uint64_t to, uint64_t late)
{
    for (unsigned guard = 0; guard < 100000; guard++) {
        struct timer *next = NULL;
        for (unsigned i = 0; i < f->n; i++) {
            if (f->armed[i]->deadline <= to && (!next || f->armed[i]->deadline < next->deadline))
                next = f->armed[i];
        }
        if (!next)
            break;
        if (next->deadline + late > f->now)
            f->now = next->deadline + late;
        fake_disarm(&f->svc, next);
        f->fires++;
        next->fn(next->arg);
    }
    if (to > f->now)
        f->now = to;
}
static inline void fake_advance(struct fake_timers *f, uint64_t ns)
{
    fake_run_to(f, f->now + ns, 0);
}

/* ---- lines ---- */

struct fake_line {
    bool level;
    unsigned rises;
};

static inline void fake_line_set(void *arg, unsigned pin, bool level)
{
    struct fake_line *l = (struct fake_line *)arg + pin;
    if (level && !l->level)
        l->rises++;
    l->level = level;
}
static inline struct irq_line fake_irq(struct fake_line *l, unsigned pin)
{
    return (struct irq_line){ .set = fake_line_set, .arg = l, .pin = pin };
}

/* ---- character device ---- */

struct fake_chardev {
    struct chardev ch; /* first */
    struct chardev_user user;
    char out[65536];
    size_t n, room; /* room: how many bytes write takes before it stops */
    unsigned ready;
};

static inline size_t fake_ch_write(struct chardev *ch, const void *buf, size_t len)
{
    struct fake_chardev *f = (struct fake_chardev *)ch;
    if (len > f->room)
        len = f->room;
    f->room -= len;
    for (size_t i = 0; i < len; i++)
        f->out[f->n++ % sizeof(f->out)] = ((const char *)buf)[i];
    return len;
}
static inline void fake_ch_attach(struct chardev *ch, const struct chardev_user *user)
{
    struct fake_chardev *f = (struct fake_chardev *)ch;
    f->user = user ? *user : (struct chardev_user){ 0 };
}
static inline void fake_ch_ready(struct chardev *ch)
{
    ((struct fake_chardev *)ch)->ready++;
}
static inline void fake_chardev_init(struct fake_chardev *f)
{
    static const struct chardev_ops ops = { .write = fake_ch_write,
                                            .attach = fake_ch_attach,
                                            .rx_ready = fake_ch_ready };
    memset(f, 0, sizeof(*f));
    f->ch.ops = &ops;
    f->room = SIZE_MAX;
}

/* ---- access ---- */

static inline uint8_t in8(const struct dev_ops *ops, void *dev, uint64_t off)
{
    uint8_t v = 0;
    ops->read(dev, off, &v, 1);
    return v;
}
static inline void out8(const struct dev_ops *ops, void *dev, uint64_t off, unsigned val)
{
    uint8_t v = (uint8_t)val;
    ops->write(dev, off, &v, 1);
}
static inline uint16_t in16(const struct dev_ops *ops, void *dev, uint64_t off)
{
    uint16_t v = 0;
    ops->read(dev, off, &v, 2);
    return v;
}
static inline void out16(const struct dev_ops *ops, void *dev, uint64_t off, unsigned val)
{
    uint16_t v = (uint16_t)val;
    ops->write(dev, off, &v, 2);
}
static inline uint32_t in32(const struct dev_ops *ops, void *dev, uint64_t off)
{
    uint32_t v = 0;
    ops->read(dev, off, &v, 4);
    return v;
}
static inline void out32(const struct dev_ops *ops, void *dev, uint64_t off, uint32_t v)
{
    ops->write(dev, off, &v, 4);
}

/* Saves dev, loads it into other, saves that: both images must be the same. */
static inline void check_round_trip(const struct dev_ops *ops, void *dev, void *other)
{
    struct state_out a = { 0 }, b = { 0 };
    assert_int_equal(ops->save(dev, &a), 0);
    struct state_in in = { .buf = a.buf, .len = a.len };
    assert_int_equal(ops->load(other, &in, ops->version), 0);
    assert_int_equal(in.pos, a.len);
    assert_int_equal(ops->save(other, &b), 0);
    assert_int_equal(a.len, b.len);
    assert_memory_equal(a.buf, b.buf, a.len);
    /* A short image and a wrong version are refused. */
    struct state_in cut = { .buf = a.buf, .len = a.len - 1 };
    assert_true(ops->load(other, &cut, ops->version) < 0);
    struct state_in ver = { .buf = a.buf, .len = a.len };
    assert_true(ops->load(other, &ver, ops->version + 1) < 0);
    state_out_free(&a);
    state_out_free(&b);
}

#endif
