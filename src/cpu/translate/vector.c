/* SPDX-License-Identifier: MIT */
/*
 * x87, MMX, SSE and AVX: the guest's vector registers are the host's, so the instruction runs as it is. What has a
 * memory operand of more than one place, or keeps or loads state images, is the interpreter's.
 */
#include "cpu/translate/trans.h"
#include "x86/isa.h"

static bool is_x87(const struct trans *t)
{
    switch (t->i->meta.isa_set) {
    case ZYDIS_ISA_SET_X87:
    case ZYDIS_ISA_SET_FCMOV:
    case ZYDIS_ISA_SET_PPRO:
    case ZYDIS_ISA_SET_PENTIUMMMX:
    case ZYDIS_ISA_SET_SSE3X87:
    case ZYDIS_ISA_SET_SSSE3MMX:
    case ZYDIS_ISA_SET_SSE2MMX:
        return true;
    default:
        return t->i->mnemonic == ZYDIS_MNEMONIC_FISTTP; /* filed under SSE3 */
    }
}

/* Only what the model offers, and the sets whose instructions are listed as harmless or denied below. */
static bool isa_ok(const struct trans *t)
{
    if (t->i->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX && !(t->kind & KIND_AVX))
        return false;
    switch (t->i->meta.isa_set) {
    case ZYDIS_ISA_SET_FXSAVE:
    case ZYDIS_ISA_SET_FXSAVE64:
    case ZYDIS_ISA_SET_XSAVE:
    case ZYDIS_ISA_SET_XSAVEOPT:
    case ZYDIS_ISA_SET_XSAVEC:
    case ZYDIS_ISA_SET_XSAVES:
        return false;
    default:
        return x86_isa_offered(t->x->v->model, (unsigned)t->i->meta.isa_set, (unsigned)t->i->mnemonic);
    }
}

static bool denied(const struct trans *t)
{
    switch (t->i->mnemonic) {
    case ZYDIS_MNEMONIC_MASKMOVQ:
    case ZYDIS_MNEMONIC_MASKMOVDQU:
    case ZYDIS_MNEMONIC_VMASKMOVDQU:
    case ZYDIS_MNEMONIC_FNSAVE:
    case ZYDIS_MNEMONIC_FRSTOR:
    case ZYDIS_MNEMONIC_FNSTENV:
    case ZYDIS_MNEMONIC_FLDENV:
        return true;
    default:
        return false;
    }
}

/* Outside 64-bit mode VEX.W is ignored where it would choose a 64-bit general register; VZEROxxx leave 8..15 alone. */
static bool differs_in_32(const struct trans *t)
{
    if (t->i->mnemonic == ZYDIS_MNEMONIC_VZEROALL || t->i->mnemonic == ZYDIS_MNEMONIC_VZEROUPPER)
        return true;
    if (t->i->encoding != ZYDIS_INSTRUCTION_ENCODING_VEX || !t->i->raw.vex.W)
        return false;
    switch (t->i->opcode_map) {
    case ZYDIS_OPCODE_MAP_0F:
        return t->i->opcode == 0x2a || t->i->opcode == 0x6e || t->i->opcode == 0x7e;
    case ZYDIS_OPCODE_MAP_0F3A:
        return (t->i->opcode >= 0x14 && t->i->opcode <= 0x17) || (t->i->opcode >= 0x20 && t->i->opcode <= 0x22) ||
               t->i->opcode == 0x60 || t->i->opcode == 0x61;
    default:
        return false;
    }
}

static bool uses_mmx(const struct trans *t)
{
    for (unsigned k = 0; k < t->i->operand_count; k++)
        if (t->op[k].type == ZYDIS_OPERAND_TYPE_REGISTER &&
            ZydisRegisterGetClass(t->op[k].reg.value) == ZYDIS_REGCLASS_MMX)
            return true;
    return false;
}

/* These leave the last instruction's opcode and pointers alone. */
static bool is_control(ZydisMnemonic m)
{
    switch (m) {
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

/* The first x87 or MMX instruction of a block: loads the registers if they are not the guest's. */
static void x87_begin(struct trans *t)
{
    struct xrec *r = tr_rec(t, X_X87, t->off);

    r->stub = t->base + t->e.n;
    em_load(&t->e, RCX, X(x87_dead));
    em_jrcxz(&t->e, 5);
    tr_stub(t, em_jmp(&t->e), r, STUB_PLAIN);
    t->x87_checked = true;
}

static const ZydisDecodedOperand *memory_operand(const struct trans *t)
{
    for (unsigned k = 0; k < t->i->operand_count_visible; k++)
        if (t->op[k].type == ZYDIS_OPERAND_TYPE_MEMORY)
            return &t->op[k];
    return NULL;
}

static unsigned data_segment(const ZydisDecodedOperand *m)
{
    switch (m->mem.segment) {
    case ZYDIS_REGISTER_ES:
        return X86_ES;
    case ZYDIS_REGISTER_CS:
        return X86_CS;
    case ZYDIS_REGISTER_SS:
        return X86_SS_SEG;
    default:
        return X86_DS;
    }
}

/* Opcode and offset in the page of the last x87 instruction, for FIP and FOP; its operand, still in R11, for FDP. */
static void x87_note(struct trans *t)
{
    unsigned fop = (t->i->opcode & 7U) << 8 | t->raw[t->i->raw.modrm.offset];

    if (!t->x87_paged) {
        if (t->kind & KIND_PIC)
            em_load(&t->e, RCX, HGS(offsetof(struct xlate, page_va) + 8 * t->ctx));
        else
            em_const(&t->e, RCX, t->page);
        em_store(&t->e, RCX, X(x87_page));
        t->x87_paged = true;
    }
    const ZydisDecodedOperand *m = memory_operand(t);
    if (m) {
        em_store(&t->e, R11, X(x87_fdp));
        em_rm(&t->e, 0xc7 | EM_W, 0, X(x87_seg));
        em32(&t->e, data_segment(m));
    }
    em_rm(&t->e, 0xc7 | EM_W, 0, X(x87_last));
    em32(&t->e, X87_LAST_VALID | fop << 13 | (uint32_t)t->off);
}

bool rewrite_vector(struct trans *t)
{
    bool x87 = is_x87(t), pure;

    if (t->i->meta.isa_set == ZYDIS_ISA_SET_AVX2GATHER)
        return (t->kind & KIND_FPU) && rewrite_gather(t);
    if (!(t->kind & KIND_FPU) || !isa_ok(t) || denied(t) || (!t->m64 && differs_in_32(t)))
        return false;
    pure = x87 && !uses_mmx(t) && t->i->mnemonic != ZYDIS_MNEMONIC_EMMS;
    if (t->i->mnemonic == ZYDIS_MNEMONIC_FNINIT)
        return false;
    const ZydisDecodedOperand *m = memory_operand(t);
    if (pure && m && (m->mem.segment == ZYDIS_REGISTER_FS || m->mem.segment == ZYDIS_REGISTER_GS))
        return false; /* FDP is without the segment's base */
    if ((x87 || uses_mmx(t)) && !t->x87_checked)
        x87_begin(t);
    t->x87_op = pure && !is_control(t->i->mnemonic);
    if (!rewrite_gpr(t)) {
        t->x87_op = false;
        return false;
    }
    if (t->x87_op)
        x87_note(t);
    t->x87_op = false;
    return true;
}
