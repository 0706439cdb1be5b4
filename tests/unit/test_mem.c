/* SPDX-License-Identifier: MIT */
/* Guest memory: ranges and the gap, absent frames, pins, code tracking. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "mem/mem.h"

static void test_sizes(void **st)
{
    struct err e = { 0 };
    (void)st;
    assert_null(mem_new(4096, &e));
    assert_true(e.text[0]);
    assert_null(mem_new((1UL << 20) + 1, &e));
    assert_null(mem_new(1UL << 41, &e));
}

static void test_gap(void **st)
{
    struct err e = { 0 };
    struct mem *m = mem_new(4UL << 30, &e);
    (void)st;
    assert_non_null(m);
    assert_int_equal(mem_low_end(m), MEM_GAP_START);
    assert_int_equal(mem_high_end(m), MEM_GAP_END + (1UL << 30));
    assert_true(mem_is_ram(m, MEM_GAP_START - 1, 1));
    assert_false(mem_is_ram(m, MEM_GAP_START - 1, 2));
    assert_false(mem_is_ram(m, MEM_GAP_END - 1, 1));
    assert_true(mem_is_ram(m, MEM_GAP_END, 1UL << 30));
    assert_false(mem_is_ram(m, MEM_GAP_END, (1UL << 30) + 1));
    assert_false(mem_is_ram(m, MEM_GAP_END + 1, UINT64_MAX));
    assert_false(mem_is_ram(m, UINT64_MAX, 2));
    uint32_t v = 0x12345678, r = 0;
    assert_int_equal(mem_write(m, MEM_GAP_END, &v, 4), 0);
    assert_int_equal(mem_read(m, MEM_GAP_END, &r, 4), 0);
    assert_int_equal(r, v);
    assert_int_equal(mem_read(m, MEM_GAP_START, &r, 4), -14);
    /* The frame above the gap is not the frame below it. */
    assert_int_equal(mem_read(m, MEM_GAP_START - 4096, &r, 4), 0);
    assert_int_equal(r, 0);
    mem_free(m);
}

static void test_absent(void **st)
{
    struct err e = { 0 };
    struct mem *m = mem_new(64UL << 20, &e);
    struct mem_stats s;
    static char buf[8192];
    (void)st;
    memset(buf, 1, sizeof(buf));
    assert_int_equal(mem_read(m, 0x1800, buf, sizeof(buf)), 0);
    for (size_t i = 0; i < sizeof(buf); i++)
        assert_int_equal(buf[i], 0);
    mem_get_stats(m, &s);
    assert_int_equal(s.private_frames, 0);
    memset(buf, 2, sizeof(buf));
    assert_int_equal(mem_write(m, 0x1800, buf, sizeof(buf)), 0);
    mem_get_stats(m, &s);
    assert_int_equal(s.private_frames, 3);
    assert_int_equal(mem_zero(m, 0x1000, 3 * 4096), 0);
    mem_get_stats(m, &s);
    assert_int_equal(s.private_frames, 0);
    char *p = mem_pin(m, 0x2000, 4096);
    p[5] = 7;
    assert_int_equal(mem_zero(m, 0x2000, 4096), 0); /* pinned: zeroed in place */
    assert_int_equal(p[5], 0);
    mem_get_stats(m, &s);
    assert_int_equal(s.private_frames, 1);
    mem_unpin(m, 0x2000, 4096, true);
    mem_reset(m);
    mem_get_stats(m, &s);
    assert_int_equal(s.private_frames, 0);
    mem_free(m);
}

static void test_code(void **st)
{
    struct err e = { 0 };
    struct mem *m = mem_new(16UL << 20, &e);
    (void)st;
    uint32_t g = *mem_code_gen(m, 0x5000);
    mem_code_mark(m, 0x5040, 0x41);
    assert_true(*mem_frame_flags(m, 0x5fff) & MEM_F_CODE);
    assert_false(mem_code_written(m, 0x5000, 0x40));
    assert_false(mem_code_written(m, 0x50c0, 0x1000 - 0xc0));
    assert_int_equal(*mem_code_gen(m, 0x5000), g);
    assert_true(mem_code_written(m, 0x4fff, 0x50)); /* spans into it from the frame before */
    assert_int_equal(*mem_code_gen(m, 0x5000), g + 1);
    assert_false(mem_code_written(m, 0x5040, 1)); /* the mark is spent */
    mem_code_mark(m, 0x5080, 1);
    char c = 0;
    assert_int_equal(mem_write(m, 0x5080, &c, 1), 0); /* devices count as well */
    assert_int_equal(*mem_code_gen(m, 0x5000), g + 2);
    mem_free(m);
}

/* Whether frame 0x5000 stops being watched after a while. */
static bool released(struct mem *m)
{
    for (unsigned k = 0; k < 100; k++)
        if (mem_code_release(m, 0x5000))
            return true;
    return false;
}

struct release {
    struct mem *m;
    unsigned calls;
    bool released;
};

/* In the middle of a mark: another one marks, its code is written, and the frame has no lines again. */
static void between(void *arg, gpa_t gpa)
{
    struct release *r = arg;

    if (r->calls++)
        return;
    mem_code_mark(r->m, gpa, 1);
    mem_code_written(r->m, gpa, 1);
    r->released = released(r->m);
}

static void test_code_release(void **st)
{
    const struct mem_listener l = { .code_marked = between };
    struct err e = { 0 };
    struct mem *m = mem_new(16UL << 20, &e);
    struct release r = { .m = m };
    struct mem_stats s;
    (void)st;
    assert_true(released(m)); /* never was code */
    mem_code_mark(m, 0x5040, 1);
    assert_false(released(m));
    mem_code_written(m, 0x5040, 1);
    mem_code_hold(m, true);
    assert_false(released(m));
    mem_code_hold(m, false);
    assert_true(*mem_frame_flags(m, 0x5000) & MEM_F_CODE);
    assert_true(released(m));
    assert_false(*mem_frame_flags(m, 0x5000) & MEM_F_CODE);
    mem_get_stats(m, &s);
    assert_int_equal(s.code_frames, 0);
    assert_int_equal(mem_listen(m, &l, &r), 0);
    mem_code_mark(m, 0x5040, 1);
    assert_int_equal(r.calls, 2);
    assert_false(r.released);
    mem_get_stats(m, &s);
    assert_int_equal(s.code_frames, 1);
    mem_unlisten(m, &l, &r);
    mem_code_written(m, 0x5040, 1);
    assert_true(released(m));
    mem_free(m);
}

/*
 * The race of code.c: a writer stores and then reports; a marker reads generation and bytes. When the writer is done
 * and the generation still stands, the marker must have seen the new bytes.
 */
struct race {
    struct mem *m;
    volatile uint32_t *word;
    volatile uint32_t go, done;
};

enum { RACE_ROUNDS = 20000 };

static void *racer(void *arg)
{
    struct race *r = arg;
    const volatile uint8_t *fl = mem_frame_flags(r->m, 0x7000);
    for (uint32_t i = 1; i <= RACE_ROUNDS; i++) {
        while (r->go < i)
            ;
        *r->word = i;
        if (*fl)
            mem_code_written(r->m, 0x7000, 4);
        __atomic_store_n(&r->done, i, __ATOMIC_SEQ_CST);
    }
    return NULL;
}

static void test_code_race(void **st)
{
    struct err e = { 0 };
    struct race r = { .m = mem_new(16UL << 20, &e) };
    pthread_t t;
    (void)st;
    r.word = (volatile uint32_t *)mem_frame_get(r.m, 0x7000);
    const volatile uint32_t *gen = mem_code_gen(r.m, 0x7000);
    pthread_create(&t, NULL, racer, &r);
    for (uint32_t i = 1; i <= RACE_ROUNDS; i++) {
        r.go = i;
        uint32_t g = *gen;
        mem_code_mark(r.m, 0x7000, 4);
        uint32_t seen = *r.word;
        while (__atomic_load_n(&r.done, __ATOMIC_SEQ_CST) < i)
            ;
        if (*gen == g)
            assert_int_equal(seen, i);
    }
    pthread_join(t, NULL);
    mem_free(r.m);
}

struct told {
    unsigned n;
    gpa_t lo, hi;
};
static void tell(void *arg, gpa_t gpa, uint64_t len)
{
    struct told *t = arg;
    t->n++;
    t->lo = gpa;
    t->hi = gpa + len;
}

static uint8_t peek(struct mem *m, gpa_t gpa)
{
    uint8_t x = 0xee;
    mem_read(m, gpa, &x, 1);
    return x;
}

static void test_discard(void **st)
{
    const struct mem_listener l = { .unmap = tell };
    struct told told = { 0 };
    struct err e = { 0 };
    struct mem *m = mem_new(16UL << 20, &e);
    uint8_t *block = malloc(1 << 20);
    (void)st;
    assert_int_equal(mem_listen(m, &l, &told), 0);
    memset(block, 0xaa, 1 << 20);
    mem_write(m, 0x100000, block, 1 << 20);
    assert_in_range(mem_occupied(m), 1 << 20, (1 << 20) + 65536);
    volatile uint8_t *host = (volatile uint8_t *)mem_frame_get(m, 0x140000);
    /* Whole frames only; absent and foreign ones count for nothing. */
    const struct mem_range r[] = { { 0x140800, 0x2000 }, { 0x180000, 0x1000 }, { 0x400000, 0x4000 },
                                   { 0xfff000, 0x2000 }, { UINT64_MAX, 9 },    { 0x150000, 0 } };
    assert_int_equal(mem_discard(m, r, ARRAY_LEN(r)), 0x2000);
    assert_int_equal(told.n, 0);
    assert_int_equal(peek(m, 0x140fff), 0xaa);
    assert_int_equal(peek(m, 0x141000), 0);
    assert_int_equal(peek(m, 0x142000), 0xaa);
    assert_int_equal(peek(m, 0x180000), 0);
    assert_in_range(mem_occupied(m), (1 << 20) - 0x2000, (1 << 20) - 0x2000 + 65536);
    /* Pointers that were handed out stay good, and what is written through them stays. */
    const struct mem_range one = { 0x140000, 0x1000 };
    assert_int_equal(mem_discard(m, &one, 1), 0x1000);
    assert_int_equal(*host, 0);
    *host = 7;
    assert_int_equal(peek(m, 0x140000), 7);
    /* Pinned frames stay. */
    const struct mem_range three = { 0x150000, 0x3000 };
    assert_non_null(mem_pin(m, 0x151000, 1));
    assert_int_equal(mem_discard(m, &three, 1), 0x2000);
    assert_int_equal(peek(m, 0x151000), 0xaa);
    assert_int_equal(peek(m, 0x152000), 0);
    mem_unpin(m, 0x151000, 1, false);
    /* Code: listeners are told, its generation moves. */
    uint32_t gen = *mem_code_gen(m, 0x161000);
    mem_code_mark(m, 0x161040, 4);
    const struct mem_range code = { 0x160000, 0x3000 };
    assert_int_equal(mem_discard(m, &code, 1), 0x3000);
    assert_int_equal(told.n, 1);
    assert_true(told.lo <= 0x161000 && told.hi >= 0x162000);
    assert_int_not_equal(*mem_code_gen(m, 0x161000), gen);
    mem_unlisten(m, &l, &told);
    free(block);
    mem_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),   cmocka_unit_test(test_gap),          cmocka_unit_test(test_absent),
        cmocka_unit_test(test_code),    cmocka_unit_test(test_code_release), cmocka_unit_test(test_code_race),
        cmocka_unit_test(test_discard),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
