/* SPDX-License-Identifier: MIT */
/*
 * The general case: the guest's own instruction with other registers and another address.
 *
 * Scratch registers are handed out after the memory lookup, which leaves R11 + R10 as the address and RCX free. If
 * more are wanted the address is added up into R11. High-byte registers exclude REX, so with them guest RCX is used in
 * host RCX, and an address must be in RCX alone.
 */
#include "cpu/translate/trans.h"

/* ---- encoding ---- */

static unsigned tail_start(const struct trans *t)
{
    const ZydisDecodedInstruction *i = t->i;
    unsigned n = i->length;

    for (unsigned k = 0; k < 2; k++)
        n -= i->raw.imm[k].size / 8;
    return n;
}

static void put_modrm(struct trans *t, const struct fields *f)
{
    if (!(t->i->attributes & ZYDIS_ATTRIB_HAS_MODRM))
        return;
    if (f->mem)
        em_mem(&t->e, f->reg, f->m);
    else
        em8(&t->e, 0xc0 | (f->reg & 7) << 3 | (f->rm & 7));
}

static unsigned rex_of(const struct fields *f, bool modrm)
{
    unsigned rex = (f->reg & 8) >> 1;

    if (!modrm)
        return (f->opreg & 8) >> 3;
    if (f->mem)
        return rex | (f->m.index >= 8 ? 2U : 0) | (f->m.base >= 8 ? 1U : 0);
    return rex | f->rm >> 3;
}

static bool put_legacy(struct trans *t, const struct fields *f)
{
    const ZydisDecodedInstruction *i = t->i;
    struct emit *e = &t->e;
    bool modrm = i->attributes & ZYDIS_ATTRIB_HAS_MODRM, p66 = false;
    unsigned opcode = i->opcode, rex = rex_of(f, modrm), rep = 0;

    for (unsigned k = 0; k < i->raw.prefix_count; k++) {
        unsigned v = i->raw.prefixes[k].value;
        if (v == 0x66 && i->raw.prefixes[k].type != ZYDIS_PREFIX_TYPE_IGNORED)
            p66 = true;
        else if ((v == 0xf2 || v == 0xf3) && i->raw.prefixes[k].type == ZYDIS_PREFIX_TYPE_MANDATORY)
            rep = v;
    }
    if ((i->attributes & ZYDIS_ATTRIB_HAS_REX) && i->raw.rex.W)
        rex |= 8;
    if (f->norex && (rex || f->rex8))
        return false;
    if (i->attributes & ZYDIS_ATTRIB_HAS_LOCK)
        em8(e, 0xf0);
    if (p66)
        em8(e, 0x66);
    if (rep)
        em8(e, rep);
    if (rex || f->rex8)
        em8(e, 0x40 | rex);
    switch (i->opcode_map) {
    case ZYDIS_OPCODE_MAP_DEFAULT:
        break;
    case ZYDIS_OPCODE_MAP_0F:
        em8(e, 0x0f);
        break;
    case ZYDIS_OPCODE_MAP_0F38:
        em8(e, 0x0f);
        em8(e, 0x38);
        break;
    case ZYDIS_OPCODE_MAP_0F3A:
        em8(e, 0x0f);
        em8(e, 0x3a);
        break;
    default:
        return false;
    }
    if (!modrm && f->opreg < 16)
        opcode = (opcode & ~7U) | (f->opreg & 7);
    if (!t->m64 && i->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && opcode >= 0x40 && opcode <= 0x4f) {
        em8(e, 0xff); /* INC and DEC of a register: now REX */
        em8(e, 0xc0 | (opcode & 8) | (f->opreg & 7));
        return true;
    }
    if (i->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && opcode == 0x82)
        opcode = 0x80;
    em8(e, opcode);
    put_modrm(t, f);
    return true;
}

static bool put_vex(struct trans *t, const struct fields *f)
{
    const uint8_t *p = t->raw + t->i->raw.vex.offset;
    bool three = p[0] == 0xc4;
    unsigned b2 = three ? p[2] : p[1] & 0x7f, map = three ? p[1] & 0x1f : 1;
    unsigned rxb = rex_of(f, true);

    b2 = (b2 & 0x87) | (~f->v & 15) << 3;
    em8(&t->e, 0xc4);
    em8(&t->e, (~rxb & 7) << 5 | map);
    em8(&t->e, b2);
    em8(&t->e, t->i->opcode);
    put_modrm(t, f);
    return true;
}

bool rewrite_put(struct trans *t, const struct fields *f)
{
    bool ok = false;

    if (t->i->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY)
        ok = put_legacy(t, f);
    else if (t->i->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
        ok = put_vex(t, f);
    if (ok) {
        for (unsigned k = tail_start(t); k < t->i->length; k++)
            em8(&t->e, f->is4_7 ? t->raw[k] & 0x7fU : t->raw[k]);
    }
    return ok;
}

/* ---- operands ---- */

struct reg_use {
    uint8_t g, host;
    bool load, store, high, byte;
    unsigned *field;
};

struct plan {
    struct reg_use r[4];
    unsigned n;
    const ZydisDecodedOperand *mem;
    bool r11;             /* the address uses R11 */
    bool high;            /* some register is AH..BH */
    bool rcx_in, rcx_out; /* host RCX must be guest RCX before, is after */
    struct fields f;
};

/* Hidden operands must be registers that are in their place. */
static bool plan_hidden(struct plan *p, const ZydisDecodedOperand *o)
{
    bool high;

    if (o->type != ZYDIS_OPERAND_TYPE_REGISTER)
        return o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
    if (!op_is_gpr(o)) {
        ZydisRegisterClass c = ZydisRegisterGetClass(o->reg.value);
        return c == ZYDIS_REGCLASS_FLAGS || c == ZYDIS_REGCLASS_XMM || c == ZYDIS_REGCLASS_X87 ||
               c == ZYDIS_REGCLASS_MMX || c == ZYDIS_REGCLASS_YMM || o->reg.value == ZYDIS_REGISTER_MXCSR ||
               o->reg.value == ZYDIS_REGISTER_X87STATUS || o->reg.value == ZYDIS_REGISTER_X87CONTROL ||
               o->reg.value == ZYDIS_REGISTER_X87TAG;
    }
    switch (op_gpr(o->reg.value, &high)) {
    case X86_RAX:
    case X86_RDX:
    case X86_RBX:
        return true;
    case X86_RCX:
        p->rcx_in |= (o->actions & ZYDIS_OPERAND_ACTION_MASK_READ) != 0;
        p->rcx_out |= (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;
        return true;
    default:
        return false;
    }
}

static bool plan_reg(const struct trans *t, struct plan *p, const ZydisDecodedOperand *o)
{
    struct reg_use *u = &p->r[p->n];
    bool high;

    if (!op_is_gpr(o)) {
        unsigned id = (unsigned)ZydisRegisterGetId(o->reg.value);
        switch (o->encoding) {
        case ZYDIS_OPERAND_ENCODING_MODRM_REG:
            p->f.reg = id;
            return true;
        case ZYDIS_OPERAND_ENCODING_MODRM_RM:
            p->f.rm = id;
            return true;
        case ZYDIS_OPERAND_ENCODING_NDSNDD:
            p->f.v = id;
            return true;
        case ZYDIS_OPERAND_ENCODING_IS4: /* outside 64-bit mode its highest bit is ignored */
            p->f.is4_7 = !t->m64;
            return true;
        default:
            return true;
        }
    }
    switch (o->encoding) {
    case ZYDIS_OPERAND_ENCODING_MODRM_REG:
        u->field = &p->f.reg;
        break;
    case ZYDIS_OPERAND_ENCODING_MODRM_RM:
        u->field = &p->f.rm;
        break;
    case ZYDIS_OPERAND_ENCODING_NDSNDD:
        u->field = &p->f.v;
        break;
    case ZYDIS_OPERAND_ENCODING_OPCODE:
        u->field = &p->f.opreg;
        break;
    case ZYDIS_OPERAND_ENCODING_NONE:
        return plan_hidden(p, o);
    default:
        return false;
    }
    if (p->n == ARRAY_LEN(p->r))
        return false;
    u->g = (uint8_t)op_gpr(o->reg.value, &high);
    u->high = high;
    u->byte = o->size == 8;
    u->store = (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;
    /* what keeps a part of the old value must load it */
    u->load = (o->actions & (ZYDIS_OPERAND_ACTION_MASK_READ | ZYDIS_OPERAND_ACTION_CONDWRITE)) || o->size < 32 ||
              t->i->mnemonic == ZYDIS_MNEMONIC_BSF || t->i->mnemonic == ZYDIS_MNEMONIC_BSR;
    p->high |= high;
    p->n++;
    return true;
}

static bool plan_make(struct trans *t, struct plan *p)
{
    memset(p, 0, sizeof(*p));
    p->f.opreg = 16;
    if (t->i->attributes & ZYDIS_ATTRIB_HAS_MODRM) { /* digits of the opcode stay; registers are filled in below */
        p->f.reg = t->i->raw.modrm.reg;
        p->f.rm = t->i->raw.modrm.rm;
    }
    for (unsigned k = 0; k < t->i->operand_count; k++) {
        const ZydisDecodedOperand *o = &t->op[k];
        bool hidden = k >= t->i->operand_count_visible;

        if (o->type == ZYDIS_OPERAND_TYPE_MEMORY) {
            if (hidden || p->mem || o->mem.type != ZYDIS_MEMOP_TYPE_MEM || !op_address_ok(t, o))
                return false;
            p->mem = o;
        } else if (o->type == ZYDIS_OPERAND_TYPE_REGISTER) {
            if (!(hidden ? plan_hidden(p, o) : plan_reg(t, p, o)))
                return false;
        } else if (o->type != ZYDIS_OPERAND_TYPE_IMMEDIATE) {
            return false;
        }
    }
    if (p->high && p->mem && p->rcx_in)
        return false;
    return true;
}

/* Chooses a host register for each use. False: there are not enough. */
static bool plan_hosts(struct trans *t, struct plan *p)
{
    bool rcx_free = !p->rcx_in && !p->rcx_out, r10_free = !p->mem, r11_free = !p->mem || !p->r11, sum = false;

    for (unsigned k = 0; k < p->n; k++) {
        struct reg_use *u = &p->r[k];
        int h = host_reg(u->g);

        if (p->high && u->g == X86_RCX) {
            if (p->mem)
                return false;
            p->rcx_in = true;
            p->rcx_out |= u->store;
            u->host = RCX;
            continue;
        }
        if (h >= 0) {
            u->host = (uint8_t)h;
            continue;
        }
        if (p->high)
            return false;
        for (unsigned j = 0; j < k; j++)
            if (p->r[j].g == u->g)
                h = p->r[j].host;
        if (h < 0 && rcx_free) {
            h = RCX;
            rcx_free = false;
        } else if (h < 0 && r10_free) {
            h = R10;
            r10_free = false;
        } else if (h < 0 && r11_free) {
            h = R11;
            r11_free = false;
        } else if (h < 0 && p->mem && !sum) {
            h = R10;
            sum = true;
        }
        if (h < 0)
            return false;
        u->host = (uint8_t)h;
        if (h == R10)
            t->r10_group = -1;
    }
    if (p->mem) {
        p->f.mem = true;
        if (p->high || sum) { /* one register */
            em_lea(&t->e, p->high ? RCX : R11, p->f.m);
            p->f.m = HMEM(p->high ? RCX : R11, 0);
        }
    }
    return true;
}

static void finish_fields(struct plan *p)
{
    for (unsigned k = 0; k < p->n; k++) {
        struct reg_use *u = &p->r[k];

        *u->field = u->high ? (unsigned)u->host + 4 : u->host;
        if (u->high)
            p->f.norex = true;
        if (u->byte && !u->high && u->host >= RSP && u->host <= RDI)
            p->f.rex8 = true;
    }
}

static bool emit_plan(struct trans *t, struct plan *p)
{
    struct emit *e = &t->e;

    if (p->mem) {
        bool write = p->mem->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
        unsigned size = p->mem->size / 8;
        struct tr_place at;

        if (!size || size > 64 || !op_memory(t, p->mem, size, write, &at))
            return false;
        p->f.m = at.m;
        p->r11 = at.r11;
    }
    if (!plan_hosts(t, p))
        return false;
    finish_fields(p);
    if (p->rcx_in)
        em_mov(e, RCX, HOST_RCX_HOME);
    for (unsigned k = 0; k < p->n; k++)
        if (host_reg(p->r[k].g) < 0 && p->r[k].load)
            em_load(e, p->r[k].host, HOME(p->r[k].g));
    if (!rewrite_put(t, &p->f))
        return false;
    tr_commit(t);
    if (p->rcx_out)
        em_mov(e, HOST_RCX_HOME, RCX);
    for (unsigned k = 0; k < p->n; k++)
        if (host_reg(p->r[k].g) < 0 && p->r[k].store)
            em_store(e, p->r[k].host, HOME(p->r[k].g));
    return true;
}

static bool plain_gpr(const struct trans *t)
{
    for (unsigned k = 0; k < t->i->operand_count_visible; k++)
        if (op_is_gpr(&t->op[k]))
            return true;
    return false;
}

bool rewrite_gpr(struct trans *t)
{
    struct plan p;

    /* Outside 64-bit mode VEX.W is ignored where it would choose 64-bit registers; such code is not worth more. */
    if (!t->m64 && t->i->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX && t->i->raw.vex.W && plain_gpr(t))
        return false;
    if (!plan_make(t, &p))
        return false;
    return emit_plan(t, &p);
}
