/* SPDX-License-Identifier: MIT */
/*
 * Interrupts between threads: four processors that pass IPIs around, and devices on level and edge lines that wait for
 * each interrupt to be served. A lost or doubled interrupt stops a round (the test gives up after a minute) or spoils a
 * count. The thread sanitizer build checks the locks.
 */
#include "fake_env.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <time.h>

#include "dev/ioapic.h"
#include "dev/lapic.h"

enum { CPUS = 4, ROUNDS = 5000, PINGS = 3 * ROUNDS };
enum { V_PING = 0x41, V_DEV = 0x50, V_EDGE = 0x60 }; /* + processor */

struct cpu {
    struct rig *r;
    unsigned id;
    struct lapic *l;
    struct irq_ctl ctl;
    _Atomic unsigned told; /* intr was called since the processor looked */
    unsigned pings, devs, edges, spurious;
    pthread_t thread;
};
struct device {
    struct rig *r;
    unsigned pin; /* level line `pin`, edge line `pin` + 4; both lead to processor `pin` % 4 */
    _Atomic unsigned asserted, served_edge;
    pthread_t thread;
};
struct rig {
    struct fake_timers t;
    struct lapic_bus *bus;
    struct ioapic *io;
    struct cpu cpu[CPUS];
    struct device dev[CPUS];
    _Atomic bool stop, stuck;
    _Atomic unsigned done;
    time_t deadline;
};

static void on_intr(void *c)
{
    atomic_store(&((struct cpu *)c)->told, 1);
}
static void on_nmi(void *c)
{
    (void)c;
}
static void on_sipi(void *c, uint8_t v)
{
    (void)c;
    (void)v;
}
static void on_eoi(void *arg, uint8_t vector)
{
    ioapic_eoi(((struct rig *)arg)->io, vector);
}

static bool gave_up(struct rig *r)
{
    if (time(NULL) > r->deadline)
        atomic_store(&r->stuck, true);
    return atomic_load(&r->stuck);
}

static void wr(struct lapic *l, unsigned reg, uint32_t v)
{
    lapic_mmio_write(l, reg, &v, 4);
}

static void serve(struct cpu *c, int v)
{
    struct device *d = &c->r->dev[c->id];
    if (v == V_PING) {
        if (c->pings++ < PINGS) { /* on to the next */
            wr(c->l, 0x310, ((c->id + 1) % CPUS) << 24);
            wr(c->l, 0x300, V_PING);
        }
    } else if (v == V_DEV + (int)c->id) {
        if (atomic_load(&d->asserted)) { /* what reading the device's status register does: the line falls, then it may
                                            be raised again */
            ioapic_set(c->r->io, d->pin, false);
            c->devs++;
            atomic_store(&d->asserted, 0);
        } else {
            c->spurious++;
        }
    } else if (v == V_EDGE + (int)c->id) {
        c->edges++;
        atomic_fetch_add(&d->served_edge, 1);
    } else {
        c->spurious++;
    }
    wr(c->l, 0xb0, 0);
}

/* A vCPU that sleeps until it is told, as the real one does: it trusts the calls of intr. */
static void *processor(void *arg)
{
    struct cpu *c = arg;
    while (!atomic_load(&c->r->stop)) {
        if (!atomic_exchange(&c->told, 0)) {
            sched_yield();
            if (gave_up(c->r))
                break;
            continue;
        }
        int v;
        while (c->ctl.pending(c->l) >= 0 && (v = c->ctl.ack(c->l)) >= 0)
            serve(c, v);
    }
    return NULL;
}

static void *device(void *arg)
{
    struct device *d = arg;
    struct rig *r = d->r;
    for (unsigned i = 0; i < ROUNDS && !atomic_load(&r->stuck); i++) {
        atomic_store(&d->asserted, 1);
        ioapic_set(r->io, d->pin, true);
        unsigned before = atomic_load(&d->served_edge);
        ioapic_set(r->io, d->pin + 4, true);
        ioapic_set(r->io, d->pin + 4, false);
        while ((atomic_load(&d->asserted) || atomic_load(&d->served_edge) == before) && !gave_up(r))
            sched_yield();
    }
    atomic_fetch_add(&r->done, 1);
    return NULL;
}

static void build(struct rig *r)
{
    fake_timers_init(&r->t);
    r->deadline = time(NULL) + 60;
    const struct lapic_bus_cfg bc = { .eoi = on_eoi, .eoi_arg = r };
    r->bus = lapic_bus_new(&bc);
    const struct irq_msi_sink sink = { .send = lapic_bus_msi, .arg = r->bus };
    r->io = ioapic_new(&sink, CPUS);
    for (unsigned i = 0; i < CPUS; i++) {
        struct cpu *c = &r->cpu[i];
        *c = (struct cpu){ .r = r, .id = i };
        const struct lapic_cfg cfg = {
            .id = (uint8_t)i,
            .phys_bits = 40,
            .cpu = { .intr = on_intr, .nmi = on_nmi, .init = on_nmi, .sipi = on_sipi, .vcpu = c },
            .timers = &r->t.svc,
        };
        c->l = lapic_new(r->bus, &cfg);
        lapic_get_ctl(c->l, &c->ctl);
        wr(c->l, 0xf0, 0x1ff);
        r->dev[i].r = r;
        r->dev[i].pin = i;
        out32(&ioapic_ops, r->io, 0, 0x11 + 2 * i);
        out32(&ioapic_ops, r->io, 0x10, i << 24);
        out32(&ioapic_ops, r->io, 0, 0x10 + 2 * i);
        out32(&ioapic_ops, r->io, 0x10, 0x8000 | (V_DEV + i));
        out32(&ioapic_ops, r->io, 0, 0x11 + 2 * (i + 4));
        out32(&ioapic_ops, r->io, 0x10, i << 24);
        out32(&ioapic_ops, r->io, 0, 0x10 + 2 * (i + 4));
        out32(&ioapic_ops, r->io, 0x10, V_EDGE + i);
    }
}

static void test_threads(void **state)
{
    static struct rig rig;
    struct rig *r = &rig;
    (void)state;
    build(r);
    for (unsigned i = 0; i < CPUS; i++)
        pthread_create(&r->cpu[i].thread, NULL, processor, &r->cpu[i]);
    for (unsigned i = 0; i < CPUS; i++)
        pthread_create(&r->dev[i].thread, NULL, device, &r->dev[i]);
    /* Three IPIs go round and round; two that meet at a processor become one there, so at least one is left. */
    for (unsigned i = 0; i < 3; i++)
        lapic_bus_msi(r->bus, 0xfee00000 | (uint64_t)i << 12, V_PING);
    for (unsigned i = 0; i < CPUS; i++)
        pthread_join(r->dev[i].thread, NULL);
    atomic_store(&r->stop, true);
    for (unsigned i = 0; i < CPUS; i++)
        pthread_join(r->cpu[i].thread, NULL);
    assert_false(atomic_load(&r->stuck));
    for (unsigned i = 0; i < CPUS; i++) {
        assert_int_equal(r->cpu[i].devs, ROUNDS);
        assert_int_equal(r->cpu[i].edges, ROUNDS);
        assert_true(r->cpu[i].pings > 0);
        /* A level line that falls just before the EOI looks at it has asked once more: at most one each time. */
        assert_true(r->cpu[i].spurious <= ROUNDS);
    }
    ioapic_free(r->io);
    lapic_bus_free(r->bus);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_threads) };
    return cmocka_run_group_tests_name("interrupts between threads", tests, NULL, NULL);
}
