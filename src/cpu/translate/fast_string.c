/* SPDX-License-Identifier: MIT */
/*
 * Repeated string instructions in C, in runs that stay on a page: what string.c does not do in line. What is done is
 * committed, so the interpreter, or this after an interrupt, goes on where it ended.
 */
#include <Zydis/Mnemonic.h>

#include "cpu/translate/fast.h"

enum string_op { MOVS, STOS, CMPS, SCAS };

/* ---- the host's instructions, on n items, 0 < n; the flags as LAHF and SETO AL give them ---- */

struct run {
    uint8_t *to;
    const uint8_t *from;
    uint64_t n, rax;
};

#define HOST_RUN(insn)                                                                                                 \
    __asm__ volatile(insn "\n\tlahf\n\tseto %%al\n\tcld"                                                               \
                     : "+D"(r->to), "+S"(r->from), "+c"(r->n), "+a"(r->rax)                                            \
                     :                                                                                                 \
                     : "memory", "cc")
#define BOTH_WAYS(insn)                                                                                                \
    do {                                                                                                               \
        if (down)                                                                                                      \
            HOST_RUN("std\n\t" insn);                                                                                  \
        else                                                                                                           \
            HOST_RUN(insn);                                                                                            \
    } while (0)
#define SIZES(name, insn)                                                                                              \
    static void name(struct run *r, unsigned log, bool down)                                                           \
    {                                                                                                                  \
        switch (log) {                                                                                                 \
        case 0:                                                                                                        \
            BOTH_WAYS(insn "b");                                                                                       \
            break;                                                                                                     \
        case 1:                                                                                                        \
            BOTH_WAYS(insn "w");                                                                                       \
            break;                                                                                                     \
        case 2:                                                                                                        \
            BOTH_WAYS(insn "l");                                                                                       \
            break;                                                                                                     \
        default:                                                                                                       \
            BOTH_WAYS(insn "q");                                                                                       \
            break;                                                                                                     \
        }                                                                                                              \
    }
SIZES(host_movs, "rep movs")
SIZES(host_stos, "rep stos")
SIZES(host_repe_cmps, "repe cmps")
SIZES(host_repne_cmps, "repne cmps")
SIZES(host_repe_scas, "repe scas")
SIZES(host_repne_scas, "repne scas")

static void host_run(struct run *run, enum string_op op, const struct xrec *r)
{
    switch (op) {
    case MOVS:
        host_movs(run, r->size, r->down);
        break;
    case STOS:
        host_stos(run, r->size, r->down);
        break;
    case CMPS:
        (r->until ? host_repne_cmps : host_repe_cmps)(run, r->size, r->down);
        break;
    case SCAS:
        (r->until ? host_repne_scas : host_repe_scas)(run, r->size, r->down);
        break;
    }
}

/* ---- runs ---- */

/* Items from lin on, in the direction of DF, that stay on its page. */
static uint64_t in_page(gva_t lin, const struct xrec *r)
{
    uint64_t off = lin & ~PAGE_MASK, here = (PAGE_SIZE - off) >> r->size;

    return r->down ? (here ? (off >> r->size) + 1 : 0) : here;
}

/* Moves an index or count register; with 32-bit addresses the upper half becomes 0. */
static void move_reg(uint64_t *reg, uint64_t by, const struct xrec *r)
{
    *reg = r->narrow ? (uint32_t)(*reg + by) : *reg + by;
}

/* At most `left` items, left > 0; moves the registers. Items done; 0: for the interpreter. */
static uint64_t string_run(struct xlate *x, const struct xrec *r, enum string_op op, uint64_t left)
{
    struct cpu_state *c = x->cpu;
    uint64_t mask = r->narrow ? UINT32_MAX : ~0UL, *rdi = &c->gpr[X86_RDI], *rsi = &c->gpr[X86_RSI];
    bool source = op == MOVS || op == CMPS;
    struct run run = { .rax = c->gpr[X86_RAX] };
    uint64_t n = left, m = in_page(*rdi & mask, r);

    n = n < m ? n : m;
    if (source) {
        m = in_page(*rsi & mask, r);
        n = n < m ? n : m;
    }
    if (!n || (source && !(run.from = xl_fast_host(x, *rsi & mask, false))) ||
        !(run.to = xl_fast_host(x, *rdi & mask, op == MOVS || op == STOS)))
        return 0;
    run.n = n;
    host_run(&run, op, r);
    if (op == CMPS || op == SCAS) {
        n -= run.n;
        c->rflags = (c->rflags & ~(uint64_t)X86_FL_ARITH) | (run.rax >> 8 & 0xd5) | (run.rax & 1) << 11;
    }
    if (op == MOVS || op == STOS)
        xl_fast_stored(x, (*rdi & mask) - (r->down ? (n - 1) << r->size : 0), n << r->size);
    move_reg(rdi, r->down ? -(n << r->size) : n << r->size, r);
    if (source)
        move_reg(rsi, r->down ? -(n << r->size) : n << r->size, r);
    move_reg(&c->gpr[X86_RCX], -n, r);
    return n;
}

static bool found(const struct xlate *x, const struct xrec *r, enum string_op op)
{
    return (op == CMPS || op == SCAS) && !(x->cpu->rflags & X86_FL_ZF) == !r->until;
}

static bool string(struct xlate *x, const struct xrec *r, enum string_op op)
{
    const uint64_t *rcx = &x->cpu->gpr[X86_RCX];
    uint64_t left;

    while ((left = r->narrow ? (uint32_t)*rcx : *rcx)) {
        uint64_t n = string_run(x, r, op, left);

        if (!n)
            return false;
        if (found(x, r, op))
            break;
        if (left > n && atomic_load_explicit(&x->attention, memory_order_relaxed))
            return true; /* rip stays */
    }
    x->cpu->rip = xl_fast_next(x, r);
    if (r->narrow)
        x->cpu->rip = (uint32_t)x->cpu->rip;
    return true;
}

bool xl_fast_string(struct xlate *x, const struct xrec *r)
{
    switch (r->op) {
    case ZYDIS_MNEMONIC_STOSB:
    case ZYDIS_MNEMONIC_STOSW:
    case ZYDIS_MNEMONIC_STOSD:
    case ZYDIS_MNEMONIC_STOSQ:
        return string(x, r, STOS);
    case ZYDIS_MNEMONIC_MOVSB:
    case ZYDIS_MNEMONIC_MOVSW:
    case ZYDIS_MNEMONIC_MOVSD:
    case ZYDIS_MNEMONIC_MOVSQ:
        return string(x, r, MOVS);
    case ZYDIS_MNEMONIC_CMPSB:
    case ZYDIS_MNEMONIC_CMPSW:
    case ZYDIS_MNEMONIC_CMPSD:
    case ZYDIS_MNEMONIC_CMPSQ:
        return string(x, r, CMPS);
    case ZYDIS_MNEMONIC_SCASB:
    case ZYDIS_MNEMONIC_SCASW:
    case ZYDIS_MNEMONIC_SCASD:
    case ZYDIS_MNEMONIC_SCASQ:
        return string(x, r, SCAS);
    default:
        return false;
    }
}
