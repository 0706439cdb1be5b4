/* SPDX-License-Identifier: MIT */
/*
 * Control and debug registers, TLB and cache instructions. The TLB has no PCID tags: it only ever holds the current
 * PCID's entries, which the architecture allows, so every change of CR3 drops all that is not global.
 */
#include <Zydis/Mnemonic.h>

#include "cpu/interp/sys.h"

#define CR0_KNOWN                                                                                                      \
    (X86_CR0_PE | X86_CR0_MP | X86_CR0_EM | X86_CR0_TS | X86_CR0_ET | X86_CR0_NE | X86_CR0_WP | X86_CR0_AM |           \
     X86_CR0_NW | X86_CR0_CD | X86_CR0_PG)
#define CR3_NOFLUSH (1UL << 63)
#define CR3_PCID 0xfffUL

/* ---- CR0 ---- */

static void load_pdptes(struct interp *m, const struct uop *u, uint64_t cr3)
{
    if (!x86_load_pdptes(&m->c, &m->phys, cr3))
        interp_gp(m, u, 0);
}

static bool pae_paging(const struct interp *m, uint64_t cr0, uint64_t cr4)
{
    return (cr0 & X86_CR0_PG) && (cr4 & X86_CR4_PAE) && !(m->c.msr.efer & X86_EFER_LME);
}

/* SDM Vol. 3A, "Initializing IA-32e Mode" and "IA-32e Mode Operation" for what PG may and may not do. */
static void set_cr0(struct interp *m, const struct uop *u, uint64_t val)
{
    struct cpu_state *c = &m->c;
    uint64_t changed;

    if (val >> 32)
        interp_gp(m, u, 0);
    val = (val & CR0_KNOWN) | X86_CR0_ET;
    changed = val ^ c->cr0;
    if ((val & X86_CR0_PG) && !(val & X86_CR0_PE))
        interp_gp(m, u, 0);
    if ((val & X86_CR0_NW) && !(val & X86_CR0_CD))
        interp_gp(m, u, 0);
    if ((changed & X86_CR0_PG) && (val & X86_CR0_PG) && (c->msr.efer & X86_EFER_LME)) {
        if (!(c->cr4 & X86_CR4_PAE) || (c->seg[X86_CS].attr & X86_SEG_L) || !(c->tr.attr & 8))
            interp_gp(m, u, 0);
    }
    if ((changed & X86_CR0_PG) && !(val & X86_CR0_PG) && (m->mode == X86_MODE_64 || (c->cr4 & X86_CR4_PCIDE)))
        interp_gp(m, u, 0);
    if (pae_paging(m, val, c->cr4) && (changed & (X86_CR0_PG | X86_CR0_CD | X86_CR0_NW)))
        load_pdptes(m, u, c->cr3);

    c->cr0 = val;
    if (changed & X86_CR0_PG) {
        c->msr.efer &= ~X86_EFER_LMA;
        if ((val & X86_CR0_PG) && (c->msr.efer & X86_EFER_LME))
            c->msr.efer |= X86_EFER_LMA;
    }
    if (changed & (X86_CR0_PG | X86_CR0_WP | X86_CR0_PE))
        interp_tlb_flush(m, false);
    interp_mode_changed(m);
}

static void fn_lmsw(struct interp *m, const struct uop *u)
{
    uint64_t val, keep = m->c.cr0 & ~0xeUL;

    sys_need_cpl0(m, u);
    val = u->i.form == X86_F_M ? interp_ld16(m, u, interp_ea(m, u, 2, false)) : m->c.gpr[u->i.r0];
    set_cr0(m, u, keep | (val & 0xf)); /* PE can be set, not cleared */
    interp_retire(m, u);
}

static void fn_smsw(struct interp *m, const struct uop *u)
{
    if ((m->c.cr4 & X86_CR4_UMIP) && m->c.cpl != 0)
        interp_gp(m, u, 0);
    if (u->i.form == X86_F_M)
        interp_st16(m, u, interp_ea(m, u, 2, true), (uint16_t)m->c.cr0);
    else
        set_reg(m, u->i.r0, u->i.osz, m->c.cr0);
    sys_done(m, u);
}

static void fn_clts(struct interp *m, const struct uop *u)
{
    sys_need_cpl0(m, u);
    m->c.cr0 &= ~X86_CR0_TS;
    sys_done(m, u);
}

/* ---- CR3, CR4, CR8 ---- */

static void set_cr3(struct interp *m, const struct uop *u, uint64_t val)
{
    struct cpu_state *c = &m->c;
    bool keep = (c->cr4 & X86_CR4_PCIDE) && (val & CR3_NOFLUSH);

    if (c->cr4 & X86_CR4_PCIDE)
        val &= ~CR3_NOFLUSH;
    if (x86_long_mode(c) && (val >> m->v->model->phys_bits))
        interp_gp(m, u, 0);
    if (pae_paging(m, c->cr0, c->cr4))
        load_pdptes(m, u, val);
    if (!keep || val != c->cr3)
        interp_tlb_flush(m, true);
    c->cr3 = val;
}

static void set_cr4(struct interp *m, const struct uop *u, uint64_t val)
{
    const uint64_t paging = X86_CR4_PSE | X86_CR4_PAE | X86_CR4_PGE | X86_CR4_PCIDE | X86_CR4_SMEP | X86_CR4_SMAP;
    struct cpu_state *c = &m->c;
    uint64_t changed = val ^ c->cr4;

    if (val & ~x86_cr4_mask(m->v->model))
        interp_gp(m, u, 0);
    if (x86_long_mode(c) && !(val & X86_CR4_PAE))
        interp_gp(m, u, 0);
    if ((changed & val & X86_CR4_PCIDE) && (!x86_long_mode(c) || (c->cr3 & CR3_PCID)))
        interp_gp(m, u, 0);
    if (pae_paging(m, c->cr0, val) && (changed & (X86_CR4_PAE | X86_CR4_PGE | X86_CR4_PSE | X86_CR4_SMEP)))
        load_pdptes(m, u, c->cr3);
    c->cr4 = val;
    if (changed & paging)
        interp_tlb_flush(m, false);
    interp_mode_changed(m);
}

static void set_cr8(struct interp *m, const struct uop *u, uint64_t val)
{
    if (val & ~0xfUL)
        interp_gp(m, u, 0);
    interp_io(m, u, EXIT_TPR, 8, 8, true, val);
}

static void fn_mov_to_cr(struct interp *m, const struct uop *u)
{
    uint64_t val = sys_cut(m->c.gpr[u->i.r1], m->mode == X86_MODE_64 ? 8 : 4);

    sys_need_cpl0(m, u);
    switch (u->i.r0) {
    case 0:
        set_cr0(m, u, val);
        break;
    case 2:
        m->c.cr2 = val;
        break;
    case 3:
        set_cr3(m, u, val);
        break;
    case 4:
        set_cr4(m, u, val);
        break;
    case 8:
        set_cr8(m, u, val);
        break;
    default:
        interp_ud(m, u);
    }
    interp_retire(m, u);
}

static void fn_mov_from_cr(struct interp *m, const struct uop *u)
{
    uint64_t val;

    sys_need_cpl0(m, u);
    switch (u->i.r1) {
    case 0:
        val = m->c.cr0;
        break;
    case 2:
        val = m->c.cr2;
        break;
    case 3:
        val = m->c.cr3;
        break;
    case 4:
        val = m->c.cr4;
        break;
    case 8:
        val = interp_io(m, u, EXIT_TPR, 8, 8, false, 0);
        break;
    default:
        interp_ud(m, u);
    }
    set_reg(m, u->i.r0, m->mode == X86_MODE_64 ? 8 : 4, val);
    sys_done(m, u);
}

/* ---- debug registers ---- */

#define DR6_FIXED 0xffff0ff0UL
#define DR6_WRITABLE 0xe00fUL
#define DR7_WRITABLE 0xffff23ffUL
#define DR7_FIXED 0x400UL
enum { DR6_BD = 1 << 13, DR7_GD = 1 << 13 };

/* Privilege, aliases and general detect; returns the register's number. */
static unsigned check_dr(struct interp *m, const struct uop *u, unsigned n)
{
    sys_need_cpl0(m, u);
    if (n > 7)
        interp_ud(m, u);
    if (n == 4 || n == 5) {
        if (m->c.cr4 & X86_CR4_DE)
            interp_ud(m, u);
        n += 2;
    }
    if (m->c.dr[7] & DR7_GD)
        interp_raise(m, u, (struct x86_fault){ .vector = X86_DB, .addr = DR6_BD });
    return n;
}

static void fn_mov_to_dr(struct interp *m, const struct uop *u)
{
    unsigned n = check_dr(m, u, u->i.r0);
    uint64_t val = sys_cut(m->c.gpr[u->i.r1], m->mode == X86_MODE_64 ? 8 : 4);

    if (n >= 6 && val >> 32)
        interp_gp(m, u, 0);
    if (n == 6)
        val = (val & DR6_WRITABLE) | DR6_FIXED;
    else if (n == 7)
        val = (val & DR7_WRITABLE) | DR7_FIXED;
    m->c.dr[n] = val;
    interp_debug_changed(m);
    interp_retire(m, u);
}

static void fn_mov_from_dr(struct interp *m, const struct uop *u)
{
    unsigned n = check_dr(m, u, u->i.r1);

    set_reg(m, u->i.r0, m->mode == X86_MODE_64 ? 8 : 4, m->c.dr[n]);
    sys_done(m, u);
}

/* ---- TLB and caches ---- */

static void fn_invlpg(struct interp *m, const struct uop *u)
{
    gva_t lin = interp_ea_off(m, u) + m->c.seg[u->i.seg].base;

    sys_need_cpl0(m, u);
    if (m->mode != X86_MODE_64)
        lin = (uint32_t)lin;
    if (x86_canonical(lin))
        interp_tlb_flush_page(m, lin);
    sys_done(m, u);
}

enum invpcid_type { INV_ADDRESS, INV_PCID, INV_ALL_GLOBAL, INV_ALL };

static void fn_invpcid(struct interp *m, const struct uop *u)
{
    uint64_t type = sys_cut(m->c.gpr[u->i.r0], m->mode == X86_MODE_64 ? 8 : 4), desc[2];
    bool pcide = m->c.cr4 & X86_CR4_PCIDE, current;

    if (sys_vm86(m) || m->c.cpl != 0)
        interp_gp(m, u, 0);
    interp_read(m, u, m->ctx, interp_ea(m, u, 16, false), desc, 16);
    if (type > INV_ALL || desc[0] & ~CR3_PCID)
        interp_gp(m, u, 0);
    if (type <= INV_PCID && !pcide && desc[0])
        interp_gp(m, u, 0);
    if (type == INV_ADDRESS && !x86_canonical(desc[1]))
        interp_gp(m, u, 0);
    current = !pcide || desc[0] == (m->c.cr3 & CR3_PCID);
    if (type == INV_ALL_GLOBAL)
        interp_tlb_flush(m, false);
    else if (type == INV_ALL || (type == INV_PCID && current))
        interp_tlb_flush(m, true);
    else if (type == INV_ADDRESS && current)
        interp_tlb_flush_page(m, desc[1]);
    sys_done(m, u);
}

/* INVD, WBINVD: memory is coherent with everything here. */
static void fn_cache_nop(struct interp *m, const struct uop *u)
{
    sys_need_cpl0(m, u);
    sys_done(m, u);
}

uop_fn syscr_pick(const struct x86_insn *i)
{
    switch (i->op) {
    case X86_OP_MOV_TO_CR:
        return fn_mov_to_cr;
    case X86_OP_MOV_FROM_CR:
        return fn_mov_from_cr;
    case X86_OP_MOV_TO_DR:
        return fn_mov_to_dr;
    case X86_OP_MOV_FROM_DR:
        return fn_mov_from_dr;
    case ZYDIS_MNEMONIC_LMSW:
        return fn_lmsw;
    case ZYDIS_MNEMONIC_SMSW:
        return fn_smsw;
    case ZYDIS_MNEMONIC_CLTS:
        return fn_clts;
    case ZYDIS_MNEMONIC_INVLPG:
        return fn_invlpg;
    case ZYDIS_MNEMONIC_INVPCID:
        return fn_invpcid;
    case ZYDIS_MNEMONIC_INVD:
    case ZYDIS_MNEMONIC_WBINVD:
        return fn_cache_nop;
    default:
        return NULL;
    }
}
