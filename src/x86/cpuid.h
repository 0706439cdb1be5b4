/* SPDX-License-Identifier: MIT */
/*
 * CPUID policy: what the virtual processor says it is. Host features minus what is not virtualised; the table of
 * which is in cpuid.c. A model is built once a machine and is read-only afterwards.
 */
#ifndef GAZDA_X86_CPUID_H
#define GAZDA_X86_CPUID_H

#include "x86/cpu_state.h"

struct x86_model {
    unsigned cpus;
    uint32_t tsc_khz; /* of host and guest TSC */
    bool kvm_pv;      /* offer the 0x40000000 leaves */
    bool x2apic;
    uint64_t xcr0_mask; /* XCR0 bits the guest may set */
    uint32_t feat_1_ecx, feat_1_edx, feat_7_ebx, feat_7_ecx, feat_7_edx, feat_71_eax, feat_d1_eax;
    uint32_t feat_ext_ecx, feat_ext_edx; /* 0x80000001 */
    uint32_t phys_bits;
};

struct x86_cpuid {
    uint32_t eax, ebx, ecx, edx;
};

/* Reads the host's CPUID and applies the policy. */
void x86_model_host(struct x86_model *m, unsigned cpus, uint32_t tsc_khz);
/* The answer for a leaf, with what depends on state (OSXSAVE, APIC id = cpu_id, XCR0 sizes). */
struct x86_cpuid x86_cpuid_read(const struct x86_model *m, const struct cpu_state *c, unsigned cpu_id, uint32_t leaf,
                                uint32_t sub);
/* CR4 bits the guest may set: reserved bits follow from CPUID. */
uint64_t x86_cr4_mask(const struct x86_model *m);

#endif
