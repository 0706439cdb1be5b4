/* SPDX-License-Identifier: MIT */
/*
 * Ranked mutexes. A thread takes locks only in rising rank; builds with MODE other than rel check it.
 * None is held across engine->run or across a callback into a device's user.
 */
#ifndef GAZDA_BASE_LOCK_H
#define GAZDA_BASE_LOCK_H

#include <pthread.h>

enum lock_rank {
    LOCK_MACHINE = 10, /* life cycle: start, pause, reset */
    LOCK_DEVICE = 20,  /* one per chip or virtio device */
    LOCK_CHARDEV = 25, /* host back ends that devices call */
    LOCK_DISK = 27,    /* metadata of one disk image; the image below is not called with it held */
    LOCK_DISK_CACHE = 28,
    LOCK_IRQCHIP = 30, /* IOAPIC, PIC: reached from devices raising a line */
    LOCK_LAPIC = 40,   /* reached from IRQ chips and other LAPICs */
    LOCK_VCPU = 50,    /* a vCPU's run state and condition variable */
    LOCK_MEM = 60,     /* page states */
    LOCK_ENGINE = 65,  /* requests of one vCPU's engine to another */
    LOCK_TIMER = 70,   /* timer heap of the event loop */
    LOCK_LOG = 90,
};

struct lock {
    pthread_mutex_t m;
    enum lock_rank rank;
};

void lock_init(struct lock *l, enum lock_rank rank);
void lock_destroy(struct lock *l);
void lock_take(struct lock *l);
void lock_drop(struct lock *l);
/* Waits on c with l held; deadline_ns is CLOCK_MONOTONIC, UINT64_MAX = for ever. Returns 0 or -ETIMEDOUT. */
int lock_wait(struct lock *l, pthread_cond_t *c, unsigned long deadline_ns);

#endif
