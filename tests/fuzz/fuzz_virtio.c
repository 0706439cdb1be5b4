/* SPDX-License-Identifier: MIT */
/*
 * Hostile virtio drivers. The input is a program: memory contents, register accesses, resets, state loads, against a
 * device of virtio_targets.c; nothing it does may crash, hang or touch memory that is not the guest's.
 * fuzz_one is the body for any fuzzer; main replays files, or makes and runs CASES programs that start from a sane
 * driver and go wrong; or, with --order, finds out whether a case leaves something for the next one.
 *
 *   fuzz_virtio [--list-targets] [--target NAME] [--seed N] [--cases N] [--order] [FILE|DIRECTORY...]     prints TAP
 */
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "mem/internal.h"
#include "state/state.h"
#include "virtio_targets.h"

enum { CASES = 2200, ORDER_CASES = 330, LEN_MAX = 8192, HANG_SECONDS = 300 };
enum { OP_START, OP_REG, OP_CONFIG, OP_DESC, OP_AVAIL, OP_MEM, OP_KICK, OP_RESET, OP_STATE, OP_INPUT, OP_USED, OPS };

int fuzz_one(const uint8_t *data, size_t n);

/* In place of the C library's: nothing here need survive the host, and a case must not wait for its disk. */
int fdatasync(int fd)
{
    return fcntl(fd, F_GETFD) < 0 ? -1 : 0;
}

struct input {
    const uint8_t *p;
    size_t n;
};

static uint64_t take(struct input *in, unsigned bytes)
{
    uint64_t x = 0;
    for (unsigned i = 0; i < bytes && in->n; i++, in->p++, in->n--)
        x |= (uint64_t)*in->p << (8 * i);
    return x;
}

struct rig {
    struct drv d;
    const struct virtio_target *target;
    void *back;
};

static const struct virtio_target *only; /* --target */

/* From case to case, for they cost more than a case: memory, zero again, and workers, all asleep. */
static struct mem *memory;
static struct pool *workers;
/* One worker, and the driver waits for the device after each step: what is done, and what the answers are, is the same
 * each time. */
static bool in_order;

/*
 * What was freed is kept from reuse for as long as it takes to run a few cases, not for thousands, so that it is still
 * in the host's caches.
 */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "quarantine_size_mb=8:thread_local_quarantine_size_kb=64";
}

static void check(bool ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "fuzz_virtio: %s\n", what);
    abort();
}

/* For whoever reads of its death. */
static struct {
    const char *target, *file;
    uint64_t seed;
    bool told;
} running;

static void tell(void)
{
    if (running.told || !running.target)
        return;
    running.told = true;
    if (running.file)
        dprintf(STDERR_FILENO, "# %s, target %s\n", running.file, running.target);
    else
        dprintf(STDERR_FILENO, "# --target %s --seed %lu --cases 1\n", running.target, (unsigned long)running.seed);
}

static void on_signal(int sig)
{
    tell();
    raise(sig); /* which SA_RESETHAND has made the end */
}

void __sanitizer_set_death_callback(void (*fn)(void)) __attribute__((weak));

static void tell_at_death(void)
{
    const struct sigaction a = { .sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND };
    sigaction(SIGABRT, &a, NULL);
    sigaction(SIGALRM, &a, NULL);
    if (__sanitizer_set_death_callback)
        __sanitizer_set_death_callback(tell);
}

static void drop_memory(void)
{
    pool_free(workers);
    mem_free(memory);
    workers = NULL;
    memory = NULL;
}

/* As mem_reset does, but without giving host memory back, which takes longer than most cases. */
static void clean_memory(void)
{
    for (uint64_t f = 0; f < memory->frames; f++) {
        if (memory->state[f] == MEM_ABSENT)
            continue;
        check(memory->pins[f] == 0, "a page is pinned after the device's end");
        memset(memory->base + (f << PAGE_SHIFT), 0, PAGE_SIZE);
        memory->state[f] = MEM_ABSENT;
    }
    memory->private_frames = 0;
}

/* An address near something interesting, or anywhere. */
static uint64_t address(struct input *in)
{
    uint8_t how = (uint8_t)take(in, 1);
    uint64_t x = take(in, how & 0x80 ? 8 : 2);
    switch (how % 8) {
    case 0:
        return DRV_RAM - x % 64;
    case 1:
        return drv_desc_at(0) + x;
    case 2:
        return MEM_GAP_START - x % 64;
    case 3:
        return UINT64_MAX - x % 64;
    default:
        return DRV_DATA + x;
    }
}

static void op_state(struct rig *r, struct input *in)
{
    struct state_out out = { 0 };
    virtio_mmio_ops.save(r->d.v, &out);
    for (unsigned k = (unsigned)take(in, 1) % 4; k && out.len; k--) {
        size_t at = take(in, 2) % out.len;
        out.buf[at] = (uint8_t)take(in, 1);
    }
    struct state_in s = { .buf = out.buf, .len = out.len };
    virtio_mmio_ops.load(r->d.v, &s, 1);
    state_out_free(&out);
}

static void op_input(struct rig *r, struct input *in)
{
    uint8_t buf[64];
    size_t n = take(in, 1) % sizeof(buf);
    for (size_t k = 0; k < n; k++)
        buf[k] = (uint8_t)take(in, 1);
    if (r->target->input)
        r->target->input(r->back, buf, n);
}

static void op_mem(struct rig *r, struct input *in)
{
    uint8_t buf[64];
    gpa_t at = address(in);
    size_t n = take(in, 1) % sizeof(buf);
    for (size_t i = 0; i < n; i++)
        buf[i] = (uint8_t)take(in, 1);
    mem_write(r->d.mem, at, buf, n);
}

static void op_register(struct rig *r, struct input *in, uint64_t base)
{
    unsigned len = 1U << take(in, 1) % 4;
    uint64_t off = base + take(in, 1) * (base ? 1 : 4), val = take(in, 4), x = 0;
    if (off > VIRTIO_MMIO_LEN - 8)
        return;
    if (!base)
        len = 4;
    virtio_mmio_ops.write(r->d.v, off, &val, len);
    virtio_mmio_ops.read(r->d.v, off, &x, len);
}

static void step(struct rig *r, struct input *in)
{
    struct drv *d = &r->d;
    unsigned op = (unsigned)take(in, 1) % OPS, q = (unsigned)take(in, 1) % r->d.v->n_queues;
    switch (op) {
    case OP_START:
        drv_start(d, take(in, 8) & drv_offered(d));
        break;
    case OP_REG:
        op_register(r, in, 0);
        break;
    case OP_CONFIG:
        op_register(r, in, 0x100);
        break;
    case OP_DESC: {
        struct drv_desc x = { .addr = address(in) };
        unsigned i = (unsigned)take(in, 1) % DRV_QSIZE;
        x.len = (uint32_t)take(in, 2) << take(in, 1) % 17;
        x.flags = (uint16_t)(take(in, 1) % 8);
        x.next = (uint16_t)(take(in, 1) % (DRV_QSIZE + 1));
        drv_desc(d, q, i, x);
        break;
    }
    case OP_AVAIL:
        drv_add(d, q, (uint16_t)(take(in, 1) % (DRV_QSIZE + 1)));
        break;
    case OP_MEM:
        op_mem(r, in);
        break;
    case OP_KICK:
        drv_kick(d, q);
        break;
    case OP_RESET:
        virtio_mmio_ops.reset(d->v);
        break;
    case OP_STATE:
        op_state(r, in);
        break;
    case OP_INPUT:
        op_input(r, in);
        break;
    default:
        drv_ack(d);
        while (drv_used(d, q, NULL) >= 0 && take(in, 1) % 8)
            ;
    }
}

static const struct virtio_target *target_of(uint8_t first)
{
    return only ? only : virtio_targets[first % virtio_target_count()];
}

static uint64_t hash(uint64_t h, const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        h = (h ^ p[i]) * 0x100000001b3;
    return h;
}

/* Of all that the driver sees in the end. */
static uint64_t digest(struct rig *r)
{
    uint64_t h = drv_get(&r->d, 0x70) ^ (uint64_t)atomic_load(&r->d.edges) << 32;
    for (uint64_t f = 0; f < memory->frames; f++)
        if (memory->state[f] != MEM_ABSENT)
            h = hash(h ^ f, memory->base + (f << PAGE_SHIFT), PAGE_SIZE);
    return h;
}

static uint64_t run(const uint8_t *data, size_t n)
{
    struct input in = { data, n };
    struct rig *r = calloc(1, sizeof(*r));
    if (!memory) {
        memory = mem_new(DRV_RAM, NULL);
        workers = pool_new(in_order ? 1 : 2);
    }
    const struct virtio_env env = drv_on(&r->d, memory, workers);
    r->target = target_of((uint8_t)take(&in, 1));
    unsigned how = (unsigned)take(&in, 1);
    running.target = r->target->name;
    alarm(HANG_SECONDS); /* a hang must not pass for work */
    r->back = r->target->open(&r->d, &env, how >> 1);
    drv_start(&r->d, how & 1 ? drv_offered(&r->d) : VIRTIO_F_INDIRECT_DESC);
    while (in.n) {
        step(r, &in);
        if (in_order)
            drv_quiet(&r->d);
    }
    drv_quiet(&r->d); /* it comes to rest */
    uint64_t h = in_order ? digest(r) : 0;
    drv_off(&r->d);
    r->target->close(r->back);
    free(r);
    clean_memory();
    return h;
}

int fuzz_one(const uint8_t *data, size_t n)
{
    run(data, n);
    return 0;
}

/* ---- replay ---- */

static uint64_t rnd(uint64_t *seed)
{
    uint64_t x = *seed += 0x9e3779b97f4a7c15;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return x ^ x >> 31;
}

struct program {
    uint8_t b[LEN_MAX];
    size_t n;
};

static void emit(struct program *p, uint64_t x, unsigned bytes)
{
    for (unsigned i = 0; i < bytes && p->n < LEN_MAX; i++)
        p->b[p->n++] = (uint8_t)(i < 8 ? x >> (8 * i) : 0);
}

/* A request that makes sense in most of its parts, so that the device gets deep into it. */
static void emit_request(struct program *p, uint64_t *seed)
{
    uint64_t x = rnd(seed);
    unsigned q = x & 1 ? (unsigned)(x >> 12 & 7) : 0, parts = 2 + (x >> 1) % 4;
    emit(p, OP_MEM | q << 8 | 4U << 16, 3); /* a header at DRV_DATA */
    emit(p, 0, 2);
    emit(p, 16, 1);
    static const uint8_t types[] = { 0, 1, 4, 8, 11, 13, 0, 1, 2, 255 };
    emit(p, types[(x >> 8) % sizeof(types)], 8);
    emit(p, x >> 16 & 7 ? x >> 20 & 0x7ff : rnd(seed), 8);
    for (unsigned i = 0; i < parts; i++) {
        uint64_t y = rnd(seed);
        emit(p, OP_DESC | q << 8, 2);
        emit(p, y % 16 ? 4 : y >> 8, 1);
        emit(p, i ? y >> 16 & 0xfe00 : 0, 2);
        emit(p, i, 1);
        emit(p, i == 0 ? 16 : i == parts - 1 ? 1 : y >> 36 & 7 ? (y >> 32 & 7) * 512 : 16, 2);
        emit(p, y >> 40 & 31 ? 0 : y >> 44, 1);
        unsigned w = i && (i == parts - 1 || !(x >> 8 & 1)) ? D_WRITE : 0U;
        emit(p, w | (i + 1 < parts ? D_NEXT : 0U) | (y >> 50 & 31 ? 0 : D_INDIRECT), 1);
        emit(p, y >> 56 & 31 ? i + 1 : y >> 48, 1);
    }
    emit(p, OP_AVAIL | q << 8, 3);
    emit(p, OP_KICK | q << 8, 2);
}

/* Buffers for the messages of a multiport console, and a message of its driver. */
static void emit_control(struct program *p, uint64_t *seed)
{
    static const uint8_t events[] = { 0, 3, 3, 6, 6, 3, 7, 0 };
    uint64_t x = rnd(seed), id = x & 15 ? x >> 4 & 3 : x, event = x & 0x70 ? events[x >> 8 & 7] : x >> 8;
    for (unsigned q = 2; q <= 3; q++) {
        emit(p, OP_MEM | q << 8 | 4U << 16, 5); /* at DRV_DATA */
        emit(p, 8, 1);
        emit(p, (id & 0xffffffff) | (event & 0xffff) << 32 | (x >> 40 & 7 ? 1UL : x >> 48) << 48, 8);
        emit(p, OP_DESC | q << 8 | 4U << 16, 5);
        emit(p, x >> 44 & 7 ? q : x >> 52 & 15, 1);
        emit(p, q == 2 ? 24 : 8, 2);
        emit(p, 0, 1);
        emit(p, q == 2 ? D_WRITE : 0, 2);
        emit(p, OP_AVAIL | q << 8, 2);
        emit(p, x >> 44 & 7 ? q : x >> 52 & 15, 1);
        emit(p, OP_KICK | q << 8, 2);
    }
}

/* The longest input that op_input takes. */
static void emit_input(struct program *p, uint64_t *seed)
{
    emit(p, OP_INPUT, 2);
    emit(p, 63, 1);
    for (unsigned i = 0; i < 63; i++)
        emit(p, rnd(seed), 1);
}

static void make(struct program *p, uint64_t seed)
{
    bool control = target_of((uint8_t)seed)->control;
    p->n = 0;
    emit(p, seed, 1);
    emit(p, rnd(&seed), 1);
    size_t want = 64 + rnd(&seed) % 2000;
    while (p->n < want) {
        if (control && rnd(&seed) % 2)
            emit_control(p, &seed);
        else if (rnd(&seed) % 3)
            emit_request(p, &seed);
        else
            for (unsigned k = 1 + rnd(&seed) % 4; k; k--)
                emit(p, rnd(&seed), 8);
        if (rnd(&seed) % 8 == 0)
            emit_input(p, &seed);
        if (rnd(&seed) % 4 == 0) /* what came before has mostly made the device wait for its reset */
            emit(p, OP_START | rnd(&seed) << 16, 10);
    }
    for (unsigned k = (unsigned)(rnd(&seed) % 4); k; k--)
        p->b[rnd(&seed) % p->n] ^= (uint8_t)(1U << rnd(&seed) % 8);
}

static const struct virtio_target *find_target(const char *name)
{
    for (unsigned i = 0; i < virtio_target_count(); i++)
        if (strcmp(virtio_targets[i]->name, name) == 0)
            return virtio_targets[i];
    return NULL;
}

static int replay(const char *path);

/* What is in a directory with the name of a target is for that target. */
static int replay_all(const char *path)
{
    const struct virtio_target *outer = only, *here = find_target(strrchr(path, '/') ? strrchr(path, '/') + 1 : path);
    DIR *dir = opendir(path);
    int bad = !dir;
    if (here)
        only = here;
    for (struct dirent *e; dir && (e = readdir(dir));) {
        char name[1024];
        snprintf(name, sizeof(name), "%s/%s", path, e->d_name);
        if (e->d_name[0] != '.')
            bad |= replay(name);
    }
    if (dir)
        closedir(dir);
    only = outer;
    return bad;
}

static int replay(const char *path)
{
    struct stat st;
    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode))
        return replay_all(path);
    running.file = path;
    int fd = open(path, O_RDONLY);
    uint8_t *b = malloc(1 << 20);
    ssize_t n = fd < 0 ? -1 : read(fd, b, 1 << 20);
    if (n >= 0)
        fuzz_one(b, (size_t)n);
    free(b);
    if (fd >= 0)
        close(fd);
    return n < 0;
}

static const struct virtio_target *named(const char *name)
{
    const struct virtio_target *t = find_target(name);
    if (t)
        return t;
    fprintf(stderr, "fuzz_virtio: no target \"%s\"\n", name);
    exit(2);
}

static int list_targets(void)
{
    for (unsigned i = 0; i < virtio_target_count(); i++)
        puts(virtio_targets[i]->name);
    return 0;
}

static unsigned run_cases(uint64_t seed, unsigned cases)
{
    static struct program p;
    for (unsigned i = 0; i < cases; i++) {
        running.seed = seed + i;
        make(&p, seed + i);
        fuzz_one(p.b, p.n);
    }
    printf("1..1\nok 1 - %u hostile drivers from seed %lu\n", cases, (unsigned long)seed);
    return 0;
}

/* A case does the same whatever was run before it: forwards, backwards and on fresh memory. */
static unsigned check_order(uint64_t seed, unsigned n)
{
    static struct program p;
    uint64_t *first = calloc(n, sizeof(*first));
    unsigned bad = 0, compared = 0;
    in_order = true;
    for (unsigned i = 0; i < 3 * n; i++) {
        unsigned k = i / n == 1 ? 2 * n - 1 - i : i % n;
        running.seed = seed + k;
        make(&p, seed + k);
        if (target_of(p.b[0])->unordered)
            continue;
        if (i >= 2 * n)
            drop_memory();
        uint64_t h = run(p.b, p.n);
        if (i < n)
            first[k] = h;
        compared += i >= n;
        if (first[k] == h)
            continue;
        printf("# seed %lu, %s: another result in round %u\n", (unsigned long)(seed + k), target_of(p.b[0])->name,
               i / n);
        bad++;
    }
    free(first);
    if (compared)
        printf("1..1\n%sok 1 - %u cases do the same after others\n", bad ? "not " : "", compared);
    else
        printf("1..0 # skip this device's answers have no order\n");
    return bad;
}

int main(int argc, char **argv)
{
    uint64_t seed = 1;
    unsigned cases = 0, files = 0, bad = 0;
    bool order = false;
    log_set_level(LOG_ERROR);
    tell_at_death();
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc)
            seed = strtoull(argv[++i], NULL, 0);
        else if (strcmp(argv[i], "--cases") == 0 && i + 1 < argc)
            cases = (unsigned)strtoul(argv[++i], NULL, 0);
        else if (strcmp(argv[i], "--target") == 0 && i + 1 < argc)
            only = named(argv[++i]);
        else if (strcmp(argv[i], "--order") == 0)
            order = true;
        else if (strcmp(argv[i], "--list-targets") == 0)
            return list_targets();
        else {
            files++;
            bad += (unsigned)replay(argv[i]);
        }
    }
    if (files)
        printf("1..1\n%sok 1 - replayed\n", bad ? "not " : "");
    else
        bad = order ? check_order(seed, cases ? cases : ORDER_CASES) : run_cases(seed, cases ? cases : CASES);
    for (unsigned i = 0; i < virtio_target_count(); i++)
        if (virtio_targets[i]->end)
            virtio_targets[i]->end();
    drop_memory();
    return bad != 0;
}
