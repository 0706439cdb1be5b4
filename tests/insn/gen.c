/* SPDX-License-Identifier: MIT */
/* A case from a seed: which mode, which form (or raw bytes), where its code lies. */
#include <string.h>

#include "gen.h"

/* Where single instructions lie: mostly somewhere, sometimes across the page boundary or at the end of the code. */
static void place(struct rng *r, struct insn_case *c)
{
    unsigned p = (unsigned)rng_below(r, 100), len = c->code_len;

    c->code_off = (uint16_t)(0x200 + rng_below(r, 0xc00));
    if (p < 8 && len > 1)
        c->code_off = (uint16_t)(PAGE_SIZE - 1 - rng_below(r, len - 1));
    else if (p < 12)
        c->code_off = (uint16_t)(2 * PAGE_SIZE - len);
    else if (p < 14)
        c->code_off = (uint16_t)(2 * PAGE_SIZE - 1 - rng_below(r, len));
}

static void finish(struct insn_case *c)
{
    if (c->code_off + c->code_len > 2 * (int)PAGE_SIZE)
        c->code_len = (uint16_t)(2 * PAGE_SIZE - c->code_off);
    c->in.rip = INSN_CODE + c->code_off;
}

static void start(struct gen *g, struct rng *r, uint64_t seed, bool mode32, struct insn_case *c)
{
    memset(c, 0, offsetof(struct insn_case, in));
    c->patches = 0;
    c->seed = seed;
    c->mode32 = mode32;
    c->insns = 1;
    gen_state(g, r, c);
}

static struct form *pick_form(struct forms *f, struct rng *r, uint64_t seed)
{
    if (rng_pct(r, 60)) /* consecutive seeds go through all forms */
        return &f->form[seed * 7919 % f->n];
    unsigned m = (unsigned)rng_below(r, f->mnemonics);
    unsigned lo = f->first[m], n = f->first[m + 1] - lo;

    return &f->form[f->by_mnemonic[lo + rng_below(r, n)]];
}

/*
 * Bytes that Zydis does not know. Not tested: hint NOPs that MPX has taken (they run, and so do the bytes after them),
 * LOCK MOV CR (AMD's way to CR8), LOCK VERW and its group (AMD reads the operand before #UD), and so many prefixes that
 * the length limit may be found before the bad opcode.
 */
static bool unknown_ok(const uint8_t *b)
{
    static const uint8_t pre[] = { 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3 };
    unsigned n = 0;

    while (memchr(pre, b[n], sizeof(pre)) || (b[n] & 0xf0) == 0x40)
        if (++n > 4)
            return false;
    if (b[n] == 0x0f && b[n + 1] <= 1 && memchr(b, 0xf0, n))
        return false;
    return b[n] != 0x0f || ((b[n + 1] & 0xfe) != 0x1a && (b[n + 1] & 0xfc) != 0x20);
}

/* True if raw bytes may run: those that Zydis knows must be allowed and announced. */
static bool fuzz_ok(struct gen_insn *i)
{
    if (!gen_decode(i))
        return unknown_ok(i->buf);
    /* Across 4 GiB, AMD looks at the elements that are not masked off only; interp at all of them (#SS, #GP). */
    if (gen_is_masked(i) && i->z.machine_mode != ZYDIS_MACHINE_MODE_LONG_64)
        return false;
    return !isa_denied(&i->z, i->ops) && isa_has(i->g->isa, i->z.meta.isa_set);
}

static void make_one(struct gen_insn *i, bool fuzz)
{
    struct insn_case *c = i->c;
    struct forms *f = i->g->f[c->mode32];
    struct form *fm = pick_form(f, i->r, c->seed);

    if (fuzz) {
        do
            gen_fuzz_bytes(i);
        while (!fuzz_ok(i));
        c->code_len = 15;
    } else {
        gen_encode(i, fm);
        fm->hits++;
        c->form = (uint16_t)(fm - f->form);
    }
    bool known = gen_decode(i);

    if (known)
        c->code_len = i->z.length;
    else
        memset(i->buf + 9, 0xcc, sizeof(i->buf) - 9);
    place(i->r, c);
    if (!known || i->z.mnemonic == ZYDIS_MNEMONIC_UD0 || i->z.mnemonic == ZYDIS_MNEMONIC_UD1)
        /* how many bytes are fetched before #UD is the model's affair */
        c->code_off &= 0x7ff;
    i->ip = INSN_CODE + c->code_off;
    if (gen_decode(i))
        gen_solve(i);
    memcpy(c->code, i->buf, c->code_len);
    finish(c);
}

void gen_case(struct gen *g, uint64_t seed, struct insn_case *c)
{
    struct rng r = { seed ^ 0x5bd1e995a5a5a5a5 };
    bool mode32 = g->f[1] && rng_pct(&r, g->pct32), fuzz = rng_pct(&r, g->pct_fuzz);
    struct gen_insn i = { .g = g, .r = &r, .c = c };

    bool block = rng_pct(&r, g->pct_block);

    start(g, &r, seed, mode32, c);
    if (block) {
        g->blocks++;
        gen_block(g, &r, c);
        return;
    }
    g->fuzz += fuzz;
    make_one(&i, fuzz);
}

void gen_from_bytes(struct gen *g, uint64_t seed, struct insn_case *c)
{
    struct rng r = { seed };
    struct gen_insn i = { .g = g, .r = &r, .c = c };
    uint8_t bytes[15];
    uint16_t len = c->code_len;

    memcpy(bytes, c->code, sizeof(bytes));
    memset(i.buf, 0xcc, sizeof(i.buf));
    memcpy(i.buf, bytes, len);
    start(g, &r, seed, c->mode32, c);
    c->code_len = len;
    c->code_off = 0x200;
    i.ip = INSN_CODE + c->code_off;
    if (gen_decode(&i))
        gen_solve(&i); /* for the registers and memory; the bytes stay the user's */
    memcpy(c->code, bytes, len);
    finish(c);
}
