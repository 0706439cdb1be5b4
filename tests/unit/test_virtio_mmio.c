/* SPDX-License-Identifier: MIT */
/* The MMIO transport and the device core under it, driven through registers, with a small device of our own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdio.h>

#include "base/log.h"
#include "state/state.h"
#include "virtio_driver.h"

#define F_ODD (1UL << 50)

/* Gives every request back at once; counts what it is told. */
struct echo {
    struct virtio_dev v;
    unsigned activated, reset, budget;
    uint8_t conf[12];
    uint32_t state;
};

static unsigned echo_config(struct virtio_dev *v, uint8_t *buf)
{
    memcpy(buf, ((struct echo *)v)->conf, 12);
    return 12;
}
static void echo_config_write(struct virtio_dev *v, unsigned off, const uint8_t *buf, unsigned len)
{
    assert_true(off + len <= 12);
    memcpy(((struct echo *)v)->conf + off, buf, len);
}
static bool echo_features_ok(struct virtio_dev *v, uint64_t f)
{
    (void)v;
    return !(f & F_ODD);
}
static void echo_activate(struct virtio_dev *v)
{
    ((struct echo *)v)->activated++;
}
static bool echo_serve(struct virtio_dev *v, unsigned q)
{
    struct echo *e = (struct echo *)v;
    for (unsigned i = 0; i < e->budget; i++) {
        if (virtq_pop(&v->q[q], &v->chain) != 1) {
            if (!virtq_enable_notify(&v->q[q])) {
                virtio_signal(v, q);
                return false;
            }
            continue;
        }
        virtq_push(&v->q[q], v->chain.head, 1);
    }
    virtio_signal(v, q);
    return true;
}
static void echo_reset(struct virtio_dev *v)
{
    ((struct echo *)v)->reset++;
}
static void echo_save(struct virtio_dev *v, struct state_out *s)
{
    state_put_u32(s, ((struct echo *)v)->state);
}
static int echo_load(struct virtio_dev *v, struct state_in *s)
{
    uint32_t x = state_get_u32(s);
    if (s->bad || x > 1000)
        return -EINVAL;
    ((struct echo *)v)->state = x;
    return 0;
}
static void echo_free(struct virtio_dev *v)
{
    virtio_fini(v);
    free(v);
}

static const struct virtio_ops echo_ops = {
    .name = "echo",
    .id = 77,
    .config = echo_config,
    .config_write = echo_config_write,
    .features_ok = echo_features_ok,
    .activate = echo_activate,
    .serve = echo_serve,
    .reset = echo_reset,
    .save = echo_save,
    .load = echo_load,
    .free = echo_free,
};

static struct virtio_dev *echo_new(const struct virtio_env *env)
{
    struct echo *e = calloc(1, sizeof(*e));
    e->budget = 4;
    for (uint8_t i = 0; i < 12; i++)
        e->conf[i] = (uint8_t)(0xa0 + i);
    virtio_init(&e->v, &echo_ops, env, F_ODD | 5);
    virtio_add_queue(&e->v, 16);
    virtio_add_queue(&e->v, 256);
    return &e->v;
}

static int setup(void **st)
{
    struct drv *d = malloc(sizeof(*d));
    const struct virtio_env env = drv_open(d);
    d->v = echo_new(&env);
    *st = d;
    return 0;
}
static int teardown(void **st)
{
    drv_close(*st);
    free(*st);
    return 0;
}

static void test_registers(void **st)
{
    struct drv *d = *st;
    assert_int_equal(drv_get(d, 0x00), 0x74726976);
    assert_int_equal(drv_get(d, 0x04), 2);
    assert_int_equal(drv_get(d, 0x08), 77);
    assert_int_equal(drv_offered(d), F_ODD | 5 | VIRTIO_F_VERSION_1 | VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX |
                                         VIRTIO_F_RING_PACKED | VIRTIO_F_RING_RESET);
    drv_set(d, 0x14, 2);
    assert_int_equal(drv_get(d, 0x10), 0);
    for (unsigned q = 0; q < 4; q++) {
        drv_set(d, 0x30, q);
        assert_int_equal(drv_get(d, 0x34), q == 0 ? 16 : q == 1 ? 256 : 0);
        drv_set(d, 0x44, 1);
        assert_int_equal(drv_get(d, 0x44), q < 2);
    }
    drv_set(d, 0xac, 0); /* no shared memory: a length of all ones */
    for (uint64_t off = 0xb0; off <= 0xbc; off += 4)
        assert_int_equal(drv_get(d, off), UINT32_MAX);
    /* Only aligned words reach registers. */
    uint8_t b[8];
    for (unsigned len = 1; len <= 8; len *= 2) {
        memset(b, 0x55, sizeof(b));
        virtio_mmio_ops.read(d->v, 0, b, len);
        assert_int_equal(b[0], len == 4 ? 0x76 : 0);
        assert_int_equal(b[7], len == 8 ? 0 : 0x55);
    }
    virtio_mmio_ops.read(d->v, 2, b, 4);
    assert_int_equal(b[0], 0);
    b[0] = 1;
    virtio_mmio_ops.write(d->v, 0x70, b, 1);
    virtio_mmio_ops.write(d->v, 0x70, b, 2);
    assert_int_equal(drv_get(d, 0x70), 0);
    /* Everything else reads 0 and takes writes. */
    for (uint64_t off = 0; off < 0x1000; off++)
        for (unsigned len = 1; len <= 8; len *= 2)
            virtio_mmio_ops.read(d->v, off, b, len);
}

static void test_config(void **st)
{
    struct drv *d = *st;
    uint8_t b[8];
    virtio_mmio_ops.read(d->v, 0x103, b, 1);
    assert_int_equal(b[0], 0xa3);
    virtio_mmio_ops.read(d->v, 0x102, b, 2);
    assert_int_equal(b[1], 0xa3);
    virtio_mmio_ops.read(d->v, 0x104, b, 8);
    assert_int_equal(b[7], 0xab);
    virtio_mmio_ops.read(d->v, 0x10a, b, 4); /* over the end */
    assert_memory_equal(b, "\xaa\xab\0\0", 4);
    virtio_mmio_ops.read(d->v, 0xff8, b, 8);
    assert_memory_equal(b, "\0\0\0\0\0\0\0\0", 8);
    virtio_mmio_ops.write(d->v, 0x101, "\x11", 1);
    virtio_mmio_ops.write(d->v, 0x10a, "\1\2\3\4", 4); /* over the end: nothing */
    virtio_mmio_ops.read(d->v, 0x100, b, 4);
    assert_memory_equal(b, "\xa0\x11\xa2\xa3", 4);
    uint32_t gen = drv_get(d, 0xfc);
    lock_take(&d->v->lock);
    virtio_config_changed(d->v);
    lock_drop(&d->v->lock);
    assert_int_not_equal(drv_get(d, 0xfc), gen);
    assert_int_equal(d->level, 0); /* no driver yet */
    drv_start(d, 0);
    lock_take(&d->v->lock);
    virtio_config_changed(d->v);
    lock_drop(&d->v->lock);
    assert_int_equal(drv_get(d, 0x60), 2);
    assert_int_equal(d->level, 1);
}

static void test_status(void **st)
{
    struct drv *d = *st;
    struct echo *e = (struct echo *)d->v;
    /* Features are refused by silence: not offered, no VERSION_1, a combination the device does not like. */
    assert_int_equal(drv_negotiate(d, VIRTIO_F_VERSION_1 | 2), 3);
    assert_int_equal(drv_negotiate(d, 5), 3);
    assert_int_equal(drv_negotiate(d, VIRTIO_F_VERSION_1 | F_ODD), 3);
    assert_int_equal(drv_negotiate(d, VIRTIO_F_VERSION_1 | 4), 11);
    /* Too late to change them. */
    drv_set(d, 0x24, 0);
    drv_set(d, 0x20, 5);
    drv_set(d, 0x70, 15);
    assert_true(virtio_has(d->v, 4));
    assert_false(virtio_has(d->v, 1));
    assert_int_equal(drv_get(d, 0x70), 15);
    assert_int_equal(e->activated, 1);
    /* Bits do not go away one by one. */
    drv_set(d, 0x70, 3);
    assert_int_equal(drv_get(d, 0x70), 15);
    /* NEEDS_RESET is the device's. */
    drv_set(d, 0x70, 15 | 64);
    assert_int_equal(drv_get(d, 0x70), 15);
    drv_set(d, 0x70, 15 | 128);
    assert_int_equal(drv_get(d, 0x70), 15 | 128);
    unsigned resets = e->reset;
    drv_set(d, 0x70, 0);
    assert_int_equal(drv_get(d, 0x70), 0);
    assert_int_equal(e->reset, resets + 1);
    /* DRIVER_OK without FEATURES_OK does nothing; FEATURES_OK without DRIVER neither. */
    drv_set(d, 0x70, 1 | 2 | 4);
    assert_int_equal(drv_get(d, 0x70), 3);
    drv_set(d, 0x70, 0);
    drv_set(d, 0x24, 1);
    drv_set(d, 0x20, 1);
    drv_set(d, 0x70, 1 | 8);
    assert_int_equal(drv_get(d, 0x70), 1);
    assert_int_equal(e->activated, 1);
}

static void test_requests(void **st)
{
    struct drv *d = *st;
    uint32_t len;
    drv_start(d, 0);
    drv_desc(d, 0, 3, (struct drv_desc){ DRV_DATA, 64, D_WRITE, 0 });
    drv_add(d, 0, 3);
    assert_int_equal(drv_used(d, 0, NULL), -1);
    drv_kick(d, 0);
    assert_int_equal(drv_used(d, 0, &len), 3);
    assert_int_equal(len, 1);
    assert_int_equal(drv_get(d, 0x60), 1);
    assert_int_equal(d->level, 1);
    drv_ack(d);
    assert_int_equal(drv_get(d, 0x60), 0);
    assert_int_equal(d->level, 0);
    /* More than one round of the device: it goes on by itself. */
    for (int i = 0; i < 16; i++)
        drv_add(d, 0, 3);
    drv_kick(d, 0);
    drv_quiet(d);
    for (int i = 0; i < 16; i++)
        assert_int_equal(drv_used(d, 0, NULL), 3);
    /* Notifications of what is not there. */
    drv_kick(d, 2);
    drv_kick(d, 0xffffffff);
    /* Queue registers are frozen; a queue can be taken away. */
    drv_set(d, 0x30, 0);
    drv_set(d, 0x80, 0x1234);
    assert_int_equal(d->v->q[0].desc, drv_desc_at(0));
    drv_set(d, 0x44, 0);
    drv_add(d, 0, 3);
    drv_kick(d, 0);
    assert_int_equal(drv_used(d, 0, NULL), -1);
}

static void test_partial_ack(void **st)
{
    struct drv *d = *st;
    drv_start(d, 0);
    drv_desc(d, 0, 0, (struct drv_desc){ DRV_DATA, 64, D_WRITE, 0 });
    drv_add(d, 0, 0);
    drv_kick(d, 0);
    lock_take(&d->v->lock);
    virtio_config_changed(d->v);
    lock_drop(&d->v->lock);
    assert_int_equal(drv_get(d, 0x60), 3);
    int edges = d->edges;
    drv_set(d, 0x64, 1);
    assert_int_equal(d->level, 1);
    assert_int_equal(d->edges, edges + 1); /* an edge-triggered pin must not lose the other */
    drv_set(d, 0x64, 2);
    assert_int_equal(d->level, 0);
}

static void test_broken(void **st)
{
    struct drv *d = *st;
    drv_start(d, 0);
    drv_desc(d, 0, 0, (struct drv_desc){ MEM_GAP_START, 64, D_WRITE, 0 });
    drv_add(d, 0, 0);
    drv_kick(d, 0);
    assert_int_equal(drv_get(d, 0x70), 15 | 64);
    assert_int_equal(drv_get(d, 0x60), 2);
    assert_int_equal(drv_used(d, 0, NULL), -1);
    assert_int_equal(drv_counter(d, "broken_rules"), 1);
    assert_int_equal(drv_counter(d, "notifications"), 1);
    assert_int_equal(drv_counter(d, "interrupts"), 1);
    /* The other queue stops too. */
    drv_desc(d, 1, 0, (struct drv_desc){ DRV_DATA, 64, D_WRITE, 0 });
    drv_add(d, 1, 0);
    drv_kick(d, 1);
    assert_int_equal(drv_used(d, 1, NULL), -1);
    drv_start(d, 0);
    assert_int_equal(drv_get(d, 0x70), 15);
    assert_int_equal(d->level, 0);
    drv_desc(d, 1, 0, (struct drv_desc){ DRV_DATA, 64, D_WRITE, 0 });
    drv_add(d, 1, 0);
    drv_kick(d, 1);
    assert_int_equal(drv_used(d, 1, NULL), 0);
}

static void test_bad_rings(void **st)
{
    struct drv *d = *st;
    static const gpa_t bad[] = { DRV_RAM, 0x1008, 0xffffffffffffff00, MEM_GAP_START };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        drv_negotiate(d, VIRTIO_F_VERSION_1);
        drv_queue(d, 0, bad[i], drv_avail_at(0), drv_used_at(0));
        drv_set(d, 0x70, 15);
        assert_int_equal(drv_get(d, 0x70), 15 | 64);
        drv_kick(d, 0);
    }
    d->size = 512; /* more than QueueNumMax, and more than 16 bits */
    for (int i = 0; i < 2; i++, d->size = 0) {
        drv_negotiate(d, VIRTIO_F_VERSION_1);
        drv_queue(d, 0, drv_desc_at(0), drv_avail_at(0), drv_used_at(0));
        drv_set(d, 0x70, 15);
        assert_int_equal(drv_get(d, 0x70), 15 | 64);
    }
    d->size = DRV_QSIZE;
}

/* virtio 1.2, "Virtqueue Reset": one queue stops, is set up anew and goes on, while the other works. */
static void test_queue_reset(void **st)
{
    struct drv *d = *st;
    drv_start(d, VIRTIO_F_RING_RESET);
    drv_desc(d, 0, 0, (struct drv_desc){ DRV_DATA, 64, D_WRITE, 0 });
    drv_desc(d, 1, 0, (struct drv_desc){ DRV_DATA, 64, D_WRITE, 0 });
    for (int round = 0; round < 3; round++) {
        struct virtq *q = &d->v->q[0];
        drv_add(d, 0, 0);
        drv_kick(d, 0);
        assert_int_equal(drv_used(d, 0, NULL), 0);
        drv_add(d, 0, 0); /* never served: the driver takes it back by the reset */
        q->inflight++;    /* and one that some back end still works on */
        drv_set(d, 0x30, 0);
        drv_set(d, 0xc0, 1);
        assert_int_equal(drv_get(d, 0xc0), 1);
        drv_set(d, 0x44, 1); /* too early */
        drv_kick(d, 0);
        assert_int_equal(drv_used(d, 0, NULL), -1);
        drv_add(d, 1, 0);
        drv_kick(d, 1);
        assert_int_equal(drv_used(d, 1, NULL), 0);
        lock_take(&d->v->lock);
        virtq_push(q, 0, 1); /* the back end is done; the driver must not see it */
        lock_drop(&d->v->lock);
        assert_int_equal(drv_used(d, 0, NULL), -1);
        drv_set(d, 0x30, 0);
        assert_int_equal(drv_get(d, 0xc0), 0);
        assert_int_equal(drv_get(d, 0x44), 0);
        drv_fresh(d, 0);
        drv_desc(d, 0, 0, (struct drv_desc){ DRV_DATA, 64, D_WRITE, 0 });
        drv_queue(d, 0, drv_desc_at(0), drv_avail_at(0), drv_used_at(0));
        assert_int_equal(drv_get(d, 0x44), 1);
        assert_int_equal(drv_get(d, 0x70), 15);
    }
    /* Areas of a queue that comes back are checked. */
    drv_set(d, 0x30, 0);
    drv_set(d, 0xc0, 1);
    assert_int_equal(drv_get(d, 0xc0), 0);
    drv_queue(d, 0, MEM_GAP_START, drv_avail_at(0), drv_used_at(0));
    assert_int_equal(drv_get(d, 0x70), 15 | 64);
    /* Not negotiated: nothing happens. */
    drv_start(d, 0);
    drv_set(d, 0x30, 0);
    drv_set(d, 0xc0, 1);
    assert_int_equal(drv_get(d, 0x44), 1);
}

/* Before DRIVER_OK a queue is reset at once; and one may be set up after it. */
static void test_queue_late(void **st)
{
    struct drv *d = *st;
    drv_negotiate(d, VIRTIO_F_VERSION_1 | VIRTIO_F_RING_RESET);
    drv_fresh(d, 0);
    drv_queue(d, 0, drv_desc_at(0), drv_avail_at(0), drv_used_at(0));
    drv_set(d, 0xc0, 1);
    assert_int_equal(drv_get(d, 0xc0), 0);
    assert_int_equal(drv_get(d, 0x44), 0);
    assert_int_equal(d->v->q[0].desc, 0);
    drv_set(d, 0x70, 15);
    drv_kick(d, 0);
    drv_queue(d, 0, drv_desc_at(0), drv_avail_at(0), drv_used_at(0));
    assert_int_equal(drv_get(d, 0x44), 1);
    drv_desc(d, 0, 0, (struct drv_desc){ DRV_DATA, 64, D_WRITE, 0 });
    drv_add(d, 0, 0);
    drv_kick(d, 0);
    assert_int_equal(drv_used(d, 0, NULL), 0);
    assert_int_equal(drv_get(d, 0x70), 15);
    drv_queue(d, 1, MEM_GAP_START, drv_avail_at(1), drv_used_at(1));
    assert_int_equal(drv_get(d, 0x70), 15 | 64);
}

/*
 * "The device MUST NOT consume buffers before DRIVER_OK". But drivers fill queues and notify before they say so, and
 * then no more, since with event indexes only the first buffer asks for a notification.
 */
static void test_early(void **st)
{
    struct drv *d = *st;
    static const uint64_t features[] = { 0, VIRTIO_F_EVENT_IDX };
    for (unsigned i = 0; i < ARRAY_LEN(features); i++) {
        drv_negotiate(d, VIRTIO_F_VERSION_1 | features[i]);
        for (unsigned q = 0; q < 2; q++) {
            drv_fresh(d, q);
            drv_queue(d, q, drv_desc_at(q), drv_avail_at(q), drv_used_at(q));
            drv_desc(d, q, 0, (struct drv_desc){ DRV_DATA, 64, D_WRITE, 0 });
            for (unsigned k = 0; k < 10; k++)
                drv_add(d, q, 0);
            drv_kick(d, q);
            assert_int_equal(drv_used(d, q, NULL), -1);
        }
        assert_int_equal(drv_get(d, 0x60), 0);
        drv_set(d, 0x70, 15);
        drv_quiet(d);
        for (unsigned k = 0; k < 20; k++)
            assert_int_equal(drv_used(d, k / 10, NULL), 0);
        assert_int_equal(drv_get(d, 0x60), 1);
    }
}

static void test_state(void **st)
{
    struct drv *d = *st;
    struct state_out out = { 0 };
    drv_start(d, VIRTIO_F_EVENT_IDX);
    ((struct echo *)d->v)->state = 99;
    drv_desc(d, 0, 5, (struct drv_desc){ DRV_DATA, 64, D_WRITE, 0 });
    drv_add(d, 0, 5);
    drv_kick(d, 0);
    drv_add(d, 0, 5); /* there, but the driver has not told yet */
    drv_set(d, 0x30, 1);
    assert_int_equal(virtio_mmio_ops.save(d->v, &out), 0);
    /* Another device over the same memory. */
    struct drv d2 = *d;
    d2.level = 0;
    const struct virtio_env env = { .mem = d->mem, .pool = d->pool, .irq = { .set = drv_irq, .arg = &d2 } };
    d2.v = echo_new(&env);
    for (size_t n = 0; n < out.len; n++) {
        struct state_in in = { .buf = out.buf, .len = n };
        assert_int_equal(virtio_mmio_ops.load(d2.v, &in, virtio_mmio_ops.version), -EINVAL);
        assert_int_equal(drv_get(&d2, 0x70), 0); /* untouched */
        assert_int_equal(d2.v->q[0].desc, 0);
    }
    struct state_in in = { .buf = out.buf, .len = out.len };
    assert_int_equal(virtio_mmio_ops.load(d2.v, &in, virtio_mmio_ops.version + 1), -EINVAL);
    assert_int_equal(virtio_mmio_ops.load(d2.v, &in, virtio_mmio_ops.version), 0);
    assert_int_equal(d2.level, 1);
    assert_int_equal(((struct echo *)d2.v)->state, 99);
    assert_int_equal(drv_get(&d2, 0x70), 15);
    assert_int_equal(drv_get(&d2, 0x34), 256); /* the selected queue */
    drv_quiet(&d2);
    assert_int_equal(drv_used(&d2, 0, NULL), 5);
    assert_int_equal(drv_used(&d2, 0, NULL), 5); /* served without being told again */
    /* Random damage is refused or harmless. */
    uint32_t rnd = 1;
    for (int i = 0; i < 20000; i++) {
        uint8_t bad[512];
        memcpy(bad, out.buf, out.len);
        for (int k = 0; k < 3; k++) {
            rnd = rnd * 1664525 + 1013904223;
            bad[(rnd >> 8) % out.len] ^= (uint8_t)(1 << (rnd >> 28) % 8);
        }
        struct state_in hostile = { .buf = bad, .len = out.len };
        if (virtio_mmio_ops.load(d2.v, &hostile, virtio_mmio_ops.version) == 0) {
            drv_kick(&d2, 0);
            drv_quiet(&d2);
        }
    }
    virtio_mmio_ops.reset(d2.v);
    assert_int_equal(drv_get(&d2, 0x70), 0);
    virtio_free(d2.v);
    state_out_free(&out);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_registers),   T(test_config), T(test_status),    T(test_requests),
        T(test_partial_ack), T(test_broken), T(test_bad_rings), T(test_queue_reset),
        T(test_queue_late),  T(test_early),  T(test_state),
    };
    log_set_level(LOG_ERROR); /* broken drivers are the subject here */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
