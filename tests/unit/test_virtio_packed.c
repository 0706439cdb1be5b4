/* SPDX-License-Identifier: MIT */
/*
 * Packed virtqueues against a driver written from the standard: rings of all sizes, chains and indirect tables, answers
 * out of order, interrupts and notifications asked for by position, and every rule that a driver can break.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "mem/mem.h"
#include "state/state.h"
#include "virtio/queue.h"

enum { SIZE = 32, RING = 0x1000, DRIVER = 0x2000, DEVICE = 0x2100, TABLE = 0x4000, DATA = 0x10000, RAM = 1 << 20 };
enum { NEXT = 1, WRITE = 2, INDIRECT = 4, AVAIL = 1 << 7, USED = 1 << 15 };

struct desc {
    uint64_t addr;
    uint32_t len;
    uint16_t id, flags;
};

struct rig {
    struct mem *m;
    struct virtq q;
    struct virtq_chain c;
    /* the driver: */
    unsigned at, seen, free;
    bool at_wrap, seen_wrap;
    unsigned slots[SIZE]; /* of a chain, by ID; 0: the ID is free */
};

static void begin(struct rig *r, unsigned size, bool event)
{
    struct mem *m = r->m;
    memset(r, 0, sizeof(*r));
    r->m = m;
    mem_zero(m, 0, RAM);
    virtq_init(&r->q, m, SIZE);
    virtq_set_features(&r->q, true, true, event);
    r->q.size = (uint16_t)size;
    r->q.desc = RING;
    r->q.driver = DRIVER;
    r->q.device = DEVICE;
    r->q.ready = true;
    assert_true(virtq_check(&r->q));
    r->free = size;
    r->at_wrap = r->seen_wrap = true;
}

static int setup(void **st)
{
    struct rig *r = calloc(1, sizeof(*r));
    r->m = mem_new(RAM, NULL);
    begin(r, 8, false);
    *st = r;
    return 0;
}
static int teardown(void **st)
{
    struct rig *r = *st;
    mem_free(r->m);
    free(r);
    return 0;
}

/* ---- the driver ---- */

static void put(struct rig *r, struct desc d)
{
    d.flags = (uint16_t)(d.flags | (r->at_wrap ? AVAIL : USED));
    mem_write(r->m, RING + 16UL * r->at, &d, sizeof(d));
    if (++r->at == r->q.size) {
        r->at = 0;
        r->at_wrap = !r->at_wrap;
    }
}

/* n buffers, the first `out` of them to read, of lengths 1, 2, ... */
static void add(struct rig *r, unsigned id, unsigned n, unsigned out)
{
    for (unsigned k = 0; k < n; k++)
        put(r, (struct desc){ .addr = DATA + 0x200 * id + 16 * k,
                              .len = k + 1,
                              .id = (uint16_t)(k + 1 == n ? id : 0xffff), /* only the last one counts */
                              .flags = (uint16_t)((k + 1 < n ? NEXT : 0) | (k >= out ? WRITE : 0)) });
    r->slots[id] = n;
    r->free -= n;
}

static void add_indirect(struct rig *r, unsigned id, unsigned n, unsigned out)
{
    gpa_t table = TABLE + 0x200 * id;
    for (unsigned k = 0; k < n; k++) {
        /* "Others are reserved and are ignored by the device", and so is the ID. */
        struct desc d = { .addr = DATA + 0x200 * id + 16 * k,
                          .len = k + 1,
                          .id = (uint16_t)(0xff00 | k),
                          .flags = (uint16_t)((k >= out ? WRITE : 0) | (id & 1 ? NEXT | INDIRECT | AVAIL | USED : 0)) };
        mem_write(r->m, table + 16UL * k, &d, sizeof(d));
    }
    put(r, (struct desc){
               .addr = table, .len = 16 * n, .id = (uint16_t)id, .flags = id & 2 ? INDIRECT | WRITE : INDIRECT });
    r->slots[id] = 1;
    r->free--;
}

/* The next used one: its ID, or -1. */
static int used(struct rig *r, uint32_t *len)
{
    struct desc d;
    mem_read(r->m, RING + 16UL * r->seen, &d, sizeof(d));
    if (!!(d.flags & AVAIL) != r->seen_wrap || !!(d.flags & USED) != r->seen_wrap)
        return -1;
    assert_true(d.id < SIZE && r->slots[d.id]);
    *len = d.len;
    assert_int_equal(!!(d.flags & WRITE), d.len != 0);
    r->seen += r->slots[d.id];
    if (r->seen >= r->q.size) {
        r->seen -= r->q.size;
        r->seen_wrap = !r->seen_wrap;
    }
    r->free += r->slots[d.id];
    r->slots[d.id] = 0;
    return d.id;
}

static uint16_t get16(struct rig *r, gpa_t at)
{
    uint16_t x = 0;
    mem_read(r->m, at, &x, 2);
    return x;
}
static void put16(struct rig *r, gpa_t at, uint16_t x)
{
    mem_write(r->m, at, &x, 2);
}

static unsigned rnd(unsigned *seed, unsigned n)
{
    *seed = *seed * 1664525 + 1013904223;
    return (*seed >> 8) % n;
}

/* ---- random requests ---- */

struct play {
    struct rig *r;
    unsigned seed;
    unsigned taken[SIZE], len[SIZE], n_taken; /* IDs that we have, and what they will get */
    unsigned queued[SIZE], n_queued;          /* those that we have not taken, in order */
    unsigned unseen;                          /* given back, and not looked at by the driver */
};

static void play_add(struct play *p)
{
    struct rig *r = p->r;
    unsigned id = rnd(&p->seed, r->q.size), n = 1 + rnd(&p->seed, r->q.size), out = rnd(&p->seed, n + 1);
    bool indirect = rnd(&p->seed, 2);
    if (r->slots[id] || r->free < (indirect ? 1U : n))
        return;
    if (indirect)
        add_indirect(r, id, n, out);
    else
        add(r, id, n, out);
    p->queued[p->n_queued++] = id;
}

static void play_take(struct play *p)
{
    struct rig *r = p->r;
    uint64_t sum = 0;
    int got = virtq_pop(&r->q, &r->c);
    assert_int_equal(got, p->n_queued ? 1 : 0);
    if (!got)
        return;
    if (rnd(&p->seed, 5) == 0) {
        virtq_unpop(&r->q);
        assert_int_equal(virtq_pop(&r->q, &r->c), 1);
    }
    assert_int_equal(r->c.head, p->queued[0]);
    memmove(p->queued, p->queued + 1, --p->n_queued * sizeof(p->queued[0]));
    for (unsigned k = 0; k < (unsigned)r->c.n_out + r->c.n_in; k++) {
        assert_int_equal(r->c.buf[k].gpa, DATA + 0x200 * (unsigned)r->c.head + 16 * k);
        assert_int_equal(r->c.buf[k].len, k + 1);
        sum += k + 1;
    }
    assert_int_equal(r->c.out_len + r->c.in_len, sum);
    p->taken[p->n_taken] = r->c.head;
    p->len[p->n_taken++] = (unsigned)r->c.in_len;
}

static void play_give(struct play *p)
{
    unsigned k = p->n_taken ? rnd(&p->seed, p->n_taken) : 0;
    if (!p->n_taken)
        return;
    virtq_push(&p->r->q, (uint16_t)p->taken[k], p->len[k]);
    p->unseen++;
    p->n_taken--;
    p->taken[k] = p->taken[p->n_taken];
    p->len[k] = p->len[p->n_taken];
}

static void play_look(struct play *p)
{
    uint32_t len;
    int id = used(p->r, &len);
    assert_int_equal(id >= 0, p->unseen != 0);
    p->unseen -= id >= 0;
}

/* In and out in random order; the driver's view and ours never differ. */
static void test_random(void **st)
{
    static void (*const move[])(struct play *) = { play_add, play_take, play_give, play_look };
    for (unsigned size = 1; size <= SIZE; size++) /* also what is no power of two */
        for (unsigned seed = 0; seed < 10; seed++) {
            struct play p = { .r = *st, .seed = seed * 77 + size };
            begin(p.r, size, seed & 1);
            for (unsigned step = 0; step < 600; step++) {
                move[rnd(&p.seed, 4)](&p);
                assert_null(p.r->q.broken);
            }
            assert_int_equal(p.r->q.inflight, p.n_taken);
        }
}

/* ---- suppression ---- */

static void give_one(struct rig *r, unsigned id)
{
    add(r, id, 1, 1);
    assert_int_equal(virtq_pop(&r->q, &r->c), 1);
    virtq_push(&r->q, (uint16_t)id, 0);
}

/* An interrupt comes exactly when the position asked for is passed, wherever the ring wraps. */
static void test_event(void **st)
{
    struct rig *r = *st;
    uint32_t len;
    for (unsigned size = 2; size <= 7; size++) {
        begin(r, size, true);
        for (unsigned step = 0; step < 60; step++) {
            unsigned ahead = step % size, pos = r->seen + ahead;
            bool wrap = pos >= size ? !r->seen_wrap : r->seen_wrap;
            put16(r, DRIVER, (uint16_t)(pos % size | (unsigned)wrap << 15));
            put16(r, DRIVER + 2, 2);
            for (unsigned k = 0; k <= ahead; k++) {
                give_one(r, k);
                assert_int_equal(virtq_wants_interrupt(&r->q), k == ahead);
            }
            assert_false(virtq_wants_interrupt(&r->q));
            for (unsigned k = 0; k <= ahead; k++)
                assert_int_equal(used(r, &len), k);
        }
    }
    put16(r, DRIVER + 2, 1); /* not at all */
    give_one(r, 0);
    assert_false(virtq_wants_interrupt(&r->q));
    put16(r, DRIVER + 2, 0); /* always */
    give_one(r, 1);
    assert_true(virtq_wants_interrupt(&r->q));
}

static void test_notify(void **st)
{
    struct rig *r = *st;
    virtq_disable_notify(&r->q);
    assert_int_equal(get16(r, DEVICE + 2), 1);
    assert_false(virtq_enable_notify(&r->q));
    assert_int_equal(get16(r, DEVICE + 2), 0);
    add(r, 0, 1, 1);
    assert_true(virtq_enable_notify(&r->q)); /* it is there already */
    begin(r, 5, true);
    assert_false(virtq_enable_notify(&r->q));
    assert_int_equal(get16(r, DEVICE), 1 << 15);
    for (unsigned k = 0; k < 5; k++) {
        add(r, k, 1, 1);
        assert_int_equal(virtq_pop(&r->q, &r->c), 1);
    }
    assert_false(virtq_enable_notify(&r->q));
    assert_int_equal(get16(r, DEVICE), 0); /* slot 0, after the wrap */
    assert_int_equal(get16(r, DEVICE + 2), 2);
}

/* ---- rules ---- */

static void broken(struct rig *r, const char *part)
{
    assert_int_equal(virtq_pop(&r->q, &r->c), -EINVAL);
    assert_non_null(r->q.broken);
    if (!strstr(r->q.broken, part))
        fail_msg("\"%s\" instead of \"%s\"", r->q.broken, part);
    assert_int_equal(virtq_pop(&r->q, &r->c), -EINVAL);
    begin(r, 8, false);
}

static void test_rules(void **st)
{
    struct rig *r = *st;
    put(r, (struct desc){ .addr = DATA, .len = 1, .id = 8 });
    broken(r, "buffer ID");
    put(r, (struct desc){ .addr = DATA, .len = 1, .id = 3 });
    put(r, (struct desc){ .addr = DATA, .len = 1, .id = 3 });
    assert_int_equal(virtq_pop(&r->q, &r->c), 1);
    broken(r, "in flight");
    for (unsigned k = 0; k < 8; k++)
        put(r, (struct desc){ .addr = DATA, .len = 1, .flags = NEXT });
    broken(r, "loops");
    put(r, (struct desc){ .addr = RAM - 1, .len = 2 });
    broken(r, "outside of memory");
    put(r, (struct desc){ .addr = DATA, .len = 1, .flags = NEXT | WRITE });
    put(r, (struct desc){ .addr = DATA, .len = 1 });
    broken(r, "behind");
    put(r, (struct desc){ .addr = TABLE, .len = 16, .flags = INDIRECT | NEXT });
    broken(r, "indirect");
    put(r, (struct desc){ .addr = TABLE, .len = 24, .flags = INDIRECT });
    broken(r, "whole number");
    put(r, (struct desc){ .addr = RAM - 16, .len = 32, .flags = INDIRECT });
    broken(r, "outside of memory");
    r->q.indirect = false;
    put(r, (struct desc){ .addr = TABLE, .len = 16, .flags = INDIRECT });
    broken(r, "negotiated");
    add(r, 0, 5, 5); /* then a chain of five over those of one in flight */
    assert_int_equal(virtq_pop(&r->q, &r->c), 1);
    add(r, 1, 5, 5);
    broken(r, "more in flight");
    r->q.desc = RING + 8;
    assert_false(virtq_check(&r->q));
    begin(r, 8, false);
    r->q.driver = DRIVER + 2;
    assert_false(virtq_check(&r->q));
}

/* ---- state ---- */

static void test_state(void **st)
{
    struct rig *r = *st;
    struct state_out out = { 0 };
    struct virtq q;
    uint32_t len;
    begin(r, 5, true);
    for (unsigned k = 0; k < 7; k++) {
        give_one(r, k % 5);
        assert_int_equal(used(r, &len), k % 5);
    }
    virtq_save(&r->q, &out);
    for (unsigned at = 0; at < out.len; at++) { /* damaged: refused, or a ring that is checked again */
        struct state_in in = { .buf = out.buf, .len = out.len };
        out.buf[at] ^= 0xff;
        virtq_init(&q, r->m, SIZE);
        virtq_set_features(&q, true, true, true);
        if (virtq_load(&q, &in) == 0)
            assert_true(q.avail_next < q.size && q.used_next < q.size);
        out.buf[at] ^= 0xff;
    }
    struct state_in in = { .buf = out.buf, .len = out.len };
    virtq_init(&q, r->m, SIZE);
    virtq_set_features(&q, true, true, true);
    assert_int_equal(virtq_load(&q, &in), 0);
    r->q = q;
    add(r, 4, 2, 1);
    assert_int_equal(virtq_pop(&r->q, &r->c), 1);
    virtq_push(&r->q, 4, 0);
    assert_int_equal(used(r, &len), 4);
    state_out_free(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_random, setup, teardown),
        cmocka_unit_test_setup_teardown(test_event, setup, teardown),
        cmocka_unit_test_setup_teardown(test_notify, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rules, setup, teardown),
        cmocka_unit_test_setup_teardown(test_state, setup, teardown),
    };
    return cmocka_run_group_tests_name("test_virtio_packed", tests, NULL, NULL);
}
