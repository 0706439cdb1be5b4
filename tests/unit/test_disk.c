/* SPDX-License-Identifier: MIT */
/* Disk images, the worker pool and the random source. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "host/disk.h"
#include "host/entropy.h"
#include "host/pool.h"

static bool sync_fails;

int fdatasync(int fd)
{
    errno = EIO;
    return sync_fails ? -1 : (int)syscall(SYS_fdatasync, fd);
}

struct img {
    char dir[64], path[96];
};

static int setup(void **st)
{
    struct img *g = calloc(1, sizeof(*g));
    strcpy(g->dir, "/tmp/gazda-test-XXXXXX");
    assert_non_null(mkdtemp(g->dir));
    snprintf(g->path, sizeof(g->path), "%s/img", g->dir);
    *st = g;
    return 0;
}
static int teardown(void **st)
{
    struct img *g = *st;
    unlink(g->path);
    rmdir(g->dir);
    free(g);
    return 0;
}

static void make(const struct img *g, const void *head, size_t n, off_t size)
{
    int fd = open(g->path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, head, n), n);
    assert_int_equal(ftruncate(fd, size), 0);
    close(fd);
}

static void refused(const char *path, bool ro, const char *why)
{
    struct err e = { 0 };
    assert_null(disk_open(path, ro, &e));
    if (!strstr(e.text, why))
        fail_msg("'%s' does not say '%s'", e.text, why);
}

static struct disk *opened(const char *path, bool ro)
{
    struct err e = { 0 };
    struct disk *d = disk_open(path, ro, &e);
    if (!d)
        fail_msg("%s", e.text);
    return d;
}

static void test_io(void **st)
{
    const struct img *g = *st;
    static uint8_t a[4096], b[4096];
    make(g, "", 0, 1 << 20);
    struct disk *d = opened(g->path, false);
    assert_int_equal(disk_bytes(d), 1 << 20);
    for (size_t i = 0; i < sizeof(a); i++)
        a[i] = (uint8_t)(i * 31 + 1);
    struct iovec w[3] = { { a, 100 }, { a + 100, 0 }, { a + 100, 3996 } };
    assert_int_equal(disk_write(d, w, 3, (1 << 20) - 4096), 0);
    struct iovec r[2] = { { b, 4000 }, { b + 4000, 96 } };
    assert_int_equal(disk_read(d, r, 2, (1 << 20) - 4096), 0);
    assert_memory_equal(a, b, 4096);
    assert_int_equal(disk_flush(d), 0);
    /* Outside, misaligned, overflowing. */
    static const struct {
        uint64_t off, len;
    } bad[] = { { 1 << 20, 512 }, { (1 << 20) - 512, 1024 }, { UINT64_MAX - 511, 512 }, { 1, 512 }, { 0, 511 } };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct iovec v = { b, bad[i].len };
        assert_int_equal(disk_read(d, &v, 1, bad[i].off), -EINVAL);
        assert_int_equal(disk_write(d, &v, 1, bad[i].off), -EINVAL);
        assert_int_equal(disk_discard(d, bad[i].off, bad[i].len), -EINVAL);
        assert_int_equal(disk_zero(d, bad[i].off, bad[i].len, false), -EINVAL);
    }
    assert_int_equal(disk_discard(d, 512, UINT64_MAX - 511), -EINVAL);
    /* Cut off under us: an error, not an endless loop. */
    assert_int_equal(truncate(g->path, 8192), 0);
    struct iovec v = { b, 512 };
    assert_int_equal(disk_read(d, &v, 1, 65536), -EIO);
    disk_close(d);
}

/* The kernel tells of pages that it could not write once, and forgets them: a flush that succeeds later would lie. */
static void test_sync_fails(void **st)
{
    const struct img *g = *st;
    static uint8_t a[4096];
    make(g, "", 0, 1 << 20);
    struct disk *d = opened(g->path, false);
    struct iovec v = { a, sizeof(a) };
    assert_int_equal(disk_flush(d), 0);
    assert_int_equal(disk_write(d, &v, 1, 0), 0);
    sync_fails = true;
    assert_int_equal(disk_flush(d), -EIO);
    sync_fails = false;
    assert_int_equal(disk_flush(d), -EIO);
    assert_int_equal(disk_read(d, &v, 1, 0), 0);
    assert_int_equal(disk_write(d, &v, 1, 0), 0);
    assert_int_equal(disk_flush(d), -EIO);
    disk_close(d);
    d = opened(g->path, false); /* whoever opens it again begins anew */
    assert_int_equal(disk_flush(d), 0);
    disk_close(d);
}

static void test_holes(void **st)
{
    const struct img *g = *st;
    struct stat s0, s1;
    static uint8_t a[65536], b[65536];
    make(g, "", 0, 1 << 20);
    struct disk *d = opened(g->path, false);
    memset(a, 0x5a, sizeof(a));
    struct iovec v = { a, sizeof(a) };
    assert_int_equal(disk_write(d, &v, 1, 0), 0);
    assert_int_equal(disk_flush(d), 0);
    assert_int_equal(stat(g->path, &s0), 0);
    assert_int_equal(disk_discard(d, 0, 16384), 0);
    assert_int_equal(disk_zero(d, 16384, 16384, true), 0);
    assert_int_equal(stat(g->path, &s1), 0);
    assert_int_equal(s0.st_blocks - s1.st_blocks, 64);
    assert_int_equal(disk_zero(d, 32768 + 512, 1024, false), 0);
    assert_int_equal(disk_zero(d, 0, 1 << 20, true), 0);
    v = (struct iovec){ a, 512 };
    assert_int_equal(disk_write(d, &v, 1, 32768), 0);
    assert_int_equal(disk_zero(d, 32768 + 512, 65536, false), 0);
    v = (struct iovec){ b, sizeof(b) };
    assert_int_equal(disk_read(d, &v, 1, 0), 0);
    for (size_t i = 0; i < sizeof(b); i++)
        assert_int_equal(b[i], i >= 32768 && i < 32768 + 512 ? 0x5a : 0);
    assert_int_equal(stat(g->path, &s1), 0);
    assert_int_equal(s1.st_size, 1 << 20);
    disk_close(d);
}

static void test_read_only(void **st)
{
    const struct img *g = *st;
    static uint8_t b[512];
    make(g, "data", 4, 4096);
    struct disk *d = opened(g->path, true);
    struct iovec v = { b, 512 };
    assert_true(disk_read_only(d));
    assert_int_equal(disk_write(d, &v, 1, 0), -EROFS);
    assert_int_equal(disk_discard(d, 0, 512), -EROFS);
    assert_int_equal(disk_zero(d, 0, 512, true), -EROFS);
    assert_int_equal(disk_flush(d), 0);
    v = (struct iovec){ b, 512 };
    assert_int_equal(disk_read(d, &v, 1, 0), 0);
    assert_memory_equal(b, "data", 4);
    disk_close(d);
}

/* In place of the C library's: waiting for a lock is when its holder lets go of it, or never. */
static struct {
    struct disk *holder;
    unsigned after; /* so many */
} waits;

int usleep(useconds_t us)
{
    (void)us;
    if (waits.holder && --waits.after == 0) {
        disk_close(waits.holder);
        waits.holder = NULL;
    }
    return 0;
}

/* What the kernel has still to do for a process that is gone: a second one that starts at once must not fail. */
static void test_lock_that_ends(void **st)
{
    const struct img *g = *st;
    make(g, "", 0, 4096);
    waits.holder = opened(g->path, false);
    waits.after = 3;
    disk_close(opened(g->path, true));
    assert_null(waits.holder);
    waits.holder = opened(g->path, true);
    waits.after = 1000;
    refused(g->path, false, "in use");
    assert_true(waits.after > 900 && waits.after < 1000);
    disk_close(waits.holder);
    waits.holder = NULL;
}

static void test_locks(void **st)
{
    const struct img *g = *st;
    make(g, "", 0, 4096);
    struct disk *w = opened(g->path, false);
    refused(g->path, false, "in use");
    refused(g->path, true, "in use");
    disk_close(w);
    struct disk *r1 = opened(g->path, true), *r2 = opened(g->path, true);
    refused(g->path, false, "in use");
    disk_close(r1);
    refused(g->path, false, "in use");
    disk_close(r2);
    w = opened(g->path, false);
    char s1[DISK_SERIAL], s2[DISK_SERIAL];
    disk_serial(w, s1);
    disk_close(w);
    w = opened(g->path, true);
    disk_serial(w, s2);
    assert_memory_equal(s1, s2, DISK_SERIAL);
    assert_true(s1[0] >= '0' && s1[0] <= '9');
    disk_close(w);
}

static void test_refusals(void **st)
{
    const struct img *g = *st;
    static const struct {
        const char *name, *magic;
        size_t n, at;
    } f[] = { { "qcow2", "QFI\xfb", 4, 0 }, { "VMDK", "KDMV", 4, 0 }, { "VHDX", "vhdxfile", 8, 0 },
              { "VHD", "conectix", 8, 0 },  { "QED", "QED", 4, 0 },   { "VDI", "\x7f\x10\xda\xbe", 4, 64 } };
    for (size_t i = 0; i < sizeof(f) / sizeof(f[0]); i++) {
        char head[80] = { 0 };
        memcpy(head + f[i].at, f[i].magic, f[i].n);
        make(g, head, sizeof(head), 1 << 20);
        refused(g->path, false, f[i].name);
        refused(g->path, true, i == 0 ? "version" : "qemu-img convert");
    }
    refused("/nonexistent/x", false, "No such file");
    refused(g->dir, true, "neither a regular file");
    refused("/dev/null", false, "neither a regular file");
    make(g, "", 0, 0);
    refused(g->path, false, "empty");
    make(g, "", 0, 511);
    refused(g->path, false, "too small");
    unlink(g->path);
    assert_int_equal(mkfifo(g->path, 0600), 0);
    refused(g->path, false, "neither a regular file");
    unlink(g->path);
    make(g, "", 0, 1300);
    struct disk *d = opened(g->path, false);
    assert_int_equal(disk_bytes(d), 1024);
    disk_close(d);
}

/* qemu-img as the judge of which files are not raw: what it makes must be refused, its raw image taken. */
static void test_qemu_img(void **st)
{
    const struct img *g = *st;
    static const char *const fmt[] = { "raw", "qcow2", "vmdk", "vdi", "vhdx", "vpc", "qed" };
    char cmd[256];
    if (system("command -v qemu-img >/dev/null 2>&1") != 0) {
        print_message("skipped: qemu-img is not installed\n");
        skip();
    }
    for (size_t i = 0; i < sizeof(fmt) / sizeof(fmt[0]); i++) {
        unlink(g->path);
        snprintf(cmd, sizeof(cmd), "qemu-img create -q -f %s %s 8M >/dev/null 2>&1", fmt[i], g->path);
        if (system(cmd) != 0)
            continue;
        if (i <= 1)
            disk_close(opened(g->path, false));
        else
            refused(g->path, false, "convert it");
    }
}

struct job {
    struct pool_job j;
    _Atomic int *count;
    struct pool *again;
};
static void job_run(struct pool_job *j)
{
    struct job *k = (struct job *)j;
    struct pool *again = k->again;
    atomic_fetch_add(k->count, 1);
    k->again = NULL;
    if (again)
        pool_submit(again, j);
}

static void test_pool(void **st)
{
    static struct job jobs[1000];
    _Atomic int count = 0;
    (void)st;
    struct pool *p = pool_new(4);
    assert_non_null(p);
    for (size_t i = 0; i < 1000; i++) {
        jobs[i] = (struct job){ .j.run = job_run, .count = &count, .again = i % 3 == 0 ? p : NULL };
        pool_submit(p, &jobs[i].j);
    }
    pool_free(p); /* runs everything */
    assert_int_equal(count, 1334);
}

static void test_entropy(void **st)
{
    static uint8_t a[1000], b[1000];
    (void)st;
    assert_int_equal(entropy_fill(a, sizeof(a)), 0);
    assert_int_equal(entropy_fill(b, sizeof(b)), 0);
    assert_memory_not_equal(a, b, sizeof(a));
    assert_memory_not_equal(a + 990, "\0\0\0\0\0\0\0\0\0\0", 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_io, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sync_fails, setup, teardown),
        cmocka_unit_test_setup_teardown(test_holes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_read_only, setup, teardown),
        cmocka_unit_test_setup_teardown(test_locks, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lock_that_ends, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refusals, setup, teardown),
        cmocka_unit_test_setup_teardown(test_qemu_img, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pool, setup, teardown),
        cmocka_unit_test_setup_teardown(test_entropy, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
