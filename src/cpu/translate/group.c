/* SPDX-License-Identifier: MIT */
/*
 * Which memory accesses of a block share a lookup. A group is opened by an access to register + constant and goes on
 * while that register only moves by constants (PUSH, POP, ADD, SUB, INC, DEC, LEA); any other write ends it. What a
 * side exit leaves out may be covered by the lookup all the same: that only makes it fail where it need not.
 * Addresses relative to RIP are relative to the page of the code, which never moves.
 */
#include "cpu/translate/trans.h"

enum { OPEN = 16, NO_INDEX = 16 };
#define WIN_SPAN (1L << 31) /* what the guards between windows allow for */

/* A group that may still get members. */
struct open {
    unsigned group;
    uint8_t base, index, scale;
    int64_t moved; /* by how much the base register has moved since the first member */
};

struct access {
    unsigned base, index, scale, size;
    int64_t disp;
    bool write, always;
};

static bool plain_address(const struct trans *t, const struct tr_insn *in, const ZydisDecodedOperand *m,
                          struct access *a)
{
    bool high;

    if (m->mem.type != ZYDIS_MEMOP_TYPE_MEM || m->mem.base == ZYDIS_REGISTER_NONE ||
        m->mem.base == ZYDIS_REGISTER_EIP || m->mem.segment == ZYDIS_REGISTER_FS ||
        m->mem.segment == ZYDIS_REGISTER_GS || in->i.address_width != (t->m64 ? 64 : 32) ||
        (!t->m64 && m->mem.segment == ZYDIS_REGISTER_CS))
        return false;
    a->disp = m->mem.disp.has_displacement ? m->mem.disp.value : 0;
    if (m->mem.base == ZYDIS_REGISTER_RIP) {
        a->base = TR_IP;
        a->index = NO_INDEX;
        a->scale = 0;
        a->disp += in->off + in->i.length;
        return a->disp == (int32_t)a->disp && a->disp + 512 == (int32_t)(a->disp + 512);
    }
    a->base = op_gpr(m->mem.base, &high);
    a->index = m->mem.index == ZYDIS_REGISTER_NONE ? NO_INDEX : op_gpr(m->mem.index, &high);
    a->scale = a->index == NO_INDEX ? 0 : m->mem.scale;
    return a->disp == (int32_t)a->disp;
}

static bool stack_access(const struct trans *t, const struct tr_insn *in, struct access *a)
{
    unsigned size = in->i.operand_width / 8, natural = t->m64 ? 8 : 4;

    *a = (struct access){ .base = X86_RSP, .index = NO_INDEX, .size = size, .always = true };
    switch (in->i.mnemonic) {
    case ZYDIS_MNEMONIC_PUSH:
        if (in->op[0].type == ZYDIS_OPERAND_TYPE_MEMORY ||
            (in->op[0].type == ZYDIS_OPERAND_TYPE_REGISTER && !op_is_gpr(&in->op[0])))
            return false;
        a->disp = -(int64_t)size;
        a->write = true;
        return true;
    case ZYDIS_MNEMONIC_POP:
        return op_is_gpr(&in->op[0]) && size != 2 && in->op[0].reg.value != ZYDIS_REGISTER_RSP &&
               in->op[0].reg.value != ZYDIS_REGISTER_ESP;
    case ZYDIS_MNEMONIC_CALL:
        a->size = natural;
        a->disp = -(int64_t)natural;
        a->write = true;
        return in->i.meta.branch_type != ZYDIS_BRANCH_TYPE_FAR && size == natural &&
               in->op[0].type != ZYDIS_OPERAND_TYPE_MEMORY;
    case ZYDIS_MNEMONIC_RET:
        return in->i.meta.branch_type != ZYDIS_BRANCH_TYPE_FAR && size == natural;
    case ZYDIS_MNEMONIC_LEAVE:
        a->base = X86_RBP;
        return size == natural;
    default:
        return false;
    }
}

/* Whatever the decoder says, they may touch nothing at all. */
static bool masked(ZydisMnemonic m)
{
    return m == ZYDIS_MNEMONIC_VMASKMOVPS || m == ZYDIS_MNEMONIC_VMASKMOVPD || m == ZYDIS_MNEMONIC_VPMASKMOVD ||
           m == ZYDIS_MNEMONIC_VPMASKMOVQ;
}

/* The instruction's memory access, if it is one that can be grouped. */
static bool access_of(const struct trans *t, const struct tr_insn *in, struct access *a)
{
    const ZydisDecodedOperand *m = NULL;

    if (in->soft)
        return false;
    if (stack_access(t, in, a))
        return true;
    switch (in->i.mnemonic) {
    case ZYDIS_MNEMONIC_PUSH:
    case ZYDIS_MNEMONIC_POP:
    case ZYDIS_MNEMONIC_CALL:
    case ZYDIS_MNEMONIC_RET:
    case ZYDIS_MNEMONIC_LEAVE:
        return false;
    case ZYDIS_MNEMONIC_JMP:
    case ZYDIS_MNEMONIC_BT: /* bit strings reach elsewhere */
    case ZYDIS_MNEMONIC_BTS:
    case ZYDIS_MNEMONIC_BTR:
    case ZYDIS_MNEMONIC_BTC:
        return false;
    default:
        break;
    }
    for (unsigned k = 0; k < in->i.operand_count; k++) {
        if (in->op[k].type != ZYDIS_OPERAND_TYPE_MEMORY)
            continue;
        if (m || k >= in->i.operand_count_visible)
            return false;
        m = &in->op[k];
    }
    if (!m || !m->size || m->size > 512 || !plain_address(t, in, m, a))
        return false;
    a->size = m->size / 8;
    a->always = (m->actions & (ZYDIS_OPERAND_ACTION_READ | ZYDIS_OPERAND_ACTION_WRITE)) && !masked(in->i.mnemonic);
    a->write = m->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
    return true;
}

bool group_moves_by(const struct trans *t, const struct tr_insn *in, unsigned g, int64_t *by)
{
    const ZydisDecodedOperand *o = in->op;
    unsigned width = t->m64 ? 64 : 32;
    bool high;

    switch (in->i.mnemonic) {
    case ZYDIS_MNEMONIC_PUSH:
    case ZYDIS_MNEMONIC_CALL:
        *by = -(int64_t)(in->i.operand_width / 8);
        return g == X86_RSP;
    case ZYDIS_MNEMONIC_POP:
        *by = in->i.operand_width / 8;
        return g == X86_RSP && op_is_gpr(&o[0]) && op_gpr(o[0].reg.value, &high) != X86_RSP;
    case ZYDIS_MNEMONIC_ADD:
    case ZYDIS_MNEMONIC_SUB:
        if (!op_is_gpr(&o[0]) || o[0].size != width || op_gpr(o[0].reg.value, &high) != g ||
            o[1].type != ZYDIS_OPERAND_TYPE_IMMEDIATE)
            return false;
        *by = in->i.mnemonic == ZYDIS_MNEMONIC_ADD ? o[1].imm.value.s : -o[1].imm.value.s;
        return true;
    case ZYDIS_MNEMONIC_INC:
    case ZYDIS_MNEMONIC_DEC:
        *by = in->i.mnemonic == ZYDIS_MNEMONIC_INC ? 1 : -1;
        return op_is_gpr(&o[0]) && o[0].size == width && op_gpr(o[0].reg.value, &high) == g;
    case ZYDIS_MNEMONIC_LEA:
        if (o[0].size != width || op_gpr(o[0].reg.value, &high) != g || o[1].mem.index != ZYDIS_REGISTER_NONE ||
            o[1].mem.base == ZYDIS_REGISTER_NONE || o[1].mem.base == ZYDIS_REGISTER_RIP ||
            in->i.address_width != width || op_gpr(o[1].mem.base, &high) != g)
            return false;
        *by = o[1].mem.disp.value;
        return true;
    default:
        return false;
    }
}

/* The general registers that the instruction writes. */
static uint16_t written(const struct tr_insn *in)
{
    unsigned mask = 0;
    bool high;

    if (in->i.meta.category == ZYDIS_CATEGORY_STRINGOP) /* the decoder does not tell for all of them */
        mask = 1U << X86_RSI | 1U << X86_RDI | 1U << X86_RCX;
    for (unsigned k = 0; k < in->i.operand_count; k++)
        if (op_is_gpr(&in->op[k]) && (in->op[k].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
            mask |= 1U << op_gpr(in->op[k].reg.value, &high);
    return (uint16_t)mask;
}

bool group_writes(const struct tr_insn *in, unsigned g)
{
    return in->writes >> g & 1;
}

/* The open group that the access fits into, or NULL. */
static struct open *fitting(const struct trans *t, struct open *o, unsigned n, const struct access *a)
{
    int64_t span = t->kind & KIND_WIN && a->index == NO_INDEX ? WIN_SPAN : TR_GROUP_SPAN;

    for (unsigned k = 0; k < n; k++) {
        const struct tr_group *g = &t->group[o[k].group];
        int64_t at = a->disp + o[k].moved, end = at + a->size;

        if (o[k].base == a->base && o[k].index == a->index && o[k].scale == a->scale &&
            (end > g->hi ? end : g->hi) - (at < g->lo ? at : g->lo) <= span)
            return &o[k];
    }
    return NULL;
}

static struct open *open_new(struct trans *t, struct open *o, unsigned *n, const struct access *a)
{
    if (t->ngroups == TR_GROUPS)
        return NULL;
    if (*n == OPEN) /* the oldest gets no more */
        memmove(o, o + 1, --*n * sizeof(*o));
    t->group[t->ngroups] = (struct tr_group){ .base = (uint8_t)a->base,
                                              .index = (uint8_t)a->index,
                                              .scale = (uint8_t)(a->scale == 8 ? 3 : a->scale >> 1),
                                              .lo = (int32_t)a->disp,
                                              .hi = (int32_t)a->disp + (int32_t)a->size,
                                              .always = true,
                                              .write_first = a->write };
    o[*n] = (struct open){
        .group = t->ngroups++, .base = (uint8_t)a->base, .index = (uint8_t)a->index, .scale = (uint8_t)a->scale
    };
    return &o[(*n)++];
}

static void join(struct trans *t, struct tr_insn *in, struct open *o, const struct access *a)
{
    struct tr_group *g = &t->group[o->group];
    int32_t at = (int32_t)(a->disp + o->moved), end = at + (int32_t)a->size;

    g->lo = at < g->lo ? at : g->lo;
    g->hi = end > g->hi ? end : g->hi;
    g->write |= a->write;
    g->always &= a->always;
    g->n++;
    in->group = (uint8_t)(o->group + 1);
    in->disp = (int32_t)a->disp;
    in->at = at;
}

/* Moves or closes the open groups whose registers the instruction writes. */
static void after(const struct trans *t, const struct tr_insn *in, struct open *o, unsigned *n)
{
    unsigned keep = 0;

    for (unsigned k = 0; k < *n; k++) {
        bool call = o[k].base == X86_RSP && in->i.mnemonic == ZYDIS_MNEMONIC_CALL;
        int64_t by;

        if (o[k].index != NO_INDEX && group_writes(in, o[k].index))
            continue;
        if (group_writes(in, o[k].base) || call) {
            if (!group_moves_by(t, in, o[k].base, &by) || by != (int32_t)by ||
                o[k].moved + by != (int32_t)(o[k].moved + by))
                continue;
            o[k].moved += by;
        }
        o[keep++] = o[k];
    }
    *n = keep;
}

void group_find(struct trans *t)
{
    struct open open[OPEN], *o;
    unsigned n = 0;

    t->ngroups = 0;
    for (unsigned k = 0; k < t->ninsns; k++) {
        struct tr_insn *in = &t->in[k];
        struct access a;

        in->group = 0;
        in->writes = written(in);
        if (access_of(t, in, &a)) {
            o = fitting(t, open, n, &a);
            if (!o)
                o = open_new(t, open, &n, &a);
            if (o)
                join(t, in, o, &a);
        }
        after(t, in, open, &n);
    }
    if (t->kind & KIND_WIN)
        return;
    for (unsigned k = 0; k < t->ninsns; k++) /* alone it is better off with a lookup of its own size and rights */
        if (t->in[k].group && t->group[t->in[k].group - 1].n < 2)
            t->in[k].group = 0;
}
