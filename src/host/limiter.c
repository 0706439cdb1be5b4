/* SPDX-License-Identifier: MIT */
#include "host/limiter.h"

#define MS 1000000UL

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
    uint64_t period = (c->refill_ms ? c->refill_ms : 1) * MS, past = now > b->since ? now - b->since : 0;

    if (past >= period) {
        b->tokens = c->size;
        b->since = now;
        return;
    }
    uint64_t add = (uint64_t)((unsigned __int128)past * c->size / period);
    if (!add)
        return;
    b->tokens = add > c->size - b->tokens ? c->size : b->tokens + add;
    b->since += (uint64_t)((unsigned __int128)add * period / c->size);
}

/* ns until n may be taken. */
static uint64_t wait_for(struct limiter_bucket *b, const struct bucket_cfg *c, uint64_t n, uint64_t now)
{
    if (!c->size)
        return 0;
    refill(b, c, now);
    uint64_t need = n > b->burst ? n - b->burst : 0;
    if (need > c->size)
        need = c->size;
    if (b->tokens >= need)
        return 0;
    uint64_t period = (c->refill_ms ? c->refill_ms : 1) * MS;
    uint64_t ns = (uint64_t)((unsigned __int128)(need - b->tokens) * period / c->size) + 1;
    uint64_t past = now > b->since ? now - b->since : 0;
    return ns > past ? ns - past : 1;
}

static void take(struct limiter_bucket *b, const struct bucket_cfg *c, uint64_t n)
{
    if (!c->size)
        return;
    uint64_t burst = n < b->burst ? n : b->burst;
    b->burst -= burst;
    n -= burst;
    b->tokens -= n < b->tokens ? n : b->tokens;
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
