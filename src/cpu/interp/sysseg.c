/* SPDX-License-Identifier: MIT */
/* Instructions on segment registers, descriptor tables, LDTR, TR, and on the rights of selectors. */
#include <string.h>

#include <Zydis/Mnemonic.h>

#include "cpu/interp/sys.h"

/* ---- loading and storing segment registers ---- */

static void load_ss(struct interp *m, const struct uop *u, uint16_t sel)
{
    struct x86_fault f;
    uint64_t raw;

    if (x86_sel_null(sel)) {
        if (m->mode != X86_MODE_64 || m->c.cpl == 3 || (sel & X86_SEL_RPL) != m->c.cpl)
            interp_gp(m, u, 0);
        m->c.seg[X86_SS_SEG] = x86_seg_null(sel, 0);
        return;
    }
    raw = sys_desc(m, u, sel, X86_GP, 0);
    if (!x86_check_stack(sel, raw, m->c.cpl, X86_GP, &f))
        interp_raise(m, u, f);
    sys_desc_accessed(m, u, sel, &raw);
    m->c.seg[X86_SS_SEG] = x86_seg_parse(sel, raw, 0);
}

static void load_data(struct interp *m, const struct uop *u, unsigned sreg, uint16_t sel)
{
    struct x86_fault f;
    uint64_t raw;

    if (x86_sel_null(sel)) {
        m->c.seg[sreg] = x86_seg_null(sel, 0);
        return;
    }
    raw = sys_desc(m, u, sel, X86_GP, 0);
    if (!x86_check_data(sel, raw, m->c.cpl, &f))
        interp_raise(m, u, f);
    sys_desc_accessed(m, u, sel, &raw);
    m->c.seg[sreg] = x86_seg_parse(sel, raw, 0);
}

void sys_load_sreg(struct interp *m, const struct uop *u, unsigned sreg, uint16_t sel)
{
    if (x86_real_mode(&m->c))
        x86_seg_load_real(&m->c.seg[sreg], sel);
    else if (sys_vm86(m))
        x86_seg_load_vm86(&m->c.seg[sreg], sel);
    else if (sreg == X86_SS_SEG)
        load_ss(m, u, sel);
    else
        load_data(m, u, sreg, sel);
    if (sreg == X86_SS_SEG)
        interp_mode_changed(m);
}

/* A 16-bit source that is a register in its second (or only) place, or memory. */
static uint16_t read_rm16(struct interp *m, const struct uop *u, unsigned reg)
{
    if (u->i.form == X86_F_M || u->i.form == X86_F_RM)
        return interp_ld16(m, u, interp_ea(m, u, 2, false));
    return (uint16_t)m->c.gpr[reg];
}

static void fn_mov_to_seg(struct interp *m, const struct uop *u)
{
    if (u->i.r0 == X86_CS || u->i.r0 > X86_GS)
        interp_ud(m, u);
    sys_load_sreg(m, u, u->i.r0, read_rm16(m, u, u->i.r1));
    if (u->i.r0 == X86_SS_SEG)
        m->c.int_shadow = true;
    sys_done(m, u);
}

static void fn_mov_from_seg(struct interp *m, const struct uop *u)
{
    if (u->i.form == X86_F_MR) {
        interp_st16(m, u, interp_ea(m, u, 2, true), m->c.seg[u->i.r0].sel);
        sys_done(m, u);
        return;
    }
    set_reg(m, u->i.r0, u->i.osz, m->c.seg[u->i.r1].sel);
    sys_done(m, u);
}

static void fn_push_seg(struct interp *m, const struct uop *u)
{
    struct sys_stack s = sys_stack_current(m);
    unsigned size = u->i.osz;

    if (size == 4 && m->v->model->vendor == X86_VENDOR_INTEL) { /* leaves the upper half alone */
        s.sp -= 2;
        size = 2;
    }
    sys_push(m, u, &s, size, m->c.seg[u->i.r0].sel);
    sys_stack_commit_sp(m, &s);
    sys_done(m, u);
}

static void fn_pop_seg(struct interp *m, const struct uop *u)
{
    struct sys_stack s = sys_stack_current(m);
    uint16_t sel = (uint16_t)sys_pop(m, u, &s, u->i.osz);

    sys_load_sreg(m, u, u->i.r0, sel);
    sys_stack_commit_sp(m, &s);
    if (u->i.r0 == X86_SS_SEG)
        m->c.int_shadow = true;
    sys_done(m, u);
}

/* LDS, LES, LSS, LFS, LGS */
static void fn_load_far(struct interp *m, const struct uop *u)
{
    unsigned size = u->i.osz, sreg;
    uint64_t off;
    uint16_t sel;

    switch (u->i.op) {
    case ZYDIS_MNEMONIC_LDS:
        sreg = X86_DS;
        break;
    case ZYDIS_MNEMONIC_LES:
        sreg = X86_ES;
        break;
    case ZYDIS_MNEMONIC_LFS:
        sreg = X86_FS;
        break;
    case ZYDIS_MNEMONIC_LGS:
        sreg = X86_GS;
        break;
    default:
        sreg = X86_SS_SEG;
        break;
    }
    off = sys_read_far(m, u, size, &sel);
    sys_load_sreg(m, u, sreg, sel);
    set_reg(m, u->i.r0, size, off);
    sys_done(m, u);
}

/* ---- descriptor tables ---- */

static void umip_check(struct interp *m, const struct uop *u)
{
    if ((m->c.cr4 & X86_CR4_UMIP) && m->c.cpl != 0)
        interp_gp(m, u, 0);
}

static void fn_load_table(struct interp *m, const struct uop *u)
{
    unsigned base_size = m->mode == X86_MODE_64 ? 8 : 4;
    struct x86_dtable t = { 0 };
    uint8_t buf[10];

    sys_need_cpl0(m, u);
    interp_read(m, u, m->ctx, interp_ea(m, u, 2 + base_size, false), buf, 2 + base_size);
    memcpy(&t.limit, buf, 2);
    memcpy(&t.base, buf + 2, base_size);
    if (m->mode != X86_MODE_64 && u->i.osz == 2)
        t.base &= 0xffffff;
    if (!x86_canonical(t.base))
        interp_gp(m, u, 0);
    if (u->i.op == ZYDIS_MNEMONIC_LGDT)
        m->c.gdtr = t;
    else
        m->c.idtr = t;
    sys_done(m, u);
}

static void fn_store_table(struct interp *m, const struct uop *u)
{
    const struct x86_dtable *t = u->i.op == ZYDIS_MNEMONIC_SGDT ? &m->c.gdtr : &m->c.idtr;
    unsigned base_size = m->mode == X86_MODE_64 ? 8 : 4;
    uint8_t buf[10];

    umip_check(m, u);
    memcpy(buf, &t->limit, 2);
    memcpy(buf + 2, &t->base, base_size);
    interp_write(m, u, m->ctx, interp_ea(m, u, 2 + base_size, true), buf, 2 + base_size);
    sys_done(m, u);
}

/* The descriptor for LLDT and LTR, checked but for its type. */
static uint64_t system_desc(struct interp *m, const struct uop *u, uint16_t sel, unsigned types, uint64_t *high)
{
    uint64_t raw;

    if (sel & X86_SEL_TI)
        interp_gp(m, u, sel & X86_SEL_INDEX);
    raw = sys_desc_sys(m, u, sel, high);
    if (x86_desc_is_s(raw) || !(types >> x86_desc_type(raw) & 1))
        interp_gp(m, u, sel & X86_SEL_INDEX);
    if (!x86_desc_present(raw))
        interp_raise_vec(m, u, X86_NP, sel & X86_SEL_INDEX);
    if (!x86_canonical(x86_seg_parse(sel, raw, *high).base))
        interp_gp(m, u, sel & X86_SEL_INDEX);
    return raw;
}

static void fn_lldt(struct interp *m, const struct uop *u)
{
    uint64_t raw, high;
    uint16_t sel;

    sys_need_protected(m, u);
    sys_need_cpl0(m, u);
    sel = read_rm16(m, u, u->i.r0);
    if (x86_sel_null(sel)) {
        m->c.ldtr = x86_seg_null(sel, 0);
    } else {
        raw = system_desc(m, u, sel, 1 << X86_T_LDT, &high);
        m->c.ldtr = x86_seg_parse(sel, raw, high);
    }
    sys_done(m, u);
}

static void fn_ltr(struct interp *m, const struct uop *u)
{
    unsigned types = 1 << X86_T_TSS | (x86_long_mode(&m->c) ? 0 : 1 << X86_T_TSS16);
    uint64_t raw, high;
    uint16_t sel;

    sys_need_protected(m, u);
    sys_need_cpl0(m, u);
    sel = read_rm16(m, u, u->i.r0);
    if (x86_sel_null(sel))
        interp_gp(m, u, 0);
    raw = system_desc(m, u, sel, types, &high);
    raw |= 2UL << 40; /* busy */
    sys_desc_set_type(m, u, sel, x86_desc_type(raw));
    m->c.tr = x86_seg_parse(sel, raw, high);
    sys_done(m, u);
}

/* SLDT, STR */
static void fn_store_sel(struct interp *m, const struct uop *u)
{
    uint16_t sel = u->i.op == ZYDIS_MNEMONIC_SLDT ? m->c.ldtr.sel : m->c.tr.sel;

    sys_need_protected(m, u);
    umip_check(m, u);
    if (u->i.form == X86_F_M)
        interp_st16(m, u, interp_ea(m, u, 2, true), sel);
    else
        set_reg(m, u->i.r0, u->i.osz, sel);
    sys_done(m, u);
}

/* ---- LAR, LSL, VERR, VERW, ARPL ---- */

static void set_zf(struct interp *m, bool on)
{
    m->af = on ? m->af | 0x4000 : m->af & ~0x4000U;
}

/* Reads the descriptor if there is one; no fault but those of memory. */
static bool peek_desc(struct interp *m, const struct uop *u, uint16_t sel, uint64_t *raw)
{
    gva_t addr;

    if (x86_sel_null(sel) || !x86_desc_locate(&m->c, sel, 8, &addr))
        return false;
    interp_read(m, u, interp_sys_ctx(m), addr, raw, 8);
    return true;
}

static bool visible(const struct interp *m, uint16_t sel, uint64_t raw)
{
    unsigned dpl = x86_desc_dpl(raw);

    return x86_desc_is_conforming(raw) || (dpl >= m->c.cpl && dpl >= (sel & X86_SEL_RPL));
}

static void fn_lar_lsl(struct interp *m, const struct uop *u)
{
    bool lar = u->i.op == ZYDIS_MNEMONIC_LAR;
    unsigned types = 1 << X86_T_LDT | 1 << X86_T_TSS | 1 << X86_T_TSS_BUSY;
    uint16_t sel;
    uint64_t raw, val;
    bool ok;

    sys_need_protected(m, u);
    if (lar)
        types |= 1 << X86_T_CALL;
    if (!x86_long_mode(&m->c))
        types |= 1 << X86_T_TSS16 | 1 << X86_T_TSS16_BUSY | (lar ? 1 << X86_T_CALL16 | 1 << X86_T_TASK : 0);
    sel = read_rm16(m, u, u->i.r1);
    ok =
        peek_desc(m, u, sel, &raw) && visible(m, sel, raw) && (x86_desc_is_s(raw) || (types >> x86_desc_type(raw) & 1));
    if (ok) {
        val = lar ? (raw >> 32) & 0x00ffff00 : x86_seg_parse(sel, raw, 0).limit;
        set_reg(m, u->i.r0, u->i.osz, val);
    }
    set_zf(m, ok);
    sys_done(m, u);
}

static void fn_verify(struct interp *m, const struct uop *u)
{
    bool write = u->i.op == ZYDIS_MNEMONIC_VERW;
    uint16_t sel;
    uint64_t raw;

    sys_need_protected(m, u);
    sel = read_rm16(m, u, u->i.r0);
    set_zf(m, peek_desc(m, u, sel, &raw) && visible(m, sel, raw) &&
                  (write ? x86_attr_writable(x86_desc_attr(raw)) : x86_attr_readable(x86_desc_attr(raw))));
    sys_done(m, u);
}

static void fn_arpl(struct interp *m, const struct uop *u)
{
    bool mem = u->i.form == X86_F_MR;
    uint16_t src = (uint16_t)m->c.gpr[mem ? u->i.r0 : u->i.r1], dst;
    gva_t lin = 0;
    bool raise;

    sys_need_protected(m, u);
    if (mem) {
        lin = interp_ea(m, u, 2, false);
        dst = interp_ld16(m, u, lin);
    } else {
        dst = (uint16_t)m->c.gpr[u->i.r0];
    }
    raise = (dst & X86_SEL_RPL) < (src & X86_SEL_RPL);
    if (raise) {
        dst = (uint16_t)((dst & ~X86_SEL_RPL) | (src & X86_SEL_RPL));
        if (mem)
            interp_st16(m, u, interp_ea(m, u, 2, true), dst);
        else
            set_reg16(m, u->i.r0, dst);
    }
    set_zf(m, raise);
    sys_done(m, u);
}

uop_fn sysseg_pick(const struct x86_insn *i)
{
    switch (i->op) {
    case X86_OP_MOV_TO_SEG:
        return fn_mov_to_seg;
    case X86_OP_MOV_FROM_SEG:
        return fn_mov_from_seg;
    case X86_OP_PUSH_SEG:
        return fn_push_seg;
    case X86_OP_POP_SEG:
        return fn_pop_seg;
    case ZYDIS_MNEMONIC_LDS:
    case ZYDIS_MNEMONIC_LES:
    case ZYDIS_MNEMONIC_LSS:
    case ZYDIS_MNEMONIC_LFS:
    case ZYDIS_MNEMONIC_LGS:
        return fn_load_far;
    case ZYDIS_MNEMONIC_LGDT:
    case ZYDIS_MNEMONIC_LIDT:
        return fn_load_table;
    case ZYDIS_MNEMONIC_SGDT:
    case ZYDIS_MNEMONIC_SIDT:
        return fn_store_table;
    case ZYDIS_MNEMONIC_LLDT:
        return fn_lldt;
    case ZYDIS_MNEMONIC_LTR:
        return fn_ltr;
    case ZYDIS_MNEMONIC_SLDT:
    case ZYDIS_MNEMONIC_STR:
        return fn_store_sel;
    case ZYDIS_MNEMONIC_LAR:
    case ZYDIS_MNEMONIC_LSL:
        return fn_lar_lsl;
    case ZYDIS_MNEMONIC_VERR:
    case ZYDIS_MNEMONIC_VERW:
        return fn_verify;
    case ZYDIS_MNEMONIC_ARPL:
        return fn_arpl;
    default:
        return NULL;
    }
}
