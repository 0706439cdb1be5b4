/* SPDX-License-Identifier: MIT */
/* Far JMP, CALL and RET in every mode, call gates with and without change of privilege. */
#include <string.h>

#include "cpu/interp/sys.h"

/* Where a far transfer goes. */
struct target {
    uint16_t sel;
    uint64_t off;
    bool call;
    uint64_t next; /* return address */
    unsigned size; /* of the operand: 2, 4, 8 */
};

static struct target read_target(struct interp *m, const struct uop *u)
{
    struct target t = { .call = u->i.op == X86_OP_CALL_FAR, .next = interp_next_ip(m, u), .size = u->i.osz };

    if (u->i.form == X86_F_FAR) {
        t.off = (uint32_t)u->i.imm;
        t.sel = (uint16_t)(u->i.imm >> 32);
    } else {
        t.off = sys_read_far(m, u, t.size, &t.sel);
    }
    return t;
}

static void far_real(struct interp *m, const struct uop *u, const struct target *t)
{
    struct sys_stack s = sys_stack_current(m);

    if (t->off > m->c.seg[X86_CS].limit)
        interp_gp(m, u, 0);
    if (t->call) {
        sys_push(m, u, &s, t->size, m->c.seg[X86_CS].sel);
        sys_push(m, u, &s, t->size, t->next);
        sys_stack_commit_sp(m, &s);
    }
    if (sys_vm86(m))
        x86_seg_load_vm86(&m->c.seg[X86_CS], t->sel);
    else
        x86_seg_load_real(&m->c.seg[X86_CS], t->sel);
    m->c.rip = t->off;
}

/* To a code segment without gate, or through a gate without change of privilege: size is the pushed one. */
static void enter_same(struct interp *m, const struct uop *u, const struct target *t, uint64_t raw, unsigned size)
{
    struct sys_stack s = sys_stack_current(m);

    sys_desc_accessed(m, u, t->sel, &raw);
    sys_check_ip(m, u, raw, t->off, 0);
    if (t->call) {
        sys_push(m, u, &s, size, m->c.seg[X86_CS].sel);
        sys_push(m, u, &s, size, t->next);
        sys_stack_commit_sp(m, &s);
    }
    sys_commit_cs(m, t->sel, raw, m->c.cpl);
    m->c.rip = t->off;
}

static void enter_inner_long(struct interp *m, const struct uop *u, const struct target *t, uint64_t raw)
{
    struct cpu_state *c = &m->c;
    unsigned cpl = x86_desc_dpl(raw);
    struct sys_stack s = sys_stack_long(m, sys_tss_rsp(m, u, 4 + cpl * 8, 0), cpl);

    sys_check_ip(m, u, raw, t->off, 0);
    sys_push(m, u, &s, 8, c->seg[X86_SS_SEG].sel);
    sys_push(m, u, &s, 8, c->gpr[X86_RSP]);
    sys_push(m, u, &s, 8, c->seg[X86_CS].sel);
    sys_push(m, u, &s, 8, t->next);
    c->seg[X86_SS_SEG] = x86_seg_null((uint16_t)cpl, 0);
    c->gpr[X86_RSP] = s.sp;
    sys_commit_cs(m, t->sel, raw, cpl);
    c->rip = t->off;
}

static void enter_inner_legacy(struct interp *m, const struct uop *u, const struct target *t, uint64_t raw,
                               unsigned params)
{
    struct cpu_state *c = &m->c;
    unsigned cpl = x86_desc_dpl(raw);
    struct sys_stack old = sys_stack_current(m), s = sys_tss_stack(m, u, cpl, 0);
    uint32_t param[31];

    for (unsigned i = 0; i < params; i++)
        param[i] = (uint32_t)sys_pop(m, u, &old, t->size);
    sys_check_ip(m, u, raw, t->off, 0);
    sys_push(m, u, &s, t->size, c->seg[X86_SS_SEG].sel);
    sys_push(m, u, &s, t->size, c->gpr[X86_RSP]);
    while (params--)
        sys_push(m, u, &s, t->size, param[params]);
    sys_push(m, u, &s, t->size, c->seg[X86_CS].sel);
    sys_push(m, u, &s, t->size, t->next);
    c->seg[X86_SS_SEG] = s.ss;
    c->gpr[X86_RSP] = (c->gpr[X86_RSP] & ~s.mask) | s.sp;
    sys_commit_cs(m, t->sel, raw, cpl);
    c->rip = t->off;
}

static void through_gate(struct interp *m, const struct uop *u, struct target *t, uint64_t gate, uint64_t high)
{
    bool long_mode = x86_long_mode(&m->c);
    struct x86_fault f;
    uint64_t raw;

    t->sel = (uint16_t)(gate >> 16);
    t->off = (gate & 0xffff) | (gate >> 32 & 0xffff0000) | high << 32;
    t->size = long_mode ? 8 : x86_desc_type(gate) == X86_T_CALL ? 4 : 2;
    if (t->size == 2)
        t->off &= 0xffff;
    if (x86_sel_null(t->sel))
        interp_gp(m, u, 0);
    raw = sys_desc(m, u, t->sel, X86_GP, 0);
    if (!x86_check_code_gate(t->sel, raw, m->c.cpl, long_mode, &f))
        interp_raise(m, u, f);
    if (x86_desc_is_conforming(raw) || x86_desc_dpl(raw) == m->c.cpl) {
        enter_same(m, u, t, raw, t->size);
        return;
    }
    if (!t->call) /* a jump does not change privilege */
        interp_gp(m, u, t->sel & X86_SEL_INDEX);
    sys_desc_accessed(m, u, t->sel, &raw);
    if (long_mode)
        enter_inner_long(m, u, t, raw);
    else
        enter_inner_legacy(m, u, t, raw, (gate >> 32) & 0x1f);
}

static void to_system(struct interp *m, const struct uop *u, struct target *t)
{
    struct sys_task task = { .reason = t->call ? TASK_CALL : TASK_JMP, .sel = t->sel, .next_ip = t->next };
    bool long_mode = x86_long_mode(&m->c);
    uint64_t high, raw = sys_desc_sys(m, u, t->sel, &high);
    unsigned type = x86_desc_type(raw), dpl = x86_desc_dpl(raw);
    uint32_t error = t->sel & X86_SEL_INDEX;

    if (long_mode ? type != X86_T_CALL
                  : !((1U << type) &
                      (1 << X86_T_CALL | 1 << X86_T_CALL16 | 1 << X86_T_TASK | 1 << X86_T_TSS | 1 << X86_T_TSS16)))
        interp_gp(m, u, error);
    if (dpl < m->c.cpl || dpl < (t->sel & X86_SEL_RPL))
        interp_gp(m, u, error);
    if (!x86_desc_present(raw))
        interp_raise_vec(m, u, X86_NP, error);
    if (type == X86_T_CALL || type == X86_T_CALL16) {
        through_gate(m, u, t, raw, high);
        return;
    }
    if (type == X86_T_TASK)
        task.sel = (uint16_t)(raw >> 16);
    sys_task_switch(m, u, &task);
}

static void far_protected(struct interp *m, const struct uop *u, struct target *t)
{
    struct x86_fault f;
    uint64_t raw;

    if (x86_sel_null(t->sel))
        interp_gp(m, u, 0);
    raw = sys_desc(m, u, t->sel, X86_GP, 0);
    if (!x86_desc_is_s(raw)) {
        to_system(m, u, t);
        return;
    }
    if (!x86_check_code_jump(t->sel, raw, m->c.cpl, x86_long_mode(&m->c), &f))
        interp_raise(m, u, f);
    enter_same(m, u, t, raw, t->size);
}

static void fn_far(struct interp *m, const struct uop *u)
{
    struct target t = read_target(m, u);

    if (x86_real_mode(&m->c) || sys_vm86(m))
        far_real(m, u, &t);
    else
        far_protected(m, u, &t);
    interp_mode_changed(m);
}

static void retf_protected(struct interp *m, const struct uop *u, struct sys_stack *s, uint64_t release)
{
    struct cpu_state *c = &m->c;
    unsigned size = u->i.osz, rpl;
    uint64_t ip = sys_pop(m, u, s, size);
    uint16_t cs = (uint16_t)sys_pop(m, u, s, size), sel;
    uint64_t raw = sys_return_cs(m, u, cs, ip), sp;
    struct x86_seg ss;

    rpl = cs & X86_SEL_RPL;
    s->sp = (s->sp + release) & s->mask;
    if (rpl == c->cpl) {
        sys_stack_commit_sp(m, s);
    } else {
        sp = sys_pop(m, u, s, size);
        sel = (uint16_t)sys_pop(m, u, s, size);
        ss = sys_return_ss(m, u, sel, cs, raw);
        c->seg[X86_SS_SEG] = ss;
        sys_return_sp(m, sp + release, &ss, raw);
        sys_return_drop(m, rpl);
    }
    sys_commit_cs(m, cs, raw, rpl);
    c->rip = ip;
}

static void fn_retf(struct interp *m, const struct uop *u)
{
    struct sys_stack s = sys_stack_current(m);
    uint64_t release = u->i.form == X86_F_I ? (uint16_t)u->i.imm : 0;
    uint64_t ip;
    uint16_t cs;

    if (x86_real_mode(&m->c) || sys_vm86(m)) {
        ip = sys_pop(m, u, &s, u->i.osz);
        cs = (uint16_t)sys_pop(m, u, &s, u->i.osz);
        if (ip > m->c.seg[X86_CS].limit)
            interp_gp(m, u, 0);
        s.sp = (s.sp + release) & s.mask;
        sys_stack_commit_sp(m, &s);
        if (sys_vm86(m))
            x86_seg_load_vm86(&m->c.seg[X86_CS], cs);
        else
            x86_seg_load_real(&m->c.seg[X86_CS], cs);
        m->c.rip = ip;
    } else {
        retf_protected(m, u, &s, release);
    }
    interp_mode_changed(m);
}

uop_fn far_pick(const struct x86_insn *i)
{
    switch (i->op) {
    case X86_OP_JMP_FAR:
    case X86_OP_CALL_FAR:
        return fn_far;
    case X86_OP_RET_FAR:
        return fn_retf;
    default:
        return NULL;
    }
}
