/* SPDX-License-Identifier: MIT */
/* Local APIC: acceptance, priority, routing, modes, timer, errors, saved state. */
#include "fake_env.h"

#include "dev/lapic.h"

enum { CPUS = 4 };
enum { R_ID = 0x20, R_VER = 0x30, R_TPR = 0x80, R_PPR = 0xa0, R_EOI = 0xb0, R_LDR = 0xd0, R_DFR = 0xe0, R_SVR = 0xf0 };
enum { R_ISR = 0x100, R_TMR = 0x180, R_IRR = 0x200, R_ESR = 0x280, R_ICR = 0x300, R_ICR_HI = 0x310 };
enum {
    R_TIMER = 0x320,
    R_LINT0 = 0x350,
    R_LINT1 = 0x360,
    R_ERROR = 0x370,
    R_INIT = 0x380,
    R_CUR = 0x390,
    R_DIV = 0x3e0
};
enum { MASKED = 1 << 16, PERIODIC = 1 << 17, DEADLINE = 2 << 17 };

struct cpu {
    unsigned intr, nmi, init, sipi;
    uint8_t vector;
};
struct rig {
    struct fake_timers t;
    struct cpu cpu[CPUS];
    struct lapic_bus *bus;
    struct lapic *l[CPUS];
    struct irq_ctl ctl[CPUS];
    int extint, extint_acks;
    unsigned eois;
    uint8_t eoi_vector;
    uint64_t tsc_offset;
};

static void on_intr(void *c)
{
    ((struct cpu *)c)->intr++;
}
static void on_nmi(void *c)
{
    ((struct cpu *)c)->nmi++;
}
static void on_init(void *c)
{
    ((struct cpu *)c)->init++;
}
static void on_sipi(void *c, uint8_t vector)
{
    ((struct cpu *)c)->sipi++;
    ((struct cpu *)c)->vector = vector;
}
static int on_extint(void *arg)
{
    struct rig *r = arg;
    r->extint_acks++;
    return r->extint;
}
static void on_eoi(void *arg, uint8_t vector)
{
    struct rig *r = arg;
    r->eois++;
    r->eoi_vector = vector;
}

/* The guest's TSC runs at 2 GHz from time 0. There is one rig at a time. */
static struct rig *the_rig;
static uint64_t tsc_now(void *vcpu)
{
    (void)vcpu;
    return the_rig->t.now * 2 + the_rig->tsc_offset;
}
static uint64_t tsc_to_ns(void *vcpu, uint64_t tsc)
{
    (void)vcpu;
    return tsc < the_rig->tsc_offset ? 0 : (tsc - the_rig->tsc_offset + 1) / 2;
}

static uint32_t rd(struct rig *r, unsigned cpu, unsigned reg)
{
    uint32_t v;
    lapic_mmio_read(r->l[cpu], reg, &v, 4);
    return v;
}
static void wr(struct rig *r, unsigned cpu, unsigned reg, uint32_t v)
{
    lapic_mmio_write(r->l[cpu], reg, &v, 4);
}
static int pending(struct rig *r, unsigned cpu)
{
    return r->ctl[cpu].pending(r->l[cpu]);
}
static int ack(struct rig *r, unsigned cpu)
{
    return r->ctl[cpu].ack(r->l[cpu]);
}
static int rdmsr(struct rig *r, unsigned cpu, uint32_t msr, uint64_t *v)
{
    return r->ctl[cpu].msr_read(r->l[cpu], msr, v);
}
static int wrmsr(struct rig *r, unsigned cpu, uint32_t msr, uint64_t v)
{
    return r->ctl[cpu].msr_write(r->l[cpu], msr, v);
}

static struct lapic *add(struct rig *r, struct lapic_bus *b, unsigned i)
{
    const struct lapic_cfg cfg = {
        .id = (uint8_t)i,
        .bsp = i == 0,
        .x2apic = true,
        .tsc_deadline = true,
        .phys_bits = 40,
        .cpu = { .intr = on_intr, .nmi = on_nmi, .init = on_init, .sipi = on_sipi, .vcpu = &r->cpu[i] },
        .timers = &r->t.svc,
        .tsc_now = tsc_now,
        .tsc_to_ns = tsc_to_ns,
    };
    return lapic_new(b, &cfg);
}

static int setup(void **state)
{
    struct rig *r = calloc(1, sizeof(*r));
    fake_timers_init(&r->t);
    const struct lapic_bus_cfg bc = { .extint_ack = on_extint, .extint_arg = r, .eoi = on_eoi, .eoi_arg = r };
    r->bus = lapic_bus_new(&bc);
    for (unsigned i = 0; i < CPUS; i++) {
        r->l[i] = add(r, r->bus, i);
        lapic_get_ctl(r->l[i], &r->ctl[i]);
        wr(r, i, R_SVR, 0x1ff);
    }
    the_rig = r;
    *state = r;
    return 0;
}
static int teardown(void **state)
{
    struct rig *r = *state;
    lapic_bus_free(r->bus);
    free(r);
    return 0;
}

/* An MSI to one physical destination. */
static void msi(struct rig *r, unsigned dest, uint32_t data)
{
    lapic_bus_msi(r->bus, 0xfee00000UL | (uint64_t)dest << 12, data);
}

static void test_reset_state(void **state)
{
    struct rig *r = *state;
    uint64_t v;
    lapic_dev_ops.reset(r->l[1]);
    assert_int_equal(rd(r, 1, R_ID), 1 << 24);
    assert_int_equal(rd(r, 1, R_VER), 0x01050014);
    assert_int_equal(rd(r, 1, R_SVR), 0xff);
    assert_int_equal(rd(r, 1, R_DFR), 0xffffffff);
    assert_int_equal(rd(r, 1, R_TIMER), MASKED);
    assert_int_equal(rd(r, 1, R_LINT0), MASKED);
    assert_int_equal(rdmsr(r, 1, 0x1b, &v), 0);
    assert_int_equal(v, 0xfee00800);
    assert_int_equal(rdmsr(r, 0, 0x1b, &v), 0);
    assert_int_equal(v, 0xfee00900);
    assert_true(lapic_mmio_hit(r->l[0], 0xfee00380));
    assert_false(lapic_mmio_hit(r->l[0], 0xfee01000));
}

static void test_priority(void **state)
{
    struct rig *r = *state;
    assert_int_equal(pending(r, 0), -1);
    msi(r, 0, 0x41);
    assert_int_equal(r->cpu[0].intr, 1);
    msi(r, 0, 0x52);
    msi(r, 0, 0x43);
    assert_int_equal(pending(r, 0), 0x52);
    assert_int_equal(ack(r, 0), 0x52);
    assert_int_equal(rd(r, 0, R_PPR), 0x50);
    assert_int_equal(pending(r, 0), -1); /* 41 and 43 are of a lower class */
    msi(r, 0, 0x5f);
    assert_int_equal(pending(r, 0), -1); /* the same class waits too */
    msi(r, 0, 0x61);
    assert_int_equal(ack(r, 0), 0x61);
    wr(r, 0, R_EOI, 0);
    assert_int_equal(pending(r, 0), -1);
    wr(r, 0, R_EOI, 0);
    assert_int_equal(ack(r, 0), 0x5f);
    wr(r, 0, R_EOI, 0);
    assert_int_equal(ack(r, 0), 0x43);
    wr(r, 0, R_EOI, 0);
    /* TPR holds back its class and those below. */
    r->ctl[0].tpr_set(r->l[0], 4);
    assert_int_equal(rd(r, 0, R_TPR), 0x40);
    assert_int_equal(pending(r, 0), -1);
    assert_int_equal(rd(r, 0, R_IRR + 0x20), 1 << 1);
    unsigned told = r->cpu[0].intr;
    wr(r, 0, R_TPR, 0x3f);
    assert_int_equal(r->ctl[0].tpr_get(r->l[0]), 3);
    assert_int_equal(r->cpu[0].intr, told + 1);
    assert_int_equal(ack(r, 0), 0x41);
    assert_int_equal(ack(r, 0), -1);
    assert_int_equal(r->eois, 0);
}

static void test_level_eoi(void **state)
{
    struct rig *r = *state;
    msi(r, 2, 0xc031);
    assert_int_equal(rd(r, 2, R_TMR + 0x10), 1 << 17);
    assert_int_equal(ack(r, 2), 0x31);
    assert_int_equal(rd(r, 2, R_ISR + 0x10), 1 << 17);
    wr(r, 2, R_EOI, 0);
    assert_int_equal(r->eois, 1);
    assert_int_equal(r->eoi_vector, 0x31);
    /* The same vector by edge: no broadcast. */
    msi(r, 2, 0x31);
    assert_int_equal(ack(r, 2), 0x31);
    wr(r, 2, R_EOI, 0);
    assert_int_equal(r->eois, 1);
    /* Suppressed. */
    wr(r, 2, R_SVR, 0x11ff);
    msi(r, 2, 0xc031);
    assert_int_equal(ack(r, 2), 0x31);
    wr(r, 2, R_EOI, 0);
    assert_int_equal(r->eois, 1);
}

static void test_software_disable(void **state)
{
    struct rig *r = *state;
    wr(r, 0, R_TIMER, 0x40);
    msi(r, 0, 0x90);
    wr(r, 0, R_SVR, 0xff);
    assert_int_equal(rd(r, 0, R_TIMER), MASKED | 0x40);
    wr(r, 0, R_TIMER, 0x40);
    assert_int_equal(rd(r, 0, R_TIMER), MASKED | 0x40);
    msi(r, 0, 0x91); /* refused */
    assert_int_equal(ack(r, 0), 0x90);
    wr(r, 0, R_EOI, 0);
    assert_int_equal(pending(r, 0), -1);
    msi(r, 0, 0x400);
    assert_int_equal(r->cpu[0].nmi, 1); /* NMI passes */
}

static void test_ipi(void **state)
{
    struct rig *r = *state;
    wr(r, 0, R_ICR_HI, 2u << 24);
    wr(r, 0, R_ICR, 0x40a1);
    assert_int_equal(rd(r, 0, R_ICR_HI), 2u << 24);
    assert_int_equal(ack(r, 2), 0xa1);
    assert_int_equal(pending(r, 1), -1);
    wr(r, 0, R_ICR, 0x44000 | 0xa2); /* self */
    assert_int_equal(ack(r, 0), 0xa2);
    wr(r, 1, R_ICR, 0x84000 | 0xa3); /* all */
    for (unsigned i = 0; i < CPUS; i++)
        assert_int_equal(pending(r, i) >= 0 || i == 0 || i == 2, 1);
    wr(r, 0, R_EOI, 0);
    wr(r, 2, R_EOI, 0);
    for (unsigned i = 0; i < CPUS; i++) {
        assert_int_equal(ack(r, i), 0xa3);
        wr(r, i, R_EOI, 0);
    }
    wr(r, 1, R_ICR, 0xc4000 | 0x500); /* INIT to all but self */
    wr(r, 1, R_ICR, 0xc0600 | 0x9a);  /* SIPI */
    for (unsigned i = 0; i < CPUS; i++) {
        assert_int_equal(r->cpu[i].init, i != 1);
        assert_int_equal(r->cpu[i].sipi, i != 1);
        assert_int_equal(r->cpu[i].vector, i != 1 ? 0x9a : 0);
    }
    wr(r, 1, R_ICR_HI, 0);
    wr(r, 1, R_ICR, 0x8500); /* INIT level de-assert: nothing */
    assert_int_equal(r->cpu[0].init, 1);
    wr(r, 1, R_ICR_HI, 0xffu << 24);
    wr(r, 1, R_ICR, 0x4400); /* NMI to the broadcast ID */
    for (unsigned i = 0; i < CPUS; i++)
        assert_int_equal(r->cpu[i].nmi, 1);
}

static void expect_set(struct rig *r, unsigned set)
{
    for (unsigned i = 0; i < CPUS; i++) {
        int v = ack(r, i);
        assert_int_equal(v >= 0, set >> i & 1);
        if (v >= 0)
            wr(r, i, R_EOI, 0);
    }
}

static void logical(struct rig *r, unsigned dest, uint32_t data)
{
    lapic_bus_msi(r->bus, 0xfee00004UL | (uint64_t)dest << 12, data);
}

static void test_logical(void **state)
{
    struct rig *r = *state;
    for (unsigned i = 0; i < CPUS; i++)
        wr(r, i, R_LDR, 1u << (24 + i));
    logical(r, 0x5, 0x70);
    expect_set(r, 5);
    logical(r, 0xff, 0x70);
    expect_set(r, 15);
    logical(r, 0xf0, 0x70);
    expect_set(r, 0);
    /* Cluster model: CPUs 0 and 1 in cluster 0, 2 and 3 in cluster 3. */
    for (unsigned i = 0; i < CPUS; i++) {
        wr(r, i, R_DFR, 0x0fffffff);
        wr(r, i, R_LDR, (i / 2 * 3) << 28 | 1u << (24 + i % 2));
    }
    logical(r, 0x33, 0x70);
    expect_set(r, 12);
    logical(r, 0x02, 0x70);
    expect_set(r, 2);
    logical(r, 0xff, 0x70);
    expect_set(r, 15);
}

static void test_lowest_priority(void **state)
{
    struct rig *r = *state;
    for (unsigned i = 0; i < CPUS; i++)
        wr(r, i, R_LDR, 1u << (24 + i));
    wr(r, 0, R_TPR, 0x50);
    wr(r, 1, R_TPR, 0x20);
    wr(r, 2, R_TPR, 0x30);
    wr(r, 3, R_TPR, 0x20);
    wr(r, 3, R_SVR, 0xff); /* disabled: not a candidate */
    for (unsigned i = 0; i < 8; i++) {
        logical(r, 0xf, 0x170);
        expect_set(r, 2);
    }
    /* Equals take turns. */
    wr(r, 2, R_TPR, 0x20);
    unsigned hits[CPUS] = { 0 };
    for (unsigned i = 0; i < 64; i++) {
        logical(r, 0x6, 0x170);
        for (unsigned k = 1; k < 3; k++) {
            if (ack(r, k) >= 0) {
                hits[k]++;
                wr(r, k, R_EOI, 0);
            }
        }
    }
    assert_int_equal(hits[1] + hits[2], 64);
    assert_true(hits[1] && hits[2]);
}

static void test_base_transitions(void **state)
{
    struct rig *r = *state;
    const uint64_t base = 0xfee00000, en = 0x800, ex = 0x400;
    uint64_t v;
    assert_int_equal(wrmsr(r, 1, 0x1b, base | ex), -1);
    assert_int_equal(wrmsr(r, 1, 0x1b, base | en | 1), -1);
    assert_int_equal(wrmsr(r, 1, 0x1b, base | en | 1UL << 40), -1);
    assert_int_equal(rdmsr(r, 1, 0x802, &v), -1); /* not in x2APIC mode */
    assert_int_equal(wrmsr(r, 1, 0x1b, base | en | ex), 0);
    assert_false(lapic_mmio_hit(r->l[1], base));
    assert_int_equal(wrmsr(r, 1, 0x1b, base | en), -1);
    assert_int_equal(rdmsr(r, 1, 0x802, &v), 0);
    assert_int_equal(v, 1);
    assert_int_equal(rdmsr(r, 1, 0x80f, &v), 0);
    assert_int_equal(v, 0x1ff); /* kept over the change */
    assert_int_equal(wrmsr(r, 1, 0x1b, base), 0);
    assert_true(lapic_hw_disabled(r->l[1]));
    msi(r, 1, 0x77);
    assert_int_equal(pending(r, 1), -1);
    assert_int_equal(wrmsr(r, 1, 0x1b, base | en | ex), -1);
    assert_int_equal(wrmsr(r, 1, 0x1b, 0x12345000 | en), 0);
    assert_true(lapic_mmio_hit(r->l[1], 0x12345010));
    assert_int_equal(rd(r, 1, R_SVR), 0xff); /* as after reset */
}

static void test_x2apic(void **state)
{
    struct rig *r = *state;
    uint64_t v;
    for (unsigned i = 0; i < CPUS; i++)
        assert_int_equal(wrmsr(r, i, 0x1b, 0xfee00c00 | (i ? 0 : 0x100)), 0);
    assert_int_equal(rdmsr(r, 3, 0x80d, &v), 0);
    assert_int_equal(v, 8);
    static const uint32_t no_read[] = { 0x800, 0x809, 0x80b, 0x80c, 0x80e, 0x82f, 0x831, 0x83f, 0x8ff };
    static const uint32_t no_write[] = { 0x802, 0x803, 0x80a, 0x80d, 0x80e, 0x810, 0x818, 0x827, 0x831, 0x839, 0x840 };
    for (unsigned i = 0; i < ARRAY_LEN(no_read); i++)
        assert_int_equal(rdmsr(r, 0, no_read[i], &v), -1);
    for (unsigned i = 0; i < ARRAY_LEN(no_write); i++)
        assert_int_equal(wrmsr(r, 0, no_write[i], 0), -1);
    assert_int_equal(wrmsr(r, 0, 0x80b, 1), -1);
    assert_int_equal(wrmsr(r, 0, 0x828, 1), -1);
    assert_int_equal(wrmsr(r, 0, 0x808, 0x100), -1);
    assert_int_equal(wrmsr(r, 0, 0x808, 1UL << 32), -1);
    assert_int_equal(wrmsr(r, 0, 0x80f, 0x3ff), 0);
    assert_int_equal(wrmsr(r, 0, 0x80f, 0x5ff), -1);
    assert_int_equal(wrmsr(r, 0, 0x80f, 0x1ff), 0);
    assert_int_equal(wrmsr(r, 0, 0x830, 1 << 20), -1);
    assert_int_equal(wrmsr(r, 0, 0x832, 1 << 20), -1);
    /* Physical, logical cluster, broadcast, self. */
    assert_int_equal(wrmsr(r, 0, 0x830, 3UL << 32 | 0x4055), 0);
    assert_int_equal(rdmsr(r, 0, 0x830, &v), 0);
    assert_int_equal(v, 3UL << 32 | 0x4055);
    assert_int_equal(ack(r, 3), 0x55);
    assert_int_equal(wrmsr(r, 3, 0x80b, 0), 0);
    assert_int_equal(wrmsr(r, 0, 0x830, 0xaUL << 32 | 0x4856), 0);
    assert_int_equal(ack(r, 1), 0x56);
    assert_int_equal(ack(r, 3), 0x56);
    assert_int_equal(pending(r, 0), -1);
    assert_int_equal(wrmsr(r, 0, 0x830, 0xffffffffUL << 32 | 0x4400), 0);
    assert_int_equal(r->cpu[0].nmi + r->cpu[1].nmi + r->cpu[2].nmi + r->cpu[3].nmi, 4);
    assert_int_equal(wrmsr(r, 2, 0x83f, 0x99), 0);
    assert_int_equal(ack(r, 2), 0x99);
    /* INIT keeps the mode. */
    lapic_init_reset(r->l[2]);
    assert_int_equal(rdmsr(r, 2, 0x80f, &v), 0);
    assert_int_equal(v, 0xff);
}

static void test_errors(void **state)
{
    struct rig *r = *state;
    wr(r, 0, R_ERROR, 0xfe);
    wr(r, 0, R_ICR, 0x44003); /* a vector below 16 */
    assert_int_equal(ack(r, 0), 0xfe);
    wr(r, 0, R_EOI, 0);
    assert_int_equal(rd(r, 0, R_ESR), 0);
    wr(r, 0, R_ESR, 0);
    assert_int_equal(rd(r, 0, R_ESR), 0x20);
    wr(r, 0, R_ESR, 0);
    assert_int_equal(rd(r, 0, R_ESR), 0);
    msi(r, 0, 0x05);
    rd(r, 0, 0x400);
    wr(r, 0, R_ESR, 0);
    assert_int_equal(rd(r, 0, R_ESR), 0xc0);
    wr(r, 0, R_ERROR, 0x02); /* an error entry with a bad vector must not recurse */
    msi(r, 0, 0x05);
    wr(r, 0, R_ESR, 0);
    assert_int_equal(rd(r, 0, R_ESR), 0x40);
}

static void test_lint(void **state)
{
    struct rig *r = *state;
    r->extint = 0x38;
    lapic_dev_ops.reset(r->l[0]);
    assert_int_equal(rd(r, 0, R_LINT0), 0x700); /* virtual wire for the boot processor */
    lapic_bus_lint(r->bus, 0, true);
    assert_int_equal(pending(r, 0), LAPIC_EXTINT);
    assert_int_equal(pending(r, 1), -1);
    assert_int_equal(ack(r, 0), 0x38);
    assert_int_equal(pending(r, 0), LAPIC_EXTINT); /* the PIC still holds INT */
    lapic_bus_lint(r->bus, 0, false);
    assert_int_equal(ack(r, 0), -1);
    assert_int_equal(r->extint_acks, 1);
    assert_int_equal(rd(r, 0, R_ISR + 0x10), 0); /* ExtINT leaves no trace here */
    wr(r, 0, R_LINT0, 0x700 | MASKED);
    lapic_bus_lint(r->bus, 0, true);
    assert_int_equal(pending(r, 0), -1);
    wrmsr(r, 0, 0x1b, 0xfee00000); /* globally disabled: INTR is wired through */
    assert_int_equal(pending(r, 0), LAPIC_EXTINT);
    lapic_bus_lint(r->bus, 0, false);
    /* Level-triggered fixed mode: one interrupt until the EOI, then again while the pin is up. */
    wr(r, 1, R_LINT0, 0x8000 | 0x66);
    lapic_bus_lint(r->bus, 0, true);
    assert_int_equal(ack(r, 1), 0x66);
    assert_int_equal(rd(r, 1, R_LINT0), 0xc066);
    wr(r, 1, R_EOI, 0);
    assert_int_equal(ack(r, 1), 0x66);
    lapic_bus_lint(r->bus, 0, false);
    wr(r, 1, R_EOI, 0);
    assert_int_equal(pending(r, 1), -1);
    assert_int_equal(rd(r, 1, R_LINT0), 0x8066);
    wr(r, 1, R_LINT1, 0x400);
    lapic_bus_lint(r->bus, 1, true);
    assert_int_equal(r->cpu[1].nmi, 1);
}

static void test_timer_one_shot(void **state)
{
    struct rig *r = *state;
    wr(r, 0, R_DIV, 0x3); /* by 16 */
    wr(r, 0, R_TIMER, 0x40);
    wr(r, 0, R_INIT, 1000);
    fake_advance(&r->t, 8000);
    assert_int_equal(rd(r, 0, R_CUR), 500);
    wr(r, 0, R_DIV, 0xb); /* by 1, while it runs */
    assert_int_equal(rd(r, 0, R_CUR), 500);
    fake_advance(&r->t, 499);
    assert_int_equal(pending(r, 0), -1);
    fake_advance(&r->t, 1);
    assert_int_equal(ack(r, 0), 0x40);
    assert_int_equal(rd(r, 0, R_CUR), 0);
    assert_int_equal(r->t.n, 0);
    wr(r, 0, R_EOI, 0);
    /* Masked: counts, but neither interrupts nor costs the host a timer. */
    wr(r, 0, R_TIMER, MASKED | 0x40);
    wr(r, 0, R_INIT, 1000);
    assert_int_equal(r->t.n, 0);
    fake_advance(&r->t, 600);
    assert_int_equal(rd(r, 0, R_CUR), 400);
    fake_advance(&r->t, 600);
    wr(r, 0, R_TIMER, 0x40);
    assert_int_equal(pending(r, 0), -1);
    wr(r, 0, R_INIT, 1000);
    wr(r, 0, R_INIT, 0); /* stops */
    fake_advance(&r->t, 5000);
    assert_int_equal(pending(r, 0), -1);
}

static void test_timer_periodic(void **state)
{
    struct rig *r = *state;
    wr(r, 0, R_DIV, 0xb);
    wr(r, 0, R_TIMER, PERIODIC | 0x40);
    wr(r, 0, R_INIT, 1000000);
    for (unsigned i = 0; i < 3; i++) {
        fake_advance(&r->t, 1000000);
        assert_int_equal(ack(r, 0), 0x40);
        assert_int_equal(ack(r, 0), -1);
        wr(r, 0, R_EOI, 0);
    }
    /* The host is late by three and a half periods: one interrupt, and the phase stays. */
    uint64_t fires = r->t.fires;
    fake_run_to(&r->t, r->t.now + 1000000, 3500000);
    assert_int_equal(r->t.fires, fires + 1);
    assert_int_equal(rd(r, 0, R_CUR), 500000);
    assert_int_equal(ack(r, 0), 0x40);
    wr(r, 0, R_EOI, 0);
    fake_advance(&r->t, 500000);
    assert_int_equal(ack(r, 0), 0x40);
    wr(r, 0, R_EOI, 0);
    /* A period of 10 ns does not fire a hundred million times a second. */
    wr(r, 0, R_INIT, 10);
    fires = r->t.fires;
    fake_advance(&r->t, 1000000);
    assert_in_range(r->t.fires - fires, 40, 60);
    /* To one-shot: the running period is the last. */
    wr(r, 0, R_INIT, 1000);
    fake_advance(&r->t, 400);
    wr(r, 0, R_TIMER, 0x40);
    assert_int_equal(rd(r, 0, R_CUR), 600);
    fake_advance(&r->t, 600);
    assert_int_equal(r->t.n, 0);
}

/* The thread that fires timers is late: the guest's view does not depend on it. */
static void test_timer_late(void **state)
{
    struct rig *r = *state;
    uint64_t v;
    wr(r, 0, R_DIV, 0xb);
    wr(r, 0, R_TIMER, 0x40);
    wr(r, 0, R_INIT, 1000);
    r->t.now += 1500; /* nothing ran */
    assert_int_equal(pending(r, 0), -1);
    assert_int_equal(rd(r, 0, R_CUR), 0); /* a reader that sees 0 has been interrupted */
    assert_int_equal(ack(r, 0), 0x40);
    wr(r, 0, R_EOI, 0);
    /* An ended one-shot count stays at zero when the mode becomes periodic, masked or not. */
    wr(r, 0, R_INIT, 1000);
    r->t.now += 1500;
    wr(r, 0, R_TIMER, PERIODIC | 0x41);
    assert_int_equal(ack(r, 0), 0x40); /* by the entry of that time */
    wr(r, 0, R_EOI, 0);
    assert_int_equal(rd(r, 0, R_CUR), 0);
    wr(r, 0, R_TIMER, MASKED | 0x40);
    wr(r, 0, R_INIT, 1000);
    r->t.now += 1500;
    wr(r, 0, R_TIMER, MASKED | PERIODIC | 0x40);
    assert_int_equal(rd(r, 0, R_CUR), 0);
    /* A deadline that passed interrupts although the next is set before the thread runs. */
    wr(r, 0, R_TIMER, DEADLINE | 0x42);
    wrmsr(r, 0, 0x6e0, tsc_now(NULL) + 100);
    r->t.now += 100;
    wrmsr(r, 0, 0x6e0, tsc_now(NULL) + 100000);
    assert_int_equal(ack(r, 0), 0x42);
    wr(r, 0, R_EOI, 0);
    rdmsr(r, 0, 0x6e0, &v);
    assert_int_equal(v, tsc_now(NULL) + 100000);
    wrmsr(r, 0, 0x6e0, 0);
    fake_advance(&r->t, 1000000);
    assert_int_equal(pending(r, 0), -1);
}

static void test_timer_deadline(void **state)
{
    struct rig *r = *state;
    uint64_t v;
    wrmsr(r, 0, 0x6e0, 12345); /* not in this mode: ignored */
    assert_int_equal(rdmsr(r, 0, 0x6e0, &v), 0);
    assert_int_equal(v, 0);
    wr(r, 0, R_TIMER, DEADLINE | 0x40);
    wr(r, 0, R_INIT, 1000);
    assert_int_equal(rd(r, 0, R_CUR), 0);
    wrmsr(r, 0, 0x6e0, r->t.now * 2 + 2001);
    assert_int_equal(rdmsr(r, 0, 0x6e0, &v), 0);
    assert_int_equal(v, r->t.now * 2 + 2001);
    fake_advance(&r->t, 1000);
    assert_int_equal(pending(r, 0), -1);
    fake_advance(&r->t, 1);
    assert_int_equal(ack(r, 0), 0x40);
    wr(r, 0, R_EOI, 0);
    rdmsr(r, 0, 0x6e0, &v);
    assert_int_equal(v, 0);
    assert_int_equal(r->t.n, 0);
    wrmsr(r, 0, 0x6e0, 1); /* long past: at once */
    assert_int_equal(ack(r, 0), 0x40);
    wr(r, 0, R_EOI, 0);
    wrmsr(r, 0, 0x6e0, r->t.now * 2 + 2000);
    wrmsr(r, 0, 0x6e0, 0); /* disarms */
    fake_advance(&r->t, 5000);
    assert_int_equal(pending(r, 0), -1);
    /* The TSC jumps forward over the deadline. */
    wrmsr(r, 0, 0x6e0, r->t.now * 2 + 1000000);
    r->tsc_offset = 999000;
    lapic_tsc_changed(r->l[0]);
    fake_advance(&r->t, 500);
    assert_int_equal(ack(r, 0), 0x40);
    wr(r, 0, R_EOI, 0);
    /* Leaving the mode disarms; what passes behind the mask is lost. */
    wrmsr(r, 0, 0x6e0, tsc_now(NULL) + 1000);
    wr(r, 0, R_TIMER, 0x40);
    fake_advance(&r->t, 5000);
    assert_int_equal(pending(r, 0), -1);
    wr(r, 0, R_TIMER, DEADLINE | MASKED | 0x40);
    wrmsr(r, 0, 0x6e0, tsc_now(NULL) + 1000);
    assert_int_equal(r->t.n, 0);
    fake_advance(&r->t, 5000);
    rdmsr(r, 0, 0x6e0, &v);
    assert_int_equal(v, 0);
    wr(r, 0, R_TIMER, DEADLINE | 0x40);
    fake_advance(&r->t, 5000);
    assert_int_equal(pending(r, 0), -1);
}

static void test_narrow_access(void **state)
{
    struct rig *r = *state;
    uint8_t b[8];
    lapic_mmio_read(r->l[3], R_ID + 3, b, 1);
    assert_int_equal(b[0], 3);
    lapic_mmio_read(r->l[3], R_ID, b, 8);
    assert_int_equal(b[3], 3);
    assert_int_equal(b[4], 0);
    b[0] = 0xff;
    lapic_mmio_write(r->l[3], R_TPR, b, 1);
    assert_int_equal(rd(r, 3, R_TPR), 0);
}

static void test_state(void **state)
{
    struct rig *r = *state;
    struct lapic_bus_cfg bc = { 0 };
    struct lapic_bus *b = lapic_bus_new(&bc);
    struct lapic *other = add(r, b, 2);
    assert_null(add(r, b, 2));
    msi(r, 2, 0xc041);
    msi(r, 2, 0x99);
    assert_int_equal(ack(r, 2), 0x99);
    wr(r, 2, R_DIV, 0xb);
    wr(r, 2, R_TIMER, PERIODIC | 0xa0);
    wr(r, 2, R_INIT, 1000000);
    fake_advance(&r->t, 300000);
    check_round_trip(&lapic_dev_ops, r->l[2], other);
    struct irq_ctl ctl;
    lapic_get_ctl(other, &ctl);
    uint32_t v;
    lapic_mmio_read(other, R_CUR, &v, 4);
    assert_int_equal(v, 700000);
    fake_advance(&r->t, 700000);
    assert_int_equal(ctl.ack(other), 0xa0);
    lapic_bus_free(b);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_reset_state),
        T(test_priority),
        T(test_level_eoi),
        T(test_software_disable),
        T(test_ipi),
        T(test_logical),
        T(test_lowest_priority),
        T(test_base_transitions),
        T(test_x2apic),
        T(test_errors),
        T(test_lint),
        T(test_timer_one_shot),
        T(test_timer_periodic),
        T(test_timer_deadline),
        T(test_timer_late),
        T(test_narrow_access),
        T(test_state),
    };
    return cmocka_run_group_tests_name("lapic", tests, NULL, NULL);
}
