/* SPDX-License-Identifier: MIT */
/*
 * Stub processes, the monitor's side. The state of the guest's thread is in the signal frame that the kernel made in
 * shared memory; while the thread waits for a grant the frame is ours. Its place is told by the stub, so it is checked.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "host/stub.h"
#include "host/stub_abi.h"

#ifndef HWCAP2_FSGSBASE
#define HWCAP2_FSGSBASE (1 << 1)
#endif

enum {
    SHARED_END = STUB_END - STUB_CTL,
    SHARED = SHARED_END + STUB_PAGES * 4096,
    FD_ELF = STUB_FDS,
    HIGH_FD = 64,
    XSAVE_AVX_END = 576 + 256
};
enum { FLAGS_OF_CALLER = 1 << 14 | 1 << 21 }; /* NT, ID: the kernel's FIX_EFLAGS lacks them */
enum { SLICE_NS = 100000 };
enum { ALIVE_MS = 200, KICKS_MAX = 250 }; /* without an answer; they come with the guest's timer at the latest */
enum { R8, R9, R10, R11, R12, R13, R14, R15, RDI, RSI, RBP, RBX, RDX, RAX, RCX, RSP, RIP, EFL, CSGSFS, ERR, TRAPNO };
enum { OLDMASK = TRAPNO + 1, CR2, GREGS };

const uint64_t stub_begin = STUB_BASE, stub_end = STUB_END;
extern const uint8_t stub_elf[], stub_elf_end[];

/* The kernel's struct ucontext. */
struct context {
    uint64_t flags, link, stack[3];
    uint64_t r[GREGS];
    uint64_t fpstate, reserved[8];
    uint64_t sigmask;
};

struct op {
    uint64_t nr, arg[6], pad;
};

struct stub {
    pid_t pid;
    int tid;
    int fd[STUB_FDS]; /* by the number in the process; ours */
    uint8_t *mem;     /* STUB_CTL up to STUB_END */
    unsigned nops;
    struct context *frame;
    uint64_t mask; /* of the guest's thread */
    uint32_t xsize;
    uint8_t *xsave;
    _Atomic unsigned kicks;
    _Atomic bool broken;
    bool told;   /* to run */
    bool failed; /* the mapper could not do what it was asked for */
};

static uint8_t *ctl(struct stub *s, unsigned off)
{
    return s->mem + off;
}

static uint64_t rw(struct stub *s, unsigned off, unsigned len)
{
    uint64_t v = 0;

    memcpy(&v, s->mem + (STUB_RW - STUB_CTL) + off, len);
    return v;
}

static void ctl32(struct stub *s, unsigned off, uint32_t v)
{
    memcpy(ctl(s, off), &v, 4);
}

static void ctl64(struct stub *s, unsigned off, uint64_t v)
{
    memcpy(ctl(s, off), &v, 8);
}

static void tell(int fd)
{
    uint64_t one = 1;

    while (write(fd, &one, 8) < 0 && errno == EINTR)
        ;
}

static void listen_to(int fd)
{
    uint64_t n;

    while (read(fd, &n, 8) < 0 && errno == EINTR)
        ;
}

/* ---- what is mapped ---- */

/* An answer, which does not come if the process is killed meanwhile. */
static void await(struct stub *s, int fd)
{
    struct pollfd p = { .fd = fd, .events = POLLIN };

    while (poll(&p, 1, ALIVE_MS) <= 0)
        if (waitpid(s->pid, NULL, WNOHANG) != 0) {
            s->pid = 0;
            atomic_store(&s->broken, true);
            return;
        }
    listen_to(fd);
}

static void clear_error(struct stub *s)
{
    memset(s->mem + (STUB_RW - STUB_CTL) + RW_ERROR, 0, 8);
}

static void sync_ops(struct stub *s)
{
    if (!s->nops || atomic_load(&s->broken))
        return;
    ctl32(s, CTL_NOPS, s->nops);
    ctl32(s, CTL_GRANT, 0);
    s->nops = 0;
    clear_error(s);
    tell(s->fd[STUB_FD_CMD]);
    await(s, s->fd[STUB_FD_DONE]);
    s->failed |= rw(s, RW_ERROR, 8) != 0;
}

static void add(struct stub *s, struct op op)
{
    if (s->nops == STUB_OPS)
        sync_ops(s);
    memcpy(ctl(s, CTL_OPS + 64 * s->nops), &op, sizeof(op));
    s->nops++;
}

void stub_map(struct stub *s, uint64_t at, uint64_t len, int prot, uint64_t off)
{
    add(s, (struct op){ .nr = SYS_mmap,
                        .arg = { at, len, (uint64_t)prot, MAP_SHARED | MAP_FIXED | MAP_POPULATE, STUB_FD_RAM, off } });
}

void stub_protect(struct stub *s, uint64_t at, uint64_t len, int prot)
{
    add(s, (struct op){ .nr = SYS_mprotect, .arg = { at, len, (uint64_t)prot } });
}

uint8_t *stub_page(struct stub *s, unsigned k)
{
    return s->mem + SHARED_END + 4096 * k;
}

void stub_map_page(struct stub *s, uint64_t at, unsigned k)
{
    add(s, (struct op){ .nr = SYS_mmap,
                        .arg = { at, 4096, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED | MAP_POPULATE, STUB_FD_SHARED,
                                 SHARED_END + 4096 * k } });
}

void stub_unmap(struct stub *s, uint64_t at, uint64_t len)
{
    add(s, (struct op){ .nr = SYS_munmap, .arg = { at, len } });
}

void stub_unmap_all(struct stub *s)
{
    s->nops = 0;
    stub_unmap(s, 0, STUB_BASE);
    stub_unmap(s, STUB_END, STUB_USER_END - STUB_END);
}

/* ---- running ---- */

/* Where the frame is; false: nowhere that it could be. */
static bool find_frame(struct stub *s)
{
    const uint64_t base = STUB_ALT, size = STUB_ALT_SIZE;
    uint64_t at = rw(s, RW_CONTEXT, 8) - base, fp;

    if (at > size - sizeof(struct context) || at % 8)
        return false;
    s->frame = (struct context *)(void *)(s->mem + (STUB_ALT - STUB_CTL) + at);
    fp = s->frame->fpstate - base;
    if (fp > size - s->xsize || fp % 64)
        return false;
    s->xsave = s->mem + (STUB_ALT - STUB_CTL) + fp;
    return true;
}

static bool trapped(struct stub *s, struct stub_trap *t)
{
    const uint64_t base = STUB_ALT;
    uint64_t info;

    await(s, s->fd[STUB_FD_TRAP]);
    atomic_store(&s->kicks, 0);
    info = rw(s, RW_INFO, 8) - base;
    if (atomic_load(&s->broken) || !find_frame(s) || info > STUB_ALT_SIZE - 128)
        return false;
    *t = (struct stub_trap){ .sig = (int)rw(s, RW_SIG, 4),
                             .vector = (uint32_t)s->frame->r[TRAPNO],
                             .error = (uint32_t)s->frame->r[ERR],
                             .cr2 = s->frame->r[CR2] };
    memcpy(&t->call, s->mem + (STUB_ALT - STUB_CTL) + info + 16, 8);
    return true;
}

static const uint8_t order[16] = { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 };

uint8_t *stub_xsave(struct stub *s, uint32_t *size)
{
    *size = s->xsize;
    return s->xsave;
}

int stub_run(struct stub *s, struct stub_regs *regs, struct stub_trap *trap)
{
    struct context *f = s->frame;

    s->told = false;
    if (atomic_load(&s->broken))
        return -ESRCH;
    if (s->failed)
        return -ENOMEM;
    clear_error(s);
    for (unsigned k = 0; k < 16; k++)
        f->r[order[k]] = regs->gpr[k];
    f->r[RIP] = regs->rip;
    f->r[EFL] = regs->rflags;
    f->r[CSGSFS] = regs->cs | (uint64_t)regs->ss << 48;
    f->sigmask = s->mask;
    ctl64(s, CTL_FS, regs->fs_base);
    ctl64(s, CTL_GS, regs->gs_base);
    ctl64(s, CTL_FLAGS, (regs->rflags & FLAGS_OF_CALLER) | 2);
    memcpy(ctl(s, CTL_DATA_SEL), &regs->ds, 2);
    memcpy(ctl(s, CTL_FS_SEL), &regs->fs, 2);
    memcpy(ctl(s, CTL_GS_SEL), &regs->gs, 2);
    s->told = true;
    if (s->nops) {
        ctl32(s, CTL_NOPS, s->nops);
        ctl32(s, CTL_GRANT, 1);
        s->nops = 0;
        tell(s->fd[STUB_FD_CMD]);
    } else {
        tell(s->fd[STUB_FD_GRANT]);
    }
    if (!trapped(s, trap)) {
        atomic_store(&s->broken, true);
        return -ESRCH;
    }
    if (rw(s, RW_ERROR, 8)) { /* then nothing has run (or guest code has written it, and harms itself) */
        s->failed = true;
        return -ENOMEM;
    }
    f = s->frame;
    for (unsigned k = 0; k < 16; k++)
        regs->gpr[k] = f->r[order[k]];
    regs->rip = f->r[RIP];
    regs->rflags = f->r[EFL];
    regs->cs = (uint16_t)f->r[CSGSFS];
    regs->ss = (uint16_t)(f->r[CSGSFS] >> 48);
    regs->fs_base = rw(s, RW_FS, 8);
    regs->gs_base = rw(s, RW_GS, 8);
    regs->ds = (uint16_t)rw(s, RW_SEL, 2);
    regs->es = (uint16_t)rw(s, RW_SEL + 2, 2);
    regs->fs = (uint16_t)rw(s, RW_SEL + 4, 2);
    regs->gs = (uint16_t)rw(s, RW_SEL + 6, 2);
    return 0;
}

bool stub_untouched(const struct stub *s)
{
    struct pollfd p[2] = { { .fd = s->fd[STUB_FD_GRANT], .events = POLLIN },
                           { .fd = s->fd[STUB_FD_CMD], .events = POLLIN } };

    return !s->told || poll(p, 2, 0) > 0;
}

void stub_unpin(struct stub *s, const cpu_set_t *cpus)
{
    sched_setaffinity(s->pid, sizeof(*cpus), cpus);
    sched_setaffinity(s->tid, sizeof(*cpus), cpus);
}

void stub_pin(struct stub *s, int cpu)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET((unsigned)cpu, &set);
    sched_setaffinity(s->pid, sizeof(set), &set);
    sched_setaffinity(s->tid, sizeof(set), &set);
}

uint64_t stub_cpu_ns(const struct stub *s)
{
    struct timespec t = { 0 };
    clockid_t clock;

    if (!s->pid || clock_getcpuclockid(s->pid, &clock) || clock_gettime(clock, &t))
        return 0;
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

void stub_kick(struct stub *s)
{
    int saved = errno;

    if (atomic_fetch_add(&s->kicks, 1) < KICKS_MAX && !syscall(SYS_tgkill, s->pid, s->tid, SIGUSR1)) {
        errno = saved;
        return;
    }
    atomic_store(&s->broken, true);
    if (s->pid)
        kill(s->pid, SIGKILL);
    tell(s->fd[STUB_FD_TRAP]);
    errno = saved;
}

/* ---- life ---- */

/* Out of the way of the numbers that the stub wants. */
static int high(int fd)
{
    int up = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, HIGH_FD);

    if (fd >= 0)
        close(fd);
    return up;
}

static int open_fds(struct stub *s, int ram, int *elf)
{
    size_t size = (size_t)(stub_elf_end - stub_elf);

    s->fd[STUB_FD_SHARED] = high(memfd_create("gazda-stub", MFD_CLOEXEC));
    s->fd[STUB_FD_RAM] = fcntl(ram, F_DUPFD_CLOEXEC, HIGH_FD);
    for (unsigned k = STUB_FD_TRAP; k < STUB_FDS; k++)
        s->fd[k] = high(eventfd(0, EFD_CLOEXEC));
    for (unsigned k = STUB_FD_SHARED; k < STUB_FDS; k++)
        if (s->fd[k] < 0)
            return -errno;
    if (ftruncate(s->fd[STUB_FD_SHARED], SHARED))
        return -errno;
    *elf = high(memfd_create("gazda-stub-code", MFD_CLOEXEC));
    if (*elf < 0 || write(*elf, stub_elf, size) != (ssize_t)size || fchmod(*elf, 0500))
        return -errno;
    return 0;
}

static int spawn(struct stub *s, int elf)
{
    char *argv[] = { "gazda-guest", NULL }, *env[] = { NULL };
    posix_spawn_file_actions_t fa;
    posix_spawnattr_t at;
    sigset_t all;
    int err = 0;

    sigfillset(&all);
    posix_spawn_file_actions_init(&fa);
    posix_spawnattr_init(&at);
    for (int k = 0; k < STUB_FD_SHARED; k++)
        err |= posix_spawn_file_actions_addclose(&fa, k);
    for (int k = STUB_FD_SHARED; k < STUB_FDS; k++)
        err |= posix_spawn_file_actions_adddup2(&fa, s->fd[k], k);
    err |= posix_spawn_file_actions_adddup2(&fa, elf, FD_ELF);
    err |= posix_spawn_file_actions_addclosefrom_np(&fa, FD_ELF + 1);
    err |= posix_spawnattr_setsigmask(&at, &all);
    err |= posix_spawnattr_setsigdefault(&at, &all);
    err |= posix_spawnattr_setflags(&at, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSID);
    if (err)
        err = ENOMEM;
    else
        err = posix_spawn(&s->pid, "/proc/self/fd/9", &fa, &at, argv, env);
    posix_spawn_file_actions_destroy(&fa);
    posix_spawnattr_destroy(&at);
    if (err)
        s->pid = 0;
    return -err;
}
_Static_assert(FD_ELF == 9, "the path above");

void stub_short_slice(int tid)
{
    struct {
        uint32_t size, policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t runtime, deadline, period;
    } a = { .size = sizeof(a) };

    if (syscall(SYS_sched_getattr, tid, &a, sizeof(a), 0) || a.policy != SCHED_OTHER)
        return;
    a.runtime = SLICE_NS;
    syscall(SYS_sched_setattr, tid, &a, 0);
}

/* Waits for the guest's thread to be ready. */
static int greet(struct stub *s)
{
    struct stub_trap t;
    uint32_t size;

    /* It may die instead, and then nobody would tell. */
    for (;;) {
        uint64_t n;
        if (read(s->fd[STUB_FD_TRAP], &n, 8) == 8)
            break;
        if (errno != EAGAIN && errno != EINTR)
            return -errno;
        if (waitpid(s->pid, NULL, WNOHANG) != 0) {
            s->pid = 0;
            return -ENOTSUP;
        }
        usleep(50);
    }
    fcntl(s->fd[STUB_FD_TRAP], F_SETFL, fcntl(s->fd[STUB_FD_TRAP], F_GETFL) & ~O_NONBLOCK);
    tell(s->fd[STUB_FD_TRAP]); /* once more for trapped() */
    if (!trapped(s, &t) || t.sig != SIGILL)
        return -ENOTSUP;
    memcpy(&size, s->xsave + 464 + 16, 4);
    if (size < XSAVE_AVX_END || size > STUB_ALT_SIZE / 2)
        return -ENOTSUP;
    s->xsize = size;
    s->mask = s->frame->sigmask;
    s->tid = (int)rw(s, RW_TID, 4);
    stub_short_slice(s->pid);
    stub_short_slice(s->tid);
    return find_frame(s) ? 0 : -ENOTSUP;
}

int stub_new(struct stub **out, int ram, bool tsc)
{
    struct stub *s = calloc(1, sizeof(*s));
    int elf = -1, r;

    if (!s)
        return -ENOMEM;
    for (unsigned k = 0; k < STUB_FDS; k++)
        s->fd[k] = -1;
    s->xsize = 512;
    r = getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE ? open_fds(s, ram, &elf) : -ENOTSUP;
    if (!r) {
        s->mem = mmap(NULL, SHARED, PROT_READ | PROT_WRITE, MAP_SHARED, s->fd[STUB_FD_SHARED], 0);
        if (s->mem == MAP_FAILED) {
            s->mem = NULL;
            r = -ENOMEM;
        }
    }
    if (!r) {
        ctl32(s, CTL_PPID, (uint32_t)getpid());
        ctl32(s, CTL_TSC, tsc);
        ctl64(s, CTL_ONE, 1);
        fcntl(s->fd[STUB_FD_TRAP], F_SETFL, fcntl(s->fd[STUB_FD_TRAP], F_GETFL) | O_NONBLOCK);
        r = spawn(s, elf);
    }
    if (elf >= 0)
        close(elf);
    if (!r)
        r = greet(s);
    if (r) {
        stub_free(s);
        return r;
    }
    *out = s;
    return 0;
}

void stub_free(struct stub *s)
{
    if (!s)
        return;
    if (s->pid) {
        kill(s->pid, SIGKILL);
        while (waitpid(s->pid, NULL, 0) < 0 && errno == EINTR)
            ;
    }
    if (s->mem)
        munmap(s->mem, SHARED);
    for (unsigned k = 0; k < STUB_FDS; k++)
        if (s->fd[k] >= 0)
            close(s->fd[k]);
    free(s);
}
