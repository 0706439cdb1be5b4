/* SPDX-License-Identifier: MIT */
/*
 * The way into translated code and out of it, as code made at start (it needs the offsets of struct xlate).
 *
 *   enter   called from C: saves what C wants kept, loads the guest's registers from *cpu, jumps to x->target. One
 *           loads the vector registers too, the other finds them as exit left them.
 *   exit    jumped to with the record's offset in R11 and its argument in R10: saves all but the vector registers and
 *           MXCSR, returns to C.
 *   save    called from C: saves those too. Until then only code compiled without vector registers may run: see
 *           NOVEC in the Makefile.
 *   abort   where x->target is sent by the signal handler, so that an entry that is under way comes right back.
 */
#include "cpu/translate/emit.h"
#include "cpu/translate/translate.h"

#include <errno.h>
#include <string.h>

#define X(f) HGS(offsetof(struct xlate, f))
#define GPR(r) HMEM(RCX, (int32_t)(offsetof(struct cpu_state, gpr) + 8 * (r)))
#define VEC(k) HMEM(RCX, (int32_t)(offsetof(struct cpu_state, fpu.vec) + 64 * (k)))
#define MXCSR HMEM(RCX, (int32_t)offsetof(struct cpu_state, fpu.mxcsr))

static const uint8_t callee_saved[] = { RBX, RBP, R12, R13, R14, R15 };

static void moves(struct emit *e, bool avx, bool load)
{
    for (unsigned k = 0; k < 16; k++) {
        if (avx)
            em_vex_rm(e, EM_VEX(EM_VEX_256, 1, 0, load ? 0x10 : 0x11), k, 0, VEC(k)); /* vmovups */
        else
            em_rm(e, EM_0F | (load ? 0x10U : 0x11U), k, VEC(k)); /* movups */
    }
}

/* What is loaded of the vector registers: nothing, or the lower halves, the upper ones being zero, or all. */
enum vectors { LIGHT, LOWER, WHOLE };

/* The order: flags first, then everything but RCX's host place, which is the base, last. */
static void make_enter(struct emit *e, const struct xlate *x, enum vectors vectors)
{
    for (unsigned k = 0; k < sizeof(callee_saved); k++) {
        if (callee_saved[k] & 8)
            em8(e, 0x41);
        em8(e, 0x50 | (callee_saved[k] & 7));
    }
    em_store(e, RSP, X(host_rsp));
    em_load(e, RCX, X(cpu));
    if (vectors) {
        em_rm(e, EM_0F | 0xae, 3, X(host_mxcsr)); /* stmxcsr */
        em_rm(e, EM_0F | 0xae, 2, MXCSR);         /* ldmxcsr */
        if (x->avx && vectors == LOWER)
            em_bytes(e, "\xc5\xf8\x77", 3); /* vzeroupper */
        moves(e, x->avx && vectors == WHOLE, true);
    }
    for (unsigned r = R9; r <= R11; r++) {
        em_load(e, RAX, GPR(r));
        em_store(e, RAX, HGS(offsetof(struct xlate, home) + 8 * r));
    }
    em_load(e, RAX, X(fl));
    em_bytes(e, "\x04\x7f\x9e", 3); /* add al, 0x7f; sahf */
    for (unsigned r = 0; r < 16; r++)
        if (r != RCX && (r < R9 || r > R11))
            em_load(e, r, GPR(r));
    em_load(e, HOST_RCX_HOME, GPR(RCX));
    em_load(e, R10, X(aux)); /* a block's linear address, or what a lookup tries again */
    em_mov(e, R11, R10);
    em_rm(e, 0xff, 4, X(target));
}

static void make_exit(struct emit *e)
{
    em_store(e, R11, X(exit_id));
    em_store(e, R10, X(aux));
    em_load(e, RCX, X(cpu));
    for (unsigned r = 0; r < 16; r++)
        if (r != RCX && (r < R9 || r > R11))
            em_store(e, r, GPR(r));
    em_store(e, HOST_RCX_HOME, GPR(RCX));
    em_bytes(e, "\x9f\x0f\x90\xc0", 4); /* lahf; seto al */
    em_store(e, RAX, X(fl));
    for (unsigned r = R9; r <= R11; r++) {
        em_load(e, RAX, HGS(offsetof(struct xlate, home) + 8 * r));
        em_store(e, RAX, GPR(r));
    }
    em_load(e, RSP, X(host_rsp));
    for (unsigned k = sizeof(callee_saved); k-- > 0;) {
        if (callee_saved[k] & 8)
            em8(e, 0x41);
        em8(e, 0x58 | (callee_saved[k] & 7));
    }
    em8(e, 0xc3);
}

static void make_save(struct emit *e, const struct xlate *x)
{
    em_load(e, RCX, X(cpu));
    moves(e, x->avx, false);
    if (x->avx)
        em_bytes(e, "\xc5\xf8\x77", 3); /* vzeroupper */
    em_rm(e, EM_0F | 0xae, 3, MXCSR);
    em_rm(e, EM_0F | 0xae, 2, X(host_mxcsr));
    em8(e, 0xc3);
}

static void call(const uint8_t *code)
{
    union {
        const uint8_t *p;
        void (*fn)(void);
    } u = { .p = code };

    u.fn();
}

void xl_vectors_save(struct xlate *x)
{
    if (x->vectors_live)
        call(x->save);
    x->vectors_live = false;
}

static struct xrec *new_record(struct codemem *m, enum xrec_kind kind)
{
    struct xrec *r = codemem_meta(m, sizeof(*r));

    *r = (struct xrec){ .kind = (uint8_t)kind };
    return r;
}

int xl_stubs(struct xlate *x)
{
    struct codemem *m = &x->code;
    struct emit e = { .p = m->rw, .max = CODE_REGION };

    x->enter = m->rx;
    make_enter(&e, x, WHOLE);
    x->enter_lower = m->rx + e.n;
    make_enter(&e, x, LOWER);
    x->enter_light = m->rx + e.n;
    make_enter(&e, x, LIGHT);
    x->exit = m->rx + e.n;
    make_exit(&e);
    x->save = m->rx + e.n;
    make_save(&e, x);
    x->retry = m->rx + e.n; /* goes on in the middle of an instruction's translation */
    em_load(&e, RCX, X(retry_rcx));
    em_load(&e, R10, X(retry_r10));
    em_load(&e, R11, X(retry_r11));
    em_rm(&e, 0xff, 4, X(retry_pc));
    struct xrec *r = new_record(m, X_ABORT);
    x->abort = m->rx + e.n;
    em_const(&e, R11, (uint64_t)((uint8_t *)r - m->meta));
    uint32_t at = em_jmp(&e);
    em_patch32(&e, at, (uint32_t)(x->exit - m->rx) - (at + 4));
    r = new_record(m, X_FAULT);
    x->rec_fault = (uint32_t)((uint8_t *)r - m->meta);
    r = new_record(m, X_KICK);
    x->rec_kick = (uint32_t)((uint8_t *)r - m->meta);
    r = new_record(m, X_WIN);
    x->rec_win = (uint32_t)((uint8_t *)r - m->meta);
    r = new_record(m, X_LOOKUP); /* where a dropped block's start leads: R10 is the linear address */
    x->dead = m->rx + e.n;
    em_const(&e, R11, (uint64_t)((uint8_t *)r - m->meta));
    at = em_jmp(&e);
    em_patch32(&e, at, (uint32_t)(x->exit - m->rx) - (at + 4));
    m->keep = m->code_pos = (e.n + 15) & ~15U;
    m->keep_meta = m->meta_pos;
    return e.full ? -ENOMEM : 0;
}

bool xl_uppers_clear(const struct xlate *x)
{
    uint64_t any = 0;

    for (unsigned k = 0; k < 16; k++) {
        uint64_t half[2];
        memcpy(half, x->cpu->fpu.vec[k] + 16, sizeof(half));
        any |= half[0] | half[1];
    }
    return !any;
}

static const uint8_t *enter_by(const struct xlate *x)
{
    if (x->vectors_live)
        return x->enter_light;
    return xl_uppers_clear(x) ? x->enter_lower : x->enter;
}

struct xrec *xl_enter(struct xlate *x, const uint8_t *pc)
{
    uint64_t fl = x->cpu->rflags;

    x->fl = ((fl & 0xd5) | 2) << 8 | (fl >> 11 & 1);
    x->rfl = fl & ~(uint64_t)(X86_FL_ARITH | X86_FL_IF | X86_FL_RF | X86_FL_VM | X86_FL_1);
    x->if_bit = fl & X86_FL_IF;
    x->target = pc;
    x->st.entries++;
    atomic_store(&x->in_cache, 1);
    if (unlikely(atomic_load_explicit(&x->attention, memory_order_relaxed)))
        x->target = x->abort;
    call(enter_by(x));
    x->vectors_live = true;
    atomic_store_explicit(&x->in_cache, 0, memory_order_release);
    x->cpu->rflags =
        x->rfl | x->if_bit | X86_FL_1 | (fl & (X86_FL_RF | X86_FL_VM)) | (x->fl >> 8 & 0xd5) | (x->fl & 1) << 11;
#ifdef GAZDA_DEBUG /* sanitizers' code uses vector registers */
    xl_vectors_save(x);
#endif
    return (struct xrec *)(void *)(x->code.meta + (uint32_t)x->exit_id);
}
