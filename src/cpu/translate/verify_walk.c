/* SPDX-License-Identifier: MIT */
/* Verifying: what page tables and TLBs may do to a path, so that both runs are right though they differ. */
#include <string.h>

#include "cpu/translate/verify.h"
#include "mem/mem.h"

enum { PTE_A = 0x20, PTE_D = 0x40, ENTRIES = 16 };

struct walk {
    struct xlate *x;
    struct x86_phys phys;
    struct x86_xlate to;
    unsigned n;
    const uint8_t *entry[ENTRIES]; /* that it went through */
};

static bool read_entry(void *arg, gpa_t gpa, void *buf, unsigned len)
{
    struct walk *w = arg;
    hva_t h = mem_frame_get(w->x->v->mem, gpa & PAGE_MASK);

    if (!h || (gpa & ~PAGE_MASK) + len > PAGE_SIZE)
        return false;
    h += gpa & ~PAGE_MASK;
    memcpy(buf, (const void *)h, len);
    if (w->n < ENTRIES)
        w->entry[w->n++] = (const uint8_t *)h;
    return true;
}

static bool walk(struct xlate *x, gva_t lin, unsigned access, struct walk *w)
{
    struct x86_fault f;

    *w = (struct walk){ .x = x, .phys = x->phys };
    w->phys.read = read_entry;
    w->phys.arg = w;
    return x86_walk(&x->verify->before, &w->phys, lin, access | X86_ACC_PROBE, &w->to, &f);
}

static bool walk_data(struct xlate *x, gva_t lin, struct walk *w)
{
    enum xl_ctx ctx = x->verify->mem.ctx;

    return walk(x, lin, X86_ACC_READ | (ctx == CTX_USER ? X86_ACC_USER : ctx == CTX_KERNEL ? X86_ACC_IMPLICIT : 0), w);
}

static bool walk_code(struct xlate *x, struct walk *w)
{
    const struct xl_verify *v = x->verify;
    gva_t lin = v->b->i[0].m64 ? v->before.rip : (uint32_t)v->before.rip;

    return walk(x, lin, X86_ACC_EXEC | (v->mem.ctx == CTX_USER ? X86_ACC_USER : 0), w);
}

static bool goes_through(const struct walk *w, const uint8_t *byte)
{
    for (unsigned k = 0; k < w->n; k++)
        if (w->entry[k] == byte)
            return true;
    return false;
}

/* Whether the byte is the first of an entry that leads to one of the path's pages. */
static bool is_entry(struct xlate *x, const uint8_t *byte)
{
    const struct ver_mem *m = &x->verify->mem;
    struct walk w;

    for (unsigned k = 0; k < m->n_slots; k++) {
        walk_data(x, m->slot[k].page, &w);
        if (goes_through(&w, byte))
            return true;
    }
    walk_data(x, m->refused, &w);
    if (goes_through(&w, byte))
        return true;
    walk_code(x, &w);
    return goes_through(&w, byte);
}

bool ver_walk_marked(struct xlate *x)
{
    const struct ver_mem *m = &x->verify->mem;
    bool any = false;

    for (unsigned k = 0; k < m->n_pages; k++) {
        const struct ver_page *p = &m->page[k];

        for (unsigned off = 0; off < PAGE_SIZE; off++) {
            uint8_t want;

            if (!(p->lines >> off / VER_LINE & 1))
                continue;
            want = (ver_mem_written(m, p, off) ? p->real : p->old)[off];
            if (p->shadow[off] == want)
                continue;
            if ((p->shadow[off] | (want & (PTE_A | PTE_D))) != want || !is_entry(x, p->real + off))
                return false;
            any = true;
        }
    }
    return any;
}

bool ver_walk_stale(struct xlate *x)
{
    const struct ver_mem *m = &x->verify->mem;
    struct walk w;

    for (unsigned k = 0; k < m->n_slots; k++)
        if (!walk_data(x, m->slot[k].page, &w) ||
            mem_frame_get(x->v->mem, w.to.gpa & PAGE_MASK) != (hva_t)m->slot[k].p->real)
            return true;
    return !walk_code(x, &w);
}
