/* SPDX-License-Identifier: MIT */
/*
 * The compact decoded instruction: what the software engines cache. `op` is the Zydis mnemonic, so there is no
 * second list of names. Byte operands name a register by its byte offset inside the register file (AL = 0, CL = 8,
 * ..., AH = 1, CH = 9, ...); wider ones by its number.
 */
#ifndef GAZDA_X86_INSN_H
#define GAZDA_X86_INSN_H

#include "x86/cpu_state.h"

/* Which explicit operands there are, destination first. R register, M memory, I immediate. */
enum x86_form {
    X86_F_NONE,
    X86_F_R,
    X86_F_M,
    X86_F_I,
    X86_F_RR,
    X86_F_RM,
    X86_F_MR,
    X86_F_RI,
    X86_F_MI,
    X86_F_RRR,
    X86_F_RRM,
    X86_F_RMR,
    X86_F_RRI,
    X86_F_RMI,
    X86_F_MRI,
    X86_F_MRR /* shld/shrd m, r, cl */,
    X86_F_II,
    X86_F_FAR /* ptr16:16/32 in imm: offset | selector << 32 */,
    X86_F_IR /* out imm8, al */,
    X86_F_OTHER,
    X86_F_COUNT
};

/*
 * What Zydis calls MOV, PUSH, POP, CALL, JMP, RET, MOVSD and CMPSD is several instructions; these get an `op` of their
 * own. MOV_x_: the number of the segment, control or debug register stands where the register operand does.
 */
enum x86_op {
    X86_OP_FIRST = 2000,                /* above every ZydisMnemonic */
    X86_OP_MOV_FROM_SEG = X86_OP_FIRST, /* RR, MR (osz 2) */
    X86_OP_MOV_TO_SEG,                  /* RR, RM */
    X86_OP_MOV_FROM_CR,                 /* RR: gpr, cr */
    X86_OP_MOV_TO_CR,                   /* RR: cr, gpr */
    X86_OP_MOV_FROM_DR,
    X86_OP_MOV_TO_DR,
    X86_OP_PUSH_SEG, /* R */
    X86_OP_POP_SEG,  /* R */
    X86_OP_CALL_FAR, /* FAR, or M: offset of osz bytes, then the selector */
    X86_OP_JMP_FAR,  /* likewise */
    X86_OP_RET_FAR,  /* NONE, I */
    X86_OP_MOVSD_STR,
    X86_OP_CMPSD_STR,
    X86_OP_LAST
};

enum {
    X86_I_LOCK = 1 << 0,    /* LOCK prefix, or XCHG with memory */
    X86_I_REP = 1 << 1,     /* F3 as REP/REPE on a string instruction */
    X86_I_REPNE = 1 << 2,   /* F2 likewise */
    X86_I_SLOW_EA = 1 << 3, /* the address needs more than base + index << scale + disp + segment base: see below */
    X86_I_VECTOR = 1 << 4,  /* x87, MMX, SSE, AVX, ...: run on the host FPU */
    X86_I_BRANCH = 1 << 5,  /* may change RIP other than to the next instruction, or must end a block */
    X86_I_STACK = 1 << 6,
    X86_I_CROSS = 1 << 7, /* its bytes lie on two pages */
};

/*
 * Effective address: gpr[base] + (gpr[index] << scale) + disp, cut to asz bytes, then + base of seg. base and index
 * are X86_REG_ZERO when absent; base is X86_REG_IP for RIP-relative, with disp made relative to the block's start by
 * the engine (decode leaves it relative to the instruction's own first byte). moffs addresses are in imm when they
 * do not fit disp: then base = index = X86_REG_ZERO and form has no immediate. SLOW_EA is set when
 * asz != 8 or the mode is not 64-bit (limits and types are to be checked there; an engine that knows the segments to be
 * flat may clear it), and for the rare 64-bit address that
 * does not fit disp: a far RIP-relative one, or moffs.
 *
 * Vector instructions: base, index, seg, disp, asz describe the memory operand, osz is its size (0: none, or a state
 * image of over 64 bytes). A VSIB index leaves index = X86_REG_ZERO, and r2 = X86_VSIB | vector register.
 */
enum { X86_VSIB = 0x80 };

struct x86_insn {
    int64_t imm;
    int32_t disp;
    uint16_t op;  /* ZydisMnemonic or enum x86_op */
    uint8_t len;  /* bytes, 1..15 */
    uint8_t form; /* enum x86_form */
    uint8_t osz;  /* operand size in bytes: 1, 2, 4, 8 (of the first operand; SSE sizes for vector memory operands) */
    uint8_t asz;  /* address size in bytes: 2, 4, 8 */
    uint8_t seg;  /* enum x86_sreg of the memory operand; X86_SEG_NONE in 64-bit mode without FS/GS */
    uint8_t base, index, scale; /* scale is a shift count 0..3 */
    uint8_t r0, r1, r2;         /* registers in operand order */
    uint8_t ssz;                /* size of the source where it differs (MOVZX, MOVSX, CRC32, ...), else osz */
    uint8_t flags;              /* X86_I_* */
    uint8_t off;                /* engine: offset of the instruction from the start of its block */
};
_Static_assert(sizeof(struct x86_insn) <= 32, "keep the cached form compact");

enum x86_decode_status {
    X86_DECODE_OK,
    X86_DECODE_MORE, /* the bytes given end inside the instruction */
    X86_DECODE_UD,   /* not an instruction in this mode, or an illegal LOCK */
    X86_DECODE_LONG, /* over 15 bytes: #GP(0) */
};

/* bytes need not be aligned; avail >= 1. Pure. */
enum x86_decode_status x86_decode(const uint8_t *bytes, unsigned avail, enum x86_mode mode, struct x86_insn *out);

#endif
