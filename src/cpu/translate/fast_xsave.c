/* SPDX-License-Identifier: MIT */
/*
 * XSAVE, XSAVEOPT, XSAVEC and XRSTOR of x87, SSE and AVX state in 64-bit mode, as interp/xsave.c has them: what is not
 * in its initial state is in use. The image must be in RAM that may be accessed, all of it; everything that faults,
 * and the x87 part of the forms with selectors, is the interpreter's, so nothing is changed before all is known.
 */
#include <string.h>

#include <Zydis/Mnemonic.h>

#include "cpu/translate/fast.h"

enum { COMP_X87 = 1, COMP_SSE = 2, COMP_AVX = 4, COMP_ALL = 7 };
enum { OFF_MXCSR = 24, OFF_ST = 32, OFF_XMM = 160, OFF_HEADER = 512, OFF_AVX = 576, IMAGE_LEN = 832, REGS = 16 };
#define COMPACT (1UL << 63)
#define MXCSR_INIT 0x1f80U

/* An image, aligned to 64 bytes, which is on one page or on two. */
struct image {
    uint8_t *part[2];
    unsigned first; /* bytes on the first page */
};

static uint8_t *at(const struct image *m, unsigned off)
{
    return off < m->first ? m->part[0] + off : m->part[1] + (off - m->first);
}
static uint64_t get64(const struct image *m, unsigned off)
{
    return *(const uint64_t *)(const void *)at(m, off);
}
static void put64(const struct image *m, unsigned off, uint64_t v)
{
    *(uint64_t *)(void *)at(m, off) = v;
}

static bool image_of(struct xlate *x, struct image *m, gva_t lin, unsigned len, bool write)
{
    if (lin & 63)
        return false;
    m->first = (unsigned)(PAGE_SIZE - (lin & ~PAGE_MASK));
    m->part[1] = NULL;
    m->part[0] = xl_fast_host(x, lin, write);
    if (m->part[0] && m->first < len)
        m->part[1] = xl_fast_host(x, lin + m->first, write);
    return m->part[0] && (m->first >= len || m->part[1]);
}

static void copy16(void *to, const void *from)
{
    ((uint64_t *)to)[0] = ((const uint64_t *)from)[0];
    ((uint64_t *)to)[1] = ((const uint64_t *)from)[1];
}

static void stored(struct xlate *x, const struct image *m, gva_t lin, unsigned len)
{
    xl_fast_stored(x, lin, len < m->first ? len : m->first);
    if (m->part[1])
        xl_fast_stored(x, lin + m->first, len - m->first);
}

/* ---- saving ---- */

static bool x87_in_use(const struct x86_fpu *f)
{
    const uint64_t *st = (const void *)f->st;
    uint64_t any = 0;

    for (unsigned k = 0; k < sizeof(f->st) / 8; k++)
        any |= st[k];
    return f->fcw != 0x37f || f->fsw || f->ftw || f->fop || f->fip || f->fdp || any;
}

static bool vector_in_use(const struct x86_fpu *f, unsigned from)
{
    uint64_t any = 0;

    for (unsigned k = 0; k < REGS; k++) {
        const uint64_t *v = (const void *)(f->vec[k] + from);
        any |= v[0] | v[1];
    }
    return any;
}

static void put_x87(const struct xlate *x, const struct image *m)
{
    const struct x86_fpu *f = &x->cpu->fpu;
    bool pointers = !x->x87_ptrs_only_es || (f->fsw & 0x80);

    put64(m, 0, f->fcw | (uint64_t)f->fsw << 16 | (uint64_t)f->ftw << 32 | (pointers ? (uint64_t)f->fop << 48 : 0));
    put64(m, 8, pointers ? f->fip : 0);
    put64(m, 16, pointers ? f->fdp : 0);
    for (unsigned k = 0; k < 8; k++) {
        const uint64_t *st = (const void *)f->st[k];
        put64(m, OFF_ST + 16 * k, st[0]);
        put64(m, OFF_ST + 16 * k + 8, (uint16_t)st[1]);
    }
}

static void put_components(const struct xlate *x, const struct image *m, uint64_t write, bool mxcsr)
{
    const struct x86_fpu *f = &x->cpu->fpu;

    if (write & COMP_X87)
        put_x87(x, m);
    if (mxcsr)
        put64(m, OFF_MXCSR, f->mxcsr | (uint64_t)x->mxcsr_mask << 32);
    if (write & COMP_SSE)
        for (unsigned k = 0; k < REGS; k++)
            copy16(at(m, OFF_XMM + 16 * k), f->vec[k]);
    if (write & COMP_AVX)
        for (unsigned k = 0; k < REGS; k++)
            copy16(at(m, OFF_AVX + 16 * k), f->vec[k] + 16);
}

static unsigned length(uint64_t comps)
{
    return comps & COMP_AVX ? IMAGE_LEN : OFF_AVX;
}

static bool save(struct xlate *x, const struct xrec *r, uint64_t rfbm)
{
    const struct x86_fpu *f = &x->cpu->fpu;
    bool compact = r->op == ZYDIS_MNEMONIC_XSAVEC || r->op == ZYDIS_MNEMONIC_XSAVEC64;
    bool plain = r->op == ZYDIS_MNEMONIC_XSAVE || r->op == ZYDIS_MNEMONIC_XSAVE64;
    struct image m;
    uint64_t in;

    if (((rfbm & COMP_X87) && !r->size) || !image_of(x, &m, x->aux, length(rfbm), true))
        return false;
    xl_vectors_save(x);
    xl_x87_save(x);
    in = (x87_in_use(f) ? COMP_X87 : 0) | (vector_in_use(f, 0) ? COMP_SSE : 0) | (vector_in_use(f, 16) ? COMP_AVX : 0);
    in &= rfbm;
    if (compact && (rfbm & COMP_SSE) && f->mxcsr != MXCSR_INIT)
        in |= COMP_SSE;
    if (compact) {
        put_components(x, &m, in, in & COMP_SSE);
        put64(&m, OFF_HEADER, in);
        put64(&m, OFF_HEADER + 8, rfbm | COMPACT);
    } else {
        put_components(x, &m, plain ? rfbm : in, rfbm & (COMP_SSE | COMP_AVX));
        put64(&m, OFF_HEADER, (get64(&m, OFF_HEADER) & ~rfbm) | in);
    }
    stored(x, &m, x->aux, length(rfbm));
    return true;
}

/* ---- restoring ---- */

/* SDM Vol. 1, "Operation of XRSTOR". Only components up to AVX, and in compacted form all that is asked for. */
static bool header_ok(const struct xlate *x, const struct image *m, uint64_t *bv, bool *compact)
{
    uint64_t comp = get64(m, OFF_HEADER + 8), rest = 0;

    *bv = get64(m, OFF_HEADER);
    *compact = comp & COMPACT;
    comp &= ~COMPACT;
    for (unsigned k = 2; k < 8; k++)
        rest |= *compact || k == 2 ? get64(m, OFF_HEADER + 8 * k) : 0;
    if (*compact)
        return (x->v->model->feat_d1_eax & 2) && !(comp & ~(x->cpu->xcr0 & COMP_ALL)) && !(*bv & ~comp) && !rest;
    return !comp && !(*bv & ~x->cpu->xcr0) && !rest;
}

/* The pointers have 48 bits. */
static uint64_t pointer(uint64_t v)
{
    return (uint64_t)((int64_t)(v << 16) >> 16);
}

static void get_x87(struct xlate *x, const struct image *m, bool init)
{
    struct x86_fpu *f = &x->cpu->fpu;
    uint64_t v = init ? 0x37f : get64(m, 0);

    f->fcw = init ? 0x37f : (uint16_t)((v & 0x1f3f) | 0x40);
    f->fsw = (uint16_t)(v >> 16);
    f->ftw = (uint8_t)(v >> 32);
    f->fop = (v >> 48) & 0x7ff;
    f->fip = init ? 0 : pointer(get64(m, 8));
    f->fdp = init ? 0 : pointer(get64(m, 16));
    f->fcs = f->fds = 0;
    for (unsigned k = 0; k < 8; k++) {
        uint64_t *st = (void *)f->st[k];
        st[0] = init ? 0 : get64(m, OFF_ST + 16 * k);
        st[1] = init ? 0 : (uint16_t)get64(m, OFF_ST + 16 * k + 8);
    }
}

static void get_vectors(struct xlate *x, const struct image *m, unsigned off, unsigned part, bool init)
{
    static const uint64_t zero[2];

    for (unsigned k = 0; k < REGS; k++)
        copy16(x->cpu->fpu.vec[k] + part, init ? (const void *)zero : at(m, off + 16 * k));
}

static bool restore(struct xlate *x, const struct xrec *r, uint64_t rfbm)
{
    struct x86_fpu *f = &x->cpu->fpu;
    bool compact, load_mxcsr;
    struct image m;
    uint64_t bv;
    uint32_t mxcsr;

    if (((rfbm & COMP_X87) && !r->size) || !image_of(x, &m, x->aux, length(rfbm), false) ||
        !header_ok(x, &m, &bv, &compact))
        return false;
    bv &= rfbm;
    load_mxcsr = compact ? bv & COMP_SSE : rfbm & (COMP_SSE | COMP_AVX);
    mxcsr = (uint32_t)get64(&m, OFF_MXCSR);
    if (load_mxcsr && (mxcsr & ~x->mxcsr_mask))
        return false;
    xl_vectors_save(x);
    xl_x87_save(x);
    if (rfbm & COMP_X87)
        get_x87(x, &m, !(bv & COMP_X87));
    if (load_mxcsr)
        f->mxcsr = mxcsr;
    else if (compact && (rfbm & COMP_SSE))
        f->mxcsr = MXCSR_INIT;
    if (rfbm & COMP_SSE)
        get_vectors(x, &m, OFF_XMM, 0, !(bv & COMP_SSE));
    if (rfbm & COMP_AVX)
        get_vectors(x, &m, OFF_AVX, 16, !(bv & COMP_AVX));
    return true;
}

bool xl_fast_xsave(struct xlate *x, const struct xrec *r)
{
    const struct cpu_state *c = x->cpu;
    uint64_t rfbm = ((uint32_t)c->gpr[X86_RAX] | c->gpr[X86_RDX] << 32) & c->xcr0;
    bool done, loads = r->op == ZYDIS_MNEMONIC_XRSTOR || r->op == ZYDIS_MNEMONIC_XRSTOR64;

    if (!(c->cr4 & X86_CR4_OSXSAVE) || (c->cr0 & X86_CR0_TS) || (rfbm & ~(uint64_t)COMP_ALL))
        return false;
    done = loads ? restore(x, r, rfbm) : save(x, r, rfbm);
    if (done)
        x->cpu->rip = xl_fast_next(x, r);
    return done;
}
