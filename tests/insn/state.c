/* SPDX-License-Identifier: MIT */
/* The random state before a case. */
#include <string.h>

#include "gen.h"

static void gen_x87(struct rng *r, struct x86_fpu *f)
{
    unsigned masks = rng_pct(r, 80) ? 0x3f : (unsigned)rng_below(r, 64);
    unsigned exc = rng_pct(r, 15) ? (unsigned)rng_below(r, 64) : 0;
    bool es = exc & ~masks & 0x3f;

    f->fcw = (uint16_t)(masks | 0x40 | (rng_pct(r, 60) ? 0x300 : rng_below(r, 4) << 8) | rng_below(r, 4) << 10);
    if (f->fcw >> 8 & 1 && !(f->fcw >> 9 & 1))
        f->fcw |= 0x200; /* precision control 01 is reserved */
    f->fsw = (uint16_t)(exc | (rng_next(r) & 0x4700) | rng_below(r, 8) << 11 | (es ? 0x8080 : 0));
    if (rng_pct(r, 5))
        f->fsw |= 0x40;
    f->ftw = rng_pct(r, 70) ? 0xff : rng_pct(r, 30) ? 0 : (uint8_t)rng_next(r);
    for (unsigned i = 0; i < 8; i++)
        rng_x87(r, f->st[i]);
}

void gen_fpu(struct gen *g, struct rng *r, struct x86_fpu *f)
{
    memset(f, 0, sizeof(*f));
    gen_x87(r, f);
    f->mxcsr = 0x1f80 | (uint32_t)rng_below(r, 4) << 13;
    if (rng_pct(r, 15))
        f->mxcsr |= 1U << 15;
    if (rng_pct(r, 15))
        f->mxcsr |= 1U << 6;
    if (rng_pct(r, 25))
        f->mxcsr |= (uint32_t)rng_below(r, 64);
    if (rng_pct(r, 12))
        f->mxcsr &= ~((uint32_t)rng_below(r, 64) << 7);
    f->mxcsr &= g->host->mxcsr_mask;
    size_t w = g->host->off_zmmh ? 64 : g->host->off_ymm ? 32 : 16;

    for (unsigned i = 0; i < (g->host->off_zmm16 ? 32U : 16U); i++)
        rng_vector(r, f->vec[i], w);
    if (g->host->off_k)
        for (unsigned i = 0; i < 8; i++)
            f->k[i] = rng_int(r);
}

void gen_state(struct gen *g, struct rng *r, struct insn_case *c)
{
    struct insn_state *s = &c->in;

    for (unsigned i = 0; i < 16; i++)
        s->gpr[i] = c->mode32 ? (uint32_t)rng_int(r) : rng_int(r);
    s->gpr[X86_RSP] = INSN_STACK + 0x800 + rng_below(r, 0x100) * 8;
    if (rng_pct(r, 6))
        s->gpr[X86_RSP] = INSN_STACK + (rng_pct(r, 50) ? 0 : 0x2000) + rng_below(r, 24) - 12;
    else if (rng_pct(r, 10))
        s->gpr[X86_RSP] += rng_below(r, 8);
    else if (rng_pct(r, 4))
        s->gpr[X86_RSP] = INSN_STACK + 0x1000 + rng_below(r, 16) - 8;
    else if (rng_pct(r, 3))
        s->gpr[X86_RSP] = rng_int(r);
    if (c->mode32)
        s->gpr[X86_RSP] = (uint32_t)s->gpr[X86_RSP];
    s->rflags = X86_FL_1 | X86_FL_IF | (rng_next(r) & X86_FL_ARITH);
    if (rng_pct(r, 15))
        s->rflags |= X86_FL_DF;
    if (rng_pct(r, 6))
        s->rflags |= X86_FL_AC;
    if (rng_pct(r, 2))
        s->rflags |= X86_FL_TF;
    if (rng_pct(r, 10))
        s->rflags |= X86_FL_ID;
    if (rng_pct(r, 3))
        s->rflags |= X86_FL_NT;
    if (g->host->fsgsbase) {
        s->fs_base = INSN_DATA + rng_below(r, 0x1000);
        s->gs_base = INSN_DATA + rng_below(r, 0x1000);
        if (c->mode32) /* the base of a null selector; 32-bit code may not use FS or GS */
            s->fs_base = s->gs_base = 0;
    }
    gen_fpu(g, r, &s->fpu);
}
