/* SPDX-License-Identifier: MIT */
/*
 * The guest of the isolation fuzzer. Its page tables map some of its memory, for user or supervisor; the descriptor
 * tables hold usable and hostile descriptors; all 256 gates lead to a HLT of their own at CPL 0, which ends a case.
 * Accessed and dirty bits are set from the start, so that a user-mode case leaves every page but its own and the
 * kernel's stacks exactly as it was.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>

#include "isolation.h"
#include "mem/mem.h"
#include "x86/fault.h"

enum { PTE_P = 1, PTE_W = 2, PTE_U = 4, PTE_A = 0x20, PTE_D = 0x40, PTE_PS = 0x80, PTE_G = 0x100 };
#define PTE_NX (1UL << 63)
enum { FRAMES = ISO_RAM >> PAGE_SHIFT, EXITS_MAX = 64, TICKS_MAX = 2, GUARD = 16 * PAGE_SIZE, PRIME = 0x1b3 };
#ifdef GAZDA_DEBUG
enum { TICK_US = 20000 };
#else
enum { TICK_US = 4000 };
#endif
enum { REAL_US = 10 * TICK_US };

/* What a frame is to user mode. */
enum frame { FRAME_HIDDEN, FRAME_CPU /* the CPU may write it */, FRAME_USER };

static enum frame frame_of(gpa_t gpa)
{
    if (gpa >= ISO_UDATA && gpa < ISO_USER_END && gpa % ISO_USTRIDE == 0 && gpa != ISO_URO)
        return FRAME_USER;
    return gpa >= ISO_KSTACK && gpa < ISO_KCODE ? FRAME_CPU : FRAME_HIDDEN;
}

const char *iso_mode_name(enum iso_mode m)
{
    static const char *const name[ISO_MODES] = { "64-bit, user",          "64-bit, kernel", "compatibility, user",
                                                 "compatibility, kernel", "32-bit, user",   "32-bit, kernel" };

    return name[m];
}

/* ---- building ---- */

static uint64_t *entry_of(struct iso *s, gpa_t table, unsigned i)
{
    return (uint64_t *)(void *)(s->ram + table + 8 * i);
}

static void map(struct iso *s, gva_t lin, gpa_t gpa, uint64_t leaf)
{
    unsigned last = leaf & PTE_PS ? 21 : 12;
    gpa_t t = ISO_TABLES;

    for (unsigned shift = 39; shift > last; shift -= 9) {
        uint64_t *p = entry_of(s, t, (lin >> shift) & 511);

        if (!*p) {
            *p = s->next_table | PTE_P | PTE_W | PTE_U | PTE_A;
            s->next_table += PAGE_SIZE;
        }
        t = *p & 0xffffffffff000;
    }
    *entry_of(s, t, (lin >> last) & 511) = gpa | leaf | PTE_P | PTE_A | PTE_D;
}

static void map_user(struct iso *s)
{
    /* Not RAM: its end, the gap, the local APIC, both sides of 4 GiB, far above; a reserved bit. */
    static const gpa_t odd[ISO_ODD] = {
        ISO_RAM,     0xbffff000,     0xc0000000,   0xfee00000,   0xfffff000,
        0x100000000, 0x123456789000, 0xffffff0000, 0x7ff0000000, 0x8000000000000,
    };

    for (gpa_t k = 0; k < 2 * PAGE_SIZE; k += PAGE_SIZE) {
        map(s, LIN_UCODE + k, ISO_UCODE + 2 * k, PTE_U);
        map(s, LIN_UDATA + k, ISO_UDATA + 2 * k, PTE_U | PTE_W | PTE_NX);
        map(s, LIN_USTACK + k, ISO_USTACK + 2 * k, PTE_U | PTE_W | PTE_NX);
        map(s, LIN_ULOW + k, ISO_ULOW + 2 * k, PTE_U | PTE_W);
        map(s, LIN_UHIGH + k, ISO_UDATA + 2 * k, PTE_U | PTE_W | PTE_NX);
    }
    map(s, LIN_UDATA + 3 * PAGE_SIZE, ISO_URO, PTE_U | PTE_NX);
    map(s, LIN_UDATA + 4 * PAGE_SIZE, ISO_UDATA2, PTE_U | PTE_W | PTE_NX);
    map(s, LIN_UEND, ISO_UDATA2, PTE_U | PTE_W | PTE_NX);
    map(s, LIN_ULAST, ISO_UDATA2, PTE_U | PTE_W);
    for (unsigned k = 0; k < ISO_ODD; k++)
        map(s, LIN_UODD + k * PAGE_SIZE, odd[k], PTE_U | PTE_W);
}

static void map_kernel(struct iso *s)
{
    uint64_t *pae;

    for (gpa_t a = PAGE_SIZE; a < ISO_SYSTEM_END; a += PAGE_SIZE) {
        bool hole = a == ISO_KDATA + 2 * PAGE_SIZE || (a > ISO_KDATA + 3 * PAGE_SIZE && a < ISO_TABLES);

        if (!hole)
            map(s, LIN_KERNEL + a, a, PTE_W | (a == ISO_KCODE ? PTE_G : 0));
    }
    map(s, LIN_KHUGE, 0, PTE_W | PTE_PS);
    map(s, LIN_KFIRST, ISO_KDATA, PTE_W);
    map(s, LIN_KLAST, ISO_KDATA, PTE_W);
    /* PAE paging sees the low 4 GiB of the same. */
    pae = entry_of(s, s->next_table, 0);
    for (unsigned k = 0; k < 4; k++) {
        gpa_t pdpt = *entry_of(s, ISO_TABLES, 0) & 0xffffffffff000;
        uint64_t e = *entry_of(s, pdpt, k);

        pae[k] = s->pdpte[k] = e ? (e & 0xffffffffff000) | PTE_P : 0;
    }
}

static uint64_t desc(uint32_t base, uint32_t limit, unsigned access, unsigned flags)
{
    return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)access << 40 |
           (uint64_t)(limit >> 16 & 15) << 48 | (uint64_t)flags << 52 | (uint64_t)(base >> 24) << 56;
}

static uint64_t gate(unsigned v, uint16_t sel, unsigned type)
{
    uint64_t ip = LIN_KERNEL + ISO_STUBS + 16 * v;
    uint64_t dpl = v == X86_BP || v == X86_OF || (v & 0xf0) == 0x80 ? 3 : 0;

    return (ip & 0xffff) | (uint64_t)sel << 16 | (uint64_t)(type | 0x80) << 40 | dpl << 45 | (ip >> 16 & 0xffff) << 48;
}

static void build_gdt(struct iso *s)
{
    uint64_t gdt[64] = {
        [1] = desc(0, 0xfffff, 0x9b, 0xc), /* 08 kernel 32-bit code */
        [2] = desc(0, 0xfffff, 0x9b, 0xa), /* 10 kernel 64-bit code */
        [3] = desc(0, 0xfffff, 0x93, 0xc), /* 18 kernel data */
        [4] = desc(0, 0xfffff, 0xfb, 0xc), /* 20 user 32-bit code */
        [5] = desc(0, 0xfffff, 0xf3, 0xc), /* 28 user data */
        [6] = desc(0, 0xfffff, 0xfb, 0xa), /* 30 user 64-bit code */
        [7] = desc(0, 0xfffff, 0xfb, 0x8), /* 38 user 16-bit code */
        [8] = desc(LIN_KERNEL + ISO_TSS, 0xa7, 0x8b, 0),
        [10] = desc(LIN_KERNEL + ISO_TSS + 0x400, 0xa7, 0x8b, 0), /* 50 the 32-bit TSS */
        /* user data with hostile bases and limits */
        [11] = desc(0x10000000, 0xfffff, 0xf3, 0xc),                 /* 58 */
        [12] = desc(0xfffff000, 0xfffff, 0xf3, 0xc),                 /* 60 */
        [13] = desc(LIN_UDATA, 0x1fff, 0xf3, 0x4),                   /* 68 */
        [14] = desc(LIN_UDATA, 0x0fff, 0xf7, 0xc),                   /* 70 expand-down */
        [15] = desc(0, 0xfffff, 0xff, 0xc),                          /* 78 conforming code */
        [16] = gate(0x60, 8, 0xec),                                  /* 80 call gate */
        [18] = desc(0x400000, 0xfff, 0x82, 0),                       /* 90 LDT at a canary */
        [20] = desc(0xffffff80, 0x67, 0x89, 0),                      /* a0 TSS across 4 GiB */
        [22] = desc(LIN_KERNEL + ISO_KDATA + 0x1fc0, 0x67, 0x89, 0), /* b0 TSS into a hole */
        [24] = 0xa0UL << 16 | 0x85UL << 40,                          /* c0 task gate */
        [25] = desc(0x7ffff000, 0xfffff, 0xf3, 0xc),                 /* c8 */
        [26] = desc(0x80000000, 0xfffff, 0x93, 0xc),                 /* d0 kernel data */
        [27] = desc(LIN_UCODE, 0x1fff, 0xfb, 0x4),                   /* d8 user code, small */
    };

    memcpy(s->ram + ISO_GDT, gdt, sizeof(gdt));
}

static void build_tables(struct iso *s)
{
    uint64_t rsp0 = LIN_KERNEL + ISO_IST, ist = LIN_KERNEL + ISO_KCODE;
    uint32_t tss32[2] = { (uint32_t)rsp0, 0x18 };
    uint16_t iomap = 0x68;

    map_user(s);
    map_kernel(s);
    build_gdt(s);
    for (unsigned v = 0; v < 256; v++) {
        uint64_t g[2] = { gate(v, 0x10, v % 5 == 4 ? 0xf : 0xe), 0 }, with_ist[2] = { g[0] | 1UL << 32, 0 };
        uint64_t g32 = gate(v, 8, 0xe);

        memcpy(s->ram + ISO_IDT64 + 16 * v, g, 16);
        memcpy(s->ram + ISO_IDT64_IST + 16 * v, with_ist, 16);
        memcpy(s->ram + ISO_IDT32 + 8 * v, &g32, 8);
    }
    memset(s->ram + ISO_STUBS, 0xf4, PAGE_SIZE);
    memset(s->ram + ISO_TSS, 0, PAGE_SIZE);
    memcpy(s->ram + ISO_TSS + 4, &rsp0, 8);
    memcpy(s->ram + ISO_TSS + 0x24, &ist, 8);
    memcpy(s->ram + ISO_TSS + 0x66, &iomap, 2);
    memcpy(s->ram + ISO_TSS + 0x404, tss32, sizeof(tss32));
    memcpy(s->ram + ISO_TSS + 0x466, &iomap, 2);
    memset(s->ram + ISO_UCODE, 0xcc, PAGE_SIZE);
    memset(s->ram + ISO_UCODE + ISO_USTRIDE, 0xcc, PAGE_SIZE);
    memset(s->ram + ISO_KCODE, 0xcc, 2 * PAGE_SIZE);
}

/* Everything holds a pattern; data pages hold hostile values. */
static void fill(struct iso *s, uint64_t seed)
{
    struct rng r = { seed ^ 0x150 };

    for (gpa_t a = 0; a < ISO_RAM; a += 8) {
        uint64_t v = 0x9e3779b97f4a7c15 * (a + 1);
        bool user = frame_of(a & PAGE_MASK) == FRAME_USER || (a & PAGE_MASK) == ISO_URO;

        if (user || (a >= ISO_KDATA && a < ISO_KDATA + 4 * PAGE_SIZE))
            v = iso_value(s, &r);
        else if (a >= ISO_TABLES && a < ISO_SYSTEM_END)
            v = 0;
        memcpy(s->ram + a, &v, 8);
    }
    memset(s->ram + ISO_GDT, 0, ISO_KSTACK - ISO_GDT);
}

/*
 * ---- the clock: a signal handler has no argument ----
 *
 * It runs on the vCPU's thread. An engine may have the guest's RSP in RSP, so it needs a stack of its own (if there is
 * one); and a kick may be a signal that wants to find the engine's code interrupted and not this handler.
 */

static struct iso *volatile ticking;

static void on_tick(int sig)
{
    struct iso *s = ticking;

    (void)sig;
    if (s && ++s->ticks >= TICKS_MAX)
        s->ops->kick(&s->v);
}

static void clock_start(void)
{
    struct sigaction sa = { .sa_handler = on_tick, .sa_flags = SA_RESTART | SA_ONSTACK };
    struct itimerval it = { .it_interval = { .tv_usec = TICK_US }, .it_value = { .tv_usec = TICK_US } };

    struct itimerval real = { .it_interval = { .tv_usec = REAL_US }, .it_value = { .tv_usec = REAL_US } };

    sigfillset(&sa.sa_mask);
    sigaction(SIGVTALRM, &sa, NULL);
    sigaction(SIGALRM, &sa, NULL);
    setitimer(ITIMER_VIRTUAL, &it, NULL);
    setitimer(ITIMER_REAL, &real, NULL); /* what runs in another process takes no time of this one */
}

/* ---- a new one ---- */

/*
 * Guest RAM between two canaries. The kernel puts a new mapping into the highest gap that takes it, so: a gap of just
 * this size with a canary on either side, and smaller ones above it for the tables that mem_new makes first.
 */
static bool ram_between_canaries(struct iso *s)
{
    enum { SMALL = 64 };
    struct err err = { "" };
    uint8_t *above = mmap(NULL, 2 * SMALL * PAGE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint8_t *p = mmap(NULL, ISO_RAM + 2 * GUARD, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (above == MAP_FAILED || p == MAP_FAILED)
        return false;
    munmap(p, ISO_RAM + 2 * GUARD);
    canary_at(&s->can, (uint64_t)p, GUARD, "before guest RAM");
    canary_at(&s->can, (uint64_t)p + GUARD + ISO_RAM, GUARD, "behind guest RAM");
    for (unsigned k = 0; k < SMALL; k++)
        munmap(above + (2 * k + 1) * PAGE_SIZE, PAGE_SIZE);
    s->mem = mem_new(ISO_RAM, &err);
    if (!s->mem) {
        fprintf(stderr, "fuzz_isolation: %s\n", err.text);
        return false;
    }
    s->ram = mem_pin(s->mem, 0, ISO_RAM);
    if (!s->ram)
        return false;
    s->guarded = s->ram == p + GUARD;
    if (!s->guarded) { /* where it is, then, as far as there is room */
        canary_at(&s->can, (uint64_t)s->ram - GUARD, GUARD, "before guest RAM");
        canary_at(&s->can, (uint64_t)s->ram + ISO_RAM, GUARD, "behind guest RAM");
    }
    for (unsigned k = 0; k < ISO_BEYOND; k++)
        canary_at(&s->can, (uint64_t)s->ram + (uint64_t)iso_beyond[k], ISO_USER_END, "far from guest RAM");
    return true;
}

/* Where an operand that was not translated would go. */
static void low_canaries(struct canaries *cs)
{
    static const struct {
        uint64_t at;
        size_t len;
    } low[] = {
        { 0x10000, 0x4000 },
        { 0x400000, 0x4000 },
        { 0x600000, 0x1000 },
        { 0x10000000, 0x4000 },
        { LIN_UCODE, 0x3000 },
        { LIN_UDATA, 0x6000 },
        { LIN_UODD, 0xa000 },
        { LIN_USTACK - 0x1000, 0x4000 },
        { 0x7fffe000, 0x4000 },
        { LIN_KERNEL, 0x40000 },
        { LIN_KHUGE, 0x10000 },
        { LIN_UEND - 0x3000, 0x8000 },
        { 0x180000000, 0x2000 },
        { LIN_UHIGH, 0x3000 },
        { LIN_ULAST - 0x3000, 0x3000 },
    };

    for (unsigned k = 0; k < ARRAY_LEN(low); k++)
        canary_at(cs, low[k].at, low[k].len, "low");
}

struct iso *iso_new(const struct engine_ops *ops, uint64_t seed)
{
    struct iso *s = calloc(1, sizeof(*s));

    if (!s)
        return NULL;
    low_canaries(&s->can);
    canary_scatter(&s->can, 12);
    s->ops = ops;
    s->next_table = ISO_TABLES + PAGE_SIZE;
    s->pristine = malloc(ISO_RAM);
    s->plain = malloc(ISO_RAM);
    if (!s->pristine || !s->plain || !ram_between_canaries(s))
        goto undo;
    canary_scatter(&s->can, 12);
    x86_model_host(&s->model, 1, 1000000);
    s->v.ops = ops;
    s->v.mem = s->mem;
    s->v.model = &s->model;
    if (ops->create(&s->v)) {
        fprintf(stderr, "fuzz_isolation: engine %s cannot be created\n", ops->name);
        goto undo;
    }
    canary_scatter(&s->can, 12);
    canary_fill(&s->can, seed);
    iso_hosts(s);
    fill(s, seed);
    build_tables(s);
    memcpy(s->pristine, s->ram, ISO_RAM);
    memcpy(s->plain, s->ram, ISO_RAM);
    ticking = s;
    clock_start();
    return s;
undo:
    iso_free(s);
    return NULL;
}

void iso_free(struct iso *s)
{
    struct itimerval off = { 0 };

    setitimer(ITIMER_VIRTUAL, &off, NULL);
    setitimer(ITIMER_REAL, &off, NULL);
    ticking = NULL;
    if (s->v.engine)
        s->ops->destroy(&s->v);
    if (s->ram)
        mem_unpin(s->mem, 0, ISO_RAM, true);
    mem_free(s->mem);
    canary_free(&s->can);
    free(s->pristine);
    free(s->plain);
    free(s);
}

/* ---- what user mode may not read ---- */

static bool is_secret(gpa_t gpa)
{
    return gpa == 0 || gpa >= ISO_USER_END || (gpa >= ISO_KDATA && gpa < ISO_TABLES) ||
           (gpa >= ISO_UCODE && gpa % ISO_USTRIDE);
}

static void hide(struct iso *s, uint64_t word)
{
    if (s->secret == word)
        return;
    s->secret = word;
    for (gpa_t a = 0; a < ISO_RAM; a += PAGE_SIZE) {
        uint64_t *p = (uint64_t *)(void *)(s->pristine + a);

        if (!is_secret(a))
            continue;
        for (unsigned k = 0; word && k < PAGE_SIZE / 8; k++)
            p[k] = word;
        if (!word)
            memcpy(p, s->plain + a, PAGE_SIZE);
        mem_write(s->mem, a, p, PAGE_SIZE);
    }
}

/* ---- what a case leaves behind ---- */

struct look {
    const struct iso *s;
    struct iso_result *r;
};

static void see(struct look *l, uint64_t v, const char *what)
{
    uint64_t h = (l->r->digest ^ v) * 0x9e3779b97f4a7c15;

    l->r->digest = h ^ h >> 29;
    if (canary_seen(&l->s->can, v))
        l->r->leak = what;
}

static void see_bytes(struct look *l, const void *p, size_t n, const char *what)
{
    const uint8_t *b = p;

    for (; n; n -= n < 8 ? n : 8, b += 8) {
        uint64_t v = 0;

        memcpy(&v, b, n < 8 ? n : 8);
        see(l, v, what);
    }
}

static void see_seg(struct look *l, const struct x86_seg *s)
{
    see(l, s->base, "a segment's base");
    see(l, (uint64_t)s->limit << 32 | (s->attr & 0x1ffff), "a segment");
    see(l, s->sel, "a selector");
}

static void see_fpu(struct look *l, const struct x86_fpu *f)
{
    see(l, f->fcw | (uint64_t)f->fsw << 16 | (uint64_t)f->ftw << 32 | (uint64_t)f->fop << 48, "the x87");
    see(l, f->fip, "FIP");
    see(l, f->fdp, "FDP");
    see(l, f->mxcsr, "MXCSR");
    for (unsigned k = 0; k < 8; k++)
        see_bytes(l, f->st[k], 10, "an x87 register");
    see_bytes(l, f->vec, sizeof(f->vec), "a vector register");
    see_bytes(l, f->k, sizeof(f->k), "a mask register");
}

static void see_state(struct look *l, const struct cpu_state *c)
{
    see_bytes(l, c->gpr, 16 * sizeof(c->gpr[0]), "a general register");
    see(l, c->rip, "RIP");
    see(l, c->rflags, "RFLAGS");
    for (unsigned k = 0; k < X86_SEG_NONE; k++)
        see_seg(l, &c->seg[k]);
    see_seg(l, &c->ldtr);
    see_seg(l, &c->tr);
    see(l, c->gdtr.base, "GDTR");
    see(l, c->idtr.base, "IDTR");
    see(l, c->gdtr.limit | (uint64_t)c->idtr.limit << 16 | (uint64_t)c->cpl << 32, "a limit");
    see(l, c->cr0, "CR0");
    see(l, c->cr2, "CR2");
    see(l, c->cr3, "CR3");
    see(l, c->cr4, "CR4");
    see(l, c->xcr0, "XCR0");
    see_bytes(l, c->dr, sizeof(c->dr), "a debug register");
    see_bytes(l, &c->msr, sizeof(c->msr), "an MSR");
    see_fpu(l, &c->fpu);
}

/* Puts a frame back and looks at what was changed in it. */
static void restore_frame(struct iso *s, gpa_t gpa, struct look *l)
{
    const uint8_t *a = s->ram + gpa, *b = s->pristine + gpa;
    unsigned lo = 0, hi = PAGE_SIZE - 8;

    if (!memcmp(a, b, PAGE_SIZE))
        return;
    while (!memcmp(a + lo, b + lo, 8))
        lo += 8;
    while (!memcmp(a + hi, b + hi, 8))
        hi -= 8;
    if (l) {
        see(l, gpa + lo, "");
        see_bytes(l, a + lo, hi + 8 - lo, "guest memory");
    }
    mem_write(s->mem, gpa + lo, b + lo, hi + 8 - lo);
}

static void restore(struct iso *s, bool user, struct look *l)
{
    for (gpa_t a = user ? ISO_KSTACK : 0; a < ISO_USER_END; a += PAGE_SIZE)
        if (!user || frame_of(a) != FRAME_HIDDEN)
            restore_frame(s, a, l);
}

int64_t iso_trespass(struct iso *s)
{
    int64_t found = -1;

    for (gpa_t a = 0; a < ISO_RAM; a += PAGE_SIZE)
        if (memcmp(s->ram + a, s->pristine + a, PAGE_SIZE)) {
            unsigned at = 0;

            while (s->ram[a + at] == s->pristine[a + at])
                at++;
            if (found < 0)
                found = (int64_t)a + at;
            restore_frame(s, a, NULL);
        }
    return found;
}

/* ---- one case ---- */

static struct x86_seg seg_of(const struct iso *s, uint16_t sel)
{
    uint64_t d;

    memcpy(&d, s->pristine + ISO_GDT + (sel & 0xfff8), 8);
    return (struct x86_seg){
        .sel = sel,
        .base = (d >> 16 & 0xffffff) | (d >> 56) << 24,
        .attr = (uint16_t)((d >> 40 & 0xff) | (d >> 40 & 0xf000)),
        .limit = (uint32_t)(d >> 55 & 1 ? (d & 0xffff) << 12 | (d >> 48 & 15) << 28 | 0xfff : (d & 0xffff)),
    };
}

/* Writes the case's code, or INT3s in its place. */
static void put_code(struct iso *s, const struct iso_case *c, bool in)
{
    uint8_t cc[ISO_CODE_MAX];
    unsigned first = c->off < PAGE_SIZE ? (unsigned)PAGE_SIZE - c->off : c->len;
    gpa_t page = iso_user(c->mode) ? ISO_UCODE : ISO_KCODE, stride = iso_user(c->mode) ? ISO_USTRIDE : (gpa_t)PAGE_SIZE;

    memset(cc, 0xcc, sizeof(cc));
    if (first > c->len)
        first = c->len;
    for (unsigned at = 0, n = first; at < c->len; at += n, n = c->len - first) {
        gpa_t gpa = page + ((c->off + at) >> PAGE_SHIFT) * stride + ((c->off + at) & ~PAGE_MASK);

        memcpy(s->pristine + gpa, in ? c->code + at : cc, n);
        mem_write(s->mem, gpa, s->pristine + gpa, n);
    }
}

static void system_state(const struct iso *s, const struct iso_case *c, struct rng *r, struct cpu_state *st)
{
    bool lm = c->mode != ISO_USER32 && c->mode != ISO_KERNEL32, user = iso_user(c->mode);

    st->cr0 = X86_CR0_PE | X86_CR0_MP | X86_CR0_ET | X86_CR0_NE | X86_CR0_WP | X86_CR0_AM | X86_CR0_PG;
    st->cr4 = X86_CR4_PAE | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | X86_CR4_OSXSAVE | X86_CR4_PGE | X86_CR4_FSGSBASE;
    if (rng_pct(r, 20))
        st->cr4 |= X86_CR4_SMAP | X86_CR4_SMEP | X86_CR4_UMIP | X86_CR4_DE;
    if (rng_pct(r, 5))
        st->cr0 &= ~X86_CR0_WP;
    st->cr4 &= x86_cr4_mask(&s->model);
    st->xcr0 = st->cr4 & X86_CR4_OSXSAVE ? s->model.xcr0_mask & 7 : 1;
    st->cr3 = lm ? (uint64_t)ISO_TABLES : s->next_table;
    memcpy(st->pdpte, s->pdpte, sizeof(st->pdpte));
    /*
     * SYSCALL leaves RSP as it was, so no exception may come behind it: in long mode SFMASK clears TF, and elsewhere
     * user mode has no SYSCALL.
     */
    st->msr.efer = X86_EFER_NXE | (lm || !user ? X86_EFER_SCE : 0) | (lm ? X86_EFER_LME | X86_EFER_LMA : 0);
    st->msr.star = 0x10UL << 32 | 0x20UL << 48;
    st->msr.lstar = st->msr.cstar = LIN_KERNEL + ISO_STUBS + 0x400;
    st->msr.sfmask = (rng_next(r) & 0x47700) | X86_FL_TF;
    st->msr.sysenter_cs = lm ? 0x10 : 8;
    st->msr.sysenter_esp = LIN_KERNEL + ISO_IST;
    st->msr.sysenter_eip = LIN_KERNEL + ISO_STUBS + 0x410;
    st->msr.kernel_gs_base = iso_64(c->mode) ? (uint64_t)((int64_t)(iso_value(s, r) << 16) >> 16) : 0;
    st->gdtr = (struct x86_dtable){ .base = LIN_KERNEL + ISO_GDT, .limit = 64 * 8 - 1 };
    st->idtr = (struct x86_dtable){ .base = LIN_KERNEL + (!lm              ? ISO_IDT32
                                                          : rng_pct(r, 40) ? ISO_IDT64
                                                                           : ISO_IDT64_IST),
                                    .limit = (uint16_t)(256 * (lm ? 16 : 8) - 1) };
    st->tr = seg_of(s, lm ? 0x40 : 0x50);
    st->ldtr = (struct x86_seg){ .attr = X86_SEG_UNUSABLE };
    for (unsigned k = 0; k < X86_SEG_NONE; k++)
        st->seg[k] = seg_of(s, user ? 0x2b : 0x18);
    st->seg[X86_CS] = seg_of(s, (uint16_t)(iso_64(c->mode) ? (user ? 0x33 : 0x10) : (user ? 0x23 : 8)));
    st->seg[X86_FS].base = c->fs_base;
    st->seg[X86_GS].base = c->gs_base;
    st->cpl = user ? 3 : 0;
    st->rip = iso_code_lin(c);
}

static void case_in(struct iso *s, const struct iso_case *c, unsigned n)
{
    struct rng r = { c->seed + n * 0x51ed2701UL + 0x15 };
    struct cpu_state *st = s->v.cpu;

    x86_cpu_reset(st);
    system_state(s, c, &r, st);
    iso_state(s, &r, c, st);
    s->ops->sync(&s->v, SYNC_IN);
    s->v.inject.kind = INJECT_NONE;
    s->v.irq_window = s->v.nmi_window = false;
    if (c->inject == 256) {
        s->v.inject.kind = INJECT_NMI;
    } else if (c->inject >= 0 && s->ops->can_intr(&s->v)) {
        s->v.inject.kind = INJECT_INTR;
        s->v.inject.vector = (uint8_t)c->inject;
    }
}

/* The machine's answer to an access; false if the case is over. */
static bool answer(struct vcpu_exit *x, unsigned n)
{
    switch (x->kind) {
    case EXIT_KICKED:
    case EXIT_PAUSE:
    case EXIT_IRQ_WINDOW:
        return true;
    case EXIT_PIO:
    case EXIT_MMIO:
    case EXIT_MSR:
    case EXIT_TPR:
        if (!x->io.write)
            x->io.data = (0x0123456789abcdef * (n + 1)) & (~0UL >> (64 - 8 * x->io.len));
        x->io.fault = x->kind == EXIT_MSR && n % 4 == 3;
        return true;
    case EXIT_HYPERCALL:
        x->io.data = (uint64_t)-1000;
        return true;
    default:
        return false;
    }
}

static void run_once(struct iso *s, struct look *l)
{
    struct vcpu_exit *x = &s->v.exit;

    s->ticks = 0;
    for (unsigned n = 0; n < EXITS_MAX; n += x->kind != EXIT_KICKED) {
        l->r->err = s->ops->run(&s->v, x);
        l->r->kind = x->kind;
        if (l->r->err || s->ticks >= TICKS_MAX)
            break;
        if (x->kind != EXIT_KICKED && x->kind != EXIT_PAUSE)
            see(l, x->kind, "");
        if (x->kind >= EXIT_PIO && x->kind <= EXIT_HYPERCALL) {
            see(l, x->io.addr, "the address of an access");
            see(l, x->io.write ? x->io.data : x->io.len, "an access");
        }
        if (!answer(x, n))
            break;
    }
    l->r->kicked |= s->ticks >= TICKS_MAX;
    s->ops->sync(&s->v, SYNC_OUT);
}

/* The self-test: what a broken engine would have done. */
static void do_evil(struct iso *s)
{
    struct cpu_state *st = s->v.cpu;

    switch (s->evil) {
    case EVIL_CANARY:
        s->can.c[s->can.n / 2].p[24] ^= 4;
        break;
    case EVIL_BEHIND:
        s->ram[ISO_RAM] ^= 1;
        break;
    case EVIL_BEFORE:
        s->ram[-1] ^= 0x80;
        break;
    case EVIL_WORD:
        memcpy(&st->fpu.vec[9][8], s->can.c[3].p + 5, 8);
        break;
    case EVIL_BYTE:
        memcpy(&st->gpr[X86_RBX], s->can.c[5].p + 9, 1);
        break;
    case EVIL_GUEST_BYTE:
        memcpy(&st->gpr[X86_RDX], s->ram + ISO_LONELY + 77, 1);
        break;
    case EVIL_LONELY:
        s->ram[ISO_LONELY + 77] ^= 1;
        break;
    case EVIL_SUPERVISOR:
        s->ram[ISO_KDATA + 8] ^= 1;
        break;
    case EVIL_CRASH:
        *(volatile uint8_t *)(s->can.n - (uint64_t)s->can.n) = 1;
        break;
    default:
        break;
    }
}

void iso_run(struct iso *s, const struct iso_case *c, struct iso_result *r)
{
    struct look l = { s, r };
    bool user = iso_user(c->mode);

    *r = (struct iso_result){ 0 };
    hide(s, user ? s->can.word : 0);
    put_code(s, c, true);
    for (unsigned n = 0; n < c->repeat && !r->err; n++) {
        case_in(s, c, n);
        run_once(s, &l);
        if (s->evil && c->seed == s->evil_seed && !n)
            do_evil(s);
        see_state(&l, s->v.cpu);
        restore(s, user, &l);
    }
    put_code(s, c, false);
}
