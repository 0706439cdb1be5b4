/* SPDX-License-Identifier: MIT */
/*
 * Which CPUID features a vector instruction needs. An ISA set that is not in the table is refused, so that a newer
 * Zydis cannot let through what nobody looked at.
 */
#include "x86/isa.h"

#include <Zydis/Zydis.h>

enum word { W_1C, W_1D, W_7B, W_7C, W_7D, W_71A, W_D1A, W_XC, W_WORDS };

struct need {
    uint16_t set; /* ZydisISASet */
    uint8_t word, bit, word2, bit2;
};
#define NEED(s, w, b)                                                                                                  \
    {                                                                                                                  \
        ZYDIS_ISA_SET_##s, w, b, w, b                                                                                  \
    }
#define NEED2(s, w, b, w2, b2)                                                                                         \
    {                                                                                                                  \
        ZYDIS_ISA_SET_##s, w, b, w2, b2                                                                                \
    }
/* AVX-512 at 128, 256 (with VL), 512 bits and scalar */
#define NEED_VL(s, w, b)                                                                                               \
    NEED2(s##_128, w, b, W_7B, 31), NEED2(s##_256, w, b, W_7B, 31),                                                    \
    {                                                                                                                  \
        ZYDIS_ISA_SET_##s##_512, w, b, W_7B, 16                                                                        \
    }

static const struct need needs[] = {
    NEED(X87, W_1D, 0),
    NEED2(FCMOV, W_1D, 0, W_1D, 15),
    NEED2(PPRO, W_1D, 0, W_1D, 15),
    NEED(PENTIUMMMX, W_1D, 23),
    NEED(SSE, W_1D, 25),
    NEED(SSEMXCSR, W_1D, 25),
    NEED(SSE2, W_1D, 26),
    NEED(SSE2MMX, W_1D, 26),
    NEED(SSE3, W_1C, 0),
    NEED(SSE3X87, W_1C, 0),
    NEED(PCLMULQDQ, W_1C, 1),
    NEED(SSSE3, W_1C, 9),
    NEED(SSSE3MMX, W_1C, 9),
    NEED(FMA, W_1C, 12),
    NEED(SSE4, W_1C, 19),
    NEED(SSE42, W_1C, 20),
    NEED(AES, W_1C, 25),
    NEED2(AVXAES, W_1C, 25, W_1C, 28),
    NEED(AVX, W_1C, 28),
    NEED(F16C, W_1C, 29),
    NEED(AVX2, W_7B, 5),
    NEED(AVX2GATHER, W_7B, 5),
    NEED(SHA, W_7B, 29),
    NEED(GFNI, W_7C, 8),
    NEED2(AVX_GFNI, W_7C, 8, W_1C, 28),
    NEED(VAES, W_7C, 9),
    NEED(VPCLMULQDQ, W_7C, 10),
    NEED(AVX_VNNI, W_71A, 4),
    NEED(SSE4A, W_XC, 6),
    NEED(FXSAVE, W_1D, 24),
    NEED(FXSAVE64, W_1D, 24),
    NEED(XSAVE, W_1C, 26),
    NEED(XSAVEOPT, W_D1A, 0),
    NEED(XSAVEC, W_D1A, 1),
    NEED(XSAVES, W_D1A, 3),
    NEED_VL(AVX512F, W_7B, 16),
    NEED(AVX512F_128N, W_7B, 16),
    NEED(AVX512F_KOP, W_7B, 16),
    NEED(AVX512F_SCALAR, W_7B, 16),
    NEED_VL(AVX512DQ, W_7B, 17),
    NEED(AVX512DQ_128N, W_7B, 17),
    NEED(AVX512DQ_KOP, W_7B, 17),
    NEED(AVX512DQ_SCALAR, W_7B, 17),
    NEED_VL(AVX512_IFMA, W_7B, 21),
    NEED_VL(AVX512CD, W_7B, 28),
    NEED_VL(AVX512BW, W_7B, 30),
    NEED(AVX512BW_128N, W_7B, 30),
    NEED(AVX512BW_KOP, W_7B, 30),
    NEED_VL(AVX512_VBMI, W_7C, 1),
    NEED_VL(AVX512_VBMI2, W_7C, 6),
    NEED_VL(AVX512_GFNI, W_7C, 8),
    NEED_VL(AVX512_VAES, W_7C, 9),
    NEED_VL(AVX512_VPCLMULQDQ, W_7C, 10),
    NEED_VL(AVX512_VNNI, W_7C, 11),
    NEED_VL(AVX512_BITALG, W_7C, 12),
    NEED_VL(AVX512_VPOPCNTDQ, W_7C, 14),
    NEED_VL(AVX512_VP2INTERSECT, W_7D, 8),
    NEED_VL(AVX512_FP16, W_7D, 23),
    NEED(AVX512_FP16_128N, W_7D, 23),
    NEED(AVX512_FP16_SCALAR, W_7D, 23),
    NEED_VL(AVX512_BF16, W_71A, 5),
};

bool x86_isa_offered(const struct x86_model *mod, unsigned isa_set, unsigned mnemonic)
{
    const uint32_t w[W_WORDS] = {
        [W_1C] = mod->feat_1_ecx, [W_1D] = mod->feat_1_edx,   [W_7B] = mod->feat_7_ebx,   [W_7C] = mod->feat_7_ecx,
        [W_7D] = mod->feat_7_edx, [W_71A] = mod->feat_71_eax, [W_D1A] = mod->feat_d1_eax, [W_XC] = mod->feat_ext_ecx
    };

    /* Zydis files VPCLMULQDQ at 128 bits under AVX. */
    if (mnemonic == ZYDIS_MNEMONIC_VPCLMULQDQ && !(w[W_1C] & 2))
        return false;
    for (unsigned k = 0; k < ARRAY_LEN(needs); k++)
        if (needs[k].set == isa_set)
            return (w[needs[k].word] >> needs[k].bit & 1) && (w[needs[k].word2] >> needs[k].bit2 & 1);
    return false;
}
