/* SPDX-License-Identifier: MIT */
/*
 * The traced child: runs cases on the host CPU. Each case ends with a signal; the handler stores the state that the
 * kernel saved in the signal frame, writes the next case's state into the frame, and returns into it.
 *
 * The code under test may do anything to this process, so: every system call but the two that the handler makes is
 * turned into SIGSYS (by the address it is made from), FS and GS bases and the data segment registers are set anew
 * each time, and the parent replaces a child that dies or hangs.
 */
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/ucontext.h>
#include <unistd.h>

#include "child.h"
#include "x86/fault.h"

#define UC_SS_FLAGS 6UL /* UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS */
#define FL_EXTRA (X86_FL_NT | X86_FL_ID)

/* The handler is reached with a signal number and a frame only, so this one pointer is global. */
static struct child_shared *g_shared;

void insn_child_entry(int sig);
void insn_child_stop(int pid); /* kill(pid, SIGSTOP) */
uint64_t insn_child_step(int sig, siginfo_t *si, ucontext_t *uc);
extern const char insn_child_ret_ip[], insn_child_stop_ip[];

/* sigreturn leaves NT and ID as they are, so the stub sets them just before it. */
__asm__(".text\n"
        ".globl insn_child_entry, insn_child_ret_ip, insn_child_stop, insn_child_stop_ip\n"
        "insn_child_entry:\n"
        "    pushq $0x202\n"
        "    popfq\n"
        "    cld\n"
        "    mov %rsp, %rbx\n"
        "    and $-16, %rsp\n"
        "    call insn_child_step\n"
        "    push %rax\n"
        "    popfq\n"
        "    lea 8(%rbx), %rsp\n"
        "    mov $15, %eax\n"
        "    syscall\n"
        "insn_child_ret_ip:\n"
        "    ud2\n"
        "insn_child_stop:\n"
        "    mov $62, %eax\n"
        "    mov $19, %esi\n"
        "    syscall\n"
        "insn_child_stop_ip:\n"
        "    ret\n");

static uint64_t rd_fs(void)
{
    uint64_t v;

    __asm__ volatile("rdfsbase %0" : "=r"(v));
    return v;
}

static uint64_t rd_gs(void)
{
    uint64_t v;

    __asm__ volatile("rdgsbase %0" : "=r"(v));
    return v;
}

static void rd_sregs(uint16_t *s)
{
    __asm__ volatile("mov %%es, %0" : "=r"(s[X86_ES]));
    __asm__ volatile("mov %%ds, %0" : "=r"(s[X86_DS]));
    __asm__ volatile("mov %%fs, %0" : "=r"(s[X86_FS]));
    __asm__ volatile("mov %%gs, %0" : "=r"(s[X86_GS]));
}

static const uint8_t greg_of[16] = { REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                     REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15 };

static void fpu_in(const struct insn_host *h, uint8_t *x, const struct x86_fpu *f)
{
    memcpy(x, &f->fcw, 2);
    memcpy(x + 2, &f->fsw, 2);
    x[4] = f->ftw;
    memcpy(x + 6, &f->fop, 2);
    memcpy(x + 8, &f->fip, 8);
    memcpy(x + 16, &f->fdp, 8);
    memcpy(x + 24, &f->mxcsr, 4);
    memcpy(x + 32, f->st, 128);
    for (unsigned i = 0; i < 16; i++) {
        memcpy(x + 160 + 16 * i, f->vec[i], 16);
        if (h->off_ymm)
            memcpy(x + h->off_ymm + 16 * i, f->vec[i] + 16, 16);
        if (h->off_zmmh)
            memcpy(x + h->off_zmmh + 32 * i, f->vec[i] + 32, 32);
        if (h->off_zmm16)
            memcpy(x + h->off_zmm16 + 64 * i, f->vec[16 + i], 64);
    }
    if (h->off_k)
        memcpy(x + h->off_k, f->k, 64);
    uint64_t bv = h->xfeatures;

    memcpy(x + 512, &bv, 8);
}

static void fpu_out(const struct insn_host *h, const uint8_t *x, struct x86_fpu *f)
{
    memset(f, 0, sizeof(*f));
    memcpy(&f->fcw, x, 2);
    memcpy(&f->fsw, x + 2, 2);
    f->ftw = x[4];
    memcpy(&f->fop, x + 6, 2);
    memcpy(&f->fip, x + 8, 8);
    memcpy(&f->fdp, x + 16, 8);
    memcpy(&f->mxcsr, x + 24, 4);
    for (unsigned i = 0; i < 8; i++)
        memcpy(f->st[i], x + 32 + 16 * i, 10);
    for (unsigned i = 0; i < 16; i++) {
        memcpy(f->vec[i], x + 160 + 16 * i, 16);
        if (h->off_ymm)
            memcpy(f->vec[i] + 16, x + h->off_ymm + 16 * i, 16);
        if (h->off_zmmh)
            memcpy(f->vec[i] + 32, x + h->off_zmmh + 32 * i, 32);
        if (h->off_zmm16)
            memcpy(f->vec[16 + i], x + h->off_zmm16 + 64 * i, 64);
    }
    if (h->off_k)
        memcpy(f->k, x + h->off_k, 64);
}

static void collect(struct child_shared *s, int sig, ucontext_t *uc)
{
    const struct insn_case *c = &s->c[s->cur];
    struct insn_result *r = &s->r[s->cur];
    greg_t *g = uc->uc_mcontext.gregs;

    for (unsigned i = 0; i < 16; i++)
        r->out.gpr[i] = (uint64_t)g[greg_of[i]];
    r->out.rip = (uint64_t)g[REG_RIP];
    r->out.rflags = (uint64_t)g[REG_EFL];
    r->out.sreg[X86_CS] = (uint16_t)g[REG_CSGSFS];
    r->out.sreg[X86_SS_SEG] = (uint16_t)(g[REG_CSGSFS] >> 48);
    fpu_out(&s->host, (const uint8_t *)uc->uc_mcontext.fpregs, &r->out.fpu);
    r->status = sig == SIGSYS ? INSN_SYSCALL : INSN_OK;
    r->vector = (uint8_t)g[REG_TRAPNO];
    r->error = x86_vector_has_error(r->vector) ? (uint32_t)g[REG_ERR] : 0;
    r->cr2 = r->vector == X86_PF ? (uint64_t)g[REG_CR2] : 0;
    insn_image_diff(s->image, s->pristine, r);
    memset(s->image + c->code_off, 0xcc, c->code_len);
}

static void load(struct child_shared *s, ucontext_t *uc)
{
    const struct insn_case *c = &s->c[s->cur];
    greg_t *g = uc->uc_mcontext.gregs;

    memcpy(s->image + c->code_off, c->code, c->code_len);
    for (unsigned i = 0; i < c->patches; i++)
        memcpy(s->image + c->patch[i].off, c->patch[i].data, c->patch[i].len);
    for (unsigned i = 0; i < 16; i++)
        g[greg_of[i]] = (greg_t)c->in.gpr[i];
    g[REG_RIP] = (greg_t)c->in.rip;
    g[REG_EFL] = (greg_t)c->in.rflags;
    g[REG_CSGSFS] = (greg_t)((c->mode32 ? 0x23UL : 0x33UL) | 0x2bUL << 48);
    uc->uc_flags |= UC_SS_FLAGS;
    fpu_in(&s->host, (uint8_t *)uc->uc_mcontext.fpregs, &c->in.fpu);
}

uint64_t insn_child_step(int sig, siginfo_t *si, ucontext_t *uc)
{
    struct child_shared *s = g_shared;
    struct insn_state *out = &s->r[s->cur < CHILD_BATCH ? s->cur : 0].out;

    (void)si;
    rd_sregs(out->sreg);
    out->fs_base = out->gs_base = 0;
    if (s->host.fsgsbase) { /* without it FS and GS are not touched at all */
        out->fs_base = rd_fs();
        out->gs_base = rd_gs();
        __asm__ volatile("mov %0, %%fs; mov %0, %%gs" : : "r"(0));
        __asm__ volatile("wrfsbase %0" : : "r"(s->fs_base));
    }
    __asm__ volatile("mov %0, %%ds; mov %0, %%es" : : "r"(0x2b));
    if (s->running) {
        collect(s, sig, uc);
        s->cur = s->cur + 1;
    }
    while (s->cur >= s->n) {
        s->running = 0;
        s->done = 1;
        insn_child_stop(s->pid);
    }
    s->running = 1;
    load(s, uc);
    if (s->host.fsgsbase) {
        const struct insn_state *in = &s->c[s->cur].in;

        __asm__ volatile("wrgsbase %0" : : "r"(in->gs_base));
        __asm__ volatile("wrfsbase %0" : : "r"(in->fs_base));
    }
    return 0x202 | (s->c[s->cur].in.rflags & FL_EXTRA);
}

/* Only the two system calls of the handler, known by their addresses, are let through. */
static int filter_syscalls(void)
{
    uint64_t ret = (uint64_t)insn_child_ret_ip, stop = (uint64_t)insn_child_stop_ip;
    unsigned lo = offsetof(struct seccomp_data, instruction_pointer);
    struct sock_filter f[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, lo + 4),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(ret >> 32), 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, lo),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)ret, 2, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)stop, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog p = { .len = ARRAY_LEN(f), .filter = f };

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        return -errno;
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &p) ? -errno : 0;
}

static int map_pages(int memfd)
{
    for (unsigned i = 0; i < insn_maps_n; i++) {
        const struct insn_map *m = &insn_maps[i];
        int prot = PROT_READ | (m->rights & INSN_W ? PROT_WRITE : 0) | (m->rights & INSN_X ? PROT_EXEC : 0);
        size_t len = m->pages * PAGE_SIZE;
        volatile uint8_t *p = mmap((void *)m->lin, len, prot, MAP_SHARED | MAP_FIXED_NOREPLACE | MAP_POPULATE, memfd,
                                   (off_t)(m->page * PAGE_SIZE));

        if (p != (void *)m->lin)
            return -errno;
        for (size_t k = 0; k < len; k += PAGE_SIZE) /* present in the page tables: the error code tells */
            (void)p[k];
    }
    return 0;
}

_Noreturn void insn_child_main(struct child_shared *s, int memfd)
{
    static const int sigs[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGSYS };
    stack_t ss = { .ss_size = 1 << 18 };
    struct sigaction sa = { .sa_flags = SA_SIGINFO | SA_ONSTACK };

    g_shared = s;
    s->pid = getpid();
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (ptrace(PTRACE_TRACEME, 0, 0, 0) || raise(SIGSTOP))
        _exit(2);
    if (map_pages(memfd))
        _exit(3);
    ss.ss_sp = mmap(NULL, ss.ss_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (ss.ss_sp == MAP_FAILED || sigaltstack(&ss, NULL))
        _exit(4);
    sa.sa_sigaction = (void (*)(int, siginfo_t *, void *))(void *)insn_child_entry;
    sigfillset(&sa.sa_mask);
    for (unsigned i = 0; i < ARRAY_LEN(sigs); i++)
        if (sigaction(sigs[i], &sa, NULL))
            _exit(5);
    if (s->host.fsgsbase)
        s->fs_base = rd_fs();
    if (filter_syscalls())
        _exit(6);
    __asm__ volatile("ud2");
    __builtin_unreachable();
}
