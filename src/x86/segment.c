/* SPDX-License-Identifier: MIT */
/* Segment descriptors: parsing, and the checks made when a segment register is loaded. */
#include "x86/segment.h"

static bool fail(unsigned vector, uint16_t sel, struct x86_fault *f)
{
    *f = (struct x86_fault){ .vector = (uint8_t)vector, .has_error = true, .error = sel & X86_SEL_INDEX };
    return false;
}

struct x86_seg x86_seg_parse(uint16_t sel, uint64_t raw, uint64_t high)
{
    struct x86_seg s = {
        .base = ((raw >> 16) & 0xffffff) | ((raw >> 56) & 0xff) << 24 | high << 32,
        .limit = (uint32_t)((raw & 0xffff) | ((raw >> 32) & 0xf0000)),
        .attr = x86_desc_attr(raw),
        .sel = sel,
    };

    if (s.attr & X86_SEG_G)
        s.limit = s.limit << 12 | 0xfff;
    return s;
}

void x86_seg_load_real(struct x86_seg *s, uint16_t sel)
{
    s->sel = sel;
    s->base = (uint64_t)sel << 4;
}

void x86_seg_load_vm86(struct x86_seg *s, uint16_t sel)
{
    *s = (struct x86_seg){
        .base = (uint64_t)sel << 4,
        .limit = 0xffff,
        .attr = X86_SEG_P | X86_SEG_DPL | X86_SEG_S | X86_T_RW | X86_T_ACCESSED,
        .sel = sel,
    };
}

struct x86_seg x86_seg_null(uint16_t sel, uint64_t base)
{
    return (struct x86_seg){ .base = base, .attr = X86_SEG_UNUSABLE, .sel = sel };
}

bool x86_desc_locate(const struct cpu_state *c, uint16_t sel, unsigned size, gva_t *addr)
{
    unsigned off = sel & 0xfff8U;

    if (sel & X86_SEL_TI) {
        if ((c->ldtr.attr & X86_SEG_UNUSABLE) || x86_sel_null(c->ldtr.sel) || off + size - 1 > c->ldtr.limit)
            return false;
        *addr = c->ldtr.base + off;
    } else {
        if (off + size - 1 > c->gdtr.limit)
            return false;
        *addr = c->gdtr.base + off;
    }
    return true;
}

bool x86_seg_in_limit(const struct x86_seg *s, uint64_t off, unsigned len)
{
    uint64_t last = off + len - 1;

    if ((s->attr & (X86_SEG_S | X86_T_CODE | X86_T_CE)) == (X86_SEG_S | X86_T_CE))
        return off > s->limit && last <= (s->attr & X86_SEG_DB ? 0xffffffff : 0xffff);
    return last <= s->limit;
}

bool x86_check_data(uint16_t sel, uint64_t raw, unsigned cpl, struct x86_fault *f)
{
    unsigned dpl = x86_desc_dpl(raw), rpl = sel & X86_SEL_RPL;

    if (!x86_attr_readable(x86_desc_attr(raw)))
        return fail(X86_GP, sel, f);
    if (!x86_desc_is_conforming(raw) && (rpl > dpl || cpl > dpl))
        return fail(X86_GP, sel, f);
    if (!x86_desc_present(raw))
        return fail(X86_NP, sel, f);
    return true;
}

bool x86_check_stack(uint16_t sel, uint64_t raw, unsigned cpl, unsigned vector, struct x86_fault *f)
{
    if ((sel & X86_SEL_RPL) != cpl || x86_desc_dpl(raw) != cpl || !x86_attr_writable(x86_desc_attr(raw)))
        return fail(vector, sel, f);
    if (!x86_desc_present(raw))
        return fail(X86_SS, sel, f);
    return true;
}

static bool long_and_default(uint64_t raw)
{
    return (x86_desc_attr(raw) & (X86_SEG_L | X86_SEG_DB)) == (X86_SEG_L | X86_SEG_DB);
}

bool x86_check_code_jump(uint16_t sel, uint64_t raw, unsigned cpl, bool long_mode, struct x86_fault *f)
{
    unsigned dpl = x86_desc_dpl(raw), rpl = sel & X86_SEL_RPL;

    if (!x86_desc_is_code(raw))
        return fail(X86_GP, sel, f);
    if (x86_desc_is_conforming(raw) ? dpl > cpl : (rpl > cpl || dpl != cpl))
        return fail(X86_GP, sel, f);
    if (long_mode && long_and_default(raw))
        return fail(X86_GP, sel, f);
    if (!x86_desc_present(raw))
        return fail(X86_NP, sel, f);
    return true;
}

bool x86_check_code_return(uint16_t sel, uint64_t raw, unsigned cpl, bool long_mode, struct x86_fault *f)
{
    unsigned dpl = x86_desc_dpl(raw), rpl = sel & X86_SEL_RPL;

    if (!x86_desc_is_code(raw) || rpl < cpl)
        return fail(X86_GP, sel, f);
    if (long_mode && long_and_default(raw))
        return fail(X86_GP, sel, f);
    if (x86_desc_is_conforming(raw) ? dpl > rpl : dpl != rpl)
        return fail(X86_GP, sel, f);
    if (!x86_desc_present(raw))
        return fail(X86_NP, sel, f);
    return true;
}

bool x86_check_code_gate(uint16_t sel, uint64_t raw, unsigned cpl, bool only64, struct x86_fault *f)
{
    if (!x86_desc_is_code(raw) || x86_desc_dpl(raw) > cpl)
        return fail(X86_GP, sel, f);
    if (only64 && (x86_desc_attr(raw) & (X86_SEG_L | X86_SEG_DB)) != X86_SEG_L)
        return fail(X86_GP, sel, f);
    if (!x86_desc_present(raw))
        return fail(X86_NP, sel, f);
    return true;
}

bool x86_seg_drop_on_return(const struct x86_seg *s, unsigned cpl)
{
    if (s->attr & X86_SEG_UNUSABLE)
        return false;
    if ((s->attr & (X86_T_CODE | X86_T_CE)) == (X86_T_CODE | X86_T_CE))
        return false;
    return ((s->attr & X86_SEG_DPL) >> X86_SEG_DPL_SHIFT) < cpl;
}
