/* SPDX-License-Identifier: MIT */
/*
 * When user code runs directly: what suits it, and what pays. Ticks choose address spaces that are seldom in the
 * kernel. Within those, time between two ways into the kernel comes in bursts of similar length (a program touches new
 * memory, then computes), so a short one is taken for a sign that the next will be short: that one is translated.
 * Whatever the tick chose, code that is met for the first time runs directly: it costs less than its translation.
 */
#include <string.h>
#include <x86intrin.h>

#include "cpu/translate/translate.h"

enum {
    TICK_CYCLES = 1500000,    /* less between two ticks tells nothing */
    CYCLES_IN = 120000,       /* translated: at least so many on average between two returns to user mode */
    CYCLES_OUT = 80000,       /* directly: between two traps */
    CYCLES_CROWDED = 2000000, /* both, where each trap waits for others */
    CYCLES_FILL = 250000,     /* likewise, if most map pages that the guest has: it changes its mappings all the time */
    CHURN_TICKS = 2,
    GAIN = 4,
    LONG_BURST = 4, /* traps' worth of time, translated */
    SCORE_MAX = 3,
    VISITS_TICKS = 16,
    COLD_BLOCKS = 8, /* that are translated first */
    COLD_VISITS = 2  /* before code is translated */
};
#define BAD_FLAGS ((uint64_t)(X86_FL_TF | X86_FL_IOPL | X86_FL_VM | X86_FL_VIF | X86_FL_VIP))

/* A selector that the host knows too: Linux's of data, or none. */
static bool common(const struct x86_seg *s)
{
    return s->sel == 0 || s->sel == XL_SEL_DATA;
}

/* What a stub could not reproduce is translated. */
static bool suits(const struct xlate *x)
{
    const struct cpu_state *c = x->cpu;
    const struct x86_seg *s = c->seg;
    const unsigned want = KIND_FPU | KIND_AVX | KIND_TSC | KIND_FSGS;

    return (x->kind & (KIND_MODE | KIND_CTX)) == ((unsigned)X86_MODE_64 | CTX_USER << 2) && (x->kind & want) == want &&
           (c->xcr0 & ~x->direct.xcr0) == 0 && (c->xcr0 & 7) == 7 && s[X86_CS].sel == XL_SEL_CODE64 &&
           s[X86_SS_SEG].sel == XL_SEL_DATA && s[X86_DS].sel == s[X86_ES].sel && common(&s[X86_DS]) &&
           common(&s[X86_FS]) && common(&s[X86_GS]) && !(c->rflags & BAD_FLAGS) && (c->rflags & X86_FL_IF) &&
           !(c->dr[7] & 0xff) && !c->pending_db && !c->int_shadow && !x->v->irq_window && !x->v->nmi_window;
}

/*
 * User code ran until it came to the kernel: what that says of the next time. Translated code takes at least GAIN times
 * as long as native code; what direct execution takes besides are its traps, and what they cause here.
 */
static void burst_over(struct xl_direct *d, uint64_t cycles)
{
    bool good = d->burst_direct ? cycles < GAIN * d->burst_native : cycles > LONG_BURST * d->trap_cycles;

    if (good)
        d->score = SCORE_MAX;
    else if (d->burst_direct && d->score)
        d->score--;
    d->burst = d->burst_native = 0;
}

bool xl_direct_wanted(struct xlate *x)
{
    struct xl_direct *d = &x->direct;
    struct xl_space *s;
    uint64_t now;

    if (kind_ctx(x->kind) != CTX_USER) {
        d->skip = d->cold = d->warm = false;
        if (d->burst)
            burst_over(d, __rdtsc() - d->burst);
        return false;
    }
    if (d->cold && !d->skip)
        return suits(x);
    if (d->skip || !(s = xl_direct_space(x, d->mode == ENGINE_DIRECT_ON)))
        return false;
    if (d->mode == ENGINE_DIRECT_ON)
        return suits(x);
    if (!s->on)
        return false;
    now = __rdtsc();
    if (!d->burst) {
        d->burst = now;
        d->burst_direct = d->score > SCORE_MAX / 2;
    } else if (!d->burst_direct && now - d->burst > LONG_BURST * d->trap_cycles) {
        d->burst_direct = true;
    }
    return d->burst_direct && suits(x);
}

/* In a space of which nothing is mapped in a stub it takes some, lest each process that is forked gets one. */
static bool much_is_cold(struct xlate *x)
{
    struct xl_direct *d = &x->direct;
    const struct xl_space *s = xl_direct_space(x, false);
    gpa_t root = x->cpu->cr3 & ~(gpa_t)0xfff;

    if (s && s->n)
        return true;
    if (root != d->cold_root)
        d->cold_blocks = 0;
    d->cold_root = root;
    return ++d->cold_blocks > COLD_BLOCKS;
}

bool xl_direct_cold(struct xlate *x, gpa_t gpa)
{
    gva_t page = x->cpu->rip & PAGE_MASK;
    struct xl_direct *d = &x->direct;
    uint8_t *visits = &d->visits[gpa * 0x9e3779b97f4a7c15UL >> 49];

    if (d->off || d->warm || d->ticks < d->crowded || (d->skip && (!d->unfit || d->unfit == page)) ||
        d->mode != ENGINE_DIRECT_AUTO || xl_direct_unfit(x, gpa) || !suits(x) || !much_is_cold(x))
        return false;
    d->warm = *visits >= COLD_VISITS;
    d->cold = !d->warm;
    *visits += d->cold;
    x->st.direct_cold += d->cold;
    d->skip &= d->warm;
    return d->cold;
}
_Static_assert(XL_VISITS == 1 << 15, "the shift above");

static uint64_t cycles_each(const struct xl_direct *d, unsigned normal)
{
    return d->ticks < d->crowded ? CYCLES_CROWDED : normal;
}

/* Traps in a space since the last tick; what mostly maps pages is forgiven for a while, since starting does it too. */
static bool too_many(const struct xl_direct *d, struct xl_space *s, uint64_t cycles)
{
    bool churns = 3 * s->fills > 2 * s->traps && s->traps * (uint64_t)CYCLES_FILL > cycles;

    s->churn = churns ? s->churn + 1 : 0;
    return s->churn >= CHURN_TICKS || s->traps * cycles_each(d, CYCLES_OUT) > cycles;
}

void xl_direct_tick(struct xlate *x)
{
    struct xl_direct *d = &x->direct;
    uint64_t now = __rdtsc(), cycles = now - d->tick;
    struct xl_space *s = xl_direct_space(x, false);

    if (d->off || cycles < TICK_CYCLES)
        return;
    d->skip = false;
    xl_direct_place(x);
    if (d->ticks % VISITS_TICKS == 0)
        memset(d->visits, 0, sizeof(d->visits));
    if (s && s->on && d->mode == ENGINE_DIRECT_AUTO && too_many(d, s, cycles)) {
        s->on = false;
        x->st.direct_demotions++;
        s->backoff = s->backoff ? (s->backoff < XL_BACKOFF_MAX ? 2 * s->backoff : XL_BACKOFF_MAX) : 2;
        s->wait = s->backoff;
    } else if (s && s->on) {
        s->backoff -= s->backoff > 0;
    } else if (kind_ctx(x->kind) == CTX_USER && !d->switches && d->returns * cycles_each(d, CYCLES_IN) < cycles &&
               suits(x)) {
        s = xl_direct_space(x, true);
        if (s->wait) {
            s->wait--;
        } else {
            s->on = true;
            d->score = SCORE_MAX;
            x->st.direct_promotions++;
        }
    }
    if (s)
        s->traps = s->fills = 0;
    d->tick = now;
    d->returns = d->switches = 0;
}
