/* SPDX-License-Identifier: MIT */
/* Guest exceptions as values. SDM Vol. 3A, "Interrupt and Exception Handling". */
#ifndef GAZDA_X86_FAULT_H
#define GAZDA_X86_FAULT_H

#include "base/types.h"

enum x86_vector {
    X86_DE = 0,
    X86_DB = 1,
    X86_NMI = 2,
    X86_BP = 3,
    X86_OF = 4,
    X86_BR = 5,
    X86_UD = 6,
    X86_NM = 7,
    X86_DF = 8,
    X86_TS = 10,
    X86_NP = 11,
    X86_SS = 12,
    X86_GP = 13,
    X86_PF = 14,
    X86_MF = 16,
    X86_AC = 17,
    X86_MC = 18,
    X86_XM = 19,
};

/* #PF error code bits. */
enum { X86_PF_P = 1, X86_PF_W = 2, X86_PF_U = 4, X86_PF_RSVD = 8, X86_PF_I = 16 };

struct x86_fault {
    uint8_t vector;
    bool has_error;
    uint32_t error;
    gva_t addr; /* #PF: goes to CR2 at delivery. #DB: DR6 bits to set */
};

static inline bool x86_vector_has_error(unsigned v)
{
    return v == X86_DF || (v >= X86_TS && v <= X86_PF) || v == X86_AC || v == 21;
}

#endif
