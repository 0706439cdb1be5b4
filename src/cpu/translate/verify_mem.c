/* SPDX-License-Identifier: MIT */
/*
 * Verifying: the memory of a path. Pages are known by their host address, so that two linear addresses of one page
 * share a shadow. Of a page only those lines are copied that an operand lies on, before the first access to it.
 */
#include <string.h>

#include "cpu/translate/verify.h"

void ver_mem_start(struct xlate *x)
{
    struct ver_mem *m = &x->verify->mem;

    m->ctx = kind_ctx(x->kind);
    m->in_place = x->kind & KIND_WIN;
    m->n_pages = m->n_slots = m->n_touches = 0;
    m->reads = m->writes = false;
    m->refused = 0;
}

/* ---- before the interpreter's step ---- */

static struct ver_page *page_of(struct ver_mem *m, uint8_t *real)
{
    struct ver_page *p;

    for (unsigned k = 0; k < m->n_pages; k++)
        if (m->page[k].real == real)
            return &m->page[k];
    p = &m->page[m->n_pages];
    p->real = real;
    p->shadow = m->space + 2 * m->n_pages * PAGE_SIZE;
    p->old = p->shadow + PAGE_SIZE;
    p->lines = 0;
    m->n_pages++;
    return p;
}

static struct ver_slot *find_slot(struct ver_mem *m, gva_t page)
{
    for (unsigned k = 0; k < m->n_slots; k++)
        if (m->slot[k].page == page)
            return &m->slot[k];
    return NULL;
}

/* The page of lin, with an entry in the TLB; NULL: the translator leaves it to the interpreter. */
static struct ver_slot *slot_of(struct xlate *x, gva_t lin, bool write)
{
    struct ver_mem *m = &x->verify->mem;
    struct xl_tlb *t = &x->tlb[m->ctx];
    gva_t page = lin & PAGE_MASK;
    unsigned k = (lin >> PAGE_SHIFT) % TLB_ENTRIES;
    struct ver_slot *s = find_slot(m, page);

    if (s && (!write || s->writable))
        return s;
    if (!s && m->n_slots == VER_PAGES)
        return NULL;
    if ((write ? t->wtag : t->rtag)[k] != -page &&
        (xl_tlb_fill(x, lin, 1, write) != MISS_RETRY || (write ? t->wtag : t->rtag)[k] != -page))
        return NULL;
    if (!s) {
        s = &m->slot[m->n_slots++];
        s->page = page;
        s->k = k;
        s->aimed = false;
        s->p = page_of(m, (uint8_t *)(page + t->addend[k]));
    }
    s->writable = t->wtag[k] == -page;
    return s;
}

static void copy_lines(struct ver_page *p, unsigned off, unsigned len)
{
    for (unsigned l = off / VER_LINE; l <= (off + len - 1) / VER_LINE; l++) {
        if (p->lines >> l & 1)
            continue;
        p->lines |= 1UL << l;
        memcpy(p->old + l * VER_LINE, p->real + l * VER_LINE, VER_LINE);
        memcpy(p->shadow + l * VER_LINE, p->old + l * VER_LINE, VER_LINE);
    }
}

static bool touch(struct xlate *x, unsigned insn, gva_t lin, unsigned len, bool write)
{
    struct ver_mem *m = &x->verify->mem;
    struct ver_touch *t = &m->touch[m->n_touches];
    struct ver_slot *s;

    m->refused = lin & PAGE_MASK;
    if (m->n_touches == VER_TOUCHES || (lin & ~PAGE_MASK) + len > PAGE_SIZE || !(s = slot_of(x, lin, write)))
        return false;
    copy_lines(s->p, (unsigned)(lin & ~PAGE_MASK), len);
    *t = (struct ver_touch){ .p = s->p, .lin = lin, .len = (uint16_t)len, .insn = (uint8_t)insn, .write = write };
    m->n_touches++;
    return true;
}

static bool touch_string(struct xlate *x, unsigned insn, gva_t lin, uint64_t len, bool write)
{
    while (len) {
        uint64_t n = PAGE_SIZE - (lin & ~PAGE_MASK);

        n = n < len ? n : len;
        if (!touch(x, insn, lin, (unsigned)n, write))
            return false;
        lin += n;
        len -= n;
    }
    return true;
}

/* fast.c fills the TLB itself when it must: no page may have driven out another. */
static bool all_aimable(const struct xlate *x)
{
    const struct ver_mem *m = &x->verify->mem;
    const struct xl_tlb *t = &x->tlb[m->ctx];

    for (unsigned k = 0; k < m->n_slots; k++)
        if (t->rtag[m->slot[k].k] != -m->slot[k].page)
            return false;
    return true;
}

static bool string(struct xlate *x, const struct vi *i, unsigned insn)
{
    const struct cpu_state *c = x->cpu;
    uint64_t mask = i->op[0].asz == 8 ? ~0UL : UINT32_MAX, n = i->rep ? c->gpr[X86_RCX] & mask : 1;
    uint64_t len = n << i->op[0].size;

    if (n > VER_STRING || len > VER_STRING)
        return false;
    for (unsigned k = 0; k < i->n; k++) {
        uint64_t at = c->gpr[i->op[k].base] & mask;

        if (n && (c->rflags & X86_FL_DF))
            at -= (n - 1) << i->op[0].size;
        /* the space's last byte is an address like any other, and what is done in line does not stop before it */
        if ((len && at > mask - (len - 1)) || !touch_string(x, insn, at, len, i->op[k].write))
            return false;
    }
    return all_aimable(x);
}

bool ver_mem_touch(struct xlate *x, const struct vi *i, unsigned insn)
{
    struct ver_mem *m = &x->verify->mem;
    unsigned before = m->n_touches;
    bool ok = i->how != VI_HAND;

    if (i->how == VI_STRING) {
        ok = string(x, i, insn);
        for (unsigned k = 0; ok && k < i->n; k++) {
            m->reads |= !i->op[k].write;
            m->writes |= i->op[k].write;
        }
    }
    for (unsigned k = 0; i->how == VI_FRAME && k < m->n_pages; k++)
        copy_lines(&m->page[k], 0, PAGE_SIZE);
    for (unsigned k = 0; ok && i->how == VI_PLAIN && k < i->n; k++) {
        const struct vi_op *o = &i->op[k];

        ok = touch(x, insn, vi_linear(i, k, x->cpu), o->size, o->write);
        if (ok)
            m->touch[m->n_touches - 1].read = o->read;
        m->reads |= o->read;
        m->writes |= o->write;
    }
    if (!ok)
        m->n_touches = before;
    return ok;
}

/* ---- around the translator's run ---- */

/*
 * Windows cannot be aimed: there the translator runs on the memory itself, as it was before, and `shadow` holds what
 * the interpreter has left meanwhile.
 */
void ver_mem_begin(const struct ver_mem *m)
{
    for (unsigned k = 0; k < m->n_pages && m->in_place; k++)
        for (uint64_t l = m->page[k].lines; l; l &= l - 1) {
            unsigned off = (unsigned)__builtin_ctzl(l) * VER_LINE;

            memcpy(m->page[k].shadow + off, m->page[k].real + off, VER_LINE);
            memcpy(m->page[k].real + off, m->page[k].old + off, VER_LINE);
        }
}

void ver_mem_end(const struct ver_mem *m)
{
    uint8_t line[VER_LINE];

    for (unsigned k = 0; k < m->n_pages && m->in_place; k++)
        for (uint64_t l = m->page[k].lines; l; l &= l - 1) {
            unsigned off = (unsigned)__builtin_ctzl(l) * VER_LINE;

            memcpy(line, m->page[k].real + off, VER_LINE);
            memcpy(m->page[k].real + off, m->page[k].shadow + off, VER_LINE);
            memcpy(m->page[k].shadow + off, line, VER_LINE);
        }
}

void ver_mem_aim(struct xlate *x)
{
    struct ver_mem *m = &x->verify->mem;
    struct xl_tlb *t = &x->tlb[m->ctx];

    for (unsigned k = 0; k < m->n_slots && !m->in_place; k++) {
        struct ver_slot *s = &m->slot[k];

        if (t->rtag[s->k] != -s->page && t->wtag[s->k] != -s->page)
            continue;
        t->addend[s->k] = (uint64_t)s->p->shadow - s->page;
        s->aimed = true;
    }
}

/* An entry that was filled anew meanwhile stays. */
void ver_mem_unaim(struct xlate *x)
{
    struct ver_mem *m = &x->verify->mem;
    struct xl_tlb *t = &x->tlb[m->ctx];

    for (unsigned k = 0; k < m->n_slots; k++) {
        struct ver_slot *s = &m->slot[k];

        if (s->aimed && t->addend[s->k] == (uint64_t)s->p->shadow - s->page)
            t->addend[s->k] = (uint64_t)s->p->real - s->page;
        s->aimed = false;
    }
}

/* ---- comparing ---- */

bool ver_mem_written(const struct ver_mem *m, const struct ver_page *p, unsigned off)
{
    for (unsigned k = 0; k < m->n_touches; k++)
        if (m->touch[k].write && m->touch[k].p == p && off - ver_off(&m->touch[k]) < m->touch[k].len)
            return true;
    return false;
}

static bool same_line(const struct ver_mem *m, const struct ver_page *p, unsigned from)
{
    if (!memcmp(p->shadow + from, p->real + from, VER_LINE))
        return true;
    for (unsigned off = from; off < from + VER_LINE; off++)
        if (p->shadow[off] != (ver_mem_written(m, p, off) ? p->real : p->old)[off])
            return false;
    return true;
}

static bool raced_line(const struct ver_mem *m, const struct ver_page *p, unsigned from)
{
    for (unsigned off = from; off < from + VER_LINE; off++)
        if (p->real[off] != p->old[off] && !ver_mem_written(m, p, off))
            return true;
    return false;
}

bool ver_mem_same(const struct ver_mem *m)
{
    for (unsigned k = 0; k < m->n_pages; k++)
        for (uint64_t l = m->page[k].lines; l; l &= l - 1)
            if (!same_line(m, &m->page[k], (unsigned)__builtin_ctzl(l) * VER_LINE))
                return false;
    return true;
}

bool ver_mem_raced(const struct ver_mem *m)
{
    for (unsigned k = 0; k < m->n_pages; k++)
        for (uint64_t l = m->page[k].lines; l; l &= l - 1)
            if (raced_line(m, &m->page[k], (unsigned)__builtin_ctzl(l) * VER_LINE))
                return true;
    return false;
}

void ver_mem_undo(const struct ver_mem *m)
{
    for (unsigned k = 0; k < m->n_touches; k++) {
        const struct ver_touch *t = &m->touch[k];

        if (t->write)
            memcpy(t->p->real + ver_off(t), t->p->old + ver_off(t), t->len);
    }
}
