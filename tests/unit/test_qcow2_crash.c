/* SPDX-License-Identifier: MIT */
/*
 * Power cuts while a qcow2 image is written. The program's own pwritev, fdatasync and fallocate note what is written;
 * a cut keeps what was there at the last fdatasync and any choice of the sectors written since. Each such image must
 * be in order but for leaks (with lazy refcounts: after repair), and each sector must hold what it held at the last
 * flush or something written later. A sync that fails drops some of what it should have written, and the image must not
 * pretend afterwards that all is well. TEST_SEED and TEST_ROUNDS as in test_qcow2_qemu.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/log.h"
#include "base/types.h"
#include "host/disk.h"
#include "host/disk_image.h"

enum { SECTORS = 3000, VALUES = 12, FILE_MAX = 8 << 20, CUTS = 6, PENDING = 20000 };

static struct {
    int fd; /* -1: nothing is noted */
    uint64_t seed, cut_one_in;
    uint8_t *medium; /* at the last fdatasync */
    size_t size;
    struct {
        uint64_t sector;
        uint8_t data[512];
    } * pending;
    size_t n;
    unsigned fail_in;   /* 1: the next fdatasync fails */
    uint8_t *cut[CUTS]; /* images to be looked at when the operation is over */
    size_t cut_size[CUTS];
    int cuts;
} w = { .fd = -1 };

static uint64_t rnd(void)
{
    uint64_t x = w.seed += 0x9e3779b97f4a7c15;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return x ^ x >> 31;
}

/* ---- the medium ---- */

static void put(uint8_t *image, size_t *size, size_t i)
{
    size_t at = w.pending[i].sector * 512;
    assert_true(at + 512 <= FILE_MAX);
    memcpy(image + at, w.pending[i].data, 512);
    if (at + 512 > *size)
        *size = at + 512;
}

static void cut(void)
{
    if (w.cuts == CUTS)
        return;
    uint8_t *image = w.cut[w.cuts];
    uint64_t how = rnd() % 4; /* all of it is as good a choice */
    w.cut_size[w.cuts] = w.size;
    memcpy(image, w.medium, FILE_MAX);
    for (size_t i = 0; i < w.n; i++)
        if (how == 0 || rnd() % 4 >= how)
            put(image, &w.cut_size[w.cuts], i);
    w.cuts++;
}

static void note(const uint8_t *data, uint64_t off, size_t len)
{
    assert_true(off % 512 == 0 || len < 512);
    while (len) {
        size_t in = off % 512, k = 512 - in < len ? 512 - in : len;
        assert_true(w.n < PENDING);
        w.pending[w.n].sector = off / 512;
        if (k < 512) { /* a few bytes of a header or a table: the rest as the file has it now */
            memset(w.pending[w.n].data, 0, 512);
            if (syscall(SYS_pread64, w.fd, w.pending[w.n].data, 512, off - in) < 0)
                fail();
        }
        if (data)
            memcpy(w.pending[w.n].data + in, data, k);
        else
            memset(w.pending[w.n].data + in, 0, k);
        w.n++;
        off += k;
        len -= k;
        if (data)
            data += k;
    }
    if (rnd() % w.cut_one_in == 0)
        cut();
}

ssize_t pwritev(int fd, const struct iovec *iov, int n, off_t off)
{
    ssize_t r = syscall(SYS_pwritev, fd, iov, n, off, 0);
    for (int i = 0; fd == w.fd && i < n && r > 0; i++) {
        note(iov[i].iov_base, (uint64_t)off, iov[i].iov_len);
        off += (off_t)iov[i].iov_len;
    }
    return r;
}

int fdatasync(int fd)
{
    if (fd != w.fd)
        return 0;
    if (rnd() % 3 == 0)
        cut();
    bool fails = w.fail_in && --w.fail_in == 0;
    for (size_t i = 0; i < w.n; i++)
        if (!fails || rnd() % 2)
            put(w.medium, &w.size, i);
    w.n = 0;
    errno = EIO;
    return fails ? -1 : 0;
}

int fallocate(int fd, int mode, off_t off, off_t len)
{
    int r = (int)syscall(SYS_fallocate, fd, mode, off, len);
    if (fd == w.fd && r == 0)
        note(NULL, (uint64_t)off, (size_t)len);
    return r;
}

/* ---- the model ---- */

struct shape {
    unsigned bits, refcount_bits, version;
    bool lazy, base, compress;
};

static const struct shape shapes[] = {
    { .bits = 16 },
    { .bits = 12, .base = true, .compress = true },
    { .bits = 9, .refcount_bits = 64 },
    { .bits = 9, .refcount_bits = 1, .base = true },
    { .bits = 12, .lazy = true, .base = true },
    { .bits = 9, .version = 2, .base = true },
};

struct run {
    const struct shape *s;
    char dir[64], img[96], cut[96];
    uint32_t value[SECTORS][VALUES]; /* the first is the one it had at the last flush, the last the one it has */
    unsigned n[SECTORS];
    uint32_t next;
    uint64_t cuts;
};

static void fill(uint8_t *p, uint32_t v)
{
    for (int i = 0; i < 512; i += 4)
        memcpy(p + i, &v, 4);
}

static void flushed(struct run *t)
{
    for (int i = 0; i < SECTORS; i++) {
        t->value[i][0] = t->value[i][t->n[i] - 1];
        t->n[i] = 1;
    }
}

static void check_values(struct run *t, struct disk *d)
{
    static uint8_t buf[SECTORS * 512];
    uint64_t bytes = disk_bytes(d); /* the image may not have grown yet */
    struct iovec v = { buf, bytes };
    memset(buf, 0, sizeof(buf));
    assert_true(bytes == SECTORS * 512 || bytes == SECTORS * 256);
    assert_int_equal(disk_read(d, &v, 1, 0), 0);
    for (unsigned i = 0; i < bytes / 512; i++) {
        uint8_t want[512];
        unsigned k = 0;
        for (; k < t->n[i]; k++) {
            fill(want, t->value[i][k]);
            if (memcmp(want, buf + i * 512, 512) == 0)
                break;
        }
        if (k == t->n[i])
            fail_msg("cut %lu: sector %u has %02x%02x%02x%02x, not one of its %u values (last %08x)", t->cuts, i,
                     buf[i * 512 + 3], buf[i * 512 + 2], buf[i * 512 + 1], buf[i * 512], k, t->value[i][k - 1]);
    }
}

static void say(void *ctx, const char *text)
{
    (void)ctx;
    print_message("%s\n", text);
}

static void check_cut(struct run *t, const uint8_t *image, size_t size)
{
    struct err e = { 0 };
    struct disk_check k = { .say = t->s->lazy ? NULL : say };
    struct disk_options o = { .format = "qcow2", .read_only = !t->s->lazy };
    int fd = open(t->cut, O_RDWR | O_CREAT | O_TRUNC, 0600);
    t->cuts++;
    k.say = NULL;
    for (size_t at = 0; at < size; at += 65536)
        if (memcmp(image + at, image + FILE_MAX, 65536) != 0)
            assert_true(pwrite(fd, image + at, size - at < 65536 ? size - at : 65536, (off_t)at) > 0);
    assert_int_equal(ftruncate(fd, (off_t)size), 0);
    close(fd);
    struct disk *d = t->s->lazy ? disk_open_with(t->cut, &o, &e) : NULL; /* repairs it */
    disk_close(d);
    if (disk_check(t->cut, "qcow2", &k, &e) < 0)
        fail_msg("cut %lu: %s", t->cuts, e.text);
    if (k.errors) {
        k.say = say;
        disk_check(t->cut, "qcow2", &k, &e);
        fail_msg("cut %lu: %lu errors", t->cuts, k.errors);
    }
    o.read_only = true;
    d = disk_open_with(t->cut, &o, &e);
    if (!d)
        fail_msg("cut %lu: %s", t->cuts, e.text);
    check_values(t, d);
    disk_close(d);
}

static void check_cuts(struct run *t)
{
    int fd = w.fd;
    w.fd = -1;
    for (int i = 0; i < w.cuts; i++)
        check_cut(t, w.cut[i], w.cut_size[i]);
    w.cuts = 0;
    w.fd = fd;
}

/* ---- operations ---- */

static void may_become(struct run *t, struct disk *d, unsigned first, unsigned n, bool zero)
{
    for (unsigned i = first; i < first + n; i++) {
        if (t->n[i] == VALUES) {
            assert_int_equal(disk_flush(d), 0);
            check_cuts(t);
            flushed(t);
        }
    }
    for (unsigned i = first; i < first + n; i++)
        t->value[i][t->n[i]++] = zero ? 0 : ++t->next;
}

static void operation(struct run *t, struct disk *d)
{
    static uint8_t buf[SECTORS * 512];
    unsigned first = (unsigned)(rnd() % SECTORS), n = 1 + (unsigned)(rnd() % (rnd() % 4 ? 16 : 300));
    unsigned per = 1U << (t->s->bits - 9);
    if (n > SECTORS - first)
        n = SECTORS - first;
    struct iovec v = { buf, n * 512 };
    switch (rnd() % 12) {
    case 0:
        assert_int_equal(disk_flush(d), 0);
        check_cuts(t);
        flushed(t);
        return;
    case 1:
    case 2:
        may_become(t, d, first, n, true);
        assert_int_equal(disk_zero(d, first * 512UL, n * 512UL, rnd() & 1), 0);
        break;
    case 3:
    case 4:
        first -= first % per;
        n = (n + per - 1) / per * per;
        if (n > SECTORS - first)
            n = SECTORS - first; /* the disk's end: whole as well */
        if (t->s->version != 2)
            may_become(t, d, first, n, true);
        assert_int_equal(disk_discard(d, first * 512UL, n * 512UL), 0);
        break;
    case 5:
        first -= first % per;
        if (t->s->compress && first + per <= SECTORS) {
            may_become(t, d, first, per, false);
            for (unsigned i = 0; i < per; i++)
                fill(buf + i * 512, t->value[first + i][t->n[first + i] - 1]);
            assert_int_equal(disk_write_compressed(d, buf, per * 512UL, first * 512UL), 0);
        }
        break;
    default:
        may_become(t, d, first, n, false);
        for (unsigned i = 0; i < n; i++)
            fill(buf + i * 512, t->value[first + i][t->n[first + i] - 1]);
        assert_int_equal(disk_write(d, &v, 1, first * 512UL), 0);
    }
    check_cuts(t);
}

static void begin(struct run *t, const struct shape *s)
{
    struct err e = { 0 };
    struct disk_create c = { .format = "qcow2", .bytes = SECTORS * 256, .cluster_bits = s->bits };
    char base[96];
    uint8_t sector[512];
    t->s = s;
    strcpy(t->dir, "/tmp/gazda-test-XXXXXX");
    assert_non_null(mkdtemp(t->dir));
    snprintf(t->img, sizeof(t->img), "%s/img", t->dir);
    snprintf(t->cut, sizeof(t->cut), "%s/cut", t->dir);
    snprintf(base, sizeof(base), "%s/base", t->dir);
    int fd = open(base, O_RDWR | O_CREAT, 0600);
    for (unsigned i = 0; i < SECTORS; i++) {
        t->n[i] = 1;
        t->value[i][0] = s->base && i < SECTORS / 3 ? ++t->next : 0;
        fill(sector, t->value[i][0]);
        if (i < SECTORS / 3)
            assert_int_equal(write(fd, sector, 512), 512);
    }
    close(fd);
    c.refcount_bits = s->refcount_bits;
    c.version = s->version;
    c.lazy_refcounts = s->lazy;
    c.backing = s->base ? "base" : NULL;
    c.backing_format = "raw";
    if (disk_create(t->img, &c, false, &e) < 0)
        fail_msg("%s", e.text);
}

/* The medium is the image as it is now. A descriptor that is open meanwhile. */
static int note_begin(struct run *t, const struct shape *s)
{
    begin(t, s);
    memset(w.medium, 0, FILE_MAX);
    w.n = 0;
    int fd = open(t->img, O_RDWR);
    w.size = (size_t)read(fd, w.medium, FILE_MAX);
    return fd;
}

static void note_end(struct run *t, int fd)
{
    char cmd[128];
    close(fd);
    snprintf(cmd, sizeof(cmd), "rm -r %s", t->dir);
    assert_int_equal(system(cmd), 0);
    free(t);
}

static struct disk *open_noted(struct run *t, int fd, bool first)
{
    struct err e = { 0 };
    struct disk_options o = { .format = "qcow2" };
    struct disk *d = disk_open_with(t->img, &o, &e);
    if (!d)
        fail_msg("%s", e.text);
    w.fd = fd + 1; /* what disk_open got, since the smallest is taken */
    if (first && disk_resize(d, SECTORS * 512, &e) < 0)
        fail_msg("%s", e.text);
    check_cuts(t);
    return d;
}

static void test_shape(const struct shape *s, unsigned rounds)
{
    struct run *t = calloc(1, sizeof(*t));
    struct err e = { 0 };
    int fd = note_begin(t, s);
    for (unsigned i = 0; i < rounds; i++) {
        struct disk *d = open_noted(t, fd, i == 0);
        for (unsigned k = 0; k < 40; k++)
            operation(t, d);
        check_values(t, d);
        disk_close(d);
        check_cuts(t);
        w.fd = -1;
        struct disk_check k = { .say = say };
        assert_int_equal(disk_check(t->img, "qcow2", &k, &e), 0);
        assert_int_equal(k.errors + k.leaks, 0);
    }
    print_message("clusters of %u bytes: %lu cuts\n", 1U << s->bits, t->cuts);
    assert_true(t->cuts > rounds);
    note_end(t, fd);
}

/* The kernel tells of pages that it could not write once, and forgets them: the next sync would succeed. */
static void test_sync_fails(const struct shape *s, unsigned which)
{
    struct run *t = calloc(1, sizeof(*t));
    static uint8_t buf[512];
    struct iovec v = { buf, sizeof(buf) };
    int fd = note_begin(t, s);
    struct disk *d = open_noted(t, fd, true);
    for (unsigned k = 0; k < 20; k++)
        operation(t, d);
    assert_int_equal(disk_flush(d), 0);
    check_cuts(t);
    flushed(t);
    for (unsigned k = 0; k < 4; k++) {
        may_become(t, d, 700 * k, 1, false);
        fill(buf, t->value[700 * k][t->n[700 * k] - 1]);
        assert_int_equal(disk_write(d, &v, 1, 700 * k * 512UL), 0);
    }
    w.fail_in = which;
    int r = disk_flush(d);
    assert_int_equal(r, w.fail_in ? 0 : -EIO);
    if (r < 0) {
        assert_int_equal(disk_flush(d), -EIO);
        assert_true(disk_write(d, &v, 1, 0) < 0);
        assert_int_equal(disk_flush(d), -EIO);
        assert_int_equal(disk_read(d, &v, 1, 0), 0);
    }
    w.fail_in = 0;
    disk_close(d);
    check_cuts(t);
    w.fd = -1;
    if (r < 0)
        check_cut(t, w.medium, w.size);
    note_end(t, fd);
}

static unsigned number(const char *name, unsigned otherwise)
{
    const char *s = getenv(name);
    return s ? (unsigned)strtoul(s, NULL, 0) : otherwise;
}

static int setup(void **st)
{
    (void)st;
    w.seed = number("TEST_SEED", 1);
    w.cut_one_in = 12;
    w.medium = calloc(1, FILE_MAX + 65536); /* and zeroes to compare with */
    w.pending = calloc(PENDING, sizeof(w.pending[0]));
    for (int i = 0; i < CUTS; i++)
        w.cut[i] = calloc(1, FILE_MAX + 65536);
    return 0;
}
static int teardown(void **st)
{
    (void)st;
    for (int i = 0; i < CUTS; i++)
        free(w.cut[i]);
    free(w.medium);
    free(w.pending);
    return 0;
}

static void test_cuts(void **st)
{
    (void)st;
    log_set_level(LOG_ERROR); /* every repair warns */
    for (unsigned i = 0; i < ARRAY_LEN(shapes); i++)
        test_shape(&shapes[i], number("TEST_ROUNDS", 3));
}

static void test_failures(void **st)
{
    (void)st;
    for (unsigned i = 0; i < ARRAY_LEN(shapes); i++)
        for (unsigned k = 0; k < 2 * number("TEST_ROUNDS", 3); k++)
            test_sync_fails(&shapes[i], 1 + k % 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_cuts, setup, teardown),
        cmocka_unit_test_setup_teardown(test_failures, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
