/* SPDX-License-Identifier: MIT */
/* --trace and --perf-map. A line (with --trace FILE,asm a block with its code) is one write to its stream. */
#include "cpu/translate/trace.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cpu/translate/trans.h"

/* ---- blocks ---- */

static void put_kind(FILE *f, unsigned kind)
{
    static const char *const mode[4] = { "16", "32", "64", "?" }, *const ctx[4] = { "user", "kernel", "kernel-ac",
                                                                                    "?" };
    static const struct {
        unsigned bit;
        const char *name;
    } n[] = { { KIND_FPU, "fpu" }, { KIND_AVX, "avx" },     { KIND_TSC, "tsc" },    { KIND_PIC, "pic" },
              { KIND_FS, "fs" },   { KIND_GS, "gs" },       { KIND_SMAP, "smap" },  { KIND_FSGS, "fsgsbase" },
              { KIND_DF, "df" },   { KIND_WIN, "windows" }, { KIND_SPLIT, "split" } };

    fprintf(f, "%s,%s", mode[kind & KIND_MODE], ctx[kind_ctx(kind)]);
    for (unsigned k = 0; k < ARRAY_LEN(n); k++)
        if (kind & n[k].bit)
            fprintf(f, ",%s", n[k].name);
}

static void put_insn(FILE *f, uint64_t at, const uint8_t *code, unsigned len, ZydisMachineMode mode)
{
    ZydisDisassembledInstruction d;
    int n = 0;

    if (ZYAN_FAILED(ZydisDisassembleIntel(mode, at, code, len, &d))) {
        fprintf(f, "%016" PRIx64 "  ?\n", at);
        return;
    }
    fprintf(f, "%016" PRIx64 "  ", at);
    for (unsigned k = 0; k < d.info.length; k++)
        n += fprintf(f, "%02x ", code[k]);
    fprintf(f, "%*s%s\n", n < 34 ? 34 - n : 0, "", d.text);
}

/* The host's code from one offset to another. */
static void put_host(FILE *f, const struct trans *t, uint32_t from, uint32_t to)
{
    const struct codemem *m = &t->x->code;
    ZydisDecoder d;
    ZydisDecodedInstruction i;

    ZydisDecoderInit(&d, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    for (; from < to; from += i.length) {
        if (ZYAN_FAILED(ZydisDecoderDecodeInstruction(&d, NULL, m->rw + from, to - from, &i)))
            return;
        fputs("        ", f);
        put_insn(f, (uintptr_t)m->rx + from, m->rw + from, to - from, ZYDIS_MACHINE_MODE_LONG_64);
    }
}

static void put_code(FILE *f, const struct trans *t)
{
    put_host(f, t, t->base, t->base + t->side[0].host);
    for (unsigned k = 0; k < t->nside; k++) {
        if (k < t->ninsns) {
            fputs("    ", f);
            put_insn(f, t->page + t->in[k].off, t->in[k].raw, t->in[k].i.length,
                     t->m64 ? ZYDIS_MACHINE_MODE_LONG_64 : ZYDIS_MACHINE_MODE_LEGACY_32);
        }
        put_host(f, t, t->base + t->side[k].host, t->base + t->side[k + 1].host);
    }
    fputs("    ways out\n", f);
    put_host(f, t, t->base + t->side[t->nside].host, t->b->end);
    put_host(f, t, t->b->cold, t->b->cold_end);
}

static gva_t first(const struct trans *t)
{
    return t->page | (t->b->gpa & ~PAGE_MASK);
}

static void trace(const struct trans *t, FILE *to)
{
    const struct tblock *b = t->b;
    char *text = NULL;
    size_t len = 0;
    FILE *f = open_memstream(&text, &len);

    if (!f)
        return;
    fprintf(f, "block vcpu=%u rip=%#" PRIx64 " gpa=%#" PRIx64 " kind=", t->x->v->id, first(t), b->gpa);
    put_kind(f, b->kind);
    fprintf(f, " insns=%u bytes=%u host=%p size=%u\n", b->n, b->bytes, (const void *)(t->x->code.rx + b->start),
            b->end - b->start);
    if (t->x->v->tuning.trace_asm)
        put_code(f, t);
    fclose(f);
    fwrite(text, 1, len, to);
    free(text);
}

/* ---- perf ---- */

/* The format of tools/perf/Documentation/jit-interface.txt in Linux. */
static void symbol(FILE *f, const uint8_t *at, size_t size, const char *name, gva_t lin)
{
    char tail[24] = "";

    if (lin)
        snprintf(tail, sizeof(tail), ":%" PRIx64, lin);
    fprintf(f, "%" PRIxPTR " %zx %s%s\n", (uintptr_t)at, size, name, tail);
}

void xl_trace_block(const struct trans *t)
{
    const struct engine_tuning *tune = &t->x->v->tuning;

    if (tune->trace)
        trace(t, tune->trace);
    if (!tune->perf_map)
        return;
    const char *name = t->ctx == CTX_USER ? "guest-user" : "guest-kernel";
    symbol(tune->perf_map, t->x->code.rx + t->b->start, t->b->end - t->b->start, name, first(t));
    symbol(tune->perf_map, t->x->code.rx + t->b->cold, t->b->cold_end - t->b->cold, name, first(t));
}

void xl_trace_start(struct xlate *x)
{
    FILE *f = x->v->tuning.perf_map;

    if (!f)
        return;
    symbol(f, x->enter, (size_t)(x->exit - x->enter), "gazda-enter", 0);
    symbol(f, x->exit, (size_t)(x->code.rx + x->code.keep - x->exit), "gazda-exit", 0);
}

/* ---- events ---- */

static __attribute__((noinline)) void tell(const struct xlate *x, enum xl_event e, uint64_t a, uint64_t b)
{
    FILE *f = x->v->tuning.trace;
    unsigned id = x->v->id;

    switch (e) {
    case EVENT_FLUSH:
        fprintf(f, "flush vcpu=%u blocks=%" PRIu64 "\n", id, a);
        break;
    case EVENT_EVICT:
        fprintf(f, "evict vcpu=%u region=%" PRIu64 " blocks=%" PRIu64 "\n", id, a, b);
        break;
    case EVENT_DROP:
        fprintf(f, "drop vcpu=%u gpa=%#" PRIx64 " blocks=%" PRIu64 "\n", id, a, b);
        break;
    case EVENT_TLB:
        fprintf(f, "tlb-flush vcpu=%u\n", id);
        break;
    }
}

/*
 * Lines about addresses from lo to hi go, for other code will be there: perf reads the file when all is over, and
 * knows no time.
 */
static void forget(FILE *f, uintptr_t lo, uintptr_t hi)
{
    off_t size;
    char *text, *to;

    flockfile(f);
    fflush(f);
    size = lseek(fileno(f), 0, SEEK_END);
    text = to = size > 0 ? malloc((size_t)size) : NULL;
    if (text && pread(fileno(f), text, (size_t)size, 0) == size && !ftruncate(fileno(f), 0)) {
        for (const char *p = text, *end; (end = memchr(p, '\n', (size_t)(text + size - p))) != NULL; p = end + 1) {
            uintptr_t at = strtoul(p, NULL, 16);

            if (at >= lo && at < hi)
                continue;
            memmove(to, p, (size_t)(end + 1 - p));
            to += end + 1 - p;
        }
        fwrite(text, 1, (size_t)(to - text), f);
        fflush(f);
    }
    free(text);
    funlockfile(f);
}

static __attribute__((noinline)) void note(const struct xlate *x, enum xl_event e, uint64_t a, uint64_t b)
{
    const struct engine_tuning *tune = &x->v->tuning;
    uintptr_t region = (uintptr_t)x->code.rx + a * CODE_REGION;

    if (tune->trace)
        tell(x, e, a, b);
    if (tune->perf_map && e == EVENT_EVICT)
        forget(tune->perf_map, region + (a ? 0 : x->code.keep), region + CODE_REGION);
}

/* The guest's vector registers may be in the host's. */
__attribute__((target("general-regs-only"))) void xl_trace_event(struct xlate *x, enum xl_event e, uint64_t a,
                                                                 uint64_t b)
{
    xl_vectors_save(x);
    note(x, e, a, b);
}

/* ---- what runs ---- */

static __attribute__((noinline)) void tell_rip(const struct xlate *x, const char *what)
{
    fprintf(x->v->tuning.trace, "%s vcpu=%u rip=%#" PRIx64 "\n", what, x->v->id, x->cpu->rip);
}

/* Not where a block goes on that was left for a TLB miss, and not if it is left at once. */
__attribute__((target("general-regs-only"))) void xl_trace_enter(struct xlate *x, const uint8_t *pc)
{
    const struct tblock *b = xl_block_at(x, pc);

    if (!b || pc != x->code.rx + b->start || atomic_load(&x->attention))
        return;
    xl_vectors_save(x);
    tell_rip(x, "exec");
}

__attribute__((target("general-regs-only"))) void xl_trace_step(struct xlate *x)
{
    xl_vectors_save(x);
    tell_rip(x, "step");
}
