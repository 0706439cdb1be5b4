/* SPDX-License-Identifier: MIT */
/*
 * Local APICs (SDM Vol. 3A, "Advanced Programmable Interrupt Controller (APIC)") and the bus between them.
 *
 * A vCPU reaches its own LAPIC through irq_ctl and lapic_mmio_*; everybody else through the lapic_bus. The timer counts
 * a bus clock of 1 GHz, so one tick (divided by 1) is 1 ns of the timer service.
 */
#ifndef GAZDA_DEV_LAPIC_H
#define GAZDA_DEV_LAPIC_H

#include "base/timer.h"
#include "bus/bus.h"
#include "bus/irq.h"

enum {
    LAPIC_MAX = 32,
    LAPIC_BUS_HZ = 1000000000,
    LAPIC_EXTINT = 256, /* irq_ctl.pending: an ExtINT is waiting; only ack tells its vector */
};

struct lapic;
struct lapic_bus;

struct lapic_bus_cfg {
    int (*extint_ack)(void *arg); /* the PIC's INTA cycle: pic_ack; called with no LAPIC lock held */
    void *extint_arg;
    void (*eoi)(void *arg, uint8_t vector); /* EOI broadcast: ioapic_eoi; called with no LAPIC lock held */
    void *eoi_arg;
};

struct lapic_cfg {
    uint8_t id; /* initial APIC ID, unique on the bus, < LAPIC_MAX */
    bool bsp;
    bool x2apic, tsc_deadline; /* what CPUID offers */
    uint8_t phys_bits;         /* MAXPHYADDR, for APIC_BASE */
    struct irq_cpu cpu;
    struct timer_svc *timers;
    /* Guest TSC now, and when (timer service ns, rounded up) it will reach a value. arg is irq_cpu.vcpu. Both any
     * thread; called with LOCK_LAPIC held. Needed if tsc_deadline. */
    uint64_t (*tsc_now)(void *vcpu);
    uint64_t (*tsc_to_ns)(void *vcpu, uint64_t tsc);
};

struct lapic_bus *lapic_bus_new(const struct lapic_bus_cfg *cfg); /* NULL: no memory */
void lapic_bus_free(struct lapic_bus *b);                         /* and its LAPICs */
/* Creates and attaches one; before any vCPU runs. NULL: no memory, or id taken. Owned by the bus. */
struct lapic *lapic_new(struct lapic_bus *b, const struct lapic_cfg *cfg);

/* An irq_msi_sink.send: interrupt messages of devices and of the IOAPIC. Any thread. */
void lapic_bus_msi(void *bus, uint64_t addr, uint32_t data);
/* irq_line.set targets: pin 0 is LINT0 (the PIC's INT), pin 1 LINT1 (NMI), wired to every LAPIC. Any thread. */
void lapic_bus_lint(void *bus, unsigned pin, bool level);

/* For its vCPU: the table to ask, filled in. */
void lapic_get_ctl(struct lapic *l, struct irq_ctl *out);
/* True if gpa lies in the register page of this LAPIC (enabled, xAPIC mode): then the access is lapic_mmio_*'s. */
bool lapic_mmio_hit(const struct lapic *l, gpa_t gpa);
/* off: within the page. len 1..8; registers are 32 bits at multiples of 16. vCPU thread. */
void lapic_mmio_read(struct lapic *l, uint64_t off, void *buf, unsigned len);
void lapic_mmio_write(struct lapic *l, uint64_t off, const void *buf, unsigned len);
/* The guest's TSC jumped (WRMSR TSC, TSC_ADJUST, restore): re-arms the deadline timer. vCPU thread. */
void lapic_tsc_changed(struct lapic *l);
/* What INIT does to it; the vCPU calls it when it carries out an INIT. */
void lapic_init_reset(struct lapic *l);
uint8_t lapic_id(const struct lapic *l);
/* True if CPUID.01H:EDX.APIC must read 0 (APIC_BASE.EN is clear). */
bool lapic_hw_disabled(const struct lapic *l);

extern const struct dev_ops lapic_dev_ops; /* dev is a struct lapic; reset, save and load only */

#endif
