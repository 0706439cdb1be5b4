/* SPDX-License-Identifier: MIT */
/* A tick that interrupts waits and kicks an engine, so that nothing hangs for ever. */
#ifndef GAZDA_TESTS_INSN_WATCH_H
#define GAZDA_TESTS_INSN_WATCH_H

struct vcpu;

enum { WATCH_HZ = 5 };

void watch_start(void);
unsigned watch_ticks(void);
/* The vCPU to kick at each tick, or NULL. */
void watch_vcpu(struct vcpu *v);

#endif
