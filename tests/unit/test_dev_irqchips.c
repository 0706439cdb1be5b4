/* SPDX-License-Identifier: MIT */
/* PIC, IOAPIC and the lines that lead to them. */
#include "fake_env.h"

#include "dev/ioapic.h"
#include "dev/irq_router.h"
#include "dev/pic.h"

/* ---- PIC ---- */

struct pic_rig {
    struct fake_line out;
    struct pic *p;
};

static void init_chips(struct pic *p, unsigned icw1, unsigned icw4)
{
    out8(&pic_master_ops, p, 0, icw1);
    out8(&pic_master_ops, p, 1, 0x30);
    out8(&pic_master_ops, p, 1, 4);
    out8(&pic_master_ops, p, 1, icw4);
    out8(&pic_slave_ops, p, 0, icw1);
    out8(&pic_slave_ops, p, 1, 0x38);
    out8(&pic_slave_ops, p, 1, 2);
    out8(&pic_slave_ops, p, 1, icw4);
}
static int pic_setup(void **state)
{
    struct pic_rig *r = calloc(1, sizeof(*r));
    const struct irq_line out = fake_irq(&r->out, 0);
    r->p = pic_new(&out);
    init_chips(r->p, 0x11, 1);
    *state = r;
    return 0;
}
static int pic_teardown(void **state)
{
    struct pic_rig *r = *state;
    pic_free(r->p);
    free(r);
    return 0;
}
static uint8_t ocw3(struct pic *p, const struct dev_ops *ops, unsigned val)
{
    out8(ops, p, 0, val);
    return in8(ops, p, 0);
}

static void test_pic_edge(void **state)
{
    struct pic_rig *r = *state;
    pic_set(r->p, 4, true);
    assert_true(r->out.level);
    assert_int_equal(ocw3(r->p, &pic_master_ops, 0x0a), 0x10); /* IRR */
    assert_int_equal(pic_ack(r->p), 0x34);
    assert_false(r->out.level);
    assert_int_equal(ocw3(r->p, &pic_master_ops, 0x0b), 0x10); /* ISR */
    pic_set(r->p, 5, true);                                    /* lower priority waits */
    assert_false(r->out.level);
    pic_set(r->p, 1, true); /* higher interrupts */
    assert_int_equal(pic_ack(r->p), 0x31);
    out8(&pic_master_ops, r->p, 0, 0x20); /* non-specific: ends IR1 */
    assert_int_equal(ocw3(r->p, &pic_master_ops, 0x0b), 0x10);
    out8(&pic_master_ops, r->p, 0, 0x64); /* specific: IR4 */
    assert_int_equal(pic_ack(r->p), 0x35);
    out8(&pic_master_ops, r->p, 0, 0x20);
    assert_false(r->out.level); /* the lines are still high: edges */
    /* A request that goes away before INTA gives the spurious vector and leaves ISR alone. */
    pic_set(r->p, 4, false);
    pic_set(r->p, 4, true);
    pic_set(r->p, 4, false);
    assert_int_equal(pic_ack(r->p), 0x37);
    assert_int_equal(ocw3(r->p, &pic_master_ops, 0x0b), 0);
}

static void test_pic_mask(void **state)
{
    struct pic_rig *r = *state;
    out8(&pic_master_ops, r->p, 1, 0x10);
    assert_int_equal(in8(&pic_master_ops, r->p, 1), 0x10);
    pic_set(r->p, 4, true);
    assert_false(r->out.level);
    out8(&pic_master_ops, r->p, 1, 0); /* the edge was latched behind the mask */
    assert_int_equal(pic_ack(r->p), 0x34);
}

static void test_pic_cascade(void **state)
{
    struct pic_rig *r = *state;
    pic_set(r->p, 12, true);
    pic_set(r->p, 8, true);
    assert_int_equal(pic_ack(r->p), 0x38);
    assert_false(r->out.level);
    out8(&pic_slave_ops, r->p, 0, 0x20);
    assert_false(r->out.level); /* IR2 is in service at the master */
    out8(&pic_master_ops, r->p, 0, 0x20);
    assert_true(r->out.level);
    assert_int_equal(pic_ack(r->p), 0x3c);
    out8(&pic_slave_ops, r->p, 0, 0x20);
    out8(&pic_master_ops, r->p, 0, 0x20);
    /* Spurious at the slave: its vector 7, in service at the master only. */
    pic_set(r->p, 9, true);
    pic_set(r->p, 9, false);
    assert_false(r->out.level);
    pic_set(r->p, 2, true); /* the cascade pin belongs to the slave */
    assert_false(r->out.level);
}

static void test_pic_level(void **state)
{
    struct pic_rig *r = *state;
    out8(&pic_elcr_ops, r->p, 0, 0xff);
    out8(&pic_elcr_ops, r->p, 1, 0xff);
    assert_int_equal(in8(&pic_elcr_ops, r->p, 0), 0xf8);
    assert_int_equal(in8(&pic_elcr_ops, r->p, 1), 0xde);
    pic_set(r->p, 11, true);
    assert_int_equal(pic_ack(r->p), 0x3b);
    out8(&pic_slave_ops, r->p, 0, 0x20);
    out8(&pic_master_ops, r->p, 0, 0x20);
    assert_true(r->out.level); /* still asserted */
    assert_int_equal(pic_ack(r->p), 0x3b);
    pic_set(r->p, 11, false);
    out8(&pic_slave_ops, r->p, 0, 0x20);
    out8(&pic_master_ops, r->p, 0, 0x20);
    assert_false(r->out.level);
}

static void test_pic_special(void **state)
{
    struct pic_rig *r = *state;
    /* Special mask mode: a masked level in service lets lower ones through. */
    pic_set(r->p, 3, true);
    assert_int_equal(pic_ack(r->p), 0x33);
    pic_set(r->p, 6, true);
    assert_false(r->out.level);
    out8(&pic_master_ops, r->p, 1, 0x08);
    assert_false(r->out.level);
    out8(&pic_master_ops, r->p, 0, 0x68);
    assert_int_equal(pic_ack(r->p), 0x36);
    out8(&pic_master_ops, r->p, 0, 0x20); /* does not touch the masked IR3 */
    assert_int_equal(ocw3(r->p, &pic_master_ops, 0x0b), 0x08);
    out8(&pic_master_ops, r->p, 0, 0x48);
    out8(&pic_master_ops, r->p, 1, 0);
    out8(&pic_master_ops, r->p, 0, 0x63);
    /* Rotation: IR6 becomes the lowest, so IR7 is the highest. */
    out8(&pic_master_ops, r->p, 0, 0xc6);
    pic_set(r->p, 0, true);
    pic_set(r->p, 7, true);
    assert_int_equal(pic_ack(r->p), 0x37);
    out8(&pic_master_ops, r->p, 0, 0xa0); /* rotate on EOI: now IR0 is the highest */
    pic_set(r->p, 7, false);
    pic_set(r->p, 7, true);
    assert_int_equal(pic_ack(r->p), 0x30);
    out8(&pic_master_ops, r->p, 0, 0x20);
    assert_int_equal(pic_ack(r->p), 0x37);
    out8(&pic_master_ops, r->p, 0, 0x20);
    /* Poll. */
    pic_set(r->p, 5, true);
    assert_int_equal(ocw3(r->p, &pic_master_ops, 0x0c), 0x85);
    assert_false(r->out.level);
    out8(&pic_master_ops, r->p, 0, 0x20);
    assert_int_equal(ocw3(r->p, &pic_master_ops, 0x0c), 0);
    /* Automatic EOI. */
    init_chips(r->p, 0x11, 3);
    pic_set(r->p, 14, true);
    assert_int_equal(pic_ack(r->p), 0x3e);
    assert_int_equal(ocw3(r->p, &pic_master_ops, 0x0b), 0);
    assert_int_equal(ocw3(r->p, &pic_slave_ops, 0x0b), 0);
}

static void test_pic_sfnm(void **state)
{
    struct pic_rig *r = *state;
    init_chips(r->p, 0x11, 0x11);
    pic_set(r->p, 12, true);
    assert_int_equal(pic_ack(r->p), 0x3c);
    pic_set(r->p, 9, true); /* a higher one of the same slave */
    assert_true(r->out.level);
    assert_int_equal(pic_ack(r->p), 0x39);
}

static void test_pic_state(void **state)
{
    struct pic_rig *r = *state;
    struct fake_line line = { 0 };
    const struct irq_line out = fake_irq(&line, 0);
    struct pic *other = pic_new(&out);
    pic_set(r->p, 4, true);
    pic_set(r->p, 10, true);
    pic_ack(r->p);
    pic_set(r->p, 1, true);
    check_round_trip(&pic_master_ops, r->p, other);
    assert_true(line.level);
    assert_int_equal(pic_ack(other), 0x31);
    pic_free(other);
    pic_master_ops.reset(r->p);
    assert_int_equal(in8(&pic_master_ops, r->p, 1), 0xff);
    assert_int_equal(in8(&pic_slave_ops, r->p, 1), 0xff);
    assert_false(r->out.level);
}

/* ---- IOAPIC ---- */

struct ioapic_rig {
    struct ioapic *io;
    unsigned n;
    uint64_t addr;
    uint32_t data;
};

static void on_msi(void *arg, uint64_t addr, uint32_t data)
{
    struct ioapic_rig *r = arg;
    r->n++;
    r->addr = addr;
    r->data = data;
}
static int ioapic_setup(void **state)
{
    struct ioapic_rig *r = calloc(1, sizeof(*r));
    const struct irq_msi_sink sink = { .send = on_msi, .arg = r };
    r->io = ioapic_new(&sink, 5);
    *state = r;
    return 0;
}
static int ioapic_teardown(void **state)
{
    struct ioapic_rig *r = *state;
    ioapic_free(r->io);
    free(r);
    return 0;
}
static uint32_t get(struct ioapic_rig *r, unsigned idx)
{
    out32(&ioapic_ops, r->io, 0, idx);
    return in32(&ioapic_ops, r->io, 0x10);
}
static void put(struct ioapic_rig *r, unsigned idx, uint32_t val)
{
    out32(&ioapic_ops, r->io, 0, idx);
    out32(&ioapic_ops, r->io, 0x10, val);
}
static void entry(struct ioapic_rig *r, unsigned pin, uint64_t rte)
{
    put(r, 0x11 + 2 * pin, (uint32_t)(rte >> 32));
    put(r, 0x10 + 2 * pin, (uint32_t)rte);
}

static void test_ioapic_registers(void **state)
{
    struct ioapic_rig *r = *state;
    assert_int_equal(get(r, 0), 5 << 24);
    assert_int_equal(get(r, 1), 0x170020);
    put(r, 0, 0xffu << 24);
    assert_int_equal(get(r, 0), 0xf << 24);
    assert_int_equal(get(r, 2), 0xf << 24);
    assert_int_equal(get(r, 0x10), 0x10000);
    entry(r, 23, ~0UL & ~0x10000UL);
    assert_int_equal(get(r, 0x3e), 0xafff);
    assert_int_equal(get(r, 0x3f), 0xff000000);
    assert_int_equal(get(r, 0x40), 0);
}

static void test_ioapic_edge(void **state)
{
    struct ioapic_rig *r = *state;
    ioapic_set(r->io, 4, true); /* masked: lost */
    ioapic_set(r->io, 4, false);
    entry(r, 4, 3UL << 56 | 0x41);
    assert_int_equal(r->n, 0);
    ioapic_set(r->io, 4, true);
    assert_int_equal(r->n, 1);
    assert_int_equal(r->addr, 0xfee03000);
    assert_int_equal(r->data, 0x41);
    ioapic_set(r->io, 4, true);
    assert_int_equal(r->n, 1);
    ioapic_set(r->io, 4, false);
    ioapic_set(r->io, 4, true);
    assert_int_equal(r->n, 2);
    entry(r, 6, 0x0fUL << 56 | 0x942); /* logical, lowest priority */
    ioapic_set(r->io, 6, true);
    assert_int_equal(r->addr, 0xfee0f004);
    assert_int_equal(r->data, 0x142);
    entry(r, 7, 0x8400); /* NMI is an edge even if it says level */
    ioapic_set(r->io, 7, true);
    assert_int_equal(r->data, 0x400);
    assert_int_equal(get(r, 0x10 + 14) & 0x4000, 0);
}

static void test_ioapic_level(void **state)
{
    struct ioapic_rig *r = *state;
    entry(r, 10, 0x8051);
    ioapic_set(r->io, 10, true);
    assert_int_equal(r->n, 1);
    assert_int_equal(r->data, 0xc051);
    assert_int_equal(get(r, 0x24), 0xc051); /* remote IRR */
    ioapic_set(r->io, 10, false);
    ioapic_set(r->io, 10, true);
    assert_int_equal(r->n, 1); /* not before the EOI */
    ioapic_eoi(r->io, 0x52);
    assert_int_equal(r->n, 1);
    ioapic_eoi(r->io, 0x51);
    assert_int_equal(r->n, 2); /* still high */
    ioapic_set(r->io, 10, false);
    out32(&ioapic_ops, r->io, 0x40, 0x51); /* the EOI register */
    assert_int_equal(r->n, 2);
    assert_int_equal(get(r, 0x24), 0x8051);
    /* A line that is high when the pin is unmasked, or when it becomes level-triggered. */
    entry(r, 11, 0x18061);
    ioapic_set(r->io, 11, true);
    assert_int_equal(r->n, 2);
    entry(r, 11, 0x8061);
    assert_int_equal(r->n, 3);
    /* Masked while in service: EOI clears remote IRR, unmasking sends. */
    entry(r, 11, 0x18061);
    assert_int_equal(get(r, 0x26), 0x1c061);
    ioapic_eoi(r->io, 0x61);
    assert_int_equal(r->n, 3);
    entry(r, 11, 0x8061);
    assert_int_equal(r->n, 4);
    /* Without an EOI register guests reset remote IRR by going over edge mode. */
    entry(r, 11, 0x10061);
    assert_int_equal(get(r, 0x26), 0x10061);
}

static void test_ioapic_state(void **state)
{
    struct ioapic_rig *r = *state;
    struct ioapic_rig o = { 0 };
    const struct irq_msi_sink sink = { .send = on_msi, .arg = &o };
    o.io = ioapic_new(&sink, 0);
    entry(r, 10, 0x8051);
    ioapic_set(r->io, 10, true);
    check_round_trip(&ioapic_ops, r->io, o.io);
    assert_int_equal(o.n, 0);
    ioapic_eoi(o.io, 0x51);
    assert_int_equal(o.n, 1);
    ioapic_ops.reset(o.io);
    assert_int_equal(get(&o, 0x24), 0x10000);
    ioapic_free(o.io);
}

static void test_router(void **state)
{
    struct ioapic_rig *r = *state;
    struct fake_line line = { 0 };
    const struct irq_line out = fake_irq(&line, 0);
    struct pic *p = pic_new(&out);
    struct irq_router router = { .pic = p, .ioapic = r->io };
    init_chips(p, 0x11, 1);
    for (unsigned i = 0; i < IOAPIC_PINS; i++)
        entry(r, i, 0x40 + i);
    struct irq_line l = irq_router_line(&router, 0);
    irq_set(&l, true);
    assert_int_equal(r->data, 0x42); /* ISA IRQ 0 is pin 2 */
    assert_int_equal(pic_ack(p), 0x30);
    l = irq_router_line(&router, 9);
    irq_set(&l, true);
    assert_int_equal(r->data, 0x49);
    out8(&pic_master_ops, p, 0, 0x20);
    assert_int_equal(pic_ack(p), 0x39);
    l = irq_router_line(&router, 2);
    irq_set(&l, true);
    assert_int_equal(r->n, 2);
    l = irq_router_line(&router, 23);
    irq_set(&l, true);
    assert_int_equal(r->data, 0x40 + 23);
    pic_free(p);
}

int main(void)
{
#define P(f) cmocka_unit_test_setup_teardown(f, pic_setup, pic_teardown)
#define I(f) cmocka_unit_test_setup_teardown(f, ioapic_setup, ioapic_teardown)
    const struct CMUnitTest tests[] = {
        P(test_pic_edge),    P(test_pic_mask),     P(test_pic_cascade),  P(test_pic_level),
        P(test_pic_special), P(test_pic_sfnm),     P(test_pic_state),    I(test_ioapic_registers),
        I(test_ioapic_edge), I(test_ioapic_level), I(test_ioapic_state), I(test_router),
    };
    return cmocka_run_group_tests_name("irqchips", tests, NULL, NULL);
}
