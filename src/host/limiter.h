/* SPDX-License-Identifier: MIT */
/*
 * Rate limiters: two token buckets, for bytes and for operations, with the fields and the behaviour of Firecracker's
 * (its api, "RateLimiter"). A bucket whose size or refill time is 0 does not limit. No locks: the owner's.
 *
 * Over any time t a bucket lets at most size + burst + t * size / refill_ms tokens pass, and one request more if that
 * is larger than the bucket.
 */
#ifndef GAZDA_HOST_LIMITER_H
#define GAZDA_HOST_LIMITER_H

#include "base/types.h"

struct state_out;
struct state_in;

struct bucket_cfg {
    uint64_t size;      /* tokens that it holds: bytes, operations */
    uint64_t burst;     /* one_time_burst: more, once, that nothing refills; taken first */
    uint64_t refill_ms; /* from empty to full */
};
struct limiter_cfg {
    struct bucket_cfg bandwidth, ops;
};

struct limiter {
    struct limiter_cfg cfg;
    struct limiter_bucket {
        uint64_t tokens, burst; /* left */
        uint64_t debt;          /* what passed beyond the tokens there were; refilled first */
        uint64_t since;         /* ns: refilled up to then */
    } bytes, ops;
};

static inline bool limiter_on(const struct limiter *l)
{
    const struct limiter_cfg *c = &l->cfg;
    return (c->bandwidth.size && c->bandwidth.refill_ms) || (c->ops.size && c->ops.refill_ms);
}

/* Full. now_ns: of any monotonic clock, the same in all calls; where it goes back, no time has passed. */
void limiter_init(struct limiter *l, const struct limiter_cfg *cfg, uint64_t now_ns);
/*
 * One operation of so many bytes: 0, and its tokens are taken, or how many ns to wait before asking again, and nothing
 * is taken. What is larger than a bucket passes at once unless an earlier one is still being paid for, and is then paid
 * for itself: what it took too much is refilled before anything else passes.
 */
uint64_t limiter_take(struct limiter *l, uint64_t bytes, uint64_t now_ns);

/* What is left in the buckets, not how large they are: a machine may be restored with other limits. */
void limiter_save(struct limiter *l, uint64_t now_ns, struct state_out *s);
/* Sets s->bad when the stream ends early; any numbers are fine. */
void limiter_load(struct limiter *l, uint64_t now_ns, struct state_in *s);

#endif
