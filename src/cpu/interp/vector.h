/* SPDX-License-Identifier: MIT */
/*
 * Vector execution, inside view. x87, MMX, SSE, AVX and AVX-512 are never re-implemented: the very instruction runs on
 * the host in a *stub*, a small function that loads the guest registers the instruction reads, runs it with its memory
 * operand redirected to a host address, and stores the registers it wrote.
 *
 * Where guest state lives between interp_vector_enter and interp_vector_leave, that is, inside run():
 *   XMM/YMM/ZMM, k     in struct x86_fpu (compiled C uses the registers at will between guest instructions);
 *   MXCSR              in the host's MXCSR: nothing in run() computes in floating point. c.fpu.mxcsr is stale;
 *   x87 and MMX        in the host's x87 registers once the first x87 or MMX instruction has loaded them (vc->live),
 *                      else in struct x86_fpu. FOP, FIP and FDP always in struct x86_fpu.
 *
 * A stub is called as stub(m, u, host) and keeps m and u in RDI and RSI throughout, and RSP as on entry, so that the
 * signal handler can turn a fault inside it into a call of vector_fault(m, u, trap).
 */
#ifndef GAZDA_CPU_INTERP_VECTOR_H
#define GAZDA_CPU_INTERP_VECTOR_H

#include "cpu/interp/vector_gate.h"

typedef void (*vec_stub)(struct interp *m, const struct uop *u, void *host);

/* How the memory operand is reached. */
enum vec_kind {
    VEC_REG,       /* there is none */
    VEC_LOAD,      /* msize bytes are read */
    VEC_STORE,     /* msize bytes are written */
    VEC_MASKED_LD, /* elements, chosen by a mask */
    VEC_MASKED_ST,
    VEC_EXPAND,   /* as many elements as the mask has bits, contiguous */
    VEC_COMPRESS, /* likewise, stored */
    VEC_GATHER,
    VEC_SCATTER,
    VEC_BYTES, /* MASKMOVQ, MASKMOVDQU: the stub stores data and mask to host and host + 16 */
};

/* One instruction, without its address: shared by all uops that run the same stub. Lives as long as the code memory. */
struct vec_op {
    vec_stub stub;
    uint8_t gate, kind;
    uint8_t msize;  /* bytes of the memory operand, or of one element when broadcast */
    uint8_t align;  /* required alignment of the memory operand, 1 if none */
    bool x87;       /* uses x87 or MMX registers */
    bool tracked;   /* sets FOP, FIP (and FDP) */
    bool waits;     /* x87: raises a pending #MF first */
    bool mask_k;    /* the mask is in k[mask], else in the sign bits of vec[mask] */
    uint8_t mask;   /* masked kinds, gather and scatter */
    uint8_t elem;   /* element size in bytes, a power of two */
    uint8_t count;  /* of elements in memory */
    uint8_t dcount; /* of mask bits: more than count when elements are broadcast */
    uint8_t reg;    /* gather: destination. scatter: source */
    uint8_t index;  /* gather, scatter: vector register of indexes */
    uint8_t isize;  /* size of an index */
    bool vex;       /* not a legacy encoding */
    uint16_t fop;
    uint16_t code_len;
    bool handler; /* the code is one from vector_fast.c */
    bool no_ac;   /* knows no #AC */
    uint16_t pad; /* zero: ops are compared as bytes */
};
_Static_assert(sizeof(struct vec_op) == 32, "no padding");

enum { VEC_COMPS = 8 };

/*
 * Everything of one vCPU's vector unit that is not guest state. Code memory is one memfd mapped twice, for writing
 * and for running. It only grows; when it is full all blocks and stubs are dropped together.
 */
struct vec_cache {
    uint8_t *rw;
    const uint8_t *rx;
    size_t used;
    struct vec_op *ops; /* VEC_OPS_MAX of them, in a lazily committed mapping */
    unsigned nops;
    uint32_t *hash; /* VEC_HASH slots: index into ops + 1 */
    bool live;      /* x87 state is in the host's registers */
    bool touched;   /* ... or was, so that the host's must be reset before leaving */
    bool entered;
    bool ptrs_only_es; /* the host's FXSAVE stores FOP, FIP and FDP only under a pending exception (AMD) */
    uint32_t host_mxcsr;
    uint32_t mxcsr_mask;
    unsigned vlmax; /* bytes of a vector register that VEX instructions clear or write: 16, 32, 64 */
    struct {
        uint32_t off, len, at; /* in a standard image; in vc->image behind the header */
        bool align;
    } comp[VEC_COMPS]; /* XSAVE components from 2 up */
    uint8_t image[4096] __attribute__((aligned(64)));
};

enum { VEC_CODE_SIZE = 8 << 20, VEC_OPS_MAX = 1 << 16, VEC_HASH = 1 << 17 };

/* ---- vector_host.c ---- */

/* Makes m->vec and enters. 0 or -errno. */
int vec_create(struct interp *m);
/* Drops all stubs; no block may point to one. */
void vec_reset_code(struct interp *m);
/* Loads the x87 state into the host; writes it back (it stays live); writes it back and drops it. */
void vec_x87_load(struct interp *m);
void vec_x87_save(struct interp *m);
void vec_x87_drop(struct interp *m);
/* The guest's MXCSR, wherever it is. */
uint32_t vec_mxcsr(const struct interp *m);
void vec_mxcsr_set(struct interp *m, uint32_t val);

/* ---- vector.c ---- */

/* Reached from the signal handler, with the stack of the stub that faulted. */
_Noreturn void vec_fault(struct interp *m, const struct uop *u, unsigned trap);

static inline const struct vec_op *vec_op_of(const struct uop *u)
{
    return (const struct vec_op *)(uintptr_t)u->i.imm;
}

/* ---- vector_mem.c ---- */

/* Operands that cross a page, are MMIO, or break an alignment rule. */
void vec_mem_slow(struct interp *m, const struct uop *u, gva_t lin);
uop_fn vec_mem_handler(const struct vec_op *op);
/* #MF, if an x87 exception is pending and op looks at that. x87 state is live. */
void vec_check_pending(struct interp *m, const struct uop *u, const struct vec_op *op);
/* What comes before a segment's fault: a pending #MF, and alignment. */
void vec_before_segment(struct interp *m, const struct uop *u, const struct vec_op *op);
/* #AC where alignment checking is on. */
void vec_check_ac(struct interp *m, const struct uop *u, gva_t lin, unsigned align);

/* ---- xsave.c, x87env.c ---- */

/* Fills vc->comp. */
void vec_state_init(struct interp *m);
static inline void vec_x87_clear_ptrs(struct interp *m)
{
    m->c.fpu.fop = m->c.fpu.fcs = m->c.fpu.fds = 0;
    m->c.fpu.fip = m->c.fpu.fdp = 0;
}
/* What FCS and FDS read as. */
uint16_t vec_fcs(const struct interp *m);
uint16_t vec_fds(const struct interp *m);

#endif
