/* SPDX-License-Identifier: MIT */
/* MSRs, CPUID, time stamps, XCR0, random numbers. */
#include <x86intrin.h>

#include <Zydis/Mnemonic.h>

#include "cpu/interp/sys.h"
#include "x86/msr.h"

static void set_edx_eax(struct interp *m, uint64_t val)
{
    m->c.gpr[X86_RAX] = (uint32_t)val;
    m->c.gpr[X86_RDX] = val >> 32;
}

static uint64_t get_edx_eax(const struct interp *m)
{
    return (uint32_t)m->c.gpr[X86_RAX] | m->c.gpr[X86_RDX] << 32;
}

static void fn_rdmsr(struct interp *m, const struct uop *u)
{
    uint32_t msr = (uint32_t)m->c.gpr[X86_RCX];
    uint64_t val = 0;

    sys_need_cpl0(m, u);
    switch (x86_msr_read(&m->c, m->v->model, msr, __rdtsc(), &val)) {
    case X86_MSR_GP:
        interp_gp(m, u, 0);
    case X86_MSR_MACHINE:
        val = interp_io(m, u, EXIT_MSR, msr, 8, false, 0);
        break;
    default:
        break;
    }
    set_edx_eax(m, val);
    sys_done(m, u);
}

static void fn_wrmsr(struct interp *m, const struct uop *u)
{
    uint32_t msr = (uint32_t)m->c.gpr[X86_RCX];
    uint64_t val = get_edx_eax(m);

    sys_need_cpl0(m, u);
    switch (x86_msr_write(&m->c, m->v->model, msr, __rdtsc(), val)) {
    case X86_MSR_GP:
        interp_gp(m, u, 0);
    case X86_MSR_MACHINE:
        interp_io(m, u, EXIT_MSR, msr, 8, true, val);
        break;
    case X86_MSR_FLUSH:
        interp_tlb_flush(m, false);
        interp_mode_changed(m);
        break;
    default:
        break;
    }
    sys_done(m, u);
}

static void fn_cpuid(struct interp *m, const struct uop *u)
{
    uint64_t *r = m->c.gpr;
    struct x86_cpuid a = x86_cpuid_read(m->v->model, &m->c, m->v->id, (uint32_t)r[X86_RAX], (uint32_t)r[X86_RCX]);

    r[X86_RAX] = a.eax;
    r[X86_RBX] = a.ebx;
    r[X86_RCX] = a.ecx;
    r[X86_RDX] = a.edx;
    sys_done(m, u);
}

static void tsd_check(struct interp *m, const struct uop *u)
{
    if ((m->c.cr4 & X86_CR4_TSD) && m->c.cpl != 0)
        interp_gp(m, u, 0);
}

static void fn_rdtsc(struct interp *m, const struct uop *u)
{
    tsd_check(m, u);
    set_edx_eax(m, __rdtsc() + m->c.tsc_offset);
    sys_done(m, u);
}

static void fn_rdtscp(struct interp *m, const struct uop *u)
{
    tsd_check(m, u);
    set_edx_eax(m, __rdtsc() + m->c.tsc_offset);
    m->c.gpr[X86_RCX] = (uint32_t)m->c.msr.tsc_aux;
    sys_done(m, u);
}

static void fn_rdpid(struct interp *m, const struct uop *u)
{
    m->c.gpr[u->i.r0] = (uint32_t)m->c.msr.tsc_aux;
    sys_done(m, u);
}

/* There are no performance counters to select. */
static void fn_rdpmc(struct interp *m, const struct uop *u)
{
    interp_gp(m, u, 0);
}

static void fn_xgetbv(struct interp *m, const struct uop *u)
{
    uint32_t n = (uint32_t)m->c.gpr[X86_RCX];

    if (!(m->c.cr4 & X86_CR4_OSXSAVE))
        interp_ud(m, u);
    /* XCR0 AND XINUSE: every component may be taken to be in use. */
    if (n > 1 || (n == 1 && !(m->v->model->feat_d1_eax & 1U << 2)))
        interp_gp(m, u, 0);
    set_edx_eax(m, m->c.xcr0);
    sys_done(m, u);
}

/* SDM Vol. 2D, "XSETBV", and Vol. 1, "Enabling the XSAVE Feature Set". */
static void fn_xsetbv(struct interp *m, const struct uop *u)
{
    uint64_t val = get_edx_eax(m);

    if (!(m->c.cr4 & X86_CR4_OSXSAVE))
        interp_ud(m, u);
    if (m->c.cpl != 0 || (uint32_t)m->c.gpr[X86_RCX] != 0)
        interp_gp(m, u, 0);
    if (!(val & 1) || (val & ~m->v->model->xcr0_mask) || (val & 6) == 4)
        interp_gp(m, u, 0);
    if ((val & 0xe0) && (val & 0xe6) != 0xe6)
        interp_gp(m, u, 0);
    m->c.xcr0 = val;
    sys_done(m, u);
}

/* The host's own generator; CF tells whether a number was ready, the other arithmetic flags are cleared. */
#define RANDOM(insn, type)                                                                                             \
    {                                                                                                                  \
        type v_;                                                                                                       \
        __asm__ volatile(insn " %0\n\tsetc %1" : "=r"(v_), "=qm"(ok) : : "cc");                                        \
        val = v_;                                                                                                      \
    }

static void random_done(struct interp *m, const struct uop *u, uint64_t val, uint8_t ok)
{
    set_reg(m, u->i.r0, u->i.osz, ok ? val : 0);
    interp_set_arith(m, ok ? X86_FL_CF : 0);
    sys_done(m, u);
}

static void fn_rdrand(struct interp *m, const struct uop *u)
{
    uint64_t val;
    uint8_t ok;

    if (!(m->v->model->feat_1_ecx & 1U << 30))
        interp_ud(m, u);
    if (u->i.osz == 8)
        RANDOM("rdrand", uint64_t)
    else if (u->i.osz == 4)
        RANDOM("rdrand", uint32_t)
    else
        RANDOM("rdrand", uint16_t)
    random_done(m, u, val, ok);
}

static void fn_rdseed(struct interp *m, const struct uop *u)
{
    uint64_t val;
    uint8_t ok;

    if (!(m->v->model->feat_7_ebx & 1U << 18))
        interp_ud(m, u);
    if (u->i.osz == 8)
        RANDOM("rdseed", uint64_t)
    else if (u->i.osz == 4)
        RANDOM("rdseed", uint32_t)
    else
        RANDOM("rdseed", uint16_t)
    random_done(m, u, val, ok);
}

uop_fn sysmsr_pick(const struct x86_insn *i)
{
    switch (i->op) {
    case ZYDIS_MNEMONIC_RDMSR:
        return fn_rdmsr;
    case ZYDIS_MNEMONIC_WRMSR:
        return fn_wrmsr;
    case ZYDIS_MNEMONIC_CPUID:
        return fn_cpuid;
    case ZYDIS_MNEMONIC_RDTSC:
        return fn_rdtsc;
    case ZYDIS_MNEMONIC_RDTSCP:
        return fn_rdtscp;
    case ZYDIS_MNEMONIC_RDPID:
        return fn_rdpid;
    case ZYDIS_MNEMONIC_RDPMC:
        return fn_rdpmc;
    case ZYDIS_MNEMONIC_XGETBV:
        return fn_xgetbv;
    case ZYDIS_MNEMONIC_XSETBV:
        return fn_xsetbv;
    case ZYDIS_MNEMONIC_RDRAND:
        return fn_rdrand;
    case ZYDIS_MNEMONIC_RDSEED:
        return fn_rdseed;
    default:
        return NULL;
    }
}
