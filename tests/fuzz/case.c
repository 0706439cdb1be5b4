/* SPDX-License-Identifier: MIT */
/*
 * A seed becomes a case. Consecutive seeds go through all opcodes, each time from another start; their privilege
 * changes every 32 seeds, so that what user mode may not change need not be looked at after every case.
 */
#include <string.h>

#include "isolation.h"

bool iso_user_seed(uint64_t seed)
{
    return !(seed >> 5 & 1);
}

static enum iso_mode mode_of(struct rng *r, uint64_t seed)
{
    unsigned p = (unsigned)rng_below(r, 100);
    bool user = iso_user_seed(seed);

    if (p < 60)
        return user ? ISO_USER64 : ISO_KERNEL64;
    if (p < 80)
        return user ? ISO_USER_COMPAT : ISO_KERNEL_COMPAT;
    return user ? ISO_USER32 : ISO_KERNEL32;
}

static uint64_t base_of(const struct iso *s, struct rng *r, const struct iso_case *c)
{
    uint64_t v = rng_pct(r, 40) ? LIN_UDATA + rng_below(r, 0x2000) : iso_value(s, r);

    return iso_64(c->mode) ? (uint64_t)((int64_t)(v << 16) >> 16) : rng_pct(r, 60) ? 0 : (uint32_t)v;
}

/* Mostly somewhere; sometimes across the page's end, or at the end of the second, behind which nothing is mapped. */
static uint16_t place(struct rng *r)
{
    unsigned p = (unsigned)rng_below(r, 100);

    if (p < 15)
        return (uint16_t)(PAGE_SIZE - 1 - rng_below(r, 30));
    if (p < 20)
        return (uint16_t)(2 * PAGE_SIZE - 1 - rng_below(r, 40));
    return (uint16_t)rng_below(r, 2 * PAGE_SIZE - ISO_CODE_MAX);
}

void iso_case(const struct iso *s, uint64_t seed, struct iso_case *c)
{
    struct rng r = { seed ^ 0x1501a7e };
    struct iso_build b = { .s = s, .r = &r, .c = c };
    unsigned all = iso_opcodes(), more;

    memset(c, 0, sizeof(*c));
    c->seed = seed;
    c->mode = mode_of(&r, seed);
    c->off = place(&r);
    c->fs_base = base_of(s, &r, c);
    c->gs_base = base_of(s, &r, c);
    c->repeat = rng_pct(&r, 4) ? 20 : 1;
    c->inject = rng_pct(&r, 96) ? -1 : (int)rng_below(&r, 257);
    while (rng_pct(&r, 40))
        iso_warm(&b);
    if (rng_pct(&r, 70))
        iso_opcode(&b, (unsigned)(seed * 7919 % all));
    else
        iso_recipe(&b);
    for (more = (unsigned)rng_below(&r, 4); more; more--)
        if (rng_pct(&r, 50))
            iso_recipe(&b);
        else
            iso_opcode(&b, (unsigned)rng_below(&r, all));
}
