/* SPDX-License-Identifier: MIT */
/* Enumeration of instruction forms; see forms.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "forms.h"
#include "isa.h"

enum { HASH = 1 << 15 };

struct builder {
    struct forms *f;
    unsigned cap;
    unsigned *hash; /* form number + 1 */
};

uint64_t form_key(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *ops)
{
    uint64_t h = 0xcbf29ce484222325;
    const uint64_t prime = 0x100000001b3;

    h = (h ^ z->mnemonic) * prime;
    h = (h ^ z->encoding) * prime;
    h = (h ^ z->meta.branch_type) * prime;
    for (unsigned i = 0; i < z->operand_count_visible; i++) {
        h = (h ^ ops[i].type) * prime;
        h = (h ^ ops[i].size) * prime;
        if (ops[i].type == ZYDIS_OPERAND_TYPE_REGISTER)
            h = (h ^ (uint64_t)ZydisRegisterGetClass(ops[i].reg.value)) * prime;
    }
    if (!z->operand_count_visible)
        h = (h ^ z->operand_width) * prime;
    if (z->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX)
        h = (h ^ (uint64_t)(z->avx.mask.reg != ZYDIS_REGISTER_K0) ^ (uint64_t)z->avx.broadcast.mode << 8) * prime;
    return h;
}

static unsigned plain_legacy(const struct form_tpl *t, uint8_t *b)
{
    unsigned n = 0;

    if (t->pp & 1)
        b[n++] = 0x66;
    if (t->pp & 2)
        b[n++] = 0xf3;
    if (t->pp & 4)
        b[n++] = 0xf2;
    if (t->w)
        b[n++] = 0x48;
    if (t->map)
        b[n++] = 0x0f;
    if (t->map == 2)
        b[n++] = 0x38;
    if (t->map == 3)
        b[n++] = 0x3a;
    return n;
}

unsigned form_plain(const struct form_tpl *t, bool mode32, uint8_t *b)
{
    unsigned n = 0;

    (void)mode32;
    memset(b, 0, 32);
    switch (t->enc) {
    case ENC_LEGACY:
        n = plain_legacy(t, b);
        break;
    case ENC_VEX:
    case ENC_XOP:
        b[n++] = t->enc == ENC_VEX ? 0xc4 : 0x8f;
        b[n++] = (uint8_t)(0xe0 | t->map);
        b[n++] = (uint8_t)(t->w << 7 | 0x78 | (t->l & 1) << 2 | t->pp);
        break;
    default:
        b[n++] = 0x62;
        b[n++] = (uint8_t)(0xf0 | t->map);
        b[n++] = (uint8_t)(t->w << 7 | 0x7c | t->pp);
        b[n++] = (uint8_t)((t->l & 3) << 5 | (t->l & 4) << 2 | 0x08 | (t->l >> 3 & 1));
    }
    b[n++] = t->opcode;
    b[n++] = t->modrm;
    if (t->mem)
        b[n++] = 0x13; /* rbx + rdx */
    return n;
}

static void add(struct builder *b, const struct form_tpl *t)
{
    uint8_t buf[32];
    ZydisDecodedInstruction z;
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];

    form_plain(t, b->f->mode32, buf);
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&b->f->dec, buf, 15, &z, ops)) || isa_denied(&z, ops))
        return;
    uint64_t key = form_key(&z, ops);
    unsigned h = (unsigned)(key >> 20) % HASH;

    while (b->hash[h] && b->f->form[b->hash[h] - 1].key != key)
        h = (h + 1) % HASH;
    if (!b->hash[h]) {
        if (b->f->n == b->cap) {
            b->cap = b->cap ? 2 * b->cap : 1024;
            b->f->form = realloc(b->f->form, b->cap * sizeof(struct form));
            if (!b->f->form || b->cap > HASH / 2)
                abort();
        }
        b->f->form[b->f->n] =
            (struct form){ .key = key, .mnemonic = (uint16_t)z.mnemonic, .isa_set = (uint16_t)z.meta.isa_set };
        b->hash[h] = ++b->f->n;
    }
    struct form *fm = &b->f->form[b->hash[h] - 1];
    unsigned at = fm->ntpl;

    if (fm->ntpl < FORM_TPLS) {
        fm->ntpl++;
    } else { /* reservoir: keeps a fair sample; the hash of a running number serves as the random source */
        at = (unsigned)((fm->seen * 0x9e3779b97f4a7c15UL) >> 33) % (fm->seen + 1);
    }
    if (at < FORM_TPLS)
        fm->tpl[at] = *t;
    fm->seen++;
}

/* Every ModRM that may matter: a memory form, and register forms; all rm where they select instructions. */
static void add_modrms(struct builder *b, struct form_tpl *t, bool all_rm)
{
    for (unsigned reg = 0; reg < 8; reg++) {
        t->mem = true;
        t->modrm = (uint8_t)(reg << 3 | 4);
        add(b, t);
        t->mem = false;
        for (unsigned rm = 0; rm < (all_rm ? 8 : 1); rm++) {
            t->modrm = (uint8_t)(0xc0 | reg << 3 | rm);
            add(b, t);
        }
    }
}

static bool is_prefix(unsigned op, bool mode32)
{
    switch (op) {
    case 0x26:
    case 0x2e:
    case 0x36:
    case 0x3e:
    case 0x64:
    case 0x65:
    case 0x66:
    case 0x67:
    case 0xf0:
    case 0xf2:
    case 0xf3:
    case 0x0f:
        return true;
    default:
        return !mode32 && (op & 0xf0) == 0x40;
    }
}

static void add_legacy(struct builder *b)
{
    static const uint8_t pps[] = { 0, 1, 2, 4, 5 };

    for (unsigned map = 0; map < 4; map++)
        for (unsigned op = 0; op < 256; op++) {
            if (map == 0 && is_prefix(op, b->f->mode32))
                continue;
            if (map == 1 && (op == 0x38 || op == 0x3a || op == 0x0f))
                continue;
            bool all_rm = (map == 0 && ((op & 0xf8) == 0xd8 || op == 0xc6 || op == 0xc7)) ||
                          (map == 1 && (op == 0x01 || op == 0xae || op == 0xc7 || op == 0x1e));

            for (unsigned p = 0; p < ARRAY_LEN(pps); p++)
                for (unsigned w = 0; w < (b->f->mode32 ? 1 : 2); w++) {
                    struct form_tpl t = { .enc = ENC_LEGACY, .map = (uint8_t)map, .opcode = (uint8_t)op };

                    t.pp = pps[p];
                    t.w = (uint8_t)w;
                    add_modrms(b, &t, all_rm);
                }
        }
}

static void add_vex(struct builder *b, enum form_enc enc)
{
    unsigned lo = enc == ENC_XOP ? 8 : 1, hi = enc == ENC_XOP ? 10 : 3;

    for (unsigned map = lo; map <= hi; map++)
        for (unsigned k = 0; k < 256 * 16; k++) {
            struct form_tpl t = { .enc = enc, .map = (uint8_t)map, .opcode = (uint8_t)k };

            t.pp = k >> 8 & 3;
            t.l = k >> 10 & 1;
            t.w = k >> 11 & 1;
            add_modrms(b, &t, false);
        }
}

static void add_evex(struct builder *b)
{
    for (unsigned map = 1; map <= 6; map++) {
        if (map == 4)
            continue;
        for (unsigned k = 0; k < 256 * 128; k++) {
            struct form_tpl t = { .enc = ENC_EVEX, .map = (uint8_t)map, .opcode = (uint8_t)k };

            t.pp = k >> 8 & 3;
            t.w = k >> 10 & 1;
            t.l = k >> 11 & 15;
            if ((t.l & 3) != 3)
                add_modrms(b, &t, false);
        }
    }
}

struct forms *forms_new(bool mode32, bool evex)
{
    struct forms *f = calloc(1, sizeof(*f));
    struct builder b = { .f = f };

    if (!f)
        return NULL;
    b.hash = calloc(HASH, sizeof(*b.hash));
    if (!b.hash) {
        free(f);
        return NULL;
    }
    f->mode32 = mode32;
    ZydisDecoderInit(&f->dec, mode32 ? ZYDIS_MACHINE_MODE_LONG_COMPAT_32 : ZYDIS_MACHINE_MODE_LONG_64,
                     mode32 ? ZYDIS_STACK_WIDTH_32 : ZYDIS_STACK_WIDTH_64);
    add_legacy(&b);
    add_vex(&b, ENC_VEX);
    add_vex(&b, ENC_XOP);
    if (evex)
        add_evex(&b);
    free(b.hash);
    return f;
}

void forms_free(struct forms *f)
{
    free(f->form);
    free(f->by_mnemonic);
    free(f->first);
    free(f);
}

static int by_mnemonic(const void *a, const void *b, void *arg)
{
    const struct form *f = arg;
    int ma = f[*(const unsigned *)a].mnemonic, mb = f[*(const unsigned *)b].mnemonic;

    return ma != mb ? ma - mb : (*(const unsigned *)a < *(const unsigned *)b ? -1 : 1);
}

void forms_filter(struct forms *f,
                  bool (*keep)(void *arg, const struct form *fm, const ZydisDecodedInstruction *z,
                               const ZydisDecodedOperand *ops),
                  void *arg)
{
    unsigned n = 0;

    for (unsigned i = 0; i < f->n; i++) {
        uint8_t buf[32];
        ZydisDecodedInstruction z;
        ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];

        form_plain(&f->form[i].tpl[0], f->mode32, buf);
        ZydisDecoderDecodeFull(&f->dec, buf, 15, &z, ops);
        if (keep(arg, &f->form[i], &z, ops))
            f->form[n++] = f->form[i];
    }
    f->n = n;
    f->by_mnemonic = calloc(n + 1, sizeof(unsigned));
    f->first = calloc(n + 1, sizeof(unsigned));
    if (!f->by_mnemonic || !f->first)
        abort();
    for (unsigned i = 0; i < n; i++)
        f->by_mnemonic[i] = i;
    qsort_r(f->by_mnemonic, n, sizeof(unsigned), by_mnemonic, f->form);
    f->mnemonics = 0;
    for (unsigned i = 0; i < n; i++)
        if (!i || f->form[f->by_mnemonic[i]].mnemonic != f->form[f->by_mnemonic[i - 1]].mnemonic)
            f->first[f->mnemonics++] = i;
    f->first[f->mnemonics] = n;
}

void form_name(const struct forms *f, const struct form *fm, char *buf, size_t len)
{
    uint8_t b[32];
    ZydisDecodedInstruction z;
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
    ZydisFormatter fmt;

    form_plain(&fm->tpl[0], f->mode32, b);
    ZydisFormatterInit(&fmt, ZYDIS_FORMATTER_STYLE_INTEL);
    snprintf(buf, len, "%s", ZydisMnemonicGetString(fm->mnemonic));
    if (ZYAN_SUCCESS(ZydisDecoderDecodeFull(&f->dec, b, 15, &z, ops)))
        ZydisFormatterFormatInstruction(&fmt, &z, ops, z.operand_count_visible, buf, len, 0, NULL);
}
