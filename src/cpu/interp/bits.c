/* SPDX-License-Identifier: MIT */
/*
 * BT BTS BTR BTC, BSF BSR LZCNT TZCNT POPCNT, ADCX ADOX, CRC32, BMI1 and BMI2, on the host's own instructions.
 *
 * A destination is always the host's whole 64-bit register, so that what an instruction leaves of it (BSF of zero,
 * 16-bit results) is what the host leaves. The pick function refuses what the host does not have.
 */
#include <Zydis/Mnemonic.h>

#include "cpu/interp/core.h"

/* ---- dst, src: all flags in and out ---- */

#define HOST2(ins, sfx, type)                                                                                          \
    asm(FL_IN ins sfx " %[s],%" REGSIZE_##type "[d]" FL_OUT : "+&a"(fl), [d] "+&r"(d) : [s] "r"((type)s) : "cc")
#define REGSIZE_uint16_t "w"
#define REGSIZE_uint32_t "k"
#define REGSIZE_uint64_t "q"

static uint64_t last_source(struct interp *m, const struct uop *u, unsigned reg, unsigned size)
{
    if (u->i.form == X86_F_RR || u->i.form == X86_F_RRR || u->i.form == X86_F_RRI)
        return get_reg(m, reg, size);
    return interp_ld(m, u, interp_ea(m, u, size, false), size);
}

#define HOST2_OP(name, ins)                                                                                            \
    OP(name##_any)                                                                                                     \
    {                                                                                                                  \
        uint64_t s = last_source(m, u, u->i.r1, u->i.osz), d = m->c.gpr[u->i.r0];                                      \
        uint32_t fl = m->af;                                                                                           \
        if (u->i.osz == 2)                                                                                             \
            HOST2(ins, "w", uint16_t);                                                                                 \
        else if (u->i.osz == 4)                                                                                        \
            HOST2(ins, "l", uint32_t);                                                                                 \
        else                                                                                                           \
            HOST2(ins, "q", uint64_t);                                                                                 \
        m->c.gpr[u->i.r0] = d;                                                                                         \
        m->af = fl;                                                                                                    \
        NEXT(m, u);                                                                                                    \
    }
HOST2_OP(bsf, "bsf")
HOST2_OP(bsr, "bsr")
HOST2_OP(lzcnt, "lzcnt")
HOST2_OP(tzcnt, "tzcnt")
HOST2_OP(popcnt, "popcnt")

#define HOST2_WIDE_OP(name, ins)                                                                                       \
    OP(name##_any)                                                                                                     \
    {                                                                                                                  \
        uint64_t s = last_source(m, u, u->i.r1, u->i.osz), d = m->c.gpr[u->i.r0];                                      \
        uint32_t fl = m->af;                                                                                           \
        if (u->i.osz == 4)                                                                                             \
            HOST2(ins, "l", uint32_t);                                                                                 \
        else                                                                                                           \
            HOST2(ins, "q", uint64_t);                                                                                 \
        m->c.gpr[u->i.r0] = d;                                                                                         \
        m->af = fl;                                                                                                    \
        NEXT(m, u);                                                                                                    \
    }
HOST2_WIDE_OP(adcx, "adcx")
HOST2_WIDE_OP(adox, "adox")

OP(crc32_any)
{
    uint64_t s = last_source(m, u, u->i.r1, u->i.ssz), d = m->c.gpr[u->i.r0];

    switch (u->i.ssz) {
    case 1:
        asm("crc32b %b[s],%k[d]" : [d] "+r"(d) : [s] "r"(s));
        break;
    case 2:
        asm("crc32w %w[s],%k[d]" : [d] "+r"(d) : [s] "r"(s));
        break;
    case 4:
        asm("crc32l %k[s],%k[d]" : [d] "+r"(d) : [s] "r"(s));
        break;
    default:
        asm("crc32q %[s],%[d]" : [d] "+r"(d) : [s] "r"(s));
        break;
    }
    m->c.gpr[u->i.r0] = d;
    NEXT(m, u);
}

/* ---- bit test ---- */

/* The value with the bit changed; CF in *fl. */
#define BT_FN(name, ins)                                                                                               \
    static uint64_t name##_host(uint64_t d, uint64_t bit, unsigned size, uint32_t *af)                                 \
    {                                                                                                                  \
        uint32_t fl = *af;                                                                                             \
        if (size == 2)                                                                                                 \
            asm(FL_IN ins "w %w[s],%w[d]" FL_OUT : "+&a"(fl), [d] "+&r"(d) : [s] "r"(bit) : "cc");                     \
        else if (size == 4)                                                                                            \
            asm(FL_IN ins "l %k[s],%k[d]" FL_OUT : "+&a"(fl), [d] "+&r"(d) : [s] "r"(bit) : "cc");                     \
        else                                                                                                           \
            asm(FL_IN ins "q %[s],%[d]" FL_OUT : "+&a"(fl), [d] "+&r"(d) : [s] "r"(bit) : "cc");                       \
        *af = fl;                                                                                                      \
        return d;                                                                                                      \
    }
BT_FN(bt, "bt")
BT_FN(bts, "bts")
BT_FN(btr, "btr")
BT_FN(btc, "btc")

/* With a register as bit number, memory is a bit string: the word that has the bit is accessed. */
gva_t bits_string_lin(struct interp *m, const struct uop *u, bool write)
{
    unsigned size = u->i.osz, seg = u->i.seg;
    int64_t bit = size == 2   ? (int16_t)get_r16(m, u->i.r0)
                  : size == 4 ? (int32_t)get_r32(m, u->i.r0)
                              : (int64_t)m->c.gpr[u->i.r0];
    uint64_t delta = (uint64_t)((bit >> (size == 2 ? 4 : size == 4 ? 5 : 6)) * (int64_t)size), off;

    if (insn_fast(&u->i))
        return (ea_fast(m, u) + delta) & m->ip_mask;
    off = interp_ea_off(m, u) + delta;
    if (u->i.asz != 8)
        off = u->i.asz == 4 ? (uint32_t)off : (uint16_t)off;
    if (seg == X86_SEG_NONE && (u->i.base == X86_RSP || u->i.base == X86_RBP))
        seg = X86_SS_SEG;
    return interp_seg_lin(m, u, seg, off, size, write);
}

#define BT_REG(name)                                                                                                   \
    OP(name##_rr)                                                                                                      \
    {                                                                                                                  \
        uint64_t bit = u->i.form == X86_F_RR ? m->c.gpr[u->i.r1] : (uint64_t)u->i.imm;                                 \
        uint32_t af = m->af;                                                                                           \
        m->c.gpr[u->i.r0] = name##_host(m->c.gpr[u->i.r0], bit, u->i.osz, &af);                                        \
        m->af = af;                                                                                                    \
        NEXT(m, u);                                                                                                    \
    }
BT_REG(bts)
BT_REG(btr)
BT_REG(btc)
OP(bt_rr)
{
    uint64_t bit = u->i.form == X86_F_RR ? m->c.gpr[u->i.r1] : (uint64_t)u->i.imm;
    uint32_t af = m->af;

    bt_host(m->c.gpr[u->i.r0], bit, u->i.osz, &af); /* a 32-bit BT writes no register */
    m->af = af;
    NEXT(m, u);
}

OP(bt_m)
{
    bool reg = u->i.form == X86_F_MR;
    gva_t lin = reg ? bits_string_lin(m, u, false) : interp_ea(m, u, u->i.osz, false);
    uint32_t af = m->af;

    bt_host(interp_ld(m, u, lin, u->i.osz), reg ? m->c.gpr[u->i.r0] : (uint64_t)u->i.imm, u->i.osz, &af);
    m->af = af;
    NEXT(m, u);
}
#define BT_MEM(name)                                                                                                   \
    OP(name##_m)                                                                                                       \
    {                                                                                                                  \
        bool reg = u->i.form == X86_F_MR;                                                                              \
        gva_t lin = reg ? bits_string_lin(m, u, true) : interp_ea(m, u, u->i.osz, true);                               \
        uint64_t bit = reg ? m->c.gpr[u->i.r0] : (uint64_t)u->i.imm;                                                   \
        uint32_t af = m->af;                                                                                           \
        interp_probe_write(m, u, m->ctx, lin, u->i.osz);                                                               \
        interp_st(m, u, lin, u->i.osz, name##_host(interp_ld(m, u, lin, u->i.osz), bit, u->i.osz, &af));               \
        m->af = af;                                                                                                    \
        NEXT_ST(m, u);                                                                                                 \
    }
BT_MEM(bts)
BT_MEM(btr)
BT_MEM(btc)

/* ---- BMI ---- */

/* d := ins(a, b) in AT&T order b, a, d; with flags. */
#define BMI3_FL(name, ins)                                                                                             \
    static void name##_host(struct interp *m, const struct uop *u, uint64_t a, uint64_t b)                             \
    {                                                                                                                  \
        uint32_t fl = m->af;                                                                                           \
        uint64_t d;                                                                                                    \
        if (u->i.osz == 4)                                                                                             \
            asm(FL_IN ins " %k[b],%k[a],%k[d]" FL_OUT : "+&a"(fl), [d] "=&r"(d) : [a] "r"(a), [b] "r"(b) : "cc");      \
        else                                                                                                           \
            asm(FL_IN ins " %[b],%[a],%[d]" FL_OUT : "+&a"(fl), [d] "=&r"(d) : [a] "r"(a), [b] "r"(b) : "cc");         \
        m->c.gpr[u->i.r0] = u->i.osz == 4 ? (uint32_t)d : d;                                                           \
        m->af = fl;                                                                                                    \
    }
/* dst, reg, r/m */
#define BMI_RRS(name)                                                                                                  \
    OP(name##_any)                                                                                                     \
    {                                                                                                                  \
        uint64_t b = last_source(m, u, u->i.r2, u->i.osz);                                                             \
        name##_host(m, u, m->c.gpr[u->i.r1], b);                                                                       \
        NEXT(m, u);                                                                                                    \
    }
/* dst, r/m, reg */
#define BMI_RSR(name)                                                                                                  \
    OP(name##_any)                                                                                                     \
    {                                                                                                                  \
        bool reg = u->i.form == X86_F_RRR;                                                                             \
        uint64_t a = last_source(m, u, u->i.r1, u->i.osz);                                                             \
        name##_host(m, u, a, m->c.gpr[reg ? u->i.r2 : u->i.r1]);                                                       \
        NEXT(m, u);                                                                                                    \
    }
BMI3_FL(andn, "andn")
BMI3_FL(bextr, "bextr")
BMI3_FL(bzhi, "bzhi")
BMI3_FL(sarx, "sarx")
BMI3_FL(shlx, "shlx")
BMI3_FL(shrx, "shrx")
BMI3_FL(pdep, "pdep")
BMI3_FL(pext, "pext")
BMI_RRS(andn)
BMI_RSR(bextr)
BMI_RSR(bzhi)
BMI_RSR(sarx)
BMI_RSR(shlx)
BMI_RSR(shrx)
BMI_RRS(pdep)
BMI_RRS(pext)

#define BMI2_OP(name, ins)                                                                                             \
    OP(name##_any)                                                                                                     \
    {                                                                                                                  \
        uint64_t s = last_source(m, u, u->i.r1, u->i.osz), d;                                                          \
        uint32_t fl = m->af;                                                                                           \
        if (u->i.osz == 4)                                                                                             \
            asm(FL_IN ins " %k[s],%k[d]" FL_OUT : "+&a"(fl), [d] "=&r"(d) : [s] "r"(s) : "cc");                        \
        else                                                                                                           \
            asm(FL_IN ins " %[s],%[d]" FL_OUT : "+&a"(fl), [d] "=&r"(d) : [s] "r"(s) : "cc");                          \
        m->c.gpr[u->i.r0] = u->i.osz == 4 ? (uint32_t)d : d;                                                           \
        m->af = fl;                                                                                                    \
        NEXT(m, u);                                                                                                    \
    }
BMI2_OP(blsi, "blsi")
BMI2_OP(blsr, "blsr")
BMI2_OP(blsmsk, "blsmsk")

OP(rorx_any)
{
    uint64_t s = last_source(m, u, u->i.r1, u->i.osz);
    unsigned n = (unsigned)u->i.imm & (u->i.osz * 8U - 1);

    if (u->i.osz == 4)
        m->c.gpr[u->i.r0] = (uint32_t)((uint32_t)s >> n | (uint32_t)s << (-n & 31));
    else
        m->c.gpr[u->i.r0] = s >> n | s << (-n & 63);
    NEXT(m, u);
}

OP(mulx_any)
{
    uint64_t s = last_source(m, u, u->i.r2, u->i.osz);

    if (u->i.osz == 4) {
        uint64_t p = (uint64_t)(uint32_t)m->c.gpr[X86_RDX] * (uint32_t)s;
        m->c.gpr[u->i.r1] = (uint32_t)p;
        m->c.gpr[u->i.r0] = p >> 32;
    } else {
        unsigned __int128 p = (unsigned __int128)m->c.gpr[X86_RDX] * s;
        m->c.gpr[u->i.r1] = (uint64_t)p;
        m->c.gpr[u->i.r0] = (uint64_t)(p >> 64);
    }
    NEXT(m, u);
}

/* ---- picking ---- */

uop_fn bits_pick(const struct x86_insn *i)
{
    bool mem = i->form == X86_F_MR || i->form == X86_F_MI;

    if (i->flags & X86_I_LOCK)
        return atomic_pick(i);
    switch (i->op) {
    case ZYDIS_MNEMONIC_BT:
        return mem ? bt_m : bt_rr;
    case ZYDIS_MNEMONIC_BTS:
        return mem ? bts_m : bts_rr;
    case ZYDIS_MNEMONIC_BTR:
        return mem ? btr_m : btr_rr;
    case ZYDIS_MNEMONIC_BTC:
        return mem ? btc_m : btc_rr;
    case ZYDIS_MNEMONIC_BSF:
        return bsf_any;
    case ZYDIS_MNEMONIC_BSR:
        return bsr_any;
    case ZYDIS_MNEMONIC_LZCNT:
        return lzcnt_any;
    case ZYDIS_MNEMONIC_TZCNT:
        return tzcnt_any;
    case ZYDIS_MNEMONIC_POPCNT:
        return __builtin_cpu_supports("popcnt") ? popcnt_any : NULL;
    case ZYDIS_MNEMONIC_CRC32:
        return __builtin_cpu_supports("sse4.2") ? crc32_any : NULL;
    default:
        return NULL;
    }
}

/* CPUID.7:EBX.ADX, which gcc's list of features lacks. */
static bool host_has_adx(void)
{
    uint32_t a = 7, b, c = 0, d;

    asm("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    return b >> 19 & 1;
}

uop_fn bmi_pick(const struct x86_insn *i)
{
    static const struct {
        uint16_t op;
        bool bmi2;
        uop_fn fn;
    } t[] = {
        { ZYDIS_MNEMONIC_ANDN, false, andn_any },     { ZYDIS_MNEMONIC_BEXTR, false, bextr_any },
        { ZYDIS_MNEMONIC_BLSI, false, blsi_any },     { ZYDIS_MNEMONIC_BLSR, false, blsr_any },
        { ZYDIS_MNEMONIC_BLSMSK, false, blsmsk_any }, { ZYDIS_MNEMONIC_BZHI, true, bzhi_any },
        { ZYDIS_MNEMONIC_SARX, true, sarx_any },      { ZYDIS_MNEMONIC_SHLX, true, shlx_any },
        { ZYDIS_MNEMONIC_SHRX, true, shrx_any },      { ZYDIS_MNEMONIC_PDEP, true, pdep_any },
        { ZYDIS_MNEMONIC_PEXT, true, pext_any },      { ZYDIS_MNEMONIC_RORX, true, rorx_any },
        { ZYDIS_MNEMONIC_MULX, true, mulx_any },
    };

    if (i->op == ZYDIS_MNEMONIC_ADCX)
        return host_has_adx() ? adcx_any : NULL;
    if (i->op == ZYDIS_MNEMONIC_ADOX)
        return host_has_adx() ? adox_any : NULL;
    for (unsigned k = 0; k < ARRAY_LEN(t); k++)
        if (t[k].op == i->op)
            return (t[k].bmi2 ? __builtin_cpu_supports("bmi2") : __builtin_cpu_supports("bmi")) ? t[k].fn : NULL;
    return NULL;
}
