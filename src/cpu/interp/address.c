/* SPDX-License-Identifier: MIT */
/*
 * From segment:offset to linear address with every check, and what follows from the mode. The fast paths of
 * interp.h skip this only where there is nothing to check: 64-bit mode with 64-bit addresses.
 */
#include "cpu/interp/sys.h"

static _Noreturn void segment_fault(struct interp *m, const struct uop *u, unsigned seg)
{
    interp_raise_vec(m, u, seg == X86_SS_SEG ? X86_SS : X86_GP, 0);
}

gva_t interp_seg_lin(struct interp *m, const struct uop *u, unsigned seg, uint64_t off, unsigned len, bool write)
{
    const struct x86_seg *s = &m->c.seg[seg];

    if (m->mode == X86_MODE_64) {
        gva_t lin = off + (seg == X86_FS || seg == X86_GS ? s->base : 0);

        if (unlikely(!x86_canonical(lin) || !x86_canonical(lin + len - 1)))
            segment_fault(m, u, seg);
        return lin;
    }
    if (likely(interp_seg_flat(s) && off <= UINT32_MAX - (len - 1)))
        return (uint32_t)(s->base + off);
    if (unlikely(!x86_seg_in_limit(s, off, len)))
        segment_fault(m, u, seg);
    /* Neither real-address nor virtual-8086 mode has types; their CS may be written. */
    if (!x86_real_mode(&m->c) && !(m->c.rflags & X86_FL_VM)) {
        if ((s->attr & X86_SEG_UNUSABLE) || (write ? !x86_attr_writable(s->attr) : !x86_attr_readable(s->attr)))
            segment_fault(m, u, seg);
    }
    return (uint32_t)(s->base + off);
}

gva_t interp_ea_slow(struct interp *m, const struct uop *u, unsigned len, bool write)
{
    unsigned seg = u->i.seg;

    /* In 64-bit mode decode drops the segments without a base, but the stack faults of RSP and RBP remain. */
    if (seg == X86_SEG_NONE && (u->i.base == X86_RSP || u->i.base == X86_RBP))
        seg = X86_SS_SEG;
    return interp_seg_lin(m, u, seg, interp_ea_off(m, u), len, write);
}

void interp_mode_changed(struct interp *m)
{
    static const uint64_t masks[] = { [X86_MODE_16] = 0xffff, [X86_MODE_32] = 0xffffffff, [X86_MODE_64] = ~0UL };

    m->mode = x86_code_mode(&m->c);
    m->ip_mask = masks[m->mode];
    if (m->mode == X86_MODE_64)
        m->sp_mask = ~0UL;
    else
        m->sp_mask = m->c.seg[X86_SS_SEG].attr & X86_SEG_DB ? 0xffffffff : 0xffff;
    if (m->c.cpl == 3)
        m->ctx = (m->c.cr0 & X86_CR0_AM) && (m->c.rflags & X86_FL_AC) ? TLB_USER_AC : TLB_USER;
    else
        m->ctx = (m->c.cr4 & X86_CR4_SMAP) && !(m->c.rflags & X86_FL_AC) ? TLB_KERNEL : TLB_KERNEL_AC;
    m->tlb = m->tlbs[m->ctx];
}
