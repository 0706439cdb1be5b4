/* SPDX-License-Identifier: MIT */
/* State that two processors need not agree on when an instruction faults. */
#ifndef GAZDA_TESTS_INSN_PARTIAL_H
#define GAZDA_TESTS_INSN_PARTIAL_H

#include "insn.h"

enum insn_partial {
    PARTIAL_MEM = 1,
    PARTIAL_GPR = 2,
    PARTIAL_FLAGS = 4,
    PARTIAL_VECTORS = 8,
    PARTIAL_MXCSR = 16,
    PARTIAL_RF = 32,
    PARTIAL_UPPER = 64, /* halves of general registers */
    PARTIAL_CR2 = 128   /* where on its page */
};

/* Of the instruction at which r ended. */
unsigned insn_partial(const struct insn_case *c, const struct insn_result *r);
/* a (the host's) faulted, or not, where b may fault in another way. */
bool insn_other_fault(const struct insn_case *c, const struct insn_result *a, const struct insn_result *b);

#endif
