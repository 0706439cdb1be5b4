/* SPDX-License-Identifier: MIT */
/*
 * MOVS STOS LODS CMPS SCAS with their repeat prefixes. INS and OUTS are I/O and live elsewhere.
 *
 * Each iteration commits its registers, so a fault or an interrupt between two of them restarts the instruction where
 * it was. Runs of MOVS and STOS inside a page go to the host's own REP, which also gives overlapping moves their
 * exact meaning.
 */
#include <Zydis/Mnemonic.h>

#include "cpu/interp/cond.h"
#include "cpu/interp/core.h"

enum { USES_SI = 1, USES_DI = 2 };

static uint64_t addr_mask(const struct uop *u)
{
    return u->i.asz == 8 ? ~0UL : u->i.asz == 4 ? 0xffffffffUL : 0xffffUL;
}

static gva_t src_lin(struct interp *m, const struct uop *u)
{
    if (insn_fast(&u->i))
        return (m->c.gpr[X86_RSI] + m->c.seg[u->i.seg].base) & m->ip_mask;
    return interp_seg_lin(m, u, u->i.seg, m->c.gpr[X86_RSI] & addr_mask(u), u->i.osz, false);
}
static gva_t dst_lin(struct interp *m, const struct uop *u, bool write)
{
    if (insn_fast(&u->i))
        return m->c.gpr[X86_RDI] & m->ip_mask;
    return interp_seg_lin(m, u, X86_ES, m->c.gpr[X86_RDI] & addr_mask(u), u->i.osz, write);
}

/* Moves the index registers by n elements. */
static void advance(struct interp *m, const struct uop *u, unsigned regs, uint64_t n)
{
    uint64_t step = m->c.rflags & X86_FL_DF ? -(n * u->i.osz) : n * u->i.osz;

    if (regs & USES_SI)
        set_reg(m, X86_RSI, u->i.asz, m->c.gpr[X86_RSI] + step);
    if (regs & USES_DI)
        set_reg(m, X86_RDI, u->i.asz, m->c.gpr[X86_RDI] + step);
}

/* Takes n off the count; true when the instruction must be left for now with iterations to go. */
static bool rep_pause(struct interp *m, const struct uop *u, uint64_t n)
{
    uint64_t left = (m->c.gpr[X86_RCX] - n) & addr_mask(u);

    set_reg(m, X86_RCX, u->i.asz, left);
    interp_io_commit(m);
    if (!left)
        return false;
    if (likely(!atomic_load_explicit(&m->attention, memory_order_relaxed) && !m->break_block && !m->careful &&
               !(m->c.rflags & X86_FL_TF)))
        return false;
    interp_leave_before(m, u);
    return true;
}

/* ---- runs on the host ---- */

/* How many elements from lin on lie on its page, at most n. */
static uint64_t run_length(gva_t lin, unsigned size, uint64_t n)
{
    uint64_t fit = (PAGE_SIZE - (lin & ~PAGE_MASK)) / size;
    return n < fit ? n : fit;
}

static bool may_run(const struct interp *m, const struct uop *u)
{
    return insn_fast(&u->i) && !(m->c.rflags & (X86_FL_DF | X86_FL_TF)) && !m->careful;
}

static void host_movs(void *d, const void *s, uint64_t n, unsigned size)
{
    switch (size) {
    case 1:
        asm volatile("rep movsb" : "+D"(d), "+S"(s), "+c"(n) : : "memory");
        break;
    case 2:
        asm volatile("rep movsw" : "+D"(d), "+S"(s), "+c"(n) : : "memory");
        break;
    case 4:
        asm volatile("rep movsl" : "+D"(d), "+S"(s), "+c"(n) : : "memory");
        break;
    default:
        asm volatile("rep movsq" : "+D"(d), "+S"(s), "+c"(n) : : "memory");
        break;
    }
}

static void host_stos(void *d, uint64_t a, uint64_t n, unsigned size)
{
    switch (size) {
    case 1:
        asm volatile("rep stosb" : "+D"(d), "+c"(n) : "a"(a) : "memory");
        break;
    case 2:
        asm volatile("rep stosw" : "+D"(d), "+c"(n) : "a"(a) : "memory");
        break;
    case 4:
        asm volatile("rep stosl" : "+D"(d), "+c"(n) : "a"(a) : "memory");
        break;
    default:
        asm volatile("rep stosq" : "+D"(d), "+c"(n) : "a"(a) : "memory");
        break;
    }
}

/* Elements moved, 0 when one must go the slow way. */
static uint64_t movs_run(struct interp *m, const struct uop *u, uint64_t n)
{
    gva_t s = src_lin(m, u), d = dst_lin(m, u, true);
    const void *hs;
    void *hd;

    n = run_length(d, u->i.osz, run_length(s, u->i.osz, n));
    if (!n)
        return 0;
    hs = interp_host(m, u, s, (unsigned)n * u->i.osz, false);
    if (!hs)
        return 0;
    hd = interp_host(m, u, d, (unsigned)n * u->i.osz, true);
    if (!hd)
        return 0;
    host_movs(hd, hs, n, u->i.osz);
    interp_host_stored(m, d, (unsigned)n * u->i.osz);
    return n;
}

static uint64_t stos_run(struct interp *m, const struct uop *u, uint64_t n)
{
    gva_t d = dst_lin(m, u, true);
    void *hd;

    n = run_length(d, u->i.osz, n);
    if (!n)
        return 0;
    hd = interp_host(m, u, d, (unsigned)n * u->i.osz, true);
    if (!hd)
        return 0;
    host_stos(hd, m->c.gpr[X86_RAX], n, u->i.osz);
    interp_host_stored(m, d, (unsigned)n * u->i.osz);
    return n;
}

/* ---- MOVS, STOS, LODS ---- */

static void movs_one(struct interp *m, const struct uop *u)
{
    uint64_t v = interp_ld(m, u, src_lin(m, u), u->i.osz);

    interp_st(m, u, dst_lin(m, u, true), u->i.osz, v);
    advance(m, u, USES_SI | USES_DI, 1);
}
static void stos_one(struct interp *m, const struct uop *u)
{
    interp_st(m, u, dst_lin(m, u, true), u->i.osz, m->c.gpr[X86_RAX]);
    advance(m, u, USES_DI, 1);
}
static void lods_one(struct interp *m, const struct uop *u)
{
    put_reg(m, X86_RAX, u->i.osz, interp_ld(m, u, src_lin(m, u), u->i.osz));
    advance(m, u, USES_SI, 1);
}

#define PLAIN_OP(name)                                                                                                 \
    OP(name)                                                                                                           \
    {                                                                                                                  \
        name##_one(m, u);                                                                                              \
        NEXT_ST(m, u);                                                                                                 \
    }
PLAIN_OP(movs)
PLAIN_OP(stos)
PLAIN_OP(lods)

OP(rep_movs)
{
    uint64_t n;

    while ((n = m->c.gpr[X86_RCX] & addr_mask(u)) != 0) {
        uint64_t done = may_run(m, u) ? movs_run(m, u, n) : 0;

        if (done)
            advance(m, u, USES_SI | USES_DI, done);
        else
            movs_one(m, u), done = 1;
        if (rep_pause(m, u, done))
            return;
    }
    NEXT_ST(m, u);
}

OP(rep_stos)
{
    uint64_t n;

    while ((n = m->c.gpr[X86_RCX] & addr_mask(u)) != 0) {
        uint64_t done = may_run(m, u) ? stos_run(m, u, n) : 0;

        if (done)
            advance(m, u, USES_DI, done);
        else
            stos_one(m, u), done = 1;
        if (rep_pause(m, u, done))
            return;
    }
    NEXT_ST(m, u);
}

OP(rep_lods)
{
    while (m->c.gpr[X86_RCX] & addr_mask(u)) {
        lods_one(m, u);
        if (rep_pause(m, u, 1))
            return;
    }
    NEXT(m, u);
}

/* ---- CMPS, SCAS ---- */

static uint32_t compare(uint64_t a, uint64_t b, unsigned size)
{
    uint32_t fl;

    switch (size) {
    case 1:
        asm("cmpb %b[b],%b[a]" FL_OUT : "=&a"(fl) : [a] "r"(a), [b] "r"(b) : "cc");
        break;
    case 2:
        asm("cmpw %w[b],%w[a]" FL_OUT : "=&a"(fl) : [a] "r"(a), [b] "r"(b) : "cc");
        break;
    case 4:
        asm("cmpl %k[b],%k[a]" FL_OUT : "=&a"(fl) : [a] "r"(a), [b] "r"(b) : "cc");
        break;
    default:
        asm("cmpq %[b],%[a]" FL_OUT : "=&a"(fl) : [a] "r"(a), [b] "r"(b) : "cc");
        break;
    }
    return fl;
}

static uint32_t cmps_one(struct interp *m, const struct uop *u)
{
    uint64_t a = interp_ld(m, u, src_lin(m, u), u->i.osz);
    uint64_t b = interp_ld(m, u, dst_lin(m, u, false), u->i.osz);

    advance(m, u, USES_SI | USES_DI, 1);
    return compare(a, b, u->i.osz);
}
static uint32_t scas_one(struct interp *m, const struct uop *u)
{
    uint64_t b = interp_ld(m, u, dst_lin(m, u, false), u->i.osz);

    advance(m, u, USES_DI, 1);
    return compare(m->c.gpr[X86_RAX], b, u->i.osz);
}

/* Flags change only when the instruction ends or is interrupted, not when an iteration faults. */
#define COMPARE_OP(name)                                                                                               \
    OP(name)                                                                                                           \
    {                                                                                                                  \
        m->af = name##_one(m, u);                                                                                      \
        NEXT(m, u);                                                                                                    \
    }                                                                                                                  \
    OP(rep_##name)                                                                                                     \
    {                                                                                                                  \
        bool while_equal = u->i.flags & X86_I_REP;                                                                     \
        uint32_t af = m->af;                                                                                           \
        while (m->c.gpr[X86_RCX] & addr_mask(u)) {                                                                     \
            af = name##_one(m, u);                                                                                     \
            if (cond_z(af) != while_equal) {                                                                           \
                set_reg(m, X86_RCX, u->i.asz, m->c.gpr[X86_RCX] - 1);                                                  \
                break;                                                                                                 \
            }                                                                                                          \
            if (rep_pause(m, u, 1)) {                                                                                  \
                m->af = af;                                                                                            \
                return;                                                                                                \
            }                                                                                                          \
        }                                                                                                              \
        m->af = af;                                                                                                    \
        NEXT(m, u);                                                                                                    \
    }
COMPARE_OP(cmps)
COMPARE_OP(scas)

uop_fn string_pick(const struct x86_insn *i)
{
    bool rep = i->flags & (X86_I_REP | X86_I_REPNE);

    switch (i->op) {
    case ZYDIS_MNEMONIC_MOVSB:
    case ZYDIS_MNEMONIC_MOVSW:
    case X86_OP_MOVSD_STR:
    case ZYDIS_MNEMONIC_MOVSQ:
        return rep ? rep_movs : movs;
    case ZYDIS_MNEMONIC_STOSB:
    case ZYDIS_MNEMONIC_STOSW:
    case ZYDIS_MNEMONIC_STOSD:
    case ZYDIS_MNEMONIC_STOSQ:
        return rep ? rep_stos : stos;
    case ZYDIS_MNEMONIC_LODSB:
    case ZYDIS_MNEMONIC_LODSW:
    case ZYDIS_MNEMONIC_LODSD:
    case ZYDIS_MNEMONIC_LODSQ:
        return rep ? rep_lods : lods;
    case ZYDIS_MNEMONIC_CMPSB:
    case ZYDIS_MNEMONIC_CMPSW:
    case X86_OP_CMPSD_STR:
    case ZYDIS_MNEMONIC_CMPSQ:
        return rep ? rep_cmps : cmps;
    case ZYDIS_MNEMONIC_SCASB:
    case ZYDIS_MNEMONIC_SCASW:
    case ZYDIS_MNEMONIC_SCASD:
    case ZYDIS_MNEMONIC_SCASQ:
        return rep ? rep_scas : scas;
    default:
        return NULL;
    }
}
