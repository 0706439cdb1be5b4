/* SPDX-License-Identifier: MIT */
/*
 * Instruction tests: one case is some code, the state before it and patches of memory; a runner (the host CPU in a
 * traced child, or an engine) turns it into a result. Two runners given the same case must give equal results.
 *
 * All runners map the same pages at the same linear addresses with the same rights, at CPL 3:
 *
 *   INSN_LOW    2 pages rw-            for 16-bit addressing
 *   INSN_CODE   2 pages r-x            filled with INT3; the page after it is not mapped
 *   INSN_DATA   2 pages rw-, a hole of one page, then 1 page r--, 1 page rw-
 *   INSN_STACK  2 pages rw-
 *   INSN_HIGH   the two pages of INSN_DATA again
 *
 * A case ends with the first exception or trap; that of an INT3 outside the case's own code is the normal end.
 */
#ifndef GAZDA_TESTS_INSN_H
#define GAZDA_TESTS_INSN_H

#include "base/types.h"
#include "x86/cpu_state.h"

#define INSN_LOW 0x8000UL
#define INSN_CODE 0x10000000UL
#define INSN_DATA 0x20000000UL
#define INSN_RO 0x20003000UL
#define INSN_STACK 0x2fffe000UL
#define INSN_HIGH 0x500000020000UL

/* Pages of the memory image, in file and guest-physical order. */
enum {
    INSN_PG_CODE = 0,
    INSN_PG_DATA = 2,
    INSN_PG_RO = 4,
    INSN_PG_RW = 5,
    INSN_PG_STACK = 6,
    INSN_PG_LOW = 8,
    INSN_PAGES = 10,
    INSN_PG_FIRST_CMP = INSN_PG_DATA, /* pages from here on are compared */
};
#define INSN_IMAGE (INSN_PAGES * PAGE_SIZE)

enum { INSN_CODE_MAX = 448, INSN_PATCH_MAX = 16, INSN_LINES = 64, INSN_LINE = 64 };

enum insn_right { INSN_R = 0, INSN_W = 1, INSN_X = 2 };
struct insn_map {
    uint64_t lin;
    unsigned page, pages, rights;
};
extern const struct insn_map insn_maps[];
extern const unsigned insn_maps_n;

struct insn_state {
    uint64_t gpr[16];
    uint64_t rip, rflags, fs_base, gs_base;
    uint16_t sreg[6]; /* by enum x86_sreg; before a case they are always the same */
    struct x86_fpu fpu;
};

struct insn_patch {
    uint32_t off; /* in the memory image */
    uint32_t len;
    uint8_t data[64];
};

struct insn_case {
    uint64_t seed;
    bool mode32;
    uint16_t code_off, code_len; /* code_off: from INSN_CODE */
    uint16_t insns;              /* how many instructions the code holds */
    uint16_t form;
    uint8_t code[INSN_CODE_MAX];
    struct insn_state in;
    unsigned patches;
    struct insn_patch patch[INSN_PATCH_MAX];
};

enum insn_status {
    INSN_OK,
    INSN_LOST,    /* the host child died or hung; nothing can be said */
    INSN_SYSCALL, /* the code tried a system call */
    INSN_BROKEN,  /* the engine left run() with something that cannot be; text says what */
};

struct insn_line {
    uint16_t idx; /* number of the 64-byte line in the image */
    uint8_t data[INSN_LINE];
};

struct insn_result {
    enum insn_status status;
    uint8_t vector;
    uint32_t error;
    uint64_t cr2; /* #PF only */
    struct insn_state out;
    unsigned lines; /* changed lines; may exceed INSN_LINES, then only the first ones are held */
    struct insn_line line[INSN_LINES];
    char text[160];
};

/* Layout of the XSAVE area of this host, and what can be set. */
struct insn_host {
    uint64_t xfeatures;
    unsigned xsize;
    unsigned off_ymm, off_k, off_zmmh, off_zmm16; /* 0 = absent */
    uint32_t mxcsr_mask;
    bool fsgsbase, compat32;
};
/* avx512: its state is part of a case; else that is as after reset. */
void insn_host_probe(struct insn_host *h, bool avx512);

/* Zeroed and aligned as states want it; free() it. NULL when there is no memory. */
void *insn_alloc(size_t size);

/* The initial image, the same in each run. */
void insn_image_fill(uint8_t *image);
/* Compares with the pristine image, notes changed lines, and restores them. */
void insn_image_diff(uint8_t *image, const uint8_t *pristine, struct insn_result *r);
/* Image offset of a linear address, -1 if not mapped. */
int64_t insn_image_off(uint64_t lin);

struct insn_runner {
    const char *name;
    /* Runs n cases. 0 or -errno when the runner itself cannot go on. */
    int (*run)(struct insn_runner *r, const struct insn_case *c, struct insn_result *out, unsigned n);
    void (*free)(struct insn_runner *r);
    const char *no32; /* why 32-bit code cannot be run; NULL if it can */
};
/* NULL with a message on stderr. */
struct insn_runner *insn_host_new(const struct insn_host *h);
struct insn_runner *insn_engine_new(const char *engine, const struct insn_host *h);

/* Bits of RFLAGS that this instruction leaves undefined, given its bytes and input state (flags.c). */
uint64_t insn_flags_undefined(const struct insn_case *c);

/* compare.c */
struct insn_compare {
    bool strict_flags; /* compare undefined flags too */
    bool fpu_pointers; /* compare x87 FIP, FDP, FOP */
};
struct insn_verdict {
    char text[400]; /* what differs: name first/second, ... */
};
bool insn_equal(const struct insn_compare *o, const struct insn_case *c, const struct insn_result *a,
                const struct insn_result *b, struct insn_verdict *v);
void insn_print_case(const struct insn_case *c);
void insn_print_result(const struct insn_case *c, const char *who, const struct insn_result *r);

#endif
