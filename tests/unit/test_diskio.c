/* SPDX-License-Identifier: MIT */
/* Asynchronous disk I/O, through io_uring and through threads: data, many in flight, what fails, what is short. */
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
#include <unistd.h>

#include "base/log.h"
#include "host/disk.h"
#include "host/diskio.h"

enum { DISK = 1 << 20, MANY = 300, BUFS = 3 };

static enum diskio_way way;

struct rig {
    char path[64];
    int fd;
    struct disk *disk;
    struct pool *pool;
    struct diskio *io;
    pthread_mutex_t m;
    pthread_cond_t c;
    unsigned ended;
};

struct one {
    struct diskio_req r; /* first */
    struct rig *rig;
    struct iovec iov[BUFS];
    uint8_t *buf;
    bool ended;
};

static void ended(void *arg, struct diskio_req *list)
{
    struct rig *g = arg;
    pthread_mutex_lock(&g->m);
    for (struct diskio_req *next; list; list = next) {
        next = list->next;
        assert_false(((struct one *)list)->ended);
        ((struct one *)list)->ended = true;
        g->ended++;
    }
    pthread_cond_signal(&g->c);
    pthread_mutex_unlock(&g->m);
}

static void wait_for(struct rig *g, unsigned n)
{
    pthread_mutex_lock(&g->m);
    while (g->ended < n)
        pthread_cond_wait(&g->c, &g->m);
    g->ended = 0;
    pthread_mutex_unlock(&g->m);
}

static int setup(void **st)
{
    struct rig *g = calloc(1, sizeof(*g));
    struct err e = { 0 };
    strcpy(g->path, "/tmp/gazda-test-XXXXXX");
    g->fd = mkstemp(g->path);
    assert_int_equal(ftruncate(g->fd, DISK), 0);
    g->disk = disk_open_with(g->path, &(struct disk_options){ .format = "raw" }, &e);
    g->pool = pool_new(4);
    pthread_mutex_init(&g->m, NULL);
    pthread_cond_init(&g->c, NULL);
    g->io = diskio_new(g->disk, g->pool, way, (struct diskio_user){ ended, g }, &e);
    if (!g->io)
        fail_msg("%s", e.text);
    assert_string_equal(diskio_name(g->io), way == DISKIO_THREADS ? "threads" : "io_uring");
    *st = g;
    return 0;
}
static int teardown(void **st)
{
    struct rig *g = *st;
    diskio_free(g->io);
    pool_free(g->pool);
    disk_close(g->disk);
    close(g->fd);
    unlink(g->path);
    free(g);
    return 0;
}

/* A request whose buffers are cut in odd places. */
static struct one *make(struct rig *g, enum diskio_op op, uint64_t off, size_t len)
{
    struct one *o = calloc(1, sizeof(*o));
    size_t cut = len / 3 + 1;
    o->rig = g;
    o->buf = malloc(len);
    o->iov[0] = (struct iovec){ o->buf, cut };
    o->iov[1] = (struct iovec){ o->buf + cut, cut };
    o->iov[2] = (struct iovec){ o->buf + 2 * cut, len - 2 * cut };
    o->r = (struct diskio_req){ .op = op, .n = BUFS, .iov = o->iov, .off = off, .len = len, .result = 77 };
    return o;
}
static int unmake(struct one *o)
{
    int r = o->r.result;
    free(o->buf);
    free(o);
    return r;
}
static int run(struct rig *g, struct one *o)
{
    diskio_begin(g->io, &o->r, false);
    wait_for(g, 1);
    return o->r.result;
}

static void test_many(void **st)
{
    struct rig *g = *st;
    static struct one *o[MANY];
    for (int round = 0; round < 6; round++) {
        bool write = round % 2 == 0;
        struct diskio_req *list = NULL;
        for (unsigned i = 0; i < MANY; i++) {
            size_t len = 512 * (1 + (i + (unsigned)round / 2) % 6);
            o[i] = make(g, write ? DISKIO_WRITE : DISKIO_READ, i * 3072UL, len);
            o[i]->r.through = write && i % 50 == 0;
            for (size_t k = 0; k < len; k++)
                o[i]->buf[k] = write ? (uint8_t)(i * 7 + (unsigned)round + k / 512) : 0;
            o[i]->r.next = list;
            list = &o[i]->r;
            if (i % 100 == 99) { /* in pieces of 100 */
                diskio_begin(g->io, list, false);
                list = NULL;
            }
        }
        wait_for(g, MANY);
        for (unsigned i = 0; i < MANY; i++) {
            for (size_t k = 0; !write && k < o[i]->r.len; k++)
                assert_int_equal(o[i]->buf[k], (uint8_t)(i * 7 + (unsigned)round - 1 + k / 512));
            assert_int_equal(unmake(o[i]), 0);
        }
    }
}

/* What is in the page cache does not wait; where the host cannot tell, it is to be begun. */
static void test_try(void **st)
{
    struct rig *g = *st;
    struct one *w = make(g, DISKIO_WRITE, 4096, 4096), *r = make(g, DISKIO_READ, 4096, 4096);
    memset(w->buf, 0x3c, 4096);
    assert_int_equal(run(g, w), 0);
    memset(r->buf, 0, 4096);
    if (diskio_try(g->io, &r->r)) {
        assert_int_equal(r->r.result, 0);
        assert_memory_equal(r->buf, w->buf, 4096);
    } else {
        assert_int_equal(r->r.result, 77);
        print_message("# SKIP: this file system cannot say whether a read would wait\n");
    }
    struct one *large = make(g, DISKIO_READ, 0, DISK);
    assert_false(diskio_try(g->io, &large->r));
    unmake(large);
    unmake(w);
    unmake(r);
    assert_int_equal(g->ended, 0);
}

/* The first half is in the page cache (where the host lets one drop the rest): done in two goes, and all is there. */
static void test_half(void **st)
{
    struct rig *g = *st;
    enum { HALF = 65536 };
    struct one *o = make(g, DISKIO_READ, 512, 2 * HALF);
    uint8_t *want = malloc(2 * HALF);
    for (unsigned i = 0; i < 2 * HALF; i++)
        want[i] = (uint8_t)(i / 512 * 3 + i);
    assert_int_equal(pwrite(g->fd, want, 2 * HALF, 512), 2 * HALF);
    fsync(g->fd);
    for (int i = 0; i < 20; i++) {
        posix_fadvise(g->fd, i % 4 * HALF / 4, 0, POSIX_FADV_DONTNEED);
        memset(o->buf, 0, 2 * HALF);
        size_t cut = 2 * HALF / 3 + 1;
        o->iov[0] = (struct iovec){ o->buf, cut };
        o->iov[1] = (struct iovec){ o->buf + cut, cut };
        o->iov[2] = (struct iovec){ o->buf + 2 * cut, 2 * HALF - 2 * cut };
        o->r.n = BUFS, o->r.iov = o->iov, o->r.off = 512, o->r.len = 2 * HALF;
        o->ended = false;
        assert_int_equal(run(g, o), 0);
        assert_memory_equal(o->buf, want, 2 * HALF);
    }
    free(want);
    unmake(o);
}

static void test_errors(void **st)
{
    struct rig *g = *st;
    struct one *o = make(g, DISKIO_READ, DISK - 2048, 2048);
    /* The image shrinks under us, in the middle of a request: not a short success. */
    assert_int_equal(ftruncate(g->fd, DISK - 1024), 0);
    assert_int_equal(run(g, o), -EIO);
    unmake(o);
    assert_int_equal(ftruncate(g->fd, DISK), 0);
    /* A buffer that is not there. */
    o = make(g, DISKIO_WRITE, 8192, 3072);
    o->iov[1].iov_base = (void *)8;
    int r = run(g, o);
    assert_true(r == -EFAULT);
    unmake(o);
    o = make(g, DISKIO_READ, 8192, 3072);
    assert_int_equal(run(g, o), 0);
    unmake(o);
}

static int work(struct diskio_req *r)
{
    return r->off == 1 ? -ENOSPC : 0;
}

static void test_work(void **st)
{
    struct rig *g = *st;
    struct one *a = make(g, DISKIO_WORK, 0, 512), *b = make(g, DISKIO_WORK, 1, 512);
    a->r.work = b->r.work = work;
    a->r.through = true;
    a->r.next = &b->r;
    diskio_begin(g->io, &a->r, false);
    wait_for(g, 2);
    assert_int_equal(unmake(a), 0);
    assert_int_equal(unmake(b), -ENOSPC);
}

static bool have_uring(void)
{
    struct rig *g;
    struct err e = { 0 };
    way = DISKIO_THREADS;
    setup((void **)&g);
    struct diskio *io = diskio_new(g->disk, g->pool, DISKIO_URING, (struct diskio_user){ ended, g }, &e);
    diskio_free(io);
    if (!io)
        printf("# SKIP: %s\n", e.text);
    teardown((void **)&g);
    return io != NULL;
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = { T(test_many), T(test_try), T(test_half), T(test_errors), T(test_work) };
    log_set_level(LOG_ERROR);
    bool uring = have_uring();
    int r = cmocka_run_group_tests_name("threads", tests, NULL, NULL);
    if (!uring)
        return r;
    way = DISKIO_URING;
    r += cmocka_run_group_tests_name("io_uring", tests, NULL, NULL);
    way = DISKIO_AUTO;
    return r + cmocka_run_group_tests_name("auto", tests, NULL, NULL);
}
