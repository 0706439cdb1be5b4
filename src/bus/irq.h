/* SPDX-License-Identifier: MIT */
/*
 * Interrupt wires. A device holds an irq_line and moves its level; where it ends is the machine's business.
 * LAPIC and vCPU, which may not see each other, meet here: the LAPIC drives an irq_cpu (the vCPU's pins), the
 * vCPU asks an irq_ctl (its LAPIC) for the vector to deliver.
 */
#ifndef GAZDA_BUS_IRQ_H
#define GAZDA_BUS_IRQ_H

#include "base/types.h"

struct irq_line {
    void (*set)(void *arg, unsigned pin, bool level); /* any thread; may take IRQCHIP and higher locks */
    void *arg;
    unsigned pin;
};

static inline void irq_set(const struct irq_line *l, bool level)
{
    if (l->set)
        l->set(l->arg, l->pin, level);
}
/* An edge: up, then down. */
static inline void irq_pulse(const struct irq_line *l)
{
    irq_set(l, true);
    irq_set(l, false);
}

/* Message-signalled interrupt: SDM Vol. 3A, "Message Signalled Interrupts". The machine routes it to the LAPICs. */
struct irq_msi_sink {
    void (*send)(void *arg, uint64_t addr, uint32_t data);
    void *arg;
};

/* The vCPU's pins as its LAPIC sees them. All are callable from any thread and only flag and kick. */
struct irq_cpu {
    void (*intr)(void *vcpu); /* "ask irq_ctl.pending again" */
    void (*nmi)(void *vcpu);
    void (*init)(void *vcpu);
    void (*sipi)(void *vcpu, uint8_t vector);
    void *vcpu;
};

/* The LAPIC as its vCPU sees it. Called from the vCPU's thread only, except where noted. */
struct irq_ctl {
    int (*pending)(
        void *lapic);        /* highest deliverable vector, or -1; takes TPR/PPR and the PIC (ExtINT) into account */
    int (*ack)(void *lapic); /* moves it to in-service and returns it; -1 if it went away (then nothing happens) */
    uint8_t (*tpr_get)(void *lapic); /* CR8: 0..15 */
    void (*tpr_set)(void *lapic, uint8_t cr8);
    int (*msr_read)(void *lapic, uint32_t msr, uint64_t *val); /* APIC_BASE, TSC_DEADLINE, x2APIC: 0, or -1 = #GP */
    int (*msr_write)(void *lapic, uint32_t msr, uint64_t val);
    void *lapic;
};

#endif
