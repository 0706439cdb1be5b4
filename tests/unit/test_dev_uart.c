/* SPDX-License-Identifier: MIT */
/* 16550A: interrupts as drivers rely on them, FIFOs, loop-back, flow control with the back end. */
#include "fake_env.h"

#include "dev/uart.h"

enum { DATA, IER, IIR, LCR, MCR, LSR, MSR, SCR };

struct rig {
    struct fake_timers t;
    struct fake_line irq;
    struct fake_chardev ch;
    struct uart *u;
};

static uint8_t rd(struct rig *r, unsigned reg)
{
    return in8(&uart_ops, r->u, reg);
}
static void wr(struct rig *r, unsigned reg, unsigned val)
{
    out8(&uart_ops, r->u, reg, val);
}
/* The back end's loop: offers s, as much as the UART takes. Returns how much. */
static size_t feed(struct rig *r, const char *s, size_t len)
{
    size_t done = 0;
    while (done < len) {
        size_t room = r->ch.user.can_rx(r->ch.user.arg);
        if (!room)
            break;
        if (room > len - done)
            room = len - done;
        r->ch.user.rx(r->ch.user.arg, s + done, room);
        done += room;
    }
    return done;
}

static int setup(void **state)
{
    struct rig *r = calloc(1, sizeof(*r));
    fake_timers_init(&r->t);
    fake_chardev_init(&r->ch);
    const struct uart_cfg cfg = { .timers = &r->t.svc, .irq = fake_irq(&r->irq, 0), .ch = &r->ch.ch };
    r->u = uart_new(&cfg);
    *state = r;
    return 0;
}
static int teardown(void **state)
{
    struct rig *r = *state;
    uart_free(r->u);
    assert_null(r->ch.user.rx);
    free(r);
    return 0;
}

static void test_reset_state(void **state)
{
    struct rig *r = *state;
    assert_int_equal(rd(r, IIR), 0x01);
    assert_int_equal(rd(r, LSR), 0x60);
    assert_int_equal(rd(r, MSR), 0xb0);
    assert_int_equal(rd(r, IER), 0);
    wr(r, SCR, 0x5a);
    assert_int_equal(rd(r, SCR), 0x5a);
    wr(r, IER, 0xff);
    assert_int_equal(rd(r, IER), 0x0f);
    wr(r, LCR, 0x83);
    wr(r, DATA, 0x34);
    wr(r, IER, 0x12);
    assert_int_equal(rd(r, DATA), 0x34);
    assert_int_equal(rd(r, IER), 0x12);
    wr(r, LCR, 3);
    assert_int_equal(rd(r, IER), 0x0f);
}

static void test_probe(void **state)
{
    struct rig *r = *state;
    /* Linux autoconfig: loop-back of the modem lines, and the FIFO type. */
    wr(r, MCR, 0x1a);
    assert_int_equal(rd(r, MSR) & 0xf0, 0x90);
    wr(r, MCR, 0x0b);
    wr(r, IIR, 1);
    assert_int_equal(rd(r, IIR) >> 6, 3);
    wr(r, IIR, 0);
    assert_int_equal(rd(r, IIR) >> 6, 0);
    /* Its test for the transmitter-enable bug. */
    wr(r, IER, 2);
    assert_int_equal(rd(r, LSR) & 0x60, 0x60);
    assert_int_equal(rd(r, IIR), 2);
    wr(r, IER, 0);
}

static void test_transmit(void **state)
{
    struct rig *r = *state;
    wr(r, IIR, 1);
    wr(r, IER, 2);
    assert_true(r->irq.level); /* enabling while empty interrupts at once */
    assert_int_equal(rd(r, IIR), 0xc2);
    assert_false(r->irq.level); /* reading it clears it */
    assert_int_equal(rd(r, IIR), 0xc1);
    wr(r, DATA, 'a');
    assert_int_equal(r->irq.rises, 2); /* empty again */
    wr(r, DATA, 'b');
    assert_int_equal(r->irq.rises, 3);
    assert_int_equal(r->ch.n, 2);
    assert_memory_equal(r->ch.out, "ab", 2);
    /* The back end is full: bytes stay until it is ready. */
    r->ch.room = 0;
    for (unsigned i = 0; i < 16; i++)
        wr(r, DATA, '0' + i % 10);
    assert_int_equal(rd(r, LSR) & 0x60, 0);
    assert_false(r->irq.level);
    r->ch.room = 10;
    r->ch.user.tx_ready(r->ch.user.arg);
    assert_int_equal(rd(r, LSR) & 0x60, 0);
    r->ch.room = 100;
    r->ch.user.tx_ready(r->ch.user.arg);
    assert_int_equal(rd(r, LSR) & 0x60, 0x60);
    assert_true(r->irq.level);
    assert_memory_equal(r->ch.out, "ab0123456789012345", 18);
}

static void test_receive(void **state)
{
    struct rig *r = *state;
    wr(r, IIR, 0x81); /* FIFO, trigger level 8 */
    wr(r, IER, 1);
    assert_int_equal(feed(r, "1234567", 7), 7);
    assert_false(r->irq.level);
    assert_int_equal(rd(r, LSR), 0x61);
    fake_advance(&r->t, 10000000); /* more than four characters at 9600 baud */
    assert_true(r->irq.level);
    assert_int_equal(rd(r, IIR), 0xcc);
    assert_int_equal(rd(r, DATA), '1');
    assert_false(r->irq.level); /* a read restarts the time-out */
    fake_advance(&r->t, 10000000);
    assert_int_equal(rd(r, IIR), 0xcc);
    assert_int_equal(feed(r, "89", 2), 2);
    assert_int_equal(rd(r, IIR), 0xc4);
    assert_int_equal(feed(r, "abcdefghijkl", 12), 8); /* 16 are in */
    for (const char *p = "23456789abcdefgh"; *p; p++)
        assert_int_equal(rd(r, DATA), *p);
    assert_int_equal(r->ch.ready, 1); /* told once that there is room */
    assert_false(r->irq.level);
    assert_int_equal(rd(r, LSR), 0x60);
    assert_int_equal(r->t.n, 0);
    /* Without FIFO each byte interrupts. */
    wr(r, IIR, 0);
    assert_int_equal(feed(r, "xy", 2), 1);
    assert_int_equal(rd(r, IIR), 0x04);
    assert_int_equal(rd(r, DATA), 'x');
    assert_int_equal(rd(r, IIR), 0x01);
    /* FCR clears. */
    wr(r, IIR, 1);
    feed(r, "abc", 3);
    wr(r, IIR, 3);
    assert_int_equal(rd(r, LSR), 0x60);
}

static void test_priority(void **state)
{
    struct rig *r = *state;
    wr(r, IIR, 1);
    wr(r, MCR, 0x10);
    for (unsigned i = 0; i < 17; i++)
        wr(r, DATA, i); /* loop-back overruns */
    wr(r, MCR, 0x13);   /* and moves CTS, DSR */
    wr(r, IER, 0xf);
    assert_int_equal(rd(r, IIR), 0xc6);
    assert_int_equal(rd(r, LSR), 0x63);
    assert_int_equal(rd(r, LSR), 0x61);
    assert_int_equal(rd(r, IIR), 0xc4);
    for (unsigned i = 0; i < 16; i++)
        assert_int_equal(rd(r, DATA), i);
    assert_int_equal(rd(r, IIR), 0xc2);
    assert_int_equal(rd(r, IIR), 0xc0);
    assert_true(r->irq.level);
    rd(r, MSR);
    wr(r, MCR, 0x17); /* RI rises: no interrupt; it falls: TERI */
    assert_int_equal(rd(r, IIR), 0xc1);
    wr(r, MCR, 0x13);
    assert_int_equal(rd(r, IIR), 0xc0);
    assert_int_equal(rd(r, MSR), 0x34);
    assert_int_equal(r->ch.n, 0); /* nothing of it got out */
    assert_int_equal(r->ch.user.can_rx(r->ch.user.arg), 0);
    wr(r, MCR, 3);
    assert_int_equal(r->ch.ready, 1);
}

static void test_state(void **state)
{
    struct rig *r = *state;
    struct fake_line line = { 0 };
    const struct uart_cfg cfg = { .timers = &r->t.svc, .irq = fake_irq(&line, 0) };
    struct uart *other = uart_new(&cfg);
    wr(r, IIR, 0xc1);
    wr(r, IER, 5);
    wr(r, MCR, 0x0b);
    feed(r, "hello", 5);
    check_round_trip(&uart_ops, r->u, other);
    fake_advance(&r->t, 10000000);
    assert_true(line.level);
    assert_int_equal(in8(&uart_ops, other, DATA), 'h');
    uart_free(other);
    uart_ops.reset(r->u);
    assert_int_equal(rd(r, LSR), 0x60);
    assert_false(r->irq.level);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_reset_state), T(test_probe), T(test_transmit), T(test_receive), T(test_priority), T(test_state),
    };
    return cmocka_run_group_tests_name("uart", tests, NULL, NULL);
}
