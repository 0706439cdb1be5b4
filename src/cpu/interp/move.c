/* SPDX-License-Identifier: MIT */
/* MOV MOVZX MOVSX MOVSXD MOVBE MOVNTI MOVDIRI BSWAP XCHG (registers) CMOVcc SETcc LEA XLAT and the CBW family. */
#include <Zydis/Mnemonic.h>

#include "cpu/interp/cond.h"
#include "cpu/interp/core.h"

/* ---- MOV ---- */

/* Register := load of `from` bits, as expr of s. */
#define LOAD_OPS(name, from, to, expr)                                                                                 \
    OP(name##_slow)                                                                                                    \
    {                                                                                                                  \
        uint##from##_t s = interp_ld##from(m, u, interp_ea(m, u, from / 8, false));                                    \
        put_r##to(m, u->i.r0, (uint##to##_t)(expr));                                                                   \
        NEXT(m, u);                                                                                                    \
    }                                                                                                                  \
    OP(name)                                                                                                           \
    {                                                                                                                  \
        gva_t lin = ea_fast(m, u);                                                                                     \
        const struct tlb_entry *e = tlb_slot(m, lin);                                                                  \
        uint##from##_t s;                                                                                              \
        if (TLB_RD_MISS(e, lin, from)) {                                                                               \
            name##_slow(m, u);                                                                                         \
            return;                                                                                                    \
        }                                                                                                              \
        s = *HOST_PTR(e, lin, from);                                                                                   \
        put_r##to(m, u->i.r0, (uint##to##_t)(expr));                                                                   \
        NEXT(m, u);                                                                                                    \
    }
#define STORE_OPS(name, bits, expr)                                                                                    \
    OP(name##_slow)                                                                                                    \
    {                                                                                                                  \
        interp_st##bits(m, u, interp_ea(m, u, bits / 8, true), (uint##bits##_t)(expr));                                \
        NEXT_ST(m, u);                                                                                                 \
    }                                                                                                                  \
    OP(name)                                                                                                           \
    {                                                                                                                  \
        gva_t lin = ea_fast(m, u);                                                                                     \
        const struct tlb_entry *e = tlb_slot(m, lin);                                                                  \
        if (TLB_WR_MISS(e, lin, bits)) {                                                                               \
            name##_slow(m, u);                                                                                         \
            return;                                                                                                    \
        }                                                                                                              \
        *HOST_PTR(e, lin, bits) = (uint##bits##_t)(expr);                                                              \
        NEXT_FAST_ST(m, u, e, lin, bits);                                                                              \
    }
#define MOV_OPS(bits)                                                                                                  \
    OP(mov##bits##_rr)                                                                                                 \
    {                                                                                                                  \
        put_r##bits(m, u->i.r0, get_r##bits(m, u->i.r1));                                                              \
        NEXT(m, u);                                                                                                    \
    }                                                                                                                  \
    OP(mov##bits##_ri)                                                                                                 \
    {                                                                                                                  \
        put_r##bits(m, u->i.r0, (uint##bits##_t)u->i.imm);                                                             \
        NEXT(m, u);                                                                                                    \
    }                                                                                                                  \
    LOAD_OPS(mov##bits##_rm, bits, bits, s)                                                                            \
    STORE_OPS(mov##bits##_mr, bits, get_r##bits(m, u->i.r0))                                                           \
    STORE_OPS(mov##bits##_mi, bits, u->i.imm)
MOV_OPS(8)
MOV_OPS(16)
MOV_OPS(32)
MOV_OPS(64)

/* moffs with an address that fits no displacement */
OP(mov_moffs)
{
    gva_t lin = (uint64_t)u->i.imm + m->c.seg[u->i.seg].base;

    if (u->i.form == X86_F_RM) {
        put_reg(m, u->i.r0, u->i.osz, interp_ld(m, u, lin, u->i.osz));
        NEXT(m, u);
    }
    interp_st(m, u, lin, u->i.osz, get_reg(m, u->i.r0, u->i.osz));
    NEXT_ST(m, u);
}

static uop_fn pick_mov(const struct x86_insn *i)
{
#define ROW(bits)                                                                                                      \
    {                                                                                                                  \
        { mov##bits##_rr, mov##bits##_ri, mov##bits##_rm, mov##bits##_mr, mov##bits##_mi },                            \
        {                                                                                                              \
            mov##bits##_rr, mov##bits##_ri, mov##bits##_rm_slow, mov##bits##_mr_slow, mov##bits##_mi_slow              \
        }                                                                                                              \
    }
    static const uop_fn t[4][2][5] = { ROW(8), ROW(16), ROW(32), ROW(64) };
#undef ROW
    const uop_fn *row = t[size_index(i->osz)][insn_fast(i) ? 0 : 1];

    if ((i->form == X86_F_RM || i->form == X86_F_MR) && i->imm)
        return mov_moffs;
    switch (i->form) {
    case X86_F_RR:
        return row[0];
    case X86_F_RI:
        return row[1];
    case X86_F_RM:
        return row[2];
    case X86_F_MR:
        return row[3];
    case X86_F_MI:
        return row[4];
    default:
        return NULL;
    }
}

/* ---- widening ---- */

#define WIDEN(name, from, to, expr)                                                                                    \
    OP(name##_rr)                                                                                                      \
    {                                                                                                                  \
        uint##from##_t s = get_r##from(m, u->i.r1);                                                                    \
        put_r##to(m, u->i.r0, (uint##to##_t)(expr));                                                                   \
        NEXT(m, u);                                                                                                    \
    }                                                                                                                  \
    LOAD_OPS(name##_rm, from, to, expr)
WIDEN(zx8_16, 8, 16, s)
WIDEN(zx8_32, 8, 32, s)
WIDEN(zx16_16, 16, 16, s)
WIDEN(zx16_32, 16, 32, s)
WIDEN(sx8_16, 8, 16, (int8_t)s)
WIDEN(sx8_32, 8, 32, (int8_t)s)
WIDEN(sx8_64, 8, 64, (int8_t)s)
WIDEN(sx16_16, 16, 16, s)
WIDEN(sx16_32, 16, 32, (int16_t)s)
WIDEN(sx16_64, 16, 64, (int16_t)s)
WIDEN(sx32_32, 32, 32, s)
WIDEN(sx32_64, 32, 64, (int32_t)s)

/* [source size][destination size]; zero extension to 64 bits is that to 32. */
static uop_fn pick_widen(const struct x86_insn *i)
{
#define W(name)                                                                                                        \
    {                                                                                                                  \
        name##_rr, name##_rm, name##_rm_slow                                                                           \
    }
    static const uop_fn zx[2][4][3] = { { { NULL }, W(zx8_16), W(zx8_32), W(zx8_32) },
                                        { { NULL }, W(zx16_16), W(zx16_32), W(zx16_32) } };
    static const uop_fn sx[3][4][3] = { { { NULL }, W(sx8_16), W(sx8_32), W(sx8_64) },
                                        { { NULL }, W(sx16_16), W(sx16_32), W(sx16_64) },
                                        { { NULL }, W(sx16_16), W(sx32_32), W(sx32_64) } };
#undef W
    unsigned form = i->form == X86_F_RR ? 0 : insn_fast(i) ? 1 : 2;

    if (i->op == ZYDIS_MNEMONIC_MOVZX)
        return zx[size_index(i->ssz)][size_index(i->osz)][form];
    return sx[size_index(i->ssz)][size_index(i->osz)][form];
}

/* ---- LEA ---- */

OP(lea64)
{
    m->c.gpr[u->i.r0] = m->c.gpr[u->i.base] + (m->c.gpr[u->i.index] << u->i.scale) + (uint64_t)(int64_t)u->i.disp;
    NEXT(m, u);
}
OP(lea32)
{
    m->c.gpr[u->i.r0] =
        (uint32_t)(m->c.gpr[u->i.base] + (m->c.gpr[u->i.index] << u->i.scale) + (uint64_t)(int64_t)u->i.disp);
    NEXT(m, u);
}
OP(lea_any)
{
    set_reg(m, u->i.r0, u->i.osz, interp_ea_off(m, u));
    NEXT(m, u);
}

/* ---- conditions ---- */

#define CC_OPS(cc)                                                                                                     \
    OP(cmov##cc##_rr)                                                                                                  \
    {                                                                                                                  \
        uint64_t v = cond_##cc(m->af) ? m->c.gpr[u->i.r1] : m->c.gpr[u->i.r0];                                         \
        set_reg(m, u->i.r0, u->i.osz, v);                                                                              \
        NEXT(m, u);                                                                                                    \
    }                                                                                                                  \
    OP(cmov##cc##_rm) /* loads even when the condition is false */                                                     \
    {                                                                                                                  \
        uint64_t v = interp_ld(m, u, interp_ea(m, u, u->i.osz, false), u->i.osz);                                      \
        set_reg(m, u->i.r0, u->i.osz, cond_##cc(m->af) ? v : m->c.gpr[u->i.r0]);                                       \
        NEXT(m, u);                                                                                                    \
    }                                                                                                                  \
    OP(set##cc##_r)                                                                                                    \
    {                                                                                                                  \
        *reg8(m, u->i.r0) = cond_##cc(m->af);                                                                          \
        NEXT(m, u);                                                                                                    \
    }                                                                                                                  \
    OP(set##cc##_m)                                                                                                    \
    {                                                                                                                  \
        interp_st8(m, u, interp_ea(m, u, 1, true), cond_##cc(m->af));                                                  \
        NEXT_ST(m, u);                                                                                                 \
    }
COND_LIST(CC_OPS)

static uop_fn pick_cc(const struct x86_insn *i)
{
#define ROW(cc) { cmov##cc##_rr, cmov##cc##_rm, set##cc##_r, set##cc##_m },
    static const uop_fn t[16][4] = { COND_LIST(ROW) };
#undef ROW
    static const uint16_t cmov[16] = {
        ZYDIS_MNEMONIC_CMOVO, ZYDIS_MNEMONIC_CMOVNO, ZYDIS_MNEMONIC_CMOVB,  ZYDIS_MNEMONIC_CMOVNB,
        ZYDIS_MNEMONIC_CMOVZ, ZYDIS_MNEMONIC_CMOVNZ, ZYDIS_MNEMONIC_CMOVBE, ZYDIS_MNEMONIC_CMOVNBE,
        ZYDIS_MNEMONIC_CMOVS, ZYDIS_MNEMONIC_CMOVNS, ZYDIS_MNEMONIC_CMOVP,  ZYDIS_MNEMONIC_CMOVNP,
        ZYDIS_MNEMONIC_CMOVL, ZYDIS_MNEMONIC_CMOVNL, ZYDIS_MNEMONIC_CMOVLE, ZYDIS_MNEMONIC_CMOVNLE,
    };
    static const uint16_t set[16] = {
        ZYDIS_MNEMONIC_SETO, ZYDIS_MNEMONIC_SETNO, ZYDIS_MNEMONIC_SETB,  ZYDIS_MNEMONIC_SETNB,
        ZYDIS_MNEMONIC_SETZ, ZYDIS_MNEMONIC_SETNZ, ZYDIS_MNEMONIC_SETBE, ZYDIS_MNEMONIC_SETNBE,
        ZYDIS_MNEMONIC_SETS, ZYDIS_MNEMONIC_SETNS, ZYDIS_MNEMONIC_SETP,  ZYDIS_MNEMONIC_SETNP,
        ZYDIS_MNEMONIC_SETL, ZYDIS_MNEMONIC_SETNL, ZYDIS_MNEMONIC_SETLE, ZYDIS_MNEMONIC_SETNLE,
    };

    for (unsigned k = 0; k < 16; k++) {
        if (i->op == cmov[k])
            return t[k][i->form == X86_F_RR ? 0 : 1];
        if (i->op == set[k])
            return t[k][i->form == X86_F_R ? 2 : 3];
    }
    return NULL;
}

/* ---- the rest ---- */

static uint64_t byteswap(uint64_t v, unsigned size)
{
    return size == 2   ? __builtin_bswap16((uint16_t)v)
           : size == 4 ? __builtin_bswap32((uint32_t)v)
                       : __builtin_bswap64(v);
}

OP(movbe_rm)
{
    uint64_t v = interp_ld(m, u, interp_ea(m, u, u->i.osz, false), u->i.osz);

    set_reg(m, u->i.r0, u->i.osz, byteswap(v, u->i.osz));
    NEXT(m, u);
}
OP(movbe_mr)
{
    interp_st(m, u, interp_ea(m, u, u->i.osz, true), u->i.osz, byteswap(m->c.gpr[u->i.r0], u->i.osz));
    NEXT_ST(m, u);
}

OP(bswap_r)
{
    uint64_t d = m->c.gpr[u->i.r0];

    if (u->i.osz == 8)
        d = __builtin_bswap64(d);
    else if (u->i.osz == 4)
        d = __builtin_bswap32((uint32_t)d);
    else /* undefined: whatever the host does */
        asm(".byte 0x66, 0x0f, 0xc8 /* bswap %%ax */" : "+a"(d));
    m->c.gpr[u->i.r0] = d;
    NEXT(m, u);
}

OP(xchg_rr)
{
    uint64_t a = get_reg(m, u->i.r0, u->i.osz), b = get_reg(m, u->i.r1, u->i.osz);

    put_reg(m, u->i.r0, u->i.osz, b);
    put_reg(m, u->i.r1, u->i.osz, a);
    NEXT(m, u);
}

OP(xlat)
{
    uint64_t off = m->c.gpr[X86_RBX] + (uint8_t)m->c.gpr[X86_RAX];
    gva_t lin;

    if (insn_fast(&u->i)) {
        lin = (off + m->c.seg[u->i.seg].base) & m->ip_mask;
    } else {
        off = u->i.asz == 8 ? off : u->i.asz == 4 ? (uint32_t)off : (uint16_t)off;
        lin = interp_seg_lin(m, u, u->i.seg, off, 1, false);
    }
    *reg8(m, 0) = interp_ld8(m, u, lin);
    NEXT(m, u);
}

OP(cbw)
{
    set_reg16(m, X86_RAX, (uint16_t)(int8_t)m->c.gpr[X86_RAX]);
    NEXT(m, u);
}
OP(cwde)
{
    put_r32(m, X86_RAX, (uint32_t)(int16_t)m->c.gpr[X86_RAX]);
    NEXT(m, u);
}
OP(cdqe)
{
    m->c.gpr[X86_RAX] = (uint64_t)(int32_t)m->c.gpr[X86_RAX];
    NEXT(m, u);
}
OP(cwd)
{
    set_reg16(m, X86_RDX, (uint16_t)((int16_t)m->c.gpr[X86_RAX] >> 15));
    NEXT(m, u);
}
OP(cdq)
{
    m->c.gpr[X86_RDX] = (uint32_t)((int32_t)m->c.gpr[X86_RAX] >> 31);
    NEXT(m, u);
}
OP(cqo)
{
    m->c.gpr[X86_RDX] = (uint64_t)((int64_t)m->c.gpr[X86_RAX] >> 63);
    NEXT(m, u);
}

/* CPUID.7:ECX bits 27 and 28 */
static bool host_has_movdir(unsigned bit)
{
    uint32_t a = 7, b, c = 0, d;

    asm("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    return c >> bit & 1;
}

/* SDM Vol. 2A, "MOVDIR64B": 64 bytes, destination aligned and in ES. */
OP(movdir64b)
{
    uint8_t buf[64];
    uint64_t dst = m->c.gpr[u->i.r0];
    gva_t from = interp_ea(m, u, 64, false), to;

    dst = u->i.asz == 8 ? dst : u->i.asz == 4 ? (uint32_t)dst : (uint16_t)dst;
    if (dst & 63)
        interp_gp(m, u, 0);
    to = interp_seg_lin(m, u, X86_ES, dst, 64, true);
    interp_read(m, u, m->ctx, from, buf, 64);
    interp_write(m, u, m->ctx, to, buf, 64);
    NEXT_ST(m, u);
}

static uop_fn pick_lea(const struct x86_insn *i)
{
    /* Outside 64-bit mode a 32-bit LEA has a 32-bit address, or is cut by lea_any. */
    if (insn_fast(i) || (i->asz == 4 && i->osz == 4))
        return i->osz == 8 ? lea64 : i->osz == 4 ? lea32 : lea_any;
    return lea_any;
}

uop_fn move_pick(const struct x86_insn *i)
{
    switch (i->op) {
    case ZYDIS_MNEMONIC_MOV:
        return pick_mov(i);
    case ZYDIS_MNEMONIC_MOVZX:
    case ZYDIS_MNEMONIC_MOVSX:
    case ZYDIS_MNEMONIC_MOVSXD:
        return pick_widen(i);
    case ZYDIS_MNEMONIC_LEA:
        return pick_lea(i);
    case ZYDIS_MNEMONIC_MOVNTI:
        return pick_mov(i);
    case ZYDIS_MNEMONIC_MOVDIRI:
        return host_has_movdir(27) ? pick_mov(i) : NULL;
    case ZYDIS_MNEMONIC_MOVDIR64B:
        return host_has_movdir(28) ? movdir64b : NULL;
    case ZYDIS_MNEMONIC_MOVBE:
        if (!__builtin_cpu_supports("movbe"))
            return NULL;
        return i->form == X86_F_RM ? movbe_rm : movbe_mr;
    case ZYDIS_MNEMONIC_BSWAP:
        return bswap_r;
    case ZYDIS_MNEMONIC_XCHG:
        return i->form == X86_F_RR ? xchg_rr : atomic_pick(i);
    case ZYDIS_MNEMONIC_XLAT:
        return xlat;
    case ZYDIS_MNEMONIC_CBW:
        return cbw;
    case ZYDIS_MNEMONIC_CWDE:
        return cwde;
    case ZYDIS_MNEMONIC_CDQE:
        return cdqe;
    case ZYDIS_MNEMONIC_CWD:
        return cwd;
    case ZYDIS_MNEMONIC_CDQ:
        return cdq;
    case ZYDIS_MNEMONIC_CQO:
        return cqo;
    default:
        return pick_cc(i);
    }
}
