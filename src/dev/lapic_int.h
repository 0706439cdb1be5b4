/* SPDX-License-Identifier: MIT */
/*
 * What the LAPIC's files share. Everything in struct lapic is under its lock but the atomics, which are written under
 * it and read without: hint by the vCPU before each run, the rest by whoever routes a message.
 * No function is called with two LAPIC locks held.
 */
#ifndef GAZDA_DEV_LAPIC_INT_H
#define GAZDA_DEV_LAPIC_INT_H

#include <stdatomic.h>

#include "base/lock.h"
#include "dev/lapic.h"

/* Register numbers: xAPIC offset / 16 = x2APIC MSR - 800h. SDM Vol. 3A, "The Local APIC Block Diagram". */
enum lapic_reg {
    LAPIC_ID = 0x02,
    LAPIC_VERSION = 0x03,
    LAPIC_TPR = 0x08,
    LAPIC_APR = 0x09,
    LAPIC_PPR = 0x0a,
    LAPIC_EOI = 0x0b,
    LAPIC_RRD = 0x0c,
    LAPIC_LDR = 0x0d,
    LAPIC_DFR = 0x0e,
    LAPIC_SVR = 0x0f,
    LAPIC_ISR = 0x10, /* 8 registers each */
    LAPIC_TMR = 0x18,
    LAPIC_IRR = 0x20,
    LAPIC_ESR = 0x28,
    LAPIC_LVT_CMCI = 0x2f, /* not there: the version register counts six LVT entries */
    LAPIC_ICR = 0x30,
    LAPIC_ICR_HI = 0x31,
    LAPIC_LVT0 = 0x32, /* LAPIC_LVTS registers, enum lapic_lvt */
    LAPIC_INIT_COUNT = 0x38,
    LAPIC_CUR_COUNT = 0x39,
    LAPIC_DIVIDE = 0x3e,
    LAPIC_SELF_IPI = 0x3f, /* x2APIC only */
};

enum lapic_lvt { LVT_TIMER, LVT_THERMAL, LVT_PMC, LVT_LINT0, LVT_LINT1, LVT_ERROR, LAPIC_LVTS };

enum {
    LVT_MODE_SHIFT = 8,
    LVT_MODE = 7 << LVT_MODE_SHIFT,
    LVT_POLARITY = 1 << 13,
    LVT_REMOTE_IRR = 1 << 14,
    LVT_LEVEL = 1 << 15,
    LVT_MASKED = 1 << 16,
    LVT_TIMER_SHIFT = 17,
    LVT_TIMER_MODE = 3 << LVT_TIMER_SHIFT,
};
enum { TIMER_ONE_SHOT, TIMER_PERIODIC, TIMER_TSC_DEADLINE };

/* Bit 9, focus checking, does nothing on current processors; 32-bit guests set it. */
enum { SVR_ENABLED = 1 << 8, SVR_NO_EOI_BROADCAST = 1 << 12, SVR_BITS = 0x13ff };
enum { ESR_SEND_VECTOR = 1 << 5, ESR_RECV_VECTOR = 1 << 6, ESR_REGISTER = 1 << 7 };
#define APIC_BASE_BSP (1UL << 8)
#define APIC_BASE_EXTD (1UL << 10)
#define APIC_BASE_EN (1UL << 11)
#define APIC_BASE_ADDR 0xfee00000UL

/* Delivery modes of ICR, LVT, IOAPIC and MSI alike. */
enum lapic_mode {
    MODE_FIXED,
    MODE_LOWEST,
    MODE_SMI,
    MODE_RESERVED,
    MODE_NMI,
    MODE_INIT,
    MODE_SIPI,
    MODE_EXTINT,
};

struct lapic_msg {
    uint32_t dest;
    bool wide; /* dest is an x2APIC's 32 bits; otherwise 8 bits, FFh = everybody */
    bool logical;
    bool lowest; /* one of the destinations, by priority */
    bool level;
    enum lapic_mode mode;
    uint8_t vector;
};

struct lapic {
    struct lock lock;
    struct lapic_bus *bus;
    struct lapic_cfg cfg;
    _Atomic int hint; /* what irq_ctl.pending returns */
    _Atomic uint64_t base;
    _Atomic uint32_t ldr, dfr, svr;
    _Atomic uint8_t ppr;
    bool extint_msg; /* an ExtINT message came and was not acknowledged */
    bool lint[2];    /* level of the pins */
    uint32_t tpr, esr, esr_new, icr, icr_hi, divide, init_count;
    uint32_t lvt[LAPIC_LVTS];
    uint32_t irr[8], isr[8], tmr[8];
    /* Timer: expiry is when the running count ends (0: not running); see lapic_timer.c. */
    uint64_t expiry, tsc_deadline;
    struct timer timer;
};

struct lapic_bus {
    struct lapic_bus_cfg cfg;
    struct lapic *l[LAPIC_MAX];
    _Atomic uint32_t turn; /* breaks ties of lowest-priority arbitration */
};

static inline bool lapic_x2(const struct lapic *l)
{
    return atomic_load_explicit(&l->base, memory_order_relaxed) & APIC_BASE_EXTD;
}
static inline bool lapic_hw_enabled(const struct lapic *l)
{
    return atomic_load_explicit(&l->base, memory_order_relaxed) & APIC_BASE_EN;
}
static inline bool lapic_sw_enabled(const struct lapic *l)
{
    return lapic_hw_enabled(l) && (atomic_load_explicit(&l->svr, memory_order_relaxed) & SVR_ENABLED);
}

/* ---- lapic.c; _locked: the caller holds l->lock ---- */

/* Recomputes PPR and hint after anything they depend on changed, and tells the vCPU. */
void lapic_update_locked(struct lapic *l);
/* A fixed interrupt arrives. False if it was refused. */
bool lapic_accept_locked(struct lapic *l, unsigned vector, bool level);
/* The source behind an LVT entry fires (once). */
void lapic_lvt_fire_locked(struct lapic *l, enum lapic_lvt n);
void lapic_error_locked(struct lapic *l, uint32_t esr_bit);
void lapic_power_on_locked(struct lapic *l);
void lapic_reset(struct lapic *l);
/* A message for this LAPIC, and nobody else. No lock held. */
void lapic_take_msg(struct lapic *l, const struct lapic_msg *m);
void lapic_lint_set(struct lapic *l, unsigned pin, bool level);
void lapic_eoi(struct lapic *l);

/* ---- lapic_regs.c: no lock held; false: there is no such register, or (write) it is read-only ---- */

bool lapic_reg_read(struct lapic *l, unsigned reg, uint32_t *val);
bool lapic_reg_write(struct lapic *l, unsigned reg, uint32_t val);
void lapic_icr_write(struct lapic *l, uint64_t icr);
uint32_t lapic_ldr(const struct lapic *l);
int lapic_msr_read(void *lapic, uint32_t msr, uint64_t *val);
int lapic_msr_write(void *lapic, uint32_t msr, uint64_t val);
extern const uint32_t lapic_lvt_bits[LAPIC_LVTS]; /* what can be written */

/* ---- lapic_timer.c ---- */

void lapic_timer_expired(void *lapic); /* the timer's fn */
uint32_t lapic_timer_count_locked(struct lapic *l);
void lapic_timer_start_locked(struct lapic *l, uint32_t count);
void lapic_timer_divide_locked(struct lapic *l, uint32_t divide);
/* Before a change of the LVT entry: delivers what is due by the old one. */
void lapic_timer_settle_locked(struct lapic *l);
/* After the LVT entry changed from old. */
void lapic_timer_lvt_locked(struct lapic *l, uint32_t old);
uint64_t lapic_timer_deadline_get_locked(struct lapic *l);
void lapic_timer_deadline_set_locked(struct lapic *l, uint64_t tsc);
void lapic_timer_stop_locked(struct lapic *l);
/* Arms the host's timer for what expiry or tsc_deadline say; after load and TSC jumps. */
void lapic_timer_arm_locked(struct lapic *l);

/* ---- lapic_bus.c ---- */

/* Routes m. src is the sender of an IPI; skip_src leaves it out. No lock held (an IRQCHIP lock may be). */
void lapic_bus_send(struct lapic_bus *b, const struct lapic_msg *m);
void lapic_bus_send_all(struct lapic_bus *b, const struct lapic_msg *m, const struct lapic *except);

#endif
