/* SPDX-License-Identifier: MIT */
/*
 * Where the machine's interrupt lines end: line n is ISA IRQ n (n < 16) at the PIC and pin n at the IOAPIC, but ISA IRQ
 * 0 goes to IOAPIC pin 2 (an Interrupt Source Override in the MADT and the MP table).
 */
#ifndef GAZDA_DEV_IRQ_ROUTER_H
#define GAZDA_DEV_IRQ_ROUTER_H

#include "bus/irq.h"

struct pic;
struct ioapic;

/* Owned and placed by the machine; constant while it runs. */
struct irq_router {
    struct pic *pic;       /* NULL: none */
    struct ioapic *ioapic; /* NULL: none */
};

/* An irq_line.set with arg = struct irq_router and pin = line 0..23. */
void irq_router_set(void *router, unsigned line, bool level);
static inline struct irq_line irq_router_line(struct irq_router *r, unsigned line)
{
    return (struct irq_line){ .set = irq_router_set, .arg = r, .pin = line };
}

#endif
