/* SPDX-License-Identifier: MIT */
/*
 * Vector instructions as uops: preparing one at decode time, and the handlers of the common shapes.
 *
 * Each handler is compiled for one #UD/#NM rule set and one shape, so that a register instruction costs a few tests
 * and the call of its stub. What a stub cannot do in one access is in vector_mem.c.
 */
#include "cpu/interp/core.h"
#include "cpu/interp/vector_make.h"
#include "x86/isa.h"

#include <string.h>

/* SDM Vol. 3A, "Exception 7", "Exception 6"; the order of checks as in SDM Vol. 2, "Exceptions Type 4" and others. */
void vec_gate_raise(struct interp *m, const struct uop *u, enum vec_gate gate)
{
    const struct cpu_state *c = &m->c;

    switch (gate) {
    case VEC_GATE_MMX:
        if (c->cr0 & X86_CR0_EM)
            interp_ud(m, u);
        break;
    case VEC_GATE_SSE:
        if ((c->cr0 & X86_CR0_EM) || !(c->cr4 & X86_CR4_OSFXSR))
            interp_ud(m, u);
        break;
    case VEC_GATE_AVX:
    case VEC_GATE_AVX512:
        if (!(c->cr4 & X86_CR4_OSXSAVE) || !(c->cr0 & X86_CR0_PE) || (c->rflags & X86_FL_VM) ||
            (~c->xcr0 & (gate == VEC_GATE_AVX ? 6 : 0xe6)))
            interp_ud(m, u);
        break;
    case VEC_GATE_X87:
    case VEC_GATE_FWAIT:
    case VEC_GATE_NONE:
        break;
    }
    interp_raise_vec(m, u, X86_NM, 0);
}

void vec_fault(struct interp *m, const struct uop *u, unsigned trap)
{
    if (m->vec->vlmax > 16)
        __asm__ volatile("vzeroupper" ::: "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7");
    switch (trap) {
    case X86_UD:
        interp_ud(m, u);
    case X86_GP:
        interp_gp(m, u, 0);
    case X86_XM:
        interp_raise_vec(m, u, m->c.cr4 & X86_CR4_OSXMMEXCPT ? X86_XM : X86_UD, 0);
    case X86_MF:
        if (m->c.cr0 & X86_CR0_NE)
            interp_raise_vec(m, u, X86_MF, 0);
        interp_fatal(m, u, "x87 exception with CR0.NE clear (FERR#/IRQ 13 reporting is not supported)");
    default:
        interp_fatal(m, u, "host exception %u in a vector instruction", trap);
    }
}

/* ---- handlers ---- */

static inline unsigned vec_data_seg(const struct uop *u)
{
    if (u->i.seg != X86_SEG_NONE)
        return u->i.seg;
    return u->i.base == X86_RSP || u->i.base == X86_RBP ? X86_SS_SEG : X86_DS;
}

static inline void track(struct interp *m, const struct uop *u, const struct vec_op *op)
{
    struct x86_fpu *f = &m->c.fpu;

    if (!op->tracked)
        return;
    f->fop = op->fop & 0x7ff;
    f->fip = interp_ip(m, u);
    f->fcs = m->c.seg[X86_CS].sel;
    if (op->kind != VEC_REG) {
        f->fdp = interp_ea_off(m, u);
        f->fds = m->c.seg[vec_data_seg(u)].sel;
    }
}

static inline __attribute__((always_inline)) void do_reg(struct interp *m, const struct uop *u, enum vec_gate gate)
{
    const struct vec_op *op = vec_op_of(u);

    vec_gate_check(m, u, gate);
    if (gate <= VEC_GATE_MMX || (gate == VEC_GATE_SSE && op->x87)) {
        if (!m->vec->live)
            vec_x87_load(m);
        op->stub(m, u, NULL);
        track(m, u, op);
    } else {
        op->stub(m, u, NULL);
    }
    NEXT(m, u);
}

static inline __attribute__((always_inline)) void do_mem(struct interp *m, const struct uop *u, enum vec_gate gate,
                                                         bool store)
{
    const struct vec_op *op = vec_op_of(u);
    const struct tlb_entry *e;
    unsigned len = op->msize;
    gva_t lin;

    vec_gate_check(m, u, gate);
    if (gate <= VEC_GATE_MMX || (gate == VEC_GATE_SSE && op->x87)) {
        if (!m->vec->live)
            vec_x87_load(m);
    }
    if (unlikely(u->i.flags & X86_I_SLOW_EA))
        vec_before_segment(m, u, op);
    lin = interp_ea(m, u, len, store);
    e = tlb_slot(m, lin);
    if (likely((store ? e->wtag : e->rtag) == ((lin + len - 1) & PAGE_MASK))) {
        op->stub(m, u, (void *)(lin + e->addend));
        if (store && unlikely(*e->fflags))
            interp_code_hit(m, lin, len, e);
    } else {
        vec_mem_slow(m, u, lin);
    }
    if (gate <= VEC_GATE_MMX)
        track(m, u, op);
    if (store)
        NEXT_ST(m, u);
    NEXT(m, u);
}

#define HANDLERS(name, gate)                                                                                           \
    static void name##_reg(struct interp *m, const struct uop *u)                                                      \
    {                                                                                                                  \
        do_reg(m, u, gate);                                                                                            \
    }                                                                                                                  \
    static void name##_load(struct interp *m, const struct uop *u)                                                     \
    {                                                                                                                  \
        do_mem(m, u, gate, false);                                                                                     \
    }                                                                                                                  \
    static void name##_store(struct interp *m, const struct uop *u)                                                    \
    {                                                                                                                  \
        do_mem(m, u, gate, true);                                                                                      \
    }
HANDLERS(x87, VEC_GATE_X87)
HANDLERS(mmx, VEC_GATE_MMX)
HANDLERS(sse, VEC_GATE_SSE)
HANDLERS(avx, VEC_GATE_AVX)
HANDLERS(avx512, VEC_GATE_AVX512)
static void fwait(struct interp *m, const struct uop *u)
{
    do_reg(m, u, VEC_GATE_FWAIT);
}

static uop_fn pick_handler(const struct vec_op *op)
{
    static const uop_fn table[][3] = {
        [VEC_GATE_X87] = { x87_reg, x87_load, x87_store },
        [VEC_GATE_FWAIT] = { fwait, NULL, NULL },
        [VEC_GATE_MMX] = { mmx_reg, mmx_load, mmx_store },
        [VEC_GATE_SSE] = { sse_reg, sse_load, sse_store },
        [VEC_GATE_AVX] = { avx_reg, avx_load, avx_store },
        [VEC_GATE_AVX512] = { avx512_reg, avx512_load, avx512_store },
    };

    if (op->kind <= VEC_STORE)
        return op->gate < ARRAY_LEN(table) ? table[op->gate][op->kind] : NULL;
    return vec_mem_handler(op);
}

/* ---- preparing ---- */

/* Code memory is full: drops all blocks and stubs; the instruction runs again from a new block. */
static void code_full(struct interp *m, const struct uop *u)
{
    interp_leave_before(m, u);
    block_cache_flush(m);
    vec_reset_code(m);
}

/* The bytes changed between two looks at them; the block is already stale and will be decoded again. */
static void code_changed(struct interp *m, const struct uop *u)
{
    interp_leave_before(m, u);
}

/* The end of a store by a handler of code whose frame has flags. */
static void fast_stored(struct interp *m, const struct uop *u)
{
    unsigned len = vec_op_of(u)->msize;
    gva_t lin = interp_ea(m, u, len, true);

    interp_code_hit(m, lin, len, tlb_slot(m, lin));
    NEXT_ST(m, u);
}

/* A handler of code where that can be, else the one in C. */
static __attribute__((noinline)) uop_fn best_handler(struct interp *m, const struct uop *u, const struct vec_op *op,
                                                     const struct vec_buf *stub)
{
    struct vec_fast_ends ends = { .slow = pick_handler(op), .stored = fast_stored };
    struct vec_buf code = { 0 };
    struct vec_op key = *op, *have;
    union {
        vec_stub stub;
        uop_fn fn;
    } f;

    if (m->mode != X86_MODE_64 || !ends.slow || !vec_fast_emit(&u->i, op, stub, &ends, &code))
        return ends.slow;
    key.stub = NULL;
    key.code_len = 0;
    key.handler = 1;
    have = vec_op_intern(m->vec, &key, &code);
    if (!have)
        return code_full;
    f.stub = have->stub;
    return f.fn;
}

static bool decode(const uint8_t *bytes, unsigned len, enum x86_mode mode, struct vec_insn *d)
{
    static const struct {
        ZydisMachineMode machine;
        ZydisStackWidth stack;
    } modes[] = {
        [X86_MODE_16] = { ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16 },
        [X86_MODE_32] = { ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32 },
        [X86_MODE_64] = { ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64 },
    };
    ZydisDecoder dec;

    ZydisDecoderInit(&dec, modes[mode].machine, modes[mode].stack);
    d->mode = mode;
    d->bytes = bytes;
    return ZYAN_SUCCESS(ZydisDecoderDecodeFull(&dec, bytes, len, &d->i, d->op));
}

uop_fn interp_vector_prepare(struct interp *m, struct uop *u, const uint8_t *bytes)
{
    uint8_t raw[15] = { 0 };
    struct vec_insn d;
    struct vec_op op, *have;
    struct vec_buf code = { 0 };
    uop_fn fn;

    if (!m->vec && vec_create(m))
        interp_fatal(m, NULL, "no memory for vector instructions");
    memcpy(raw, bytes, u->i.len);
    if (!decode(raw, u->i.len, m->mode, &d) || d.i.length != u->i.len || d.i.mnemonic != u->i.op)
        return code_changed;
    if (!x86_isa_offered(m->v->model, (unsigned)d.i.meta.isa_set, (unsigned)d.i.mnemonic))
        return NULL;
    fn = vec_pick_state(d.i.mnemonic);
    if (!fn)
        fn = vec_pick_env(&d);
    if (fn)
        return fn;
    m->v->stats.vector_decoded++;
    if (!vec_classify(&d, &op))
        return NULL;
    if (op.kind == VEC_BYTES ? !vec_emit_pair(&d, &code)
                             : op.kind != VEC_GATHER && op.kind != VEC_SCATTER && !vec_emit(m->vec, &d, &code))
        return NULL;
    have = vec_op_intern(m->vec, &op, &code);
    if (!have)
        return code_full;
    u->i.imm = (int64_t)(uintptr_t)have;
    return best_handler(m, u, have, &code);
}
