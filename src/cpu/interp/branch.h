/* SPDX-License-Identifier: MIT */
/* What near branches share with near CALL and RET. */
#ifndef GAZDA_CPU_INTERP_BRANCH_H
#define GAZDA_CPU_INTERP_BRANCH_H

#include "cpu/interp/core.h"

_Noreturn void branch_fault(struct interp *m, const struct uop *u);
void branch_unlinked(struct interp *m, const struct uop *u, uint64_t target);

/* The sentinel behind a branch, which is always the last instruction of its block. */
static inline struct block_end *branch_end(const struct uop *u)
{
    return (struct block_end *)(uintptr_t)(u + 1);
}
/* Target of a direct branch, cut to the operand size. */
static inline uint64_t branch_target(const struct interp *m, const struct uop *u)
{
    uint64_t t = (m->c.gpr[X86_REG_IP] + u->i.off + u->i.len + (uint64_t)u->i.imm) & m->ip_mask;

    return likely(u->i.osz != 2) ? t : (uint16_t)t;
}
static inline void branch_check(struct interp *m, const struct uop *u, uint64_t target)
{
    if (likely(m->mode == X86_MODE_64 ? x86_canonical(target) : target <= m->c.seg[X86_CS].limit))
        return;
    branch_fault(m, u);
}

/* The two ways on from a direct branch, which is the last thing its handler does. */
static inline __attribute__((always_inline)) void branch_go(struct interp *m, const struct uop *u)
{
    uint64_t target = branch_target(m, u);
    struct block *b = interp_linked(m, branch_end(u), 1);

    if (b)
        interp_enter(m, b, target);
    else
        branch_unlinked(m, u, target);
}
static inline __attribute__((always_inline)) void branch_stay(struct interp *m, const struct uop *u)
{
    interp_fall_through(m, branch_end(u), interp_next_ip(m, u));
}

/* Condition code of a Jcc (0..15 in encoding order), or -1. */
int branch_condition(const struct x86_insn *i);

#endif
