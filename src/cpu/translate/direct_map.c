/* SPDX-License-Identifier: MIT */
/*
 * What is mapped in the stubs, which are TLBs of user accesses: one for each address space, known by its root. An
 * entry is made by a walk, after a fault, and dropped when the guest flushes it. Changes wait in the stub until the
 * guest runs in it again.
 *
 * Where a guest flushes a whole space (loads CR3, without keeping the PCID), most of it has not changed: before the
 * space runs again each entry is looked up anew, as by a processor that is quick to fill its TLB, which costs a
 * twentieth of unmapping and mapping it.
 *
 * A page may be written only if D is set and its frame holds no code; executed only if its frame is marked as code, so
 * that writes to it are told of, and direct_scan.c has nothing against it.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "cpu/translate/translate.h"
#include "mem/mem.h"

enum {
    PAGES_MIN = 1024,
    AROUND = 16,
    AROUND_EXEC = 4,
    AROUND_OPS = 16,
    LOW_END = 0x10000,
    LARGE = 4 << 20,
    RELEASE_TRIES = 8
};
#define USER_END 0x7ffffffff000UL
#define DROPPED UINT64_MAX

/* ---- the table of a space ---- */

static unsigned slot(const struct xl_space *s, gva_t lin)
{
    return (unsigned)((lin >> PAGE_SHIFT) * 0x9e3779b97f4a7c15UL >> 40) & (s->cap - 1);
}

static struct xl_direct_page *lookup(const struct xl_space *s, gva_t lin)
{
    if (!s->n)
        return NULL;
    for (unsigned k = slot(s, lin); s->page[k].used; k = (k + 1) & (s->cap - 1))
        if (s->page[k].lin == lin)
            return &s->page[k];
    return NULL;
}

/* Without the entries that were dropped; larger if the others fill a quarter. */
static bool rehash(struct xl_space *s)
{
    struct xl_direct_page *old = s->page;
    uint32_t cap = s->cap, live = 0;

    for (uint32_t i = 0; i < cap; i++)
        live += old[i].used && old[i].lin != DROPPED;
    s->cap = !cap ? PAGES_MIN : 4 * live >= cap ? cap * 2 : cap;
    s->page = calloc(s->cap, sizeof(*s->page));
    if (!s->page) {
        s->page = old;
        s->cap = cap;
        return false;
    }
    s->n = 0;
    for (uint32_t i = 0; i < cap; i++) {
        unsigned k;
        if (!old[i].used || old[i].lin == DROPPED)
            continue;
        for (k = slot(s, old[i].lin); s->page[k].used; k = (k + 1) & (s->cap - 1))
            ;
        s->page[k] = old[i];
        s->n++;
    }
    free(old);
    return true;
}

void xl_direct_forget(struct xl_space *s)
{
    if (s->stub && s->n)
        stub_unmap_all(s->stub);
    for (uint32_t i = 0; s->n && i < s->cap; i++)
        s->page[i].used = false;
    s->n = 0;
    s->large = s->huge = s->stale = false;
}

static void forget_all(struct xlate *x, struct xl_space *s)
{
    if (s->n) {
        xl_vectors_save(x);
        x->st.direct_flushes++;
    }
    xl_direct_forget(s);
}

static void outdate(struct xlate *x, struct xl_space *s)
{
    if (s->n && !s->stale)
        x->st.direct_flushes++;
    s->stale = s->n != 0;
}

static void forget(struct xlate *x, struct xl_space *s, struct xl_direct_page *p)
{
    xl_vectors_save(x);
    stub_unmap(s->stub, p->lin, PAGE_SIZE);
    p->lin = DROPPED;
}

static bool note(struct xlate *x, struct xl_space *s, const struct xl_direct_page *page)
{
    struct xl_direct_page *p = lookup(s, page->lin);

    if (!p) {
        unsigned k;
        if (2 * s->n >= s->cap && !rehash(s))
            return false;
        for (k = slot(s, page->lin); s->page[k].used; k = (k + 1) & (s->cap - 1))
            ;
        p = &s->page[k];
        s->n++;
    }
    *p = *page;
    s->large |= page->large;
    s->huge |= page->huge;
    x->direct.frames[page->frame % XL_FRAME_BITS / 64] |= 1UL << (page->frame % 64);
    return true;
}

/* ---- spaces ---- */

struct xl_space *xl_direct_space(struct xlate *x, bool make)
{
    const struct cpu_state *c = x->cpu;
    struct xl_direct *d = &x->direct;
    unsigned pcid = c->cr4 & X86_CR4_PCIDE ? c->cr3 & 0xfff : 0;
    gpa_t root = c->cr3 & ~(gpa_t)0xfff;
    struct xl_space *s, *oldest = &d->space[0];

    if (d->cur)
        return d->cur;
    for (s = d->space; s < d->space + XL_SPACES && !(s->known && s->root == root); s++)
        if (!s->known || (oldest->known && s->used < oldest->used))
            oldest = s;
    if (s == d->space + XL_SPACES) {
        if (!make)
            return NULL;
        s = oldest;
        forget_all(x, s);
        s->known = true;
        s->on = false;
        s->root = root;
        s->wait = s->backoff = 0;
    }
    if (s->pcid != pcid)
        outdate(x, s);
    s->pcid = pcid;
    d->cur = s;
    return s;
}

/* ---- filling ---- */

struct place {
    struct xl_code_page code;
    bool known; /* code that was looked at already */
    struct xl_direct_page page;
    uint64_t off; /* in the memfd */
};

/* The code of a neighbour that is mapped too, or NULL. */
static const uint8_t *neighbour(struct xlate *x, const struct xl_space *s, gva_t lin)
{
    const struct xl_direct_page *p = lookup(s, lin);

    return p && p->exec ? (const uint8_t *)mem_frame_get(x->v->mem, (gpa_t)p->frame << PAGE_SHIFT) : NULL;
}

/* XSAVE has the same layout natively. */
static bool same_xsave(const struct xlate *x)
{
    return x->cpu->xcr0 == x->direct.xcr0;
}

static bool seams_fit(struct xlate *x, const struct xl_space *s, gva_t lin, const uint8_t *page)
{
    const uint8_t *before = neighbour(x, s, lin - PAGE_SIZE), *behind = neighbour(x, s, lin + PAGE_SIZE);

    return (!before || xl_direct_seam(before, page, same_xsave(x))) &&
           (!behind || xl_direct_seam(page, behind, same_xsave(x)));
}

static struct place *want(struct place *p, gva_t lin, bool write, bool exec)
{
    p->page = (struct xl_direct_page){ .lin = lin, .write = write, .exec = exec };
    return p;
}

static struct xl_scanned *scanned(struct xlate *x, gpa_t gpa)
{
    return &x->direct.scanned[(gpa >> PAGE_SHIFT) % XL_SCANS];
}

bool xl_direct_unfit(const struct xlate *x, gpa_t gpa)
{
    const struct xl_scanned *e = &x->direct.scanned[(gpa >> PAGE_SHIFT) % XL_SCANS];

    return e->verdict == SCAN_UNFIT && e->page == (gpa & PAGE_MASK);
}

/* Scanning takes some microseconds; new processes bring the same pages. */
static bool scan(struct xlate *x, gpa_t before, gpa_t gpa, struct xl_code_page *c)
{
    struct xl_scanned *e = scanned(x, gpa), now = { .page = gpa, .before = before, .xsave = c->xsave };

    if (e->verdict && e->page == gpa && e->before == before && e->xsave == c->xsave)
        return e->verdict == SCAN_FITS;
    now.verdict = xl_direct_scan(c) ? SCAN_FITS : SCAN_UNFIT;
    if (!c->nknown || now.verdict == SCAN_UNFIT)
        *e = now;
    return now.verdict == SCAN_FITS;
}

static bool code_fits(struct xlate *x, const struct xl_space *s, gva_t lin, gpa_t gpa, struct place *p)
{
    const struct xl_direct *d = &x->direct;
    uint16_t known[XL_PATCHES];
    gpa_t before = NO_GPA;
    struct x86_xlate r;
    struct x86_fault f;

    p->code = (struct xl_code_page){ .page = (const uint8_t *)mem_frame_get(x->v->mem, gpa), .xsave = same_xsave(x) };
    for (unsigned k = 0; k < d->nforeign; k++)
        if ((d->foreign[k] & PAGE_MASK) == gpa && p->code.nknown < XL_PATCHES)
            known[p->code.nknown++] = (uint16_t)(d->foreign[k] & ~PAGE_MASK);
    p->code.known = known;
    if (x86_walk(x->cpu, &x->phys, lin - PAGE_SIZE, X86_ACC_USER | X86_ACC_EXEC | X86_ACC_PROBE, &r, &f)) {
        before = r.gpa & PAGE_MASK;
        p->code.before = (const uint8_t *)mem_frame_get(x->v->mem, before);
    }
    bool fits = scan(x, before, gpa, &p->code) && seams_fit(x, s, lin, p->code.page);
    p->code.known = NULL;
    return fits;
}

static void forget_scan(struct xlate *x, gpa_t gpa, bool before)
{
    for (struct xl_scanned *e = x->direct.scanned; before && e < x->direct.scanned + XL_SCANS; e++)
        if (e->before == gpa)
            e->verdict = SCAN_NONE;
    if (scanned(x, gpa)->page == gpa)
        scanned(x, gpa)->verdict = SCAN_NONE;
}

/*
 * Code that is about to be written: compilers at run time write much, so it stops being code at once. The request that
 * this makes drops what is mapped of the frame, so the access traps once more.
 */
static void turn_to_data(struct xlate *x, gpa_t gpa)
{
    mem_code_written(x->v->mem, gpa, PAGE_SIZE);
    for (unsigned k = 0; k < RELEASE_TRIES && !mem_code_release(x->v->mem, gpa); k++)
        ;
}

/* Whether p->page.lin may be mapped, for writing or executing if p->page says so; fills in the rest. */
static bool place_of(struct xlate *x, const struct xl_space *s, struct place *p)
{
    gva_t lin = p->page.lin;
    bool write = p->page.write, exec = p->page.exec;
    struct mem *m = x->v->mem;
    unsigned access = X86_ACC_USER | (exec ? X86_ACC_EXEC : write ? X86_ACC_WRITE : X86_ACC_READ);
    struct x86_xlate r;
    struct x86_fault f;

    if (lin < LOW_END || lin >= USER_END || (lin >= stub_begin && lin < stub_end) ||
        !x86_walk(x->cpu, &x->phys, lin, access, &r, &f))
        return false;
    gpa_t gpa = r.gpa & PAGE_MASK;
    const volatile uint8_t *flags = mem_frame_flags(m, gpa);
    hva_t host = flags ? mem_frame_get(m, gpa) : 0;
    if (!host || !mem_file_offset(m, gpa, &p->off))
        return false;
    if (write && (*flags & MEM_F_CODE) && r.writable)
        turn_to_data(x, gpa);
    if (exec && !p->known) {
        mem_code_mark(m, gpa, PAGE_SIZE);
        if (!code_fits(x, s, lin, gpa, p)) {
            x->direct.skip = true;
            x->direct.unfit = lin;
            return false;
        }
    }
    bool code = *flags & (MEM_F_CODE | MEM_F_DIRTY_LOG);
    p->page = (struct xl_direct_page){ .lin = lin,
                                       .frame = (uint32_t)(gpa >> PAGE_SHIFT),
                                       .used = true,
                                       .write = r.writable && r.dirty && !code,
                                       .exec = exec,
                                       .copy = exec && p->code.npatch,
                                       .large = r.page_shift > PAGE_SHIFT,
                                       .huge = r.page_shift > 22 };
    return !write || p->page.write;
}

/* A patched copy of a page of code. */
static void map_copy(struct xlate *x, struct xl_space *s, const struct place *p)
{
    unsigned k = s->ncopy++ % STUB_PAGES;
    struct xl_direct_page *old = s->ncopy > STUB_PAGES ? lookup(s, s->copy[k]) : NULL;
    uint8_t *to = stub_page(s->stub, k);

    if (old && old->copy && old->lin != p->page.lin)
        forget(x, s, old);
    s->copy[k] = p->page.lin;
    memcpy(to, p->code.page, PAGE_SIZE);
    for (unsigned i = 0; i < p->code.npatch; i++)
        to[p->code.patch[i]] = 0x0b;
    stub_map_page(s->stub, p->page.lin, k);
}

static int prot_of(const struct place *p)
{
    return PROT_READ | (p->page.write ? PROT_WRITE : 0) | (p->page.exec ? PROT_EXEC : 0);
}

static void map_run(struct xlate *x, struct xl_space *s, const struct place *p, unsigned n)
{
    int prot = prot_of(p);

    if (p->page.copy) {
        map_copy(x, s, p);
        return;
    }
    stub_map(s->stub, p->page.lin, n * PAGE_SIZE, prot, p->off);
}

enum xl_miss xl_direct_fill(struct xlate *x, struct xl_space *s, gva_t lin, bool write, bool exec)
{
    unsigned around = exec ? AROUND_EXEC : AROUND, n = 1, ops = 1;
    struct place first = { 0 }, p = { 0 };
    const struct xl_direct_page *old;
    bool skip = x->direct.skip;

    lin &= PAGE_MASK;
    if (!place_of(x, s, want(&first, lin, write, exec)))
        return MISS_STEP;
    old = lookup(s, lin);
    bool there = old && old->frame == first.page.frame && !old->copy && !first.page.copy;
    if (!note(x, s, &first.page))
        return MISS_STEP;
    x->st.direct_fills++;
    if (there) { /* it may be written now, or executed */
        stub_protect(s->stub, lin, PAGE_SIZE, prot_of(&first));
        return MISS_RETRY;
    }
    for (unsigned k = 1; k < around; k++) { /* what goes on in the memfd too is one call for all */
        gva_t next = lin + k * PAGE_SIZE;

        if (lookup(s, next) || !place_of(x, s, want(&p, next, false, exec)) || !note(x, s, &p.page))
            break;
        x->st.direct_fills++;
        if (!p.page.copy && !first.page.copy && p.off == first.off + n * PAGE_SIZE &&
            p.page.write == first.page.write) {
            n++;
            continue;
        }
        map_run(x, s, &first, n);
        first = p;
        n = 1;
        if (++ops == AROUND_OPS)
            break;
    }
    map_run(x, s, &first, n);
    x->direct.skip = skip; /* only the page that is wanted counts */
    return MISS_RETRY;
}

void xl_direct_refresh(struct xlate *x, struct xl_space *s)
{
    struct place p = { .known = true };
    bool skip = x->direct.skip;

    if (!s->stale)
        return;
    s->stale = false;
    for (uint32_t i = 0; s->n && i < s->cap; i++) {
        struct xl_direct_page *e = &s->page[i];

        if (!e->used || e->lin == DROPPED)
            continue;
        if (!place_of(x, s, want(&p, e->lin, false, e->exec)) || p.page.frame != e->frame || p.page.write != e->write)
            forget(x, s, e);
    }
    x->direct.skip = skip;
}

/* ---- dropping ---- */

void xl_direct_flush(struct xlate *x)
{
    x->direct.cur = NULL;
    for (unsigned k = 0; k < XL_SPACES; k++)
        if (x->direct.space[k].known)
            outdate(x, &x->direct.space[k]);
}

void xl_direct_drop(struct xlate *x)
{
    x->direct.cur = NULL;
    x->direct.nforeign = 0;
    memset(x->direct.scanned, 0, sizeof(x->direct.scanned));
    for (unsigned k = 0; k < XL_SPACES; k++)
        if (x->direct.space[k].known)
            forget_all(x, &x->direct.space[k]);
}

void xl_direct_cr3(struct xlate *x, bool keep)
{
    struct xl_direct *d = &x->direct;
    unsigned pcid = x->cpu->cr4 & X86_CR4_PCIDE ? x->cpu->cr3 & 0xfff : 0;

    d->cur = NULL;
    d->switches++;
    for (struct xl_space *s = d->space; s < d->space + XL_SPACES && !keep; s++)
        if (s->known && s->pcid == pcid)
            outdate(x, s);
}

/* The pieces of the large page around lin, which may have 4 MiB. */
static void forget_large(struct xlate *x, struct xl_space *s, gva_t lin)
{
    gva_t first = lin & ~(gva_t)(LARGE - 1);

    for (gva_t at = first; at < first + LARGE; at += PAGE_SIZE) {
        struct xl_direct_page *p = lookup(s, at);
        if (p && p->large)
            forget(x, s, p);
    }
}

void xl_direct_flush_page(struct xlate *x, gva_t lin)
{
    lin &= PAGE_MASK;
    for (struct xl_space *s = x->direct.space; s < x->direct.space + XL_SPACES; s++) {
        struct xl_direct_page *p;

        if (!s->known || !s->n)
            continue;
        if (s->huge)
            forget_all(x, s);
        else if (s->large)
            forget_large(x, s, lin);
        if ((p = lookup(s, lin)))
            forget(x, s, p);
    }
}

void xl_direct_note(struct xlate *x, gpa_t gpa)
{
    struct xl_direct *d = &x->direct;

    for (unsigned k = 0; k < d->nforeign; k++)
        if (d->foreign[k] == gpa)
            return;
    if (d->nforeign == XL_FOREIGN)
        return;
    d->foreign[d->nforeign++] = gpa;
    forget_scan(x, gpa & PAGE_MASK, false);
}

void xl_direct_drop_frame(struct xlate *x, gpa_t gpa, bool written)
{
    uint32_t frame = (uint32_t)(gpa >> PAGE_SHIFT);
    unsigned keep = 0;

    for (unsigned k = 0; written && k < x->direct.nforeign; k++)
        if (x->direct.foreign[k] >> PAGE_SHIFT != frame)
            x->direct.foreign[keep++] = x->direct.foreign[k];
    if (written) {
        x->direct.nforeign = keep;
        forget_scan(x, gpa & PAGE_MASK, true);
    }

    if (!(x->direct.frames[frame % XL_FRAME_BITS / 64] >> (frame % 64) & 1))
        return;
    for (struct xl_space *s = x->direct.space; s < x->direct.space + XL_SPACES; s++)
        for (uint32_t i = 0; s->n && i < s->cap; i++)
            if (s->page[i].used && s->page[i].lin != DROPPED && s->page[i].frame == frame)
                forget(x, s, &s->page[i]);
}
