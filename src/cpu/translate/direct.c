/* SPDX-License-Identifier: MIT */
/*
 * Direct execution: user code that computes runs natively in a stub process (host/stub.h) instead of being translated.
 *
 * Every trap, be it a system call, a page fault or a kick, costs two switches between processes, as much as some ten
 * thousand instructions. So an address space starts translated; ticks find out whether it goes to the kernel rarely
 * enough, and whether that stays so. What must hold for user code to see no difference is in direct_when.c. Everything
 * else is translated, as are pages with instructions that direct_scan.c knows.
 *
 * A trap changes nothing but cpu: the instruction that trapped is then the interpreter's, or, after a page fault that
 * is none of the guest's, runs again.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <x86intrin.h>

#include "base/log.h"
#include "cpu/translate/translate.h"
#include "mem/mem.h"
#include "x86/segment.h"

enum {
    TRAP_CYCLES = 60000, /* at most, it is hoped; the fastest run tells */
    FEW_RUNS = 3,
    IDLE_TICKS = 8,
    PLACE_TICKS = 64,
    LOOSE_RUNS = 4,
    CROWDED_RUNS = 256,
    CROWDED_TICKS = 32,
    SLOW_CYCLES = 2000000,
    LOST_MAX = 16,     /* stubs that died */
    DB_STEP = 1 << 14, /* DR6.BS */
    XSAVE_BV = 512,
    XSAVE_YMM = 576
};
#define NOWHERE (1UL << 62)
#define KEPT_FLAGS                                                                                                     \
    ((uint64_t)(X86_FL_ARITH | X86_FL_DF | X86_FL_AC | X86_FL_NT |                                                     \
                X86_FL_ID)) /* what the stub's run may change, besides TF */

void xl_direct_init(struct xlate *x)
{
    uint32_t lo = 0, hi = 0;

    x->direct.mode = x->v->tuning.direct;
    if (__builtin_cpu_supports("avx"))
        __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    x->direct.off = x->direct.mode == ENGINE_DIRECT_OFF || x->verify || x->v->tuning.trace_exec || (lo & 7) != 7 || hi;
    x->direct.xcr0 = lo;
    x->direct.cpu = -1;
    x->direct.trap_cycles = TRAP_CYCLES;
    if (x->v->model->tsc_khz)
        x->direct.ns_1024 = 1024UL * 1000000 / x->v->model->tsc_khz;
}

void xl_direct_fini(struct xlate *x)
{
    for (unsigned k = 0; k < XL_SPACES; k++) {
        stub_free(x->direct.space[k].stub);
        free(x->direct.space[k].page);
    }
}

/* ---- state ---- */

static void put_state(struct xlate *x, struct xl_space *s, struct stub_regs *r)
{
    const struct cpu_state *c = x->cpu;
    const struct x86_fpu *f = &c->fpu;
    uint32_t size;
    uint8_t *p = stub_xsave(s->stub, &size);
    uint64_t bv;

    memcpy(r->gpr, c->gpr, sizeof(r->gpr));
    r->rip = c->rip;
    r->rflags = (c->rflags & KEPT_FLAGS) | X86_FL_IF | X86_FL_1;
    r->fs_base = c->seg[X86_FS].base;
    r->gs_base = c->seg[X86_GS].base;
    r->cs = XL_SEL_CODE64;
    r->ss = XL_SEL_DATA;
    r->ds = r->es = c->seg[X86_DS].sel;
    r->fs = c->seg[X86_FS].sel;
    r->gs = c->seg[X86_GS].sel;
    memcpy(p, &f->fcw, 2);
    memcpy(p + 2, &f->fsw, 2);
    p[4] = f->ftw;
    p[5] = 0;
    memcpy(p + 6, &f->fop, 2);
    memcpy(p + 8, &f->fip, 8);
    memcpy(p + 16, &f->fdp, 8);
    memcpy(p + 24, &f->mxcsr, 4);
    for (unsigned k = 0; k < 8; k++)
        memcpy(p + 32 + 16 * k, f->st[k], 10);
    for (unsigned k = 0; k < 16; k++) {
        memcpy(p + 160 + 16 * k, f->vec[k], 16);
        memcpy(p + XSAVE_YMM + 16 * k, f->vec[k] + 16, 16);
    }
    memcpy(&bv, p + XSAVE_BV, 8);
    bv = (bv & ~4UL) | (xl_uppers_clear(x) ? 3 : 7);
    memcpy(p + XSAVE_BV, &bv, 8);
}

static void take_fpu(struct xlate *x, struct xl_space *s)
{
    struct x86_fpu *f = &x->cpu->fpu;
    uint32_t size;
    const uint8_t *p = stub_xsave(s->stub, &size);
    uint64_t bv;

    memcpy(&bv, p + XSAVE_BV, 8);
    memcpy(&f->mxcsr, p + 24, 4);
    f->mxcsr &= x->mxcsr_mask;
    if (bv & 1) {
        memcpy(&f->fcw, p, 2);
        memcpy(&f->fsw, p + 2, 2);
        f->ftw = p[4];
        memcpy(&f->fop, p + 6, 2);
        memcpy(&f->fip, p + 8, 8);
        memcpy(&f->fdp, p + 16, 8);
        f->fop &= 0x7ff;
        for (unsigned k = 0; k < 8; k++)
            memcpy(f->st[k], p + 32 + 16 * k, 10);
    } else {
        f->fcw = 0x37f;
        f->fsw = f->fop = 0;
        f->ftw = 0;
        f->fip = f->fdp = 0;
        memset(f->st, 0, sizeof(f->st));
    }
    for (unsigned k = 0; k < 16; k++) {
        if (bv & 2)
            memcpy(f->vec[k], p + 160 + 16 * k, 16);
        else
            memset(f->vec[k], 0, 16);
        if (bv & 4)
            memcpy(f->vec[k] + 16, p + XSAVE_YMM + 16 * k, 16);
        else
            memset(f->vec[k] + 16, 0, 16);
    }
}

/*
 * Guest code loaded a segment register, and the host took the selector; or guest code made the frame up, so everything
 * is checked that the processor would have. False: it cannot be.
 */
static bool take_segment(struct xlate *x, unsigned seg, uint16_t sel, uint64_t base)
{
    struct cpu_state *c = x->cpu;
    struct x86_xlate r;
    struct x86_fault f;
    uint64_t raw;
    gva_t at;
    bool ok;

    if (c->seg[seg].sel == sel)
        return true;
    if (x86_sel_null(sel)) {
        if (seg == X86_CS || seg == X86_SS_SEG)
            return false;
        c->seg[seg] = x86_seg_null(sel, base);
        return true;
    }
    if (!x86_desc_locate(c, sel, 8, &at) || !x86_walk(c, &x->phys, at, X86_ACC_IMPLICIT, &r, &f) ||
        !x->phys.read(x->phys.arg, r.gpa, &raw, 8))
        return false;
    if (seg == X86_CS)
        ok = (sel & 3) == 3 && x86_check_code_return(sel, raw, 3, true, &f);
    else if (seg == X86_SS_SEG)
        ok = x86_check_stack(sel, raw, 3, X86_GP, &f);
    else
        ok = x86_check_data(sel, raw, 3, &f);
    if (!ok)
        return false;
    c->seg[seg] = x86_seg_parse(sel, raw, 0);
    if (seg == X86_FS || seg == X86_GS)
        c->seg[seg].base = base;
    return true;
}

/* False: no processor could have got there; cpu is not to be used. */
static bool take_state(struct xlate *x, struct xl_space *s, const struct stub_regs *r)
{
    struct cpu_state *c = x->cpu;

    if (!x86_canonical(r->fs_base) || !x86_canonical(r->gs_base) || !take_segment(x, X86_CS, r->cs, 0) ||
        !take_segment(x, X86_SS_SEG, r->ss, 0) || !take_segment(x, X86_DS, r->ds, 0) ||
        !take_segment(x, X86_ES, r->es, 0) || !take_segment(x, X86_FS, r->fs, r->fs_base) ||
        !take_segment(x, X86_GS, r->gs, r->gs_base))
        return false;
    memcpy(c->gpr, r->gpr, sizeof(r->gpr));
    c->rip = r->rip;
    c->rflags = (c->rflags & ~(KEPT_FLAGS | X86_FL_TF)) | (r->rflags & (KEPT_FLAGS | X86_FL_TF));
    c->seg[X86_FS].base = r->fs_base;
    c->seg[X86_GS].base = r->gs_base;
    take_fpu(x, s);
    return true;
}

/* ---- traps ---- */

/* The byte of code before lin; 0 if it cannot be read. */
static uint8_t byte_at(struct xlate *x, gva_t lin)
{
    struct x86_xlate r;
    struct x86_fault f;
    uint8_t b = 0;

    if (x86_canonical(lin) && x86_walk(x->cpu, &x->phys, lin, X86_ACC_USER | X86_ACC_PROBE, &r, &f))
        x->phys.read(x->phys.arg, r.gpa, &b, 1);
    return b;
}

static void on_page_fault(struct xlate *x, struct xl_space *s, const struct stub_trap *t)
{
    bool write = t->error & X86_PF_W, exec = t->error & X86_PF_I;

    if (x86_canonical(t->cr2) && xl_direct_fill(x, s, t->cr2, write, exec) == MISS_RETRY) {
        s->fills++;
        return;
    }
    x->st.direct_faults += !x->direct.skip;
    x->st.direct_unfit += x->direct.skip;
    x->direct.fault.due = !x->direct.skip;
    x->direct.fault.lin = t->cr2;
    x->direct.fault.write = write;
    x->direct.fault.exec = exec;
    x->step_due = !x->direct.skip;
}

static void on_trap(struct xlate *x, struct xl_space *s, const struct stub_trap *t)
{
    struct cpu_state *c = x->cpu;

    switch (t->sig) {
    case SIGUSR1:
        x->st.direct_kicks++;
        break;
    case SIGSYS:
        x->st.direct_calls++;
        /* SYSCALL and INT 80h are two bytes each, behind which the host stopped */
        if (t->call != c->rip) { /* a page of the host's where system calls are made by calling it */
            c->rip = t->call;
            c->gpr[X86_RSP] -= 8;
        } else {
            c->rip -= 2;
        }
        x->step_due = true;
        break;
    case SIGTRAP:
        if (t->vector == X86_BP)
            c->rip -= byte_at(x, c->rip - 1) == 0xcc ? 1 : 2;
        else if (c->rflags & X86_FL_TF) /* guest code has set it */
            c->pending_db |= DB_STEP;
        else
            c->rip -= 1; /* INT1 */
        x->step_due = true;
        break;
    case SIGSEGV:
    case SIGBUS:
        if (t->vector == X86_PF) {
            on_page_fault(x, s, t);
            break;
        }
        x->step_due = true;
        break;
    default:
        x->step_due = true;
        break;
    }
}

/* ---- where ---- */

/*
 * The stub and this thread take turns, and a switch on one processor is much cheaper than waking another one; so both
 * stay on one while there are many, but for a few now and then in which the scheduler may place them anew, and for some
 * more when others want that processor too.
 */
static void pin(struct xlate *x, struct xl_space *s)
{
    struct xl_direct *d = &x->direct;

    if (!d->busy)
        return;
    if (d->loose) {
        d->loose--;
        return;
    }
    if (d->cpu < 0) {
        cpu_set_t one;
        int cpu = sched_getcpu();

        if (cpu < 0 || sched_getaffinity(0, sizeof(d->cpus), &d->cpus))
            return;
        CPU_ZERO(&one);
        CPU_SET((unsigned)cpu, &one);
        if (sched_setaffinity(0, sizeof(one), &one))
            return;
        d->cpu = cpu;
    }
    if (s->cpu != d->cpu)
        stub_pin(s->stub, d->cpu);
    s->cpu = d->cpu;
}

static void unpin(struct xl_direct *d)
{
    if (d->cpu < 0)
        return;
    sched_setaffinity(0, sizeof(d->cpus), &d->cpus);
    for (unsigned k = 0; k < XL_SPACES; k++)
        if (d->space[k].stub && d->space[k].cpu >= 0) {
            stub_unpin(d->space[k].stub, &d->cpus);
            d->space[k].cpu = -1;
        }
    d->cpu = -1;
}

/* Traps are slow, since others use the processors. */
static void crowded(struct xl_direct *d)
{
    unpin(d);
    d->loose = CROWDED_RUNS;
    d->crowded = d->ticks + CROWDED_TICKS;
}

/* A run took long: was it the guest's code, or did the threads wait for others? */
static void look_for_crowd(struct xl_direct *d, struct xl_space *s, uint64_t cycles)
{
    uint64_t now = stub_cpu_ns(s->stub), used = now - s->cpu_ns;

    s->cpu_ns = now;
    if (d->ns_1024 && used < cycles * d->ns_1024 / 2048)
        crowded(d);
}

void xl_direct_place(struct xlate *x)
{
    struct xl_direct *d = &x->direct;

    d->idle = d->runs - d->placed_runs > FEW_RUNS ? 0 : d->idle + 1;
    d->busy = d->idle < IDLE_TICKS;
    d->placed_runs = d->runs;
    if (!d->busy)
        unpin(d);
    if (++d->ticks % PLACE_TICKS == 0) {
        unpin(d);
        d->loose = LOOSE_RUNS;
    }
}

static void lose(struct xl_space *s)
{
    stub_free(s->stub);
    s->stub = NULL;
    xl_direct_forget(s);
}

/* Whether the guest has something near the stub's own addresses: it would not fault there. */
static bool in_the_way(struct xlate *x)
{
    uint64_t entry;

    return x->phys.read(x->phys.arg, (x->cpu->cr3 & 0xffffffffff000) + 8 * (stub_begin >> 39), &entry, 8) &&
           (entry & 1);
}

static bool ready(struct xlate *x, struct xl_space *s)
{
    struct xl_direct *d = &x->direct;

    bool tsc = x->cpu->tsc_offset != 0;

    if (in_the_way(x)) {
        d->skip = true;
        d->unfit = 0;
        return false;
    }
    if (s->stub && s->tsc != tsc)
        lose(s);
    if (!s->stub)
        s->cpu = -1;
    if (!d->runs)
        stub_short_slice(0);
    s->tsc = tsc;
    if (!s->stub && stub_new(&s->stub, mem_fd(x->v->mem), tsc)) {
        s->stub = NULL;
        d->off = true;
        log_msg(d->mode == ENGINE_DIRECT_ON ? LOG_WARN : LOG_INFO,
                "--direct: this host gives no process for user code; all of it is translated");
        return false;
    }
    pin(x, s);
    xl_direct_refresh(x, s);
    if (d->fault.due) {
        d->fault.due = false;
        xl_direct_fill(x, s, d->fault.lin, d->fault.write, d->fault.exec);
        if (d->skip)
            return false;
    }
    return true;
}

/*
 * The stub is gone, killed by somebody or for what its guest code did to it, and with it the state of that code. Where
 * it cannot go on from its last trap it must not: a jump to nowhere ends the guest's process (#GP).
 */
static void give_up(struct xlate *x, struct xl_space *s, bool untouched)
{
    struct xl_direct *d = &x->direct;

    if (!untouched) {
        x->cpu->rip = NOWHERE;
        log_warn("a process with user code of the guest is gone; the guest's process gets a #GP");
    }
    x->st.direct_lost++;
    d->off |= ++d->lost >= LOST_MAX;
    lose(s);
    s->known = false;
    d->cur = NULL;
}

void xl_direct_run(struct xlate *x)
{
    struct xl_direct *d = &x->direct;
    struct xl_space *s = xl_direct_space(x, true);
    struct x86_seg before[X86_SREGS];
    struct stub_regs r = { 0 };
    struct stub_trap t;
    int err;

    xl_vectors_save(x);
    xl_x87_save(x);
    if (!ready(x, s))
        return;
    put_state(x, s, &r);
    d->running = s->stub;
    atomic_store(&x->in_cache, 1);
    if (atomic_load(&x->attention)) {
        d->running = NULL;
        atomic_store(&x->in_cache, 0);
        return;
    }
    uint64_t begin = __rdtsc();
    err = stub_run(s->stub, &r, &t);
    begin = __rdtsc() - begin;
    x->st.direct_cycles += begin;
    d->trap_cycles = begin < d->trap_cycles ? begin : d->trap_cycles;
    d->burst_native += begin > d->trap_cycles ? begin - d->trap_cycles : 0;
    d->running = NULL;
    atomic_store_explicit(&x->in_cache, 0, memory_order_release);
    if (begin > SLOW_CYCLES)
        look_for_crowd(d, s, begin);
    s->used = ++d->runs;
    s->traps++;
    x->st.direct_traps++;
    memcpy(before, x->cpu->seg, sizeof(before));
    if (err == -ENOMEM) {
        lose(s);
        s->on = false;
        s->wait = s->backoff = XL_BACKOFF_MAX;
        d->skip = true;
        d->unfit = 0;
        return;
    }
    if (err || !take_state(x, s, &r)) {
        memcpy(x->cpu->seg, before, sizeof(before));
        give_up(x, s, err && stub_untouched(s->stub));
        return;
    }
    on_trap(x, s, &t);
    xl_refresh(x);
}
