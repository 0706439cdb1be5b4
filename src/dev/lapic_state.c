/* SPDX-License-Identifier: MIT */
/*
 * Saving and loading a local APIC. Times are stored relative to now; the deadline is a guest TSC value, so the vCPU's
 * TSC must be restored first (or lapic_tsc_changed called after). load checks everything before it changes anything.
 */
#include "dev/lapic_int.h"

#include <errno.h>
#include <string.h>

#include "state/state.h"

static void put_set(struct state_out *s, const uint32_t set[8])
{
    for (unsigned i = 0; i < 8; i++)
        state_put_u32(s, set[i]);
}

static bool get_set(struct state_in *s, uint32_t set[8])
{
    for (unsigned i = 0; i < 8; i++)
        set[i] = state_get_u32(s);
    return !(set[0] & 0xffff);
}

static int dev_save(const void *dev, struct state_out *s)
{
    struct lapic *l = (struct lapic *)(uintptr_t)dev; /* the lock is not part of the state */
    lock_take(&l->lock);
    uint64_t now = timer_now(l->timer.svc);
    state_put_u8(s, l->cfg.id);
    state_put_u64(s, l->base);
    state_put_u32(s, l->ldr);
    state_put_u32(s, l->dfr);
    state_put_u32(s, l->svr);
    state_put_u32(s, l->tpr);
    state_put_u32(s, l->esr);
    state_put_u32(s, l->esr_new);
    state_put_u32(s, l->icr);
    state_put_u32(s, l->icr_hi);
    state_put_u32(s, l->divide);
    state_put_u32(s, l->init_count);
    for (unsigned i = 0; i < LAPIC_LVTS; i++)
        state_put_u32(s, l->lvt[i]);
    put_set(s, l->irr);
    put_set(s, l->isr);
    put_set(s, l->tmr);
    state_put_u8(s, (uint8_t)(l->extint_msg | l->lint[0] << 1 | l->lint[1] << 2));
    state_put_u8(s, l->expiry != 0);
    state_put_u64(s, l->expiry > now ? l->expiry - now : 0);
    state_put_u64(s, l->tsc_deadline);
    lock_drop(&l->lock);
    return s->oom ? -ENOMEM : 0;
}

struct image {
    uint64_t base, expiry, tsc_deadline;
    uint32_t ldr, dfr, svr, tpr, esr, esr_new, icr, icr_hi, divide, init_count;
    uint32_t lvt[LAPIC_LVTS], irr[8], isr[8], tmr[8];
    uint8_t pins;
    bool running;
};

static bool image_ok(const struct lapic *l, const struct image *m)
{
    uint64_t reserved = ~((1UL << l->cfg.phys_bits) - 1) | 0x2ff | (l->cfg.x2apic ? 0 : APIC_BASE_EXTD);
    uint32_t esr_bits = ESR_SEND_VECTOR | ESR_RECV_VECTOR | ESR_REGISTER;
    if ((m->base & reserved) || (m->base & (APIC_BASE_EN | APIC_BASE_EXTD)) == APIC_BASE_EXTD)
        return false;
    if ((m->ldr & 0xffffff) || (m->dfr & 0x0fffffff) != 0x0fffffff || (m->svr & ~(uint32_t)SVR_BITS) || m->tpr > 0xff)
        return false;
    if (((m->esr | m->esr_new) & ~esr_bits) || (m->icr & 0xfff33000) || (m->divide & ~0xbU) || m->pins > 7)
        return false;
    for (unsigned i = 0; i < LAPIC_LVTS; i++) {
        uint32_t ok = lapic_lvt_bits[i];
        if (i == LVT_LINT0 || i == LVT_LINT1)
            ok |= LVT_REMOTE_IRR;
        if (m->lvt[i] & ~ok)
            return false;
    }
    if (!l->cfg.tsc_deadline && (m->tsc_deadline || m->lvt[LVT_TIMER] >> (LVT_TIMER_SHIFT + 1) & 1))
        return false;
    return m->expiry <= 0xffffffffUL * 128;
}

static void image_apply(struct lapic *l, const struct image *m)
{
    lock_take(&l->lock);
    lapic_timer_stop_locked(l);
    atomic_store(&l->base, m->base);
    atomic_store(&l->ldr, m->ldr);
    atomic_store(&l->dfr, m->dfr);
    atomic_store(&l->svr, m->svr);
    l->tpr = m->tpr;
    l->esr = m->esr;
    l->esr_new = m->esr_new;
    l->icr = m->icr;
    l->icr_hi = m->icr_hi;
    l->divide = m->divide;
    l->init_count = m->init_count;
    memcpy(l->lvt, m->lvt, sizeof(l->lvt));
    memcpy(l->irr, m->irr, sizeof(l->irr));
    memcpy(l->isr, m->isr, sizeof(l->isr));
    memcpy(l->tmr, m->tmr, sizeof(l->tmr));
    l->extint_msg = m->pins & 1;
    l->lint[0] = m->pins >> 1 & 1;
    l->lint[1] = m->pins >> 2 & 1;
    l->expiry = m->running ? timer_now(l->timer.svc) + m->expiry : 0;
    l->tsc_deadline = m->tsc_deadline;
    lapic_update_locked(l);
    lapic_timer_arm_locked(l);
    lock_drop(&l->lock);
}

static int dev_load(void *dev, struct state_in *s, unsigned ver)
{
    struct lapic *l = dev;
    struct image m;
    if (ver != lapic_dev_ops.version || state_get_u8(s) != l->cfg.id)
        return -EINVAL;
    m.base = state_get_u64(s);
    m.ldr = state_get_u32(s);
    m.dfr = state_get_u32(s);
    m.svr = state_get_u32(s);
    m.tpr = state_get_u32(s);
    m.esr = state_get_u32(s);
    m.esr_new = state_get_u32(s);
    m.icr = state_get_u32(s);
    m.icr_hi = state_get_u32(s);
    m.divide = state_get_u32(s);
    m.init_count = state_get_u32(s);
    for (unsigned i = 0; i < LAPIC_LVTS; i++)
        m.lvt[i] = state_get_u32(s);
    bool ok = get_set(s, m.irr);
    ok &= get_set(s, m.isr);
    ok &= get_set(s, m.tmr);
    m.pins = state_get_u8(s);
    m.running = state_get_u8(s);
    m.expiry = state_get_u64(s);
    m.tsc_deadline = state_get_u64(s);
    if (s->bad || !ok || !image_ok(l, &m))
        return -EINVAL;
    image_apply(l, &m);
    return 0;
}

static void dev_reset(void *dev)
{
    lapic_reset(dev);
}

const struct dev_ops lapic_dev_ops = {
    .name = "lapic",
    .reset = dev_reset,
    .save = dev_save,
    .load = dev_load,
    .version = 1,
};
