/* SPDX-License-Identifier: MIT */
/*
 * Fast system calls and the base registers of FS and GS. The two vendors differ: Intel has SYSCALL only in 64-bit
 * mode and SYSENTER everywhere; AMD has SYSCALL in compatibility and legacy mode too, and SYSENTER only in legacy
 * mode. Intel checks the target of SYSRET for canonical form while still in ring 0.
 */
#include <Zydis/Mnemonic.h>

#include "cpu/interp/sys.h"

enum { CODE = X86_SEG_P | X86_SEG_S | 0xb, DATA = X86_SEG_P | X86_SEG_S | 3 };

static bool is_amd(const struct interp *m)
{
    return m->v->model->vendor == X86_VENDOR_AMD;
}

static struct x86_seg flat(unsigned sel, uint32_t attr, unsigned dpl)
{
    return (struct x86_seg){ .limit = 0xffffffff,
                             .attr = attr | X86_SEG_G | dpl << X86_SEG_DPL_SHIFT,
                             .sel = (uint16_t)sel };
}

static void set_segments(struct interp *m, unsigned cs, uint32_t cs_size, unsigned ss, unsigned cpl)
{
    m->c.seg[X86_CS] = flat(cs, CODE | cs_size, cpl);
    m->c.seg[X86_SS_SEG] = flat(ss, DATA | X86_SEG_DB, cpl);
    m->c.cpl = (uint8_t)cpl;
}

static void fn_syscall(struct interp *m, const struct uop *u)
{
    struct cpu_state *c = &m->c;
    uint64_t next = interp_next_ip(m, u), star = c->msr.star;
    unsigned cs = (star >> 32) & 0xfffc, ss = ((star >> 32) & 0xffff) + 8;

    if (!(c->msr.efer & X86_EFER_SCE) || x86_real_mode(c) || (!is_amd(m) && m->mode != X86_MODE_64))
        interp_ud(m, u);
    if (x86_long_mode(c)) {
        c->gpr[X86_RCX] = next;
        c->gpr[X86_R11] = interp_rflags(m) & ~(uint64_t)X86_FL_RF;
        c->rip = m->mode == X86_MODE_64 ? c->msr.lstar : c->msr.cstar;
        c->rflags = (c->gpr[X86_R11] & ~c->msr.sfmask & ~(uint64_t)X86_FL_RF) | X86_FL_1;
        interp_set_arith(m, c->rflags);
        set_segments(m, cs, X86_SEG_L, ss & 0xfffc, 0);
    } else {
        c->gpr[X86_RCX] = (uint32_t)next;
        c->rip = (uint32_t)star;
        c->rflags &= ~(uint64_t)(X86_FL_VM | X86_FL_IF | X86_FL_RF);
        set_segments(m, cs, X86_SEG_DB, ss & 0xfffc, 0);
    }
    interp_mode_changed(m);
}

/* SS of AMD's SYSRET keeps its hidden part; only the selector (and with it the privilege) changes. */
static void sysret_ss(struct interp *m, unsigned sel)
{
    if (is_amd(m)) {
        m->c.seg[X86_SS_SEG].sel = (uint16_t)sel;
        m->c.seg[X86_SS_SEG].attr |= X86_SEG_DPL;
        if (m->c.seg[X86_SS_SEG].attr & X86_SEG_UNUSABLE)
            m->c.seg[X86_SS_SEG] = flat(sel, DATA | X86_SEG_DB, 3);
        return;
    }
    m->c.seg[X86_SS_SEG] = flat(sel, DATA | X86_SEG_DB, 3);
}

static void fn_sysret(struct interp *m, const struct uop *u)
{
    struct cpu_state *c = &m->c;
    unsigned base = (unsigned)(c->msr.star >> 48);
    bool to64 = u->i.osz == 8;
    uint64_t target = to64 ? c->gpr[X86_RCX] : (uint32_t)c->gpr[X86_RCX];

    if (!(c->msr.efer & X86_EFER_SCE) || x86_real_mode(c) || (!is_amd(m) && m->mode != X86_MODE_64))
        interp_ud(m, u);
    sys_need_cpl0(m, u);
    if (to64 && !is_amd(m) && !x86_canonical(target))
        interp_gp(m, u, 0);
    if (x86_long_mode(c)) {
        c->rflags = (c->gpr[X86_R11] & 0x3c7fd7) | X86_FL_1;
        interp_set_arith(m, c->rflags);
    } else {
        c->rflags |= X86_FL_IF;
    }
    c->seg[X86_CS] = flat((base + (to64 ? 16 : 0)) | 3, CODE | (to64 ? X86_SEG_L : X86_SEG_DB), 3);
    sysret_ss(m, (base + 8) | 3);
    c->cpl = 3;
    c->rip = target;
    interp_mode_changed(m);
}

static void fn_sysenter(struct interp *m, const struct uop *u)
{
    struct cpu_state *c = &m->c;
    unsigned cs = c->msr.sysenter_cs & 0xfffc;
    bool long_mode = x86_long_mode(c);

    if (is_amd(m) && long_mode)
        interp_ud(m, u);
    if (x86_real_mode(c) || !cs)
        interp_gp(m, u, 0);
    c->rflags &= ~(uint64_t)(X86_FL_VM | X86_FL_IF | X86_FL_RF);
    c->gpr[X86_RSP] = long_mode ? c->msr.sysenter_esp : (uint32_t)c->msr.sysenter_esp;
    c->rip = long_mode ? c->msr.sysenter_eip : (uint32_t)c->msr.sysenter_eip;
    set_segments(m, cs, long_mode ? X86_SEG_L : X86_SEG_DB, cs + 8, 0);
    interp_mode_changed(m);
}

static void fn_sysexit(struct interp *m, const struct uop *u)
{
    struct cpu_state *c = &m->c;
    unsigned cs = c->msr.sysenter_cs & 0xfffc;
    bool to64 = u->i.osz == 8;

    if (is_amd(m) && x86_long_mode(c))
        interp_ud(m, u);
    if (x86_real_mode(c) || !cs || c->cpl != 0)
        interp_gp(m, u, 0);
    if (to64 && (!x86_canonical(c->gpr[X86_RCX]) || !x86_canonical(c->gpr[X86_RDX])))
        interp_gp(m, u, 0);
    c->gpr[X86_RSP] = to64 ? c->gpr[X86_RCX] : (uint32_t)c->gpr[X86_RCX];
    c->rip = to64 ? c->gpr[X86_RDX] : (uint32_t)c->gpr[X86_RDX];
    cs += to64 ? 32 : 16;
    set_segments(m, cs | 3, to64 ? X86_SEG_L : X86_SEG_DB, (cs + 8) | 3, 3);
    interp_mode_changed(m);
}

static void fn_swapgs(struct interp *m, const struct uop *u)
{
    uint64_t base = m->c.seg[X86_GS].base;

    if (m->mode != X86_MODE_64)
        interp_ud(m, u);
    sys_need_cpl0(m, u);
    m->c.seg[X86_GS].base = m->c.msr.kernel_gs_base;
    m->c.msr.kernel_gs_base = base;
    sys_done(m, u);
}

static void need_fsgsbase(struct interp *m, const struct uop *u)
{
    if (!(m->c.cr4 & X86_CR4_FSGSBASE) || m->mode != X86_MODE_64)
        interp_ud(m, u);
}

static void fn_rdbase(struct interp *m, const struct uop *u)
{
    unsigned seg = u->i.op == ZYDIS_MNEMONIC_RDFSBASE ? X86_FS : X86_GS;

    need_fsgsbase(m, u);
    set_reg(m, u->i.r0, u->i.osz == 8 ? 8 : 4, m->c.seg[seg].base);
    sys_done(m, u);
}

static void fn_wrbase(struct interp *m, const struct uop *u)
{
    unsigned seg = u->i.op == ZYDIS_MNEMONIC_WRFSBASE ? X86_FS : X86_GS;
    uint64_t val = sys_cut(m->c.gpr[u->i.r0], u->i.osz == 8 ? 8 : 4);

    need_fsgsbase(m, u);
    if (!x86_canonical(val))
        interp_gp(m, u, 0);
    m->c.seg[seg].base = val;
    sys_done(m, u);
}

uop_fn syscall_pick(const struct x86_insn *i)
{
    switch (i->op) {
    case ZYDIS_MNEMONIC_SYSCALL:
        return fn_syscall;
    case ZYDIS_MNEMONIC_SYSRET:
        return fn_sysret;
    case ZYDIS_MNEMONIC_SYSENTER:
        return fn_sysenter;
    case ZYDIS_MNEMONIC_SYSEXIT:
        return fn_sysexit;
    case ZYDIS_MNEMONIC_SWAPGS:
        return fn_swapgs;
    case ZYDIS_MNEMONIC_RDFSBASE:
    case ZYDIS_MNEMONIC_RDGSBASE:
        return fn_rdbase;
    case ZYDIS_MNEMONIC_WRFSBASE:
    case ZYDIS_MNEMONIC_WRGSBASE:
        return fn_wrbase;
    default:
        return NULL;
    }
}
