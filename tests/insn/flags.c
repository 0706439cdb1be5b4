/* SPDX-License-Identifier: MIT */
/*
 * Which flags an instruction leaves undefined: SDM Vol. 2, "Flags Affected" of each instruction. The constant part
 * is a table; shifts and rotates depend on the count. Where the processors in fact agree (or where an engine takes the
 * flags from the host CPU) --strict-flags compares these as well.
 */
#include <Zydis/Zydis.h>
#include <string.h>

#include "insn.h"

#define CF X86_FL_CF
#define PF X86_FL_PF
#define AF X86_FL_AF
#define ZF X86_FL_ZF
#define SF X86_FL_SF
#define OF X86_FL_OF

static const struct {
    uint16_t mnemonic, undefined;
} table[] = {
    { ZYDIS_MNEMONIC_AAA, OF | SF | ZF | PF },
    { ZYDIS_MNEMONIC_AAS, OF | SF | ZF | PF },
    { ZYDIS_MNEMONIC_AAD, OF | AF | CF },
    { ZYDIS_MNEMONIC_AAM, OF | AF | CF },
    { ZYDIS_MNEMONIC_DAA, OF },
    { ZYDIS_MNEMONIC_DAS, OF },
    { ZYDIS_MNEMONIC_AND, AF },
    { ZYDIS_MNEMONIC_OR, AF },
    { ZYDIS_MNEMONIC_XOR, AF },
    { ZYDIS_MNEMONIC_TEST, AF },
    { ZYDIS_MNEMONIC_ANDN, AF | PF },
    { ZYDIS_MNEMONIC_BEXTR, AF | SF | PF },
    { ZYDIS_MNEMONIC_BLSI, AF | PF },
    { ZYDIS_MNEMONIC_BLSMSK, AF | PF },
    { ZYDIS_MNEMONIC_BLSR, AF | PF },
    { ZYDIS_MNEMONIC_BZHI, AF | PF },
    { ZYDIS_MNEMONIC_BSF, CF | OF | SF | AF | PF },
    { ZYDIS_MNEMONIC_BSR, CF | OF | SF | AF | PF },
    { ZYDIS_MNEMONIC_TZCNT, OF | SF | PF | AF },
    { ZYDIS_MNEMONIC_LZCNT, OF | SF | PF | AF },
    { ZYDIS_MNEMONIC_BT, OF | SF | AF | PF },
    { ZYDIS_MNEMONIC_BTS, OF | SF | AF | PF },
    { ZYDIS_MNEMONIC_BTR, OF | SF | AF | PF },
    { ZYDIS_MNEMONIC_BTC, OF | SF | AF | PF },
    { ZYDIS_MNEMONIC_MUL, SF | ZF | AF | PF },
    { ZYDIS_MNEMONIC_IMUL, SF | ZF | AF | PF },
    { ZYDIS_MNEMONIC_DIV, CF | OF | SF | ZF | AF | PF },
    { ZYDIS_MNEMONIC_IDIV, CF | OF | SF | ZF | AF | PF },
};

static uint64_t shift_undefined(const struct insn_case *c, const ZydisDecodedInstruction *z,
                                const ZydisDecodedOperand *o)
{
    unsigned size = o[0].size, n;
    bool dbl = z->mnemonic == ZYDIS_MNEMONIC_SHLD || z->mnemonic == ZYDIS_MNEMONIC_SHRD;
    const ZydisDecodedOperand *cnt = &o[dbl ? 2 : 1];
    bool rotate = z->meta.category == ZYDIS_CATEGORY_ROTATE;

    n = cnt->type == ZYDIS_OPERAND_TYPE_IMMEDIATE ? (unsigned)cnt->imm.value.u : (unsigned)c->in.gpr[X86_RCX];
    n &= size == 64 ? 63 : 31;
    if (!n)
        return 0;
    if (rotate)
        return n == 1 ? 0 : OF;
    if (dbl && n > size)
        return CF | OF | SF | ZF | AF | PF;
    uint64_t u = AF | (n == 1 ? 0 : OF);

    if (z->mnemonic != ZYDIS_MNEMONIC_SAR && n >= size)
        u |= CF;
    return u;
}

uint64_t insn_flags_undefined(const struct insn_case *c)
{
    ZydisDecoder dec;
    ZydisDecodedInstruction z;
    ZydisDecodedOperand o[ZYDIS_MAX_OPERAND_COUNT];
    uint64_t u = 0;

    ZydisDecoderInit(&dec, c->mode32 ? ZYDIS_MACHINE_MODE_LONG_COMPAT_32 : ZYDIS_MACHINE_MODE_LONG_64,
                     c->mode32 ? ZYDIS_STACK_WIDTH_32 : ZYDIS_STACK_WIDTH_64);
    for (unsigned off = 0; off < c->code_len; off += z.length) {
        if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&dec, c->code + off, c->code_len - off, &z, o)))
            return u;
        switch ((int)z.mnemonic) {
        case ZYDIS_MNEMONIC_SHL:
        case ZYDIS_MNEMONIC_SHR:
        case ZYDIS_MNEMONIC_SAR:
        case ZYDIS_MNEMONIC_ROL:
        case ZYDIS_MNEMONIC_ROR:
        case ZYDIS_MNEMONIC_RCL:
        case ZYDIS_MNEMONIC_RCR:
        case ZYDIS_MNEMONIC_SHLD:
        case ZYDIS_MNEMONIC_SHRD:
            u |= shift_undefined(c, &z, o);
            continue;
        default:
            break;
        }
        for (unsigned k = 0; k < ARRAY_LEN(table); k++)
            if (table[k].mnemonic == z.mnemonic)
                u |= table[k].undefined;
    }
    return u;
}
