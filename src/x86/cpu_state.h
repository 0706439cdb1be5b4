/* SPDX-License-Identifier: MIT */
/*
 * The architectural state of one logical processor: what every engine exposes after sync(), and what a snapshot
 * stores. No pointers, no host state.
 */
#ifndef GAZDA_X86_CPU_STATE_H
#define GAZDA_X86_CPU_STATE_H

#include "base/types.h"

enum x86_gpr {
    X86_RAX,
    X86_RCX,
    X86_RDX,
    X86_RBX,
    X86_RSP,
    X86_RBP,
    X86_RSI,
    X86_RDI,
    X86_R8,
    X86_R9,
    X86_R10,
    X86_R11,
    X86_R12,
    X86_R13,
    X86_R14,
    X86_R15,
    /* Engine scratch, so that an address is base + (index << scale) + disp without a branch. */
    X86_REG_ZERO, /* always 0 */
    X86_REG_IP,   /* interp: RIP of the first instruction of the running block */
    X86_GPR_SLOTS = 20,
};

enum x86_sreg {
    X86_ES,
    X86_CS,
    X86_SS_SEG,
    X86_DS,
    X86_FS,
    X86_GS,
    X86_SEG_NONE /* base 0, for 64-bit mode */,
    X86_SREGS
};

enum {
    X86_FL_CF = 1 << 0,
    X86_FL_1 = 1 << 1,
    X86_FL_PF = 1 << 2,
    X86_FL_AF = 1 << 4,
    X86_FL_ZF = 1 << 6,
    X86_FL_SF = 1 << 7,
    X86_FL_TF = 1 << 8,
    X86_FL_IF = 1 << 9,
    X86_FL_DF = 1 << 10,
    X86_FL_OF = 1 << 11,
    X86_FL_IOPL = 3 << 12,
    X86_FL_NT = 1 << 14,
    X86_FL_RF = 1 << 16,
    X86_FL_VM = 1 << 17,
    X86_FL_AC = 1 << 18,
    X86_FL_VIF = 1 << 19,
    X86_FL_VIP = 1 << 20,
    X86_FL_ID = 1 << 21,
    X86_FL_ARITH = X86_FL_CF | X86_FL_PF | X86_FL_AF | X86_FL_ZF | X86_FL_SF | X86_FL_OF,
};

#define X86_CR0_PE (1UL << 0)
#define X86_CR0_MP (1UL << 1)
#define X86_CR0_EM (1UL << 2)
#define X86_CR0_TS (1UL << 3)
#define X86_CR0_ET (1UL << 4)
#define X86_CR0_NE (1UL << 5)
#define X86_CR0_WP (1UL << 16)
#define X86_CR0_AM (1UL << 18)
#define X86_CR0_NW (1UL << 29)
#define X86_CR0_CD (1UL << 30)
#define X86_CR0_PG (1UL << 31)

#define X86_CR4_VME (1UL << 0)
#define X86_CR4_PVI (1UL << 1)
#define X86_CR4_TSD (1UL << 2)
#define X86_CR4_DE (1UL << 3)
#define X86_CR4_PSE (1UL << 4)
#define X86_CR4_PAE (1UL << 5)
#define X86_CR4_MCE (1UL << 6)
#define X86_CR4_PGE (1UL << 7)
#define X86_CR4_PCE (1UL << 8)
#define X86_CR4_OSFXSR (1UL << 9)
#define X86_CR4_OSXMMEXCPT (1UL << 10)
#define X86_CR4_UMIP (1UL << 11)
#define X86_CR4_FSGSBASE (1UL << 16)
#define X86_CR4_PCIDE (1UL << 17)
#define X86_CR4_OSXSAVE (1UL << 18)
#define X86_CR4_SMEP (1UL << 20)
#define X86_CR4_SMAP (1UL << 21)

#define X86_EFER_SCE (1UL << 0)
#define X86_EFER_LME (1UL << 8)
#define X86_EFER_LMA (1UL << 10)
#define X86_EFER_NXE (1UL << 11)

/* Segment attributes in the layout of descriptor bytes 5 and 6: type 3:0, S 4, DPL 6:5, P 7, AVL 12, L 13, DB 14, G 15.
 */
enum {
    X86_SEG_TYPE = 0xf,
    X86_SEG_S = 1 << 4,
    X86_SEG_DPL_SHIFT = 5,
    X86_SEG_DPL = 3 << 5,
    X86_SEG_P = 1 << 7,
    X86_SEG_AVL = 1 << 12,
    X86_SEG_L = 1 << 13,
    X86_SEG_DB = 1 << 14,
    X86_SEG_G = 1 << 15,
    X86_SEG_UNUSABLE = 1 << 16, /* loaded with a null selector */
};

struct x86_seg {
    uint64_t base;
    uint32_t limit; /* in bytes, granularity applied */
    uint32_t attr;
    uint16_t sel;
};
struct x86_dtable {
    uint64_t base;
    uint16_t limit;
};

/* Floating point and vector state, each register once, at its widest. */
struct x86_fpu {
    uint16_t fcw, fsw;
    uint8_t ftw; /* abridged: 1 = valid, by physical register */
    uint16_t fop;
    uint64_t fip, fdp;
    uint32_t mxcsr;
    uint16_t fcs, fds; /* selectors that go with fip and fdp */
    uint8_t st[8][16]; /* ST(0)..ST(7), 10 bytes used; MM registers alias by physical number */
    uint8_t vec[32][64] __attribute__((aligned(64))); /* zmm0..31; xmm and ymm are the low parts */
    uint64_t k[8];
};

enum { X86_MTRR_VAR = 8 };

struct x86_msrs {
    uint64_t efer, star, lstar, cstar, sfmask, kernel_gs_base;
    uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
    uint64_t pat, tsc_aux, tsc_adjust, misc_enable, xss, debugctl, spec_ctrl, mcg_status;
    uint64_t mtrr_def_type, mtrr_fix[11], mtrr_base[X86_MTRR_VAR], mtrr_mask[X86_MTRR_VAR];
};

struct cpu_state {
    uint64_t gpr[X86_GPR_SLOTS];
    uint64_t rip;
    uint64_t rflags;
    struct x86_seg seg[X86_SREGS]; /* seg[X86_SEG_NONE] stays all zero */
    struct x86_seg ldtr, tr;
    struct x86_dtable gdtr, idtr;
    uint64_t cr0, cr2, cr3, cr4, xcr0;
    uint64_t dr[8]; /* 4 and 5 unused */
    struct x86_msrs msr;
    uint64_t tsc_offset; /* guest TSC = host TSC + tsc_offset */
    uint64_t pdpte[4];   /* PAE paging: loaded by MOV CR3 and friends, not by walks */
    uint8_t cpl;
    bool int_shadow;     /* the next instruction may not be interrupted (STI, MOV SS, POP SS) */
    bool nmi_blocked;    /* until IRET */
    bool apic_off;       /* APIC_BASE.EN is clear: CPUID has no APIC. Set by the vCPU; INIT keeps it */
    uint32_t pending_db; /* DR6 bits of a #DB trap that is due on this boundary */
    struct x86_fpu fpu;
};

enum x86_mode { X86_MODE_16, X86_MODE_32, X86_MODE_64 }; /* by CS.D and CS.L in the current CPU mode */

static inline bool x86_long_mode(const struct cpu_state *c)
{
    return c->msr.efer & X86_EFER_LMA;
}
static inline enum x86_mode x86_code_mode(const struct cpu_state *c)
{
    if (x86_long_mode(c) && (c->seg[X86_CS].attr & X86_SEG_L))
        return X86_MODE_64;
    return (c->seg[X86_CS].attr & X86_SEG_DB) ? X86_MODE_32 : X86_MODE_16;
}
/* Real-address mode: no protection. Virtual-8086 has PE set and rflags.VM. */
static inline bool x86_real_mode(const struct cpu_state *c)
{
    return !(c->cr0 & X86_CR0_PE);
}
static inline bool x86_canonical(gva_t va)
{
    return (uint64_t)((int64_t)(va << 16) >> 16) == va;
}

/* SDM Vol. 3A, "Processor State After Power-Up or Reset" (RESET) and "... INIT". */
void x86_cpu_reset(struct cpu_state *c);
void x86_cpu_init(struct cpu_state *c); /* INIT: keeps FPU, vector, MSR and TSC state, CR0.CD/NW */

#endif
