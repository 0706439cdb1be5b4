/* SPDX-License-Identifier: MIT */
/*
 * Local APIC timer (SDM Vol. 3A, "APIC Timer"): one-shot, periodic, TSC deadline.
 *
 * The count is not stored: it follows from `expiry`, the time at which the running count reaches zero (0 = stopped).
 * A masked timer arms nothing at the host; its count goes on by arithmetic, and what ends behind the mask is lost. When
 * the host is late, the periods that were missed are merged into one interrupt and the phase is kept.
 */
#include "dev/lapic_int.h"

/* A guest that asks for more interrupts than this gets them merged: 50,000 a second. */
#define MIN_PERIOD_NS 20000U

static uint64_t tick_ns(const struct lapic *l)
{
    unsigned d = (l->divide & 3) | (l->divide >> 1 & 4);
    return (1000000000U / LAPIC_BUS_HZ) * (1UL << ((d + 1) & 7)); /* 111b divides by 1 */
}

static unsigned mode_of(uint32_t lvt)
{
    return (lvt & LVT_TIMER_MODE) >> LVT_TIMER_SHIFT;
}

static uint64_t period_ns(const struct lapic *l)
{
    return l->init_count * tick_ns(l);
}

/* Moves a periodic expiry into the future, or forgets a one-shot one that passed. Returns whether it had passed. */
static bool catch_up(struct lapic *l, uint64_t now)
{
    if (!l->expiry || now < l->expiry)
        return false;
    if (mode_of(l->lvt[LVT_TIMER]) == TIMER_PERIODIC && l->init_count) {
        uint64_t p = period_ns(l);
        l->expiry += ((now - l->expiry) / p + 1) * p;
    } else {
        l->expiry = 0;
    }
    return true;
}

void lapic_timer_arm_locked(struct lapic *l)
{
    uint64_t now = timer_now(l->timer.svc), at = l->expiry;
    bool masked = l->lvt[LVT_TIMER] & LVT_MASKED;
    if (mode_of(l->lvt[LVT_TIMER]) == TIMER_TSC_DEADLINE) {
        at = l->tsc_deadline ? l->cfg.tsc_to_ns(l->cfg.cpu.vcpu, l->tsc_deadline) : 0;
        if (l->tsc_deadline && !at)
            at = 1;
    } else if (at && mode_of(l->lvt[LVT_TIMER]) == TIMER_PERIODIC && at < now + MIN_PERIOD_NS &&
               period_ns(l) < MIN_PERIOD_NS) {
        at = now + MIN_PERIOD_NS;
    }
    if (at && !masked)
        timer_arm(&l->timer, at);
    else
        timer_disarm(&l->timer);
}

/* Does what should have happened by now, so that a late timer thread changes no outcome. */
void lapic_timer_settle_locked(struct lapic *l)
{
    bool fire;
    if (mode_of(l->lvt[LVT_TIMER]) == TIMER_TSC_DEADLINE) {
        fire = l->tsc_deadline && l->cfg.tsc_now(l->cfg.cpu.vcpu) >= l->tsc_deadline;
        if (fire)
            l->tsc_deadline = 0;
    } else {
        fire = catch_up(l, timer_now(l->timer.svc));
    }
    if (fire)
        lapic_lvt_fire_locked(l, LVT_TIMER); /* into nothing if it is masked */
}

void lapic_timer_expired(void *lapic)
{
    struct lapic *l = lapic;
    lock_take(&l->lock);
    lapic_timer_settle_locked(l);
    if (l->tsc_deadline || l->expiry)
        lapic_timer_arm_locked(l);
    lock_drop(&l->lock);
}

uint32_t lapic_timer_count_locked(struct lapic *l)
{
    lapic_timer_settle_locked(l);
    if (!l->expiry || !l->init_count)
        return 0;
    uint64_t left = (l->expiry - timer_now(l->timer.svc) + tick_ns(l) - 1) / tick_ns(l);
    return left > l->init_count ? l->init_count : (uint32_t)left;
}

void lapic_timer_start_locked(struct lapic *l, uint32_t count)
{
    if (mode_of(l->lvt[LVT_TIMER]) == TIMER_TSC_DEADLINE)
        return;
    lapic_timer_settle_locked(l);
    l->init_count = count;
    l->expiry = count ? timer_now(l->timer.svc) + period_ns(l) : 0;
    lapic_timer_arm_locked(l);
}

void lapic_timer_divide_locked(struct lapic *l, uint32_t divide)
{
    uint32_t left = lapic_timer_count_locked(l);
    l->divide = divide;
    if (l->expiry && left) {
        l->expiry = timer_now(l->timer.svc) + left * tick_ns(l);
        lapic_timer_arm_locked(l);
    }
}

void lapic_timer_lvt_locked(struct lapic *l, uint32_t old)
{
    uint32_t lvt = l->lvt[LVT_TIMER];
    unsigned from = mode_of(old), to = mode_of(lvt);
    if ((from == TIMER_TSC_DEADLINE) != (to == TIMER_TSC_DEADLINE)) {
        /* SDM Vol. 3A, "TSC-Deadline Mode": the change disarms the timer, either way. */
        lapic_timer_stop_locked(l);
        l->init_count = 0;
        return;
    }
    if (!((old ^ lvt) & (LVT_MASKED | LVT_TIMER_MODE)))
        return;
    if (from == TIMER_PERIODIC && to == TIMER_ONE_SHOT && l->expiry) {
        uint32_t left = lapic_timer_count_locked(l); /* the running period is the last */
        l->expiry = timer_now(l->timer.svc) + left * tick_ns(l);
    }
    lapic_timer_arm_locked(l);
}

uint64_t lapic_timer_deadline_get_locked(struct lapic *l)
{
    lapic_timer_settle_locked(l);
    return l->tsc_deadline;
}

void lapic_timer_deadline_set_locked(struct lapic *l, uint64_t tsc)
{
    if (mode_of(l->lvt[LVT_TIMER]) != TIMER_TSC_DEADLINE)
        return;
    lapic_timer_settle_locked(l);
    l->tsc_deadline = tsc;
    lapic_timer_settle_locked(l);
    lapic_timer_arm_locked(l);
}

void lapic_timer_stop_locked(struct lapic *l)
{
    l->expiry = 0;
    l->tsc_deadline = 0;
    timer_disarm(&l->timer);
}
