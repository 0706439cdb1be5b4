/* SPDX-License-Identifier: MIT */
/* RTC: calendar, formats, setting, interrupts without ticking, CMOS sizes, saved state; and the ACPI block and debug
 * ports. */
#include "fake_env.h"

#include <time.h>

#include "dev/acpi_pm.h"
#include "dev/debug_exit.h"
#include "dev/rtc.h"

#define NS 1000000000L

struct rig {
    struct fake_timers t;
    struct fake_line irq;
    int64_t epoch; /* realtime at clock 0, ns */
    struct rtc *r;
};

static int64_t realtime(void *arg)
{
    struct rig *r = arg;
    return r->epoch + (int64_t)r->t.now;
}
static struct rtc *make(struct rig *r, struct fake_line *line)
{
    const struct rtc_cfg cfg = { .timers = &r->t.svc, .irq = fake_irq(line, 0), .now_realtime = realtime, .arg = r };
    return rtc_new(&cfg);
}
static int setup(void **state)
{
    struct rig *r = calloc(1, sizeof(*r));
    fake_timers_init(&r->t);
    r->t.now = 0;
    r->epoch = 1709251199L * NS; /* 2024-02-29 23:59:59 */
    r->r = make(r, &r->irq);
    *state = r;
    return 0;
}
static int teardown(void **state)
{
    struct rig *r = *state;
    rtc_free(r->r);
    free(r);
    return 0;
}
static uint8_t rd(struct rig *r, unsigned i)
{
    out8(&rtc_ops, r->r, 0, i);
    return in8(&rtc_ops, r->r, 1);
}
static void wr(struct rig *r, unsigned i, unsigned val)
{
    out8(&rtc_ops, r->r, 0, i);
    out8(&rtc_ops, r->r, 1, val);
}
static void expect(struct rig *r, const uint8_t v[8])
{
    static const uint8_t reg[8] = { 0x32, 9, 8, 7, 6, 4, 2, 0 };
    for (unsigned i = 0; i < 8; i++)
        assert_int_equal(rd(r, reg[i]), v[i]);
}

static void test_calendar(void **state)
{
    struct rig *r = *state;
    expect(r, (const uint8_t[]){ 0x20, 0x24, 0x02, 0x29, 5, 0x23, 0x59, 0x59 });
    fake_advance(&r->t, NS);
    expect(r, (const uint8_t[]){ 0x20, 0x24, 0x03, 0x01, 6, 0x00, 0x00, 0x00 });
    wr(r, 11, 0x06); /* binary */
    fake_advance(&r->t, 86399 * NS);
    expect(r, (const uint8_t[]){ 20, 24, 3, 1, 6, 23, 59, 59 });
    wr(r, 11, 0x04); /* 12 hours */
    assert_int_equal(rd(r, 4), 0x80 | 11);
    fake_advance(&r->t, NS);
    assert_int_equal(rd(r, 4), 12);
    wr(r, 11, 0x00);
    fake_advance(&r->t, 13 * 3600 * NS);
    assert_int_equal(rd(r, 4), 0x81);
    wr(r, 11, 0x06);
    /* Against the C library over 130 years, a step not in line with anything. */
    for (int64_t t = 0; t < 4102444800L; t += 86400L * 17 + 12345) {
        r->epoch = t * NS - (int64_t)r->t.now;
        time_t tt = t;
        struct tm tm;
        gmtime_r(&tt, &tm);
        const uint8_t want[] = { (uint8_t)((tm.tm_year + 1900) / 100),
                                 (uint8_t)(tm.tm_year % 100),
                                 (uint8_t)(tm.tm_mon + 1),
                                 (uint8_t)tm.tm_mday,
                                 (uint8_t)(tm.tm_wday + 1),
                                 (uint8_t)tm.tm_hour,
                                 (uint8_t)tm.tm_min,
                                 (uint8_t)tm.tm_sec };
        expect(r, want);
    }
}

static void test_set(void **state)
{
    struct rig *r = *state;
    fake_advance(&r->t, NS / 4);
    wr(r, 11, 0x82); /* SET */
    fake_advance(&r->t, 5 * NS);
    assert_int_equal(rd(r, 0), 0x59); /* stands still */
    assert_int_equal(rd(r, 10) & 0x80, 0);
    static const uint8_t reg[8] = { 0x32, 9, 8, 7, 6, 4, 2, 0 }, v[8] = { 0x19, 0x99, 0x12, 0x31, 6, 0x23, 0x59, 0x58 };
    for (unsigned i = 0; i < 8; i++)
        wr(r, reg[i], v[i]);
    expect(r, v);
    wr(r, 11, 0x02);
    fake_advance(&r->t, NS / 2);
    expect(r, v); /* the fraction went on from where it stood: a quarter */
    fake_advance(&r->t, NS / 2);
    assert_int_equal(rd(r, 0), 0x59);
    fake_advance(&r->t, NS);
    expect(r, (const uint8_t[]){ 0x20, 0x00, 0x01, 0x01, 7, 0, 0, 0 });
    /* The divider: the first second lasts half of one. */
    wr(r, 10, 0x76);
    wr(r, 0, 0x30);
    wr(r, 10, 0x26);
    assert_int_equal(rd(r, 0), 0x30);
    fake_advance(&r->t, NS / 2);
    assert_int_equal(rd(r, 0), 0x31);
    /* Nonsense is taken for some time, not for a crash. */
    wr(r, 11, 0x82);
    for (unsigned i = 0; i < 8; i++)
        wr(r, reg[i], 0xff);
    wr(r, 11, 0x06);
    rd(r, 0);
}

static void test_interrupts(void **state)
{
    struct rig *r = *state;
    rd(r, 12);
    fake_advance(&r->t, NS / 2);
    assert_int_equal(r->t.arms, 0);    /* nothing enabled: no host timer */
    assert_int_equal(rd(r, 12), 0x40); /* the flags move all the same */
    fake_advance(&r->t, NS);
    assert_int_equal(rd(r, 12), 0x70); /* midnight: the alarm registers are zero, too */
    assert_int_equal(rd(r, 12), 0);
    wr(r, 11, 0x12); /* update ended */
    unsigned rises = r->irq.rises;
    fake_advance(&r->t, NS / 2);
    assert_int_equal(r->irq.rises, rises + 1);
    assert_int_equal(r->t.n, 0); /* waits for register C to be read */
    fake_advance(&r->t, 10 * NS);
    assert_int_equal(r->irq.rises, rises + 1);
    assert_int_equal(rd(r, 12) & 0x90, 0x90);
    assert_false(r->irq.level);
    fake_advance(&r->t, NS);
    assert_int_equal(r->irq.rises, rises + 2);
    /* Alarm: 00:01:30 is ahead; then every minute at :30. */
    wr(r, 11, 0x02);
    rd(r, 12);
    wr(r, 5, 0x00);
    wr(r, 3, 0x01);
    wr(r, 1, 0x30);
    wr(r, 11, 0x22);
    rises = r->irq.rises;
    fake_advance(&r->t, 60 * NS);
    assert_int_equal(r->irq.rises, rises);
    fake_advance(&r->t, 60 * NS);
    assert_int_equal(r->irq.rises, rises + 1);
    assert_int_equal(rd(r, 12) & 0xa0, 0xa0);
    assert_int_equal(rd(r, 2), 0x02);
    wr(r, 5, 0xc0);
    wr(r, 3, 0xff);
    for (unsigned i = 1; i <= 5; i++) {
        fake_advance(&r->t, 60 * NS);
        assert_int_equal(r->irq.rises, rises + 1 + i);
        rd(r, 12);
    }
    wr(r, 1, 0x99); /* never */
    fake_advance(&r->t, 60 * NS);
    rd(r, 12);
    assert_int_equal(r->t.n, 0);
    /* Periodic, 1024 a second; late by a tenth of a second: merged. */
    wr(r, 11, 0x42);
    rd(r, 12);
    rises = r->irq.rises;
    for (unsigned i = 0; i < 1024; i++) {
        fake_advance(&r->t, NS / 1024 + 1);
        if (r->irq.level)
            rd(r, 12);
    }
    assert_in_range(r->irq.rises - rises, 1020, 1024);
    rises = r->irq.rises;
    fake_run_to(&r->t, r->t.now + NS / 1024, NS / 10);
    assert_int_equal(r->irq.rises, rises + 1);
    rtc_ops.reset(r->r);
    assert_int_equal(rd(r, 11), 0x02);
    assert_false(r->irq.level);
}

static void test_uip(void **state)
{
    struct rig *r = *state;
    assert_int_equal(rd(r, 10), 0x26);
    fake_advance(&r->t, NS - 200000);
    assert_int_equal(rd(r, 10), 0xa6);
    fake_advance(&r->t, 200000);
    assert_int_equal(rd(r, 10), 0x26);
    assert_int_equal(rd(r, 13), 0x80);
    wr(r, 13, 0);
    assert_int_equal(rd(r, 13), 0x80);
    assert_int_equal(in8(&rtc_ops, r->r, 0), 0xff);
}

static void test_memory(void **state)
{
    struct rig *r = *state;
    rtc_set_memory(r->r, 3UL << 30, 3UL << 30);
    assert_int_equal(rd(r, 0x15) | rd(r, 0x16) << 8, 640);
    assert_int_equal(rd(r, 0x17) | rd(r, 0x18) << 8, 0xffff);
    assert_int_equal(rd(r, 0x30) | rd(r, 0x31) << 8, 0xffff);
    assert_int_equal(rd(r, 0x34) | rd(r, 0x35) << 8, ((3UL << 30) - (16 << 20)) >> 16);
    assert_int_equal(rd(r, 0x5b) | rd(r, 0x5c) << 8 | rd(r, 0x5d) << 16, (3UL << 30) >> 16);
    rtc_set_memory(r->r, 8UL << 20, 0);
    assert_int_equal(rd(r, 0x17) | rd(r, 0x18) << 8, 7 * 1024);
    assert_int_equal(rd(r, 0x34) | rd(r, 0x35) << 8, 0);
    wr(r, 0x40, 0x77);
    rtc_ops.reset(r->r);
    assert_int_equal(rd(r, 0x40), 0x77);
    out8(&rtc_ops, r->r, 0, 0xc0); /* the NMI bit is not part of the index */
    assert_int_equal(in8(&rtc_ops, r->r, 1), 0x77);
}

static void test_state(void **state)
{
    struct rig *r = *state;
    struct fake_line line = { 0 };
    struct rtc *other = make(r, &line);
    wr(r, 9, 0x30);
    wr(r, 11, 0x12);
    fake_advance(&r->t, NS / 2);
    check_round_trip(&rtc_ops, r->r, other);
    fake_advance(&r->t, NS);
    assert_int_equal(line.rises, 1);
    out8(&rtc_ops, other, 0, 9);
    assert_int_equal(in8(&rtc_ops, other, 1), 0x30);
    rtc_free(other);
}

/* ---- ACPI ---- */

struct acpi_rig {
    struct fake_timers t;
    struct fake_line sci;
    unsigned offs, resets;
    struct acpi_pm *p;
};

static void on_off(void *arg)
{
    ((struct acpi_rig *)arg)->offs++;
}
static void on_reset(void *arg)
{
    ((struct acpi_rig *)arg)->resets++;
}
static struct acpi_pm *acpi_make(struct acpi_rig *r)
{
    const struct acpi_pm_cfg cfg = {
        .timers = &r->t.svc, .sci = fake_irq(&r->sci, 0), .poweroff = on_off, .reset = on_reset, .arg = r
    };
    return acpi_pm_new(&cfg);
}

static void test_acpi(void **state)
{
    struct acpi_rig r = { 0 };
    (void)state;
    fake_timers_init(&r.t);
    r.p = acpi_make(&r);
    assert_int_equal(in16(&acpi_pm_ops, r.p, 4), 1); /* SCI_EN */
    fake_advance(&r.t, NS);
    assert_in_range(in32(&acpi_pm_ops, r.p, 8), ACPI_PM_HZ - 2, ACPI_PM_HZ);
    assert_in_range(in16(&acpi_pm_ops, r.p, 8), (ACPI_PM_HZ - 2) & 0xffff, ACPI_PM_HZ & 0xffff);
    /* Power button: pending until enabled, cleared by writing one. */
    acpi_pm_power_button(r.p);
    assert_false(r.sci.level);
    out16(&acpi_pm_ops, r.p, 2, 0x100);
    assert_true(r.sci.level);
    out16(&acpi_pm_ops, r.p, 0, 0xfeff);
    assert_true(r.sci.level);
    out8(&acpi_pm_ops, r.p, 1, 1); /* by bytes */
    assert_false(r.sci.level);
    assert_int_equal(in16(&acpi_pm_ops, r.p, 0), 0);
    assert_int_equal(r.t.n, 0);
    /* Timer interrupt: bit 31 changes after 600 s. */
    out16(&acpi_pm_ops, r.p, 2, 1);
    assert_int_equal(r.t.n, 1);
    fake_advance(&r.t, 590 * NS);
    assert_false(r.sci.level);
    fake_advance(&r.t, 20 * NS);
    assert_true(r.sci.level);
    assert_int_equal(in32(&acpi_pm_ops, r.p, 8) >> 31, 1);
    out32(&acpi_pm_ops, r.p, 0, 1);
    assert_false(r.sci.level);
    /* GPEs. */
    acpi_pm_gpe(r.p, 3);
    out16(&acpi_gpe_ops, r.p, 2, 8);
    assert_true(r.sci.level);
    assert_int_equal(in8(&acpi_gpe_ops, r.p, 0), 8);
    out8(&acpi_gpe_ops, r.p, 0, 8);
    assert_false(r.sci.level);
    /* Sleeping: only S5, only with SLP_EN. */
    out16(&acpi_pm_ops, r.p, 4, ACPI_SLP_TYP_S5 << 10);
    assert_int_equal(r.offs, 0);
    out16(&acpi_pm_ops, r.p, 4, 1 << 10 | 1 << 13);
    assert_int_equal(r.offs, 0);
    out16(&acpi_pm_ops, r.p, 4, ACPI_SLP_TYP_S5 << 10 | 1 << 13);
    assert_int_equal(r.offs, 1);
    assert_int_equal(in16(&acpi_pm_ops, r.p, 4), ACPI_SLP_TYP_S5 << 10 | 1);
    /* Reset register. */
    out8(&acpi_reset_ops, r.p, 1, 2);
    assert_int_equal(r.resets, 0);
    out32(&acpi_reset_ops, r.p, 0, 0x80000600); /* a probe for PCI: its second byte is not ours */
    assert_int_equal(r.resets, 0);
    assert_int_equal(in32(&acpi_reset_ops, r.p, 0), 0xffffffff);
    out8(&acpi_reset_ops, r.p, 1, ACPI_RESET_VALUE);
    assert_int_equal(r.resets, 1);
    struct acpi_pm *other = acpi_make(&r);
    check_round_trip(&acpi_pm_ops, r.p, other);
    assert_int_equal(in32(&acpi_pm_ops, r.p, 8), in32(&acpi_pm_ops, other, 8));
    acpi_pm_free(other);
    acpi_pm_ops.reset(r.p);
    assert_int_equal(in32(&acpi_pm_ops, r.p, 8), 0);
    acpi_pm_free(r.p);
}

static uint32_t exit_value;
static void on_exit_port(void *arg, uint32_t value)
{
    (void)arg;
    exit_value = value;
}

static void test_debug_ports(void **state)
{
    struct debug_exit d = { .exit = on_exit_port };
    static struct fake_chardev ch;
    _Atomic uint8_t post = 0;
    (void)state;
    out8(&debug_exit_ops, &d, 0, 0x31);
    assert_int_equal(exit_value, 0x31);
    out32(&debug_exit_ops, &d, 0, 0x12345678);
    assert_int_equal(exit_value, 0x12345678);
    fake_chardev_init(&ch);
    struct debug_con con = { .ch = &ch.ch };
    assert_int_equal(in8(&debug_con_ops, &con, 0), 0xe9);
    out8(&debug_con_ops, &con, 0, 'x');
    assert_int_equal(ch.out[0], 'x');
    out8(&post_ops, &post, 0, 0x42);
    assert_int_equal(in8(&post_ops, &post, 0), 0x42);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_calendar), T(test_set),   T(test_interrupts),          T(test_uip),
        T(test_memory),   T(test_state), cmocka_unit_test(test_acpi), cmocka_unit_test(test_debug_ports),
    };
    return cmocka_run_group_tests_name("rtc", tests, NULL, NULL);
}
