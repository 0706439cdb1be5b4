/* SPDX-License-Identifier: MIT */
/* Split virtqueues: chains of every kind, suppression both ways, wrap-around, and every rule a driver can break. */
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

enum { SIZE = 8, DESC = 0x1000, AVAIL = 0x2000, USED = 0x3000, TABLE = 0x4000, DATA = 0x10000, RAM = 1 << 20 };
enum { NEXT = 1, WRITE = 2, INDIRECT = 4 };

struct rig {
    struct mem *m;
    struct virtq q;
    struct virtq_chain c;
    uint16_t idx;
};

struct desc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags, next;
};

static int setup(void **st)
{
    struct rig *r = calloc(1, sizeof(*r));
    r->m = mem_new(RAM, NULL);
    virtq_init(&r->q, r->m, SIZE);
    r->q.desc = DESC;
    r->q.driver = AVAIL;
    r->q.device = USED;
    r->q.indirect = true;
    r->q.ready = true;
    assert_true(virtq_check(&r->q));
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

static void put16(struct rig *r, gpa_t at, uint16_t x)
{
    mem_write(r->m, at, &x, 2);
}
static uint16_t get16(struct rig *r, gpa_t at)
{
    uint16_t x = 0;
    mem_read(r->m, at, &x, 2);
    return x;
}
static void desc(struct rig *r, gpa_t table, unsigned i, struct desc d)
{
    mem_write(r->m, table + 16UL * i, &d, sizeof(d));
}
static void avail(struct rig *r, uint16_t head)
{
    put16(r, AVAIL + 4 + 2UL * (r->idx % SIZE), head);
    put16(r, AVAIL + 2, ++r->idx);
}
static int pop(struct rig *r)
{
    return virtq_pop(&r->q, &r->c);
}

static void test_chains(void **st)
{
    struct rig *r = *st;
    assert_int_equal(pop(r), 0);
    desc(r, DESC, 3, (struct desc){ DATA, 100, NEXT, 5 });
    desc(r, DESC, 5, (struct desc){ DATA + 0x1000, 0, NEXT, 1 });
    desc(r, DESC, 1, (struct desc){ DATA + 0x2000, 50, NEXT | WRITE, 2 });
    desc(r, DESC, 2, (struct desc){ DATA + 0x3000, 7, WRITE, 3 });
    avail(r, 3);
    assert_int_equal(pop(r), 1);
    assert_int_equal(r->c.head, 3);
    assert_int_equal(r->c.n_out, 2);
    assert_int_equal(r->c.n_in, 2);
    assert_int_equal(r->c.out_len, 100);
    assert_int_equal(r->c.in_len, 57);
    assert_int_equal(r->c.buf[2].gpa, DATA + 0x2000);
    assert_int_equal(pop(r), 0);
    /* Bytes over buffer borders; past the end. */
    uint8_t b[200];
    for (unsigned i = 0; i < sizeof(b); i++)
        b[i] = (uint8_t)(i + 1);
    assert_int_equal(virtq_write(&r->q, &r->c, 45, b, 200), 12);
    assert_int_equal(get16(r, DATA + 0x2000 + 45), 0x0201);
    assert_int_equal(get16(r, DATA + 0x3000), 0x0706);
    mem_write(r->m, DATA + 90, b, 10);
    memset(b, 0, sizeof(b));
    assert_int_equal(virtq_read(&r->q, &r->c, 90, b, 200), 10);
    assert_int_equal(b[9], 10);
    assert_int_equal(virtq_read(&r->q, &r->c, 100, b, 1), 0);
    assert_int_equal(virtq_read(&r->q, &r->c, UINT64_MAX, b, 1), 0);
    virtq_push(&r->q, 3, 12);
    assert_int_equal(get16(r, USED + 2), 1);
    assert_int_equal(get16(r, USED + 4), 3);
    assert_int_equal(get16(r, USED + 8), 12);
}

static void test_indirect(void **st)
{
    struct rig *r = *st;
    /* A direct buffer, then a table; WRITE on the table's descriptor is to be ignored. */
    desc(r, DESC, 0, (struct desc){ DATA, 16, NEXT, 1 });
    desc(r, DESC, 1, (struct desc){ TABLE, 48, INDIRECT | WRITE, 0 });
    desc(r, TABLE, 0, (struct desc){ DATA + 0x1000, 1, NEXT, 2 });
    desc(r, TABLE, 2, (struct desc){ DATA + 0x2000, 2, NEXT | WRITE, 1 });
    desc(r, TABLE, 1, (struct desc){ DATA + 0x3000, 3, WRITE, 9 });
    avail(r, 0);
    assert_int_equal(pop(r), 1);
    assert_int_equal(r->c.n_out, 2);
    assert_int_equal(r->c.n_in, 2);
    assert_int_equal(r->c.buf[3].len, 3);
    virtq_unpop(&r->q);
    assert_int_equal(pop(r), 1); /* the same again */
    assert_int_equal(r->c.in_len, 5);
}

static void test_wrap(void **st)
{
    struct rig *r = *st;
    desc(r, DESC, 0, (struct desc){ DATA, 4, WRITE, 0 });
    for (unsigned i = 0; i < 70000; i++) {
        avail(r, 0);
        assert_int_equal(pop(r), 1);
        virtq_push(&r->q, 0, i);
        assert_int_equal(get16(r, USED + 2), (uint16_t)(i + 1));
    }
    assert_int_equal(pop(r), 0);
}

/* Breaks one rule each and expects the queue to say so, and to stay broken. */
static void broken(struct rig *r, const char *what)
{
    avail(r, 0);
    if (pop(r) != -EINVAL || !r->q.broken)
        fail_msg("%s: not noticed", what);
    desc(r, DESC, 0, (struct desc){ DATA, 4, 0, 0 });
    assert_int_equal(pop(r), -EINVAL);
    uint16_t used = get16(r, USED + 2);
    virtq_push(&r->q, 0, 0);
    assert_int_equal(get16(r, USED + 2), used); /* nothing is written any more */
    assert_false(virtq_wants_interrupt(&r->q));
    assert_false(virtq_enable_notify(&r->q));
    struct virtq q = r->q;
    virtq_reset(&r->q);
    assert_null(r->q.broken);
    r->q.desc = q.desc;
    r->q.driver = q.driver;
    r->q.device = q.device;
    r->q.ready = r->q.indirect = true;
    r->idx = 0;
    put16(r, AVAIL + 2, 0);
}

static void test_hostile(void **st)
{
    struct rig *r = *st;
    desc(r, DESC, 0, (struct desc){ DATA, 4, NEXT, 0 });
    broken(r, "a loop of one");
    desc(r, DESC, 0, (struct desc){ DATA, 4, NEXT, 1 });
    desc(r, DESC, 1, (struct desc){ DATA, 4, NEXT, 0 });
    broken(r, "a loop of two");
    desc(r, DESC, 0, (struct desc){ DATA, 4, NEXT, SIZE });
    broken(r, "next outside");
    desc(r, DESC, 0, (struct desc){ DATA, 4, NEXT, 0xffff });
    broken(r, "next far outside");
    desc(r, DESC, 0, (struct desc){ RAM - 2, 4, 0, 0 });
    broken(r, "a buffer across the end of memory");
    desc(r, DESC, 0, (struct desc){ MEM_GAP_START, 4, 0, 0 });
    broken(r, "a buffer in the gap");
    desc(r, DESC, 0, (struct desc){ UINT64_MAX - 1, 4, WRITE, 0 });
    broken(r, "a buffer that wraps around");
    desc(r, DESC, 0, (struct desc){ 0, UINT32_MAX, WRITE, 0 });
    broken(r, "a buffer of 4 GiB");
    desc(r, DESC, 0, (struct desc){ DATA, 4, WRITE | NEXT, 1 });
    desc(r, DESC, 1, (struct desc){ DATA, 4, 0, 0 });
    broken(r, "to read behind to write");
    desc(r, DESC, 0, (struct desc){ TABLE, 0, INDIRECT, 0 });
    broken(r, "an empty table");
    desc(r, DESC, 0, (struct desc){ TABLE, 24, INDIRECT, 0 });
    broken(r, "half a table");
    desc(r, DESC, 0, (struct desc){ TABLE, 16, INDIRECT | NEXT, 1 });
    broken(r, "a table with a successor");
    desc(r, DESC, 0, (struct desc){ RAM - 16, 32, INDIRECT, 0 });
    desc(r, RAM - 16, 0, (struct desc){ DATA, 4, NEXT, 1 });
    broken(r, "a table across the end of memory");
    desc(r, DESC, 0, (struct desc){ 0xfffffffffffffff0, 32, INDIRECT, 0 });
    broken(r, "a table that wraps around");
    desc(r, DESC, 0, (struct desc){ TABLE, 16, INDIRECT, 0 });
    desc(r, TABLE, 0, (struct desc){ TABLE, 16, INDIRECT, 0 });
    broken(r, "a table in a table");
    desc(r, DESC, 0, (struct desc){ TABLE, 0xfffffff0, INDIRECT, 0 });
    desc(r, TABLE, 0, (struct desc){ DATA, 4, NEXT, 0 });
    broken(r, "a loop in a huge table");
    for (unsigned i = 0; i < SIZE + 1; i++)
        desc(r, TABLE, i, (struct desc){ DATA, 1, i < SIZE ? NEXT : 0, (uint16_t)(i + 1) });
    desc(r, DESC, 0, (struct desc){ TABLE, 16 * (SIZE + 1), INDIRECT, 0 });
    broken(r, "a chain longer than the queue");
    put16(r, AVAIL + 4, SIZE);
    put16(r, AVAIL + 2, 1);
    assert_int_equal(pop(r), -EINVAL); /* a head outside */
    assert_non_null(r->q.broken);
}

static void test_hostile_index(void **st)
{
    struct rig *r = *st;
    put16(r, AVAIL + 2, SIZE + 1);
    assert_int_equal(pop(r), -EINVAL);
    assert_non_null(r->q.broken);
}

static void test_not_negotiated(void **st)
{
    struct rig *r = *st;
    r->q.indirect = false;
    desc(r, DESC, 0, (struct desc){ TABLE, 16, INDIRECT, 0 });
    desc(r, TABLE, 0, (struct desc){ DATA, 4, 0, 0 });
    avail(r, 0);
    assert_int_equal(pop(r), -EINVAL);
}

static void test_twice(void **st)
{
    struct rig *r = *st;
    desc(r, DESC, 0, (struct desc){ DATA, 4, WRITE, 0 });
    for (unsigned i = 0; i < SIZE; i++) {
        avail(r, 0); /* the same head again and again, none given back */
        assert_int_equal(pop(r), 1);
    }
    avail(r, 0);
    assert_int_equal(pop(r), -EINVAL);
    assert_int_equal(r->q.inflight, SIZE);
}

static void test_rings(void **st)
{
    struct rig *r = *st;
    static const struct {
        uint64_t desc, driver, device;
        uint16_t size;
    } bad[] = {
        { DESC + 8, AVAIL, USED, SIZE },   { DESC, AVAIL + 1, USED, SIZE },
        { DESC, AVAIL, USED + 2, SIZE },   { DESC, AVAIL, USED, 0 },
        { DESC, AVAIL, USED, 3 },          { DESC, AVAIL, USED, 2 * SIZE },
        { RAM, AVAIL, USED, SIZE },        { RAM - 64, AVAIL, USED, SIZE },
        { DESC, RAM - 4, USED, SIZE },     { DESC, AVAIL, RAM - 4, SIZE },
        { -16UL, AVAIL, USED, SIZE },      { DESC, -2UL, USED, SIZE },
        { DESC, AVAIL, -4UL, SIZE },       { MEM_GAP_START, AVAIL, USED, SIZE },
        { DESC, MEM_GAP_END, USED, SIZE },
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        virtq_reset(&r->q);
        r->q.event_idx = true;
        r->q.desc = bad[i].desc;
        r->q.driver = bad[i].driver;
        r->q.device = bad[i].device;
        r->q.size = bad[i].size;
        if (virtq_check(&r->q))
            fail_msg("case %zu was accepted", i);
    }
    /* Just fits at the end of memory, event words and all; without them it fits two bytes later. */
    virtq_reset(&r->q);
    r->q.desc = DESC;
    r->q.driver = AVAIL;
    r->q.device = RAM - 4 - 8 * SIZE - 4;
    r->q.event_idx = true;
    assert_true(virtq_check(&r->q));
    r->q.driver = RAM - 4 - 2 * SIZE - 2;
    assert_true(virtq_check(&r->q));
    r->q.driver += 2;
    r->q.event_idx = false;
    assert_true(virtq_check(&r->q));
    r->q.event_idx = true;
    assert_false(virtq_check(&r->q));
}

static void test_suppression(void **st)
{
    struct rig *r = *st;
    desc(r, DESC, 0, (struct desc){ DATA, 4, WRITE, 0 });
    assert_false(virtq_wants_interrupt(&r->q)); /* no buffer was used: there is nothing to tell */
    for (uint16_t no = 0; no < 2; no++) {
        put16(r, AVAIL, no);
        avail(r, 0);
        assert_int_equal(pop(r), 1);
        virtq_push(&r->q, 0, 0);
        assert_int_equal(virtq_wants_interrupt(&r->q), !no);
        assert_false(virtq_wants_interrupt(&r->q));
    }
    virtq_disable_notify(&r->q);
    assert_int_equal(get16(r, USED), 1);
    assert_false(virtq_enable_notify(&r->q));
    assert_int_equal(get16(r, USED), 0);
    avail(r, 0);
    assert_true(virtq_enable_notify(&r->q));
}

/* The device as the standard's vring_need_event sees it, over wrap-around and in batches. */
static void test_event_idx(void **st)
{
    struct rig *r = *st;
    r->q.event_idx = true;
    assert_false(virtq_wants_interrupt(&r->q));
    desc(r, DESC, 0, (struct desc){ DATA, 4, WRITE, 0 });
    uint16_t old = 0;
    uint32_t rnd = 12345;
    unsigned yes = 0, no = 0;
    for (unsigned round = 0; round < 40000; round++) {
        rnd = rnd * 1103515245 + 12345;
        unsigned batch = 1 + (rnd >> 16) % SIZE;
        uint16_t event = (uint16_t)(old + (rnd >> 20) % 12 - 2);
        put16(r, AVAIL + 4 + 2 * SIZE, event);
        for (unsigned i = 0; i < batch; i++)
            avail(r, 0);
        for (unsigned i = 0; i < batch; i++) {
            assert_int_equal(pop(r), 1);
            virtq_push(&r->q, 0, 0);
        }
        uint16_t now = (uint16_t)(old + batch);
        bool want = (uint16_t)(now - event - 1) < (uint16_t)(now - old);
        assert_int_equal(virtq_wants_interrupt(&r->q), want);
        assert_false(virtq_wants_interrupt(&r->q)); /* nothing new since */
        assert_false(virtq_enable_notify(&r->q));
        assert_int_equal(get16(r, USED + 4 + 8 * SIZE), r->idx);
        old = now;
        want ? yes++ : no++;
    }
    assert_true(yes > 1000 && no > 1000);
}

static void test_state(void **st)
{
    struct rig *r = *st;
    struct state_out out = { 0 };
    desc(r, DESC, 0, (struct desc){ DATA, 4, WRITE, 0 });
    for (int i = 0; i < 3; i++)
        avail(r, 0);
    assert_int_equal(pop(r), 1);
    virtq_push(&r->q, 0, 0);
    virtq_wants_interrupt(&r->q);
    virtq_save(&r->q, &out);
    struct virtq q;
    for (size_t n = 0; n <= out.len; n++) {
        struct state_in in = { .buf = out.buf, .len = n };
        virtq_init(&q, r->m, SIZE);
        assert_int_equal(virtq_load(&q, &in), n < out.len ? -EINVAL : 0);
    }
    q.indirect = r->q.indirect;
    assert_memory_equal(&q.desc, &r->q.desc, 24);
    r->q = q;
    assert_int_equal(pop(r), 1);
    assert_int_equal(pop(r), 1);
    assert_int_equal(pop(r), 0);
    out.buf[0] = 0xff; /* the size */
    out.buf[1] = 0xff;
    struct state_in in = { .buf = out.buf, .len = out.len };
    virtq_init(&q, r->m, SIZE);
    assert_int_equal(virtq_load(&q, &in), -EINVAL);
    state_out_free(&out);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_chains),        T(test_indirect),       T(test_wrap),  T(test_hostile),
        T(test_hostile_index), T(test_not_negotiated), T(test_twice), T(test_rings),
        T(test_suppression),   T(test_event_idx),      T(test_state),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
