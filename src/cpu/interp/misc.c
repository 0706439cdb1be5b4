/* SPDX-License-Identifier: MIT */
/*
 * Flag instructions (but CLI, STI, PUSHF, POPF), decimal adjustment, BOUND, and what has no effect here: NOP, PAUSE,
 * prefetches, fences and cache control.
 */
#include <Zydis/Mnemonic.h>

#include "cpu/interp/cond.h"
#include "cpu/interp/core.h"

enum { PAUSES_PER_EXIT = 256 };

OP(nop)
{
    NEXT(m, u);
}

/* A long spin lets another vCPU's thread have the host CPU. */
OP(pause)
{
    if (++m->pauses >= PAUSES_PER_EXIT) {
        m->pauses = 0;
        interp_exit(m, u, EXIT_PAUSE, true);
    }
    NEXT(m, u);
}

OP(mfence)
{
    asm volatile("mfence" : : : "memory");
    NEXT(m, u);
}

/* CLFLUSH and kin obey the rules of a byte load: SDM Vol. 2A, "CLFLUSH". */
OP(flush_line)
{
    interp_ld8(m, u, interp_ea(m, u, 1, false));
    NEXT(m, u);
}

/* APM Vol. 3, "CLZERO": the 64-byte line that holds [rAX]. */
OP(clzero)
{
    static const uint8_t zeros[64];
    uint64_t off = m->c.gpr[X86_RAX];
    gva_t lin;

    off = u->i.asz == 8 ? off : u->i.asz == 4 ? (uint32_t)off : (uint16_t)off;
    lin = interp_seg_lin(m, u, u->i.seg == X86_SEG_NONE ? X86_DS : u->i.seg, off & ~63UL, 64, true);
    interp_write(m, u, m->ctx, lin, zeros, 64);
    NEXT_ST(m, u);
}

/* ---- flags ---- */

OP(clc)
{
    m->af &= ~(uint32_t)AF_CF;
    NEXT(m, u);
}
OP(stc)
{
    m->af |= AF_CF;
    NEXT(m, u);
}
OP(cmc)
{
    m->af ^= AF_CF;
    NEXT(m, u);
}
OP(cld)
{
    m->c.rflags &= ~(uint64_t)X86_FL_DF;
    NEXT(m, u);
}
OP(std)
{
    m->c.rflags |= X86_FL_DF;
    NEXT(m, u);
}
OP(lahf)
{
    *reg8(m, 1) = (uint8_t)(((m->af >> 8) & 0xd5) | 2);
    NEXT(m, u);
}
OP(sahf)
{
    m->af = (uint32_t)((*reg8(m, 1) & 0xd5) | 2) << 8 | (m->af & AF_OF);
    NEXT(m, u);
}
OP(salc)
{
    *reg8(m, 0) = m->af & AF_CF ? 0xff : 0;
    NEXT(m, u);
}

/* ---- decimal: SDM Vol. 2A, operation sections. Undefined flags: SF ZF PF by the result, OF 0. ---- */

static void decimal_flags(struct interp *m, uint8_t result, bool af, bool cf)
{
    uint32_t fl;

    asm("testb %[r],%[r]" FL_OUT : "=&a"(fl) : [r] "r"(result) : "cc");
    m->af = (fl & ~(uint32_t)(AF_CF | 0x1000)) | (cf ? AF_CF : 0) | (af ? 0x1000 : 0);
}

static void ascii_adjust(struct interp *m, int sign)
{
    uint8_t al = *reg8(m, 0);
    bool adjust = (al & 0xf) > 9 || (m->af & 0x1000);

    if (adjust) {
        set_reg16(m, X86_RAX, (uint16_t)(get_r16(m, X86_RAX) + sign * 6));
        *reg8(m, 1) = (uint8_t)(*reg8(m, 1) + sign);
    }
    *reg8(m, 0) &= 0xf;
    decimal_flags(m, *reg8(m, 0), adjust, adjust);
}
OP(aaa)
{
    ascii_adjust(m, 1);
    NEXT(m, u);
}
OP(aas)
{
    ascii_adjust(m, -1);
    NEXT(m, u);
}

static void packed_adjust(struct interp *m, int sign)
{
    uint8_t al = *reg8(m, 0), r = al;
    bool cf = m->af & AF_CF, low = (al & 0xf) > 9 || (m->af & 0x1000), high = al > 0x99 || cf, carry = false;

    if (low) {
        carry = cf || (sign > 0 ? al > 0xff - 6 : al < 6);
        r = (uint8_t)(r + sign * 6);
    }
    if (high) {
        r = (uint8_t)(r + sign * 0x60);
        carry = true;
    } else if (sign > 0) {
        carry = false;
    }
    *reg8(m, 0) = r;
    decimal_flags(m, r, low, carry);
}
OP(daa)
{
    packed_adjust(m, 1);
    NEXT(m, u);
}
OP(das)
{
    packed_adjust(m, -1);
    NEXT(m, u);
}

OP(aam)
{
    uint8_t al = *reg8(m, 0), base = (uint8_t)u->i.imm;

    if (!base)
        interp_raise_vec(m, u, X86_DE, 0);
    set_reg16(m, X86_RAX, (uint16_t)((al / base) << 8 | (al % base)));
    decimal_flags(m, *reg8(m, 0), false, false);
    NEXT(m, u);
}
OP(aad)
{
    uint8_t al = (uint8_t)(*reg8(m, 0) + *reg8(m, 1) * (uint8_t)u->i.imm);

    set_reg16(m, X86_RAX, al);
    decimal_flags(m, al, false, false);
    NEXT(m, u);
}

/* ---- BOUND ---- */

OP(bound)
{
    unsigned size = u->i.osz;
    gva_t lin = interp_ea(m, u, 2 * size, false);
    uint64_t lo = interp_ld(m, u, lin, size), hi = interp_ld(m, u, lin + size, size), v = m->c.gpr[u->i.r0];
    bool in = size == 2 ? (int16_t)v >= (int16_t)lo && (int16_t)v <= (int16_t)hi
                        : (int32_t)v >= (int32_t)lo && (int32_t)v <= (int32_t)hi;

    if (!in)
        interp_raise_vec(m, u, X86_BR, 0);
    NEXT(m, u);
}

uop_fn misc_pick(const struct x86_insn *i)
{
    static const struct {
        uint16_t op;
        uop_fn fn;
    } t[] = {
        { ZYDIS_MNEMONIC_PAUSE, pause },
        { ZYDIS_MNEMONIC_MFENCE, mfence },
        { ZYDIS_MNEMONIC_CLFLUSH, flush_line },
        { ZYDIS_MNEMONIC_CLFLUSHOPT, flush_line },
        { ZYDIS_MNEMONIC_CLWB, flush_line },
        { ZYDIS_MNEMONIC_CLZERO, clzero },
        { ZYDIS_MNEMONIC_CLC, clc },
        { ZYDIS_MNEMONIC_STC, stc },
        { ZYDIS_MNEMONIC_CMC, cmc },
        { ZYDIS_MNEMONIC_CLD, cld },
        { ZYDIS_MNEMONIC_STD, std },
        { ZYDIS_MNEMONIC_LAHF, lahf },
        { ZYDIS_MNEMONIC_SAHF, sahf },
        { ZYDIS_MNEMONIC_SALC, salc },
        { ZYDIS_MNEMONIC_AAA, aaa },
        { ZYDIS_MNEMONIC_AAS, aas },
        { ZYDIS_MNEMONIC_DAA, daa },
        { ZYDIS_MNEMONIC_DAS, das },
        { ZYDIS_MNEMONIC_AAM, aam },
        { ZYDIS_MNEMONIC_AAD, aad },
        { ZYDIS_MNEMONIC_BOUND, bound },
    };

    for (unsigned k = 0; k < ARRAY_LEN(t); k++)
        if (t[k].op == i->op)
            return t[k].fn;
    return nop;
}
