/* SPDX-License-Identifier: MIT */
/* Rows that live on the border of user and kernel mode. */
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guest/rows.h"

static void die(const char *what)
{
    perror(what);
    exit(1);
}

void row_getpid(uint64_t n)
{
    for (; n; n--)
        syscall(SYS_getpid);
}

void row_forkexec(uint64_t n)
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
            die("fork and exec");
    }
}

/* Fresh anonymous pages, touched one by one; the unmapping is part of it. */
void row_faults(uint64_t n)
{
    size_t len = FAULT_PAGES * 4096;
    for (; n; n--) {
        volatile char *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED)
            die("mmap");
        madvise((void *)(uintptr_t)p, len, MADV_NOHUGEPAGE);
        for (size_t i = 0; i < len; i += 4096)
            p[i] = 1;
        munmap((void *)(uintptr_t)p, len);
    }
}

/* A byte to another process and back, over two pipes, both on one CPU: two context switches. */
void row_switch(uint64_t n)
{
    int there[2], back[2];
    char c = 0;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(0, &one);
    if (pipe(there) < 0 || pipe(back) < 0)
        die("pipe");
    pid_t pid = fork();
    if (pid < 0)
        die("fork");
    sched_setaffinity(0, sizeof(one), &one);
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
            die("pipe");
    close(there[1]);
    close(back[0]);
    close(back[1]);
    waitpid(pid, NULL, 0);
}
