/* SPDX-License-Identifier: MIT */
/*
 * Local APIC registers: the xAPIC page, the x2APIC MSRs and IA32_APIC_BASE (SDM Vol. 3A, "Local APIC Status and
 * Location", "Extended xAPIC (x2APIC)", "x2APIC State Transitions").
 *
 * Both views end in lapic_reg_read and lapic_reg_write; what they do not share (reserved bits, the 64-bit ICR, EOI
 * and SELF IPI rules, the ESR) is settled before.
 */
#include "dev/lapic_int.h"

#include <string.h>

#define MSR_APIC_BASE 0x1bU
#define MSR_TSC_DEADLINE 0x6e0U
#define MSR_X2APIC 0x800U
#define MSR_X2APIC_LAST 0x8ffU

/* SDM Vol. 3A, "Figure: Interrupt Command Register": delivery status (12), 13, 16, 17 and 20-31 are not ours to keep.
 */
#define ICR_BITS 0xccfffU
#define ICR_X2_RESERVED 0xfff32000U

const uint32_t lapic_lvt_bits[LAPIC_LVTS] = {
    [LVT_TIMER] = 0xff | LVT_MASKED | LVT_TIMER_MODE,
    [LVT_THERMAL] = 0xff | LVT_MODE | LVT_MASKED,
    [LVT_PMC] = 0xff | LVT_MODE | LVT_MASKED,
    [LVT_LINT0] = 0xff | LVT_MODE | LVT_POLARITY | LVT_LEVEL | LVT_MASKED,
    [LVT_LINT1] = 0xff | LVT_MODE | LVT_POLARITY | LVT_LEVEL | LVT_MASKED,
    [LVT_ERROR] = 0xff | LVT_MASKED,
};

static uint32_t version(void)
{
    return 0x14 | (LAPIC_LVTS - 1) << 16 | 1 << 24; /* bit 24: EOI broadcast can be suppressed */
}

uint32_t lapic_ldr(const struct lapic *l)
{
    if (lapic_x2(l))
        return (uint32_t)l->cfg.id >> 4 << 16 | 1U << (l->cfg.id & 15);
    return atomic_load_explicit(&l->ldr, memory_order_relaxed);
}

static bool reg_read_locked(struct lapic *l, unsigned reg, uint32_t *val)
{
    switch (reg) {
    case LAPIC_ID:
        *val = lapic_x2(l) ? l->cfg.id : (uint32_t)l->cfg.id << 24;
        return true;
    case LAPIC_VERSION:
        *val = version();
        return true;
    case LAPIC_TPR:
        *val = l->tpr;
        return true;
    case LAPIC_APR: /* not on current processors: reads as 0 */
    case LAPIC_RRD:
        *val = 0;
        return !lapic_x2(l);
    case LAPIC_PPR:
        *val = l->ppr;
        return true;
    case LAPIC_EOI:
        *val = 0;
        return !lapic_x2(l);
    case LAPIC_LDR:
        *val = lapic_ldr(l);
        return true;
    case LAPIC_DFR:
        *val = l->dfr;
        return !lapic_x2(l);
    case LAPIC_SVR:
        *val = l->svr;
        return true;
    case LAPIC_ISR ... LAPIC_ISR + 7:
        *val = l->isr[reg - LAPIC_ISR];
        return true;
    case LAPIC_TMR ... LAPIC_TMR + 7:
        *val = l->tmr[reg - LAPIC_TMR];
        return true;
    case LAPIC_IRR ... LAPIC_IRR + 7:
        *val = l->irr[reg - LAPIC_IRR];
        return true;
    case LAPIC_ESR:
        *val = l->esr;
        return true;
    case LAPIC_ICR:
        *val = l->icr;
        return true;
    case LAPIC_ICR_HI:
        *val = l->icr_hi;
        return !lapic_x2(l);
    case LAPIC_LVT0 ... LAPIC_LVT0 + LAPIC_LVTS - 1:
        *val = l->lvt[reg - LAPIC_LVT0];
        return true;
    case LAPIC_INIT_COUNT:
        *val = l->init_count;
        return true;
    case LAPIC_CUR_COUNT:
        *val = lapic_timer_count_locked(l);
        return true;
    case LAPIC_DIVIDE:
        *val = l->divide;
        return true;
    default:
        *val = 0;
        return false;
    }
}

bool lapic_reg_read(struct lapic *l, unsigned reg, uint32_t *val)
{
    lock_take(&l->lock);
    bool ok = reg_read_locked(l, reg, val);
    lock_drop(&l->lock);
    return ok;
}

static void svr_write(struct lapic *l, uint32_t val)
{
    if (!(val & SVR_ENABLED))
        lapic_timer_settle_locked(l);
    atomic_store(&l->svr, val & SVR_BITS);
    if (!(val & SVR_ENABLED)) {
        for (unsigned i = 0; i < LAPIC_LVTS; i++) {
            uint32_t old = l->lvt[i];
            l->lvt[i] |= LVT_MASKED;
            if (i == LVT_TIMER)
                lapic_timer_lvt_locked(l, old);
        }
    }
}

static void lvt_write(struct lapic *l, enum lapic_lvt n, uint32_t val)
{
    if (n == LVT_TIMER)
        lapic_timer_settle_locked(l);
    uint32_t old = l->lvt[n];
    val &= lapic_lvt_bits[n];
    if (!(l->svr & SVR_ENABLED))
        val |= LVT_MASKED;
    if (n == LVT_TIMER && !l->cfg.tsc_deadline)
        val &= ~(2U << LVT_TIMER_SHIFT);
    /* Remote IRR belongs to level-triggered fixed mode alone. */
    if ((val & LVT_LEVEL) && (val & LVT_MODE) == 0)
        val |= old & LVT_REMOTE_IRR;
    l->lvt[n] = val;
    if (n == LVT_TIMER)
        lapic_timer_lvt_locked(l, old);
    else if ((n == LVT_LINT0 || n == LVT_LINT1) && (val & LVT_LEVEL) && (val & LVT_MODE) == 0 && l->lint[n - LVT_LINT0])
        lapic_lvt_fire_locked(l, n); /* a level that was waiting behind the mask */
}

static bool reg_write_locked(struct lapic *l, unsigned reg, uint32_t val)
{
    switch (reg) {
    case LAPIC_TPR:
        l->tpr = val & 0xff;
        break;
    case LAPIC_LDR:
        if (lapic_x2(l))
            return false;
        atomic_store(&l->ldr, val & 0xff000000);
        break;
    case LAPIC_DFR:
        if (lapic_x2(l))
            return false;
        atomic_store(&l->dfr, val | 0x0fffffff);
        break;
    case LAPIC_SVR:
        svr_write(l, val);
        break;
    case LAPIC_ESR:
        l->esr = l->esr_new;
        l->esr_new = 0;
        break;
    case LAPIC_ICR_HI:
        if (lapic_x2(l))
            return false;
        l->icr_hi = val & 0xff000000;
        break;
    case LAPIC_LVT0 ... LAPIC_LVT0 + LAPIC_LVTS - 1:
        lvt_write(l, (enum lapic_lvt)(reg - LAPIC_LVT0), val);
        break;
    case LAPIC_INIT_COUNT:
        lapic_timer_start_locked(l, val);
        break;
    case LAPIC_DIVIDE:
        lapic_timer_divide_locked(l, val & 0xb);
        break;
    case LAPIC_ID:
    case LAPIC_VERSION:
    case LAPIC_APR:
    case LAPIC_PPR:
    case LAPIC_RRD:
    case LAPIC_ISR ... LAPIC_ISR + 7:
    case LAPIC_TMR ... LAPIC_TMR + 7:
    case LAPIC_IRR ... LAPIC_IRR + 7:
    case LAPIC_CUR_COUNT:
        return !lapic_x2(l); /* read-only: swallowed in xAPIC mode */
    default:
        return false;
    }
    lapic_update_locked(l);
    return true;
}

bool lapic_reg_write(struct lapic *l, unsigned reg, uint32_t val)
{
    if (reg == LAPIC_EOI) {
        lapic_eoi(l);
        return true;
    }
    if (reg == LAPIC_ICR) {
        lapic_icr_write(l, (uint64_t)l->icr_hi << 32 | val);
        return true;
    }
    lock_take(&l->lock);
    bool ok = reg_write_locked(l, reg, val);
    lock_drop(&l->lock);
    return ok;
}

/* Bits 63:32 are the destination as the mode has it: 8 bits at the top, or 32. */
void lapic_icr_write(struct lapic *l, uint64_t icr)
{
    bool x2 = lapic_x2(l);
    uint32_t lo = (uint32_t)icr & ICR_BITS, hi = (uint32_t)(icr >> 32);
    struct lapic_msg m = {
        .dest = x2 ? hi : hi >> 24,
        .wide = x2,
        .logical = lo >> 11 & 1,
        .mode = (enum lapic_mode)(lo >> 8 & 7),
        .vector = (uint8_t)lo,
    };
    m.lowest = m.mode == MODE_LOWEST;
    bool vectored = m.mode == MODE_FIXED || m.mode == MODE_LOWEST;
    bool bad = vectored && m.vector < 16;

    lock_take(&l->lock);
    l->icr = lo;
    l->icr_hi = hi;
    if (bad)
        lapic_error_locked(l, ESR_SEND_VECTOR);
    lock_drop(&l->lock);
    /* INIT level de-assert: not supported by current processors, ignored. ExtINT and reserved modes send nothing. */
    if (bad || (m.mode == MODE_INIT && !(lo & 1 << 14) && (lo & 1 << 15)) || m.mode == MODE_EXTINT)
        return;
    switch (lo >> 18 & 3) {
    case 0:
        lapic_bus_send(l->bus, &m);
        break;
    case 1:
        lapic_take_msg(l, &m);
        break;
    case 2:
        lapic_bus_send_all(l->bus, &m, NULL);
        break;
    case 3:
        lapic_bus_send_all(l->bus, &m, l);
        break;
    }
}

/* ---- the xAPIC page ---- */

static void illegal_register(struct lapic *l)
{
    lock_take(&l->lock);
    lapic_error_locked(l, ESR_REGISTER);
    lock_drop(&l->lock);
}

void lapic_mmio_read(struct lapic *l, uint64_t off, void *buf, unsigned len)
{
    uint32_t val;
    unsigned skip = (unsigned)off & 15;
    memset(buf, 0, len);
    if (!lapic_reg_read(l, (unsigned)(off >> 4) & 0xff, &val)) {
        illegal_register(l);
        return;
    }
    /* The four bytes of the register; the twelve behind it read as zero. */
    if (skip < 4)
        memcpy(buf, (const uint8_t *)&val + skip, len < 4 - skip ? len : 4 - skip);
}

void lapic_mmio_write(struct lapic *l, uint64_t off, const void *buf, unsigned len)
{
    uint32_t val;
    if ((off & 15) || len < 4) /* undefined by the SDM; other sizes than 32 bits must not change half a register */
        return;
    memcpy(&val, buf, 4);
    if (!lapic_reg_write(l, (unsigned)(off >> 4) & 0xff, val))
        illegal_register(l);
}

/* ---- MSRs ---- */

static uint64_t base_reserved(const struct lapic *l)
{
    uint64_t r = ~((1UL << l->cfg.phys_bits) - 1) | 0x2ff;
    return l->cfg.x2apic ? r : r | APIC_BASE_EXTD;
}

/* SDM Vol. 3A, "x2APIC State Transitions": from x2APIC only to disabled, into it only from xAPIC. */
static int base_write(struct lapic *l, uint64_t val)
{
    uint64_t on = APIC_BASE_EN | APIC_BASE_EXTD;
    lock_take(&l->lock);
    uint64_t old = atomic_load(&l->base);
    bool bad = (val & base_reserved(l)) || (val & on) == APIC_BASE_EXTD ||
               ((old & on) == on && (val & on) == APIC_BASE_EN) || (!(old & on) && (val & on) == on);
    if (!bad) {
        atomic_store(&l->base, val);
        if ((old ^ val) & APIC_BASE_EN)
            lapic_power_on_locked(l);
        lapic_update_locked(l);
    }
    lock_drop(&l->lock);
    return bad ? -1 : 0;
}

int lapic_msr_read(void *lapic, uint32_t msr, uint64_t *val)
{
    struct lapic *l = lapic;
    if (msr == MSR_APIC_BASE) {
        *val = atomic_load(&l->base);
        return 0;
    }
    if (msr == MSR_TSC_DEADLINE && l->cfg.tsc_deadline) {
        lock_take(&l->lock);
        *val = lapic_timer_deadline_get_locked(l);
        lock_drop(&l->lock);
        return 0;
    }
    if (msr < MSR_X2APIC || msr > MSR_X2APIC_LAST || !lapic_x2(l))
        return -1;
    uint32_t v;
    if (!lapic_reg_read(l, msr - MSR_X2APIC, &v))
        return -1;
    *val = msr - MSR_X2APIC == LAPIC_ICR ? (uint64_t)l->icr_hi << 32 | v : v;
    return 0;
}

/* Bits that raise #GP when set (SDM Vol. 3A, "x2APIC Register Availability" and the register figures). */
static uint32_t x2_reserved(unsigned reg)
{
    switch (reg) {
    case LAPIC_TPR:
        return ~0xffU;
    case LAPIC_SVR:
        return ~(uint32_t)SVR_BITS;
    case LAPIC_EOI:
    case LAPIC_ESR:
        return ~0U;
    case LAPIC_LVT0 ... LAPIC_LVT0 + LAPIC_LVTS - 1:
        return ~(lapic_lvt_bits[reg - LAPIC_LVT0] | 1U << 12 | LVT_REMOTE_IRR);
    case LAPIC_DIVIDE:
        return ~0xbU;
    case LAPIC_SELF_IPI:
        return ~0xffU;
    default:
        return 0;
    }
}

static int x2_write(struct lapic *l, unsigned reg, uint64_t val)
{
    if (reg == LAPIC_ICR) {
        if (val & ICR_X2_RESERVED)
            return -1;
        lapic_icr_write(l, val);
        return 0;
    }
    if (val >> 32 || (val & x2_reserved(reg)))
        return -1;
    if (reg == LAPIC_SELF_IPI) {
        lapic_icr_write(l, 1U << 18 | (uint32_t)val);
        return 0;
    }
    return lapic_reg_write(l, reg, (uint32_t)val) ? 0 : -1;
}

int lapic_msr_write(void *lapic, uint32_t msr, uint64_t val)
{
    struct lapic *l = lapic;
    if (msr == MSR_APIC_BASE)
        return base_write(l, val);
    if (msr == MSR_TSC_DEADLINE && l->cfg.tsc_deadline) {
        lock_take(&l->lock);
        lapic_timer_deadline_set_locked(l, val);
        lock_drop(&l->lock);
        return 0;
    }
    if (msr < MSR_X2APIC || msr > MSR_X2APIC_LAST || !lapic_x2(l))
        return -1;
    return x2_write(l, msr - MSR_X2APIC, val);
}
