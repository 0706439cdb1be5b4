/* SPDX-License-Identifier: MIT */
/* Rows of processes and threads, and of switching between them. Those that switch stay on one CPU. */
#define _GNU_SOURCE
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guest/rows.h"

uint64_t row_fork(uint64_t n)
{
    for (; n; n--) {
        int status;
        pid_t pid = fork();
        if (pid == 0)
            _exit(0);
        if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0)
            bench_die("fork");
    }
    return 0;
}

uint64_t row_forkexec(uint64_t n)
{
    static char self[] = "/proc/self/exe", name[] = "bench", arg[] = "true";
    char *const argv[] = { name, arg, NULL };
    for (; n; n--) {
        int status;
        pid_t pid = fork();
        if (pid == 0) {
            execv(self, argv);
            _exit(1);
        }
        if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0)
            bench_die("fork and exec");
    }
    return 0;
}

/* n times a byte to a child and back: it reads there[0] and writes back[1]. */
static void ping_pong(uint64_t n, const int there[2], const int back[2])
{
    char c = 0;
    pid_t pid = fork();
    if (pid < 0)
        bench_die("fork");
    if (pid == 0) {
        close(there[1]);
        while (read(there[0], &c, 1) == 1)
            if (write(back[1], &c, 1) != 1)
                _exit(1);
        _exit(0);
    }
    close(there[0]);
    for (; n; n--)
        if (write(there[1], &c, 1) != 1 || read(back[0], &c, 1) != 1)
            bench_die("ping-pong");
    close(there[1]);
    close(back[0]);
    close(back[1]);
    waitpid(pid, NULL, 0);
}

/* Two context switches and four system calls. */
uint64_t row_switch(uint64_t n)
{
    int there[2], back[2];
    bench_one_cpu();
    if (pipe(there) < 0 || pipe(back) < 0)
        bench_die("pipe");
    ping_pong(n, there, back);
    return 0;
}

uint64_t row_socket(uint64_t n)
{
    int there[2], back[2];
    bench_one_cpu();
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, there) < 0 || socketpair(AF_UNIX, SOCK_STREAM, 0, back) < 0)
        bench_die("socketpair");
    ping_pong(n, there, back);
    return 0;
}

static _Atomic uint32_t turn;

static void wait_for_turn(uint32_t mine)
{
    uint32_t now;
    while ((now = atomic_load(&turn)) != mine)
        syscall(SYS_futex, &turn, FUTEX_WAIT_PRIVATE, now, NULL, NULL, 0);
}

static void pass_turn(uint32_t to)
{
    atomic_store(&turn, to);
    syscall(SYS_futex, &turn, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static void *futex_partner(void *arg)
{
    for (uint64_t n = *(uint64_t *)arg; n; n--) {
        wait_for_turn(1);
        pass_turn(0);
    }
    return NULL;
}

static pthread_t start(void *(*run)(void *), void *arg)
{
    pthread_t t;
    if (pthread_create(&t, NULL, run, arg) != 0)
        bench_die("pthread_create");
    return t;
}

/* Two threads take turns. */
uint64_t row_futex(uint64_t n)
{
    uint64_t count = n;
    bench_one_cpu();
    turn = 0;
    pthread_t t = start(futex_partner, &count);
    for (; n; n--) {
        pass_turn(1);
        wait_for_turn(0);
    }
    pthread_join(t, NULL);
    return 0;
}

/* Two processes on one CPU that do nothing but yield: a switch each. */
uint64_t row_yield(uint64_t n)
{
    bench_one_cpu();
    pid_t pid = fork();
    if (pid < 0)
        bench_die("fork");
    if (pid == 0)
        for (;;)
            sched_yield();
    for (; n; n--)
        sched_yield();
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    return 0;
}

static void *nothing(void *arg)
{
    return arg;
}

uint64_t row_thread(uint64_t n)
{
    bench_one_cpu();
    for (; n; n--)
        pthread_join(start(nothing, NULL), NULL);
    return 0;
}

struct work {
    uint64_t n, sum;
};

static void *compute(void *arg)
{
    struct work *w = arg;
    uint64_t a = 0x9e3779b97f4a7c15;
    uint32_t table[256] = { 0 };
    for (uint64_t i = 0; i < w->n; i++) {
        a ^= a << 13;
        a ^= a >> 7;
        a ^= a << 17;
        table[a & 255] += (uint32_t)a;
        if (table[(a >> 8) & 255] & 1)
            a += i;
    }
    w->sum = a + table[7];
    return NULL;
}

/* Four threads that compute and share nothing; an operation is one step of each. */
uint64_t row_par4_4(uint64_t n)
{
    struct work w[4];
    pthread_t t[4];
    uint64_t sum = 0;
    for (int i = 0; i < 4; i++) {
        w[i] = (struct work){ .n = n };
        t[i] = start(compute, &w[i]);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(t[i], NULL);
        sum += w[i].sum;
    }
    return sum;
}

uint64_t row_par4_1(uint64_t n)
{
    bench_one_cpu();
    return row_par4_4(n);
}
