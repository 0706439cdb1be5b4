/* SPDX-License-Identifier: MIT */
/*
 * One block while it is translated: what scan.c (the loop), operand.c (addresses, registers), rewrite.c (most
 * instructions), vector.c, string.c, stack.c, flow.c (branches) and system.c share. A function that emits one guest
 * instruction returns false to leave it to the interpreter; it must do so before it has emitted anything.
 */
#ifndef GAZDA_CPU_TRANSLATE_TRANS_H
#define GAZDA_CPU_TRANSLATE_TRANS_H

#include <Zydis/Zydis.h>

#include "cpu/translate/emit.h"
#include "cpu/translate/translate.h"
#include "x86/fault.h"

enum {
    TR_INSNS = 64,
    TR_GROUPS = 64,
    TR_GROUP_SPAN = 512, /* bytes that one lookup may cover */
    TR_RECS = 256,
    TR_CODE = 32 << 10, /* what goes on in the block: the translation, of at most */
    TR_MAIN = 24 << 10, /* this, and jumps to other pages of user code */
    TR_COLD = 8 << 10,  /* the ways out */
    TR_BYTES = 512,     /* guest bytes of a block */
    TR_META = sizeof(struct tblock) + TR_RECS * sizeof(struct xrec) + (TR_INSNS + 1) * sizeof(struct xside) + 64,
};

/* how.c */
enum tr_how { HOW_STEP, HOW_GPR, HOW_VECTOR, HOW_STACK, HOW_FLOW, HOW_SPECIAL, HOW_SYSTEM };
extern const uint8_t tr_how_table[ZYDIS_MNEMONIC_MAX_VALUE + 1];
struct trans;
/* Of t->i. */
enum tr_how tr_how(const struct trans *t);

enum stub_form { STUB_PLAIN, STUB_MISS, STUB_CROSS };

/* One instruction as it was decoded. */
struct tr_insn {
    ZydisDecodedInstruction i;
    ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
    const uint8_t *raw;
    uint16_t off;    /* in its page */
    uint8_t group;   /* 1 + index of what its memory access belongs to, or 0 */
    uint8_t last;    /* it is the group's last member */
    uint16_t writes; /* general registers that it writes; group_find sets it */
    bool soft;       /* the soft TLB, though the block has windows: adapt.c */
    int32_t disp;    /* of the access, from the base register as it is before this instruction */
    int32_t at;      /* likewise, from where it was before the group's first member */
};

/*
 * Accesses of a block whose addresses are the same register plus constants (PUSH and POP among them): one lookup for
 * the whole range, before the first of them; the others only need the addend it found.
 */
struct tr_group {
    uint8_t base, index, scale; /* guest registers, base TR_IP: the page of the code, index 16: none; shift count */
    bool write, write_first, made;
    bool always;   /* none of its members has a mask */
    uint8_t hoist; /* enum tr_hoist */
    uint8_t reg;   /* the host register that has what is kept, or 0: R10 at times */
    uint16_t n;
    int32_t lo, hi; /* bytes from the base register before the first member */
};
enum { TR_IP = 17 };
/* What is kept for a group: the addend, or in addition what its members share and a loop (loop.c) does not change. */
enum tr_hoist { HOIST_NO, HOIST_ADDEND, HOIST_BASE, HOIST_INDEX };

struct trans {
    struct xlate *x;
    struct tblock *b;
    struct emit e;
    uint32_t base; /* code offset of e.p */
    unsigned kind;
    bool m64;
    enum xl_ctx ctx;
    gva_t page;              /* linear page; of PIC blocks only what it is just now */
    int32_t off;             /* of the instruction in its page */
    int32_t next;            /* behind it */
    const struct tr_insn *g; /* the instruction; i, op and raw are its parts */
    const ZydisDecodedInstruction *i;
    const ZydisDecodedOperand *op;
    const uint8_t *raw;
    int r10_group;      /* host R10 holds what is kept for this group, or -1 */
    uint32_t body;      /* of a loop: where its branch back goes; else 0 */
    uint16_t kept_regs; /* host registers that nothing in the loop may change */
    unsigned ninsns, ngroups;
    bool loop;                           /* the last instruction branches back to the first */
    bool single;                         /* an instruction that crosses is a block of its own */
    bool crossing;                       /* what follows the block is likely to be one */
    bool shadow;                         /* STI was just before */
    bool shadowed;                       /* likewise, and this is the instruction behind it */
    bool ended;                          /* the instruction was the block's last */
    bool stepped;                        /* and is the interpreter's */
    bool x87_checked, x87_paged, x87_op; /* the latter: the instruction is one */
    uint32_t commit;                     /* set by an emitter whose tail must not be run again; 0: none */
    struct xrec *recs;
    unsigned nrecs, nstubs, nside;
    struct tr_insn in[TR_INSNS]; /* up to here zeroed for each block */
    struct tr_group group[TR_GROUPS];
    struct {
        uint32_t at; /* rel32 that goes to the stub */
        uint16_t rec;
        uint8_t form;
    } stub[TR_RECS];
    struct xside side[TR_INSNS + 1];
    uint8_t code[TR_BYTES + 64]; /* a copy: another processor may change it meanwhile */
};

#define X(f) HGS(offsetof(struct xlate, f))
#define HOME(r) HGS(offsetof(struct xlate, home) + 8 * (unsigned)(r))

/* Whether the instruction's accesses are through windows. */
static inline bool tr_window(const struct trans *t)
{
    return (t->kind & KIND_WIN) && !t->g->soft;
}

/* Host register of a guest register, or -1 when it lives in memory. */
static inline int host_reg(unsigned g)
{
    return g == X86_RCX ? HOST_RCX_HOME : g >= R9 && g <= R11 ? -1 : (int)g;
}

/* ---- operand.c ---- */

/* Number of a general register by any of its names; high: AH..BH. */
unsigned op_gpr(ZydisRegister r, bool *high);
bool op_is_gpr(const ZydisDecodedOperand *o);
/* The linear address into R11; uses R10. False: segment or form that is not done here. */
bool op_address(struct trans *t, const ZydisDecodedOperand *m);
bool op_address_ok(const struct trans *t, const ZydisDecodedOperand *m);
/* Only the offset, cut to its size, into R11 (LEA). */
void op_offset(struct trans *t, const ZydisDecodedOperand *m);
/* From the linear address in R11: the lookup. The host address is then R11 + R10; uses RCX. */
void op_lookup(struct trans *t, unsigned size, bool write);
/* A host address, and whether it uses R11. */
struct tr_place {
    struct hmem m;
    bool r11;
};
/*
 * The host address of the instruction's only grouped access (m, or NULL for the stack's), or of m by a lookup of its
 * own. Uses R10 and RCX. False: cannot be done here.
 */
bool op_memory(struct trans *t, const ZydisDecodedOperand *m, unsigned size, bool write, struct tr_place *at);
/* group.c: finds the groups of t->in[0..ninsns). */
void group_find(struct trans *t);
/* By how much the instruction moves register g, if it is by a constant; whether it writes g at all. */
bool group_moves_by(const struct trans *t, const struct tr_insn *in, unsigned g, int64_t *by);
bool group_writes(const struct tr_insn *in, unsigned g);
/* loop.c: cuts t->in[] behind a branch back to the block's start; after group_find: what the loop may keep. */
void loop_find(struct trans *t);
void loop_begin(struct trans *t);
bool loop_keeps(const struct trans *t, uint32_t from);
/* operand.c: computes what is kept for group k. */
void op_group_keep(struct trans *t, unsigned k);
/* guest register to a host register; never RCX's host place or home as target */
void op_get(struct trans *t, unsigned host, unsigned g);
void op_put(struct trans *t, unsigned g, unsigned host);

/* flow.c: leaves the block for the instruction behind this one. */
void flow_fall_through(struct trans *t);
void flow_cross_stub(struct trans *t, const struct xrec *r);
struct xrec *tr_rec(struct trans *t, enum xrec_kind kind, int32_t off);
void tr_stub(struct trans *t, uint32_t at, const struct xrec *r, enum stub_form form);
static inline uint32_t tr_recoff(const struct trans *t, const struct xrec *r)
{
    return (uint32_t)((const uint8_t *)r - t->x->code.meta);
}
/* Leaves the instruction to the interpreter unless RCX is 0. */
void tr_step_unless_zero(struct trans *t);
/* Likewise unless the register (not R10) is a canonical address. Uses R10 and RCX, which may be the register. */
void tr_canonical(struct trans *t, unsigned reg);
/* jmp out of the block, with R10 as it is. */
void tr_exit(struct trans *t, const struct xrec *r);
static inline void tr_commit(struct trans *t)
{
    if (!t->commit)
        t->commit = t->e.n;
}

/* ---- emitters ---- */

/* Which fields of the guest's encoding are replaced. */
struct fields {
    unsigned reg, rm, v, opreg;
    bool mem;
    struct hmem m;
    bool rex8, norex; /* SPL..DIL need a REX; AH..BH exclude it */
    bool is4_7;       /* the register in the last byte has 7 bits */
};
bool rewrite_put(struct trans *t, const struct fields *f);
bool rewrite_gpr(struct trans *t);
bool rewrite_vector(struct trans *t);
bool rewrite_gather(struct trans *t);
bool emit_stack(struct trans *t);
bool emit_flow(struct trans *t);
bool emit_special(struct trans *t);
bool emit_system(struct trans *t);
bool emit_string(struct trans *t);
/* Common with flow.c. push_lookup: the place where the next item goes; push_store: stores RCX there and moves RSP. */
struct hmem push_lookup(struct trans *t, unsigned size);
void push_store(struct trans *t, unsigned size, struct hmem at);
/* What register reg (RSP, or RBP of LEAVE) points to. */
struct hmem stack_top(struct trans *t, unsigned reg, unsigned size);

#endif
