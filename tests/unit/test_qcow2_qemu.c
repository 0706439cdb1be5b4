/* SPDX-License-Identifier: MIT */
/*
 * qcow2 against QEMU: random operations by both on the same images, of all shapes; what one wrote, the other reads and
 * finds in order. Time and place of everything follow from a seed: TEST_SEED, and TEST_ROUNDS for longer runs.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "host/disk.h"
#include "host/disk_image.h"

struct shape {
    unsigned bits, version, refcount_bits;
    bool lazy, zstd;
    char base; /* 0, 'r'aw, 'q'cow2 with compressed clusters, 's': this image starts compressed */
    bool ours; /* made by disk_create, not by qemu-img */
};

static const struct shape shapes[] = {
    { .bits = 16, .version = 3, .refcount_bits = 16, .ours = true },
    { .bits = 16, .version = 3, .refcount_bits = 16, .base = 'r' },
    { .bits = 16, .version = 3, .refcount_bits = 16, .base = 'q', .ours = true },
    { .bits = 16, .version = 2, .refcount_bits = 16 },
    { .bits = 16, .version = 2, .refcount_bits = 16, .base = 'r', .ours = true },
    { .bits = 9, .version = 3, .refcount_bits = 16, .base = 'q' },
    { .bits = 9, .version = 3, .refcount_bits = 64, .ours = true },
    { .bits = 9, .version = 3, .refcount_bits = 1, .base = 'r' },
    { .bits = 10, .version = 2, .refcount_bits = 16, .base = 's' },
    { .bits = 12, .version = 3, .refcount_bits = 1, .lazy = true },
    { .bits = 12, .version = 3, .refcount_bits = 2, .base = 's' },
    { .bits = 12, .version = 3, .refcount_bits = 4, .lazy = true, .base = 'q', .ours = true },
    { .bits = 13, .version = 3, .refcount_bits = 8, .base = 's', .zstd = true },
    { .bits = 14, .version = 3, .refcount_bits = 32, .base = 'q', .zstd = true, .ours = true },
    { .bits = 16, .version = 3, .refcount_bits = 16, .lazy = true, .base = 's' },
    { .bits = 18, .version = 3, .refcount_bits = 16, .base = 'r' },
    { .bits = 21, .version = 3, .refcount_bits = 16, .base = 'q', .ours = true },
    { .bits = 21, .version = 3, .refcount_bits = 64, .lazy = true, .base = 's' },
};

enum { OURS = 80, THEIRS = 24 };

struct run {
    const struct shape *s;
    char dir[64], img[96];
    uint64_t size, seed;
    uint8_t *model, *buf;
    unsigned snapshots;
};

static uint64_t rnd(struct run *t)
{
    uint64_t x = t->seed += 0x9e3779b97f4a7c15;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return x ^ x >> 31;
}

static void sh(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void sh(const char *fmt, ...)
{
    static char cmd[8192];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(cmd, sizeof(cmd), fmt, ap);
    va_end(ap);
    int r = system(cmd);
    if (r != 0)
        fail_msg("status %d: %s", WEXITSTATUS(r), cmd);
}

static struct disk *opened(struct run *t, bool ro)
{
    struct err e = { 0 };
    struct disk_options o = { .format = "qcow2", .read_only = ro };
    struct disk *d = disk_open_with(t->img, &o, &e);
    if (!d)
        fail_msg("%s", e.text);
    return d;
}

/* A range of sectors: often small, often along clusters, sometimes long. */
static void pick(struct run *t, uint64_t *off, uint64_t *len)
{
    uint64_t c = 1UL << t->s->bits, r = rnd(t);
    *len = r % 4 == 0 ? 512 * (1 + r / 4 % 8) : r % 4 == 1 ? c * (1 + r / 4 % 4) : 512 * (1 + r / 4 % 1200);
    *off = rnd(t) % t->size & ~511UL;
    if (r >> 40 & 1)
        *off &= ~(c - 1);
    if (*len > t->size - *off)
        *len = t->size - *off;
}

static void fill(struct run *t, uint8_t *p, uint64_t len)
{
    uint64_t x = rnd(t);
    for (uint64_t i = 0; i < len; i += 8, x = x * 6364136223846793005 + 1442695040888963407)
        memcpy(p + i, &x, 8);
}

/* What discarding does to the model: whole clusters become zero, where the format can say so. */
static void model_discard(struct run *t, uint64_t off, uint64_t len)
{
    uint64_t c = 1UL << t->s->bits, first = (off + c - 1) & ~(c - 1);
    uint64_t end = off + len == t->size ? t->size : (off + len) & ~(c - 1);
    bool base = t->s->base == 'r' || t->s->base == 'q';
    if (first < end && !(t->s->version == 2 && base))
        memset(t->model + first, 0, end - first);
}

static void our_op(struct run *t, struct disk *d)
{
    uint64_t off, len, op = rnd(t) % 16;
    pick(t, &off, &len);
    struct iovec v[3] = { { t->buf, len / 3 },
                          { t->buf + len / 3, len / 3 },
                          { t->buf + len / 3 * 2, len - len / 3 * 2 } };
    if (op < 7) {
        fill(t, t->buf, len);
        assert_int_equal(disk_write(d, v, 3, off), 0);
        memcpy(t->model + off, t->buf, len);
    } else if (op < 11) {
        assert_int_equal(disk_read(d, v, 3, off), 0);
        assert_memory_equal(t->buf, t->model + off, len);
    } else if (op < 13) {
        assert_int_equal(disk_zero(d, off, len, op & 1), 0);
        memset(t->model + off, 0, len);
    } else if (op < 15) {
        assert_int_equal(disk_discard(d, off, len), 0);
        model_discard(t, off, len);
    } else {
        assert_int_equal(disk_flush(d), 0);
    }
}

static void write_model(struct run *t)
{
    char path[128];
    snprintf(path, sizeof(path), "%s/model", t->dir);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    assert_int_equal(write(fd, t->model, t->size), t->size);
    close(fd);
}

/* QEMU changes the image, and says what it holds then. */
static void their_turn(struct run *t)
{
    static char cmd[4096];
    size_t n = 0;
    bool base = t->s->base == 'r' || t->s->base == 'q';
    for (int i = 0; i < THEIRS; i++) {
        uint64_t off, len, op = rnd(t) % 8;
        pick(t, &off, &len);
        const char *what = op < 4 ? "write -P 0x5a" : op < 6 ? "write -z" : "write -z -u";
        if (op == 7 && !(t->s->version == 2 && base))
            what = "discard";
        /*
         * First of all: QEMU 7.2 goes on packing behind a compressed cluster that was freed since, into what may be an
         * L2 table by then ("write -c, write -z, write -c" with snapshots).
         */
        if (i < 6 && t->s->refcount_bits > 8) {
            what = "write -c -P 0x33";
            len = 1UL << t->s->bits;
            off &= ~(len - 1);
            if (off + len > t->size)
                continue;
        }
        n += (size_t)snprintf(cmd + n, sizeof(cmd) - n, " -c '%s %lu %lu'", what, off, len);
    }
    /* A compressed write to a cluster that has data fails there, so the status says nothing. */
    sh("qemu-io -f qcow2 %s %s >%s/io.log 2>&1; ! grep -iE 'corrupt|overlap|open' %s/io.log", cmd, t->img, t->dir,
       t->dir);
    sh("qemu-img convert -f qcow2 -O raw %s %s/model", t->img, t->dir);
    char path[128];
    snprintf(path, sizeof(path), "%s/model", t->dir);
    int fd = open(path, O_RDONLY);
    assert_int_equal(read(fd, t->model, t->size), t->size);
    close(fd);
}

static void compare_all(struct run *t, struct disk *d)
{
    struct iovec v = { t->buf, t->size };
    assert_int_equal(disk_bytes(d), t->size);
    assert_int_equal(disk_read(d, &v, 1, 0), 0);
    for (uint64_t i = 0; i < t->size; i += 512)
        if (memcmp(t->buf + i, t->model + i, 512) != 0)
            fail_msg("sector at %#lx differs", i);
}

/* The newest snapshot still holds what the disk held then, whatever was written since. */
static void check_snapshot(struct run *t)
{
    sh("qemu-img convert -f qcow2 -O raw -l snapshot.name=s%u %s %s/then", t->snapshots, t->img, t->dir);
    sh("cmp %s/s%u %s/then", t->dir, t->snapshots, t->dir);
}

static void make_image(struct run *t)
{
    const struct shape *s = t->s;
    char opts[256], back[200] = "";
    snprintf(opts, sizeof(opts), "compat=%s,cluster_size=%u%s%s", s->version == 2 ? "0.10" : "1.1", 1U << s->bits,
             s->lazy ? ",lazy_refcounts=on" : "", s->zstd ? ",compression_type=zstd" : "");
    if (s->refcount_bits != 16)
        snprintf(opts + strlen(opts), 40, ",refcount_bits=%u", s->refcount_bits);
    if (s->base) {
        /* half of it random and half zero, and shorter than the image where it is a base */
        fill(t, t->model, t->size / 4);
        fill(t, t->model + t->size / 2, t->size / 8);
        write_model(t);
    }
    if (s->base == 's') {
        sh("qemu-img convert -c -f raw -O qcow2 -o %s %s/model %s", opts, t->dir, t->img);
        return;
    }
    if (s->base) {
        sh("truncate -s %lu %s/model", t->size / 2 + 512 * 5, t->dir);
        memset(t->model + t->size / 2 + 512 * 5, 0, t->size - t->size / 2 - 512 * 5);
        sh("qemu-img convert %s -f raw -O %s %s/model %s/base", s->base == 'q' ? "-c" : "",
           s->base == 'q' ? "qcow2" : "raw", t->dir, t->dir);
        snprintf(back, sizeof(back), "-b base -F %s", s->base == 'q' ? "qcow2" : "raw");
    }
    if (!s->ours) {
        sh("qemu-img create -q -f qcow2 %s -o %s %s %lu", back, opts, t->img, t->size);
        return;
    }
    struct disk_create c = { .format = "qcow2", .bytes = t->size, .cluster_bits = s->bits, .version = s->version };
    struct err e = { 0 };
    c.refcount_bits = s->refcount_bits;
    c.lazy_refcounts = s->lazy;
    c.zstd = s->zstd;
    if (s->base) {
        c.backing = "base";
        c.backing_format = s->base == 'q' ? "qcow2" : "raw";
    }
    if (disk_create(t->img, &c, false, &e) < 0)
        fail_msg("%s", e.text);
}

static void check_ours(struct run *t)
{
    struct err e = { 0 };
    struct disk_check k = { 0 };
    if (disk_check(t->img, NULL, &k, &e) < 0)
        fail_msg("%s", e.text);
    assert_int_equal(k.errors, 0);
    assert_int_equal(k.leaks, 0);
}

static void test_shape(const struct shape *s, uint64_t seed, unsigned rounds)
{
    struct run t = { .s = s, .seed = seed, .size = (s->bits > 16 ? 12UL << 20 : 3UL << 20) + 512 * 3 };
    strcpy(t.dir, "/tmp/gazda-test-XXXXXX");
    assert_non_null(mkdtemp(t.dir));
    snprintf(t.img, sizeof(t.img), "%s/img", t.dir);
    t.model = calloc(1, t.size);
    t.buf = calloc(1, t.size);
    make_image(&t);
    for (unsigned i = 0; i < rounds; i++) {
        struct disk *d = opened(&t, false);
        compare_all(&t, d);
        for (int k = 0; k < OURS; k++)
            our_op(&t, d);
        disk_close(d);
        sh("qemu-img check -q -f qcow2 %s", t.img);
        write_model(&t);
        sh("qemu-img compare -q -f raw -F qcow2 %s/model %s", t.dir, t.img);
        check_ours(&t);
        /* Each snapshot takes a reference more than the disk. */
        bool can = s->refcount_bits > 4 || t.snapshots + 2 < 1U << s->refcount_bits;
        if (can && rnd(&t) % 2) {
            sh("qemu-img snapshot -c s%u %s", ++t.snapshots, t.img);
            sh("cp %s/model %s/s%u", t.dir, t.dir, t.snapshots);
            continue;
        }
        their_turn(&t);
        check_ours(&t);
        if (t.snapshots)
            check_snapshot(&t);
        if (t.snapshots && rnd(&t) % 2) {
            sh("qemu-img snapshot -d s%u %s", t.snapshots--, t.img);
            check_ours(&t);
        }
    }
    if (t.snapshots)
        check_snapshot(&t);
    struct disk *d = opened(&t, true);
    compare_all(&t, d);
    disk_close(d);
    sh("rm -rf %s", t.dir);
    free(t.model);
    free(t.buf);
}

static unsigned number(const char *name, unsigned otherwise)
{
    const char *s = getenv(name);
    return s ? (unsigned)strtoul(s, NULL, 0) : otherwise;
}

static void test_all(void **st)
{
    (void)st;
    unsigned seed = number("TEST_SEED", 1), rounds = number("TEST_ROUNDS", 3), only = number("TEST_SHAPE", 999);
    if (system("command -v qemu-img >/dev/null 2>&1 && command -v qemu-io >/dev/null 2>&1") != 0) {
        print_message("skipped: qemu-img and qemu-io are not installed (Debian: qemu-utils)\n");
        skip();
    }
    for (unsigned i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
        if (only != 999 && only != i)
            continue;
        print_message("shape %u, TEST_SEED=%u\n", i, seed);
        test_shape(&shapes[i], seed * 1000 + i, rounds);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_all) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
