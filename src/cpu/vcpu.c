/* SPDX-License-Identifier: MIT */
/*
 * The vCPU thread.
 *
 * Requests from other threads are bits in `req`: setting one is followed by a kick, which makes a running engine
 * return and wakes a sleeper. The sleeper publishes `asleep` before it looks at `req` and the requester sets `req`
 * before it looks at `asleep` (both sequentially consistent), so one of them sees the other.
 */
#include "cpu/vcpu.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/lock.h"
#include "base/log.h"
#include "cpu/pvclock.h"

enum {
    REQ_INTR = 1, /* the LAPIC's answer may have changed */
    REQ_NMI = 2,
    REQ_INIT = 4,
    REQ_SIPI = 8,
    REQ_PAUSE = 16, /* level: stays set until vcpu_resume */
    REQ_STOP = 32,
    REQ_UNHALT = 64,
};

enum { MSR_APIC_BASE = 0x1b, APIC_BASE_EN = 0x800 };

struct vcpu_thread {
    struct vcpu v; /* first */
    struct vcpu_config cfg;
    struct pv_clock_cpu pv;
    pthread_t thread;
    _Atomic uint32_t req;
    _Atomic uint8_t sipi_vector;
    _Atomic bool asleep;
    _Atomic bool wait_sipi;
    uint64_t tsc_offset;      /* as the LAPIC's deadline timer knows it */
    _Atomic unsigned nmi_new; /* NMIs that came since take_requests looked */
    unsigned nmi_pending;     /* one, or two if none is being handled: as KVM does it */
    bool halted, io_open /* an access exited and its instruction has not retired */;
    struct lock lock;
    pthread_cond_t cond; /* sleepers, and whoever waits for `paused` */
    bool paused;
};

/* ---- requests ---- */

static void request(struct vcpu_thread *t, uint32_t bits)
{
    atomic_fetch_or(&t->req, bits);
    t->v.ops->kick(&t->v);
    if (atomic_load(&t->asleep)) {
        lock_take(&t->lock);
        pthread_cond_broadcast(&t->cond);
        lock_drop(&t->lock);
    }
}

static void pin_intr(void *vcpu)
{
    request(vcpu, REQ_INTR);
}
static void pin_nmi(void *vcpu)
{
    struct vcpu_thread *t = vcpu;
    atomic_fetch_add(&t->nmi_new, 1);
    request(t, REQ_NMI);
}
/* A SIPI that came earlier and was not looked at yet (the vCPU was paused) must not end the wait that INIT begins. */
static void pin_init(void *vcpu)
{
    struct vcpu_thread *t = vcpu;
    atomic_fetch_and(&t->req, ~(uint32_t)REQ_SIPI);
    request(t, REQ_INIT);
}
static void pin_sipi(void *vcpu, uint8_t vector)
{
    struct vcpu_thread *t = vcpu;
    atomic_store(&t->sipi_vector, vector);
    request(t, REQ_SIPI);
}

struct irq_cpu vcpu_pins(struct vcpu_thread *t)
{
    return (struct irq_cpu){ .intr = pin_intr, .nmi = pin_nmi, .init = pin_init, .sipi = pin_sipi, .vcpu = t };
}

void vcpu_unhalt(struct vcpu_thread *t)
{
    request(t, REQ_UNHALT);
}

void vcpu_pause(struct vcpu_thread *t)
{
    request(t, REQ_PAUSE);
}

void vcpu_wait_paused(struct vcpu_thread *t)
{
    lock_take(&t->lock);
    while (!t->paused)
        lock_wait(&t->lock, &t->cond, UINT64_MAX);
    lock_drop(&t->lock);
}

void vcpu_resume(struct vcpu_thread *t)
{
    lock_take(&t->lock);
    atomic_fetch_and(&t->req, ~(uint32_t)REQ_PAUSE);
    t->paused = false;
    pthread_cond_broadcast(&t->cond);
    lock_drop(&t->lock);
}

/* ---- sleeping ---- */

/* Sleeps until a bit of `bits` is requested. Takes a pause or stop in its stride: those always wake. */
static void sleep_until(struct vcpu_thread *t, uint32_t bits)
{
    lock_take(&t->lock);
    atomic_store(&t->asleep, true);
    while (!(atomic_load(&t->req) & (bits | REQ_PAUSE | REQ_STOP)))
        lock_wait(&t->lock, &t->cond, UINT64_MAX);
    atomic_store(&t->asleep, false);
    lock_drop(&t->lock);
}

static void stay_paused(struct vcpu_thread *t)
{
    t->v.ops->sync(&t->v, SYNC_OUT);
    lock_take(&t->lock);
    atomic_store(&t->asleep, true);
    while ((atomic_load(&t->req) & (REQ_PAUSE | REQ_STOP)) == REQ_PAUSE) {
        if (!t->paused) {
            t->paused = true;
            pthread_cond_broadcast(&t->cond);
        }
        lock_wait(&t->lock, &t->cond, UINT64_MAX);
    }
    t->paused = false;
    atomic_store(&t->asleep, false);
    lock_drop(&t->lock);
}

/* ---- exits ---- */

static void exit_mmio(struct vcpu_thread *t, struct vcpu_exit *x)
{
    if (t->cfg.lapic_mmio(t->cfg.irq->lapic, x->io.addr, &x->io.data, x->io.len, x->io.write))
        return;
    if (x->io.write) {
        bus_write(t->cfg.bus, BUS_MMIO, x->io.addr, &x->io.data, x->io.len);
    } else {
        x->io.data = 0;
        bus_read(t->cfg.bus, BUS_MMIO, x->io.addr, &x->io.data, x->io.len);
    }
}

static void exit_pio(struct vcpu_thread *t, struct vcpu_exit *x)
{
    if (x->io.write) {
        bus_write(t->cfg.bus, BUS_PIO, x->io.addr, &x->io.data, x->io.len);
    } else {
        x->io.data = 0;
        bus_read(t->cfg.bus, BUS_PIO, x->io.addr, &x->io.data, x->io.len);
    }
}

static void exit_msr(struct vcpu_thread *t, struct vcpu_exit *x)
{
    const struct irq_ctl *irq = t->cfg.irq;
    uint32_t msr = (uint32_t)x->io.addr;
    bool pv = msr == 0x11 || msr == 0x12 || (msr >> 8) == 0x4b564d;
    if (pv && x->io.write)
        x->io.fault = !t->v.model->kvm_pv || !pv_clock_write(&t->pv, t->v.cpu->tsc_offset, msr, x->io.data);
    else if (pv)
        x->io.fault = !t->v.model->kvm_pv || !pv_clock_read(&t->pv, msr, &x->io.data);
    else if (x->io.write)
        x->io.fault = irq->msr_write(irq->lapic, msr, x->io.data) != 0;
    else
        x->io.fault = irq->msr_read(irq->lapic, msr, &x->io.data) != 0;
    if (msr == MSR_APIC_BASE && x->io.write && !x->io.fault)
        t->v.cpu->apic_off = !(x->io.data & APIC_BASE_EN);
}

static void exit_hypercall(struct vcpu_thread *t, struct vcpu_exit *x)
{
    t->v.ops->sync(&t->v, SYNC_OUT);
    const struct cpu_state *c = t->v.cpu;
    /* The narrow ABI of a 32-bit caller has the same registers, cut to 32 bits. */
    uint64_t mask = x86_code_mode(c) == X86_MODE_64 ? UINT64_MAX : UINT32_MAX;
    uint64_t nr = c->gpr[X86_RAX] & mask;
    const uint64_t a[4] = { c->gpr[X86_RBX] & mask, c->gpr[X86_RCX] & mask, c->gpr[X86_RDX] & mask,
                            c->gpr[X86_RSI] & mask };
    int64_t r = -KVM_ENOSYS;
    if (c->cpl != 0) {
        r = -KVM_EPERM;
    } else if (!t->v.model->kvm_pv) {
        r = -KVM_ENOSYS;
    } else if (nr == KVM_HC_SCHED_YIELD) {
        sched_yield();
        r = 0;
    } else if (nr == KVM_HC_VAPIC_POLL_IRQ) {
        r = 0;
    } else if (nr == KVM_HC_SEND_IPI || nr == KVM_HC_KICK_CPU) {
        r = t->cfg.events.hypercall(t->cfg.events.arg, t->v.id, nr, a);
    }
    x->io.data = (uint64_t)r & mask;
}

/* Ends this vCPU's part until the machine has decided what comes next. */
static void report(struct vcpu_thread *t, const struct vcpu_exit *x)
{
    const struct vcpu_events *ev = &t->cfg.events;
    atomic_fetch_or(&t->req, REQ_PAUSE);
    t->v.ops->sync(&t->v, SYNC_OUT);
    if (x->kind == EXIT_SHUTDOWN)
        ev->shutdown(ev->arg, t->v.id, x->text);
    else if (x->kind == EXIT_DEBUG)
        ev->debug(ev->arg, t->v.id, x);
    else
        ev->fatal(ev->arg, t->v.id, x->text);
}

static void handle_exit(struct vcpu_thread *t)
{
    struct vcpu_exit *x = &t->v.exit;
    const struct irq_ctl *irq = t->cfg.irq;
    t->v.stats.exits[x->kind]++;
    t->io_open = false;
    switch (x->kind) {
    case EXIT_PIO:
        t->io_open = true;
        exit_pio(t, x);
        break;
    case EXIT_MMIO:
        t->io_open = true;
        exit_mmio(t, x);
        break;
    case EXIT_MSR:
        t->io_open = true;
        exit_msr(t, x);
        break;
    case EXIT_TPR:
        t->io_open = true;
        if (x->io.write)
            irq->tpr_set(irq->lapic, (uint8_t)x->io.data);
        else
            x->io.data = irq->tpr_get(irq->lapic);
        break;
    case EXIT_HYPERCALL:
        t->io_open = true;
        exit_hypercall(t, x);
        break;
    case EXIT_HLT:
        t->halted = true;
        if (t->v.debug.step) { /* the step is done; what HLT waits for may never come */
            x->kind = EXIT_DEBUG;
            x->debug.reason = DEBUG_STEP;
            report(t, x);
        }
        break;
    case EXIT_PAUSE:
        sched_yield();
        break;
    case EXIT_SHUTDOWN:
    case EXIT_DEBUG:
    case EXIT_FATAL:
        report(t, x);
        break;
    case EXIT_KICKED:
    case EXIT_IRQ_WINDOW:
    case EXIT_STEPPED:
    case EXIT_KINDS:
        break;
    }
}

/* ---- the loop ---- */

/* SDM Vol. 3A, "Multiple-Processor (MP) Initialization": INIT, then wait for SIPI; the BSP restarts at its vector. */
static void take_init(struct vcpu_thread *t)
{
    t->v.ops->sync(&t->v, SYNC_OUT);
    x86_cpu_init(t->v.cpu);
    t->v.ops->sync(&t->v, SYNC_IN);
    t->cfg.lapic_init(t->cfg.irq->lapic);
    t->halted = false;
    atomic_store(&t->nmi_new, 0);
    t->nmi_pending = 0;
    t->io_open = false;
    t->v.inject.kind = INJECT_NONE;
    atomic_store(&t->wait_sipi, t->v.id != 0);
}

static void take_sipi(struct vcpu_thread *t)
{
    struct cpu_state *c = t->v.cpu;
    uint8_t vec = atomic_load(&t->sipi_vector);
    if (!atomic_load(&t->wait_sipi))
        return;
    t->v.ops->sync(&t->v, SYNC_OUT);
    c->seg[X86_CS].sel = (uint16_t)(vec << 8);
    c->seg[X86_CS].base = (uint64_t)vec << 12;
    c->rip = 0;
    t->v.ops->sync(&t->v, SYNC_IN);
    atomic_store(&t->wait_sipi, false);
}

/* True when the halted processor has a reason to go on. SDM Vol. 2A, "HLT". */
static bool wakes(struct vcpu_thread *t)
{
    const struct irq_ctl *irq = t->cfg.irq;
    return t->nmi_pending || (t->v.ops->can_intr(&t->v) && irq->pending(irq->lapic) >= 0);
}

/* Decides what the engine delivers first. */
static void prepare_injection(struct vcpu_thread *t)
{
    const struct irq_ctl *irq = t->cfg.irq;
    struct vcpu *v = &t->v;
    v->irq_window = v->nmi_window = false;
    if (v->inject.kind != INJECT_NONE || v->debug.step)
        return;
    if (t->nmi_pending && !v->cpu->nmi_blocked) { /* if it is blocked, IRET ends the run */
        if (!t->io_open && !v->cpu->int_shadow) {
            t->nmi_pending--;
            v->inject.kind = INJECT_NMI;
            return;
        }
        v->nmi_window = true;
    }
    if (irq->pending(irq->lapic) < 0)
        return;
    if (t->io_open || !v->ops->can_intr(v)) {
        v->irq_window = true;
        return;
    }
    int vec = irq->ack(irq->lapic);
    if (vec < 0)
        return;
    v->inject.kind = INJECT_INTR;
    v->inject.vector = (uint8_t)vec;
}

/* True: go round again without running. */
static bool take_requests(struct vcpu_thread *t)
{
    uint32_t r = atomic_load(&t->req);
    /* An instruction in the middle of its accesses is finished first: cpu_state is whole only between instructions. */
    if ((r & REQ_PAUSE) && !t->io_open) {
        stay_paused(t);
        return true;
    }
    r = atomic_fetch_and(&t->req, (uint32_t)(REQ_PAUSE | REQ_STOP));
    if (r & REQ_NMI) {
        unsigned limit = t->v.cpu->nmi_blocked ? 1 : 2, n = t->nmi_pending + atomic_exchange(&t->nmi_new, 0);
        t->nmi_pending = n < limit ? n : limit;
    }
    if (r & REQ_INIT)
        take_init(t);
    if (r & REQ_SIPI)
        take_sipi(t);
    if (r & REQ_UNHALT)
        t->halted = false;
    if (atomic_load(&t->wait_sipi)) {
        sleep_until(t, REQ_INIT | REQ_SIPI);
        return true;
    }
    if (t->halted && !wakes(t)) {
        sleep_until(t, REQ_INTR | REQ_NMI | REQ_INIT | REQ_UNHALT);
        return true;
    }
    t->halted = false;
    return false;
}

static void *vcpu_main(void *arg)
{
    struct vcpu_thread *t = arg;
    sigset_t all;
    /* An engine may run the guest with its stack pointer; it lets in what it has handlers for. */
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, NULL);
    while (!(atomic_load(&t->req) & REQ_STOP)) {
        if (take_requests(t))
            continue;
        prepare_injection(t);
        int r = t->v.ops->run(&t->v, &t->v.exit);
        if (r < 0) {
            t->v.exit.kind = EXIT_FATAL;
            snprintf(t->v.exit.text, sizeof(t->v.exit.text), "engine %s: %s", t->v.ops->name, strerror(-r));
        }
        if (t->v.cpu->tsc_offset != t->tsc_offset) {
            t->tsc_offset = t->v.cpu->tsc_offset;
            t->cfg.tsc_changed(t->cfg.irq->lapic);
        }
        handle_exit(t);
    }
    return NULL;
}

/* ---- life ---- */

struct vcpu_thread *vcpu_new(const struct vcpu_config *cfg, struct err *e)
{
    struct vcpu_thread *t = aligned_alloc(64, (sizeof(*t) + 63) & ~63UL);
    if (!t) {
        err_set(e, ENOMEM, "out of memory for vCPU %u", cfg->id);
        return NULL;
    }
    memset(t, 0, sizeof(*t));
    t->cfg = *cfg;
    t->pv = (struct pv_clock_cpu){ .clock = cfg->clock, .mem = cfg->mem };
    t->v.id = cfg->id;
    t->v.ops = cfg->engine;
    t->v.mem = cfg->mem;
    t->v.model = cfg->model;
    t->v.tuning = cfg->tuning;
    t->req = REQ_PAUSE;
    t->wait_sipi = cfg->id != 0;
    lock_init(&t->lock, LOCK_VCPU);
    pthread_cond_init(&t->cond, NULL);
    int r = cfg->engine->create(&t->v);
    if (r < 0) {
        err_set(e, -r, "engine %s cannot make vCPU %u: %s", cfg->engine->name, cfg->id, strerror(-r));
        goto undo_lock;
    }
    t->v.cpu->tsc_offset = t->tsc_offset = -cfg->clock->tsc0;
    r = pthread_create(&t->thread, NULL, vcpu_main, t);
    if (r != 0) {
        err_set(e, r, "cannot start the thread of vCPU %u: %s", cfg->id, strerror(r));
        goto undo_engine;
    }
    char name[16];
    snprintf(name, sizeof(name), "vcpu%u", cfg->id);
    pthread_setname_np(t->thread, name);
    return t;

undo_engine:
    cfg->engine->destroy(&t->v);
undo_lock:
    pthread_cond_destroy(&t->cond);
    lock_destroy(&t->lock);
    free(t);
    return NULL;
}

void vcpu_free(struct vcpu_thread *t)
{
    if (!t)
        return;
    request(t, REQ_STOP);
    pthread_join(t->thread, NULL);
    t->v.ops->destroy(&t->v);
    pthread_cond_destroy(&t->cond);
    lock_destroy(&t->lock);
    free(t);
}

struct vcpu *vcpu_of(struct vcpu_thread *t)
{
    return &t->v;
}

void vcpu_changed(struct vcpu_thread *t)
{
    t->v.ops->sync(&t->v, SYNC_IN);
}

void vcpu_reset(struct vcpu_thread *t)
{
    x86_cpu_reset(t->v.cpu);
    t->v.cpu->tsc_offset = t->tsc_offset = -t->cfg.clock->tsc0;
    t->v.ops->sync(&t->v, SYNC_IN);
    t->halted = t->io_open = false;
    t->nmi_pending = 0;
    atomic_store(&t->nmi_new, 0);
    t->v.inject.kind = INJECT_NONE;
    t->pv.wall_msr = t->pv.system_msr = 0;
    atomic_store(&t->wait_sipi, t->v.id != 0);
    atomic_fetch_and(&t->req, (uint32_t)(REQ_PAUSE | REQ_STOP));
}

bool vcpu_is_waiting_sipi(const struct vcpu_thread *t)
{
    return atomic_load(&((struct vcpu_thread *)(uintptr_t)t)->wait_sipi);
}
