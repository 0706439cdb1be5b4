/* SPDX-License-Identifier: MIT */
/* The decode-time half of vector execution: from a decoded instruction to a stub and what is known about it. */
#ifndef GAZDA_CPU_INTERP_VECTOR_MAKE_H
#define GAZDA_CPU_INTERP_VECTOR_MAKE_H

#include <Zydis/Zydis.h>

#include "cpu/interp/vector.h"

enum { VEC_STUB_MAX = 384 };

/* A decoded instruction as the stub maker sees it. */
struct vec_insn {
    ZydisDecodedInstruction i;
    ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
    enum x86_mode mode;
    const uint8_t *bytes;
};

/* ---- vector_emit.c ---- */

struct vec_buf {
    unsigned n;
    uint8_t b[VEC_STUB_MAX];
};
/* Appends the code of a stub. False: an operand or encoding that it does not know; the instruction is refused. */
bool vec_emit(const struct vec_cache *vc, const struct vec_insn *d, struct vec_buf *out);
/* A stub that stores the two registers of MASKMOVQ or MASKMOVDQU to host and host + 16. */
bool vec_emit_pair(const struct vec_insn *d, struct vec_buf *out);

/* ---- vector_fast.c ---- */

struct vec_fast_ends {
    uop_fn slow;   /* does the whole instruction */
    uop_fn stored; /* after a store that hit a frame with flags */
};
/* A handler around the code of a stub. False: the C handler has to do. */
bool vec_fast_emit(const struct x86_insn *i, const struct vec_op *op, const struct vec_buf *stub,
                   const struct vec_fast_ends *ends, struct vec_buf *out);

/* ---- vector_isa.c ---- */

enum vec_gate vec_isa_gate(const struct vec_insn *d);
/* Sets kind, sizes, masks of op from the operands. False: not supported. */
bool vec_classify(const struct vec_insn *d, struct vec_op *op);

/* ---- vector_host.c ---- */

/* Finds an equal op (stub code and all) or makes one. NULL when full. */
struct vec_op *vec_op_intern(struct vec_cache *vc, const struct vec_op *op, const struct vec_buf *code);

/* ---- xsave.c, x87env.c: handlers of state instructions; NULL if it is none ---- */

uop_fn vec_pick_state(ZydisMnemonic op);
uop_fn vec_pick_env(const struct vec_insn *d);

#endif
