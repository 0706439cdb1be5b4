/* SPDX-License-Identifier: MIT */
/*
 * The block cache: decoded code by guest-physical address and mode.
 *
 * All blocks live in one arena that is filled in order and used in a ring of segments: when it comes round, the blocks
 * of the oldest segment go, with all links and hash chains into it. A block is trusted while the generations of its
 * frames stand; once they moved, its bytes are compared, and it lives on if they are the same.
 *
 * The jump cache finds blocks by linear pc. Its key contains the epoch that every change of translations moves
 * (tlb.c), the privilege class and the mode. A block whose last instruction crosses a page is a block of its own, is
 * never linked to, and counts on that same epoch for its second page.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "cpu/interp/core.h"
#include "mem/mem.h"

enum {
    SEGMENTS = 8,
    SEGMENT_SIZE = 704 << 10,
    HASH_SIZE = 1 << 13,
    JC_SIZE = 1 << 12,
    ITLB_SIZE = 1 << 8,
    RAW_MAX = BLOCK_BYTES + 16,
    BLOCK_MAX = (int)(sizeof(struct block) + (BLOCK_INSNS + 1) * sizeof(struct uop)) + RAW_MAX + 16,
    LINE = 64,
};
#define NO_GPA (~(gpa_t)0)

struct jc_entry {
    gva_t lin;
    uint64_t salt; /* 0 = empty */
    struct block *b;
};
struct itlb_entry {
    gva_t page;
    uint64_t salt;
    gpa_t gpa;
};

struct block_cache {
    uint8_t *arena;
    unsigned seg; /* that is being filled */
    uint32_t pos; /* in it */
    uint32_t used[SEGMENTS];
    struct block *hash[HASH_SIZE];
    struct jc_entry jc[JC_SIZE];
    struct itlb_entry itlb[ITLB_SIZE];
};

int block_cache_new(struct interp *m)
{
    size_t len = sizeof(struct block_cache) + SEGMENTS * (size_t)SEGMENT_SIZE;
    void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (p == MAP_FAILED)
        return -ENOMEM;
    m->blocks = p;
    m->blocks->arena = (uint8_t *)p + sizeof(struct block_cache);
    return 0;
}

void block_cache_free(struct interp *m)
{
    if (m->blocks)
        munmap(m->blocks, sizeof(struct block_cache) + SEGMENTS * (size_t)SEGMENT_SIZE);
    m->blocks = NULL;
}

/* All of 4 GiB for reading and writing, expanding up. */
static bool open_segment(const struct x86_seg *s)
{
    enum { WANT = X86_SEG_S | X86_SEG_P | 2, MASK = WANT | 0xc | X86_SEG_UNUSABLE };

    return s->limit == 0xffffffff && (s->attr & MASK) == WANT;
}
static bool flat_segment(const struct x86_seg *s)
{
    return s->base == 0 && open_segment(s);
}

static unsigned kind_32(const struct interp *m)
{
    const struct x86_seg *seg = m->c.seg;
    unsigned kind = X86_MODE_32;

    if (seg[X86_CS].base || seg[X86_CS].limit != 0xffffffff || !(m->c.cr0 & X86_CR0_PE))
        return kind;
    kind |= BLOCK_FLAT;
    if (!flat_segment(&seg[X86_DS]) || !flat_segment(&seg[X86_ES]) || !flat_segment(&seg[X86_SS_SEG]) ||
        !(seg[X86_SS_SEG].attr & X86_SEG_DB))
        return kind;
    kind |= BLOCK_DATA;
    if (open_segment(&seg[X86_FS]))
        kind |= BLOCK_FS;
    if (open_segment(&seg[X86_GS]))
        kind |= BLOCK_GS;
    return kind;
}

static unsigned kind_now(const struct interp *m)
{
    return m->mode == X86_MODE_32 ? kind_32(m) : m->mode;
}

static uint64_t salt(const struct interp *m)
{
    unsigned class = tlb_code_class(m);
    return (uint64_t)m->code_epoch[class] << 9 | class << 8 | kind_now(m);
}

static struct jc_entry *jc_slot(struct block_cache *bc, gva_t lin)
{
    return &bc->jc[(lin ^ lin >> 12) & (JC_SIZE - 1)];
}

static struct block **bucket(struct block_cache *bc, gpa_t gpa, unsigned kind)
{
    uint64_t h = (gpa ^ (uint64_t)(kind & ~(unsigned)BLOCK_CROSS) << 56) * 0x9e3779b97f4a7c15UL;
    return &bc->hash[h >> 51];
}

/* ---- eviction ---- */

static uint8_t *segment(struct block_cache *bc, unsigned s)
{
    return bc->arena + (size_t)s * SEGMENT_SIZE;
}

/* Forgets the blocks of segment s: the hash is rebuilt from the others, and links into s are cut. */
static void evict(struct interp *m, unsigned s)
{
    struct block_cache *bc = m->blocks;
    const uint8_t *lo = segment(bc, s), *hi = lo + SEGMENT_SIZE;

    bc->used[s] = 0;
    memset(bc->hash, 0, sizeof(bc->hash));
    memset(bc->jc, 0, sizeof(bc->jc));
    m->link_slot = NULL;
    m->v->stats.cache_flushes++;
    for (unsigned k = 0; k < SEGMENTS; k++) {
        for (uint32_t pos = 0; pos < bc->used[k];) {
            struct block *b = (struct block *)(void *)(segment(bc, k) + pos);
            struct block_end *e = block_end(b);

            pos += b->size;
            for (unsigned l = 0; l < 2; l++) {
                const uint8_t *to = (const uint8_t *)e->link[l];
                if (to >= lo && to < hi)
                    e->link[l] = NULL;
            }
            if (b->gpa != NO_GPA) {
                struct block **h = bucket(bc, b->gpa, b->kind);
                b->next = *h;
                *h = b;
            }
        }
    }
}

void block_cache_flush(struct interp *m)
{
    struct block_cache *bc = m->blocks;

    memset(bc->used, 0, sizeof(bc->used));
    bc->seg = bc->pos = 0;
    evict(m, 0);
}

/* Room for the largest block. */
static struct block *arena_room(struct interp *m)
{
    struct block_cache *bc = m->blocks;

    if (bc->pos + BLOCK_MAX > SEGMENT_SIZE) {
        bc->seg = (bc->seg + 1) % SEGMENTS;
        bc->pos = 0;
        if (bc->used[bc->seg])
            evict(m, bc->seg);
    }
    uint8_t *p = segment(bc, bc->seg) + bc->pos;

    if ((uint8_t *)m->block >= p && (uint8_t *)m->block < p + BLOCK_MAX) { /* the one that ran last goes */
        m->block = NULL;
        m->link_slot = NULL;
    }
    return (struct block *)(void *)p;
}

static void arena_commit(struct block_cache *bc, struct block *b)
{
    size_t size = (size_t)(block_code(b) + b->bytes - (uint8_t *)b);

    b->size = (uint16_t)((size + 15) & ~15UL);
    bc->pos += b->size;
    bc->used[bc->seg] = bc->pos;
}

/* ---- decoding ---- */

/* The code being decoded: a copy, for another processor may change it meanwhile, made after the lines were marked. */
struct fetch {
    const volatile uint8_t *host;
    gpa_t gpa;
    unsigned avail; /* bytes from there on that may be looked at */
    unsigned have;  /* in the copy */
    uint8_t bytes[RAW_MAX];
};

/* A compare and the branch on it become one step; the branch keeps its own uop behind it. */
static void fuse_tail(struct block *b)
{
    if (b->n >= 2) {
        uop_fn fn = fuse_pick(&b->u[b->n - 2].i, &b->u[b->n - 1].i);
        if (fn)
            b->u[b->n - 2].fn = fn;
    }
}

/* One more line. */
static void fetch_more(struct interp *m, struct fetch *f)
{
    gpa_t from = f->gpa + f->have;
    unsigned n = (unsigned)(LINE - (from & (LINE - 1)));

    if (n > f->avail - f->have)
        n = f->avail - f->have;
    mem_code_mark(m->v->mem, from, n);
    memcpy(f->bytes + f->have, (const void *)(f->host + f->have), n);
    f->have += n;
}

static enum x86_decode_status decode_at(struct interp *m, struct fetch *f, unsigned off, struct x86_insn *i)
{
    for (;;) {
        enum x86_decode_status st = X86_DECODE_MORE;

        if (f->have > off)
            st = x86_decode(f->bytes + off, f->have - off, m->mode, i);
        if (st != X86_DECODE_MORE || f->have == f->avail)
            return st;
        fetch_more(m, f);
    }
}

/* Makes a RIP-relative displacement relative to the block. False when it does not fit. */
static bool rebase_ip(struct interp *m, struct x86_insn *i, unsigned off)
{
    int64_t disp = (int64_t)i->disp + off;
    bool far = m->mode == X86_MODE_64 && (i->flags & X86_I_SLOW_EA) && i->asz == 8;

    if (i->base != X86_REG_IP || far)
        return true;
    if (disp != (int32_t)disp)
        return false;
    i->disp = (int32_t)disp;
    return true;
}

/*
 * Clears SLOW_EA in 32-bit code where the operand's segment needs no check. An access that wraps at 4 GiB misses the
 * TLB and is checked there. With a base it may not wrap where the offset does, so those must be constant.
 */
static void ease_address(struct x86_insn *i, unsigned kind)
{
    bool fixed = i->base == X86_REG_ZERO && i->index == X86_REG_ZERO && (uint32_t)i->disp < 0xffffff00;
    bool ok = i->seg == X86_FS   ? (kind & BLOCK_FS) && fixed
              : i->seg == X86_GS ? (kind & BLOCK_GS) && fixed
                                 : i->seg != X86_CS;

    if ((kind & BLOCK_DATA) && ok && i->asz == 4 && !(i->flags & X86_I_VECTOR))
        i->flags &= (uint8_t)~X86_I_SLOW_EA;
}

/* Fills the uop for the instruction at off; false = the block ends before it. */
static bool add_insn(struct interp *m, struct block *b, struct fetch *f, enum x86_decode_status *st)
{
    struct uop *u = &b->u[b->n];
    unsigned off = b->bytes;

    *st = decode_at(m, f, off, &u->i);
    if (*st == X86_DECODE_MORE)
        return false;
    if (*st != X86_DECODE_OK) {
        /* len: all bytes that made it bad, so that a change of any of them is noticed */
        unsigned len = f->have - off < 15 ? f->have - off : 15;
        u->i = (struct x86_insn){
            .len = (uint8_t)len, .flags = X86_I_BRANCH, .base = X86_REG_ZERO, .index = X86_REG_ZERO
        };
        u->fn = *st == X86_DECODE_LONG ? op_gp0 : op_ud;
    } else {
        if (!rebase_ip(m, &u->i, off))
            return false;
        ease_address(&u->i, b->kind);
        u->fn = NULL;
    }
    u->i.off = (uint8_t)off;
    if (b->kind & BLOCK_CROSS)
        u->i.flags |= X86_I_CROSS;
    if (!u->fn)
        u->fn = u->i.flags & X86_I_VECTOR ? interp_vector_prepare(m, u, f->bytes + off) : interp_pick(&u->i);
    if (!u->fn)
        u->fn = op_ud;
    b->n++;
    b->bytes = (uint8_t)(b->bytes + u->i.len);
    return !(u->i.flags & X86_I_BRANCH) && u->fn != op_ud;
}

static void add_end(struct block *b, const struct fetch *f)
{
    struct block_end *e = block_end(b);

    *e = (struct block_end){ .fn = op_block_end, .self = b };
    memcpy(block_code(b), f->bytes, b->bytes);
}

static hva_t code_host(struct interp *m, gpa_t gpa)
{
    hva_t h = mem_frame_get(m->v->mem, gpa & PAGE_MASK);

    if (!h)
        interp_fatal(m, NULL, "the guest runs code at %#lx (physical %#lx), where there is no memory", m->c.rip, gpa);
    return h + (gpa & ~PAGE_MASK);
}

/* The page after that of lin, for an instruction that crosses. */
static gpa_t second_gpa(struct interp *m, gva_t lin)
{
    gva_t next = (lin & PAGE_MASK) + PAGE_SIZE;
    return tlb_code_gpa(m, m->mode == X86_MODE_64 ? next : (uint32_t)next);
}

/* An instruction whose bytes lie on two pages. */
static void decode_cross(struct interp *m, struct block *b, gva_t lin)
{
    struct fetch f = { .avail = 15, .have = 15, .gpa = b->gpa };
    unsigned first = (unsigned)(PAGE_SIZE - (lin & ~PAGE_MASK)), rest = 15 - first;
    enum x86_decode_status st;

    b->kind |= BLOCK_CROSS;
    b->gpa2 = second_gpa(m, lin);
    b->gen2 = mem_code_gen(m->v->mem, b->gpa2);
    hva_t h1 = code_host(m, b->gpa), h2 = code_host(m, b->gpa2);
    b->gen2_val = *b->gen2;
    mem_code_mark(m->v->mem, b->gpa, first);
    mem_code_mark(m->v->mem, b->gpa2, rest);
    memcpy(f.bytes, (const void *)h1, first);
    memcpy(f.bytes + first, (const void *)h2, rest);
    add_insn(m, b, &f, &st);
    add_end(b, &f);
}

static struct block *decode_block(struct interp *m, gva_t lin, gpa_t gpa, unsigned kind)
{
    struct block *b = arena_room(m);
    unsigned page_left = (unsigned)(PAGE_SIZE - (gpa & ~PAGE_MASK));
    uint64_t limit_left = m->mode == X86_MODE_64 ? ~0UL : m->c.seg[X86_CS].limit - (m->c.rip & m->ip_mask);
    enum x86_decode_status st = X86_DECODE_OK;
    struct fetch f;

    *b = (struct block){ .gpa = gpa, .gpa2 = NO_GPA, .kind = (uint8_t)kind };
    f.host = (const volatile uint8_t *)code_host(m, gpa);
    f.gpa = gpa;
    f.have = 0;
    f.avail = page_left < RAW_MAX ? page_left : RAW_MAX;
    b->gen = b->gen2 = mem_code_gen(m->v->mem, gpa);
    b->gen_val = b->gen2_val = *b->gen;
    while (add_insn(m, b, &f, &st) && b->n < BLOCK_INSNS && b->bytes < BLOCK_BYTES - 16 && !(kind & BLOCK_SINGLE))
        if (b->bytes > limit_left)
            break;
    fuse_tail(b);
    if (!b->n && st == X86_DECODE_MORE)
        decode_cross(m, b, lin);
    else
        add_end(b, &f);
    arena_commit(m->blocks, b);
    struct block **h = bucket(m->blocks, gpa, kind);
    b->next = *h;
    *h = b;
    m->v->stats.blocks_decoded++;
    return b;
}

/* ---- finding ---- */

/* The frames' generations moved: are the bytes still the same? Then the block is good again. */
static bool revalidate(struct interp *m, struct block *b)
{
    struct mem *mem = m->v->mem;
    unsigned first = b->kind & BLOCK_CROSS ? (unsigned)(PAGE_SIZE - (b->gpa & ~PAGE_MASK)) : b->bytes;
    uint32_t g1 = *b->gen, g2 = *b->gen2;
    hva_t h1 = code_host(m, b->gpa);

    mem_code_mark(mem, b->gpa, first);
    if (memcmp((const void *)h1, block_code(b), first))
        return false;
    if (first < b->bytes) {
        hva_t h2 = code_host(m, b->gpa2);
        mem_code_mark(mem, b->gpa2, b->bytes - first);
        if (memcmp((const void *)h2, block_code(b) + first, b->bytes - first))
            return false;
    }
    b->gen_val = g1;
    b->gen2_val = g2;
    return true;
}

static void forget(struct interp *m, struct block *b)
{
    struct block **p = bucket(m->blocks, b->gpa, b->kind);

    while (*p != b)
        p = &(*p)->next;
    *p = b->next;
    b->gpa = NO_GPA;
    b->gen_val = *b->gen - 1;
}

static gpa_t code_gpa(struct interp *m, gva_t lin)
{
    struct itlb_entry *e = &m->blocks->itlb[(lin >> PAGE_SHIFT) & (ITLB_SIZE - 1)];
    uint64_t s = salt(m);

    if (e->page != (lin & PAGE_MASK) || e->salt != s)
        *e = (struct itlb_entry){ .page = lin & PAGE_MASK, .salt = s, .gpa = tlb_code_gpa(m, lin) & PAGE_MASK };
    return e->gpa | (lin & ~PAGE_MASK);
}

static struct block *lookup(struct interp *m, gva_t lin, gpa_t gpa, unsigned kind)
{
    for (struct block *b = *bucket(m->blocks, gpa, kind); b; b = b->next) {
        if (b->gpa != gpa || (b->kind & ~(unsigned)BLOCK_CROSS) != kind)
            continue;
        if ((b->kind & BLOCK_CROSS) && b->gpa2 != second_gpa(m, lin))
            continue;
        if (block_fresh(b) || revalidate(m, b))
            return b;
        forget(m, b);
        break;
    }
    return NULL;
}

static __attribute__((noinline)) struct block *find_slow(struct interp *m, gva_t lin, bool single)
{
    uint64_t limit = m->c.seg[X86_CS].limit;
    unsigned kind = kind_now(m) | (single ? BLOCK_SINGLE : 0);
    bool legacy = m->mode != X86_MODE_64;
    gpa_t gpa;
    struct block *b;

    if (legacy && m->c.rip > limit)
        interp_gp(m, NULL, 0);
    gpa = code_gpa(m, lin);
    b = lookup(m, lin, gpa, kind);
    if (!b)
        b = decode_block(m, lin, gpa, kind);
    if (unlikely(legacy && m->c.rip + b->bytes - 1 > limit)) {
        if (b->n == 1)
            interp_gp(m, NULL, 0);
        return find_slow(m, lin, true);
    }
    if (!single)
        *jc_slot(m->blocks, lin) = (struct jc_entry){ .lin = lin, .salt = salt(m), .b = b };
    return b;
}

struct block *block_find(struct interp *m, bool single)
{
    gva_t lin = interp_code_lin(m, m->c.rip);
    struct jc_entry *e = jc_slot(m->blocks, lin);

    if (likely(e->lin == lin && e->salt == salt(m) && !single)) {
        struct block *b = e->b;

        if (likely(block_fresh(b)) &&
            likely(m->mode == X86_MODE_64 || m->c.rip + b->bytes - 1 <= m->c.seg[X86_CS].limit))
            return b;
    }
    return find_slow(m, lin, single);
}
