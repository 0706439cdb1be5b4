/* SPDX-License-Identifier: MIT */
/* The bare processor of interp_machine.h with x87, SSE and AVX switched on, and two data pages of which one can go. */
#ifndef GAZDA_TESTS_UNIT_VECTOR_MACHINE_H
#define GAZDA_TESTS_UNIT_VECTOR_MACHINE_H

#include "interp_machine.h"

#define VM_EDGE (IM_DATA + PAGE_SIZE) /* the page behind it is the one that goes */

static inline void vm_edge_present(struct im *t, bool present)
{
    im_put64(t, IM_PT + 8 * (VM_EDGE >> 12), present ? VM_EDGE | 3 : 0);
    im_edit(t);
    im_done(t); /* drops the TLBs */
}

/* One of `cpus` processors, with RAM of its own. */
static inline struct im *vm_new_smp(const struct engine_ops *ops, unsigned cpus)
{
    struct im *t = im_new_smp(ops, NULL, cpus);
    struct cpu_state *c = im_edit(t);

    c->cr0 |= X86_CR0_MP;
    c->cr4 |= X86_CR4_OSXMMEXCPT | X86_CR4_OSXSAVE;
    c->xcr0 = t->model.xcr0_mask & 7;
    c->fpu.fcw = 0x37f;
    c->fpu.fsw = 0;
    c->fpu.ftw = 0;
    c->fpu.mxcsr = 0x1f80;
    c->gpr[X86_RBX] = IM_DATA;
    im_done(t);
    return t;
}

static inline struct im *vm_new(const struct engine_ops *ops)
{
    return vm_new_smp(ops, 1);
}

static inline bool vm_has_avx2(const struct im *t)
{
    return (t->model.xcr0_mask & 4) && (t->model.feat_7_ebx & 1 << 5);
}

/* Fills register r with bytes first, first + 1, ... */
static inline void vm_fill(struct im *t, unsigned r, uint8_t first)
{
    for (unsigned k = 0; k < 32; k++)
        t->c->fpu.vec[r][k] = (uint8_t)(first + k);
}

/* Vector of the exception, or -1; on an exception also checks where it was raised. */
#define VM_FAULT(t, vec, words, at, code)                                                                              \
    do {                                                                                                               \
        assert_int_equal(IM_EXEC((t), code "\xf4"), EXIT_HLT);                                                         \
        assert_int_equal(im_vector(t), (vec));                                                                         \
        assert_int_equal(im_frame((t), (words)), IM_CODE + (at));                                                      \
    } while (0)
#define VM_OK(t, code)                                                                                                 \
    do {                                                                                                               \
        assert_int_equal(IM_EXEC((t), code "\xf4"), EXIT_HLT);                                                         \
        assert_int_equal(im_vector(t), -1);                                                                            \
    } while (0)

#endif
