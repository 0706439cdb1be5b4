/* SPDX-License-Identifier: MIT */
/* The random numbers of a case: everything about a case follows from its 64-bit seed. */
#ifndef GAZDA_TESTS_INSN_RNG_H
#define GAZDA_TESTS_INSN_RNG_H

#include "base/types.h"

struct rng {
    uint64_t s;
};

/* splitmix64 */
static inline uint64_t rng_next(struct rng *r)
{
    uint64_t z = (r->s += 0x9e3779b97f4a7c15);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}
/* 0..n-1 */
static inline uint64_t rng_below(struct rng *r, uint64_t n)
{
    return rng_next(r) % n;
}
static inline bool rng_pct(struct rng *r, unsigned pct)
{
    return rng_below(r, 100) < pct;
}

/* Interesting and plain values (value.c). */
uint64_t rng_int(struct rng *r);
void rng_bytes(struct rng *r, void *p, size_t n);
/* Fills n bytes with lanes of one kind: floats, doubles, integers, noise. */
void rng_vector(struct rng *r, uint8_t *p, size_t n);
/* An 80-bit x87 register. */
void rng_x87(struct rng *r, uint8_t *p);

#endif
