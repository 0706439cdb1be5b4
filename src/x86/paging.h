/* SPDX-License-Identifier: MIT */
/* Guest page-table walks in all paging modes. SDM Vol. 3A, "Paging". Pure: memory is reached through callbacks. */
#ifndef GAZDA_X86_PAGING_H
#define GAZDA_X86_PAGING_H

#include "x86/cpu_state.h"
#include "x86/fault.h"

/* Physical memory as the walker sees it. Each returns false when gpa is not RAM (the walk then reads ones). */
struct x86_phys {
    bool (*read)(void *arg, gpa_t gpa, void *buf, unsigned len);
    /* Sets `bits` in the 4- or 8-byte entry if it still equals `old`, atomically; false = it changed, walk again. */
    bool (*set_bits)(void *arg, gpa_t gpa, unsigned len, uint64_t old, uint64_t bits);
    void *arg;
    uint8_t phys_bits; /* MAXPHYADDR, for the reserved bits of entries; 0 = 52 */
};

/* What is attempted. USER: at CPL 3. IMPLICIT: a supervisor access by the CPU itself (GDT, TSS ...: AC is ignored). */
enum {
    X86_ACC_READ = 0,
    X86_ACC_WRITE = 1,
    X86_ACC_EXEC = 2,
    X86_ACC_USER = 4,
    X86_ACC_IMPLICIT = 8,
    X86_ACC_PROBE = 16, /* sets no A/D bits (debugger) */
};

struct x86_xlate {
    gpa_t gpa;          /* of the byte asked for */
    uint8_t page_shift; /* 12, 21, 22, 30 */
    bool user, writable /* by this privilege, WP applied */, executable, global, dirty;
};

/*
 * va is canonical (64-bit mode) or below 4 GiB; the caller has checked. Rights in *out are for the privilege of
 * `access`, so a caller may keep them for later accesses of that privilege.
 * True: translated, A (and on writes D) set. False: *f holds #PF with the error code and the address.
 */
bool x86_walk(const struct cpu_state *c, const struct x86_phys *p, gva_t va, unsigned access, struct x86_xlate *out,
              struct x86_fault *f);

/* Loads the four PDPTEs for PAE paging from cr3. False: a reserved bit is set, which is #GP(0). */
bool x86_load_pdptes(struct cpu_state *c, const struct x86_phys *p, uint64_t cr3);

#endif
