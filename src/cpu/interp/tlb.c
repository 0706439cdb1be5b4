/* SPDX-License-Identifier: MIT */
/*
 * Translations and the slow paths of memory access.
 *
 * A data TLB entry exists only for RAM; device pages, pages with a watch point on them and everything in TLB_USER_AC
 * take the slow path each time. An entry's wtag is set only once the guest's D bit is. Large pages are entered as 4 KiB
 * pieces and remembered as such, for INVLPG drops all of a large page.
 *
 * Translations of code are dropped by moving an epoch, which is part of the key of everything cached by linear pc.
 */
#include <sched.h>
#include <string.h>

#include "cpu/interp/core.h"
#include "cpu/phys.h"
#include "mem/mem.h"

enum { BLOOM_BITS = 1024 };

/* ---- host pages that go away ---- */

static void on_unmap(void *arg, gpa_t gpa, uint64_t len)
{
    struct interp *m = arg;

    (void)gpa, (void)len;
    atomic_fetch_or(&m->attention, ATT_UNMAP);
    /* A vCPU inside run drops its pointers at the next block; one outside does so when it enters. */
    while (atomic_load(&m->in_run) && (atomic_load(&m->attention) & ATT_UNMAP))
        sched_yield();
}

static const struct mem_listener listener = { .unmap = on_unmap, .protect = on_unmap };

int tlb_init(struct interp *m)
{
    for (unsigned c = 0; c < TLB_CTXS; c++)
        for (unsigned k = 0; k < TLB_SIZE; k++)
            m->tlbs[c][k] = (struct tlb_entry){ .rtag = TLB_NONE, .wtag = TLB_NONE };
    m->phys = vcpu_phys(m->v);
    m->code_epoch[0] = m->code_epoch[1] = 1;
    return mem_listen(m->v->mem, &listener, m);
}

void tlb_fini(struct interp *m)
{
    mem_unlisten(m->v->mem, &listener, m);
}

/* ---- flushing ---- */

static void drop(struct interp *m, unsigned ctx, unsigned k)
{
    m->tlbs[ctx][k].rtag = m->tlbs[ctx][k].wtag = TLB_NONE;
    m->tlb_valid[ctx][k / 64] &= ~(1UL << (k % 64));
    m->tlb_local[ctx][k / 64] &= ~(1UL << (k % 64));
    m->tlb_large[ctx][k / 64] &= ~(1UL << (k % 64));
}

/* Drops the entries of a bit map; with `near` only those in the same GiB as lin. */
static void drop_set(struct interp *m, unsigned ctx, const uint64_t *set, bool near, gva_t lin)
{
    for (unsigned w = 0; w < TLB_SIZE / 64; w++) {
        for (uint64_t bits = set[w]; bits; bits &= bits - 1) {
            unsigned k = w * 64 + (unsigned)__builtin_ctzl(bits);
            if (!near || (m->tlbs[ctx][k].rtag ^ lin) >> 30 == 0)
                drop(m, ctx, k);
        }
    }
}

void tlb_code_epoch(struct interp *m, unsigned class)
{
    m->code_epoch[class]++;
    memset(m->code_bloom[class], 0, sizeof(m->code_bloom[class]));
    if (class)
        m->code_local = false;
}

void interp_tlb_flush(struct interp *m, bool keep_global)
{
    for (unsigned c = 0; c < TLB_CTXS; c++)
        drop_set(m, c, keep_global ? m->tlb_local[c] : m->tlb_valid[c], false, 0);
    tlb_code_epoch(m, 0);
    if (!keep_global || m->code_local)
        tlb_code_epoch(m, 1);
    if (keep_global)
        m->v->flushed.local++;
    else
        m->v->flushed.all++;
    m->v->stats.tlb_flushes++;
}

void interp_tlb_flush_page(struct interp *m, gva_t lin)
{
    unsigned k = (lin >> PAGE_SHIFT) & (TLB_SIZE - 1);
    unsigned bit = (lin >> 21) % BLOOM_BITS;

    m->v->flushed.page++;
    m->v->flushed.lin = lin;
    for (unsigned c = 0; c < TLB_CTXS; c++) {
        if (m->tlbs[c][k].rtag == (lin & PAGE_MASK))
            drop(m, c, k);
        drop_set(m, c, m->tlb_large[c], true, lin);
    }
    for (unsigned class = 0; class < 2; class ++)
        if (m->code_huge || (m->code_bloom[class][bit / 64] >> (bit % 64) & 1))
            tlb_code_epoch(m, class);
}

/* ---- translating ---- */

static unsigned access_of(enum tlb_ctx ctx)
{
    switch (ctx) {
    case TLB_USER:
    case TLB_USER_AC:
        return X86_ACC_USER;
    case TLB_KERNEL:
        return X86_ACC_IMPLICIT;
    default:
        return 0;
    }
}

/* Whether an access of u is one to the stack segment. */
static bool from_stack(const struct interp *m, const struct uop *u, gva_t lin)
{
    bool mem = u->i.base != X86_REG_ZERO || u->i.index != X86_REG_ZERO || u->i.form == X86_F_M;

    if ((u->i.flags & X86_I_STACK) && !(mem && lin == ea_fast(m, u)))
        return true;
    return u->i.seg == X86_SS_SEG || ((u->i.base == X86_RSP || u->i.base == X86_RBP) && u->i.seg == X86_SEG_NONE);
}

/* In 32-bit code: an operand that was not checked against its segment, which is flat. */
static bool wrap_is_fault(const struct uop *u)
{
    return !(u->i.flags & X86_I_SLOW_EA) && u->i.seg != X86_FS && u->i.seg != X86_GS;
}

/* #GP(0), or #SS(0) where the address came from the stack: SDM Vol. 1, "Canonical Addressing" and Vol. 2 per insn. */
static void check_canonical(struct interp *m, const struct uop *u, gva_t lin, unsigned len)
{
    if (unlikely(!x86_canonical(lin) || !x86_canonical(lin + len - 1)))
        interp_raise_vec(m, u, u && from_stack(m, u, lin) ? X86_SS : X86_GP, 0);
}

static void check_bounds(struct interp *m, const struct uop *u, gva_t lin, unsigned len)
{
    if (x86_long_mode(&m->c))
        check_canonical(m, u, lin, len);
    if (unlikely(lin <= 0xffffffff && lin + len - 1 > 0xffffffff) && u && m->mode == X86_MODE_32 && wrap_is_fault(u))
        interp_raise_vec(m, u, from_stack(m, u, lin) ? X86_SS : X86_GP, 0);
}

static bool watched(const struct interp *m, gva_t page)
{
    for (unsigned k = 0; k < m->watch.n; k++)
        if (m->watch.p[k].addr <= (page | ~PAGE_MASK) && m->watch.p[k].addr + m->watch.p[k].len > page)
            return true;
    return false;
}

static void watch_access(struct interp *m, gva_t lin, unsigned len, bool write)
{
    for (unsigned k = 0; k < m->watch.n; k++) {
        if (lin < m->watch.p[k].addr + m->watch.p[k].len && m->watch.p[k].addr < lin + len &&
            (write ? m->watch.p[k].on_write : m->watch.p[k].on_read))
            m->watch.hits |= 1U << k;
    }
}

struct place {
    hva_t host; /* 0: not RAM */
    gpa_t gpa;
};

/* Translates one byte's page, fills the TLB of ctx when that is allowed. Raises #PF. */
static struct place translate(struct interp *m, const struct uop *u, enum tlb_ctx ctx, gva_t lin, bool write)
{
    unsigned k = (lin >> PAGE_SHIFT) & (TLB_SIZE - 1);
    struct tlb_entry *e = &m->tlbs[ctx][k];
    gva_t page = lin & PAGE_MASK;
    struct x86_xlate x;
    struct x86_fault f;
    struct place p;

    if ((write ? e->wtag : e->rtag) == page)
        return (struct place){ lin + e->addend, (m->tlb_gpa[ctx][k]) | (lin & ~PAGE_MASK) };
    m->v->stats.tlb_misses++;
    if (!x86_walk(&m->c, &m->phys, lin, access_of(ctx) | (write ? X86_ACC_WRITE : X86_ACC_READ), &x, &f))
        interp_raise(m, u, f);
    p.gpa = x.gpa;
    p.host = mem_frame_get(m->v->mem, x.gpa & PAGE_MASK);
    if (!p.host)
        return p;
    p.host += lin & ~PAGE_MASK;
    if (ctx == TLB_USER_AC || (m->watch.n && watched(m, page)))
        return p;

    e->rtag = page;
    e->wtag = x.writable && x.dirty ? page : TLB_NONE;
    e->addend = p.host - lin;
    e->fflags = mem_frame_flags(m->v->mem, x.gpa);
    m->tlb_gpa[ctx][k] = x.gpa & PAGE_MASK;
    uint64_t bit = 1UL << (k % 64);
    m->tlb_valid[ctx][k / 64] |= bit;
    m->tlb_local[ctx][k / 64] = (m->tlb_local[ctx][k / 64] & ~bit) | (x.global ? 0 : bit);
    m->tlb_large[ctx][k / 64] = (m->tlb_large[ctx][k / 64] & ~bit) | (x.page_shift > PAGE_SHIFT ? bit : 0);
    return p;
}

gpa_t tlb_code_gpa(struct interp *m, gva_t lin)
{
    unsigned class = tlb_code_class(m), bit = (lin >> 21) % BLOOM_BITS;
    struct x86_xlate x;
    struct x86_fault f;

    if (m->mode == X86_MODE_64 && !x86_canonical(lin))
        interp_gp(m, NULL, 0);
    if (!x86_walk(&m->c, &m->phys, lin, X86_ACC_EXEC | (class ? 0 : X86_ACC_USER), &x, &f))
        interp_raise(m, NULL, f);
    m->code_bloom[class][bit / 64] |= 1UL << (bit % 64);
    if (x.page_shift > 22)
        m->code_huge = true;
    if (x.page_shift == 22) { /* 4 MiB: two of the filter's 2 MiB */
        bit ^= 1;
        m->code_bloom[class][bit / 64] |= 1UL << (bit % 64);
    }
    if (class && !x.global)
        m->code_local = true;
    return x.gpa;
}

/* ---- accesses ---- */

static gva_t next_page(const struct interp *m, gva_t lin)
{
    gva_t n = (lin & PAGE_MASK) + PAGE_SIZE;
    return x86_long_mode(&m->c) ? n : (uint32_t)n;
}

/* Both pages of a store, or the one of a RAM access, are checked before anything is moved. */
static unsigned split(struct interp *m, const struct uop *u, enum tlb_ctx ctx, gva_t lin, unsigned len, bool write,
                      struct place p[2])
{
    unsigned first = (unsigned)(PAGE_SIZE - (lin & ~PAGE_MASK));

    check_bounds(m, u, lin, len);
    if (m->watch.n)
        watch_access(m, lin, len, write);
    p[0] = translate(m, u, ctx, lin, write);
    if (first >= len)
        return len;
    p[1] = translate(m, u, ctx, next_page(m, lin), write);
    return first;
}

static void copy_in(struct interp *m, const struct uop *u, struct place p, uint8_t *buf, unsigned len)
{
    if (p.host) {
        switch (len) { /* single accesses where the guest made one */
        case 2:
            *(gmem16 *)buf = *(const volatile gmem16 *)p.host;
            return;
        case 4:
            *(gmem32 *)buf = *(const volatile gmem32 *)p.host;
            return;
        case 8:
            *(gmem64 *)buf = *(const volatile gmem64 *)p.host;
            return;
        default:
            memcpy(buf, (const void *)p.host, len);
            return;
        }
    }
    while (len) {
        unsigned n = len >= 8 ? 8 : len >= 4 ? 4 : len >= 2 ? 2 : 1;
        uint64_t v = interp_io(m, u, EXIT_MMIO, p.gpa, n, false, 0);
        memcpy(buf, &v, n);
        buf += n, len -= n, p.gpa += n;
    }
}

/*
 * After a store to a frame that holds code: it may have hit the block that runs. Its lines may have lost their marks to
 * another processor's store meanwhile; then its generation has moved.
 */
static void code_stored(struct interp *m, gpa_t gpa, unsigned len)
{
    bool hit = mem_code_written(m->v->mem, gpa, len);

    m->v->stats.code_invalidations += hit;
    if (hit || (m->block && !block_fresh(m->block)))
        m->break_block = true;
}

static void copy_out(struct interp *m, const struct uop *u, struct place p, const uint8_t *buf, unsigned len)
{
    if (p.host) {
        switch (len) {
        case 2:
            *(volatile gmem16 *)p.host = *(const gmem16 *)buf;
            break;
        case 4:
            *(volatile gmem32 *)p.host = *(const gmem32 *)buf;
            break;
        case 8:
            *(volatile gmem64 *)p.host = *(const gmem64 *)buf;
            break;
        default:
            memcpy((void *)p.host, buf, len);
            break;
        }
        if (unlikely(*mem_frame_flags(m->v->mem, p.gpa)))
            code_stored(m, p.gpa, len);
        return;
    }
    while (len) {
        unsigned n = len >= 8 ? 8 : len >= 4 ? 4 : len >= 2 ? 2 : 1;
        uint64_t v = 0;
        memcpy(&v, buf, n);
        interp_io(m, u, EXIT_MMIO, p.gpa, n, true, v);
        buf += n, len -= n, p.gpa += n;
    }
}

static void check_align(struct interp *m, const struct uop *u, gva_t lin, unsigned size)
{
    if (m->ctx != TLB_USER_AC || !(lin & (size - 1)))
        return;
    check_bounds(m, u, lin, size); /* #GP comes before #AC */
    interp_raise_vec(m, u, X86_AC, 0);
}

uint64_t interp_ld_slow(struct interp *m, const struct uop *u, gva_t lin, unsigned size)
{
    uint64_t v = 0;
    struct place p[2];
    unsigned first;

    check_align(m, u, lin, size);
    first = split(m, u, m->ctx, lin, size, false, p);
    copy_in(m, u, p[0], (uint8_t *)&v, first);
    if (first < size)
        copy_in(m, u, p[1], (uint8_t *)&v + first, size - first);
    return v;
}

void interp_st_slow(struct interp *m, const struct uop *u, gva_t lin, unsigned size, uint64_t val)
{
    struct place p[2];
    unsigned first;

    check_align(m, u, lin, size);
    first = split(m, u, m->ctx, lin, size, true, p);
    copy_out(m, u, p[0], (const uint8_t *)&val, first);
    if (first < size)
        copy_out(m, u, p[1], (const uint8_t *)&val + first, size - first);
}

void interp_read(struct interp *m, const struct uop *u, enum tlb_ctx ctx, gva_t lin, void *buf, unsigned len)
{
    uint8_t *b = buf;
    struct place p[2];

    while (len) {
        unsigned n = len > PAGE_SIZE ? (unsigned)PAGE_SIZE : len;
        unsigned first = split(m, u, ctx, lin, n, false, p);

        copy_in(m, u, p[0], b, first);
        if (first < n)
            copy_in(m, u, p[1], b + first, n - first);
        b += n, len -= n, lin += n;
    }
}

void interp_probe_write(struct interp *m, const struct uop *u, enum tlb_ctx ctx, gva_t lin, unsigned len)
{
    struct place p[2];

    if (m->ctx == TLB_USER_AC && ctx == m->ctx && len <= 8)
        check_align(m, u, lin, len);
    split(m, u, ctx, lin, len, true, p);
}

void interp_write(struct interp *m, const struct uop *u, enum tlb_ctx ctx, gva_t lin, const void *buf, unsigned len)
{
    const uint8_t *b = buf;
    struct place p[2];

    if (len > PAGE_SIZE) /* two places at a time: check the further ones first */
        interp_probe_write(m, u, ctx, lin + PAGE_SIZE, len - (unsigned)PAGE_SIZE);
    while (len) {
        unsigned n = len > PAGE_SIZE ? (unsigned)PAGE_SIZE : len;
        unsigned first = split(m, u, ctx, lin, n, true, p);

        copy_out(m, u, p[0], b, first);
        if (first < n)
            copy_out(m, u, p[1], b + first, n - first);
        b += n, len -= n, lin += n;
    }
}

void *interp_host(struct interp *m, const struct uop *u, gva_t lin, unsigned len, bool write)
{
    struct tlb_entry *e = tlb_slot(m, lin);
    struct place p;

    if (likely((write ? e->wtag : e->rtag) == (lin & PAGE_MASK) && (lin & ~PAGE_MASK) + len <= PAGE_SIZE))
        return (void *)(lin + e->addend);
    if ((lin & ~PAGE_MASK) + len > PAGE_SIZE || m->ctx == TLB_USER_AC || (m->watch.n && watched(m, lin & PAGE_MASK)))
        return NULL;
    if (x86_long_mode(&m->c))
        check_canonical(m, u, lin, len);
    p = translate(m, u, m->ctx, lin, write);
    return (void *)p.host;
}

void interp_host_stored(struct interp *m, gva_t lin, unsigned len)
{
    struct tlb_entry *e = tlb_slot(m, lin);

    if (unlikely(*e->fflags))
        interp_code_hit(m, lin, len, e);
}

void interp_code_hit(struct interp *m, gva_t lin, unsigned size, const struct tlb_entry *e)
{
    size_t ctx = (size_t)(e - &m->tlbs[0][0]) / TLB_SIZE, k = (size_t)(e - &m->tlbs[0][0]) % TLB_SIZE;

    code_stored(m, m->tlb_gpa[ctx][k] | (lin & ~PAGE_MASK), size);
}

void interp_st_finish(struct interp *m, const struct uop *u, gva_t lin, unsigned size)
{
    interp_code_hit(m, lin, size, tlb_slot(m, lin));
    NEXT_ST(m, u);
}
