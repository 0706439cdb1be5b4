/* SPDX-License-Identifier: MIT */
/* The rows of the benchmark. */
#ifndef GAZDA_BENCH_ROWS_H
#define GAZDA_BENCH_ROWS_H

#include <stdbool.h>
#include <stdint.h>

struct row {
    const char *name;
    void (*run)(uint64_t n);
    double ops; /* operations of one iteration */
};

extern const struct row rows[]; /* ends with a NULL name */

/* Whether this machine computes correctly at all: known answers of the compute rows. */
bool rows_check(void);

/* compute.c */
enum { INT_LOOP_INSNS = 16, SORT_LEN = 16384, SHA_BYTES = 16384 };
void row_int(uint64_t n);
void row_sha256(uint64_t n);
void row_sort(uint64_t n);
void row_float(uint64_t n);
bool compute_check(void);

/* system.c */
enum { FAULT_PAGES = 256 };
void row_getpid(uint64_t n);
void row_forkexec(uint64_t n);
void row_faults(uint64_t n);
void row_switch(uint64_t n);

#endif
