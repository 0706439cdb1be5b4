/* SPDX-License-Identifier: MIT */
/*
 * What translated code depends on: the kind of a block, and host registers by number.
 */
#ifndef GAZDA_CPU_TRANSLATE_KIND_H
#define GAZDA_CPU_TRANSLATE_KIND_H

#include "base/types.h"

enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 };
enum { HOST_RCX_HOME = R9 }; /* where guest RCX lives */

/* Which rights an access has, and with it which TLB and jump cache. */
enum xl_ctx { CTX_USER, CTX_KERNEL, CTX_KERNEL_AC, CTXS };

/* What a block was translated for. */
enum {
    KIND_MODE = 3,     /* enum x86_mode */
    KIND_CTX = 3 << 2, /* enum xl_ctx */
    KIND_FPU = 1 << 4, /* SSE and x87 instructions need no check */
    KIND_AVX = 1 << 5, /* likewise AVX */
    KIND_TSC = 1 << 6, /* RDTSC may be used */
    KIND_PIC = 1 << 7, /* runs at any linear address; page_va[] tells */
    KIND_FS = 1 << 8,  /* 32-bit code: FS has 4 GiB */
    KIND_GS = 1 << 9,
    KIND_SMAP = 1 << 10,  /* SMAP is on, so AC is what the context says */
    KIND_FSGS = 1 << 11,  /* RDFSBASE and its like may be used */
    KIND_SPLIT = 1 << 12, /* each memory access has a lookup of its own; never what the vCPU is in */
    KIND_WIN = 1 << 13,   /* memory through windows */
    KIND_DF = 1 << 14,    /* string instructions go down (the host's DF is always clear) */
    KIND_NONE = 1 << 15,  /* not for translated code */
};
static inline enum xl_ctx kind_ctx(unsigned kind)
{
    return (enum xl_ctx)(kind >> 2 & 3);
}

#define NO_GPA (~(gpa_t)0)

struct xlate;

#endif
