/* SPDX-License-Identifier: MIT */
/* Hostile values: addresses of the process that runs the guest, the ends of everything, what collides in a TLB. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "isolation.h"
#include "mem/mem.h"

static void host(struct iso *s, uint64_t v)
{
    if (s->hosts < ARRAY_LEN(s->host))
        s->host[s->hosts++] = v;
}

void iso_hosts(struct iso *s)
{
    FILE *f = fopen("/proc/self/maps", "r");
    uint64_t lo, hi, local = 0;
    char line[512];

    for (unsigned i = 0; i < s->can.n; i++) {
        host(s, (uint64_t)s->can.c[i].p);
        host(s, (uint64_t)s->can.c[i].p + s->can.c[i].len);
    }
    for (gpa_t a = 0; a <= ISO_RAM; a += ISO_RAM / 8)
        host(s, (uint64_t)s->ram + a);
    host(s, (uint64_t)s->ram + ISO_LONELY);
    host(s, (uint64_t)s->ram + ISO_KDATA);
    host(s, (uint64_t)s->ram + ISO_UDATA);
    host(s, (uint64_t)s);
    host(s, (uint64_t)&s->v);
    host(s, (uint64_t)s->v.cpu);
    host(s, (uint64_t)s->v.engine);
    host(s, (uint64_t)s->mem);
    host(s, (uint64_t)&local);
    host(s, (uint64_t)s->ops);
    host(s, (uint64_t)s->ops->run);
    host(s, (uint64_t)iso_hosts);
    host(s, (uint64_t)(void *)printf);
    /* and every mapping there is: the engine's caches are among them */
    while (f && fgets(line, sizeof(line), f))
        if (sscanf(line, "%" SCNx64 "-%" SCNx64, &lo, &hi) == 2) {
            host(s, lo);
            host(s, hi);
        }
    if (f)
        fclose(f);
}

/* On the page or across one of its ends. */
static uint64_t near_page(struct rng *r, uint64_t page)
{
    switch (rng_below(r, 4)) {
    case 0:
        return page + rng_below(r, PAGE_SIZE);
    case 1:
        return page - 1 - rng_below(r, 63);
    case 2:
        return page + PAGE_SIZE - 1 - rng_below(r, 63);
    default:
        return page + rng_below(r, PAGE_SIZE / 64) * 64;
    }
}

static uint64_t guest_page(struct rng *r)
{
    static const uint64_t at[] = {
        LIN_UDATA,
        LIN_UDATA + 0x1000,
        LIN_UDATA + 0x3000,
        LIN_UDATA + 0x4000,
        LIN_USTACK,
        LIN_USTACK + 0x1000,
        LIN_ULOW,
        LIN_ULOW + 0x1000,
        LIN_UCODE,
        LIN_UCODE + 0x1000,
        LIN_UHIGH,
        LIN_ULAST,
        LIN_UEND,
        LIN_KERNEL + ISO_KDATA,
        LIN_KERNEL + ISO_GDT,
        LIN_KERNEL + ISO_KSTACK,
        LIN_KLAST,
        LIN_KERNEL + ISO_TABLES,
        LIN_KERNEL + ISO_KCODE,
        LIN_KERNEL + ISO_KDATA + 0x3000,
        LIN_KFIRST,
    };

    if (rng_pct(r, 12))
        return LIN_UODD + rng_below(r, ISO_ODD) * PAGE_SIZE;
    if (rng_pct(r, 4))
        return LIN_KHUGE + rng_below(r, 512) * PAGE_SIZE;
    return at[rng_below(r, rng_pct(r, 50) ? 8 : ARRAY_LEN(at))];
}

static uint64_t edge(struct rng *r)
{
    static const uint64_t at[] = {
        0,          0x8000,      0x10000,        0x7fffffff,         0x80000000,         0xc0000000,
        0xffffffff, 0x100000000, 0x7fffffffffff, 0x7ffffffff000,     0x800000000000,     0xffff7fffffffffff,
        1UL << 63,  ~0UL,        0xfee00000,     0xffff800000000000, 0xfffffffffffff000, (uint64_t)ISO_RAM,
    };

    return at[rng_below(r, ARRAY_LEN(at))] + rng_below(r, 129) - 64;
}

const int64_t iso_beyond[ISO_BEYOND] = {
    -(1L << 22), -(1L << 28), -(1L << 30), -(1L << 31), -(1L << 32), -(1L << 33), 1L << 22, 1L << 32,
};

static uint64_t beyond(struct rng *r)
{
    if (rng_pct(r, 60))
        return (uint64_t)iso_beyond[rng_below(r, ISO_BEYOND)];
    return (1UL << (19 + rng_below(r, 28))) * (1 + rng_below(r, 7));
}

/* The number of a page that is mapped, with other bits above: where a direct-mapped table would find the first. */
static uint64_t collision(struct rng *r)
{
    return near_page(r, guest_page(r)) + beyond(r);
}

uint64_t iso_target(const struct iso *s, struct rng *r)
{
    unsigned p = (unsigned)rng_below(r, 100);

    if (p < 35)
        return near_page(r, guest_page(r));
    if (p < 75)
        return s->host[rng_below(r, s->hosts)] + (rng_pct(r, 40) ? 0 : rng_below(r, 129) - 64);
    if (p < 80)
        return near_page(r, s->host[rng_below(r, s->hosts)]);
    if (p < 88)
        return edge(r);
    if (p < 96)
        return collision(r);
    return rng_next(r);
}

uint64_t iso_aim(const struct iso_build *b)
{
    struct rng *r = b->r;

    if (!b->warm || rng_pct(r, 60))
        return iso_target(b->s, r);
    return near_page(r, b->warm) + (rng_pct(r, 70) ? 0 : beyond(r));
}

uint64_t iso_value(const struct iso *s, struct rng *r)
{
    unsigned p = (unsigned)rng_below(r, 100);

    if (p < 45)
        return iso_target(s, r);
    if (p < 55)
        return edge(r);
    if (p < 60)
        return 0;
    if (p < 66)
        return ~0UL;
    if (p < 76)
        return rng_below(r, 4096);
    if (p < 82) /* how far it is to somewhere: as index or displacement */
        return iso_target(s, r) - LIN_UDATA;
    return rng_int(r);
}

static void fpu_state(const struct iso *s, struct rng *r, struct x86_fpu *f)
{
    f->fcw = rng_pct(r, 80) ? 0x37f : (uint16_t)(rng_next(r) & 0xf3f) | 0x340;
    f->fsw = (uint16_t)(rng_next(r) & 0x7f00);
    f->ftw = rng_pct(r, 60) ? 0xff : (uint8_t)rng_next(r);
    f->mxcsr = rng_pct(r, 80) ? 0x1f80 : (uint32_t)(rng_next(r) & 0xffbf);
    for (unsigned k = 0; k < 8; k++)
        rng_x87(r, f->st[k]);
    for (unsigned k = 0; k < 16; k++) {
        uint8_t *v = f->vec[k];

        switch (rng_below(r, 4)) {
        case 0: /* a mask, or nothing */
            memset(v, 0xff, 32);
            break;
        case 1: /* indexes that reach somewhere */
            for (unsigned i = 0; i < 32; i += 8) {
                uint64_t x = iso_value(s, r);

                memcpy(v + i, &x, 8);
            }
            break;
        case 2:
            for (unsigned i = 0; i < 32; i += 4) {
                uint32_t x = (uint32_t)iso_value(s, r);

                memcpy(v + i, &x, 4);
            }
            break;
        default:
            rng_bytes(r, v, 32);
        }
        memset(v + (s->model.xcr0_mask & 4 ? 32 : 16), 0, s->model.xcr0_mask & 4 ? 32 : 48);
    }
}

static uint64_t stack_pointer(const struct iso *s, struct rng *r, bool user)
{
    if (rng_pct(r, 45))
        return iso_value(s, r);
    if (user)
        return LIN_USTACK + 0x100 + rng_below(r, 0x1e00);
    return LIN_KERNEL + ISO_KDATA + 0x100 + rng_below(r, 0x1e00);
}

static void odd_segments(struct rng *r, const struct iso_case *c, struct cpu_state *st)
{
    static const uint8_t which[] = { X86_DS, X86_ES, X86_SS_SEG, X86_FS, X86_GS };

    for (unsigned k = 0; k < ARRAY_LEN(which); k++) {
        struct x86_seg *g = &st->seg[which[k]];

        if (rng_pct(r, 65))
            continue;
        if (rng_pct(r, 60))
            g->base = (uint32_t)(rng_pct(r, 50) ? edge(r) : near_page(r, guest_page(r)));
        if (rng_pct(r, 30))
            g->limit = rng_pct(r, 50) ? 0x1fff : (uint32_t)rng_next(r);
        if (rng_pct(r, 10))
            g->attr |= 4; /* expand-down */
    }
    (void)c;
}

void iso_state(const struct iso *s, struct rng *r, const struct iso_case *c, struct cpu_state *st)
{
    for (unsigned k = 0; k < 16; k++)
        st->gpr[k] = iso_value(s, r);
    st->gpr[X86_RSP] = stack_pointer(s, r, iso_user(c->mode));
    for (unsigned k = 0; k < 16; k++)
        if (c->set >> k & 1)
            st->gpr[k] = c->gpr[k];
    if (!iso_64(c->mode)) /* the upper halves are not to be looked at, whatever they hold */
        for (unsigned k = 0; k < 16; k++)
            st->gpr[k] = (uint32_t)st->gpr[k] | (rng_pct(r, 50) ? s->host[rng_below(r, s->hosts)] & ~0xffffffffUL : 0);
    st->rflags = X86_FL_1 | (rng_next(r) & X86_FL_ARITH) | (rng_pct(r, 70) ? X86_FL_IF : 0);
    if (rng_pct(r, 25))
        st->rflags |= X86_FL_DF;
    if (rng_pct(r, 8))
        st->rflags |= X86_FL_AC;
    if (rng_pct(r, 3))
        st->rflags |= X86_FL_TF;
    if (rng_pct(r, 3))
        st->rflags |= X86_FL_NT;
    if (rng_pct(r, 15))
        st->rflags |= X86_FL_IOPL;
    if (!iso_64(c->mode) && rng_pct(r, 35))
        odd_segments(r, c, st);
    fpu_state(s, r, &st->fpu);
}
