/* SPDX-License-Identifier: MIT */
/*
 * Decoding: Zydis's answer cut down to struct x86_insn.
 *
 * Whatever ends up here has passed Zydis's checks (illegal LOCK, bad control or segment register, length). What the
 * host does not have is not an instruction: LZCNT and TZCNT become BSR and BSF, ENDBR and BND become NOP. Everything
 * that may change mode, paging, privilege, IF or RIP must get X86_I_BRANCH, for engines keep such state in registers
 * of their own inside a block.
 */
#include "x86/insn.h"

#include <string.h>

#include <Zydis/Zydis.h>

_Static_assert((int)ZYDIS_MNEMONIC_MAX_VALUE < (int)X86_OP_FIRST, "pseudo operations overlap the mnemonics");

struct decoded {
    ZydisDecodedInstruction i;
    ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
    enum x86_mode mode;
};

static void decoder_init(ZydisDecoder *d, enum x86_mode mode)
{
    static const struct {
        ZydisMachineMode machine;
        ZydisStackWidth stack;
    } modes[] = {
        [X86_MODE_16] = { ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16 },
        [X86_MODE_32] = { ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32 },
        [X86_MODE_64] = { ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64 },
    };
    static const ZydisDecoderMode off[] = { ZYDIS_DECODER_MODE_MPX, ZYDIS_DECODER_MODE_CET, ZYDIS_DECODER_MODE_WBNOINVD,
                                            ZYDIS_DECODER_MODE_CLDEMOTE };

    ZydisDecoderInit(d, modes[mode].machine, modes[mode].stack);
    for (unsigned k = 0; k < ARRAY_LEN(off); k++)
        ZydisDecoderEnableMode(d, off[k], ZYAN_FALSE);
    /* A 66 prefix on a near branch in 64-bit mode: honoured by AMD, ignored by Intel. */
    ZydisDecoderEnableMode(d, ZYDIS_DECODER_MODE_AMD_BRANCHES, __builtin_cpu_is("amd") ? ZYAN_TRUE : ZYAN_FALSE);
    ZydisDecoderEnableMode(d, ZYDIS_DECODER_MODE_LZCNT, __builtin_cpu_supports("lzcnt") ? ZYAN_TRUE : ZYAN_FALSE);
    ZydisDecoderEnableMode(d, ZYDIS_DECODER_MODE_TZCNT, __builtin_cpu_supports("bmi") ? ZYAN_TRUE : ZYAN_FALSE);
}

/* ---- operands ---- */

static uint8_t reg_num(ZydisRegister r)
{
    ZyanI8 id = ZydisRegisterGetId(r);

    if (ZydisRegisterGetClass(r) != ZYDIS_REGCLASS_GPR8)
        return id < 0 ? 0 : (uint8_t)id;
    /* al cl dl bl, ah ch dh bh, spl bpl sil dil, r8b ... */
    int k = (int)r - (int)ZYDIS_REGISTER_AL;
    if (k < 4)
        return (uint8_t)(k * 8);
    if (k < 8)
        return (uint8_t)((k - 4) * 8 + 1);
    return (uint8_t)((k - 4) * 8);
}

static uint8_t ea_reg(ZydisRegister r)
{
    if (r == ZYDIS_REGISTER_NONE)
        return X86_REG_ZERO;
    if (ZydisRegisterGetClass(r) == ZYDIS_REGCLASS_IP)
        return X86_REG_IP;
    return (uint8_t)ZydisRegisterGetId(r);
}

static bool is_vector_reg(ZydisRegister r)
{
    switch (ZydisRegisterGetClass(r)) {
    case ZYDIS_REGCLASS_X87:
    case ZYDIS_REGCLASS_MMX:
    case ZYDIS_REGCLASS_XMM:
    case ZYDIS_REGCLASS_YMM:
    case ZYDIS_REGCLASS_ZMM:
    case ZYDIS_REGCLASS_TMM:
    case ZYDIS_REGCLASS_MASK:
        return true;
    default:
        return false;
    }
}

static void fill_mem(const struct decoded *d, const ZydisDecodedOperand *o, struct x86_insn *out)
{
    int64_t disp = o->mem.disp.has_displacement ? o->mem.disp.value : 0;
    unsigned seg = (unsigned)(o->mem.segment - ZYDIS_REGISTER_ES);

    out->base = ea_reg(o->mem.base);
    /* Without a base: Zydis 4.0 sees that for EBP and R13, but takes R13D for a base. */
    if (d->i.raw.modrm.mod == 0 && d->i.raw.modrm.rm == 4 && d->i.raw.sib.base == 5 && out->asz == 4) {
        out->base = X86_REG_ZERO;
        disp = d->i.raw.disp.value;
    }
    if (is_vector_reg(o->mem.index))
        out->r2 = (uint8_t)(X86_VSIB | ZydisRegisterGetId(o->mem.index));
    else
        out->index = ea_reg(o->mem.index);
    out->scale = (uint8_t)(o->mem.scale > 1 ? __builtin_ctz(o->mem.scale) : 0);
    out->seg = (uint8_t)seg;
    if (d->mode == X86_MODE_64 && seg != X86_FS && seg != X86_GS)
        out->seg = X86_SEG_NONE;

    if (out->base == X86_REG_IP) {
        if (disp + d->i.length == (int32_t)(disp + d->i.length))
            disp += d->i.length;
        else
            out->flags |= X86_I_SLOW_EA; /* and disp stays relative to the end */
    }
    out->disp = (int32_t)disp;
    if (disp != out->disp) { /* moffs; 16- and 32-bit ones are cut to the address size anyway */
        if (out->asz == 8) {
            out->imm = disp;
            out->disp = 0;
            out->flags |= X86_I_SLOW_EA;
        }
    }
}

/* Registers in operand order, memory, and immediates; returns the form. */
static enum x86_form fill_operands(const struct decoded *d, struct x86_insn *out)
{
    static const struct {
        char s[4];
        enum x86_form form;
    } forms[] = {
        { "", X86_F_NONE },   { "R", X86_F_R },     { "M", X86_F_M },     { "I", X86_F_I },     { "RR", X86_F_RR },
        { "RM", X86_F_RM },   { "MR", X86_F_MR },   { "RI", X86_F_RI },   { "MI", X86_F_MI },   { "RRR", X86_F_RRR },
        { "RRM", X86_F_RRM }, { "RMR", X86_F_RMR }, { "RRI", X86_F_RRI }, { "RMI", X86_F_RMI }, { "MRI", X86_F_MRI },
        { "MRR", X86_F_MRR }, { "II", X86_F_II },   { "P", X86_F_FAR },   { "IR", X86_F_IR },
    };
    uint8_t *regs[] = { &out->r0, &out->r1, &out->r2 };
    char s[4] = "";
    unsigned nregs = 0, nimm = 0, n = d->i.operand_count_visible;

    for (unsigned k = 0; k < n; k++) {
        const ZydisDecodedOperand *o = &d->op[k];
        char kind = 'R';

        if (o->type == ZYDIS_OPERAND_TYPE_REGISTER) {
            if (nregs < 3 && !(nregs == 2 && (out->r2 & X86_VSIB)))
                *regs[nregs++] = reg_num(o->reg.value);
        } else if (o->type == ZYDIS_OPERAND_TYPE_MEMORY) {
            kind = 'M';
            fill_mem(d, o, out);
        } else if (o->type == ZYDIS_OPERAND_TYPE_POINTER) {
            kind = 'P';
            out->imm = (int64_t)(o->ptr.offset | (uint64_t)o->ptr.segment << 32);
        } else {
            kind = 'I';
            out->imm = nimm++ ? out->imm | o->imm.value.s << 32 : o->imm.value.s;
        }
        if (k < 3)
            s[k] = kind;
    }
    if (n > 3)
        return X86_F_OTHER;
    for (unsigned k = 0; k < ARRAY_LEN(forms); k++)
        if (!memcmp(s, forms[k].s, sizeof(s)))
            return forms[k].form;
    return X86_F_OTHER;
}

/* ---- which kind of instruction ---- */

static uint16_t pick_op(const struct decoded *d)
{
    bool far = d->i.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR;
    unsigned dst = d->i.operand_count_visible > 0 && d->op[0].type == ZYDIS_OPERAND_TYPE_REGISTER
                       ? (unsigned)ZydisRegisterGetClass(d->op[0].reg.value)
                       : 0;
    unsigned src = d->i.operand_count_visible > 1 && d->op[1].type == ZYDIS_OPERAND_TYPE_REGISTER
                       ? (unsigned)ZydisRegisterGetClass(d->op[1].reg.value)
                       : 0;

    switch (d->i.mnemonic) {
    case ZYDIS_MNEMONIC_MOV:
        if (dst == ZYDIS_REGCLASS_SEGMENT)
            return X86_OP_MOV_TO_SEG;
        if (src == ZYDIS_REGCLASS_SEGMENT)
            return X86_OP_MOV_FROM_SEG;
        if (dst == ZYDIS_REGCLASS_CONTROL)
            return X86_OP_MOV_TO_CR;
        if (src == ZYDIS_REGCLASS_CONTROL)
            return X86_OP_MOV_FROM_CR;
        if (dst == ZYDIS_REGCLASS_DEBUG)
            return X86_OP_MOV_TO_DR;
        if (src == ZYDIS_REGCLASS_DEBUG)
            return X86_OP_MOV_FROM_DR;
        break;
    case ZYDIS_MNEMONIC_PUSH:
        if (dst == ZYDIS_REGCLASS_SEGMENT)
            return X86_OP_PUSH_SEG;
        break;
    case ZYDIS_MNEMONIC_POP:
        if (dst == ZYDIS_REGCLASS_SEGMENT)
            return X86_OP_POP_SEG;
        break;
    case ZYDIS_MNEMONIC_CALL:
        if (far)
            return X86_OP_CALL_FAR;
        break;
    case ZYDIS_MNEMONIC_JMP:
        if (far)
            return X86_OP_JMP_FAR;
        break;
    case ZYDIS_MNEMONIC_RET:
        if (far)
            return X86_OP_RET_FAR;
        break;
    case ZYDIS_MNEMONIC_MOVSD:
        if (d->i.meta.category == ZYDIS_CATEGORY_STRINGOP)
            return X86_OP_MOVSD_STR;
        break;
    case ZYDIS_MNEMONIC_CMPSD:
        if (d->i.meta.category == ZYDIS_CATEGORY_STRINGOP)
            return X86_OP_CMPSD_STR;
        break;
    default:
        break;
    }
    return (uint16_t)d->i.mnemonic;
}

static bool is_string(const struct decoded *d)
{
    return d->i.meta.category == ZYDIS_CATEGORY_STRINGOP || d->i.meta.category == ZYDIS_CATEGORY_IOSTRINGOP;
}

static bool ends_block(const struct decoded *d, unsigned op)
{
    if (d->i.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE)
        return true;
    switch (op) {
    case X86_OP_MOV_TO_SEG:
    case X86_OP_POP_SEG:
    case X86_OP_MOV_TO_CR:
    case X86_OP_MOV_FROM_CR:
    case X86_OP_MOV_TO_DR:
    case X86_OP_MOV_FROM_DR:
    case ZYDIS_MNEMONIC_CPUID:
    case ZYDIS_MNEMONIC_UD0:
    case ZYDIS_MNEMONIC_UD1:
    case ZYDIS_MNEMONIC_UD2:
    case ZYDIS_MNEMONIC_STI:
    case ZYDIS_MNEMONIC_CLI:
    case ZYDIS_MNEMONIC_POPF:
    case ZYDIS_MNEMONIC_POPFD:
    case ZYDIS_MNEMONIC_POPFQ:
    case ZYDIS_MNEMONIC_STAC:
    case ZYDIS_MNEMONIC_CLAC:
    case ZYDIS_MNEMONIC_XSETBV:
    case ZYDIS_MNEMONIC_INVPCID:
    case ZYDIS_MNEMONIC_SERIALIZE:
    case ZYDIS_MNEMONIC_VMCALL:
    case ZYDIS_MNEMONIC_VMMCALL:
        return true;
    default:
        break;
    }
    switch (d->i.meta.category) {
    case ZYDIS_CATEGORY_IO:
    case ZYDIS_CATEGORY_IOSTRINGOP:
    case ZYDIS_CATEGORY_INTERRUPT:
    case ZYDIS_CATEGORY_SYSCALL:
    case ZYDIS_CATEGORY_SYSRET:
    case ZYDIS_CATEGORY_RET:
    case ZYDIS_CATEGORY_SEGOP:
    case ZYDIS_CATEGORY_SYSTEM:
    case ZYDIS_CATEGORY_VTX:
        /* Plain reads of the time stamp need no new block. */
        return op != ZYDIS_MNEMONIC_RDTSC && op != ZYDIS_MNEMONIC_RDTSCP && op != ZYDIS_MNEMONIC_SWAPGS;
    default:
        return false;
    }
}

static bool uses_stack(const struct decoded *d, unsigned op)
{
    switch (d->i.meta.category) {
    case ZYDIS_CATEGORY_PUSH:
    case ZYDIS_CATEGORY_POP:
    case ZYDIS_CATEGORY_CALL:
    case ZYDIS_CATEGORY_RET:
        return true;
    default:
        return op == ZYDIS_MNEMONIC_ENTER || op == ZYDIS_MNEMONIC_LEAVE;
    }
}

static bool is_vector(const struct decoded *d)
{
    switch (d->i.meta.isa_ext) {
    case ZYDIS_ISA_EXT_X87:
    case ZYDIS_ISA_EXT_MMX:
    case ZYDIS_ISA_EXT_AMD3DNOW:
        return true;
    default:
        break;
    }
    switch (d->i.mnemonic) {
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXSAVE64:
    case ZYDIS_MNEMONIC_FXRSTOR:
    case ZYDIS_MNEMONIC_FXRSTOR64:
    case ZYDIS_MNEMONIC_XSAVE:
    case ZYDIS_MNEMONIC_XSAVE64:
    case ZYDIS_MNEMONIC_XSAVEC:
    case ZYDIS_MNEMONIC_XSAVEC64:
    case ZYDIS_MNEMONIC_XSAVEOPT:
    case ZYDIS_MNEMONIC_XSAVEOPT64:
    case ZYDIS_MNEMONIC_XSAVES:
    case ZYDIS_MNEMONIC_XSAVES64:
    case ZYDIS_MNEMONIC_XRSTOR:
    case ZYDIS_MNEMONIC_XRSTOR64:
    case ZYDIS_MNEMONIC_XRSTORS:
    case ZYDIS_MNEMONIC_XRSTORS64:
    case ZYDIS_MNEMONIC_LDMXCSR:
    case ZYDIS_MNEMONIC_STMXCSR:
    case ZYDIS_MNEMONIC_VLDMXCSR:
    case ZYDIS_MNEMONIC_VSTMXCSR:
    case ZYDIS_MNEMONIC_VZEROUPPER:
    case ZYDIS_MNEMONIC_VZEROALL:
    /* from memory to a general register: no vector register among the operands */
    case ZYDIS_MNEMONIC_CVTSS2SI:
    case ZYDIS_MNEMONIC_CVTSD2SI:
    case ZYDIS_MNEMONIC_CVTTSS2SI:
    case ZYDIS_MNEMONIC_CVTTSD2SI:
    case ZYDIS_MNEMONIC_VCVTSS2SI:
    case ZYDIS_MNEMONIC_VCVTSD2SI:
    case ZYDIS_MNEMONIC_VCVTSH2SI:
    case ZYDIS_MNEMONIC_VCVTTSS2SI:
    case ZYDIS_MNEMONIC_VCVTTSD2SI:
    case ZYDIS_MNEMONIC_VCVTTSH2SI:
    case ZYDIS_MNEMONIC_VCVTSS2USI:
    case ZYDIS_MNEMONIC_VCVTSD2USI:
    case ZYDIS_MNEMONIC_VCVTSH2USI:
    case ZYDIS_MNEMONIC_VCVTTSS2USI:
    case ZYDIS_MNEMONIC_VCVTTSD2USI:
    case ZYDIS_MNEMONIC_VCVTTSH2USI:
        return true;
    default:
        break;
    }
    for (unsigned k = 0; k < d->i.operand_count; k++)
        if (d->op[k].type == ZYDIS_OPERAND_TYPE_REGISTER && is_vector_reg(d->op[k].reg.value))
            return true;
    return false;
}

/* ---- sizes ---- */

static uint8_t bits_to_bytes(unsigned bits)
{
    return (uint8_t)(bits / 8 <= 64 ? bits / 8 : 0);
}

/* The memory operand of a vector instruction, which may be a hidden one (MASKMOVQ). */
static void fill_vector_mem(const struct decoded *d, struct x86_insn *out)
{
    out->osz = 0;
    for (unsigned k = 0; k < d->i.operand_count; k++) {
        const ZydisDecodedOperand *o = &d->op[k];

        if (o->type != ZYDIS_OPERAND_TYPE_MEMORY)
            continue;
        if (k >= d->i.operand_count_visible)
            fill_mem(d, o, out);
        out->osz = bits_to_bytes(o->size);
        return;
    }
}

static void fill_sizes(const struct decoded *d, struct x86_insn *out)
{
    const ZydisDecodedOperand *a = &d->op[0], *b = &d->op[1];
    unsigned n = d->i.operand_count_visible;

    out->osz = (uint8_t)(d->i.operand_width / 8);
    if (out->op == X86_OP_CALL_FAR || out->op == X86_OP_JMP_FAR || d->i.meta.category == ZYDIS_CATEGORY_SYSTEM) {
        /* descriptor tables and far pointers keep the operand size; SMSW, SLDT, STR store a word */
        if (out->form == X86_F_M && a->size == 16)
            out->osz = 2;
    } else if (n > 0 && a->type == ZYDIS_OPERAND_TYPE_MEMORY) {
        out->osz = bits_to_bytes(a->size);
    }
    out->ssz = out->osz;
    if (n > 1 && (b->type == ZYDIS_OPERAND_TYPE_MEMORY || b->type == ZYDIS_OPERAND_TYPE_REGISTER))
        out->ssz = bits_to_bytes(b->size);
}

/* Strings and XLAT: the segment of the source, which may be overridden. */
static void fill_string(const struct decoded *d, struct x86_insn *out)
{
    static const struct {
        ZydisInstructionAttributes attr;
        uint8_t seg;
    } over[] = {
        { ZYDIS_ATTRIB_HAS_SEGMENT_CS, X86_CS }, { ZYDIS_ATTRIB_HAS_SEGMENT_SS, X86_SS_SEG },
        { ZYDIS_ATTRIB_HAS_SEGMENT_DS, X86_DS }, { ZYDIS_ATTRIB_HAS_SEGMENT_ES, X86_ES },
        { ZYDIS_ATTRIB_HAS_SEGMENT_FS, X86_FS }, { ZYDIS_ATTRIB_HAS_SEGMENT_GS, X86_GS },
    };

    out->seg = X86_DS;
    for (unsigned k = 0; k < ARRAY_LEN(over); k++)
        if (d->i.attributes & over[k].attr)
            out->seg = over[k].seg;
    if (d->mode == X86_MODE_64 && out->seg != X86_FS && out->seg != X86_GS)
        out->seg = X86_SEG_NONE;
    if (d->i.mnemonic == ZYDIS_MNEMONIC_XLAT) {
        out->base = X86_RBX;
        return;
    }
    if (d->i.attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE))
        out->flags |= X86_I_REP;
    if (d->i.attributes & ZYDIS_ATTRIB_HAS_REPNE)
        out->flags |= X86_I_REPNE;
}

static void cook(const struct decoded *d, struct x86_insn *out)
{
    *out = (struct x86_insn){ .len = d->i.length,
                              .asz = (uint8_t)(d->i.address_width / 8),
                              .seg = X86_SEG_NONE,
                              .base = X86_REG_ZERO,
                              .index = X86_REG_ZERO };
    out->op = pick_op(d);
    if (out->asz != 8 || d->mode != X86_MODE_64)
        out->flags |= X86_I_SLOW_EA;
    out->form = (uint8_t)fill_operands(d, out);
    fill_sizes(d, out);
    if (is_string(d) || d->i.mnemonic == ZYDIS_MNEMONIC_XLAT)
        fill_string(d, out);
    if ((d->i.attributes & ZYDIS_ATTRIB_HAS_LOCK) || (d->i.mnemonic == ZYDIS_MNEMONIC_XCHG && out->form == X86_F_MR))
        out->flags |= X86_I_LOCK;
    if (ends_block(d, out->op))
        out->flags |= X86_I_BRANCH;
    if (uses_stack(d, out->op))
        out->flags |= X86_I_STACK;
    if (is_vector(d)) {
        out->flags |= X86_I_VECTOR;
        fill_vector_mem(d, out);
    }
}

/* REX.B makes 90 an XCHG, on AMD also behind F3, where Zydis sees PAUSE: decodes without the F3. */
static enum x86_decode_status decode_xchg(const struct decoded *d, const uint8_t *bytes, struct x86_insn *out)
{
    uint8_t b[15];
    unsigned n = 0, pre = d->i.raw.prefix_count;
    enum x86_decode_status st;

    for (unsigned k = 0; k < d->i.length; k++)
        if (k >= pre || bytes[k] != 0xf3)
            b[n++] = bytes[k];
    st = x86_decode(b, n, d->mode, out);
    out->len = d->i.length;
    return st;
}

enum x86_decode_status x86_decode(const uint8_t *bytes, unsigned avail, enum x86_mode mode, struct x86_insn *out)
{
    ZydisDecoder dec;
    ZydisDecoderContext ctx;
    struct decoded d;
    ZyanStatus st;

    decoder_init(&dec, mode);
    st = ZydisDecoderDecodeInstruction(&dec, &ctx, bytes, avail, &d.i);
    if (st == ZYDIS_STATUS_NO_MORE_DATA)
        return avail >= 15 ? X86_DECODE_LONG : X86_DECODE_MORE;
    if (st == ZYDIS_STATUS_INSTRUCTION_TOO_LONG)
        return X86_DECODE_LONG;
    if (!ZYAN_SUCCESS(st) || !ZYAN_SUCCESS(ZydisDecoderDecodeOperands(&dec, &ctx, &d.i, d.op, ZYDIS_MAX_OPERAND_COUNT)))
        return X86_DECODE_UD;
    d.mode = mode;
    if (d.i.mnemonic == ZYDIS_MNEMONIC_PAUSE && d.i.raw.rex.B && !__builtin_cpu_is("intel"))
        return decode_xchg(&d, bytes, out);
    cook(&d, out);
    return X86_DECODE_OK;
}
