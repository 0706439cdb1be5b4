/* SPDX-License-Identifier: MIT */
/* struct machine, for the files of this folder only. */
#ifndef GAZDA_VM_INTERNAL_H
#define GAZDA_VM_INTERNAL_H

#include <stdatomic.h>

#include "base/lock.h"
#include "base/loop.h"
#include "cpu/pvclock.h"
#include "cpu/vcpu.h"
#include "dev/debug_exit.h"
#include "dev/irq_router.h"
#include "dev/lapic.h"
#include "vm/machine.h"

enum { DEVICES_MAX = 64, VIRTIO_MAX = 19, BACKENDS_MAX = 64 };

/* What a vCPU or a device reported; the thread in machine_run acts on it. The first of a round counts. */
enum machine_event { EV_NONE, EV_POWEROFF, EV_RESET, EV_CRASH, EV_FATAL, EV_DEBUG_EXIT, EV_QUIT };

struct machine_device {
    const struct dev_ops *ops;
    void *dev;
    void (*free)(void *dev); /* NULL: somebody else's */
};

struct machine {
    struct machine_config cfg;
    struct mem *mem;
    struct bus *bus;
    struct loop *loop;
    pthread_t loop_thread;
    bool loop_started;
    struct x86_model model;
    struct pv_clock clock;

    struct vcpu_thread *cpu[MACHINE_CPUS_MAX];
    struct irq_ctl irq_ctl[MACHINE_CPUS_MAX];
    struct lapic *lapic[MACHINE_CPUS_MAX];
    struct lapic_bus *lapic_bus;
    struct pic *pic;
    struct ioapic *ioapic;
    struct irq_router router;
    struct acpi_pm *acpi;
    struct uart *uart;
    struct chardev *serial;
    struct pool *pool; /* I/O threads of the virtio devices */
    struct machine_backend {
        void *p;
        void (*free)(void *p);
    } backend[BACKENDS_MAX]; /* of the virtio devices; freed after them, in reverse order */
    unsigned n_backends;
    struct debug_exit dbgexit;
    _Atomic uint8_t post;

    /* In the order they were built; reset in this order, freed in the reverse one. */
    struct machine_device dev[DEVICES_MAX];
    unsigned n_dev;
    struct machine_virtio virtio[VIRTIO_MAX];
    unsigned n_virtio;
    struct virtio_dev *balloon; /* one of them, or NULL */

    struct loop *control_loop; /* of the control thread: the listener and the guest agent */
    pthread_t control_thread;
    struct control *control;
    char control_name[80];
    struct agent *agent; /* NULL: the machine has no port for one */
    uint64_t started_ns;

    struct lock lock; /* everything below */
    pthread_cond_t cond;
    enum machine_event event;
    uint32_t event_value;
    char event_text[200];
    unsigned pauses;
    bool user_paused; /* one of them is the control socket's */
    bool user_frozen; /* and the guest's file systems are frozen meanwhile */
    void (*debug_fn)(void *arg, unsigned cpu, const struct vcpu_exit *x);
    void *debug_arg;
};

/* Reports an event; any thread, no machine lock held. */
void machine_report(struct machine *m, enum machine_event ev, uint32_t value, const char *text);
/* Puts the guest into memory and the boot processor's registers; on fresh or reset memory. */
int machine_load_guest(struct machine *m, struct err *e);
/* The control thread; stop ends what control_listen began. */
int vm_control_start(struct machine *m, struct err *e);
void vm_control_stop(struct machine *m);

#endif
