/* SPDX-License-Identifier: MIT */
/*
 * A stub process: user code of a guest runs in it natively, with the guest's pages mapped at the guest's addresses.
 * Whatever is not plain computing stops it: faults, system calls, a kick. It can do nothing else, see stub_code.S.
 *
 * All calls but stub_kick are made by one thread, which also made the stub: the process ends with that thread.
 */
#ifndef GAZDA_HOST_STUB_H
#define GAZDA_HOST_STUB_H

#include <sched.h>

#include "base/types.h"

struct stub;

enum { STUB_PAGES = 32 };

/* By the numbers of the ISA: RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8.. */
struct stub_regs {
    uint64_t gpr[16], rip, rflags;
    uint64_t fs_base, gs_base;
    uint16_t cs, ss, ds, es, fs, gs; /* es is loaded with ds */
};

struct stub_trap {
    int sig;
    uint32_t vector, error; /* of the exception behind SIGSEGV and its like */
    uint64_t cr2;
    uint64_t call; /* SIGSYS: where the call was, behind it */
};

/* Guest code may not be mapped between these: the stub's own pages. */
extern const uint64_t stub_begin, stub_end;

/*
 * Starts one. ram is the file that is mapped; tsc: RDTSC shall fault. -errno: the host does not allow it (or lacks
 * FSGSBASE).
 */
int stub_new(struct stub **out, int ram, bool tsc);
void stub_free(struct stub *s);

/* Asked for now, done before the guest runs again. prot: PROT_*; off: in the file. All in whole pages. */
void stub_map(struct stub *s, uint64_t at, uint64_t len, int prot, uint64_t off);
/* Of what is mapped: half the cost of mapping it anew. */
void stub_protect(struct stub *s, uint64_t at, uint64_t len, int prot);
/* A page of memory that only this stub has, and its mapping (read and execute). */
uint8_t *stub_page(struct stub *s, unsigned k);
void stub_map_page(struct stub *s, uint64_t at, unsigned k);
void stub_unmap(struct stub *s, uint64_t at, uint64_t len);
void stub_unmap_all(struct stub *s);

/* The XSAVE image (standard format) that a run begins with and ends with; *size: its bytes. */
uint8_t *stub_xsave(struct stub *s, uint32_t *size);
/* Runs guest code until it traps. -ESRCH: the process is gone, or does not answer; regs are as they were, but it may
 * have run a while. -ENOMEM: nothing ran, for the host would not map or unmap what it was asked to (it has a limit of
 * mappings); the stub is of no use any more. */
int stub_run(struct stub *s, struct stub_regs *regs, struct stub_trap *trap);
/* After -ESRCH: the process has run nothing of what it was to run. */
bool stub_untouched(const struct stub *s);
/* Keeps its threads on a processor, where the caller should stay too: waking another one costs more than a switch. */
void stub_pin(struct stub *s, int cpu);
void stub_unpin(struct stub *s, const cpu_set_t *cpus);
/*
 * Asks the scheduler (of Linux 6.12 on) for short slices, so that a thread that waits often need not wait, each time it
 * is woken, for the slice of whoever runs there. tid 0: the caller's.
 */
void stub_short_slice(int tid);
/* What it has used of the processors. */
uint64_t stub_cpu_ns(const struct stub *s);
/* Makes stub_run return soon, now or when it is called next. Async-signal-safe. */
void stub_kick(struct stub *s);

#endif
