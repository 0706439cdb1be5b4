/* SPDX-License-Identifier: MIT */
/*
 * Verifying (struct engine_tuning): every translated block also runs in the interpreter, instruction by instruction,
 * and both results are compared. verify.c runs the two, verify_mem.c is their memory, verify_walk.c explains what page
 * tables do to it, verify_insn.c knows the instructions, verify_diff.c compares and reports.
 *
 * All ways out of a block lead to C. The interpreter goes first, along the path that the guest takes through the block,
 * until an instruction that is not translated. Then the state is put back, and the block runs on shadows of the memory
 * that the path touches, as it was: the TLB entries lead there meanwhile. So memory is written once, and nobody else
 * who looks at it sees more than that. The interpreter's result is what the machine goes on with.
 *
 * After a difference the same path is run again from blocks of one instruction, to find the one that is to blame.
 */
#ifndef GAZDA_CPU_TRANSLATE_VERIFY_H
#define GAZDA_CPU_TRANSLATE_VERIFY_H

#include "cpu/translate/translate.h"

enum {
    VI_OPS = 2,
    VER_INSNS = 64,        /* = TR_INSNS */
    VER_PAGES = 136,       /* that one path may touch */
    VER_TOUCHES = 192,     /* memory operands of a path */
    VER_STRING = 64 << 10, /* bytes of the longest string that is compared */
    VER_OPERAND = 64,      /* bytes of the largest operand but strings */
    VER_VECS = 16,         /* vector registers that are compared; no translation uses more */
    VER_LINE = 64,
    VER_ARENA = 1 << 19, /* instructions of a region of code memory */
    VI_IP = 16,          /* in place of a register */
    VI_ZERO,
};

/* cpu_state in two parts: what nearly every instruction changes, and the rest that counts. */
#define VER_HEAD offsetof(struct cpu_state, seg)
#define VER_REST                                                                                                       \
    (offsetof(struct cpu_state, fpu.vec) + VER_VECS * sizeof(((struct cpu_state *)0)->fpu.vec[0]) - VER_HEAD)
static inline void *ver_rest(struct cpu_state *c)
{
    return (uint8_t *)c + VER_HEAD;
}
static inline const void *ver_rest_of(const struct cpu_state *c)
{
    return (const uint8_t *)c + VER_HEAD;
}

/* ---- one instruction (verify_insn.c) ---- */

enum vi_how {
    VI_HAND,   /* an operand that is not worked out here: left to the interpreter */
    VI_PLAIN,  /* its memory operands are op[] */
    VI_STRING, /* items of 1 << op[].size bytes at RSI, RDI or both */
    VI_FRAME,  /* IRET: reads the stack and descriptors, wherever they are */
    VI_PAUSE,
};
enum vi_shift { VI_NOT_SHIFT, VI_SHIFT, VI_SAR, VI_DOUBLE, VI_ROTATE };

struct vi_op {
    uint8_t base, index, scale; /* scale: a shift count */
    uint8_t seg;                /* X86_FS, X86_GS or X86_SEG_NONE */
    uint8_t asz, size;          /* size of addresses and of the operand, in bytes */
    bool read, write;
    bool bits; /* of a bit string: the register `bit_reg` moves the address */
    uint8_t bit_reg;
    int64_t disp;
};

struct vi {
    uint8_t how, len, n;
    bool m64, rep;
    bool rest;                 /* it may change more than general registers and flags */
    uint16_t off;              /* in its page */
    uint16_t any_gpr;          /* bit by bit: cannot be compared (RDTSC) */
    uint16_t flags, undefined; /* flags that it changes; flags that it leaves undefined, but for shifts */
    uint8_t shift;             /* enum vi_shift */
    uint8_t width, count;      /* of a shift: bits; count, or 0xff: CL */
    uint8_t bytes[15];
    struct vi_op op[VI_OPS];
};

/* The flags that the instruction leaves undefined from this state. */
uint64_t vi_undefined(const struct vi *i, const struct cpu_state *before);
/* Linear address of operand k. */
gva_t vi_linear(const struct vi *i, unsigned k, const struct cpu_state *before);

/* ---- memory (verify_mem.c) ---- */

/* A page of the host's; only the lines that were touched are filled. */
struct ver_page {
    uint8_t *real, *shadow, *old;
    uint64_t lines;
};
/* A linear page. */
struct ver_slot {
    gva_t page;
    unsigned k; /* TLB index */
    bool writable, aimed;
    struct ver_page *p;
};
struct ver_touch {
    struct ver_page *p;
    gva_t lin;
    uint16_t len;
    uint8_t insn;
    bool read, write;
};
static inline unsigned ver_off(const struct ver_touch *t)
{
    return (unsigned)(t->lin & ~PAGE_MASK);
}

struct ver_mem {
    enum xl_ctx ctx;
    unsigned n_pages, n_slots, n_touches;
    bool reads, writes;
    bool in_place;  /* without shadows: see verify_mem.c */
    uint8_t *space; /* of shadows and old bytes */
    gva_t refused;  /* the last page that an operand was on, even if the path ends before it */
    struct ver_page page[VER_PAGES];
    struct ver_slot slot[VER_PAGES];
    struct ver_touch touch[VER_TOUCHES];
};

void ver_mem_start(struct xlate *x);
/* Before the interpreter does instruction i, the insn-th of its path. False: it must not be compared. */
bool ver_mem_touch(struct xlate *x, const struct vi *i, unsigned insn);
/* Around all of it. */
void ver_mem_begin(const struct ver_mem *m);
void ver_mem_end(const struct ver_mem *m);
/* TLB entries to the shadows, and back. */
void ver_mem_aim(struct xlate *x);
void ver_mem_unaim(struct xlate *x);
/* What the translator has in the shadows against what the interpreter has left. */
bool ver_mem_same(const struct ver_mem *m);
/* Somebody else has changed what the path reads. */
bool ver_mem_raced(const struct ver_mem *m);
/*
 * verify_walk.c. The memories differ, but only in A and D of page table entries through which the path's pages are
 * found: walks have set them behind the path's back. And: a page is not, or not any more, where the TLB has it.
 */
bool ver_walk_marked(struct xlate *x);
bool ver_walk_stale(struct xlate *x);
/* Undoes the interpreter's writes. */
void ver_mem_undo(const struct ver_mem *m);
/* Whether an instruction before `insns` writes that byte. */
bool ver_mem_written(const struct ver_mem *m, const struct ver_page *p, unsigned off);

/* ---- the two runs (verify.c) ---- */

/* What need not be equal: general registers (bit by bit), their upper halves, flags. */
struct ver_open {
    uint32_t gpr;
    bool upper;
    uint64_t flags;
};

struct ver_block {
    struct vi *i;
    unsigned n; /* instructions that are translated */
    bool no_room;
};

/* Where the interpreter's path ended: behind n instructions. */
enum ver_end {
    END_PATH,   /* it left the block, or the next one is not translated */
    END_RAISED, /* the next one has raised an exception */
    END_LEFT,   /* the interpreter has left in the next one, or before it */
};

struct xl_verify {
    struct ver_block *tab; /* by code offset / 16 */
    struct vi *arena[CODE_REGIONS];
    unsigned used[CODE_REGIONS];
    struct ver_mem mem;

    const struct ver_block *b;
    unsigned n; /* instructions of the path */
    enum ver_end end;
    bool synced;       /* the rest of `before` is that of the state now, and faults too */
    bool rest_changed; /* by the path; else the rest of `result` is not filled: it is that of `before` */
    uint8_t left_by;   /* enum xrec_kind: how the translator has left the block */
    struct ver_open open;
    struct cpu_state before, result;
    uint64_t faults[32];          /* exceptions that the interpreter had raised before */
    struct cpu_state want, after; /* scratch; for reports: the translator's result */
    struct {
        uint64_t gpr[16], rip, rflags;
        struct ver_open open;
    } at[VER_INSNS + 1]; /* before the n-th instruction */

    char *suspect;        /* report about a block that is being run again in single instructions */
    uint64_t suspect_end; /* on the clock of instructions: when it has been */
};

int xl_verify_new(struct xlate *x); /* 0 or -errno */
void xl_verify_free(struct xlate *x);
struct trans;
/* Takes down what was just translated. */
void xl_verify_note(struct trans *t);
/* cpu_state was changed by somebody else. */
static inline void xl_verify_moved(struct xlate *x)
{
    if (unlikely(x->verify != NULL))
        x->verify->synced = false;
}
/* Runs the block at pc both ways. True: leave run. */
bool xl_verify_run(struct xlate *x, const uint8_t *pc);

/* ---- comparing (verify_diff.c) ---- */

bool ver_same_head(const struct cpu_state *a, const struct cpu_state *b, const struct ver_open *open);
bool ver_same_rest(const struct cpu_state *a, const struct cpu_state *b);
/* How v->after, the translator's result, differs from b, as text to be freed (NULL: no memory). what: a clause on what
 * it did. */
char *ver_report(struct xlate *x, const struct cpu_state *b, const struct ver_open *open, const char *what);
/* Gives the text out and makes v->exit a fatal one. */
void ver_fatal(struct xlate *x, char *text);

#endif
