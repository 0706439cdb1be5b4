/* SPDX-License-Identifier: MIT */
/*
 * SHL SHR SAR ROL ROR RCL RCR SHLD SHRD on the host's own instructions, with the guest's flags loaded first: a count of
 * zero leaves them alone, rotates keep most of them, and what is undefined comes out as the host has it.
 */
#include <Zydis/Mnemonic.h>

#include "cpu/interp/core.h"

#define SHIFT_FN(name, ins, sfx, bits)                                                                                 \
    static inline uint##bits##_t name##bits(uint##bits##_t d, unsigned count, uint32_t *af)                            \
    {                                                                                                                  \
        uint32_t fl = *af;                                                                                             \
        asm(FL_IN ins sfx " %%cl,%[d]" FL_OUT : [d] "+&r"(d), "+&a"(fl) : "c"(count) : "cc");                          \
        *af = fl;                                                                                                      \
        return d;                                                                                                      \
    }

#define MEM_OP(name, bits, expr)                                                                                       \
    OP(name)                                                                                                           \
    {                                                                                                                  \
        gva_t lin = interp_ea(m, u, bits / 8, true);                                                                   \
        uint32_t af = m->af;                                                                                           \
        uint##bits##_t d;                                                                                              \
        interp_probe_write(m, u, m->ctx, lin, bits / 8);                                                               \
        d = interp_ld##bits(m, u, lin);                                                                                \
        interp_st##bits(m, u, lin, expr);                                                                              \
        m->af = af;                                                                                                    \
        NEXT_ST(m, u);                                                                                                 \
    }
#define COUNT_CL get_r8(m, 8 * X86_RCX)
#define COUNT_IMM ((unsigned)u->i.imm & 0xff)

#define SHIFT_OPS(name, bits)                                                                                          \
    OP(name##bits##_rc)                                                                                                \
    {                                                                                                                  \
        uint32_t af = m->af;                                                                                           \
        put_r##bits(m, u->i.r0, name##bits(get_r##bits(m, u->i.r0), COUNT_CL, &af));                                   \
        m->af = af;                                                                                                    \
        NEXT(m, u);                                                                                                    \
    }                                                                                                                  \
    OP(name##bits##_ri)                                                                                                \
    {                                                                                                                  \
        uint32_t af = m->af;                                                                                           \
        put_r##bits(m, u->i.r0, name##bits(get_r##bits(m, u->i.r0), COUNT_IMM, &af));                                  \
        m->af = af;                                                                                                    \
        NEXT(m, u);                                                                                                    \
    }                                                                                                                  \
    MEM_OP(name##bits##_mc, bits, name##bits(d, COUNT_CL, &af))                                                        \
    MEM_OP(name##bits##_mi, bits, name##bits(d, COUNT_IMM, &af))

#define ALL_SIZES(X, name) X(name, 8) X(name, 16) X(name, 32) X(name, 64)
#define SHIFT(name, ins)                                                                                               \
    SHIFT_FN(name, ins, "b", 8)                                                                                        \
    SHIFT_FN(name, ins, "w", 16)                                                                                       \
    SHIFT_FN(name, ins, "l", 32)                                                                                       \
    SHIFT_FN(name, ins, "q", 64)                                                                                       \
    ALL_SIZES(SHIFT_OPS, name)

SHIFT(shl, "shl")
SHIFT(shr, "shr")
SHIFT(sar, "sar")
SHIFT(rol, "rol")
SHIFT(ror, "ror")
SHIFT(rcl, "rcl")
SHIFT(rcr, "rcr")

/* Double shifts: the source is r1 of a register form, r0 of a memory form. */
#define DOUBLE_FN(name, ins, sfx, bits)                                                                                \
    static inline uint##bits##_t name##bits(uint##bits##_t d, uint##bits##_t s, unsigned count, uint32_t *af)          \
    {                                                                                                                  \
        uint32_t fl = *af;                                                                                             \
        asm(FL_IN ins sfx " %%cl,%[s],%[d]" FL_OUT : [d] "+&r"(d), "+&a"(fl) : "c"(count), [s] "r"(s) : "cc");         \
        *af = fl;                                                                                                      \
        return d;                                                                                                      \
    }                                                                                                                  \
    OP(name##bits##_rc)                                                                                                \
    {                                                                                                                  \
        uint32_t af = m->af;                                                                                           \
        put_r##bits(m, u->i.r0, name##bits(get_r##bits(m, u->i.r0), get_r##bits(m, u->i.r1), COUNT_CL, &af));          \
        m->af = af;                                                                                                    \
        NEXT(m, u);                                                                                                    \
    }                                                                                                                  \
    OP(name##bits##_ri)                                                                                                \
    {                                                                                                                  \
        uint32_t af = m->af;                                                                                           \
        put_r##bits(m, u->i.r0, name##bits(get_r##bits(m, u->i.r0), get_r##bits(m, u->i.r1), COUNT_IMM, &af));         \
        m->af = af;                                                                                                    \
        NEXT(m, u);                                                                                                    \
    }                                                                                                                  \
    MEM_OP(name##bits##_mc, bits, name##bits(d, get_r##bits(m, u->i.r0), COUNT_CL, &af))                               \
    MEM_OP(name##bits##_mi, bits, name##bits(d, get_r##bits(m, u->i.r0), COUNT_IMM, &af))

DOUBLE_FN(shld, "shld", "w", 16)
DOUBLE_FN(shld, "shld", "l", 32)
DOUBLE_FN(shld, "shld", "q", 64)
DOUBLE_FN(shrd, "shrd", "w", 16)
DOUBLE_FN(shrd, "shrd", "l", 32)
DOUBLE_FN(shrd, "shrd", "q", 64)

#define ROW(name, bits)                                                                                                \
    {                                                                                                                  \
        name##bits##_rc, name##bits##_ri, name##bits##_mc, name##bits##_mi                                             \
    }
#define TABLE(name)                                                                                                    \
    {                                                                                                                  \
        ROW(name, 8), ROW(name, 16), ROW(name, 32), ROW(name, 64)                                                      \
    }

uop_fn shift_pick(const struct x86_insn *i)
{
    static const uop_fn t[7][4][4] = { TABLE(shl), TABLE(shr), TABLE(sar), TABLE(rol),
                                       TABLE(ror), TABLE(rcl), TABLE(rcr) };
    static const uop_fn dbl[2][4][4] = { { { NULL }, ROW(shld, 16), ROW(shld, 32), ROW(shld, 64) },
                                         { { NULL }, ROW(shrd, 16), ROW(shrd, 32), ROW(shrd, 64) } };
    unsigned size = size_index(i->osz), mem, imm;

    mem = i->form == X86_F_MR || i->form == X86_F_MI || i->form == X86_F_MRR || i->form == X86_F_MRI;
    imm = i->form == X86_F_RI || i->form == X86_F_MI || i->form == X86_F_RRI || i->form == X86_F_MRI;
    switch (i->op) {
    case ZYDIS_MNEMONIC_SHL:
        return t[0][size][mem * 2 + imm];
    case ZYDIS_MNEMONIC_SHR:
        return t[1][size][mem * 2 + imm];
    case ZYDIS_MNEMONIC_SAR:
        return t[2][size][mem * 2 + imm];
    case ZYDIS_MNEMONIC_ROL:
        return t[3][size][mem * 2 + imm];
    case ZYDIS_MNEMONIC_ROR:
        return t[4][size][mem * 2 + imm];
    case ZYDIS_MNEMONIC_RCL:
        return t[5][size][mem * 2 + imm];
    case ZYDIS_MNEMONIC_RCR:
        return t[6][size][mem * 2 + imm];
    case ZYDIS_MNEMONIC_SHLD:
        return dbl[0][size][mem * 2 + imm];
    case ZYDIS_MNEMONIC_SHRD:
        return dbl[1][size][mem * 2 + imm];
    default:
        return NULL;
    }
}
