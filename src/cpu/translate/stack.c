/* SPDX-License-Identifier: MIT */
/* PUSH, POP, LEAVE. The store or load comes first, then RSP moves: until then all of it may be run again. */
#include "cpu/translate/trans.h"

static void move_sp(struct trans *t, int32_t by)
{
    if (t->m64)
        em_lea(&t->e, RSP, HMEM(RSP, by));
    else
        em_lea32(&t->e, RSP, HMEM(RSP, by));
}

struct hmem push_lookup(struct trans *t, unsigned size)
{
    struct tr_place at = { HMEM_X(R11, R10, 0, 0), true };

    if (t->g->group) {
        op_memory(t, NULL, size, true, &at);
        return at.m;
    }
    if (t->m64)
        em_lea(&t->e, R11, HMEM(RSP, -(int32_t)size));
    else
        em_lea32(&t->e, R11, HMEM(RSP, -(int32_t)size));
    op_lookup(t, size, true);
    return at.m;
}

static void store(struct trans *t, unsigned size, unsigned reg, struct hmem at)
{
    em_rm(&t->e, 0x89 | (size == 8 ? EM_W : size == 2 ? EM_66 : 0), reg, at);
}

void push_store(struct trans *t, unsigned size, struct hmem at)
{
    store(t, size, RCX, at);
    move_sp(t, -(int32_t)size);
    tr_commit(t);
}

struct hmem stack_top(struct trans *t, unsigned reg, unsigned size)
{
    struct tr_place at = { HMEM_X(R11, R10, 0, 0), true };

    if (t->g->group) {
        op_memory(t, NULL, size, false, &at);
        return at.m;
    }
    if (t->m64)
        em_mov(&t->e, R11, reg);
    else
        em_mov32(&t->e, R11, reg);
    op_lookup(t, size, false);
    return at.m;
}

static bool push(struct trans *t)
{
    const ZydisDecodedOperand *o = &t->op[0];
    unsigned size = t->i->operand_width / 8;
    struct hmem at;
    bool high;

    if (o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
        at = push_lookup(t, size);
        em_const(&t->e, RCX, o->imm.value.u);
        push_store(t, size, at);
        return true;
    }
    if (o->type == ZYDIS_OPERAND_TYPE_MEMORY) {
        if (!op_address(t, o))
            return false;
        op_lookup(t, size, false);
        if (size == 2)
            em_rm(&t->e, EM_0F | 0xb7, RCX, HMEM_X(R11, R10, 0, 0));
        else
            em_rm(&t->e, 0x8b | (size == 8 ? EM_W : 0), RCX, HMEM_X(R11, R10, 0, 0));
        em_store(&t->e, RCX, X(spill));
        at = push_lookup(t, size);
        em_load(&t->e, RCX, X(spill));
        push_store(t, size, at);
        return true;
    }
    if (!op_is_gpr(o))
        return false;
    at = push_lookup(t, size);
    unsigned g = op_gpr(o->reg.value, &high);
    int h = host_reg(g);
    if (h < 0) {
        op_get(t, RCX, g);
        h = RCX;
    }
    store(t, size, (unsigned)h, at);
    move_sp(t, -(int32_t)size);
    tr_commit(t);
    return true;
}

static bool pop(struct trans *t)
{
    const ZydisDecodedOperand *o = &t->op[0];
    unsigned size = t->i->operand_width / 8, g;
    struct hmem m;
    bool high;

    if (!op_is_gpr(o) || size == 2)
        return false;
    g = op_gpr(o->reg.value, &high);
    m = stack_top(t, RSP, size);
    if (g == X86_RSP) {
        em_rm(&t->e, 0x8b | (size == 8 ? EM_W : 0), RSP, m);
        tr_commit(t);
        return true;
    }
    int h = host_reg(g);
    em_rm(&t->e, 0x8b | (size == 8 ? EM_W : 0), h < 0 ? RCX : (unsigned)h, m);
    if (h < 0)
        em_store(&t->e, RCX, HOME(g));
    move_sp(t, (int32_t)size);
    tr_commit(t);
    return true;
}

static bool leave(struct trans *t)
{
    unsigned size = t->m64 ? 8 : 4;
    struct hmem at;

    if (t->i->operand_width / 8 != size)
        return false;
    at = stack_top(t, RBP, size);
    em_rm(&t->e, 0x8b | (size == 8 ? EM_W : 0), RCX, at);
    if (t->m64)
        em_lea(&t->e, RSP, HMEM(RBP, 8));
    else
        em_lea32(&t->e, RSP, HMEM(RBP, 4));
    em_mov(&t->e, RBP, RCX);
    tr_commit(t);
    return true;
}

bool emit_stack(struct trans *t)
{
    switch (t->i->mnemonic) {
    case ZYDIS_MNEMONIC_PUSH:
        return push(t);
    case ZYDIS_MNEMONIC_POP:
        return pop(t);
    case ZYDIS_MNEMONIC_LEAVE:
        return leave(t);
    default:
        return false;
    }
}
