/* SPDX-License-Identifier: MIT */
/*
 * insn_diff: random instructions on the host CPU and in an engine; every difference is printed with the command that
 * shows it again. Exit status 0: all equal; 1: some were not; 2: it could not run.
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <time.h>

#include "../unit/engines.h"
#include "gen.h"
#include "watch.h"

enum { BATCH = 256 };

struct opts {
    const char *argv0, *engine, *only, *isa, *bytes;
    uint64_t count, seed;
    unsigned seconds, max_fail, pct32, pct_fuzz, pct_block;
    bool verbose, mode32_only;
    struct insn_compare cmp;
};

struct totals {
    uint64_t ran, equal, failed, lost, syscalls;
    uint64_t vector[32];
    uint64_t printed;
};

struct run {
    struct opts o;
    struct insn_host host;
    struct isa isa;
    struct gen g;
    struct insn_runner *a, *b;
    struct totals t;
    struct insn_case *c;
    struct insn_result *ra, *rb;
    struct insn_case one; /* for shrink */
    ZydisDisassembledInstruction dis;
    struct insn_result one_a, one_b;
};

static bool keep_form(void *arg, const struct form *fm, const ZydisDecodedInstruction *z,
                      const ZydisDecodedOperand *ops)
{
    const struct run *r = arg;

    if (isa_denied(z, ops) || !isa_has(&r->isa, z->meta.isa_set))
        return false;
    if (r->o.isa && strcasecmp(r->o.isa, ZydisISASetGetString(z->meta.isa_set)))
        return false;
    return !r->o.only || !strcasecmp(r->o.only, ZydisMnemonicGetString(fm->mnemonic));
}

static void repro(const struct run *r, const struct insn_case *c)
{
    printf("  again: %s --engine %s --seed %#" PRIx64 " --count 1", r->o.argv0, r->o.engine, c->seed);
    if (r->o.only)
        printf(" --only %s", r->o.only);
    if (r->o.isa)
        printf(" --isa %s", r->o.isa);
    printf(" --pct32 %u --pct-fuzz %u --pct-block %u", r->o.pct32, r->o.pct_fuzz, r->o.pct_block);
    if (r->o.cmp.strict_flags)
        printf(" --strict-flags");
    if (r->o.cmp.fpu_pointers)
        printf(" --fpu-pointers");
    printf("\n");
}

/* Names the first instruction of a block up to which the two still differ. */
static void shrink(struct run *r, const struct insn_case *c)
{
    struct insn_case *k = &r->one;
    struct insn_verdict v;
    ZydisDisassembledInstruction *d = &r->dis;

    *k = *c;
    for (unsigned off = 0; off < c->code_len; off += d->info.length) {
        if (!ZYAN_SUCCESS(
                ZydisDisassembleIntel(c->mode32 ? ZYDIS_MACHINE_MODE_LONG_COMPAT_32 : ZYDIS_MACHINE_MODE_LONG_64,
                                      INSN_CODE + c->code_off + off, c->code + off, 15, d)))
            return;
        k->code_len = (uint16_t)(off + d->info.length);
        if (r->a->run(r->a, k, &r->one_a, 1) || r->b->run(r->b, k, &r->one_b, 1))
            return;
        if (!insn_equal(&r->o.cmp, k, &r->one_a, &r->one_b, &v)) {
            printf("  cut after %#lx  %s: %s\n", INSN_CODE + c->code_off + off, d->text, v.text);
            return;
        }
    }
}

static void check(struct run *r, const struct insn_case *c, const struct insn_result *a, const struct insn_result *b)
{
    struct insn_verdict why;

    r->t.ran++;
    if (a->status == INSN_LOST || b->status == INSN_LOST) {
        r->t.lost++;
        if (r->o.verbose) {
            printf("lost: the host child did not come back from this one\n");
            insn_print_case(c);
        }
        return;
    }
    if (a->status == INSN_SYSCALL) {
        r->t.syscalls++;
        return;
    }
    r->t.vector[a->vector & 31]++;
    if (insn_equal(&r->o.cmp, c, a, b, &why)) {
        r->t.equal++;
        return;
    }
    r->t.failed++;
    if (r->t.printed++ >= r->o.max_fail)
        return;
    printf("MISMATCH %s/%s: %s\n", r->a->name, r->b->name, why.text);
    if (c->insns > 1)
        shrink(r, c);
    insn_print_case(c);
    insn_print_result(c, r->a->name, a);
    insn_print_result(c, r->b->name, b);
    repro(r, c);
}

/* What a has lost has nothing to be compared with; most of it are endless loops. */
static int run_b(struct run *r, unsigned n)
{
    int err = 0;

    for (unsigned i = 0, end; i < n && !err; i = end) {
        for (end = i; end < n && r->ra[end].status != INSN_LOST; end++)
            ;
        if (end > i)
            err = r->b->run(r->b, &r->c[i], &r->rb[i], end - i);
        for (; end < n && r->ra[end].status == INSN_LOST; end++)
            r->rb[end].status = INSN_LOST;
    }
    return err;
}

static int run_batch(struct run *r, unsigned n)
{
    int err = r->a->run(r->a, r->c, r->ra, n);

    if (!err)
        err = run_b(r, n);
    if (err) {
        fprintf(stderr, "insn_diff: a runner failed: %s\n", strerror(-err));
        return 2;
    }
    for (unsigned i = 0; i < n; i++)
        check(r, &r->c[i], &r->ra[i], &r->rb[i]);
    return 0;
}

static int run_all(struct run *r)
{
    time_t end = time(NULL) + r->o.seconds;
    uint64_t i = 0;

    while (r->o.seconds ? time(NULL) < end : i < r->o.count) {
        unsigned n = 0;

        for (; n < BATCH && (r->o.seconds || i < r->o.count); n++, i++)
            gen_case(&r->g, r->o.seed + i, &r->c[n]);
        int err = run_batch(r, n);

        if (err)
            return err;
        if (r->t.failed > 100 * (uint64_t)r->o.max_fail)
            break;
    }
    return 0;
}

static int run_bytes(struct run *r)
{
    uint8_t b[15];
    unsigned n = 0;

    for (const char *p = r->o.bytes; *p && n < sizeof(b); n++) {
        char hex[3] = { p[0], p[1], 0 }, *end;

        b[n] = (uint8_t)strtoul(hex, &end, 16);
        if (end != hex + 2) {
            fprintf(stderr, "insn_diff: --bytes wants pairs of hex digits\n");
            return 2;
        }
        p += 2;
    }
    for (uint64_t i = 0; i < r->o.count; i++) {
        r->c[0].mode32 = r->o.mode32_only;
        r->c[0].code_len = (uint16_t)n;
        memcpy(r->c[0].code, b, n);
        gen_from_bytes(&r->g, r->o.seed + i, &r->c[0]);
        int err = run_batch(r, 1);

        if (err)
            return err;
        if (r->o.verbose) {
            insn_print_case(&r->c[0]);
            insn_print_result(&r->c[0], r->a->name, &r->ra[0]);
            insn_print_result(&r->c[0], r->b->name, &r->rb[0]);
        }
    }
    return 0;
}

static void coverage_set(const struct forms *f, unsigned set)
{
    unsigned forms = 0, hit = 0;
    uint64_t runs = 0;

    for (unsigned i = 0; i < f->n; i++) {
        if (f->form[i].isa_set != set)
            continue;
        forms++;
        hit += f->form[i].hits != 0;
        runs += f->form[i].hits;
    }
    if (forms)
        printf("  %-18s %5u of %5u forms, %8" PRIu64 " instances\n", ZydisISASetGetString(set), hit, forms, runs);
}

/* Forms and mnemonics hit, per instruction set with --verbose; names what was not hit. */
static void coverage(const struct run *r, const struct forms *f)
{
    unsigned hit = 0, mn_hit = 0, missed = 0;

    for (unsigned i = 0; i < f->n; i++)
        hit += f->form[i].hits != 0;
    for (unsigned m = 0; m < f->mnemonics; m++) {
        bool any = false;

        for (unsigned k = f->first[m]; k < f->first[m + 1]; k++)
            any |= f->form[f->by_mnemonic[k]].hits != 0;
        mn_hit += any;
        if (!any && missed++ < 40)
            printf("%s%s", missed == 1 ? "never generated: " : " ",
                   ZydisMnemonicGetString(f->form[f->by_mnemonic[f->first[m]]].mnemonic));
    }
    if (missed)
        printf("\n");
    printf("%s: %u of %u forms, %u of %u mnemonics\n", f->mode32 ? "32-bit" : "64-bit", hit, f->n, mn_hit,
           f->mnemonics);
    for (unsigned s = 0; r->o.verbose && s <= ZYDIS_ISA_SET_MAX_VALUE; s++)
        coverage_set(f, s);
}

static void summary(const struct run *r)
{
    const struct totals *t = &r->t;

    for (unsigned m = 0; m < 2; m++)
        if (r->g.f[m] && !r->o.bytes)
            coverage(r, r->g.f[m]);
    printf("ends by vector:");
    for (unsigned i = 0; i < 32; i++)
        if (t->vector[i])
            printf(" %u:%" PRIu64, i, t->vector[i]);
    if (r->g.blocks)
        printf("\nblocks: %" PRIu64 " with an instruction across two pages, %" PRIu64 " backward branches",
               r->g.straddling, r->g.backward);
    printf("\ninsn_diff: engine %s, seed %#" PRIx64 ": %" PRIu64 " cases (%" PRIu64 " raw fuzz, %" PRIu64
           " blocks), %" PRIu64 " equal, %" PRIu64 " different, %" PRIu64 " lost, %" PRIu64 " system calls\n",
           r->o.engine, r->o.seed, t->ran, r->g.fuzz, r->g.blocks, t->equal, t->failed, t->lost, t->syscalls);
    /* for tools/testrun */
    printf("%sok 1 - %" PRIu64 " random cases on the host CPU and in %s\n", t->failed ? "not " : "", t->ran,
           r->o.engine);
    printf("%sok 2 - hardly a case was lost\n", t->lost > t->ran / 200 ? "not " : "");
    printf("ok 3 - 32-bit code%s%s\n", r->a->no32 ? " # SKIP " : "", r->a->no32 ? r->a->no32 : "");
    printf("ok 4 - FS and GS%s\n", r->host.fsgsbase ? "" : " # SKIP this kernel has no FSGSBASE");
}

static int setup(struct run *r)
{
    isa_from_host(&r->isa);
    if (strcmp(r->o.engine, "host"))
        isa_and_model(&r->isa);
    insn_host_probe(&r->host, r->isa.os_avx512);
    watch_start();
    r->a = insn_host_new(&r->host);
    r->b = !strcmp(r->o.engine, "host") ? insn_host_new(&r->host) : insn_engine_new(r->o.engine, &r->host);
    if (!r->a || !r->b)
        return 2;
    r->g.isa = &r->isa;
    r->g.host = &r->host;
    r->g.pct32 = r->o.pct32;
    r->g.pct_fuzz = r->o.pct_fuzz;
    r->g.pct_block = r->o.pct_block;
    for (unsigned m = 0; m < (r->a->no32 ? 1U : 2U); m++) {
        r->g.f[m] = forms_new(m, r->isa.os_avx512);
        if (!r->g.f[m])
            return 2;
        forms_filter(r->g.f[m], keep_form, r);
    }
    if (r->g.f[1] && !r->g.f[1]->n)
        r->g.pct32 = r->o.pct32 = 0;
    if (!r->g.f[0]->n && (!r->g.f[1] || !r->g.f[1]->n)) {
        fprintf(stderr, "insn_diff: no instruction of this host fits --only and --isa\n");
        return 2;
    }
    if (!r->g.f[0]->n)
        r->g.pct32 = r->o.pct32 = 100;
    r->c = insn_alloc(BATCH * sizeof(*r->c));
    r->ra = insn_alloc(BATCH * sizeof(*r->ra));
    r->rb = insn_alloc(BATCH * sizeof(*r->rb));
    return r->c && r->ra && r->rb ? 0 : 2;
}

static void teardown(struct run *r)
{
    for (unsigned m = 0; m < 2; m++)
        if (r->g.f[m])
            forms_free(r->g.f[m]);
    if (r->a)
        r->a->free(r->a);
    if (r->b)
        r->b->free(r->b);
    free(r->c);
    free(r->ra);
    free(r->rb);
}

static const char usage[] =
    "usage: insn_diff [--engine host|NAME] [--list-engines] [--count N] [--seed S] [--seconds T] [--only MNEMONIC] "
    "[--isa SET]\n"
    "                 [--bytes HEX [--mode32]] [--pct32 P] [--pct-fuzz P] [--pct-block P] [--max-fail N]\n"
    "                 [--nightly] [--strict-flags] [--fpu-pointers] [--verbose]\n";

static int parse(struct opts *o, int argc, char **argv)
{
    static const struct option lo[] = {
        { "engine", 1, NULL, 'e' },       { "count", 1, NULL, 'n' },        { "seed", 1, NULL, 's' },
        { "seconds", 1, NULL, 't' },      { "only", 1, NULL, 'o' },         { "isa", 1, NULL, 'i' },
        { "bytes", 1, NULL, 'b' },        { "mode32", 0, NULL, '3' },       { "verbose", 0, NULL, 'v' },
        { "pct32", 1, NULL, 'p' },        { "pct-fuzz", 1, NULL, 'f' },     { "pct-block", 1, NULL, 'k' },
        { "nightly", 0, NULL, 'N' },      { "max-fail", 1, NULL, 'm' },     { "strict-flags", 0, NULL, 'F' },
        { "fpu-pointers", 0, NULL, 'P' }, { "list-engines", 0, NULL, 'l' }, { NULL, 0, NULL, 0 },
    };
    int ch;

    while ((ch = getopt_long(argc, argv, "v", lo, NULL)) != -1) {
        uint64_t num = optarg ? strtoull(optarg, NULL, 0) : 0;

        switch (ch) {
        case 'e':
            o->engine = optarg;
            break;
        case 'n':
            o->count = num;
            break;
        case 's':
            o->seed = num;
            break;
        case 't':
            o->seconds = (unsigned)num;
            break;
        case 'o':
            o->only = optarg;
            break;
        case 'i':
            o->isa = optarg;
            break;
        case 'b':
            o->bytes = optarg;
            break;
        case '3':
            o->mode32_only = true;
            break;
        case 'N':
            o->seconds = 3600;
            break;
        case 'l':
            engines_list();
            exit(0);
        case 'v':
            o->verbose = true;
            break;
        case 'p':
            o->pct32 = (unsigned)num;
            break;
        case 'f':
            o->pct_fuzz = (unsigned)num;
            break;
        case 'k':
            o->pct_block = (unsigned)num;
            break;
        case 'm':
            o->max_fail = (unsigned)num;
            break;
        case 'F':
            o->cmp.strict_flags = true;
            break;
        case 'P':
            o->cmp.fpu_pointers = true;
            break;
        default:
            fputs(usage, stderr);
            return 2;
        }
    }
    return 0;
}

int main(int argc, char **argv)
{
    static struct run r;

    r.o = (struct opts){ .argv0 = argv[0],
                         .engine = engines[0]->name,
                         .count = 60000,
                         .max_fail = 10,
                         .pct32 = 20,
                         .pct_fuzz = 8,
                         .pct_block = 20 };
    if (getrandom(&r.o.seed, sizeof(r.o.seed), 0) != sizeof(r.o.seed))
        r.o.seed = (uint64_t)time(NULL);
    r.o.seed &= 0xffffffffffff;
    int err = parse(&r.o, argc, argv);

    if (err)
        return err;
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("insn_diff: engine %s, seed %#" PRIx64 "\n", r.o.engine, r.o.seed);
    err = setup(&r);
    if (!err)
        err = r.o.bytes ? run_bytes(&r) : run_all(&r);
    if (!err)
        summary(&r);
    teardown(&r);
    return err ? err : r.t.failed != 0 || r.t.lost > r.t.ran / 200;
}
