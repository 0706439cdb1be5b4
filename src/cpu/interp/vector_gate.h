/* SPDX-License-Identifier: MIT */
/* When a vector instruction is #UD or #NM. SDM Vol. 2A, "Exception Conditions", and Vol. 3A, "Emulation of FPU". */
#ifndef GAZDA_CPU_INTERP_VECTOR_GATE_H
#define GAZDA_CPU_INTERP_VECTOR_GATE_H

#include "cpu/interp/interp.h"

/* Which of the #UD and #NM rules apply. */
enum vec_gate {
    VEC_GATE_X87,
    VEC_GATE_FWAIT,
    VEC_GATE_MMX,
    VEC_GATE_SSE,
    VEC_GATE_AVX,
    VEC_GATE_AVX512,
    VEC_GATE_NONE
};

/* Raises what a failed check asks for. vector.c */
_Noreturn void vec_gate_raise(struct interp *m, const struct uop *u, enum vec_gate gate);

static inline bool vec_gate_ok(const struct interp *m, enum vec_gate gate)
{
    const struct cpu_state *c = &m->c;

    switch (gate) {
    case VEC_GATE_X87:
    case VEC_GATE_MMX:
        return !(c->cr0 & (X86_CR0_EM | X86_CR0_TS));
    case VEC_GATE_FWAIT:
        return (c->cr0 & (X86_CR0_MP | X86_CR0_TS)) != (X86_CR0_MP | X86_CR0_TS);
    case VEC_GATE_SSE:
        return !((c->cr0 & (X86_CR0_EM | X86_CR0_TS)) | (~c->cr4 & X86_CR4_OSFXSR));
    case VEC_GATE_AVX:
        return !((c->cr0 & X86_CR0_TS) | (~c->cr4 & X86_CR4_OSXSAVE) | (~c->xcr0 & 6) | (~c->cr0 & X86_CR0_PE) |
                 (c->rflags & X86_FL_VM));
    case VEC_GATE_AVX512:
        return !((c->cr0 & X86_CR0_TS) | (~c->cr4 & X86_CR4_OSXSAVE) | (~c->xcr0 & 0xe6) | (~c->cr0 & X86_CR0_PE) |
                 (c->rflags & X86_FL_VM));
    case VEC_GATE_NONE:
        break;
    }
    return true;
}
static inline void vec_gate_check(struct interp *m, const struct uop *u, enum vec_gate gate)
{
    if (unlikely(!vec_gate_ok(m, gate)))
        vec_gate_raise(m, u, gate);
}

#endif
