/* SPDX-License-Identifier: MIT */
/* The generator: a seed becomes a case. */
#ifndef GAZDA_TESTS_INSN_GEN_H
#define GAZDA_TESTS_INSN_GEN_H

#include "forms.h"
#include "insn.h"
#include "isa.h"
#include "rng.h"

struct gen {
    struct forms *f[2]; /* 64-bit and 32-bit forms */
    const struct isa *isa;
    const struct insn_host *host;
    unsigned pct32, pct_fuzz, pct_block;
    struct x86_fpu scratch;
    uint64_t fuzz, blocks;         /* how many were made */
    uint64_t straddling, backward; /* blocks across the page boundary inside an instruction; backward branches */
};

/* One instruction being made: its bytes, and the case whose state its operands are solved in. */
struct gen_insn {
    struct gen *g;
    struct rng *r;
    struct insn_case *c;
    uint8_t buf[32];
    ZydisDecodedInstruction z;
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
    uint64_t ip;    /* of the instruction */
    bool solid;     /* choose operands so that it does not fault (inside blocks) */
    uint32_t fixed; /* bit per GPR: may not be changed any more */
};

void gen_case(struct gen *g, uint64_t seed, struct insn_case *c);
/* A case for given bytes (c->code, code_len <= 15, mode32), with the state that the seed gives. */
void gen_from_bytes(struct gen *g, uint64_t seed, struct insn_case *c);

/* encode.c: fills i->buf and decodes it; false if these bytes are no instruction. */
bool gen_decode(struct gen_insn *i);
bool gen_encode(struct gen_insn *i, struct form *fm);
void gen_fuzz_bytes(struct gen_insn *i);
/* operand.c: makes the operands meaningful: addresses, counts, branch targets. Changes i->buf and the state. */
void gen_solve(struct gen_insn *i);
/* block.c, flow.c: a case of 2 to 32 instructions. */
void gen_block(struct gen *g, struct rng *r, struct insn_case *c);
/* state.c */
void gen_fpu(struct gen *g, struct rng *r, struct x86_fpu *f);
void gen_state(struct gen *g, struct rng *r, struct insn_case *c);

/* MASKMOV and its like. operand.c */
bool gen_is_masked(const struct gen_insn *i);

#endif
