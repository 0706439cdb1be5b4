/* SPDX-License-Identifier: MIT */
/* Keyboard controller: the probes of drivers, translation, reset and A20, saved state. */
#include "fake_env.h"

#include "dev/i8042.h"

struct rig {
    struct fake_line irq[2];
    unsigned resets, a20_calls;
    bool a20;
    struct i8042 *k;
};

static void on_reset(void *arg)
{
    ((struct rig *)arg)->resets++;
}
static void on_a20(void *arg, bool on)
{
    ((struct rig *)arg)->a20_calls++;
    ((struct rig *)arg)->a20 = on;
}
static int setup(void **state)
{
    struct rig *r = calloc(1, sizeof(*r));
    const struct i8042_cfg cfg = {
        .kbd = fake_irq(r->irq, 0), .aux = fake_irq(r->irq, 1), .reset = on_reset, .a20 = on_a20, .arg = r
    };
    r->k = i8042_new(&cfg);
    *state = r;
    return 0;
}
static int teardown(void **state)
{
    struct rig *r = *state;
    i8042_free(r->k);
    free(r);
    return 0;
}

static uint8_t sts(struct rig *r)
{
    return in8(&i8042_cmd_ops, r->k, 0);
}
static void cmd(struct rig *r, unsigned val)
{
    out8(&i8042_cmd_ops, r->k, 0, val);
}
static void data(struct rig *r, unsigned val)
{
    out8(&i8042_data_ops, r->k, 0, val);
}
/* The next byte from the keyboard side (aux = false) or the mouse; fails if there is none. */
static unsigned get(struct rig *r, bool aux)
{
    assert_int_equal(sts(r) & 0x21, aux ? 0x21 : 0x01);
    return in8(&i8042_data_ops, r->k, 0);
}
static void expect(struct rig *r, bool aux, const char *bytes, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        assert_int_equal(get(r, aux), (uint8_t)bytes[i]);
    assert_int_equal(sts(r) & 1, 0);
}

static void test_controller(void **state)
{
    struct rig *r = *state;
    assert_int_equal(sts(r), 0x14);
    cmd(r, 0xaa);
    assert_int_equal(sts(r) & 8, 8);
    expect(r, false, "\x55", 1);
    cmd(r, 0xab);
    expect(r, false, "\0", 1);
    cmd(r, 0xa9);
    expect(r, false, "\0", 1);
    cmd(r, 0x20);
    expect(r, false, "\x64", 1);
    cmd(r, 0x60);
    data(r, 0x47);
    assert_int_equal(sts(r) & 8, 0);
    cmd(r, 0x20);
    assert_true(r->irq[0].level);
    expect(r, false, "\x47", 1);
    assert_false(r->irq[0].level);
    cmd(r, 0xa7);
    cmd(r, 0xad);
    cmd(r, 0x20);
    expect(r, false, "\x77", 1);
    cmd(r, 0xd2);
    data(r, 0x99);
    expect(r, false, "\x99", 1);
    /* Linux tests the mouse port with the loop command. */
    cmd(r, 0xd3);
    data(r, 0x5a);
    expect(r, true, "\x5a", 1);
    cmd(r, 0xc0);
    expect(r, false, "\xbf", 1);
    cmd(r, 0xd0);
    assert_int_equal(get(r, false) & 3, 3);
}

static void test_keyboard(void **state)
{
    struct rig *r = *state;
    cmd(r, 0x60);
    data(r, 0x61); /* interrupt, no mouse, translation */
    data(r, 0xf2);
    assert_int_equal(r->irq[0].rises, 1);
    expect(r, false, "\xfa\xab\x41", 3);  /* 83h translated */
    assert_int_equal(r->irq[0].rises, 3); /* an edge a byte */
    data(r, 0xed);
    expect(r, false, "\xfa", 1);
    data(r, 0x07);
    expect(r, false, "\xfa", 1);
    data(r, 0xff);
    expect(r, false, "\xfa\xaa", 2);
    data(r, 0xee);
    expect(r, false, "\xee", 1);
    data(r, 0xfe); /* once more */
    expect(r, false, "\xee", 1);
    data(r, 0xf0);
    data(r, 0x00);
    expect(r, false, "\xfa\xfa\x41", 3); /* set 2: 2 is translated, too */
    data(r, 0xf3);
    data(r, 0x20);
    expect(r, false, "\xfa\xfa", 2);
    data(r, 0xe0);
    expect(r, false, "\xfe", 1);
    data(r, 0xed);
    data(r, 0xf4); /* a command in place of the argument */
    expect(r, false, "\xfa\xfa", 2);
}

static void test_typing(void **state)
{
    struct rig *r = *state;
    assert_int_equal(i8042_ctrl_alt_del(r->k), 0);
    expect(r, false, "\x1d\x38\xe0\x53\xe0\xd3\xb8\x9d", 8);
    cmd(r, 0x60);
    data(r, 0x20); /* no translation */
    i8042_ctrl_alt_del(r->k);
    expect(r, false, "\x14\x11\xe0\x71\xe0\xf0\x71\xf0\x11\xf0\x14", 11);
    data(r, 0xf0);
    data(r, 0x01); /* the keyboard itself sends set 1 */
    expect(r, false, "\xfa\xfa", 2);
    i8042_ctrl_alt_del(r->k);
    expect(r, false, "\x1d\x38\xe0\x53\xe0\xd3\xb8\x9d", 8);
    /* A full queue takes all or nothing. */
    unsigned taken = 0;
    while (i8042_ctrl_alt_del(r->k) == 0)
        taken++;
    assert_in_range(taken, 3, 8);
    unsigned n = 0;
    while (sts(r) & 1) {
        get(r, false);
        n++;
    }
    assert_int_equal(n, taken * 8);
    data(r, 0xf5); /* off */
    expect(r, false, "\xfa", 1);
    i8042_ctrl_alt_del(r->k);
    assert_int_equal(sts(r) & 1, 0);
    /* A disabled interface holds what comes; enabling it lets it through. */
    data(r, 0xf4);
    expect(r, false, "\xfa", 1);
    cmd(r, 0xad);
    const uint8_t a = 0x1c;
    i8042_type(r->k, &a, 1);
    assert_int_equal(sts(r) & 1, 0);
    cmd(r, 0xae);
    expect(r, false, "\x1c", 1);
}

static void aux(struct rig *r, unsigned val)
{
    cmd(r, 0xd4);
    data(r, val);
}

static void test_mouse(void **state)
{
    struct rig *r = *state;
    cmd(r, 0x60);
    data(r, 0x43);
    aux(r, 0xff);
    assert_true(r->irq[1].level);
    assert_false(r->irq[0].level);
    expect(r, true, "\xfa\xaa\x00", 3);
    assert_int_equal(r->irq[1].rises, 3);
    aux(r, 0xf2);
    expect(r, true, "\xfa\x00", 2);
    static const uint8_t knock[] = { 200, 100, 80 };
    for (unsigned i = 0; i < 3; i++) {
        aux(r, 0xf3);
        aux(r, knock[i]);
        expect(r, true, "\xfa\xfa", 2);
    }
    aux(r, 0xf2);
    expect(r, true, "\xfa\x03", 2);
    aux(r, 0xe8);
    aux(r, 3);
    aux(r, 0xf4);
    aux(r, 0xe9);
    expect(r, true, "\xfa\xfa\xfa\xfa\x20\x03\x50", 7);
    aux(r, 0xeb);
    expect(r, true, "\xfa\x08\0\0\0", 5);
    aux(r, 0x11);
    expect(r, true, "\xfe", 1);
    /* The keyboard goes first. */
    aux(r, 0xe6);
    aux(r, 0xe6);
    data(r, 0xee);
    assert_int_equal(get(r, true), 0xfa);
    assert_int_equal(get(r, false), 0xee);
    assert_int_equal(get(r, true), 0xfa);
}

static void test_reset_and_a20(void **state)
{
    struct rig *r = *state;
    assert_int_equal(r->a20_calls, 0);
    cmd(r, 0xff); /* pulses nothing */
    assert_int_equal(r->resets, 0);
    cmd(r, 0xfe);
    assert_int_equal(r->resets, 1);
    cmd(r, 0xd1);
    data(r, 0xdd); /* A20 off */
    assert_int_equal(r->a20_calls, 1);
    assert_false(r->a20);
    assert_int_equal(in8(&i8042_port_a_ops, r->k, 0) & 2, 0);
    out8(&i8042_port_a_ops, r->k, 0, 2);
    assert_true(r->a20);
    cmd(r, 0xdd);
    assert_false(r->a20);
    cmd(r, 0xdf);
    assert_true(r->a20);
    cmd(r, 0xd1);
    data(r, 0xde); /* bit 0 low: reset */
    assert_int_equal(r->resets, 2);
    out8(&i8042_port_a_ops, r->k, 0, 3);
    assert_int_equal(r->resets, 3);
    out8(&i8042_port_a_ops, r->k, 0, 3); /* a level, not an edge */
    assert_int_equal(r->resets, 3);
}

static void test_state(void **state)
{
    struct rig *r = *state;
    struct rig o = { 0 };
    const struct i8042_cfg cfg = {
        .kbd = fake_irq(o.irq, 0), .aux = fake_irq(o.irq, 1), .reset = on_reset, .a20 = on_a20, .arg = &o
    };
    o.k = i8042_new(&cfg);
    cmd(r, 0x60);
    data(r, 0x43);
    aux(r, 0xf2);
    data(r, 0xed);
    cmd(r, 0xd1);
    check_round_trip(&i8042_data_ops, r->k, o.k);
    assert_true(o.irq[1].level);
    data(&o, 0xdd);
    assert_int_equal(o.a20_calls, 1);
    assert_int_equal(get(&o, true), 0xfa);
    assert_int_equal(get(&o, false), 0xfa);
    i8042_data_ops.reset(o.k);
    assert_int_equal(sts(&o), 0x14);
    assert_true(o.a20);
    i8042_free(o.k);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_controller), T(test_keyboard), T(test_typing), T(test_mouse), T(test_reset_and_a20), T(test_state),
    };
    return cmocka_run_group_tests_name("i8042", tests, NULL, NULL);
}
