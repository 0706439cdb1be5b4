/* SPDX-License-Identifier: MIT */
/* What the tracing parent (host.c) and the traced child (child.c) share. */
#ifndef GAZDA_TESTS_INSN_CHILD_H
#define GAZDA_TESTS_INSN_CHILD_H

#include "insn.h"

enum { CHILD_BATCH = 64 };

/* In memory shared by both; the parent touches it only while the child is stopped. */
struct child_shared {
    volatile uint32_t n;    /* cases in this batch */
    volatile uint32_t cur;  /* the one that runs */
    volatile uint32_t done; /* the batch is over */
    volatile uint32_t running;
    int pid;
    struct insn_host host;
    uint8_t *image;    /* writable alias of the memory image */
    uint8_t *pristine; /* what it is before each case */
    uint64_t fs_base;  /* the C library's */
    struct insn_case c[CHILD_BATCH];
    struct insn_result r[CHILD_BATCH];
};

_Noreturn void insn_child_main(struct child_shared *s, int memfd);

#endif
