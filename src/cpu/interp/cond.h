/* SPDX-License-Identifier: MIT */
/* The sixteen conditions, evaluated on m->af (LAHF in AH, OF in AL). In encoding order. */
#ifndef GAZDA_CPU_INTERP_COND_H
#define GAZDA_CPU_INTERP_COND_H

#include "base/types.h"

enum { AF_OF = 1, AF_CF = 0x100, AF_PF = 0x400, AF_ZF = 0x4000, AF_SF = 0x8000 };

#define COND_LIST(X) X(o) X(no) X(b) X(nb) X(z) X(nz) X(be) X(nbe) X(s) X(ns) X(p) X(np) X(l) X(nl) X(le) X(nle)

#define COND_FN(cc, expr)                                                                                              \
    static inline bool cond_##cc(uint32_t af)                                                                          \
    {                                                                                                                  \
        return expr;                                                                                                   \
    }
COND_FN(o, af &AF_OF)
COND_FN(no, !(af & AF_OF))
COND_FN(b, af &AF_CF)
COND_FN(nb, !(af & AF_CF))
COND_FN(z, af &AF_ZF)
COND_FN(nz, !(af & AF_ZF))
COND_FN(be, af &(AF_CF | AF_ZF))
COND_FN(nbe, !(af & (AF_CF | AF_ZF)))
COND_FN(s, af &AF_SF)
COND_FN(ns, !(af & AF_SF))
COND_FN(p, af &AF_PF)
COND_FN(np, !(af & AF_PF))
COND_FN(l, (af >> 15 ^ af) & 1)
COND_FN(nl, !((af >> 15 ^ af) & 1))
COND_FN(le, ((af >> 15 ^ af) & 1) || (af & AF_ZF))
COND_FN(nle, !(((af >> 15 ^ af) & 1) || (af & AF_ZF)))
#undef COND_FN

#endif
