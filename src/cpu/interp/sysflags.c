/* SPDX-License-Identifier: MIT */
/*
 * PUSHF, POPF, and the privileged bits IF and AC. The arithmetic flags live in m->af, all others in c.rflags.
 * The enhancements of CR4.VME and CR4.PVI are not offered (CPUID), so IOPL alone decides.
 */
#include <Zydis/Mnemonic.h>

#include "cpu/interp/sys.h"

#define ALWAYS_CHANGEABLE (X86_FL_ARITH | X86_FL_TF | X86_FL_DF | X86_FL_NT | X86_FL_AC | X86_FL_ID)

static void fn_pushf(struct interp *m, const struct uop *u)
{
    struct sys_stack s = sys_stack_current(m);

    if (unlikely(sys_vm86(m)) && sys_iopl(m) < 3)
        interp_gp(m, u, 0);
    sys_push(m, u, &s, u->i.osz, interp_rflags(m) & ~(uint64_t)(X86_FL_VM | X86_FL_RF));
    sys_stack_commit_sp(m, &s);
    sys_done(m, u);
}

static void fn_pushf64(struct interp *m, const struct uop *u)
{
    uint64_t sp = m->c.gpr[X86_RSP] - 8;

    interp_st64(m, u, sp, interp_rflags(m) & ~(uint64_t)(X86_FL_VM | X86_FL_RF));
    m->c.gpr[X86_RSP] = sp;
    sys_done(m, u);
}

static void fn_popf(struct interp *m, const struct uop *u)
{
    struct sys_stack s = sys_stack_current(m);
    uint64_t change = ALWAYS_CHANGEABLE, old = m->c.rflags, val;

    if (unlikely(sys_vm86(m)) && sys_iopl(m) < 3)
        interp_gp(m, u, 0);
    if (m->mode == X86_MODE_64 && u->i.osz == 8) {
        val = interp_ld64(m, u, s.sp);
        s.sp += 8;
    } else {
        val = sys_pop(m, u, &s, u->i.osz);
    }
    if (m->c.cpl == 0)
        change |= X86_FL_IOPL;
    if (m->c.cpl <= sys_iopl(m))
        change |= X86_FL_IF;
    if (u->i.osz == 2)
        change &= 0xffff;
    sys_stack_commit_sp(m, &s);
    m->c.rflags = ((old & ~change) | (val & change)) & ~(uint64_t)X86_FL_RF;
    interp_set_arith(m, val);
    if ((m->c.rflags ^ old) & X86_FL_AC)
        interp_mode_changed(m);
    sys_done(m, u);
}

static void fn_cli(struct interp *m, const struct uop *u)
{
    if (m->c.cpl > sys_iopl(m))
        interp_gp(m, u, 0);
    m->c.rflags &= ~(uint64_t)X86_FL_IF;
    sys_done(m, u);
}

static void fn_sti(struct interp *m, const struct uop *u)
{
    if (m->c.cpl > sys_iopl(m))
        interp_gp(m, u, 0);
    if (!(m->c.rflags & X86_FL_IF))
        m->c.int_shadow = true;
    m->c.rflags |= X86_FL_IF;
    sys_done(m, u);
}

static void set_ac(struct interp *m, const struct uop *u, bool on)
{
    if (m->c.cpl != 0 || !(x86_cr4_mask(m->v->model) & X86_CR4_SMAP))
        interp_ud(m, u);
    m->c.rflags = on ? m->c.rflags | X86_FL_AC : m->c.rflags & ~(uint64_t)X86_FL_AC;
    interp_mode_changed(m);
    sys_done(m, u);
}

static void fn_clac(struct interp *m, const struct uop *u)
{
    set_ac(m, u, false);
}

static void fn_stac(struct interp *m, const struct uop *u)
{
    set_ac(m, u, true);
}

uop_fn sysflags_pick(const struct x86_insn *i)
{
    switch (i->op) {
    case ZYDIS_MNEMONIC_PUSHF:
    case ZYDIS_MNEMONIC_PUSHFD:
        return fn_pushf;
    case ZYDIS_MNEMONIC_PUSHFQ:
        return fn_pushf64;
    case ZYDIS_MNEMONIC_POPF:
    case ZYDIS_MNEMONIC_POPFD:
    case ZYDIS_MNEMONIC_POPFQ:
        return fn_popf;
    case ZYDIS_MNEMONIC_CLI:
        return fn_cli;
    case ZYDIS_MNEMONIC_STI:
        return fn_sti;
    case ZYDIS_MNEMONIC_CLAC:
        return fn_clac;
    case ZYDIS_MNEMONIC_STAC:
        return fn_stac;
    default:
        return NULL;
    }
}
