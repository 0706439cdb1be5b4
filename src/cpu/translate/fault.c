/* SPDX-License-Identifier: MIT */
/*
 * Signals in translated code: host faults, and kicks.
 *
 * The state before an instruction's commit point is that of its start, so both are turned into a way out of the cache
 * with the guest's address in R10: by changing RIP, R10 and R11 in the signal frame. A kick that comes behind a commit
 * point single-steps (TF) until the next instruction begins. RSP is the guest's: everything runs on a stack of its own,
 * and SS_AUTODISARM keeps the kernel from comparing RSP with it.
 */
#include <asm/prctl.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include "base/fault.h"
#include "cpu/translate/translate.h"
#include "x86/fault.h"

#ifndef SS_AUTODISARM
#define SS_AUTODISARM (1U << 31)
#endif

enum { ALT_STACK = 128 << 10, HOST_TF = 0x100, HOST_DF = 0x400 };

static pthread_mutex_t install_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_key_t stack_key;
static bool installed;
static _Thread_local struct xlate *volatile here __attribute__((tls_model("initial-exec")));

int xl_kick_signal(void)
{
    return SIGRTMIN + 6;
}

/* At a host's REP: what string.c has added to the registers comes off again, and what is left to do is the guest's. */
static void guest_string_registers(greg_t *r, unsigned regs)
{
    uint64_t mask = regs & SIDE_NARROW ? UINT32_MAX : ~0UL;

    if (regs & SIDE_SI)
        r[REG_RSI] = (greg_t)((uint64_t)(r[REG_RSI] - r[REG_R10]) & mask);
    if (regs & SIDE_DI)
        r[REG_RDI] = (greg_t)((uint64_t)(r[REG_RDI] - r[REG_R11]) & mask);
    r[REG_R9] = (greg_t)((uint64_t)r[REG_RCX] & mask);
}

/*
 * The instruction that pc belongs to, if it can be run again from its start; then its host address is in RIP too (the
 * case of a REP) or RIP is as it was.
 */
static bool restartable(const struct xlate *x, greg_t *r, uint64_t *rip, bool fault)
{
    const uint8_t *pc = (const uint8_t *)r[REG_RIP];
    const struct tblock *b = xl_block_at(x, pc);
    unsigned lo = 0, hi, off;

    if (!b || pc < x->code.rx + b->entry)
        return false;
    off = (unsigned)(pc - x->code.rx) - b->start;
    if (off >= b->side[b->n].host)
        return false;
    for (hi = b->n; hi - lo > 1;) {
        unsigned mid = (lo + hi) / 2;
        if (b->side[mid].host <= off)
            lo = mid;
        else
            hi = mid;
    }
    if (b->side[lo].shadow && !fault)
        return false;
    if (b->side[lo].rep && off == b->side[lo].rep) {
        guest_string_registers(r, b->side[lo].rep_regs);
        r[REG_RIP] = (greg_t)(uintptr_t)(x->code.rx + b->start + b->side[lo].host);
    } else if (off >= b->side[lo].commit && off != b->side[lo].host) {
        return false;
    }
    *rip = block_page(x, b) + b->side[lo].guest;
    if ((b->kind & KIND_MODE) != X86_MODE_64)
        *rip = (uint32_t)*rip;
    return true;
}

static void leave(struct xlate *x, greg_t *r, uint64_t rip, uint32_t rec)
{
    r[REG_R10] = (greg_t)rip;
    r[REG_R11] = rec;
    r[REG_RIP] = (greg_t)(uintptr_t)x->exit;
    r[REG_EFL] &= ~(greg_t)(HOST_TF | HOST_DF);
}

/* Out at the next instruction, or one step further. */
static void leave_soon(struct xlate *x, greg_t *r)
{
    const uint8_t *pc = (const uint8_t *)r[REG_RIP];
    uint64_t rip;

    r[REG_EFL] &= ~(greg_t)HOST_TF;
    if (!codemem_has(&x->code, pc)) {
        /* C code on the way in or out; or a handler of somebody else's that interrupted translated code: look again */
        const struct itimerspec soon = { .it_value = { .tv_nsec = 100000 } };
        x->target = x->abort;
        timer_settime(x->timer, 0, &soon, NULL);
        return;
    }
    if (pc >= x->exit && pc < x->code.rx + x->code.keep)
        return;       /* already on the way out */
    if (pc < x->exit) /* on the way in */
        x->target = x->abort;
    else if (restartable(x, r, &rip, false))
        leave(x, r, rip, x->rec_kick);
    else
        r[REG_EFL] |= HOST_TF;
}

static bool claim_fault(int sig, const siginfo_t *info, void *ucp)
{
    greg_t *r = ((ucontext_t *)ucp)->uc_mcontext.gregs;
    struct xlate *x = here;
    uint64_t rip;

    if (!x || info->si_code <= 0)
        return false;
    if (sig == SIGTRAP) {
        if (info->si_code != TRAP_TRACE)
            return false;
        leave_soon(x, r);
        return true;
    }
    if (!codemem_has(&x->code, (void *)r[REG_RIP]) || !restartable(x, r, &rip, true))
        return false;
    x->fault_trap = (uint8_t)r[REG_TRAPNO];
    x->fault_host = r[REG_TRAPNO] == X86_PF ? (uintptr_t)info->si_addr : 0;
    x->fault_write = r[REG_ERR] & X86_PF_W;
    if (x->win.area && (x->fault_trap == X86_PF || x->fault_trap == X86_GP || x->fault_trap == X86_SS)) {
        x->retry_rcx = (uint64_t)r[REG_RCX];
        x->retry_r10 = (uint64_t)r[REG_R10];
        x->retry_r11 = (uint64_t)r[REG_R11];
        x->retry_pc = (const uint8_t *)r[REG_RIP];
        leave(x, r, rip, x->rec_win);
    } else {
        leave(x, r, rip, x->rec_fault);
    }
    return true;
}

static void on_kick(int sig, siginfo_t *info, void *ucp)
{
    struct xlate *x = here;

    (void)sig, (void)info;
    if (!x || !atomic_load_explicit(&x->in_cache, memory_order_relaxed))
        return;
    if (x->direct.running)
        stub_kick(x->direct.running);
    else
        leave_soon(x, ((ucontext_t *)ucp)->uc_mcontext.gregs);
}

static void free_stack(void *p)
{
    stack_t ss = { .ss_flags = SS_DISABLE }, now;

    if (!sigaltstack(NULL, &now) && now.ss_sp == p)
        sigaltstack(&ss, NULL);
    munmap(p, ALT_STACK);
}

int xl_signals_install(void)
{
    struct sigaction sa = { .sa_sigaction = on_kick, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART };
    int err = 0;

    sigfillset(&sa.sa_mask);
    pthread_mutex_lock(&install_lock);
    if (!installed) {
        err = -pthread_key_create(&stack_key, free_stack);
        if (!err && sigaction(xl_kick_signal(), &sa, NULL))
            err = -errno;
        installed = !err;
    }
    pthread_mutex_unlock(&install_lock);
    return err;
}

/* A timer that sends the kick to this thread. */
static int make_timer(struct xlate *x, int tid)
{
    struct sigevent ev = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = xl_kick_signal() };

    ev._sigev_un._tid = tid;
    if (x->has_timer)
        timer_delete(x->timer);
    x->has_timer = timer_create(CLOCK_MONOTONIC, &ev, &x->timer) == 0;
    return x->has_timer ? 0 : -errno;
}

int xl_thread_begin(struct xlate *x)
{
    sigset_t set;

    int err;

    if (here == x)
        return 0;
    err = fault_listen(claim_fault);
    if (err)
        return err;
    if (!pthread_getspecific(stack_key)) {
        void *p = mmap(NULL, ALT_STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        stack_t ss = { .ss_sp = p, .ss_size = ALT_STACK, .ss_flags = (int)SS_AUTODISARM };

        if (p == MAP_FAILED)
            return -ENOMEM;
        if (sigaltstack(&ss, NULL)) {
            munmap(p, ALT_STACK);
            return -errno;
        }
        pthread_setspecific(stack_key, p);
    }
    sigemptyset(&set);
    sigaddset(&set, SIGSEGV);
    sigaddset(&set, SIGFPE);
    sigaddset(&set, SIGILL);
    sigaddset(&set, SIGBUS);
    sigaddset(&set, SIGTRAP);
    sigaddset(&set, xl_kick_signal());
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    if (syscall(SYS_arch_prctl, ARCH_SET_GS, x))
        return -errno;
    err = make_timer(x, (int)syscall(SYS_gettid));
    if (err)
        return err;
    atomic_store(&x->tid, (int)syscall(SYS_gettid));
    here = x;
    return 0;
}

void xl_thread_forget(struct xlate *x)
{
    if (here == x)
        here = NULL;
    if (x->has_timer)
        timer_delete(x->timer);
    x->has_timer = false;
}
