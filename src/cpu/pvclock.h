/* SPDX-License-Identifier: MIT */
/*
 * kvm-clock: the KVM paravirtual clock (Linux Documentation/virt/kvm/x86/msr.rst and cpuid.rst). The guest's TSC runs
 * at the host's rate, so the time page is written once, when the guest names it, with the stable-TSC flag.
 */
#ifndef GAZDA_CPU_PVCLOCK_H
#define GAZDA_CPU_PVCLOCK_H

#include "base/types.h"

struct mem;

struct pv_clock {
    uint64_t tsc0; /* host TSC at guest time zero */
    uint32_t tsc_khz;
    uint32_t mul; /* ns = (tsc << shift) * mul >> 32, shift as the ABI: negative shifts right */
    int8_t shift;
};

/* What each vCPU keeps. */
struct pv_clock_cpu {
    const struct pv_clock *clock;
    struct mem *mem;
    uint64_t wall_msr, system_msr; /* last values written */
};

/* The host TSC's rate, measured against CLOCK_MONOTONIC_RAW; takes some 20 ms. */
uint32_t pv_clock_host_khz(void);
/* Starts guest time now. */
void pv_clock_init(struct pv_clock *c, uint32_t tsc_khz);
/* Nanoseconds of guest time for a host TSC value. */
uint64_t pv_clock_ns(const struct pv_clock *c, uint64_t host_tsc);
/* MSRs 0x11, 0x12, 0x4b564d00, 0x4b564d01. False: not one of them, or a bad value: #GP(0). */
bool pv_clock_read(const struct pv_clock_cpu *p, uint32_t msr, uint64_t *val);
bool pv_clock_write(struct pv_clock_cpu *p, uint64_t tsc_offset, uint32_t msr, uint64_t val);

#endif
