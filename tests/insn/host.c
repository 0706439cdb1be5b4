/* SPDX-License-Identifier: MIT */
/*
 * The host CPU as a runner: a traced child (child.c) runs batches of cases. The parent sees every signal before the
 * child does, passes on those that end a case, and replaces a child that dies or makes no progress.
 */
#include <cpuid.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "child.h"
#include "watch.h"

/* A case that has taken so much of the processor, or time if it takes none, does not end. */
enum { HANG_CPU_MS = 400, HANG_TICKS = 60 * WATCH_HZ };

struct host {
    struct insn_runner r;
    struct child_shared *s;
    int memfd;
    pid_t pid; /* 0: none */
};

static uint64_t xgetbv0(void)
{
    uint32_t a, d;

    __asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
    return a | (uint64_t)d << 32;
}

void insn_host_probe(struct insn_host *h, bool avx512)
{
    uint32_t a, b, c, d;
    uint8_t fx[512] __attribute__((aligned(16)));
    const struct {
        unsigned comp;
        unsigned *off;
    } comp[] = { { 2, &h->off_ymm }, { 5, &h->off_k }, { 6, &h->off_zmmh }, { 7, &h->off_zmm16 } };

    memset(h, 0, sizeof(*h));
    memset(fx, 0, sizeof(fx));
    __asm__ volatile("fxsave %0" : "+m"(fx));
    memcpy(&h->mxcsr_mask, fx + 28, 4);
    if (!h->mxcsr_mask)
        h->mxcsr_mask = 0xffbf;
    h->fsgsbase = getauxval(AT_HWCAP2) & 2;
    h->xfeatures = 3;
    h->compat32 = access("/proc/sys/abi/vsyscall32", F_OK) == 0;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & (1U << 27)))
        return;
    uint64_t xcr0 = xgetbv0();

    for (unsigned i = 0; i < ARRAY_LEN(comp); i++) {
        if (!(xcr0 >> comp[i].comp & 1) || (comp[i].comp >= 5 && !avx512))
            continue;
        __cpuid_count(0xd, comp[i].comp, a, b, c, d);
        *comp[i].off = b;
        h->xfeatures |= 1UL << comp[i].comp;
    }
    __cpuid_count(0xd, 0, a, b, c, d);
    h->xsize = b;
}

static void reap(struct host *h)
{
    int st;

    if (!h->pid)
        return;
    kill(h->pid, SIGKILL);
    while (waitpid(h->pid, &st, __WALL) < 0 && errno == EINTR)
        ;
    h->pid = 0;
}

static uint64_t cpu_ms(pid_t pid)
{
    struct timespec t = { 0 };
    clockid_t clock;

    if (clock_getcpuclockid(pid, &clock) == 0)
        clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* Lets the child run until it stops itself. 0, -EAGAIN: it is gone (dead or hung). */
static int resume(struct host *h)
{
    int sig = 0, st, stuck = 0;
    uint32_t last = UINT32_MAX;
    uint64_t since = 0;
    unsigned tick = watch_ticks();

    for (;;) {
        if (ptrace(PTRACE_CONT, h->pid, 0, (void *)(long)sig))
            return -EAGAIN;
        while (waitpid(h->pid, &st, __WALL) < 0) {
            if (errno != EINTR)
                return -EAGAIN;
            if (watch_ticks() == tick)
                continue;
            tick = watch_ticks();
            if (h->s->cur != last) {
                last = h->s->cur;
                since = cpu_ms(h->pid);
                stuck = 0;
            } else if (++stuck >= HANG_TICKS || cpu_ms(h->pid) - since >= HANG_CPU_MS) {
                return -EAGAIN;
            }
        }
        if (!WIFSTOPPED(st)) {
            h->pid = 0;
            return -EAGAIN;
        }
        sig = WSTOPSIG(st);
        if (sig == SIGSTOP && h->s->done)
            return 0;
        if (sig == SIGSTOP || sig == SIGALRM || sig == SIGWINCH || sig == SIGCONT)
            sig = 0;
    }
}

static int spawn(struct host *h)
{
    int st;

    h->s->n = h->s->cur = h->s->running = h->s->done = 0;
    memcpy(h->s->image, h->s->pristine, INSN_IMAGE);
    fflush(NULL);
    h->pid = fork();
    if (h->pid < 0)
        return -errno;
    if (!h->pid)
        insn_child_main(h->s, h->memfd);
    while (waitpid(h->pid, &st, __WALL) < 0 && errno == EINTR)
        ;
    if (!WIFSTOPPED(st) || ptrace(PTRACE_SETOPTIONS, h->pid, 0, PTRACE_O_EXITKILL)) {
        reap(h);
        return -ECHILD;
    }
    if (resume(h)) {
        reap(h);
        return -ECHILD;
    }
    return 0;
}

/* Runs up to a batch; cases after a lost one are done in the next round. Returns how many have a result, or -errno. */
static int run_batch(struct host *h, const struct insn_case *c, struct insn_result *out, unsigned n)
{
    struct child_shared *s = h->s;

    if (!h->pid) {
        int r = spawn(h);

        if (r)
            return r;
    }
    memcpy(s->c, c, n * sizeof(*c));
    s->n = n;
    s->cur = 0;
    s->done = 0;
    int r = resume(h);
    unsigned ok = s->cur < n ? s->cur : n;

    memcpy(out, s->r, ok * sizeof(*out));
    if (!r)
        return (int)ok;
    reap(h);
    if (ok < n) {
        memset(&out[ok], 0, sizeof(out[ok]));
        out[ok].status = INSN_LOST;
        ok++;
    }
    return (int)ok;
}

static int host_run(struct insn_runner *r, const struct insn_case *c, struct insn_result *out, unsigned n)
{
    struct host *h = container_of(r, struct host, r);

    while (n) {
        int k = run_batch(h, c, out, n < CHILD_BATCH ? n : CHILD_BATCH);

        if (k < 0)
            return k;
        c += k;
        out += k;
        n -= (unsigned)k;
    }
    return 0;
}

static void host_free(struct insn_runner *r)
{
    struct host *h = container_of(r, struct host, r);

    reap(h);
    if (h->s) {
        munmap(h->s->image, INSN_IMAGE);
        free(h->s->pristine);
        munmap(h->s, sizeof(*h->s));
    }
    if (h->memfd >= 0)
        close(h->memfd);
    free(h);
}

struct insn_runner *insn_host_new(const struct insn_host *probe)
{
    struct host *h = calloc(1, sizeof(*h));
    int prot = PROT_READ | PROT_WRITE, err;

    if (!h)
        return NULL;
    h->r = (struct insn_runner){ .name = "host", .run = host_run, .free = host_free };
    if (!probe->compat32)
        h->r.no32 = "this kernel has no IA-32 emulation";
    h->memfd = memfd_create("insn", MFD_CLOEXEC);
    if (h->memfd < 0 || ftruncate(h->memfd, INSN_IMAGE))
        goto undo;
    void *s = mmap(NULL, sizeof(*h->s), prot, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    if (s == MAP_FAILED)
        goto undo;
    h->s = s;
    h->s->host = *probe;
    h->s->pristine = malloc(INSN_IMAGE);
    h->s->image = mmap(NULL, INSN_IMAGE, prot, MAP_SHARED | MAP_POPULATE, h->memfd, 0);
    if (!h->s->pristine || h->s->image == MAP_FAILED)
        goto undo;
    insn_image_fill(h->s->pristine);
    err = spawn(h);
    if (!err)
        return &h->r;
    fprintf(stderr, "insn_diff: cannot start the traced child: %s\n", strerror(-err));
undo:
    host_free(&h->r);
    return NULL;
}
