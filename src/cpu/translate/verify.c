/* SPDX-License-Identifier: MIT */
/* Verifying: running a block interpreted and translated (verify.h has the outline). */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cpu/translate/verify.h"
#include "mem/mem.h"

enum { TRIES = 4, PATIENCE_US = 10000, TAB = CODE_REGIONS * CODE_REGION / 16 };
#define ARENA_SIZE (VER_ARENA * sizeof(struct vi))
/* A change of other flags, as POPF can do it, ends a path: what comes may be of another kind. */
#define STEADY_FLAGS (~(uint64_t)(X86_FL_ARITH | X86_FL_IF | X86_FL_RF))

/* A call, for copies of this size are not worth the instructions that the compiler would choose. */
static __attribute__((noipa)) void move(void *to, const void *from, size_t n)
{
    memcpy(to, from, n);
}

/* ---- the interpreter's run ---- */

static void remember(struct xlate *x)
{
    struct xl_verify *v = x->verify;

    move(&v->before, x->cpu, VER_HEAD);
    if (v->synced)
        return;
    move(ver_rest(&v->before), ver_rest(x->cpu), VER_REST);
    memcpy(v->faults, x->inner.stats.faults, sizeof(v->faults));
    v->synced = true;
}

/* What may differ behind instruction i, by what might before it. */
static void open_up(struct ver_open *o, const struct vi *i, const struct cpu_state *before)
{
    uint64_t undefined = vi_undefined(i, before);

    o->flags = (o->flags & ~(uint64_t)i->flags) | undefined;
    o->gpr |= i->any_gpr;
    o->upper = !i->m64; /* SDM Vol. 1, "General-Purpose Registers in 64-Bit Mode": undefined there */
}

static bool raised(const struct xl_verify *v, const struct vcpu *in)
{
    uint64_t diff = 0;

    for (unsigned k = 0; k < ARRAY_LEN(v->faults); k++)
        diff |= v->faults[k] ^ in->stats.faults[k];
    return diff != 0;
}

/* The k-th instruction of the path. False: the path ends before it. */
static bool interpret_one(struct xlate *x, const struct vi *i, unsigned k)
{
    struct xl_verify *v = x->verify;
    struct vcpu *in = &x->inner;

    if (!ver_mem_touch(x, i, k))
        return false;
    if (i->how == VI_PAUSE) { /* the interpreter would count it too */
        x->cpu->rip += i->len;
        return true;
    }
    in->ops->step(in, 1, &in->exit);
    if (in->exit.kind != EXIT_STEPPED)
        v->end = END_LEFT;
    else if (raised(v, in))
        v->end = END_RAISED;
    return v->end == END_PATH;
}

static void interpret(struct xlate *x)
{
    struct xl_verify *v = x->verify;
    struct cpu_state *c = x->cpu;
    gva_t page = c->rip - v->b->i[0].off;

    v->open = (struct ver_open){ 0 };
    v->end = END_PATH;
    for (v->n = 0; v->n < v->b->n; v->n++) {
        const struct vi *i = &v->b->i[v->n];
        struct ver_open open = v->open;
        gva_t rip = page + i->off;

        if (c->rip != (i->m64 ? rip : (uint32_t)rip) || ((c->rflags ^ v->before.rflags) & STEADY_FLAGS) ||
            c->pending_db)
            return;
        memcpy(v->at[v->n].gpr, c->gpr, sizeof(v->at[0].gpr));
        v->at[v->n].rip = c->rip;
        v->at[v->n].rflags = c->rflags;
        v->at[v->n].open = open;
        open_up(&v->open, i, c);
        if (!interpret_one(x, i, v->n)) {
            v->open = open;
            return;
        }
    }
}

/* The interpreter's result away, and the state as it was before. */
static void turn_back(struct xlate *x)
{
    struct xl_verify *v = x->verify;

    move(&v->result, x->cpu, VER_HEAD);
    move(x->cpu, &v->before, VER_HEAD);
    v->rest_changed = memcmp(ver_rest(x->cpu), ver_rest(&v->before), VER_REST) != 0;
    if (!v->rest_changed)
        return;
    move(ver_rest(&v->result), ver_rest(x->cpu), VER_REST);
    move(ver_rest(x->cpu), ver_rest(&v->before), VER_REST);
}

/* The interpreter's result is the state. */
static void turn_on(struct xlate *x)
{
    struct xl_verify *v = x->verify;
    bool rest = v->rest_changed || memcmp(ver_rest(x->cpu), ver_rest(&v->before), VER_REST) != 0;

    move(x->cpu, &v->result, VER_HEAD);
    if (rest)
        move(ver_rest(x->cpu), ver_rest(v->rest_changed ? &v->result : &v->before), VER_REST);
}

/* ---- the translator's run ---- */

/* The guest's vector registers are in the host's until they are saved, so this must not use any. */
static __attribute__((noinline, target("general-regs-only"))) struct xrec *enter(struct xlate *x, const uint8_t *pc)
{
    struct xrec *r = xl_enter(x, pc);

    xl_vectors_save(x);
    return r;
}

/* The last instruction of the block is none of the path's. */
static bool beyond(const struct xl_verify *v)
{
    return v->n < v->b->n || v->end != END_PATH;
}

/* Runs the block; the way by which it was left. */
static const struct xrec *translate(struct xlate *x, const uint8_t *pc, bool *leave)
{
    const struct tblock *b = xl_block_at(x, pc);
    struct xrec *r;

    *leave = false;
    x->aux = x->cpu->rip;
    ver_mem_begin(&x->verify->mem);
    do {
        ver_mem_aim(x);
        r = enter(x, pc);
        if (r->kind == X_FAST && beyond(x->verify)) { /* it would work on what there is no shadow of */
            x->cpu->rip = block_page(x, r->b) + (uint64_t)(int64_t)r->off;
            x->cpu->int_shadow |= r->shadow;
            ver_mem_unaim(x);
            break;
        }
        if (r->kind != X_FAST)
            ver_mem_unaim(x);
        *leave = xl_exited(x, r, &pc);
        ver_mem_unaim(x);
    } while (pc && !*leave && xl_block_at(x, pc) == b);
    ver_mem_end(&x->verify->mem);
    xl_x87_save(x);
    return r;
}

/* ---- the verdict ---- */

/* The number of instructions behind which the translator has stopped; -1: nowhere on the path. */
static int stop_of(const struct xlate *x, const struct xrec *r)
{
    const struct xl_verify *v = x->verify;
    const struct cpu_state *c = x->cpu;

    if (c->rip == v->result.rip && v->end == END_PATH)
        switch ((enum xrec_kind)r->kind) {
        case X_LINK:
        case X_LOOKUP:
        case X_FAST:
        case X_PAUSE:
            if (r->b && !x->step_due)
                return (int)v->n;
            break;
        default:
            break;
        }
    for (unsigned k = 0; k < v->n; k++)
        if (v->at[k].rip == c->rip)
            return (int)k;
    if (c->rip == (v->end == END_PATH ? v->result.rip : v->at[v->n].rip))
        return (int)v->n;
    return -1;
}

/* State that is not in at[]: compared where it can only be that of the start, or that of the end. */
static bool same_rest_at(const struct xlate *x, unsigned k)
{
    const struct xl_verify *v = x->verify;

    if (!memcmp(ver_rest(x->cpu), ver_rest_of(&v->before), VER_REST) || ver_same_rest(x->cpu, &v->before) ||
        (v->rest_changed && ver_same_rest(x->cpu, &v->result)))
        return true;
    for (unsigned j = 0; j <= k && j < v->b->n; j++) /* with k: the flags of an exception come before it */
        if (v->b->i[j].rest)
            return true;
    return false;
}

static void expected_at(const struct xl_verify *v, unsigned k, struct cpu_state *want, struct ver_open *open)
{
    if (k == v->n && v->end == END_PATH) {
        move(want, &v->result, VER_HEAD);
        move(ver_rest(want), ver_rest_of(v->rest_changed ? &v->result : &v->before), VER_REST);
        *open = v->open;
        return;
    }
    move(want, &v->before, VER_HEAD + VER_REST);
    memcpy(want->gpr, v->at[k].gpr, sizeof(v->at[k].gpr));
    want->rip = v->at[k].rip;
    want->rflags = v->at[k].rflags;
    *open = v->at[k].open;
}

/* It commits its items and was interrupted. */
static bool is_partial_string(const struct xl_verify *v, const struct xrec *r, unsigned stop)
{
    return (r->kind == X_FAST || r->kind == X_WIN || r->kind == X_FAULT || r->kind == X_KICK) &&
           v->b->i[stop].how == VI_STRING && v->b->i[stop].rep;
}

static bool same_as_result(const struct xlate *x)
{
    const struct xl_verify *v = x->verify;

    return ver_same_head(x->cpu, &v->result, &v->open) &&
           ver_same_rest(x->cpu, v->rest_changed ? &v->result : &v->before) &&
           (x->v->tuning.cpus > 1 || ver_mem_same(&v->mem));
}

static bool same_at(struct xlate *x, unsigned k)
{
    struct xl_verify *v = x->verify;
    struct ver_open open;

    expected_at(v, k, &v->want, &open);
    return ver_same_head(x->cpu, &v->want, &open) && same_rest_at(x, k);
}

/* Whether what the translator has done is right as far as it got. If not, *text is the report. */
static bool judge(struct xlate *x, const struct xrec *r, char **text)
{
    struct xl_verify *v = x->verify;
    int stop = stop_of(x, r);
    bool done = stop == (int)v->n && v->end == END_PATH;
    struct ver_open open;

    if (stop >= 0 && stop < (int)v->b->n && !done && is_partial_string(v, r, (unsigned)stop))
        return true;
    if (done ? same_as_result(x) : stop >= 0 && same_at(x, (unsigned)stop))
        return true;
    v->left_by = r->kind;
    expected_at(v, stop < 0 ? v->n : (unsigned)stop, &v->want, &open);
    move(&v->after, x->cpu, VER_HEAD + VER_REST);
    *text = ver_report(x, &v->want, &open,
                       done       ? NULL
                       : stop < 0 ? "leads elsewhere"
                                  : "has other state where it leaves the rest to the interpreter");
    return false;
}

/* The translation is of other code than what is there now. */
static bool stale(struct xlate *x, const struct tblock *b)
{
    const struct xl_verify *v = x->verify;
    hva_t host = mem_frame_get(x->v->mem, b->gpa & PAGE_MASK);

    for (unsigned k = 0; k < v->b->n && host; k++) {
        const struct vi *i = &v->b->i[k];
        unsigned n = i->off + i->len > PAGE_SIZE ? (unsigned)(PAGE_SIZE - i->off) : i->len;

        if (memcmp(i->bytes, (const void *)(host + i->off), n) != 0)
            return true;
    }
    return false;
}

/*
 * The path ended before a string instruction, because there is no room for shadows of its memory (two pages of one TLB
 * entry), and the translator, which only reads there, has done that too.
 */
static bool went_past_string(const struct xlate *x)
{
    const struct xl_verify *v = x->verify;
    const struct vi *i = &v->b->i[v->n];

    if (v->n >= v->b->n || v->end != END_PATH || i->how != VI_STRING || x->cpu->rip != v->result.rip + i->len)
        return false;
    for (unsigned k = 0; k < i->n; k++)
        if (i->op[k].write)
            return false;
    return true;
}

/* Somebody else may be to blame. */
static bool unsure(struct xlate *x, const uint8_t *pc)
{
    const struct xl_verify *v = x->verify;

    return ver_mem_raced(&v->mem) || (x->v->tuning.cpus > 1 && v->mem.reads) || stale(x, xl_block_at(x, pc)) ||
           ver_walk_stale(x) || ver_walk_marked(x) || went_past_string(x);
}

/* ---- what comes of it ---- */

/* The machine ends, or (a test's) goes on as if nothing had been looked at closely. */
static bool fatal(struct xlate *x, char *text)
{
    if (x->one_insn && x->v->tuning.cpus <= 1) {
        x->one_insn = false;
        xl_drop_all(x);
    }
    ver_fatal(x, text);
    return true;
}

/* As if the path had not been run, TLBs included: a guest may look at the A bits that its walks have set. */
static void undo(struct xlate *x, const struct xl_steps *s)
{
    struct xl_verify *v = x->verify;

    ver_mem_undo(&v->mem);
    move(x->cpu, &v->before, VER_HEAD + VER_REST);
    x->step_due = false;
    xl_steps_end(x, s);
    x->inner.ops->sync(&x->inner, SYNC_IN);
    xl_tlb_flush(x, true);
}

/* Instructions done one by one. */
static uint64_t clock_of(const struct xlate *x)
{
    return x->st.verified + x->st.steps;
}

/* The whole path once more, in single instructions. */
static bool look_closer(struct xlate *x, const struct xl_steps *s, char *text)
{
    struct xl_verify *v = x->verify;

    v->suspect = text;
    v->suspect_end = clock_of(x) + v->n;
    undo(x, s);
    x->one_insn = true;
    xl_drop_all(x);
    return false;
}

static bool guilty(struct xlate *x, const struct xl_steps *s, char *text)
{
    struct xl_verify *v = x->verify;

    if (v->n > 1 && v->end == END_PATH && !x->one_insn && x->v->tuning.cpus <= 1)
        return look_closer(x, s, text);
    turn_on(x);
    xl_steps_end(x, s);
    free(v->suspect);
    v->suspect = NULL;
    return fatal(x, text);
}

static bool innocent(struct xlate *x, const struct xl_steps *s, bool leave)
{
    struct xl_verify *v = x->verify;
    bool synced = !v->rest_changed && v->end == END_PATH;
    char *text;

    turn_on(x);
    x->step_due = false;
    x->st.verified += v->n;
    if (xl_steps_end(x, s))
        return true;
    v->synced = synced;
    if (!v->suspect || clock_of(x) < v->suspect_end)
        return leave;
    text = v->suspect; /* only together they are wrong */
    v->suspect = NULL;
    return fatal(x, text);
}

/* A difference may be somebody else's work (a device, or another processor), and then it does not come again. */
static bool try_again(struct xlate *x, const struct xl_steps *s, unsigned tries)
{
    struct xl_verify *v = x->verify;

    if (v->end != END_PATH || tries == TRIES || (v->mem.writes && x->v->tuning.cpus > 1))
        return false;
    undo(x, s);
    if (tries > 1)
        usleep(PATIENCE_US);
    return true;
}

bool xl_verify_run(struct xlate *x, const uint8_t *pc)
{
    struct xl_verify *v = x->verify;

    v->b = &v->tab[(pc - x->code.rx) / 16];
    if (!v->b->n) {
        x->step_due = v->b->no_room;
        return !x->step_due && xl_exited(x, enter(x, pc), &pc);
    }
    for (unsigned tries = 1;; tries++) {
        struct xl_steps s = xl_steps_begin(x);
        const struct xrec *r;
        char *text = NULL;
        bool leave;

        remember(x);
        ver_mem_start(x);
        interpret(x);
        if (!v->n && v->end == END_PATH) { /* not even the first one */
            x->st.verify_skipped++;
            x->step_due = true;
            return xl_steps_end(x, &s);
        }
        turn_back(x);
        r = translate(x, pc, &leave);
        if (judge(x, r, &text)) {
            x->st.verify_races += tries > 1;
            return innocent(x, &s, leave);
        }
        if (try_again(x, &s, tries)) {
            free(text);
            continue;
        }
        if (!unsure(x, pc))
            return guilty(x, &s, text);
        free(text);
        x->st.verify_races++;
        return innocent(x, &s, leave);
    }
}

/* ---- life ---- */

static void *map(size_t len)
{
    void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    return p == MAP_FAILED ? NULL : p;
}

int xl_verify_new(struct xlate *x)
{
    struct xl_verify *v;
    bool ok;

    if (!x->v->tuning.verify)
        return 0;
    x->verify = v = aligned_alloc(64, (sizeof(*v) + 63) & ~63UL);
    if (!v)
        return -ENOMEM;
    memset(v, 0, sizeof(*v));
    v->tab = map(TAB * sizeof(*v->tab));
    v->mem.space = map(2 * VER_PAGES * PAGE_SIZE);
    ok = v->tab && v->mem.space;
    for (unsigned g = 0; g < CODE_REGIONS; g++) {
        v->arena[g] = map(ARENA_SIZE);
        ok &= v->arena[g] != NULL;
    }
    x->one_insn = x->v->tuning.cpus > 1; /* so that a path reads memory once */
    if (ok)
        return 0;
    xl_verify_free(x);
    return -ENOMEM;
}

void xl_verify_free(struct xlate *x)
{
    struct xl_verify *v = x->verify;

    if (!v)
        return;
    for (unsigned g = 0; g < CODE_REGIONS; g++)
        if (v->arena[g])
            munmap(v->arena[g], ARENA_SIZE);
    if (v->mem.space)
        munmap(v->mem.space, 2 * VER_PAGES * PAGE_SIZE);
    if (v->tab)
        munmap(v->tab, TAB * sizeof(*v->tab));
    free(v->suspect);
    free(v);
    x->verify = NULL;
}
