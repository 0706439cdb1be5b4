/* SPDX-License-Identifier: MIT */
/*
 * Locked instructions, and XCHG, CMPXCHG, XADD, CMPXCHG8B/16B with memory, which use the same paths without LOCK.
 *
 * They are the host's locked instructions on the shared page, so they are atomic against everything other vCPUs do.
 * An operand that crosses a cache line would lock the host's bus (and may be refused by the host kernel): it is done
 * under a process-wide lock, which makes such operands atomic among themselves. On devices it is a read and a write.
 */
#include <Zydis/Mnemonic.h>
#include <pthread.h>
#include <string.h>

#include "cpu/interp/core.h"

/* Process-wide because guest pages may one day be shared between the VMs of a process. */
static pthread_mutex_t split_lock = PTHREAD_MUTEX_INITIALIZER;

/* A locked operand: the host's memory itself, or a copy. */
struct locked {
    gva_t lin;
    unsigned size;
    enum { DIRECT, SPLIT, DEVICE } kind;
    uint8_t *part[2]; /* SPLIT over two pages */
    unsigned first;   /* bytes in part[0] */
    uint8_t copy[16] __attribute__((aligned(16)));
};

/*
 * Under alignment checking no host pointers are given out, for every access must be looked at. A locked operand has
 * been by then, so these take the pointers of plain user accesses.
 */
static void *host_of(struct interp *m, const struct uop *u, gva_t lin, unsigned len, bool write)
{
    void *p;

    if (likely(m->ctx != TLB_USER_AC))
        return interp_host(m, u, lin, len, write);
    m->ctx = TLB_USER;
    m->tlb = m->tlbs[TLB_USER];
    p = interp_host(m, u, lin, len, write); /* a fault's delivery sets ctx anew */
    m->ctx = TLB_USER_AC;
    m->tlb = m->tlbs[TLB_USER_AC];
    return p;
}
static void host_stored(struct interp *m, gva_t lin, unsigned len)
{
    const struct tlb_entry *e = &m->tlbs[m->ctx == TLB_USER_AC ? TLB_USER : m->ctx][(lin >> PAGE_SHIFT) % TLB_SIZE];

    if (unlikely(*e->fflags))
        interp_code_hit(m, lin, len, e);
}

/* Returns where the host's instruction shall work. Raises every fault a write would. */
static void *begin(struct interp *m, const struct uop *u, struct locked *l, gva_t lin, unsigned size)
{
    void *p;

    l->lin = lin;
    l->size = size;
    if (likely((lin & 63) + size <= 64)) {
        if (m->ctx == TLB_USER_AC)
            interp_probe_write(m, u, m->ctx, lin, size); /* alignment */
        p = host_of(m, u, lin, size, true);
        if (likely(p != NULL)) {
            l->kind = DIRECT;
            return p;
        }
    }
    interp_probe_write(m, u, m->ctx, lin, size);
    l->first = (unsigned)(PAGE_SIZE - (lin & ~PAGE_MASK));
    if (l->first > size)
        l->first = size;
    l->part[0] = host_of(m, u, lin, l->first, true);
    l->part[1] = l->first < size ? host_of(m, u, lin + l->first, size - l->first, true) : NULL;
    if (l->part[0] && (l->part[1] || l->first == size)) {
        l->kind = SPLIT;
        pthread_mutex_lock(&split_lock);
        memcpy(l->copy, l->part[0], l->first);
        if (l->part[1])
            memcpy(l->copy + l->first, l->part[1], size - l->first);
    } else {
        l->kind = DEVICE;
        interp_read(m, u, m->ctx, lin, l->copy, size);
    }
    return l->copy;
}

static void end(struct interp *m, const struct uop *u, struct locked *l)
{
    switch (l->kind) {
    case DIRECT:
        host_stored(m, l->lin, l->size);
        break;
    case SPLIT:
        memcpy(l->part[0], l->copy, l->first);
        if (l->part[1])
            memcpy(l->part[1], l->copy + l->first, l->size - l->first);
        pthread_mutex_unlock(&split_lock);
        host_stored(m, l->lin, l->first);
        if (l->part[1])
            host_stored(m, l->lin + l->first, l->size - l->first);
        break;
    case DEVICE:
        interp_write(m, u, m->ctx, l->lin, l->copy, l->size);
        break;
    }
}

typedef uint8_t mem8 __attribute__((may_alias, aligned(1)));
typedef uint16_t mem16 __attribute__((may_alias, aligned(1)));
typedef uint32_t mem32 __attribute__((may_alias, aligned(1)));
typedef uint64_t mem64 __attribute__((may_alias, aligned(1)));

/* ---- [mem] op= register or immediate ---- */

#define LOCK_ASM(ins, sfx, bits, pre)                                                                                  \
    asm volatile(pre "lock " ins sfx " %[s],%[d]" FL_OUT                                                               \
                 : [d] "+m"(*(mem##bits *)p), "=&a"(fl)                                                                \
                 : [s] "r"((uint##bits##_t)s), [fl] "m"(m->af)                                                         \
                 : "cc", "memory")
#define LOCK_OP2(name, ins, pre)                                                                                       \
    OP(name)                                                                                                           \
    {                                                                                                                  \
        uint64_t s = u->i.form == X86_F_MR ? get_reg(m, u->i.r0, u->i.osz) : (uint64_t)u->i.imm;                       \
        struct locked l;                                                                                               \
        void *p = begin(m, u, &l, interp_ea(m, u, u->i.osz, true), u->i.osz);                                          \
        uint32_t fl;                                                                                                   \
        switch (u->i.osz) {                                                                                            \
        case 1:                                                                                                        \
            LOCK_ASM(ins, "b", 8, pre);                                                                                \
            break;                                                                                                     \
        case 2:                                                                                                        \
            LOCK_ASM(ins, "w", 16, pre);                                                                               \
            break;                                                                                                     \
        case 4:                                                                                                        \
            LOCK_ASM(ins, "l", 32, pre);                                                                               \
            break;                                                                                                     \
        default:                                                                                                       \
            LOCK_ASM(ins, "q", 64, pre);                                                                               \
            break;                                                                                                     \
        }                                                                                                              \
        end(m, u, &l);                                                                                                 \
        m->af = fl;                                                                                                    \
        NEXT_ST(m, u);                                                                                                 \
    }
LOCK_OP2(lock_add, "add", "")
LOCK_OP2(lock_or, "or", "")
LOCK_OP2(lock_adc, "adc", FL_CF)
LOCK_OP2(lock_sbb, "sbb", FL_CF)
LOCK_OP2(lock_and, "and", "")
LOCK_OP2(lock_sub, "sub", "")
LOCK_OP2(lock_xor, "xor", "")

/* ---- [mem] op ---- */

#define LOCK1_ASM(ins, sfx, bits)                                                                                      \
    asm volatile(FL_IN "lock " ins sfx " %[d]" FL_OUT : [d] "+m"(*(mem##bits *)p), "+&a"(fl) : : "cc", "memory")
#define LOCK_OP1(name, ins)                                                                                            \
    OP(name)                                                                                                           \
    {                                                                                                                  \
        struct locked l;                                                                                               \
        void *p = begin(m, u, &l, interp_ea(m, u, u->i.osz, true), u->i.osz);                                          \
        uint32_t fl = m->af;                                                                                           \
        switch (u->i.osz) {                                                                                            \
        case 1:                                                                                                        \
            LOCK1_ASM(ins, "b", 8);                                                                                    \
            break;                                                                                                     \
        case 2:                                                                                                        \
            LOCK1_ASM(ins, "w", 16);                                                                                   \
            break;                                                                                                     \
        case 4:                                                                                                        \
            LOCK1_ASM(ins, "l", 32);                                                                                   \
            break;                                                                                                     \
        default:                                                                                                       \
            LOCK1_ASM(ins, "q", 64);                                                                                   \
            break;                                                                                                     \
        }                                                                                                              \
        end(m, u, &l);                                                                                                 \
        m->af = fl;                                                                                                    \
        NEXT_ST(m, u);                                                                                                 \
    }
LOCK_OP1(lock_inc, "inc")
LOCK_OP1(lock_dec, "dec")
LOCK_OP1(lock_neg, "neg")
LOCK_OP1(lock_not, "not")

/* ---- bits ---- */

#define LOCKBT_ASM(ins, sfx, bits, reg)                                                                                \
    asm volatile(FL_IN "lock " ins sfx " %" reg "[s],%[d]" FL_OUT                                                      \
                 : [d] "+m"(*(mem##bits *)p), "+&a"(fl)                                                                \
                 : [s] "r"(bit & (bits - 1))                                                                           \
                 : "cc", "memory")
#define LOCK_BT(name, ins)                                                                                             \
    OP(name)                                                                                                           \
    {                                                                                                                  \
        bool reg = u->i.form == X86_F_MR;                                                                              \
        uint64_t bit = reg ? m->c.gpr[u->i.r0] : (uint64_t)u->i.imm;                                                   \
        gva_t lin = reg ? bits_string_lin(m, u, true) : interp_ea(m, u, u->i.osz, true);                               \
        struct locked l;                                                                                               \
        void *p = begin(m, u, &l, lin, u->i.osz);                                                                      \
        uint32_t fl = m->af;                                                                                           \
        if (u->i.osz == 2)                                                                                             \
            LOCKBT_ASM(ins, "w", 16, "w");                                                                             \
        else if (u->i.osz == 4)                                                                                        \
            LOCKBT_ASM(ins, "l", 32, "k");                                                                             \
        else                                                                                                           \
            LOCKBT_ASM(ins, "q", 64, "q");                                                                             \
        end(m, u, &l);                                                                                                 \
        m->af = fl;                                                                                                    \
        NEXT_ST(m, u);                                                                                                 \
    }
LOCK_BT(lock_bts, "bts")
LOCK_BT(lock_btr, "btr")
LOCK_BT(lock_btc, "btc")

/* ---- exchanges ---- */

OP(xchg_m)
{
    unsigned size = u->i.osz;
    struct locked l;
    void *p = begin(m, u, &l, interp_ea(m, u, size, true), size);
    uint64_t v = get_reg(m, u->i.r0, size);

    switch (size) {
    case 1:
        asm volatile("xchgb %b[v],%[d]" : [v] "+q"(v), [d] "+m"(*(mem8 *)p) : : "memory");
        break;
    case 2:
        asm volatile("xchgw %w[v],%[d]" : [v] "+r"(v), [d] "+m"(*(mem16 *)p) : : "memory");
        break;
    case 4:
        asm volatile("xchgl %k[v],%[d]" : [v] "+r"(v), [d] "+m"(*(mem32 *)p) : : "memory");
        break;
    default:
        asm volatile("xchgq %[v],%[d]" : [v] "+r"(v), [d] "+m"(*(mem64 *)p) : : "memory");
        break;
    }
    end(m, u, &l);
    put_reg(m, u->i.r0, size, v);
    NEXT_ST(m, u);
}

#define XADD_ASM(sfx, bits, reg)                                                                                       \
    asm volatile("lock xadd" sfx " %" reg "[v],%[d]" FL_OUT                                                            \
                 : [v] "+&r"(v), [d] "+m"(*(mem##bits *)p), "=&a"(fl)                                                  \
                 :                                                                                                     \
                 : "cc", "memory")
OP(xadd_m)
{
    unsigned size = u->i.osz;
    struct locked l;
    void *p = begin(m, u, &l, interp_ea(m, u, size, true), size);
    uint64_t v = get_reg(m, u->i.r0, size);
    uint32_t fl;

    switch (size) {
    case 1:
        XADD_ASM("b", 8, "b");
        break;
    case 2:
        XADD_ASM("w", 16, "w");
        break;
    case 4:
        XADD_ASM("l", 32, "k");
        break;
    default:
        XADD_ASM("q", 64, "q");
        break;
    }
    end(m, u, &l);
    put_reg(m, u->i.r0, size, v);
    m->af = fl;
    NEXT_ST(m, u);
}
OP(xadd_rr)
{
    unsigned size = u->i.osz;
    uint64_t d = get_reg(m, u->i.r0, size), v = get_reg(m, u->i.r1, size), old = d;
    uint32_t fl;

    switch (size) {
    case 1:
        asm("addb %b[v],%b[d]" FL_OUT : [d] "+&r"(d), "=&a"(fl) : [v] "r"(v) : "cc");
        break;
    case 2:
        asm("addw %w[v],%w[d]" FL_OUT : [d] "+&r"(d), "=&a"(fl) : [v] "r"(v) : "cc");
        break;
    case 4:
        asm("addl %k[v],%k[d]" FL_OUT : [d] "+&r"(d), "=&a"(fl) : [v] "r"(v) : "cc");
        break;
    default:
        asm("addq %[v],%[d]" FL_OUT : [d] "+&r"(d), "=&a"(fl) : [v] "r"(v) : "cc");
        break;
    }
    put_reg(m, u->i.r1, size, old);
    put_reg(m, u->i.r0, size, d);
    m->af = fl;
    NEXT(m, u);
}

/* The accumulator is the host's whole RAX, so what is left of its upper half is as on the host. */
#define CMPXCHG_ASM(sfx, type, lock, dst, dcon)                                                                        \
    asm volatile("mov %[acc],%%rax\n\t" lock "cmpxchg" sfx " %[s]," dst "\n\tmov %%rax,%[acc]" FL_OUT                  \
                 : "=&a"(fl), [acc] "+&r"(acc), [d] dcon                                                               \
                 : [s] "r"((type)s)                                                                                    \
                 : "cc", "memory")
OP(cmpxchg_m)
{
    struct locked l;
    void *p = begin(m, u, &l, interp_ea(m, u, u->i.osz, true), u->i.osz);
    uint64_t acc = m->c.gpr[X86_RAX], s = get_reg(m, u->i.r0, u->i.osz);
    uint32_t fl;

    switch (u->i.osz) {
    case 1:
        CMPXCHG_ASM("b", uint8_t, "lock ", "%[d]", "+m"(*(mem8 *)p));
        break;
    case 2:
        CMPXCHG_ASM("w", uint16_t, "lock ", "%[d]", "+m"(*(mem16 *)p));
        break;
    case 4:
        CMPXCHG_ASM("l", uint32_t, "lock ", "%[d]", "+m"(*(mem32 *)p));
        break;
    default:
        CMPXCHG_ASM("q", uint64_t, "lock ", "%[d]", "+m"(*(mem64 *)p));
        break;
    }
    end(m, u, &l);
    m->c.gpr[X86_RAX] = acc;
    m->af = fl;
    NEXT_ST(m, u);
}
OP(cmpxchg_rr)
{
    uint64_t acc = m->c.gpr[X86_RAX], s = get_reg(m, u->i.r1, u->i.osz), d;
    uint32_t fl;

    if (u->i.osz == 1) {
        d = get_r8(m, u->i.r0);
        CMPXCHG_ASM("b", uint8_t, "", "%b[d]", "+&r"(d));
        m->c.gpr[X86_RAX] = acc;
        if (fl & 0x4000)
            put_r8(m, u->i.r0, (uint8_t)d);
    } else {
        d = m->c.gpr[u->i.r0];
        if (u->i.osz == 2)
            CMPXCHG_ASM("w", uint16_t, "", "%w[d]", "+&r"(d));
        else if (u->i.osz == 4)
            CMPXCHG_ASM("l", uint32_t, "", "%k[d]", "+&r"(d));
        else
            CMPXCHG_ASM("q", uint64_t, "", "%[d]", "+&r"(d));
        m->c.gpr[X86_RAX] = acc;
        if (u->i.r0 != X86_RAX || (fl & 0x4000))
            m->c.gpr[u->i.r0] = d;
    }
    m->af = fl;
    NEXT(m, u);
}

static void set_zf(struct interp *m, bool zf)
{
    m->af = (m->af & ~0x4000U) | (zf ? 0x4000U : 0);
}

OP(cmpxchg8b)
{
    struct locked l;
    void *p = begin(m, u, &l, interp_ea(m, u, 8, true), 8);
    uint64_t old = get_r32(m, X86_RAX) | (uint64_t)get_r32(m, X86_RDX) << 32;
    uint64_t new = get_r32(m, X86_RBX) | (uint64_t)get_r32(m, X86_RCX) << 32;
    bool done;

    asm volatile("lock cmpxchgq %[n],%[d]" : "+a"(old), [d] "+m"(*(mem64 *)p), "=@ccz"(done) : [n] "r"(new) : "memory");
    end(m, u, &l);
    if (!done) {
        m->c.gpr[X86_RAX] = (uint32_t)old;
        m->c.gpr[X86_RDX] = old >> 32;
    }
    set_zf(m, done);
    NEXT_ST(m, u);
}

OP(cmpxchg16b)
{
    gva_t lin = interp_ea(m, u, 16, true);
    struct locked l;
    uint64_t a = m->c.gpr[X86_RAX], d = m->c.gpr[X86_RDX];
    bool done;
    void *p;

    if (lin & 15)
        interp_gp(m, u, 0);
    p = begin(m, u, &l, lin, 16);
    asm volatile("lock cmpxchg16b %[m]"
                 : "+a"(a), "+d"(d), [m] "+m"(*(unsigned __int128 *)p), "=@ccz"(done)
                 : "b"(m->c.gpr[X86_RBX]), "c"(m->c.gpr[X86_RCX])
                 : "memory");
    end(m, u, &l);
    m->c.gpr[X86_RAX] = a;
    m->c.gpr[X86_RDX] = d;
    set_zf(m, done);
    NEXT_ST(m, u);
}

uop_fn atomic_pick(const struct x86_insn *i)
{
    static const struct {
        uint16_t op;
        uop_fn fn;
    } locked[] = {
        { ZYDIS_MNEMONIC_ADD, lock_add }, { ZYDIS_MNEMONIC_OR, lock_or },   { ZYDIS_MNEMONIC_ADC, lock_adc },
        { ZYDIS_MNEMONIC_SBB, lock_sbb }, { ZYDIS_MNEMONIC_AND, lock_and }, { ZYDIS_MNEMONIC_SUB, lock_sub },
        { ZYDIS_MNEMONIC_XOR, lock_xor }, { ZYDIS_MNEMONIC_INC, lock_inc }, { ZYDIS_MNEMONIC_DEC, lock_dec },
        { ZYDIS_MNEMONIC_NEG, lock_neg }, { ZYDIS_MNEMONIC_NOT, lock_not }, { ZYDIS_MNEMONIC_BTS, lock_bts },
        { ZYDIS_MNEMONIC_BTR, lock_btr }, { ZYDIS_MNEMONIC_BTC, lock_btc },
    };

    switch (i->op) {
    case ZYDIS_MNEMONIC_XCHG:
        return xchg_m;
    case ZYDIS_MNEMONIC_XADD:
        return i->form == X86_F_RR ? xadd_rr : xadd_m;
    case ZYDIS_MNEMONIC_CMPXCHG:
        return i->form == X86_F_RR ? cmpxchg_rr : cmpxchg_m;
    case ZYDIS_MNEMONIC_CMPXCHG8B:
        return cmpxchg8b;
    case ZYDIS_MNEMONIC_CMPXCHG16B:
        return cmpxchg16b;
    default:
        break;
    }
    for (unsigned k = 0; k < ARRAY_LEN(locked); k++)
        if (locked[k].op == i->op)
            return locked[k].fn;
    return NULL;
}
