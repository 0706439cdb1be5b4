/* SPDX-License-Identifier: MIT */
/*
 * The isolation fuzzer: random code with hostile operands in a guest whose memory is small and known, inside a process
 * full of canaries. Nothing the guest does may change a canary, depend on what one holds, change guest memory that it
 * has no right to, or end the process.
 *
 *   canary.c     blocks of a known word all over the process
 *   machine.c    the guest: memory, page tables, descriptors; runs one case and says what it changed
 *   hostile.c    values: host addresses, ends of everything
 *   encode.c     instructions: every opcode of every map; recipe.c: those that deserve more than chance
 *   case.c       a seed becomes a case
 *   fuzz_isolation.c  batches, the search for the culprit, the self-test, the process around it
 *
 * Everything in a case follows from its seed and from the addresses of this process; so main switches ASLR off.
 */
#ifndef GAZDA_TESTS_FUZZ_ISOLATION_H
#define GAZDA_TESTS_FUZZ_ISOLATION_H

#include "../insn/rng.h"
#include "cpu/engine.h"

/* ---- canary.c ---- */

enum { CANARIES = 96, CANARY_ROTATIONS = 8 };

struct canary {
    uint8_t *p;
    size_t len;
    const char *what;
    bool heap;
};
struct canaries {
    unsigned n;
    struct canary c[CANARIES];
    uint64_t word;                   /* that they hold throughout */
    uint64_t turn[CANARY_ROTATIONS]; /* it as an unaligned read sees it */
};

/* A mapping at this address if it is free; false if not. */
bool canary_at(struct canaries *cs, uint64_t addr, size_t len, const char *what);
/* Some anywhere, mapped and from the heap; called at several stages so that others' memory lies between them. */
void canary_scatter(struct canaries *cs, unsigned n);
void canary_fill(struct canaries *cs, uint64_t word);
/* The first that does not hold the word, and where; NULL if all do. */
const struct canary *canary_check(const struct canaries *cs, size_t *off);
bool canary_seen(const struct canaries *cs, uint64_t v);
void canary_free(struct canaries *cs);

/* ---- machine.c ---- */

/*
 * Guest-physical layout. What is not named here is mapped nowhere. For cases of user mode that, and the kernel's data,
 * hold the canaries' word too.
 */
enum {
    ISO_RAM = 0x100000,
    ISO_GDT = 0x8000,
    ISO_IDT64 = 0x9000,
    ISO_IDT64_IST = 0xa000,
    ISO_IDT32 = 0xb000,
    ISO_TSS = 0xc000,
    ISO_STUBS = 0xd000,
    ISO_KSTACK = 0xe000, /* 2 pages */
    ISO_IST = 0x10000,
    ISO_KCODE = 0x12000, /* 2 pages */
    ISO_KDATA = 0x14000, /* 2 pages, a hole, 1 page */
    ISO_TABLES = 0x20000,
    ISO_SYSTEM_END = 0x40000,
    /* From here on every other frame is the user's: between them lie frames that are mapped nowhere. */
    ISO_UCODE = 0x40000,  /* 2 pages */
    ISO_UDATA = 0x44000,  /* 2 pages */
    ISO_URO = 0x48000,    /* 1 page */
    ISO_UDATA2 = 0x4a000, /* 1 page */
    ISO_USTACK = 0x4c000, /* 2 pages */
    ISO_ULOW = 0x50000,   /* 2 pages */
    ISO_USER_END = 0x54000,
    ISO_USTRIDE = 0x2000, /* from a page's frame to the next one's */
    ISO_LONELY = 0x80000, /* one that is mapped nowhere */
};
/* Linear addresses. */
#define LIN_ULOW 0x8000UL
#define LIN_UCODE 0x20000000UL
#define LIN_UDATA 0x30000000UL
#define LIN_UODD 0x31000000UL /* pages whose physical addresses are no RAM: see machine.c */
#define LIN_USTACK 0x3fffe000UL
#define LIN_KERNEL 0xc0000000UL /* + gpa, up to ISO_SYSTEM_END */
#define LIN_KHUGE 0xd0000000UL  /* 2 MiB from gpa 0: the second is no RAM */
#define LIN_UEND 0xfffff000UL   /* the last page below 4 GiB */
#define LIN_UHIGH 0x500000020000UL
#define LIN_ULAST 0x7ffffffff000UL
#define LIN_KFIRST 0xffff800000000000UL
#define LIN_KLAST 0xfffffffffffff000UL
enum { ISO_ODD = 10 };

enum iso_mode { ISO_USER64, ISO_KERNEL64, ISO_USER_COMPAT, ISO_KERNEL_COMPAT, ISO_USER32, ISO_KERNEL32, ISO_MODES };
static inline bool iso_user(enum iso_mode m)
{
    return m == ISO_USER64 || m == ISO_USER_COMPAT || m == ISO_USER32;
}
static inline bool iso_64(enum iso_mode m)
{
    return m <= ISO_KERNEL64;
}

enum { ISO_CODE_MAX = 160 };

struct iso_case {
    uint64_t seed;
    enum iso_mode mode;
    unsigned repeat; /* times, each with other registers */
    uint16_t off;    /* of the code, in its two pages */
    uint16_t len;
    uint8_t code[ISO_CODE_MAX];
    uint32_t set; /* registers with a value that the code wants */
    uint64_t gpr[16];
    uint64_t fs_base, gs_base;
    int inject; /* vector to be injected first, or -1; 256: an NMI */
};

/* Where its code begins. */
static inline gva_t iso_code_lin(const struct iso_case *c)
{
    return (iso_user(c->mode) ? LIN_UCODE : LIN_KERNEL + ISO_KCODE) + c->off;
}

struct iso_result {
    enum vcpu_exit_kind kind; /* of the last exit */
    bool kicked;              /* cut off by the clock: the result says nothing */
    uint64_t digest;          /* of all that the guest can see */
    const char *leak;         /* where a canary's word was seen, or NULL */
    int err;                  /* what run returned */
};

enum iso_evil {
    EVIL_NONE,
    EVIL_CANARY,     /* a bit of a canary */
    EVIL_BEHIND,     /* the byte behind guest RAM */
    EVIL_BEFORE,     /* and before it */
    EVIL_WORD,       /* a canary's word in a register */
    EVIL_BYTE,       /* one byte of it */
    EVIL_GUEST_BYTE, /* one byte of guest memory that is mapped nowhere */
    EVIL_LONELY,     /* guest memory that is mapped nowhere */
    EVIL_SUPERVISOR, /* or for the kernel only */
    EVIL_CRASH,
    EVILS
};

struct iso {
    const struct engine_ops *ops;
    struct vcpu v;
    struct x86_model model;
    struct mem *mem;
    uint8_t *ram;      /* host address of guest RAM, pinned */
    uint8_t *pristine; /* what it is to be */
    uint8_t *plain;    /* and was at first */
    uint64_t secret;   /* the word that holds what user mode may not read, 0: what was there at first */
    gpa_t next_table;
    bool legacy; /* map builds the tables of 32-bit mode */
    uint64_t pdpte[4];
    struct canaries can;
    bool guarded; /* canaries lie directly before and behind RAM */
    unsigned hosts;
    uint64_t host[512]; /* addresses of this process */
    unsigned ticks;
    /* The self-test: the engine does wrong after this case. */
    enum iso_evil evil;
    uint64_t evil_seed;
};

/* NULL with a message on stderr. One at a time: its clock is a signal. */
struct iso *iso_new(const struct engine_ops *ops, uint64_t seed);
void iso_free(struct iso *s);
/* Runs a case and puts guest memory back as it was, but for what user mode may not change: iso_trespass finds that. */
void iso_run(struct iso *s, const struct iso_case *c, struct iso_result *r);
/* The first address of guest memory that was changed without right, and put back; -1 if there is none. */
int64_t iso_trespass(struct iso *s);
const char *iso_mode_name(enum iso_mode m);

/* ---- hostile.c ---- */

/*
 * Distances at which a page collides with another in a direct-mapped table, if a tag is cut; from guest RAM's host
 * address they lead to canaries.
 */
enum { ISO_BEYOND = 8 };
extern const int64_t iso_beyond[ISO_BEYOND];

void iso_hosts(struct iso *s);
/* Any value, and one that is to be an address. */
uint64_t iso_value(const struct iso *s, struct rng *r);
uint64_t iso_target(const struct iso *s, struct rng *r);
/* Registers, flags and segments of a case that have no value yet. */
void iso_state(const struct iso *s, struct rng *r, const struct iso_case *c, struct cpu_state *st);

/* ---- encode.c, recipe.c, case.c ---- */

struct iso_build {
    const struct iso *s;
    struct rng *r;
    struct iso_case *c;
    uint64_t warm; /* a page that the code touched before, or 0 */
};

/* One more instruction at the end of the case: number k of iso_opcodes. */
void iso_opcode(struct iso_build *b, unsigned k);
unsigned iso_opcodes(void);
/* One or a few instructions from memory. */
void iso_recipe(struct iso_build *b);
void iso_warm(struct iso_build *b);
void iso_case(const struct iso *s, uint64_t seed, struct iso_case *c);
/* Whether that will be a case of user mode. */
bool iso_user_seed(uint64_t seed);
void iso_print(const struct iso_case *c);

/* Appends bytes; false if there is no room. */
bool iso_emit(struct iso_build *b, const void *p, unsigned n);
/* An address: often on or near the page that is warm. */
uint64_t iso_aim(const struct iso_build *b);
/* Wants a value in a register; false if another one is wanted already. */
bool iso_want(struct iso_build *b, unsigned reg, uint64_t v);

#endif
