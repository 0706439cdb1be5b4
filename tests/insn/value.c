/* SPDX-License-Identifier: MIT */
/* Values that find bugs: the ends of every range, and every class of floating-point number. */
#include <string.h>

#include "rng.h"

uint64_t rng_int(struct rng *r)
{
    static const uint64_t special[] = {
        0,
        1,
        2,
        3,
        0x7f,
        0x80,
        0xff,
        0x100,
        0x7fff,
        0x8000,
        0xffff,
        0x10000,
        0x7fffffff,
        0x80000000,
        0xffffffff,
        0x100000000,
        0x7fffffffffffffff,
        0x8000000000000000,
        ~0UL,
        ~1UL,
        0xffffffff80000000,
        0xffffffff7fffffff,
        0xaaaaaaaaaaaaaaaa,
        0x5555555555555555,
        0x0123456789abcdef,
        63,
        64,
        31,
        32,
        15,
        16,
        8,
        7,
    };

    switch (rng_below(r, 8)) {
    case 0:
    case 1:
        return special[rng_below(r, ARRAY_LEN(special))];
    case 2:
        return rng_below(r, 256);
    case 3:
        return (uint64_t) - (int64_t)rng_below(r, 256);
    case 4:
        return 1UL << rng_below(r, 64);
    case 5:
        return (uint32_t)rng_next(r);
    default:
        return rng_next(r);
    }
}

void rng_bytes(struct rng *r, void *p, size_t n)
{
    uint8_t *b = p;

    for (; n >= 8; n -= 8, b += 8) {
        uint64_t v = rng_next(r);

        memcpy(b, &v, 8);
    }
    if (n) {
        uint64_t v = rng_next(r);

        memcpy(b, &v, n);
    }
}

static uint32_t float32(struct rng *r)
{
    static const uint32_t special[] = {
        0,          0x80000000, 0x3f800000, 0xbf800000, 0x7f800000, 0xff800000, 0x7fc00000, 0xffc00000,
        0x7f800001, 0xff812345, 0x00000001, 0x80000001, 0x007fffff, 0x00800000, 0x7f7fffff, 0xff7fffff,
        0x3f000000, 0x3fc00000, 0x40490fdb, 0x4effffff, 0x4f000000, 0xcf000000, 0x5f000000, 0x477fe000,
    };

    if (rng_pct(r, 45))
        return special[rng_below(r, ARRAY_LEN(special))];
    if (rng_pct(r, 50)) /* moderate exponents, so that results are neither 0 nor infinite */
        return (uint32_t)(rng_next(r) & 0x807fffff) | (uint32_t)(117 + rng_below(r, 21)) << 23;
    return (uint32_t)rng_next(r);
}

static uint64_t float64(struct rng *r)
{
    static const uint64_t special[] = {
        0,
        0x8000000000000000,
        0x3ff0000000000000,
        0xbff0000000000000,
        0x7ff0000000000000,
        0xfff0000000000000,
        0x7ff8000000000000,
        0xfff8000000000000,
        0x7ff0000000000001,
        0xfff4567800000000,
        1,
        0x8000000000000001,
        0x000fffffffffffff,
        0x0010000000000000,
        0x7fefffffffffffff,
        0x3fe0000000000000,
        0x41dfffffffc00000,
        0xc1e0000000000000,
        0x43e0000000000000,
        0xc3e0000000000000,
        0x380fffffffffffff,
        0x47efffffe0000000,
        0x36a0000000000000,
    };

    if (rng_pct(r, 45))
        return special[rng_below(r, ARRAY_LEN(special))];
    if (rng_pct(r, 50))
        return (rng_next(r) & 0x800fffffffffffff) | (1013 + rng_below(r, 21)) << 52;
    return rng_next(r);
}

void rng_vector(struct rng *r, uint8_t *p, size_t n)
{
    unsigned kind = (unsigned)rng_below(r, 6);

    if (kind == 0) {
        rng_bytes(r, p, n);
        return;
    }
    for (size_t i = 0; i + 8 <= n; i += 8) {
        uint64_t v;

        if (kind <= 2)
            v = float32(r) | (uint64_t)float32(r) << 32;
        else if (kind <= 4)
            v = float64(r);
        else
            v = rng_int(r);
        memcpy(p + i, &v, 8);
    }
}

void rng_x87(struct rng *r, uint8_t *p)
{
    static const uint16_t exps[] = { 0, 1, 0x3fff, 0x3ffe, 0x4000, 0x403e, 0x7ffe, 0x7fff, 0x3c01, 0x3f81 };
    static const uint64_t mants[] = { 0,
                                      1,
                                      0x8000000000000000,
                                      0xc000000000000000,
                                      0x8000000000000001,
                                      0x4000000000000000,
                                      0xffffffffffffffff,
                                      0x7fffffffffffffff,
                                      0xa000000000000000 };
    uint64_t mant = rng_next(r) | 1UL << 63;
    uint16_t exp = (uint16_t)(0x3fff - 20 + rng_below(r, 90));

    memset(p, 0, 16);
    if (rng_pct(r, 35)) {
        exp = exps[rng_below(r, ARRAY_LEN(exps))];
        if (rng_pct(r, 60))
            mant = mants[rng_below(r, ARRAY_LEN(mants))];
    } else if (rng_pct(r, 5)) {
        exp = (uint16_t)(rng_next(r) & 0x7fff);
        mant = rng_next(r);
    } else if (rng_pct(r, 25)) { /* a small integer */
        uint64_t k = rng_below(r, 100000) + 1;
        unsigned lz = (unsigned)__builtin_clzl(k);

        mant = k << lz;
        exp = (uint16_t)(0x3fff + 63 - lz);
    }
    if (rng_pct(r, 50))
        exp |= 0x8000;
    memcpy(p, &mant, 8);
    memcpy(p + 8, &exp, 2);
}
