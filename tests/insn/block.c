/* SPDX-License-Identifier: MIT */
/*
 * Blocks: 2 to 32 instructions with branches among them (flow.c). A few registers hold addresses and are written by
 * nothing, so that memory operands stay inside the pages whatever the other instructions compute; others count loops.
 * Half of the blocks lie across the end of the first code page or run over that of the last, behind which nothing is
 * mapped. A fault or trap may end a block early.
 */
#include <string.h>

#include "block.h"

enum { TRIES = 60 };

static int gpr_of(ZydisRegister reg)
{
    ZydisRegisterClass cl = ZydisRegisterGetClass(reg);
    int id = ZydisRegisterGetId(reg);

    if (cl == ZYDIS_REGCLASS_GPR8)
        return reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH ? (int)(reg - ZYDIS_REGISTER_AH)
               : id > 7                                             ? id - 4
                                                                    : id;
    return cl == ZYDIS_REGCLASS_GPR16 || cl == ZYDIS_REGCLASS_GPR32 || cl == ZYDIS_REGCLASS_GPR64 ? id : -1;
}

static bool is_fixed(const struct block *b, ZydisRegister reg)
{
    int id = gpr_of(reg);

    return id >= 0 && (b->fixed >> id & 1);
}

static bool is_pointer(const struct block *b, ZydisRegister reg)
{
    return is_fixed(b, reg) && !(b->counters >> gpr_of(reg) & 1);
}

void block_emit(struct block *b, const void *bytes, unsigned len)
{
    b->start[b->n++] = b->c->code_len;
    memcpy(b->c->code + b->c->code_len, bytes, len);
    b->c->code_len = (uint16_t)(b->c->code_len + len);
}

/* ---- plain instructions ---- */

static bool unfit(const struct gen_insn *i)
{
    switch (i->z.meta.category) {
    case ZYDIS_CATEGORY_SYSTEM:
    case ZYDIS_CATEGORY_INTERRUPT:
    case ZYDIS_CATEGORY_IO:
    case ZYDIS_CATEGORY_IOSTRINGOP:
    case ZYDIS_CATEGORY_STRINGOP:
    case ZYDIS_CATEGORY_CALL:
    case ZYDIS_CATEGORY_RET:
    case ZYDIS_CATEGORY_COND_BR:
    case ZYDIS_CATEGORY_UNCOND_BR:
    case ZYDIS_CATEGORY_AVX2GATHER:
    case ZYDIS_CATEGORY_GATHER:
    case ZYDIS_CATEGORY_SCATTER:
    case ZYDIS_CATEGORY_XSAVE:
    case ZYDIS_CATEGORY_DECIMAL: /* the flags they leave undefined do differ */
        return true;
    case ZYDIS_CATEGORY_ROTATE: /* likewise Intel's by form: counts in an immediate or in CL */
        return __builtin_cpu_is("intel");
    default:
        break;
    }
    switch ((int)i->z.mnemonic) {
    case ZYDIS_MNEMONIC_LDS:
    case ZYDIS_MNEMONIC_LES:
    case ZYDIS_MNEMONIC_LSS:
    case ZYDIS_MNEMONIC_LFS:
    case ZYDIS_MNEMONIC_LGS:
    case ZYDIS_MNEMONIC_ENTER:
    case ZYDIS_MNEMONIC_LEAVE:
    case ZYDIS_MNEMONIC_POPA:
    case ZYDIS_MNEMONIC_POPAD:
    case ZYDIS_MNEMONIC_POPF:
    case ZYDIS_MNEMONIC_POPFD:
    case ZYDIS_MNEMONIC_POPFQ:
    case ZYDIS_MNEMONIC_UD0:
    case ZYDIS_MNEMONIC_UD1:
    case ZYDIS_MNEMONIC_UD2:
    case ZYDIS_MNEMONIC_WRFSBASE:
    case ZYDIS_MNEMONIC_WRGSBASE:
    case ZYDIS_MNEMONIC_LAR:
    case ZYDIS_MNEMONIC_LSL:
    case ZYDIS_MNEMONIC_VERR:
    case ZYDIS_MNEMONIC_VERW:
    case ZYDIS_MNEMONIC_XGETBV:
    case ZYDIS_MNEMONIC_FXRSTOR:
    case ZYDIS_MNEMONIC_FXRSTOR64:
    case ZYDIS_MNEMONIC_LDMXCSR:
    case ZYDIS_MNEMONIC_VLDMXCSR:
    case ZYDIS_MNEMONIC_FLDENV:
    case ZYDIS_MNEMONIC_FRSTOR:
    case ZYDIS_MNEMONIC_FLDCW:
    case ZYDIS_MNEMONIC_FNSTENV: /* store the pointers, which the host keeps or not by model */
    case ZYDIS_MNEMONIC_FNSAVE:
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXSAVE64:
        return true;
    case ZYDIS_MNEMONIC_DIV:
    case ZYDIS_MNEMONIC_IDIV:
        return rng_pct(i->r, 70);
    case ZYDIS_MNEMONIC_BT:
    case ZYDIS_MNEMONIC_BTS:
    case ZYDIS_MNEMONIC_BTR:
    case ZYDIS_MNEMONIC_BTC:
        return i->ops[0].type == ZYDIS_OPERAND_TYPE_MEMORY && i->ops[1].type == ZYDIS_OPERAND_TYPE_REGISTER;
    default:
        return false;
    }
}

/* Makes one memory operand stay inside the pages by its displacement alone; false if it cannot. */
static bool solve_mem(const struct block *b, struct gen_insn *i, const ZydisDecodedOperand *o)
{
    const ZydisDecodedOperandMem *m = &o->mem;
    unsigned size = o->size / 8 ? o->size / 8 : 1, dsize = i->z.raw.disp.size / 8;
    uint64_t align = size >= 64 ? 64 : 1UL << (63 - __builtin_clzl(size)), d;

    if (m->type == ZYDIS_MEMOP_TYPE_AGEN)
        return true;
    if (m->segment == ZYDIS_REGISTER_FS || m->segment == ZYDIS_REGISTER_GS || m->index != ZYDIS_REGISTER_NONE)
        return i->z.mnemonic == ZYDIS_MNEMONIC_XLAT && is_pointer(b, m->base);
    if (size > 1024 || i->z.address_width == 16)
        return false;
    if (o->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN)
        return is_pointer(b, m->base);
    if (rng_pct(i->r, 8))
        align = 1;
    if (m->base == ZYDIS_REGISTER_RIP || m->base == ZYDIS_REGISTER_EIP || m->base == ZYDIS_REGISTER_NONE) {
        if (dsize != 4)
            return false;
        d = (INSN_DATA + 0x400 + rng_below(i->r, 0x1000)) & ~(align - 1);
        if (m->base != ZYDIS_REGISTER_NONE)
            d -= i->ip + i->z.length;
    } else {
        if (!is_pointer(b, m->base))
            return false;
        d = (rng_below(i->r, dsize == 1 ? 256 : 1024) - (dsize == 1 ? 128 : 512)) & ~(align - 1);
    }
    memcpy(i->buf + i->z.raw.disp.offset, &d, dsize);
    return true;
}

static bool fits(const struct block *b, struct gen_insn *i)
{
    bool stack = i->z.meta.category == ZYDIS_CATEGORY_PUSH || i->z.meta.category == ZYDIS_CATEGORY_POP;

    if (unfit(i) || i->c->code_len + i->z.length > MAX_BYTES)
        return false;
    for (unsigned k = 0; k < i->z.operand_count; k++) {
        const ZydisDecodedOperand *o = &i->ops[k];

        if (o->type == ZYDIS_OPERAND_TYPE_REGISTER && (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) &&
            is_fixed(b, o->reg.value) &&
            !(stack && gpr_of(o->reg.value) == X86_RSP && o->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN))
            return false;
        if (o->type == ZYDIS_OPERAND_TYPE_REGISTER && (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) &&
            ZydisRegisterGetClass(o->reg.value) == ZYDIS_REGCLASS_SEGMENT)
            return false;
        if (o->type == ZYDIS_OPERAND_TYPE_MEMORY && !solve_mem(b, i, o))
            return false;
    }
    return gen_decode(i);
}

static struct form *any_form(struct block *b)
{
    struct forms *f = b->g->f[b->c->mode32];
    unsigned m = (unsigned)rng_below(b->r, f->mnemonics), lo = f->first[m];

    if (rng_pct(b->r, 50)) /* mostly the old integer instructions */
        for (unsigned k = 0; k < 8; k++) {
            struct form *fm = &f->form[rng_below(b->r, f->n)];

            if (fm->isa_set == ZYDIS_ISA_SET_I86 || fm->isa_set == ZYDIS_ISA_SET_I386)
                return fm;
        }
    return &f->form[f->by_mnemonic[lo + rng_below(b->r, f->first[m + 1] - lo)]];
}

static void add_plain(struct block *b)
{
    struct gen_insn i = { .g = b->g, .r = b->r, .c = b->c, .solid = true, .fixed = b->fixed };

    i.ip = INSN_CODE + b->c->code_off + b->c->code_len;
    for (unsigned k = 0; k < TRIES; k++) {
        struct form *fm = any_form(b);

        if (!gen_encode(&i, fm) || isa_denied(&i.z, i.ops) || !fits(b, &i))
            continue;
        fm->hits++;
        block_emit(b, i.buf, i.z.length);
        return;
    }
}

void block_mov(struct block *b, unsigned reg, uint32_t v)
{
    uint8_t x[6] = { 0x41, (uint8_t)(0xb8 + (reg & 7)) };
    unsigned skip = reg < 8;

    memcpy(x + 2, &v, 4);
    block_emit(b, x + skip, 6 - skip);
}

static void add_string(struct block *b)
{
    static const uint8_t op[] = { 0xa4, 0xa5, 0xa6, 0xa7, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf };
    uint8_t x[4];
    unsigned n = 0;

    if (!block_room(b, 4) || (b->fixed >> X86_RCX & 1))
        return;
    flow_whole(b);
    block_mov(b, X86_RSI, (uint32_t)(INSN_DATA + 0x400 + rng_below(b->r, 0x1800)));
    block_mov(b, X86_RDI, (uint32_t)(INSN_DATA + 0x400 + rng_below(b->r, 0x1800)));
    block_mov(b, X86_RCX, (uint32_t)rng_below(b->r, 20));
    if (rng_pct(b->r, 70))
        x[n++] = rng_pct(b->r, 70) ? 0xf3 : 0xf2;
    if (rng_pct(b->r, 25))
        x[n++] = 0x66;
    if (!b->c->mode32 && rng_pct(b->r, 40))
        x[n++] = 0x48;
    x[n++] = op[rng_below(b->r, sizeof(op))];
    block_emit(b, x, n);
}

static void pointers(struct block *b)
{
    static const uint8_t cand[] = { X86_RBX, X86_R12, X86_R13, X86_R14 };
    struct insn_state *s = &b->c->in;

    s->gpr[X86_RSP] = INSN_STACK + 0xc00 + rng_below(b->r, 64) * 16;
    b->fixed = 1U << X86_RSP;
    for (unsigned k = 0; k < (b->c->mode32 ? 1 : ARRAY_LEN(cand)); k++) {
        if (k && rng_pct(b->r, 40))
            continue;
        s->gpr[cand[k]] = INSN_DATA + 0x400 + rng_below(b->r, 0x60) * 64;
        b->fixed |= 1U << cand[k];
    }
    s->rflags &= X86_FL_ARITH | X86_FL_IF | X86_FL_1 | X86_FL_ID;
    if (rng_pct(b->r, 90)) {
        s->fpu.mxcsr = (s->fpu.mxcsr & ~0x3fU) | 0x1f80;
        s->fpu.fcw |= 0x3f;
        s->fpu.fsw &= 0x7f00;
    }
}

/* Where the code begins. */
static uint16_t place(struct rng *r)
{
    unsigned p = (unsigned)rng_below(r, 100);

    if (p < 45)
        return (uint16_t)(PAGE_SIZE - rng_below(r, 120));
    if (p < 48)
        return (uint16_t)(2 * PAGE_SIZE - 1 - rng_below(r, 120));
    return (uint16_t)(0x100 + rng_below(r, 0x1c00));
}

/* Cuts what does not fit into the last page, and notes whether an instruction lies across the first page's end. */
static void finish(struct block *b)
{
    struct insn_case *c = b->c;

    for (unsigned k = 0; k < b->n; k++) {
        int from = c->code_off + b->start[k], to = c->code_off + (k + 1 < b->n ? b->start[k + 1] : c->code_len);

        b->g->straddling += from < (int)PAGE_SIZE && to > (int)PAGE_SIZE;
    }
    if (c->code_off + c->code_len > 2 * (int)PAGE_SIZE)
        c->code_len = (uint16_t)(2 * PAGE_SIZE - c->code_off);
    c->insns = (uint16_t)b->n;
    c->in.rip = INSN_CODE + c->code_off;
}

void gen_block(struct gen *g, struct rng *r, struct insn_case *c)
{
    struct block b = { .g = g, .r = r, .c = c };
    unsigned want = 2 + (unsigned)rng_below(r, MAX_INSNS - 1);

    c->code_len = 0;
    c->code_off = place(r);
    pointers(&b);
    while (b.n < want && block_room(&b, 4)) {
        unsigned p = (unsigned)rng_below(r, 20);

        if (p < 6)
            flow_add(&b);
        else if (p < 7)
            add_string(&b);
        else
            add_plain(&b);
    }
    flow_finish(&b);
    finish(&b);
}
