/* SPDX-License-Identifier: MIT */
/* Token buckets; see limiter.h. All configurations are fine: arithmetic is done in 128 bits and saturates. */
#include "host/limiter.h"

#include "state/state.h"

#define MS 1000000UL

typedef unsigned __int128 wide;

static bool limits(const struct bucket_cfg *c)
{
    return c->size && c->refill_ms;
}

static uint64_t saturate(wide x)
{
    return x > UINT64_MAX ? UINT64_MAX : (uint64_t)x;
}

/* ns from empty to full. */
static uint64_t period(const struct bucket_cfg *c)
{
    return saturate((wide)c->refill_ms * MS);
}

static void fill(struct limiter_bucket *b, const struct bucket_cfg *c, uint64_t now)
{
    *b = (struct limiter_bucket){ .tokens = c->size, .burst = c->burst, .since = now };
}

void limiter_init(struct limiter *l, const struct limiter_cfg *cfg, uint64_t now_ns)
{
    l->cfg = *cfg;
    fill(&l->bytes, &l->cfg.bandwidth, now_ns);
    fill(&l->ops, &l->cfg.ops, now_ns);
}

/* Whole tokens only; the time that made none yet stays to be counted. */
static void refill(struct limiter_bucket *b, const struct bucket_cfg *c, uint64_t now)
{
    if (now < b->since)
        b->since = now;
    wide made = (wide)(now - b->since) * c->size / period(c);
    if (!made)
        return;
    /* Rounded up: many small refills must not make more than one large one. Never beyond now. */
    b->since += (uint64_t)((made * period(c) + c->size - 1) / c->size);
    uint64_t paid = made < b->debt ? (uint64_t)made : b->debt;
    b->debt -= paid;
    made -= paid;
    b->tokens = made > c->size - b->tokens ? c->size : b->tokens + (uint64_t)made;
}

/* ns until n may be taken. */
static uint64_t wait_for(struct limiter_bucket *b, const struct bucket_cfg *c, uint64_t n, uint64_t now)
{
    if (!limits(c))
        return 0;
    refill(b, c, now);
    uint64_t need = n > b->burst ? n - b->burst : 0;
    if (!need)
        return 0;
    if (!b->debt && (need > c->size || b->tokens >= need))
        return 0;
    /* While there is debt there are no tokens. */
    uint64_t lacking = saturate((wide)b->debt + (need > c->size ? 0 : need - b->tokens)), past = now - b->since;
    uint64_t ns = saturate(((wide)lacking * period(c) + c->size - 1) / c->size);
    return ns > past ? ns - past : 1;
}

static void take(struct limiter_bucket *b, const struct bucket_cfg *c, uint64_t n)
{
    if (!limits(c))
        return;
    uint64_t burst = n < b->burst ? n : b->burst;
    b->burst -= burst;
    n -= burst;
    uint64_t tokens = n < b->tokens ? n : b->tokens;
    b->tokens -= tokens;
    b->debt += n - tokens;
}

uint64_t limiter_take(struct limiter *l, uint64_t bytes, uint64_t now_ns)
{
    uint64_t a = wait_for(&l->bytes, &l->cfg.bandwidth, bytes, now_ns);
    uint64_t b = wait_for(&l->ops, &l->cfg.ops, 1, now_ns);

    if (a || b)
        return a > b ? a : b;
    take(&l->bytes, &l->cfg.bandwidth, bytes);
    take(&l->ops, &l->cfg.ops, 1);
    return 0;
}

/* ---- state ---- */

static void save(struct limiter_bucket *b, const struct bucket_cfg *c, uint64_t now, struct state_out *s)
{
    if (limits(c))
        refill(b, c, now);
    state_put_u64(s, b->tokens);
    state_put_u64(s, b->burst);
    state_put_u64(s, b->debt);
}

void limiter_save(struct limiter *l, uint64_t now_ns, struct state_out *s)
{
    save(&l->bytes, &l->cfg.bandwidth, now_ns, s);
    save(&l->ops, &l->cfg.ops, now_ns, s);
}

static void load(struct limiter_bucket *b, const struct bucket_cfg *c, uint64_t now, struct state_in *s)
{
    uint64_t tokens = state_get_u64(s), burst = state_get_u64(s), debt = state_get_u64(s);
    *b = (struct limiter_bucket){ .tokens = tokens < c->size ? tokens : c->size,
                                  .burst = burst < c->burst ? burst : c->burst,
                                  .debt = debt,
                                  .since = now };
    if (debt) /* of this or of another machine: never both */
        b->tokens = 0;
}

void limiter_load(struct limiter *l, uint64_t now_ns, struct state_in *s)
{
    load(&l->bytes, &l->cfg.bandwidth, now_ns, s);
    load(&l->ops, &l->cfg.ops, now_ns, s);
}
