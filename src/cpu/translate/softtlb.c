/* SPDX-License-Identifier: MIT */
/*
 * The software TLB: filling it on a miss, and dropping what is no longer true.
 *
 * An entry exists only for RAM. Its write tag is set only if the guest's D bit is and the frame holds no code, so that
 * a store through it needs no look at the frame. What has no entry is left to the interpreter.
 */
#include <string.h>

#include "cpu/phys.h"
#include "cpu/translate/trace.h"
#include "mem/mem.h"

enum { BLOOM_BITS = 1024, SMALL_BITS = 4096 };

static uint64_t empty_tag(unsigned k)
{
    return -((uint64_t)(k ^ 0x8000) << PAGE_SHIFT);
}

/* Of a GiB, in xl_tlb.large. */
static unsigned large_bit(gva_t lin)
{
    return (unsigned)(lin >> 30) % TLB_LARGE_BITS;
}

static void clear(struct xl_tlb *t)
{
    for (unsigned k = 0; k < TLB_ENTRIES; k++)
        t->rtag[k] = t->wtag[k] = empty_tag(k);
    memset(t->flags, 0, sizeof(t->flags));
    t->n = t->nglobal = 0;
    t->mixed = false;
}

void xl_tlb_init(struct xlate *x)
{
    x->phys = vcpu_phys(x->v);
    for (unsigned c = 0; c < CTXS; c++)
        clear(&x->tlb[c]);
}

/* ---- dropping ---- */

static void drop(struct xl_tlb *t, unsigned k)
{
    t->rtag[k] = t->wtag[k] = empty_tag(k);
    t->flags[k] &= TLBF_LOGGED | TLBF_FIRST;
}

static void note(struct xl_tlb *t, unsigned k, bool global)
{
    if (t->flags[k] & TLBF_LOGGED) {
        t->mixed |= !global && (t->flags[k] & TLBF_FIRST);
        return;
    }
    t->flags[k] = TLBF_LOGGED | (global ? TLBF_FIRST : 0);
    if (global) {
        t->log[t->n++] = t->log[t->nglobal];
        t->log[t->nglobal++] = (uint16_t)k;
    } else {
        t->log[t->n++] = (uint16_t)k;
    }
}

/* Drops all entries, or all but global ones, of which most are not looked at. */
static void flush(struct xl_tlb *t, bool all)
{
    uint32_t first = all || t->mixed ? 0 : t->nglobal, n = first;

    for (uint32_t i = first; i < t->n; i++) {
        unsigned k = t->log[i];

        if (!all && (t->flags[k] & TLBF_GLOBAL)) {
            t->log[n++] = (uint16_t)k;
            t->flags[k] |= TLBF_FIRST;
            continue;
        }
        t->rtag[k] = t->wtag[k] = empty_tag(k);
        t->flags[k] = 0;
    }
    t->n = t->nglobal = n;
    t->mixed = false;
}

static void flush_all(struct xlate *x, bool all)
{
    x->st.flushes++;
    if (all)
        xl_event(x, EVENT_TLB, 0, 0);
    for (unsigned c = 0; c < CTXS; c++)
        flush(&x->tlb[c], all);
    xl_win_flush(x);
    xl_code_moved(x, CTX_USER);
    if (all || x->code_local)
        xl_code_moved(x, CTX_KERNEL);
}

void xl_tlb_flush(struct xlate *x, bool all)
{
    flush_all(x, all);
    xl_direct_flush(x);
}

void xl_tlb_switch(struct xlate *x)
{
    flush_all(x, false);
}

/* Whether code of the class (user, kernel) was fetched through the page: seldom true by mistake. */
static bool may_be_code(const struct xlate *x, unsigned class, gva_t lin)
{
    unsigned small = (lin >> PAGE_SHIFT) % SMALL_BITS, bit = (lin >> 21) % BLOOM_BITS;

    return lin >= x->code_first[class] && lin <= x->code_last[class] &&
           (x->code_huge || (x->code_bloom[class][bit / 64] >> (bit % 64) & 1) ||
            (x->code_small[class][small / 64] >> (small % 64) & 1));
}

void xl_tlb_flush_page(struct xlate *x, gva_t lin)
{
    unsigned k = (lin >> PAGE_SHIFT) % TLB_ENTRIES;

    for (unsigned c = 0; c < CTXS; c++) {
        struct xl_tlb *t = &x->tlb[c];

        if (t->rtag[k] == -(lin & PAGE_MASK))
            drop(t, k);
        if (!(t->large[large_bit(lin) / 64] >> (large_bit(lin) % 64) & 1))
            continue;
        for (uint32_t i = 0; i < t->n; i++) /* a piece of the same large page? */
            if ((t->flags[t->log[i]] & TLBF_LARGE) && ((-t->rtag[t->log[i]]) ^ lin) >> 30 == 0)
                drop(t, t->log[i]);
    }
    xl_win_flush_page(x, lin);
    xl_direct_flush_page(x, lin);
    for (unsigned class = 0; class < 2; class ++)
        if (may_be_code(x, class, lin))
            xl_code_moved(x, class ? CTX_KERNEL : CTX_USER);
}

void xl_tlb_protect(struct xlate *x, gpa_t gpa)
{
    uint32_t frame = (uint32_t)(gpa >> PAGE_SHIFT);

    for (unsigned c = 0; c < CTXS; c++) {
        struct xl_tlb *t = &x->tlb[c];

        for (uint32_t i = 0; i < t->n; i++)
            if (t->frame[t->log[i]] == frame)
                t->wtag[t->log[i]] = empty_tag(t->log[i]);
    }
    xl_win_protect(x, gpa);
    xl_direct_drop_frame(x, gpa, false);
}

/* ---- filling ---- */

static unsigned access_of(enum xl_ctx ctx)
{
    return ctx == CTX_USER ? X86_ACC_USER : ctx == CTX_KERNEL ? X86_ACC_IMPLICIT : 0;
}

static enum xl_miss step_for(struct xlate *x, unsigned reason)
{
    x->st.miss_why[reason]++;
    return MISS_STEP;
}

enum xl_miss xl_tlb_fill(struct xlate *x, gva_t lin, unsigned size, bool write)
{
    enum xl_ctx ctx = kind_ctx(x->kind);
    struct xl_tlb *t = &x->tlb[ctx];
    unsigned k = (lin >> PAGE_SHIFT) % TLB_ENTRIES;
    struct x86_xlate r;
    struct x86_fault f;

    x->st.misses++;
    if ((lin & ~PAGE_MASK) + size > PAGE_SIZE)
        return step_for(x, MISS_CROSSES);
    if (x86_long_mode(x->cpu) && !x86_canonical(lin))
        return step_for(x, MISS_NOT_CANONICAL);
    if (!x86_walk(x->cpu, &x->phys, lin, access_of(ctx) | (write ? X86_ACC_WRITE : X86_ACC_READ), &r, &f))
        return step_for(x, MISS_FAULTS);
    hva_t host = mem_frame_get(x->v->mem, r.gpa & PAGE_MASK);
    if (!host)
        return step_for(x, MISS_NO_RAM);
    const volatile uint8_t *fl = mem_frame_flags(x->v->mem, r.gpa);
    if (write && (*fl & MEM_F_CODE))
        mem_code_release(x->v->mem, r.gpa);
    bool code = *fl & (MEM_F_CODE | MEM_F_DIRTY_LOG);
    if (write && code)
        return step_for(x, MISS_CODE);
    note(t, k, r.global);
    gva_t page = lin & PAGE_MASK;
    t->flags[k] = (uint8_t)((t->flags[k] & (TLBF_LOGGED | TLBF_FIRST)) | (r.global ? TLBF_GLOBAL : 0) |
                            (r.page_shift > PAGE_SHIFT ? TLBF_LARGE : 0));
    if (r.page_shift > PAGE_SHIFT)
        t->large[large_bit(lin) / 64] |= 1UL << (large_bit(lin) % 64);
    t->frame[k] = (uint32_t)(r.gpa >> PAGE_SHIFT);
    t->rtag[k] = -page;
    t->wtag[k] = r.writable && r.dirty && !code ? -page : empty_tag(k);
    t->addend[k] = (uint64_t)host - page;
    /* Somebody may have begun to keep code of this frame meanwhile: its request waits for this thread. */
    if (*fl & (MEM_F_CODE | MEM_F_DIRTY_LOG))
        t->wtag[k] = empty_tag(k);
    x->st.fills++;
    return MISS_RETRY;
}

bool xl_tlb_writable(const struct xlate *x, gva_t lin)
{
    return x->tlb[kind_ctx(x->kind)].wtag[(lin >> PAGE_SHIFT) % TLB_ENTRIES] == -(lin & PAGE_MASK);
}

bool xl_code_gpa(struct xlate *x, gva_t lin, gpa_t *gpa)
{
    unsigned class = kind_ctx(x->kind) != CTX_USER, bit = (lin >> 21) % BLOOM_BITS;
    struct xl_itlb *e = &x->itlb[(lin >> PAGE_SHIFT) % ARRAY_LEN(x->itlb)];
    struct x86_xlate r;
    struct x86_fault f;

    if (e->page == (lin & PAGE_MASK) && e->epoch == x->code_epoch[class] && e->class == class) {
        *gpa = e->gpa | (lin & ~PAGE_MASK);
        return true;
    }
    if (x86_long_mode(x->cpu) && !x86_canonical(lin))
        return false;
    if (!x86_walk(x->cpu, &x->phys, lin, X86_ACC_EXEC | (class ? 0 : X86_ACC_USER), &r, &f))
        return false;
    unsigned small = (lin >> PAGE_SHIFT) % SMALL_BITS;
    if (r.page_shift == PAGE_SHIFT)
        x->code_small[class][small / 64] |= 1UL << (small % 64);
    else
        x->code_bloom[class][bit / 64] |= 1UL << (bit % 64);
    if (r.page_shift > 22)
        x->code_huge = true;
    if (r.page_shift == 22) { /* 4 MiB: two of the filter's 2 MiB */
        bit ^= 1;
        x->code_bloom[class][bit / 64] |= 1UL << (bit % 64);
    }
    if (class && !r.global)
        x->code_local = true;
    gva_t first = lin >> r.page_shift << r.page_shift, last = lin | ((1UL << r.page_shift) - 1);
    x->code_first[class] = first < x->code_first[class] ? first : x->code_first[class];
    x->code_last[class] = last > x->code_last[class] ? last : x->code_last[class];
    *e = (struct xl_itlb){
        .page = lin & PAGE_MASK, .epoch = x->code_epoch[class], .class = class, .gpa = r.gpa & PAGE_MASK
    };
    *gpa = r.gpa;
    return true;
}
