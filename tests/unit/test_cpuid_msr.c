/* SPDX-License-Identifier: MIT */
/* The virtual processor's identity: CPUID is consistent in itself and with what MSRs and control registers allow. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <cpuid.h>
#include <stdlib.h>
#include <string.h>

#include "x86/msr.h"

struct cpu {
    struct cpu_state c;
    struct x86_model m;
};

static int setup(void **state)
{
    struct cpu *p = aligned_alloc(64, sizeof(*p)); /* as the vector registers want */

    assert_non_null(p);
    memset(p, 0, sizeof(*p));
    x86_cpu_reset(&p->c);
    x86_model_host(&p->m, 4, 2500000);
    *state = p;
    return 0;
}

static int teardown(void **state)
{
    free(*state);
    return 0;
}

static struct x86_cpuid leaf(struct cpu *p, uint32_t n, uint32_t sub)
{
    return x86_cpuid_read(&p->m, &p->c, 2, n, sub);
}

static void hidden_features(void **state)
{
    /* leaf 1 ECX: DTES64 MONITOR VMX SMX EIST PDCM; 7 EBX: HLE RTM MPX PT; 7 ECX: PKU WAITPKG LA57; 7 EDX: AMX CET */
    struct cpu *p = *state;

    assert_int_equal(leaf(p, 1, 0).ecx & (1 << 2 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 15), 0);
    assert_int_equal(leaf(p, 7, 0).ebx & (1 << 4 | 1 << 11 | 1 << 14 | 1 << 16 | 1 << 25), 0);
    assert_int_equal(leaf(p, 7, 0).ecx & (1 << 3 | 1 << 5 | 1 << 7 | 1 << 16), 0);
    assert_int_equal(leaf(p, 7, 0).edx & (1 << 20 | 7 << 22 | 1 << 27 | 1U << 31), 0);
    assert_int_equal(leaf(p, 0x80000001, 0).ecx & (1 << 2 /* SVM */ | 1 << 29 /* MWAITX */), 0);
    assert_int_equal(leaf(p, 0xa, 0).eax, 0);
    assert_int_equal(leaf(p, 0xd, 1).eax & 8, 0); /* XSAVES */
}

/* Vector features run on the host: the guest may not see one that it lacks. */
static void host_has_what_is_offered(void **state)
{
    struct cpu *p = *state;
    unsigned a, b, c, d;

    __cpuid(1, a, b, c, d);
    assert_int_equal(
        leaf(p, 1, 0).ecx & (1U << 0 | 1 << 1 | 1 << 9 | 1 << 12 | 1 << 19 | 1 << 20 | 1 << 25 | 1 << 28) & ~c, 0);
    __cpuid_count(7, 0, a, b, c, d);
    assert_int_equal(leaf(p, 7, 0).ebx & (1U << 3 | 1 << 5 | 1 << 8 | 1 << 19 | 1 << 29) & ~b, 0);
    assert_int_equal(leaf(p, 7, 0).ecx & (7U << 8) & ~c, 0);
}

static void topology(void **state)
{
    struct cpu *p = *state;
    struct x86_cpuid l = leaf(p, 1, 0);

    assert_int_equal(l.ebx >> 24, 2);
    assert_int_equal(l.ebx >> 16 & 0xff, 4);
    assert_true(l.edx & 1 << 28);
    assert_true(l.ecx & 1U << 31);
    l = leaf(p, 0xb, 0);
    assert_int_equal(l.eax, 0);
    assert_int_equal(l.ecx, 0x100);
    assert_int_equal(l.edx, 2);
    l = leaf(p, 0xb, 1);
    assert_int_equal(l.eax, 2);
    assert_int_equal(l.ebx, 4);
    assert_int_equal(l.ecx, 0x201);
    l = leaf(p, 0xb, 2);
    assert_int_equal(l.ebx, 0);
    if (p->m.vendor == X86_VENDOR_AMD) {
        assert_int_equal(leaf(p, 0x80000008, 0).ecx, 3 | 2 << 12);
        assert_int_equal(leaf(p, 0x8000001e, 0).eax, 2);
    }
}

static void ranges(void **state)
{
    struct cpu *p = *state;
    uint32_t max = leaf(p, 0, 0).eax;
    struct x86_cpuid l = leaf(p, max + 1, 0), zero = { 0 };

    assert_true(max >= 0xd);
    if (p->m.vendor == X86_VENDOR_AMD)
        assert_memory_equal(&l, &zero, sizeof(l));
    l = leaf(p, 0x40000000, 0);
    assert_memory_equal(&l.ebx, "KVMKVMKVM\0\0", 12);
    assert_int_equal(leaf(p, 0x40000010, 0).eax, 2500000);
    assert_true(leaf(p, 0x40000001, 0).eax & 1U << 24);
    p->m.kvm_pv = false;
    assert_int_not_equal(leaf(p, 0x40000000, 0).ebx, 0x4b4d564b);
    assert_true(leaf(p, 0x80000007, 0).edx & 1 << 8);
}

static void xsave_sizes(void **state)
{
    struct cpu *p = *state;

    p->m.xcr0_mask = 7;
    p->m.feat_d1_eax = 7;
    p->m.xsave[2].size = 256;
    p->m.xsave[2].offset = 576;
    p->m.xsave[5].size = 64;
    p->m.xsave[5].offset = 1088;
    p->m.xsave[6].size = 512;
    p->m.xsave[6].offset = 1152;
    p->m.xsave[6].align64 = true;
    p->c.xcr0 = 1;
    assert_int_equal(leaf(p, 0xd, 0).ebx, 576);
    assert_int_equal(leaf(p, 0xd, 0).ecx, 832);
    p->c.xcr0 = 7;
    assert_int_equal(leaf(p, 0xd, 0).ebx, 832);
    assert_int_equal(leaf(p, 0xd, 1).ebx, 832);
    assert_int_equal(x86_xsave_size(&p->m, 0x61, false), 1664);
    assert_int_equal(x86_xsave_size(&p->m, 0x61, true), 576 + 64 + 512);
    assert_int_equal(x86_xsave_size(&p->m, 1 | 1 << 6, true), 576 + 512);
    assert_int_equal(leaf(p, 0xd, 5).eax, 0); /* not in the mask */
    p->c.cr4 = 0;
    assert_false(leaf(p, 1, 0).ecx & 1 << 27);
    p->c.cr4 = X86_CR4_OSXSAVE;
    assert_true(leaf(p, 1, 0).ecx & 1 << 27);
}

/* SDM Vol. 3A, "Enabling or Disabling the Local APIC": globally disabled, it is gone from CPUID. */
static void apic_off(void **state)
{
    struct cpu *p = *state;

    assert_true(leaf(p, 1, 0).edx & 1 << 9);
    p->c.apic_off = true;
    assert_false(leaf(p, 1, 0).edx & 1 << 9);
    assert_false(leaf(p, 0x80000001, 0).edx & 1 << 9);
    x86_cpu_init(&p->c);
    assert_true(p->c.apic_off);
    x86_cpu_reset(&p->c);
    assert_false(p->c.apic_off);
}

static void cr4_follows_cpuid(void **state)
{
    struct cpu *p = *state;
    uint64_t mask = x86_cr4_mask(&p->m);

    assert_true(mask & X86_CR4_SMEP);
    assert_false(mask & (X86_CR4_VME | X86_CR4_PVI | 1UL << 12 | 1UL << 13 | 1UL << 22 | 1UL << 23 | 1UL << 24));
    p->m.feat_7_ebx = 0;
    mask = x86_cr4_mask(&p->m);
    assert_false(mask & (X86_CR4_SMEP | X86_CR4_SMAP | X86_CR4_FSGSBASE));
}

static enum x86_msr_result wr(struct cpu *p, uint32_t msr, uint64_t val)
{
    return x86_msr_write(&p->c, &p->m, msr, 1000, val);
}

static uint64_t rd(struct cpu *p, uint32_t msr)
{
    uint64_t val = 0xdead;

    assert_int_equal(x86_msr_read(&p->c, &p->m, msr, 1000, &val), X86_MSR_OK);
    return val;
}

static void efer(void **state)
{
    struct cpu *p = *state;

    assert_int_equal(wr(p, 0xc0000080, X86_EFER_SCE | X86_EFER_LME), X86_MSR_OK);
    assert_int_equal(wr(p, 0xc0000080, X86_EFER_SCE | X86_EFER_LME | X86_EFER_NXE), X86_MSR_FLUSH);
    assert_int_equal(wr(p, 0xc0000080, 1 << 1), X86_MSR_GP);
    assert_int_equal(wr(p, 0xc0000080, 1UL << 12), X86_MSR_GP); /* SVME */
    p->c.cr0 |= X86_CR0_PG;
    p->c.msr.efer |= X86_EFER_LMA;
    assert_int_equal(wr(p, 0xc0000080, X86_EFER_LMA | X86_EFER_NXE), X86_MSR_GP);
    assert_int_equal(wr(p, 0xc0000080, X86_EFER_LME | X86_EFER_NXE), X86_MSR_OK);
    assert_true(rd(p, 0xc0000080) & X86_EFER_LMA); /* not for software to clear */
}

static void value_checks(void **state)
{
    static const struct {
        uint32_t msr;
        uint64_t val;
        enum x86_msr_result r;
    } cases[] = {
        { 0x277, 0x0007040600070406, X86_MSR_OK },
        { 0x277, 0x0207040600070406, X86_MSR_GP },
        { 0x277, 0x0807040600070406, X86_MSR_GP },
        { 0x2ff, 0xc06, X86_MSR_OK },
        { 0x2ff, 0xc02, X86_MSR_GP },
        { 0x2ff, 0x1000, X86_MSR_GP },
        { 0x250, 0x0606060606060606, X86_MSR_OK },
        { 0x250, 0x0706060606060606, X86_MSR_GP },
        { 0x200, 0xc0000000, X86_MSR_OK },
        { 0x200, 0xc0000002, X86_MSR_GP },
        { 0x201, 0xfffc0000800, X86_MSR_OK },
        { 0x201, 0x400, X86_MSR_GP },
        { 0x210, 0, X86_MSR_GP },
        { 0xc0000082, 0xffffffff81000000, X86_MSR_OK },
        { 0xc0000082, 0x8000000000000000, X86_MSR_GP },
        { 0xc0000100, 0x800000000000, X86_MSR_GP },
        { 0xc0000084, 1UL << 32, X86_MSR_GP },
        { 0xc0000103, 5, X86_MSR_OK },
        { 0xfe, 0, X86_MSR_GP },
        { 0x10a, 0, X86_MSR_GP },
        { 0x48, 1, X86_MSR_OK },
        { 0x48, 0x100, X86_MSR_GP },
        { 0x49, 1, X86_MSR_OK },
        { 0x12345, 0, X86_MSR_GP },
        { 0xda0, 0, X86_MSR_GP },
        { 0x1b, 0, X86_MSR_MACHINE },
        { 0x6e0, 0, X86_MSR_MACHINE },
        { 0x80b, 0, X86_MSR_MACHINE },
        { 0x4b564d01, 0, X86_MSR_MACHINE },
        { 0x17b, 0, X86_MSR_GP },
    };
    struct cpu *p = *state;

    p->m.phys_bits = 48;
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        enum x86_msr_result r = wr(p, cases[i].msr, cases[i].val);

        if (r != cases[i].r)
            print_error("MSR 0x%x := 0x%llx\n", cases[i].msr, (unsigned long long)cases[i].val);
        assert_int_equal(r, cases[i].r);
        if (r == X86_MSR_OK && cases[i].msr != 0x49)
            assert_int_equal(rd(p, cases[i].msr), cases[i].val);
    }
    p->m.kvm_pv = false;
    assert_int_equal(wr(p, 0x4b564d01, 0), X86_MSR_GP);
}

static void segment_bases(void **state)
{
    struct cpu *p = *state;

    assert_int_equal(wr(p, 0xc0000101, 0xffff888000000000), X86_MSR_OK);
    assert_int_equal(p->c.seg[X86_GS].base, 0xffff888000000000);
    p->c.seg[X86_FS].base = 0x7000;
    assert_int_equal(rd(p, 0xc0000100), 0x7000);
}

static void time_stamp(void **state)
{
    struct cpu *p = *state;

    assert_int_equal(rd(p, 0x10), 1000);
    wr(p, 0x10, 5000); /* moves TSC_ADJUST by as much */
    assert_int_equal(rd(p, 0x10), 5000);
    assert_int_equal(rd(p, 0x3b), 4000);
    wr(p, 0x3b, 0);
    assert_int_equal(rd(p, 0x10), 1000);
}

static void speculation(void **state)
{
    struct cpu *p = *state;
    uint64_t caps = rd(p, 0x10a);

    assert_true(leaf(p, 7, 0).edx & 1 << 29);
    assert_true(caps & 1);                                            /* RDCL_NO: no page-table isolation */
    assert_true(caps & 2);                                            /* enhanced IBRS: no retpolines */
    assert_true(caps & 1 << 5 && caps & 1 << 20 && caps & 1UL << 62); /* MDS_NO, BHI_NO, ITS_NO */
    assert_int_equal(wr(p, 0x48, 1 << 10), p->m.vendor == X86_VENDOR_AMD ? X86_MSR_GP : X86_MSR_OK);
    assert_false(leaf(p, 7, 0).edx & (1 << 27 | 1U << 31)); /* STIBP, SSBD */
}

static void init_keeps(void **state)
{
    struct cpu *p = *state;

    p->c.msr.pat = 1;
    p->c.tsc_offset = 77;
    p->c.fpu.fcw = 0x37f;
    p->c.cr0 = X86_CR0_PE | X86_CR0_CD;
    p->c.gpr[X86_RSP] = 5;
    x86_cpu_init(&p->c);
    assert_int_equal(p->c.msr.pat, 1);
    assert_int_equal(p->c.tsc_offset, 77);
    assert_int_equal(p->c.fpu.fcw, 0x37f);
    assert_int_equal(p->c.cr0, X86_CR0_CD | X86_CR0_ET);
    assert_int_equal(p->c.gpr[X86_RSP], 0);
    assert_int_equal(p->c.rip, 0xfff0);
    assert_int_equal(p->c.seg[X86_CS].base, 0xffff0000);
    x86_cpu_reset(&p->c);
    assert_int_equal(p->c.msr.pat, 0x0007040600070406);
    assert_int_equal(p->c.fpu.fcw, 0x40);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(hidden_features),   TEST(host_has_what_is_offered),
        TEST(topology),          TEST(ranges),
        TEST(xsave_sizes),       TEST(apic_off),
        TEST(cr4_follows_cpuid), TEST(efer),
        TEST(value_checks),      TEST(segment_bases),
        TEST(time_stamp),        TEST(speculation),
        TEST(init_keeps),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
