/* SPDX-License-Identifier: MIT */
/* Event loop and timers, bus dispatch, state streams, error texts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/loop.h"
#include "bus/bus.h"
#include "state/state.h"

/* ---- loop ---- */

struct seq {
    struct loop *l;
    struct timer t[4];
    int order[8], n;
    struct loop_fd *fd;
    int pipe[2];
};

static void fire(struct seq *s, int id)
{
    s->order[s->n++] = id;
    if (s->n == 4)
        loop_stop(s->l);
}
static void fire0(void *s)
{
    fire(s, 0);
}
static void fire1(void *s)
{
    fire(s, 1);
}
static void fire2(void *s)
{
    fire(s, 2);
}

static void on_pipe(void *arg, unsigned ev)
{
    struct seq *s = arg;
    char c;
    assert_int_equal(ev, LOOP_IN);
    assert_int_equal(read(s->pipe[0], &c, 1), 1);
    loop_fd_del(s->fd);
    fire(s, 9);
}
static void on_post(void *arg)
{
    struct seq *s = arg;
    assert_int_equal(write(s->pipe[1], "x", 1), 1);
    timer_arm(&s->t[2], timer_now(s->t[2].svc) + 300000000);
}

static void test_loop(void **st)
{
    struct seq s = { .l = loop_new() };
    (void)st;
    struct timer_svc *svc = loop_timers(s.l);
    assert_int_equal(pipe(s.pipe), 0);
    s.fd = loop_fd_add(s.l, s.pipe[0], LOOP_IN, on_pipe, &s);
    assert_non_null(s.fd);
    timer_init(&s.t[0], svc, fire0, &s);
    timer_init(&s.t[1], svc, fire1, &s);
    timer_init(&s.t[2], svc, fire2, &s);
    timer_init(&s.t[3], svc, fire2, &s);
    uint64_t far = timer_now(svc) + 3600000000000UL;
    timer_arm(&s.t[2], far);
    timer_arm(&s.t[1], far + 1);
    timer_arm(&s.t[0], far + 2);
    timer_arm(&s.t[3], 0);
    timer_disarm(&s.t[3]);
    timer_arm(&s.t[1], 2); /* moved forward, both due at once, in order of their deadlines */
    timer_arm(&s.t[0], 1);
    assert_int_equal(loop_post(s.l, on_post, &s), 0);
    loop_run(s.l);
    int at9 = -1, at0 = -1, at1 = -1, at2 = -1;
    for (int i = 0; i < 4; i++) {
        if (s.order[i] == 9)
            at9 = i;
        if (s.order[i] == 0)
            at0 = i;
        if (s.order[i] == 1)
            at1 = i;
        if (s.order[i] == 2)
            at2 = i;
    }
    assert_true(at9 >= 0 && at0 >= 0 && at1 == at0 + 1 && at2 > at1);
    loop_free(s.l);
    close(s.pipe[0]);
    close(s.pipe[1]);
}

/* ---- bus ---- */

struct chip {
    uint64_t off;
    unsigned len;
    uint64_t val;
    int reads, writes;
};
static void chip_read(void *dev, uint64_t off, void *buf, unsigned len)
{
    struct chip *c = dev;
    c->off = off, c->len = len, c->reads++;
    for (unsigned i = 0; i < len; i++)
        ((uint8_t *)buf)[i] = (uint8_t)(0x10 + off + i);
}
static void chip_write(void *dev, uint64_t off, const void *buf, unsigned len)
{
    struct chip *c = dev;
    c->off = off, c->len = len, c->writes++, c->val = 0;
    memcpy(&c->val, buf, len);
}
static const struct dev_ops chip_ops = { .name = "chip", .read = chip_read, .write = chip_write };

static void test_bus(void **st)
{
    struct bus *b = bus_new();
    struct chip c8 = { 0 }, c32 = { 0 };
    struct err e = { 0 };
    uint64_t v = 0;
    (void)st;
    assert_int_equal(bus_map(b, BUS_PIO, 0x60, 5, BUS_1, &chip_ops, &c8, &e), 0);
    assert_int_equal(bus_map(b, BUS_MMIO, 0xc0001000, 0x1000, BUS_4, &chip_ops, &c32, &e), 0);
    assert_int_equal(bus_map(b, BUS_PIO, 0x64, 1, BUS_1, &chip_ops, &c8, &e), -EEXIST);
    assert_non_null(strstr(e.text, "overlaps"));
    assert_int_equal(bus_map(b, BUS_PIO, 0x5f, 1, BUS_1, &chip_ops, &c8, &e), 0);
    bus_read(b, BUS_PIO, 0x62, &v, 4); /* three claimed bytes, one open */
    assert_int_equal(v, 0xff141312);
    assert_int_equal(c8.reads, 3);
    v = 0;
    bus_read(b, BUS_MMIO, 0xc0001002, &v, 2); /* narrower than the register */
    assert_int_equal(v, 0x1312);
    assert_int_equal(c32.off, 0);
    v = 0x1122334455667788;
    bus_write(b, BUS_MMIO, 0xc0001008, &v, 8);
    assert_int_equal(c32.writes, 2);
    assert_int_equal(c32.off, 12);
    assert_int_equal(c32.val, 0x11223344);
    v = 0;
    bus_read(b, BUS_MMIO, 0xc0002000, &v, 8);
    assert_true(v == UINT64_MAX);
    bus_free(b);
}

/* ---- state, err ---- */

static void test_state(void **st)
{
    struct state_out o = { 0 };
    (void)st;
    state_put_u8(&o, 1);
    state_put_u16(&o, 0x203);
    state_put_u32(&o, 0x4050607);
    state_put_u64(&o, 0x8090a0b0c0d0e0f);
    for (int i = 0; i < 1000; i++)
        state_put_bytes(&o, "abc", 3);
    struct state_in in = { .buf = o.buf, .len = o.len };
    assert_int_equal(state_get_u8(&in), 1);
    assert_int_equal(state_get_u16(&in), 0x203);
    assert_int_equal(state_get_u32(&in), 0x4050607);
    assert_int_equal(state_get_u64(&in), 0x8090a0b0c0d0e0f);
    static char buf[3001];
    state_get_bytes(&in, buf, 3000);
    assert_false(in.bad);
    assert_memory_equal(buf + 2997, "abc", 3);
    assert_int_equal(state_get_u32(&in), 0);
    assert_true(in.bad);
    state_out_free(&o);
}

static void test_err(void **st)
{
    struct err e = { 0 };
    (void)st;
    assert_int_equal(err_set(&e, EINVAL, "bad \"%s\"", "a\nb\x1b"), -EINVAL);
    assert_string_equal(e.text, "bad \"a?b?\"");
    assert_int_equal(err_set(NULL, EIO, "x"), -EIO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_loop),
        cmocka_unit_test(test_bus),
        cmocka_unit_test(test_state),
        cmocka_unit_test(test_err),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
