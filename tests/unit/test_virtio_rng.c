/* SPDX-License-Identifier: MIT */
/* virtio-rng: random bytes into buffers of every shape, bounded work, state. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>

#include "base/log.h"
#include "host/limiter.h"
#include "virtio_time.h"

static int setup(void **st)
{
    struct drv *d = malloc(sizeof(*d));
    const struct virtio_env env = drv_open(d);
    d->v = virtio_rng_new(&env, NULL);
    *st = d;
    return 0;
}
static int teardown(void **st)
{
    drv_close(*st);
    free(*st);
    return 0;
}

static void test_bytes(void **st)
{
    struct drv *d = *st;
    uint8_t a[64], b[64];
    uint32_t len;
    assert_int_equal(drv_get(d, 8), 4);
    assert_int_equal(drv_get(d, 0x100), 0); /* no configuration space */
    drv_start(d, 0);
    drv_desc(d, 0, 0, (struct drv_desc){ DRV_DATA, 60, D_WRITE | D_NEXT, 1 });
    drv_desc(d, 0, 1, (struct drv_desc){ DRV_DATA + 0x1000, 4, D_WRITE, 0 });
    for (int round = 0; round < 2; round++) {
        drv_add(d, 0, 0);
        drv_kick(d, 0);
        assert_int_equal(drv_used(d, 0, &len), 0);
        assert_int_equal(len, 64);
        mem_read(d->mem, DRV_DATA, round ? b : a, 60);
        mem_read(d->mem, DRV_DATA + 0x1000, (round ? b : a) + 60, 4);
    }
    assert_memory_not_equal(a, b, 64);
    assert_memory_not_equal(a + 52, b + 52, 12); /* the last bytes too */
    mem_read(d->mem, DRV_DATA + 60, a, 2);
    assert_memory_equal(a, "\0", 2); /* not beyond the buffer */
}

static void test_odd_requests(void **st)
{
    struct drv *d = *st;
    uint32_t len;
    drv_start(d, 0);
    /* Nothing to write into: given back. A huge one: part of it is filled. */
    drv_desc(d, 0, 0, (struct drv_desc){ DRV_DATA, 64, 0, 0 });
    drv_desc(d, 0, 1, (struct drv_desc){ DRV_DATA, 4 << 20, D_WRITE, 0 });
    drv_add(d, 0, 0);
    drv_add(d, 0, 1);
    drv_kick(d, 0);
    assert_int_equal(drv_used(d, 0, &len), 0);
    assert_int_equal(len, 0);
    assert_int_equal(drv_used(d, 0, &len), 1);
    assert_int_equal(len, 4096);
    /* As many as the ring takes. */
    for (int i = 0; i < DRV_QSIZE; i++)
        drv_add(d, 0, 1);
    drv_kick(d, 0);
    drv_quiet(d);
    for (int i = 0; i < DRV_QSIZE; i++)
        assert_int_equal(drv_used(d, 0, &len), 1);
    assert_int_equal(drv_used(d, 0, &len), -1);
}

static void test_state(void **st)
{
    struct drv *d = *st;
    struct state_out out = { 0 };
    uint32_t len;
    drv_start(d, VIRTIO_F_EVENT_IDX);
    drv_desc(d, 0, 0, (struct drv_desc){ DRV_DATA, 8, D_WRITE, 0 });
    drv_add(d, 0, 0);
    assert_int_equal(virtio_mmio_ops.save(d->v, &out), 0);
    virtio_mmio_ops.reset(d->v);
    struct state_in in = { .buf = out.buf, .len = out.len };
    assert_int_equal(virtio_mmio_ops.load(d->v, &in, 1), 0);
    drv_quiet(d);
    assert_int_equal(drv_used(d, 0, &len), 0);
    assert_int_equal(len, 8);
    state_out_free(&out);
}

static void test_limit(void **st)
{
    struct drv *d = *st;
    static struct fake_timers f; /* the device ends after this function */
    const struct limiter_cfg limit = { .bandwidth = { 100, 0, 1000 } };
    uint32_t len;
    drv_close(d);
    struct virtio_env env = drv_open(d);
    fake_timers_init(&f);
    env.timers = &f.svc;
    d->v = virtio_rng_new(&env, &limit);
    drv_start(d, 0);
    drv_desc(d, 0, 0, (struct drv_desc){ DRV_DATA, 64, D_WRITE, 0 });
    for (int i = 0; i < 4; i++)
        drv_add(d, 0, 0);
    drv_kick(d, 0);
    assert_int_equal(drv_used(d, 0, &len), 0);
    for (int i = 1; i < 4; i++) {
        assert_int_equal(drv_used(d, 0, &len), -1);
        assert_int_equal(f.n, 1);
        virtio_time_pass(d, &f, i == 1 ? 279000000 : 639000000);
        assert_int_equal(drv_used(d, 0, &len), -1);
        virtio_time_pass(d, &f, 1000000);
        assert_int_equal(drv_used(d, 0, &len), 0);
        assert_int_equal(len, 64);
    }
    assert_int_equal(f.n, 0);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = { T(test_bytes), T(test_odd_requests), T(test_limit), T(test_state) };
    log_set_level(LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
