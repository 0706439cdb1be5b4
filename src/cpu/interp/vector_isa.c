/* SPDX-License-Identifier: MIT */
/*
 * What a vector instruction needs and touches: #UD and #NM rules, the shape of its memory operand.
 */
#include "cpu/interp/vector_make.h"

#include <string.h>

/* ---- #UD and #NM ---- */

static bool uses_class(const struct vec_insn *d, ZydisRegisterClass cls)
{
    for (unsigned k = 0; k < d->i.operand_count; k++)
        if (d->op[k].type == ZYDIS_OPERAND_TYPE_REGISTER && ZydisRegisterGetClass(d->op[k].reg.value) == cls)
            return true;
    return false;
}

enum vec_gate vec_isa_gate(const struct vec_insn *d)
{
    if (d->i.encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX || uses_class(d, ZYDIS_REGCLASS_MASK))
        return VEC_GATE_AVX512;
    if (d->i.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
        return VEC_GATE_AVX;
    if (d->i.mnemonic == ZYDIS_MNEMONIC_FWAIT)
        return VEC_GATE_FWAIT;
    if (d->i.meta.isa_ext == ZYDIS_ISA_EXT_X87 || d->i.mnemonic == ZYDIS_MNEMONIC_FISTTP)
        return VEC_GATE_X87;
    /* SDM Vol. 3B, "Exception Conditions of Legacy SIMD Instructions Operating on MMX Registers" */
    if (d->i.meta.isa_ext == ZYDIS_ISA_EXT_MMX ||
        (uses_class(d, ZYDIS_REGCLASS_MMX) && !uses_class(d, ZYDIS_REGCLASS_XMM)))
        return VEC_GATE_MMX;
    return VEC_GATE_SSE;
}

/* ---- the memory operand ---- */

static uint8_t required_align(const struct vec_insn *d, unsigned size)
{
    switch (d->i.mnemonic) {
    case ZYDIS_MNEMONIC_VMOVAPS:
    case ZYDIS_MNEMONIC_VMOVAPD:
    case ZYDIS_MNEMONIC_VMOVDQA:
    case ZYDIS_MNEMONIC_VMOVDQA32:
    case ZYDIS_MNEMONIC_VMOVDQA64:
    case ZYDIS_MNEMONIC_VMOVNTPS:
    case ZYDIS_MNEMONIC_VMOVNTPD:
    case ZYDIS_MNEMONIC_VMOVNTDQ:
    case ZYDIS_MNEMONIC_VMOVNTDQA:
        return (uint8_t)size;
    case ZYDIS_MNEMONIC_MOVUPS:
    case ZYDIS_MNEMONIC_MOVUPD:
    case ZYDIS_MNEMONIC_MOVDQU:
    case ZYDIS_MNEMONIC_LDDQU:
    case ZYDIS_MNEMONIC_PCMPESTRI:
    case ZYDIS_MNEMONIC_PCMPESTRM:
    case ZYDIS_MNEMONIC_PCMPISTRI:
    case ZYDIS_MNEMONIC_PCMPISTRM:
        return 1;
    default:
        if (d->i.meta.isa_set == ZYDIS_ISA_SET_SHA && !__builtin_cpu_is("intel")) /* AMD does not mind */
            return 1;
        return d->i.encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY && size == 16 ? 16 : 1;
    }
}

/* Exception classes whose masked-out elements may fault nevertheless. */
static bool no_fault_suppression(ZydisExceptionClass c)
{
    switch (c) {
    case ZYDIS_EXCEPTION_CLASS_E1NF:
    case ZYDIS_EXCEPTION_CLASS_E2NF:
    case ZYDIS_EXCEPTION_CLASS_E3NF:
    case ZYDIS_EXCEPTION_CLASS_E4NF:
    case ZYDIS_EXCEPTION_CLASS_E5NF:
    case ZYDIS_EXCEPTION_CLASS_E6NF:
    case ZYDIS_EXCEPTION_CLASS_E9NF:
    case ZYDIS_EXCEPTION_CLASS_E10NF:
    case ZYDIS_EXCEPTION_CLASS_E11NF:
        return true;
    default:
        return false;
    }
}

static bool is_expand(ZydisMnemonic m)
{
    switch (m) {
    case ZYDIS_MNEMONIC_VEXPANDPS:
    case ZYDIS_MNEMONIC_VEXPANDPD:
    case ZYDIS_MNEMONIC_VPEXPANDB:
    case ZYDIS_MNEMONIC_VPEXPANDW:
    case ZYDIS_MNEMONIC_VPEXPANDD:
    case ZYDIS_MNEMONIC_VPEXPANDQ:
    case ZYDIS_MNEMONIC_VCOMPRESSPS:
    case ZYDIS_MNEMONIC_VCOMPRESSPD:
    case ZYDIS_MNEMONIC_VPCOMPRESSB:
    case ZYDIS_MNEMONIC_VPCOMPRESSW:
    case ZYDIS_MNEMONIC_VPCOMPRESSD:
    case ZYDIS_MNEMONIC_VPCOMPRESSQ:
        return true;
    default:
        return false;
    }
}

static bool is_vmaskmov(ZydisMnemonic m)
{
    return m == ZYDIS_MNEMONIC_VMASKMOVPS || m == ZYDIS_MNEMONIC_VMASKMOVPD || m == ZYDIS_MNEMONIC_VPMASKMOVD ||
           m == ZYDIS_MNEMONIC_VPMASKMOVQ;
}

/* 0 if m is neither gather nor scatter, else the size of an index. */
static unsigned vsib_index_size(ZydisMnemonic m)
{
    switch (m) {
    case ZYDIS_MNEMONIC_VGATHERDPS:
    case ZYDIS_MNEMONIC_VGATHERDPD:
    case ZYDIS_MNEMONIC_VPGATHERDD:
    case ZYDIS_MNEMONIC_VPGATHERDQ:
    case ZYDIS_MNEMONIC_VSCATTERDPS:
    case ZYDIS_MNEMONIC_VSCATTERDPD:
    case ZYDIS_MNEMONIC_VPSCATTERDD:
    case ZYDIS_MNEMONIC_VPSCATTERDQ:
        return 4;
    case ZYDIS_MNEMONIC_VGATHERQPS:
    case ZYDIS_MNEMONIC_VGATHERQPD:
    case ZYDIS_MNEMONIC_VPGATHERQD:
    case ZYDIS_MNEMONIC_VPGATHERQQ:
    case ZYDIS_MNEMONIC_VSCATTERQPS:
    case ZYDIS_MNEMONIC_VSCATTERQPD:
    case ZYDIS_MNEMONIC_VPSCATTERQD:
    case ZYDIS_MNEMONIC_VPSCATTERQQ:
        return 8;
    default:
        return 0;
    }
}

static uint8_t reg_id(const ZydisDecodedOperand *o)
{
    return (uint8_t)ZydisRegisterGetId(o->reg.value);
}

static bool classify_vsib(const struct vec_insn *d, struct vec_op *op, const ZydisDecodedOperand *mem)
{
    bool evex = d->i.encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX;
    unsigned isize = vsib_index_size(d->i.mnemonic), vl = d->i.avx.vector_length / 8;

    if (!isize)
        return false;
    op->kind = mem->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE ? VEC_SCATTER : VEC_GATHER;
    op->isize = (uint8_t)isize;
    op->elem = (uint8_t)(mem->element_size / 8);
    op->count = (uint8_t)(vl / (op->elem > isize ? op->elem : isize));
    op->index = (uint8_t)ZydisRegisterGetId(mem->mem.index);
    op->mask_k = evex;
    op->vex = true;
    if (op->kind == VEC_GATHER) {
        op->reg = reg_id(&d->op[0]);
        op->mask = reg_id(&d->op[evex ? 1 : 2]);
        if (op->reg == op->index || (!evex && (op->mask == op->reg || op->mask == op->index)))
            return false;
    } else {
        op->mask = reg_id(&d->op[1]);
        op->reg = reg_id(&d->op[2]);
    }
    return !(op->mask_k && op->mask == 0);
}

static bool classify_masked(const struct vec_insn *d, struct vec_op *op, const ZydisDecodedOperand *mem, bool store)
{
    bool k_masked = (d->i.avx.mask.mode == ZYDIS_MASK_MODE_MERGING || d->i.avx.mask.mode == ZYDIS_MASK_MODE_ZEROING) &&
                    d->i.avx.mask.reg != ZYDIS_REGISTER_K0;

    op->elem = (uint8_t)(mem->element_size / 8);
    op->count = (uint8_t)mem->element_count;
    op->dcount = op->count;
    if (is_vmaskmov(d->i.mnemonic)) {
        op->kind = store ? VEC_MASKED_ST : VEC_MASKED_LD;
        op->mask = reg_id(&d->op[1]);
        return true;
    }
    if (!k_masked || (!store && no_fault_suppression(d->i.meta.exception_class)))
        return true;
    op->mask_k = true;
    op->mask = (uint8_t)ZydisRegisterGetId(d->i.avx.mask.reg);
    if (is_expand(d->i.mnemonic)) {
        op->kind = store ? VEC_COMPRESS : VEC_EXPAND;
        return true;
    }
    op->kind = store ? VEC_MASKED_ST : VEC_MASKED_LD;
    if (!store && op->count < d->op[0].element_count && op->count > 0 && d->i.avx.broadcast.mode)
        op->dcount = (uint8_t)d->op[0].element_count;
    return op->elem * op->count <= 64 && op->elem && !(op->elem & (op->elem - 1));
}

static bool classify_mem(const struct vec_insn *d, struct vec_op *op, const ZydisDecodedOperand *mem)
{
    bool read = mem->actions & ZYDIS_OPERAND_ACTION_MASK_READ, write = mem->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;

    if (mem->mem.type == ZYDIS_MEMOP_TYPE_VSIB)
        return classify_vsib(d, op, mem);
    if (read == write || mem->size == 0 || mem->size > 512 || mem->size % 8)
        return false;
    op->msize = (uint8_t)(mem->size / 8);
    op->align = required_align(d, op->msize);
    op->kind = write ? VEC_STORE : VEC_LOAD;
    switch (d->i.mnemonic) {
    case ZYDIS_MNEMONIC_MASKMOVQ:
    case ZYDIS_MNEMONIC_MASKMOVDQU:
    case ZYDIS_MNEMONIC_VMASKMOVDQU:
        op->kind = VEC_BYTES;
        op->align = 1;
        return true;
    default:
        break;
    }
    return classify_masked(d, op, mem, write);
}

/* x87 instructions that leave FOP, FIP and FDP alone: SDM Vol. 1, "x87 FPU Instruction and Data (Operand) Pointers". */
static bool is_x87_control(ZydisMnemonic m)
{
    switch (m) {
    case ZYDIS_MNEMONIC_FNINIT:
    case ZYDIS_MNEMONIC_FNCLEX:
    case ZYDIS_MNEMONIC_FLDCW:
    case ZYDIS_MNEMONIC_FNSTCW:
    case ZYDIS_MNEMONIC_FNSTSW:
    case ZYDIS_MNEMONIC_FWAIT:
    case ZYDIS_MNEMONIC_FENI8087_NOP:
    case ZYDIS_MNEMONIC_FDISI8087_NOP:
    case ZYDIS_MNEMONIC_FSETPM287_NOP:
        return true;
    default:
        return false;
    }
}

/* Intel ignores VEX.W where it would choose a 64-bit register that 32-bit modes do not have; AMD raises #UD for two. */
static bool bad_w(const struct vec_insn *d)
{
    return d->mode != X86_MODE_64 && d->i.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX && d->i.raw.vex.W &&
           d->i.opcode_map == ZYDIS_OPCODE_MAP_0F3A && (d->i.opcode == 0x16 || d->i.opcode == 0x22) &&
           __builtin_cpu_is("amd");
}

bool vec_classify(const struct vec_insn *d, struct vec_op *op)
{
    if (bad_w(d))
        return false;
    *op = (struct vec_op){ .gate = (uint8_t)vec_isa_gate(d), .kind = VEC_REG, .align = 1 };
    op->vex = d->i.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY;
    op->x87 = op->gate <= VEC_GATE_MMX || uses_class(d, ZYDIS_REGCLASS_MMX);
    op->no_ac = d->i.meta.isa_set == ZYDIS_ISA_SET_F16C && __builtin_cpu_is("intel");
    op->waits =
        op->gate <= VEC_GATE_MMX && d->i.mnemonic != ZYDIS_MNEMONIC_FNSTCW && d->i.mnemonic != ZYDIS_MNEMONIC_FNSTSW;
    if (op->gate == VEC_GATE_X87 && !is_x87_control(d->i.mnemonic)) {
        op->tracked = true;
        op->fop = (uint16_t)((d->i.opcode & 7) << 8 | d->bytes[d->i.raw.modrm.offset]);
    }
    for (unsigned k = 0; k < d->i.operand_count; k++)
        if (d->op[k].type == ZYDIS_OPERAND_TYPE_MEMORY)
            return classify_mem(d, op, &d->op[k]);
    return true;
}
