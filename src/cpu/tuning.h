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

struct engine_tuning {
    unsigned cpus;  /* of the machine: with more than one, memory may change under an instruction; 0 is 1 */
    bool verify;    /* translate: every translated instruction also runs in the interpreter; a difference is fatal */
    bool trace_asm; /* with the code of guest and host */
    FILE *trace;    /* a line for each block that is translated and each notable event; NULL = none */
    FILE *perf_map; /* symbols of translated code for perf; NULL = none */
    FILE *report;   /* where verify tells of a difference; NULL = stderr */
    struct {        /* for tests of verify: host code that is put behind each translation of one ZydisMnemonic */
        uint16_t mnemonic;
        uint8_t n, code[8];
    } spoil;
};

#endif
