/* SPDX-License-Identifier: MIT */
/* 16550A serial port (National Semiconductor PC16550D data sheet): 8 ports, byte access. */
#ifndef GAZDA_DEV_UART_H
#define GAZDA_DEV_UART_H

#include "base/timer.h"
#include "bus/bus.h"
#include "bus/irq.h"
#include "host/chardev.h"

enum { UART_LEN = 8 };

struct uart_cfg {
    struct timer_svc *timers; /* for the receiver's time-out interrupt */
    struct irq_line irq;
    struct chardev *ch; /* not owned; NULL = nothing connected */
};

struct uart;

struct uart *uart_new(const struct uart_cfg *cfg); /* attaches to ch. NULL: no memory */
void uart_free(struct uart *u);                    /* detaches */

extern const struct dev_ops uart_ops; /* BUS_1 */

#endif
