/* SPDX-License-Identifier: MIT */
/*
 * FXSAVE, the XSAVE family, and MXCSR. SDM Vol. 1, "Managing State Using the XSAVE Feature Set".
 *
 * Whether a component is in use (XINUSE) is found by comparing it with its initial state. No modified optimisation:
 * XSAVEOPT and XSAVES write whatever is in use. Images are assembled and checked in vc->image; a store is probed in
 * full before its first byte is written, and a load takes effect only when all of it was read.
 */
#include "cpu/interp/vector_make.h"

#include <string.h>

enum { COMP_X87 = 1, COMP_SSE = 2, COMP_AVX = 4, COMP_K = 1 << 5, COMP_HI256 = 1 << 6, COMP_HI16 = 1 << 7 };
enum { LEGACY_LEN = 512, HEADER_LEN = 64, EXT_START = LEGACY_LEN + HEADER_LEN };
#define XCOMP_COMPACT (1UL << 63)
#define MXCSR_INIT 0x1f80U

static void put16(uint8_t *p, uint16_t v)
{
    memcpy(p, &v, 2);
}
static void put32(uint8_t *p, uint32_t v)
{
    memcpy(p, &v, 4);
}
static void put64(uint8_t *p, uint64_t v)
{
    memcpy(p, &v, 8);
}
static uint16_t get16(const uint8_t *p)
{
    uint16_t v;
    memcpy(&v, p, 2);
    return v;
}
static uint32_t get32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}
static uint64_t get64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, 8);
    return v;
}

/* ---- the pieces of an image ---- */

static unsigned xmm_count(const struct interp *m)
{
    return m->mode == X86_MODE_64 ? 16 : 8;
}

/* wide: the form with REX.W and 64-bit pointers. */
static void put_x87(struct interp *m, uint8_t *img, bool wide)
{
    const struct x86_fpu *f = &m->c.fpu;
    bool ptrs;

    vec_x87_save(m);
    ptrs = !m->vec->ptrs_only_es || (f->fsw & 0x80);
    memset(img, 0, 24);
    put16(img, f->fcw);
    put16(img + 2, f->fsw);
    img[4] = f->ftw;
    if (ptrs) {
        put16(img + 6, f->fop);
        if (wide) {
            put64(img + 8, f->fip);
            put64(img + 16, f->fdp);
        } else {
            put32(img + 8, (uint32_t)f->fip);
            put16(img + 12, vec_fcs(m));
            put32(img + 16, (uint32_t)f->fdp);
            put16(img + 20, vec_fds(m));
        }
    }
    for (unsigned k = 0; k < 8; k++) {
        memset(img + 32 + 16 * k, 0, 16);
        memcpy(img + 32 + 16 * k, f->st[k], 10);
    }
}

/* The pointers have 48 bits. */
static uint64_t pointer(const uint8_t *p)
{
    return (uint64_t)((int64_t)(get64(p) << 16) >> 16);
}

static void get_x87(struct interp *m, const uint8_t *img, bool wide)
{
    struct x86_fpu *f = &m->c.fpu;

    m->vec->live = false;
    f->fcw = (uint16_t)((get16(img) & 0x1f3f) | 0x40);
    f->fsw = get16(img + 2);
    f->ftw = img[4];
    f->fop = get16(img + 6) & 0x7ff;
    f->fip = wide ? pointer(img + 8) : get32(img + 8);
    f->fdp = wide ? pointer(img + 16) : get32(img + 16);
    f->fcs = wide ? 0 : get16(img + 12);
    f->fds = wide ? 0 : get16(img + 20);
    for (unsigned k = 0; k < 8; k++) {
        memset(f->st[k], 0, 16);
        memcpy(f->st[k], img + 32 + 16 * k, 10);
    }
}

static void init_x87(struct interp *m)
{
    struct x86_fpu *f = &m->c.fpu;

    m->vec->live = false;
    f->fcw = 0x37f;
    f->fsw = 0;
    f->ftw = 0;
    vec_x87_clear_ptrs(m);
    memset(f->st, 0, sizeof(f->st));
}

static void put_mxcsr(const struct interp *m, uint8_t *img)
{
    put32(img + 24, vec_mxcsr(m));
    put32(img + 28, m->vec->mxcsr_mask);
}

static void put_xmm(const struct interp *m, uint8_t *img)
{
    for (unsigned k = 0; k < xmm_count(m); k++)
        memcpy(img + 160 + 16 * k, m->c.fpu.vec[k], 16);
}
static void get_xmm(struct interp *m, const uint8_t *img)
{
    for (unsigned k = 0; k < xmm_count(m); k++)
        memcpy(m->c.fpu.vec[k], img + 160 + 16 * k, 16);
}

/* One component from 2 up; img is its own place. In 32-bit modes registers 8 and up are left alone. */
static void move_ext(struct interp *m, unsigned comp, uint8_t *img, bool load)
{
    struct x86_fpu *f = &m->c.fpu;
    unsigned first = comp == COMP_HI16 ? 16 : 0, from = comp == COMP_AVX ? 16 : comp == COMP_HI256 ? 32 : 0;
    unsigned len = comp == COMP_AVX ? 16 : comp == COMP_HI256 ? 32 : 64;
    unsigned n = comp == COMP_HI16 ? (m->mode == X86_MODE_64 ? 16 : 0) : xmm_count(m);

    if (comp == COMP_K) {
        if (load)
            memcpy(f->k, img, sizeof(f->k));
        else
            memcpy(img, f->k, sizeof(f->k));
        return;
    }
    for (unsigned k = 0; k < n; k++) {
        if (load)
            memcpy(f->vec[first + k] + from, img + k * len, len);
        else
            memcpy(img + k * len, f->vec[first + k] + from, len);
    }
}

static void init_ext(struct interp *m, unsigned comp)
{
    struct x86_fpu *f = &m->c.fpu;
    unsigned n = xmm_count(m);

    switch (comp) {
    case COMP_SSE:
        for (unsigned k = 0; k < n; k++)
            memset(f->vec[k], 0, 16);
        break;
    case COMP_AVX:
        for (unsigned k = 0; k < n; k++)
            memset(f->vec[k] + 16, 0, 16);
        break;
    case COMP_K:
        memset(f->k, 0, sizeof(f->k));
        break;
    case COMP_HI256:
        for (unsigned k = 0; k < n; k++)
            memset(f->vec[k] + 32, 0, 32);
        break;
    case COMP_HI16:
        if (m->mode == X86_MODE_64)
            memset(f->vec[16], 0, 16 * sizeof(f->vec[0]));
        break;
    default:
        break;
    }
}

static bool all_zero(const void *p, unsigned len)
{
    const uint8_t *b = p;
    return len == 0 || (b[0] == 0 && !memcmp(b, b + 1, len - 1));
}

static bool in_use(const struct interp *m, unsigned comp)
{
    const struct x86_fpu *f = &m->c.fpu;
    unsigned from = comp == COMP_AVX ? 16 : comp == COMP_HI256 ? 32 : 0, len = comp == COMP_HI256 ? 32 : 16;

    switch (comp) {
    case COMP_X87:
        return m->vec->live || f->fcw != 0x37f || f->fsw || f->ftw || f->fop || f->fip || f->fdp ||
               !all_zero(f->st, sizeof(f->st));
    case COMP_K:
        return !all_zero(f->k, sizeof(f->k));
    case COMP_HI16:
        return m->mode == X86_MODE_64 && !all_zero(f->vec[16], 16 * sizeof(f->vec[0]));
    default:
        for (unsigned k = 0; k < xmm_count(m); k++)
            if (!all_zero(f->vec[k] + from, len))
                return true;
        return false;
    }
}

/* ---- FXSAVE, FXRSTOR ---- */

static gva_t image_lin(struct interp *m, const struct uop *u, unsigned align, unsigned len, bool write)
{
    gva_t lin = interp_ea(m, u, len, write);

    if (m->mode == X86_MODE_64 && unlikely(!x86_canonical(lin) || !x86_canonical(lin + len - 1)))
        interp_probe_write(m, u, m->ctx, lin, len); /* raises: it comes before the alignment */
    vec_check_ac(m, u, lin, 4);
    if (lin & (align - 1))
        interp_gp(m, u, 0);
    return lin;
}

/* AMD touches the last byte of an FXSAVE image before the others on its page: it shows in CR2. */
static gva_t fx_end(gva_t lin)
{
    gva_t end = lin + LEGACY_LEN - 1;
    return (lin ^ end) & PAGE_MASK ? lin : end;
}

static void check_mxcsr(struct interp *m, const struct uop *u, uint32_t v)
{
    if (v & ~m->vec->mxcsr_mask)
        interp_gp(m, u, 0);
}

static __attribute__((noinline)) void fxsave(struct interp *m, const struct uop *u, bool wide)
{
    uint8_t *img = m->vec->image;
    unsigned len = 160 + 16 * xmm_count(m);
    gva_t lin;

    vec_gate_check(m, u, VEC_GATE_X87);
    lin = image_lin(m, u, 16, LEGACY_LEN, true);
    interp_probe_write(m, u, m->ctx, fx_end(lin), 1);
    interp_probe_write(m, u, m->ctx, lin, LEGACY_LEN);
    put_x87(m, img, wide);
    put_mxcsr(m, img);
    put_xmm(m, img);
    interp_write(m, u, m->ctx, lin, img, len);
}

static __attribute__((noinline)) void fxrstor(struct interp *m, const struct uop *u, bool wide)
{
    uint8_t *img = m->vec->image;
    gva_t lin;

    vec_gate_check(m, u, VEC_GATE_X87);
    lin = image_lin(m, u, 16, LEGACY_LEN, false);
    interp_read(m, u, m->ctx, fx_end(lin), img, 1);
    interp_read(m, u, m->ctx, lin, img, LEGACY_LEN);
    check_mxcsr(m, u, get32(img + 24));
    get_x87(m, img, wide);
    vec_mxcsr_set(m, get32(img + 24));
    get_xmm(m, img);
}

/* ---- the XSAVE family ---- */

struct xsave {
    uint64_t rfbm;
    bool compact; /* XSAVEC, XSAVES; or an image in compacted form */
    bool wide;
};

/* Offset of component bit k >= 2 in an image whose XCOMP_BV (or RFBM) is comps. */
static unsigned ext_offset(const struct interp *m, const struct xsave *x, uint64_t comps, unsigned k)
{
    const struct vec_cache *vc = m->vec;
    unsigned off = EXT_START;

    if (!x->compact)
        return vc->comp[k].off;
    for (unsigned j = 2; j <= k; j++) {
        if (!(comps >> j & 1))
            continue;
        if (vc->comp[j].align)
            off = (off + 63) & ~63U;
        if (j == k)
            break;
        off += vc->comp[j].len;
    }
    return off;
}

static uint64_t requested(const struct interp *m, bool supervisor)
{
    uint64_t mask = (uint32_t)m->c.gpr[X86_RAX] | m->c.gpr[X86_RDX] << 32;
    return mask & (m->c.xcr0 | (supervisor ? m->c.msr.xss : 0));
}

static void gate_xsave(struct interp *m, const struct uop *u)
{
    if (!(m->c.cr4 & X86_CR4_OSXSAVE))
        interp_ud(m, u);
    if (m->c.cr0 & X86_CR0_TS)
        interp_raise_vec(m, u, X86_NM, 0);
}

static uint64_t inuse_mask(const struct interp *m, uint64_t comps)
{
    uint64_t in = 0;

    for (unsigned k = 0; k < VEC_COMPS; k++)
        if ((comps >> k & 1) && in_use(m, 1U << k))
            in |= 1UL << k;
    return in;
}

/* Writes the components of `write`; compacted offsets follow from x->rfbm. */
static void write_components(struct interp *m, const struct uop *u, const struct xsave *x, uint64_t write, gva_t lin)
{
    uint8_t *img = m->vec->image;

    if (write & COMP_X87) {
        put_x87(m, img, x->wide);
        interp_write(m, u, m->ctx, lin, img, 24);
        interp_write(m, u, m->ctx, lin + 32, img + 32, 128);
    }
    if (x->compact ? write & COMP_SSE : x->rfbm & (COMP_SSE | COMP_AVX)) {
        put_mxcsr(m, img);
        interp_write(m, u, m->ctx, lin + 24, img + 24, 8);
    }
    if (write & COMP_SSE) {
        put_xmm(m, img);
        interp_write(m, u, m->ctx, lin + 160, img + 160, 16 * xmm_count(m));
    }
    for (unsigned k = 2; k < VEC_COMPS; k++) {
        if (!(write >> k & 1))
            continue;
        interp_read(m, u, m->ctx, lin + ext_offset(m, x, x->rfbm, k), img, m->vec->comp[k].len);
        move_ext(m, 1U << k, img, false);
        interp_write(m, u, m->ctx, lin + ext_offset(m, x, x->rfbm, k), img, m->vec->comp[k].len);
    }
}

static unsigned image_end(const struct interp *m, const struct xsave *x, uint64_t comps)
{
    unsigned end = EXT_START;

    for (unsigned k = 2; k < VEC_COMPS; k++) {
        if (comps >> k & 1) {
            unsigned e = ext_offset(m, x, comps, k) + m->vec->comp[k].len;
            end = e > end ? e : end;
        }
    }
    return end;
}

enum save_kind { SAVE_PLAIN, SAVE_OPT, SAVE_C, SAVE_S };

static __attribute__((noinline)) void xsave(struct interp *m, const struct uop *u, enum save_kind kind, bool wide)
{
    struct xsave x = { .compact = kind >= SAVE_C, .wide = wide };
    uint64_t in, bv, hdr[2];
    unsigned end;
    gva_t lin;

    gate_xsave(m, u);
    if (kind == SAVE_S && m->c.cpl)
        interp_gp(m, u, 0);
    x.rfbm = requested(m, kind == SAVE_S);
    end = image_end(m, &x, x.rfbm);
    lin = image_lin(m, u, 64, end, true);
    interp_probe_write(m, u, m->ctx, lin, end);
    in = inuse_mask(m, x.rfbm);
    if (x.compact && (x.rfbm & COMP_SSE) && vec_mxcsr(m) != MXCSR_INIT)
        in |= COMP_SSE;
    if (x.compact) {
        hdr[0] = in;
        hdr[1] = x.rfbm | XCOMP_COMPACT;
        write_components(m, u, &x, in, lin);
        interp_write(m, u, m->ctx, lin + LEGACY_LEN, hdr, 16);
        return;
    }
    interp_read(m, u, m->ctx, lin + LEGACY_LEN, &bv, 8);
    bv = (bv & ~x.rfbm) | in;
    write_components(m, u, &x, kind == SAVE_OPT ? in : x.rfbm, lin);
    interp_write(m, u, m->ctx, lin + LEGACY_LEN, &bv, 8);
}

/* SDM Vol. 1, "Operation of XRSTOR": what makes a header invalid. Sets x->compact. */
static bool header_ok(const struct interp *m, struct xsave *x, const uint8_t *hdr, bool supervisor)
{
    uint64_t bv = get64(hdr), comp = get64(hdr + 8), allowed = m->c.xcr0 | (supervisor ? m->c.msr.xss : 0);

    x->compact = comp & XCOMP_COMPACT;
    if (x->compact) {
        if (!supervisor && !(m->v->model->feat_d1_eax & 2))
            return false;
        comp &= ~XCOMP_COMPACT;
        return !(comp & ~allowed) && !(bv & ~comp) && all_zero(hdr + 16, 48);
    }
    return !supervisor && !(bv & ~m->c.xcr0) && all_zero(hdr + 8, 16);
}

static __attribute__((noinline)) void xrstor(struct interp *m, const struct uop *u, bool supervisor, bool wide)
{
    struct xsave x = { .wide = wide };
    uint8_t *img = m->vec->image;
    uint64_t bv, comps;
    bool load_mxcsr;
    gva_t lin;

    gate_xsave(m, u);
    if (supervisor && m->c.cpl)
        interp_gp(m, u, 0);
    x.rfbm = requested(m, supervisor);
    lin = image_lin(m, u, 64, EXT_START, false);
    interp_read(m, u, m->ctx, lin, img, EXT_START);
    if (!header_ok(m, &x, img + LEGACY_LEN, supervisor))
        interp_gp(m, u, 0);
    bv = get64(img + LEGACY_LEN) & x.rfbm;
    comps = x.compact ? get64(img + LEGACY_LEN + 8) & ~XCOMP_COMPACT : x.rfbm;
    load_mxcsr = x.compact ? bv & COMP_SSE : x.rfbm & (COMP_SSE | COMP_AVX);
    if (load_mxcsr)
        check_mxcsr(m, u, get32(img + 24));
    for (unsigned k = 2; k < VEC_COMPS; k++) /* image has room behind the header in the same order */
        if (bv >> k & 1)
            interp_read(m, u, m->ctx, lin + ext_offset(m, &x, comps, k), img + EXT_START + m->vec->comp[k].at,
                        m->vec->comp[k].len);

    /* From here on nothing fails. */
    if (bv & COMP_X87)
        get_x87(m, img, wide);
    else if (x.rfbm & COMP_X87)
        init_x87(m);
    if (load_mxcsr)
        vec_mxcsr_set(m, get32(img + 24));
    else if (x.compact && (x.rfbm & COMP_SSE))
        vec_mxcsr_set(m, MXCSR_INIT);
    if (bv & COMP_SSE)
        get_xmm(m, img);
    for (unsigned k = 1; k < VEC_COMPS; k++) {
        if (bv >> k & 1) {
            if (k > 1)
                move_ext(m, 1U << k, img + EXT_START + m->vec->comp[k].at, true);
        } else if (x.rfbm >> k & 1) {
            init_ext(m, 1U << k);
        }
    }
}

/* ---- MXCSR, VZEROUPPER ---- */

static __attribute__((noinline)) void ldmxcsr(struct interp *m, const struct uop *u, enum vec_gate gate)
{
    uint32_t v;

    vec_gate_check(m, u, gate);
    v = interp_ld32(m, u, interp_ea(m, u, 4, false));
    check_mxcsr(m, u, v);
    vec_mxcsr_set(m, v);
}

static __attribute__((noinline)) void stmxcsr(struct interp *m, const struct uop *u, enum vec_gate gate)
{
    vec_gate_check(m, u, gate);
    interp_st32(m, u, interp_ea(m, u, 4, true), vec_mxcsr(m));
}

static __attribute__((noinline)) void zero_from(struct interp *m, const struct uop *u, unsigned from)
{
    vec_gate_check(m, u, VEC_GATE_AVX);
    for (unsigned k = 0; k < xmm_count(m); k++)
        memset(m->c.fpu.vec[k] + from, 0, sizeof(m->c.fpu.vec[k]) - from);
}

/* The work is not inlined: a function with locals in memory could not tail-call. */
#define STATE_LOAD(name, call)                                                                                         \
    static void name(struct interp *m, const struct uop *u)                                                            \
    {                                                                                                                  \
        call;                                                                                                          \
        NEXT(m, u);                                                                                                    \
    }
#define STATE_STORE(name, call)                                                                                        \
    static void name(struct interp *m, const struct uop *u)                                                            \
    {                                                                                                                  \
        call;                                                                                                          \
        NEXT_ST(m, u);                                                                                                 \
    }
STATE_STORE(op_fxsave, fxsave(m, u, false))
STATE_STORE(op_fxsave64, fxsave(m, u, true))
STATE_LOAD(op_fxrstor, fxrstor(m, u, false))
STATE_LOAD(op_fxrstor64, fxrstor(m, u, true))
STATE_STORE(op_xsave, xsave(m, u, SAVE_PLAIN, false))
STATE_STORE(op_xsave64, xsave(m, u, SAVE_PLAIN, true))
STATE_STORE(op_xsaveopt, xsave(m, u, SAVE_OPT, false))
STATE_STORE(op_xsaveopt64, xsave(m, u, SAVE_OPT, true))
STATE_STORE(op_xsavec, xsave(m, u, SAVE_C, false))
STATE_STORE(op_xsavec64, xsave(m, u, SAVE_C, true))
STATE_STORE(op_xsaves, xsave(m, u, SAVE_S, false))
STATE_STORE(op_xsaves64, xsave(m, u, SAVE_S, true))
STATE_LOAD(op_xrstor, xrstor(m, u, false, false))
STATE_LOAD(op_xrstor64, xrstor(m, u, false, true))
STATE_LOAD(op_xrstors, xrstor(m, u, true, false))
STATE_LOAD(op_xrstors64, xrstor(m, u, true, true))
STATE_LOAD(op_ldmxcsr, ldmxcsr(m, u, VEC_GATE_SSE))
STATE_LOAD(op_vldmxcsr, ldmxcsr(m, u, VEC_GATE_AVX))
STATE_STORE(op_stmxcsr, stmxcsr(m, u, VEC_GATE_SSE))
STATE_STORE(op_vstmxcsr, stmxcsr(m, u, VEC_GATE_AVX))
STATE_LOAD(op_vzeroupper, zero_from(m, u, 16))
STATE_LOAD(op_vzeroall, zero_from(m, u, 0))

uop_fn vec_pick_state(ZydisMnemonic op)
{
    static const struct {
        ZydisMnemonic op;
        uop_fn fn;
    } table[] = {
        { ZYDIS_MNEMONIC_FXSAVE, op_fxsave },         { ZYDIS_MNEMONIC_FXSAVE64, op_fxsave64 },
        { ZYDIS_MNEMONIC_FXRSTOR, op_fxrstor },       { ZYDIS_MNEMONIC_FXRSTOR64, op_fxrstor64 },
        { ZYDIS_MNEMONIC_XSAVE, op_xsave },           { ZYDIS_MNEMONIC_XSAVE64, op_xsave64 },
        { ZYDIS_MNEMONIC_XSAVEOPT, op_xsaveopt },     { ZYDIS_MNEMONIC_XSAVEOPT64, op_xsaveopt64 },
        { ZYDIS_MNEMONIC_XSAVEC, op_xsavec },         { ZYDIS_MNEMONIC_XSAVEC64, op_xsavec64 },
        { ZYDIS_MNEMONIC_XSAVES, op_xsaves },         { ZYDIS_MNEMONIC_XSAVES64, op_xsaves64 },
        { ZYDIS_MNEMONIC_XRSTOR, op_xrstor },         { ZYDIS_MNEMONIC_XRSTOR64, op_xrstor64 },
        { ZYDIS_MNEMONIC_XRSTORS, op_xrstors },       { ZYDIS_MNEMONIC_XRSTORS64, op_xrstors64 },
        { ZYDIS_MNEMONIC_LDMXCSR, op_ldmxcsr },       { ZYDIS_MNEMONIC_VLDMXCSR, op_vldmxcsr },
        { ZYDIS_MNEMONIC_STMXCSR, op_stmxcsr },       { ZYDIS_MNEMONIC_VSTMXCSR, op_vstmxcsr },
        { ZYDIS_MNEMONIC_VZEROUPPER, op_vzeroupper }, { ZYDIS_MNEMONIC_VZEROALL, op_vzeroall },
    };

    for (unsigned k = 0; k < ARRAY_LEN(table); k++)
        if (table[k].op == op)
            return table[k].fn;
    return NULL;
}

void vec_state_init(struct interp *m)
{
    struct vec_cache *vc = m->vec;
    unsigned at = 0;

    for (unsigned k = 2; k < VEC_COMPS; k++) {
        struct x86_cpuid r = x86_cpuid_read(m->v->model, &m->c, m->v->id, 0xd, k);

        if (!r.eax || r.eax + at > sizeof(vc->image) - EXT_START)
            continue;
        vc->comp[k].len = r.eax;
        vc->comp[k].off = r.ebx;
        vc->comp[k].align = r.ecx & 2;
        vc->comp[k].at = at;
        at += r.eax;
    }
}
