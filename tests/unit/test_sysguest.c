/* SPDX-License-Identifier: MIT */
/*
 * Runs tests/guests/sys.asm, a guest that tests every mode, gate, fault and paging rule from the inside, on an engine
 * without a machine around it: this file is the ports, the interrupt pins and the TPR.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine_tests.h"
#include "mem/mem.h"

__asm__(".section .rodata\n"
        ".global guest_image, guest_image_end\n"
        "guest_image: .incbin \"" SYS_GUEST "\"\n"
        "guest_image_end:\n"
        ".previous\n");
extern const uint8_t guest_image[], guest_image_end[];

/* As in sys.asm. */
enum {
    LOAD = 0x1000,
    PORT_END = 0xf4,
    PORT_IRQ = 0xf5,
    PORT_NMI = 0xf6,
    PORT_ECHO = 0xf8,
    FAILMAP = 0x800,
    FAILMAP_BYTES = 0x700,
    CHECKS = 0xf00,
    WHAT = 0xf04,
    VENDOR_AMD = 0xf05,
    MIN_CHECKS = 500,
    MAX_EXITS = 10000,
};

static const char *const file_names[] = { "sys.asm",    "real.inc",   "prot.inc",  "long.inc",
                                          "user64.inc", "page32.inc", "page32.inc" };

struct bench {
    struct vcpu v;
    struct mem *mem;
    struct x86_model model;
    int irq; /* vector, or -1 */
    bool nmi;
    uint8_t tpr, echo;
    bool ended;
};

static struct bench *bench_start(const struct engine_ops *ops, enum x86_vendor vendor, uint8_t what)
{
    uint8_t amd = vendor == X86_VENDOR_AMD;
    struct bench *b = calloc(1, sizeof(*b));

    assert_non_null(b);
    b->irq = -1;
    b->mem = mem_new(16 << 20, NULL);
    assert_non_null(b->mem);
    x86_model_host(&b->model, 1, 2000000);
    b->model.vendor = vendor;
    b->v.ops = ops;
    b->v.mem = b->mem;
    b->v.model = &b->model;
    assert_int_equal(ops->create(&b->v), 0);
    assert_int_equal(mem_write(b->mem, LOAD, guest_image, (uint64_t)(guest_image_end - guest_image)), 0);
    assert_int_equal(mem_write(b->mem, WHAT, &what, 1), 0);
    assert_int_equal(mem_write(b->mem, VENDOR_AMD, &amd, 1), 0);
    b->v.cpu->seg[X86_CS].sel = 0;
    b->v.cpu->seg[X86_CS].base = 0;
    b->v.cpu->rip = LOAD;
    ops->sync(&b->v, SYNC_IN);
    return b;
}

static void bench_end(struct bench *b)
{
    b->v.ops->destroy(&b->v);
    mem_free(b->mem);
    free(b);
}

static void port_io(struct bench *b, struct vcpu_exit *x)
{
    if (!x->io.write) {
        x->io.data = x->io.addr == PORT_ECHO ? b->echo : UINT64_MAX >> (64 - 8 * x->io.len);
        return;
    }
    switch (x->io.addr) {
    case PORT_END:
        b->ended = true;
        break;
    case PORT_IRQ:
        b->irq = (uint8_t)x->io.data;
        break;
    case PORT_NMI:
        b->nmi = true;
        break;
    case PORT_ECHO:
        b->echo = (uint8_t)x->io.data;
        break;
    default:
        break;
    }
}

/* What the vCPU thread does before each run. */
static void inject(struct bench *b)
{
    struct vcpu *v = &b->v;

    v->irq_window = false;
    if (b->nmi && !v->cpu->nmi_blocked) {
        v->inject.kind = INJECT_NMI;
        b->nmi = false;
    } else if (b->irq >= 0) {
        if (v->ops->can_intr(v)) {
            v->inject.kind = INJECT_INTR;
            v->inject.vector = (uint8_t)b->irq;
            b->irq = -1;
        } else {
            v->irq_window = true;
        }
    }
}

/* A guest that loops is stopped after a minute, so that one sees where it was. */
static struct vcpu *watched;
static volatile sig_atomic_t timed_out;

static void on_alarm(int sig)
{
    (void)sig;
    timed_out = 1;
    watched->ops->kick(watched);
}

/* Runs to PORT_END or to an exit that this machine does not know; returns its kind. */
static enum vcpu_exit_kind bench_run(struct bench *b)
{
    struct vcpu_exit *x = &b->v.exit;
    struct sigaction sa = { .sa_handler = on_alarm, .sa_flags = SA_RESTART | SA_ONSTACK };
    bool io_open = false;

    watched = &b->v;
    timed_out = 0;
    sigfillset(&sa.sa_mask);
    sigaction(SIGALRM, &sa, NULL);
    alarm(60);
    for (unsigned n = 0; n < MAX_EXITS && !b->ended && !timed_out; n++) {
        if (!io_open)
            inject(b);
        else if (b->nmi || b->irq >= 0)
            b->v.ops->kick(&b->v); /* come back once the access is complete */
        io_open = false;
        assert_int_equal(b->v.ops->run(&b->v, x), 0);
        switch (x->kind) {
        case EXIT_PIO:
            port_io(b, x);
            io_open = true;
            break;
        case EXIT_TPR:
            if (x->io.write)
                b->tpr = (uint8_t)x->io.data;
            else
                x->io.data = b->tpr;
            io_open = true;
            break;
        case EXIT_HLT:
            if (b->irq < 0 && !b->nmi)
                return x->kind;
            break;
        case EXIT_KICKED:
        case EXIT_IRQ_WINDOW:
        case EXIT_PAUSE:
            break;
        default:
            return x->kind;
        }
    }
    alarm(0);
    return x->kind;
}

static unsigned report(struct bench *b)
{
    uint8_t map[FAILMAP_BYTES];
    unsigned failed = 0;

    assert_int_equal(mem_read(b->mem, FAILMAP, map, sizeof(map)), 0);
    for (unsigned i = 0; i < FAILMAP_BYTES * 8; i++)
        if (map[i / 8] >> (i % 8) & 1) {
            print_error("%s:%u failed\n", i / 1000 < 7 ? file_names[i / 1000] : "?", i % 1000);
            failed++;
        }
    return failed;
}

static void run_guest(const struct engine_ops *ops, enum x86_vendor vendor)
{
    struct bench *b = bench_start(ops, vendor, 0);
    uint32_t checks = 0;
    enum vcpu_exit_kind kind;
    unsigned failed;

    kind = bench_run(b);
    ops->sync(&b->v, SYNC_OUT);
    mem_read(b->mem, CHECKS, &checks, 4);
    failed = report(b);
    if (!b->ended)
        print_error("stopped by exit %d (%s) at %x:%llx, cr0 %llx, rsp %llx, after %u checks\n", kind, b->v.exit.text,
                    b->v.cpu->seg[X86_CS].sel, (unsigned long long)b->v.cpu->rip, (unsigned long long)b->v.cpu->cr0,
                    (unsigned long long)b->v.cpu->gpr[X86_RSP], checks);
    assert_true(b->ended);
    assert_int_equal(failed, 0);
    assert_in_range(checks, MIN_CHECKS, UINT32_MAX);
    bench_end(b);
}

static void run_triple_fault(const struct engine_ops *ops)
{
    struct bench *b = bench_start(ops, X86_VENDOR_INTEL, 1);

    assert_int_equal(bench_run(b), EXIT_SHUTDOWN);
    assert_non_null(strstr(b->v.exit.text, "triple fault"));
    bench_end(b);
}

static void guest_intel(void **state)
{
    run_guest(*state, X86_VENDOR_INTEL);
}

static void guest_amd(void **state)
{
    run_guest(*state, X86_VENDOR_AMD);
}

static void triple_fault(void **state)
{
    run_triple_fault(*state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(guest_intel),
        cmocka_unit_test(guest_amd),
        cmocka_unit_test(triple_fault),
    };

    return ENGINE_TESTS_RUN("sysguest", tests);
}
