/* SPDX-License-Identifier: MIT */
/*
 * CPUID policy. Each feature word has a mask of what may pass from the host (`pass`), and bits that gazda provides
 * by itself whatever the host has (`own`): paging and privileged features that the software engines interpret.
 * Default is deny: a bit that is in neither list is clear. Not virtualised, hence missing: VMX, SVM, SMX, AMX, CET,
 * PKU, LA57, TSX, MPX, PT, SGX, UINTR, WAITPKG, MONITOR, PMU, VME, XSAVES, key locker, SEV, OSVW.
 *
 * Speculation: indirect branches of the guest are not predicted from anything the guest controls natively, so the
 * model claims to be immune to all known attacks. "Enhanced IBRS" makes kernels drop retpolines for plain indirect
 * branches, which is the cheapest for a software engine; BHI_NO, BHI_CTRL (newer Linux does not believe BHI_NO and
 * would clear the branch history by a loop at each system call, unless one MSR bit does it), ITS_NO, SRSO_NO, TSA_*_NO
 * spare guests the per-entry sequences, and STIBP and SSBD are not offered at all.
 */
#include "x86/cpuid.h"

#include <cpuid.h>
#include <string.h>

#define B(n) (1U << (n))

/* Leaf 1 ECX. */
#define PASS_1_ECX                                                                                                     \
    (B(0) /* SSE3 */ | B(1) /* PCLMUL */ | B(9) /* SSSE3 */ | B(12) /* FMA */ | B(13) /* CX16 */ |                     \
     B(19) /* SSE4.1 */ | B(20) /* SSE4.2 */ | B(22) /* MOVBE */ | B(23) /* POPCNT */ | B(25) /* AES */ |              \
     B(26) /* XSAVE */ | B(28) /* AVX */ | B(29) /* F16C */ | B(30) /* RDRAND */)
#define OWN_1_ECX (B(17) /* PCID */ | B(21) /* x2APIC */ | B(24) /* TSC deadline */ | B(31) /* hypervisor */)
enum { BIT_APIC = 9, BIT_OSXSAVE = 27 };

/* Leaf 1 EDX. */
#define PASS_1_EDX                                                                                                     \
    (B(0) /* FPU */ | B(8) /* CX8 */ | B(15) /* CMOV */ | B(19) /* CLFLUSH */ | B(23) /* MMX */ | B(24) /* FXSR */ |   \
     B(25) /* SSE */ | B(26) /* SSE2 */)
#define OWN_1_EDX                                                                                                      \
    (B(2) /* DE */ | B(3) /* PSE */ | B(4) /* TSC */ | B(5) /* MSR */ | B(6) /* PAE */ | B(7) /* MCE */ |              \
     B(9) /* APIC */ | B(11) /* SEP */ | B(12) /* MTRR */ | B(13) /* PGE */ | B(14) /* MCA */ | B(16) /* PAT */ |      \
     B(17) /* PSE36 */)
enum { BIT_HTT = 28 };

/* Leaf 7. */
#define PASS_7_EBX                                                                                                     \
    (B(3) /* BMI1 */ | B(5) /* AVX2 */ | B(6) /* FDP_EXCPTN_ONLY */ | B(8) /* BMI2 */ | B(9) /* ERMS */ |              \
     B(13) /* no FPU CS/DS */ | B(18) /* RDSEED */ | B(19) /* ADX */ | B(23) /* CLFLUSHOPT */ | B(24) /* CLWB */ |     \
     B(29) /* SHA */)
#define OWN_7_EBX                                                                                                      \
    (B(0) /* FSGSBASE */ | B(1) /* TSC_ADJUST */ | B(7) /* SMEP */ | B(10) /* INVPCID */ | B(20) /* SMAP */)
#define AVX512_7_EBX                                                                                                   \
    (B(16) /* F */ | B(17) /* DQ */ | B(21) /* IFMA */ | B(28) /* CD */ | B(30) /* BW */ | B(31) /* VL */)
#define PASS_7_ECX (B(8) /* GFNI */ | B(9) /* VAES */ | B(10) /* VPCLMULQDQ */)
#define OWN_7_ECX (B(2) /* UMIP */ | B(22) /* RDPID */)
#define AVX512_7_ECX                                                                                                   \
    (B(1) /* VBMI */ | B(6) /* VBMI2 */ | B(11) /* VNNI */ | B(12) /* BITALG */ | B(14) /* VPOPCNTDQ */)
#define PASS_7_EDX (B(4) /* FSRM */)
#define OWN_7_EDX (B(29) /* ARCH_CAPABILITIES */)
#define INTEL_7_EDX (B(26) /* IBRS, IBPB */)
#define INTEL_72_EDX B(4) /* BHI_CTRL */
#define PASS_71_EAX (B(4) /* AVX-VNNI */ | B(10) /* FZRM */ | B(11) /* FSRS */ | B(12) /* FSRC */)

/* Leaf 0xD, subleaf 1: XSAVEOPT, XSAVEC, XGETBV(1). No XSAVES, so no IA32_XSS. */
#define PASS_D1_EAX (B(0) | B(1) | B(2))
#define XCR0_BASE 7UL
#define XCR0_AVX512 0xe0UL

/* Leaf 0x80000001. On AMD the low EDX bits repeat leaf 1. */
#define PASS_EXT_ECX (B(0) /* LAHF */ | B(5) /* LZCNT */ | B(8) /* PREFETCHW */)
#define PASS_EXT_ECX_AMD (B(6) /* SSE4A */ | B(7) /* misaligned SSE */)
#define OWN_EXT_ECX_AMD (B(22) /* TOPOEXT */)
enum { BIT_CMP_LEGACY = 1, BIT_SYSCALL = 11 };
#define OWN_EXT_EDX                                                                                                    \
    (B(11) /* SYSCALL */ | B(20) /* NX */ | B(26) /* 1 GB pages */ | B(27) /* RDTSCP */ | B(29) /* LM */)
#define EXT_EDX_DUP 0x0183f3ffU
#define PASS_EXT_EDX_AMD (B(22) /* MMXEXT */)

/* Leaf 0x80000008 EBX. BTC_NO is looked at on Intel too. */
#define PASS_8_EBX_AMD (B(2) /* XSAVEERPTR */)
#define OWN_8_EBX_AMD (B(12) /* IBPB */ | B(14) /* IBRS */ | B(26) /* SSB_NO */ | B(30) /* IBPB_RET */)
#define OWN_8_EBX (B(29) /* BTC_NO */)
/* Leaf 0x80000021. */
#define OWN_21_EAX                                                                                                     \
    (B(0) /* no nested data bp */ | B(2) /* LFENCE serialises */ | B(6) /* null selector clears base */ |              \
     B(29) /* SRSO_NO */)
#define OWN_21_ECX (B(1) /* TSA_SQ_NO */ | B(2) /* TSA_L1_NO */)

/*
 * RDCL_NO IBRS_ALL SKIP_L1DFL SSB_NO MDS_NO PSCHANGE_MC_NO TAA_NO SBDR_SSDP_NO FBSDP_NO PSDP_NO BHI_NO PBRSB_NO
 * GDS_NO RFDS_NO ITS_NO.
 */
#define ARCH_CAPS                                                                                                      \
    (1UL << 0 | 1UL << 1 | 1UL << 3 | 1UL << 4 | 1UL << 5 | 1UL << 6 | 1UL << 8 | 1UL << 13 | 1UL << 14 | 1UL << 15 |  \
     1UL << 20 | 1UL << 24 | 1UL << 26 | 1UL << 27 | 1UL << 62)

/* KVM_FEATURE_*: clock, no I/O delay, clock 2, PV unhalt, PV IPI, PV yield, stable clock. */
#define KVM_FEATURES (B(0) | B(1) | B(3) | B(7) | B(11) | B(13) | B(24))
enum { LAPIC_BUS_KHZ = 1000000 };

enum { MAX_BASIC = 0x1f, MAX_BASIC_AMD = 0x10, MAX_EXT_INTEL = 0x80000008, MAX_EXT_AMD = 0x80000021 };

static struct x86_cpuid host(uint32_t leaf, uint32_t sub)
{
    struct x86_cpuid r = { 0 };

    if (__get_cpuid_max(leaf & 0x80000000, NULL) >= leaf)
        __cpuid_count(leaf, sub, r.eax, r.ebx, r.ecx, r.edx);
    return r;
}

static void model_features(struct x86_model *m)
{
    bool amd = m->vendor == X86_VENDOR_AMD;
    struct x86_cpuid l1 = host(1, 0), l7 = host(7, 0), e1 = host(0x80000001, 0), e8 = host(0x80000008, 0);

    m->feat_1_ecx = (l1.ecx & PASS_1_ECX) | OWN_1_ECX;
    m->feat_1_edx = (l1.edx & PASS_1_EDX) | OWN_1_EDX | (m->cpus > 1 ? B(BIT_HTT) : 0);
    m->feat_7_ebx = (l7.ebx & PASS_7_EBX) | OWN_7_EBX;
    m->feat_7_ecx = (l7.ecx & PASS_7_ECX) | OWN_7_ECX;
    m->feat_7_edx = (l7.edx & PASS_7_EDX) | OWN_7_EDX | (amd ? 0 : INTEL_7_EDX);
    if (l7.eax >= 1)
        m->feat_71_eax = host(7, 1).eax & PASS_71_EAX;
    m->feat_ext_ecx = e1.ecx & (PASS_EXT_ECX | (amd ? PASS_EXT_ECX_AMD : 0));
    m->feat_ext_edx = OWN_EXT_EDX;
    m->feat_8_ebx = OWN_8_EBX;
    if (amd) {
        m->feat_ext_ecx |= OWN_EXT_ECX_AMD | (m->cpus > 1 ? B(BIT_CMP_LEGACY) : 0);
        m->feat_ext_edx |= (m->feat_1_edx & EXT_EDX_DUP) | (e1.edx & PASS_EXT_EDX_AMD);
        m->feat_8_ebx |= OWN_8_EBX_AMD | (e8.ebx & PASS_8_EBX_AMD);
        m->feat_21_eax = OWN_21_EAX;
        m->feat_21_ecx = OWN_21_ECX;
    } else {
        m->feat_72_edx = INTEL_72_EDX;
    }
    m->arch_caps = ARCH_CAPS;
    m->phys_bits = e8.eax & 0xff ? e8.eax & 0xff : 36;
    if (m->phys_bits > 52)
        m->phys_bits = 52;
}

static void model_xsave(struct x86_model *m)
{
    struct x86_cpuid d0 = host(0xd, 0);

    if (!(m->feat_1_ecx & B(26)))
        return;
    m->xcr0_mask = d0.eax & XCR0_BASE;
    m->feat_d1_eax = host(0xd, 1).eax & PASS_D1_EAX;
    for (unsigned i = 2; i < X86_XSAVE_COMPONENTS; i++) {
        struct x86_cpuid d = host(0xd, i);

        m->xsave[i].size = d.eax;
        m->xsave[i].offset = d.ebx;
        m->xsave[i].align64 = d.ecx & 2;
    }
}

/* Caches keep the host's sizes; who shares them follows from one socket with one thread a core. */
static void model_caches(struct x86_model *m)
{
    bool amd = m->vendor == X86_VENDOR_AMD;

    m->descriptors = host(2, 0);
    m->amd_l1 = host(0x80000005, 0);
    m->amd_l2 = host(0x80000006, 0);
    for (unsigned i = 0; i < X86_CACHE_LEVELS; i++) {
        struct x86_cpuid *l = &m->cache[i];
        unsigned type, level;

        *l = host(amd ? 0x8000001d : 4, i);
        type = l->eax & 0x1f;
        level = (l->eax >> 5) & 7;
        if (!type)
            break;
        l->eax &= 0x3fff;
        if (level >= 3)
            l->eax |= (m->cpus - 1) << 14;
        if (!amd)
            l->eax |= (m->cpus - 1 > 63 ? 63 : m->cpus - 1) << 26;
    }
}

void x86_model_host(struct x86_model *m, unsigned cpus, uint32_t tsc_khz)
{
    struct x86_cpuid l0 = host(0, 0);

    memset(m, 0, sizeof(*m));
    m->cpus = cpus;
    m->tsc_khz = tsc_khz;
    m->kvm_pv = true;
    m->x2apic = true;
    m->vendor_id[0] = l0.ebx;
    m->vendor_id[1] = l0.edx;
    m->vendor_id[2] = l0.ecx;
    m->vendor = !memcmp(m->vendor_id, "AuthenticAMD", 12) || !memcmp(m->vendor_id, "HygonGenuine", 12)
                    ? X86_VENDOR_AMD
                    : X86_VENDOR_INTEL;
    m->signature = host(1, 0).eax;
    for (unsigned i = 0; i < 3; i++) {
        struct x86_cpuid r = host(0x80000002 + i, 0);

        memcpy(&m->brand[i * 4], &r, 16);
    }
    model_features(m);
    model_xsave(m);
    model_caches(m);
}

void x86_model_allow_avx512(struct x86_model *m)
{
    struct x86_cpuid l7 = host(7, 0), d0 = host(0xd, 0);

    if (!(l7.ebx & B(16)) || (d0.eax & XCR0_AVX512) != XCR0_AVX512)
        return;
    m->feat_7_ebx |= l7.ebx & AVX512_7_EBX;
    m->feat_7_ecx |= l7.ecx & AVX512_7_ECX;
    m->xcr0_mask |= XCR0_AVX512;
}

uint32_t x86_xsave_size(const struct x86_model *m, uint64_t components, bool compacted)
{
    uint32_t end = 512 + 64;

    for (unsigned i = 2; i < X86_XSAVE_COMPONENTS; i++) {
        uint32_t offset = m->xsave[i].offset;

        if (!(components >> i & 1))
            continue;
        if (compacted)
            offset = m->xsave[i].align64 ? (end + 63) & ~63U : end;
        if (offset + m->xsave[i].size > end)
            end = offset + m->xsave[i].size;
    }
    return end;
}

static struct x86_cpuid leaf_xsave(const struct x86_model *m, const struct cpu_state *c, uint32_t sub)
{
    struct x86_cpuid r = { 0 };

    if (!m->xcr0_mask)
        return r;
    if (sub == 0) {
        r.eax = (uint32_t)m->xcr0_mask;
        r.edx = (uint32_t)(m->xcr0_mask >> 32);
        r.ebx = x86_xsave_size(m, c->xcr0, false);
        r.ecx = x86_xsave_size(m, m->xcr0_mask, false);
    } else if (sub == 1) {
        r.eax = m->feat_d1_eax;
        if (m->feat_d1_eax & B(1))
            r.ebx = x86_xsave_size(m, c->xcr0, true);
    } else if (sub < X86_XSAVE_COMPONENTS && (m->xcr0_mask >> sub & 1)) {
        r.eax = m->xsave[sub].size;
        r.ebx = m->xsave[sub].offset;
        r.ecx = m->xsave[sub].align64 ? 2 : 0;
    }
    return r;
}

/* Bits of an APIC id that number cpus. */
static unsigned id_bits(unsigned cpus)
{
    unsigned bits = 0;

    while (1U << bits < cpus)
        bits++;
    return bits;
}

/* SDM Vol. 3A, "Hierarchical Mapping of Shared Resources": one thread a core, all cores in one package. */
static struct x86_cpuid leaf_topology(const struct x86_model *m, unsigned cpu_id, uint32_t sub)
{
    struct x86_cpuid r = { .ecx = sub & 0xff, .edx = cpu_id };

    if (sub == 0) {
        r.ebx = 1;
        r.ecx |= 1 << 8;
    } else if (sub == 1) {
        r.eax = id_bits(m->cpus);
        r.ebx = m->cpus;
        r.ecx |= 2 << 8;
    }
    return r;
}

static struct x86_cpuid leaf_1(const struct x86_model *m, const struct cpu_state *c, unsigned cpu_id)
{
    struct x86_cpuid r = { .eax = m->signature, .ecx = m->feat_1_ecx, .edx = m->feat_1_edx };

    r.ebx = cpu_id << 24 | (1U << id_bits(m->cpus)) << 16 | 8 << 8 /* CLFLUSH line, in quadwords */;
    if (!m->x2apic)
        r.ecx &= ~B(21);
    if (c->cr4 & X86_CR4_OSXSAVE)
        r.ecx |= B(BIT_OSXSAVE);
    if (c->apic_off)
        r.edx &= ~B(BIT_APIC);
    return r;
}

static struct x86_cpuid leaf_basic(const struct x86_model *m, const struct cpu_state *c, unsigned cpu_id, uint32_t leaf,
                                   uint32_t sub)
{
    bool amd = m->vendor == X86_VENDOR_AMD;
    uint32_t mhz = m->tsc_khz / 1000;
    struct x86_cpuid none = { 0 };

    switch (leaf) {
    case 0:
        return (struct x86_cpuid){ amd ? MAX_BASIC_AMD : MAX_BASIC, m->vendor_id[0], m->vendor_id[2], m->vendor_id[1] };
    case 1:
        return leaf_1(m, c, cpu_id);
    case 2:
        return amd ? none : m->descriptors;
    case 4:
        return !amd && sub < X86_CACHE_LEVELS ? m->cache[sub] : none;
    case 6:
        return (struct x86_cpuid){ .eax = B(2) /* ARAT */ };
    case 7:
        if (sub == 0)
            return (struct x86_cpuid){ 2, m->feat_7_ebx, m->feat_7_ecx, m->feat_7_edx };
        if (sub == 2)
            return (struct x86_cpuid){ .edx = m->feat_72_edx };
        return sub == 1 ? (struct x86_cpuid){ .eax = m->feat_71_eax } : none;
    case 0xb:
        return leaf_topology(m, cpu_id, sub);
    case 0xd:
        return leaf_xsave(m, c, sub);
    /*
     * 0x15 stays empty: guests take its crystal clock for that of the LAPIC timer, and the ratio that would make
     * both exact overflows the 32-bit arithmetic that kernels do with it. 0x40000010 says both in kHz.
     */
    case 0x16:
        return amd ? none : (struct x86_cpuid){ .eax = mhz, .ebx = mhz, .ecx = 100 };
    case 0x1f:
        return amd ? none : leaf_topology(m, cpu_id, sub);
    default:
        return none;
    }
}

static struct x86_cpuid leaf_kvm(const struct x86_model *m, uint32_t leaf)
{
    switch (leaf) {
    case 0x40000000:
        return (struct x86_cpuid){ 0x40000010, 0x4b4d564b, 0x564b4d56, 0x4d }; /* "KVMKVMKVM" */
    case 0x40000001:
        return (struct x86_cpuid){ .eax = KVM_FEATURES };
    case 0x40000010:
        return (struct x86_cpuid){ .eax = m->tsc_khz, .ebx = LAPIC_BUS_KHZ };
    default:
        return (struct x86_cpuid){ 0 };
    }
}

static struct x86_cpuid leaf_ext1(const struct x86_model *m, const struct cpu_state *c)
{
    bool amd = m->vendor == X86_VENDOR_AMD;
    struct x86_cpuid r = { .eax = amd ? m->signature : 0, .ecx = m->feat_ext_ecx, .edx = m->feat_ext_edx };

    /* Intel processors report SYSCALL only where it works. */
    if (!amd && x86_code_mode(c) != X86_MODE_64)
        r.edx &= ~B(BIT_SYSCALL);
    if (c->apic_off) /* AMD repeats the bit here */
        r.edx &= ~B(BIT_APIC);
    return r;
}

static struct x86_cpuid leaf_ext(const struct x86_model *m, const struct cpu_state *c, unsigned cpu_id, uint32_t leaf,
                                 uint32_t sub)
{
    bool amd = m->vendor == X86_VENDOR_AMD;
    struct x86_cpuid r = { 0 };

    switch (leaf) {
    case 0x80000000:
        r.eax = amd ? MAX_EXT_AMD : MAX_EXT_INTEL;
        if (amd)
            r = (struct x86_cpuid){ r.eax, m->vendor_id[0], m->vendor_id[2], m->vendor_id[1] };
        return r;
    case 0x80000001:
        return leaf_ext1(m, c);
    case 0x80000002:
    case 0x80000003:
    case 0x80000004:
        memcpy(&r, &m->brand[(leaf - 0x80000002) * 4], sizeof(r));
        return r;
    case 0x80000005:
        return amd ? m->amd_l1 : r;
    case 0x80000006:
        return m->amd_l2;
    case 0x80000007:
        return (struct x86_cpuid){ .edx = B(8) /* invariant TSC */ };
    case 0x80000008:
        r = (struct x86_cpuid){ .eax = m->phys_bits | 48 << 8, .ebx = m->feat_8_ebx };
        if (amd)
            r.ecx = (m->cpus - 1) | id_bits(m->cpus) << 12;
        return r;
    case 0x8000001d:
        return amd && sub < X86_CACHE_LEVELS ? m->cache[sub] : r;
    case 0x8000001e:
        return amd ? (struct x86_cpuid){ .eax = cpu_id, .ebx = cpu_id & 0xff } : r;
    case 0x80000021:
        return (struct x86_cpuid){ .eax = m->feat_21_eax, .ecx = m->feat_21_ecx };
    default:
        return r;
    }
}

struct x86_cpuid x86_cpuid_read(const struct x86_model *m, const struct cpu_state *c, unsigned cpu_id, uint32_t leaf,
                                uint32_t sub)
{
    bool amd = m->vendor == X86_VENDOR_AMD;

    if (m->kvm_pv && leaf >= 0x40000000 && leaf < 0x40000100)
        return leaf_kvm(m, leaf);
    if (leaf & 0x80000000) {
        if (leaf <= (amd ? MAX_EXT_AMD : MAX_EXT_INTEL))
            return leaf_ext(m, c, cpu_id, leaf, sub);
    } else if (leaf <= (amd ? MAX_BASIC_AMD : MAX_BASIC)) {
        return leaf_basic(m, c, cpu_id, leaf, sub);
    }
    /* Out of range: Intel answers with its highest basic leaf, AMD with zeroes. */
    if (amd)
        return (struct x86_cpuid){ 0 };
    return leaf_basic(m, c, cpu_id, MAX_BASIC, sub);
}

uint64_t x86_cr4_mask(const struct x86_model *m)
{
    uint64_t mask = X86_CR4_TSD | X86_CR4_DE | X86_CR4_PSE | X86_CR4_PAE | X86_CR4_MCE | X86_CR4_PGE | X86_CR4_PCE |
                    X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT;

    if (m->feat_1_ecx & B(17))
        mask |= X86_CR4_PCIDE;
    if (m->feat_1_ecx & B(26))
        mask |= X86_CR4_OSXSAVE;
    if (m->feat_7_ebx & B(0))
        mask |= X86_CR4_FSGSBASE;
    if (m->feat_7_ebx & B(7))
        mask |= X86_CR4_SMEP;
    if (m->feat_7_ebx & B(20))
        mask |= X86_CR4_SMAP;
    if (m->feat_7_ecx & B(2))
        mask |= X86_CR4_UMIP;
    return mask;
}
