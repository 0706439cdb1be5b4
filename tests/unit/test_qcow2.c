/* SPDX-License-Identifier: MIT */
/* qcow2 images by themselves: what is refused and why, many threads, trust in formats, overlays, growing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host/disk.h"
#include "host/disk_image.h"
#include "host/qcow2_image.h"

#define MIB (1UL << 20)

struct dir {
    char name[64], img[96], base[96];
};

static int setup(void **st)
{
    struct dir *g = calloc(1, sizeof(*g));
    strcpy(g->name, "/tmp/gazda-test-XXXXXX");
    assert_non_null(mkdtemp(g->name));
    snprintf(g->img, sizeof(g->img), "%s/img", g->name);
    snprintf(g->base, sizeof(g->base), "%s/base", g->name);
    *st = g;
    return 0;
}

static int teardown(void **st)
{
    char cmd[100];
    struct dir *g = *st;
    snprintf(cmd, sizeof(cmd), "rm -r %s", g->name);
    int r = system(cmd);
    free(g);
    return r;
}

static void create(const char *path, struct disk_create c)
{
    struct err e = { 0 };
    if (!c.format)
        c.format = "qcow2";
    if (disk_create(path, &c, true, &e) < 0)
        fail_msg("%s", e.text);
}

static struct disk *opened(const char *path, struct disk_options o)
{
    struct err e = { 0 };
    struct disk *d = disk_open_with(path, &o, &e);
    if (!d)
        fail_msg("%s", e.text);
    return d;
}

static void refused(const char *path, struct disk_options o, const char *why)
{
    struct err e = { 0 };
    struct disk *d = disk_open_with(path, &o, &e);
    if (d)
        fail_msg("opened in spite of '%s'", why);
    if (!strstr(e.text, why))
        fail_msg("'%s' does not say '%s'", e.text, why);
}

static const struct disk_options as_qcow2 = { .format = "qcow2" }, as_guess = { 0 };
static const struct disk_options ro_qcow2 = { .format = "qcow2", .read_only = true };

static void poke(const char *path, off_t at, uint64_t v, int bytes)
{
    uint8_t b[8];
    for (int i = bytes; i--; v >>= 8)
        b[i] = (uint8_t)v;
    int fd = open(path, O_RDWR);
    assert_int_equal(pwrite(fd, b, (size_t)bytes, at), bytes);
    close(fd);
}

static int put(struct disk *d, const void *p, uint64_t len, uint64_t off)
{
    struct iovec v = { (void *)(uintptr_t)p, len };
    return disk_write(d, &v, 1, off);
}

static int get(struct disk *d, void *p, uint64_t len, uint64_t off)
{
    struct iovec v = { p, len };
    return disk_read(d, &v, 1, off);
}

static void in_order(const char *path)
{
    struct disk_check k = { 0 };
    struct err e = { 0 };
    if (disk_check(path, "qcow2", &k, &e) < 0)
        fail_msg("%s", e.text);
    assert_int_equal(k.errors + k.leaks, 0);
}

/* ---- headers ---- */

static void test_headers(void **st)
{
    const struct dir *g = *st;
    static const struct {
        off_t at;
        uint64_t v;
        int bytes;
        const char *why;
    } bad[] = {
        { 0, 0, 4, "not in qcow2 format" },
        { 4, 1, 4, "version 1" },
        { 4, 4, 4, "version 4" },
        { 8, 60, 8, "length of the backing file's name" },
        { 20, 8, 4, "cluster_bits" },
        { 20, 22, 4, "cluster_bits" },
        { 24, 1UL << 63, 8, "size" },
        { 24, 1UL << 40, 8, "L1 entries" },
        { 32, 1, 4, "encrypted" },
        { 32, 2, 4, "LUKS" },
        { 36, 0, 4, "L1 entries" },
        { 36, UINT32_MAX, 4, "L1 entries" },
        { 40, 1, 8, "L1 table's offset" },
        { 40, 1UL << 50, 8, "L1 table's offset" },
        { 40, 0, 8, "L1 table's offset" },
        { 40, 65536, 8, "overlaps" },
        { 48, 65537, 8, "refcount table's offset" },
        { 48, 1UL << 62, 8, "refcount table's offset" },
        { 56, 0, 4, "refcount table clusters" },
        { 56, 200, 4, "refcount table clusters" },
        { 60, 70000, 4, "snapshots" },
        { 60, 1, 4, "snapshot table's offset" },
        { 72, 2, 8, "marked corrupt" },
        { 72, 4, 8, "external file" },
        { 72, 16, 8, "extended L2" },
        { 72, 1UL << 37, 8, "feature bit 37 (no name given)" },
        { 72, 8, 8, "compression type" },
        { 88, 1, 8, "bitmaps" },
        { 96, 7, 4, "refcount order" },
        { 100, 50, 4, "header length" },
        { 100, 1 << 20, 4, "header length" },
        { 104, 9, 1, "compression type 9" },
        { 112, 0x1234567800000fff, 8, "header extension" }, /* its length is behind the cluster */
        { 65536, 3 * 65536, 8, "overlaps" },                /* a refcount block that is the L1 table */
        { 65536, 1UL << 40, 8, "outside of the file" },
        { 3 * 65536, 65536, 8, "overlaps" }, /* an L2 table that is the refcount table */
        { 3 * 65536, 512, 8, "not aligned" },
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        create(g->img, (struct disk_create){ .bytes = 8 * MIB });
        if (bad[i].at == 112)
            poke(g->img, 116, 1 << 20, 4);
        poke(g->img, bad[i].at, bad[i].v, bad[i].bytes);
        if (bad[i].at == 112)
            poke(g->img, 112, 0x1234567800100000, 8);
        refused(g->img, as_qcow2, bad[i].why);
    }
    /* The feature has a name. */
    create(g->img, (struct disk_create){ .bytes = 8 * MIB });
    poke(g->img, 112, 0x6803f85700000030, 8);
    poke(g->img, 120, 0x0025 << 16 | 'n' << 8 | 'x', 4);
    poke(g->img, 72, 1UL << 37, 8);
    refused(g->img, as_qcow2, "feature bit 37 (nx)");
}

/* Found while in use: an error, once it is known no more writes, and never a write to metadata. */
static void test_corrupt_in_use(void **st)
{
    const struct dir *g = *st;
    static uint8_t b[65536];
    static const uint64_t host[] = { 0, 65536, 2 * 65536, 3 * 65536, 4 * 65536, 1UL << 50, 5 * 65536 + 512 };
    for (size_t i = 0; i < sizeof(host) / sizeof(host[0]); i++) {
        create(g->img, (struct disk_create){ .bytes = 8 * MIB });
        struct disk *d = opened(g->img, as_qcow2);
        assert_int_equal(put(d, b, sizeof(b), 0), 0); /* the L2 table is cluster 4, its first entry cluster 5 */
        disk_close(d);
        in_order(g->img);
        poke(g->img, 4 * 65536, host[i] | 1UL << 63, 8);
        d = opened(g->img, as_qcow2);
        if (i == 0) { /* offset 0 is no place at all */
            assert_int_equal(put(d, b, 512, 0), 0);
            disk_close(d);
            continue;
        }
        assert_int_equal(get(d, b, 512, 0), -EIO);
        assert_int_equal(put(d, b, 512, 0), -EIO);
        assert_int_equal(put(d, b, 512, MIB), -EIO);
        assert_int_equal(disk_flush(d), -EIO);
        disk_close(d);
        refused(g->img, as_qcow2, "marked corrupt");
        disk_close(opened(g->img, ro_qcow2));
        struct disk_check k = { .repair = true };
        struct err e = { 0 };
        assert_int_equal(disk_check(g->img, NULL, &k, &e), 0);
        assert_true(k.errors > 0);
    }
}

/* ---- chains ---- */

static void test_chains(void **st)
{
    const struct dir *g = *st;
    char name[100], below[20] = "base";
    static uint8_t b[4096];
    struct disk_create c = { .format = "raw", .bytes = MIB };
    create(g->base, c);
    for (int i = 0; i < 70; i++) {
        c = (struct disk_create){ .backing = below, .backing_format = i ? "qcow2" : "raw" };
        snprintf(name, sizeof(name), "%s/l%d", g->name, i);
        struct err e = { 0 };
        c.format = "qcow2";
        int r = disk_create(name, &c, false, &e);
        assert_int_equal(r < 0, i >= 64);
        if (r < 0) {
            assert_non_null(strstr(e.text, "chain of more than 64"));
            break;
        }
        struct disk *d = i == 63 ? NULL : opened(name, as_qcow2);
        memset(b, i + 1, sizeof(b));
        if (d)
            assert_int_equal(put(d, b, 512, (uint64_t)i * 512), 0);
        disk_close(d);
        snprintf(below, sizeof(below), "l%d", i);
    }
    snprintf(name, sizeof(name), "%s/l62", g->name);
    struct disk *d = opened(name, ro_qcow2);
    for (int i = 0; i < 63; i++) {
        assert_int_equal(get(d, b, 512, (uint64_t)i * 512), 0);
        assert_int_equal(b[0], i + 1);
    }
    /* All of the chain is locked. */
    refused(g->base, (struct disk_options){ .format = "raw" }, "in use");
    disk_close(d);
    /* Its own backing file. */
    create(g->img, (struct disk_create){ .backing = "base", .backing_format = "raw" });
    poke(g->img, 120, 'q' << 24 | 'c' << 16 | 'o' << 8 | 'w', 4);
    poke(g->img, 112, 0xe2792aca00000005, 8);
    poke(g->img, 124, '2', 1);
    poke(g->img, 136, 'i' << 16 | 'm' << 8 | 'g', 3);
    poke(g->img, 16, 3, 4);
    refused(g->img, ro_qcow2, "has itself as a backing file");
}

/* ---- trust ---- */

static void test_trust(void **st)
{
    const struct dir *g = *st;
    static uint8_t b[4096];
    create(g->base, (struct disk_create){ .format = "raw", .bytes = MIB });
    create(g->img, (struct disk_create){ .backing = "base", .backing_format = "raw" });
    refused(g->img, as_guess, "format=qcow2");
    disk_close(opened(g->img, as_qcow2));
    /* A raw disk of no stated format does not become anything else. */
    struct disk *d = opened(g->base, as_guess);
    memcpy(b, "QFI\xfb\0\0\0\3", 8);
    assert_int_equal(put(d, b, 512, 0), -EPERM);
    assert_int_equal(put(d, b, 4096, 0), -EPERM);
    struct iovec v[3] = { { b, 2 }, { b + 2, 2 }, { b + 4, 508 } };
    assert_int_equal(disk_write(d, v, 3, 0), -EPERM);
    assert_int_equal(put(d, b, 512, 512), 0);
    memcpy(b, "boot", 4);
    b[4095] = 77;
    assert_int_equal(put(d, b, 4096, 0), 0);
    memset(b, 0, sizeof(b));
    assert_int_equal(get(d, b, 4096, 0), 0);
    assert_memory_equal(b, "boot", 4);
    assert_int_equal(b[4095], 77);
    disk_close(d);
    d = opened(g->base, (struct disk_options){ .format = "raw" });
    memcpy(b, "QFI\xfb", 4);
    assert_int_equal(put(d, b, 512, 0), 0);
    disk_close(d);
    refused(g->base, as_guess, "cluster_bits");
    refused(g->base, (struct disk_options){ .format = "vmdk" }, "only raw and qcow2");
}

/* ---- overlays ---- */

static void test_overlays(void **st)
{
    const struct dir *g = *st;
    static uint8_t b[4096], z[4096];
    struct err e = { 0 };
    char s1[DISK_SERIAL], s2[DISK_SERIAL], other[100];
    create(g->base, (struct disk_create){ .format = "raw", .bytes = MIB });
    memset(b, 7, sizeof(b));
    for (int i = 0; i < 2; i++) {
        struct disk *d = disk_open_overlay(g->base, &as_guess, NULL, &e);
        struct disk *n = disk_open_overlay(g->base, &as_guess, g->img, &e);
        assert_non_null(d);
        assert_non_null(n);
        assert_int_equal(put(d, b, 4096, 8192), 0);
        assert_int_equal(get(n, z, 4096, 8192), 0);
        assert_int_equal(z[0], 0);
        assert_int_equal(get(n, z, 4096, 0), 0);
        assert_int_equal(z[0], i ? 7 : 0);
        assert_int_equal(put(n, b, 4096, 0), 0);
        assert_int_equal(get(d, z, 4096, 8192), 0);
        assert_memory_equal(z, b, 4096);
        disk_serial(d, s1);
        disk_serial(n, s2);
        assert_memory_equal(s1, s2, DISK_SERIAL);
        disk_close(d);
        disk_close(n);
        in_order(g->img);
    }
    struct disk *d = opened(g->base, as_guess);
    assert_int_equal(get(d, z, 4096, 8192), 0);
    assert_int_equal(z[0], 0);
    disk_close(d);
    snprintf(other, sizeof(other), "%s/other", g->name);
    create(other, (struct disk_create){ .format = "raw", .bytes = MIB });
    assert_null(disk_open_overlay(other, &as_guess, g->img, &e));
    assert_non_null(strstr(e.text, "is not an overlay of"));
}

/* ---- threads ---- */

enum { THREADS = 6, TURNS = 120, LANES = 64 };

struct worker {
    pthread_t t;
    struct disk *d;
    unsigned id;
    uint8_t lane[LANES * 40]; /* what its sectors hold */
};

/* Each has every THREADS'th sector for itself, so that clusters are shared and nothing else is. */
static void *work(void *arg)
{
    struct worker *k = arg;
    uint8_t b[512], want[512];
    uint64_t x = k->id + 1;
    for (int i = 0; i < TURNS; i++) {
        x = x * 6364136223846793005 + 1442695040888963407;
        unsigned n = (unsigned)(x >> 33) % (LANES * 40);
        uint64_t off = ((uint64_t)n * THREADS + k->id) * 512;
        switch (x >> 60) {
        case 0:
            if (disk_flush(k->d) < 0)
                return "flush";
            break;
        case 1:
        case 2:
            if (disk_zero(k->d, off, 512, true) < 0)
                return "zero";
            k->lane[n] = 0;
            break;
        default:
            memset(want, k->lane[n], 512);
            if (get(k->d, b, 512, off) < 0 || memcmp(b, want, 512) != 0)
                return "read";
            k->lane[n] = (uint8_t)(x >> 40);
            memset(b, k->lane[n], 512);
            if (put(k->d, b, 512, off) < 0)
                return "write";
        }
    }
    return NULL;
}

static void test_threads(void **st)
{
    const struct dir *g = *st;
    static struct worker k[THREADS];
    memset(k, 0, sizeof(k));
    for (int round = 0; round < 4; round++) {
        unsigned bits = round % 2 ? 9 : 16;
        memset(k, 0, sizeof(k));
        create(g->base, (struct disk_create){ .format = "raw", .bytes = MIB });
        create(g->img, (struct disk_create){ .bytes = LANES * 40 * THREADS * 512,
                                             .cluster_bits = bits,
                                             .lazy_refcounts = round > 1,
                                             .backing = round ? "base" : NULL,
                                             .backing_format = "raw" });
        struct disk *d = opened(g->img, as_qcow2);
        for (unsigned i = 0; i < THREADS; i++) {
            k[i].d = d;
            k[i].id = i;
            assert_int_equal(pthread_create(&k[i].t, NULL, work, &k[i]), 0);
        }
        for (unsigned i = 0; i < THREADS; i++) {
            void *what;
            pthread_join(k[i].t, &what);
            if (what)
                fail_msg("thread %u: %s", i, (char *)what);
        }
        uint8_t b[512];
        for (unsigned n = 0; n < LANES * 40 * THREADS; n++) {
            assert_int_equal(get(d, b, 512, (uint64_t)n * 512), 0);
            assert_int_equal(b[5], k[n % THREADS].lane[n / THREADS]);
        }
        disk_close(d);
        in_order(g->img);
    }
}

/* ---- parts ---- */

static void test_parts(void **st)
{
    uint8_t b[64];
    struct q_set s = { 0 };
    (void)st;
    for (unsigned order = 0; order <= 6; order++) {
        uint64_t max = order == 6 ? UINT64_MAX : (1UL << (1U << order)) - 1;
        memset(b, 0, sizeof(b));
        for (unsigned i = 0; i < 8; i++)
            q_counter_set(b, i, order, (i * 0x0123456789abcdef) & max);
        for (unsigned i = 0; i < 8; i++)
            assert_int_equal(q_counter_get(b, i, order), (i * 0x0123456789abcdef) & max);
    }
    q_counter_set(b, 9, 0, 1);
    assert_int_equal(b[1] & 2, 2); /* from the low bits on */
    for (uint64_t i = 0; i < 5000; i++)
        assert_int_equal(q_set_add(&s, i * i), 0);
    assert_int_equal(q_set_add(&s, 49), -EEXIST);
    for (uint64_t i = 0; i < 5000; i += 2)
        q_set_remove(&s, i * i);
    for (uint64_t i = 0; i < 5000; i++)
        assert_int_equal(q_set_has(&s, i * i), i % 2);
    free(s.slot);
}

/* Growing past what the backing file has must not show more of it. */
static void test_grow(void **st)
{
    const struct dir *g = *st;
    static uint8_t b[MIB];
    struct err e = { 0 };
    create(g->base, (struct disk_create){ .format = "raw", .bytes = 4 * MIB });
    struct disk *d = opened(g->base, (struct disk_options){ .format = "raw" });
    memset(b, 9, sizeof(b));
    for (uint64_t i = 0; i < 4; i++)
        assert_int_equal(put(d, b, MIB, i * MIB), 0);
    disk_close(d);
    create(g->img,
           (struct disk_create){ .bytes = MIB + 512, .cluster_bits = 9, .backing = "base", .backing_format = "raw" });
    d = opened(g->img, as_qcow2);
    assert_int_equal(disk_resize(d, 600 * MIB, &e), 0);
    assert_int_equal(disk_resize(d, 2 * MIB, &e), -ENOTSUP);
    assert_int_equal(put(d, b, MIB, 599 * MIB), 0);
    disk_close(d);
    in_order(g->img);
    d = opened(g->img, ro_qcow2);
    assert_int_equal(disk_bytes(d), 600 * MIB);
    assert_int_equal(get(d, b, MIB, MIB / 2 + 512), 0);
    assert_int_equal(b[MIB / 2 - 1], 9);
    assert_int_equal(b[MIB / 2], 0);
    assert_int_equal(get(d, b, MIB, 3 * MIB), 0);
    assert_int_equal(b[5], 0);
    disk_close(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_headers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_corrupt_in_use, setup, teardown),
        cmocka_unit_test_setup_teardown(test_chains, setup, teardown),
        cmocka_unit_test_setup_teardown(test_trust, setup, teardown),
        cmocka_unit_test_setup_teardown(test_overlays, setup, teardown),
        cmocka_unit_test_setup_teardown(test_threads, setup, teardown),
        cmocka_unit_test(test_parts),
        cmocka_unit_test_setup_teardown(test_grow, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
