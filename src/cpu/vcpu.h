/* SPDX-License-Identifier: MIT */
/*
 * A vCPU: the thread that drives an engine. It turns exits into bus calls, interrupt pins into injections, sleeps
 * while the guest halts, and stops when the machine asks.
 */
#ifndef GAZDA_CPU_VCPU_H
#define GAZDA_CPU_VCPU_H

#include "bus/bus.h"
#include "bus/irq.h"
#include "cpu/engine.h"

struct pv_clock;
struct vcpu_thread;

/* Hypercalls and their errors: Linux Documentation/virt/kvm/x86/hypercalls.rst and uapi/linux/kvm_para.h. */
enum { KVM_HC_VAPIC_POLL_IRQ = 1, KVM_HC_KICK_CPU = 5, KVM_HC_SEND_IPI = 10, KVM_HC_SCHED_YIELD = 11 };
enum { KVM_EPERM = 1, KVM_EINVAL = 22, KVM_ENOSYS = 1000 };

/* What a vCPU reports upward. Called on the vCPU's thread; none may wait for a vCPU. */
struct vcpu_events {
    void (*shutdown)(void *arg, unsigned cpu, const char *text);       /* triple fault; the vCPU is paused afterwards */
    void (*fatal)(void *arg, unsigned cpu, const char *text);          /* likewise: the engine cannot go on */
    void (*debug)(void *arg, unsigned cpu, const struct vcpu_exit *x); /* likewise */
    /* KVM hypercalls that concern other vCPUs: KVM_HC_SEND_IPI and KVM_HC_KICK_CPU. Returns RAX. */
    int64_t (*hypercall)(void *arg, unsigned cpu, uint64_t nr, const uint64_t a[4]);
    void *arg;
};

struct vcpu_config {
    unsigned id;
    const struct engine_ops *engine;
    struct mem *mem;
    struct bus *bus;
    const struct x86_model *model;
    struct engine_tuning tuning;
    const struct irq_ctl *irq; /* the vCPU's LAPIC */
    /* Below: arg is irq->lapic. One access to the LAPIC's page, if it answers there (xAPIC mode, at its base): true. */
    bool (*lapic_mmio)(void *lapic, gpa_t gpa, uint64_t *data, unsigned len, bool write);
    void (*lapic_init)(void *lapic);  /* the vCPU carries out an INIT */
    void (*tsc_changed)(void *lapic); /* the guest moved its TSC */
    struct pv_clock *clock;
    struct vcpu_events events;
};

/* NULL with e set. cpu_state is in RESET state; vCPU 0 is runnable, others wait for a SIPI. Starts paused. */
struct vcpu_thread *vcpu_new(const struct vcpu_config *cfg, struct err *e);
/* Stops and joins the thread. */
void vcpu_free(struct vcpu_thread *t);

/* The pins for the LAPIC (callable before the thread starts). */
struct irq_cpu vcpu_pins(struct vcpu_thread *t);
/* The shared object; its cpu_state may be touched while the vCPU is paused, followed by vcpu_changed. */
struct vcpu *vcpu_of(struct vcpu_thread *t);
void vcpu_changed(struct vcpu_thread *t);
/* Back to power-on, paused. */
void vcpu_reset(struct vcpu_thread *t);

/* Asks the vCPU to leave the engine and stay out. Any thread. */
void vcpu_pause(struct vcpu_thread *t);
/* Waits until it has; not from a vCPU thread. cpu_state is exact then. */
void vcpu_wait_paused(struct vcpu_thread *t);
void vcpu_resume(struct vcpu_thread *t);
/* KVM_HC_KICK_CPU: ends a HLT without an interrupt. Any thread. */
void vcpu_unhalt(struct vcpu_thread *t);
bool vcpu_is_waiting_sipi(const struct vcpu_thread *t);

#endif
