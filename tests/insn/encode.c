/* SPDX-License-Identifier: MIT */
/* Random encodings of a form: prefixes, registers, addressing. What does not decode to the same form is thrown away. */
#include <string.h>

#include "gen.h"

enum { TRIES = 40 };

bool gen_decode(struct gen_insn *i)
{
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&i->g->f[i->c->mode32]->dec, i->buf, 15, &i->z, i->ops)))
        return false;
    /* Zydis 4.0 takes [disp32 + index] for [r13d + index] when the address size is 32 bits and REX.B is set. */
    if (i->z.address_width == 32 && (i->z.attributes & ZYDIS_ATTRIB_HAS_SIB) && i->z.raw.modrm.mod == 0 &&
        i->z.raw.sib.base == 5)
        for (unsigned k = 0; k < i->z.operand_count; k++)
            if (i->ops[k].type == ZYDIS_OPERAND_TYPE_MEMORY && i->ops[k].encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM) {
                i->ops[k].mem.base = ZYDIS_REGISTER_NONE;
                i->ops[k].mem.disp.has_displacement = true;
                i->ops[k].mem.disp.value = i->z.raw.disp.value;
            }
    return true;
}

static void shuffle(struct rng *r, uint8_t *p, unsigned n)
{
    for (; n > 1; n--) {
        unsigned k = (unsigned)rng_below(r, n);
        uint8_t t = p[k];

        p[k] = p[n - 1];
        p[n - 1] = t;
    }
}

/* Optional prefixes that keep the meaning or choose another segment or address size. */
static unsigned soft_prefixes(struct gen_insn *i, uint8_t *p)
{
    static const uint8_t null_seg[] = { 0x26, 0x2e, 0x36, 0x3e };
    struct rng *r = i->r;
    unsigned n = 0;

    if (rng_pct(r, 7))
        p[n++] = 0x67;
    if (rng_pct(r, 5))
        p[n++] = null_seg[rng_below(r, 4)];
    if (i->g->host->fsgsbase && !i->c->mode32 && rng_pct(r, 6))
        p[n++] = rng_pct(r, 50) ? 0x64 : 0x65;
    return n;
}

static unsigned put_modrm(struct gen_insn *i, const struct form_tpl *t, unsigned n)
{
    struct rng *r = i->r;
    uint8_t m = t->modrm, *b = i->buf;

    if (rng_pct(r, 75))
        m = (uint8_t)((m & 0xc7) | rng_below(r, 8) << 3);
    if (t->mem) {
        m = (uint8_t)((m & 0x38) | rng_below(r, 3) << 6 | (rng_pct(r, 35) ? 4 : rng_below(r, 8)));
        b[n++] = m;
        rng_bytes(r, b + n, 13);
        return n;
    }
    if (rng_pct(r, 85))
        m = (uint8_t)((m & 0xf8) | rng_below(r, 8));
    b[n++] = m;
    rng_bytes(r, b + n, 13);
    return n;
}

static unsigned put_legacy(struct gen_insn *i, const struct form_tpl *t, uint64_t attr)
{
    struct rng *r = i->r;
    uint8_t p[12], *b = i->buf;
    unsigned n = 0;

    if (t->pp & 1)
        p[n++] = 0x66;
    if (t->pp & 2)
        p[n++] = 0xf3;
    if (t->pp & 4)
        p[n++] = 0xf2;
    n += soft_prefixes(i, p + n);
    if ((attr & ZYDIS_ATTRIB_ACCEPTS_LOCK) && t->mem && rng_pct(r, 40))
        p[n++] = 0xf0;
    if ((attr & (ZYDIS_ATTRIB_ACCEPTS_REP | ZYDIS_ATTRIB_ACCEPTS_REPE | ZYDIS_ATTRIB_ACCEPTS_REPNE)) && rng_pct(r, 60))
        p[n++] = rng_pct(r, 70) ? 0xf3 : 0xf2;
    else if (rng_pct(r, 2))
        p[n++] = rng_pct(r, 50) ? 0xf3 : 0xf2;
    if (rng_pct(r, 2))
        p[n++] = 0x66;
    shuffle(r, p, n);
    if (!i->c->mode32 && rng_pct(r, 1)) { /* a REX that is not the last prefix counts for nothing */
        p[n++] = (uint8_t)(0x40 | rng_below(r, 16));
        p[n++] = 0x3e;
    }
    memcpy(b, p, n);
    if (!i->c->mode32) {
        uint8_t rex = (uint8_t)(t->w << 3 | (rng_pct(r, 60) ? rng_below(r, 8) : 0));

        if (rex || rng_pct(r, 20))
            b[n++] = 0x40 | rex;
    }
    if (t->map)
        b[n++] = 0x0f;
    if (t->map == 2)
        b[n++] = 0x38;
    if (t->map == 3)
        b[n++] = 0x3a;
    b[n++] = t->opcode;
    return n;
}

static unsigned put_vex(struct gen_insn *i, const struct form_tpl *t)
{
    struct rng *r = i->r;
    uint8_t *b = i->buf;
    unsigned n = soft_prefixes(i, b);
    uint8_t rxb = i->c->mode32 ? 7 : rng_pct(r, 60) ? (uint8_t)rng_below(r, 8) : 7;
    uint8_t v = rng_pct(r, 70) ? (uint8_t)rng_below(r, 16) : 15;

    if (i->c->mode32)
        v |= 8;
    if (t->enc == ENC_VEX && t->map == 1 && !t->w && (rxb & 3) == 3 && rng_pct(r, 60)) {
        b[n++] = 0xc5;
        b[n++] = (uint8_t)((rxb & 4) << 5 | v << 3 | (t->l & 1) << 2 | t->pp);
    } else {
        b[n++] = t->enc == ENC_VEX ? 0xc4 : 0x8f;
        b[n++] = (uint8_t)(rxb << 5 | t->map);
        b[n++] = (uint8_t)(t->w << 7 | v << 3 | (t->l & 1) << 2 | t->pp);
    }
    b[n++] = t->opcode;
    return n;
}

static unsigned put_evex(struct gen_insn *i, const struct form_tpl *t)
{
    struct rng *r = i->r;
    uint8_t *b = i->buf;
    unsigned n = soft_prefixes(i, b);
    uint8_t hi = i->c->mode32 ? 0xf : (uint8_t)rng_below(r, 16), v = rng_pct(r, 75) ? (uint8_t)rng_below(r, 16) : 15;
    uint8_t aaa = t->l >> 3 & 1 ? (uint8_t)(1 + rng_below(r, 7)) : 0;
    bool vhi = i->c->mode32 || v == 15 || rng_pct(r, 50);

    if (i->c->mode32)
        v |= 8;
    b[n++] = 0x62;
    b[n++] = (uint8_t)(hi << 4 | t->map);
    b[n++] = (uint8_t)(t->w << 7 | v << 3 | 4 | t->pp);
    b[n++] = (uint8_t)((aaa && rng_pct(r, 40)) << 7 | (t->l & 3) << 5 | (t->l & 4) << 2 | vhi << 3 | aaa);
    b[n++] = t->opcode;
    return n;
}

bool gen_encode(struct gen_insn *i, struct form *fm)
{
    const struct form_tpl *t = &fm->tpl[0];

    form_plain(t, i->c->mode32, i->buf);
    if (!gen_decode(i))
        return false;
    uint64_t attr = i->z.attributes;

    for (unsigned k = 0; k < TRIES; k++) {
        unsigned n;

        t = &fm->tpl[rng_below(i->r, fm->ntpl)];
        switch (t->enc) {
        case ENC_LEGACY:
            n = put_legacy(i, t, attr);
            break;
        case ENC_EVEX:
            n = put_evex(i, t);
            break;
        default:
            n = put_vex(i, t);
        }
        put_modrm(i, t, n);
        if (gen_decode(i) && form_key(&i->z, i->ops) == fm->key && !isa_denied(&i->z, i->ops) &&
            isa_has(i->g->isa, i->z.meta.isa_set))
            return true;
    }
    form_plain(t, i->c->mode32, i->buf);
    return gen_decode(i);
}

void gen_fuzz_bytes(struct gen_insn *i)
{
    static const uint8_t pre[] = { 0x66, 0xf2, 0xf3, 0xf0, 0x67, 0x2e, 0x3e, 0x26, 0x36 };
    struct rng *r = i->r;
    unsigned n = 0;

    while (n < 5 && rng_pct(r, 35))
        i->buf[n++] = pre[rng_below(r, sizeof(pre))];
    if (!i->c->mode32 && rng_pct(r, 40))
        i->buf[n++] = (uint8_t)(0x40 | rng_below(r, 16));
    rng_bytes(r, i->buf + n, sizeof(i->buf) - n);
    switch (rng_below(r, 8)) {
    case 0:
    case 1:
    case 2:
        i->buf[n] = 0x0f;
        break;
    case 3:
        i->buf[n] = 0x0f;
        i->buf[n + 1] = rng_pct(r, 50) ? 0x38 : 0x3a;
        break;
    case 4:
        i->buf[n] = rng_pct(r, 50) ? 0xc4 : 0xc5;
        if (i->buf[n] == 0xc4)
            i->buf[n + 1] = (uint8_t)((i->buf[n + 1] & 0xe0) | rng_below(r, 5));
        break;
    default:
        break;
    }
}
