/* SPDX-License-Identifier: MIT */
/*
 * Blocks, links between them, and the building blocks of the integer handlers.
 *
 * A handler's fast form does its memory access through the TLB entry itself and tail-calls its slow form when that
 * entry does not fit, so that the fast form keeps no registers across calls and needs no prologue. A fast form is only
 * picked when X86_I_SLOW_EA is clear: in 64-bit mode, or in 32-bit code whose segments are flat.
 */
#ifndef GAZDA_CPU_INTERP_CORE_H
#define GAZDA_CPU_INTERP_CORE_H

#include <stdatomic.h>

#include "cpu/interp/interp.h"

enum {
    BLOCK_INSNS = 32,
    BLOCK_BYTES = 240, /* an uint8_t offset plus one instruction fits */
};

/* Which decoding a block is: an x86_mode, and: */
enum {
    BLOCK_SINGLE = 4, /* one instruction only */
    BLOCK_CROSS = 8,  /* one instruction, that crosses a page */
    BLOCK_FLAT = 16,  /* 32-bit code in a segment of base 0 and all 4 GiB */
    BLOCK_DATA = 32,  /* and DS, ES, SS likewise, writable, SS big */
    BLOCK_FS = 64,    /* and FS usable, 4 GiB, any base */
    BLOCK_GS = 128,
};

/* The sentinel behind the last instruction, in the place of a uop. */
struct block_end {
    uop_fn fn;
    struct block *link[2]; /* fall-through and taken; on the same page only */
    struct block *self;
    uint64_t unused;
};
_Static_assert(sizeof(struct block_end) == sizeof(struct uop), "the sentinel is a uop");

struct block {
    struct block *next; /* in its hash bucket */
    gpa_t gpa;          /* of the first byte */
    gpa_t gpa2;         /* CROSS: of the second page */
    const volatile uint32_t *gen, *gen2;
    uint32_t gen_val, gen2_val;
    uint16_t size; /* in the arena */
    uint8_t n;     /* instructions */
    uint8_t bytes;
    uint8_t kind;
    struct uop u[]; /* n + 1; the raw code bytes follow */
};

static inline struct block_end *block_end(struct block *b)
{
    return (struct block_end *)(void *)&b->u[b->n];
}
static inline uint8_t *block_code(struct block *b)
{
    return (uint8_t *)&b->u[b->n + 1];
}
/* True while the bytes that were decoded stand. */
static inline bool block_fresh(const struct block *b)
{
    return *b->gen == b->gen_val && *b->gen2 == b->gen2_val;
}

int block_cache_new(struct interp *m);
void block_cache_free(struct interp *m);
/* Forgets all blocks. Their memory stays as it is until the next one is made, so the running one may do this. */
void block_cache_flush(struct interp *m);
/* The block at c.rip; raises the faults of an instruction fetch (c.rip is exact). single: one instruction. */
struct block *block_find(struct interp *m, bool single);
/* Blocks of this kind may be linked: no limit to check between them. */
static inline bool block_linkable(unsigned kind)
{
    return kind == X86_MODE_64 || ((kind & BLOCK_FLAT) && !(kind & (BLOCK_SINGLE | BLOCK_CROSS)));
}
/* Linear address of code at rip. */
static inline gva_t interp_code_lin(const struct interp *m, uint64_t rip)
{
    return m->mode == X86_MODE_64 ? rip : (uint32_t)(m->c.seg[X86_CS].base + rip);
}

/* tlb.c */
int tlb_init(struct interp *m);
void tlb_fini(struct interp *m);
/* Physical address and host address of a byte of code; raises. */
gpa_t tlb_code_gpa(struct interp *m, gva_t lin);
void tlb_code_epoch(struct interp *m, unsigned class);
static inline unsigned tlb_code_class(const struct interp *m)
{
    return m->ctx == TLB_KERNEL || m->ctx == TLB_KERNEL_AC;
}

enum { TODO_IO = 1, TODO_INJECT = 2 };
enum { ATT_KICK = 1, ATT_UNMAP = 2 };

/* optable.c: raise #UD, #GP(0) for a bad encoding; the sentinel's function. */
void op_ud(struct interp *m, const struct uop *u);
void op_gp0(struct interp *m, const struct uop *u);
void op_block_end(struct interp *m, const struct uop *u);

/* All system instructions; theirs is sys*.c. */
uop_fn sys_pick(const struct x86_insn *i);
uop_fn alu_pick(const struct x86_insn *i);
uop_fn shift_pick(const struct x86_insn *i);
uop_fn muldiv_pick(const struct x86_insn *i);
uop_fn bits_pick(const struct x86_insn *i);
uop_fn move_pick(const struct x86_insn *i);
uop_fn stack_pick(const struct x86_insn *i);
uop_fn branch_pick(const struct x86_insn *i);
uop_fn string_pick(const struct x86_insn *i);
uop_fn atomic_pick(const struct x86_insn *i);
uop_fn bmi_pick(const struct x86_insn *i);
uop_fn misc_pick(const struct x86_insn *i);

/* bits.c: the word of a bit string that BTx mem, reg is about. */
gva_t bits_string_lin(struct interp *m, const struct uop *u, bool write);

/* fuse.c: one handler for a compare and the conditional branch behind it, or NULL. */
uop_fn fuse_pick(const struct x86_insn *compare, const struct x86_insn *branch);

/* ---- leaving a block for the next one ---- */

/*
 * Ends a block: goes straight into the linked block. False: there is none that may be entered, or somebody wants
 * attention; go through the loop. A link exists only where target needs no check (run.c, make_link).
 */
static inline __attribute__((always_inline)) struct block *interp_linked(const struct interp *m,
                                                                         const struct block_end *e, unsigned slot)
{
#ifdef GAZDA_DEBUG /* without sibling calls the host's stack would grow with every block */
    (void)m, (void)e, (void)slot;
    return NULL;
#else
    struct block *b = e->link[slot];

    if (likely(b != NULL) && likely(!atomic_load_explicit(&m->attention, memory_order_relaxed)) &&
        likely(*b->gen == b->gen_val))
        return b;
    return NULL;
#endif
}
static inline __attribute__((always_inline)) void interp_enter(struct interp *m, struct block *b, uint64_t target)
{
    m->c.gpr[X86_REG_IP] = target;
    m->block = b;
    m->insns += b->n;
    b->u[0].fn(m, b->u);
}
/* On behind the block's last instruction. */
static inline __attribute__((always_inline)) void interp_fall_through(struct interp *m, struct block_end *e,
                                                                      uint64_t next)
{
    struct block *b = interp_linked(m, e, 0);

    if (b) {
        interp_enter(m, b, next);
        return;
    }
    m->c.rip = next;
    m->link_slot = &e->link[0];
}

/* ---- flags ---- */

/* After the instruction proper: LAHF; SETO AL, into a variable bound to EAX. */
#define FL_OUT "\n\tlahf\n\tseto %%al"
/* Before it: all arithmetic flags from EAX. Clobbers AL. */
#define FL_IN "addb $0x7f,%%al\n\tsahf\n\t"
/* Only CF, from operand fl, which is m->af. */
#define FL_CF "btl $8,%[fl]\n\t"

/* ---- registers by size ---- */

typedef uint16_t reg16_alias __attribute__((may_alias));
#define REG_FNS(bits)                                                                                                  \
    static inline uint##bits##_t get_r##bits(const struct interp *m, unsigned r)                                       \
    {                                                                                                                  \
        return bits == 8 ? (uint##bits##_t)((const uint8_t *)m->c.gpr)[r] : (uint##bits##_t)m->c.gpr[r];               \
    }                                                                                                                  \
    static inline void put_r##bits(struct interp *m, unsigned r, uint##bits##_t v)                                     \
    {                                                                                                                  \
        if (bits == 8)                                                                                                 \
            ((uint8_t *)m->c.gpr)[r] = (uint8_t)v;                                                                     \
        else if (bits == 16)                                                                                           \
            *(reg16_alias *)&m->c.gpr[r] = (uint16_t)v;                                                                \
        else                                                                                                           \
            m->c.gpr[r] = (uint64_t)v;                                                                                 \
    }
REG_FNS(8)
REG_FNS(16)
REG_FNS(32)
REG_FNS(64)
#undef REG_FNS

/* Any size, for what is not hot. Byte registers are named by byte offset. */
static inline uint64_t get_reg(const struct interp *m, unsigned r, unsigned size)
{
    return size == 1 ? get_r8(m, r) : size == 2 ? get_r16(m, r) : size == 4 ? get_r32(m, r) : m->c.gpr[r];
}
static inline void put_reg(struct interp *m, unsigned r, unsigned size, uint64_t v)
{
    if (size == 1)
        put_r8(m, r, (uint8_t)v);
    else
        set_reg(m, r, size, v);
}
static inline uint64_t interp_ld(struct interp *m, const struct uop *u, gva_t lin, unsigned size)
{
    switch (size) {
    case 1:
        return interp_ld8(m, u, lin);
    case 2:
        return interp_ld16(m, u, lin);
    case 4:
        return interp_ld32(m, u, lin);
    default:
        return interp_ld64(m, u, lin);
    }
}
static inline void interp_st(struct interp *m, const struct uop *u, gva_t lin, unsigned size, uint64_t v)
{
    switch (size) {
    case 1:
        interp_st8(m, u, lin, (uint8_t)v);
        break;
    case 2:
        interp_st16(m, u, lin, (uint16_t)v);
        break;
    case 4:
        interp_st32(m, u, lin, (uint32_t)v);
        break;
    default:
        interp_st64(m, u, lin, v);
        break;
    }
}

/* ---- memory in fast forms ---- */

static inline gva_t ea_fast(const struct interp *m, const struct uop *u)
{
    return (m->c.gpr[u->i.base] + (m->c.gpr[u->i.index] << u->i.scale) + (uint64_t)(int64_t)u->i.disp +
            m->c.seg[u->i.seg].base) &
           m->ip_mask;
}
#define TLB_RD_MISS(e, lin, bits) unlikely((e)->rtag != (((lin) + (bits) / 8 - 1) & PAGE_MASK))
#define TLB_WR_MISS(e, lin, bits) unlikely((e)->wtag != (((lin) + (bits) / 8 - 1) & PAGE_MASK))
#define HOST_PTR(e, lin, bits) ((volatile gmem##bits *)((lin) + (e)->addend))
/* The end of a fast store: the frame has flags, so code may have been hit. */
void interp_st_finish(struct interp *m, const struct uop *u, gva_t lin, unsigned size);
#define NEXT_FAST_ST(m, u, e, lin, bits)                                                                               \
    do {                                                                                                               \
        if (unlikely(*(e)->fflags)) {                                                                                  \
            interp_st_finish((m), (u), (lin), (bits) / 8);                                                             \
            return;                                                                                                    \
        }                                                                                                              \
        NEXT(m, u);                                                                                                    \
    } while (0)

static inline bool insn_fast(const struct x86_insn *i)
{
    return !(i->flags & X86_I_SLOW_EA);
}
/* 0..3 for operand sizes 1, 2, 4, 8. */
static inline unsigned size_index(unsigned size)
{
    return size == 8 ? 3 : size >> 1;
}

/* One handler of the interpreter. */
#define OP(name) static void name(struct interp *m, const struct uop *u)

#endif
