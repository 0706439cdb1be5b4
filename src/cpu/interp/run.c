/* SPDX-License-Identifier: MIT */
/*
 * The interpreter as an engine: the loop between blocks, faults, exits, single stepping and break points.
 *
 * Everything that may happen between two instructions happens at the top of the loop, in this order: the rest of an
 * instruction that exited for I/O, the injected event, requests of other threads, pending #DB traps, the interrupt
 * window. A fault longjmps to fault_jmp and an exit to exit_jmp; no state that matters lives in locals across them.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <Zydis/Mnemonic.h>

#include "cpu/interp/core.h"
#include "mem/mem.h"

#define DR6_BS (1U << 14)
#define DR7_ENABLED 0xffU

/* ---- leaving an instruction ---- */

/* Takes back the instructions of the block that were counted but not executed; `next` is the first of them. */
static void uncount(struct interp *m, const struct uop *next)
{
    m->insns -= (uint64_t)(m->block->n - (next - m->block->u));
}

_Noreturn void interp_raise(struct interp *m, const struct uop *u, struct x86_fault f)
{
    m->fault = f;
    m->cur = u;
    if (u) {
        m->c.rip = interp_ip(m, u);
        uncount(m, u);
    }
    longjmp(m->fault_jmp, 1);
}

_Noreturn void interp_raise_vec(struct interp *m, const struct uop *u, unsigned vector, uint32_t error)
{
    interp_raise(
        m, u,
        (struct x86_fault){ .vector = (uint8_t)vector, .has_error = x86_vector_has_error(vector), .error = error });
}

/* A trap or a debugger's step is due behind HLT and ends the halt at once. */
static void step_over_hlt(struct interp *m, const struct uop *u)
{
    m->c.rip = interp_next_ip(m, u);
    uncount(m, u + 1);
    if (!m->v->debug.step) {
        m->fault = (struct x86_fault){ .vector = X86_DB, .addr = DR6_BS };
        longjmp(m->fault_jmp, 1);
    }
    m->v->exit.kind = EXIT_DEBUG;
    m->v->exit.debug.reason = DEBUG_STEP;
}

_Noreturn void interp_exit(struct interp *m, const struct uop *u, enum vcpu_exit_kind kind, bool retired)
{
    m->v->exit.kind = kind;
    if (kind == EXIT_HLT && (m->v->debug.step || (m->c.rflags & X86_FL_TF))) {
        step_over_hlt(m, u);
    } else if (u) {
        m->c.rip = retired ? interp_next_ip(m, u) : interp_ip(m, u);
        uncount(m, retired ? u + 1 : u);
    }
    longjmp(m->exit_jmp, 1);
}

_Noreturn void interp_fatal(struct interp *m, const struct uop *u, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(m->v->exit.text, sizeof(m->v->exit.text), fmt, ap);
    va_end(ap);
    interp_exit(m, u, EXIT_FATAL, false);
}

/* ---- I/O ---- */

uint64_t interp_io(struct interp *m, const struct uop *u, enum vcpu_exit_kind kind, uint64_t addr, unsigned len,
                   bool write, uint64_t data)
{
    struct vcpu_exit *x;

    if (m->io.pos < m->io.n) {
        x = &m->io.e[m->io.pos++];
        if (x->io.fault)
            interp_gp(m, u, 0);
        return x->io.data;
    }
    if (m->io.n == IO_LOG_MAX)
        interp_fatal(m, u, "one instruction made more than %d device accesses", IO_LOG_MAX);
    x = &m->v->exit;
    x->io.addr = addr;
    x->io.len = (uint8_t)len;
    x->io.write = write;
    x->io.fault = false;
    x->io.data = data;
    m->todo |= TODO_IO;
    interp_exit(m, u, kind, false);
}

void interp_io_commit(struct interp *m)
{
    m->io.n = m->io.pos = 0;
}

/* ---- the loop ---- */

static void leave_block(struct interp *m)
{
    m->break_block = false;
    if (unlikely(m->left)) {
        m->left = false;
        uncount(m, m->cur);
    }
}

static void run_block(struct interp *m, struct block *b)
{
    m->c.gpr[X86_REG_IP] = m->c.rip;
    m->block = b;
    m->insns += b->n;
    b->u[0].fn(m, b->u);
    if (unlikely(m->break_block | m->left))
        leave_block(m);
}

static _Noreturn void debug_exit(struct interp *m, enum vcpu_debug_reason reason, gva_t addr)
{
    m->v->exit.debug.reason = reason;
    m->v->exit.debug.addr = addr;
    interp_exit(m, NULL, EXIT_DEBUG, false);
}

/* Instruction break points of the guest (#DB, a fault) and of a debugger. */
static void check_exec_points(struct interp *m)
{
    gva_t lin = interp_code_lin(m, m->c.rip);
    uint64_t dr7 = m->c.dr[7];
    uint32_t hit = 0;

    if (!m->v->debug.step)
        for (unsigned k = 0; k < m->v->debug.n; k++)
            if (m->v->debug.point[k].kind == POINT_EXEC && m->v->debug.point[k].addr == lin)
                debug_exit(m, DEBUG_HW_BREAK, lin);
    if (!(dr7 & DR7_ENABLED) || (m->c.rflags & X86_FL_RF))
        return;
    for (unsigned k = 0; k < 4; k++)
        if ((dr7 >> (2 * k) & 3) && !(dr7 >> (16 + 4 * k) & 3) && m->c.dr[k] == lin)
            hit |= 1U << k;
    if (hit)
        interp_raise(m, NULL, (struct x86_fault){ .vector = X86_DB, .addr = hit });
}

static void after_careful(struct interp *m, bool tf)
{
    gva_t watch = 0;
    bool watched = false;

    for (unsigned k = 0; k < m->watch.n; k++) {
        if (!(m->watch.hits >> k & 1))
            continue;
        if (m->watch.p[k].dr >= 0) {
            m->c.pending_db |= 1U << m->watch.p[k].dr;
        } else {
            watched = true;
            watch = m->watch.p[k].addr;
        }
    }
    m->watch.hits = 0;
    if (tf)
        m->c.pending_db |= DR6_BS;
    if (watched)
        debug_exit(m, DEBUG_WATCH, watch);
    if (m->v->debug.step)
        debug_exit(m, DEBUG_STEP, 0);
}

/* One instruction with everything that may watch it. */
static void careful_step(struct interp *m, bool resumed)
{
    struct block *b;
    uint64_t rip, rf;
    bool tf, vector;

    if (m->careful && !resumed)
        check_exec_points(m);
    m->watch.hits = 0;
    b = block_find(m, true);
    tf = m->c.rflags & X86_FL_TF;
    rf = m->c.rflags & X86_FL_RF;
    rip = m->c.rip;
    vector = b->u[0].i.flags & X86_I_VECTOR;
    if (m->c.int_shadow) { /* it covers this instruction */
        m->shadow_seen = true;
        m->shadow_rip = m->c.rip;
    }
    m->c.rflags &= ~(uint64_t)X86_FL_RF;
    run_block(m, b);
    m->link_slot = NULL;
    interp_io_commit(m);
    if (vector && m->c.rip == rip) { /* it only made room for its code, and has yet to run */
        m->c.rflags |= rf;
        return;
    }
    switch (b->u[0].i.op) {
    case ZYDIS_MNEMONIC_INT:
    case ZYDIS_MNEMONIC_INT1:
    case ZYDIS_MNEMONIC_INT3:
    case ZYDIS_MNEMONIC_INTO:
    case ZYDIS_MNEMONIC_SYSCALL:
        tf = tf && (m->c.rflags & X86_FL_TF); /* delivery has cleared TF */
        break;
    case X86_OP_MOV_TO_SEG: /* a load of SS holds the trap back for good, not until after the next instruction */
    case X86_OP_POP_SEG:
        tf = tf && b->u[0].i.r0 != X86_SS_SEG;
        break;
    default:
        break;
    }
    after_careful(m, tf);
}

static void inject(struct interp *m)
{
    struct vcpu *v = m->v;
    struct x86_fault f = { .vector = v->inject.vector };

    if (v->inject.kind == INJECT_NMI)
        f.vector = X86_NMI;
    v->inject.kind = INJECT_NONE;
    interp_deliver(m, EVENT_EXTERNAL, f, m->c.rip);
}

/* Host pages have gone away (tlb.c, on_unmap). */
static void drop_pages(struct interp *m)
{
    interp_tlb_flush(m, false);
    atomic_fetch_and(&m->attention, ~(uint32_t)ATT_UNMAP);
}

static void on_attention(struct interp *m)
{
    uint32_t a = atomic_load(&m->attention);

    if (a & ATT_UNMAP)
        drop_pages(m);
    if (a & ATT_KICK) {
        atomic_fetch_and(&m->attention, ~(uint32_t)ATT_KICK);
        interp_exit(m, NULL, EXIT_KICKED, false);
    }
}

/* The rarer half of the loop's top. True: an instruction was done here, look again. */
static bool between(struct interp *m)
{
    if (m->shadow_seen) {
        m->shadow_seen = false;
        if (m->c.rip != m->shadow_rip)
            m->c.int_shadow = false;
    }
    if (m->todo & TODO_IO) {
        m->todo &= ~(unsigned)TODO_IO;
        careful_step(m, true);
        return true;
    }
    if (m->todo & TODO_INJECT) {
        m->todo &= ~(unsigned)TODO_INJECT;
        inject(m);
        return true;
    }
    if (atomic_load(&m->attention))
        on_attention(m);
    if (m->c.pending_db && !m->c.int_shadow) {
        struct x86_fault f = { .vector = X86_DB, .addr = m->c.pending_db };
        m->c.pending_db = 0;
        interp_raise(m, NULL, f);
    }
    bool window = m->v->irq_window | m->v->nmi_window;
    if (((m->v->irq_window && (m->c.rflags & X86_FL_IF)) || (m->v->nmi_window && !m->c.nmi_blocked)) &&
        !m->c.int_shadow)
        interp_exit(m, NULL, EXIT_IRQ_WINDOW, false);
    /* With an interrupt waiting, what STI shadows runs alone: the window may close right behind it. */
    if (m->careful || (m->c.rflags & X86_FL_TF) || (m->c.int_shadow && window)) {
        careful_step(m, false);
        return true;
    }
    if (m->c.int_shadow) {
        m->shadow_seen = true;
        m->shadow_rip = m->c.rip;
    }
    m->c.rflags &= ~(uint64_t)X86_FL_RF;
    return false;
}

static bool is_special(const struct interp *m)
{
    return (m->todo | m->c.pending_db | (m->c.rflags & (X86_FL_TF | X86_FL_RF)) |
            atomic_load_explicit(&m->attention, memory_order_relaxed)) != 0 ||
           (m->c.int_shadow | m->careful | m->shadow_seen | m->v->irq_window | m->v->nmi_window);
}

/* Links the block that asked for it with its successor, if both start on the same page and no limit is between. */
static void make_link(struct interp *m, const struct block *from, struct block **slot, struct block *to)
{
    if (((from->gpa ^ to->gpa) & PAGE_MASK) == 0 && to->kind == from->kind && block_linkable(to->kind) &&
        ((m->c.gpr[X86_REG_IP] ^ m->c.rip) & PAGE_MASK) == 0)
        *slot = to;
}

static _Noreturn void loop(struct interp *m)
{
    if (setjmp(m->fault_jmp)) {
        m->break_block = m->left = false;
        m->link_slot = NULL;
        interp_io_commit(m);
        interp_deliver(m, EVENT_EXCEPTION, m->fault, m->c.rip);
    }
    for (;;) {
        struct block *b;

        if (unlikely(is_special(m)) && between(m))
            continue;
        b = block_find(m, false);
        if (m->link_slot) {
            make_link(m, m->block, m->link_slot, b);
            m->link_slot = NULL;
        }
        run_block(m, b);
    }
}

/* loop() for step: about n instructions, or the delivery of one exception. */
static void loop_steps(struct interp *m, unsigned n)
{
    uint64_t end = m->insns + n;

    if (setjmp(m->fault_jmp)) {
        m->break_block = m->left = false;
        m->link_slot = NULL;
        interp_io_commit(m);
        interp_deliver(m, EVENT_EXCEPTION, m->fault, m->c.rip);
        return;
    }
    do {
        if (unlikely(is_special(m)) && between(m))
            continue;
        if (n == 1)
            careful_step(m, false);
        else
            run_block(m, block_find(m, false));
        m->link_slot = NULL;
    } while (m->insns < end);
}

/* ---- engine_ops ---- */

static void run_begin(struct interp *m)
{
    struct vcpu *v = m->v;

    atomic_store(&m->in_run, 1);
    if (atomic_load(&m->attention) & ATT_UNMAP) /* before a half-done instruction goes on */
        drop_pages(m);
    m->deliv.active = false;
    m->break_block = m->left = false;
    m->link_slot = NULL;
    m->io.pos = 0;
    if (m->todo & TODO_IO)
        m->io.e[m->io.n++] = v->exit;
    if (v->inject.kind != INJECT_NONE)
        m->todo |= TODO_INJECT;
    interp_vector_enter(m);
}

static void run_end(struct interp *m, struct vcpu_exit *out)
{
    struct vcpu *v = m->v;

    interp_vector_leave(m);
    if (!(m->todo & TODO_IO))
        interp_io_commit(m);
    m->todo &= TODO_IO;
    if (m->shadow_seen) {
        m->shadow_seen = false;
        if (m->c.rip != m->shadow_rip)
            m->c.int_shadow = false;
    }
    v->stats.insns = m->insns;
    if (out && out != &v->exit)
        *out = v->exit;
    atomic_store(&m->in_run, 0);
}

static int interp_run(struct vcpu *v, struct vcpu_exit *out)
{
    struct interp *m = v->engine;

    run_begin(m);
    if (!setjmp(m->exit_jmp))
        loop(m);
    run_end(m, out);
    return 0;
}

static int interp_step(struct vcpu *v, unsigned n, struct vcpu_exit *out)
{
    struct interp *m = v->engine;

    interp_set_arith(m, m->c.rflags);
    interp_mode_changed(m);
    run_begin(m);
    if (!setjmp(m->exit_jmp)) {
        loop_steps(m, n);
        v->exit.kind = EXIT_STEPPED;
    }
    run_end(m, out);
    m->c.rflags = interp_rflags(m);
    return 0;
}

static void interp_flush_local(struct vcpu *v)
{
    interp_tlb_flush(v->engine, true);
}

static void interp_flush_one(struct vcpu *v, gva_t lin)
{
    interp_tlb_flush_page(v->engine, lin);
}

static int interp_create(struct vcpu *v)
{
    struct interp *m = aligned_alloc(64, (sizeof(*m) + 63) & ~63UL);
    int r;

    if (!m)
        return -ENOMEM;
    memset(m, 0, sizeof(*m));
    m->v = v;
    r = block_cache_new(m);
    if (r)
        goto undo_alloc;
    r = tlb_init(m);
    if (r)
        goto undo_cache;
    x86_cpu_reset(&m->c);
    v->cpu = &m->c;
    v->engine = m;
    interp_set_arith(m, m->c.rflags);
    interp_mode_changed(m);
    interp_debug_changed(m);
    return 0;

undo_cache:
    block_cache_free(m);
undo_alloc:
    free(m);
    return r;
}

static void interp_destroy(struct vcpu *v)
{
    struct interp *m = v->engine;

    if (!m)
        return;
    interp_vector_fini(m);
    tlb_fini(m);
    block_cache_free(m);
    free(m);
    v->engine = NULL;
    v->cpu = NULL;
}

static void interp_kick(struct vcpu *v)
{
    struct interp *m = v->engine;
    atomic_fetch_or(&m->attention, ATT_KICK);
}

static int interp_sync(struct vcpu *v, enum sync_dir dir)
{
    struct interp *m = v->engine;

    if (dir == SYNC_OUT) {
        m->c.rflags = interp_rflags(m);
        return 0;
    }
    interp_set_arith(m, m->c.rflags);
    m->c.gpr[X86_REG_ZERO] = 0;
    m->todo = 0;
    interp_io_commit(m);
    m->shadow_seen = false;
    interp_mode_changed(m);
    interp_tlb_flush(m, false);
    interp_debug_changed(m);
    return 0;
}

static bool interp_can_intr(const struct vcpu *v)
{
    const struct interp *m = v->engine;
    return (m->c.rflags & X86_FL_IF) && !m->c.int_shadow;
}

/* ---- watch points ---- */

static void add_watch(struct interp *m, gva_t addr, uint32_t len, unsigned rw, int dr)
{
    m->watch.p[m->watch.n].addr = addr;
    m->watch.p[m->watch.n].len = len;
    m->watch.p[m->watch.n].on_read = rw & 1;
    m->watch.p[m->watch.n].on_write = rw & 2;
    m->watch.p[m->watch.n].dr = (int8_t)dr;
    m->watch.n++;
}

void interp_debug_changed(struct interp *m)
{
    static const uint8_t lens[4] = { 1, 2, 8, 4 };
    const struct vcpu_debug *d = &m->v->debug;
    uint64_t dr7 = m->c.dr[7];
    bool had = m->watch.n;

    m->watch.n = 0;
    for (unsigned k = 0; k < 4; k++) {
        unsigned rw = dr7 >> (16 + 4 * k) & 3;
        uint32_t len = lens[dr7 >> (18 + 4 * k) & 3];

        if ((dr7 >> (2 * k) & 3) && (rw & 1)) /* 1: writes, 3: reads and writes; 2 is I/O */
            add_watch(m, m->c.dr[k] & ~(gva_t)(len - 1), len, rw == 1 ? 2 : 3, (int)k);
    }
    for (unsigned k = 0; k < d->n && k < DEBUG_POINTS; k++) {
        if (d->point[k].kind != POINT_EXEC)
            add_watch(m, d->point[k].addr, d->point[k].len,
                      d->point[k].kind == POINT_WRITE  ? 2
                      : d->point[k].kind == POINT_READ ? 1
                                                       : 3,
                      -1);
    }
    m->careful = d->step || d->n || (dr7 & DR7_ENABLED);
    if (m->watch.n || had)
        interp_tlb_flush(m, false);
}

static void interp_debug(struct vcpu *v)
{
    interp_debug_changed(v->engine);
}

const struct engine_ops engine_interp = {
    .name = "interp",
    .create = interp_create,
    .destroy = interp_destroy,
    .run = interp_run,
    .kick = interp_kick,
    .sync = interp_sync,
    .step = interp_step,
    .flush_local = interp_flush_local,
    .flush_page = interp_flush_one,
    .can_intr = interp_can_intr,
    .debug_changed = interp_debug,
};
