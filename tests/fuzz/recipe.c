/* SPDX-License-Identifier: MIT */
/*
 * Instructions that reach memory in ways of their own, with just the operands that make them go astray: strings with
 * huge counts, bit offsets, gathers, the stack, state saves, segments, far transfers, and the system side.
 */
#include <string.h>

#include "isolation.h"

#define EMIT(b, bytes) iso_emit((b), (bytes), sizeof(bytes) - 1)

static bool pct(struct iso_build *b, unsigned p)
{
    return rng_pct(b->r, p);
}
static unsigned below(struct iso_build *b, unsigned n)
{
    return (unsigned)rng_below(b->r, n);
}
static bool m64(const struct iso_build *b)
{
    return iso_64(b->c->mode);
}

/* A register other than RSP and RBP, to be a base. */
static unsigned base_to(struct iso_build *b, uint64_t v)
{
    static const uint8_t cand[] = { X86_RBX, X86_RSI, X86_RDI };
    unsigned reg = cand[below(b, 3)];

    iso_want(b, reg, v);
    return reg;
}

static void byte_if(struct iso_build *b, unsigned p, uint8_t v)
{
    if (pct(b, p))
        iso_emit(b, &v, 1);
}

static void rex_w(struct iso_build *b, unsigned p)
{
    if (m64(b))
        byte_if(b, p, 0x48);
}

/* opcode bytes, then ModRM for [base] with this reg field. */
static void op_mem(struct iso_build *b, const void *op, unsigned n, unsigned reg, unsigned base)
{
    uint8_t x[8];

    memcpy(x, op, n);
    x[n] = (uint8_t)((reg & 7) << 3 | base);
    iso_emit(b, x, n + 1);
}
#define OP_MEM(b, op, reg, base) op_mem((b), (op), sizeof(op) - 1, (reg), (base))

/* ---- user ---- */

static void string(struct iso_build *b)
{
    static const uint8_t op[] = { 0xa4, 0xa5, 0xa6, 0xa7, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf, 0x6c, 0x6d, 0x6e, 0x6f };
    static const uint64_t count[] = { 1, 17, 4096, 0x10000, 0xffffffff, 1UL << 32, 1UL << 61, ~0UL, 0 };

    iso_want(b, X86_RSI, iso_aim(b));
    iso_want(b, X86_RDI, iso_aim(b));
    iso_want(b, X86_RCX, count[below(b, ARRAY_LEN(count))]);
    byte_if(b, 20, 0x67);
    byte_if(b, 15, (uint8_t)(0x64 + below(b, 2)));
    byte_if(b, 20, 0x66);
    byte_if(b, 85, (uint8_t)(0xf2 + below(b, 2)));
    rex_w(b, 40);
    iso_emit(b, &op[below(b, pct(b, 95) ? 10 : 14)], 1);
}

/* BT and its kin: the offset alone leads from a good address to a bad one. */
static void bits(struct iso_build *b)
{
    static const uint8_t op[] = { 0xa3, 0xab, 0xb3, 0xbb };
    uint8_t x[2] = { 0x0f, op[below(b, 4)] };
    uint64_t from = LIN_UDATA + below(b, 0x1000), to = iso_aim(b);

    iso_want(b, X86_RBX, from);
    iso_want(b, X86_RDX, (to - from) << 3 | below(b, 8));
    byte_if(b, 40, 0xf0);
    byte_if(b, 20, 0x66);
    rex_w(b, 80);
    op_mem(b, x, 2, X86_RDX, X86_RBX);
}

/* A loop whose address, base + index, moves by a constant; either register may stay. */
static void march(struct iso_build *b)
{
    static const int32_t step[] = {
        1, -8, 64, 0x1000, -0x1000, 0x200000, -0x3ffffff8, 0x40000000, INT32_MAX, INT32_MIN
    };
    static const uint8_t regs[] = { X86_RBX, X86_RBP, X86_RSP, X86_RSI, X86_R9, X86_R12 };
    unsigned base = regs[below(b, m64(b) ? 6 : 4)], moved = pct(b, 50) ? X86_RDX : base, from, n;
    uint8_t sib = (uint8_t)(below(b, 4) << 6 | X86_RDX << 3 | (base & 7)), rex = base & 8 ? 0x41 : 0x40;
    int32_t by = step[below(b, ARRAY_LEN(step))];
    bool load = pct(b, 50);

    iso_want(b, base, pct(b, 30) ? iso_aim(b) : (m64(b) && pct(b, 50) ? LIN_UHIGH : LIN_UDATA) + below(b, 0x1000));
    iso_want(b, X86_RCX, below(b, 200) + 1);
    iso_want(b, X86_RDX, pct(b, 70) ? below(b, 0x100) : iso_aim(b) - LIN_UDATA);
    from = b->c->len;
    if (pct(b, 20)) { /* vmaskmovps: may touch nothing */
        iso_emit(b, (uint8_t[]){ 0xc4, base & 8 ? 0xc2 : 0xe2, 0x75, load ? 0x2c : 0x2e, 0x44, sib, 0x20 }, 7);
    } else {
        byte_if(b, m64(b) ? 100 : 0, rex);
        iso_emit(b, (uint8_t[]){ load ? 0x8a : 0x88, 0x44, sib, 0x20 }, 4);
    }
    byte_if(b, m64(b) ? 100 : 0, moved == base ? rex | 8 : 0x48);
    iso_emit(b, (uint8_t[]){ 0x81, (uint8_t)(0xc0 | (moved & 7)) }, 2); /* add moved, by */
    iso_emit(b, &by, 4);
    iso_emit(b, (uint8_t[]){ 0xff, 0xc9 }, 2); /* dec ecx */
    n = b->c->len - from + 2;
    iso_emit(b, (uint8_t[]){ 0x75, (uint8_t)-n }, 2);
}

static void gather(struct iso_build *b)
{
    uint8_t x[6] = { 0xc4,
                     0xe2,
                     (uint8_t)(below(b, 2) << 7 | below(b, 16) << 3 | below(b, 2) << 2 | 1),
                     (uint8_t)(0x90 + below(b, 4)),
                     (uint8_t)(below(b, 8) << 3 | 4),
                     (uint8_t)(below(b, 4) << 6 | below(b, 8) << 3 | X86_RBX) };

    iso_want(b, X86_RBX, iso_aim(b));
    byte_if(b, 15, 0x67);
    byte_if(b, 10, 0x65);
    iso_emit(b, x, 6);
}

static void masked(struct iso_build *b)
{
    uint64_t t = iso_aim(b) - below(b, 33);
    uint8_t x[5] = { 0xc4, 0xe2, (uint8_t)(below(b, 2) << 7 | below(b, 16) << 3 | below(b, 2) << 2 | 1),
                     (uint8_t)(pct(b, 50) ? 0x2c + below(b, 4) : 0x8c + below(b, 3) * 2),
                     (uint8_t)(below(b, 8) << 3 | X86_RBX) };

    if (pct(b, 50)) {
        iso_want(b, X86_RBX, t);
        iso_emit(b, x, 5);
        return;
    }
    iso_want(b, X86_RDI, t);
    byte_if(b, 15, 0x67);
    byte_if(b, 15, 0x64);
    byte_if(b, 60, 0x66);
    x[0] = 0x0f;
    x[1] = 0xf7;
    x[2] = (uint8_t)(0xc0 | below(b, 64));
    iso_emit(b, x, 3);
}

static void state_save(struct iso_build *b)
{
    static const char *const op[] = { "\x0f\xae", "\x0f\xae", "\x0f\xc7", "\xdd", "\xd9" };
    static const uint8_t regs[][4] = { { 0, 1, 0, 1 }, { 4, 5, 6, 7 }, { 3, 4, 5, 4 }, { 4, 6, 4, 6 }, { 4, 6, 4, 6 } };
    uint64_t t = pct(b, 30) ? LIN_UDATA + below(b, 0x80) * 64UL : iso_aim(b);
    unsigned k = below(b, 5), base = base_to(b, pct(b, 80) ? t & ~63UL : t);

    iso_want(b, X86_RAX, pct(b, 70) ? 7 : ~0UL);
    iso_want(b, X86_RDX, 0);
    rex_w(b, 50);
    op_mem(b, op[k], k < 3 ? 2 : 1, regs[k][below(b, 4)], base);
}

static void exchange(struct iso_build *b)
{
    uint64_t t = iso_aim(b);
    unsigned base = base_to(b, pct(b, 60) ? t & ~15UL : t);

    byte_if(b, 70, 0xf0);
    rex_w(b, 60);
    switch (below(b, 5)) {
    case 0:
    case 1:
        OP_MEM(b, "\x0f\xc7", 1, base);
        break;
    case 2:
        OP_MEM(b, "\x0f\xb1", X86_RDX, base);
        break;
    case 3:
        OP_MEM(b, "\x0f\xc1", X86_RDX, base);
        break;
    default:
        OP_MEM(b, "\x87", X86_RDX, base);
    }
}

static void stack(struct iso_build *b)
{
    static const char *const op[] = { "\x50", "\x58", "\xc3", "\xc9", "\x9c", "\x9d", "\xcf",
                                      "\xcb", "\x60", "\x61", "\x06", "\x1f", "\x5c", "\x54" };
    uint64_t t = iso_aim(b) + below(b, 17);
    uint8_t enter[4] = { 0xc8, (uint8_t)rng_next(b->r), (uint8_t)below(b, 256), (uint8_t)below(b, 40) };
    uint8_t call[5] = { 0xe8, (uint8_t)below(b, 64), 0, 0, 0 }, ret[3] = { 0xc2, (uint8_t)below(b, 256), 0 };

    iso_want(b, X86_RSP, t);
    iso_want(b, X86_RBP, pct(b, 50) ? t : iso_aim(b));
    byte_if(b, 10, 0x66);
    rex_w(b, 20);
    switch (below(b, 8)) {
    case 0:
        iso_emit(b, enter, 4);
        break;
    case 1:
        iso_emit(b, call, 5);
        break;
    case 2:
        iso_emit(b, ret, 3);
        break;
    case 3:
        OP_MEM(b, "\xff", 6, base_to(b, iso_aim(b))); /* push [mem] */
        break;
    case 4:
        OP_MEM(b, "\x8f", 0, base_to(b, iso_aim(b))); /* pop [mem] */
        break;
    default:
        iso_emit(b, op[below(b, ARRAY_LEN(op))], 1);
    }
}

/* A branch to anywhere: what is fetched there must be the guest's. */
static void jump(struct iso_build *b)
{
    uint64_t t = iso_aim(b);

    if (pct(b, 50)) {
        iso_want(b, X86_RDX, t);
        iso_emit(b, pct(b, 50) ? "\xff\xe2" : "\xff\xd2", 2);
    } else {
        OP_MEM(b, "\xff", pct(b, 50) ? 4 : 2, base_to(b, LIN_UDATA + below(b, 0x1ff0)));
    }
}

static uint16_t selector(struct iso_build *b)
{
    return (uint16_t)(pct(b, 90) ? below(b, 32) << 3 | below(b, 4) : rng_next(b->r));
}

static void far_transfer(struct iso_build *b)
{
    uint16_t sel = selector(b);
    uint64_t to = pct(b, 50) ? iso_code_lin(b->c) : iso_aim(b);
    uint8_t x[16] = { 0x68 }, ptr[7] = { pct(b, 50) ? 0x9a : 0xea };

    switch (below(b, 3)) {
    case 0: /* push sel; push offset; retf */
        iso_want(b, X86_RSP, iso_user(b->c->mode) ? LIN_USTACK + 0x800 : LIN_KERNEL + ISO_KDATA + 0x800);
        memcpy(x + 1, &sel, 2);
        iso_emit(b, x, 5);
        memcpy(x + 1, &to, 4);
        iso_emit(b, x, 5);
        rex_w(b, 80);
        iso_emit(b, pct(b, 70) ? "\xcb" : "\xcf", 1);
        break;
    case 1: /* through memory, which holds what it holds */
        rex_w(b, 40);
        OP_MEM(b, "\xff", pct(b, 50) ? 3 : 5, base_to(b, LIN_UDATA + below(b, 0x1ff0)));
        break;
    default:
        memcpy(ptr + 1, &to, 4);
        memcpy(ptr + 5, &sel, 2);
        iso_emit(b, ptr, 7);
    }
}

/* Loads a segment register, or its base, and uses it. */
static void segment(struct iso_build *b)
{
    static const uint8_t over[] = { 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65 };
    unsigned sreg = below(b, 6);
    uint8_t mov[2] = { 0x8e, (uint8_t)(0xc0 | sreg << 3 | X86_RAX) };
    uint8_t wr[5] = { 0xf3, 0x48, 0x0f, 0xae, (uint8_t)(0xd0 | (sreg & 1) << 3 | X86_RAX) };

    if (m64(b) && pct(b, 50)) {
        iso_want(b, X86_RAX, pct(b, 50) ? iso_aim(b) : iso_aim(b) - LIN_UDATA);
        iso_emit(b, wr, 5);
        sreg = 4 | (sreg & 1);
    } else {
        iso_want(b, X86_RAX, selector(b));
        iso_emit(b, mov, 2);
    }
    iso_want(b, X86_RBX, pct(b, 50) ? below(b, 256) : iso_value(b->s, b->r));
    byte_if(b, 15, 0x67);
    iso_emit(b, &over[sreg], 1);
    rex_w(b, 50);
    OP_MEM(b, "\x8b", X86_RCX, X86_RBX);
    iso_emit(b, &over[sreg], 1);
    OP_MEM(b, "\x89", X86_RDX, X86_RBX);
}

/* Only the low half of a register counts: in 32-bit code, or with an address-size prefix. */
static void half(struct iso_build *b)
{
    uint64_t low = LIN_UDATA + below(b, 0x2000), high = iso_aim(b) & ~0xffffffffUL;
    unsigned base = base_to(b, low | high);

    if (m64(b))
        EMIT(b, "\x67");
    rex_w(b, 30);
    OP_MEM(b, "\x03", X86_RCX, base);
}

/* x87 and MMX, SSE at the end of something. */
static void vector(struct iso_build *b)
{
    static const char *const op[] = { "\x0f\x10", "\x0f\x11", "\x0f\x28", "\x0f\x29", "\x0f\x6f", "\x0f\x7f",
                                      "\x0f\xe7", "\x0f\x2b", "\xdb",     "\xdd",     "\xd9",     "\xdf" };
    unsigned k = below(b, ARRAY_LEN(op)), n = k < 8 ? 2 : 1;
    uint64_t t = iso_aim(b) - below(b, 32);

    byte_if(b, 40, 0x66);
    byte_if(b, 20, 0xf3);
    op_mem(b, op[k], n, below(b, 8), base_to(b, pct(b, 50) ? t & ~15UL : t));
}

/* ---- kernel ---- */

static void set_rax(struct iso_build *b, uint64_t v)
{
    iso_want(b, X86_RAX, v);
}

static void control(struct iso_build *b)
{
    static const uint64_t cr0[] = { 0x80050033, 0x80010033, 0x11, 0x80000011, 0x60000010, 0x10, 0 };
    static const uint8_t which[] = { 0, 2, 3, 3, 3, 4, 8, 0 };
    unsigned cr = which[below(b, 8)];
    uint8_t x[4] = { 0x44, 0x0f, 0x22, (uint8_t)(0xc0 | (cr & 7) << 3) };
    uint64_t v = iso_value(b->s, b->r);

    if (cr == 0 && pct(b, 80))
        v = cr0[below(b, ARRAY_LEN(cr0))];
    if (cr == 3 && pct(b, 50))
        v = (iso_aim(b) & 0xffffffffff000) | below(b, 2) * 8;
    if (cr == 4 && pct(b, 70))
        v = 0x40620 ^ 1UL << below(b, 23);
    set_rax(b, v);
    if (pct(b, 12))
        x[2] = 0x23; /* mov dr */
    iso_emit(b, x + !(cr & 8), 3 + (cr >> 3));
}

static void msr(struct iso_build *b)
{
    static const uint32_t nr[] = { 0xc0000080, 0xc0000081, 0xc0000082, 0xc0000083, 0xc0000084, 0xc0000100, 0xc0000101,
                                   0xc0000102, 0x174,      0x175,      0x176,      0x1b,       0x10,       0x277,
                                   0x1d9,      0xda0,      0x200,      0x4b564d01, 0x4b564d00, 0xc0000103 };
    uint64_t v = iso_value(b->s, b->r);

    iso_want(b, X86_RCX, pct(b, 90) ? nr[below(b, ARRAY_LEN(nr))] : (uint32_t)rng_next(b->r));
    set_rax(b, (uint32_t)v);
    iso_want(b, X86_RDX, v >> 32);
    iso_emit(b, pct(b, 80) ? "\x0f\x30" : "\x0f\x32", 2);
    if (pct(b, 60))
        segment(b);
    if (pct(b, 30))
        iso_emit(b, pct(b, 50) ? "\x0f\x05" : "\x0f\x34", 2); /* through it */
}

/* lgdt, lidt, sgdt, sidt, lldt, ltr of good and bad memory, and what reads those tables then. */
static void tables(struct iso_build *b)
{
    unsigned base = base_to(b, pct(b, 70) ? LIN_KERNEL + ISO_KDATA + below(b, 0x1ff8) : iso_aim(b));

    switch (below(b, 3)) {
    case 0:
        set_rax(b, selector(b));
        iso_emit(b, pct(b, 50) ? "\x0f\x00\xd0" : "\x0f\x00\xd8", 3);
        break;
    default:
        OP_MEM(b, "\x0f\x01", below(b, 4), base);
    }
    switch (below(b, 4)) {
    case 0:
        EMIT(b, "\xcd\x80");
        break;
    case 1:
        segment(b);
        break;
    case 2:
        far_transfer(b);
        break;
    default:
        break;
    }
}

/* A page-table entry that points anywhere, then a look through it. */
static void page_table(struct iso_build *b)
{
    static const uint32_t lin[] = { (uint32_t)LIN_UDATA, (uint32_t)LIN_ULOW, (uint32_t)(LIN_KERNEL + ISO_KDATA),
                                    (uint32_t)LIN_KHUGE };
    uint64_t e = (iso_aim(b) & 0xffffffffff000) | below(b, 512);
    uint32_t entry = (uint32_t)(LIN_KERNEL + ISO_TABLES + below(b, 24) * 0x1000 + below(b, 512) * 8);

    if (pct(b, 60))
        e |= 7;
    set_rax(b, e);
    iso_want(b, X86_RDI, entry);
    iso_want(b, X86_RBX, lin[below(b, ARRAY_LEN(lin))]);
    rex_w(b, 95);
    OP_MEM(b, "\x89", X86_RAX, X86_RDI);
    if (pct(b, 60))
        EMIT(b, "\x0f\x01\x3b"); /* invlpg [rbx] */
    else if (pct(b, 60))
        EMIT(b, "\x0f\x20\xd8\x0f\x22\xd8"); /* mov rax, cr3; mov cr3, rax */
    OP_MEM(b, "\x8b", X86_RCX, X86_RBX);
    OP_MEM(b, "\x89", X86_RCX, X86_RBX);
}

static void plain_system(struct iso_build *b)
{
    static const struct {
        const char *p;
        unsigned n;
    } op[] = {
        { "\x0f\x01\x3b", 3 },
        { "\x0f\x01\xf8", 3 },
        { "\x0f\x07", 2 },
        { "\x48\x0f\x07", 3 },
        { "\x0f\x35", 2 },
        { "\x48\x0f\x35", 3 },
        { "\x0f\x05", 2 },
        { "\x0f\x34", 2 },
        { "\x0f\x06", 2 },
        { "\x0f\x01\xf3", 3 },
        { "\x0f\x01\x33", 3 },
        { "\x0f\x01\xd1", 3 },
        { "\xf4", 1 },
        { "\xfb", 1 },
        { "\xfa", 1 },
        { "\x0f\x08", 2 },
        { "\x0f\x09", 2 },
        { "\x0f\x01\xc8", 3 },
        { "\x0f\x01\xc9", 3 },
        { "\x0f\x01\xc1", 3 },
        { "\x0f\x01\xd9", 3 },
        { "\x0f\xaa", 2 },
        { "\xcf", 1 },
        { "\x48\xcf", 2 },
        { "\xcd\x80", 2 },
        { "\xe6\x80", 2 },
        { "\xe4\x80", 2 },
        { "\xec", 1 },
        { "\xef", 1 },
        { "\x0f\xa2", 2 },
        { "\x0f\x31", 2 },
        { "\x0f\x01\xf9", 3 },
        { "\x66\x0f\x38\x82\x03", 5 },
        { "\x0f\x01\xca", 3 },
        { "\x0f\x01\xcb", 3 },
        { "\x0f\x01\xd0", 3 },
        { "\x0f\x23\xf8", 3 },
        { "\x0f\x21\xf0", 3 },
        { "\x0f\x00\xc8", 3 },
        { "\x0f\x78\x03", 3 },
        { "\xf3\x0f\xc7\x33", 4 },
        { "\x0f\x01\xda\x0f\x01\xdc", 6 },
        { "\xf1", 1 },
        { "\xce", 1 },
    };
    unsigned k = below(b, ARRAY_LEN(op));

    iso_want(b, X86_RBX, iso_aim(b));
    if (pct(b, 40))
        iso_want(b, X86_RCX, pct(b, 50) ? 0 : iso_aim(b));
    iso_emit(b, op[k].p, op[k].n);
}

void iso_recipe(struct iso_build *b)
{
    static void (*const user[])(struct iso_build *) = { string,       bits,  gather, masked,  state_save,  exchange,
                                                        stack,        stack, jump,   segment, march,       march,
                                                        far_transfer, half,  vector, string,  plain_system };
    static void (*const kernel[])(struct iso_build *) = { control, msr, tables, page_table, page_table, plain_system };

    if (!iso_user(b->c->mode) && pct(b, 50))
        kernel[below(b, ARRAY_LEN(kernel))](b);
    else
        user[below(b, ARRAY_LEN(user))](b);
}

/* Touches a page that is there, so that a translation of it is at hand: test or store a byte. */
void iso_warm(struct iso_build *b)
{
    static const uint32_t at[] = {
        (uint32_t)LIN_UDATA,  (uint32_t)LIN_UDATA + 0x1000, (uint32_t)LIN_UDATA + 0x4000,
        (uint32_t)LIN_USTACK, (uint32_t)LIN_ULOW,           (uint32_t)LIN_KERNEL + ISO_KDATA
    };
    uint32_t lin = at[below(b, iso_user(b->c->mode) ? 5 : 6)] + below(b, 0x1000);
    uint8_t x[8] = { pct(b, 50) ? 0xf6 : 0xc6, 0x04, 0x25 };
    unsigned n = 3;

    if (!m64(b)) {
        x[1] = 0x05;
        n = 2;
    }
    memcpy(x + n, &lin, 4);
    x[n + 4] = 0;
    if (m64(b) && lin >> 31) /* it would be sign-extended */
        return;
    if (iso_emit(b, x, n + 5))
        b->warm = lin & ~0xfffU;
}
