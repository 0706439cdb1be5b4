/* SPDX-License-Identifier: MIT */
/* virtio-balloon: what it does to guest memory, and its statistics by a clock that the test moves. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>

#include "base/log.h"
#include "state/state.h"
#include "virtio_driver.h"

enum { INFLATE, DEFLATE, STATS, REPORT, STANDARD_REPORT };
enum { STATS_F = 2, OOM_F = 4, REPORT_F = 32, FIRST = 0x200, FRAMES = 512 }; /* frames that are filled */
#define SECOND 1000000000UL

struct rig {
    struct drv d; /* first */
    struct timer_svc timers;
    struct timer *timer;
    uint64_t now;
    struct virtio_env env;
};

static uint64_t clock_now(struct timer_svc *t)
{
    return container_of(t, struct rig, timers)->now;
}
static void clock_arm(struct timer_svc *t, struct timer *x, uint64_t deadline)
{
    x->deadline = deadline;
    container_of(t, struct rig, timers)->timer = x;
}
static void clock_disarm(struct timer_svc *t, struct timer *x)
{
    (void)x;
    container_of(t, struct rig, timers)->timer = NULL;
}
/* The time passes, and what is due happens. */
static bool pass(struct rig *r, uint64_t ns)
{
    struct timer *t = r->timer;
    r->now += ns;
    if (!t || t->deadline > r->now)
        return false;
    r->timer = NULL;
    t->fn(t->arg);
    drv_quiet(&r->d);
    return true;
}

static void make(struct rig *r, const struct virtio_balloon_cfg *cfg)
{
    virtio_free(r->d.v);
    r->timer = NULL;
    r->d.v = virtio_balloon_new(&r->env, cfg);
    assert_non_null(r->d.v);
}

static int setup(void **st)
{
    struct rig *r = calloc(1, sizeof(*r));
    const struct virtio_balloon_cfg cfg = {
        .target = 1 << 20, .deflate_on_oom = true, .reporting = true, .stats_seconds = 5
    };
    r->env = drv_open(&r->d);
    r->timers = (struct timer_svc){ .now = clock_now, .arm = clock_arm, .disarm = clock_disarm };
    r->env.timers = &r->timers;
    r->now = SECOND;
    make(r, &cfg);
    uint8_t *b = malloc(FRAMES << PAGE_SHIFT);
    memset(b, 0xaa, FRAMES << PAGE_SHIFT);
    mem_write(r->d.mem, FIRST << PAGE_SHIFT, b, FRAMES << PAGE_SHIFT);
    free(b);
    *st = r;
    return 0;
}
static int teardown(void **st)
{
    struct rig *r = *st;
    drv_close(&r->d);
    assert_null(r->timer);
    free(r);
    return 0;
}

static uint32_t config(struct rig *r, unsigned off)
{
    uint32_t x = 0;
    virtio_mmio_ops.read(r->d.v, 0x100 + off, &x, 4);
    return x;
}
static struct virtio_balloon_info info(struct rig *r)
{
    struct virtio_balloon_info i;
    virtio_balloon_get(r->d.v, &i);
    return i;
}
static uint8_t peek(struct rig *r, unsigned frame)
{
    uint8_t x = 0xee;
    mem_read(r->d.mem, ((gpa_t)frame << PAGE_SHIFT) + 77, &x, 1);
    return x;
}

/* Host memory in use, with that of rings and lists always counted. */
static uint64_t occupied(struct rig *r)
{
    for (unsigned q = 0; q < 5; q++)
        for (unsigned i = 0; i < 3; i++)
            mem_write(r->d.mem, drv_desc_at(q) + i * PAGE_SIZE + 4095, "", 1);
    mem_write(r->d.mem, DRV_DATA + 4095, "", 1);
    return mem_occupied(r->d.mem);
}

/* Lists frames, in two buffers. */
static void list(struct rig *r, unsigned q, const uint32_t *pfn, uint32_t n)
{
    uint32_t first = n / 2 * 4;
    mem_write(r->d.mem, DRV_DATA, pfn, 4UL * n);
    drv_desc(&r->d, q, 0, (struct drv_desc){ DRV_DATA, first, D_NEXT, 1 });
    drv_desc(&r->d, q, 1, (struct drv_desc){ DRV_DATA + first, 4 * n - first, 0, 0 });
    drv_add(&r->d, q, 0);
    drv_kick(&r->d, q);
    drv_quiet(&r->d);
    assert_int_equal(drv_used(&r->d, q, NULL), 0);
    drv_ack(&r->d);
}

static void test_config(void **st)
{
    struct rig *r = *st;
    uint32_t x = 3;
    assert_int_equal(drv_get(&r->d, 8), 5);
    assert_int_equal(drv_offered(&r->d) & 0xff, STATS_F | OOM_F | REPORT_F);
    assert_int_equal(config(r, 0), 256);
    drv_start(&r->d, 0);
    virtio_mmio_ops.write(r->d.v, 0x100, &x, 4); /* the host's */
    virtio_mmio_ops.write(r->d.v, 0x104, &x, 4);
    virtio_mmio_ops.write(r->d.v, 0x107, &x, 1);
    virtio_mmio_ops.write(r->d.v, 0x106, &x, 4); /* beyond */
    assert_int_equal(config(r, 0), 256);
    assert_int_equal(config(r, 4), 0x03000003);
    x = 17;
    virtio_mmio_ops.write(r->d.v, 0x104, &x, 4);
    assert_int_equal(info(r).actual, 17 << PAGE_SHIFT);
    assert_int_equal(drv_get(&r->d, 0x60), 0);
    assert_int_equal(virtio_balloon_set(r->d.v, 1 << 20), 0);
    assert_int_equal(drv_get(&r->d, 0x60), 0); /* nothing new */
    assert_int_equal(virtio_balloon_set(r->d.v, 2 << 20), 0);
    assert_int_equal(drv_get(&r->d, 0x60), 2);
    assert_int_equal(config(r, 0), 512);
    assert_int_equal(virtio_balloon_set(r->d.v, DRV_RAM + 4096), -EINVAL);
    assert_int_equal(info(r).target, 2 << 20);
    drv_set(&r->d, 0x70, 0); /* after a reset the guest holds all its memory again */
    assert_int_equal(info(r).actual, 0);
    assert_int_equal(config(r, 0), 512);
    make(r, &(struct virtio_balloon_cfg){ 0 });
    assert_int_equal(drv_offered(&r->d) & 0xff, 0);
    assert_int_equal(r->d.v->n_queues, 2);
    assert_int_equal(virtio_balloon_poll(r->d.v, 1), -EINVAL);
}

static void test_inflate(void **st)
{
    struct rig *r = *st;
    static uint32_t many[300];
    drv_start(&r->d, 0);
    uint64_t before = occupied(r);
    const uint32_t pfn[] = { FIRST + 7,  FIRST,  FIRST + 6, FIRST + 7, FIRST + 2, DRV_RAM >> PAGE_SHIFT,
                             UINT32_MAX, 0xc0000 };
    list(r, INFLATE, pfn, ARRAY_LEN(pfn));
    assert_int_equal(before - occupied(r), 4 << PAGE_SHIFT);
    for (unsigned i = 0; i < 10; i++)
        assert_int_equal(peek(r, FIRST + i), i == 0 || i == 2 || i == 6 || i == 7 ? 0 : 0xaa);
    assert_int_equal(info(r).inflated, 4 << PAGE_SHIFT);
    assert_int_equal(info(r).given_back, 4 << PAGE_SHIFT);
    /* Again: reading has made them zero pages. */
    list(r, INFLATE, pfn, ARRAY_LEN(pfn));
    assert_int_equal(before - occupied(r), 4 << PAGE_SHIFT);
    for (uint32_t i = 0; i < ARRAY_LEN(many); i++)
        many[i] = FIRST + 511 - i;
    list(r, INFLATE, many, ARRAY_LEN(many));
    assert_int_equal(before - occupied(r), 304 << PAGE_SHIFT);
    assert_int_equal(peek(r, FIRST + 212), 0);
    assert_int_equal(peek(r, FIRST + 211), 0xaa);
    /* Touched without a word, or deflated: there again. */
    mem_write(r->d.mem, (FIRST + 7) << PAGE_SHIFT, "x", 1);
    list(r, DEFLATE, pfn, 4);
    mem_write(r->d.mem, FIRST << PAGE_SHIFT, "y", 1);
    assert_int_equal(before - occupied(r), 301 << PAGE_SHIFT); /* and the one that was looked at */
    assert_int_equal(peek(r, FIRST), 0);
    assert_int_equal(info(r).deflated, 3 << PAGE_SHIFT);
}

static void test_odd_requests(void **st)
{
    struct rig *r = *st;
    uint32_t pfn = FIRST + 9;
    drv_start(&r->d, 0);
    mem_write(r->d.mem, DRV_DATA, &pfn, 4);
    drv_desc(&r->d, INFLATE, 0, (struct drv_desc){ DRV_DATA, 0, 0, 0 });       /* empty */
    drv_desc(&r->d, INFLATE, 1, (struct drv_desc){ DRV_DATA, 3, 0, 0 });       /* no whole number */
    drv_desc(&r->d, INFLATE, 2, (struct drv_desc){ DRV_DATA, 4, D_WRITE, 0 }); /* of the other direction */
    drv_desc(&r->d, INFLATE, 3, (struct drv_desc){ DRV_DATA, 6, 0, 0 });       /* one and a half */
    for (uint16_t i = 0; i < 4; i++)
        drv_add(&r->d, INFLATE, i);
    drv_kick(&r->d, INFLATE);
    drv_quiet(&r->d);
    for (int i = 0; i < 4; i++)
        assert_int_equal(drv_used(&r->d, INFLATE, NULL), i);
    assert_int_equal(info(r).inflated, 1 << PAGE_SHIFT);
    assert_int_equal(peek(r, FIRST + 9), 0);
    /* A frame that a transfer is under way to stays. */
    assert_non_null(mem_pin(r->d.mem, (FIRST + 20) << PAGE_SHIFT, 512));
    const uint32_t pinned[] = { FIRST + 19, FIRST + 20 };
    list(r, INFLATE, pinned, 2);
    mem_unpin(r->d.mem, (FIRST + 20) << PAGE_SHIFT, 512, false);
    assert_int_equal(peek(r, FIRST + 19), 0);
    assert_int_equal(peek(r, FIRST + 20), 0xaa);
    /* Its own rings: the driver loses its requests, nothing else. */
    const uint32_t rings[] = { DRV_RINGS >> PAGE_SHIFT, (DRV_RINGS >> PAGE_SHIFT) + 1, (DRV_RINGS >> PAGE_SHIFT) + 2 };
    mem_write(r->d.mem, DRV_DATA, rings, sizeof(rings));
    drv_desc(&r->d, INFLATE, 0, (struct drv_desc){ DRV_DATA, sizeof(rings), 0, 0 });
    drv_add(&r->d, INFLATE, 0);
    drv_kick(&r->d, INFLATE);
    drv_quiet(&r->d);
}

/* The reporting queue comes behind those that are in use, or where the standard puts it. */
static void report(struct rig *r, unsigned q)
{
    drv_desc(&r->d, q, 0, (struct drv_desc){ (FIRST + 64) << PAGE_SHIFT, 32 << PAGE_SHIFT, D_WRITE | D_NEXT, 1 });
    drv_desc(&r->d, q, 1, (struct drv_desc){ ((FIRST + 128) << PAGE_SHIFT) + 8, 2 << PAGE_SHIFT, D_WRITE, 0 });
    drv_add(&r->d, q, 0);
    drv_kick(&r->d, q);
    drv_quiet(&r->d);
    assert_int_equal(drv_used(&r->d, q, NULL), 0);
}

static void test_reporting(void **st)
{
    struct rig *r = *st;
    uint64_t before = occupied(r);
    drv_start(&r->d, REPORT_F | STATS_F);
    report(r, REPORT);
    assert_int_equal(before - occupied(r), 33 << PAGE_SHIFT);
    assert_int_equal(peek(r, FIRST + 63), 0xaa);
    assert_int_equal(peek(r, FIRST + 64), 0);
    assert_int_equal(peek(r, FIRST + 95), 0);
    assert_int_equal(peek(r, FIRST + 96), 0xaa);
    assert_int_equal(peek(r, FIRST + 128), 0xaa);
    assert_int_equal(peek(r, FIRST + 129), 0);
    assert_int_equal(info(r).reported, 34 << PAGE_SHIFT);
    assert_int_equal(info(r).given_back, 33 << PAGE_SHIFT);
    mem_write(r->d.mem, (FIRST + 64) << PAGE_SHIFT, "x", 1);
    drv_start(&r->d, REPORT_F);
    report(r, STATS);
    assert_int_equal(before - occupied(r), 33 << PAGE_SHIFT);
    for (uint64_t f = 0; f <= STATS_F; f += STATS_F) {
        mem_write(r->d.mem, (FIRST + 64) << PAGE_SHIFT, "x", 1);
        drv_start(&r->d, REPORT_F | f);
        report(r, STANDARD_REPORT);
        assert_int_equal(before - occupied(r), 33 << PAGE_SHIFT);
    }
    /* Not negotiated: such a queue is nobody's. */
    drv_start(&r->d, STATS_F);
    for (unsigned q = REPORT; q <= STANDARD_REPORT; q++) {
        drv_desc(&r->d, q, 0, (struct drv_desc){ (FIRST + 200) << PAGE_SHIFT, 4096, D_WRITE, 0 });
        drv_add(&r->d, q, 0);
        drv_kick(&r->d, q);
        drv_quiet(&r->d);
        assert_int_equal(drv_used(&r->d, q, NULL), -1);
        assert_int_equal(peek(r, FIRST + 200), 0xaa);
    }
}

static void stat_buffer(struct rig *r, uint64_t free_bytes)
{
    struct {
        uint16_t tag;
        uint64_t val;
    } __attribute__((packed)) s[] = { { 4, free_bytes }, { 5, 1000 }, { 99, 7 }, { 15, 3 } };
    mem_write(r->d.mem, DRV_DATA, s, sizeof(s));
    drv_desc(&r->d, STATS, 0, (struct drv_desc){ DRV_DATA, sizeof(s) + 5, 0, 0 }); /* half an entry behind */
    drv_add(&r->d, STATS, 0);
    drv_kick(&r->d, STATS);
    drv_quiet(&r->d);
}

static void test_statistics(void **st)
{
    struct rig *r = *st;
    assert_null(r->timer);
    drv_start(&r->d, STATS_F | VIRTIO_F_EVENT_IDX);
    assert_int_equal(info(r).stats_updates, 0);
    stat_buffer(r, 500);
    assert_int_equal(drv_used(&r->d, STATS, NULL), -1); /* it is kept */
    assert_int_equal(info(r).stats_updates, 1);
    assert_int_equal(info(r).stats_known, 1U << 4 | 1U << 5 | 1U << 15);
    assert_int_equal(info(r).stats[4], 500);
    assert_string_equal(virtio_balloon_stat_name(4), "free_memory");
    assert_string_equal(virtio_balloon_stat_name(15), "direct_reclaim");
    assert_false(pass(r, 4 * SECOND));
    assert_true(pass(r, SECOND)); /* and given back for new ones when it is time */
    assert_int_equal(drv_used(&r->d, STATS, NULL), 0);
    assert_int_equal(r->d.level, 1);
    drv_ack(&r->d);
    assert_true(pass(r, 5 * SECOND)); /* the driver is late: nothing happens */
    assert_int_equal(drv_used(&r->d, STATS, NULL), -1);
    stat_buffer(r, 400);
    assert_int_equal(info(r).stats[4], 400);
    assert_int_equal(virtio_balloon_poll(r->d.v, 0), -EINVAL);
    assert_int_equal(virtio_balloon_poll(r->d.v, 1), 0);
    assert_true(pass(r, SECOND));
    assert_int_equal(drv_used(&r->d, STATS, NULL), 0);
    stat_buffer(r, 300);
    assert_int_equal(info(r).stats_updates, 3);
    drv_start(&r->d, 0); /* a driver without */
    assert_int_equal(info(r).stats_known, 0);
    pass(r, 10 * SECOND);
    assert_null(r->timer);
}

static void test_state(void **st)
{
    struct rig *r = *st;
    struct state_out out = { 0 };
    uint32_t actual = 5;
    drv_start(&r->d, STATS_F | REPORT_F);
    virtio_mmio_ops.write(r->d.v, 0x104, &actual, 4);
    virtio_balloon_set(r->d.v, 3 << 20);
    stat_buffer(r, 77);
    assert_int_equal(virtio_mmio_ops.save(r->d.v, &out), 0);
    make(r, &(struct virtio_balloon_cfg){ .deflate_on_oom = true, .reporting = true, .stats_seconds = 5 });
    for (size_t n = 0; n < out.len; n++) {
        struct state_in in = { .buf = out.buf, .len = n };
        assert_int_equal(virtio_mmio_ops.load(r->d.v, &in, 1), -EINVAL);
    }
    assert_int_equal(info(r).target, 0);
    struct state_in in = { .buf = out.buf, .len = out.len };
    assert_int_equal(virtio_mmio_ops.load(r->d.v, &in, 1), 0);
    drv_quiet(&r->d);
    assert_int_equal(info(r).target, 3 << 20);
    assert_int_equal(info(r).actual, 5 << PAGE_SHIFT);
    assert_int_equal(info(r).stats[4], 77); /* the buffer that was kept is read again, */
    assert_true(pass(r, 5 * SECOND));
    assert_int_equal(drv_used(&r->d, STATS, NULL), 0); /* and given back in time */
    report(r, REPORT);
    assert_int_equal(info(r).given_back, 33 << PAGE_SHIFT);
    out.buf[out.len - 14] = 0x10; /* a target beyond RAM */
    in = (struct state_in){ .buf = out.buf, .len = out.len };
    assert_int_equal(virtio_mmio_ops.load(r->d.v, &in, 1), -EINVAL);
    assert_int_equal(info(r).target, 3 << 20);
    state_out_free(&out);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_config), T(test_inflate), T(test_odd_requests), T(test_reporting), T(test_statistics), T(test_state),
    };
    log_set_level(LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
