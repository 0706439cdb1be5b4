/* SPDX-License-Identifier: MIT */
/*
 * The translator as an engine: the loop between translated code and everything else.
 *
 * cpu_state is the interpreter's (engine_interp of `inner`), reached through the contract. It is exact whenever this
 * file runs; translated code has its registers only between xl_enter's call and return. What translated code does not
 * do is one call of step.
 */
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <Zydis/Zydis.h>

#include "cpu/translate/fast.h"
#include "cpu/translate/trace.h"
#include "cpu/translate/verify.h"
#include "mem/mem.h"

enum { STEPS_OTHER_MODE = 200, PAUSES = 16 };

/* ---- requests of other threads ---- */

static void wake(struct xlate *x)
{
    if (atomic_load(&x->in_cache))
        syscall(SYS_tgkill, getpid(), atomic_load(&x->tid), xl_kick_signal());
}

static void post(struct xlate *x, gpa_t gpa, bool written)
{
    lock_take(&x->req_lock);
    if (x->req.n < ARRAY_LEN(x->req.e)) {
        x->req.e[x->req.n].gpa = gpa & PAGE_MASK;
        x->req.e[x->req.n++].written = written;
    } else {
        x->req.flush = true;
    }
    lock_drop(&x->req_lock);
    atomic_fetch_or(&x->attention, ATT_REQ);
}

static bool mine(const struct xlate *x)
{
    return atomic_load(&x->tid) == (int)syscall(SYS_gettid);
}

/* Until it has left translated code, if it is in it: it looks at its requests before it enters again. */
static void wait_out(struct xlate *x)
{
    while (atomic_load(&x->in_cache) && (atomic_load(&x->attention) & ATT_REQ))
        sched_yield();
}

static void on_code_marked(void *arg, gpa_t gpa)
{
    struct xlate *x = arg;

    if (mine(x)) {
        xl_tlb_protect(x, gpa);
        return;
    }
    post(x, gpa, false);
    wake(x);
    wait_out(x);
}

static void on_code_written(void *arg, gpa_t gpa)
{
    struct xlate *x = arg;

    post(x, gpa, true);
    if (!mine(x))
        wake(x);
}

static void on_unmap(void *arg, gpa_t gpa, uint64_t len)
{
    struct xlate *x = arg;

    (void)gpa, (void)len;
    lock_take(&x->req_lock);
    x->req.flush = true;
    lock_drop(&x->req_lock);
    atomic_fetch_or(&x->attention, ATT_REQ);
    if (mine(x))
        return;
    wake(x);
    while (atomic_load(&x->in_run) && (atomic_load(&x->attention) & ATT_REQ))
        sched_yield();
}

static const struct mem_listener listener = {
    .unmap = on_unmap, .protect = on_unmap, .code_marked = on_code_marked, .code_written = on_code_written
};

void xl_drop_all(struct xlate *x)
{
    uint64_t n = 0;

    x->st.code_flushes++;
    xl_tlb_flush(x, true);
    xl_direct_drop(x);
    xl_sites_forget(x, NO_GPA);
    for (unsigned g = 0; g < CODE_REGIONS; g++) {
        n += x->code.r[g].n;
        if (x->code.r[g].n)
            xl_drop_region(x, g);
    }
    xl_event(x, EVENT_FLUSH, n, 0);
    for (unsigned g = 0; g < CODE_REGIONS; g++)
        x->code.r[g].n = 0;
    x->code.region = 0;
    x->code.code_pos = x->code.keep;
    x->code.cold_pos = CODE_HOT;
    x->code.meta_pos = x->code.keep_meta;
}

static void take_requests(struct xlate *x)
{
    lock_take(&x->req_lock);
    atomic_fetch_and(&x->attention, ~(uint32_t)ATT_REQ);
    if (x->req.flush)
        xl_drop_all(x);
    for (unsigned k = 0; k < x->req.n && !x->req.flush; k++) {
        if (x->req.e[k].written) {
            xl_drop_frame(x, x->req.e[k].gpa);
            xl_direct_drop_frame(x, x->req.e[k].gpa, true);
            xl_sites_forget(x, x->req.e[k].gpa);
        } else {
            xl_tlb_protect(x, x->req.e[k].gpa);
        }
    }
    x->req.n = 0;
    x->req.flush = false;
    lock_drop(&x->req_lock);
}

/* ---- state ---- */

void xl_refresh(struct xlate *x)
{
    const struct cpu_state *c = x->cpu;

    for (unsigned k = 0; k < X86_SREGS; k++)
        x->seg_base[k] = c->seg[k].base;
    x->tsc_offset = c->tsc_offset;
    x->tsc_aux = c->msr.tsc_aux;
    xl_set_kind(x, xl_kind_now(x));
    xl_verify_moved(x);
}

/* ---- the interpreter ---- */

static bool is_io(enum vcpu_exit_kind k)
{
    return k == EXIT_PIO || k == EXIT_MMIO || k == EXIT_MSR || k == EXIT_TPR || k == EXIT_HYPERCALL;
}

void xl_late_flush(struct xlate *x)
{
    xl_vectors_save(x);
    for (unsigned k = 0; k < x->late.n; k++)
        x->inner.ops->flush_page(&x->inner, x->late.page[k]);
    if (x->late.local)
        x->inner.ops->flush_local(&x->inner);
    x->late.n = 0;
    x->late.local = false;
}

struct xl_steps xl_steps_begin(struct xlate *x)
{
    struct vcpu *in = &x->inner;

    xl_late_flush(x);
    xl_x87_save(x);
    in->irq_window = x->v->irq_window;
    in->nmi_window = x->v->nmi_window;
    in->exit.kind = EXIT_STEPPED;
    return (struct xl_steps){ .all = in->flushed.all, .local = in->flushed.local, .page = in->flushed.page };
}

bool xl_steps_end(struct xlate *x, const struct xl_steps *s)
{
    struct vcpu *in = &x->inner, *v = x->v;

    if (in->flushed.all != s->all)
        xl_tlb_flush(x, true);
    else if (in->flushed.local != s->local)
        xl_tlb_flush(x, false);
    if (in->flushed.page == s->page + 1)
        xl_tlb_flush_page(x, in->flushed.lin);
    else if (in->flushed.page != s->page)
        xl_tlb_flush(x, true);
    xl_refresh(x);
    if (in->exit.kind == EXIT_STEPPED)
        return false;
    v->exit = in->exit;
    x->io_pending = is_io(v->exit.kind);
    return true;
}

/* True: run must return with v->exit. */
static bool step(struct xlate *x, unsigned n)
{
    struct xl_steps s = xl_steps_begin(x);

    if (unlikely(x->v->tuning.trace_exec))
        xl_trace_step(x);
    if (n > 1)
        mem_code_hold(x->v->mem, true);
    x->inner.ops->step(&x->inner, n, &x->inner.exit);
    if (n > 1)
        mem_code_hold(x->v->mem, false);
    x->st.steps++;
    return xl_steps_end(x, &s);
}

/* With a debugger or break points everything is interpreted. */
static void run_careful(struct xlate *x)
{
    struct vcpu *in = &x->inner;

    xl_late_flush(x);
    xl_x87_save(x);
    in->irq_window = x->v->irq_window;
    in->nmi_window = x->v->nmi_window;
    in->inject.kind = x->v->inject.kind;
    in->inject.vector = x->v->inject.vector;
    x->v->inject.kind = INJECT_NONE;
    if (x->io_pending)
        in->exit = x->v->exit;
    else
        in->ops->sync(in, SYNC_IN);
    atomic_store(&x->careful, true);
    if (atomic_load(&x->attention) & ATT_KICK)
        in->ops->kick(in);
    mem_code_hold(x->v->mem, true);
    in->ops->run(in, &in->exit);
    mem_code_hold(x->v->mem, false);
    atomic_store(&x->careful, false);
    in->ops->sync(in, SYNC_OUT);
    x->v->exit = in->exit;
    x->io_pending = is_io(in->exit.kind);
    if (in->exit.kind == EXIT_KICKED)
        atomic_fetch_and(&x->attention, ~(uint32_t)ATT_KICK);
    xl_tlb_flush(x, true);
    xl_refresh(x);
}

/* ---- leaving translated code ---- */

/* A jump to what cannot be an address faults at the branch: SDM Vol. 2A, "JMP". */
static void lookup_exit(struct xlate *x, const struct xrec *r)
{
    struct cpu_state *c = x->cpu;

    if (r->indirect && (r->b->kind & KIND_MODE) == X86_MODE_64 && !x86_canonical(x->aux)) {
        c->gpr[X86_RSP] -= (uint64_t)(int64_t)r->delta;
        c->rip = block_page(x, r->b) + (uint64_t)(int64_t)r->off;
        x->step_due = true;
        return;
    }
    c->rip = x->aux;
}

static void link_exit(struct xlate *x, struct xrec *r)
{
    struct tblock *b = r->b, *to;
    uint64_t rip = block_page(x, b) + (uint64_t)(int64_t)r->off;

    if ((b->kind & KIND_MODE) != X86_MODE_64)
        rip = (uint32_t)rip;
    x->cpu->rip = rip;
    if (b->dead || x->kind == KIND_NONE || x->from_c)
        return;
    to = xl_lookup(x, rip, false);
    if (to && !b->dead && (kind_ctx(b->kind) != CTX_USER || to->gpa >> PAGE_SHIFT == b->gpa >> PAGE_SHIFT))
        xl_link(x, r, to);
}

/* Where to go on inside the block, or NULL. */
static const uint8_t *miss_exit(struct xlate *x, const struct xrec *r)
{
    x->cpu->rip = block_page(x, r->b) + (uint64_t)(int64_t)r->off;
    if ((r->b->kind & KIND_MODE) != X86_MODE_64)
        x->cpu->rip = (uint32_t)x->cpu->rip;
    if (xl_tlb_fill(x, x->aux, r->size, r->write) == MISS_RETRY && !r->b->dead)
        return x->code.rx + r->stub;
    x->st.miss_steps++;
    x->step_due = true;
    return NULL;
}

enum { GROUP_FAILS = 64 };

/*
 * The lookup of a group failed. If filling does not help (the range crosses a page, or cannot be written) the same code
 * runs without groups; where that happens often, or always will, the way there is linked.
 */
static const uint8_t *group_exit(struct xlate *x, struct xrec *r)
{
    gva_t rip = block_page(x, r->b) + (uint64_t)(int64_t)r->off;
    bool crosses = (x->aux & ~PAGE_MASK) + r->size > PAGE_SIZE;
    struct tblock *to;

    if ((r->b->kind & KIND_MODE) != X86_MODE_64)
        rip = (uint32_t)rip;
    x->cpu->rip = rip;
    if (!crosses && xl_tlb_fill(x, x->aux, r->size, r->write_first) == MISS_RETRY && !r->b->dead &&
        (r->write == r->write_first || xl_tlb_writable(x, x->aux)))
        return x->code.rx + r->stub;
    if (r->shadow) /* a kick would find no shadow in the other block */
        x->step_due = true;
    to = r->shadow ? NULL : xl_lookup(x, rip, true);
    if (!to)
        return NULL;
    if (crosses || ++r->failed >= GROUP_FAILS)
        xl_link(x, r, to);
    x->aux = rip;
    return x->code.rx + to->start;
}

static void count_fault(struct xlate *x)
{
    x->st.faults++;
    x->st.fault_vector[x->fault_trap % ARRAY_LEN(x->st.fault_vector)]++;
}

/* A host fault while there are windows: at an access to one, or like any other. */
static const uint8_t *win_exit(struct xlate *x)
{
    x->cpu->rip = x->aux;
    if (x->kind & KIND_WIN) {
        if (x->fault_trap == X86_PF && xl_win_miss(x, x->fault_host, x->fault_write) == MISS_RETRY)
            return x->retry;
        if (x->fault_trap != X86_PF && xl_win_scan(x))
            return xl_find(x);
    }
    count_fault(x);
    x->step_due = true;
    return NULL;
}

/* An instruction that is done in C, if it can be. */
static const uint8_t *fast_exit(struct xlate *x, const struct xrec *r)
{
    struct cpu_state *c = x->cpu;
    uint64_t rip = block_page(x, r->b) + (uint64_t)(int64_t)r->off;

    c->rip = rip;
    if (!xl_fast(x, r)) {
        x->st.step_op[r->op]++;
        x->step_due = true;
        return NULL;
    }
    x->st.fast_op[r->op]++;
    if (r->shadow && c->rip != rip)
        c->int_shadow = false;
    return r->stub && c->rip == xl_fast_next(x, r) && !r->b->dead ? x->code.rx + r->stub : NULL;
}

bool xl_exited(struct xlate *x, struct xrec *r, const uint8_t **resume)
{
    struct cpu_state *c = x->cpu;

    *resume = NULL;
    if (r->shadow)
        c->int_shadow = true;
    switch ((enum xrec_kind)r->kind) {
    case X_LINK:
        link_exit(x, r);
        break;
    case X_LOOKUP:
        if (!r->b)
            xl_jc_forget(x, x->aux);
        lookup_exit(x, r);
        break;
    case X_FAST:
        *resume = fast_exit(x, r);
        break;
    case X_GATHER:
        c->rip = block_page(x, r->b) + (uint64_t)(int64_t)r->off;
        if ((r->b->kind & KIND_MODE) != X86_MODE_64)
            c->rip = (uint32_t)c->rip;
        if (xl_fast_gather(x, &r->gather) && !r->b->dead) {
            *resume = x->code.rx + r->stub;
            break;
        }
        x->st.step_op[r->op]++;
        x->step_due = true;
        break;
    case X_STEP:
        c->rip = block_page(x, r->b) + (uint64_t)(int64_t)r->off;
        if ((r->b->kind & KIND_MODE) != X86_MODE_64)
            c->rip = (uint32_t)c->rip;
        if (r->op < ARRAY_LEN(x->st.step_op))
            x->st.step_op[r->op]++;
        x->step_due = true;
        break;
    case X_MISS:
        *resume = miss_exit(x, r);
        break;
    case X_GROUP:
        *resume = group_exit(x, r);
        break;
    case X_X87:
        c->rip = block_page(x, r->b) + (uint64_t)(int64_t)r->off;
        xl_vectors_save(x);
        xl_x87_load(x);
        *resume = x->code.rx + r->stub;
        break;
    case X_PAUSE:
        c->rip = block_page(x, r->b) + (uint64_t)(int64_t)r->off;
        if (++x->pauses % PAUSES == 0) {
            x->v->exit.kind = EXIT_PAUSE;
            return true;
        }
        break;
    case X_WIN:
        *resume = win_exit(x);
        break;
    case X_FAULT:
        count_fault(x);
        c->rip = x->aux;
        x->step_due = true;
        break;
    case X_KICK:
        x->st.kicks++;
        c->rip = x->aux;
        break;
    case X_ABORT:
        break;
    }
    if (r->shadow && *resume) /* the block goes on and sees to it */
        c->int_shadow = false;
    return false;
}

/* ---- the loop ---- */

/* What may happen between two instructions. True: leave run. */
static bool between(struct xlate *x)
{
    struct vcpu *v = x->v;
    const struct cpu_state *c = x->cpu;
    uint32_t a = atomic_load(&x->attention);

    if (a & ATT_REQ)
        take_requests(x);
    if (a & ATT_KICK) {
        atomic_fetch_and(&x->attention, ~(uint32_t)ATT_KICK);
        xl_win_tick(x);
        xl_direct_tick(x);
        v->exit.kind = EXIT_KICKED;
        return true;
    }
    if (((v->irq_window && (c->rflags & X86_FL_IF)) || (v->nmi_window && !c->nmi_blocked)) && !c->int_shadow) {
        v->exit.kind = EXIT_IRQ_WINDOW;
        return true;
    }
    if (!(c->dr[7] & 0xff)) /* RF only holds back instruction break points */
        x->cpu->rflags &= ~(uint64_t)X86_FL_RF;
    if (c->pending_db || c->int_shadow || (c->rflags & X86_FL_TF) || (c->dr[7] & 0xff))
        x->step_due = true;
    return false;
}

static void loop(struct xlate *x)
{
    const uint8_t *resume = NULL;

    for (;;) {
        if (x->step_due) {
            x->step_due = false;
            if (step(x, x->kind == KIND_NONE ? STEPS_OTHER_MODE : 1))
                return;
            resume = NULL;
        }
        if (unlikely(atomic_load_explicit(&x->attention, memory_order_relaxed)))
            resume = NULL;
        if (!resume) {
            if (between(x))
                return;
            if (x->step_due)
                continue;
            if (!x->direct.off && xl_direct_wanted(x)) {
                xl_direct_run(x);
                continue;
            }
            if (unlikely(x->win.told) && (x->kind & KIND_WIN))
                xl_win_return(x);
            if (x->kind == KIND_NONE || !(resume = xl_find(x))) {
                x->step_due = !x->direct.cold || !xl_direct_wanted(x);
                continue;
            }
        }
        if (unlikely(x->verify != NULL)) {
            if (xl_verify_run(x, resume))
                return;
            resume = NULL;
            continue;
        }
        if (unlikely(x->v->tuning.trace_exec))
            xl_trace_enter(x, resume);
        if (xl_exited(x, xl_enter(x, resume), &resume))
            return;
    }
}

static int translate_run(struct vcpu *v, struct vcpu_exit *out)
{
    struct xlate *x = v->engine;
    int r = xl_thread_begin(x);

    if (r < 0)
        return r;
    atomic_store(&x->in_run, 1);
    x->win_mask = v->irq_window ? X86_FL_IF : 0;
    if (atomic_load(&x->attention) & ATT_REQ)
        take_requests(x);
    xl_refresh(x);
    if (v->debug.step || v->debug.n || v->debug.sw_break) {
        run_careful(x);
        goto out;
    }
    if (x->io_pending) {
        x->io_pending = false;
        x->inner.exit = v->exit;
        if (step(x, 1))
            goto out;
    }
    if (v->inject.kind != INJECT_NONE) {
        x->inner.inject.kind = v->inject.kind;
        x->inner.inject.vector = v->inject.vector;
        v->inject.kind = INJECT_NONE;
        if (step(x, 1))
            goto out;
    }
    loop(x);
out:
    xl_vectors_save(x);
    xl_x87_save(x);
    x->step_due = false;
    v->stats.insns = x->inner.stats.insns;
    memcpy(v->stats.faults, x->inner.stats.faults, sizeof(v->stats.faults));
    v->stats.intr = x->inner.stats.intr;
    v->stats.tlb_misses = x->st.misses;
    v->stats.tlb_flushes = x->st.flushes;
    v->stats.blocks_decoded = x->st.blocks;
    v->stats.cache_flushes = x->st.evictions;
    if (out && out != &v->exit)
        *out = v->exit;
    atomic_store(&x->in_run, 0);
    return 0;
}

/* ---- life ---- */

static int translate_create(struct vcpu *v)
{
    size_t size = (sizeof(struct xlate) + PAGE_SIZE - 1) & PAGE_MASK;
    struct xlate *x;
    int r;

    if (!__builtin_cpu_supports("bmi2"))
        return -ENOTSUP;
    x = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (x == MAP_FAILED)
        return -ENOMEM;
    x->v = v;
    x->inner = (struct vcpu){ .id = v->id, .ops = &engine_interp, .mem = v->mem, .model = v->model };
    lock_init(&x->req_lock, LOCK_ENGINE);
    r = x->inner.ops->create(&x->inner);
    if (r)
        goto undo_map;
    x->cpu = x->inner.cpu;
    x->avx = __builtin_cpu_supports("avx");
    x->no_pext = !__builtin_cpu_is("intel") && !__builtin_cpu_supports("vaes"); /* AMD before Zen 3 */
    x->mask_page = PAGE_MASK;
    x->jc_mask = x->no_pext ? 0xffff : JC_ENTRIES - 1;
    x->jc_index = x->jc_mask << 1;
    x->mask_popf =
        ~(uint64_t)(X86_FL_ARITH | X86_FL_IF | X86_FL_1 | X86_FL_RF | X86_FL_VM | 1 << 3 | 1 << 5 | 1 << 15) &
        UINT32_MAX;
    x->win.maps_max = 8192;
    x->win.mode = v->tuning.mmu;
    x->mask_if = X86_FL_IF;
    x->mask_63 = 63;
    x->mask_31 = 31;
    x->mask_15 = 15;
    xl_x87_init(x);
    r = codemem_new(&x->code, xl_drop_region, x);
    if (r)
        goto undo_inner;
    r = xl_stubs(x);
    if (!r)
        r = xl_scan_init(x);
    if (!r)
        r = xl_signals_install();
    if (!r)
        r = xl_verify_new(x);
    x->from_c = x->verify || v->tuning.trace_exec;
    if (!r)
        xl_trace_start(x);
    if (!r)
        r = mem_listen(v->mem, &listener, x);
    if (r)
        goto undo_code;
    xl_tlb_init(x);
    xl_jc_init(x);
    xl_direct_init(x);
    r = xl_win_init(x);
    if (r)
        goto undo_listen;
    v->cpu = x->cpu;
    v->engine = x;
    return 0;

undo_listen:
    mem_unlisten(v->mem, &listener, x);
undo_code:
    xl_scan_fini(x);
    xl_verify_free(x);
    codemem_free(&x->code);
undo_inner:
    x->inner.ops->destroy(&x->inner);
undo_map:
    lock_destroy(&x->req_lock);
    munmap(x, size);
    return r;
}

static void translate_destroy(struct vcpu *v)
{
    struct xlate *x = v->engine;

    if (!x)
        return;
    mem_unlisten(v->mem, &listener, x);
    xl_thread_forget(x);
    x->inner.ops->destroy(&x->inner);
    xl_scan_fini(x);
    xl_win_fini(x);
    xl_direct_fini(x);
    xl_verify_free(x);
    codemem_free(&x->code);
    lock_destroy(&x->req_lock);
    munmap(x, (sizeof(*x) + PAGE_SIZE - 1) & PAGE_MASK);
    v->engine = NULL;
    v->cpu = NULL;
}

static void translate_kick(struct vcpu *v)
{
    struct xlate *x = v->engine;

    atomic_fetch_or(&x->attention, ATT_KICK);
    if (atomic_load(&x->careful))
        x->inner.ops->kick(&x->inner);
    wake(x);
}

static int translate_sync(struct vcpu *v, enum sync_dir dir)
{
    struct xlate *x = v->engine;

    if (dir == SYNC_OUT)
        return 0;
    x->inner.ops->sync(&x->inner, SYNC_IN);
    xl_tlb_flush(x, true);
    x->io_pending = false;
    xl_refresh(x);
    return 0;
}

static bool translate_can_intr(const struct vcpu *v)
{
    return (v->cpu->rflags & X86_FL_IF) && !v->cpu->int_shadow;
}

static void translate_debug(struct vcpu *v)
{
    struct xlate *x = v->engine;

    x->inner.debug = v->debug;
    x->inner.ops->debug_changed(&x->inner);
}

static int window_create(struct vcpu *v)
{
    v->tuning.mmu = ENGINE_MMU_WINDOW;
    return translate_create(v);
}

#define TRANSLATE_OPS(title, make)                                                                                     \
    {                                                                                                                  \
        .name = title, .create = make, .destroy = translate_destroy, .run = translate_run, .kick = translate_kick,     \
        .sync = translate_sync, .can_intr = translate_can_intr, .debug_changed = translate_debug,                      \
        .stats = xl_stats_put                                                                                          \
    }
const struct engine_ops engine_translate = TRANSLATE_OPS("translate", translate_create);
const struct engine_ops engine_translate_window = TRANSLATE_OPS("translate-window", window_create);
