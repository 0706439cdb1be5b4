/* SPDX-License-Identifier: MIT */
/*
 * The vCPU thread over a scripted engine: exits, injection, sleep and wake, INIT/SIPI, pause, kvm-clock; and over each
 * real engine: interrupts, sleep and pause of a small guest.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cpu/pvclock.h"
#include "cpu/vcpu.h"
#include "engine_tests.h"
#include "mem/mem.h"

/* ---- a fake engine: each run takes the next step of a script; at its end it waits for a kick ---- */

enum { STEPS = 16 };

struct script {
    struct vcpu_exit step[STEPS];
    _Atomic unsigned n, at;
    struct vcpu_exit answer[STEPS]; /* what came back for step i, seen at the next run */
    struct {
        enum inject_kind kind;
        uint8_t vector;
    } injected[STEPS];
    _Atomic unsigned n_injected;
    _Atomic bool window_seen, nmi_window_seen, can_intr;
    _Atomic unsigned kicked;
    _Atomic unsigned syncs_in;
};

/* The engine finds its script through the model pointer's container: one per test. */
struct bench {
    struct x86_model model;
    struct script s;
    struct mem *mem;
    struct bus *bus;
    struct pv_clock clock;
    struct irq_ctl irq;
    struct vcpu_thread *t;
    _Atomic int pending, acked, tpr;
    _Atomic uint64_t port_val;
    _Atomic int shutdowns;
    _Atomic uint64_t hyper_nr;
    _Atomic int lapic_inits;
};

static struct bench *bench_of(const struct vcpu *v)
{
    return container_of(v->model, struct bench, model);
}

static int fake_create(struct vcpu *v)
{
    v->cpu = aligned_alloc(64, (sizeof(*v->cpu) + 63) & ~63UL);
    memset(v->cpu, 0, sizeof(*v->cpu));
    x86_cpu_reset(v->cpu);
    return 0;
}
static void fake_destroy(struct vcpu *v)
{
    free(v->cpu);
}
static void nap(void)
{
    struct timespec ts = { .tv_nsec = 200000 };
    nanosleep(&ts, NULL);
}
static int fake_run(struct vcpu *v, struct vcpu_exit *out)
{
    struct script *s = &bench_of(v)->s;
    unsigned at = s->at;
    if (at && at <= s->n)
        s->answer[at - 1] = v->exit;
    if (v->inject.kind != INJECT_NONE) {
        s->injected[s->n_injected].kind = v->inject.kind;
        s->injected[s->n_injected].vector = v->inject.vector;
        v->inject.kind = INJECT_NONE;
        s->n_injected++;
    }
    if (v->irq_window)
        s->window_seen = true;
    if (v->nmi_window)
        s->nmi_window_seen = true;
    while (s->at >= s->n && !s->kicked)
        nap();
    s->kicked = 0;
    if (s->at < s->n)
        *out = s->step[s->at++];
    else
        out->kind = EXIT_KICKED;
    return 0;
}
static void fake_kick(struct vcpu *v)
{
    bench_of(v)->s.kicked = 1;
}
static int fake_sync(struct vcpu *v, enum sync_dir dir)
{
    if (dir == SYNC_IN)
        bench_of(v)->s.syncs_in++;
    return 0;
}
static bool fake_can_intr(const struct vcpu *v)
{
    return bench_of(v)->s.can_intr;
}
static const struct engine_ops fake = {
    .name = "fake",
    .create = fake_create,
    .destroy = fake_destroy,
    .run = fake_run,
    .kick = fake_kick,
    .sync = fake_sync,
    .can_intr = fake_can_intr,
};

/* ---- a fake LAPIC and port ---- */

static int fake_pending(void *l)
{
    return ((struct bench *)l)->pending;
}
static int fake_ack(void *l)
{
    struct bench *b = l;
    int v = b->pending;
    b->pending = -1;
    b->acked = v;
    return v;
}
static uint8_t fake_tpr_get(void *l)
{
    return (uint8_t)((struct bench *)l)->tpr;
}
static void fake_tpr_set(void *l, uint8_t v)
{
    ((struct bench *)l)->tpr = v;
}
static int fake_msr_read(void *l, uint32_t msr, uint64_t *val)
{
    (void)l;
    *val = 0x1234;
    return msr == 0x1b ? 0 : -1;
}
static int fake_msr_write(void *l, uint32_t msr, uint64_t val)
{
    (void)l, (void)val;
    return msr == 0x1b ? 0 : -1;
}
static bool fake_lapic_mmio(void *l, gpa_t gpa, uint64_t *data, unsigned len, bool write)
{
    (void)l, (void)len, (void)write;
    *data = 77;
    return gpa == 0xfee00030;
}
static void fake_lapic_init(void *l)
{
    ((struct bench *)l)->lapic_inits++;
}
static void ignore(void *l)
{
    (void)l;
}
static void port_read(void *dev, uint64_t off, void *buf, unsigned len)
{
    (void)dev, (void)off;
    memset(buf, 0x5a, len);
}
static void port_write(void *dev, uint64_t off, const void *buf, unsigned len)
{
    uint64_t v = 0;
    (void)off;
    memcpy(&v, buf, len);
    ((struct bench *)dev)->port_val = v;
}
static const struct dev_ops port_ops = { .name = "port", .read = port_read, .write = port_write };

static void on_end(void *arg, unsigned cpu, const char *text)
{
    (void)cpu, (void)text;
    ((struct bench *)arg)->shutdowns++;
}
static int64_t on_hyper(void *arg, unsigned cpu, uint64_t nr, const uint64_t a[4])
{
    (void)cpu, (void)a;
    ((struct bench *)arg)->hyper_nr = nr;
    return 3;
}

static struct bench *setup_on(const struct engine_ops *ops, unsigned id)
{
    struct err e = { 0 };
    struct bench *b = calloc(1, sizeof(*b));
    b->pending = -1;
    b->s.can_intr = true;
    if (ops != &fake)
        x86_model_host(&b->model, 1, 1000000);
    b->model.kvm_pv = true;
    b->mem = mem_new(16UL << 20, &e);
    b->bus = bus_new();
    assert_int_equal(bus_map(b->bus, BUS_PIO, 0x100, 4, BUS_1 | BUS_2 | BUS_4, &port_ops, b, &e), 0);
    pv_clock_init(&b->clock, 2500000);
    b->irq = (struct irq_ctl){ .pending = fake_pending,
                               .ack = fake_ack,
                               .tpr_get = fake_tpr_get,
                               .tpr_set = fake_tpr_set,
                               .msr_read = fake_msr_read,
                               .msr_write = fake_msr_write,
                               .lapic = b };
    const struct vcpu_config cfg = {
        .id = id,
        .engine = ops,
        .mem = b->mem,
        .bus = b->bus,
        .model = &b->model,
        .irq = &b->irq,
        .lapic_mmio = fake_lapic_mmio,
        .lapic_init = fake_lapic_init,
        .tsc_changed = ignore,
        .clock = &b->clock,
        .events = { .shutdown = on_end, .fatal = on_end, .hypercall = on_hyper, .arg = b },
    };
    b->t = vcpu_new(&cfg, &e);
    assert_non_null(b->t);
    return b;
}

static struct bench *setup(unsigned id)
{
    return setup_on(&fake, id);
}

static void teardown(struct bench *b)
{
    vcpu_free(b->t);
    bus_free(b->bus);
    mem_free(b->mem);
    free(b);
}

static void add(struct bench *b, struct vcpu_exit x)
{
    b->s.step[b->s.n++] = x;
}
static struct vcpu_exit io(enum vcpu_exit_kind kind, uint64_t addr, uint8_t len, bool write, uint64_t data)
{
    return (struct vcpu_exit){ .kind = kind, .io = { .addr = addr, .len = len, .write = write, .data = data } };
}

/* Until the script is done and the vCPU is back in its engine, or asleep; bounded only by the test's time limit. */
static void run_script(struct bench *b)
{
    vcpu_resume(b->t);
    while (b->s.at < b->s.n)
        nap();
    vcpu_pause(b->t);
    vcpu_wait_paused(b->t);
}

static void test_io(void **st)
{
    struct bench *b = setup(0);
    (void)st;
    add(b, io(EXIT_PIO, 0x100, 2, false, 0));
    add(b, io(EXIT_PIO, 0x100, 4, true, 0xdeadbeef));
    add(b, io(EXIT_MMIO, 0xfee00030, 4, false, 0));
    add(b, io(EXIT_MMIO, 0xd0000000, 4, false, 0));
    add(b, io(EXIT_MSR, 0x1b, 8, false, 0));
    add(b, io(EXIT_MSR, 0x800, 8, true, 0));
    add(b, io(EXIT_TPR, 0, 1, true, 9));
    add(b, (struct vcpu_exit){ .kind = EXIT_KICKED });
    run_script(b);
    assert_int_equal(b->s.answer[0].io.data, 0x5a5a);
    assert_int_equal(b->port_val, 0xdeadbeef);
    assert_int_equal(b->s.answer[2].io.data, 77);
    assert_int_equal(b->s.answer[3].io.data, 0xffffffff);
    assert_int_equal(b->s.answer[4].io.data, 0x1234);
    assert_false(b->s.answer[4].io.fault);
    assert_true(b->s.answer[5].io.fault);
    assert_int_equal(b->tpr, 9);
    assert_int_equal(vcpu_of(b->t)->stats.exits[EXIT_PIO], 2);
    teardown(b);
}

static void test_inject(void **st)
{
    struct bench *b = setup(0);
    (void)st;
    b->pending = 0x31;
    add(b, io(EXIT_PIO, 0x100, 1, false, 0));
    run_script(b);
    assert_int_equal(b->s.n_injected, 1);
    assert_int_equal(b->s.injected[0].kind, INJECT_INTR);
    assert_int_equal(b->s.injected[0].vector, 0x31);
    /* Not while IF is clear: a window is asked for, and NMI goes ahead. */
    b->pending = 0x32;
    b->s.can_intr = false;
    vcpu_pins(b->t).nmi(b->t);
    add(b, (struct vcpu_exit){ .kind = EXIT_KICKED });
    add(b, (struct vcpu_exit){ .kind = EXIT_KICKED });
    run_script(b);
    assert_int_equal(b->s.injected[1].kind, INJECT_NMI);
    assert_true(b->s.window_seen);
    assert_int_equal(b->acked, 0x31);
    b->s.can_intr = true;
    add(b, (struct vcpu_exit){ .kind = EXIT_IRQ_WINDOW });
    add(b, (struct vcpu_exit){ .kind = EXIT_KICKED });
    run_script(b);
    assert_int_equal(b->acked, 0x32);
    teardown(b);
}

/* Two NMIs at once are two, three are two; within a handler one more waits; none comes into a shadow. */
static void test_nmis(void **st)
{
    struct bench *b = setup(0);
    struct cpu_state *c = vcpu_of(b->t)->cpu;
    (void)st;
    for (unsigned i = 0; i < 3; i++)
        vcpu_pins(b->t).nmi(b->t);
    c->int_shadow = true;
    add(b, (struct vcpu_exit){ .kind = EXIT_KICKED });
    run_script(b);
    assert_int_equal(b->s.n_injected, 0);
    assert_true(b->s.nmi_window_seen);
    c->int_shadow = false;
    for (unsigned i = 0; i < 4; i++)
        add(b, (struct vcpu_exit){ .kind = EXIT_IRQ_WINDOW });
    run_script(b);
    assert_int_equal(b->s.n_injected, 2);
    assert_int_equal(b->s.injected[1].kind, INJECT_NMI);
    c->nmi_blocked = true;
    for (unsigned i = 0; i < 3; i++)
        vcpu_pins(b->t).nmi(b->t);
    add(b, (struct vcpu_exit){ .kind = EXIT_KICKED });
    run_script(b);
    assert_int_equal(b->s.n_injected, 2);
    c->nmi_blocked = false;
    for (unsigned i = 0; i < 3; i++)
        add(b, (struct vcpu_exit){ .kind = EXIT_KICKED });
    run_script(b);
    assert_int_equal(b->s.n_injected, 3);
    teardown(b);
}

static void test_halt(void **st)
{
    struct bench *b = setup(0);
    (void)st;
    add(b, (struct vcpu_exit){ .kind = EXIT_HLT });
    add(b, (struct vcpu_exit){ .kind = EXIT_KICKED });
    vcpu_resume(b->t);
    while (b->s.at < 1)
        nap();
    for (int i = 0; i < 50; i++)
        nap();
    assert_int_equal(b->s.at, 1); /* asleep */
    vcpu_pins(b->t).intr(b->t);   /* spurious: nothing is pending */
    for (int i = 0; i < 50; i++)
        nap();
    assert_int_equal(b->s.at, 1);
    b->pending = 0x40;
    vcpu_pins(b->t).intr(b->t);
    run_script(b);
    assert_int_equal(b->acked, 0x40);
    /* A halted processor can be paused and resumed, and PV kick wakes it without an interrupt. */
    add(b, (struct vcpu_exit){ .kind = EXIT_HLT });
    run_script(b);
    add(b, (struct vcpu_exit){ .kind = EXIT_KICKED });
    vcpu_resume(b->t);
    vcpu_unhalt(b->t);
    run_script(b);
    teardown(b);
}

static void test_sipi(void **st)
{
    struct bench *b = setup(1);
    (void)st;
    add(b, (struct vcpu_exit){ .kind = EXIT_KICKED });
    vcpu_resume(b->t);
    for (int i = 0; i < 20; i++)
        nap();
    assert_int_equal(b->s.at, 0);
    assert_true(vcpu_is_waiting_sipi(b->t));
    struct irq_cpu pins = vcpu_pins(b->t);
    pins.init(b->t);
    pins.sipi(b->t, 0x9a);
    pins.sipi(b->t, 0x9a);
    run_script(b);
    assert_false(vcpu_is_waiting_sipi(b->t));
    assert_int_equal(vcpu_of(b->t)->cpu->seg[X86_CS].base, 0x9a000);
    assert_int_equal(vcpu_of(b->t)->cpu->seg[X86_CS].sel, 0x9a00);
    assert_int_equal(vcpu_of(b->t)->cpu->rip, 0);
    pins.init(b->t);
    vcpu_resume(b->t);
    while (!vcpu_is_waiting_sipi(b->t))
        nap();
    assert_int_equal(b->lapic_inits, 2);
    teardown(b);
}

static void test_report(void **st)
{
    struct bench *b = setup(0);
    (void)st;
    add(b, (struct vcpu_exit){ .kind = EXIT_SHUTDOWN, .text = "x" });
    vcpu_resume(b->t);
    vcpu_wait_paused(b->t); /* it pauses itself */
    assert_int_equal(b->shutdowns, 1);
    teardown(b);
}

static void test_hypercall(void **st)
{
    struct bench *b = setup(0);
    (void)st;
    struct cpu_state *c = vcpu_of(b->t)->cpu;
    c->gpr[X86_RAX] = 10;
    add(b, (struct vcpu_exit){ .kind = EXIT_HYPERCALL });
    add(b, (struct vcpu_exit){ .kind = EXIT_KICKED });
    run_script(b);
    assert_int_equal(b->s.answer[0].io.data, 3);
    assert_int_equal(b->hyper_nr, 10);
    c->gpr[X86_RAX] = 999;
    add(b, (struct vcpu_exit){ .kind = EXIT_HYPERCALL });
    add(b, (struct vcpu_exit){ .kind = EXIT_KICKED });
    run_script(b);
    assert_int_equal(b->s.answer[2].io.data, (uint32_t)-1000); /* a 16-bit caller: cut to 32 bits */
    c->cpl = 3;
    c->gpr[X86_RAX] = 10;
    add(b, (struct vcpu_exit){ .kind = EXIT_HYPERCALL });
    add(b, (struct vcpu_exit){ .kind = EXIT_KICKED });
    run_script(b);
    assert_int_equal(b->s.answer[4].io.data, (uint32_t)-1);
    teardown(b);
}

static void test_clock(void **st)
{
    struct bench *b = setup(0);
    struct {
        uint32_t version, pad;
        uint64_t tsc, ns;
        uint32_t mul;
        int8_t shift;
        uint8_t flags;
    } t;
    uint32_t wall[3];
    (void)st;
    add(b, io(EXIT_MSR, 0x4b564d01, 8, true, 0x3000 | 1));
    add(b, io(EXIT_MSR, 0x4b564d00, 8, true, 0x4000));
    add(b, io(EXIT_MSR, 0x4b564d01, 8, true, (1UL << 50) | 1)); /* not RAM: the guest's loss */
    add(b, io(EXIT_MSR, 0x4b564d77, 8, true, 0));
    add(b, (struct vcpu_exit){ .kind = EXIT_KICKED });
    run_script(b);
    assert_false(b->s.answer[0].io.fault);
    assert_false(b->s.answer[2].io.fault);
    assert_true(b->s.answer[3].io.fault);
    assert_int_equal(mem_read(b->mem, 0x3000, &t, sizeof(t)), 0);
    assert_true(t.version && !(t.version & 1));
    assert_int_equal(t.flags & 1, 1);
    assert_int_equal(t.tsc, b->clock.tsc0 + vcpu_of(b->t)->cpu->tsc_offset);
    /* 2.5 GHz: a second of cycles is a second. */
    uint64_t sec = (uint64_t)((unsigned __int128)(2500000000UL << t.shift) * t.mul >> 32);
    assert_in_range(sec, 999999990, 1000000010);
    assert_int_equal(mem_read(b->mem, 0x4000, wall, sizeof(wall)), 0);
    assert_in_range(wall[1], time(NULL) - 100000, time(NULL) + 1);
    assert_true(wall[2] < 1000000000);
    teardown(b);
}

/* ---- real engines ---- */

enum { CODE = 0x1000, HANDLER = 0x1100, IRQS = 0x500, LOOPS = 0x504, IRQ_ROUNDS = 60 };

static struct bench *guest(const struct engine_ops *ops, const char *code, size_t len)
{
    static const uint16_t vector[2] = { HANDLER, 0 };
    struct bench *b = setup_on(ops, 0);
    struct cpu_state *c = vcpu_of(b->t)->cpu;

    mem_write(b->mem, CODE, code, len);
    mem_write(b->mem, HANDLER, "\x66\xff\x06\x00\x05\xcf", 6); /* inc dword [0x500]; iret */
    mem_write(b->mem, 0x40 * 4, vector, 4);
    c->seg[X86_CS].sel = 0;
    c->seg[X86_CS].base = 0;
    c->rip = CODE;
    c->gpr[X86_RSP] = 0x8000;
    vcpu_changed(b->t);
    return b;
}

static uint32_t count(struct bench *b, gpa_t at)
{
    uint32_t v = 0;

    mem_read(b->mem, at, &v, 4);
    return v;
}

/* Interrupts one by one, with a pause between some of them, after which the state must be that of a boundary. */
static void interrupt_it(struct bench *b)
{
    vcpu_resume(b->t);
    for (uint32_t k = 0; k < IRQ_ROUNDS; k++) {
        b->pending = 0x40;
        vcpu_pins(b->t).intr(b->t);
        while (count(b, IRQS) != k + 1)
            nap();
        if (k % 4)
            continue;
        vcpu_pause(b->t);
        vcpu_wait_paused(b->t);
        const struct cpu_state *c = vcpu_of(b->t)->cpu;
        uint32_t loops = count(b, LOOPS);

        assert_true(c->rip >= CODE && c->rip < HANDLER + 6);
        assert_int_equal(c->gpr[X86_RSP], c->rip < HANDLER ? 0x8000 : 0x8000 - 6);
        nap();
        assert_int_equal(count(b, LOOPS), loops);
        vcpu_resume(b->t);
    }
    vcpu_pause(b->t);
    vcpu_wait_paused(b->t);
    assert_int_equal(b->shutdowns, 0);
}

static void test_engine_halt(void **st)
{
    /* sti; l: mov dx, 0x100; in al, dx; cmp al, 0x5a; jne l; inc dword [0x504]; hlt; jmp l */
    static const char code[] = "\xfb\xba\x00\x01\xec\x3c\x5a\x75\xf8\x66\xff\x06\x04\x05\xf4\xeb\xf0";
    struct bench *b = guest(*st, code, sizeof(code) - 1);

    interrupt_it(b);
    assert_in_range(count(b, LOOPS), IRQ_ROUNDS - 1, IRQ_ROUNDS + 1);
    teardown(b);
}

/* The guest never leaves the engine by itself. */
static void test_engine_busy(void **st)
{
    /* sti; l: inc dword [0x504]; jmp l */
    static const char code[] = "\xfb\x66\xff\x06\x04\x05\xeb\xf9";
    struct bench *b = guest(*st, code, sizeof(code) - 1);

    interrupt_it(b);
    assert_true(count(b, LOOPS) > 0);
    teardown(b);
}

int main(void)
{
    const struct CMUnitTest engine_tests[] = {
        cmocka_unit_test(test_engine_halt),
        cmocka_unit_test(test_engine_busy),
    };
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_io),        cmocka_unit_test(test_inject), cmocka_unit_test(test_nmis),
        cmocka_unit_test(test_halt),      cmocka_unit_test(test_sipi),   cmocka_unit_test(test_report),
        cmocka_unit_test(test_hypercall), cmocka_unit_test(test_clock),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);

    return failed + ENGINE_TESTS_RUN("vcpu_engine", engine_tests);
}
