/* SPDX-License-Identifier: MIT */
/*
 * CMP or TEST of registers and immediates together with the Jcc behind it. The branch is decided from the host's
 * flags themselves; m->af is written all the same, for whoever reads the flags later.
 */
#include <Zydis/Mnemonic.h>

#include "cpu/interp/branch.h"
#include "cpu/interp/cond.h"

/* The conditions in encoding order, which are the names of gcc's flag outputs as well. */
#define FUSE_CC(X, ...)                                                                                                \
    X(o, __VA_ARGS__)                                                                                                  \
    X(no, __VA_ARGS__)                                                                                                 \
    X(b, __VA_ARGS__)                                                                                                  \
    X(nb, __VA_ARGS__)                                                                                                 \
    X(z, __VA_ARGS__)                                                                                                  \
    X(nz, __VA_ARGS__)                                                                                                 \
    X(be, __VA_ARGS__)                                                                                                 \
    X(nbe, __VA_ARGS__)                                                                                                \
    X(s, __VA_ARGS__)                                                                                                  \
    X(ns, __VA_ARGS__)                                                                                                 \
    X(p, __VA_ARGS__)                                                                                                  \
    X(np, __VA_ARGS__)                                                                                                 \
    X(l, __VA_ARGS__)                                                                                                  \
    X(nl, __VA_ARGS__)                                                                                                 \
    X(le, __VA_ARGS__)                                                                                                 \
    X(nle, __VA_ARGS__)

#define FUSED(cc, name, ins, sfx, bits, src)                                                                           \
    OP(name##_##cc)                                                                                                    \
    {                                                                                                                  \
        uint##bits##_t d = get_r##bits(m, u->i.r0), s = (uint##bits##_t)(src);                                         \
        uint32_t fl;                                                                                                   \
        bool taken;                                                                                                    \
        asm(ins sfx " %[s],%[d]" FL_OUT : "=&a"(fl), "=@cc" #cc(taken) : [d] "r"(d), [s] "r"(s));                      \
        m->af = fl;                                                                                                    \
        if (taken)                                                                                                     \
            branch_go(m, u + 1);                                                                                       \
        else                                                                                                           \
            branch_stay(m, u + 1);                                                                                     \
    }
FUSE_CC(FUSED, cmp32_rr, "cmp", "l", 32, get_r32(m, u->i.r1))
FUSE_CC(FUSED, cmp32_ri, "cmp", "l", 32, u->i.imm)
FUSE_CC(FUSED, cmp64_rr, "cmp", "q", 64, get_r64(m, u->i.r1))
FUSE_CC(FUSED, cmp64_ri, "cmp", "q", 64, u->i.imm)
FUSE_CC(FUSED, test32_rr, "test", "l", 32, get_r32(m, u->i.r1))
FUSE_CC(FUSED, test32_ri, "test", "l", 32, u->i.imm)
FUSE_CC(FUSED, test64_rr, "test", "q", 64, get_r64(m, u->i.r1))
FUSE_CC(FUSED, test64_ri, "test", "q", 64, u->i.imm)
FUSE_CC(FUSED, cmp8_ri, "cmp", "b", 8, u->i.imm)
FUSE_CC(FUSED, test8_rr, "test", "b", 8, get_r8(m, u->i.r1))
FUSE_CC(FUSED, test8_ri, "test", "b", 8, u->i.imm)

uop_fn fuse_pick(const struct x86_insn *compare, const struct x86_insn *branch)
{
#define FN(cc, name) name##_##cc,
    static const struct {
        uint16_t op;
        uint8_t osz, form;
        uop_fn fn[16];
    } t[] = {
        { ZYDIS_MNEMONIC_CMP, 4, X86_F_RR, { FUSE_CC(FN, cmp32_rr) } },
        { ZYDIS_MNEMONIC_CMP, 4, X86_F_RI, { FUSE_CC(FN, cmp32_ri) } },
        { ZYDIS_MNEMONIC_CMP, 8, X86_F_RR, { FUSE_CC(FN, cmp64_rr) } },
        { ZYDIS_MNEMONIC_CMP, 8, X86_F_RI, { FUSE_CC(FN, cmp64_ri) } },
        { ZYDIS_MNEMONIC_CMP, 1, X86_F_RI, { FUSE_CC(FN, cmp8_ri) } },
        { ZYDIS_MNEMONIC_TEST, 4, X86_F_RR, { FUSE_CC(FN, test32_rr) } },
        { ZYDIS_MNEMONIC_TEST, 4, X86_F_RI, { FUSE_CC(FN, test32_ri) } },
        { ZYDIS_MNEMONIC_TEST, 8, X86_F_RR, { FUSE_CC(FN, test64_rr) } },
        { ZYDIS_MNEMONIC_TEST, 8, X86_F_RI, { FUSE_CC(FN, test64_ri) } },
        { ZYDIS_MNEMONIC_TEST, 1, X86_F_RR, { FUSE_CC(FN, test8_rr) } },
        { ZYDIS_MNEMONIC_TEST, 1, X86_F_RI, { FUSE_CC(FN, test8_ri) } },
    };
#undef FN
    int cc = branch_condition(branch);

    if (cc < 0 || (compare->op != ZYDIS_MNEMONIC_CMP && compare->op != ZYDIS_MNEMONIC_TEST))
        return NULL;
    for (unsigned k = 0; k < ARRAY_LEN(t); k++)
        if (t[k].op == compare->op && t[k].osz == compare->osz && t[k].form == compare->form)
            return t[k].fn[cc];
    return NULL;
}
