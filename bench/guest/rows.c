/* SPDX-License-Identifier: MIT */
/* The table of rows; docs/bench.md explains each. */
#include <stddef.h>

#include "guest/rows.h"

const struct row rows[] = {
    { "int", row_int, INT_LOOP_INSNS },
    { "sha256", row_sha256, SHA_BYTES },
    { "sort", row_sort, SORT_LEN },
    { "float", row_float, 1 },
    { "getpid", row_getpid, 1 },
    { "forkexec", row_forkexec, 1 },
    { "faults", row_faults, FAULT_PAGES },
    { "switch", row_switch, 1 },
    { NULL, NULL, 0 },
};

bool rows_check(void)
{
    return compute_check();
}
