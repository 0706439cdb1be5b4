/* SPDX-License-Identifier: MIT */
/* The rows of the benchmark program. */
#ifndef GAZDA_BENCH_ROWS_H
#define GAZDA_BENCH_ROWS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct row {
    const char *name;
    uint64_t (*run)(uint64_t n); /* n iterations; what it returns depends on n alone */
    double ops;                  /* operations of one iteration */
    uint64_t check;              /* iterations of the run whose result is printed for comparison; 0: none */
    const char *needs;           /* "avx2" or NULL: the processor's feature without which the row is skipped */
};

extern const struct row rows[]; /* ends with a NULL name */

/* Whether this machine computes correctly at all: known answers of the compute rows. */
bool compute_check(void);

/* Prints what failed, and ends the process. */
_Noreturn void bench_die(const char *what);
/* From now on this process runs on one CPU. */
void bench_one_cpu(void);
uint64_t bench_now_ns(void);

/*
 * Runs job(arg) in a child of its own process group. Prints "bench NAME failed: REASON" when it is ended by a signal,
 * takes longer than limit seconds (it is killed), or returns anything but 0.
 */
void bench_guarded(const char *name, unsigned limit, int (*job)(const void *arg), const void *arg);

/* The digest's first 8 bytes. */
uint64_t sha256_of(const uint8_t *data, size_t len);

/* launch.c: runs the scripts root/bench/NAME.sh inside root, each once; names end with NULL. */
int launch_apps(const char *root, unsigned limit, char **names);

/* What a process did: its status as of waitpid, its time, and what it wrote, in memory. */
struct launched {
    int status, out, err;
    uint64_t ns;
};
/* start() is called in the child, which it replaces or ends. Waits for it. */
void launch_captured(struct launched *l, void (*start)(const void *arg), const void *arg);
/* Prints that row name failed: how it ended, and the first line that it wrote to standard error. */
void launch_complain(const char *name, const struct launched *l);

/* tools.c: rows of fio and iperf3, each measured for that many seconds, from the system in the folder root. */
int tools_run(const char *seconds, unsigned limit, const char *root, char **names);

enum { INT_LOOP_INSNS = 16, SORT_LEN = 16384, SHA_BYTES = 16384, FAULT_PAGES = 256, VECTOR_LEN = 512 };

/* compute.c */
uint64_t row_int(uint64_t n);
uint64_t row_sha256(uint64_t n);
uint64_t row_sort(uint64_t n);

/* simd.c */
uint64_t row_float(uint64_t n);
uint64_t row_x87(uint64_t n);
uint64_t row_sse2(uint64_t n);
uint64_t row_sse2i(uint64_t n);
uint64_t row_avx2(uint64_t n);
uint64_t row_avx2i(uint64_t n);
uint64_t row_gather(uint64_t n);
uint64_t row_libm(uint64_t n);

/* system.c: system calls and memory */
uint64_t row_getpid(uint64_t n);
uint64_t row_stat(uint64_t n);
uint64_t row_readzero(uint64_t n);
uint64_t row_readfile(uint64_t n);
uint64_t row_writefile(uint64_t n);
uint64_t row_faults(uint64_t n);
uint64_t row_mmap(uint64_t n);
uint64_t row_mprotect(uint64_t n);
uint64_t row_cow(uint64_t n);
uint64_t row_signal(uint64_t n);
uint64_t row_sigsegv(uint64_t n);

/* process.c: processes, threads and switching between them */
uint64_t row_fork(uint64_t n);
uint64_t row_forkexec(uint64_t n);
uint64_t row_switch(uint64_t n);
uint64_t row_socket(uint64_t n);
uint64_t row_futex(uint64_t n);
uint64_t row_yield(uint64_t n);
uint64_t row_thread(uint64_t n);
uint64_t row_par4_1(uint64_t n);
uint64_t row_par4_4(uint64_t n);

/* net.c */
uint64_t row_netrtt(uint64_t n);
/* Prints "port N" and serves that row for ever. */
int net_serve(void);

#endif
