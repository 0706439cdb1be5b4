/* SPDX-License-Identifier: MIT */
/*
 * CPUID policy: what the virtual processor says it is. Host features minus what is not virtualised; the table of
 * which is in cpuid.c. A model is built once a machine and is read-only afterwards.
 */
#ifndef GAZDA_X86_CPUID_H
#define GAZDA_X86_CPUID_H

#include "x86/cpu_state.h"

struct x86_cpuid {
    uint32_t eax, ebx, ecx, edx;
};

/* Decides between the two dialects of SYSCALL, SYSENTER, canonical checks and model-specific leaves. */
enum x86_vendor { X86_VENDOR_INTEL, X86_VENDOR_AMD };

enum { X86_CACHE_LEVELS = 4, X86_XSAVE_COMPONENTS = 10 /* x87 .. PKRU */ };

struct x86_model {
    unsigned cpus;
    uint32_t tsc_khz; /* of host and guest TSC */
    bool kvm_pv;      /* offer the 0x40000000 leaves */
    bool x2apic;
    uint64_t xcr0_mask; /* XCR0 bits the guest may set */
    uint32_t feat_1_ecx, feat_1_edx, feat_7_ebx, feat_7_ecx, feat_7_edx, feat_71_eax, feat_72_edx, feat_d1_eax;
    uint32_t feat_ext_ecx, feat_ext_edx;           /* 0x80000001 */
    uint32_t feat_8_ebx, feat_21_eax, feat_21_ecx; /* 0x80000008, 0x80000021 */
    uint32_t phys_bits;
    uint64_t arch_caps; /* IA32_ARCH_CAPABILITIES */
    enum x86_vendor vendor;
    uint32_t vendor_id[3]; /* EBX, EDX, ECX of leaf 0 */
    uint32_t signature;    /* EAX of leaf 1 */
    uint32_t brand[12];
    struct x86_cpuid descriptors;             /* leaf 2 */
    struct x86_cpuid cache[X86_CACHE_LEVELS]; /* leaf 4 or 0x8000001D */
    struct x86_cpuid amd_l1, amd_l2;          /* 0x80000005, 0x80000006 */
    struct {
        uint32_t size, offset; /* in the standard format */
        bool align64;          /* in the compacted format */
    } xsave[X86_XSAVE_COMPONENTS];
};

/* Reads the host's CPUID and applies the policy. AVX-512 stays hidden until x86_model_allow_avx512. */
void x86_model_host(struct x86_model *m, unsigned cpus, uint32_t tsc_khz);
/* Adds what the host has of AVX-512. */
void x86_model_allow_avx512(struct x86_model *m);
/* The answer for a leaf, with what depends on state (OSXSAVE, APIC id = cpu_id, XCR0 sizes). */
struct x86_cpuid x86_cpuid_read(const struct x86_model *m, const struct cpu_state *c, unsigned cpu_id, uint32_t leaf,
                                uint32_t sub);
/* Size of an XSAVE area with these components (XCR0 bits), in standard or compacted format. */
uint32_t x86_xsave_size(const struct x86_model *m, uint64_t components, bool compacted);
/* CR4 bits the guest may set: reserved bits follow from CPUID. */
uint64_t x86_cr4_mask(const struct x86_model *m);

#endif
