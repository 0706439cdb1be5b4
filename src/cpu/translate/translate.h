/* SPDX-License-Identifier: MIT */
/*
 * The translator, inside view: what its files share.
 *
 * A vCPU owns everything here (its own code cache, TLBs and jump caches), so only requests from other threads need
 * atomics. `struct xlate` is what the host's GS base points to while translated code runs.
 *
 * Register plan. A guest register lives in the host register of the same number, but: guest RCX in R9; guest R9, R10
 * and R11 in home[]. Host RCX, R10 and R11 are scratch; RSP holds the guest's RSP, so signal handlers need their own
 * stack. Flags are the guest's arithmetic flags everywhere: inserted code must not touch them. DF is clear.
 * Vector registers and MXCSR are the guest's. x87 registers are the guest's if x87_live.
 *
 * An instruction's translation changes guest state in its last host instruction only, or may be run again from its
 * start until that one (side.c says from where on not).
 */
#ifndef GAZDA_CPU_TRANSLATE_TRANSLATE_H
#define GAZDA_CPU_TRANSLATE_TRANSLATE_H

#include <stdatomic.h>
#include <time.h>

#include "base/lock.h"
#include "cpu/engine.h"
#include "cpu/translate/codemem.h"
#include "x86/paging.h"

enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 };
enum { HOST_RCX_HOME = R9 }; /* where guest RCX lives */

/* Which rights an access has, and with it which TLB and jump cache. */
enum xl_ctx { CTX_USER, CTX_KERNEL, CTX_KERNEL_AC, CTXS };

/* What a block was translated for. */
enum {
    KIND_MODE = 3,     /* enum x86_mode */
    KIND_CTX = 3 << 2, /* enum xl_ctx */
    KIND_FPU = 1 << 4, /* SSE and x87 instructions need no check */
    KIND_AVX = 1 << 5, /* likewise AVX */
    KIND_TSC = 1 << 6, /* RDTSC may be used */
    KIND_PIC = 1 << 7, /* runs at any linear address; page_va[] tells */
    KIND_FS = 1 << 8,  /* 32-bit code: FS has 4 GiB */
    KIND_GS = 1 << 9,
    KIND_SMAP = 1 << 10,  /* SMAP is on, so AC is what the context says */
    KIND_FSGS = 1 << 11,  /* RDFSBASE and its like may be used */
    KIND_SPLIT = 1 << 12, /* each memory access has a lookup of its own; never what the vCPU is in */
    KIND_WIN = 1 << 13,   /* memory through windows */
    KIND_DF = 1 << 14,    /* string instructions go down (the host's DF is always clear) */
    KIND_NONE = 1 << 15,  /* not for translated code */
};
static inline enum xl_ctx kind_ctx(unsigned kind)
{
    return (enum xl_ctx)(kind >> 2 & 3);
}

#define TLB_ENTRIES 65536
#define JC_ENTRIES 65536
enum { X87_LAST_VALID = 1 << 24 };
#define NO_GPA (~(gpa_t)0)

/*
 * Direct-mapped by bits 12..27 of the linear address, split so that each part can be indexed with scale 8. A tag is
 * the negated page address: linear address + tag is the offset in the page. An empty tag belongs to a page of another
 * index, so that nothing matches it.
 */
enum { TLB_LARGE_BITS = 1024 };
struct xl_tlb {
    uint64_t rtag[TLB_ENTRIES], wtag[TLB_ENTRIES];
    uint64_t addend[TLB_ENTRIES]; /* host address = linear address + addend */
    uint8_t flags[TLB_ENTRIES];   /* TLBF_*; not looked at by code */
    uint32_t frame[TLB_ENTRIES];  /* guest frame number */
    uint16_t log[TLB_ENTRIES];    /* filled entries */
    uint32_t n;
    uint64_t large[TLB_LARGE_BITS / 64]; /* GiB with pieces of large pages, hashed */
};
enum { TLBF_GLOBAL = 1, TLBF_LARGE = 2, TLBF_LOGGED = 4 };

/* Linear address to code, by the low 16 bits. */
struct xl_jc {
    uint64_t neg_va[JC_ENTRIES];
    const uint8_t *code[JC_ENTRIES];
    uint16_t log[JC_ENTRIES];
    uint32_t n;
    unsigned kind; /* of all its blocks */
};

enum { XL_WIN_SLOTS = 4, XL_WIN_PAGES = 1 << 18 };

/* window.c */
struct xl_win_page {
    gva_t lin;
    uint32_t frame;
    bool used, logged, write;
};
struct xl_win_slot {
    unsigned index;   /* bits 39..47 of the addresses */
    uintptr_t lo, hi; /* host addresses between which something is mapped */
};
struct xl_win {
    enum engine_mmu mode;
    bool active;
    unsigned ticks, need; /* timer ticks without a flush; how many promote */
    unsigned drops, lost, maps, maps_max;
    uintptr_t area;
    unsigned slots;
    struct xl_win_slot slot[XL_WIN_SLOTS];
    uint32_t n; /* in log */
    uint32_t log[XL_WIN_PAGES];
    struct xl_win_page page[XL_WIN_PAGES]; /* by page number: what is mapped */
};

struct xl_stats {
    uint64_t win_misses, win_fills, win_flushes, win_promotions;
    uint64_t blocks, insns, code_bytes, evictions, dead_blocks, misses, fills, flushes, steps, lookups, links, faults,
        kicks, entries, miss_steps, verified, verify_skipped, verify_races;
    uint32_t step_op[2048]; /* by ZydisMnemonic */
};

struct xlate {
    /* Reached from code; keep the offsets small. */
    uint64_t home[16]; /* of R9, R10, R11 */
    uint64_t fl;       /* LAHF; SETO AL: AX */
    uint64_t rfl;      /* RFLAGS but for the arithmetic flags, IF, RF, VM and the bit that is always 1 */
    uint64_t if_bit;   /* IF, in its place */
    uint64_t win_mask; /* IF's place if an interrupt waits for it */
    uint64_t mask_popf, mask_if, mask_63, mask_31, mask_15;
    uint64_t tsc_aux;
    struct cpu_state *cpu;
    const uint8_t *target; /* where enter jumps to */
    uint64_t host_rsp;
    uint64_t exit_id, aux;
    uint64_t page_va[CTXS]; /* linear address of the page that runs, for KIND_PIC */
    uint64_t seg_base[8];   /* copies of cpu->seg[].base, by enum x86_sreg */
    uint64_t mask_page;     /* ~0xfff */
    uint64_t tsc_offset;
    uint64_t x87_dead;                    /* 0: the x87 registers are the guest's */
    uint64_t x87_page, x87_last, x87_fdp; /* X87_LAST_VALID | FOP << 13 | offset of the last x87 instruction */
    uint64_t spill, shifted;
    uint64_t retry_rcx, retry_r10, retry_r11; /* scratch registers of an access that is tried again */
    const uint8_t *retry_pc;
    uint64_t group[64]; /* addends that the block's groups of accesses share */
    uint32_t host_mxcsr, pad;

    struct vcpu *v;    /* ours */
    struct vcpu inner; /* the interpreter's */
    uint32_t kind;     /* now; also set by code */
    bool io_pending;   /* the interpreter waits for the answer to an access */
    bool no_pext;      /* PEXT is slow here */
    bool avx;
    struct xl_verify *verify; /* verify.h; NULL: not asked for */
    bool one_insn;            /* blocks of one instruction */
    uintptr_t fault_host;     /* of the last host fault: address, */
    bool fault_write;         /* direction, */
    uint8_t fault_trap;       /* vector */
    bool vectors_live;        /* the host's vector registers and MXCSR are the guest's, and cpu's are stale */
    bool step_due;            /* the next instruction goes to the interpreter */
    _Atomic bool careful;
    uint32_t crossing; /* links between pages of kernel code */
    uint32_t pauses;
    struct { /* what the interpreter's translations have yet to hear of */
        bool local;
        unsigned n;
        gva_t page[32];
    } late;
    struct codemem code;
    struct trans *scratch;                                                   /* trans.h */
    const uint8_t *enter, *enter_light, *exit, *save, *retry, *abort, *dead; /* stubs, in this order */
    uint32_t rec_fault, rec_kick, rec_win;                                   /* the records of these */
    struct x86_phys phys;

    /* Requests of other threads. */
    _Atomic uint32_t attention, in_cache, in_run;
    _Atomic int tid;
    timer_t timer; /* sends the kick once more */
    bool has_timer;
    struct lock req_lock;
    struct {
        unsigned n;
        bool flush;
        struct {
            gpa_t gpa;
            bool written;
        } e[64];
    } req;

    struct xl_itlb {
        gva_t page;
        gpa_t gpa;
        uint32_t epoch, class;
    } itlb[256];
    bool code_local, code_huge; /* kernel code pages that are not global, code pages over 2 MiB are in use */
    uint32_t code_epoch[2];     /* of user and kernel: moves when translations of code may have changed */
    uint64_t code_bloom[2][16], code_small[2][64]; /* large and small pages that code was run from, hashed */
    struct tblock *hash[1 << 14];
    struct frame_ref *frames[1 << 12]; /* blocks by frame */
    struct xl_stats st;

    struct xl_jc jc[CTXS];
    struct xl_tlb tlb[CTXS];
    struct xl_win win;
    /* Last: by bits 39..63 of the address; what to add to it. Only both ends are mapped. */
    uint64_t wtab[1 << 25] __attribute__((aligned(4096)));
};

enum { ATT_KICK = 1, ATT_REQ = 2 };

/* ---- blocks ---- */

enum xrec_kind {
    X_LINK,   /* a direct branch: off is the target's, linkable to a block */
    X_LOOKUP, /* aux is the linear target */
    X_STEP,   /* the instruction at off goes to the interpreter */
    X_MISS,   /* aux is the linear address */
    X_GROUP,  /* likewise, of a lookup for several accesses */
    X_X87,    /* load the x87 state and go on at retry */
    X_FAST,   /* the instruction at off is done in C; op tells which */
    X_PAUSE,
    X_ABORT, /* enter was not made */
    X_WIN,   /* a host fault while there are windows: fault_*; aux is the address of the instruction */
    X_FAULT, /* a host fault or a kick at the instruction aux, from a signal handler */
    X_KICK,
};

/* One way out of a block. */
struct xrec {
    struct tblock *b;
    int32_t off;    /* guest address relative to the page of the block */
    uint32_t patch; /* X_LINK, X_GROUP: code offset of the rel32 that a link changes */
    uint32_t stub;  /* X_LINK: code offset of the way out; X_MISS, X_GROUP: of the retry */
    uint32_t miss;  /* X_GROUP: code offset of the way out */
    int32_t target; /* X_LOOKUP of a direct branch: the target relative to the page */
    int32_t delta;  /* X_LOOKUP of an indirect one: what it has added to RSP */
    uint16_t op;
    uint8_t kind;
    uint16_t size;
    bool write, cross, indirect;
    bool write_first;  /* X_GROUP: the instruction at off stores */
    uint8_t failed;    /* X_GROUP: how often filling was of no use */
    bool narrow;       /* of a string instruction: 32-bit addresses */
    bool down;         /* likewise: DF is set */
    bool rep;          /* of a string instruction; size: log 2 of the item */
    bool shadow;       /* the instruction at off must not be interrupted: STI was before it */
    struct xrec *next; /* among those linked to the same block */
    struct tblock *to;
};

/* Where a guest instruction begins, in guest and host; from `commit` on it cannot be run again from its start. */
struct xside {
    uint16_t host, commit;
    uint16_t guest;
    bool shadow; /* no interrupt before this one: STI was before it */
};

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
    uint16_t bytes, n;
    bool dead;
    struct xrec *in; /* links to this block */
    struct xrec *recs;
    unsigned nrecs;
    struct xside *side;
};

static inline gva_t block_page(const struct xlate *x, const struct tblock *b)
{
    return b->kind & KIND_PIC ? x->page_va[kind_ctx(b->kind)] : b->page;
}

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
void xl_jc_init(struct xlate *x);
void xl_link(struct xlate *x, struct xrec *r, struct tblock *to);
void xl_drop_frame(struct xlate *x, gpa_t gpa);
void xl_drop_region(void *x, unsigned region);
/* A dropped block was reached by this address. */
void xl_jc_forget(struct xlate *x, gva_t lin);
void xl_jc_flush(struct xlate *x, enum xl_ctx ctx);
void xl_code_moved(struct xlate *x, enum xl_ctx ctx);
struct tblock *xl_block_at(const struct xlate *x, const uint8_t *pc);

/* softtlb.c */
enum xl_miss { MISS_RETRY, MISS_STEP };
void xl_tlb_init(struct xlate *x);
enum xl_miss xl_tlb_fill(struct xlate *x, gva_t lin, unsigned size, bool write);
bool xl_tlb_writable(const struct xlate *x, gva_t lin);
void xl_tlb_flush(struct xlate *x, bool all);
void xl_tlb_flush_page(struct xlate *x, gva_t lin);
void xl_tlb_protect(struct xlate *x, gpa_t gpa);
/* Physical address of code; false if it faults. */
bool xl_code_gpa(struct xlate *x, gva_t lin, gpa_t *gpa);

/* window.c. Flushing ends the use of windows for a while (but not with MMU_WINDOW). */
int xl_win_init(struct xlate *x);
void xl_win_fini(struct xlate *x);
void xl_win_flush(struct xlate *x);
void xl_win_flush_page(struct xlate *x, gva_t lin);
void xl_win_protect(struct xlate *x, gpa_t gpa);
void xl_win_tick(struct xlate *x);
enum xl_miss xl_win_miss(struct xlate *x, uintptr_t host, bool write);
bool xl_win_scan(struct xlate *x);

/* stubs.c: the code to get in and out. */
int xl_stubs(struct xlate *x);
/* Runs code from pc until it exits; returns the record. */
struct xrec *xl_enter(struct xlate *x, const uint8_t *pc);
/* Before anything that may use vector registers. */
void xl_vectors_save(struct xlate *x);

/* engine.c: after cpu_state was changed other than by translated code. */
void xl_refresh(struct xlate *x);
/* Around steps of the interpreter: what it did to translations is done here too. end true: run must return v->exit. */
struct xl_steps {
    uint32_t all, local, page;
};
struct xl_steps xl_steps_begin(struct xlate *x);
bool xl_steps_end(struct xlate *x, const struct xl_steps *s);
/* Acts on a way out of translated code. True: leave run. resume: go on there instead of looking rip up. */
bool xl_exited(struct xlate *x, struct xrec *r, const uint8_t **resume);
/* Empties code memory and all TLBs. */
void xl_drop_all(struct xlate *x);
/* Tells the interpreter about flushes that were done here. */
void xl_late_flush(struct xlate *x);

/* fast.c: an instruction in C without the interpreter. False: it must be interpreted. */
bool xl_fast(struct xlate *x, const struct xrec *r);

/* x87.c: into and out of the host's registers; the vector registers are saved. */
void xl_x87_load(struct xlate *x);
void xl_x87_save(struct xlate *x);

/* fault.c */
int xl_signals_install(void);
/* Makes x the one that this thread runs: GS base, signal stack. Before each run. */
int xl_thread_begin(struct xlate *x);
void xl_thread_forget(struct xlate *x);
int xl_kick_signal(void);

#endif
