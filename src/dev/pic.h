/* SPDX-License-Identifier: MIT */
/* The PC's pair of interrupt controllers (Intel 8259A data sheet; ELCR: 82371AB "PIIX4" data sheet). */
#ifndef GAZDA_DEV_PIC_H
#define GAZDA_DEV_PIC_H

#include "bus/bus.h"
#include "bus/irq.h"

enum { PIC_MASTER_PORT = 0x20, PIC_SLAVE_PORT = 0xa0, PIC_ELCR_PORT = 0x4d0, PIC_LEN = 2 };

struct pic;

/* out: the INT pin, called with LOCK_IRQCHIP held whenever its level changes. NULL: no memory. */
struct pic *pic_new(const struct irq_line *out);
void pic_free(struct pic *p);
/* An irq_line.set: pins 0..15 as the ISA bus numbers them (2 is the cascade and is ignored). */
void pic_set(void *pic, unsigned pin, bool level);
/* The INTA cycle: the vector. IR7's (or IR15's) spurious one if the request has gone. Takes LOCK_IRQCHIP. */
int pic_ack(void *pic);

extern const struct dev_ops pic_master_ops; /* all state; BUS_1 */
extern const struct dev_ops pic_slave_ops;  /* same device; no reset, save or load of its own */
extern const struct dev_ops pic_elcr_ops;   /* likewise */

#endif
