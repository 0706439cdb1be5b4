/* SPDX-License-Identifier: MIT */
/*
 * The machine: memory, vCPUs, and the explicit list of its devices; its life from power-on to power-off.
 *
 * Threads: one per vCPU, one event loop, and the caller of machine_run, which waits for what the others report and
 * carries out resets. machine_* functions are for that thread unless a comment says more.
 */
#ifndef GAZDA_VM_MACHINE_H
#define GAZDA_VM_MACHINE_H

#include <stdio.h>

#include "base/err.h"
#include "base/types.h"
#include "cpu/engine.h"
#include "vm/devices.h"

enum { MACHINE_CPUS_MAX = 32 };

struct mem;

struct machine_virtio {
    gpa_t base;
    uint32_t len;
    unsigned gsi;
};

/* What a loader gets to put a guest into: fresh memory, a processor in RESET state, and what the guest must be told. */
struct machine_guest {
    struct mem *mem;
    struct cpu_state *bsp;
    unsigned cpus;
    const struct machine_virtio *virtio;
    unsigned n_virtio;
    bool has_disk, disk_read_only; /* the first one */
};

/* Borrowed until machine_free. */
struct machine_config {
    const char *name; /* for humans; NULL = "gazda" */
    /* Loads the guest, at power-on and after each reset: 0 or -errno with e set. vm/boot has the usual one. */
    int (*load)(void *arg, const struct machine_guest *g, struct err *e);
    void *load_arg;
    unsigned cpus;
    uint64_t mem_bytes;
    struct machine_disk disk[MACHINE_DISKS_MAX];
    unsigned n_disks;
    struct machine_net net[MACHINE_NETS_MAX];
    unsigned n_nets;
    struct machine_share share[MACHINE_SHARES_MAX];
    unsigned n_shares;
    struct machine_port port[MACHINE_PORTS_MAX];
    unsigned n_ports;
    struct machine_vsock vsock;
    struct machine_balloon balloon;
    struct limiter_cfg rng_limit;
    bool no_rng;
    const char *serial;  /* chardev specification of COM1 */
    const char *console; /* of a virtio console; NULL = none */
    const struct engine_ops *engine;
    struct engine_tuning tuning; /* all but .cpus */
    bool agent;                  /* a port for the guest agent (vm/agent.h) */
    bool no_reboot;
    bool debug_exit; /* port 0xf4 */
};

enum machine_end {
    MACHINE_POWEROFF,
    MACHINE_REBOOT,     /* with no_reboot */
    MACHINE_CRASH,      /* triple fault with no_reboot; the text says where */
    MACHINE_FATAL,      /* the engine cannot go on, or the guest cannot be started again */
    MACHINE_DEBUG_EXIT, /* value is valid */
    MACHINE_QUIT,       /* machine_quit: value is what it was given */
};

struct machine_result {
    enum machine_end end;
    uint32_t value;
    char text[256];
};

struct machine;
struct vcpu_thread;

/* Builds the machine and loads the guest; nothing runs yet. NULL with e set. */
struct machine *machine_new(const struct machine_config *cfg, struct err *e);
/* Runs until an end. */
void machine_run(struct machine *m, struct machine_result *out);
void machine_free(struct machine *m);

/* Ends machine_run with MACHINE_QUIT. Any thread, not async-signal-safe. */
void machine_quit(struct machine *m, uint32_t value);
/* Presses the power button. False: the guest has not asked to be told, so it will do nothing. Any thread. */
bool machine_power_button(struct machine *m);

struct agent;
/* The guest agent's port, or NULL without machine_config.agent. Any thread. */
struct agent *machine_agent(struct machine *m);

/* Counters of the whole machine as one JSON object. After machine_run, or while paused. 0 or -errno. */
int machine_write_stats(struct machine *m, FILE *f);

/* ---- for a debugger; any thread but a vCPU's or the loop's ---- */

unsigned machine_cpu_count(const struct machine *m);
struct vcpu *machine_vcpu(struct machine *m, unsigned cpu);
struct mem *machine_mem(struct machine *m);
/* True while the AP waits for its start-up IPI: it has no state worth showing. */
bool machine_vcpu_offline(const struct machine *m, unsigned cpu);
/* Pauses nest; the machine runs when none is left. pause returns when every vCPU is out of its engine. */
void machine_pause(struct machine *m);
void machine_resume(struct machine *m);
/* Tells that cpu_state or v->debug was changed while paused. */
void machine_vcpu_changed(struct machine *m, unsigned cpu);
/* Resumes one vCPU only (single step), leaving the pause count as it is. */
void machine_step(struct machine *m, unsigned cpu);
/* Who is told of EXIT_DEBUG and of triple faults; fn is called on the vCPU's thread and only flags. */
void machine_set_debugger(struct machine *m, void (*fn)(void *arg, unsigned cpu, const struct vcpu_exit *x), void *arg);

#endif
