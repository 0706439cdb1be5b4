/* SPDX-License-Identifier: MIT */
/*
 * MUL IMUL DIV IDIV. A division is checked before the host's instruction runs, so the host never traps. Flags are
 * loaded first: those that a processor leaves alone or undefined come out as on the host.
 */
#include <Zydis/Mnemonic.h>

#include "cpu/interp/core.h"

static uint64_t source(struct interp *m, const struct uop *u)
{
    if (u->i.form == X86_F_R)
        return get_reg(m, u->i.r0, u->i.osz);
    return interp_ld(m, u, interp_ea(m, u, u->i.osz, false), u->i.osz);
}

/* ---- one operand: rDX:rAX := rAX * src ---- */

#define WIDE_MUL(ins, sfx, type)                                                                                       \
    asm(FL_IN "mov %[a],%%rax\n\t" ins sfx " %[s]\n\tmov %%rax,%[a]" FL_OUT                                            \
        : "+&a"(fl), [a] "+&r"(a), "+&d"(d)                                                                            \
        : [s] "r"((type)s)                                                                                             \
        : "cc")

#define MUL_OP(name, ins)                                                                                              \
    OP(name)                                                                                                           \
    {                                                                                                                  \
        uint64_t s = source(m, u), a = m->c.gpr[X86_RAX], d = m->c.gpr[X86_RDX];                                       \
        uint32_t fl = m->af;                                                                                           \
        switch (u->i.osz) {                                                                                            \
        case 1:                                                                                                        \
            WIDE_MUL(ins, "b", uint8_t);                                                                               \
            break;                                                                                                     \
        case 2:                                                                                                        \
            WIDE_MUL(ins, "w", uint16_t);                                                                              \
            break;                                                                                                     \
        case 4:                                                                                                        \
            WIDE_MUL(ins, "l", uint32_t);                                                                              \
            break;                                                                                                     \
        default:                                                                                                       \
            WIDE_MUL(ins, "q", uint64_t);                                                                              \
            break;                                                                                                     \
        }                                                                                                              \
        m->c.gpr[X86_RAX] = a;                                                                                         \
        m->c.gpr[X86_RDX] = d;                                                                                         \
        m->af = fl;                                                                                                    \
        NEXT(m, u);                                                                                                    \
    }
MUL_OP(mul_wide, "mul")
MUL_OP(imul_wide, "imul")

/* ---- IMUL r, r/m (, imm) ---- */

#define IMUL_FN(sfx, bits)                                                                                             \
    static inline uint##bits##_t imul##bits(uint##bits##_t d, uint##bits##_t s, uint32_t *af)                          \
    {                                                                                                                  \
        uint32_t fl = *af;                                                                                             \
        asm(FL_IN "imul" sfx " %[s],%[d]" FL_OUT : "+&a"(fl), [d] "+&r"(d) : [s] "r"(s) : "cc");                       \
        *af = fl;                                                                                                      \
        return d;                                                                                                      \
    }                                                                                                                  \
    OP(imul##bits##_rr)                                                                                                \
    {                                                                                                                  \
        uint32_t af = m->af;                                                                                           \
        put_r##bits(m, u->i.r0, imul##bits(get_r##bits(m, u->i.r0), get_r##bits(m, u->i.r1), &af));                    \
        m->af = af;                                                                                                    \
        NEXT(m, u);                                                                                                    \
    }                                                                                                                  \
    OP(imul##bits##_rm)                                                                                                \
    {                                                                                                                  \
        uint32_t af = m->af;                                                                                           \
        uint##bits##_t s = interp_ld##bits(m, u, interp_ea(m, u, bits / 8, false));                                    \
        put_r##bits(m, u->i.r0, imul##bits(get_r##bits(m, u->i.r0), s, &af));                                          \
        m->af = af;                                                                                                    \
        NEXT(m, u);                                                                                                    \
    }                                                                                                                  \
    OP(imul##bits##_rri)                                                                                               \
    {                                                                                                                  \
        uint32_t af = m->af;                                                                                           \
        put_r##bits(m, u->i.r0, imul##bits(get_r##bits(m, u->i.r1), (uint##bits##_t)u->i.imm, &af));                   \
        m->af = af;                                                                                                    \
        NEXT(m, u);                                                                                                    \
    }                                                                                                                  \
    OP(imul##bits##_rmi)                                                                                               \
    {                                                                                                                  \
        uint32_t af = m->af;                                                                                           \
        uint##bits##_t s = interp_ld##bits(m, u, interp_ea(m, u, bits / 8, false));                                    \
        put_r##bits(m, u->i.r0, imul##bits(s, (uint##bits##_t)u->i.imm, &af));                                         \
        m->af = af;                                                                                                    \
        NEXT(m, u);                                                                                                    \
    }
IMUL_FN("w", 16)
IMUL_FN("l", 32)
IMUL_FN("q", 64)

/* ---- division ---- */

#define DIVIDE(ins, sfx, type)                                                                                         \
    asm(FL_IN "mov %[a],%%rax\n\t" ins sfx " %[s]\n\tmov %%rax,%[a]" FL_OUT                                            \
        : "+&a"(fl), [a] "+&r"(a), "+&d"(d)                                                                            \
        : [s] "r"((type)s)                                                                                             \
        : "cc")

static void divide_host(struct interp *m, const struct uop *u, uint64_t s, bool sign)
{
    uint64_t a = m->c.gpr[X86_RAX], d = m->c.gpr[X86_RDX];
    uint32_t fl = m->af;

    switch (u->i.osz * 2 + sign) {
    case 2:
        DIVIDE("div", "b", uint8_t);
        break;
    case 3:
        DIVIDE("idiv", "b", uint8_t);
        break;
    case 4:
        DIVIDE("div", "w", uint16_t);
        break;
    case 5:
        DIVIDE("idiv", "w", uint16_t);
        break;
    case 8:
        DIVIDE("div", "l", uint32_t);
        break;
    case 9:
        DIVIDE("idiv", "l", uint32_t);
        break;
    case 16:
        DIVIDE("div", "q", uint64_t);
        break;
    default:
        DIVIDE("idiv", "q", uint64_t);
        break;
    }
    m->c.gpr[X86_RAX] = a;
    m->c.gpr[X86_RDX] = d;
    m->af = fl;
}

/* The dividend: AX, or rDX:rAX. */
static unsigned __int128 dividend(const struct interp *m, unsigned size)
{
    uint64_t a = m->c.gpr[X86_RAX], d = m->c.gpr[X86_RDX];

    switch (size) {
    case 1:
        return (uint16_t)a;
    case 2:
        return (uint32_t)((uint16_t)a | (uint32_t)d << 16);
    case 4:
        return (uint32_t)a | d << 32;
    default:
        return a | (unsigned __int128)d << 64;
    }
}

OP(div_any)
{
    uint64_t s = source(m, u);
    unsigned bits = u->i.osz * 8U;

    if (!s || (uint64_t)(dividend(m, u->i.osz) >> bits) >= s) /* the quotient needs more than `bits` bits */
        interp_raise_vec(m, u, X86_DE, 0);
    divide_host(m, u, s, false);
    NEXT(m, u);
}

OP(idiv_any)
{
    uint64_t s = source(m, u);
    unsigned bits = u->i.osz * 8U;
    /* Sign extension by shifts, of dividend and divisor. */
    __int128 n = (__int128)(dividend(m, u->i.osz) << (128 - 2 * bits)) >> (128 - 2 * bits);
    __int128 d = (__int128)((unsigned __int128)s << (128 - bits)) >> (128 - bits);
    unsigned __int128 an = n < 0 ? -(unsigned __int128)n : (unsigned __int128)n;
    unsigned __int128 ad = d < 0 ? -(unsigned __int128)d : (unsigned __int128)d;
    unsigned __int128 limit = (unsigned __int128)1 << (bits - 1); /* a negative quotient may reach it */

    if (!s)
        interp_raise_vec(m, u, X86_DE, 0);
    /* The high half at least as big as the divisor: far too big, and the division below would be slow. */
    if (an >> bits >= ad || an / ad > limit - ((n < 0) == (d < 0)))
        interp_raise_vec(m, u, X86_DE, 0);
    divide_host(m, u, s, true);
    NEXT(m, u);
}

uop_fn muldiv_pick(const struct x86_insn *i)
{
    static const uop_fn imul[4][4] = { { NULL },
                                       { imul16_rr, imul16_rm, imul16_rri, imul16_rmi },
                                       { imul32_rr, imul32_rm, imul32_rri, imul32_rmi },
                                       { imul64_rr, imul64_rm, imul64_rri, imul64_rmi } };
    const uop_fn *row = imul[size_index(i->osz)];

    switch (i->op) {
    case ZYDIS_MNEMONIC_MUL:
        return mul_wide;
    case ZYDIS_MNEMONIC_DIV:
        return div_any;
    case ZYDIS_MNEMONIC_IDIV:
        return idiv_any;
    default:
        break;
    }
    switch (i->form) {
    case X86_F_RR:
        return row[0];
    case X86_F_RM:
        return row[1];
    case X86_F_RRI:
        return row[2];
    case X86_F_RMI:
        return row[3];
    default:
        return imul_wide;
    }
}
