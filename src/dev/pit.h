/* SPDX-License-Identifier: MIT */
/*
 * Programmable interval timer (Intel 8254 data sheet) with the PC's port 61h (gate and speaker of channel 2).
 * When the host is late, missed periods of channel 0 are merged into one interrupt; the phase is kept.
 */
#ifndef GAZDA_DEV_PIT_H
#define GAZDA_DEV_PIT_H

#include "base/timer.h"
#include "bus/bus.h"
#include "bus/irq.h"

enum { PIT_PORT = 0x40, PIT_LEN = 4, PIT_PORT61 = 0x61, PIT_HZ = 1193182 };

struct pit;

/* irq: OUT of channel 0. NULL: no memory. */
struct pit *pit_new(struct timer_svc *timers, const struct irq_line *irq);
void pit_free(struct pit *p);

extern const struct dev_ops pit_ops;        /* all state; BUS_1 */
extern const struct dev_ops pit_port61_ops; /* same device; no reset, save or load of its own */

#endif
