/* SPDX-License-Identifier: MIT */
/* Vector instruction sets (x87 and up) and what CPUID offers of them. */
#ifndef GAZDA_X86_ISA_H
#define GAZDA_X86_ISA_H

#include "x86/cpuid.h"

/* True if a guest of this model may run it. isa_set: a ZydisISASet; mnemonic: a ZydisMnemonic. Pure. */
bool x86_isa_offered(const struct x86_model *mod, unsigned isa_set, unsigned mnemonic);

#endif
