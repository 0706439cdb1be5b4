/* SPDX-License-Identifier: MIT */
/*
 * Host faults (SIGSEGV, SIGFPE, SIGILL, SIGBUS, SIGTRAP) of code that engines make. There is one handler a process;
 * each engine adds a function that looks whether a fault is its own.
 */
#ifndef GAZDA_BASE_FAULT_H
#define GAZDA_BASE_FAULT_H

#include <signal.h>
#include <stdbool.h>

/*
 * Called in the handler, all signals blocked, on the thread's alternate stack if it has one. True: dealt with; the
 * thread goes on with the registers in uc.
 */
typedef bool (*fault_claim)(int sig, const siginfo_t *info, void *uc);

/*
 * Adds claim, once, and makes sure that the handler is in place: somebody else may have put his own, which then gets
 * what nobody claims. Any thread. 0 or -errno.
 */
int fault_listen(fault_claim claim);

#endif
