/* SPDX-License-Identifier: MIT */
/*
 * Does guest code stay inside guest memory? (isolation.h)
 *
 *   fuzz_isolation [--engine NAME] [--seed S] [--count N] [--nightly] [--each SEED] [--verbose]      prints TAP
 *
 * A child process runs the cases, in batches: each batch twice, with other words in the canaries. After a batch all
 * canaries must hold their word (else the batch is run again one by one to find the culprit), and all results must be
 * the same as with the other word (else some bit of a canary has reached the guest). After the user-mode cases of a
 * batch, guest memory that user mode may not write must be as it was; what it may not read holds the same words. The
 * parent tells which case killed the child.
 * Before all that, the same is done with an engine that does wrong on purpose: each wrong must be found.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/random.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../unit/engines.h"
#include "base/log.h"
#include "isolation.h"

enum { BATCH = 128, NIGHTLY = 10000000, SELF_TEST = 64, HANG_SECONDS = 100, MATTER_RUNS = 12 };
#ifdef GAZDA_DEBUG
enum { COUNT = 12000 };
#else
enum { COUNT = 200000 };
#endif

enum outcome { OUT_DIED /* set by nobody */, OUT_OK, OUT_CANARY, OUT_LEAK, OUT_TRESPASS, OUT_BROKEN };

/* What parent and child share. */
struct shared {
    struct iso_case cur; /* that runs */
    uint64_t done;       /* cases; moves while the child lives */
    uint64_t batch;      /* first seed of the batch */
    enum outcome outcome;
    uint64_t culprit; /* seed; 0 if none was found alone */
    char text[300];
    bool guarded;
    unsigned canaries;
    uint64_t kinds[EXIT_KINDS], kicked, unsteady;
};

struct opts {
    const char *argv0, *engine;
    uint64_t seed, count;
    uint64_t each;
    bool verbose;
};

struct job {
    const struct engine_ops *ops;
    uint64_t seed, count;
    enum iso_evil evil;
    uint64_t evil_seed;
    uint64_t each; /* from this seed on all is checked after each case */
    bool verbose;
    struct shared *sh;
    uint64_t word;
    struct iso_result *a, *b; /* BATCH each */
};

/* ---- the child ---- */

static void run_one(struct job *j, struct iso *s, uint64_t seed, struct iso_result *r)
{
    struct iso_case c;

    iso_case(s, seed, &c);
    j->sh->cur = c;
    if (j->verbose)
        iso_print(&c);
    iso_run(s, &c, r);
    j->sh->done++;
}

static bool fail(struct job *j, enum outcome o, uint64_t culprit)
{
    j->sh->outcome = o;
    j->sh->culprit = culprit;
    return false;
}

/* Which of these cases, alone, changes a canary, or memory of the guest that it may not? */
static uint64_t culprit(struct job *j, struct iso *s, uint64_t from, uint64_t to, bool canary)
{
    struct iso_result r;
    size_t off;

    for (uint64_t seed = from; seed < to; seed++) {
        canary_fill(&s->can, j->word);
        run_one(j, s, seed, &r);
        if (iso_trespass(s) >= 0 && iso_user_seed(seed) && !canary)
            return seed;
        if (canary && canary_check(&s->can, &off))
            return seed;
    }
    return 0;
}

static bool check_canaries(struct job *j, struct iso *s, uint64_t from, uint64_t to)
{
    size_t off;
    const struct canary *c = canary_check(&s->can, &off);

    if (!c)
        return true;
    snprintf(j->sh->text, sizeof(j->sh->text), "the canary at %p (%s) was written at +%#zx", (void *)c->p, c->what,
             off);
    return fail(j, OUT_CANARY, culprit(j, s, from, to, true));
}

/* Behind a group of cases, of user mode or not. */
static bool check_trespass(struct job *j, struct iso *s, uint64_t from, uint64_t to)
{
    int64_t at = iso_trespass(s);

    if (at < 0 || !iso_user_seed(from))
        return true;
    snprintf(j->sh->text, sizeof(j->sh->text), "user mode has changed guest memory at physical %#" PRIx64, at);
    return fail(j, OUT_TRESPASS, culprit(j, s, from, to, false));
}

/* The result of one case, for itself. */
static bool check_result(struct job *j, struct iso *s, uint64_t seed, const struct iso_result *r)
{
    if (r->err) {
        snprintf(j->sh->text, sizeof(j->sh->text), "run returned %s", strerror(-r->err));
        return fail(j, OUT_BROKEN, seed);
    }
    if (r->leak) {
        snprintf(j->sh->text, sizeof(j->sh->text), "a canary's word was seen in %s", r->leak);
        return fail(j, OUT_LEAK, seed);
    }
    if (seed >= j->each && !(check_trespass(j, s, seed, seed + 1) && check_canaries(j, s, seed, seed + 1))) {
        j->sh->culprit = seed;
        return false;
    }
    j->sh->kinds[r->kind]++;
    j->sh->kicked += r->kicked;
    return true;
}

static bool pass(struct job *j, struct iso *s, uint64_t from, unsigned n, struct iso_result *r)
{
    uint64_t group = from;

    canary_fill(&s->can, j->word);
    for (unsigned i = 0; i < n; i++) {
        if (iso_user_seed(group) != iso_user_seed(from + i)) {
            if (!check_trespass(j, s, group, from + i))
                return false;
            group = from + i;
        }
        run_one(j, s, from + i, &r[i]);
        if (!check_result(j, s, from + i, &r[i]))
            return false;
    }
    return check_trespass(j, s, group, from + n) && check_canaries(j, s, from, from + n);
}

/* Two results of one case with different words: is it the words, or does the case depend on something else? */
static bool words_matter(struct job *j, struct iso *s, uint64_t seed)
{
    struct iso_result r[MATTER_RUNS];
    bool steady = true;

    for (unsigned k = 0; k < MATTER_RUNS && steady; k++) {
        canary_fill(&s->can, k % 2 ? ~j->word : j->word);
        run_one(j, s, seed, &r[k]);
        iso_trespass(s);
        steady = !r[k].kicked && (k < 2 || r[k].digest == r[k - 2].digest);
    }
    if (steady && r[0].digest != r[1].digest)
        return true;
    j->sh->unsteady++;
    return false;
}

static bool batch(struct job *j, struct iso *s, uint64_t from, unsigned n)
{
    j->sh->batch = from;
    if (!pass(j, s, from, n, j->a))
        return false;
    j->word = ~j->word;
    if (!pass(j, s, from, n, j->b))
        return false;
    j->word = ~j->word;
    for (unsigned i = 0; i < n; i++)
        if (!j->a[i].kicked && !j->b[i].kicked && j->a[i].digest != j->b[i].digest && words_matter(j, s, from + i)) {
            snprintf(j->sh->text, sizeof(j->sh->text), "the outcome depends on what the canaries hold");
            return fail(j, OUT_LEAK, from + i);
        }
    return true;
}

/* How the child ends: nothing but the shared page tells the parent more. */
static _Noreturn void work(struct job *j)
{
    struct rng r = { j->seed ^ 0xca9a41 };
    struct iso *s = iso_new(j->ops, j->seed);
    bool ok = true;

    if (!s) {
        snprintf(j->sh->text, sizeof(j->sh->text), "the machine could not be set up");
        fail(j, OUT_BROKEN, 0);
        exit(1);
    }
    j->word = rng_next(&r);
    j->a = calloc(BATCH, sizeof(*j->a));
    j->b = calloc(BATCH, sizeof(*j->b));
    j->sh->guarded = s->guarded;
    j->sh->canaries = s->can.n;
    s->evil = j->evil;
    s->evil_seed = j->evil_seed;
    for (uint64_t i = 0; i < j->count && ok; i += BATCH)
        ok = batch(j, s, j->seed + i, j->count - i < BATCH ? (unsigned)(j->count - i) : BATCH);
    if (ok)
        j->sh->outcome = OUT_OK;
    iso_free(s);
    free(j->a);
    free(j->b);
    fflush(stdout);
    exit(0);
}

/* ---- the parent ---- */

/* Runs the job in a child; what came of it is in j->sh. */
static void supervise(struct job *j)
{
    uint64_t seen = 0;
    unsigned still = 0;
    int status = 0;
    pid_t pid;

    memset(j->sh, 0, sizeof(*j->sh));
    fflush(stdout);
    pid = fork();
    if (!pid)
        work(j);
    while (pid > 0 && waitpid(pid, &status, WNOHANG) == 0) {
        struct timespec ts = { .tv_nsec = 20000000 };

        nanosleep(&ts, NULL);
        still = __atomic_load_n(&j->sh->done, __ATOMIC_RELAXED) == seen ? still + 1 : 0;
        seen = __atomic_load_n(&j->sh->done, __ATOMIC_RELAXED);
        if (still > HANG_SECONDS * 50U)
            kill(pid, SIGKILL);
    }
    if (j->sh->outcome != OUT_DIED && WIFEXITED(status) && (j->sh->outcome == OUT_BROKEN || !WEXITSTATUS(status)))
        return;
    j->sh->outcome = OUT_DIED;
    j->sh->culprit = j->sh->cur.seed;
    if (still > HANG_SECONDS * 50U)
        snprintf(j->sh->text, sizeof(j->sh->text), "the process hung in run");
    else if (WIFSIGNALED(status))
        snprintf(j->sh->text, sizeof(j->sh->text), "the process died of SIG%s", sigabbrev_np(WTERMSIG(status)));
    else
        snprintf(j->sh->text, sizeof(j->sh->text), "the process ended with status %d", WEXITSTATUS(status));
}

/* Runs another one, quietly; true if it ends like j. What came of it is in again->sh. */
static bool same_again(const struct job *j, struct job *again)
{
    again->ops = j->ops;
    again->sh = mmap(NULL, sizeof(struct shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (again->sh == MAP_FAILED)
        exit(2);
    supervise(again);
    return again->sh->outcome == j->sh->outcome;
}

/* Prints the case and the command that shows it again: alone if that is enough, else with what ran before it. */
static void explain(const struct opts *o, const struct job *j)
{
    struct job alone = { .seed = j->sh->culprit, .count = 1, .each = UINT64_MAX };
    struct job all = { .seed = j->seed, .count = j->sh->batch + BATCH - j->seed, .each = j->sh->batch };

    printf("# %s\n", j->sh->text);
    if (j->sh->culprit && same_again(j, &alone)) {
        iso_print(&j->sh->cur);
        printf("# again: %s --engine %s --seed %#" PRIx64 " --count 1 --verbose\n", o->argv0, j->ops->name, alone.seed);
        return;
    }
    if (same_again(j, &all) && all.sh->culprit) {
        printf("# %s\n", all.sh->text);
        iso_print(&all.sh->cur);
    }
    printf("# again, not by that case alone: %s --engine %s --seed %#" PRIx64 " --count %" PRIu64 " --each %#" PRIx64
           "\n",
           o->argv0, j->ops->name, all.seed, all.count, all.each);
}

static void statistics(const struct job *j)
{
    static const char *const name[EXIT_KINDS] = { "kicked", "pio",   "mmio",       "msr",      "tpr",   "hypercall",
                                                  "hlt",    "pause", "irq_window", "shutdown", "debug", "fatal" };

    printf("# %u canaries, guest RAM %s two of them; ends:", j->sh->canaries,
           j->sh->guarded ? "directly between" : "not directly between");
    for (unsigned k = 0; k < EXIT_KINDS; k++)
        if (j->sh->kinds[k])
            printf(" %s %" PRIu64, name[k] ? name[k] : "other", j->sh->kinds[k]);
    printf("; cut off %" PRIu64 ", not the same twice %" PRIu64 "\n", j->sh->kicked, j->sh->unsteady);
}

static const struct {
    enum iso_evil evil;
    enum outcome want;
    const char *name;
} wrong[] = {
    { EVIL_CANARY, OUT_CANARY, "a write to a canary is found" },
    { EVIL_BEHIND, OUT_CANARY, "a write behind guest RAM is found" },
    { EVIL_BEFORE, OUT_CANARY, "a write before guest RAM is found" },
    { EVIL_WORD, OUT_LEAK, "a canary's word in a register is found" },
    { EVIL_BYTE, OUT_LEAK, "a byte of a canary in a register is found" },
    { EVIL_GUEST_BYTE, OUT_LEAK, "a byte of unmapped guest memory in a register is found" },
    { EVIL_LONELY, OUT_TRESPASS, "a user's write to unmapped guest memory is found" },
    { EVIL_SUPERVISOR, OUT_TRESPASS, "a user's write to supervisor memory is found" },
    { EVIL_CRASH, OUT_DIED, "the case that kills the process is found" },
};

static int self_test(const struct job *base, unsigned *tap)
{
    int bad = 0;

    for (unsigned k = 0; k < ARRAY_LEN(wrong); k++) {
        struct job j = { .ops = base->ops,
                         .seed = 0x1000,
                         .count = SELF_TEST,
                         .each = UINT64_MAX,
                         .sh = base->sh,
                         .evil = wrong[k].evil };
        bool ok, edge = wrong[k].evil == EVIL_BEHIND || wrong[k].evil == EVIL_BEFORE;

        j.evil_seed = 0x1000 + 5 + k; /* of user mode */
        supervise(&j);
        ok = j.sh->outcome == wrong[k].want && j.sh->culprit == j.evil_seed;
        if (edge && !j.sh->guarded) {
            printf("ok %u - self-test: %s (%s) # SKIP no canary fits there\n", ++*tap, wrong[k].name, j.ops->name);
            continue;
        }
        printf("%sok %u - self-test: %s (%s)\n", ok ? "" : "not ", ++*tap, wrong[k].name, j.ops->name);
        if (!ok)
            printf("# outcome %d, seed %#" PRIx64 ", %s\n", j.sh->outcome, j.sh->culprit, j.sh->text);
        bad += !ok;
    }
    return bad;
}

static int test_engine(const struct opts *o, const struct engine_ops *ops, struct shared *sh, unsigned *tap)
{
    static const char *const claim[] = {
        [OUT_DIED] = "the process lives",
        [OUT_CANARY] = "no canary is written",
        [OUT_LEAK] = "nothing of a canary reaches the guest",
        [OUT_TRESPASS] = "user mode changes its own memory only",
        [OUT_BROKEN] = "the engine runs",
    };
    struct job j = { .ops = ops, .seed = o->seed, .count = o->count, .each = o->each, .sh = sh, .verbose = o->verbose };
    int bad = 0;

    if (o->count > SELF_TEST)
        bad = self_test(&j, tap);
    supervise(&j);
    statistics(&j);
    for (enum outcome k = 0; k < ARRAY_LEN(claim); k++)
        if (claim[k])
            printf("%sok %u - %" PRIu64 " cases: %s (%s)\n", sh->outcome == k ? "not " : "", ++*tap, o->count, claim[k],
                   ops->name);
    if (sh->outcome == OUT_OK)
        return bad;
    explain(o, &j);
    return bad + 1;
}

/* Host addresses are part of the cases: with the same ones each time, a seed is all that is needed. */
static void same_addresses(char **argv)
{
    int old = personality(0xffffffff);

    if (old == -1 || (old & ADDR_NO_RANDOMIZE))
        return;
    if (personality((unsigned long)old | ADDR_NO_RANDOMIZE) != -1)
        execv("/proc/self/exe", argv);
}

static int parse(struct opts *o, int argc, char **argv)
{
    static const struct option lo[] = {
        { "engine", 1, NULL, 'e' },  { "seed", 1, NULL, 's' },    { "count", 1, NULL, 'n' },
        { "nightly", 0, NULL, 'N' }, { "verbose", 0, NULL, 'v' }, { "list-engines", 0, NULL, 'l' },
        { "each", 1, NULL, 'E' },    { NULL, 0, NULL, 0 },
    };
    int ch;

    while ((ch = getopt_long(argc, argv, "v", lo, NULL)) != -1)
        switch (ch) {
        case 'e':
            o->engine = optarg;
            break;
        case 's':
            o->seed = strtoull(optarg, NULL, 0);
            break;
        case 'n':
            o->count = strtoull(optarg, NULL, 0);
            break;
        case 'N':
            o->count = NIGHTLY;
            if (getrandom(&o->seed, sizeof(o->seed), 0) != sizeof(o->seed))
                o->seed = (uint64_t)time(NULL);
            o->seed &= 0xffffffffff80;
            break;
        case 'E':
            o->each = strtoull(optarg, NULL, 0);
            break;
        case 'v':
            o->verbose = true;
            break;
        case 'l':
            engines_list();
            exit(0);
        default:
            fprintf(stderr, "usage: fuzz_isolation [--engine NAME] [--list-engines] [--seed S] [--count N] [--nightly] "
                            "[--each SEED] "
                            "[--verbose]\n");
            return 2;
        }
    return 0;
}

int main(int argc, char **argv)
{
    struct opts o = { .argv0 = argv[0], .seed = 0x1000, .count = COUNT, .each = UINT64_MAX };
    struct shared *sh = mmap(NULL, sizeof(*sh), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    unsigned tap = 0;
    int bad = parse(&o, argc, argv);

    if (bad || sh == MAP_FAILED)
        return 2;
    if (o.engine && !engine_find(o.engine)) {
        fprintf(stderr, "fuzz_isolation: no engine %s\n", o.engine);
        return 2;
    }
    same_addresses(argv);
    setvbuf(stdout, NULL, _IOLBF, 0);
    log_set_level(LOG_ERROR);
    printf("# seed %#" PRIx64 "\n", o.seed);
    for (unsigned i = 0; i < ARRAY_LEN(engines); i++)
        if (!o.engine)
            bad += test_engine(&o, engines[i], sh, &tap);
    if (o.engine)
        bad += test_engine(&o, engine_find(o.engine), sh, &tap);
    printf("1..%u\n", tap);
    return bad != 0;
}
