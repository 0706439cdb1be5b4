/* SPDX-License-Identifier: MIT */
/* virtio-console against a fake back end that the test throttles. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>

#include "base/log.h"
#include "host/chardev.h"
#include "state/state.h"
#include "virtio_driver.h"

enum { RX, TX, TXBUF = 1 << 20 };

struct fake {
    struct chardev ch; /* first */
    struct chardev_user user;
    bool attached;
    size_t n, limit;
    unsigned rx_ready;
    uint8_t buf[TXBUF];
};

static size_t fake_write(struct chardev *ch, const void *buf, size_t n)
{
    struct fake *f = (struct fake *)ch;
    size_t k = n < f->limit - f->n ? n : f->limit - f->n;
    memcpy(f->buf + f->n, buf, k);
    f->n += k;
    return k;
}
static void fake_attach(struct chardev *ch, const struct chardev_user *u)
{
    struct fake *f = (struct fake *)ch;
    f->attached = u != NULL;
    if (u)
        f->user = *u;
}
static void fake_rx_ready(struct chardev *ch)
{
    ((struct fake *)ch)->rx_ready++;
}

static const struct chardev_ops fake_ops = { .write = fake_write, .attach = fake_attach, .rx_ready = fake_rx_ready };

struct rig {
    struct drv d; /* first */
    struct fake *f;
    struct virtio_env env;
};

static int setup(void **st)
{
    struct rig *r = calloc(1, sizeof(*r));
    r->env = drv_open(&r->d);
    r->f = calloc(1, sizeof(*r->f));
    r->f->ch.ops = &fake_ops;
    r->f->limit = TXBUF;
    r->d.v = virtio_console_new(&r->env, &r->f->ch, 132, 43);
    *st = r;
    return 0;
}
static int teardown(void **st)
{
    struct rig *r = *st;
    drv_close(&r->d);
    assert_false(r->f->attached);
    free(r->f);
    free(r);
    return 0;
}

static void test_config(void **st)
{
    struct rig *r = *st;
    uint16_t wh[2];
    assert_int_equal(drv_get(&r->d, 8), 3);
    assert_int_equal(drv_offered(&r->d) & 7, 5); /* SIZE, EMERG_WRITE, no MULTIPORT */
    virtio_mmio_ops.read(r->d.v, 0x100, wh, 2);
    virtio_mmio_ops.read(r->d.v, 0x102, wh + 1, 2);
    assert_int_equal(wh[0], 132);
    assert_int_equal(wh[1], 43);
    /* A new size tells a driver that asked for it. */
    drv_start(&r->d, 0);
    virtio_console_resize(r->d.v, 80, 25);
    assert_int_equal(drv_get(&r->d, 0x60), 0);
    drv_start(&r->d, 1);
    virtio_console_resize(r->d.v, 100, 30);
    assert_int_equal(drv_get(&r->d, 0x60), 2);
    virtio_mmio_ops.read(r->d.v, 0x100, wh, 2);
    assert_int_equal(wh[0], 100);
}

static void test_emergency(void **st)
{
    struct rig *r = *st;
    uint32_t c = 'E';
    virtio_mmio_ops.write(r->d.v, 0x108, &c, 4); /* no driver at all */
    virtio_mmio_ops.write(r->d.v, 0x108, &c, 1);
    assert_memory_equal(r->f->buf, "EE", 2);
    r->f->limit = r->f->n;
    virtio_mmio_ops.write(r->d.v, 0x108, &c, 4); /* lost, not waited for */
    assert_int_equal(r->f->n, 2);
    virtio_mmio_ops.write(r->d.v, 0x100, &c, 4);
    virtio_mmio_ops.write(r->d.v, 0x104, &c, 4);
    assert_int_equal(r->f->n, 2);
}

static void send(struct rig *r, uint16_t i, gpa_t at, uint32_t len)
{
    drv_desc(&r->d, TX, i, (struct drv_desc){ at, len, 0, 0 });
    drv_add(&r->d, TX, i);
}

static void test_output(void **st)
{
    struct rig *r = *st;
    uint32_t len;
    drv_start(&r->d, 0);
    mem_write(r->d.mem, DRV_DATA, "hello world", 11);
    send(r, 0, DRV_DATA, 6);
    send(r, 1, DRV_DATA + 6, 5);
    drv_kick(&r->d, TX);
    assert_int_equal(r->f->n, 11);
    assert_memory_equal(r->f->buf, "hello world", 11);
    assert_int_equal(drv_used(&r->d, TX, &len), 0);
    assert_int_equal(len, 0);
    assert_int_equal(drv_used(&r->d, TX, &len), 1);
    assert_int_equal(r->d.level, 1);
    /* Empty, and one with nothing to read in it. */
    send(r, 2, DRV_DATA, 0);
    drv_desc(&r->d, TX, 3, (struct drv_desc){ DRV_DATA, 9, D_WRITE, 0 });
    drv_add(&r->d, TX, 3);
    drv_kick(&r->d, TX);
    assert_int_equal(drv_used(&r->d, TX, &len), 2);
    assert_int_equal(drv_used(&r->d, TX, &len), 3);
    assert_int_equal(r->f->n, 11);
}

static void test_throttled(void **st)
{
    struct rig *r = *st;
    enum { BIG = 300000 };
    uint8_t *b = malloc(BIG);
    for (unsigned i = 0; i < BIG; i++)
        b[i] = (uint8_t)(i * 13 + i / 256);
    drv_start(&r->d, VIRTIO_F_EVENT_IDX);
    mem_write(r->d.mem, DRV_DATA, b, BIG);
    r->f->limit = 100;
    send(r, 0, DRV_DATA, BIG);
    send(r, 1, DRV_DATA, 3);
    drv_kick(&r->d, TX);
    drv_quiet(&r->d);
    assert_int_equal(r->f->n, 100);
    assert_int_equal(drv_used(&r->d, TX, NULL), -1); /* waits in the queue, nothing is lost */
    for (size_t lim = 5000; lim <= 700000; lim += 131072) {
        r->f->limit = lim;
        r->f->user.tx_ready(r->f->user.arg);
        drv_quiet(&r->d);
        assert_int_equal(r->f->n, lim < BIG + 3 ? lim : BIG + 3);
    }
    assert_memory_equal(r->f->buf, b, BIG);
    assert_memory_equal(r->f->buf + BIG, b, 3);
    assert_int_equal(drv_used(&r->d, TX, NULL), 0);
    assert_int_equal(drv_used(&r->d, TX, NULL), 1);
    /* A reset forgets a half-written request. */
    r->f->limit = r->f->n + 2;
    send(r, 2, DRV_DATA, 10);
    drv_kick(&r->d, TX);
    drv_start(&r->d, 0);
    r->f->limit = TXBUF;
    size_t before = r->f->n;
    r->f->user.tx_ready(r->f->user.arg);
    drv_quiet(&r->d);
    assert_int_equal(r->f->n, before);
    send(r, 0, DRV_DATA, 4);
    drv_kick(&r->d, TX);
    drv_quiet(&r->d);
    assert_int_equal(r->f->n, before + 4);
    assert_memory_equal(r->f->buf + before, b, 4);
    free(b);
}

static size_t can(struct rig *r)
{
    return r->f->user.can_rx(r->f->user.arg);
}

static void test_input(void **st)
{
    struct rig *r = *st;
    uint32_t len;
    char b[8] = { 0 };
    assert_int_equal(can(r), 0); /* no driver */
    unsigned told = r->f->rx_ready;
    drv_start(&r->d, VIRTIO_F_EVENT_IDX);
    assert_true(r->f->rx_ready > told);
    assert_int_equal(can(r), 0); /* no buffer */
    drv_desc(&r->d, RX, 4, (struct drv_desc){ DRV_DATA, 0, D_WRITE, 0 });
    drv_desc(&r->d, RX, 5, (struct drv_desc){ DRV_DATA, 3, D_WRITE | D_NEXT, 6 });
    drv_desc(&r->d, RX, 6, (struct drv_desc){ DRV_DATA + 0x1000, 5, D_WRITE, 0 });
    drv_add(&r->d, RX, 4);
    drv_add(&r->d, RX, 5);
    told = r->f->rx_ready;
    drv_kick(&r->d, RX);
    assert_int_equal(r->f->rx_ready, told + 1);
    assert_int_equal(can(r), 8);
    assert_int_equal(can(r), 8);
    r->f->user.rx(r->f->user.arg, "abcdef", 6);
    assert_int_equal(drv_used(&r->d, RX, &len), 4); /* the empty one came back */
    assert_int_equal(len, 0);
    assert_int_equal(drv_used(&r->d, RX, &len), 5);
    assert_int_equal(len, 6);
    mem_read(r->d.mem, DRV_DATA, b, 3);
    mem_read(r->d.mem, DRV_DATA + 0x1000, b + 3, 4);
    assert_memory_equal(b, "abcdef\0", 7);
    assert_int_equal(can(r), 0);
    assert_int_equal(r->d.level, 1);
    /* Input whose buffer went away meanwhile is dropped. */
    r->f->user.rx(r->f->user.arg, "x", 1);
    /* A broken ring: no input, no crash. */
    drv_desc(&r->d, RX, 7, (struct drv_desc){ DRV_RAM, 8, D_WRITE, 0 });
    drv_add(&r->d, RX, 7);
    assert_int_equal(can(r), 0);
    assert_int_equal(drv_get(&r->d, 0x70), 15 | 64);
    r->f->user.rx(r->f->user.arg, "x", 1);
}

static void test_state(void **st)
{
    struct rig *r = *st;
    struct state_out out = { 0 };
    drv_start(&r->d, 0);
    mem_write(r->d.mem, DRV_DATA, "0123456789", 10);
    r->f->limit = 4;
    send(r, 0, DRV_DATA, 10);
    drv_kick(&r->d, TX);
    drv_quiet(&r->d);
    assert_int_equal(virtio_mmio_ops.save(r->d.v, &out), 0);
    /* Another console goes on where this one stopped. */
    virtio_free(r->d.v);
    r->f->limit = TXBUF;
    r->d.v = virtio_console_new(&r->env, &r->f->ch, 80, 25);
    struct state_in in = { .buf = out.buf, .len = out.len };
    assert_int_equal(virtio_mmio_ops.load(r->d.v, &in, 1), 0);
    drv_quiet(&r->d);
    assert_int_equal(r->f->n, 10);
    assert_memory_equal(r->f->buf, "0123456789", 10);
    assert_int_equal(drv_used(&r->d, TX, NULL), 0);
    for (size_t n = 0; n < out.len; n++) {
        in = (struct state_in){ .buf = out.buf, .len = n };
        assert_int_equal(virtio_mmio_ops.load(r->d.v, &in, 1), -EINVAL);
    }
    state_out_free(&out);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_config), T(test_emergency), T(test_output), T(test_throttled), T(test_input), T(test_state),
    };
    log_set_level(LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
