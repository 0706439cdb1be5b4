/* SPDX-License-Identifier: MIT */
/* Blocks, the ways out of them, and finding them (scan.c, block.c). */
#ifndef GAZDA_CPU_TRANSLATE_BLOCK_H
#define GAZDA_CPU_TRANSLATE_BLOCK_H

#include "cpu/translate/kind.h"

enum xrec_kind {
    X_LINK,   /* a direct branch: off is the target's, linkable to a block */
    X_LOOKUP, /* aux is the linear target */
    X_STEP,   /* the instruction at off goes to the interpreter */
    X_MISS,   /* aux is the linear address */
    X_GROUP,  /* likewise, of a lookup for several accesses */
    X_X87,    /* load the x87 state and go on at retry */
    X_FAST,   /* the instruction at off is done in C; op tells which */
    X_GATHER, /* likewise up to the registers: it goes on at stub */
    X_PAUSE,
    X_ABORT, /* enter was not made */
    X_WIN,   /* a host fault while there are windows: fault_*; aux is the address of the instruction */
    X_FAULT, /* a host fault or a kick at the instruction aux, from a signal handler */
    X_KICK,
};

/* A gather: its registers, and logarithms of sizes in bytes. */
struct gather {
    uint8_t dst, index, mask, count, elem_log, index_log, scale_log;
    bool narrow; /* 32-bit addresses */
};

/* One way out of a block. */
struct xrec {
    struct tblock *b;
    int32_t off;    /* guest address relative to the page of the block */
    uint32_t patch; /* X_LINK, X_GROUP: code offset of the rel32 that a link changes */
    uint32_t stub;  /* X_LINK: code offset of the way out; X_MISS, X_GROUP: of the retry; X_FAST, X_GATHER: where
                       it goes on in code, or 0 */
    uint32_t miss;  /* X_GROUP: code offset of the way out; X_LINK of a loop: where a link to the own block goes */
    int32_t target; /* X_LOOKUP of a direct branch: the target relative to the page */
    int32_t delta;  /* X_LOOKUP of an indirect one: what it has added to RSP */
    uint16_t op;
    uint8_t kind;
    uint16_t size;
    bool write, cross, indirect;
    bool write_first; /* X_GROUP: the instruction at off stores */
    uint8_t failed;   /* X_GROUP: how often filling was of no use */
    bool narrow;      /* of a repeated string instruction: 32-bit addresses */
    bool down;        /* likewise: DF is set; size: log 2 of the item */
    bool until;       /* likewise: REPNE */
    bool shadow;      /* the instruction at off must not be interrupted: STI was before it */
    struct gather gather;
    struct xrec *next; /* among those linked to the same block */
    struct tblock *to;
};

/*
 * Where a guest instruction begins, in guest and host; from `commit` on it cannot be run again from its start, but at
 * `rep` (if not 0), where a host's REP goes on: string.c tells how the guest's registers are found there.
 */
struct xside {
    uint16_t host, commit;
    uint16_t guest;
    uint16_t rep;
    uint8_t rep_regs; /* SIDE_* */
    bool shadow;      /* no interrupt before this one: STI was before it */
};
enum { SIDE_SI = 1, SIDE_DI = 2, SIDE_NARROW = 4 };

struct frame_ref {
    struct frame_ref *next;
    struct tblock *b;
    gpa_t frame; /* NO_GPA: not used */
};

struct tblock {
    struct tblock *hnext;
    struct frame_ref ref[2]; /* in the lists of its frames */
    gpa_t gpa, gpa2;         /* gpa2: page of the rest of an instruction that crosses, or NO_GPA */
    gva_t page;              /* linear page, if not PIC */
    uint32_t kind;
    uint32_t start, entry, end; /* code offsets: entry by jump cache, entry by link, end */
    uint32_t cold, cold_end;    /* likewise, of its ways out */
    uint16_t bytes, n;
    bool dead;
    struct xrec *in;               /* links to this block */
    struct tblock *xnext, **xprev; /* of those with links that cross pages of kernel code; xprev NULL: none has been */
    struct xrec *recs;
    unsigned nrecs;
    struct xside *side;
};

int xl_scan_init(struct xlate *x);
void xl_scan_fini(struct xlate *x);
/* scan.c: translates at rip; NULL when the first instruction is for the interpreter. */
struct xl_source {
    unsigned kind;
    gva_t lin;
    gpa_t gpa, gpa2;             /* gpa2: page behind, or NO_GPA */
    const uint8_t *host, *host2; /* of the first byte; of the page behind */
};
struct tblock *xl_translate(struct xlate *x, const struct xl_source *s);

/* block.c */
unsigned xl_kind_now(const struct xlate *x);
/* Makes it the current one: the jump caches hold blocks of this kind only. */
void xl_set_kind(struct xlate *x, unsigned kind);
/* The code to enter for cpu->rip, or NULL: interpret one instruction (also when the fetch would fault). */
const uint8_t *xl_find(struct xlate *x);
/* split: the block without groups. */
struct tblock *xl_lookup(struct xlate *x, gva_t lin, bool split);
/* Whether there is a block of that kind that begins there (and does not depend on another page). */
bool xl_block_begins(struct xlate *x, gva_t lin, gpa_t gpa, unsigned kind);
void xl_jc_init(struct xlate *x);
void xl_link(struct xlate *x, struct xrec *r, struct tblock *to);
void xl_drop_frame(struct xlate *x, gpa_t gpa);
void xl_drop_region(void *x, unsigned region);
/* A dropped block was reached by this address. */
void xl_jc_forget(struct xlate *x, gva_t lin);
void xl_jc_flush(struct xlate *x, enum xl_ctx ctx);
void xl_code_moved(struct xlate *x, enum xl_ctx ctx);
struct tblock *xl_block_at(const struct xlate *x, const uint8_t *pc);

#endif
