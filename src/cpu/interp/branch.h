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

#endif
