/* SPDX-License-Identifier: MIT */
/*
 * Vector memory operands that are more than one plain access: crossing a page, MMIO, masked elements, gathers.
 *
 * A bounce buffer has the operand's address modulo 64, so that the host itself applies its alignment rules. Elements
 * that the mask leaves out are never touched and cannot fault.
 */
#include "cpu/interp/vector.h"

#include <string.h>

enum { BOUNCE = 64 + 64 + 64 };
#define DR6_BS (1U << 14)

/* Masked, gathered and scattered elements know no #AC. */
static enum tlb_ctx element_ctx(const struct interp *m)
{
    return m->ctx == TLB_USER_AC ? TLB_USER : m->ctx;
}

/* ---- plain operands ---- */

/* Alignment comes before the page walk. An AMD guest may have lifted it for loads that compute (MXCSR.MM). */
static void check_align(struct interp *m, const struct uop *u, const struct vec_op *op, gva_t lin)
{
    bool relaxed = !op->vex && op->kind == VEC_LOAD && (vec_mxcsr(m) & 1U << 17);

    if (op->align > 1 && (lin & (op->align - 1U)) && !relaxed)
        interp_gp(m, u, 0);
}

/* Intel checks nothing that is larger than 8 bytes. */
void vec_check_ac(struct interp *m, const struct uop *u, gva_t lin, unsigned align)
{
    if (align > 8 && m->v->model->vendor == X86_VENDOR_INTEL)
        return;
    if (m->ctx == TLB_USER_AC && (lin & (align - 1)) && (m->mode != X86_MODE_64 || x86_canonical(lin + align)))
        interp_raise_vec(m, u, X86_AC, 0);
}

/* A pending x87 exception comes before the memory access. */
void vec_check_pending(struct interp *m, const struct uop *u, const struct vec_op *op)
{
    uint16_t fsw;

    if (!op->x87 || !op->waits)
        return;
    __asm__ volatile("fnstsw %0" : "=a"(fsw));
    if (fsw & 0x80)
        vec_fault(m, u, X86_MF);
}

/*
 * The stub may pop the x87 stack before the write leaves for MMIO: then the instruction starts again from the old
 * state. An unmasked exception leaves memory alone, which shows in the buffer.
 */
static void store_x87_bounced(struct interp *m, const struct uop *u, const struct vec_op *op, gva_t lin, uint8_t *at)
{
    static const uint8_t untouched[16] = { 0x5a, 0xa5, 0x3c, 0xc3, 0x96, 0x69, 0x5a, 0xa5,
                                           0xc3, 0x3c, 0x69, 0x96, 0xa5, 0x5a, 0xc3, 0x3c };
    uint16_t fsw;

    vec_x87_save(m);
    memcpy(at, untouched, sizeof(untouched));
    op->stub(m, u, at);
    __asm__ volatile("fnstsw %0" : "=a"(fsw));
    if ((fsw & 0x80) && !memcmp(at, untouched, op->msize))
        return;
    m->vec->live = false;
    interp_write(m, u, m->ctx, lin, at, op->msize);
    m->vec->live = true;
}

/* Of the x87's TOP; a store from an MMX register does that on Intel's processors even if it faults. */
static void clear_top(const struct interp *m, const struct vec_op *op)
{
    uint16_t env[14];

    if (op->kind != VEC_STORE || op->gate != VEC_GATE_MMX || m->v->model->vendor != X86_VENDOR_INTEL)
        return;
    __asm__ volatile("fnstenv %0" : "=m"(env));
    env[2] &= 0xc7ff;
    __asm__ volatile("fldenv %0" : : "m"(env));
}

void vec_before_segment(struct interp *m, const struct uop *u, const struct vec_op *op)
{
    if (op->x87)
        vec_check_pending(m, u, op);
    clear_top(m, op);
    check_align(m, u, op, interp_ea_off(m, u) + m->c.seg[u->i.seg].base);
}

void vec_mem_slow(struct interp *m, const struct uop *u, gva_t lin)
{
    uint8_t buf[BOUNCE] __attribute__((aligned(64))), *at = buf + (lin & 63);
    const struct vec_op *op = vec_op_of(u);
    void *host;
    bool store = op->kind == VEC_STORE;
    enum tlb_ctx ctx = op->no_ac ? element_ctx(m) : m->ctx;

    vec_check_pending(m, u, op);
    clear_top(m, op);
    check_align(m, u, op, lin);
    if (!op->no_ac && (m->mode != X86_MODE_64 || x86_canonical(lin + op->msize - 1U))) /* else #GP comes first */
        vec_check_ac(m, u, lin, op->msize == 10 ? 8 : op->msize > 16 ? 16 : op->msize);
    host = interp_host(m, u, lin, op->msize, store);
    if (host) {
        op->stub(m, u, host);
        if (store)
            interp_host_stored(m, lin, op->msize);
    } else if (store) {
        interp_probe_write(m, u, ctx, lin, op->msize);
        if (op->x87) {
            store_x87_bounced(m, u, op, lin, at);
            return;
        }
        op->stub(m, u, at);
        interp_write(m, u, ctx, lin, at, op->msize);
    } else {
        interp_read(m, u, ctx, lin, at, op->msize);
        op->stub(m, u, at);
    }
}

/* ---- masked elements ---- */

static uint64_t sign_mask(const uint8_t *v, unsigned elem, unsigned count)
{
    uint64_t bits = 0;

    for (unsigned k = 0; k < count; k++)
        bits |= (uint64_t)(v[(k + 1) * elem - 1] >> 7) << k;
    return bits;
}

static uint64_t low_bits(unsigned n)
{
    return n >= 64 ? ~0UL : (1UL << n) - 1;
}

/* Which elements in memory are touched. */
static uint64_t element_mask(const struct interp *m, const struct vec_op *op)
{
    uint64_t bits, out = 0;

    if (!op->mask_k)
        return sign_mask(m->c.fpu.vec[op->mask], op->elem, op->count);
    bits = m->c.fpu.k[op->mask] & low_bits(op->dcount);
    if (op->kind == VEC_EXPAND || op->kind == VEC_COMPRESS)
        return low_bits((unsigned)__builtin_popcountl(bits));
    for (unsigned k = 0; k < op->dcount; k++)
        out |= (bits >> k & 1) << (k % op->count);
    return out;
}

static gva_t element_lin(struct interp *m, const struct uop *u, uint64_t off, unsigned len, bool write)
{
    unsigned seg = u->i.seg;

    if (seg == X86_SEG_NONE && (u->i.base == X86_RSP || u->i.base == X86_RBP))
        seg = X86_SS_SEG;
    return interp_seg_lin(m, u, seg, off, len, write);
}

enum run_action { RUN_PROBE, RUN_READ, RUN_WRITE };

/* Applies act to each run of set elements; off is the offset of element 0 in the segment. */
static void each_run(struct interp *m, const struct uop *u, uint64_t need, enum run_action act, uint8_t *buf)
{
    const struct vec_op *op = vec_op_of(u);
    uint64_t off = interp_ea_off(m, u);
    unsigned elem = op->kind == VEC_BYTES ? 1 : op->elem, first = 0;

    while (need) {
        unsigned skip = (unsigned)__builtin_ctzl(need), n;
        uint64_t inv;

        need >>= skip;
        first += skip;
        inv = ~need;
        n = inv ? (unsigned)__builtin_ctzl(inv) : 64;
        if ((off + first * elem) >> PAGE_SHIFT != (off + (first + n) * elem - 1) >> PAGE_SHIFT)
            n = 1; /* one by one where a page ends */
        gva_t lin = element_lin(m, u, off + first * elem, n * elem, act != RUN_READ);
        if (act == RUN_PROBE)
            interp_probe_write(m, u, element_ctx(m), lin, n * elem);
        else if (act == RUN_READ)
            interp_read(m, u, element_ctx(m), lin, buf + first * elem, n * elem);
        else
            interp_write(m, u, element_ctx(m), lin, buf + first * elem, n * elem);
        need = n >= 64 ? 0 : need >> n;
        first += n;
    }
}

static __attribute__((noinline)) void masked_load(struct interp *m, const struct uop *u)
{
    uint8_t buf[BOUNCE] __attribute__((aligned(64)));
    const struct vec_op *op = vec_op_of(u);
    const struct tlb_entry *e;
    gva_t lin;
    uint8_t *at;

    vec_gate_check(m, u, op->gate);
    lin = interp_ea_off(m, u) + m->c.seg[u->i.seg].base;
    e = tlb_slot(m, lin);
    if (!(u->i.flags & X86_I_SLOW_EA) && e->rtag == ((lin + op->msize - 1) & PAGE_MASK)) {
        op->stub(m, u, (void *)(lin + e->addend));
        return;
    }
    check_align(m, u, op, lin);
    memset(buf, 0, sizeof(buf));
    at = buf + (lin & 63);
    each_run(m, u, element_mask(m, op), RUN_READ, at);
    op->stub(m, u, at);
}

static __attribute__((noinline)) void masked_store(struct interp *m, const struct uop *u)
{
    uint8_t buf[BOUNCE] __attribute__((aligned(64)));
    const struct vec_op *op = vec_op_of(u);
    const struct tlb_entry *e;
    uint64_t need;
    uint8_t *at;
    gva_t lin;

    vec_gate_check(m, u, op->gate);
    lin = interp_ea_off(m, u) + m->c.seg[u->i.seg].base;
    e = tlb_slot(m, lin);
    if (!(u->i.flags & X86_I_SLOW_EA) && e->wtag == ((lin + op->msize - 1) & PAGE_MASK)) {
        op->stub(m, u, (void *)(lin + e->addend));
        if (unlikely(*e->fflags))
            interp_code_hit(m, lin, op->msize, e);
        return;
    }
    check_align(m, u, op, lin);
    need = element_mask(m, op);
    at = buf + (lin & 63);
    each_run(m, u, need, RUN_PROBE, NULL);
    op->stub(m, u, at);
    each_run(m, u, need, RUN_WRITE, at);
}

/*
 * MASKMOVQ, MASKMOVDQU: bytes of the first register whose byte in the second has its top bit set. Whether bytes that
 * are left out can fault is up to the implementation; here as on AMD they do.
 */
static __attribute__((noinline)) void masked_bytes(struct interp *m, const struct uop *u)
{
    uint8_t buf[32] __attribute__((aligned(16)));
    const struct vec_op *op = vec_op_of(u);
    gva_t lin;

    vec_gate_check(m, u, op->gate);
    if (op->x87 && !m->vec->live)
        vec_x87_load(m);
    op->stub(m, u, buf); /* MASKMOVQ turns the x87 into MMX even if it faults */
    lin = element_lin(m, u, interp_ea_off(m, u), op->msize, true);
    interp_probe_write(m, u, element_ctx(m), lin, op->msize);
    each_run(m, u, sign_mask(buf + 16, 1, op->msize), RUN_WRITE, buf);
}

/* ---- gathers and scatters ---- */

static uint64_t vsib_off(const struct interp *m, const struct uop *u, const struct vec_op *op, unsigned k)
{
    const uint8_t *v = m->c.fpu.vec[op->index];
    uint64_t ea, idx;

    if (op->isize == 8) {
        memcpy(&idx, v + k * 8, 8);
    } else {
        int32_t i32;
        memcpy(&i32, v + k * 4, 4);
        idx = (uint64_t)(int64_t)i32;
    }
    ea = m->c.gpr[u->i.base] + (idx << u->i.scale) + (uint64_t)(int64_t)u->i.disp;
    return u->i.asz == 8 ? ea : u->i.asz == 4 ? (uint32_t)ea : (uint16_t)ea;
}

static uint64_t vsib_mask(const struct interp *m, const struct vec_op *op)
{
    if (op->mask_k)
        return m->c.fpu.k[op->mask] & low_bits(op->count);
    return sign_mask(m->c.fpu.vec[op->mask], op->elem, op->count);
}

/* Element k is done: its mask goes, so that a fault in a later one restarts behind it. */
static void vsib_done(struct interp *m, const struct vec_op *op, unsigned k)
{
    if (op->mask_k)
        m->c.fpu.k[op->mask] &= ~(1UL << k);
    else
        memset(m->c.fpu.vec[op->mask] + k * op->elem, 0, op->elem);
    if (m->io.n)
        interp_io_commit(m);
}

static void zero_above(struct interp *m, unsigned reg, unsigned len)
{
    memset(m->c.fpu.vec[reg] + len, 0, 64 - len);
}

/* SDM Vol. 2C, "VPGATHERDD": elements complete from the lowest. *loaded counts them, for whoever catches a fault. */
static void gather_elements(struct interp *m, const struct uop *u, volatile unsigned *loaded)
{
    const struct vec_op *op = vec_op_of(u);
    uint64_t mask = vsib_mask(m, op);

    for (unsigned k = 0; k < op->count; k++) {
        if (mask >> k & 1) {
            uint8_t val[8];
            gva_t lin = element_lin(m, u, vsib_off(m, u, op, k), op->elem, false);

            interp_read(m, u, element_ctx(m), lin, val, op->elem);
            memcpy(m->c.fpu.vec[op->reg] + k * op->elem, val, op->elem);
            ++*loaded;
        }
        vsib_done(m, op, k);
    }
}

/* Single-stepped: a fault behind an element that completed gives way to the trap, with the gather to be done again. */
static __attribute__((noinline)) void gather_stepped(struct interp *m, const struct uop *u)
{
    volatile unsigned loaded = 0;
    jmp_buf outer;

    memcpy(&outer, &m->fault_jmp, sizeof(outer));
    if (setjmp(m->fault_jmp)) {
        memcpy(&m->fault_jmp, &outer, sizeof(outer));
        if (loaded)
            m->fault = (struct x86_fault){ .vector = X86_DB, .addr = DR6_BS };
        longjmp(m->fault_jmp, 1);
    }
    gather_elements(m, u, &loaded);
    memcpy(&m->fault_jmp, &outer, sizeof(outer));
}

static __attribute__((noinline)) void gather(struct interp *m, const struct uop *u)
{
    const struct vec_op *op = vec_op_of(u);
    volatile unsigned loaded = 0;

    vec_gate_check(m, u, op->gate);
    if (unlikely(m->c.rflags & X86_FL_TF))
        gather_stepped(m, u);
    else
        gather_elements(m, u, &loaded);
    zero_above(m, op->reg, (unsigned)op->count * op->elem);
    if (op->mask_k)
        m->c.fpu.k[op->mask] = 0;
    else
        memset(m->c.fpu.vec[op->mask], 0, 64);
}

static __attribute__((noinline)) void scatter(struct interp *m, const struct uop *u)
{
    const struct vec_op *op = vec_op_of(u);
    uint64_t mask;

    vec_gate_check(m, u, op->gate);
    mask = vsib_mask(m, op);
    for (unsigned k = 0; k < op->count; k++) {
        if (!(mask >> k & 1))
            continue;
        gva_t lin = element_lin(m, u, vsib_off(m, u, op, k), op->elem, true);
        interp_write(m, u, element_ctx(m), lin, m->c.fpu.vec[op->reg] + k * op->elem, op->elem);
        vsib_done(m, op, k);
    }
    m->c.fpu.k[op->mask] = 0;
}

/* The work is done in functions of their own: one with a local buffer could not tail-call the next instruction. */
#define MEM_OP(name, next)                                                                                             \
    static void op_##name(struct interp *m, const struct uop *u)                                                       \
    {                                                                                                                  \
        name(m, u);                                                                                                    \
        next(m, u);                                                                                                    \
    }
MEM_OP(masked_load, NEXT)
MEM_OP(masked_store, NEXT_ST)
MEM_OP(masked_bytes, NEXT_ST)
MEM_OP(gather, NEXT)
MEM_OP(scatter, NEXT_ST)

uop_fn vec_mem_handler(const struct vec_op *op)
{
    switch (op->kind) {
    case VEC_MASKED_LD:
    case VEC_EXPAND:
        return op_masked_load;
    case VEC_MASKED_ST:
    case VEC_COMPRESS:
        return op_masked_store;
    case VEC_BYTES:
        return op_masked_bytes;
    case VEC_GATHER:
        return op_gather;
    case VEC_SCATTER:
        return op_scatter;
    default:
        return NULL;
    }
}
