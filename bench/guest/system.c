/* SPDX-License-Identifier: MIT */
/* Rows on the border of user and kernel mode: system calls, memory, signals. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guest/rows.h"

enum { PAGE = 4096, MANY = 64 };

uint64_t row_getpid(uint64_t n)
{
    for (; n; n--)
        syscall(SYS_getpid);
    return 0;
}

uint64_t row_stat(uint64_t n)
{
    struct stat st;
    for (; n; n--)
        if (stat("/dev/null", &st) < 0)
            bench_die("stat");
    return 0;
}

static char buffer[PAGE];

uint64_t row_readzero(uint64_t n)
{
    int fd = open("/dev/zero", O_RDONLY);
    for (; n; n--)
        if (read(fd, buffer, PAGE) != PAGE)
            bench_die("read /dev/zero");
    close(fd);
    return 0;
}

/* A file of 64 pages in memory (tmpfs). */
static int new_file(void)
{
    int fd = memfd_create("bench", 0);
    for (int i = 0; i < MANY; i++)
        if (fd < 0 || write(fd, buffer, PAGE) != PAGE)
            bench_die("memfd");
    return fd;
}

uint64_t row_readfile(uint64_t n)
{
    int fd = new_file();
    for (; n; n--)
        if (pread(fd, buffer, PAGE, (off_t)(n % MANY) * PAGE) != PAGE)
            bench_die("read");
    close(fd);
    return 0;
}

uint64_t row_writefile(uint64_t n)
{
    int fd = new_file();
    for (; n; n--)
        if (pwrite(fd, buffer, PAGE, (off_t)(n % MANY) * PAGE) != PAGE)
            bench_die("write");
    close(fd);
    return 0;
}

static volatile char *new_pages(size_t len)
{
    void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        bench_die("mmap");
    madvise(p, len, MADV_NOHUGEPAGE);
    return p;
}

static void unmap(volatile char *p, size_t len)
{
    munmap((void *)(uintptr_t)p, len);
}

static void touch(volatile char *p, size_t len)
{
    for (size_t i = 0; i < len; i += PAGE)
        p[i] = 1;
}

/* Fresh anonymous pages, touched one by one; the unmapping is part of it. */
uint64_t row_faults(uint64_t n)
{
    size_t len = FAULT_PAGES * PAGE;
    for (; n; n--) {
        volatile char *p = new_pages(len);
        touch(p, len);
        unmap(p, len);
    }
    return 0;
}

/* 16 pages mapped, one touched, unmapped. */
uint64_t row_mmap(uint64_t n)
{
    for (; n; n--) {
        volatile char *p = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED)
            bench_die("mmap");
        p[0] = 1;
        unmap(p, 16 * PAGE);
    }
    return 0;
}

/* 16 pages made read-only, read, made writable again, each written. */
uint64_t row_mprotect(uint64_t n)
{
    volatile char *p = new_pages(16 * PAGE);
    void *q = (void *)(uintptr_t)p;
    touch(p, 16 * PAGE);
    for (; n; n--) {
        if (mprotect(q, 16 * PAGE, PROT_READ) < 0)
            bench_die("mprotect");
        for (size_t i = 0; i < 16 * PAGE; i += PAGE)
            (void)p[i];
        if (mprotect(q, 16 * PAGE, PROT_READ | PROT_WRITE) < 0)
            bench_die("mprotect");
        touch(p, 16 * PAGE);
    }
    unmap(p, 16 * PAGE);
    return 0;
}

/* A forked child writes to every page that it shares with its parent; the fork and the exit are part of it. */
uint64_t row_cow(uint64_t n)
{
    size_t len = FAULT_PAGES * PAGE;
    volatile char *p = new_pages(len);
    touch(p, len);
    for (; n; n--) {
        int status;
        pid_t pid = fork();
        if (pid == 0) {
            touch(p, len);
            _exit(0);
        }
        if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0)
            bench_die("fork");
    }
    unmap(p, len);
    return 0;
}

static volatile sig_atomic_t signals;

static void count_signal(int sig)
{
    (void)sig;
    signals++;
}

/* A signal to oneself, its handler, and the return from it. */
uint64_t row_signal(uint64_t n)
{
    pid_t self = getpid();
    signal(SIGUSR1, count_signal);
    signals = 0;
    for (uint64_t i = 0; i < n; i++)
        kill(self, SIGUSR1);
    if ((uint64_t)signals != n && n < 0x7fffffff)
        bench_die("signals were lost");
    return 0;
}

static volatile char *guarded;

static void open_page(int sig)
{
    (void)sig;
    mprotect((void *)(uintptr_t)guarded, PAGE, PROT_READ | PROT_WRITE);
}

/* A write to a protected page, whose handler of SIGSEGV opens it, as garbage collectors do. */
uint64_t row_sigsegv(uint64_t n)
{
    guarded = new_pages(PAGE);
    signal(SIGSEGV, open_page);
    for (; n; n--) {
        mprotect((void *)(uintptr_t)guarded, PAGE, PROT_READ);
        guarded[0] = 1;
    }
    signal(SIGSEGV, SIG_DFL);
    unmap(guarded, PAGE);
    return 0;
}
