/* SPDX-License-Identifier: MIT */
/*
 * Hardware task switching: SDM Vol. 3A, "Task Switching", legacy modes only.
 *
 * Both TSS images are handled as 32-bit ones; a 16-bit TSS is converted when it is read and written. Everything up
 * to the load of the new state faults in the old task; the segment loads afterwards fault in the new one, as on
 * hardware, with the selectors already in place.
 */
#include <string.h>

#include "cpu/interp/sys.h"

enum { LIMIT32 = 0x67, LIMIT16 = 0x2b, CR3_OFF = 0x1c };

static const uint8_t sreg_order[] = { X86_ES, X86_CS, X86_SS_SEG, X86_DS, X86_FS, X86_GS };
enum { SREGS32 = 6, SREGS16 = 4 };

/* The part of a TSS that a switch saves and loads. */
struct task_regs {
    uint32_t eip, eflags, gpr[8];
    uint16_t sreg[6], ldt;
    uint32_t cr3;
    bool trap;
};

static bool is_tss32(uint64_t raw)
{
    return x86_desc_type(raw) & 8;
}

static void read_regs(struct interp *m, const struct uop *u, const struct x86_seg *tss, bool is32, struct task_regs *r)
{
    enum tlb_ctx ctx = interp_sys_ctx(m);
    uint8_t buf[LIMIT32 + 1];

    memset(r, 0, sizeof(*r));
    interp_read(m, u, ctx, tss->base, buf, is32 ? LIMIT32 + 1 : LIMIT16 + 1);
    if (is32) {
        memcpy(&r->cr3, buf + CR3_OFF, 4);
        memcpy(&r->eip, buf + 0x20, 4);
        memcpy(&r->eflags, buf + 0x24, 4);
        memcpy(r->gpr, buf + 0x28, 32);
        for (unsigned i = 0; i < SREGS32; i++)
            memcpy(&r->sreg[i], buf + 0x48 + 4 * i, 2);
        memcpy(&r->ldt, buf + 0x60, 2);
        r->trap = buf[0x64] & 1;
        return;
    }
    memcpy(&r->eip, buf + 0x0e, 2);
    memcpy(&r->eflags, buf + 0x10, 2);
    for (unsigned i = 0; i < 8; i++)
        memcpy(&r->gpr[i], buf + 0x12 + 2 * i, 2);
    for (unsigned i = 0; i < SREGS16; i++)
        memcpy(&r->sreg[i], buf + 0x22 + 2 * i, 2);
    memcpy(&r->ldt, buf + 0x2a, 2);
}

/* Saves the old task's dynamic fields: EIP to GS (or DS). */
static void save_regs(struct interp *m, const struct uop *u, bool is32, uint32_t eip, uint32_t eflags)
{
    const struct cpu_state *c = &m->c;
    uint8_t buf[0x40] = { 0 };
    unsigned start = is32 ? 0x20 : 0x0e, len = is32 ? 0x40 : 0x1c, w = is32 ? 4 : 2, at = 0;

    memcpy(buf, &eip, w);
    memcpy(buf + w, &eflags, w);
    at = 2 * w;
    for (unsigned i = 0; i < 8; i++, at += w)
        memcpy(buf + at, &c->gpr[i], w);
    for (unsigned i = 0; i < (is32 ? SREGS32 : SREGS16); i++, at += w)
        memcpy(buf + at, &c->seg[sreg_order[i]].sel, 2);
    interp_write(m, u, interp_sys_ctx(m), c->tr.base + start, buf, len);
}

/* The TSS descriptor that is switched to, checked for the reason. */
static uint64_t target_tss(struct interp *m, const struct uop *u, const struct sys_task *t)
{
    unsigned vector = t->reason == TASK_IRET ? X86_TS : X86_GP;
    uint32_t error = (t->sel & X86_SEL_INDEX) | t->ext;
    unsigned type, busy = t->reason == TASK_IRET ? 2 : 0;
    uint64_t raw;

    if (x86_sel_null(t->sel) || (t->sel & X86_SEL_TI))
        interp_raise_vec(m, u, vector, error);
    raw = sys_desc(m, u, t->sel, vector, t->ext);
    type = x86_desc_type(raw);
    if (x86_desc_is_s(raw) || (type & ~8U) != (1 | busy))
        interp_raise_vec(m, u, vector, error);
    if (!x86_desc_present(raw))
        interp_raise_vec(m, u, X86_NP, error);
    if (x86_seg_parse(t->sel, raw, 0).limit < (is_tss32(raw) ? LIMIT32 : LIMIT16))
        interp_raise_vec(m, u, X86_TS, error);
    return raw;
}

/* ---- the new task's segments; faults are #TS in the new task ---- */

static _Noreturn void bad_segment(struct interp *m, unsigned vector, uint16_t sel, uint32_t ext)
{
    interp_mode_changed(m);
    interp_raise_vec(m, NULL, vector, (sel & X86_SEL_INDEX) | ext);
}

static void load_ldt(struct interp *m, uint16_t sel, uint32_t ext)
{
    uint64_t raw;

    m->c.ldtr = x86_seg_null(sel, 0);
    if (x86_sel_null(sel))
        return;
    if (sel & X86_SEL_TI)
        bad_segment(m, X86_TS, sel, ext);
    raw = sys_desc(m, NULL, sel, X86_TS, ext);
    if (x86_desc_is_s(raw) || x86_desc_type(raw) != X86_T_LDT || !x86_desc_present(raw))
        bad_segment(m, X86_TS, sel, ext);
    m->c.ldtr = x86_seg_parse(sel, raw, 0);
}

static void load_cs(struct interp *m, uint16_t sel, uint32_t ext)
{
    unsigned rpl = sel & X86_SEL_RPL;
    uint64_t raw;

    if (x86_sel_null(sel))
        bad_segment(m, X86_TS, sel, ext);
    raw = sys_desc(m, NULL, sel, X86_TS, ext);
    if (!x86_desc_is_code(raw) || (x86_desc_is_conforming(raw) ? x86_desc_dpl(raw) > rpl : x86_desc_dpl(raw) != rpl))
        bad_segment(m, X86_TS, sel, ext);
    if (!x86_desc_present(raw))
        bad_segment(m, X86_NP, sel, ext);
    sys_desc_accessed(m, NULL, sel, &raw);
    sys_commit_cs(m, sel, raw, rpl);
}

static void load_data_or_ss(struct interp *m, unsigned sreg, uint16_t sel, uint32_t ext)
{
    struct x86_fault f;
    uint64_t raw;
    bool ok;

    if (x86_sel_null(sel)) {
        if (sreg == X86_SS_SEG)
            bad_segment(m, X86_TS, sel, ext);
        m->c.seg[sreg] = x86_seg_null(sel, 0);
        return;
    }
    raw = sys_desc(m, NULL, sel, X86_TS, ext);
    ok = sreg == X86_SS_SEG ? x86_check_stack(sel, raw, m->c.cpl, X86_TS, &f) : x86_check_data(sel, raw, m->c.cpl, &f);
    if (!ok)
        bad_segment(m, f.vector == X86_GP ? X86_TS : f.vector, sel, ext);
    sys_desc_accessed(m, NULL, sel, &raw);
    m->c.seg[sreg] = x86_seg_parse(sel, raw, 0);
}

static void load_segments(struct interp *m, const struct task_regs *r, uint32_t ext)
{
    struct cpu_state *c = &m->c;

    for (unsigned i = 0; i < ARRAY_LEN(sreg_order); i++)
        c->seg[sreg_order[i]] = x86_seg_null(r->sreg[i], 0);
    load_ldt(m, r->ldt, ext);
    if (c->rflags & X86_FL_VM) {
        for (unsigned i = 0; i < ARRAY_LEN(sreg_order); i++)
            x86_seg_load_vm86(&c->seg[sreg_order[i]], r->sreg[i]);
        c->cpl = 3;
        return;
    }
    c->cpl = r->sreg[1] & X86_SEL_RPL;
    load_cs(m, r->sreg[1], ext);
    load_data_or_ss(m, X86_SS_SEG, r->sreg[2], ext);
    load_data_or_ss(m, X86_ES, r->sreg[0], ext);
    for (unsigned i = 3; i < ARRAY_LEN(sreg_order); i++)
        load_data_or_ss(m, sreg_order[i], r->sreg[i], ext);
}

/* The new task's paging; its tables are those of the new CR3 from here on. */
static void load_cr3(struct interp *m, uint32_t cr3, uint32_t error)
{
    struct cpu_state *c = &m->c;

    if (!(c->cr0 & X86_CR0_PG))
        return;
    if ((c->cr4 & X86_CR4_PAE) && !x86_load_pdptes(c, &m->phys, cr3))
        interp_raise_vec(m, NULL, X86_TS, error);
    c->cr3 = cr3;
    interp_tlb_flush(m, true);
}

static void push_error(struct interp *m, const struct sys_task *t, bool is32)
{
    struct sys_stack s;

    if (!t->has_error)
        return;
    interp_mode_changed(m);
    s = sys_stack_current(m);
    s.error = t->ext;
    sys_push(m, NULL, &s, is32 ? 4 : 2, t->error);
    sys_stack_commit_sp(m, &s);
}

void sys_task_switch(struct interp *m, const struct uop *u, const struct sys_task *t)
{
    struct cpu_state *c = &m->c;
    bool nested = t->reason == TASK_CALL || t->reason == TASK_EVENT, is32, old32 = c->tr.attr & 8;
    uint64_t raw = target_tss(m, u, t), flags = interp_rflags(m);
    struct x86_seg tss = x86_seg_parse(t->sel, raw, 0);
    uint16_t old_sel = c->tr.sel;
    struct task_regs r;

    is32 = is_tss32(raw);
    read_regs(m, u, &tss, is32, &r);
    if (t->reason == TASK_IRET)
        flags &= ~(uint64_t)X86_FL_NT;
    if (t->reason == TASK_EVENT)
        flags = t->rflags;
    save_regs(m, u, old32, (uint32_t)t->next_ip, (uint32_t)flags);
    if (nested)
        interp_write(m, u, interp_sys_ctx(m), tss.base, &old_sel, 2);
    else
        sys_desc_set_type(m, u, old_sel, old32 ? X86_T_TSS : X86_T_TSS16);
    if (t->reason != TASK_IRET)
        sys_desc_set_type(m, u, t->sel, is32 ? X86_T_TSS_BUSY : X86_T_TSS16_BUSY);

    c->tr = tss;
    c->tr.attr |= 2;
    c->cr0 |= X86_CR0_TS;
    c->dr[7] &= ~0x155UL; /* local break points */
    if (is32)
        load_cr3(m, r.cr3, (t->sel & X86_SEL_INDEX) | t->ext);
    c->rip = r.eip;
    c->rflags = (r.eflags & 0x3f7fd5) | X86_FL_1;
    if (nested)
        c->rflags |= X86_FL_NT;
    interp_set_arith(m, c->rflags);
    for (unsigned i = 0; i < 8; i++)
        c->gpr[i] = is32 ? r.gpr[i] : 0xffff0000 | r.gpr[i];
    load_segments(m, &r, t->ext);
    push_error(m, t, is32);
    if (c->rip > c->seg[X86_CS].limit)
        bad_segment(m, X86_GP, 0, t->ext);
    if (r.trap)
        c->pending_db |= 1U << 15; /* BT */
    interp_debug_changed(m);
    interp_mode_changed(m);
}
