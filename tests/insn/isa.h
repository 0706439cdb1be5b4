/* SPDX-License-Identifier: MIT */
/* Which instructions may be tested: those that CPUID announces, at CPL 3, with an outcome that the case determines. */
#ifndef GAZDA_TESTS_INSN_ISA_H
#define GAZDA_TESTS_INSN_ISA_H

#include <Zydis/Zydis.h>

#include "insn.h"

/* CPUID as the tested engine shows it (NULL: the host's own). */
struct isa {
    uint32_t f1c, f1d, f7b, f7c, f7d, f71a, fd1a, fec, fed, fe8b;
    bool os_avx, os_avx512;
};
void isa_from_host(struct isa *i);
/* Keeps only what this engine's CPUID policy leaves. */
void isa_and_model(struct isa *i);
bool isa_has(const struct isa *i, ZydisISASet set);

/* NULL if the mnemonic may be generated, else why not. */
const char *isa_denied(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *ops);

#endif
