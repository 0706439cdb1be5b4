/* SPDX-License-Identifier: MIT */
/* I/O APIC (Intel 82093AA data sheet; EOI register and version 20h: ICH/PCH data sheets), 24 pins. */
#ifndef GAZDA_DEV_IOAPIC_H
#define GAZDA_DEV_IOAPIC_H

#include "bus/bus.h"
#include "bus/irq.h"

#define IOAPIC_BASE 0xfec00000UL
enum { IOAPIC_LEN = 0x1000, IOAPIC_PINS = 24 };

struct ioapic;

/* sink: where messages go, called with LOCK_IRQCHIP held. id: initial APIC ID. NULL: no memory. */
struct ioapic *ioapic_new(const struct irq_msi_sink *sink, uint8_t id);
void ioapic_free(struct ioapic *io);
/* An irq_line.set: pins 0..23, active high whatever the polarity bit says. */
void ioapic_set(void *ioapic, unsigned pin, bool level);
/* EOI message of a LAPIC for a level-triggered vector. Takes LOCK_IRQCHIP. */
void ioapic_eoi(void *ioapic, uint8_t vector);

extern const struct dev_ops ioapic_ops; /* BUS_4 */

#endif
