/* SPDX-License-Identifier: MIT */
/* IRET in every mode: SDM Vol. 2A, "IRET/IRETD/IRETQ - Interrupt Return". */
#include <Zydis/Mnemonic.h>

#include "cpu/interp/sys.h"

#define ALWAYS (X86_FL_ARITH | X86_FL_TF | X86_FL_DF | X86_FL_NT | X86_FL_RF | X86_FL_AC | X86_FL_ID)

static void set_flags(struct interp *m, uint64_t val, uint64_t change, unsigned size)
{
    if (size == 2)
        change &= 0xffff;
    m->c.rflags = (m->c.rflags & ~change) | (val & change);
    interp_set_arith(m, val);
}

static void iret_real(struct interp *m, const struct uop *u)
{
    struct sys_stack s = sys_stack_current(m);
    unsigned size = u->i.osz;
    uint64_t change = ALWAYS | X86_FL_IF | X86_FL_IOPL;
    uint64_t ip, cs, fl;

    if (sys_vm86(m)) {
        if (sys_iopl(m) < 3)
            interp_gp(m, u, 0);
        change &= ~(uint64_t)X86_FL_IOPL;
    }
    ip = sys_pop(m, u, &s, size);
    cs = sys_pop(m, u, &s, size);
    fl = sys_pop(m, u, &s, size);
    if (ip > m->c.seg[X86_CS].limit)
        interp_gp(m, u, 0);
    if (sys_vm86(m))
        x86_seg_load_vm86(&m->c.seg[X86_CS], (uint16_t)cs);
    else
        x86_seg_load_real(&m->c.seg[X86_CS], (uint16_t)cs);
    set_flags(m, fl, change, size);
    sys_stack_commit_sp(m, &s);
    m->c.rip = ip;
}

static void iret_to_vm86(struct interp *m, const struct uop *u, struct sys_stack *s, const uint64_t frame[3])
{
    static const uint8_t order[] = { X86_SS_SEG, X86_ES, X86_DS, X86_FS, X86_GS };
    uint16_t sel[ARRAY_LEN(order)];
    uint64_t sp = sys_pop(m, u, s, 4);

    for (unsigned i = 0; i < ARRAY_LEN(order); i++)
        sel[i] = (uint16_t)sys_pop(m, u, s, 4);
    if (frame[0] > 0xffff)
        interp_gp(m, u, 0);
    for (unsigned i = 0; i < ARRAY_LEN(order); i++)
        x86_seg_load_vm86(&m->c.seg[order[i]], sel[i]);
    x86_seg_load_vm86(&m->c.seg[X86_CS], (uint16_t)frame[1]);
    m->c.gpr[X86_RSP] = sp;
    m->c.rip = frame[0];
    m->c.rflags = (frame[2] & (ALWAYS | X86_FL_IF | X86_FL_IOPL | X86_FL_VM | X86_FL_VIF | X86_FL_VIP)) | X86_FL_1;
    interp_set_arith(m, frame[2]);
    m->c.cpl = 3;
}

static void iret_task(struct interp *m, const struct uop *u)
{
    struct sys_task t = { .reason = TASK_IRET, .next_ip = interp_next_ip(m, u) };

    if (x86_long_mode(&m->c))
        interp_gp(m, u, 0);
    interp_read(m, u, interp_sys_ctx(m), m->c.tr.base, &t.sel, 2);
    sys_task_switch(m, u, &t);
}

static void iret_protected(struct interp *m, const struct uop *u)
{
    struct sys_stack s = sys_stack_current(m);
    struct cpu_state *c = &m->c;
    unsigned size = u->i.osz, rpl;
    uint64_t change = ALWAYS, frame[3], sp = 0, raw;
    struct x86_seg ss = c->seg[X86_SS_SEG];
    uint16_t cs;
    bool outer, pops_ss;

    for (unsigned i = 0; i < 3; i++)
        frame[i] = sys_pop(m, u, &s, size);
    if ((frame[2] & X86_FL_VM) && size == 4 && c->cpl == 0 && !x86_long_mode(c)) {
        iret_to_vm86(m, u, &s, frame);
        return;
    }
    cs = (uint16_t)frame[1];
    raw = sys_return_cs(m, u, cs, frame[0]);
    rpl = cs & X86_SEL_RPL;
    outer = rpl > c->cpl;
    pops_ss = outer || m->mode == X86_MODE_64;
    if (pops_ss) {
        uint16_t sel;

        sp = sys_pop(m, u, &s, size);
        sel = (uint16_t)sys_pop(m, u, &s, size);
        ss = sys_return_ss(m, u, sel, cs, raw);
    }
    if (c->cpl == 0)
        change |= X86_FL_IOPL | X86_FL_VIF | X86_FL_VIP;
    if (c->cpl <= sys_iopl(m))
        change |= X86_FL_IF;

    set_flags(m, frame[2], change, size);
    sys_commit_cs(m, cs, raw, rpl);
    if (pops_ss) {
        c->seg[X86_SS_SEG] = ss;
        sys_return_sp(m, sp, &ss, raw);
    } else {
        sys_stack_commit_sp(m, &s);
    }
    if (outer)
        sys_return_drop(m, rpl);
    c->rip = frame[0];
}

static void fn_iret(struct interp *m, const struct uop *u)
{
    if (x86_real_mode(&m->c) || sys_vm86(m))
        iret_real(m, u);
    else if (m->c.rflags & X86_FL_NT)
        iret_task(m, u);
    else
        iret_protected(m, u);
    if (m->c.nmi_blocked) { /* the vCPU may have kept another one back: it must look again */
        m->c.nmi_blocked = false;
        m->v->ops->kick(m->v);
    }
    interp_mode_changed(m);
}

uop_fn iret_pick(const struct x86_insn *i)
{
    switch (i->op) {
    case ZYDIS_MNEMONIC_IRET:
    case ZYDIS_MNEMONIC_IRETD:
    case ZYDIS_MNEMONIC_IRETQ:
        return fn_iret;
    default:
        return NULL;
    }
}
