/* SPDX-License-Identifier: MIT */
/* The table of rows; docs/bench.md explains each. */
#include "guest/rows.h"

const struct row rows[] = {
    { "int", row_int, INT_LOOP_INSNS, 1000, NULL },
    { "sha256", row_sha256, SHA_BYTES, 1, NULL },
    { "sort", row_sort, SORT_LEN, 1, NULL },

    { "float", row_float, 1, 1000, NULL },
    { "x87", row_x87, 1, 1000, NULL },
    { "sse2", row_sse2, VECTOR_LEN, 5, NULL },
    { "sse2i", row_sse2i, VECTOR_LEN, 5, NULL },
    { "avx2", row_avx2, VECTOR_LEN, 5, "avx2" },
    { "avx2i", row_avx2i, VECTOR_LEN, 5, "avx2" },
    { "gather", row_gather, VECTOR_LEN, 5, "avx2" },
    { "libm", row_libm, 5, 100, NULL },

    { "getpid", row_getpid, 1, 0, NULL },
    { "stat", row_stat, 1, 0, NULL },
    { "readzero", row_readzero, 1, 0, NULL },
    { "readfile", row_readfile, 1, 0, NULL },
    { "writefile", row_writefile, 1, 0, NULL },
    { "switch", row_switch, 1, 0, NULL },
    { "socket", row_socket, 1, 0, NULL },
    { "futex", row_futex, 1, 0, NULL },
    { "yield", row_yield, 1, 0, NULL },
    { "fork", row_fork, 1, 0, NULL },
    { "forkexec", row_forkexec, 1, 0, NULL },
    { "thread", row_thread, 1, 0, NULL },
    { "faults", row_faults, FAULT_PAGES, 0, NULL },
    { "mmap", row_mmap, 1, 0, NULL },
    { "mprotect", row_mprotect, 1, 0, NULL },
    { "cow", row_cow, FAULT_PAGES, 0, NULL },
    { "signal", row_signal, 1, 0, NULL },
    { "sigsegv", row_sigsegv, 1, 0, NULL },

    { "par4_1", row_par4_1, 1, 0, NULL },
    { "par4_4", row_par4_4, 1, 0, NULL },

    { "netrtt", row_netrtt, 1, 0, NULL },
    { NULL, NULL, 0, 0, NULL },
};
