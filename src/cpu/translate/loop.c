/* SPDX-License-Identifier: MIT */
/*
 * Loops of one block, in windows: what the accesses add to their addresses is computed before the loop.
 *
 * Such a block ends with a branch to its own first instruction. A group qualifies if its registers change by constants
 * only, from the start of the block to its end. Its window may then be looked up once: each time round its addresses
 * move by the same few bytes, at each of them something is accessed, and windows are further apart than that, so what
 * leaves the window comes upon unmapped space. If one of two registers does not change at all it is added up too. Where
 * nothing else wants the scratch registers they hold the sums.
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

/* ---- registers for what is kept ---- */

static bool in_place(const ZydisDecodedOperand *o)
{
    bool high;

    return !op_is_gpr(o) || (host_reg(op_gpr(o->reg.value, &high)) >= 0 && !high);
}

/* Whether the translation of the instruction leaves RCX, R10 and R11 alone when its access, if any, is a kept sum. */
static bool needs_no_scratch(struct trans *t, const struct tr_insn *in)
{
    bool high;

    t->i = &in->i;
    t->op = in->op;
    if (in->i.meta.category == ZYDIS_CATEGORY_COND_BR || in->i.mnemonic == ZYDIS_MNEMONIC_NOP)
        return true;
    if ((tr_how(t) != HOW_GPR && tr_how(t) != HOW_VECTOR) || in->i.meta.isa_set == ZYDIS_ISA_SET_AVX2GATHER)
        return false;
    for (unsigned k = 0; k < in->i.operand_count; k++) {
        const ZydisDecodedOperand *o = &in->op[k];

        if (o->type == ZYDIS_OPERAND_TYPE_MEMORY &&
            (!in->group || t->group[in->group - 1].hoist == HOIST_NO || k >= in->i.operand_count_visible))
            return false;
        if (!in_place(o) ||
            (k >= in->i.operand_count_visible && op_is_gpr(o) && op_gpr(o->reg.value, &high) == X86_RCX))
            return false;
    }
    return true;
}

/* RCX, R10 and R11, if the loop needs none of them otherwise; with more groups R10 is for the others. */
static void assign_registers(struct trans *t)
{
    static const uint8_t regs[] = { RCX, R11, R10 };
    unsigned n = 0, hoisted = 0;

    for (unsigned k = 0; k < t->ninsns; k++)
        if (!needs_no_scratch(t, &t->in[k]))
            return;
    for (unsigned k = 0; k < t->ngroups; k++) {
        const struct tr_group *g = &t->group[k];

        if ((g->base != TR_IP && host_reg(g->base) < 0) || (g->index < 16 && host_reg(g->index) < 0))
            return;
        hoisted += g->hoist != HOIST_NO;
    }
    for (unsigned k = 0; k < t->ngroups && n < (hoisted > 3 ? 2 : 3); k++)
        if (t->group[k].hoist != HOIST_NO) {
            t->group[k].reg = regs[n++];
            t->kept_regs |= (uint16_t)(1U << t->group[k].reg);
            em_load(&t->e, t->group[k].reg, HGS(offsetof(struct xlate, group) + 8 * k));
        }
}

/*
 * Whether the code from `from` on leaves what is kept in registers alone. That follows from needs_no_scratch; but an
 * address is at stake, so what was emitted is looked at, too.
 */
bool loop_keeps(const struct trans *t, uint32_t from)
{
    ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
    ZydisDecodedInstruction i;
    ZydisDecoder d;
    bool high;

    ZydisDecoderInit(&d, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    for (; from < t->e.n; from += i.length) {
        if (ZYAN_FAILED(ZydisDecoderDecodeFull(&d, t->e.p + from, t->e.n - from, &i, op)))
            return false;
        for (unsigned k = 0; k < i.operand_count; k++) {
            if (!op_is_gpr(&op[k]) || !(op[k].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
                continue;
            unsigned r = op_gpr(op[k].reg.value, &high);
            if (t->kept_regs >> r & 1)
                return false;
        }
    }
    return true;
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
    assign_registers(t);
    t->r10_group = -1;
    t->body = t->base + t->e.n;
}
