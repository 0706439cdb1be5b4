/* SPDX-License-Identifier: MIT */
/* Direct execution of user code in stub processes: direct.c tells how it works. */
#ifndef GAZDA_CPU_TRANSLATE_DIRECT_H
#define GAZDA_CPU_TRANSLATE_DIRECT_H

#include <sched.h>

#include "cpu/tuning.h"
#include "cpu/translate/softtlb.h"
#include "host/stub.h"

enum { XL_SPACES = 6, XL_FRAME_BITS = 1 << 16, XL_VISITS = 1 << 15, XL_SCANS = 1024 };
enum { XL_BACKOFF_MAX = 512 }; /* ticks */
enum { XL_PATCHES = 64, XL_FOREIGN = 1024 };
enum { XL_SEL_CODE64 = 0x33, XL_SEL_DATA = 0x2b }; /* Linux's selectors of user code, in guest and host */

/* One page that is mapped in a stub; lin NO_GPA: dropped. */
struct xl_direct_page {
    gva_t lin;
    uint32_t frame;
    bool used, write, exec, large, huge;
    bool copy; /* a patched copy of code is mapped */
};

/* What direct_scan.c said of a page of code without patches. */
struct xl_scanned {
    gpa_t page, before; /* before: the page that runs into it, or NO_GPA */
    uint8_t verdict;    /* of enum xl_verdict */
    bool xsave;
};
enum xl_verdict { SCAN_NONE, SCAN_FITS, SCAN_UNFIT };

/* An address space that user code runs in directly, or did. */
struct xl_space {
    struct stub *stub;
    bool known, on;
    bool large, huge; /* something of a page of 2 or 4 MiB, or 1 GiB, is mapped */
    bool stale;       /* flushed: entries must be looked up anew */
    int cpu;          /* that its stub is kept on; -1: none */
    bool tsc;         /* RDTSC faults in the stub */
    unsigned pcid;
    gpa_t root;
    uint64_t used;          /* when, in runs */
    uint64_t cpu_ns;        /* of its stub, when it was last looked at */
    unsigned wait, backoff; /* ticks before it is tried again */
    unsigned churn;         /* ticks with little but fills */
    uint32_t traps, fills;  /* since the last tick; fills: of pages that the guest has mapped */
    unsigned ncopy;         /* copies of pages that were made */
    gva_t copy[STUB_PAGES]; /* where they are mapped, by copy */
    uint32_t n, cap;        /* of page: a hash by page number */
    struct xl_direct_page *page;
};

struct xl_direct {
    enum engine_direct mode;
    bool off;    /* the host cannot do it, or it went wrong too often */
    bool skip;   /* what runs now must be translated, until the next way into the kernel or tick */
    gva_t unfit; /* skip: for the code on this page, or 0 */
    /* Until the next way into the kernel: code was met that is not translated, and it runs directly (cold), or it has
     * been met before, and all that follows is translated (warm). */
    bool cold, warm;
    gpa_t cold_root;           /* where code was last found that is not translated */
    unsigned cold_blocks;      /* how many */
    uint8_t visits[XL_VISITS]; /* to code that is not translated, by address, hashed */
    unsigned lost;
    int cpu;          /* that this thread is kept on; -1: none */
    unsigned loose;   /* runs before it may be kept on one again */
    uint64_t crowded; /* tick until which traps are taken to be slow, since others use the processors */
    uint64_t ns_1024; /* 1024 cycles of the TSC, in ns */
    unsigned idle;    /* ticks with hardly a run */
    bool busy;        /* runs are frequent */
    uint64_t ticks, placed_runs;
    cpu_set_t cpus;       /* that it may be on */
    uint64_t xcr0;        /* the host's */
    struct xl_space *cur; /* of CR3; NULL: not looked up */
    struct xl_space space[XL_SPACES];
    struct stub *volatile running; /* read by the kick's handler */
    uint64_t burst;                /* when user code was entered, if it runs */
    uint64_t burst_native;         /* cycles of it in stubs, without what traps take */
    uint64_t trap_cycles;          /* that a trap takes */
    bool burst_direct;
    unsigned score;               /* of bursts that were long enough */
    uint64_t runs, tick, returns; /* tick: when the last one was, in TSC cycles; returns to user mode since then */
    uint64_t switches;            /* loads of CR3 since then */
    struct {                      /* what the guest was told of as #PF: mapped on its return */
        bool due, write, exec;
        gva_t lin;
    } fault;
    struct xl_scanned scanned[XL_SCANS]; /* by page number */
    gpa_t foreign[XL_FOREIGN];           /* of opcodes in user code that have to trap */
    unsigned nforeign;
    uint64_t frames[XL_FRAME_BITS / 64]; /* frames that may be mapped somewhere, hashed */
};

/* direct_when.c: whether cpu's user code is to run directly now. */
bool xl_direct_wanted(struct xlate *x);
/* Whether code at gpa that is not translated is to run directly instead; then the above says so too. */
bool xl_direct_cold(struct xlate *x, gpa_t gpa);
void xl_direct_tick(struct xlate *x);

/* direct.c */
/* At a tick: whether to stay on this processor. */
void xl_direct_place(struct xlate *x);
void xl_direct_init(struct xlate *x);
void xl_direct_fini(struct xlate *x);
/* Runs it until it traps. Afterwards cpu is as if translated code had been left. */
void xl_direct_run(struct xlate *x);

/* The translator has met an instruction at gpa (its 0F) that direct_scan.c looks for. */
void xl_direct_note(struct xlate *x, gpa_t gpa);
bool xl_direct_foreign(unsigned mnemonic);

/* direct_map.c. The space of CR3; NULL: there is none and make is false, or none can be had. */
struct xl_space *xl_direct_space(struct xlate *x, bool make);
/* After a page fault of the stub. RETRY: mapped. STEP: the guest's own, or for the interpreter. */
enum xl_miss xl_direct_fill(struct xlate *x, struct xl_space *s, gva_t lin, bool write, bool exec);
/* Whether the page of code at gpa is known not to suit. */
bool xl_direct_unfit(const struct xlate *x, gpa_t gpa);
/* Before s runs: what was flushed since. */
void xl_direct_refresh(struct xlate *x, struct xl_space *s);
/* Notes that nothing is mapped; if there is a stub, it hears of it. */
void xl_direct_forget(struct xl_space *s);
void xl_direct_flush(struct xlate *x);
/* Unmaps all. */
void xl_direct_drop(struct xlate *x);
/* CR3 was loaded; keep: what is cached of its PCID stays. */
void xl_direct_cr3(struct xlate *x, bool keep);
void xl_direct_flush_page(struct xlate *x, gva_t lin);
/* The frame begins to hold code, or its code was written. */
void xl_direct_drop_frame(struct xlate *x, gpa_t gpa, bool written);

/*
 * direct_scan.c: whether a page of code may run without us, holding nothing that tells of the host or reaches it but
 * what can be patched: bytes that become UD2's second.
 */
struct xl_code_page {
    const uint8_t *page, *before; /* before: the page that runs into it, or NULL */
    bool xsave;                   /* XSAVE's layout is the guest's */
    const uint16_t *known;        /* offsets of 0Fs that are opcodes */
    unsigned nknown, npatch;
    uint16_t patch[XL_PATCHES];
};
bool xl_direct_scan(struct xl_code_page *c);
/* Likewise what crosses from one page to the next. */
bool xl_direct_seam(const uint8_t *left, const uint8_t *right, bool xsave);

#endif
