/* SPDX-License-Identifier: MIT */
/*
 * Blocks: finding them by guest-physical address, linear address and kind; linking them; dropping them.
 *
 * A dropped block's links are undone and its start, where jump caches lead, jumps out of the cache, so no way leads
 * into it. Its memory stays until its region comes round, and then all jump caches are emptied.
 */
#include <string.h>

#include "cpu/translate/trace.h"
#include "mem/mem.h"
#include "x86/segment.h"

#define HASH_SIZE ARRAY_LEN(((struct xlate *)0)->hash)
#define FRAMES_SIZE ARRAY_LEN(((struct xlate *)0)->frames)

/* ---- kinds ---- */

static bool open_segment(const struct x86_seg *s)
{
    enum { WANT = X86_SEG_S | X86_SEG_P | X86_T_RW, MASK = WANT | X86_T_CODE | X86_T_CE | X86_SEG_UNUSABLE };

    return s->limit == UINT32_MAX && (s->attr & MASK) == WANT;
}
static bool flat_segment(const struct x86_seg *s)
{
    return s->base == 0 && open_segment(s);
}

/* KIND_NONE where segments or modes want more than translated code does. */
static unsigned kind_32(const struct cpu_state *c)
{
    const struct x86_seg *s = c->seg;
    unsigned kind = X86_MODE_32;

    if (s[X86_CS].base || s[X86_CS].limit != UINT32_MAX || !flat_segment(&s[X86_DS]) || !flat_segment(&s[X86_ES]) ||
        !flat_segment(&s[X86_SS_SEG]) || !(s[X86_SS_SEG].attr & X86_SEG_DB))
        return KIND_NONE;
    if (open_segment(&s[X86_FS]))
        kind |= KIND_FS;
    if (open_segment(&s[X86_GS]))
        kind |= KIND_GS;
    return kind;
}

unsigned xl_kind_now(const struct xlate *x)
{
    const struct cpu_state *c = x->cpu;
    enum x86_mode mode = x86_code_mode(c);
    unsigned kind = mode;
    enum xl_ctx ctx = CTX_USER;

    if (mode == X86_MODE_16 || x86_real_mode(c) || (c->rflags & X86_FL_VM))
        return KIND_NONE;
    if (mode == X86_MODE_32 && (kind = kind_32(c)) == KIND_NONE)
        return kind;
    if (c->cpl == 1 || c->cpl == 2)
        return KIND_NONE;
    if (c->cpl == 3) {
        if ((c->cr0 & X86_CR0_AM) && (c->rflags & X86_FL_AC))
            return KIND_NONE;
    } else {
        ctx = (c->cr4 & X86_CR4_SMAP) && !(c->rflags & X86_FL_AC) ? CTX_KERNEL : CTX_KERNEL_AC;
    }
    kind |= (unsigned)ctx << 2;
    if (!(c->cr0 & (X86_CR0_EM | X86_CR0_TS)) && (c->cr4 & X86_CR4_OSFXSR) && (c->cr4 & X86_CR4_OSXMMEXCPT)) {
        kind |= KIND_FPU;
        if ((c->cr4 & X86_CR4_OSXSAVE) && (c->xcr0 & 6) == 6 && x->avx)
            kind |= KIND_AVX;
    }
    if (c->rflags & X86_FL_DF)
        kind |= KIND_DF;
    if (c->cr4 & X86_CR4_SMAP)
        kind |= KIND_SMAP;
    if (c->cr4 & X86_CR4_FSGSBASE)
        kind |= KIND_FSGS;
    if (c->cpl == 0 || !(c->cr4 & X86_CR4_TSD))
        kind |= KIND_TSC;
    if (mode == X86_MODE_64 && ctx == CTX_USER)
        kind |= KIND_PIC;
    if (ctx == CTX_USER && x->win.active)
        kind |= KIND_WIN;
    return kind;
}

/* ---- jump caches ---- */

static uint64_t no_va(unsigned k)
{
    return -(uint64_t)(k ^ 0x8000);
}

/* Likewise, of an entry that is in the log. */
static uint64_t gone_va(unsigned k)
{
    return -(uint64_t)(k ^ 0x4000);
}

void xl_jc_init(struct xlate *x)
{
    for (unsigned c = 0; c < CTXS; c++) {
        for (unsigned k = 0; k < JC_ENTRIES; k++)
            x->jc[c].e[k].neg_va = no_va(k);
        x->jc[c].n = 0;
        x->jc[c].kind = KIND_NONE;
    }
}

void xl_jc_flush(struct xlate *x, enum xl_ctx ctx)
{
    struct xl_jc *jc = &x->jc[ctx];

    for (uint32_t i = 0; i < jc->n; i++)
        jc->e[jc->log[i]].neg_va = no_va(jc->log[i]);
    jc->n = 0;
}

void xl_set_kind(struct xlate *x, unsigned kind)
{
    unsigned first = kind_ctx(kind) == CTX_USER ? CTX_USER : CTX_KERNEL;
    unsigned last = first == CTX_USER ? CTX_USER : CTX_KERNEL_AC; /* STAC and CLAC go from one to the other */

    x->kind = kind;
    for (unsigned c = first; c <= last && kind != KIND_NONE; c++) {
        unsigned k = (kind & ~(unsigned)(KIND_CTX | KIND_DF)) | c << 2;

        if (x->jc[c].kind == k)
            continue;
        xl_jc_flush(x, (enum xl_ctx)c);
        x->jc[c].kind = k;
    }
}

void xl_jc_forget(struct xlate *x, gva_t lin)
{
    unsigned k = (unsigned)(lin & x->jc_mask);

    for (unsigned c = 0; c < CTXS; c++)
        if (x->jc[c].e[k].neg_va == -lin || x->jc[c].e[k].neg_va == -(lin + JC_DF))
            x->jc[c].e[k].neg_va = gone_va(k);
}

/* STD and CLD change the kind in line, so the blocks of both are in one cache, told apart by their tags. */
static uint64_t tag(const struct xlate *x, gva_t lin)
{
    return -(lin + (x->kind & KIND_DF ? JC_DF : 0));
}

static void jc_add(struct xlate *x, enum xl_ctx ctx, gva_t lin, const uint8_t *code)
{
    struct xl_jc *jc = &x->jc[ctx];
    unsigned k = (unsigned)(lin & x->jc_mask);

    if (jc->e[k].neg_va == no_va(k))
        jc->log[jc->n++] = k;
    jc->e[k].neg_va = tag(x, lin);
    jc->e[k].code = code;
}

/* ---- links ---- */

static void patch(struct xlate *x, uint32_t at, uint32_t to)
{
    uint32_t rel = to - (at + 4);

    __atomic_store_n((uint32_t *)(void *)(x->code.rw + at), rel, __ATOMIC_RELAXED); /* x86 stores it whole or not */
}

static void note_cross(struct xlate *x, struct tblock *b)
{
    if (b->xprev)
        return;
    b->xnext = x->crossing;
    b->xprev = &x->crossing;
    if (b->xnext)
        b->xnext->xprev = &b->xnext;
    x->crossing = b;
}

static void forget_cross(struct tblock *b)
{
    if (!b->xprev)
        return;
    *b->xprev = b->xnext;
    if (b->xnext)
        b->xnext->xprev = b->xprev;
    b->xprev = NULL;
}

void xl_link(struct xlate *x, struct xrec *r, struct tblock *to)
{
    if (r->to || to->dead || r->b->dead || x->from_c)
        return;
    if (to->gpa2 != NO_GPA) { /* it depends on the mapping of another page */
        if (kind_ctx(to->kind) == CTX_USER)
            return;
        r->cross = true;
    }
    patch(x, r->patch, r->kind == X_LINK && r->miss && to == r->b ? r->miss : to->entry);
    r->to = to;
    r->next = to->in;
    to->in = r;
    if (r->cross)
        note_cross(x, r->b);
    x->st.links++;
}

static void unlink_rec(struct xlate *x, struct xrec *r)
{
    patch(x, r->patch, r->kind == X_GROUP ? r->miss : r->stub);
    r->to = NULL;
}

static void forget_in(struct tblock *to, const struct xrec *r)
{
    struct xrec **p = &to->in;

    while (*p && *p != r)
        p = &(*p)->next;
    if (*p)
        *p = r->next;
}

/* Undoes the links between pages of kernel code, whose mappings have changed. */
static void unlink_cross(struct xlate *x)
{
    while (x->crossing) {
        struct tblock *b = x->crossing;

        for (unsigned k = 0; k < b->nrecs; k++) {
            struct xrec *r = &b->recs[k];
            if (r->cross && r->to) {
                forget_in(r->to, r);
                unlink_rec(x, r);
            }
        }
        forget_cross(b);
    }
}

void xl_code_moved(struct xlate *x, enum xl_ctx ctx)
{
    unsigned class = ctx != CTX_USER;

    x->code_epoch[class]++;
    memset(x->code_bloom[class], 0, sizeof(x->code_bloom[class]));
    memset(x->code_small[class], 0, sizeof(x->code_small[class]));
    x->code_first[class] = UINT64_MAX;
    x->code_last[class] = 0;
    x->st.code_moves[class]++;
    if (!class) {
        xl_jc_flush(x, CTX_USER);
        return;
    }
    x->code_local = false;
    xl_jc_flush(x, CTX_KERNEL);
    xl_jc_flush(x, CTX_KERNEL_AC);
    unlink_cross(x);
}

/* ---- finding ---- */

static uint64_t mix(gpa_t gpa, gva_t page, unsigned kind)
{
    uint64_t h = gpa ^ (uint64_t)kind << 50;

    if (!(kind & KIND_PIC))
        h ^= page << 3;
    return h * 0x9e3779b97f4a7c15UL;
}

static struct tblock **bucket(struct xlate *x, gpa_t gpa, gva_t page, unsigned kind)
{
    return &x->hash[mix(gpa, page, kind) >> 47];
}
_Static_assert(ARRAY_LEN(((struct xlate *)0)->hash) == 1 << 17, "the shift above");

static struct frame_ref **frame_list(struct xlate *x, gpa_t gpa)
{
    return &x->frames[(gpa >> PAGE_SHIFT) % FRAMES_SIZE];
}

static void ref_add(struct xlate *x, struct tblock *b, unsigned k, gpa_t gpa)
{
    struct frame_ref **p = frame_list(x, gpa);

    b->ref[k] = (struct frame_ref){ .next = *p, .b = b, .frame = gpa & PAGE_MASK };
    *p = &b->ref[k];
}

static void ref_remove(struct xlate *x, struct frame_ref *f)
{
    struct frame_ref **p = frame_list(x, f->frame);

    while (*p != f)
        p = &(*p)->next;
    *p = f->next;
}

static const uint8_t *code_host(struct xlate *x, gpa_t gpa)
{
    hva_t h = mem_frame_get(x->v->mem, gpa & PAGE_MASK);

    return h ? (const uint8_t *)(h + (gpa & ~PAGE_MASK)) : NULL;
}

/* The page behind lin's, for an instruction that crosses. */
static gpa_t next_page(struct xlate *x, gva_t lin)
{
    gva_t next = (lin & PAGE_MASK) + PAGE_SIZE;
    gpa_t gpa;

    if ((x->kind & KIND_MODE) != X86_MODE_64)
        next = (uint32_t)next;
    return xl_code_gpa(x, next, &gpa) && code_host(x, gpa) ? gpa : NO_GPA;
}

/* But for the page behind. */
static bool is_at(const struct tblock *b, gva_t lin, gpa_t gpa, unsigned kind)
{
    return b->gpa == gpa && b->kind == kind && ((b->kind & KIND_PIC) || b->page == (lin & PAGE_MASK));
}

bool xl_block_begins(struct xlate *x, gva_t lin, gpa_t gpa, unsigned kind)
{
    for (const struct tblock *b = *bucket(x, gpa, lin & PAGE_MASK, kind); b; b = b->hnext)
        if (is_at(b, lin, gpa, kind))
            return b->gpa2 == NO_GPA;
    return false;
}

static struct tblock *make(struct xlate *x, gva_t lin, gpa_t gpa, unsigned kind)
{
    struct xl_source s = { .kind = kind, .lin = lin, .gpa = gpa, .gpa2 = NO_GPA, .host = code_host(x, gpa) };
    struct tblock *b, **p;

    xl_vectors_save(x);
    if (!s.host || (!(kind & KIND_SPLIT) && kind_ctx(kind) == CTX_USER && xl_direct_cold(x, gpa)))
        return NULL;
    if ((lin & ~PAGE_MASK) > PAGE_SIZE - 15) {
        s.gpa2 = next_page(x, lin);
        if (s.gpa2 != NO_GPA)
            s.host2 = code_host(x, s.gpa2);
    }
    b = xl_translate(x, &s);
    if (!b)
        return NULL;
    p = bucket(x, gpa, lin & PAGE_MASK, kind);
    b->hnext = *p;
    *p = b;
    ref_add(x, b, 0, gpa);
    if (b->gpa2 != NO_GPA)
        ref_add(x, b, 1, b->gpa2);
    return b;
}

struct tblock *xl_lookup(struct xlate *x, gva_t lin, bool split)
{
    unsigned kind = x->kind | (split ? KIND_SPLIT : 0);
    struct tblock *b;
    gpa_t gpa;

    x->st.lookups++;
    if (!xl_code_gpa(x, lin, &gpa))
        return NULL;
    for (b = *bucket(x, gpa, lin & PAGE_MASK, kind); b; b = b->hnext)
        if (is_at(b, lin, gpa, kind) && (b->gpa2 == NO_GPA || b->gpa2 == next_page(x, lin)))
            return b;
    return make(x, lin, gpa, kind);
}

const uint8_t *xl_find(struct xlate *x)
{
    gva_t lin = x->cpu->rip;
    enum xl_ctx ctx = kind_ctx(x->kind);
    struct xl_jc *jc = &x->jc[ctx];
    struct tblock *b;

    if ((x->kind & KIND_MODE) != X86_MODE_64)
        lin = (uint32_t)lin;
    if (jc->e[lin & x->jc_mask].neg_va == tag(x, lin)) {
        const uint8_t *code = jc->e[lin & x->jc_mask].code;
        x->aux = lin;
        return code;
    }
    b = xl_lookup(x, lin, false);
    if (!b)
        return NULL;
    jc_add(x, ctx, lin, x->code.rx + b->start);
    x->aux = lin;
    return x->code.rx + b->start;
}

/* ---- dropping ---- */

static void drop_block(struct xlate *x, struct tblock *b)
{
    struct tblock **p = bucket(x, b->gpa, b->page, b->kind);

    while (*p != b)
        p = &(*p)->hnext;
    *p = b->hnext;
    while (b->in) {
        struct xrec *r = b->in;
        b->in = r->next;
        unlink_rec(x, r);
    }
    for (unsigned k = 0; k < b->nrecs; k++)
        if (b->recs[k].to) {
            forget_in(b->recs[k].to, &b->recs[k]);
            unlink_rec(x, &b->recs[k]);
        }
    for (unsigned k = 0; k < 2; k++)
        if (b->ref[k].b)
            ref_remove(x, &b->ref[k]);
    forget_cross(b);
    b->dead = true;
    x->code.rw[b->start] = 0xe9; /* jmp */
    patch(x, b->start + 1, (uint32_t)(x->dead - x->code.rx));
    x->st.dead_blocks++;
}

void xl_drop_frame(struct xlate *x, gpa_t gpa)
{
    struct frame_ref *f = *frame_list(x, gpa), *next;
    unsigned n = 0;

    for (; f; f = next) {
        next = f->next;
        if (f->frame != (gpa & PAGE_MASK))
            continue;
        while (next && next->b == f->b) /* it is dropped with this one */
            next = next->next;
        drop_block(x, f->b);
        n++;
    }
    if (n)
        xl_event(x, EVENT_DROP, gpa, n);
}

void xl_drop_region(void *arg, unsigned region)
{
    struct xlate *x = arg;

    x->st.evictions++;
    xl_event(x, EVENT_EVICT, region, x->code.r[region].n);
    for (unsigned i = 0; i < x->code.r[region].n; i++)
        if (!x->code.r[region].block[i]->dead)
            drop_block(x, x->code.r[region].block[i]);
    for (unsigned c = 0; c < CTXS; c++)
        xl_jc_flush(x, (enum xl_ctx)c);
}

struct tblock *xl_block_at(const struct xlate *x, const uint8_t *pc)
{
    uint32_t off = (uint32_t)(pc - x->code.rx);
    unsigned g = off / CODE_REGION, lo = 0, hi = x->code.r[g].n;

    while (lo < hi) {
        unsigned mid = (lo + hi) / 2;
        if (x->code.r[g].block[mid]->start <= off)
            lo = mid + 1;
        else
            hi = mid;
    }
    if (!lo)
        return NULL;
    struct tblock *b = x->code.r[g].block[lo - 1];
    return off < b->end ? b : NULL;
}
