/* SPDX-License-Identifier: MIT */
/*
 * The benchmark program: one static binary that runs natively and in every guest.
 *
 *   bench rows TARGET_MS LIMIT_S NAME...   rows of rows.c: finds an iteration count that takes TARGET_MS on this
 *                                          machine, repeats it, prints the median time of an operation
 *   bench apps ROOT LIMIT_S NAME...        programs of a Debian system in the folder ROOT (launch.c)
 *   bench tools SECONDS LIMIT_S ROOT NAME...   fio and iperf3 of such a folder (tools.c)
 *   bench serve                            the host's side of row netrtt
 *   bench true                             does nothing; what fork+exec starts
 *
 * Each prints "bench begin=NS", for each row "bench row NAME" and then "bench NAME=NS [sum=HEX]", "bench NAME failed:
 * REASON" or "bench NAME skipped: REASON", and at last "bench end=NS". The clock is the guest's own; begin and end let
 * the host compare it with its own. Each row is a child, so that a crash or a hang of one leaves the others alone.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "guest/rows.h"

enum { REPEATS = 5 };

struct measured {
    const struct row *row;
    const char *name;
    double target_ns;
};

uint64_t bench_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void bench_die(const char *what)
{
    perror(what);
    exit(1);
}

void bench_one_cpu(void)
{
    cpu_set_t one;
    int cpu = sched_getcpu();
    CPU_ZERO(&one);
    CPU_SET((size_t)(cpu < 0 ? 0 : cpu), &one);
    sched_setaffinity(0, sizeof(one), &one);
}

static double time_of(const struct row *r, uint64_t n)
{
    uint64_t begin = bench_now_ns();
    r->run(n);
    return (double)(bench_now_ns() - begin);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int measure(const void *arg)
{
    const struct measured *m = arg;
    const struct row *r = m->row;
    uint64_t n = 1;
    double t, each[REPEATS];
    /* The first iterations may be slow beyond measure: the count is right when a run with it takes about that long. */
    while ((t = time_of(r, n)) < m->target_ns / 2)
        n = t < m->target_ns / 64 ? n * 8 : (uint64_t)((double)n * m->target_ns / t) + 1;
    for (int i = 0; i < REPEATS; i++)
        each[i] = time_of(r, n) / (double)n / r->ops;
    qsort(each, REPEATS, sizeof(each[0]), by_value);
    printf("bench %s=%.4f", m->name, each[REPEATS / 2]);
    if (r->check)
        printf(" sum=%llx", (unsigned long long)r->run(r->check));
    printf("\n");
    fflush(stdout);
    return 0;
}

void bench_guarded(const char *name, unsigned limit, int (*job)(const void *arg), const void *arg)
{
    struct timespec left = { .tv_sec = (time_t)limit };
    sigset_t chld, old;
    int status = 0;
    printf("bench row %s\n", name);
    fflush(stdout);
    sigemptyset(&chld);
    sigaddset(&chld, SIGCHLD);
    sigprocmask(SIG_BLOCK, &chld, &old);
    pid_t pid = fork();
    if (pid < 0)
        bench_die("fork");
    setpgid(pid, pid);
    if (pid == 0) {
        sigprocmask(SIG_SETMASK, &old, NULL);
        exit(job(arg));
    }
    int late = sigtimedwait(&chld, NULL, &left) < 0;
    kill(-pid, SIGKILL); /* a row's own children too */
    waitpid(pid, &status, 0);
    sigprocmask(SIG_SETMASK, &old, NULL);
    if (late)
        printf("bench %s failed: it took longer than %u s\n", name, limit);
    else if (WIFSIGNALED(status))
        printf("bench %s failed: signal %d\n", name, WTERMSIG(status));
    else if (status != 0)
        printf("bench %s failed: exit status %d\n", name, WEXITSTATUS(status));
    fflush(stdout);
}

static bool has(const char *feature)
{
    __builtin_cpu_init();
    return !feature || (strcmp(feature, "avx2") == 0 && __builtin_cpu_supports("avx2"));
}

/* "m32_NAME" is row NAME: so the host calls what it runs with the 32-bit build. */
static const struct row *find(const char *name)
{
    const struct row *r = rows;
    if (strncmp(name, "m32_", 4) == 0)
        name += 4;
    while (r->name && strcmp(r->name, name) != 0)
        r++;
    return r->name ? r : NULL;
}

static int run_rows(double target_ns, unsigned limit, char **names)
{
    if (!compute_check()) {
        printf("bench all failed: the known answers are wrong\n");
        return 1;
    }
    for (; *names; names++) {
        struct measured m = { find(*names), *names, target_ns };
        if (!m.row)
            printf("bench %s skipped: no such row\n", *names);
        else if (!has(m.row->needs))
            printf("bench %s skipped: the processor has no %s\n", *names, m.row->needs);
        else
            bench_guarded(m.name, limit, measure, &m);
    }
    return 0;
}

int main(int argc, char **argv)
{
    int status = 0;
    if (argc == 2 && strcmp(argv[1], "true") == 0)
        return 0;
    if (argc == 2 && strcmp(argv[1], "serve") == 0)
        return net_serve();
    if (argc < 4) {
        fprintf(stderr, "usage: bench rows TARGET_MS LIMIT_S NAME... | bench apps ROOT LIMIT_S NAME... | "
                        "bench tools SECONDS LIMIT_S ROOT NAME...\n");
        return 1;
    }
    printf("bench begin=%llu\n", (unsigned long long)bench_now_ns());
    fflush(stdout);
    if (strcmp(argv[1], "apps") == 0)
        status = launch_apps(argv[2], (unsigned)atoi(argv[3]), argv + 4);
    else if (strcmp(argv[1], "tools") == 0 && argc > 4)
        status = tools_run(argv[2], (unsigned)atoi(argv[3]), argv[4], argv + 5);
    else
        status = run_rows(atof(argv[2]) * 1e6, (unsigned)atoi(argv[3]), argv + 4);
    printf("bench end=%llu\n", (unsigned long long)bench_now_ns());
    return status;
}
