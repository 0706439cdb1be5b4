/* SPDX-License-Identifier: MIT */
/* What an instruction that faults may have done already: it differs by model, and the restart makes it harmless. */
#include <Zydis/Zydis.h>

#include "insn.h"
#include "partial.h"
#include "x86/fault.h"

#define LAST_32 0xffffff00U

/* The instruction at an offset of the code. */
static bool decode(const struct insn_case *c, uint64_t at, ZydisDecodedInstruction *z)
{
    ZydisDecoder dec;

    ZydisDecoderInit(&dec, c->mode32 ? ZYDIS_MACHINE_MODE_LONG_COMPAT_32 : ZYDIS_MACHINE_MODE_LONG_64,
                     c->mode32 ? ZYDIS_STACK_WIDTH_32 : ZYDIS_STACK_WIDTH_64);
    return at < c->code_len &&
           ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&dec, NULL, c->code + at, c->code_len - at, z));
}

static bool is_string(const ZydisDecodedInstruction *z)
{
    return z->meta.category == ZYDIS_CATEGORY_STRINGOP || z->meta.category == ZYDIS_CATEGORY_IOSTRINGOP;
}

/* Only Intel's processors, as far as they are seen to differ from AMD's, after which the interpreter was made. */
static unsigned intel(const ZydisDecodedInstruction *z)
{
    switch ((int)z->mnemonic) {
    case ZYDIS_MNEMONIC_VGATHERDPS:
    case ZYDIS_MNEMONIC_VGATHERDPD:
    case ZYDIS_MNEMONIC_VGATHERQPS:
    case ZYDIS_MNEMONIC_VGATHERQPD:
    case ZYDIS_MNEMONIC_VPGATHERDD:
    case ZYDIS_MNEMONIC_VPGATHERDQ:
    case ZYDIS_MNEMONIC_VPGATHERQD:
    case ZYDIS_MNEMONIC_VPGATHERQQ: /* elements behind the one that faults; signs fill the mask's elements */
        return PARTIAL_VECTORS;
    case ZYDIS_MNEMONIC_VMASKMOVPS:
    case ZYDIS_MNEMONIC_VMASKMOVPD:
    case ZYDIS_MNEMONIC_VPMASKMOVD:
    case ZYDIS_MNEMONIC_VPMASKMOVQ:
        return PARTIAL_CR2;
    case ZYDIS_MNEMONIC_CALL: /* the target is looked at last */
    case ZYDIS_MNEMONIC_FBSTP:
        return PARTIAL_MEM;
    case ZYDIS_MNEMONIC_FSTP: /* of ten bytes: significand and exponent apart */
        return z->opcode == 0xdb ? PARTIAL_MEM : 0;
    case ZYDIS_MNEMONIC_VCVTPS2PH: /* the conversion comes before the store */
        return PARTIAL_MXCSR;
    default:
        break;
    }
    if (!is_string(z))
        return 0;
    return PARTIAL_RF; /* set between two iterations */
}

static unsigned any(const ZydisDecodedInstruction *z)
{
    if (z->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
        return PARTIAL_MEM;
    switch ((int)z->mnemonic) {
    case ZYDIS_MNEMONIC_IRET:
    case ZYDIS_MNEMONIC_IRETD:
    case ZYDIS_MNEMONIC_IRETQ:
    case ZYDIS_MNEMONIC_LDS:
    case ZYDIS_MNEMONIC_LES:
    case ZYDIS_MNEMONIC_LSS:
    case ZYDIS_MNEMONIC_LFS:
    case ZYDIS_MNEMONIC_LGS:
        return PARTIAL_MEM;
    case ZYDIS_MNEMONIC_POPA:
    case ZYDIS_MNEMONIC_POPAD:
        return PARTIAL_GPR;
    case ZYDIS_MNEMONIC_CMPSB:
    case ZYDIS_MNEMONIC_CMPSW:
    case ZYDIS_MNEMONIC_CMPSD:
    case ZYDIS_MNEMONIC_CMPSQ:
    case ZYDIS_MNEMONIC_SCASB:
    case ZYDIS_MNEMONIC_SCASW:
    case ZYDIS_MNEMONIC_SCASD:
    case ZYDIS_MNEMONIC_SCASQ: /* SDM: as before the instruction; AMD: after the last iteration */
        return PARTIAL_FLAGS;
    case ZYDIS_MNEMONIC_PUSHA:
    case ZYDIS_MNEMONIC_PUSHAD:
    case ZYDIS_MNEMONIC_ENTER:
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXSAVE64:
    case ZYDIS_MNEMONIC_FNSAVE:
    case ZYDIS_MNEMONIC_FNSTENV:
    case ZYDIS_MNEMONIC_FLDENV:
    case ZYDIS_MNEMONIC_FRSTOR:
    case ZYDIS_MNEMONIC_FXRSTOR:
    case ZYDIS_MNEMONIC_FXRSTOR64:
        return PARTIAL_MEM;
    default:
        return 0;
    }
}

/* Intel's cut the registers of a string instruction with 32-bit addresses even if their count is zero. */
static bool cuts(const struct insn_case *c)
{
    ZydisDecodedInstruction z;

    return !c->mode32 && __builtin_cpu_is("intel") && decode(c, 0, &z) && is_string(&z) && z.address_width == 32;
}

/*
 * REP MOVS between two names of one piece of memory: the processor looks for overlap in the addresses, and may read
 * what it has not written yet. What comes of it differs from run to run, on the host too.
 */
static bool aliased(const struct insn_case *c)
{
    const uint64_t size = 2 * PAGE_SIZE;
    uint64_t s = c->in.gpr[X86_RSI], d = c->in.gpr[X86_RDI];
    ZydisDecodedInstruction z;

    if (c->mode32 || !decode(c, 0, &z) || !is_string(&z) || z.opcode < 0xa4 || z.opcode > 0xa5 ||
        !(z.attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE)))
        return false;
    if (z.attributes & (ZYDIS_ATTRIB_HAS_SEGMENT_FS | ZYDIS_ATTRIB_HAS_SEGMENT_GS)) /* the source may be anywhere */
        return d - INSN_HIGH < size || d - INSN_DATA < size;
    return (s - INSN_HIGH < size && d - INSN_DATA < size) || (s - INSN_DATA < size && d - INSN_HIGH < size);
}

unsigned insn_partial(const struct insn_case *c, const struct insn_result *r)
{
    uint64_t at = r->out.rip - c->in.rip;
    ZydisDecodedInstruction z;

    unsigned upper = (cuts(c) ? PARTIAL_UPPER : 0) | (aliased(c) ? PARTIAL_MEM : 0);

    if ((at && (r->vector == X86_DB || r->vector == X86_BP)) || !decode(c, at, &z))
        return upper;
    return upper | any(&z) | (__builtin_cpu_is("intel") ? intel(&z) : 0);
}

/* Intel does not look at memory that it does not need. */
static bool spared(const struct insn_case *c, uint64_t at, const struct insn_result *a, const struct insn_result *b)
{
    ZydisDecodedInstruction z;

    if (!decode(c, at, &z))
        return false;
    if (z.meta.category == ZYDIS_CATEGORY_X87_ALU) /* not stored, for an unmasked exception: it ends at the next one */
        return (a->out.fpu.fsw & 0x80) && a->out.rip > b->out.rip;
    if (z.mnemonic == ZYDIS_MNEMONIC_VCVTPS2PH) /* where it goes to, segments included */
        return a->vector == X86_XM;
    if (b->vector != X86_PF && b->vector != X86_AC)
        return false;
    switch ((int)z.mnemonic) {
    case ZYDIS_MNEMONIC_BOUND: /* the upper bound, where the lower one tells */
        return a->vector == X86_BR;
    case ZYDIS_MNEMONIC_POP: /* of a segment register: what is above the selector */
        return z.opcode != 0x8f && (z.opcode & 0xf8) != 0x58;
    default:
        return false;
    }
}

bool insn_other_fault(const struct insn_case *c, const struct insn_result *a, const struct insn_result *b)
{
    bool segment = b->vector == X86_GP || b->vector == X86_SS;
    uint64_t at = b->out.rip - c->in.rip;

    if (!__builtin_cpu_is("intel"))
        return false;
    /* SDM Vol. 3A, "Limit Checking": an access around the end of 4 GiB may fault; Intel's goes on at 0. */
    if (c->mode32 && a->vector == X86_PF && a->cr2 >= LAST_32 && a->cr2 <= UINT32_MAX && segment)
        return true;
    /* what is misaligned too, around the end of all addresses; the way to 32-bit code with a 64-bit RIP, which is cut
     */
    if (segment && (a->vector == X86_AC || (!c->mode32 && a->out.sreg[X86_CS] != b->out.sreg[X86_CS] &&
                                            a->vector == X86_PF && a->cr2 == a->out.rip)))
        return true;
    return (segment || b->vector == X86_PF || b->vector == X86_AC) && spared(c, at, a, b);
}
