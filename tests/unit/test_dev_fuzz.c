/* SPDX-License-Identifier: MIT */
/*
 * Every chip under random accesses, random time and random saved state: nothing may crash, hang or reach outside (the
 * sanitizer builds look), time costs a bounded number of host timers, and an image that load takes is one that save
 * writes again. The seed is printed; GAZDA_SEED=n repeats a run, GAZDA_ROUNDS=n lengthens it.
 */
#include "fake_env.h"

#include <errno.h>

#include "dev/acpi_pm.h"
#include "dev/i8042.h"
#include "dev/ioapic.h"
#include "dev/irq_router.h"
#include "dev/lapic.h"
#include "dev/pic.h"
#include "dev/pit.h"
#include "dev/rtc.h"
#include "dev/uart.h"

static uint64_t seed, rounds;

static uint64_t rnd(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

struct port {
    const struct dev_ops *ops;
    void *dev;
    unsigned len, sizes;
};
enum { PORTS = 16, OWNERS = 9 };

struct rig {
    struct fake_timers t;
    struct fake_chardev ch;
    struct lapic_bus *bus;
    struct lapic *lapic[2];
    struct irq_ctl ctl[2];
    struct pic *pic;
    struct ioapic *ioapic;
    struct irq_router router;
    struct pit *pit;
    struct uart *uart;
    struct i8042 *kbd;
    struct rtc *rtc;
    struct acpi_pm *acpi;
    struct port port[PORTS];
    unsigned ports;
};

static void nothing(void *arg)
{
    (void)arg;
}
static void nothing_sipi(void *arg, uint8_t vector)
{
    (void)arg;
    (void)vector;
}
static int ack_pic(void *arg)
{
    return pic_ack(((struct rig *)arg)->pic);
}
static void eoi(void *arg, uint8_t vector)
{
    ioapic_eoi(((struct rig *)arg)->ioapic, vector);
}
static int64_t realtime(void *arg)
{
    return 1700000000000000000L + (int64_t)((struct rig *)arg)->t.now;
}
static uint64_t tsc_now(void *arg)
{
    return ((struct rig *)arg)->t.now * 2;
}
static uint64_t tsc_to_ns(void *arg, uint64_t tsc)
{
    (void)arg;
    return tsc / 2 + (tsc & 1);
}

static void add(struct rig *r, const struct dev_ops *ops, void *dev, unsigned len, unsigned sizes)
{
    assert_non_null(dev);
    r->port[r->ports++] = (struct port){ ops, dev, len, sizes };
}

/* The LAPIC as a region of its own page. */
static void page_read(void *dev, uint64_t off, void *buf, unsigned len)
{
    lapic_mmio_read(dev, off, buf, len);
}
static void page_write(void *dev, uint64_t off, const void *buf, unsigned len)
{
    lapic_mmio_write(dev, off, buf, len);
}
static const struct dev_ops page_ops = { .name = "lapic-page", .read = page_read, .write = page_write };

static void build_lapics(struct rig *r)
{
    const struct lapic_bus_cfg bc = { .extint_ack = ack_pic, .extint_arg = r, .eoi = eoi, .eoi_arg = r };
    r->bus = lapic_bus_new(&bc);
    for (unsigned i = 0; i < 2; i++) {
        const struct lapic_cfg lc = {
            .id = (uint8_t)i,
            .bsp = i == 0,
            .x2apic = true,
            .tsc_deadline = true,
            .phys_bits = 46,
            .cpu = { .intr = nothing, .nmi = nothing, .init = nothing, .sipi = nothing_sipi, .vcpu = r },
            .timers = &r->t.svc,
            .tsc_now = tsc_now,
            .tsc_to_ns = tsc_to_ns,
        };
        r->lapic[i] = lapic_new(r->bus, &lc);
        lapic_get_ctl(r->lapic[i], &r->ctl[i]);
        add(r, &page_ops, r->lapic[i], 4096, BUS_1 | BUS_2 | BUS_4 | BUS_8);
    }
    const struct irq_line lint0 = { .set = lapic_bus_lint, .arg = r->bus };
    const struct irq_msi_sink sink = { .send = lapic_bus_msi, .arg = r->bus };
    r->pic = pic_new(&lint0);
    r->ioapic = ioapic_new(&sink, 2);
    r->router = (struct irq_router){ .pic = r->pic, .ioapic = r->ioapic };
}

static struct rig *rig_new(void)
{
    struct rig *r = calloc(1, sizeof(*r));
    fake_timers_init(&r->t);
    fake_chardev_init(&r->ch);
    build_lapics(r);
    const struct irq_line irq0 = irq_router_line(&r->router, 0);
    r->pit = pit_new(&r->t.svc, &irq0);
    const struct uart_cfg uc = { .timers = &r->t.svc, .irq = irq_router_line(&r->router, 4), .ch = &r->ch.ch };
    r->uart = uart_new(&uc);
    const struct i8042_cfg kc = {
        .kbd = irq_router_line(&r->router, 1), .aux = irq_router_line(&r->router, 12), .reset = nothing, .arg = r
    };
    r->kbd = i8042_new(&kc);
    const struct rtc_cfg rc = {
        .timers = &r->t.svc, .irq = irq_router_line(&r->router, 8), .now_realtime = realtime, .arg = r
    };
    r->rtc = rtc_new(&rc);
    const struct acpi_pm_cfg ac = {
        .timers = &r->t.svc, .sci = irq_router_line(&r->router, 9), .poweroff = nothing, .reset = nothing, .arg = r
    };
    r->acpi = acpi_pm_new(&ac);
    add(r, &pic_master_ops, r->pic, 2, BUS_1);
    add(r, &pic_slave_ops, r->pic, 2, BUS_1);
    add(r, &pic_elcr_ops, r->pic, 2, BUS_1);
    add(r, &ioapic_ops, r->ioapic, IOAPIC_LEN, BUS_4);
    add(r, &pit_ops, r->pit, PIT_LEN, BUS_1);
    add(r, &pit_port61_ops, r->pit, 1, BUS_1);
    add(r, &uart_ops, r->uart, UART_LEN, BUS_1);
    add(r, &i8042_data_ops, r->kbd, 1, BUS_1);
    add(r, &i8042_cmd_ops, r->kbd, 1, BUS_1);
    add(r, &i8042_port_a_ops, r->kbd, 1, BUS_1);
    add(r, &rtc_ops, r->rtc, RTC_LEN, BUS_1);
    add(r, &acpi_pm_ops, r->acpi, ACPI_PM_LEN, BUS_1 | BUS_2 | BUS_4);
    add(r, &acpi_gpe_ops, r->acpi, ACPI_GPE0_LEN, BUS_1 | BUS_2 | BUS_4);
    add(r, &acpi_reset_ops, r->acpi, ACPI_CF8_LEN, BUS_1 | BUS_2 | BUS_4);
    assert_int_equal(r->ports, PORTS);
    return r;
}

static void rig_free(struct rig *r)
{
    uart_free(r->uart);
    i8042_free(r->kbd);
    rtc_free(r->rtc);
    acpi_pm_free(r->acpi);
    pit_free(r->pit);
    pic_free(r->pic);
    ioapic_free(r->ioapic);
    lapic_bus_free(r->bus);
    free(r);
}

static void owners(struct rig *r, struct port o[OWNERS])
{
    const struct port all[OWNERS] = {
        { &lapic_dev_ops, r->lapic[0], 0, 0 },
        { &lapic_dev_ops, r->lapic[1], 0, 0 },
        { &pic_master_ops, r->pic, 0, 0 },
        { &ioapic_ops, r->ioapic, 0, 0 },
        { &pit_ops, r->pit, 0, 0 },
        { &uart_ops, r->uart, 0, 0 },
        { &i8042_data_ops, r->kbd, 0, 0 },
        { &rtc_ops, r->rtc, 0, 0 },
        { &acpi_pm_ops, r->acpi, 0, 0 },
    };
    memcpy(o, all, sizeof(all));
}

/* Registers matter more than the gaps between them: half of the offsets are of registers, half of the values small. */
static void access_one(struct rig *r)
{
    const struct port *p = &r->port[rnd() % r->ports];
    unsigned len = 1u << rnd() % 4;
    uint8_t buf[8];
    while (!(p->sizes & len))
        len = 1u << rnd() % 4;
    uint64_t off = rnd() % p->len;
    if (p->len > 64 && rnd() % 8)
        off &= p->ops == &ioapic_ops ? 0x50 : 0x3f0;
    off &= ~(uint64_t)(len - 1);
    if (off + len > p->len)
        return;
    if (rnd() & 1) {
        p->ops->read(p->dev, off, buf, len);
        return;
    }
    uint64_t v = rnd();
    if (rnd() & 1)
        v &= 0x13f;
    memcpy(buf, &v, 8);
    p->ops->write(p->dev, off, buf, len);
}

static void cpu_one(struct rig *r)
{
    static const uint32_t msr[] = { 0x1b, 0x6e0, 0x800, 0x808, 0x80b, 0x80f, 0x830, 0x832, 0x838, 0x83e, 0x83f };
    unsigned c = rnd() & 1;
    uint64_t v;
    switch (rnd() % 8) {
    case 0:
        r->ctl[c].tpr_set(r->lapic[c], (uint8_t)(rnd() & 0xf));
        break;
    case 1:
        r->ctl[c].msr_read(r->lapic[c], msr[rnd() % ARRAY_LEN(msr)] + (uint32_t)(rnd() % 3), &v);
        break;
    case 2:
        v = rnd() >> rnd() % 64;
        if (rnd() & 1)
            v = 0xfee00000 | (rnd() & 0xd00);
        r->ctl[c].msr_write(r->lapic[c], msr[rnd() % ARRAY_LEN(msr)], v);
        break;
    case 3:
        lapic_bus_msi(r->bus, 0xfee00000 | (rnd() & 0xfffff), (uint32_t)rnd());
        break;
    case 4:
        irq_router_set(&r->router, (unsigned)(rnd() % 26), rnd() & 1);
        break;
    default: {
        int pending = r->ctl[c].pending(r->lapic[c]), vec = r->ctl[c].ack(r->lapic[c]);
        assert_in_range(vec + 1, 0, 256);
        if (pending < 0)
            assert_int_equal(vec, -1);
        break;
    }
    }
}

static void outside_one(struct rig *r)
{
    static const uint64_t step[] = { 1, 1000, 50000, 1000000, 30000000, 2000000000 };
    uint8_t b[16];
    uint64_t v = rnd(), fires = r->t.fires, dt;
    switch (rnd() % 4) {
    case 0: {
        size_t room = r->ch.user.can_rx(r->ch.user.arg);
        memset(b, (int)v, sizeof(b));
        assert_true(room <= 16);
        if (room)
            r->ch.user.rx(r->ch.user.arg, b, 1 + v % room);
        break;
    }
    case 1:
        r->ch.room = v & 0xff;
        r->ch.user.tx_ready(r->ch.user.arg);
        break;
    case 2:
        i8042_ctrl_alt_del(r->kbd);
        break;
    default:
        dt = step[rnd() % ARRAY_LEN(step)];
        fake_run_to(&r->t, r->t.now + dt, rnd() % 3 ? 0 : rnd() % 5000000);
        /* Two LAPIC timers and the PIT at 50 kHz, the RTC at 8 kHz: nothing may cost more. */
        assert_true(r->t.fires - fires <= dt / 20000 * 3 + dt / 122000 + 40);
        assert_true(r->t.n <= 8);
        break;
    }
}

static void test_accesses(void **state)
{
    (void)state;
    for (uint64_t n = 0; n < rounds; n++) {
        struct rig *r = rig_new();
        for (unsigned i = 0; i < 3000; i++) {
            unsigned what = rnd() % 16;
            if (what < 11)
                access_one(r);
            else if (what < 15)
                cpu_one(r);
            else
                outside_one(r);
        }
        rig_free(r);
    }
}

/* Save, load into a fresh machine, save: the same bytes, whatever state the accesses led to. */
static void test_round_trips(void **state)
{
    (void)state;
    for (uint64_t n = 0; n < rounds; n++) {
        struct rig *r = rig_new(), *q = rig_new();
        for (unsigned i = 0; i < 500; i++)
            rnd() % 4 ? access_one(r) : cpu_one(r);
        q->t.now = r->t.now;
        struct port a[OWNERS], b[OWNERS];
        owners(r, a);
        owners(q, b);
        for (unsigned i = 0; i < OWNERS; i++) {
            struct state_out one = { 0 }, two = { 0 };
            assert_int_equal(a[i].ops->save(a[i].dev, &one), 0);
            struct state_in in = { .buf = one.buf, .len = one.len };
            assert_int_equal(b[i].ops->load(b[i].dev, &in, b[i].ops->version), 0);
            assert_int_equal(b[i].ops->save(b[i].dev, &two), 0);
            assert_int_equal(one.len, two.len);
            assert_memory_equal(one.buf, two.buf, one.len);
            state_out_free(&one);
            state_out_free(&two);
        }
        rig_free(r);
        rig_free(q);
    }
}

/* Random and damaged images: refused with the device unchanged, or taken and usable. */
static void test_loads(void **state)
{
    uint64_t taken = 0;
    (void)state;
    for (uint64_t n = 0; n < rounds; n++) {
        struct rig *r = rig_new();
        struct port o[OWNERS];
        owners(r, o);
        for (unsigned i = 0; i < 300; i++)
            access_one(r);
        for (unsigned i = 0; i < 20 * OWNERS; i++) {
            const struct port *p = &o[i % OWNERS];
            struct state_out good = { 0 }, after = { 0 };
            uint8_t image[1024];
            assert_int_equal(p->ops->save(p->dev, &good), 0);
            size_t len = good.len < sizeof(image) ? good.len : sizeof(image);
            memcpy(image, good.buf, len);
            if (rnd() % 3 == 0) {
                for (size_t k = 0; k < len; k++)
                    image[k] = (uint8_t)rnd();
            } else {
                for (unsigned k = 0; k < 1 + rnd() % 4; k++)
                    image[rnd() % len] = (uint8_t)rnd();
            }
            struct state_in in = { .buf = image, .len = rnd() % 8 ? len : rnd() % len };
            int rc = p->ops->load(p->dev, &in, p->ops->version);
            assert_true(rc == 0 || rc == -EINVAL);
            if (rc) {
                assert_int_equal(p->ops->save(p->dev, &after), 0);
                assert_int_equal(after.len, good.len);
                assert_memory_equal(after.buf, good.buf, good.len);
            }
            taken += rc == 0;
            state_out_free(&good);
            state_out_free(&after);
            for (unsigned k = 0; k < 20; k++)
                rnd() % 4 ? access_one(r) : rnd() & 1 ? cpu_one(r) : outside_one(r);
        }
        rig_free(r);
    }
    assert_true(taken > rounds); /* the test does get past the checks */
}

int main(void)
{
    const char *s = getenv("GAZDA_SEED"), *n = getenv("GAZDA_ROUNDS");
    seed = s ? strtoull(s, NULL, 0) : 0x9e3779b97f4a7c15;
    rounds = n ? strtoull(n, NULL, 0) : 60;
    if (!seed)
        seed = 1;
    printf("GAZDA_SEED=%#llx GAZDA_ROUNDS=%llu\n", (unsigned long long)seed, (unsigned long long)rounds);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_accesses),
        cmocka_unit_test(test_round_trips),
        cmocka_unit_test(test_loads),
    };
    return cmocka_run_group_tests_name("dev fuzz", tests, NULL, NULL);
}
