/* SPDX-License-Identifier: MIT */
/*
 * MSRs that are processor state. An index that is not listed here raises #GP, as on hardware; systems probe with
 * that in mind. What they read without being ready for a fault is listed even if it only reads as zero.
 */
#include "x86/msr.h"

enum {
    MSR_P5_MC_ADDR = 0,
    MSR_P5_MC_TYPE = 1,
    MSR_TSC = 0x10,
    MSR_KVM_WALL_CLOCK_OLD = 0x11,
    MSR_KVM_SYSTEM_TIME_OLD = 0x12,
    MSR_PLATFORM_ID = 0x17,
    MSR_APIC_BASE = 0x1b,
    MSR_EBL_CR_POWERON = 0x2a,
    MSR_FEAT_CTL = 0x3a,
    MSR_TSC_ADJUST = 0x3b,
    MSR_SPEC_CTRL = 0x48,
    MSR_PRED_CMD = 0x49,
    MSR_UCODE_WRITE = 0x79,
    MSR_UCODE_REV = 0x8b,
    MSR_PLATFORM_INFO = 0xce,
    MSR_MTRR_CAP = 0xfe,
    MSR_ARCH_CAPABILITIES = 0x10a,
    MSR_SYSENTER_CS = 0x174,
    MSR_SYSENTER_ESP = 0x175,
    MSR_SYSENTER_EIP = 0x176,
    MSR_MCG_CAP = 0x179,
    MSR_MCG_STATUS = 0x17a,
    MSR_MISC_ENABLE = 0x1a0,
    MSR_DEBUGCTL = 0x1d9,
    MSR_LASTBRANCH_FIRST = 0x1db,
    MSR_LASTBRANCH_LAST = 0x1de,
    MSR_MTRR_PHYSBASE0 = 0x200,
    MSR_PAT = 0x277,
    MSR_MTRR_DEF_TYPE = 0x2ff,
    MSR_TSC_DEADLINE = 0x6e0,
};
#define MSR_EFER 0xc0000080U
#define MSR_STAR 0xc0000081U
#define MSR_LSTAR 0xc0000082U
#define MSR_CSTAR 0xc0000083U
#define MSR_SFMASK 0xc0000084U
#define MSR_FS_BASE 0xc0000100U
#define MSR_GS_BASE 0xc0000101U
#define MSR_KERNEL_GS_BASE 0xc0000102U
#define MSR_TSC_AUX 0xc0000103U
#define MSR_AMD_SYSCFG 0xc0010010U
#define MSR_AMD_HWCR 0xc0010015U
#define MSR_AMD_TOP_MEM 0xc001001aU
#define MSR_AMD_TOP_MEM2 0xc001001dU
#define MSR_AMD_NB_CFG 0xc001001fU
#define MSR_AMD_INT_PENDING 0xc0010055U
#define MSR_AMD_MMIO_CONF 0xc0010058U
#define MSR_AMD_LS_CFG 0xc0011020U
#define MSR_AMD_IC_CFG 0xc0011021U
#define MSR_AMD_DC_CFG 0xc0011022U
#define MSR_AMD_BU_CFG 0xc0011023U
#define MSR_AMD_DE_CFG 0xc0011029U
#define MSR_AMD_BU_CFG2 0xc001102aU

#define SPEC_CTRL_BHI_DIS_S (1UL << 10)

/* Eight variable ranges, fixed ranges, write combining. */
#define MTRR_CAP (X86_MTRR_VAR | 1 << 8 | 1 << 10)

static const uint32_t mtrr_fixed[11] = { 0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f };

/* Index into msr.mtrr_fix, or -1. */
static int fixed_index(uint32_t msr)
{
    for (unsigned i = 0; i < ARRAY_LEN(mtrr_fixed); i++)
        if (mtrr_fixed[i] == msr)
            return (int)i;
    return -1;
}

static bool is_machine(const struct x86_model *m, uint32_t msr)
{
    switch (msr) {
    case MSR_APIC_BASE:
    case MSR_TSC_DEADLINE:
        return true;
    case MSR_KVM_WALL_CLOCK_OLD:
    case MSR_KVM_SYSTEM_TIME_OLD:
        return m->kvm_pv;
    default:
        return (msr >= 0x800 && msr <= 0x8ff) || (m->kvm_pv && msr >= 0x4b564d00 && msr <= 0x4b564dff);
    }
}

/* MSRs of AMD processors that kernels touch without expecting a fault: fixed value, writes are ignored. */
static bool amd_fixed(uint32_t msr, uint64_t *val)
{
    switch (msr) {
    case MSR_AMD_HWCR:
        *val = 1UL << 24; /* the TSC counts at P0 frequency */
        return true;
    case MSR_AMD_DE_CFG:
        *val = 1UL << 1; /* LFENCE serialises */
        return true;
    case MSR_AMD_SYSCFG:
    case MSR_AMD_TOP_MEM:
    case MSR_AMD_TOP_MEM2:
    case MSR_AMD_NB_CFG:
    case MSR_AMD_INT_PENDING:
    case MSR_AMD_MMIO_CONF:
    case MSR_AMD_LS_CFG:
    case MSR_AMD_IC_CFG:
    case MSR_AMD_DC_CFG:
    case MSR_AMD_BU_CFG:
    case MSR_AMD_BU_CFG2:
        *val = 0;
        return true;
    default:
        return false;
    }
}

/* Intel's, read-only. */
static bool intel_fixed(const struct x86_model *m, uint32_t msr, uint64_t *val)
{
    switch (msr) {
    case MSR_PLATFORM_ID:
    case MSR_EBL_CR_POWERON:
        *val = 0;
        return true;
    case MSR_FEAT_CTL:
        *val = 1; /* locked, nothing enabled */
        return true;
    case MSR_PLATFORM_INFO:
        *val = (uint64_t)(m->tsc_khz / 100000 & 0xff) << 8; /* maximum non-turbo ratio, of 100 MHz */
        return true;
    default:
        return false;
    }
}

static bool read_only(const struct x86_model *m, uint32_t msr, uint64_t *val)
{
    switch (msr) {
    case MSR_P5_MC_ADDR:
    case MSR_P5_MC_TYPE:
    case MSR_MCG_CAP: /* no banks */
        *val = 0;
        return true;
    case MSR_UCODE_REV:
        *val = m->vendor == X86_VENDOR_AMD ? 0x01000065 : 1UL << 32;
        return true;
    case MSR_MTRR_CAP:
        *val = MTRR_CAP;
        return true;
    case MSR_ARCH_CAPABILITIES:
        *val = m->arch_caps;
        return m->feat_7_edx & 1U << 29;
    default:
        if (msr >= MSR_LASTBRANCH_FIRST && msr <= MSR_LASTBRANCH_LAST) {
            *val = 0;
            return true;
        }
        return m->vendor == X86_VENDOR_AMD ? amd_fixed(msr, val) : intel_fixed(m, msr, val);
    }
}

/* The field of those that are just a number; NULL if it is not one of them. */
static uint64_t *plain_field(struct cpu_state *c, uint32_t msr)
{
    int fix = fixed_index(msr);

    if (fix >= 0)
        return &c->msr.mtrr_fix[fix];
    if (msr >= MSR_MTRR_PHYSBASE0 && msr < MSR_MTRR_PHYSBASE0 + 2 * X86_MTRR_VAR) {
        unsigned i = (msr - MSR_MTRR_PHYSBASE0) / 2;

        return msr & 1 ? &c->msr.mtrr_mask[i] : &c->msr.mtrr_base[i];
    }
    switch (msr) {
    case MSR_SPEC_CTRL:
        return &c->msr.spec_ctrl;
    case MSR_SYSENTER_CS:
        return &c->msr.sysenter_cs;
    case MSR_SYSENTER_ESP:
        return &c->msr.sysenter_esp;
    case MSR_SYSENTER_EIP:
        return &c->msr.sysenter_eip;
    case MSR_MCG_STATUS:
        return &c->msr.mcg_status;
    case MSR_MISC_ENABLE:
        return &c->msr.misc_enable;
    case MSR_DEBUGCTL:
        return &c->msr.debugctl;
    case MSR_PAT:
        return &c->msr.pat;
    case MSR_MTRR_DEF_TYPE:
        return &c->msr.mtrr_def_type;
    case MSR_TSC_ADJUST:
        return &c->msr.tsc_adjust;
    case MSR_EFER:
        return &c->msr.efer;
    case MSR_STAR:
        return &c->msr.star;
    case MSR_LSTAR:
        return &c->msr.lstar;
    case MSR_CSTAR:
        return &c->msr.cstar;
    case MSR_SFMASK:
        return &c->msr.sfmask;
    case MSR_FS_BASE:
        return &c->seg[X86_FS].base;
    case MSR_GS_BASE:
        return &c->seg[X86_GS].base;
    case MSR_KERNEL_GS_BASE:
        return &c->msr.kernel_gs_base;
    case MSR_TSC_AUX:
        return &c->msr.tsc_aux;
    default:
        return NULL;
    }
}

enum x86_msr_result x86_msr_read(const struct cpu_state *c, const struct x86_model *m, uint32_t msr, uint64_t host_tsc,
                                 uint64_t *val)
{
    const uint64_t *field;

    if (is_machine(m, msr))
        return X86_MSR_MACHINE;
    if (msr == MSR_TSC) {
        *val = host_tsc + c->tsc_offset;
        return X86_MSR_OK;
    }
    if (read_only(m, msr, val))
        return X86_MSR_OK;
    field = plain_field((struct cpu_state *)(uintptr_t)c, msr);
    if (!field)
        return X86_MSR_GP;
    *val = *field;
    return X86_MSR_OK;
}

/* SDM Vol. 3A, "Memory Types That Can Be Encoded With PAT"; uc_minus: 7 is allowed in the PAT only. */
static bool valid_types(uint64_t val, bool uc_minus)
{
    for (unsigned i = 0; i < 64; i += 8) {
        unsigned type = (val >> i) & 0xff;

        if (type > (uc_minus ? 7 : 6) || type == 2 || type == 3)
            return false;
    }
    return true;
}

static bool valid_mtrr(const struct x86_model *m, uint32_t msr, uint64_t val)
{
    uint64_t beyond = ~((1UL << m->phys_bits) - 1);

    if (msr == MSR_MTRR_DEF_TYPE)
        return !(val & ~0xcffUL) && valid_types(val & 0xff, false);
    if (fixed_index(msr) >= 0)
        return valid_types(val, false);
    if (msr & 1)
        return !(val & (beyond | 0x7ff));
    return !(val & (beyond | 0xf00)) && valid_types(val & 0xff, false);
}

static enum x86_msr_result write_efer(struct cpu_state *c, const struct x86_model *m, uint64_t val)
{
    uint64_t allowed = X86_EFER_SCE | X86_EFER_LME | X86_EFER_LMA;
    uint64_t old = c->msr.efer;

    if (m->feat_ext_edx & 1U << 20)
        allowed |= X86_EFER_NXE;
    if (val & ~allowed)
        return X86_MSR_GP;
    if (((val ^ old) & X86_EFER_LME) && (c->cr0 & X86_CR0_PG))
        return X86_MSR_GP;
    c->msr.efer = (val & ~X86_EFER_LMA) | (old & X86_EFER_LMA);
    return (c->msr.efer ^ old) & X86_EFER_NXE ? X86_MSR_FLUSH : X86_MSR_OK;
}

static bool is_mtrr(uint32_t msr)
{
    return msr == MSR_MTRR_DEF_TYPE || fixed_index(msr) >= 0 ||
           (msr >= MSR_MTRR_PHYSBASE0 && msr < MSR_MTRR_PHYSBASE0 + 2 * X86_MTRR_VAR);
}

/* Whether a plain field may take the value; may cut bits that are silently ignored. */
static bool check_plain(const struct x86_model *m, uint32_t msr, uint64_t *val)
{
    switch (msr) {
    case MSR_SPEC_CTRL:
        return !(*val & ~(7UL | (m->feat_72_edx & 1U << 4 ? SPEC_CTRL_BHI_DIS_S : 0)));
    case MSR_SYSENTER_ESP:
    case MSR_SYSENTER_EIP:
    case MSR_LSTAR:
    case MSR_CSTAR:
    case MSR_FS_BASE:
    case MSR_GS_BASE:
    case MSR_KERNEL_GS_BASE:
        return x86_canonical(*val);
    case MSR_SYSENTER_CS:
        *val &= UINT32_MAX;
        return true;
    case MSR_PAT:
        return valid_types(*val, true);
    case MSR_SFMASK:
    case MSR_TSC_AUX:
        return !(*val >> 32);
    case MSR_MISC_ENABLE:
        *val &= ~(1UL << 18 /* MONITOR */ | 1UL << 22 /* CPUID limit */ | 1UL << 34 /* no NX */);
        return true;
    case MSR_DEBUGCTL:
        return !(*val & ~3UL); /* LBR, BTF */
    case MSR_MCG_STATUS:
        return !(*val & ~7UL);
    default:
        return !is_mtrr(msr) || valid_mtrr(m, msr, *val);
    }
}

enum x86_msr_result x86_msr_write(struct cpu_state *c, const struct x86_model *m, uint32_t msr, uint64_t host_tsc,
                                  uint64_t val)
{
    uint64_t *field, ignored, delta;

    if (is_machine(m, msr))
        return X86_MSR_MACHINE;
    switch (msr) {
    case MSR_TSC:
        delta = val - (host_tsc + c->tsc_offset);
        c->tsc_offset += delta;
        c->msr.tsc_adjust += delta;
        return X86_MSR_OK;
    case MSR_TSC_ADJUST:
        c->tsc_offset += val - c->msr.tsc_adjust;
        c->msr.tsc_adjust = val;
        return X86_MSR_OK;
    case MSR_PRED_CMD:
        return val & ~1UL ? X86_MSR_GP : X86_MSR_OK;
    case MSR_UCODE_REV: /* written as 0 before CPUID fills it in */
    case MSR_UCODE_WRITE:
    case MSR_P5_MC_ADDR:
    case MSR_P5_MC_TYPE:
        return X86_MSR_OK;
    case MSR_EFER:
        return write_efer(c, m, val);
    default:
        break;
    }
    if (m->vendor == X86_VENDOR_AMD && amd_fixed(msr, &ignored))
        return X86_MSR_OK;
    if (read_only(m, msr, &ignored))
        return X86_MSR_GP;
    field = plain_field(c, msr);
    if (!field || !check_plain(m, msr, &val))
        return X86_MSR_GP;
    *field = val;
    return X86_MSR_OK;
}
