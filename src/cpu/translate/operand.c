/* SPDX-License-Identifier: MIT */
/*
 * Operands: guest registers and memory addresses. Nothing here touches flags.
 *
 * Memory: R11 gets the linear address, R10 the addend of its page; RCX is used up. The lookup compares by adding the
 * negated tag: what is left is the offset in the page, or not below 4096. `lea` and `pext` do that without flags.
 */
#include "cpu/translate/trans.h"

unsigned op_gpr(ZydisRegister r, bool *high)
{
    *high = r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH;
    if (r >= ZYDIS_REGISTER_AL && r <= ZYDIS_REGISTER_BL)
        return (unsigned)(r - ZYDIS_REGISTER_AL);
    if (*high)
        return (unsigned)(r - ZYDIS_REGISTER_AH);
    if (r >= ZYDIS_REGISTER_SPL && r <= ZYDIS_REGISTER_R15B)
        return (unsigned)(r - ZYDIS_REGISTER_SPL) + 4;
    if (r >= ZYDIS_REGISTER_AX && r <= ZYDIS_REGISTER_R15W)
        return (unsigned)(r - ZYDIS_REGISTER_AX);
    if (r >= ZYDIS_REGISTER_EAX && r <= ZYDIS_REGISTER_R15D)
        return (unsigned)(r - ZYDIS_REGISTER_EAX);
    return (unsigned)(r - ZYDIS_REGISTER_RAX);
}

bool op_is_gpr(const ZydisDecodedOperand *o)
{
    return o->type == ZYDIS_OPERAND_TYPE_REGISTER && o->reg.value >= ZYDIS_REGISTER_AL &&
           o->reg.value <= ZYDIS_REGISTER_R15;
}

void op_get(struct trans *t, unsigned host, unsigned g)
{
    int h = host_reg(g);

    if (h < 0)
        em_load(&t->e, host, HOME(g));
    else
        em_mov(&t->e, host, (unsigned)h);
}

void op_put(struct trans *t, unsigned g, unsigned host)
{
    int h = host_reg(g);

    if (h < 0)
        em_store(&t->e, host, HOME(g));
    else
        em_mov(&t->e, (unsigned)h, host);
}

static bool is_ip(ZydisRegister r)
{
    return r == ZYDIS_REGISTER_RIP || r == ZYDIS_REGISTER_EIP;
}

static bool is_constant(const ZydisDecodedOperand *m)
{
    return m->mem.base == ZYDIS_REGISTER_NONE && m->mem.index == ZYDIS_REGISTER_NONE;
}

/* Whether the operand at a constant offset goes beyond the limit of 4 GiB. */
static bool beyond(const ZydisDecodedOperand *m)
{
    return is_constant(m) && (uint64_t)(uint32_t)m->mem.disp.value + m->size / 8 > 1UL << 32;
}

bool op_address_ok(const struct trans *t, const ZydisDecodedOperand *m)
{
    if (m->mem.type != ZYDIS_MEMOP_TYPE_MEM && m->mem.type != ZYDIS_MEMOP_TYPE_AGEN)
        return false;
    if (t->i->address_width != 64 && t->i->address_width != 32)
        return false;
    if (m->mem.base == ZYDIS_REGISTER_EIP)
        return false;
    if (m->mem.type == ZYDIS_MEMOP_TYPE_AGEN)
        return true;
    switch (m->mem.segment) {
    case ZYDIS_REGISTER_FS:
        return t->m64 || ((t->kind & KIND_FS) && !beyond(m));
    case ZYDIS_REGISTER_GS:
        return t->m64 || ((t->kind & KIND_GS) && !beyond(m));
    case ZYDIS_REGISTER_CS: /* in 32-bit code it may not be written, nor read if only executable */
        return t->m64;
    default:
        return true;
    }
}

/* R11 = linear address of the code's page + off. Uses R10 if that has more than 32 bits. */
static void page_address(struct trans *t, int64_t off)
{
    struct emit *e = &t->e;

    if (!(t->kind & KIND_PIC)) {
        em_const(e, R11, t->page + (uint64_t)off);
        return;
    }
    em_load(e, R11, HGS(offsetof(struct xlate, page_va) + 8 * t->ctx));
    if (off == (int32_t)off) {
        em_lea(e, R11, HMEM(R11, (int32_t)off));
    } else {
        em_const(e, R10, (uint64_t)off);
        t->r10_group = -1;
        em_lea(e, R11, HMEM_X(R11, R10, 0, 0));
    }
}

void op_offset(struct trans *t, const ZydisDecodedOperand *m)
{
    struct emit *e = &t->e;
    bool wide = t->i->address_width == 64, high;
    int64_t disp = m->mem.disp.has_displacement ? m->mem.disp.value : 0;
    struct hmem a = { .base = -1, .index = -1, .disp = (int32_t)disp };

    if (is_ip(m->mem.base)) {
        page_address(t, t->next + disp);
        return;
    }
    if (m->mem.base != ZYDIS_REGISTER_NONE) {
        unsigned g = op_gpr(m->mem.base, &high);
        int h = host_reg(g);
        if (h < 0) {
            em_load(e, R11, HOME(g));
            h = R11;
        }
        a.base = (int8_t)h;
    }
    if (m->mem.index != ZYDIS_REGISTER_NONE) {
        unsigned g = op_gpr(m->mem.index, &high);
        int h = host_reg(g);
        if (h < 0) {
            em_load(e, R10, HOME(g));
            t->r10_group = -1;
            h = R10;
        }
        a.index = (int8_t)h;
        a.scale = (uint8_t)(m->mem.scale == 8 ? 3 : m->mem.scale >> 1);
    }
    if (a.base < 0 && a.index < 0) { /* a constant; moffs may have 64 bits */
        em_const(e, R11, wide ? (uint64_t)disp : (uint32_t)disp);
        return;
    }
    if (wide)
        em_lea(e, R11, a);
    else
        em_lea32(e, R11, a);
}

bool op_address(struct trans *t, const ZydisDecodedOperand *m)
{
    struct emit *e = &t->e;

    if (!op_address_ok(t, m))
        return false;
    op_offset(t, m);
    if (m->mem.segment == ZYDIS_REGISTER_FS || m->mem.segment == ZYDIS_REGISTER_GS) {
        unsigned seg = m->mem.segment == ZYDIS_REGISTER_FS ? X86_FS : X86_GS;
        if (!t->m64 && !is_constant(m)) { /* wrapping at 4 GiB is beyond the limit, wherever the base is */
            em_lea(e, RCX, HMEM(R11, m->size / 8 - 1));
            em_rorx(e, RCX, RCX, 32, true);
            em_mov32(e, RCX, RCX);
            tr_step_unless_zero(t);
        }
        em_load(e, R10, HGS(offsetof(struct xlate, seg_base) + 8 * seg));
        t->r10_group = -1;
        if (t->m64)
            em_lea(e, R11, HMEM_X(R11, R10, 0, 0));
        else
            em_lea32(e, R11, HMEM_X(R11, R10, 0, 0));
    }
    return true;
}

void tr_step_unless_zero(struct trans *t)
{
    struct xrec *r = tr_rec(t, X_STEP, t->off);

    r->op = (uint16_t)t->i->mnemonic;
    em_jrcxz(&t->e, 5);
    tr_stub(t, em_jmp(&t->e), r, STUB_PLAIN);
}

/* Bits 63..47 are all the same: sign-extended from 48 bits it is itself. R10 = ~extended; RCX = reg + R10 + 1. */
void tr_canonical(struct trans *t, unsigned reg)
{
    struct emit *e = &t->e;

    t->r10_group = -1;
    em_const(e, R10, 16);
    em_vex_rr(e, EM_VEX(1, 2, 1, 0xf7), R10, R10, reg); /* shlx r10, reg, r10 */
    em_store(e, R10, X(shifted));
    em_const(e, R10, 16);
    em_vex_rm(e, EM_VEX(2, 2, 1, 0xf7), R10, R10, X(shifted)); /* sarx r10, [shifted], r10 */
    em_rr(e, 0xf7 | EM_W, 2, R10);                             /* not */
    em_lea(e, RCX, HMEM_X(reg, R10, 0, 1));
    tr_step_unless_zero(t);
}

/* The lookup of [R11, R11 + size) through record r. */
static void lookup(struct trans *t, struct xrec *r, unsigned size, bool write)
{
    struct emit *e = &t->e;
    size_t tlb = offsetof(struct xlate, tlb) + t->ctx * sizeof(struct xl_tlb);

    t->r10_group = -1;
    r->size = (uint16_t)size;
    r->write = write;
    r->stub = t->base + e->n; /* where to try again */
    em_rorx(e, R10, R11, PAGE_SHIFT, true);
    em_rr(e, EM_0F | 0xb7, R10, R10); /* movzx r10d, r10w */
    em_load(e, RCX, HGS_X(R10, tlb + (write ? offsetof(struct xl_tlb, wtag) : offsetof(struct xl_tlb, rtag))));
    em_lea(e, RCX, HMEM_X(RCX, R11, 0, size - 1));
    if (t->x->no_pext) {
        em_const(e, R10, PAGE_SHIFT);
        em_vex_rr(e, EM_VEX(3, 2, 1, 0xf7), RCX, R10, RCX); /* shrx rcx, rcx, r10 */
    } else {
        em_vex_rm(e, EM_VEX(2, 2, 1, 0xf5), RCX, RCX, X(mask_page)); /* pext rcx, rcx, [mask] */
    }
    em_jrcxz(e, 5);
    r->patch = t->base + e->n + 1;
    tr_stub(t, em_jmp(e), r, STUB_MISS);
    if (t->x->no_pext) {
        em_rorx(e, R10, R11, PAGE_SHIFT, true);
        em_rr(e, EM_0F | 0xb7, R10, R10);
    }
    em_load(e, R10, HGS_X(R10, tlb + offsetof(struct xl_tlb, addend)));
}

/* The window's offset for the address in register `at`, into R10. */
static void window(struct trans *t, unsigned at)
{
    size_t wtab = offsetof(struct xlate, wtab);

    t->r10_group = -1;
    if (!t->m64) {
        em_load(&t->e, R10, HGS(wtab));
        return;
    }
    em_const(&t->e, R10, 39);
    em_vex_rr(&t->e, EM_VEX(3, 2, 1, 0xf7), R10, R10, at); /* shrx r10, at, r10 */
    em_load(&t->e, R10, HGS_X(R10, wtab));
}

void op_lookup(struct trans *t, unsigned size, bool write)
{
    if (tr_window(t))
        window(t, R11);
    else
        lookup(t, tr_rec(t, X_MISS, t->off), size, write);
}

/* The group's registers plus disp into R11, as a linear address. Uses RCX. */
static void based(struct trans *t, const struct tr_group *g, int32_t disp)
{
    struct hmem m = { .base = -1, .index = -1, .scale = g->scale, .disp = disp };

    if (g->base == TR_IP) {
        page_address(t, disp);
        return;
    }
    m.base = (int8_t)host_reg(g->base);
    if (m.base < 0) {
        em_load(&t->e, R11, HOME(g->base));
        m.base = R11;
    }
    if (g->index < 16) {
        m.index = (int8_t)host_reg(g->index);
        if (m.index < 0) {
            em_load(&t->e, RCX, HOME(g->index));
            m.index = RCX;
        }
    }
    if (t->m64)
        em_lea(&t->e, R11, m);
    else
        em_lea32(&t->e, R11, m);
}

/* R10 gets what is kept for group k, from R11, the group's registers plus disp, and R10, the addend. */
static void keep(struct trans *t, unsigned k, int32_t disp)
{
    struct tr_group *g = &t->group[k];
    struct emit *e = &t->e;
    unsigned reg = g->hoist == HOIST_INDEX ? g->index : g->base;

    if (g->base == TR_IP) { /* the host address of the page */
        em_lea(e, R10, HMEM_X(R10, R11, 0, -disp));
    } else if (g->hoist >= HOIST_BASE) {
        int h = host_reg(reg);
        if (h < 0) {
            em_load(e, RCX, HOME(reg));
            h = RCX;
        }
        if (g->hoist == HOIST_BASE) /* it may be RSP, which cannot be an index */
            em_lea(e, R10, HMEM_X(h, R10, 0, 0));
        else
            em_lea(e, R10, HMEM_X(R10, h, g->scale, 0));
    }
    if (g->n > 1 || g->hoist != HOIST_NO)
        em_store(e, R10, HGS(offsetof(struct xlate, group) + 8 * k));
    g->made = true;
    t->r10_group = (int)k;
}

void op_group_keep(struct trans *t, unsigned k)
{
    based(t, &t->group[k], 0);
    window(t, R11);
    keep(t, k, 0);
}

/*
 * In windows a group has no range: all its addresses are within a displacement of the base register. Soft TLB: the
 * lookup at the first member; on a miss that filling does not cure, the same code without groups. True: R11 is left
 * with the access's linear address.
 */
static bool make(struct trans *t, unsigned k)
{
    struct tr_group *g = &t->group[k];
    int32_t disp = t->g->disp;
    struct xrec *r;

    if (t->kind & KIND_WIN) {
        int h = g->base == TR_IP ? -1 : host_reg(g->base);
        bool r11 = h < 0 || g->index < 16 || !t->m64;

        if (r11)
            based(t, g, disp);
        window(t, r11 ? R11 : (unsigned)h);
        keep(t, k, disp);
        return r11;
    }
    disp += g->lo - t->g->at;
    r = tr_rec(t, X_GROUP, t->off);
    based(t, g, disp);
    lookup(t, r, (unsigned)(g->hi - g->lo), g->write);
    r->write_first = g->write_first;
    keep(t, k, disp);
    return false;
}

/* The access through what is kept. linear: R11 is its linear address. */
static void place(struct trans *t, const struct tr_group *g, bool linear, struct tr_place *at)
{
    unsigned kept = g->reg ? g->reg : R10;
    unsigned reg = g->hoist == HOIST_BASE ? g->index : g->base;
    int32_t disp = t->g->disp;
    int h;

    if (t->x87_op || (g->base != TR_IP && g->hoist == HOIST_NO && (g->index < 16 || !t->m64))) {
        at->r11 = true;
        at->m = g->base == TR_IP ? HMEM(R10, disp) : HMEM_X(R11, R10, 0, 0);
        if (!linear)
            based(t, g, disp);
        return;
    }
    at->r11 = false;
    if (g->base == TR_IP) {
        at->m = HMEM(kept, disp);
        return;
    }
    h = host_reg(reg);
    if (h < 0) {
        at->r11 = true;
        em_load(&t->e, R11, HOME(reg));
        h = R11;
    }
    at->m = g->hoist == HOIST_BASE ? HMEM_X(kept, h, g->scale, disp) : HMEM_X(h, kept, 0, disp);
}

bool op_memory(struct trans *t, const ZydisDecodedOperand *m, unsigned size, bool write, struct tr_place *at)
{
    unsigned k = t->g->group;
    bool linear = false;

    if (!k--) {
        if (!op_address(t, m))
            return false;
        op_lookup(t, size, write);
        at->m = HMEM_X(R11, R10, 0, 0);
        at->r11 = true;
        return true;
    }
    if (t->group[k].reg) {
        place(t, &t->group[k], false, at);
        return true;
    }
    if (!t->group[k].made)
        linear = make(t, k);
    else if (t->r10_group != (int)k)
        em_load(&t->e, R10, HGS(offsetof(struct xlate, group) + 8 * k));
    t->r10_group = (int)k;
    place(t, &t->group[k], linear, at);
    return true;
}
