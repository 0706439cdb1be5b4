/* SPDX-License-Identifier: MIT */
/*
 * Event delivery: SDM Vol. 3A, "Interrupt and Exception Handling", and INT n in Vol. 2A.
 *
 * Everything that can fault happens before the first register changes, and faults leave through interp_raise with
 * u = NULL. The loop then calls interp_deliver again; m->deliv, still active, tells it which event was interrupted,
 * and the rules of "Interrupt 8 - Double Fault Exception" decide what becomes of the two.
 */
#include <stdio.h>

#include "cpu/interp/sys.h"

enum { ERR_EXT = 1, ERR_IDT = 2 };

enum fault_class { BENIGN, CONTRIBUTORY, PAGE_FAULT, DOUBLE_FAULT };

static enum fault_class class_of(enum event_kind kind, unsigned vector)
{
    if (kind != EVENT_EXCEPTION)
        return BENIGN;
    switch (vector) {
    case X86_DE:
    case X86_TS:
    case X86_NP:
    case X86_SS:
    case X86_GP:
    case 21: /* #CP */
        return CONTRIBUTORY;
    case X86_PF:
        return PAGE_FAULT;
    case X86_DF:
        return DOUBLE_FAULT;
    default:
        return BENIGN;
    }
}

static _Noreturn void triple_fault(struct interp *m, const struct x86_fault *f)
{
    snprintf(m->v->exit.text, sizeof(m->v->exit.text),
             "triple fault: exception %u (error code 0x%x) while delivering a double fault, at 0x%llx", f->vector,
             f->has_error ? f->error : 0, (unsigned long long)m->c.rip);
    m->deliv.active = false;
    interp_exit(m, NULL, EXIT_SHUTDOWN, false);
}

/* A fault came out of the delivery of another event: what is to be delivered instead. */
static void combine(struct interp *m, struct x86_fault *f)
{
    enum fault_class first = class_of(m->deliv.kind, m->deliv.vector);
    enum fault_class second = class_of(EVENT_EXCEPTION, f->vector);

    if (second == BENIGN)
        return;
    if (first == DOUBLE_FAULT)
        triple_fault(m, f);
    if ((first == CONTRIBUTORY && second == CONTRIBUTORY) || first == PAGE_FAULT)
        *f = (struct x86_fault){ .vector = X86_DF, .has_error = true };
}

/* What delivery needs to know about the event. */
struct event {
    enum event_kind kind;
    unsigned vector;
    bool has_error;
    uint32_t error;
    uint64_t return_ip;
    uint32_t ext;    /* EXT for the error codes of faults on the way */
    uint64_t rflags; /* image to push */
};

/* An interrupt, trap or task gate of any mode. */
struct gate {
    unsigned type, dpl, ist;
    bool present;
    uint16_t sel;
    uint64_t off;
};

static void clear_flags(struct interp *m, bool is_interrupt_gate)
{
    m->c.rflags &= ~(uint64_t)(X86_FL_TF | X86_FL_NT | X86_FL_RF | X86_FL_VM);
    if (is_interrupt_gate)
        m->c.rflags &= ~(uint64_t)X86_FL_IF;
}

/* SDM Vol. 3A, "Interrupt and Exception Handling" of "8086 Emulation". */
static void deliver_real(struct interp *m, const struct event *e)
{
    struct sys_stack s = sys_stack_current(m);
    uint16_t entry[2];

    if (e->vector * 4 + 3 > m->c.idtr.limit)
        interp_gp(m, NULL, e->vector * 8 + ERR_IDT + e->ext);
    interp_read(m, NULL, interp_sys_ctx(m), m->c.idtr.base + e->vector * 4, entry, 4);
    sys_push(m, NULL, &s, 2, e->rflags);
    sys_push(m, NULL, &s, 2, m->c.seg[X86_CS].sel);
    sys_push(m, NULL, &s, 2, e->return_ip);
    if (entry[0] > m->c.seg[X86_CS].limit)
        interp_gp(m, NULL, e->ext);
    sys_stack_commit_sp(m, &s);
    m->c.rflags &= ~(uint64_t)(X86_FL_IF | X86_FL_TF | X86_FL_RF | X86_FL_AC);
    x86_seg_load_real(&m->c.seg[X86_CS], entry[1]);
    m->c.rip = entry[0];
}

static struct gate read_gate(struct interp *m, const struct event *e)
{
    unsigned size = x86_long_mode(&m->c) ? 16 : 8;
    uint32_t error = e->vector * 8 + ERR_IDT + e->ext;
    uint64_t raw[2] = { 0, 0 };
    struct gate g;
    bool known;

    if (e->vector * size + size - 1 > m->c.idtr.limit)
        interp_gp(m, NULL, error);
    interp_read(m, NULL, interp_sys_ctx(m), m->c.idtr.base + e->vector * size, raw, size);
    g.type = (raw[0] >> 40) & 0x1f; /* with the S bit, which must be 0 */
    g.dpl = x86_desc_dpl(raw[0]);
    g.present = x86_desc_present(raw[0]);
    g.sel = (uint16_t)(raw[0] >> 16);
    g.off = (raw[0] & 0xffff) | (raw[0] >> 32 & 0xffff0000) | raw[1] << 32;
    g.ist = size == 16 ? (raw[0] >> 32) & 7 : 0;
    known = g.type == X86_T_INT || g.type == X86_T_TRAP;
    if (size == 8)
        known |= g.type == X86_T_INT16 || g.type == X86_T_TRAP16 || g.type == X86_T_TASK;
    if (!known)
        interp_gp(m, NULL, error);
    if (e->kind == EVENT_SOFTWARE && g.dpl < m->c.cpl)
        interp_gp(m, NULL, error);
    if (!g.present)
        interp_raise_vec(m, NULL, X86_NP, error);
    return g;
}

/* The code segment behind the gate, checked, and the CPL of the handler. */
static uint64_t gate_target(struct interp *m, const struct event *e, const struct gate *g, unsigned *cpl)
{
    struct x86_fault f;
    uint64_t raw;

    if (x86_sel_null(g->sel))
        interp_gp(m, NULL, e->ext);
    raw = sys_desc(m, NULL, g->sel, X86_GP, e->ext);
    if (!x86_check_code_gate(g->sel, raw, m->c.cpl, x86_long_mode(&m->c), &f))
        sys_raise(m, NULL, f, e->ext);
    *cpl = x86_desc_is_conforming(raw) ? m->c.cpl : x86_desc_dpl(raw);
    /* From virtual-8086 mode only ring 0 may be entered. */
    if ((m->c.rflags & X86_FL_VM) && *cpl != 0)
        interp_gp(m, NULL, (g->sel & X86_SEL_INDEX) | e->ext);
    sys_desc_accessed(m, NULL, g->sel, &raw);
    return raw;
}

static void deliver_long(struct interp *m, const struct event *e)
{
    struct cpu_state *c = &m->c;
    struct gate g = read_gate(m, e);
    unsigned cpl;
    uint64_t raw = gate_target(m, e, &g, &cpl);
    uint64_t rsp = c->gpr[X86_RSP];
    struct sys_stack s;

    if (g.ist)
        rsp = sys_tss_rsp(m, NULL, 0x24 + (g.ist - 1) * 8, e->ext);
    else if (cpl < c->cpl)
        rsp = sys_tss_rsp(m, NULL, 4 + cpl * 8, e->ext);
    if (!x86_canonical(rsp))
        interp_raise_vec(m, NULL, X86_SS, e->ext);
    if (!x86_canonical(g.off))
        interp_gp(m, NULL, e->ext);
    s = sys_stack_long(m, rsp & ~0xfUL, cpl);
    s.error = e->ext;
    sys_push(m, NULL, &s, 8, c->seg[X86_SS_SEG].sel);
    sys_push(m, NULL, &s, 8, c->gpr[X86_RSP]);
    sys_push(m, NULL, &s, 8, e->rflags);
    sys_push(m, NULL, &s, 8, c->seg[X86_CS].sel);
    sys_push(m, NULL, &s, 8, e->return_ip);
    if (e->has_error)
        sys_push(m, NULL, &s, 8, e->error);

    if (cpl < c->cpl)
        c->seg[X86_SS_SEG] = x86_seg_null((uint16_t)cpl, 0);
    c->gpr[X86_RSP] = s.sp;
    sys_commit_cs(m, g.sel, raw, cpl);
    c->rip = g.off;
    clear_flags(m, g.type == X86_T_INT);
}

static void push_legacy_frame(struct interp *m, const struct event *e, struct sys_stack *s, unsigned size,
                              bool switched)
{
    static const uint8_t vm86_segs[] = { X86_GS, X86_FS, X86_DS, X86_ES };
    const struct cpu_state *c = &m->c;

    if (c->rflags & X86_FL_VM)
        for (unsigned i = 0; i < ARRAY_LEN(vm86_segs); i++)
            sys_push(m, NULL, s, size, c->seg[vm86_segs[i]].sel);
    if (switched) {
        sys_push(m, NULL, s, size, c->seg[X86_SS_SEG].sel);
        sys_push(m, NULL, s, size, c->gpr[X86_RSP]);
    }
    sys_push(m, NULL, s, size, e->rflags);
    sys_push(m, NULL, s, size, c->seg[X86_CS].sel);
    sys_push(m, NULL, s, size, e->return_ip);
    if (e->has_error)
        sys_push(m, NULL, s, size, e->error);
}

static void deliver_protected(struct interp *m, const struct event *e)
{
    struct cpu_state *c = &m->c;
    struct gate g = read_gate(m, e);
    unsigned cpl, size;
    struct sys_stack s;
    uint64_t raw;
    bool vm86 = c->rflags & X86_FL_VM, switched;

    if (g.type == X86_T_TASK) {
        struct sys_task t = { .reason = TASK_EVENT,
                              .sel = g.sel,
                              .next_ip = e->return_ip,
                              .ext = e->ext,
                              .rflags = e->rflags,
                              .has_error = e->has_error,
                              .error = e->error };

        sys_task_switch(m, NULL, &t);
        return;
    }
    raw = gate_target(m, e, &g, &cpl);
    size = g.type == X86_T_INT || g.type == X86_T_TRAP ? 4 : 2;
    if (size == 2)
        g.off &= 0xffff;
    switched = cpl < c->cpl;
    if (switched) {
        s = sys_tss_stack(m, NULL, cpl, e->ext);
    } else {
        s = sys_stack_current(m);
        s.error = e->ext;
    }
    sys_check_ip(m, NULL, raw, g.off, e->ext);
    push_legacy_frame(m, e, &s, size, switched);

    if (vm86)
        for (unsigned i = X86_DS; i <= X86_GS; i++)
            c->seg[i] = x86_seg_null(0, 0);
    if (vm86)
        c->seg[X86_ES] = x86_seg_null(0, 0);
    if (switched)
        c->seg[X86_SS_SEG] = s.ss;
    sys_stack_commit_sp(m, &s);
    sys_commit_cs(m, g.sel, raw, cpl);
    c->rip = g.off;
    clear_flags(m, g.type == X86_T_INT || g.type == X86_T_INT16);
}

static void debug_status(struct cpu_state *c, uint64_t bits)
{
    c->dr[6] = (c->dr[6] & ~0xfUL) | bits;
    c->dr[7] &= ~(1UL << 13); /* GD */
}

/* SDM Vol. 3A, "Instruction-Breakpoint Exception Condition": faults push RF = 1 so that IRET resumes past it. */
static uint64_t flags_image(const struct interp *m, enum event_kind kind, unsigned vector)
{
    uint64_t fl = interp_rflags(m);

    if (kind == EVENT_EXCEPTION && vector != X86_DB)
        fl |= X86_FL_RF;
    return fl;
}

void interp_deliver(struct interp *m, enum event_kind kind, struct x86_fault f, uint64_t return_ip)
{
    struct cpu_state *c = &m->c;
    struct event e;

    if (kind == EVENT_EXCEPTION && f.vector == X86_PF)
        c->cr2 = f.addr;
    if (m->deliv.active && kind == EVENT_EXCEPTION)
        combine(m, &f);
    m->deliv.active = true;
    m->deliv.vector = f.vector;
    m->deliv.kind = (uint8_t)kind;
    if (kind == EVENT_EXTERNAL)
        m->v->stats.intr++;
    else if (kind != EVENT_SOFTWARE || f.vector == X86_BP || f.vector == X86_OF) /* INT n is no fault */
        m->v->stats.faults[f.vector & 31]++;
    if (kind == EVENT_EXCEPTION && f.vector == X86_DB)
        debug_status(c, f.addr);

    e = (struct event){ .kind = kind,
                        .vector = f.vector,
                        .has_error = f.has_error,
                        .error = f.error,
                        .return_ip = return_ip,
                        .ext = kind == EVENT_SOFTWARE ? 0 : ERR_EXT,
                        .rflags = flags_image(m, kind, f.vector) };
    if (x86_real_mode(c))
        deliver_real(m, &e);
    else if (x86_long_mode(c))
        deliver_long(m, &e);
    else
        deliver_protected(m, &e);

    m->deliv.active = false;
    c->int_shadow = false;
    if (kind == EVENT_EXTERNAL && f.vector == X86_NMI)
        c->nmi_blocked = true;
    interp_mode_changed(m);
}
