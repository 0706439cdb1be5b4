/* SPDX-License-Identifier: MIT */
/*
 * Loops of one block, in windows: what the accesses add to their addresses is computed before the loop.
 *
 * Such a block ends with a branch to its own first instruction. A group qualifies if its registers change by constants
 * only, from the start of the block to its end. Its window may then be looked up once: each time round its addresses
 * move by the same few bytes, at each of them something is accessed, and windows are further apart than that, so what
 * leaves the window comes upon unmapped space. If one of two registers does not change at all it is added up too.
 *
 * Who enters the block comes by what loop_begin emits, whatever was interrupted; only the branch back does not.
 */
#include "cpu/translate/trans.h"

enum { MOVE_NONE, MOVE_CONST, MOVE_ANY };
#define STEP_MAX (1L << 30)

static bool branches_back(const struct trans *t, const struct tr_insn *in)
{
    return (in->i.meta.category == ZYDIS_CATEGORY_COND_BR || in->i.mnemonic == ZYDIS_MNEMONIC_JMP) &&
           in->i.mnemonic != ZYDIS_MNEMONIC_JRCXZ && in->i.mnemonic != ZYDIS_MNEMONIC_JECXZ &&
           in->i.mnemonic != ZYDIS_MNEMONIC_LOOP && in->op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE &&
           in->i.operand_width == 64 && in->off + in->i.length + in->op[0].imm.value.s == t->in[0].off;
}

void loop_find(struct trans *t)
{
    if (!(t->kind & KIND_WIN) || !t->m64 || t->single || t->crossing)
        return;
    for (unsigned k = t->ninsns; k-- > 0;)
        if (branches_back(t, &t->in[k])) {
            t->ninsns = k + 1;
            t->loop = true;
            return;
        }
}

/* How the loop changes a register. */
static unsigned moves(const struct trans *t, unsigned g)
{
    int64_t sum = 0;
    unsigned how = MOVE_NONE;

    if (g >= 16)
        return MOVE_NONE;
    for (unsigned k = 0; k < t->ninsns; k++) {
        int64_t by;

        if (!group_writes(&t->in[k], g))
            continue;
        if (!group_moves_by(t, &t->in[k], g, &by) || by > STEP_MAX || by < -STEP_MAX)
            return MOVE_ANY;
        sum += by;
        if (sum > STEP_MAX || sum < -STEP_MAX)
            return MOVE_ANY;
        how = MOVE_CONST;
    }
    return how;
}

static enum tr_hoist hoist_of(const struct trans *t, const struct tr_group *g)
{
    unsigned base = moves(t, g->base), index = moves(t, g->index);

    if (!g->always || base == MOVE_ANY || index == MOVE_ANY)
        return HOIST_NO;
    if (g->index >= 16)
        return HOIST_ADDEND;
    return base == MOVE_NONE ? HOIST_BASE : index == MOVE_NONE ? HOIST_INDEX : HOIST_NO;
}

void loop_begin(struct trans *t)
{
    for (unsigned k = 0; k < t->ninsns; k++)
        if (t->in[k].i.meta.isa_set == ZYDIS_ISA_SET_X87) { /* its operands' addresses are wanted too */
            t->loop = false;
            return;
        }
    for (unsigned k = 0; k < t->ngroups; k++) {
        t->group[k].hoist = (uint8_t)hoist_of(t, &t->group[k]);
        if (t->group[k].hoist != HOIST_NO)
            op_group_keep(t, k);
    }
    t->r10_group = -1;
    t->body = t->base + t->e.n;
}
