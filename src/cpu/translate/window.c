/* SPDX-License-Identifier: MIT */
/*
 * Windows: the host's MMU as the TLB of user code.
 *
 * Each 512 GiB of guest linear addresses in use (an entry of the top page table) has a window of the process's address
 * space, in which guest pages are mapped from the memfd when they are first touched. An access is the address plus
 * wtab[address >> 39]. Unused entries of wtab make the sum non-canonical, the middle of the table is not mapped, and
 * the windows are so far apart that a displacement cannot reach the next one; so an access hits a page that the guest
 * may access in this way, or faults. Only user code uses windows, and only user pages are mapped in them.
 *
 * What may be mapped: what a walk allows; for writing only if D is set and the frame holds no code. A page is dropped
 * when its translation is flushed. Loading CR3 drops everything, so windows are used only while that is rare: a vCPU
 * that has gone for some timer ticks without it is promoted, and demoted by the next one.
 *
 * A large page of the guest that may be written is one mapping, filled by the host as it is touched; frames of it that
 * hold code are protected singly, by userfaultfd or, if the host has none, by mprotect, which splits the mapping.
 */
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cpu/translate/translate.h"
#include "host/uffd.h"
#include "mem/mem.h"

enum {
    SLOT_SHIFT = 39,
    SLOTS = XL_WIN_SLOTS,
    SLOTS_ALL = 64, /* of all CPUs: the host's address space ends somewhere */
    AROUND = 16,
    TICKS = 4,
    TICKS_MAX = 256,
    DROPS_MAX = 64,
    LOST_MAX = 64,
    UNTRIED = -4096
};
#define SLOT_SIZE (1UL << SLOT_SHIFT)
#define GUARD                                                                                                          \
    (64UL << 30) /* on each side half of it: more than a displacement, and than an index of 32 bits times 8            \
                  */
#define STRIDE (SLOT_SIZE + GUARD)
#define LARGE (2UL << 20)  /* all sizes are mapped in pieces of the smallest */
#define PIECES (4UL << 20) /* INVLPG drops these of one page */
#define NO_BASE (1UL << 62)
#define TABLE_BYTES (sizeof(((struct xlate *)0)->wtab))

static uintptr_t slot_start(const struct xlate *x, unsigned s)
{
    return x->win.area + s * STRIDE + GUARD / 2;
}

int xl_win_init(struct xlate *x)
{
    uint8_t *table = (uint8_t *)x->wtab;
    void *p;

    x->win.need = TICKS;
    x->win.uffd = UNTRIED;
    if (x->win.mode == ENGINE_MMU_SOFT)
        return 0;
    x->win.max = x->v->tuning.cpus > SLOTS_ALL / SLOTS ? SLOTS_ALL / x->v->tuning.cpus : SLOTS;
    p = mmap(NULL, x->win.max * STRIDE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED || mprotect(table + PAGE_SIZE, TABLE_BYTES - 2 * PAGE_SIZE, PROT_NONE)) {
        if (p != MAP_FAILED)
            munmap(p, x->win.max * STRIDE);
        if (x->win.mode == ENGINE_MMU_WINDOW)
            return -ENOMEM;
        x->win.mode = ENGINE_MMU_SOFT; /* a host without the address space: the soft TLB does */
        return 0;
    }
    x->win.area = (uintptr_t)p;
    for (unsigned k = 0; k < PAGE_SIZE / 8; k++)
        x->wtab[k] = x->wtab[ARRAY_LEN(x->wtab) - 1 - k] = NO_BASE;
    x->win.active = x->win.mode == ENGINE_MMU_WINDOW;
    return 0;
}

void xl_win_fini(struct xlate *x)
{
    if (x->win.area)
        munmap((void *)x->win.area, x->win.max * STRIDE);
    x->win.area = 0;
    if (x->win.uffd >= 0)
        close(x->win.uffd);
    x->win.uffd = UNTRIED;
}

/* ---- dropping ---- */

static void unmap(uintptr_t at, size_t len)
{
    mmap((void *)at, len, PROT_NONE, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
}

static struct xl_win_page *entry(struct xlate *x, gva_t lin)
{
    return &x->win.page[(lin >> PAGE_SHIFT) % ARRAY_LEN(x->win.page)];
}

static void drop_all(struct xlate *x)
{
    struct xl_win *w = &x->win;

    for (unsigned s = 0; s < w->slots; s++) {
        x->wtab[w->slot[s].index] = NO_BASE;
        if (w->slot[s].hi > w->slot[s].lo)
            unmap(w->slot[s].lo, w->slot[s].hi - w->slot[s].lo);
    }
    for (uint32_t i = 0; i < w->n; i++)
        w->page[w->log[i]] = (struct xl_win_page){ 0 };
    w->slots = w->n = 0;
    w->told = w->large = w->huge = false;
    x->st.win_flushes++;
}

void xl_win_flush(struct xlate *x)
{
    struct xl_win *w = &x->win;

    if (!w->area)
        return;
    if (w->n || w->slots)
        drop_all(x);
    if (w->active && w->mode == ENGINE_MMU_AUTO) {
        w->active = false;
        /* It did not last: wait longer before the next time, unless it paid. */
        w->need = w->ticks < 4 * w->need ? (w->need < TICKS_MAX ? w->need * 2 : TICKS_MAX) : TICKS;
    }
    w->ticks = w->drops = 0;
}

static void drop_page(struct xlate *x, struct xl_win_page *p)
{
    unmap(x->wtab[p->lin >> SLOT_SHIFT] + p->lin, PAGE_SIZE);
    p->used = false; /* it stays in the log */
}

/* Lin is in a large page of which pieces are mapped: drops what is mapped there. */
static bool drop_pieces(struct xlate *x, gva_t lin)
{
    gva_t first = lin & ~(PIECES - 1);
    bool any = false;

    for (gva_t at = first; at < first + PIECES && !any; at += PAGE_SIZE)
        any = entry(x, at)->used && entry(x, at)->lin == at && entry(x, at)->large;
    if (!any)
        return false;
    for (gva_t at = first; at < first + PIECES; at += PAGE_SIZE)
        if (entry(x, at)->lin == at)
            entry(x, at)->used = false;
    unmap(x->wtab[lin >> SLOT_SHIFT] + first, PIECES);
    return true;
}

void xl_win_flush_page(struct xlate *x, gva_t lin)
{
    struct xl_win *w = &x->win;
    struct xl_win_page *p;
    bool dropped = false;

    if (!w->n)
        return;
    lin &= PAGE_MASK;
    p = entry(x, lin);
    if (w->huge) {
        xl_win_flush(x);
    } else if (w->large && drop_pieces(x, lin)) {
        dropped = true;
    } else if (p->used && p->lin == lin) {
        drop_page(x, p);
        dropped = true;
    }
    if (dropped && ++w->drops > DROPS_MAX) { /* the guest is busy with these pages */
        w->ticks = 0;
        xl_win_flush(x);
    }
}

/* ---- protecting ---- */

/* A page of a mapping that may be written; on: no more. False: the host would not. */
static bool guard(struct xlate *x, struct xl_win_page *p, bool on)
{
    struct xl_win *w = &x->win;
    uintptr_t at = x->wtab[p->lin >> SLOT_SHIFT] + p->lin;

    p->write = !on;
    if (!on && p->uffd) {
        p->uffd = false;
        return !uffd_protect(w->uffd, at, PAGE_SIZE, false);
    }
    if (on && p->piece && w->uffd == UNTRIED)
        w->uffd = x->v->tuning.no_uffd ? -ENOSYS : uffd_open();
    if (on && p->piece && w->uffd >= 0 && !uffd_register(w->uffd, at & ~(LARGE - 1), LARGE) &&
        !uffd_protect(w->uffd, at, PAGE_SIZE, true)) {
        p->uffd = true;
        x->st.win_uffd++;
        return true;
    }
    return !mprotect((void *)at, PAGE_SIZE, on ? PROT_READ : PROT_READ | PROT_WRITE);
}

void xl_win_protect(struct xlate *x, gpa_t gpa)
{
    uint32_t frame = (uint32_t)(gpa >> PAGE_SHIFT);

    for (uint32_t i = 0; i < x->win.n; i++) {
        struct xl_win_page *p = &x->win.page[x->win.log[i]];

        if (p->used && p->frame == frame && p->write && !guard(x, p, true))
            xl_win_flush(x);
    }
}

/* ---- promotion ---- */

void xl_win_tick(struct xlate *x)
{
    struct xl_win *w = &x->win;

    if (w->rest && !--w->rest)
        w->active = true;
    if (w->mode != ENGINE_MMU_AUTO)
        return;
    w->ticks++;
    w->drops = 0;
    if (!w->active && w->ticks >= w->need && kind_ctx(x->kind) == CTX_USER && x->kind != KIND_NONE) {
        w->active = true;
        x->st.win_promotions++;
    }
}

/* ---- filling ---- */

/* The window of lin's 512 GiB; false: none can be had. */
static bool window(struct xlate *x, gva_t lin)
{
    struct xl_win *w = &x->win;
    unsigned index = (unsigned)(lin >> SLOT_SHIFT);

    if (index >= 256)
        return false;
    if (x->wtab[index] != NO_BASE)
        return true;
    if (w->slots == w->max)
        return false;
    w->slot[w->slots].index = index;
    w->slot[w->slots].lo = UINTPTR_MAX;
    w->slot[w->slots].hi = 0;
    x->wtab[index] = slot_start(x, w->slots) - ((uint64_t)index << SLOT_SHIFT);
    w->slots++;
    return true;
}

/* That of a host address, or NULL. */
static struct xl_win_slot *slot_of(struct xlate *x, uintptr_t host)
{
    for (unsigned s = 0; s < x->win.slots; s++)
        if (host - slot_start(x, s) < SLOT_SIZE)
            return &x->win.slot[s];
    return NULL;
}

struct place {
    gpa_t gpa;
    bool write, large;
    bool faults; /* the guest must be told */
};

/* Notes page lin as mapped at frame k behind p's. */
static struct xl_win_page *note(struct xlate *x, gva_t lin, const struct place *at, unsigned k)
{
    struct xl_win *w = &x->win;
    struct xl_win_page *p = entry(x, lin);

    if (p->used && p->lin != lin && !(p->large && drop_pieces(x, p->lin)))
        drop_page(x, p);
    if (!p->logged)
        w->log[w->n++] = (uint32_t)(p - w->page);
    *p = (struct xl_win_page){ .lin = lin,
                               .frame = (uint32_t)(at->gpa >> PAGE_SHIFT) + k,
                               .used = true,
                               .logged = true,
                               .write = at->write,
                               .large = at->large };
    w->large |= at->large;
    return p;
}

static bool holds_code(struct xlate *x, gpa_t gpa)
{
    return *mem_frame_flags(x->v->mem, gpa) & (MEM_F_CODE | MEM_F_DIRTY_LOG);
}

/* Whether user code may have page lin, for what. Sets A, and D if write. */
static bool place_of(struct xlate *x, gva_t lin, bool write, struct place *p)
{
    struct x86_xlate r;
    struct x86_fault f;

    p->faults = !x86_walk(x->cpu, &x->phys, lin, X86_ACC_USER | (write ? X86_ACC_WRITE : X86_ACC_READ), &r, &f);
    if (p->faults)
        return false;
    const volatile uint8_t *flags = mem_frame_flags(x->v->mem, r.gpa);
    if (!flags || !mem_frame_get(x->v->mem, r.gpa & PAGE_MASK))
        return false;
    if (write && (*flags & MEM_F_CODE))
        mem_code_release(x->v->mem, r.gpa);
    p->gpa = r.gpa & PAGE_MASK;
    p->write = r.writable && r.dirty && !holds_code(x, p->gpa);
    p->large = r.page_shift > PAGE_SHIFT;
    x->win.huge |= r.page_shift > 22;
    return !write || p->write;
}

/* More pages behind lin that go on where it ends, in the memfd too: one mapping for all. */
static unsigned around(struct xlate *x, gva_t lin, const struct place *first)
{
    unsigned n = 1;

    while (n < AROUND) {
        gva_t next = lin + n * PAGE_SIZE;
        struct place p;

        if (next >> SLOT_SHIFT != lin >> SLOT_SHIFT || (entry(x, next)->used && entry(x, next)->lin == next) ||
            !place_of(x, next, false, &p) || p.gpa != first->gpa + n * PAGE_SIZE || p.write != first->write ||
            p.large != first->large)
            break;
        n++;
    }
    return n;
}

/* False: too many mappings, so there are none any more. */
static bool host_map(struct xlate *x, uintptr_t at, size_t len, int prot, uint64_t off)
{
    struct xl_win_slot *slot = slot_of(x, at);

    if (mmap((void *)at, len, prot, MAP_FIXED | MAP_SHARED | (len < LARGE ? MAP_POPULATE : 0), mem_fd(x->v->mem),
             (off_t)off) == MAP_FAILED) {
        xl_win_flush(x);
        return false;
    }
    slot->lo = at < slot->lo ? at : slot->lo;
    slot->hi = at + len > slot->hi ? at + len : slot->hi;
    return true;
}

/* After each mapping: their number is bounded. */
static enum xl_miss budget(struct xlate *x)
{
    if (++x->win.maps <= x->win.maps_max)
        return MISS_RETRY;
    x->win.maps = 0;
    xl_win_flush(x);
    return MISS_STEP;
}

/*
 * Maps all of the large page that lin is in, which may be written. False: not all of it is RAM, in one piece of the
 * memfd, and nothing was done.
 */
static bool map_large(struct xlate *x, gva_t lin, const struct place *p, enum xl_miss *result)
{
    gva_t first = lin & ~(LARGE - 1);
    uintptr_t at = x->wtab[lin >> SLOT_SHIFT] + first;
    struct place whole = *p;
    uint64_t off, next;

    whole.gpa -= lin - first;
    if (!mem_file_offset(x->v->mem, whole.gpa, &off))
        return false;
    for (unsigned k = 0; k < LARGE / PAGE_SIZE; k++)
        if (!mem_frame_get(x->v->mem, whole.gpa + k * PAGE_SIZE) ||
            !mem_file_offset(x->v->mem, whole.gpa + k * PAGE_SIZE, &next) || next != off + k * PAGE_SIZE)
            return false;
    if (!host_map(x, at, LARGE, PROT_READ | PROT_WRITE, off)) {
        *result = MISS_STEP;
        return true;
    }
    for (unsigned k = 0; k < LARGE / PAGE_SIZE; k++) {
        struct xl_win_page *e = note(x, first + k * PAGE_SIZE, &whole, k);

        e->piece = true;
        if (holds_code(x, whole.gpa + k * PAGE_SIZE) && !guard(x, e, true)) {
            xl_win_flush(x);
            *result = MISS_STEP;
            return true;
        }
    }
    x->st.win_large++;
    *result = budget(x);
    return true;
}

/* Maps page lin, which is at p, and what is around it. */
static enum xl_miss map(struct xlate *x, gva_t lin, const struct place *p)
{
    enum xl_miss result;
    uint64_t off;

    if (p->large && p->write && map_large(x, lin, p, &result))
        return result;
    if (!mem_file_offset(x->v->mem, p->gpa, &off))
        return MISS_STEP;
    unsigned n = around(x, lin, p);
    for (unsigned k = 0; k < n; k++)
        note(x, lin + k * PAGE_SIZE, p, k);
    if (!host_map(x, x->wtab[lin >> SLOT_SHIFT] + lin, n * PAGE_SIZE, p->write ? PROT_READ | PROT_WRITE : PROT_READ,
                  off))
        return MISS_STEP;
    x->st.win_fills += n;
    return budget(x);
}

/* The page is mapped for reading, and may be written now: half the cost of mapping it anew. */
static bool opened(struct xlate *x, gva_t lin, const struct place *p)
{
    struct xl_win_page *e = entry(x, lin);

    return e->used && e->lin == lin && e->frame == p->gpa >> PAGE_SHIFT && !e->write && p->write &&
           (e->piece || !p->large) && guard(x, e, false);
}

enum xl_miss xl_win_miss(struct xlate *x, uintptr_t host, bool write)
{
    const struct xl_win_slot *slot = slot_of(x, host);
    struct place p;

    x->st.win_misses++;
    if (!slot)
        return MISS_STEP;
    gva_t lin = (host - x->wtab[slot->index]) & PAGE_MASK;
    if (place_of(x, lin, write, &p))
        return opened(x, lin, &p) ? MISS_RETRY : map(x, lin, &p);
    if (p.faults) {
        x->win.told = true;
        x->win.told_lin = lin;
    } else {
        const struct tblock *b = xl_block_at(x, x->retry_pc);
        if (b && !b->dead)
            xl_site_faulted(x, (b->gpa & PAGE_MASK) | (x->aux & ~PAGE_MASK));
    }
    return MISS_STEP;
}

/* As for reading: what may be written is known by D, which is not for this function to set. */
void xl_win_return(struct xlate *x)
{
    gva_t lin = x->win.told_lin;
    struct place p;

    x->win.told = false;
    if ((entry(x, lin)->used && entry(x, lin)->lin == lin) || !place_of(x, lin, false, &p) || !window(x, lin))
        return;
    x->st.win_returns++;
    map(x, lin, &p);
}

/*
 * Opens windows for what the guest's top table has and is not open yet. True: something was opened, so an access that
 * found none may be tried again.
 */
bool xl_win_scan(struct xlate *x)
{
    const struct cpu_state *c = x->cpu;
    bool opened = false;

    if (!x86_long_mode(c))
        return x->wtab[0] == NO_BASE && window(x, 0);
    for (unsigned k = 0; k < 256 && x->win.slots < x->win.max; k++) {
        uint64_t entry = 0;

        if (x->wtab[k] == NO_BASE && x->phys.read(x->phys.arg, (c->cr3 & 0xffffffffff000) + 8 * k, &entry, 8) &&
            (entry & 5) == 5)
            opened |= window(x, (gva_t)k << SLOT_SHIFT);
    }
    if (!opened && ++x->win.lost > LOST_MAX) { /* more address space than windows, it seems */
        xl_win_flush(x);
        x->win.need = TICKS_MAX;
        x->win.lost = 0;
        if (x->win.mode == ENGINE_MMU_WINDOW) {
            x->win.active = false;
            x->win.rest = TICKS_MAX;
        }
    }
    return opened;
}
