/* SPDX-License-Identifier: MIT */
/* 8254 PIT and port 61h: modes, access sequences, BCD, lateness, saved state. */
#include "fake_env.h"

#include "dev/pit.h"

struct rig {
    struct fake_timers t;
    struct fake_line irq;
    struct pit *p;
};

static int setup(void **state)
{
    struct rig *r = calloc(1, sizeof(*r));
    fake_timers_init(&r->t);
    const struct irq_line irq = fake_irq(&r->irq, 0);
    r->p = pit_new(&r->t.svc, &irq);
    *state = r;
    return 0;
}
static int teardown(void **state)
{
    struct rig *r = *state;
    pit_free(r->p);
    free(r);
    return 0;
}

/* The time of n CLK pulses, and a little. */
static uint64_t clk(uint64_t n)
{
    return (n * 1000000000UL + PIT_HZ - 1) / PIT_HZ;
}
static void program(struct rig *r, unsigned ch, unsigned mode, unsigned count)
{
    out8(&pit_ops, r->p, 3, ch << 6 | 0x30 | mode << 1);
    out8(&pit_ops, r->p, ch, count);
    out8(&pit_ops, r->p, ch, count >> 8);
}
static unsigned latch(struct rig *r, unsigned ch)
{
    out8(&pit_ops, r->p, 3, ch << 6);
    unsigned lo = in8(&pit_ops, r->p, ch);
    return lo | (unsigned)in8(&pit_ops, r->p, ch) << 8;
}
static unsigned status(struct rig *r, unsigned ch)
{
    out8(&pit_ops, r->p, 3, 0xe0 | 2u << ch);
    return in8(&pit_ops, r->p, ch);
}

static void test_rate(void **state)
{
    struct rig *r = *state;
    program(r, 0, 2, 1193);
    unsigned first = r->irq.rises;
    for (unsigned i = 1; i <= 100; i++) {
        fake_advance(&r->t, 1000000);
        assert_in_range(r->irq.rises - first, i - 1, i + 1);
    }
    /* Late by ten periods: one edge, then the old phase. */
    unsigned before = r->irq.rises;
    uint64_t start = r->t.now;
    fake_run_to(&r->t, start + 1500000, 10000000);
    assert_int_equal(r->irq.rises, before + 1);
    fake_advance(&r->t, 1000000);
    assert_int_equal(r->irq.rises, before + 2);
    /* A period of two pulses does not storm. */
    program(r, 0, 2, 2);
    before = r->irq.rises;
    fake_advance(&r->t, 1000000);
    assert_in_range(r->irq.rises - before, 40, 60);
}

static void test_one_shot(void **state)
{
    struct rig *r = *state;
    out8(&pit_ops, r->p, 3, 0x30);
    assert_false(r->irq.level); /* OUT is low from the control word on */
    assert_int_equal(r->t.n, 0);
    out8(&pit_ops, r->p, 0, 100);
    assert_int_equal(r->t.n, 0); /* half a count */
    out8(&pit_ops, r->p, 0, 0);
    unsigned before = r->irq.rises;
    fake_advance(&r->t, clk(99));
    assert_int_equal(r->irq.rises, before);
    assert_int_equal(latch(r, 0), 1);
    fake_advance(&r->t, clk(2));
    assert_int_equal(r->irq.rises, before + 1);
    assert_true(r->irq.level);
    assert_int_equal(r->t.n, 0); /* nothing ticks on */
    fake_advance(&r->t, clk(200000));
    assert_int_equal(r->irq.rises, before + 1);
    assert_int_equal(status(r, 0), 0xb0);
    /* How Linux switches it off: mode 0 without a count. */
    out8(&pit_ops, r->p, 3, 0x30);
    assert_false(r->irq.level);
    assert_int_equal(r->t.n, 0);
    /* Mode 4: a strobe. */
    program(r, 0, 4, 1000);
    before = r->irq.rises;
    fake_advance(&r->t, clk(1002));
    assert_int_equal(r->irq.rises, before + 1);
    fake_advance(&r->t, clk(200000));
    assert_int_equal(r->irq.rises, before + 1);
}

static void test_counting(void **state)
{
    struct rig *r = *state;
    program(r, 1, 2, 1000);
    fake_advance(&r->t, clk(300));
    assert_int_equal(latch(r, 1), 700);
    fake_advance(&r->t, clk(1000));
    assert_int_equal(latch(r, 1), 700);
    program(r, 1, 3, 1000);
    fake_advance(&r->t, clk(100));
    assert_int_equal(latch(r, 1), 800); /* by two */
    assert_int_equal(status(r, 1), 0xb6);
    fake_advance(&r->t, clk(450));
    assert_int_equal(status(r, 1), 0x36);
    /* The latch holds; a second latch command is ignored; low and high come in turn. */
    program(r, 1, 0, 0x2000);
    fake_advance(&r->t, clk(0x123));
    out8(&pit_ops, r->p, 3, 0x40);
    fake_advance(&r->t, clk(0x100));
    out8(&pit_ops, r->p, 3, 0x40);
    assert_int_equal(in8(&pit_ops, r->p, 1), 0xdd);
    fake_advance(&r->t, clk(0x100));
    assert_int_equal(in8(&pit_ops, r->p, 1), 0x1e);
    /* Read-back of status and count together: status first. */
    out8(&pit_ops, r->p, 3, 0xc4);
    assert_int_equal(in8(&pit_ops, r->p, 1), 0x30);
    unsigned lo = in8(&pit_ops, r->p, 1), hi = in8(&pit_ops, r->p, 1);
    assert_int_equal(hi << 8 | lo, 0x2000 - 0x323);
    /* Mode 0 wraps. */
    program(r, 1, 0, 10);
    fake_advance(&r->t, clk(12));
    assert_int_equal(latch(r, 1), 0xfffe);
    /* BCD. */
    out8(&pit_ops, r->p, 3, 0x75);
    out8(&pit_ops, r->p, 1, 0x00);
    out8(&pit_ops, r->p, 1, 0x10); /* 1000 */
    fake_advance(&r->t, clk(1));
    assert_int_equal(latch(r, 1), 0x0999);
    /* Single-byte access. */
    out8(&pit_ops, r->p, 3, 0x54);
    out8(&pit_ops, r->p, 1, 200);
    fake_advance(&r->t, clk(50));
    assert_int_equal(in8(&pit_ops, r->p, 1), 150);
    assert_int_equal(in8(&pit_ops, r->p, 3), 0xff);
}

static void test_new_count(void **state)
{
    struct rig *r = *state;
    program(r, 1, 2, 1000);
    fake_advance(&r->t, clk(600));
    out8(&pit_ops, r->p, 1, 500 & 0xff);
    out8(&pit_ops, r->p, 1, 500 >> 8);
    assert_int_equal(latch(r, 1), 400);
    assert_int_equal(status(r, 1) & 0x40, 0x40); /* NULL COUNT */
    fake_advance(&r->t, clk(500));
    assert_int_equal(latch(r, 1), 400); /* 100 into a period of 500 */
    assert_int_equal(status(r, 1) & 0x40, 0);
}

static void test_channel2(void **state)
{
    struct rig *r = *state;
    program(r, 2, 0, 1000);
    fake_advance(&r->t, clk(5000));
    assert_int_equal(in8(&pit_port61_ops, r->p, 0) & 0x20, 0); /* the gate is closed */
    assert_int_equal(latch(r, 2), 1000);
    out8(&pit_port61_ops, r->p, 0, 0x01);
    fake_advance(&r->t, clk(400));
    out8(&pit_port61_ops, r->p, 0, 0x00);
    fake_advance(&r->t, clk(5000));
    assert_in_range(latch(r, 2), 599, 601);
    out8(&pit_port61_ops, r->p, 0, 0x01);
    fake_advance(&r->t, clk(590));
    assert_int_equal(in8(&pit_port61_ops, r->p, 0) & 0x2f, 1);
    fake_advance(&r->t, clk(20));
    assert_int_equal(in8(&pit_port61_ops, r->p, 0) & 0x2f, 0x21);
    /* Mode 1: triggered by the gate, and again. */
    program(r, 2, 1, 100);
    assert_int_equal(in8(&pit_port61_ops, r->p, 0) & 0x20, 0x20);
    out8(&pit_port61_ops, r->p, 0, 0);
    out8(&pit_port61_ops, r->p, 0, 1);
    assert_int_equal(in8(&pit_port61_ops, r->p, 0) & 0x20, 0);
    fake_advance(&r->t, clk(60));
    out8(&pit_port61_ops, r->p, 0, 0);
    out8(&pit_port61_ops, r->p, 0, 1);
    fake_advance(&r->t, clk(60));
    assert_int_equal(in8(&pit_port61_ops, r->p, 0) & 0x20, 0);
    fake_advance(&r->t, clk(60));
    assert_int_equal(in8(&pit_port61_ops, r->p, 0) & 0x20, 0x20);
    /* The refresh bit toggles about every 15 us. */
    unsigned toggles = 0, was = in8(&pit_port61_ops, r->p, 0) & 0x10;
    for (unsigned i = 0; i < 1000; i++) {
        fake_advance(&r->t, 1000);
        unsigned now = in8(&pit_port61_ops, r->p, 0) & 0x10;
        toggles += now != was;
        was = now;
    }
    assert_in_range(toggles, 60, 70);
    assert_int_equal(r->t.n, 1); /* channel 0's: 2 never needs a host timer */
}

static void test_state(void **state)
{
    struct rig *r = *state;
    struct fake_line line = { 0 };
    const struct irq_line irq = fake_irq(&line, 0);
    struct pit *other = pit_new(&r->t.svc, &irq);
    program(r, 0, 2, 5000);
    program(r, 2, 0, 100);
    out8(&pit_port61_ops, r->p, 0, 1);
    out8(&pit_ops, r->p, 3, 0xc2);
    fake_advance(&r->t, clk(2000));
    check_round_trip(&pit_ops, r->p, other);
    unsigned before = line.rises;
    fake_advance(&r->t, clk(3001));
    assert_int_equal(line.rises, before + 1);
    pit_free(other);
    pit_ops.reset(r->p);
    assert_int_equal(r->t.n, 1); /* as firmware leaves it: 18.2 Hz */
    before = r->irq.rises;
    fake_advance(&r->t, 1000000000);
    assert_int_equal(r->irq.rises, before + 18);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_rate), T(test_one_shot), T(test_counting), T(test_new_count), T(test_channel2), T(test_state),
    };
    return cmocka_run_group_tests_name("pit", tests, NULL, NULL);
}
