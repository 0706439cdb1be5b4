/* SPDX-License-Identifier: MIT */
/*
 * ADD OR ADC SBB AND SUB XOR CMP TEST INC DEC NEG NOT, without LOCK (atomic.c).
 *
 * Each runs the host's own instruction, so every flag comes out as the host makes it. A read-modify-write of memory
 * needs write permission before it reads, and changes nothing until the store can no longer fault.
 */
#include <Zydis/Mnemonic.h>

#include "cpu/interp/core.h"

/* d op= s; the new flags in *af. */
#define ALU_FN(name, ins, sfx, bits, pre)                                                                              \
    static inline uint##bits##_t name##bits(const struct interp *m, uint##bits##_t d, uint##bits##_t s, uint32_t *af)  \
    {                                                                                                                  \
        uint32_t fl;                                                                                                   \
        asm(pre ins sfx " %[s],%[d]" FL_OUT : [d] "+&r"(d), "=&a"(fl) : [s] "re"(s), [fl] "m"(m->af) : "cc");          \
        *af = fl;                                                                                                      \
        return d;                                                                                                      \
    }
/* The same, with the flags as the only result. */
#define CMP_FN(name, ins, sfx, bits)                                                                                   \
    static inline uint32_t name##bits(uint##bits##_t d, uint##bits##_t s)                                              \
    {                                                                                                                  \
        uint32_t fl;                                                                                                   \
        asm(ins sfx " %[s],%[d]" FL_OUT : "=&a"(fl) : [d] "r"(d), [s] "re"(s) : "cc");                                 \
        return fl;                                                                                                     \
    }

/* One operation in one size: register and memory forms. */
#define ALU_OPS(name, bits)                                                                                            \
    OP(name##bits##_rr)                                                                                                \
    {                                                                                                                  \
        uint32_t af;                                                                                                   \
        put_r##bits(m, u->i.r0, name##bits(m, get_r##bits(m, u->i.r0), get_r##bits(m, u->i.r1), &af));                 \
        m->af = af;                                                                                                    \
        NEXT(m, u);                                                                                                    \
    }                                                                                                                  \
    OP(name##bits##_ri)                                                                                                \
    {                                                                                                                  \
        uint32_t af;                                                                                                   \
        put_r##bits(m, u->i.r0, name##bits(m, get_r##bits(m, u->i.r0), (uint##bits##_t)u->i.imm, &af));                \
        m->af = af;                                                                                                    \
        NEXT(m, u);                                                                                                    \
    }                                                                                                                  \
    OP(name##bits##_rm_slow)                                                                                           \
    {                                                                                                                  \
        uint##bits##_t s = interp_ld##bits(m, u, interp_ea(m, u, bits / 8, false));                                    \
        uint32_t af;                                                                                                   \
        put_r##bits(m, u->i.r0, name##bits(m, get_r##bits(m, u->i.r0), s, &af));                                       \
        m->af = af;                                                                                                    \
        NEXT(m, u);                                                                                                    \
    }                                                                                                                  \
    OP(name##bits##_rm)                                                                                                \
    {                                                                                                                  \
        gva_t lin = ea_fast(m, u);                                                                                     \
        const struct tlb_entry *e = tlb_slot(m, lin);                                                                  \
        uint32_t af;                                                                                                   \
        if (TLB_RD_MISS(e, lin, bits)) {                                                                               \
            name##bits##_rm_slow(m, u);                                                                                \
            return;                                                                                                    \
        }                                                                                                              \
        put_r##bits(m, u->i.r0, name##bits(m, get_r##bits(m, u->i.r0), *HOST_PTR(e, lin, bits), &af));                 \
        m->af = af;                                                                                                    \
        NEXT(m, u);                                                                                                    \
    }                                                                                                                  \
    RMW_OPS(name##bits##_mr, bits, name##bits(m, d, get_r##bits(m, u->i.r0), &af))                                     \
    RMW_OPS(name##bits##_mi, bits, name##bits(m, d, (uint##bits##_t)u->i.imm, &af))

/* [mem] d becomes expr, which also sets af. */
#define RMW_OPS(name, bits, expr)                                                                                      \
    OP(name##_slow)                                                                                                    \
    {                                                                                                                  \
        gva_t lin = interp_ea(m, u, bits / 8, true);                                                                   \
        uint32_t af = m->af;                                                                                           \
        uint##bits##_t d;                                                                                              \
        interp_probe_write(m, u, m->ctx, lin, bits / 8);                                                               \
        d = interp_ld##bits(m, u, lin);                                                                                \
        d = expr;                                                                                                      \
        interp_st##bits(m, u, lin, d);                                                                                 \
        m->af = af;                                                                                                    \
        NEXT_ST(m, u);                                                                                                 \
    }                                                                                                                  \
    OP(name)                                                                                                           \
    {                                                                                                                  \
        gva_t lin = ea_fast(m, u);                                                                                     \
        const struct tlb_entry *e = tlb_slot(m, lin);                                                                  \
        uint32_t af = m->af;                                                                                           \
        uint##bits##_t d;                                                                                              \
        if (TLB_WR_MISS(e, lin, bits)) {                                                                               \
            name##_slow(m, u);                                                                                         \
            return;                                                                                                    \
        }                                                                                                              \
        d = *HOST_PTR(e, lin, bits);                                                                                   \
        d = expr;                                                                                                      \
        *HOST_PTR(e, lin, bits) = d;                                                                                   \
        m->af = af;                                                                                                    \
        NEXT_FAST_ST(m, u, e, lin, bits);                                                                              \
    }

/* Only flags; l and r are the operands, mem stands for the memory one. */
#define CMP_MEM(name, fn, bits, l, r)                                                                                  \
    OP(name##_slow)                                                                                                    \
    {                                                                                                                  \
        uint##bits##_t mem = interp_ld##bits(m, u, interp_ea(m, u, bits / 8, false));                                  \
        m->af = fn##bits(l, r);                                                                                        \
        NEXT(m, u);                                                                                                    \
    }                                                                                                                  \
    OP(name)                                                                                                           \
    {                                                                                                                  \
        gva_t lin = ea_fast(m, u);                                                                                     \
        const struct tlb_entry *e = tlb_slot(m, lin);                                                                  \
        uint##bits##_t mem;                                                                                            \
        if (TLB_RD_MISS(e, lin, bits)) {                                                                               \
            name##_slow(m, u);                                                                                         \
            return;                                                                                                    \
        }                                                                                                              \
        mem = *HOST_PTR(e, lin, bits);                                                                                 \
        m->af = fn##bits(l, r);                                                                                        \
        NEXT(m, u);                                                                                                    \
    }
#define CMP_OPS(name, bits)                                                                                            \
    OP(name##bits##_rr)                                                                                                \
    {                                                                                                                  \
        m->af = name##bits(get_r##bits(m, u->i.r0), get_r##bits(m, u->i.r1));                                          \
        NEXT(m, u);                                                                                                    \
    }                                                                                                                  \
    OP(name##bits##_ri)                                                                                                \
    {                                                                                                                  \
        m->af = name##bits(get_r##bits(m, u->i.r0), (uint##bits##_t)u->i.imm);                                         \
        NEXT(m, u);                                                                                                    \
    }                                                                                                                  \
    CMP_MEM(name##bits##_rm, name, bits, get_r##bits(m, u->i.r0), mem)                                                 \
    CMP_MEM(name##bits##_mr, name, bits, mem, get_r##bits(m, u->i.r0))                                                 \
    CMP_MEM(name##bits##_mi, name, bits, mem, (uint##bits##_t)u->i.imm)

#define ALL_SIZES(X, name) X(name, 8) X(name, 16) X(name, 32) X(name, 64)
#define ALU(name, ins, pre)                                                                                            \
    ALU_FN(name, ins, "b", 8, pre)                                                                                     \
    ALU_FN(name, ins, "w", 16, pre)                                                                                    \
    ALU_FN(name, ins, "l", 32, pre)                                                                                    \
    ALU_FN(name, ins, "q", 64, pre)                                                                                    \
    ALL_SIZES(ALU_OPS, name)
#define CMP(name, ins)                                                                                                 \
    CMP_FN(name, ins, "b", 8)                                                                                          \
    CMP_FN(name, ins, "w", 16)                                                                                         \
    CMP_FN(name, ins, "l", 32)                                                                                         \
    CMP_FN(name, ins, "q", 64)                                                                                         \
    ALL_SIZES(CMP_OPS, name)

ALU(add, "add", "")
ALU(or, "or", "")
ALU(adc, "adc", FL_CF)
ALU(sbb, "sbb", FL_CF)
ALU(and, "and", "")
ALU(sub, "sub", "")
ALU(xor, "xor", "")
CMP(cmp, "cmp")
CMP(test, "test")

/* One operand. */
#define UNARY_FN(name, ins, sfx, bits, pre)                                                                            \
    static inline uint##bits##_t name##bits(const struct interp *m, uint##bits##_t d, uint32_t *af)                    \
    {                                                                                                                  \
        uint32_t fl;                                                                                                   \
        asm(pre ins sfx " %[d]" FL_OUT : [d] "+&r"(d), "=&a"(fl) : [fl] "m"(m->af) : "cc");                            \
        *af = fl;                                                                                                      \
        return d;                                                                                                      \
    }
#define UNARY_OPS(name, bits)                                                                                          \
    OP(name##bits##_r)                                                                                                 \
    {                                                                                                                  \
        uint32_t af;                                                                                                   \
        put_r##bits(m, u->i.r0, name##bits(m, get_r##bits(m, u->i.r0), &af));                                          \
        m->af = af;                                                                                                    \
        NEXT(m, u);                                                                                                    \
    }                                                                                                                  \
    RMW_OPS(name##bits##_m, bits, name##bits(m, d, &af))
#define UNARY(name, ins, pre)                                                                                          \
    UNARY_FN(name, ins, "b", 8, pre)                                                                                   \
    UNARY_FN(name, ins, "w", 16, pre)                                                                                  \
    UNARY_FN(name, ins, "l", 32, pre)                                                                                  \
    UNARY_FN(name, ins, "q", 64, pre)                                                                                  \
    ALL_SIZES(UNARY_OPS, name)

UNARY(inc, "inc", FL_CF)
UNARY(dec, "dec", FL_CF)
UNARY(neg, "neg", "")

/* NOT changes no flags. */
#define NOT_OPS(name, bits)                                                                                            \
    OP(not ##bits##_r)                                                                                                 \
    {                                                                                                                  \
        put_r##bits(m, u->i.r0, (uint##bits##_t) ~get_r##bits(m, u->i.r0));                                            \
        NEXT(m, u);                                                                                                    \
    }                                                                                                                  \
    RMW_OPS(not ##bits##_m, bits, (uint##bits##_t) ~d)
ALL_SIZES(NOT_OPS, not )

/* ---- picking ---- */

enum { FORM_RR, FORM_RI, FORM_RM, FORM_MR, FORM_MI, FORMS };

/* Per size: the five forms, and the slow ones of those with memory. */
#define ROW(name, bits)                                                                                                \
    {                                                                                                                  \
        { name##bits##_rr, name##bits##_ri, name##bits##_rm, name##bits##_mr, name##bits##_mi },                       \
        {                                                                                                              \
            name##bits##_rr, name##bits##_ri, name##bits##_rm_slow, name##bits##_mr_slow, name##bits##_mi_slow         \
        }                                                                                                              \
    }
#define TABLE(name)                                                                                                    \
    {                                                                                                                  \
        ROW(name, 8), ROW(name, 16), ROW(name, 32), ROW(name, 64)                                                      \
    }
#define UROW(name, bits)                                                                                               \
    {                                                                                                                  \
        name##bits##_r, name##bits##_m, name##bits##_m_slow                                                            \
    }
#define UTABLE(name)                                                                                                   \
    {                                                                                                                  \
        UROW(name, 8), UROW(name, 16), UROW(name, 32), UROW(name, 64)                                                  \
    }

static uop_fn pick_unary(const struct x86_insn *i)
{
    static const uop_fn t[4][4][3] = { UTABLE(inc), UTABLE(dec), UTABLE(neg), UTABLE(not ) };
    unsigned k = i->op == ZYDIS_MNEMONIC_INC   ? 0
                 : i->op == ZYDIS_MNEMONIC_DEC ? 1
                 : i->op == ZYDIS_MNEMONIC_NEG ? 2
                                               : 3;

    return t[k][size_index(i->osz)][i->form == X86_F_R ? 0 : insn_fast(i) ? 1 : 2];
}

uop_fn alu_pick(const struct x86_insn *i)
{
    static const uop_fn t[9][4][2][FORMS] = { TABLE(add), TABLE(or),  TABLE(adc), TABLE(sbb), TABLE(and),
                                              TABLE(sub), TABLE(xor), TABLE(cmp), TABLE(test) };
    unsigned op, form;

    if (i->flags & X86_I_LOCK)
        return atomic_pick(i);
    switch (i->op) {
    case ZYDIS_MNEMONIC_ADD:
        op = 0;
        break;
    case ZYDIS_MNEMONIC_OR:
        op = 1;
        break;
    case ZYDIS_MNEMONIC_ADC:
        op = 2;
        break;
    case ZYDIS_MNEMONIC_SBB:
        op = 3;
        break;
    case ZYDIS_MNEMONIC_AND:
        op = 4;
        break;
    case ZYDIS_MNEMONIC_SUB:
        op = 5;
        break;
    case ZYDIS_MNEMONIC_XOR:
        op = 6;
        break;
    case ZYDIS_MNEMONIC_CMP:
        op = 7;
        break;
    case ZYDIS_MNEMONIC_TEST:
        op = 8;
        break;
    default:
        return pick_unary(i);
    }
    switch (i->form) {
    case X86_F_RR:
        form = FORM_RR;
        break;
    case X86_F_RI:
        form = FORM_RI;
        break;
    case X86_F_RM:
        form = FORM_RM;
        break;
    case X86_F_MR:
        form = FORM_MR;
        break;
    case X86_F_MI:
        form = FORM_MI;
        break;
    default:
        return NULL;
    }
    return t[op][size_index(i->osz)][insn_fast(i) ? 0 : 1][form];
}
