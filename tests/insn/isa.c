/* SPDX-License-Identifier: MIT */
/*
 * Instruction sets against CPUID bits, and the list of instructions whose outcome is not determined by the case
 * (time, randomness, another privilege level, this kernel's emulation) or which would leave the test's control.
 */
#include <cpuid.h>
#include <stdlib.h>
#include <string.h>

#include "isa.h"
#include "x86/cpuid.h"

void isa_from_host(struct isa *i)
{
    uint32_t a, b, c, d;

    memset(i, 0, sizeof(*i));
    __cpuid(1, a, b, i->f1c, i->f1d);
    __cpuid(0, a, b, c, d);
    uint32_t max = a;

    if (max >= 7) {
        __cpuid_count(7, 0, a, i->f7b, i->f7c, i->f7d);
        if (a >= 1)
            __cpuid_count(7, 1, i->f71a, b, c, d);
    }
    if (max >= 0xd)
        __cpuid_count(0xd, 1, i->fd1a, b, c, d);
    __cpuid(0x80000000, a, b, c, d);
    max = a;
    __cpuid(0x80000001, a, b, i->fec, i->fed);
    if (max >= 0x80000008)
        __cpuid(0x80000008, a, i->fe8b, c, d);
    if (i->f1c >> 27 & 1) {
        __asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
        i->os_avx = (a & 6) == 6;
        i->os_avx512 = (a & 0xe6) == 0xe6;
    }
}

void isa_and_model(struct isa *i)
{
    struct x86_model m;
    struct cpu_state *c = insn_alloc(sizeof(*c));

    if (!c)
        abort();
    x86_model_host(&m, 1, 1000000);
    c->cr4 = X86_CR4_OSXSAVE;
    struct x86_cpuid l1 = x86_cpuid_read(&m, c, 0, 1, 0), l7 = x86_cpuid_read(&m, c, 0, 7, 0);
    struct x86_cpuid l71 = x86_cpuid_read(&m, c, 0, 7, 1), ld = x86_cpuid_read(&m, c, 0, 0xd, 1);
    struct x86_cpuid le = x86_cpuid_read(&m, c, 0, 0x80000001, 0), l8 = x86_cpuid_read(&m, c, 0, 0x80000008, 0);

    free(c);
    i->f1c &= l1.ecx;
    i->f1d &= l1.edx;
    i->f7b &= l7.ebx;
    i->f7c &= l7.ecx;
    i->f7d &= l7.edx;
    i->f71a &= l71.eax;
    i->fd1a &= ld.eax;
    i->fec &= le.ecx;
    i->fed &= le.edx;
    i->fe8b &= l8.ebx;
    i->os_avx512 &= i->f7b >> 16 & 1;
}

enum isa_word { W1C, W1D, W7B, W7C, W7D, W71A, WD1A, WEC, WED, WE8B, WALWAYS };
enum { AVX = 1, AVX512 = 2, VL = 4 };

static const struct isa_rule {
    uint8_t set, word, bit, os;
} rules[] = {
    { ZYDIS_ISA_SET_ADOX_ADCX, W7B, 19, 0 },
    { ZYDIS_ISA_SET_AES, W1C, 25, 0 },
    { ZYDIS_ISA_SET_AMD3DNOW, WED, 31, 0 },
    { ZYDIS_ISA_SET_AVX, W1C, 28, AVX },
    { ZYDIS_ISA_SET_AVX2, W7B, 5, AVX },
    { ZYDIS_ISA_SET_AVX2GATHER, W7B, 5, AVX },
    { ZYDIS_ISA_SET_AVX512BW_128, W7B, 30, AVX512 | VL },
    { ZYDIS_ISA_SET_AVX512BW_128N, W7B, 30, AVX512 },
    { ZYDIS_ISA_SET_AVX512BW_256, W7B, 30, AVX512 | VL },
    { ZYDIS_ISA_SET_AVX512BW_512, W7B, 30, AVX512 },
    { ZYDIS_ISA_SET_AVX512BW_KOP, W7B, 30, AVX512 },
    { ZYDIS_ISA_SET_AVX512CD_128, W7B, 28, AVX512 | VL },
    { ZYDIS_ISA_SET_AVX512CD_256, W7B, 28, AVX512 | VL },
    { ZYDIS_ISA_SET_AVX512CD_512, W7B, 28, AVX512 },
    { ZYDIS_ISA_SET_AVX512DQ_128, W7B, 17, AVX512 | VL },
    { ZYDIS_ISA_SET_AVX512DQ_128N, W7B, 17, AVX512 },
    { ZYDIS_ISA_SET_AVX512DQ_256, W7B, 17, AVX512 | VL },
    { ZYDIS_ISA_SET_AVX512DQ_512, W7B, 17, AVX512 },
    { ZYDIS_ISA_SET_AVX512DQ_KOP, W7B, 17, AVX512 },
    { ZYDIS_ISA_SET_AVX512DQ_SCALAR, W7B, 17, AVX512 },
    { ZYDIS_ISA_SET_AVX512F_128, W7B, 16, AVX512 | VL },
    { ZYDIS_ISA_SET_AVX512F_128N, W7B, 16, AVX512 },
    { ZYDIS_ISA_SET_AVX512F_256, W7B, 16, AVX512 | VL },
    { ZYDIS_ISA_SET_AVX512F_512, W7B, 16, AVX512 },
    { ZYDIS_ISA_SET_AVX512F_KOP, W7B, 16, AVX512 },
    { ZYDIS_ISA_SET_AVX512F_SCALAR, W7B, 16, AVX512 },
    { ZYDIS_ISA_SET_AVX512_BF16_128, W71A, 5, AVX512 | VL },
    { ZYDIS_ISA_SET_AVX512_BF16_256, W71A, 5, AVX512 | VL },
    { ZYDIS_ISA_SET_AVX512_BF16_512, W71A, 5, AVX512 },
    { ZYDIS_ISA_SET_AVX512_BITALG_128, W7C, 12, AVX512 | VL },
    { ZYDIS_ISA_SET_AVX512_BITALG_256, W7C, 12, AVX512 | VL },
    { ZYDIS_ISA_SET_AVX512_BITALG_512, W7C, 12, AVX512 },
    { ZYDIS_ISA_SET_AVX512_FP16_128, W7D, 23, AVX512 | VL },
    { ZYDIS_ISA_SET_AVX512_FP16_128N, W7D, 23, AVX512 },
    { ZYDIS_ISA_SET_AVX512_FP16_256, W7D, 23, AVX512 | VL },
    { ZYDIS_ISA_SET_AVX512_FP16_512, W7D, 23, AVX512 },
    { ZYDIS_ISA_SET_AVX512_FP16_SCALAR, W7D, 23, AVX512 },
    { ZYDIS_ISA_SET_AVX512_GFNI_128, W7C, 8, AVX512 | VL },
    { ZYDIS_ISA_SET_AVX512_GFNI_256, W7C, 8, AVX512 | VL },
    { ZYDIS_ISA_SET_AVX512_GFNI_512, W7C, 8, AVX512 },
    { ZYDIS_ISA_SET_AVX512_IFMA_128, W7B, 21, AVX512 | VL },
    { ZYDIS_ISA_SET_AVX512_IFMA_256, W7B, 21, AVX512 | VL },
    { ZYDIS_ISA_SET_AVX512_IFMA_512, W7B, 21, AVX512 },
    { ZYDIS_ISA_SET_AVX512_VAES_128, W7C, 9, AVX512 | VL },
    { ZYDIS_ISA_SET_AVX512_VAES_256, W7C, 9, AVX512 | VL },
    { ZYDIS_ISA_SET_AVX512_VAES_512, W7C, 9, AVX512 },
    { ZYDIS_ISA_SET_AVX512_VBMI2_128, W7C, 6, AVX512 | VL },
    { ZYDIS_ISA_SET_AVX512_VBMI2_256, W7C, 6, AVX512 | VL },
    { ZYDIS_ISA_SET_AVX512_VBMI2_512, W7C, 6, AVX512 },
    { ZYDIS_ISA_SET_AVX512_VBMI_128, W7C, 1, AVX512 | VL },
    { ZYDIS_ISA_SET_AVX512_VBMI_256, W7C, 1, AVX512 | VL },
    { ZYDIS_ISA_SET_AVX512_VBMI_512, W7C, 1, AVX512 },
    { ZYDIS_ISA_SET_AVX512_VNNI_128, W7C, 11, AVX512 | VL },
    { ZYDIS_ISA_SET_AVX512_VNNI_256, W7C, 11, AVX512 | VL },
    { ZYDIS_ISA_SET_AVX512_VNNI_512, W7C, 11, AVX512 },
    { ZYDIS_ISA_SET_AVX512_VP2INTERSECT_128, W7D, 8, AVX512 | VL },
    { ZYDIS_ISA_SET_AVX512_VP2INTERSECT_256, W7D, 8, AVX512 | VL },
    { ZYDIS_ISA_SET_AVX512_VP2INTERSECT_512, W7D, 8, AVX512 },
    { ZYDIS_ISA_SET_AVX512_VPCLMULQDQ_128, W7C, 10, AVX512 | VL },
    { ZYDIS_ISA_SET_AVX512_VPCLMULQDQ_256, W7C, 10, AVX512 | VL },
    { ZYDIS_ISA_SET_AVX512_VPCLMULQDQ_512, W7C, 10, AVX512 },
    { ZYDIS_ISA_SET_AVX512_VPOPCNTDQ_128, W7C, 14, AVX512 | VL },
    { ZYDIS_ISA_SET_AVX512_VPOPCNTDQ_256, W7C, 14, AVX512 | VL },
    { ZYDIS_ISA_SET_AVX512_VPOPCNTDQ_512, W7C, 14, AVX512 },
    { ZYDIS_ISA_SET_AVXAES, W1C, 25, AVX },
    { ZYDIS_ISA_SET_AVX_GFNI, W7C, 8, AVX },
    { ZYDIS_ISA_SET_AVX_VNNI, W71A, 4, AVX },
    { ZYDIS_ISA_SET_BMI1, W7B, 3, 0 },
    { ZYDIS_ISA_SET_BMI2, W7B, 8, 0 },
    { ZYDIS_ISA_SET_CLFLUSHOPT, W7B, 23, 0 },
    { ZYDIS_ISA_SET_CLFSH, W1D, 19, 0 },
    { ZYDIS_ISA_SET_CLWB, W7B, 24, 0 },
    { ZYDIS_ISA_SET_CLZERO, WE8B, 0, 0 },
    { ZYDIS_ISA_SET_CMOV, W1D, 15, 0 },
    { ZYDIS_ISA_SET_CMPXCHG16B, W1C, 13, 0 },
    { ZYDIS_ISA_SET_F16C, W1C, 29, AVX },
    { ZYDIS_ISA_SET_FAT_NOP, WALWAYS, 0, 0 },
    { ZYDIS_ISA_SET_FCMOV, W1D, 15, 0 },
    { ZYDIS_ISA_SET_FMA, W1C, 12, AVX },
    { ZYDIS_ISA_SET_FMA4, WEC, 16, AVX },
    { ZYDIS_ISA_SET_FXSAVE, W1D, 24, 0 },
    { ZYDIS_ISA_SET_FXSAVE64, W1D, 24, 0 },
    { ZYDIS_ISA_SET_GFNI, W7C, 8, 0 },
    { ZYDIS_ISA_SET_I186, WALWAYS, 0, 0 },
    { ZYDIS_ISA_SET_I286PROTECTED, WALWAYS, 0, 0 },
    { ZYDIS_ISA_SET_I286REAL, WALWAYS, 0, 0 },
    { ZYDIS_ISA_SET_I386, WALWAYS, 0, 0 },
    { ZYDIS_ISA_SET_I486, WALWAYS, 0, 0 },
    { ZYDIS_ISA_SET_I486REAL, WALWAYS, 0, 0 },
    { ZYDIS_ISA_SET_I86, WALWAYS, 0, 0 },
    { ZYDIS_ISA_SET_INVPCID, W7B, 10, 0 },
    { ZYDIS_ISA_SET_LAHF, WEC, 0, 0 },
    { ZYDIS_ISA_SET_LONGMODE, WED, 29, 0 },
    { ZYDIS_ISA_SET_LWP, WEC, 15, 0 },
    { ZYDIS_ISA_SET_LZCNT, WEC, 5, 0 },
    { ZYDIS_ISA_SET_MOVBE, W1C, 22, 0 },
    { ZYDIS_ISA_SET_MOVDIR, W7C, 27, 0 },
    { ZYDIS_ISA_SET_PAUSE, WALWAYS, 0, 0 },
    { ZYDIS_ISA_SET_PCLMULQDQ, W1C, 1, 0 },
    { ZYDIS_ISA_SET_PENTIUMMMX, W1D, 23, 0 },
    { ZYDIS_ISA_SET_PENTIUMREAL, WALWAYS, 0, 0 },
    { ZYDIS_ISA_SET_POPCNT, W1C, 23, 0 },
    { ZYDIS_ISA_SET_PPRO, WALWAYS, 0, 0 },
    { ZYDIS_ISA_SET_PREFETCH_NOP, WALWAYS, 0, 0 },
    { ZYDIS_ISA_SET_RDPMC, WALWAYS, 0, 0 },
    { ZYDIS_ISA_SET_RDWRFSGS, W7B, 0, 0 },
    { ZYDIS_ISA_SET_SERIALIZE, W7D, 14, 0 },
    { ZYDIS_ISA_SET_SHA, W7B, 29, 0 },
    { ZYDIS_ISA_SET_SMAP, W7B, 20, 0 },
    { ZYDIS_ISA_SET_SSE, W1D, 25, 0 },
    { ZYDIS_ISA_SET_SSE2, W1D, 26, 0 },
    { ZYDIS_ISA_SET_SSE2MMX, W1D, 26, 0 },
    { ZYDIS_ISA_SET_SSE3, W1C, 0, 0 },
    { ZYDIS_ISA_SET_SSE3X87, W1C, 0, 0 },
    { ZYDIS_ISA_SET_SSE4, W1C, 19, 0 },
    { ZYDIS_ISA_SET_SSE42, W1C, 20, 0 },
    { ZYDIS_ISA_SET_SSE4A, WEC, 6, 0 },
    { ZYDIS_ISA_SET_SSEMXCSR, W1D, 25, 0 },
    { ZYDIS_ISA_SET_SSE_PREFETCH, W1D, 25, 0 },
    { ZYDIS_ISA_SET_SSSE3, W1C, 9, 0 },
    { ZYDIS_ISA_SET_SSSE3MMX, W1C, 9, 0 },
    { ZYDIS_ISA_SET_TBM, WEC, 21, 0 },
    { ZYDIS_ISA_SET_VAES, W7C, 9, AVX },
    { ZYDIS_ISA_SET_VPCLMULQDQ, W7C, 10, AVX },
    { ZYDIS_ISA_SET_X87, W1D, 0, 0 },
    { ZYDIS_ISA_SET_XOP, WEC, 11, AVX },
    { ZYDIS_ISA_SET_XSAVE, W1C, 27, 0 },
    { ZYDIS_ISA_SET_XSAVEC, WD1A, 1, 0 },
    { ZYDIS_ISA_SET_XSAVEOPT, WD1A, 0, 0 },
    { ZYDIS_ISA_SET_XSAVES, WD1A, 3, 0 },
};

bool isa_has(const struct isa *i, ZydisISASet set)
{
    const uint32_t word[] = { i->f1c, i->f1d, i->f7b, i->f7c, i->f7d, i->f71a, i->fd1a, i->fec, i->fed, i->fe8b, ~0U };

    for (unsigned k = 0; k < ARRAY_LEN(rules); k++) {
        const struct isa_rule *r = &rules[k];

        if (r->set != set)
            continue;
        return (word[r->word] >> r->bit & 1) && (!(r->os & AVX) || i->os_avx) && (!(r->os & AVX512) || i->os_avx512) &&
               (!(r->os & VL) || i->f7b >> 31);
    }
    return false;
}

static const struct {
    uint16_t mnemonic;
    const char *why;
} denied[] = {
    { ZYDIS_MNEMONIC_RDTSC, "time" },
    { ZYDIS_MNEMONIC_RDTSCP, "time" },
    { ZYDIS_MNEMONIC_RDPMC, "counters" },
    { ZYDIS_MNEMONIC_RDRAND, "random" },
    { ZYDIS_MNEMONIC_RDSEED, "random" },
    { ZYDIS_MNEMONIC_RDPID, "which CPU" },
    { ZYDIS_MNEMONIC_RDPRU, "counters" },
    { ZYDIS_MNEMONIC_CPUID, "policy of the engine" },
    { ZYDIS_MNEMONIC_XGETBV, "policy of the engine" },
    { ZYDIS_MNEMONIC_SYSCALL, "leaves CPL 3" },
    { ZYDIS_MNEMONIC_SYSENTER, "leaves CPL 3" },
    { ZYDIS_MNEMONIC_SYSEXIT, "differs by vendor in long mode" },
    { ZYDIS_MNEMONIC_VMCALL, "hypercall" },
    { ZYDIS_MNEMONIC_VMMCALL, "hypercall" },
    { ZYDIS_MNEMONIC_SGDT, "emulated by the kernel under UMIP" },
    { ZYDIS_MNEMONIC_SIDT, "emulated by the kernel under UMIP" },
    { ZYDIS_MNEMONIC_SLDT, "emulated by the kernel under UMIP" },
    { ZYDIS_MNEMONIC_STR, "emulated by the kernel under UMIP" },
    { ZYDIS_MNEMONIC_SMSW, "emulated by the kernel under UMIP" },
    { ZYDIS_MNEMONIC_XRSTOR, "needs a valid area" },
    { ZYDIS_MNEMONIC_XRSTOR64, "needs a valid area" },
    { ZYDIS_MNEMONIC_XSAVE, "header depends on what is in use" },
    { ZYDIS_MNEMONIC_XSAVE64, "header depends on what is in use" },
    { ZYDIS_MNEMONIC_XSAVEC, "depends on what is in use" },
    { ZYDIS_MNEMONIC_XSAVEC64, "depends on what is in use" },
    { ZYDIS_MNEMONIC_XSAVEOPT, "depends on what is in use" },
    { ZYDIS_MNEMONIC_XSAVEOPT64, "depends on what is in use" },
};

static bool under_hypervisor(void)
{
    uint32_t a, b, c = 0, d;

    return __get_cpuid(1, &a, &b, &c, &d) && c >> 31;
}

static bool has_prefix(const ZydisDecodedInstruction *z, uint8_t byte)
{
    for (unsigned i = 0; i < z->raw.prefix_count; i++)
        if (z->raw.prefixes[i].value == byte)
            return true;
    return false;
}

static bool is_amd(void)
{
    uint32_t a, b, c, d = 0;

    return __get_cpuid(0, &a, &b, &c, &d) && c == 0x444d4163; /* "cAMD" */
}

/* A far pointer in memory with a 64-bit offset. */
static bool far_pointer64(const ZydisDecodedInstruction *z)
{
    switch ((int)z->mnemonic) {
    case ZYDIS_MNEMONIC_LSS:
    case ZYDIS_MNEMONIC_LFS:
    case ZYDIS_MNEMONIC_LGS:
        return z->operand_width == 64;
    case ZYDIS_MNEMONIC_JMP:
    case ZYDIS_MNEMONIC_CALL:
        return z->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR && z->raw.rex.W;
    default:
        return false;
    }
}

const char *isa_denied(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *ops)
{
    for (unsigned i = 0; i < ARRAY_LEN(denied); i++)
        if (denied[i].mnemonic == z->mnemonic)
            return denied[i].why;
    if (z->mnemonic == ZYDIS_MNEMONIC_INT && ops[0].imm.value.u == 0x80)
        return "system call";
    if (z->opcode_map == ZYDIS_OPCODE_MAP_0F && z->opcode == 0x0d && z->raw.modrm.mod == 3)
        return "0F 0D with registers: a NOP or not, by vendor";
    if (z->mnemonic == ZYDIS_MNEMONIC_MOVSXD && has_prefix(z, 0x66) && z->operand_width == 16)
        return "16-bit MOVSXD: the size of the source differs by vendor";
    if (far_pointer64(z) && is_amd())
        return "AMD has no 64-bit far pointers: REX.W counts for nothing";
    if (z->mnemonic == ZYDIS_MNEMONIC_INT1 && under_hypervisor())
        return "KVM on AMD reflects it as a fault";
    if (z->machine_mode != ZYDIS_MACHINE_MODE_LONG_64 && z->raw.vex.W &&
        (z->mnemonic == ZYDIS_MNEMONIC_VPINSRD || z->mnemonic == ZYDIS_MNEMONIC_VPEXTRD))
        return "VEX.W1 outside 64-bit mode differs by vendor";
    if (z->machine_mode == ZYDIS_MACHINE_MODE_LONG_64 && z->meta.branch_type != ZYDIS_BRANCH_TYPE_NONE &&
        has_prefix(z, 0x66))
        return "66 before a near branch differs by vendor";
    if ((z->mnemonic == ZYDIS_MNEMONIC_LOOPE || z->mnemonic == ZYDIS_MNEMONIC_LOOPNE) &&
        (has_prefix(z, 0xf2) || has_prefix(z, 0xf3)))
        return "AMD takes F2 and F3 for the condition";
    return NULL;
}
