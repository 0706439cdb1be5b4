/* SPDX-License-Identifier: MIT */
/*
 * Operands that mean something. Registers and displacements are chosen so that each memory operand lands on an address
 * of our choice (inside the test pages, across their ends, outside); counts are kept small; branches go to INT3s.
 */
#include <string.h>

#include "gen.h"

static int gpr_id(ZydisRegister reg)
{
    ZydisRegisterClass cl = ZydisRegisterGetClass(reg);

    if (cl == ZYDIS_REGCLASS_GPR8) {
        int id = ZydisRegisterGetId(reg);

        return reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH ? (int)(reg - ZYDIS_REGISTER_AH)
               : id > 7                                             ? id - 4
                                                                    : id;
    }
    if (cl == ZYDIS_REGCLASS_GPR16 || cl == ZYDIS_REGCLASS_GPR32 || cl == ZYDIS_REGCLASS_GPR64)
        return ZydisRegisterGetId(reg);
    return -1;
}

/* Sets the low `bits` of a register; the rest becomes noise, which address arithmetic must ignore. */
static void set_low(struct gen_insn *i, int id, unsigned bits, uint64_t v)
{
    uint64_t *p = &i->c->in.gpr[id];

    if (bits >= 64)
        *p = v;
    else
        *p = (*p & ~((1UL << bits) - 1)) | (v & ((1UL << bits) - 1));
    if (i->c->mode32)
        *p = (uint32_t)*p;
}

static uint64_t low_bits(uint64_t v, unsigned bits)
{
    return bits >= 64 ? v : v & ((1UL << bits) - 1);
}

/* ---- where memory operands go ---- */

static uint64_t target_in_pages(struct rng *r, uint64_t base, unsigned pages, unsigned size)
{
    uint64_t span = pages * PAGE_SIZE - size - 1024;

    return base + 512 + rng_below(r, span);
}

bool gen_is_masked(const struct gen_insn *i)
{
    switch ((int)i->z.mnemonic) {
    case ZYDIS_MNEMONIC_MASKMOVQ:
    case ZYDIS_MNEMONIC_MASKMOVDQU:
    case ZYDIS_MNEMONIC_VMASKMOVDQU:
    case ZYDIS_MNEMONIC_VMASKMOVPS:
    case ZYDIS_MNEMONIC_VMASKMOVPD:
    case ZYDIS_MNEMONIC_VPMASKMOVD:
    case ZYDIS_MNEMONIC_VPMASKMOVQ:
        return true;
    default:
        return false;
    }
}

static uint64_t pick_target(struct gen_insn *i, unsigned size, unsigned aw)
{
    struct rng *r = i->r;
    uint64_t data = aw == 16 ? INSN_LOW : aw == 64 && rng_pct(r, 15) ? INSN_HIGH : INSN_DATA, t;

    if (!size)
        size = 1;
    if (size > 1024)
        size = 1024;
    unsigned p = (unsigned)rng_below(r, i->solid ? 80 : 100);

    if (p < 62) /* aligned */
        return target_in_pages(r, data, 2, size) & ~(uint64_t)(size >= 64 ? 63 : (size & -size) - 1);
    if (p < 74)
        return target_in_pages(r, data, 2, size);
    if (p < 80)
        return data + PAGE_SIZE - rng_below(r, size + 1);
    if (p < 85) /* into the hole */
        return data + 2 * PAGE_SIZE - rng_below(r, size + 1);
    if (p < 88)
        return data - rng_below(r, size + 1);
    if (aw == 16)
        return rng_next(r) & 0xffff;
    if (p < 92)
        return target_in_pages(r, INSN_RO, 1, size);
    if (p < 95) /* end of the read-only page */
        return INSN_RO + PAGE_SIZE - rng_below(r, size + 1);
    if (p < 97)
        return rng_pct(r, 50) ? INSN_CODE + rng_below(r, 0x2000) : INSN_DATA + 0x2000 + rng_below(r, 0x1000);
    t = rng_int(r);
    if (size > 32 || (size & (size - 1)) ||
        gen_is_masked(i)) /* several items: which of them wraps or faults first differs */
        t &= ~0xfffUL;
    else if (p < 99 && aw == 64) /* around the end of the canonical addresses, and of the address space */
        t = (rng_pct(r, 50) ? 0x800000000000 : 0) - rng_below(r, size + 9);
    return t;
}

/* Puts bytes at a linear address of the image, if there is room for another patch. */
static void patch_mem(struct gen_insn *i, uint64_t lin, const void *p, unsigned len)
{
    int64_t off = insn_image_off(lin), end = insn_image_off(lin + len - 1);
    struct insn_case *c = i->c;

    if (off < INSN_PG_FIRST_CMP * (int64_t)PAGE_SIZE || end != off + (int64_t)len - 1)
        return;
    for (const uint8_t *b = p; len && c->patches < INSN_PATCH_MAX;) {
        struct insn_patch *q = &c->patch[c->patches++];

        q->off = (uint32_t)off;
        q->len = len < sizeof(q->data) ? len : sizeof(q->data);
        memcpy(q->data, b, q->len);
        off += q->len;
        b += q->len;
        len -= q->len;
    }
}

/* ---- address arithmetic ---- */

static void disp_set(struct gen_insn *i, uint64_t v)
{
    memcpy(i->buf + i->z.raw.disp.offset, &v, i->z.raw.disp.size / 8);
}

/* Adjusts base, index or displacement so that operand m addresses t; returns the address really reached. */
static void solve_mem(struct gen_insn *i, const ZydisDecodedOperandMem *m, uint64_t t)
{
    unsigned aw = i->z.address_width;
    int base = gpr_id(m->base), index = gpr_id(m->index);
    bool has_disp = m->disp.has_displacement && i->z.raw.disp.size;
    uint64_t d = has_disp ? (uint64_t)m->disp.value : 0;

    if (m->segment == ZYDIS_REGISTER_FS || m->segment == ZYDIS_REGISTER_GS) {
        uint64_t seg = m->segment == ZYDIS_REGISTER_FS ? i->c->in.fs_base : i->c->in.gs_base;

        if (aw == 32 && t < seg && t >= INSN_DATA) /* the offset cannot be negative */
            t += PAGE_SIZE;
        t -= seg;
    }
    if (m->base == ZYDIS_REGISTER_RIP || m->base == ZYDIS_REGISTER_EIP) {
        disp_set(i, t - (i->ip + i->z.length));
    } else if (base < 0 && index < 0) {
        if (has_disp)
            disp_set(i, t);
    } else if (index < 0) {
        set_low(i, base, aw, t - d);
    } else if (base < 0) {
        if (rng_pct(i->r, 80))
            set_low(i, index, aw, rng_below(i->r, 256) - 128);
        if (has_disp)
            disp_set(i, t - i->c->in.gpr[index] * m->scale);
    } else if (base == index) {
        if (m->index == ZYDIS_REGISTER_AL) /* cannot be: XLAT uses RBX */
            return;
        set_low(i, base, aw, low_bits(t - d, aw) / (1 + (uint64_t)m->scale));
    } else {
        uint64_t x = i->c->in.gpr[index];

        if (m->index == ZYDIS_REGISTER_AL)
            x &= 0xff;
        else if (i->fixed >> base & 1) {
            set_low(i, index, aw, 0);
            x = 0;
        }
        set_low(i, base, aw, t - d - x * (m->index == ZYDIS_REGISTER_AL ? 1 : m->scale));
    }
}

/* Gathers and scatters: small indexes, one of them wild now and then. */
static void solve_vsib(struct gen_insn *i, const ZydisDecodedOperandMem *m)
{
    i->c->in.rflags &= ~(uint64_t)X86_FL_TF; /* may trap between elements */
    unsigned id = (unsigned)ZydisRegisterGetId(m->index), lane = 8;
    uint8_t *v = i->c->in.fpu.vec[id];

    switch ((int)i->z.mnemonic) {
    case ZYDIS_MNEMONIC_VGATHERDPS:
    case ZYDIS_MNEMONIC_VGATHERDPD:
    case ZYDIS_MNEMONIC_VPGATHERDD:
    case ZYDIS_MNEMONIC_VPGATHERDQ:
    case ZYDIS_MNEMONIC_VSCATTERDPS:
    case ZYDIS_MNEMONIC_VSCATTERDPD:
    case ZYDIS_MNEMONIC_VPSCATTERDD:
    case ZYDIS_MNEMONIC_VPSCATTERDQ:
        lane = 4;
    }
    unsigned width = i->g->host->off_zmmh ? 64 : 32;

    for (unsigned k = 0; k < width; k += lane) {
        int64_t x = (int64_t)rng_below(i->r, 256) - 128;

        memcpy(v + k, &x, lane);
    }
    if (!i->solid && rng_pct(i->r, 8)) {
        int64_t x = (int64_t)rng_next(i->r);

        memcpy(v + rng_below(i->r, 4) * lane, &x, lane);
    }
    uint64_t t = INSN_DATA + 0x800 + rng_below(i->r, 0x1000);
    int base = gpr_id(m->base);
    uint64_t d = m->disp.has_displacement ? (uint64_t)m->disp.value : 0;

    if (m->segment == ZYDIS_REGISTER_FS)
        t -= i->c->in.fs_base;
    if (m->segment == ZYDIS_REGISTER_GS)
        t -= i->c->in.gs_base;
    if (base >= 0)
        set_low(i, base, i->z.address_width, t - d);
    else if (i->z.raw.disp.size)
        disp_set(i, t);
}

/* ---- contents of memory operands ---- */

static void patch_fxrstor(struct gen_insn *i, uint64_t t)
{
    uint8_t b[512];
    struct x86_fpu *f = &i->g->scratch;

    gen_fpu(i->g, i->r, f);
    rng_bytes(i->r, b, sizeof(b));
    memcpy(b, &f->fcw, 2);
    memcpy(b + 2, &f->fsw, 2);
    if (rng_pct(i->r, 90))
        memcpy(b + 24, &f->mxcsr, 4);
    for (unsigned k = 0; k < 8; k++)
        memcpy(b + 32 + 16 * k, f->st[k], 10);
    patch_mem(i, t, b, sizeof(b));
}

static void patch_operand(struct gen_insn *i, uint64_t t, unsigned size)
{
    uint8_t b[64];
    uint64_t ax = i->c->in.gpr[X86_RAX], dx = i->c->in.gpr[X86_RDX];
    uint32_t v;

    if (!size || size > sizeof(b))
        size = 64;
    rng_vector(i->r, b, sizeof(b));
    switch ((int)i->z.mnemonic) {
    case ZYDIS_MNEMONIC_FXRSTOR:
    case ZYDIS_MNEMONIC_FXRSTOR64:
        patch_fxrstor(i, t);
        return;
    case ZYDIS_MNEMONIC_LDMXCSR:
    case ZYDIS_MNEMONIC_VLDMXCSR:
        v = (uint32_t)rng_next(i->r) & i->g->host->mxcsr_mask;
        if (rng_pct(i->r, 80))
            patch_mem(i, t, &v, 4);
        return;
    case ZYDIS_MNEMONIC_CMPXCHG:
        memcpy(b, &ax, 8);
        break;
    case ZYDIS_MNEMONIC_CMPXCHG8B:
        memcpy(b, &ax, 4);
        memcpy(b + 4, &dx, 4);
        break;
    case ZYDIS_MNEMONIC_CMPXCHG16B:
        memcpy(b, &ax, 8);
        memcpy(b + 8, &dx, 8);
        break;
    case ZYDIS_MNEMONIC_FLD:
        if (size == 10)
            rng_x87(i->r, b);
        break;
    default:
        break;
    }
    if (rng_pct(i->r, 70))
        patch_mem(i, t, b, size);
}

/* Which operand CMPS reads first is not specified, so only one of them may fault. */
static bool is_cmps(const struct gen_insn *i)
{
    return i->z.meta.category == ZYDIS_CATEGORY_STRINGOP && i->ops[0].type == ZYDIS_OPERAND_TYPE_MEMORY &&
           i->ops[1].type == ZYDIS_OPERAND_TYPE_MEMORY && i->z.mnemonic >= ZYDIS_MNEMONIC_CMPSB &&
           i->z.mnemonic <= ZYDIS_MNEMONIC_CMPSW;
}

static void solve_memory(struct gen_insn *i)
{
    unsigned safe = is_cmps(i) ? (unsigned)rng_below(i->r, 2) : 2;

    for (unsigned k = 0; k < i->z.operand_count; k++) {
        const ZydisDecodedOperand *o = &i->ops[k];

        if (o->type != ZYDIS_OPERAND_TYPE_MEMORY)
            continue;
        const ZydisDecodedOperandMem *m = &o->mem;
        ZydisRegister b = m->base;

        if (m->type == ZYDIS_MEMOP_TYPE_VSIB) {
            solve_vsib(i, m);
            continue;
        }
        if (o->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN &&
            (gpr_id(b) == X86_RSP || gpr_id(b) == X86_RBP)) /* the stack: state.c has set it */
            continue;
        bool low_only =
            b == ZYDIS_REGISTER_RIP || b == ZYDIS_REGISTER_EIP || (gpr_id(b) < 0 && i->z.raw.disp.size < 64);
        uint64_t t = pick_target(i, o->size / 8, low_only && i->z.address_width == 64 ? 32 : i->z.address_width);

        if (k == safe) /* aligned, inside the pages for any count */
            t = (i->z.address_width == 16 ? INSN_LOW : INSN_DATA) + 0x200 + rng_below(i->r, 0x180) * 8;

        if (m->type == ZYDIS_MEMOP_TYPE_AGEN && rng_pct(i->r, 70))
            continue;
        solve_mem(i, m, t);
        patch_operand(i, t, o->size / 8);
    }
}

/* ---- particular instructions ---- */

/* An address that holds INT3. */
static uint64_t code_target(struct gen_insn *i)
{
    uint64_t own = i->ip & 0x1fff, t;

    do
        t = rng_below(i->r, 0x1ff0);
    while (t + 16 > own && t < own + 32);
    return INSN_CODE + t;
}

static void solve_branch(struct gen_insn *i)
{
    uint64_t t = code_target(i), rel;
    const ZydisDecodedOperand *o = &i->ops[0];

    if (i->z.raw.imm[0].is_relative) {
        rel = t - (i->ip + i->z.length);
        if (i->z.raw.imm[0].size == 8) {
            rel = rng_below(i->r, 0x60) + 16;
            if (rng_pct(i->r, 50) && (i->ip & 0xfff) > 0xa0)
                rel = -rel - 16;
        }
        memcpy(i->buf + i->z.raw.imm[0].offset, &rel, i->z.raw.imm[0].size / 8);
    } else if (i->z.meta.branch_type == ZYDIS_BRANCH_TYPE_NEAR && i->z.operand_count_visible) {
        bool by_rsp =
            o->type == ZYDIS_OPERAND_TYPE_REGISTER ? gpr_id(o->reg.value) == X86_RSP : gpr_id(o->mem.base) == X86_RSP;

        if (!i->solid && rng_pct(i->r, 4) && !by_rsp)
            t = rng_int(i->r);
        if (i->z.meta.category == ZYDIS_CATEGORY_CALL) /* bad target or bad stack first? by vendor */
            i->c->in.gpr[X86_RSP] = INSN_STACK + 0x1000 + 8 * rng_below(i->r, 64);
        if (o->type == ZYDIS_OPERAND_TYPE_REGISTER) {
            set_low(i, gpr_id(o->reg.value), o->size, t);
        } else if (o->type == ZYDIS_OPERAND_TYPE_MEMORY) {
            uint64_t at = INSN_DATA + 0x100 + rng_below(i->r, 0xe00) * 2;

            solve_mem(i, &o->mem, at);
            patch_mem(i, at, &t, 8);
        }
    }
    if (i->z.meta.category == ZYDIS_CATEGORY_RET) {
        if (!i->solid && rng_pct(i->r, 4))
            t = rng_int(i->r);
        patch_mem(i, i->c->in.gpr[X86_RSP], &t, 8);
    }
}

static void solve_divide(struct gen_insn *i)
{
    uint64_t *a = &i->c->in.gpr[X86_RAX], *d = &i->c->in.gpr[X86_RDX];

    if (!i->solid && rng_pct(i->r, 30))
        return;
    if (i->ops[0].size == 8) {
        *a = (*a & ~0xff00UL) | rng_below(i->r, 4) << 8;
    } else {
        *d = rng_below(i->r, 3);
        if (i->z.mnemonic == ZYDIS_MNEMONIC_IDIV && rng_pct(i->r, 50))
            *d = i->c->mode32 ? 0xffffffff : ~0UL;
    }
}

/* Selectors: descriptors of the GDT that are the same everywhere; not the one that holds the CPU number. */
static uint16_t any_selector(struct rng *r)
{
    static const uint16_t sel[] = { 0,    3,    0x08, 0x10, 0x18, 0x20, 0x23, 0x28,  0x2b,
                                    0x30, 0x33, 0x40, 0x41, 0x48, 0x33, 0x0c, 0xfff8 };

    return sel[rng_below(r, ARRAY_LEN(sel))];
}

static uint16_t code_selector(struct rng *r)
{
    return rng_pct(r, 45) ? 0x33 : rng_pct(r, 75) ? 0x23 : any_selector(r);
}

static uint16_t data_selector(struct rng *r)
{
    return rng_pct(r, 40) ? 0x2b : rng_pct(r, 25) ? 0 : any_selector(r);
}

static void solve_selector(struct gen_insn *i)
{
    for (unsigned k = 0; k < i->z.operand_count_visible; k++) {
        const ZydisDecodedOperand *o = &i->ops[k];
        uint16_t s = any_selector(i->r);

        if (o->type == ZYDIS_OPERAND_TYPE_REGISTER && gpr_id(o->reg.value) >= 0)
            set_low(i, gpr_id(o->reg.value), 16, s);
        if (o->type == ZYDIS_OPERAND_TYPE_MEMORY) {
            uint64_t at = INSN_DATA + 0x100 + rng_below(i->r, 0xe00) * 2;

            solve_mem(i, &o->mem, at);
            patch_mem(i, at, &s, 2);
        }
    }
}

/* MOV and POP of a segment register, and the loads of far pointers. */
static void solve_segment(struct gen_insn *i)
{
    uint16_t s = data_selector(i->r);
    const ZydisDecodedOperand *o = &i->ops[1];
    uint64_t at = INSN_DATA + 0x100 + rng_below(i->r, 0xe00) * 2;

    if (i->z.meta.category == ZYDIS_CATEGORY_POP) {
        patch_mem(i, i->c->in.gpr[X86_RSP], &s, 2);
    } else if (o->type == ZYDIS_OPERAND_TYPE_REGISTER) {
        set_low(i, gpr_id(o->reg.value), 16, s);
    } else if (o->type == ZYDIS_OPERAND_TYPE_MEMORY) {
        solve_mem(i, &o->mem, at);
        patch_mem(i, at + (i->z.mnemonic == ZYDIS_MNEMONIC_MOV ? 0 : i->z.operand_width / 8), &s, 2);
    }
}

/* Far JMP and CALL, RETF, IRET: to 64-bit or 32-bit code, or through a selector that must be refused. */
static void solve_far(struct gen_insn *i)
{
    unsigned size = i->z.operand_width / 8;
    uint64_t t = rng_pct(i->r, 95) ? code_target(i) : rng_int(i->r), sp = i->c->in.gpr[X86_RSP];
    uint64_t fl = rng_next(i->r) & (X86_FL_ARITH | X86_FL_DF | X86_FL_ID | X86_FL_IF | X86_FL_NT | X86_FL_AC);
    uint64_t rsp = INSN_STACK + 0x800 + rng_below(i->r, 0x800);
    uint16_t cs = code_selector(i->r), ss = data_selector(i->r);
    uint64_t at = INSN_DATA + 0x100 + rng_below(i->r, 0xe00) * 2;

    if (i->ops[0].type != ZYDIS_OPERAND_TYPE_MEMORY || i->z.meta.category == ZYDIS_CATEGORY_CALL)
        sp = i->c->in.gpr[X86_RSP] = INSN_STACK + 0xc00 + rng_below(i->r, 0x400) * 2; /* what faults first differs */
    if (i->z.meta.category == ZYDIS_CATEGORY_RET) {
        patch_mem(i, sp, &t, size);
        patch_mem(i, sp + size, &cs, 2);
        if (i->z.mnemonic != ZYDIS_MNEMONIC_RET) {
            patch_mem(i, sp + 2 * size, &fl, size);
            patch_mem(i, sp + 3 * size, &rsp, size);
            patch_mem(i, sp + 4 * size, &ss, 2);
        } else if (i->z.raw.imm[0].size) {
            memset(i->buf + i->z.raw.imm[0].offset + 1, 0, 1);
            i->c->in.rflags &= ~(uint64_t)X86_FL_AC; /* AMD reads the outer stack before it looks at the selector */
        }
    } else if (i->ops[0].type == ZYDIS_OPERAND_TYPE_MEMORY) {
        solve_mem(i, &i->ops[0].mem, at);
        if (i->c->in.gpr[X86_RSP] >> 32) /* how wide the stack is when CALL leaves 64-bit mode differs */
            cs = 0x33;
        patch_mem(i, at, &t, size);
        patch_mem(i, at + size, &cs, 2);
    } else { /* ptr16:16, ptr16:32 */
        unsigned off = i->z.raw.imm[0].offset;

        memcpy(i->buf + off, &t, size == 8 ? 4 : size);
        memcpy(i->buf + off + (size == 8 ? 4 : size), &cs, 2);
    }
}

static void solve_bit_test(struct gen_insn *i)
{
    int id = gpr_id(i->ops[1].reg.value);

    if (i->ops[0].type != ZYDIS_OPERAND_TYPE_MEMORY || i->ops[1].type != ZYDIS_OPERAND_TYPE_REGISTER || id < 0)
        return;
    if (i->solid || rng_pct(i->r, 85))
        set_low(i, id, i->ops[1].size, rng_below(i->r, 4096) - 2048);
}

/* A count of at most 23 in the register of the address size; what is above it must not matter. */
static void solve_count(struct gen_insn *i)
{
    uint64_t rep = ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE;

    if (i->z.attributes & rep)
        set_low(i, X86_RCX, i->z.address_width, rng_below(i->r, 24));
}

static void solve_imm(struct gen_insn *i)
{
    for (unsigned k = 0; k < 2; k++) {
        unsigned n = i->z.raw.imm[k].size / 8;
        uint64_t v = rng_int(i->r);

        if (!n || i->z.raw.imm[k].is_relative || rng_pct(i->r, 40))
            continue;
        memcpy(i->buf + i->z.raw.imm[k].offset, &v, n);
    }
}

static void solve_special_pre(struct gen_insn *i)
{
    struct insn_state *s = &i->c->in;

    switch ((int)i->z.mnemonic) {
    case ZYDIS_MNEMONIC_INT:
        if (i->buf[i->z.raw.imm[0].offset] == 0x80)
            i->buf[i->z.raw.imm[0].offset] = 0x81;
        break;
    case ZYDIS_MNEMONIC_BT:
    case ZYDIS_MNEMONIC_BTS:
    case ZYDIS_MNEMONIC_BTR:
    case ZYDIS_MNEMONIC_BTC:
        solve_bit_test(i);
        break;
    case ZYDIS_MNEMONIC_DIV:
    case ZYDIS_MNEMONIC_IDIV:
        solve_divide(i);
        break;
    case ZYDIS_MNEMONIC_XGETBV:
        s->gpr[X86_RCX] = rng_pct(i->r, 70) ? 0 : 2 + rng_below(i->r, 100);
        break;
    case ZYDIS_MNEMONIC_ENTER: {
        uint16_t size = (uint16_t)rng_below(i->r, 64);
        uint8_t level = rng_pct(i->r, 60) ? 0 : (uint8_t)rng_next(i->r);

        memcpy(i->buf + i->z.raw.imm[0].offset, &size, 2);
        i->buf[i->z.raw.imm[1].offset] = level;
        s->rflags &= ~(uint64_t)X86_FL_AC; /* the probe of the final RSP: whether it checks alignment differs */
        s->gpr[X86_RBP] = INSN_STACK + 0x1000 + rng_below(i->r, 0x800);
        break;
    }
    case ZYDIS_MNEMONIC_LEAVE:
        if (rng_pct(i->r, 90))
            s->gpr[X86_RBP] = INSN_STACK + 0x800 + rng_below(i->r, 0x1000);
        break;
    case ZYDIS_MNEMONIC_LOOP:
    case ZYDIS_MNEMONIC_LOOPE:
    case ZYDIS_MNEMONIC_LOOPNE:
    case ZYDIS_MNEMONIC_JRCXZ:
    case ZYDIS_MNEMONIC_JECXZ:
    case ZYDIS_MNEMONIC_JCXZ:
        set_low(i, X86_RCX, i->z.address_width, rng_below(i->r, 3));
        break;
    default:
        break;
    }
}

static void solve_special_post(struct gen_insn *i)
{
    uint64_t fl = rng_next(i->r) & (X86_FL_ARITH | X86_FL_DF | X86_FL_ID | X86_FL_AC | X86_FL_NT | X86_FL_IF | 0x3000);

    switch ((int)i->z.mnemonic) {
    case ZYDIS_MNEMONIC_LAR:
    case ZYDIS_MNEMONIC_LSL:
    case ZYDIS_MNEMONIC_VERR:
    case ZYDIS_MNEMONIC_VERW:
    case ZYDIS_MNEMONIC_ARPL:
        solve_selector(i);
        break;
    case ZYDIS_MNEMONIC_LDS:
    case ZYDIS_MNEMONIC_LES:
    case ZYDIS_MNEMONIC_LSS:
    case ZYDIS_MNEMONIC_LFS:
    case ZYDIS_MNEMONIC_LGS:
        solve_segment(i);
        break;
    case ZYDIS_MNEMONIC_POP:
    case ZYDIS_MNEMONIC_MOV:
        if (i->ops[0].type == ZYDIS_OPERAND_TYPE_REGISTER &&
            ZydisRegisterGetClass(i->ops[0].reg.value) == ZYDIS_REGCLASS_SEGMENT)
            solve_segment(i);
        break;
    case ZYDIS_MNEMONIC_POPF:
    case ZYDIS_MNEMONIC_POPFD:
    case ZYDIS_MNEMONIC_POPFQ:
        if (rng_pct(i->r, 50))
            fl &= ~(uint64_t)(X86_FL_AC | X86_FL_NT);
        patch_mem(i, i->c->in.gpr[X86_RSP], &fl, 8);
        break;
    default:
        break;
    }
}

static bool is_far(const struct gen_insn *i)
{
    return i->z.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR || i->z.mnemonic == ZYDIS_MNEMONIC_IRET ||
           i->z.mnemonic == ZYDIS_MNEMONIC_IRETD || i->z.mnemonic == ZYDIS_MNEMONIC_IRETQ;
}

void gen_solve(struct gen_insn *i)
{
    solve_imm(i);
    if (!gen_decode(i))
        return;
    solve_special_pre(i);
    gen_decode(i);
    if (i->c->mode32 && (i->z.attributes & ZYDIS_ATTRIB_HAS_SEGMENT_CS)) /* #GP of writing to it, or #AC? */
        i->c->in.rflags &= ~(uint64_t)X86_FL_AC;
    solve_count(i);
    solve_memory(i);
    if (is_far(i))
        solve_far(i);
    else if (i->z.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE || i->z.meta.category == ZYDIS_CATEGORY_RET)
        solve_branch(i);
    solve_special_post(i);
}
