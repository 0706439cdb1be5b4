/* SPDX-License-Identifier: MIT */
/*
 * The contract between a vCPU and the engine that runs it.
 *
 * run() executes guest instructions on the calling thread (always the vCPU's own) and returns only on an instruction
 * boundary, with v->exit filled; cpu_state is exact after ops->sync(v, SYNC_OUT) only. The exits:
 *
 *   KICKED      somebody called kick (it may be spurious). Nothing else is valid.
 *   PIO, MMIO,  one access of 1, 2, 4 or 8 bytes. The instruction has NOT retired: the vCPU does the access, for
 *   MSR, TPR    reads puts the answer into exit.io.data, and calls run again, which completes the instruction (or
 *               exits for its next access) before any interrupt. exit.io.fault on the way back: an MSR raises #GP(0).
 *   HYPERCALL   VMCALL or VMMCALL; same protocol, the result for RAX goes into exit.io.data.
 *   HLT         retired; RIP is after it. The vCPU sleeps until an interrupt that may be delivered arrives.
 *   PAUSE       a spin loop was noticed; a hint to yield the host CPU. RIP is exact.
 *   IRQ_WINDOW  v->irq_window was set and maskable interrupts can be taken now, or v->nmi_window and an NMI can.
 *   SHUTDOWN    triple fault; exit.text says how it came to be.
 *   DEBUG       v->debug asked for it: exit.debug.reason and .addr. For a break point RIP is at the instruction.
 *   FATAL       the engine cannot go on (an instruction it does not have); exit.text is a sentence for the user.
 *   STEPPED     of step only: the instructions asked for were done.
 *
 * Interrupts: before run the vCPU sets v->inject; run delivers it first and sets inject.kind to INJECT_NONE. The vCPU
 * injects INTR only if rflags.IF is set and there is no interrupt shadow (ops->can_intr), else it sets irq_window. It
 * injects an NMI only outside of a shadow and of an NMI handler, else it sets nmi_window.
 */
#ifndef GAZDA_CPU_ENGINE_H
#define GAZDA_CPU_ENGINE_H

#include "cpu/tuning.h"
#include "x86/cpu_state.h"
#include "x86/cpuid.h"

struct mem;
struct vcpu;

enum vcpu_exit_kind {
    EXIT_KICKED,
    EXIT_PIO,
    EXIT_MMIO,
    EXIT_MSR,
    EXIT_TPR,
    EXIT_HYPERCALL,
    EXIT_HLT,
    EXIT_PAUSE,
    EXIT_IRQ_WINDOW,
    EXIT_SHUTDOWN,
    EXIT_DEBUG,
    EXIT_FATAL,
    EXIT_STEPPED,
    EXIT_KINDS
};
enum vcpu_debug_reason { DEBUG_STEP, DEBUG_SW_BREAK, DEBUG_HW_BREAK, DEBUG_WATCH };

struct vcpu_exit {
    enum vcpu_exit_kind kind;
    struct {
        uint64_t addr; /* port, gpa, or MSR index */
        uint8_t len;
        bool write;
        bool fault;
        uint64_t data; /* little-endian, zero-extended */
    } io;
    struct {
        enum vcpu_debug_reason reason;
        gva_t addr; /* break point: linear pc; watch: the watched address that was hit */
    } debug;
    char text[160];
};

enum inject_kind { INJECT_NONE, INJECT_INTR, INJECT_NMI };

enum { DEBUG_POINTS = 32 };
enum debug_point_kind { POINT_EXEC, POINT_WRITE, POINT_READ, POINT_ACCESS };

/* What a debugger outside the guest wants; changed only while the vCPU is not in run, then ops->debug_changed. */
struct vcpu_debug {
    bool step;     /* DEBUG exit after one instruction (interrupts are not delivered meanwhile) */
    bool sw_break; /* INT3 at CPL any: DEBUG exit instead of #BP, RIP at the INT3 */
    unsigned n;
    struct {
        enum debug_point_kind kind;
        gva_t addr;
        uint32_t len;
    } point[DEBUG_POINTS];
};

struct vcpu_stats {
    uint64_t exits[EXIT_KINDS];
    uint64_t insns;      /* that the interpreter has retired; translate does not count those that it runs */
    uint64_t faults[32]; /* exceptions delivered, by vector */
    uint64_t intr;
    uint64_t tlb_misses, tlb_flushes, blocks_decoded, cache_flushes, code_invalidations, vector_decoded;
};

enum sync_dir {
    SYNC_OUT, /* make cpu_state exact */
    SYNC_IN,  /* cpu_state was changed by somebody else: drop everything derived from it */
};

/* One const table per engine; its state hangs off struct vcpu. */
struct engine_ops {
    const char *name;
    /* Allocates v->cpu (in RESET state) and v->engine. v->id, mem, model and tuning are set. 0 or -errno. */
    int (*create)(struct vcpu *v);
    void (*destroy)(struct vcpu *v);
    int (*run)(struct vcpu *v, struct vcpu_exit *out); /* 0, or -errno for a host failure */
    void (*kick)(struct vcpu *v); /* any thread, any handler with SA_ONSTACK (RSP may be the guest's) */
    int (*sync)(struct vcpu *v, enum sync_dir dir); /* vCPU thread, or any while it is not in run */
    /*
     * For another engine that hands over what it does not do itself (its own struct vcpu, same thread): like run, but
     * cpu_state is exact on entry and after it without sync (general registers and flags, rip, system state; vector
     * registers and x87 too), and it returns STEPPED after at least one and about n instructions, or the exception
     * that one raised. NULL where an engine does not offer it.
     */
    int (*step)(struct vcpu *v, unsigned n, struct vcpu_exit *out);
    void (*flush_local)(struct vcpu *v); /* of the same: the caller loaded CR3, or did INVLPG, itself */
    void (*flush_page)(struct vcpu *v, gva_t lin);
    bool (*can_intr)(const struct vcpu *v); /* IF set and no shadow; vCPU thread, between runs */
    void (*debug_changed)(struct vcpu *v);
    /* Further counters, by name; "a.b" belongs to a group. May be NULL. While the vCPU is not in run. */
    void (*stats)(const struct vcpu *v, void (*put)(void *arg, const char *name, uint64_t value), void *arg);
};

/* What engine and vCPU thread share. cpu/vcpu.c embeds it in its own, larger object. */
struct vcpu {
    unsigned id; /* = initial APIC id */
    const struct engine_ops *ops;
    struct mem *mem;
    const struct x86_model *model;
    struct engine_tuning tuning;
    struct cpu_state *cpu; /* lives in the engine's storage */
    void *engine;
    struct {
        enum inject_kind kind;
        uint8_t vector;
    } inject;
    bool irq_window, nmi_window;
    struct vcpu_exit exit;
    struct vcpu_debug debug;
    struct vcpu_stats stats;
    struct { /* counts what instructions did to translations, for the caller of step */
        uint32_t all, local, page;
        gva_t lin; /* of the last page */
    } flushed;
};

/* _window: with windows from the start, so that tests run both tiers. */
extern const struct engine_ops engine_interp, engine_translate, engine_translate_window;

#endif
