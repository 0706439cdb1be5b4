/* SPDX-License-Identifier: MIT */
/* What verifying must know of an instruction: its memory operands, explicit and implicit, and what it may leave open.
 */
#include "cpu/translate/trans.h"
#include "cpu/translate/verify.h"

/* ---- memory operands ---- */

static uint8_t reg_of(ZydisRegister r)
{
    bool high;

    if (r == ZYDIS_REGISTER_NONE)
        return VI_ZERO;
    if (r == ZYDIS_REGISTER_RIP || r == ZYDIS_REGISTER_EIP)
        return VI_IP;
    return (uint8_t)op_gpr(r, &high);
}

/* BT and its like with a register offset. */
static bool is_bit_string(const struct tr_insn *in, const ZydisDecodedOperand *o)
{
    switch (in->i.mnemonic) {
    case ZYDIS_MNEMONIC_BT:
    case ZYDIS_MNEMONIC_BTS:
    case ZYDIS_MNEMONIC_BTR:
    case ZYDIS_MNEMONIC_BTC:
        return o == &in->op[0] && in->op[1].type == ZYDIS_OPERAND_TYPE_REGISTER;
    default:
        return false;
    }
}

/* False: it is not one that is worked out here. */
static bool add_operand(struct vi *i, const struct tr_insn *in, const ZydisDecodedOperand *o)
{
    struct vi_op *p = &i->op[i->n];
    bool high, hidden = o->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN;

    if (o->mem.type == ZYDIS_MEMOP_TYPE_AGEN)
        return true;
    if (o->mem.type != ZYDIS_MEMOP_TYPE_MEM || i->n == VI_OPS || !o->size || o->size > 8 * VER_OPERAND)
        return false;
    *p = (struct vi_op){
        .base = reg_of(o->mem.base),
        .index = reg_of(o->mem.index),
        .scale = (uint8_t)(o->mem.scale ? __builtin_ctz(o->mem.scale) : 0),
        .seg = o->mem.segment == ZYDIS_REGISTER_FS   ? X86_FS
               : o->mem.segment == ZYDIS_REGISTER_GS ? X86_GS
                                                     : X86_SEG_NONE,
        .asz = (uint8_t)(hidden ? (i->m64 ? 8 : 4) : in->i.address_width / 8),
        .size = (uint8_t)(o->size / 8),
        .read = o->actions & ZYDIS_OPERAND_ACTION_MASK_READ,
        .write = o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE,
        .disp = o->mem.disp.has_displacement ? o->mem.disp.value : 0,
    };
    if (o->actions & ZYDIS_OPERAND_ACTION_CONDWRITE) /* CMPXCHG: what is there may stay */
        p->read = true;
    if (hidden && p->write && p->base == X86_RSP) /* a push */
        p->disp = -(int64_t)p->size;
    if (is_bit_string(in, o)) {
        p->bits = true;
        p->bit_reg = (uint8_t)op_gpr(in->op[1].reg.value, &high);
    }
    i->n++;
    return true;
}

static bool add_operands(struct vi *i, const struct tr_insn *in)
{
    for (unsigned k = 0; k < in->i.operand_count; k++)
        if (in->op[k].type == ZYDIS_OPERAND_TYPE_MEMORY && !add_operand(i, in, &in->op[k]))
            return false;
    return true;
}

static enum vi_how string(struct vi *i, const struct tr_insn *in)
{
    i->rep = in->i.attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE);
    if (!add_operands(i, in))
        return VI_HAND;
    for (unsigned k = 0; k < i->n; k++) {
        if (i->op[k].seg != X86_SEG_NONE || in->i.address_width == 16)
            return VI_HAND;
        i->op[k].asz = (uint8_t)(in->i.address_width / 8);
        i->op[k].size = (uint8_t)__builtin_ctz(i->op[k].size);
    }
    return i->n ? VI_STRING : VI_HAND;
}

static enum vi_how operands(struct vi *i, const struct tr_insn *in)
{
    switch (in->i.mnemonic) {
    case ZYDIS_MNEMONIC_NOP: /* no access */
    case ZYDIS_MNEMONIC_PREFETCH:
    case ZYDIS_MNEMONIC_PREFETCHNTA:
    case ZYDIS_MNEMONIC_PREFETCHT0:
    case ZYDIS_MNEMONIC_PREFETCHT1:
    case ZYDIS_MNEMONIC_PREFETCHT2:
    case ZYDIS_MNEMONIC_PREFETCHW:
    case ZYDIS_MNEMONIC_INVLPG:
        return VI_PLAIN;
    case ZYDIS_MNEMONIC_IRETQ:
        return VI_FRAME;
    case ZYDIS_MNEMONIC_PAUSE:
        return VI_PAUSE;
    default:
        break;
    }
    if (in->i.meta.category == ZYDIS_CATEGORY_STRINGOP)
        return string(i, in);
    return add_operands(i, in) ? VI_PLAIN : VI_HAND;
}

/* Whether it changes only general registers and flags, for sure. */
static bool is_simple(const struct tr_insn *in)
{
    if (in->i.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY || in->i.fpu_flags)
        return false;
    switch (in->i.meta.category) {
    case ZYDIS_CATEGORY_INTERRUPT:
    case ZYDIS_CATEGORY_RDWRFSGS:
    case ZYDIS_CATEGORY_SYSCALL:
    case ZYDIS_CATEGORY_SYSRET:
    case ZYDIS_CATEGORY_SYSTEM:
    case ZYDIS_CATEGORY_FLAGOP: /* STI makes a shadow */
        return false;
    default:
        break;
    }
    for (unsigned k = 0; k < in->i.operand_count; k++) {
        if (in->op[k].type != ZYDIS_OPERAND_TYPE_REGISTER)
            continue;
        switch (ZydisRegisterGetClass(in->op[k].reg.value)) {
        case ZYDIS_REGCLASS_GPR8:
        case ZYDIS_REGCLASS_GPR16:
        case ZYDIS_REGCLASS_GPR32:
        case ZYDIS_REGCLASS_GPR64:
        case ZYDIS_REGCLASS_FLAGS:
        case ZYDIS_REGCLASS_IP:
            break;
        default:
            return false;
        }
    }
    return true;
}

gva_t vi_linear(const struct vi *i, unsigned k, const struct cpu_state *before)
{
    const struct vi_op *p = &i->op[k];
    uint64_t a = (uint64_t)p->disp;

    if (p->base == VI_IP)
        a += before->rip + i->len;
    else if (p->base != VI_ZERO)
        a += before->gpr[p->base];
    if (p->index != VI_ZERO)
        a += before->gpr[p->index] << p->scale;
    if (p->asz == 4)
        a = (uint32_t)a;
    if (p->bits) {
        int64_t bit = (int64_t)before->gpr[p->bit_reg];

        if (p->size == 4)
            bit = (int32_t)bit;
        else if (p->size == 2)
            bit = (int16_t)bit;
        a += (uint64_t)((bit >> (p->size == 8 ? 6 : p->size == 4 ? 5 : 4)) * p->size);
    }
    if (p->seg != X86_SEG_NONE)
        a += before->seg[p->seg].base;
    return i->m64 ? a : (uint32_t)a;
}

/* ---- what is undefined ---- */

static enum vi_shift shift_of(ZydisMnemonic m)
{
    switch (m) {
    case ZYDIS_MNEMONIC_SHL:
    case ZYDIS_MNEMONIC_SHR:
        return VI_SHIFT;
    case ZYDIS_MNEMONIC_SAR:
        return VI_SAR;
    case ZYDIS_MNEMONIC_SHLD:
    case ZYDIS_MNEMONIC_SHRD:
        return VI_DOUBLE;
    case ZYDIS_MNEMONIC_ROL:
    case ZYDIS_MNEMONIC_ROR:
    case ZYDIS_MNEMONIC_RCL:
    case ZYDIS_MNEMONIC_RCR:
        return VI_ROTATE;
    default:
        return VI_NOT_SHIFT;
    }
}

static void flags(struct vi *i, const struct tr_insn *in)
{
    const ZydisAccessedFlags *f = in->i.cpu_flags;

    i->shift = (uint8_t)shift_of(in->i.mnemonic);
    if (i->shift != VI_NOT_SHIFT) {
        const ZydisDecodedOperand *o = &in->op[i->shift == VI_DOUBLE ? 2 : 1];

        i->width = (uint8_t)in->op[0].size;
        i->count = o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE ? (uint8_t)(o->imm.value.u & 63) : 0xff;
    } else if (f) {
        i->flags = (uint16_t)((f->modified | f->set_0 | f->set_1) & ~f->undefined & X86_FL_ARITH);
        i->undefined = (uint16_t)(f->undefined & X86_FL_ARITH);
    }
    if (in->i.mnemonic == ZYDIS_MNEMONIC_RDTSC || in->i.mnemonic == ZYDIS_MNEMONIC_RDTSCP)
        i->any_gpr = 1 << X86_RAX | 1 << X86_RDX;
}

/* SDM Vol. 2, "Flags Affected" of shifts and rotates: it depends on the count. */
uint64_t vi_undefined(const struct vi *i, const struct cpu_state *before)
{
    unsigned n = i->count == 0xff ? (unsigned)before->gpr[X86_RCX] : i->count;
    uint64_t u;

    if (i->shift == VI_NOT_SHIFT)
        return i->undefined;
    n &= i->width == 64 ? 63 : 31;
    if (!n)
        return 0;
    if (i->shift == VI_ROTATE)
        return n == 1 ? 0 : X86_FL_OF;
    if (i->shift == VI_DOUBLE && n > i->width)
        return X86_FL_ARITH;
    u = X86_FL_AF | (n == 1 ? 0 : X86_FL_OF);
    if (i->shift != VI_SAR && n >= i->width)
        u |= X86_FL_CF;
    return u;
}

/* ---- taking a block down ---- */

/* Of the region of the block; what is there of dropped blocks is forgotten with the region's first new one. */
static struct vi *room(struct xlate *x, unsigned n)
{
    struct xl_verify *v = x->verify;
    unsigned g = x->code.region;

    if (x->code.r[g].n <= 1)
        v->used[g] = 0;
    if (v->used[g] + n > VER_ARENA)
        return NULL;
    v->used[g] += n;
    return &v->arena[g][v->used[g] - n];
}

void xl_verify_note(struct trans *t)
{
    struct ver_block *b = &t->x->verify->tab[t->b->start / 16];
    unsigned n = t->nside - t->stepped; /* the last one may only be a way to the interpreter */

    *b = (struct ver_block){ .i = room(t->x, n) };
    b->no_room = !b->i || n > VER_INSNS;
    if (b->no_room)
        return;
    b->n = n;
    for (unsigned k = 0; k < n; k++) {
        const struct tr_insn *in = &t->in[k];
        struct vi *i = &b->i[k];

        *i = (struct vi){ .m64 = t->m64, .len = in->i.length, .off = in->off };
        memcpy(i->bytes, in->raw, i->len);
        i->how = (uint8_t)operands(i, in);
        i->rest = !is_simple(in);
        flags(i, in);
    }
}
