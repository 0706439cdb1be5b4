/* SPDX-License-Identifier: MIT */
/*
 * PUSH POP PUSHA POPA ENTER LEAVE, near CALL and RET.
 *
 * The stack pointer is written last, so a fault anywhere leaves it. Fast forms are for 64-bit mode with 64-bit
 * operands, where the stack segment has neither base nor limit.
 */
#include <Zydis/Mnemonic.h>

#include "cpu/interp/branch.h"
#include "cpu/interp/core.h"

/* ---- any mode ---- */

/* Linear address of [sp, sp+size) on the stack; sp is cut to the stack's width. */
static gva_t stack_lin(struct interp *m, const struct uop *u, uint64_t sp, unsigned size, bool write)
{
    return interp_seg_lin(m, u, X86_SS_SEG, sp & m->sp_mask, size, write);
}
static void set_sp(struct interp *m, uint64_t sp)
{
    m->c.gpr[X86_RSP] = (m->c.gpr[X86_RSP] & ~m->sp_mask) | (sp & m->sp_mask);
}
static void push_any(struct interp *m, const struct uop *u, unsigned size, uint64_t v)
{
    uint64_t sp = m->c.gpr[X86_RSP] - size;

    interp_st(m, u, stack_lin(m, u, sp, size, true), size, v);
    set_sp(m, sp);
}
static uint64_t top(struct interp *m, const struct uop *u, unsigned size)
{
    return interp_ld(m, u, stack_lin(m, u, m->c.gpr[X86_RSP], size, false), size);
}

OP(push_r_any)
{
    push_any(m, u, u->i.osz, m->c.gpr[u->i.r0]);
    NEXT_ST(m, u);
}
OP(push_i_any)
{
    push_any(m, u, u->i.osz, (uint64_t)u->i.imm);
    NEXT_ST(m, u);
}
OP(push_m_any)
{
    push_any(m, u, u->i.osz, interp_ld(m, u, interp_ea(m, u, u->i.osz, false), u->i.osz));
    NEXT_ST(m, u);
}
OP(pop_r_any)
{
    uint64_t v = top(m, u, u->i.osz);

    set_sp(m, m->c.gpr[X86_RSP] + u->i.osz);
    set_reg(m, u->i.r0, u->i.osz, v);
    NEXT(m, u);
}
/* The address is computed with the stack pointer already moved: SDM Vol. 2B, "POP". */
OP(pop_m_any)
{
    uint64_t v = top(m, u, u->i.osz), old = m->c.gpr[X86_RSP];
    gva_t lin;

    if (u->i.base != X86_RSP) {
        interp_st(m, u, interp_ea(m, u, u->i.osz, true), u->i.osz, v);
        set_sp(m, old + u->i.osz);
        NEXT_ST(m, u);
    }
    /* A copy of the instruction whose displacement includes the pop, so that no state changes before the store. */
    struct uop w = *u;
    w.i.disp += u->i.osz;
    lin = interp_ea(m, &w, u->i.osz, true);
    interp_st(m, u, lin, u->i.osz, v);
    set_sp(m, old + u->i.osz);
    NEXT_ST(m, u);
}

OP(pusha)
{
    unsigned size = u->i.osz;
    uint64_t sp = m->c.gpr[X86_RSP];

    for (unsigned k = 0; k < 8; k++) /* all checks first */
        interp_probe_write(m, u, m->ctx, stack_lin(m, u, sp - (k + 1) * size, size, true), size);
    for (unsigned k = 0; k < 8; k++)
        interp_st(m, u, stack_lin(m, u, sp - (k + 1) * size, size, true), size, m->c.gpr[k]);
    set_sp(m, sp - 8 * size);
    NEXT_ST(m, u);
}
OP(popa)
{
    unsigned size = u->i.osz;
    uint64_t sp = m->c.gpr[X86_RSP], v[8];

    for (unsigned k = 0; k < 8; k++)
        v[k] = interp_ld(m, u, stack_lin(m, u, sp + k * size, size, false), size);
    for (unsigned k = 0; k < 8; k++)
        if (k != 3)
            set_reg(m, 7 - k, size, v[k]);
    set_sp(m, sp + 8 * size);
    NEXT(m, u);
}

/* SDM Vol. 2A, "ENTER". */
OP(enter)
{
    unsigned size = u->i.osz, alloc = (uint16_t)u->i.imm, level = (unsigned)(u->i.imm >> 32) & 31;
    uint64_t sp = m->c.gpr[X86_RSP] - size, frame = sp, bp = m->c.gpr[X86_RBP];

    interp_st(m, u, stack_lin(m, u, sp, size, true), size, bp);
    for (unsigned k = 1; k < level; k++) {
        uint64_t v = interp_ld(m, u, stack_lin(m, u, bp - k * size, size, false), size);
        sp -= size;
        interp_st(m, u, stack_lin(m, u, sp, size, true), size, v);
    }
    if (level) {
        sp -= size;
        interp_st(m, u, stack_lin(m, u, sp, size, true), size, frame & m->sp_mask);
    }
    sp -= alloc;
    interp_probe_write(m, u, m->ctx, stack_lin(m, u, sp, 1, true), 1);
    set_reg(m, X86_RBP,
            size == 2                ? 2
            : m->mode == X86_MODE_64 ? 8
                                     : 4,
            m->sp_mask == 0xffff && size == 4 ? (bp & 0xffff0000) | (frame & 0xffff) : frame);
    set_sp(m, sp);
    NEXT_ST(m, u);
}

OP(leave_any)
{
    uint64_t sp = m->c.gpr[X86_RBP];
    uint64_t v = interp_ld(m, u, stack_lin(m, u, sp, u->i.osz, false), u->i.osz);

    set_sp(m, sp + u->i.osz);
    set_reg(m, X86_RBP, u->i.osz, v);
    NEXT(m, u);
}

OP(call_i_any)
{
    uint64_t target = branch_target(m, u);

    branch_check(m, u, target);
    push_any(m, u, u->i.osz, interp_next_ip(m, u));
    branch_unlinked(m, u, target);
}
OP(call_rm_any)
{
    uint64_t t = u->i.form == X86_F_R ? get_reg(m, u->i.r0, u->i.osz)
                                      : interp_ld(m, u, interp_ea(m, u, u->i.osz, false), u->i.osz);

    branch_check(m, u, t);
    push_any(m, u, u->i.osz, interp_next_ip(m, u));
    m->c.rip = t;
}
OP(ret_any)
{
    uint64_t t = top(m, u, u->i.osz);

    branch_check(m, u, t);
    set_sp(m, m->c.gpr[X86_RSP] + u->i.osz + (u->i.form == X86_F_I ? (uint64_t)u->i.imm : 0));
    m->c.rip = t;
}

/* ---- a flat stack, and operands of its width ---- */

#define PUSH_OP(name, bits, val, slow)                                                                                 \
    OP(name)                                                                                                           \
    {                                                                                                                  \
        gva_t lin = FLAT_SP(bits, -(bits / 8));                                                                        \
        const struct tlb_entry *e = tlb_slot(m, lin);                                                                  \
        if (TLB_WR_MISS(e, lin, bits)) {                                                                               \
            slow(m, u);                                                                                                \
            return;                                                                                                    \
        }                                                                                                              \
        *HOST_PTR(e, lin, bits) = (uint##bits##_t)(val);                                                               \
        m->c.gpr[X86_RSP] = lin;                                                                                       \
        NEXT_FAST_ST(m, u, e, lin, bits);                                                                              \
    }
/* The stack pointer moved by d, cut to the width. */
#define FLAT_SP(bits, d) ((uint##bits##_t)(m->c.gpr[X86_RSP] + (uint64_t)(d)))

#define FLAT_STACK(bits)                                                                                               \
    PUSH_OP(push_r##bits, bits, m->c.gpr[u->i.r0], push_r_any)                                                         \
    PUSH_OP(push_i##bits, bits, u->i.imm, push_i_any)                                                                  \
    OP(pop_r##bits)                                                                                                    \
    {                                                                                                                  \
        gva_t lin = FLAT_SP(bits, 0);                                                                                  \
        const struct tlb_entry *e = tlb_slot(m, lin);                                                                  \
        uint##bits##_t v;                                                                                              \
        if (TLB_RD_MISS(e, lin, bits)) {                                                                               \
            pop_r_any(m, u);                                                                                           \
            return;                                                                                                    \
        }                                                                                                              \
        v = *HOST_PTR(e, lin, bits);                                                                                   \
        m->c.gpr[X86_RSP] = FLAT_SP(bits, bits / 8);                                                                   \
        m->c.gpr[u->i.r0] = v;                                                                                         \
        NEXT(m, u);                                                                                                    \
    }                                                                                                                  \
    OP(leave##bits)                                                                                                    \
    {                                                                                                                  \
        gva_t lin = (uint##bits##_t)m->c.gpr[X86_RBP];                                                                 \
        const struct tlb_entry *e = tlb_slot(m, lin);                                                                  \
        if (TLB_RD_MISS(e, lin, bits)) {                                                                               \
            leave_any(m, u);                                                                                           \
            return;                                                                                                    \
        }                                                                                                              \
        m->c.gpr[X86_RBP] = *HOST_PTR(e, lin, bits);                                                                   \
        m->c.gpr[X86_RSP] = (uint##bits##_t)(lin + bits / 8);                                                          \
        NEXT(m, u);                                                                                                    \
    }                                                                                                                  \
    OP(call_i##bits) /* fast only when the link is made: then the target needs no check */                             \
    {                                                                                                                  \
        uint64_t target = branch_target(m, u);                                                                         \
        gva_t lin = FLAT_SP(bits, -(bits / 8));                                                                        \
        const struct tlb_entry *e = tlb_slot(m, lin);                                                                  \
        struct block *b = interp_linked(m, branch_end(u), 1);                                                          \
        if (TLB_WR_MISS(e, lin, bits) || unlikely(!b)) {                                                               \
            call_i_any(m, u);                                                                                          \
            return;                                                                                                    \
        }                                                                                                              \
        *HOST_PTR(e, lin, bits) = (uint##bits##_t)interp_next_ip(m, u);                                                \
        m->c.gpr[X86_RSP] = lin;                                                                                       \
        if (unlikely(*e->fflags)) { /* the return address went over code */                                            \
            m->c.rip = target;                                                                                         \
            interp_code_hit(m, lin, bits / 8, e);                                                                      \
            return;                                                                                                    \
        }                                                                                                              \
        interp_enter(m, b, target);                                                                                    \
    }                                                                                                                  \
    OP(ret##bits)                                                                                                      \
    {                                                                                                                  \
        gva_t lin = FLAT_SP(bits, 0);                                                                                  \
        const struct tlb_entry *e = tlb_slot(m, lin);                                                                  \
        uint64_t t;                                                                                                    \
        if (TLB_RD_MISS(e, lin, bits)) {                                                                               \
            ret_any(m, u);                                                                                             \
            return;                                                                                                    \
        }                                                                                                              \
        t = *HOST_PTR(e, lin, bits);                                                                                   \
        branch_check(m, u, t);                                                                                         \
        m->c.gpr[X86_RSP] = FLAT_SP(bits, bits / 8);                                                                   \
        m->c.rip = t;                                                                                                  \
    }
FLAT_STACK(32)
FLAT_STACK(64)

/* 64-bit operands exist only in 64-bit mode; a 32-bit stack is flat where block.c has cleared SLOW_EA. */
static unsigned flat_width(const struct x86_insn *i)
{
    return i->osz == 8 ? 64 : i->osz == 4 && insn_fast(i) ? 32 : 0;
}

uop_fn stack_pick(const struct x86_insn *i)
{
    unsigned w = flat_width(i);

#define BY_WIDTH(name, slow) (w == 64 ? name##64 : w == 32 ? name##32 : (slow))
    switch (i->op) {
    case ZYDIS_MNEMONIC_PUSH:
        if (i->form == X86_F_M)
            return push_m_any;
        return i->form == X86_F_I ? BY_WIDTH(push_i, push_i_any) : BY_WIDTH(push_r, push_r_any);
    case ZYDIS_MNEMONIC_POP:
        return i->form == X86_F_M ? pop_m_any : BY_WIDTH(pop_r, pop_r_any);
    case ZYDIS_MNEMONIC_PUSHA:
    case ZYDIS_MNEMONIC_PUSHAD:
        return pusha;
    case ZYDIS_MNEMONIC_POPA:
    case ZYDIS_MNEMONIC_POPAD:
        return popa;
    case ZYDIS_MNEMONIC_ENTER:
        return enter;
    case ZYDIS_MNEMONIC_LEAVE:
        return BY_WIDTH(leave, leave_any);
    case ZYDIS_MNEMONIC_CALL:
        return i->form == X86_F_I ? BY_WIDTH(call_i, call_i_any) : call_rm_any;
    case ZYDIS_MNEMONIC_RET:
        return i->form == X86_F_NONE ? BY_WIDTH(ret, ret_any) : ret_any;
    default:
        return NULL;
    }
#undef BY_WIDTH
}
