/* SPDX-License-Identifier: MIT */
/*
 * Near JMP, Jcc, LOOPcc, JrCXZ. A direct branch goes on in the linked block; an indirect one through the loop.
 * The target is checked before anything changes: SDM Vol. 2A, "JMP" (#GP(0) past the limit or not canonical).
 */
#include <Zydis/Mnemonic.h>

#include "cpu/interp/branch.h"
#include "cpu/interp/cond.h"
#include "cpu/interp/core.h"

_Noreturn void branch_fault(struct interp *m, const struct uop *u)
{
    interp_gp(m, u, 0);
}

/* A direct branch that could not use its link. */
void branch_unlinked(struct interp *m, const struct uop *u, uint64_t target)
{
    branch_check(m, u, target);
    m->c.rip = target;
    if (u->i.osz != 2) /* a target cut to 16 bits is not relative to the page */
        m->link_slot = &branch_end(u)->link[1];
}

OP(jmp_i)
{
    branch_go(m, u);
}

#define JCC(cc)                                                                                                        \
    OP(jcc_##cc)                                                                                                       \
    {                                                                                                                  \
        if (cond_##cc(m->af))                                                                                          \
            branch_go(m, u);                                                                                           \
        else                                                                                                           \
            branch_stay(m, u);                                                                                         \
    }
COND_LIST(JCC)

static uint64_t near_target(struct interp *m, const struct uop *u)
{
    uint64_t t = u->i.form == X86_F_R ? m->c.gpr[u->i.r0] : interp_ld(m, u, interp_ea(m, u, u->i.osz, false), u->i.osz);

    t = u->i.osz == 8 ? t : u->i.osz == 4 ? (uint32_t)t : (uint16_t)t;
    branch_check(m, u, t);
    return t;
}

OP(jmp_rm)
{
    m->c.rip = near_target(m, u);
}

/* ---- counters ---- */

static uint64_t count_mask(const struct uop *u)
{
    return u->i.asz == 8 ? ~0UL : u->i.asz == 4 ? 0xffffffffUL : 0xffffUL;
}

#define LOOP_OP(name, cond)                                                                                            \
    OP(name)                                                                                                           \
    {                                                                                                                  \
        uint64_t n = (m->c.gpr[X86_RCX] - 1) & count_mask(u);                                                          \
        bool taken = n && (cond);                                                                                      \
        if (taken)                                                                                                     \
            branch_check(m, u, branch_target(m, u));                                                                   \
        set_reg(m, X86_RCX, u->i.asz, n);                                                                              \
        if (taken)                                                                                                     \
            branch_go(m, u);                                                                                           \
        else                                                                                                           \
            branch_stay(m, u);                                                                                         \
    }
LOOP_OP(loop, true)
LOOP_OP(loope, cond_z(m->af))
LOOP_OP(loopne, cond_nz(m->af))

OP(jrcxz)
{
    if (m->c.gpr[X86_RCX] & count_mask(u))
        branch_stay(m, u);
    else
        branch_go(m, u);
}

int branch_condition(const struct x86_insn *i)
{
    static const uint16_t jcc[16] = {
        ZYDIS_MNEMONIC_JO, ZYDIS_MNEMONIC_JNO, ZYDIS_MNEMONIC_JB,  ZYDIS_MNEMONIC_JNB,
        ZYDIS_MNEMONIC_JZ, ZYDIS_MNEMONIC_JNZ, ZYDIS_MNEMONIC_JBE, ZYDIS_MNEMONIC_JNBE,
        ZYDIS_MNEMONIC_JS, ZYDIS_MNEMONIC_JNS, ZYDIS_MNEMONIC_JP,  ZYDIS_MNEMONIC_JNP,
        ZYDIS_MNEMONIC_JL, ZYDIS_MNEMONIC_JNL, ZYDIS_MNEMONIC_JLE, ZYDIS_MNEMONIC_JNLE,
    };

    for (int k = 0; k < 16; k++)
        if (i->op == jcc[k])
            return k;
    return -1;
}

uop_fn branch_pick(const struct x86_insn *i)
{
#define FN(cc) jcc_##cc,
    static const uop_fn fn[16] = { COND_LIST(FN) };
#undef FN
    int cc;

    switch (i->op) {
    case ZYDIS_MNEMONIC_JMP:
        return i->form == X86_F_I ? jmp_i : jmp_rm;
    case ZYDIS_MNEMONIC_LOOP:
        return loop;
    case ZYDIS_MNEMONIC_LOOPE:
        return loope;
    case ZYDIS_MNEMONIC_LOOPNE:
        return loopne;
    case ZYDIS_MNEMONIC_JCXZ:
    case ZYDIS_MNEMONIC_JECXZ:
    case ZYDIS_MNEMONIC_JRCXZ:
        return jrcxz;
    default:
        break;
    }
    cc = branch_condition(i);
    return cc < 0 ? NULL : fn[cc];
}
