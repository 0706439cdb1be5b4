/* SPDX-License-Identifier: MIT */
/*
 * Makes the code of a stub: loads, the instruction itself re-encoded for 64-bit mode, stores.
 *
 * The instruction keeps its vector, mask, MMX and x87 registers. Its general registers are renamed (ModRM.reg to R9,
 * ModRM.rm to R8; implicit ones can only be RAX, RCX or RDX), its memory operand becomes [RDX] or [R10], and segment
 * and address-size prefixes go. What comes out is decoded again and compared with what went in, because a slip here
 * would be a wild access in the host.
 */
#include "cpu/interp/vector_make.h"

#include <string.h>

enum { HOST_RAX, HOST_RCX, HOST_RDX, HOST_RDI = 7, HOST_RM = 8, HOST_REG = 9, HOST_R10 = 10 };

/* What has to be loaded before and stored after. Bit n of a set is register n. */
struct recipe {
    uint32_t vec_ld, vec_st;
    uint8_t k_ld, k_st;
    unsigned ld_len, st_len; /* bytes of a vector register */
    bool vex;                /* not a legacy encoding */
    bool avx_moves;          /* loads and stores may use AVX encodings, which depend on no old upper half */
    bool flags_ld, flags_st;
    bool mem;
    uint8_t mem_reg;
    unsigned ngpr;
    struct {
        uint8_t host, guest;
        bool ld, st;
    } gpr[4];
};

static void put(struct vec_buf *o, unsigned byte)
{
    if (o->n < sizeof(o->b))
        o->b[o->n] = (uint8_t)byte;
    o->n++;
}
static void put32(struct vec_buf *o, uint32_t v)
{
    for (unsigned k = 0; k < 4; k++)
        put(o, v >> (8 * k) & 0xff);
}
static void put_bytes(struct vec_buf *o, const char *bytes, unsigned n)
{
    for (unsigned k = 0; k < n; k++)
        put(o, (uint8_t)bytes[k]);
}
#define PUT(o, lit) put_bytes((o), (lit), sizeof(lit) - 1)

/* ---- moves between struct interp (RDI) and host registers ---- */

static uint32_t gpr_off(unsigned r)
{
    return (uint32_t)(offsetof(struct interp, c.gpr) + r * 8);
}
static uint32_t vec_off(unsigned r)
{
    return (uint32_t)(offsetof(struct interp, c.fpu.vec) + r * 64);
}
static void put_modrm_rdi(struct vec_buf *o, unsigned reg, uint32_t off)
{
    put(o, 0x80 | (reg & 7) << 3 | HOST_RDI);
    put32(o, off);
}

static void put_gpr_move(struct vec_buf *o, unsigned host, unsigned guest, bool store)
{
    put(o, 0x48 | (host & 8) >> 1);
    put(o, store ? 0x89 : 0x8b);
    put_modrm_rdi(o, host, gpr_off(guest));
}

/* (V)MOVUPS of len bytes between vector register r and the guest's. */
static void put_vec_move(struct vec_buf *o, unsigned r, unsigned len, bool vex, bool store)
{
    if (len == 64 || r >= 16) {
        put(o, 0x62);
        put(o, 0x61 | (~r & 8) << 4 | (~r & 16)); /* ~R, ~X, ~B, ~R', map 0F */
        put(o, 0x7c);
        put(o, 0x08 | (len == 64 ? 0x40 : len == 32 ? 0x20 : 0));
        put(o, store ? 0x11 : 0x10);
    } else if (vex) {
        put(o, 0xc5);
        put(o, 0x78 | (~r & 8) << 4 | (len == 32 ? 4 : 0));
        put(o, store ? 0x11 : 0x10);
    } else {
        if (r & 8)
            put(o, 0x44);
        put(o, 0x0f);
        put(o, store ? 0x11 : 0x10);
    }
    put_modrm_rdi(o, r, vec_off(r));
}

/* KMOVW or KMOVQ; 64-bit masks need AVX512BW, without which only 16 bits exist. */
static void put_k_move(struct vec_buf *o, unsigned r, bool store)
{
    bool wide = __builtin_cpu_supports("avx512bw");

    put(o, 0xc4);
    put(o, 0xe1);
    put(o, wide ? 0xf8 : 0x78);
    put(o, store ? 0x91 : 0x90);
    put_modrm_rdi(o, r, (uint32_t)(offsetof(struct interp, c.fpu.k) + r * 8));
}

/* m->af to the flags: ADD sets OF from its low byte, SAHF the others. */
static void put_flags_load(struct vec_buf *o)
{
    PUT(o, "\x8b"); /* mov eax, [rdi + af] */
    put_modrm_rdi(o, HOST_RAX, (uint32_t)offsetof(struct interp, af));
    PUT(o, "\x04\x7f\x9e"); /* add al, 0x7f; sahf */
}
static void put_flags_store(struct vec_buf *o)
{
    PUT(o, "\x9f\x0f\x90\xc0\x0f\xb7\xc0\x89"); /* lahf; seto al; movzx eax, ax; mov [rdi + af], eax */
    put_modrm_rdi(o, HOST_RAX, (uint32_t)offsetof(struct interp, af));
}

/* ---- what the operands ask for ---- */

static bool add_gpr(struct recipe *r, const struct vec_insn *d, const ZydisDecodedOperand *o)
{
    ZydisRegisterClass cls = ZydisRegisterGetClass(o->reg.value);
    unsigned guest = (unsigned)ZydisRegisterGetId(o->reg.value), host = guest;
    bool write = o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
    /* a 16-bit or conditional result keeps part of the register */
    bool partial = cls == ZYDIS_REGCLASS_GPR16 || (o->actions & ZYDIS_OPERAND_ACTION_CONDWRITE);

    if (cls == ZYDIS_REGCLASS_GPR8)
        return false;
    if (o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG)
        host = HOST_REG;
    else if (o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM)
        host = HOST_RM;
    else if (host > HOST_RDX ||
             (d->i.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY && o->encoding == ZYDIS_OPERAND_ENCODING_NDSNDD))
        return false;
    if (r->ngpr == ARRAY_LEN(r->gpr))
        return false;
    if (host == HOST_RDX)
        r->mem_reg = HOST_R10;
    r->gpr[r->ngpr].host = (uint8_t)host;
    r->gpr[r->ngpr].guest = (uint8_t)guest;
    r->gpr[r->ngpr].ld = (o->actions & ZYDIS_OPERAND_ACTION_MASK_READ) || partial;
    r->gpr[r->ngpr].st = write;
    r->ngpr++;
    return true;
}

static bool add_reg(struct recipe *r, const struct vec_insn *d, const ZydisDecodedOperand *o)
{
    ZyanI8 id = ZydisRegisterGetId(o->reg.value);
    bool read = o->actions & ZYDIS_OPERAND_ACTION_MASK_READ, write = o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
    bool legacy = d->i.encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY;
    unsigned len = 16;

    switch (ZydisRegisterGetClass(o->reg.value)) {
    case ZYDIS_REGCLASS_GPR8:
    case ZYDIS_REGCLASS_GPR16:
    case ZYDIS_REGCLASS_GPR32:
    case ZYDIS_REGCLASS_GPR64:
        return add_gpr(r, d, o);
    case ZYDIS_REGCLASS_ZMM:
        len = 64;
        break;
    case ZYDIS_REGCLASS_YMM:
        len = 32;
        break;
    case ZYDIS_REGCLASS_XMM:
        break;
    case ZYDIS_REGCLASS_MASK:
        if (read || (o->actions & ZYDIS_OPERAND_ACTION_CONDWRITE))
            r->k_ld |= (uint8_t)(1 << id);
        if (write)
            r->k_st |= (uint8_t)(1 << id);
        if (write && (d->i.mnemonic == ZYDIS_MNEMONIC_VP2INTERSECTD || d->i.mnemonic == ZYDIS_MNEMONIC_VP2INTERSECTQ))
            r->k_st |= (uint8_t)(3 << (id & ~1)); /* a pair, of which one is named */
        return true;
    case ZYDIS_REGCLASS_SEGMENT:
    case ZYDIS_REGCLASS_TMM:
    case ZYDIS_REGCLASS_CONTROL:
    case ZYDIS_REGCLASS_DEBUG:
    case ZYDIS_REGCLASS_BOUND:
        return false;
    default: /* x87, MMX, flags, MXCSR, X87STATUS ...: live in the host */
        return true;
    }
    if (len > r->ld_len)
        r->ld_len = len;
    /* A legacy scalar result, or one under a merging mask, keeps the rest of the register. */
    if (read || legacy || d->i.avx.mask.mode == ZYDIS_MASK_MODE_MERGING)
        r->vec_ld |= 1U << id;
    if (write)
        r->vec_st |= 1U << id;
    return true;
}

static bool make_recipe(const struct vec_cache *vc, const struct vec_insn *d, struct recipe *r)
{
    const uint32_t arith = X86_FL_ARITH;

    *r = (struct recipe){ .ld_len = 16, .mem_reg = HOST_RDX };
    r->vex = d->i.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY;
    for (unsigned k = 0; k < d->i.operand_count; k++) {
        const ZydisDecodedOperand *o = &d->op[k];

        if (o->type == ZYDIS_OPERAND_TYPE_REGISTER && !add_reg(r, d, o))
            return false;
        if (o->type == ZYDIS_OPERAND_TYPE_MEMORY) {
            if (r->mem || o->mem.type != ZYDIS_MEMOP_TYPE_MEM)
                return false;
            r->mem = true;
        }
    }
    if (d->i.cpu_flags) {
        const ZydisAccessedFlags *f = d->i.cpu_flags;
        r->flags_st = (f->modified | f->set_0 | f->set_1 | f->undefined) & arith;
        r->flags_ld = (f->tested & arith) || (r->flags_st && d->i.meta.isa_ext == ZYDIS_ISA_EXT_X87);
    }
    if (r->flags_ld)
        for (unsigned k = 0; k < r->ngpr; k++)
            if (r->gpr[k].host == HOST_RAX)
                return false;
    /* What is above the register is zeroed by a VEX instruction and kept by a legacy one. */
    r->st_len = r->vex ? vc->vlmax : 16;
    r->avx_moves = vc->vlmax > 16;
    if (d->i.encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX)
        r->st_len = 64;
    return true;
}

/* ---- the instruction itself ---- */

/* Full numbers of the ModRM.reg and ModRM.rm registers after renaming. */
struct fields {
    unsigned reg, rm;
    bool has_mem;
};

static void pick_fields(const struct vec_insn *d, const struct recipe *r, unsigned ext_reg, unsigned ext_rm,
                        struct fields *f)
{
    f->reg = d->i.raw.modrm.reg | ext_reg;
    f->rm = d->i.raw.modrm.rm | ext_rm;
    f->has_mem = d->i.raw.modrm.mod != 3;
    for (unsigned k = 0; k < r->ngpr; k++) {
        if (r->gpr[k].host == HOST_REG)
            f->reg = HOST_REG;
        if (r->gpr[k].host == HOST_RM)
            f->rm = HOST_RM;
    }
    if (f->has_mem)
        f->rm = r->mem_reg;
}

static void put_modrm(struct vec_buf *o, const struct fields *f)
{
    put(o, (f->has_mem ? 0 : 0xc0) | (f->reg & 7) << 3 | (f->rm & 7));
}

/* Everything behind ModRM, SIB and displacement: immediates, and the register of an is4 byte. */
static void put_tail(struct vec_buf *o, const struct vec_insn *d)
{
    for (unsigned k = 0; k < 2; k++) {
        const uint8_t *p = d->bytes + d->i.raw.imm[k].offset;
        unsigned n = d->i.raw.imm[k].size / 8;

        for (unsigned j = 0; j < n; j++) {
            bool is4 = false;
            for (unsigned q = 0; q < d->i.operand_count; q++)
                is4 |= d->op[q].encoding == ZYDIS_OPERAND_ENCODING_IS4;
            put(o, is4 && d->mode != X86_MODE_64 ? p[j] & 0x7f : p[j]);
        }
    }
}

static bool put_legacy(struct vec_buf *o, const struct vec_insn *d, const struct recipe *r)
{
    const ZydisDecodedInstruction *i = &d->i;
    bool has_rex = d->mode == X86_MODE_64 && (i->attributes & ZYDIS_ATTRIB_HAS_REX);
    unsigned w = has_rex && i->raw.rex.W, ext_reg = has_rex && i->raw.rex.R ? 8 : 0;
    unsigned ext_rm = has_rex && i->raw.rex.B ? 8 : 0;
    struct fields f = { 0 };
    uint8_t prefix = 0;

    for (unsigned k = 0; k < i->raw.prefix_count; k++)
        if (i->raw.prefixes[k].type == ZYDIS_PREFIX_TYPE_MANDATORY)
            prefix = i->raw.prefixes[k].value == 0x66 && prefix ? prefix : i->raw.prefixes[k].value;
    if (prefix) /* F2 and F3 make 66 meaningless */
        put(o, prefix);
    if (i->attributes & ZYDIS_ATTRIB_HAS_MODRM) {
        pick_fields(d, r, ext_reg, ext_rm, &f);
        if (i->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT) { /* x87: no registers beyond 7 */
            f.reg &= 7;
            f.rm = f.has_mem ? f.rm : f.rm & 7;
        }
    }
    if (w | (f.reg & 8) | (f.rm & 8))
        put(o, 0x40 | w << 3 | (f.reg & 8) >> 1 | (f.rm & 8) >> 3);
    switch (i->opcode_map) {
    case ZYDIS_OPCODE_MAP_DEFAULT:
        break;
    case ZYDIS_OPCODE_MAP_0F:
        PUT(o, "\x0f");
        break;
    case ZYDIS_OPCODE_MAP_0F38:
        PUT(o, "\x0f\x38");
        break;
    case ZYDIS_OPCODE_MAP_0F3A:
        PUT(o, "\x0f\x3a");
        break;
    default:
        return false;
    }
    put(o, i->opcode);
    if (i->attributes & ZYDIS_ATTRIB_HAS_MODRM)
        put_modrm(o, &f);
    put_tail(o, d);
    return true;
}

/* Outside 64-bit mode VEX.W and EVEX.W are ignored where they would choose a 64-bit general register. */
static bool w_ignored(const struct vec_insn *d, unsigned map)
{
    static const uint8_t map1[] = { 0x6e, 0x7e, 0x2a, 0x2c, 0x2d, 0x78, 0x79, 0x7b };
    static const uint8_t map3[] = { 0x14, 0x15, 0x16, 0x17, 0x20, 0x22, 0x60, 0x61 };

    if (d->mode == X86_MODE_64)
        return false;
    if (map == 1 && d->i.encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX && d->i.opcode != 0x6e && d->i.opcode != 0x7e) {
        for (unsigned k = 0; k < d->i.operand_count; k++)
            if (d->op[k].type == ZYDIS_OPERAND_TYPE_REGISTER &&
                ZydisRegisterGetClass(d->op[k].reg.value) == ZYDIS_REGCLASS_GPR32)
                return true;
        return false;
    }
    for (unsigned k = 0; map == 1 && k < ARRAY_LEN(map1); k++)
        if (map1[k] == d->i.opcode)
            return !(d->i.opcode == 0x7e && d->op[0].type == ZYDIS_OPERAND_TYPE_REGISTER &&
                     ZydisRegisterGetClass(d->op[0].reg.value) == ZYDIS_REGCLASS_XMM);
    for (unsigned k = 0; map == 3 && k < ARRAY_LEN(map3); k++)
        if (map3[k] == d->i.opcode)
            return true;
    return false;
}

static bool put_vex(struct vec_buf *o, const struct vec_insn *d, const struct recipe *r)
{
    const uint8_t *p = d->bytes + d->i.raw.vex.offset;
    bool three = p[0] == 0xc4;
    unsigned b1 = p[1], b2 = three ? p[2] : p[1] & 0x7f, map = three ? b1 & 0x1f : 1;
    unsigned ext_reg = b1 & 0x80 ? 0 : 8, ext_rm = three && !(b1 & 0x20) ? 8 : 0;
    struct fields f = { 0 };

    if (d->mode != X86_MODE_64) {
        ext_reg = ext_rm = 0;
        b2 |= 0x40;
    }
    if (w_ignored(d, map))
        b2 &= 0x7f;
    if (d->i.attributes & ZYDIS_ATTRIB_HAS_MODRM)
        pick_fields(d, r, ext_reg, ext_rm, &f);
    put(o, 0xc4);
    put(o, (~f.reg & 8) << 4 | 0x40 | (~f.rm & 8) << 2 | map);
    put(o, b2);
    put(o, d->i.opcode);
    if (d->i.attributes & ZYDIS_ATTRIB_HAS_MODRM)
        put_modrm(o, &f);
    put_tail(o, d);
    return true;
}

static bool put_evex(struct vec_buf *o, const struct vec_insn *d, const struct recipe *r)
{
    const uint8_t *p = d->bytes + d->i.raw.evex.offset;
    unsigned p0 = p[1], p1 = p[2], p2 = p[3];
    struct fields f;

    if (d->mode != X86_MODE_64) {
        p0 |= 0xf0;
        p1 |= 0x40;
        p2 |= 0x08;
    }
    if (w_ignored(d, p0 & 7))
        p1 &= 0x7f;
    pick_fields(d, r, (p0 & 0x80 ? 0 : 8) | (p0 & 0x10 ? 0 : 16), (p0 & 0x20 ? 0 : 8) | (p0 & 0x40 ? 0 : 16), &f);
    put(o, 0x62);
    put(o, (p0 & 0x0f) | (~f.reg & 8) << 4 | (~f.rm & 16) << 2 | (~f.rm & 8) << 2 | (~f.reg & 16));
    put(o, p1);
    put(o, p2);
    put(o, d->i.opcode);
    put_modrm(o, &f);
    put_tail(o, d);
    return true;
}

static bool same_register(const ZydisDecodedOperand *a, const ZydisDecodedOperand *b)
{
    ZydisRegisterClass ca = ZydisRegisterGetClass(a->reg.value), cb = ZydisRegisterGetClass(b->reg.value);

    if (ca == ZYDIS_REGCLASS_FLAGS || ca == ZYDIS_REGCLASS_IP)
        return true;
    if (a->encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG || a->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM)
        if (ca == ZYDIS_REGCLASS_GPR16 || ca == ZYDIS_REGCLASS_GPR32 || ca == ZYDIS_REGCLASS_GPR64)
            return ca == cb && b->reg.value >= ZYDIS_REGISTER_AX &&
                   ZydisRegisterGetId(b->reg.value) ==
                       (a->encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG ? HOST_REG : HOST_RM);
    if (a->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN) /* outside 64-bit mode Zydis may name the wider one */
        return ZydisRegisterGetId(a->reg.value) == ZydisRegisterGetId(b->reg.value);
    return a->reg.value == b->reg.value;
}

/* Is `code` what d is, but for renamed registers and the memory operand? */
static bool verify(const struct vec_insn *d, const struct recipe *r, const uint8_t *code, unsigned n)
{
    ZydisDecoder dec;
    ZydisDecodedInstruction i;
    ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
    ZydisRegister base = r->mem_reg == HOST_RDX ? ZYDIS_REGISTER_RDX : ZYDIS_REGISTER_R10;

    ZydisDecoderInit(&dec, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&dec, code, n, &i, op)) || i.length != n || i.mnemonic != d->i.mnemonic ||
        i.operand_count != d->i.operand_count)
        return false;
    for (unsigned k = 0; k < i.operand_count; k++) {
        if (op[k].type != d->op[k].type)
            return false;
        if (op[k].type == ZYDIS_OPERAND_TYPE_MEMORY &&
            (op[k].size != d->op[k].size || op[k].mem.base != base || op[k].mem.index != ZYDIS_REGISTER_NONE ||
             op[k].mem.disp.value || op[k].mem.segment != ZYDIS_REGISTER_DS || op[k].mem.type != ZYDIS_MEMOP_TYPE_MEM))
            return false;
        if (op[k].type == ZYDIS_OPERAND_TYPE_REGISTER && !same_register(&d->op[k], &op[k]))
            return false;
    }
    return true;
}

static bool put_insn(struct vec_buf *o, const struct vec_insn *d, const struct recipe *r)
{
    unsigned start = o->n;
    bool ok = false;

    switch (d->i.encoding) {
    case ZYDIS_INSTRUCTION_ENCODING_LEGACY:
        ok = put_legacy(o, d, r);
        break;
    case ZYDIS_INSTRUCTION_ENCODING_VEX:
        ok = put_vex(o, d, r);
        break;
    case ZYDIS_INSTRUCTION_ENCODING_EVEX:
        ok = put_evex(o, d, r);
        break;
    default:
        break;
    }
    return ok && o->n <= sizeof(o->b) && verify(d, r, o->b + start, o->n - start);
}

/* ---- the stub ---- */

static void put_loads(struct vec_buf *o, const struct recipe *r)
{
    if (r->mem && r->mem_reg == HOST_R10)
        PUT(o, "\x49\x89\xd2"); /* mov r10, rdx */
    if (r->flags_ld)
        put_flags_load(o);
    for (unsigned k = 0; k < r->ngpr; k++)
        if (r->gpr[k].ld)
            put_gpr_move(o, r->gpr[k].host, r->gpr[k].guest, false);
    for (unsigned k = 0; k < 8; k++)
        if (r->k_ld & 1U << k)
            put_k_move(o, k, false);
    for (unsigned k = 0; k < 32; k++)
        if (r->vec_ld & 1U << k)
            put_vec_move(o, k, r->ld_len, r->avx_moves, false);
}

static void put_stores(struct vec_buf *o, const struct recipe *r)
{
    for (unsigned k = 0; k < r->ngpr; k++)
        if (r->gpr[k].st)
            put_gpr_move(o, r->gpr[k].host, r->gpr[k].guest, true);
    if (r->flags_st)
        put_flags_store(o);
    for (unsigned k = 0; k < 32; k++)
        if (r->vec_st & 1U << k)
            put_vec_move(o, k, r->st_len, r->avx_moves, true);
    for (unsigned k = 0; k < 8; k++)
        if (r->k_st & 1U << k)
            put_k_move(o, k, true);
    if (r->ld_len > 16)
        PUT(o, "\xc5\xf8\x77"); /* vzeroupper */
}

bool vec_emit(const struct vec_cache *vc, const struct vec_insn *d, struct vec_buf *out)
{
    struct recipe r;

    if (!make_recipe(vc, d, &r))
        return false;
    put_loads(out, &r);
    if (!put_insn(out, d, &r))
        return false;
    put_stores(out, &r);
    put(out, 0xc3);
    return out->n <= sizeof(out->b);
}

bool vec_emit_pair(const struct vec_insn *d, struct vec_buf *out)
{
    unsigned reg = (unsigned)ZydisRegisterGetId(d->op[0].reg.value);
    unsigned sel = (unsigned)ZydisRegisterGetId(d->op[1].reg.value);

    if (ZydisRegisterGetClass(d->op[0].reg.value) == ZYDIS_REGCLASS_MMX) {
        for (unsigned k = 0; k < 2; k++) { /* movq [rdx + 16 * k], mm */
            PUT(out, "\x0f\x7f");
            put(out, 0x42 | (k ? sel : reg) << 3);
            put(out, 16 * k);
        }
    } else {
        for (unsigned k = 0; k < 2; k++) {
            unsigned v = k ? sel : reg;
            put_vec_move(out, v, 16, false, false);
            if (v & 8)
                put(out, 0x44);
            PUT(out, "\x0f\x11"); /* movups [rdx + 16 * k], xmm */
            put(out, 0x42 | (v & 7) << 3);
            put(out, 16 * k);
        }
    }
    put(out, 0xc3);
    return true;
}
