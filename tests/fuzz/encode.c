/* SPDX-License-Identifier: MIT */
/*
 * Every opcode there is: all maps in all encodings, with what selects another instruction (ModRM.reg or a mandatory
 * prefix, the vector length) counted out and the rest at random, also prefixes that make no sense and encodings that
 * nobody has defined. If Zydis knows the result, its first memory operand is made to reach a hostile address.
 */
#include <Zydis/Zydis.h>
#include <stdio.h>
#include <string.h>

#include "isolation.h"

enum { LEN = 15, BUF = 32 };

/* What a run of opcode numbers stands for. */
enum enc { E_LEGACY, E_3DNOW, E_VEX, E_EVEX, E_XOP, E_JUNK };
static const struct range {
    uint8_t enc, map;
    uint16_t kinds; /* of each opcode */
} range[] = {
    { E_LEGACY, 0, 8 }, { E_LEGACY, 1, 32 }, { E_LEGACY, 2, 4 }, { E_LEGACY, 3, 4 }, { E_3DNOW, 0, 1 },
    { E_VEX, 1, 16 },   { E_VEX, 2, 16 },    { E_VEX, 3, 16 },   { E_EVEX, 1, 8 },   { E_EVEX, 2, 8 },
    { E_EVEX, 3, 8 },   { E_EVEX, 5, 4 },    { E_EVEX, 6, 4 },   { E_XOP, 8, 2 },    { E_XOP, 9, 2 },
    { E_XOP, 10, 2 },   { E_JUNK, 0, 4 },
};

unsigned iso_opcodes(void)
{
    unsigned n = 0;

    for (unsigned i = 0; i < ARRAY_LEN(range); i++)
        n += 256U * range[i].kinds;
    return n;
}

bool iso_emit(struct iso_build *b, const void *p, unsigned n)
{
    if (b->c->len + n > ISO_CODE_MAX || b->c->off + b->c->len + n > 2 * PAGE_SIZE)
        return false;
    memcpy(b->c->code + b->c->len, p, n);
    b->c->len = (uint16_t)(b->c->len + n);
    return true;
}

bool iso_want(struct iso_build *b, unsigned reg, uint64_t v)
{
    if (b->c->set >> reg & 1)
        return b->c->gpr[reg] == v;
    b->c->set |= 1U << reg;
    b->c->gpr[reg] = v;
    return true;
}

/* ---- making bytes ---- */

static unsigned prefixes(struct rng *r, uint8_t *p)
{
    static const uint8_t all[] = { 0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x2e, 0x36, 0x3e, 0x26, 0x64, 0x65, 0x64, 0x65, 0x67 };
    unsigned n = 0;

    if (rng_pct(r, 45))
        return 0;
    do
        p[n++] = all[rng_below(r, sizeof(all))];
    while (n < 5 && rng_pct(r, 35));
    return n;
}

/* ModRM with this reg field, mostly of memory, and all that may follow. */
static unsigned tail(const struct iso *s, struct rng *r, unsigned reg, uint8_t *p)
{
    unsigned mod = rng_pct(r, 82) ? (unsigned)rng_below(r, 3) : 3, n = 0;
    uint64_t v = rng_pct(r, 60) ? iso_value(s, r) : rng_next(r);

    p[n++] = (uint8_t)(mod << 6 | (reg & 7) << 3 | (rng_pct(r, 25) ? 4 : rng_below(r, 8)));
    rng_bytes(r, p + n, 16);
    if (rng_pct(r, 40)) /* no index */
        p[n] = (uint8_t)((p[n] & 0xc7) | 0x20);
    memcpy(p + n + 1 + rng_below(r, 3), &v, 8);
    return n;
}

static unsigned legacy(struct iso_build *b, const struct range *g, unsigned op, unsigned kind, uint8_t *p)
{
    static const uint8_t pps[4] = { 0, 0x66, 0xf3, 0xf2 };
    struct rng *r = b->r;
    unsigned n = prefixes(r, p), reg = (unsigned)rng_below(r, 8), pp = 0;

    if (g->map == 0) {
        reg = kind;
    } else if (g->map == 1) {
        reg = kind & 7;
        pp = kind >> 3;
    } else {
        pp = kind;
    }
    if (pp) { /* anywhere among the others */
        unsigned at = (unsigned)rng_below(r, n + 1);

        p[n++] = p[at];
        p[at] = pps[pp];
    }
    if (iso_64(b->c->mode) && rng_pct(r, 45))
        p[n++] = (uint8_t)(0x40 | rng_below(r, 16));
    if (iso_64(b->c->mode) && rng_pct(r, 3)) /* a REX that counts for nothing */
        p[n++] = 0x3e;
    if (g->map)
        p[n++] = 0x0f;
    if (g->map == 2)
        p[n++] = 0x38;
    if (g->map == 3)
        p[n++] = 0x3a;
    p[n++] = (uint8_t)op;
    tail(b->s, r, reg, p + n);
    return n;
}

static unsigned vex(struct iso_build *b, const struct range *g, unsigned op, unsigned kind, uint8_t *p)
{
    struct rng *r = b->r;
    unsigned n = rng_pct(r, 25) ? prefixes(r, p) : 0;
    unsigned v = (rng_pct(r, 50) ? 15 : (unsigned)rng_below(r, 16)) << 3, w = rng_pct(r, 40) ? 0x80 : 0;
    unsigned rxb = iso_64(b->c->mode) ? (unsigned)rng_below(r, 8) : 7, map = g->map;

    if (rng_pct(r, 4))
        map = (unsigned)rng_below(r, 32);

    if (g->enc == E_VEX && g->map == 1 && rng_pct(r, 40)) {
        p[n++] = 0xc5;
        p[n++] = (uint8_t)((rxb & 4) << 5 | v | (kind & 7));
    } else {
        p[n++] = g->enc == E_XOP ? 0x8f : 0xc4;
        p[n++] = (uint8_t)(rxb << 5 | map);
        p[n++] = (uint8_t)(w | v | (kind & 7));
    }
    p[n++] = (uint8_t)op;
    tail(b->s, r, (unsigned)rng_below(r, 8), p + n);
    return n;
}

static unsigned evex(struct iso_build *b, const struct range *g, unsigned op, unsigned kind, uint8_t *p)
{
    struct rng *r = b->r;
    unsigned n = rng_pct(r, 15) ? prefixes(r, p) : 0;

    p[n++] = 0x62;
    p[n++] = (uint8_t)((iso_64(b->c->mode) ? rng_below(r, 16) : 15) << 4 | (rng_pct(r, 4) ? rng_below(r, 16) : g->map));
    p[n++] = (uint8_t)((kind >> 2 & 1) << 7 | (rng_pct(r, 50) ? 0x78 : rng_below(r, 16) << 3) | 4 | (kind & 3));
    p[n++] = (uint8_t)rng_next(r);
    p[n++] = (uint8_t)op;
    tail(b->s, r, (unsigned)rng_below(r, 8), p + n);
    return n;
}

/* ---- operands ---- */

static int gpr_of(ZydisRegister reg)
{
    ZydisRegisterClass cl = ZydisRegisterGetClass(reg);

    return cl == ZYDIS_REGCLASS_GPR16 || cl == ZYDIS_REGCLASS_GPR32 || cl == ZYDIS_REGCLASS_GPR64
               ? ZydisRegisterGetId(reg)
               : -1;
}

static uint64_t seg_base(const struct iso_case *c, ZydisRegister seg)
{
    return seg == ZYDIS_REGISTER_FS ? c->fs_base : seg == ZYDIS_REGISTER_GS ? c->gs_base : 0;
}

/* Makes the operand reach t through its base (or displacement), if what the code wants so far allows it. */
static void reach(struct iso_build *b, const ZydisDecodedInstruction *z, const ZydisDecodedOperandMem *m, uint8_t *p,
                  uint64_t t)
{
    int base = gpr_of(m->base), index = gpr_of(m->index);
    uint64_t x = 0;

    t -= seg_base(b->c, m->segment) + (uint64_t)m->disp.value;
    if (m->base == ZYDIS_REGISTER_RIP || (base < 0 && index < 0)) {
        uint64_t ip = iso_code_lin(b->c) + b->c->len + z->length;

        t += (uint64_t)m->disp.value - (m->base == ZYDIS_REGISTER_RIP ? ip : 0);
        if (z->raw.disp.size)
            memcpy(p + z->raw.disp.offset, &t, z->raw.disp.size / 8);
        return;
    }
    if (index >= 0 && index != base) {
        x = b->c->set >> index & 1 ? b->c->gpr[index] : rng_pct(b->r, 50) ? rng_below(b->r, 64) : iso_value(b->s, b->r);
        iso_want(b, (unsigned)index, x);
    }
    if (base >= 0)
        iso_want(b, (unsigned)base, t - x * m->scale);
}

static void solve(struct iso_build *b, const ZydisDecodedInstruction *z, const ZydisDecodedOperand *ops, uint8_t *p)
{
    for (unsigned k = 0; k < z->operand_count; k++) {
        const ZydisDecodedOperand *o = &ops[k];
        uint64_t t = iso_aim(b), bytes = o->size < 8 ? 1 : o->size / 8U;

        if (o->type != ZYDIS_OPERAND_TYPE_MEMORY || rng_pct(b->r, 15))
            continue;
        if (rng_pct(b->r, 50)) /* as much of it beyond as not */
            t -= rng_below(b->r, bytes + 1);
        if (rng_pct(b->r, 40))
            t &= ~((bytes & -bytes) - 1);
        reach(b, z, &o->mem, p, t);
    }
}

static bool decode(const struct iso_case *c, const uint8_t *p, ZydisDecodedInstruction *z, ZydisDecodedOperand *ops)
{
    ZydisDecoder dec;

    ZydisDecoderInit(&dec, iso_64(c->mode) ? ZYDIS_MACHINE_MODE_LONG_64 : ZYDIS_MACHINE_MODE_LONG_COMPAT_32,
                     iso_64(c->mode) ? ZYDIS_STACK_WIDTH_64 : ZYDIS_STACK_WIDTH_32);
    return ZYAN_SUCCESS(ZydisDecoderDecodeFull(&dec, p, LEN, z, ops));
}

void iso_opcode(struct iso_build *b, unsigned k)
{
    ZydisDecodedInstruction z;
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
    const struct range *g = range;
    uint8_t p[2 * BUF];

    for (; k >= 256U * g->kinds; g++)
        k -= 256U * g->kinds;
    unsigned op = k & 255, kind = k >> 8;

    rng_bytes(b->r, p, sizeof(p));
    switch (g->enc) {
    case E_LEGACY:
        legacy(b, g, op, kind, p);
        break;
    case E_VEX:
    case E_XOP:
        vex(b, g, op, kind, p);
        break;
    case E_EVEX:
        evex(b, g, op, kind, p);
        break;
    case E_3DNOW:
        p[0] = p[1] = 0x0f;
        p[2] = 0x03;
        p[3] = (uint8_t)op;
        break;
    default:
        p[prefixes(b->r, p)] = (uint8_t)op;
    }
    if (decode(b->c, p, &z, ops)) {
        solve(b, &z, ops, p);
        iso_emit(b, p, z.length);
    } else {
        iso_emit(b, p, LEN);
    }
}

void iso_print(const struct iso_case *c)
{
    struct iso_case at = *c;
    ZydisDisassembledInstruction d;
    unsigned off = 0;

    printf("# seed %#lx, %s, offset %#x, repeated %u, code", c->seed, iso_mode_name(c->mode), c->off, c->repeat);
    for (unsigned i = 0; i < c->len; i++)
        printf(" %02x", c->code[i]);
    printf("\n");
    while (off < at.len) {
        if (!ZYAN_SUCCESS(
                ZydisDisassembleIntel(iso_64(c->mode) ? ZYDIS_MACHINE_MODE_LONG_64 : ZYDIS_MACHINE_MODE_LONG_COMPAT_32,
                                      iso_code_lin(c) + off, c->code + off, c->len - off, &d)))
            break;
        printf("#     %s\n", d.text);
        off += d.info.length;
    }
    for (unsigned k = 0; k < 16; k++)
        if (c->set >> k & 1)
            printf("#     r%u = %#lx\n", k, c->gpr[k]);
}
