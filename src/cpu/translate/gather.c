/* SPDX-License-Identifier: MIT */
/*
 * AVX2 gathers.
 *
 * Windows: the host's own instruction, from the window of the base. An index of 32 bits, scaled, cannot get over the
 * unmapped space on both sides of a window (window.c); one of 64 bits is looked at first. A fault leaves the elements
 * that are done in the guest's registers, as it should be, and the instruction goes on with the others.
 *
 * Soft TLB: index, mask and destination go to memory, and each element is a load of its own. The registers change at
 * the end. What has a miss, or 32-bit addresses, is done in C on the same memory (fast_gather.c), or else interpreted.
 */
#include "cpu/translate/fast.h"
#include "cpu/translate/trans.h"
#include "x86/isa.h"

static bool shape_of(const struct trans *t, struct gather *g)
{
    unsigned op = t->i->opcode, bytes = t->i->raw.vex.L ? 32 : 16;

    g->elem_log = t->i->raw.vex.W ? 3 : 2;
    g->index_log = op & 1 ? 3 : 2;
    g->count = (uint8_t)(bytes >> (g->elem_log > g->index_log ? g->elem_log : g->index_log));
    g->scale_log = (uint8_t)(t->op[1].mem.scale ? __builtin_ctz(t->op[1].mem.scale) : 0);
    g->narrow = t->i->address_width == 32;
    g->dst = (uint8_t)ZydisRegisterGetId(t->op[0].reg.value);
    g->index = (uint8_t)ZydisRegisterGetId(t->op[1].mem.index);
    g->mask = (uint8_t)ZydisRegisterGetId(t->op[2].reg.value);
    return (op & 0xfc) == 0x90 && g->dst != g->index && g->dst != g->mask && g->index != g->mask;
}

static void spill(struct trans *t, unsigned reg, size_t at)
{
    em_vex_rm(&t->e, EM_VEX(EM_VEX_256, 1, 0, 0x11), reg, 0, HGS(at)); /* vmovups */
}

static void slow_unless_zero(struct trans *t, const struct xrec *slow)
{
    em_jrcxz(&t->e, 5);
    tr_stub(t, em_jmp(&t->e), slow, STUB_PLAIN);
}

/* Element k into its place in memory, if its mask says so. */
static void element(struct trans *t, const struct gather *g, unsigned k, const struct xrec *slow)
{
    struct emit *e = &t->e;
    size_t tlb = offsetof(struct xlate, tlb) + t->ctx * sizeof(struct xl_tlb);
    unsigned size = 1U << g->elem_log, jump;

    em_const(e, R10, 31);
    em_vex_rm(e, EM_VEX(3, 2, 0, 0xf7), RCX, R10, HGS(XL_LANE(mask) + (k + 1) * size - 4)); /* shrx ecx, [], r10d */
    em_jrcxz(e, 0);
    jump = e->n;
    if (g->index_log == 3)
        em_load(e, R11, HGS(XL_LANE(index) + 8 * k));
    else
        em_rm(e, 0x63 | EM_W, R11, HGS(XL_LANE(index) + 4 * k)); /* movsxd */
    em_load(e, RCX, X(spill));
    em_lea(e, R11, HMEM_X(RCX, R11, g->scale_log, 0));
    em_rorx(e, R10, R11, PAGE_SHIFT, true);
    em_rr(e, EM_0F | 0xb7, R10, R10); /* movzx r10d, r10w */
    em_load(e, RCX, HGS_X(R10, tlb + offsetof(struct xl_tlb, rtag)));
    em_lea(e, RCX, HMEM_X(RCX, R11, 0, size - 1));
    em_vex_rm(e, EM_VEX(2, 2, 1, 0xf5), RCX, RCX, X(mask_page)); /* pext rcx, rcx, [mask] */
    slow_unless_zero(t, slow);
    em_load(e, R10, HGS_X(R10, tlb + offsetof(struct xl_tlb, addend)));
    em_rm(e, 0x8b | (size == 8 ? EM_W : 0), RCX, HMEM_X(R11, R10, 0, 0));
    em_rm(e, 0x89 | (size == 8 ? EM_W : 0), RCX, HGS(XL_LANE(dst) + k * size));
    if (!e->full)
        e->p[jump - 1] = (uint8_t)(e->n - jump);
}

/* The registers from memory. Up to here the instruction may be run again. */
static void finish(struct trans *t, const struct gather *g)
{
    struct emit *e = &t->e;

    em_vex_rm(e, EM_VEX(g->count << g->elem_log > 16 ? EM_VEX_256 : 0, 1, 0, 0x10), g->dst, 0, HGS(XL_LANE(dst)));
    em_vex_rr(e, EM_VEX(1, 1, 0, 0xef), g->mask, g->mask, g->mask); /* vpxor */
}

/* All indices have 32 bits with their sign. Uses R10. */
static void check_indices(struct trans *t, const struct gather *g, const struct xrec *slow)
{
    struct emit *e = &t->e;

    for (unsigned k = 0; k < g->count; k++) {
        em_rm(e, 0x63 | EM_W, RCX, HGS(XL_LANE(index) + 8 * k)); /* movsxd */
        em_load(e, R10, HGS(XL_LANE(index) + 8 * k));
        em_rr(e, 0xf7 | EM_W, 2, R10); /* not */
        em_lea(e, RCX, HMEM_X(RCX, R10, 0, 1));
        slow_unless_zero(t, slow);
    }
}

static void in_window(struct trans *t, const struct gather *g, struct xrec *slow)
{
    struct emit *e = &t->e;
    struct hmem at = HMEM_X(R11, g->index, g->scale_log, 0);
    uint32_t over;

    at.vsib = true;
    if (g->index_log == 3)
        check_indices(t, g, slow);
    op_lookup(t, 1, false);
    em_lea(e, R11, HMEM_X(R11, R10, 0, 0));
    em_vex_rm(e, EM_VEX(1 | (t->i->raw.vex.L ? EM_VEX_256 : 0), 2, t->i->raw.vex.W, t->i->opcode), g->dst, g->mask, at);
    if (g->index_log == 2)
        return;
    over = em_jmp(e);
    slow->stub = t->base + e->n;
    finish(t, g);
    em_land32(e, over);
}

bool rewrite_gather(struct trans *t)
{
    ZydisDecodedOperand base = t->op[1];
    bool win = tr_window(t), wide = t->m64 && t->i->address_width == 64;
    struct gather g;
    struct xrec *slow;

    if (t->x->verify || !(t->kind & KIND_AVX) || t->x->no_pext || !shape_of(t, &g) ||
        !x86_isa_offered(t->x->v->model, (unsigned)t->i->meta.isa_set, (unsigned)t->i->mnemonic))
        return false;
    base.mem.type = ZYDIS_MEMOP_TYPE_MEM;
    base.mem.index = ZYDIS_REGISTER_NONE;
    if (t->m64 && !wide && (base.mem.segment == ZYDIS_REGISTER_FS || base.mem.segment == ZYDIS_REGISTER_GS))
        return false;
    if (!op_address(t, &base))
        return false;
    t->r10_group = -1;
    if (win && wide && g.index_log == 2) {
        in_window(t, &g, NULL);
        return true;
    }
    slow = tr_rec(t, X_GATHER, t->off);
    slow->op = (uint16_t)t->i->mnemonic;
    slow->gather = g;
    em_store(&t->e, R11, X(spill));
    spill(t, g.index, XL_LANE(index));
    spill(t, g.mask, XL_LANE(mask));
    spill(t, g.dst, XL_LANE(dst));
    if (win && wide) {
        in_window(t, &g, slow);
        return true;
    }
    if (!wide) {
        tr_stub(t, em_jmp(&t->e), slow, STUB_PLAIN);
    } else {
        for (unsigned k = 0; k < g.count; k++)
            element(t, &g, k, slow);
        if (g.count << g.elem_log < 16) {
            em_rm(&t->e, 0xc7 | EM_W, 0, HGS(XL_LANE(dst) + 8));
            em32(&t->e, 0);
        }
    }
    slow->stub = t->base + t->e.n;
    finish(t, &g);
    return true;
}
