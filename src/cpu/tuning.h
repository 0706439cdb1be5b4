/* SPDX-License-Identifier: MIT */
/*
 * What a person may ask of an engine besides running the guest. All zero: nothing. An engine ignores what it does not
 * have; who offers the option to a user checks that. Streams are borrowed, shared by all vCPUs, and written by one
 * call a line (or report), so that lines of several threads stay whole.
 */
#ifndef GAZDA_CPU_TUNING_H
#define GAZDA_CPU_TUNING_H

#include <stdio.h>

#include "base/types.h"

/* translate: which of its two ways to reach guest memory. AUTO: windows where they pay. */
enum engine_mmu { ENGINE_MMU_AUTO, ENGINE_MMU_SOFT, ENGINE_MMU_WINDOW };

/* translate: whether user code runs natively in processes of its own (direct.c). AUTO: where it pays. ON: always. */
enum engine_direct { ENGINE_DIRECT_AUTO, ENGINE_DIRECT_OFF, ENGINE_DIRECT_ON };

struct engine_tuning {
    enum engine_mmu mmu;
    enum engine_direct direct;
    unsigned cpus;   /* of the machine: with more than one, memory may change under an instruction; 0 is 1 */
    bool verify;     /* translate: every translated instruction also runs in the interpreter; a difference is fatal */
    bool adapt_half; /* for tests: half of all sites in windows are taken for adapted ones */
    bool no_uffd;    /* for tests: as on a host that has none */
    bool trace_asm;  /* trace: with the code of guest and host */
    bool trace_exec; /* trace: and a line each time that a block is entered; slow, for blocks do not lead to each other
                      */
    FILE *trace;     /* translate: a line for each block that is made and each notable event; NULL = none */
    FILE *perf_map;  /* translate: symbols of its code for perf; readable, in append mode; NULL = none */
    FILE *report;    /* where verify tells of a difference; NULL = stderr */
    struct {         /* for tests of verify: host code that is put behind each translation of one ZydisMnemonic */
        uint16_t mnemonic;
        uint8_t n, code[8];
    } spoil;
};

#endif
