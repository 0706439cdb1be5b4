/* SPDX-License-Identifier: MIT */
/*
 * The reference interpreter, inside view: what one instruction handler may use.
 *
 * Code is decoded once into blocks of `struct uop`. A handler does its instruction and tail-calls the next one
 * (NEXT); the last uop of a block returns to the loop in run.c. Rules for handlers:
 *
 * 1. Anything that can fault (loads, stores, checks) comes before the first change of guest state, so that a fault,
 *    which longjmps to the loop, leaves the state of the instruction's start. REP strings commit each iteration.
 * 2. c.rip is stale inside a block. The address of an instruction is IP slot + u->i.off; use interp_ip /
 * interp_next_ip.
 * 3. After a store use NEXT_ST: the store may have hit this very block.
 * 4. An instruction that changes mode, paging, CPL, IF or RIP carries X86_I_BRANCH, ends its block, and ends with
 *    interp_retire (falls through) or by setting c.rip itself; never NEXT.
 * 5. Guest memory is only reached through the functions below.
 */
#ifndef GAZDA_CPU_INTERP_INTERP_H
#define GAZDA_CPU_INTERP_INTERP_H

#include <setjmp.h>

#include "cpu/engine.h"
#include "x86/fault.h"
#include "x86/insn.h"
#include "x86/paging.h"
#include "x86/segment.h"

struct interp;
struct uop;
typedef void (*uop_fn)(struct interp *m, const struct uop *u);

struct uop {
    uop_fn fn;
    struct x86_insn i;
};

#define TLB_BITS 10
#define TLB_SIZE (1U << TLB_BITS)
#define TLB_NONE ((gva_t)1) /* never the start of a page */

struct tlb_entry {
    gva_t rtag, wtag;               /* linear page address, or TLB_NONE */
    uintptr_t addend;               /* host address = linear address + addend */
    const volatile uint8_t *fflags; /* the frame's flags, tested after each store */
};

/* Which rights an access has; each has a TLB of its own, so that changing CPL or AC flushes nothing. */
enum tlb_ctx {
    TLB_USER,
    TLB_KERNEL,
    TLB_KERNEL_AC, /* may touch user pages: AC set, or SMAP off */
    TLB_USER_AC,   /* CPL 3 with CR0.AM and AC: never filled, so that every access is checked for alignment */
    TLB_CTXS
};

enum { IO_LOG_MAX = 16 };

struct block;       /* core.h */
struct block_cache; /* block.c */
struct vec_cache;   /* vector*.c */

struct interp {
    struct cpu_state c; /* first: handlers address registers from m */
    uint32_t af;        /* arithmetic flags as LAHF; SETO AL leave them in AX: AH = SF ZF 0 AF 0 PF 1 CF, AL = OF */
    bool break_block;   /* leave the block after the current instruction (a store hit code) */
    _Atomic uint32_t attention; /* looked at between blocks: kick, and whatever run.c adds */
    struct tlb_entry *tlb;      /* of the current context */
    enum tlb_ctx ctx;
    enum x86_mode mode;
    uint64_t ip_mask; /* 0xffff, 0xffffffff or ~0 by code size */
    uint64_t sp_mask; /* likewise by SS.B, ~0 in 64-bit mode */
    struct vcpu *v;
    struct x86_phys phys;
    jmp_buf fault_jmp, exit_jmp;
    struct x86_fault fault;
    const struct uop *cur; /* set by the slow paths: the instruction that faulted or exits */
    struct {               /* the event that interp_deliver is at; run() clears active when it is entered */
        bool active;
        uint8_t vector, kind; /* enum event_kind */
    } deliv;
    struct {
        unsigned n, pos; /* completed accesses; replay position */
        struct vcpu_exit e[IO_LOG_MAX];
    } io;
    struct block_cache *blocks;
    struct vec_cache *vec;
    /* Of block.c, run.c and tlb.c; nobody else looks at these. */
    struct block *block;      /* that runs */
    struct block **link_slot; /* a link that wants to be made to the next block */
    uint64_t insns;           /* retired, with all of `block` already counted */
    bool left;                /* the block was left before its end; `cur` is the first instruction not done */
    unsigned todo;            /* at the start of run: TODO_* */
    bool careful;             /* break points or stepping: one instruction at a time */
    bool shadow_seen;         /* c.int_shadow was there when the last block began ... */
    uint64_t shadow_rip;      /* ... at this rip */
    uint32_t pauses;
    uint32_t code_epoch[2]; /* user, supervisor: a change drops what is cached by linear pc */
    bool code_local;        /* a supervisor code page that is not global was used in this epoch */
    bool code_huge;         /* a code page over 2 MiB was used */
    uint64_t code_bloom[2][16];
    struct {
        unsigned n;
        uint32_t hits; /* of the instruction that runs, by index */
        struct {
            gva_t addr;
            uint32_t len;
            bool on_read, on_write;
            int8_t dr; /* guest debug register, or -1: a debugger's point */
        } p[4 + DEBUG_POINTS];
    } watch;
    _Atomic uint32_t in_run;
    uint64_t tlb_valid[TLB_CTXS][TLB_SIZE / 64], tlb_local[TLB_CTXS][TLB_SIZE / 64], tlb_large[TLB_CTXS][TLB_SIZE / 64];
    gpa_t tlb_gpa[TLB_CTXS][TLB_SIZE];
    struct tlb_entry tlbs[TLB_CTXS][TLB_SIZE] __attribute__((aligned(64)));
};

#define NEXT(m, u)                                                                                                     \
    do {                                                                                                               \
        (u)[1].fn((m), (u) + 1);                                                                                       \
        return;                                                                                                        \
    } while (0)
#define NEXT_ST(m, u)                                                                                                  \
    do {                                                                                                               \
        if (unlikely((m)->break_block)) {                                                                              \
            interp_leave((m), (u));                                                                                    \
            return;                                                                                                    \
        }                                                                                                              \
        NEXT(m, u);                                                                                                    \
    } while (0)

/* ---- where we are ---- */

static inline uint64_t interp_ip(const struct interp *m, const struct uop *u)
{
    return (m->c.gpr[X86_REG_IP] + u->i.off) & m->ip_mask;
}
static inline uint64_t interp_next_ip(const struct interp *m, const struct uop *u)
{
    return (m->c.gpr[X86_REG_IP] + u->i.off + u->i.len) & m->ip_mask;
}
/* Leaves the block behind instruction u, which is its last. */
static inline void interp_retire(struct interp *m, const struct uop *u)
{
    m->c.rip = interp_next_ip(m, u);
}
/* Leaves the block in its middle, behind instruction u; return to the caller afterwards. */
static inline void interp_leave(struct interp *m, const struct uop *u)
{
    m->cur = u + 1;
    m->left = true;
    interp_retire(m, u);
}
/* Leaves the block before instruction u, which will be restarted (REP between iterations). */
static inline void interp_leave_before(struct interp *m, const struct uop *u)
{
    m->cur = u;
    m->left = true;
    m->c.rip = interp_ip(m, u);
}

/*
 * ---- leaving an instruction early; none of these returns ----
 *
 * u may be NULL here and in the memory functions: then c.rip is exact already (event delivery between instructions).
 * interp_raise leaves c.rip at instruction u and longjmps; the loop in run.c then calls
 * interp_deliver(m, EVENT_EXCEPTION, m->fault, m->c.rip), also when the fault came out of interp_deliver itself:
 * deliver keeps book of that in m->deliv and makes #DF or a shutdown of it.
 */

_Noreturn void interp_raise(struct interp *m, const struct uop *u, struct x86_fault f);
_Noreturn void interp_raise_vec(struct interp *m, const struct uop *u, unsigned vector, uint32_t error);
static inline _Noreturn void interp_gp(struct interp *m, const struct uop *u, uint32_t error)
{
    interp_raise_vec(m, u, X86_GP, error);
}
static inline _Noreturn void interp_ud(struct interp *m, const struct uop *u)
{
    interp_raise_vec(m, u, X86_UD, 0);
}
/*
 * Ends run() with exit `kind`; the caller has filled the rest of v->exit. c.rip becomes the address behind u when
 * retired, else that of u. Used for HLT, SHUTDOWN, PAUSE.
 */
_Noreturn void interp_exit(struct interp *m, const struct uop *u, enum vcpu_exit_kind kind, bool retired);
/* For what gazda does not have: EXIT_FATAL with a sentence. */
_Noreturn void interp_fatal(struct interp *m, const struct uop *u, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/*
 * One access of the machine's I/O space: the first time the instruction gets here it leaves run() with the exit; when
 * run() comes back the instruction restarts and this returns the answer. Reads return the data.
 */
uint64_t interp_io(struct interp *m, const struct uop *u, enum vcpu_exit_kind kind, uint64_t addr, unsigned len,
                   bool write, uint64_t data);
/* The accesses so far belong to a committed iteration (REP INS/OUTS, REP MOVS on MMIO). */
void interp_io_commit(struct interp *m);

/*
 * The context of the CPU's implicit accesses (descriptor tables, TSS): supervisor rights, and SMAP holds whatever
 * AC says. TLB_KERNEL entries come from walks with X86_ACC_IMPLICIT, so they are right with SMAP on and off.
 */
static inline enum tlb_ctx interp_sys_ctx(const struct interp *m)
{
    return m->c.cr4 & X86_CR4_SMAP ? TLB_KERNEL : TLB_KERNEL_AC;
}

/* ---- linear memory with the rights of the current CPL; see tlb.c for the slow paths ---- */

uint64_t interp_ld_slow(struct interp *m, const struct uop *u, gva_t lin, unsigned size);
void interp_st_slow(struct interp *m, const struct uop *u, gva_t lin, unsigned size, uint64_t val);
void interp_code_hit(struct interp *m, gva_t lin, unsigned size, const struct tlb_entry *e);
/* Any length, any rights (a tlb_ctx), page crossing, MMIO. For the CPU's own accesses use interp_sys_ctx. */
void interp_read(struct interp *m, const struct uop *u, enum tlb_ctx ctx, gva_t lin, void *buf, unsigned len);
void interp_write(struct interp *m, const struct uop *u, enum tlb_ctx ctx, gva_t lin, const void *buf, unsigned len);
/* Raises the fault that a write of len bytes would raise, without writing (sets A and D as a write does). */
void interp_probe_write(struct interp *m, const struct uop *u, enum tlb_ctx ctx, gva_t lin, unsigned len);
/*
 * Host address for [lin, lin+len) if it is RAM, on one page, with these rights; NULL if it must be split or is MMIO.
 * Faults as an access would. After storing through it call interp_host_stored.
 */
void *interp_host(struct interp *m, const struct uop *u, gva_t lin, unsigned len, bool write);
void interp_host_stored(struct interp *m, gva_t lin, unsigned len);

static inline struct tlb_entry *tlb_slot(struct interp *m, gva_t lin)
{
    return &m->tlb[(lin >> PAGE_SHIFT) & (TLB_SIZE - 1)];
}

/* Volatile, possibly unaligned, single host accesses: guest memory is shared with other vCPUs and devices. */
#define INTERP_MEM_FNS(bits)                                                                                           \
    typedef uint##bits##_t gmem##bits __attribute__((aligned(1), may_alias));                                          \
    static inline uint##bits##_t interp_ld##bits(struct interp *m, const struct uop *u, gva_t lin)                     \
    {                                                                                                                  \
        const struct tlb_entry *e = tlb_slot(m, lin);                                                                  \
        if (likely(e->rtag == ((lin + bits / 8 - 1) & PAGE_MASK)))                                                     \
            return *(const volatile gmem##bits *)(lin + e->addend);                                                    \
        return (uint##bits##_t)interp_ld_slow(m, u, lin, bits / 8);                                                    \
    }                                                                                                                  \
    static inline void interp_st##bits(struct interp *m, const struct uop *u, gva_t lin, uint##bits##_t val)           \
    {                                                                                                                  \
        const struct tlb_entry *e = tlb_slot(m, lin);                                                                  \
        if (likely(e->wtag == ((lin + bits / 8 - 1) & PAGE_MASK))) {                                                   \
            *(volatile gmem##bits *)(lin + e->addend) = val;                                                           \
            if (unlikely(*e->fflags))                                                                                  \
                interp_code_hit(m, lin, bits / 8, e);                                                                  \
        } else {                                                                                                       \
            interp_st_slow(m, u, lin, bits / 8, val);                                                                  \
        }                                                                                                              \
    }
INTERP_MEM_FNS(8)
INTERP_MEM_FNS(16)
INTERP_MEM_FNS(32)
INTERP_MEM_FNS(64)
#undef INTERP_MEM_FNS

/* ---- operands ---- */

/* Checks limit, type and canonical form, and returns the linear address of [off, off+len) in segment seg. */
gva_t interp_seg_lin(struct interp *m, const struct uop *u, unsigned seg, uint64_t off, unsigned len, bool write);
gva_t interp_ea_slow(struct interp *m, const struct uop *u, unsigned len, bool write);

/* Offset part of the address, cut to the address size (LEA). */
static inline uint64_t interp_ea_off(const struct interp *m, const struct uop *u)
{
    uint64_t ea = m->c.gpr[u->i.base] + (m->c.gpr[u->i.index] << u->i.scale) + (uint64_t)(int64_t)u->i.disp;
    if (u->i.base == X86_REG_IP && u->i.asz == 8 && (u->i.flags & X86_I_SLOW_EA)) /* too far for disp: see insn.h */
        ea += u->i.off + u->i.len;
    return u->i.asz == 8 ? ea : u->i.asz == 4 ? (uint32_t)ea : (uint16_t)ea;
}
/* The data segments of nearly all 32-bit systems: 4 GiB, readable and writable, so only a wrap-around is to be checked.
 */
static inline bool interp_seg_flat(const struct x86_seg *s)
{
    return s->limit == UINT32_MAX &&
           (s->attr & (X86_SEG_UNUSABLE | X86_SEG_S | X86_T_CODE | X86_T_CE | X86_T_RW)) == (X86_SEG_S | X86_T_RW);
}
/*
 * Linear address of the memory operand. In 64-bit mode canonical form is checked by the TLB miss path. In 32-bit mode
 * SLOW_EA is clear where the segment needs no check (block.c), and ip_mask cuts the address.
 */
static inline gva_t interp_ea(struct interp *m, const struct uop *u, unsigned len, bool write)
{
    if (unlikely(u->i.flags & X86_I_SLOW_EA)) {
        const struct x86_seg *s = &m->c.seg[u->i.seg];
        if (u->i.asz == 4 && m->mode != X86_MODE_64 && interp_seg_flat(s)) {
            uint32_t off =
                (uint32_t)(m->c.gpr[u->i.base] + (m->c.gpr[u->i.index] << u->i.scale) + (uint64_t)(int64_t)u->i.disp);
            if (likely(off <= UINT32_MAX - (len - 1)))
                return (uint32_t)(s->base + off);
        }
        return interp_ea_slow(m, u, len, write);
    }
    return (m->c.gpr[u->i.base] + (m->c.gpr[u->i.index] << u->i.scale) + (uint64_t)(int64_t)u->i.disp +
            m->c.seg[u->i.seg].base) &
           m->ip_mask;
}

static inline uint8_t *reg8(struct interp *m, unsigned byte_off)
{
    return (uint8_t *)m->c.gpr + byte_off;
}
/* 32-bit results clear the upper half; 16-bit ones keep the rest. */
static inline void set_reg16(struct interp *m, unsigned r, uint16_t v)
{
    m->c.gpr[r] = (m->c.gpr[r] & ~0xffffUL) | v;
}
static inline void set_reg(struct interp *m, unsigned r, unsigned size, uint64_t v)
{
    if (size == 8)
        m->c.gpr[r] = v;
    else if (size == 4)
        m->c.gpr[r] = (uint32_t)v;
    else
        set_reg16(m, r, (uint16_t)v);
}

/* ---- flags ---- */

static inline uint64_t interp_rflags(const struct interp *m)
{
    return (m->c.rflags & ~(uint64_t)X86_FL_ARITH) | ((m->af >> 8) & 0xd5) | ((uint64_t)(m->af & 1) << 11);
}
/* Sets the arithmetic flags from an RFLAGS image. */
static inline void interp_set_arith(struct interp *m, uint64_t fl)
{
    m->af = (uint32_t)(((fl & 0xd5) | 2) << 8 | ((fl >> 11) & 1));
}
static inline bool interp_cf(const struct interp *m)
{
    return m->af & 0x100;
}

/* ---- shared between the system files ---- */

/* Recomputes ctx, tlb, mode and masks after CPL, CS, SS, AC, CR0, CR4 or EFER changed. */
void interp_mode_changed(struct interp *m);
void interp_tlb_flush(struct interp *m, bool keep_global);
void interp_tlb_flush_page(struct interp *m, gva_t lin);
/* After a guest debug register changed. */
void interp_debug_changed(struct interp *m);
/* Delivers an exception, interrupt or INT n; longjmps as a further fault does. exception.c */
enum event_kind { EVENT_EXCEPTION, EVENT_EXTERNAL, EVENT_SOFTWARE /* INT n, INT3, INTO */, EVENT_INT1 };
void interp_deliver(struct interp *m, enum event_kind kind, struct x86_fault f, uint64_t return_ip);

/* One function per family: the handler for a decoded instruction, or NULL for #UD. The table is optable.c. */
typedef uop_fn (*interp_pick_fn)(const struct x86_insn *i);
uop_fn interp_pick(const struct x86_insn *i);

/* vector*.c: prepares u (i is filled, bytes is the raw instruction). Returns the handler, NULL for #UD. */
uop_fn interp_vector_prepare(struct interp *m, struct uop *u, const uint8_t *bytes);
/* Frees m->vec, which interp_vector_prepare makes on first use (NULL until then). */
void interp_vector_fini(struct interp *m);
/* At the start and end of run(), on its thread: in between the host's MXCSR and x87 registers are the guest's. */
void interp_vector_enter(struct interp *m);
void interp_vector_leave(struct interp *m);

#endif
