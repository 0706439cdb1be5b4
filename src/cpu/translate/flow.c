/* SPDX-License-Identifier: MIT */
/*
 * Branches. A direct one leaves through a record that can be linked to the target's block; in user code
 * only within the page, because what lies on other pages depends on the address space: those, and indirect
 * branches, look up the jump cache with the linear target in R10.
 */
#include "cpu/translate/trans.h"

/* The jump cache; r is taken on a miss. */
static void jump_cache(struct trans *t, const struct xrec *r)
{
    struct emit *e = &t->e;
    size_t jc = offsetof(struct xlate, jc) + t->ctx * sizeof(struct xl_jc);

    if (t->x->from_c) { /* which wants to see each block */
        tr_exit(t, r);
        return;
    }
    if (t->x->no_pext) {
        em_rr(e, EM_0F | 0xb7, R11, R10); /* movzx r11d, r10w */
        em_lea(e, R11, HMEM_X(R11, R11, 0, 0));
    } else {                                                        /* an entry has two words */
        em_vex_rm(e, EM_VEX(3, 2, 1, 0xf5), R11, R10, X(jc_index)); /* pdep r11, r10, [mask] */
    }
    em_load(e, RCX, HGS_X(R11, jc + offsetof(struct xl_jc, e[0].neg_va)));
    em_lea(e, RCX, HMEM_X(RCX, R10, 0, t->kind & KIND_DF ? JC_DF : 0));
    em_jrcxz(e, 6 + 5);
    em8(e, 0x41); /* mov r11d, record */
    em8(e, 0xbb);
    em32(e, tr_recoff(t, r));
    uint32_t at = em_jmp(e);
    em_patch32(e, at, (uint32_t)(t->x->exit - t->x->code.rx) - (t->base + at + 4));
    em_rm(e, 0xff, 4, HGS_X(R11, jc + offsetof(struct xl_jc, e[0].code))); /* jmp */
}

static bool linkable(const struct trans *t, int32_t off)
{
    if (t->ctx != CTX_USER)
        return true;
    return off >= 0 && off < (int32_t)PAGE_SIZE && !t->crossing;
}

/* Linear target of a branch to off, into R10. */
static void target(struct trans *t, int32_t off)
{
    if (t->kind & KIND_PIC) {
        em_load(&t->e, R10, HGS(offsetof(struct xlate, page_va) + 8 * t->ctx));
        em_lea(&t->e, R10, HMEM(R10, off));
    } else {
        uint64_t va = t->page + (uint64_t)(int64_t)off;
        em_const(&t->e, R10, t->m64 ? va : (uint32_t)va);
    }
}

/* at: the rel32 of a jump to off that was just emitted. */
static void branch_to(struct trans *t, uint32_t at, int32_t off)
{
    struct xrec *r;

    if (linkable(t, off)) {
        r = tr_rec(t, X_LINK, off);
        r->patch = t->base + at;
        if (t->body && t->g == &t->in[t->ninsns - 1] && off == t->in[0].off)
            r->miss = t->body;
        r->cross = off < 0 || off >= (int32_t)PAGE_SIZE;
        tr_stub(t, at, r, STUB_PLAIN);
    } else {
        r = tr_rec(t, X_LOOKUP, t->off);
        r->target = off;
        tr_stub(t, at, r, STUB_CROSS);
    }
}

/* Code of STUB_CROSS. */
void flow_cross_stub(struct trans *t, const struct xrec *r)
{
    target(t, r->target);
    jump_cache(t, r);
}

static int32_t rel_target(const struct trans *t)
{
    int64_t off = t->next + t->op[0].imm.value.s;

    if (!t->m64)
        off = (int64_t)((uint32_t)(t->page + (uint64_t)off) - t->page);
    return (int32_t)off;
}

static bool far_off(const struct trans *t)
{
    int64_t off = t->next + t->op[0].imm.value.s;

    return off != (int32_t)off || t->i->operand_width == 16;
}

void flow_fall_through(struct trans *t)
{
    branch_to(t, em_jmp(&t->e), t->next);
    t->ended = true;
}

/* The value pushed by a call, into RCX. */
static void return_address(struct trans *t)
{
    if (t->kind & KIND_PIC) {
        em_load(&t->e, RCX, HGS(offsetof(struct xlate, page_va) + 8 * t->ctx));
        em_lea(&t->e, RCX, HMEM(RCX, t->next));
    } else {
        uint64_t va = t->page + (uint64_t)t->next;
        em_const(&t->e, RCX, t->m64 ? va : (uint32_t)va);
    }
}

static void indirect(struct trans *t, int delta)
{
    struct xrec *r = tr_rec(t, X_LOOKUP, t->off);

    r->delta = delta;
    r->indirect = true;
    jump_cache(t, r);
    t->ended = true;
}

/* The operand of an indirect branch into RCX. */
static bool indirect_target(struct trans *t)
{
    const ZydisDecodedOperand *o = &t->op[0];
    bool high;

    if (t->i->operand_width != (t->m64 ? 64 : 32))
        return false;
    if (o->type == ZYDIS_OPERAND_TYPE_MEMORY) {
        if (!op_address(t, o))
            return false;
        op_lookup(t, t->m64 ? 8 : 4, false);
        em_rm(&t->e, 0x8b | (t->m64 ? EM_W : 0), RCX, HMEM_X(R11, R10, 0, 0));
        return true;
    }
    if (!op_is_gpr(o))
        return false;
    op_get(t, RCX, op_gpr(o->reg.value, &high));
    if (!t->m64) /* 64-bit code may have left something in the upper half */
        em_mov32(&t->e, RCX, RCX);
    return true;
}

static bool jmp(struct trans *t)
{
    if (t->i->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
        return false;
    if (t->op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
        if (far_off(t))
            return false;
        branch_to(t, em_jmp(&t->e), rel_target(t));
        t->ended = true;
        return true;
    }
    if (!indirect_target(t))
        return false;
    em_mov(&t->e, R10, RCX);
    indirect(t, 0);
    return true;
}

static bool call(struct trans *t)
{
    unsigned size = t->m64 ? 8 : 4;
    struct hmem at;

    if (t->i->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
        return false;
    if (t->op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
        if (far_off(t))
            return false;
        at = push_lookup(t, size);
        return_address(t);
        push_store(t, size, at);
        branch_to(t, em_jmp(&t->e), rel_target(t));
        t->ended = true;
        return true;
    }
    if (!indirect_target(t))
        return false;
    em_store(&t->e, RCX, X(spill));
    if (t->m64)
        tr_canonical(t, RCX);
    at = push_lookup(t, size);
    return_address(t);
    push_store(t, size, at);
    em_load(&t->e, R10, X(spill));
    indirect(t, -(int)size);
    return true;
}

static bool ret(struct trans *t)
{
    unsigned size = t->m64 ? 8 : 4;
    int32_t more = t->i->operand_count_visible && t->op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE
                       ? (int32_t)t->op[0].imm.value.u
                       : 0;

    if (t->i->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR || t->i->operand_width != size * 8)
        return false;
    em_rm(&t->e, 0x8b | (t->m64 ? EM_W : 0), R10, stack_top(t, RSP, size));
    more += (int32_t)size;
    if (t->m64)
        em_lea(&t->e, RSP, HMEM(RSP, more));
    else
        em_lea32(&t->e, RSP, HMEM(RSP, more));
    tr_commit(t);
    indirect(t, more);
    return true;
}

static int condition(ZydisMnemonic m)
{
    static const uint16_t jcc[16] = {
        ZYDIS_MNEMONIC_JO, ZYDIS_MNEMONIC_JNO, ZYDIS_MNEMONIC_JB,  ZYDIS_MNEMONIC_JNB,
        ZYDIS_MNEMONIC_JZ, ZYDIS_MNEMONIC_JNZ, ZYDIS_MNEMONIC_JBE, ZYDIS_MNEMONIC_JNBE,
        ZYDIS_MNEMONIC_JS, ZYDIS_MNEMONIC_JNS, ZYDIS_MNEMONIC_JP,  ZYDIS_MNEMONIC_JNP,
        ZYDIS_MNEMONIC_JL, ZYDIS_MNEMONIC_JNL, ZYDIS_MNEMONIC_JLE, ZYDIS_MNEMONIC_JNLE,
    };

    for (int k = 0; k < 16; k++)
        if (m == jcc[k])
            return k;
    return -1;
}

/* LOOP, JECXZ, JRCXZ: guest RCX, cut to the address size, in RCX. */
static bool counted(struct trans *t)
{
    struct emit *e = &t->e;
    bool wide = t->i->address_width == 64, loop = t->i->mnemonic == ZYDIS_MNEMONIC_LOOP;

    if (far_off(t) || t->i->address_width == 16)
        return false;
    if (loop && wide)
        em_lea(e, HOST_RCX_HOME, HMEM(HOST_RCX_HOME, -1));
    else if (loop)
        em_lea32(e, HOST_RCX_HOME, HMEM(HOST_RCX_HOME, -1));
    if (loop)
        tr_commit(t);
    if (wide)
        em_mov(e, RCX, HOST_RCX_HOME);
    else
        em_mov32(e, RCX, HOST_RCX_HOME);
    em_jrcxz(e, 5);
    branch_to(t, em_jmp(e), loop ? rel_target(t) : t->next);
    branch_to(t, em_jmp(e), loop ? t->next : rel_target(t));
    t->ended = true;
    return true;
}

bool emit_flow(struct trans *t)
{
    int cc = condition(t->i->mnemonic);

    if (cc >= 0) {
        if (far_off(t))
            return false;
        branch_to(t, em_jcc(&t->e, (unsigned)cc), rel_target(t));
        return true; /* and on behind it */
    }
    switch (t->i->mnemonic) {
    case ZYDIS_MNEMONIC_JMP:
        return jmp(t);
    case ZYDIS_MNEMONIC_CALL:
        return call(t);
    case ZYDIS_MNEMONIC_RET:
        return ret(t);
    case ZYDIS_MNEMONIC_LOOP:
    case ZYDIS_MNEMONIC_JECXZ:
    case ZYDIS_MNEMONIC_JRCXZ:
        return counted(t);
    default:
        return false;
    }
}
