/* SPDX-License-Identifier: MIT */
/* MSRs that are plain processor state. Those of the LAPIC and of the PV clock belong to the machine. */
#ifndef GAZDA_X86_MSR_H
#define GAZDA_X86_MSR_H

#include "x86/cpuid.h"

enum x86_msr_result {
    X86_MSR_OK,
    X86_MSR_GP,      /* #GP(0) */
    X86_MSR_MACHINE, /* exit: APIC_BASE, TSC_DEADLINE, x2APIC 0x800..0x8ff, KVM PV 0x4b564dxx and 0x11/0x12 */
    X86_MSR_FLUSH,   /* done; the engine must drop translations and derived state (EFER) */
};

/* host_tsc: the host's TSC now, for IA32_TSC and IA32_TSC_ADJUST. */
enum x86_msr_result x86_msr_read(const struct cpu_state *c, const struct x86_model *m, uint32_t msr, uint64_t host_tsc,
                                 uint64_t *val);
enum x86_msr_result x86_msr_write(struct cpu_state *c, const struct x86_model *m, uint32_t msr, uint64_t host_tsc,
                                  uint64_t val);

#endif
