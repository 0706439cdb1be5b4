/* SPDX-License-Identifier: MIT */
/* What a debugger sees of the machine: registers in gdb's order, memory through the guest's own translation. */
#ifndef GAZDA_VM_GDB_TARGET_H
#define GAZDA_VM_GDB_TARGET_H

#include "base/types.h"
#include "cpu/engine.h"

struct mem;

enum { GDB_REG_MAX_BYTES = 16, GDB_REGS_BYTES = 1024 };

extern const char gdb_target_xml[];

unsigned gdb_reg_count(void);
/* Bytes of register n, 0 if there is none. */
unsigned gdb_reg_size(unsigned n);
void gdb_reg_read(const struct cpu_state *c, unsigned n, uint8_t *buf);
/* Takes what leaves the state sane: selectors and the control registers are read-only. */
void gdb_reg_write(struct cpu_state *c, unsigned n, const uint8_t *buf);

/* Linear addresses of the current context, whatever its rights. 0 or -EFAULT. */
int gdb_mem_read(const struct cpu_state *c, struct mem *m, gva_t va, void *buf, unsigned len);
int gdb_mem_write(const struct cpu_state *c, struct mem *m, gva_t va, const void *buf, unsigned len);

#endif
