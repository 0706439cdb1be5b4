/* SPDX-License-Identifier: MIT */
/*
 * Local APIC: acceptance, priority and acknowledgement of interrupts (SDM Vol. 3A, "Handling Interrupts").
 *
 * hint is the only thing that the vCPU looks at before each run. It is recomputed under the lock by whoever changes
 * IRR, ISR, TPR, the ExtINT pin or the enable bits; the vCPU is told only when it turns from "nothing" to "something",
 * because it asks again after every acknowledgement and EOI anyway.
 *
 * Departures: no SMM, so SMI messages are dropped. The APIC ID register is read-only, as on current processors.
 */
#include "dev/lapic_int.h"

#include <stdlib.h>
#include <string.h>

static int highest_bit(const uint32_t set[8])
{
    for (int i = 7; i >= 0; i--) {
        if (set[i])
            return i * 32 + 31 - __builtin_clz(set[i]);
    }
    return -1;
}

static void bit_set(uint32_t set[8], unsigned v, bool on)
{
    if (on)
        set[v >> 5] |= 1U << (v & 31);
    else
        set[v >> 5] &= ~(1U << (v & 31));
}

static bool bit_get(const uint32_t set[8], unsigned v)
{
    return set[v >> 5] >> (v & 31) & 1;
}

/* Is the PIC's INT passed to the core? A globally disabled LAPIC connects LINT0 to INTR. */
static bool extint_waits(const struct lapic *l)
{
    if (l->extint_msg)
        return true;
    if (!l->lint[0])
        return false;
    if (!lapic_hw_enabled(l))
        return true;
    uint32_t lvt = l->lvt[LVT_LINT0];
    return !(lvt & LVT_MASKED) && (lvt & LVT_MODE) >> LVT_MODE_SHIFT == MODE_EXTINT;
}

void lapic_update_locked(struct lapic *l)
{
    int isrv = highest_bit(l->isr);
    uint32_t isr_class = isrv < 0 ? 0 : (uint32_t)isrv & 0xf0;
    uint32_t ppr = (l->tpr & 0xf0) >= isr_class ? l->tpr : isr_class;
    atomic_store_explicit(&l->ppr, (uint8_t)ppr, memory_order_relaxed);

    int next = -1;
    if (extint_waits(l)) {
        next = LAPIC_EXTINT;
    } else if (lapic_hw_enabled(l)) {
        int irrv = highest_bit(l->irr);
        if (irrv >= 0 && ((uint32_t)irrv & 0xf0) > (ppr & 0xf0))
            next = irrv;
    }
    int was = atomic_exchange_explicit(&l->hint, next, memory_order_acq_rel);
    if (was < 0 && next >= 0)
        l->cfg.cpu.intr(l->cfg.cpu.vcpu);
}

void lapic_error_locked(struct lapic *l, uint32_t esr_bit)
{
    if (l->esr_new & esr_bit)
        return;
    l->esr_new |= esr_bit;
    lapic_lvt_fire_locked(l, LVT_ERROR);
}

bool lapic_accept_locked(struct lapic *l, unsigned vector, bool level)
{
    if (!lapic_sw_enabled(l))
        return false;
    if (vector < 16) {
        /* An error entry with a bad vector would report itself for ever. */
        if ((l->lvt[LVT_ERROR] & 0xff) >= 16)
            lapic_error_locked(l, ESR_RECV_VECTOR);
        else
            l->esr_new |= ESR_RECV_VECTOR;
        return false;
    }
    bit_set(l->irr, vector, true);
    bit_set(l->tmr, vector, level);
    lapic_update_locked(l);
    return true;
}

/* LINT0 and LINT1 may be level-triggered when their mode is fixed; remote IRR then waits for the EOI. */
static void lvt_fixed(struct lapic *l, enum lapic_lvt n)
{
    uint32_t lvt = l->lvt[n];
    bool level = (lvt & LVT_LEVEL) && (n == LVT_LINT0 || n == LVT_LINT1);
    if (level && (lvt & LVT_REMOTE_IRR))
        return;
    if (lapic_accept_locked(l, lvt & 0xff, level) && level)
        l->lvt[n] |= LVT_REMOTE_IRR;
}

void lapic_lvt_fire_locked(struct lapic *l, enum lapic_lvt n)
{
    if (l->lvt[n] & LVT_MASKED)
        return;
    enum lapic_mode mode =
        n == LVT_TIMER || n == LVT_ERROR ? MODE_FIXED : (enum lapic_mode)((l->lvt[n] & LVT_MODE) >> LVT_MODE_SHIFT);
    switch (mode) {
    case MODE_FIXED:
        lvt_fixed(l, n);
        break;
    case MODE_NMI:
        l->cfg.cpu.nmi(l->cfg.cpu.vcpu);
        break;
    case MODE_INIT:
        l->cfg.cpu.init(l->cfg.cpu.vcpu);
        break;
    case MODE_EXTINT: /* by level: lapic_update_locked looks at the pin */
    case MODE_SMI:
    case MODE_LOWEST:
    case MODE_RESERVED:
    case MODE_SIPI:
        break;
    }
}

void lapic_lint_set(struct lapic *l, unsigned pin, bool level)
{
    lock_take(&l->lock);
    bool rise = level && !l->lint[pin];
    l->lint[pin] = level;
    if (rise && lapic_hw_enabled(l))
        lapic_lvt_fire_locked(l, pin ? LVT_LINT1 : LVT_LINT0);
    else if (rise && pin == 1)
        l->cfg.cpu.nmi(l->cfg.cpu.vcpu); /* LINT1 is the NMI pin of a disabled LAPIC */
    lapic_update_locked(l);
    lock_drop(&l->lock);
}

/* The EOI of a level-triggered vector ends the service of a LINT pin that used it; it fires anew if still high. */
static void lint_eoi(struct lapic *l, unsigned vector)
{
    for (unsigned pin = 0; pin < 2; pin++) {
        enum lapic_lvt n = pin ? LVT_LINT1 : LVT_LINT0;
        if (!(l->lvt[n] & LVT_REMOTE_IRR) || (l->lvt[n] & 0xff) != vector)
            continue;
        l->lvt[n] &= ~(uint32_t)LVT_REMOTE_IRR;
        if (l->lint[pin])
            lapic_lvt_fire_locked(l, n);
    }
}

void lapic_eoi(struct lapic *l)
{
    bool broadcast = false;
    lock_take(&l->lock);
    int v = highest_bit(l->isr);
    if (v >= 0) {
        bit_set(l->isr, (unsigned)v, false);
        if (bit_get(l->tmr, (unsigned)v)) {
            lint_eoi(l, (unsigned)v);
            broadcast = !(l->svr & SVR_NO_EOI_BROADCAST);
        }
        lapic_update_locked(l);
    }
    lock_drop(&l->lock);
    if (broadcast && l->bus->cfg.eoi)
        l->bus->cfg.eoi(l->bus->cfg.eoi_arg, (uint8_t)v);
}

void lapic_take_msg(struct lapic *l, const struct lapic_msg *m)
{
    struct irq_cpu *cpu = &l->cfg.cpu;
    switch (m->mode) {
    case MODE_FIXED:
    case MODE_LOWEST:
        lock_take(&l->lock);
        lapic_accept_locked(l, m->vector, m->level);
        lock_drop(&l->lock);
        break;
    case MODE_EXTINT:
        lock_take(&l->lock);
        l->extint_msg = true;
        lapic_update_locked(l);
        lock_drop(&l->lock);
        break;
    case MODE_NMI:
        cpu->nmi(cpu->vcpu);
        break;
    case MODE_INIT:
        cpu->init(cpu->vcpu);
        break;
    case MODE_SIPI:
        cpu->sipi(cpu->vcpu, m->vector);
        break;
    case MODE_SMI:
    case MODE_RESERVED:
        break;
    }
}

/* ---- the vCPU's side ---- */

static int ctl_pending(void *lapic)
{
    struct lapic *l = lapic;
    return atomic_load_explicit(&l->hint, memory_order_acquire);
}

static int ctl_ack(void *lapic)
{
    struct lapic *l = lapic;
    lock_take(&l->lock);
    int v = atomic_load_explicit(&l->hint, memory_order_relaxed);
    if (v == LAPIC_EXTINT) {
        l->extint_msg = false;
    } else if (v >= 0) {
        bit_set(l->irr, (unsigned)v, false);
        bit_set(l->isr, (unsigned)v, true);
    }
    lapic_update_locked(l);
    lock_drop(&l->lock);
    if (v != LAPIC_EXTINT)
        return v;
    return l->bus->cfg.extint_ack ? l->bus->cfg.extint_ack(l->bus->cfg.extint_arg) : -1;
}

static uint8_t ctl_tpr_get(void *lapic)
{
    struct lapic *l = lapic;
    lock_take(&l->lock);
    uint8_t cr8 = (uint8_t)(l->tpr >> 4);
    lock_drop(&l->lock);
    return cr8;
}

static void ctl_tpr_set(void *lapic, uint8_t cr8)
{
    struct lapic *l = lapic;
    lock_take(&l->lock);
    l->tpr = (uint32_t)(cr8 & 0xf) << 4;
    lapic_update_locked(l);
    lock_drop(&l->lock);
}

void lapic_get_ctl(struct lapic *l, struct irq_ctl *out)
{
    *out = (struct irq_ctl){ .pending = ctl_pending,
                             .ack = ctl_ack,
                             .tpr_get = ctl_tpr_get,
                             .tpr_set = ctl_tpr_set,
                             .msr_read = lapic_msr_read,
                             .msr_write = lapic_msr_write,
                             .lapic = l };
}

bool lapic_mmio_hit(const struct lapic *l, gpa_t gpa)
{
    uint64_t base = atomic_load_explicit(&l->base, memory_order_relaxed);
    return (base & (APIC_BASE_EN | APIC_BASE_EXTD)) == APIC_BASE_EN && (gpa & PAGE_MASK) == (base & PAGE_MASK);
}

void lapic_tsc_changed(struct lapic *l)
{
    lock_take(&l->lock);
    lapic_timer_arm_locked(l);
    lock_drop(&l->lock);
}

uint8_t lapic_id(const struct lapic *l)
{
    return l->cfg.id;
}

bool lapic_hw_disabled(const struct lapic *l)
{
    return !lapic_hw_enabled(l);
}

/* ---- reset and life ---- */

/* SDM Vol. 3A, "Local APIC State After Power-Up or Reset", and after INIT. APIC_BASE and the pins stay. */
void lapic_power_on_locked(struct lapic *l)
{
    lapic_timer_stop_locked(l);
    atomic_store(&l->ldr, 0);
    atomic_store(&l->dfr, 0xffffffff);
    atomic_store(&l->svr, 0xff);
    l->extint_msg = false;
    l->tpr = l->esr = l->esr_new = l->icr = l->icr_hi = l->divide = l->init_count = 0;
    for (unsigned i = 0; i < LAPIC_LVTS; i++)
        l->lvt[i] = LVT_MASKED;
    memset(l->irr, 0, sizeof(l->irr));
    memset(l->isr, 0, sizeof(l->isr));
    memset(l->tmr, 0, sizeof(l->tmr));
    lapic_update_locked(l);
}

void lapic_init_reset(struct lapic *l)
{
    lock_take(&l->lock);
    lapic_power_on_locked(l);
    lock_drop(&l->lock);
}

void lapic_reset(struct lapic *l)
{
    lock_take(&l->lock);
    atomic_store(&l->base, APIC_BASE_ADDR | APIC_BASE_EN | (l->cfg.bsp ? APIC_BASE_BSP : 0));
    lapic_power_on_locked(l);
    /* What firmware leaves behind, and what a guest without an APIC driver needs: the PIC through LINT0. */
    if (l->cfg.bsp)
        l->lvt[LVT_LINT0] = MODE_EXTINT << LVT_MODE_SHIFT;
    lapic_update_locked(l);
    lock_drop(&l->lock);
}

struct lapic *lapic_new(struct lapic_bus *b, const struct lapic_cfg *cfg)
{
    if (cfg->id >= LAPIC_MAX || b->l[cfg->id])
        return NULL;
    struct lapic *l = calloc(1, sizeof(*l));
    if (!l)
        return NULL;
    lock_init(&l->lock, LOCK_LAPIC);
    l->bus = b;
    l->cfg = *cfg;
    atomic_store(&l->hint, -1);
    timer_init(&l->timer, cfg->timers, lapic_timer_expired, l);
    lapic_reset(l);
    b->l[cfg->id] = l;
    return l;
}
