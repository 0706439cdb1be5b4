/* SPDX-License-Identifier: MIT */
/* Rate limiters over fake time: rates, bursts, what is larger than a bucket, odd clocks and numbers, state. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "host/limiter.h"
#include "state/state.h"

#define MS 1000000UL
#define SECOND 1000000000UL

static uint64_t seed = 1;

static uint64_t rnd(uint64_t below)
{
    seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
    return seed % below;
}

static struct limiter_cfg bytes_only(uint64_t size, uint64_t burst, uint64_t ms)
{
    return (struct limiter_cfg){ .bandwidth = { size, burst, ms } };
}

static void test_off(void **st)
{
    (void)st;
    static const struct limiter_cfg off[] = {
        { { 0, 0, 0 }, { 0, 0, 0 } },
        { { 100, 0, 0 }, { 0, 7, 100 } },
        { { 0, 9, 1000 }, { 5, 0, 0 } },
    };
    struct limiter l;
    for (unsigned i = 0; i < ARRAY_LEN(off); i++) {
        limiter_init(&l, &off[i], 0);
        assert_false(limiter_on(&l));
        for (int n = 0; n < 100; n++)
            assert_int_equal(limiter_take(&l, UINT64_MAX, 0), 0);
    }
}

/* Whoever waits as long as he is told gets it then, and not a moment before. */
static void test_wait_is_exact(void **st)
{
    (void)st;
    for (int round = 0; round < 2000; round++) {
        const struct limiter_cfg c = bytes_only(1 + rnd(1UL << (1 + rnd(40))), 0, 1 + rnd(5000));
        uint64_t now = rnd(SECOND), n;
        struct limiter l, before;
        limiter_init(&l, &c, now);
        assert_int_equal(limiter_take(&l, c.bandwidth.size, now), 0);
        now += rnd(c.bandwidth.refill_ms * MS / 2 + 1);
        n = 1 + rnd(c.bandwidth.size);
        uint64_t wait = limiter_take(&l, n, now);
        if (!wait)
            continue;
        before = l;
        assert_int_not_equal(limiter_take(&before, n, now + wait - 1), 0);
        assert_int_equal(limiter_take(&l, n, now + wait), 0);
    }
}

/* The bound of limiter.h, and that a greedy user gets nearly all of it: for many rates, sizes and ways to ask. */
static void test_rate(void **st)
{
    (void)st;
    for (int round = 0; round < 300; round++) {
        uint64_t size = 1 + rnd(1UL << (1 + rnd(32))), burst = rnd(2) ? rnd(size * 4) : 0, ms = 1 + rnd(2000);
        uint64_t largest = rnd(3) ? 1 + rnd(size) : size + rnd(8 * size), period = ms * MS;
        const struct limiter_cfg c = bytes_only(size, burst, ms);
        uint64_t now = rnd(SECOND), start = now, sum = 0;
        struct limiter l;
        limiter_init(&l, &c, now);
        for (int i = 0; i < 2000; i++) {
            uint64_t n = 1 + rnd(largest), wait;
            for (int tries = 0; (wait = limiter_take(&l, n, now)) != 0; tries++) {
                assert_true(tries < 200);
                now += rnd(4) ? wait : 1 + rnd(wait); /* some ask too early */
            }
            sum += n;
            unsigned __int128 bound = (unsigned __int128)(now - start) * size / period + size + burst;
            assert_true(sum <= bound + (largest > size ? largest : 0));
        }
        unsigned __int128 could = (unsigned __int128)(now - start) * size / period;
        assert_true(sum + 1 >= could); /* never idle: it has asked all the time */
    }
}

static void test_burst_once(void **st)
{
    (void)st;
    const struct limiter_cfg c = bytes_only(1000, 5000, 100);
    struct limiter l;
    uint64_t now = 0;
    limiter_init(&l, &c, now);
    for (int i = 0; i < 6; i++)
        assert_int_equal(limiter_take(&l, 1000, now), 0);
    assert_int_not_equal(limiter_take(&l, 1000, now), 0);
    now += 3600 * SECOND; /* the bucket is full again, the burst is gone */
    assert_int_equal(limiter_take(&l, 1000, now), 0);
    assert_int_equal(limiter_take(&l, 1000, now), 100 * MS);
    /* A request that waits does not use the burst up. */
    limiter_init(&l, &(struct limiter_cfg){ .bandwidth = { 1000, 500, 100 }, .ops = { 1, 0, 100 } }, now);
    assert_int_equal(limiter_take(&l, 100, now), 0);
    assert_int_equal(limiter_take(&l, 400, now), 100 * MS);
    assert_int_equal(l.bytes.burst, 400);
}

static void test_oversized(void **st)
{
    (void)st;
    const struct limiter_cfg c = bytes_only(1000, 0, 100);
    struct limiter l;
    limiter_init(&l, &c, 0);
    assert_int_equal(limiter_take(&l, 5000, 0), 0);               /* at once ... */
    assert_int_equal(limiter_take(&l, 1, 0), 400 * MS + MS / 10); /* ... and 4000 are owed */
    assert_int_not_equal(limiter_take(&l, 5000, 399 * MS), 0);
    assert_int_equal(limiter_take(&l, 5000, 400 * MS), 0);
    assert_int_equal(limiter_take(&l, 1000, 400 * MS), 600 * MS);
    assert_int_equal(limiter_take(&l, 0, 400 * MS), 0); /* what moves nothing owes nothing */
}

/* Both buckets or none. */
static void test_both(void **st)
{
    (void)st;
    const struct limiter_cfg c = { .bandwidth = { 1000, 0, 100 }, .ops = { 10, 0, 1000 } };
    struct limiter l;
    uint64_t now = 0;
    limiter_init(&l, &c, now);
    for (int i = 0; i < 10; i++)
        assert_int_equal(limiter_take(&l, 10, now), 0);
    assert_int_equal(limiter_take(&l, 10, now), 100 * MS); /* a tenth of a second an operation */
    now += 100 * MS;
    assert_int_equal(limiter_take(&l, 1000, now), 0);
    now += 100 * MS - 1;
    assert_int_equal(limiter_take(&l, 1000, now), 1);
    assert_int_equal(l.bytes.tokens, 999);
    assert_int_equal(limiter_take(&l, 1000, now + 1), 0);
}

static void test_clock_goes_back(void **st)
{
    (void)st;
    const struct limiter_cfg c = bytes_only(1000, 0, 100);
    struct limiter l;
    limiter_init(&l, &c, 3600 * SECOND);
    assert_int_equal(limiter_take(&l, 1000, 3600 * SECOND), 0);
    /* No tokens for it, and not an hour to wait either. */
    assert_int_equal(limiter_take(&l, 1000, SECOND), 100 * MS);
    assert_int_equal(limiter_take(&l, 500, SECOND + 50 * MS), 0);
}

/* Any 64-bit numbers: no division by zero, no overflow (the sanitizers look), no rate beyond the bound. */
static void test_extremes(void **st)
{
    (void)st;
    static const uint64_t odd[] = { 0, 1, 2, 1000, 1UL << 32, 1UL << 63, UINT64_MAX - 1, UINT64_MAX };
    for (int round = 0; round < 20000; round++) {
        struct limiter_cfg c;
        uint64_t *w = (uint64_t *)&c, now = odd[rnd(ARRAY_LEN(odd))];
        struct limiter l;
        for (unsigned i = 0; i < sizeof(c) / sizeof(*w); i++)
            w[i] = odd[rnd(ARRAY_LEN(odd))];
        limiter_init(&l, &c, now);
        for (int i = 0; i < 6; i++) {
            limiter_take(&l, odd[rnd(ARRAY_LEN(odd))], now);
            now = rnd(2) ? odd[rnd(ARRAY_LEN(odd))] : now + 1;
            assert_true(l.bytes.tokens <= c.bandwidth.size && l.ops.tokens <= c.ops.size);
        }
    }
}

static void test_state(void **st)
{
    (void)st;
    const struct limiter_cfg c = { .bandwidth = { 1000, 300, 100 }, .ops = { 10, 0, 1000 } };
    struct limiter a, b;
    struct state_out out = { 0 };
    limiter_init(&a, &c, 0);
    assert_int_equal(limiter_take(&a, 5000, 0), 0);
    assert_int_equal(limiter_take(&a, 0, 0), 0);
    limiter_save(&a, 50 * MS, &out);
    /* Another clock: the time between does not count. */
    struct state_in in = { .buf = out.buf, .len = out.len };
    limiter_init(&b, &c, 77 * SECOND);
    limiter_load(&b, 77 * SECOND, &in);
    assert_false(in.bad);
    assert_int_equal(limiter_take(&b, 1000, 77 * SECOND), limiter_take(&a, 1000, 50 * MS));
    assert_int_equal(a.bytes.debt, b.bytes.debt);
    assert_int_equal(a.ops.tokens, b.ops.tokens);
    /* A smaller bucket holds no more than it can. */
    in.pos = 0;
    const struct limiter_cfg small = { .ops = { 3, 0, 1000 } };
    limiter_init(&b, &small, 0);
    limiter_load(&b, 0, &in);
    assert_int_equal(b.ops.tokens, 3);
    in = (struct state_in){ .buf = out.buf, .len = out.len - 1 };
    limiter_load(&b, 0, &in);
    assert_true(in.bad);
    state_out_free(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_off),
        cmocka_unit_test(test_wait_is_exact),
        cmocka_unit_test(test_rate),
        cmocka_unit_test(test_burst_once),
        cmocka_unit_test(test_oversized),
        cmocka_unit_test(test_both),
        cmocka_unit_test(test_clock_goes_back),
        cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_state),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
