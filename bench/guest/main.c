/* SPDX-License-Identifier: MIT */
/*
 * The benchmark program: one static binary that runs natively and in every guest. Each row finds an iteration count
 * that takes long enough for this machine, repeats it, and prints the median as "bench NAME=NS_PER_OPERATION".
 * The clock is the guest's own; "bench begin/end=NS" let the host compare it with its own.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "guest/rows.h"

enum { REPEATS = 5 };

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static double time_of(const struct row *r, uint64_t n)
{
    uint64_t begin = now_ns();
    r->run(n);
    return (double)(now_ns() - begin);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void measure(const struct row *r, double target_ns)
{
    uint64_t n = 1;
    double t, each[REPEATS];
    while ((t = time_of(r, n)) < target_ns / 4)
        n *= t < target_ns / 64 ? 8 : 2;
    n = (uint64_t)((double)n * target_ns / t) + 1;
    for (int i = 0; i < REPEATS; i++)
        each[i] = time_of(r, n) / (double)n / r->ops;
    qsort(each, REPEATS, sizeof(each[0]), by_value);
    printf("bench %s=%.4f\n", r->name, each[REPEATS / 2]);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    double target_ns = 3e8;
    if (argc == 2 && strcmp(argv[1], "true") == 0)
        return 0;
    if (argc >= 2)
        target_ns = atof(argv[1]) * 1e6;
    if (!rows_check()) {
        printf("bench failed=1\n");
        return 1;
    }
    printf("bench begin=%llu\n", (unsigned long long)now_ns());
    fflush(stdout);
    for (const struct row *r = rows; r->name; r++)
        if (argc < 3 || strstr(argv[2], r->name))
            measure(r, target_ns);
    printf("bench end=%llu\n", (unsigned long long)now_ns());
    return 0;
}
