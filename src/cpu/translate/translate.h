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
#include "cpu/translate/block.h"
#include "cpu/translate/codemem.h"
#include "cpu/translate/direct.h"
#include "cpu/translate/window.h"
#include "x86/paging.h"

enum { X87_LAST_VALID = 1 << 24 };

/* Why an access is left to the interpreter. */
enum { MISS_CROSSES, MISS_NOT_CANONICAL, MISS_FAULTS, MISS_NO_RAM, MISS_CODE, MISS_REASONS };

struct xl_stats {
    uint64_t direct_traps, direct_fills, direct_promotions, direct_demotions, direct_cold, direct_lost, direct_kicks,
        direct_calls, direct_faults, direct_unfit, direct_flushes, direct_cycles;
    uint64_t win_misses, win_fills, win_flushes, win_promotions, win_returns, win_large, win_uffd, adapted;
    uint64_t blocks, insns, code_bytes, evictions, dead_blocks, misses, fills, flushes, steps, lookups, links, faults,
        kicks, entries, miss_steps, verified, verify_skipped, verify_races, code_flushes;
    uint64_t code_moves[2]; /* of user and kernel code */
    uint64_t miss_why[MISS_REASONS], fault_vector[32];
    uint32_t step_op[2048], fast_op[2048]; /* by ZydisMnemonic */
};

struct xlate {
    /* Reached from code; keep the offsets small. */
    uint64_t home[16]; /* of R9, R10, R11 */
    uint64_t fl;       /* LAHF; SETO AL: AX */
    uint64_t rfl;      /* RFLAGS but for the arithmetic flags, IF, RF, VM and the bit that is always 1 */
    uint64_t if_bit;   /* IF, in its place */
    uint64_t win_mask; /* IF's place if an interrupt waits for it */
    uint64_t mask_popf, jc_mask, jc_index, mask_if, mask_63, mask_31, mask_15;
    uint64_t tsc_aux;
    struct cpu_state *cpu;
    const uint8_t *target; /* where enter jumps to */
    uint64_t host_rsp;
    uint64_t exit_id, aux;
    uint64_t page_va[CTXS]; /* linear address of the page that runs, for KIND_PIC */
    uint64_t seg_base[8];   /* copies of cpu->seg[].base, by enum x86_sreg */
    uint64_t mask_page;     /* ~0xfff */
    uint64_t tsc_offset;
    uint64_t x87_dead;                             /* 0: the x87 registers are the guest's */
    uint64_t x87_page, x87_last, x87_fdp, x87_seg; /* X87_LAST_VALID | FOP << 13 | offset of the last x87 instruction */
    uint64_t spill, shifted;
    uint64_t retry_rcx, retry_r10, retry_r11; /* scratch registers of an access that is tried again */
    const uint8_t *retry_pc;
    uint64_t group[64]; /* addends that the block's groups of accesses share */
    struct {            /* registers of a gather */
        uint8_t index[32], mask[32], dst[32];
    } lane __attribute__((aligned(32)));
    uint32_t host_mxcsr, mxcsr_mask;

    struct vcpu *v;    /* ours */
    struct vcpu inner; /* the interpreter's */
    uint32_t kind;     /* now; also set by code */
    bool io_pending;   /* the interpreter waits for the answer to an access */
    bool no_pext;      /* PEXT is slow here */
    bool avx;
    bool x87_ptrs_only_es;    /* FXSAVE and its like store pointers only under a pending exception (AMD) */
    struct xl_verify *verify; /* verify.h; NULL: not asked for */
    bool from_c;              /* each block is entered from C: no links, no jump caches in line */
    bool one_insn;            /* blocks of one instruction */
    uintptr_t fault_host;     /* of the last host fault: address, */
    bool fault_write;         /* direction, */
    uint8_t fault_trap;       /* vector */
    bool vectors_live;        /* the host's vector registers and MXCSR are the guest's, and cpu's are stale */
    bool step_due;            /* the next instruction goes to the interpreter */
    _Atomic bool careful;
    struct tblock *crossing; /* blocks with links between pages of kernel code */
    uint32_t pauses;
    struct { /* what the interpreter's translations have yet to hear of */
        bool local;
        unsigned n;
        gva_t page[32];
    } late;
    struct codemem code;
    struct trans *scratch;                                                                 /* trans.h */
    const uint8_t *enter, *enter_lower, *enter_light, *exit, *save, *retry, *abort, *dead; /* stubs, in this order */
    uint32_t rec_fault, rec_kick, rec_win;                                                 /* the records of these */
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
    gva_t code_first[2], code_last[2]; /* pages that code was fetched from, user and kernel: bounds */
    bool code_local, code_huge;        /* kernel code pages that are not global, code pages over 2 MiB are in use */
    uint32_t code_epoch[2];            /* of user and kernel: moves when translations of code may have changed */
    uint64_t code_bloom[2][16], code_small[2][64]; /* large and small pages that code was run from, hashed */
    struct tblock *hash[1 << 17];
    struct frame_ref *frames[1 << 14]; /* blocks by frame */
    struct xl_stats st;

    struct xl_direct direct;
    struct xl_jc jc[CTXS];
    struct xl_tlb tlb[CTXS];
    struct xl_win win;
    /* Last: by bits 39..63 of the address; what to add to it. Only both ends are mapped. */
    uint64_t wtab[1 << 25] __attribute__((aligned(4096)));
};

enum { ATT_KICK = 1, ATT_REQ = 2 };

static inline gva_t block_page(const struct xlate *x, const struct tblock *b)
{
    return b->kind & KIND_PIC ? x->page_va[kind_ctx(b->kind)] : b->page;
}

/* stubs.c: the code to get in and out. */
int xl_stubs(struct xlate *x);
/* Runs code from pc until it exits; returns the record. */
struct xrec *xl_enter(struct xlate *x, const uint8_t *pc);
/* Before anything that may use vector registers. */
void xl_vectors_save(struct xlate *x);
/* Whether the upper halves of YMM registers are zero in cpu. They must be so in the host as if never used: on Intel's
 * processors SSE code is ten times slower beside upper halves that are in use, even if they hold zeros. */
bool xl_uppers_clear(const struct xlate *x);

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
void xl_x87_init(struct xlate *x); /* what depends on the host */
void xl_x87_load(struct xlate *x);
void xl_x87_save(struct xlate *x);
/* Only FOP, FIP, FDP and their selectors, before CS changes; uses no vector registers. */
void xl_x87_pointers(struct xlate *x);

/* stats.c: struct engine_ops */
void xl_stats_put(const struct vcpu *v, void (*put)(void *arg, const char *name, uint64_t value), void *arg);

/* fault.c */
int xl_signals_install(void);
/* Makes x the one that this thread runs: GS base, signal stack. Before each run. */
int xl_thread_begin(struct xlate *x);
void xl_thread_forget(struct xlate *x);
int xl_kick_signal(void);

#endif
