/* SPDX-License-Identifier: MIT */
/* A block in the making: shared by block.c (its plain instructions) and flow.c (its branches). */
#ifndef GAZDA_TESTS_INSN_BLOCK_H
#define GAZDA_TESTS_INSN_BLOCK_H

#include "gen.h"

enum { MAX_INSNS = 32, MAX_BYTES = INSN_CODE_MAX - 64, MAX_JUMPS = 64, MAX_LOOPS = 2 };

struct jump { /* a displacement or address to be filled in when its target is known */
    uint16_t at, end;
    uint8_t size, target; /* bytes; number of the instruction */
    bool absolute;
};

struct loop {
    uint8_t counter; /* register, fixed while the loop is open */
    uint8_t head;    /* number of its first instruction */
};

struct block {
    struct gen *g;
    struct rng *r;
    struct insn_case *c;
    uint32_t fixed;                 /* bit per register that must keep its value */
    uint32_t counters;              /* those of them that hold no address */
    unsigned n;                     /* instructions so far */
    uint16_t start[MAX_INSNS + 12]; /* the ends of loops may exceed it */
    unsigned jumps;
    struct jump jump[MAX_JUMPS];
    unsigned loops; /* open ones */
    struct loop loop[MAX_LOOPS];
};

static inline bool block_room(const struct block *b, unsigned insns)
{
    return b->n + insns <= MAX_INSNS && b->c->code_len + insns * 15 <= MAX_BYTES && b->jumps + 8 <= MAX_JUMPS;
}
void block_emit(struct block *b, const void *bytes, unsigned len);
/* mov r32, v */
void block_mov(struct block *b, unsigned reg, uint32_t v);

/* flow.c. What comes next belongs together: nothing may jump into its middle. */
void flow_whole(struct block *b);
/* Some branch, call, or the beginning or end of a loop. */
void flow_add(struct block *b);
/* Closes what is open and fills in all displacements. */
void flow_finish(struct block *b);

#endif
