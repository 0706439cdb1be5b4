/* SPDX-License-Identifier: MIT */
/*
 * PS/2 keyboard controller with a keyboard and a mouse (IBM PS/2 Hardware Interface Technical Reference, "Keyboard
 * and Auxiliary Device Controller"; UPI-41AH/42AH data sheet), and system control port A (0x92).
 */
#ifndef GAZDA_DEV_I8042_H
#define GAZDA_DEV_I8042_H

#include "base/timer.h"
#include "bus/bus.h"
#include "bus/irq.h"

enum { I8042_DATA_PORT = 0x60, I8042_CMD_PORT = 0x64, I8042_PORT_A = 0x92 }; /* one byte each */

struct i8042_cfg {
    struct irq_line kbd;             /* IRQ 1, edge */
    struct irq_line aux;             /* IRQ 12, edge */
    void (*reset)(void *arg);        /* CPU reset line: by a vCPU, no lock held; only flags */
    void (*a20)(void *arg, bool on); /* may be NULL: then A20 is on for good, whatever the guest reads back */
    void *arg;
};

struct i8042;

struct i8042 *i8042_new(const struct i8042_cfg *cfg); /* NULL: no memory */
void i8042_free(struct i8042 *k);
/* Types scan codes (set 2 as the keyboard sends them; the controller translates). Any thread. -ENOSPC: all or none. */
int i8042_type(struct i8042 *k, const uint8_t *codes, size_t n);
int i8042_ctrl_alt_del(struct i8042 *k);

extern const struct dev_ops i8042_data_ops;   /* all state; BUS_1 */
extern const struct dev_ops i8042_cmd_ops;    /* same device; no reset, save or load of its own */
extern const struct dev_ops i8042_port_a_ops; /* likewise */

#endif
