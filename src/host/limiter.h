/* SPDX-License-Identifier: MIT */
/*
 * Rate limiters: two token buckets, for bytes and for operations, with the fields and the behaviour of Firecracker's
 * (its api, "RateLimiter"). A bucket of size 0 does not limit. No locks: the owner's.
 */
#ifndef GAZDA_HOST_LIMITER_H
#define GAZDA_HOST_LIMITER_H

#include "base/types.h"

struct bucket_cfg {
    uint64_t size;      /* tokens that it holds: bytes, operations */
    uint64_t burst;     /* one_time_burst: more, once, that nothing refills */
    uint64_t refill_ms; /* from empty to full */
};
struct limiter_cfg {
    struct bucket_cfg bandwidth, ops;
};

struct limiter {
    struct limiter_cfg cfg;
    struct limiter_bucket {
        uint64_t tokens, burst; /* left */
        uint64_t since;         /* ns: refilled up to then */
    } bytes, ops;
};

/* Full. now_ns: of any monotonic clock, the same in all calls. */
void limiter_init(struct limiter *l, const struct limiter_cfg *cfg, uint64_t now_ns);
/*
 * One operation of so many bytes: 0, and its tokens are taken, or how many ns to wait before asking again, and nothing
 * is taken. What is larger than a bucket passes when that is full, and empties it.
 */
uint64_t limiter_take(struct limiter *l, uint64_t bytes, uint64_t now_ns);
static inline bool limiter_on(const struct limiter *l)
{
    return l->cfg.bandwidth.size || l->cfg.ops.size;
}

#endif
