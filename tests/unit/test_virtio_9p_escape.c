/* SPDX-License-Identifier: MIT */
/*
 * Hostile clients of virtio-9p: ways out of the directory, also while the host renames under them, messages that are
 * none, and more fids and descriptors than there are. What lies outside must not change.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdatomic.h>

#include "base/log.h"
#include "p9_client.h"

enum { ROOT = 1 };

static int setup(void **st)
{
    struct p9c *c = p9c_new();
    int fd = open(p9c_path(c, "out/secret"), O_WRONLY | O_CREAT, 0600);
    assert_int_equal(write(fd, "secret", 6), 6);
    close(fd);
    assert_int_equal(mkdir(p9c_path(c, "in/d"), 0755), 0);
    assert_int_equal(mkdir(p9c_path(c, "in/d/e"), 0755), 0);
    assert_int_equal(p9c_version(c), 0);
    assert_int_equal(p9c_attach(c, ROOT), 0);
    *st = c;
    return 0;
}
static int teardown(void **st)
{
    p9c_free(*st);
    return 0;
}

/* The outside is as it was made. */
static void check_outside(struct p9c *c)
{
    char b[16] = "";
    struct stat s;
    int fd = open(p9c_path(c, "out/secret"), O_RDONLY);
    assert_true(fd >= 0);
    assert_int_equal(read(fd, b, sizeof(b)), 6);
    assert_memory_equal(b, "secret", 6);
    assert_int_equal(fstat(fd, &s), 0);
    assert_int_equal(s.st_mode & 07777, 0600);
    assert_int_equal(s.st_nlink, 1);
    close(fd);
    assert_int_equal(stat(p9c_path(c, "out"), &s), 0);
    assert_int_equal(s.st_nlink, 2);
    assert_int_equal(s.st_mode & 07777, 0755);
    assert_int_equal(rename(p9c_path(c, "out/secret"), p9c_path(c, "secret")), 0);
    assert_int_equal(rmdir(p9c_path(c, "out")), 0); /* nothing else is in there */
    assert_int_equal(mkdir(p9c_path(c, "out"), 0755), 0);
    assert_int_equal(rename(p9c_path(c, "secret"), p9c_path(c, "out/secret")), 0);
}

static uint64_t qid_path(struct p9c *c, uint32_t fid)
{
    assert_int_equal(p9c_call(c, P9_TGETATTR, "48", fid, 0UL), 0);
    c->in.at = 7 + 8 + 5;
    return p9_get64(&c->in);
}

static void test_dotdot(void **st)
{
    struct p9c *c = *st;
    uint64_t top = qid_path(c, ROOT);
    /* The top is above the top. */
    assert_int_equal(p9c_call(c, P9_TWALK, "442ssss", ROOT, 2U, 4, "..", "..", "..", ".."), 0);
    assert_int_equal(p9_get16(&c->in), 4);
    assert_int_equal(qid_path(c, 2), top);
    assert_int_equal(p9c_call(c, P9_TWALK, "442ssssss", ROOT, 3U, 6, "d", "e", "..", "..", "..", ".."), 0);
    assert_int_equal(p9_get16(&c->in), 6);
    assert_int_equal(qid_path(c, 3), top);
    assert_int_equal(p9c_call(c, P9_TWALK, "442ss", ROOT, 4U, 2, "..", "out"), 0);
    assert_int_equal(p9_get16(&c->in), 1);
    /* A directory that the host moves out stays where it is for its fid; up from there is nowhere. */
    assert_int_equal(p9c_call(c, P9_TWALK, "442ss", ROOT, 5U, 2, "d", "e"), 0);
    assert_int_equal(rename(p9c_path(c, "in/d/e"), p9c_path(c, "out/e")), 0);
    assert_int_equal(p9c_walk1(c, 5, 6, ".."), -ENOENT);
    assert_int_equal(p9c_call(c, P9_TWALK, "442ss", 5U, 6U, 2, "..", "secret"), -ENOENT);
    assert_int_equal(p9c_call(c, P9_TREMOVE, "4", 5U), -ENOENT);
    assert_int_equal(rmdir(p9c_path(c, "out/e")), 0);
    assert_int_equal(p9c_walk1(c, ROOT, 7, "."), 0);
    check_outside(c);
}

static void test_bad_names(void **st)
{
    struct p9c *c = *st;
    static char long_name[300], longest[256];
    memset(long_name, 'n', 256);
    memset(longest, 'n', 255);
    static const char *const bad[] = { "", "/", "/etc", "../out", "d/e", "d/", "/..", long_name };
    int n = 0;
    for (unsigned i = 0; i < ARRAY_LEN(bad) + 2; i++) {
        const char *b = i < ARRAY_LEN(bad) ? bad[i] : i == ARRAY_LEN(bad) ? "." : "..";
        int want = b == long_name ? -ENAMETOOLONG : -EINVAL;
        if (i < ARRAY_LEN(bad))
            assert_int_equal(p9c_walk1(c, ROOT, 2, b), want);
        assert_int_equal(p9c_clone(c, ROOT, 3), 0);
        assert_int_equal(p9c_create(c, 3, b, O_RDWR, 0644), want);
        assert_int_equal(p9c_clunk(c, 3), 0);
        assert_int_equal(p9c_mkdir(c, ROOT, b, 0755), want);
        assert_int_equal(p9c_call(c, P9_TSYMLINK, "4ss4", ROOT, b, "x", 0U), want);
        assert_int_equal(p9c_call(c, P9_TMKNOD, "4s4444", ROOT, b, S_IFREG | 0600U, 0U, 0U, 0U), want);
        assert_int_equal(p9c_call(c, P9_TLINK, "44s", ROOT, ROOT, b), want);
        assert_int_equal(p9c_call(c, P9_TRENAMEAT, "4s4s", ROOT, "d", ROOT, b), want);
        assert_int_equal(p9c_call(c, P9_TRENAMEAT, "4s4s", ROOT, b, ROOT, "n"), want);
        assert_int_equal(p9c_call(c, P9_TUNLINKAT, "4s4", ROOT, b, 0U), want);
        assert_int_equal(p9c_call(c, P9_TUNLINKAT, "4s4", ROOT, b, 0x200U), want);
        n++;
    }
    assert_int_equal(n, 10);
    assert_int_equal(p9c_mkdir(c, ROOT, longest, 0755), 0);
    /* A NUL inside of a name. */
    assert_int_equal(p9c_call(c, P9_TWALK, "4422z", ROOT, 2U, 1, 3, (size_t)3, "d\0e"), -EINVAL);
    assert_int_equal(p9c_call(c, P9_TMKDIR, "42z44", ROOT, 3, (size_t)3, "x\0y", 0755U, 0U), -EINVAL);
    check_outside(c);
}

static void test_symlinks(void **st)
{
    struct p9c *c = *st;
    /* Made by the guest or by the host: data. */
    assert_int_equal(p9c_call(c, P9_TSYMLINK, "4ss4", ROOT, "up", "../out", 0U), 0);
    assert_int_equal(p9c_call(c, P9_TSYMLINK, "4ss4", ROOT, "abs", p9c_path(c, "out/secret"), 0U), 0);
    assert_int_equal(p9c_call(c, P9_TSYMLINK, "4ss4", ROOT, "self", "/proc/self/root", 0U), 0);
    assert_int_equal(p9c_call(c, P9_TWALK, "442ss", ROOT, 2U, 2, "up", "secret"), 0);
    assert_int_equal(p9_get16(&c->in), 1); /* not through it */
    static const char *const names[] = { "up", "abs", "self" };
    for (uint32_t i = 0; i < 3; i++) {
        uint32_t f = 10 + i;
        assert_int_equal(p9c_walk1(c, ROOT, f, names[i]), 0);
        assert_int_equal(p9c_walk1(c, f, 20, "secret"), -ENOTDIR);
        assert_int_equal(p9c_walk1(c, f, 20, ".."), -ENOTDIR);
        assert_int_equal(p9c_open(c, f, O_RDONLY), -ELOOP);
        assert_int_equal(p9c_open(c, f, O_RDWR | O_TRUNC), -ELOOP);
        assert_int_equal(p9c_mkdir(c, f, "n", 0755), -ENOTDIR);
        assert_int_equal(p9c_call(c, P9_TUNLINKAT, "4s4", f, "secret", 0U), -ENOTDIR);
        assert_int_equal(p9c_setattr(c, f, 1, 0777, 0), -EOPNOTSUPP);
        assert_true(p9c_setattr(c, f, 8, 0, 0) < 0);
        assert_int_equal(p9c_call(c, P9_TXATTRWALK, "44s", f, 20U, "user.x"), -ENODATA);
        p9c_setattr(c, f, 2 | 4, 0, 0); /* its own owner */
        assert_int_equal(p9c_clone(c, ROOT, 21), 0);
        assert_int_equal(p9c_create(c, 21, names[i], O_RDWR | O_TRUNC, 0644), -ELOOP);
        assert_int_equal(p9c_clunk(c, 21), 0);
    }
    /* A hard link to what a link names would take the file in. */
    assert_int_equal(p9c_call(c, P9_TLINK, "44s", ROOT, 11U, "hard"), 0);
    struct stat s;
    assert_int_equal(lstat(p9c_path(c, "in/hard"), &s), 0);
    assert_true(S_ISLNK(s.st_mode));
    check_outside(c);
}

/* With the host's root shared, /proc would lead into this very process. */
static void test_proc(void **st)
{
    struct p9c *c = *st;
    struct err e = { 0 };
    char pid[16];
    snprintf(pid, sizeof(pid), "%d", (int)getpid());
    assert_null(share_open(&(struct share_cfg){ .dir = "/proc" }, &e));
    assert_non_null(strstr(e.text, "/proc"));
    assert_null(share_open(&(struct share_cfg){ .dir = "/proc/self/task" }, NULL));
    ((struct p9 *)c->d.v)->share = share_open(&(struct share_cfg){ .dir = "/" }, NULL);
    assert_int_equal(p9c_attach(c, 2), 0);
    static const char *const files[] = { "mem", "maps", "environ" };
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(p9c_call(c, P9_TWALK, "442sss", 2U, 10 + i, 3, "proc", pid, files[i]), 0);
        assert_int_equal(p9_get16(&c->in), 3);
        assert_int_equal(p9c_open(c, 10 + i, O_RDONLY), -EACCES);
        assert_int_equal(p9c_open(c, 10 + i, O_RDWR), -EACCES);
    }
    assert_int_equal(p9c_call(c, P9_TWALK, "442ssss", 2U, 20U, 4, "proc", pid, "root", "etc"), 0);
    assert_int_equal(p9_get16(&c->in), 3);
    assert_int_equal(p9c_version(c), 0);
    share_free(((struct p9 *)c->d.v)->share);
    ((struct p9 *)c->d.v)->share = c->share;
}

/* ---- races ---- */

struct swapper {
    struct p9c *c;
    atomic_bool stop;
    atomic_ulong swaps;
};

/* in/d and in/x, a symbolic link to out, change places all the time. */
static void *swap_main(void *arg)
{
    struct swapper *s = arg;
    char a[80], b[80];
    snprintf(a, sizeof(a), "%s/in/d", s->c->dir);
    snprintf(b, sizeof(b), "%s/in/x", s->c->dir);
    while (!s->stop) {
        if (renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE) < 0)
            abort();
        s->swaps++;
    }
    return NULL;
}

/* Everything that changes something, in "d" as it is at that moment. */
static unsigned attack(struct p9c *c)
{
    unsigned through = 0;
    if (p9c_walk1(c, ROOT, 2, "d") == 0) {
        through += p9c_mkdir(c, 2, "made", 0777) == 0;
        p9c_call(c, P9_TUNLINKAT, "4s4", 2U, "secret", 0U);
        p9c_call(c, P9_TUNLINKAT, "4s4", 2U, "made", 0x200U);
        p9c_call(c, P9_TSYMLINK, "4ss4", 2U, "link", "x", 0U);
        p9c_call(c, P9_TUNLINKAT, "4s4", 2U, "link", 0U);
        p9c_call(c, P9_TRENAMEAT, "4s4s", 2U, "secret", ROOT, "stolen");
        p9c_setattr(c, 2, 1, 0777, 0);
        if (p9c_clone(c, 2, 3) == 0) {
            if (p9c_create(c, 3, "file", O_RDWR, 0666) == 0)
                p9c_write(c, 3, 0, "overwritten", 11);
            p9c_clunk(c, 3);
        }
        p9c_call(c, P9_TUNLINKAT, "4s4", 2U, "file", 0U);
        p9c_clunk(c, 2);
    }
    if (p9c_call(c, P9_TWALK, "442ss", ROOT, 4U, 2, "d", "secret") == 0 && p9_get16(&c->in) == 2) {
        if (p9c_open(c, 4, O_RDWR | O_TRUNC) == 0)
            p9c_write(c, 4, 0, "overwritten", 11);
        p9c_clunk(c, 4);
        fail_msg("the walk went through the link");
    }
    if (p9c_call(c, P9_TWALK, "442sss", ROOT, 5U, 3, "d", "e", "..") == 0 && p9_get16(&c->in) == 3) {
        if (p9c_call(c, P9_TWALK, "442ss", 5U, 6U, 2, "..", "out") == 0 && p9_get16(&c->in) == 2)
            fail_msg("the walk went above the top");
        p9c_clunk(c, 5);
    }
    return through;
}

static void test_swap(void **st)
{
    struct p9c *c = *st;
    struct swapper s = { .c = c };
    unsigned done = 0, through = 0;
    pthread_t t;
    assert_int_equal(symlink("../out", p9c_path(c, "in/x")), 0);
    pthread_create(&t, NULL, swap_main, &s);
    for (; done < 300 || s.swaps < 1000; done++)
        through += attack(c);
    s.stop = true;
    pthread_join(t, NULL);
    assert_true(through > 0); /* it was a directory now and then */
    struct stat sb;
    assert_int_equal(lstat(p9c_path(c, "in/d"), &sb), 0);
    check_outside(c);
}

/* in/d moves out and back: what is reached is what was in the directory at that time, and never its new surroundings.
 */
static void *move_main(void *arg)
{
    struct swapper *s = arg;
    char a[80], b[80];
    snprintf(a, sizeof(a), "%s/in/d", s->c->dir);
    snprintf(b, sizeof(b), "%s/moved", s->c->dir);
    while (!s->stop) {
        if (rename(a, b) < 0 || rename(b, a) < 0)
            abort();
        s->swaps++;
    }
    return NULL;
}

static void test_moved(void **st)
{
    struct p9c *c = *st;
    struct swapper s = { .c = c };
    pthread_t t;
    pthread_create(&t, NULL, move_main, &s);
    for (unsigned n = 0; n < 1000 || s.swaps < 1000; n++) {
        if (p9c_call(c, P9_TWALK, "442sssss", ROOT, 2U, 5, "d", "e", "..", "..", "out") != 0)
            continue;
        if (p9_get16(&c->in) == 5)
            fail_msg("the walk reached what is beside the share");
        if (p9c_call(c, P9_TWALK, "442sss", ROOT, 2U, 3, "d", "e", "..") == 0 && p9_get16(&c->in) == 3) {
            p9c_call(c, P9_TWALK, "442ss", 2U, 3U, 2, "..", "out");
            if (c->reply[4] == P9_TWALK + 1 && c->reply[7] == 2)
                fail_msg("the walk reached what is beside the share");
            p9c_clunk(c, 2);
        }
    }
    s.stop = true;
    pthread_join(t, NULL);
    check_outside(c);
}

/* An old kernel, or a filter that does not know openat2: all of it again. */
static void without_openat2(struct p9c *c)
{
    c->share->no_openat2 = true;
}
static void test_old_kernel(void **st)
{
    without_openat2(*st);
    test_dotdot(st);
    test_symlinks(st);
    struct p9c *c = *st;
    for (uint32_t f = 2; f < 30; f++)
        p9c_clunk(c, f);
    assert_int_equal(mkdir(p9c_path(c, "in/d/e"), 0755), 0);
    test_swap(st);
}

/* ---- messages that are none ---- */

static void put_raw(struct p9c *c, uint32_t size, uint8_t type, uint16_t tag, size_t n)
{
    memcpy(c->msg, &size, 4);
    c->msg[4] = type;
    memcpy(c->msg + 5, &tag, 2);
    p9c_post(c, 0, n);
    drv_quiet(&c->d);
}

static void test_messages(void **st)
{
    struct p9c *c = *st;
    memset(c->msg, 0xff, sizeof(c->msg));
    put_raw(c, 6, P9_TCLUNK, 1, 11); /* a size below the header */
    assert_int_equal(p9c_next(c), 0);
    assert_int_equal(p9c_result(c, P9_TCLUNK, 1), -EINVAL);
    put_raw(c, 12, P9_TCLUNK, 1, 11); /* more than there is */
    assert_int_equal(p9c_next(c), 0);
    assert_int_equal(p9c_result(c, P9_TCLUNK, 1), -EINVAL);
    put_raw(c, 9000, P9_TWALK, 1, 9000); /* too long for its kind */
    assert_int_equal(p9c_next(c), 0);
    assert_int_equal(p9c_result(c, P9_TWALK, 1), -EMSGSIZE);
    put_raw(c, 11, P9_TCLUNK, 0xffff, 11);
    assert_int_equal(p9c_next(c), 0);
    assert_int_equal(p9c_result(c, P9_TCLUNK, 0xffff), -EINVAL);
    /* Every message cut off at every length: an error, or nothing to be missed. */
    for (unsigned type = 0; type < 256; type++) {
        const struct p9_op *op = p9_find_op((uint8_t)type);
        for (uint32_t n = 7; op && n < 60; n++) {
            memset(c->msg, 0, 64);
            put_raw(c, n, (uint8_t)type, type == P9_TVERSION ? (uint16_t)P9_NOTAG : 1, n);
            assert_int_equal(p9c_next(c), 0);
            assert_true(c->used >= 7);
        }
        assert_int_equal(p9c_version(c), 0);
        assert_int_equal(p9c_attach(c, ROOT), 0);
    }
    /* Data that is not there. */
    assert_int_equal(p9c_clone(c, ROOT, 2), 0);
    assert_int_equal(p9c_create(c, 2, "f", O_RDWR, 0644), 0);
    assert_int_equal(p9c_call(c, P9_TWRITE, "484z", 2U, 0UL, 100U, (size_t)99, c->reply), -EINVAL);
    assert_int_equal(p9c_call(c, P9_TWRITE, "484z", 2U, 0UL, UINT32_MAX, (size_t)99, c->reply), -EINVAL);
    assert_int_equal(p9c_read(c, 2, 0, UINT32_MAX), 0);
    assert_int_equal(p9c_write(c, 2, 1UL << 40, "x", 1), 1);
    assert_int_equal(p9c_read(c, 2, 0, UINT32_MAX), P9C_ROOM - 11); /* what there is room for */
    assert_int_equal(p9c_call(c, P9_TREADDIR, "484", 2U, 0UL, UINT32_MAX), -ENOTDIR);
}

static void test_no_room(void **st)
{
    struct p9c *c = *st;
    p9c_send(c, 0, P9C_TAGGED(P9_TGETATTR, 1), "48", ROOT, 0UL);
    drv_quiet(&c->d);
    p9c_next(c);
    /* An answer that does not fit is an error that does. */
    drv_desc(&c->d, 0, 1, (struct drv_desc){ P9C_IN, 11, D_WRITE, 0 });
    drv_add(&c->d, 0, 0);
    drv_kick(&c->d, 0);
    drv_quiet(&c->d);
    assert_int_equal(p9c_next(c), 0);
    assert_int_equal(p9c_result(c, P9_TGETATTR, 1), -EMSGSIZE);
    drv_desc(&c->d, 0, 1, (struct drv_desc){ P9C_IN, 10, D_WRITE, 0 });
    drv_add(&c->d, 0, 0);
    drv_kick(&c->d, 0);
    drv_quiet(&c->d);
    assert_true(drv_get(&c->d, 0x70) & 64);
    drv_start(&c->d, 0);
    assert_int_equal(p9c_version(c), 0);
    assert_int_equal(p9c_attach(c, ROOT), 0);
    drv_desc(&c->d, 0, 0, (struct drv_desc){ P9C_OUT, 6, D_NEXT, 1 });
    drv_add(&c->d, 0, 0);
    drv_kick(&c->d, 0);
    drv_quiet(&c->d);
    assert_true(drv_get(&c->d, 0x70) & 64);
}

/* ---- too many ---- */

static void test_descriptors(void **st)
{
    struct p9c *c = *st;
    struct p9 *p = (struct p9 *)c->d.v;
    assert_int_equal(atomic_load(&c->share->fds), 1);
    c->share->fds_max = 20;
    uint32_t n = 2;
    while (n < 100 && p9c_walk1(c, ROOT, n, "d") == 0)
        n++;
    assert_int_equal(n, 2 + 19);
    assert_int_equal(p9c_walk1(c, ROOT, n, "d"), -EMFILE);
    assert_int_equal(p9c_open(c, 2, O_RDONLY), -EMFILE);
    assert_int_equal(p9c_create(c, 3, "f", O_RDWR, 0644), -EMFILE);
    assert_int_equal(p9c_mkdir(c, ROOT, "n", 0755), -EMFILE); /* it is there, but cannot be named */
    assert_int_equal(p9c_clone(c, ROOT, n), 0);               /* clones share one */
    assert_int_equal(p9c_call(c, P9_TGETATTR, "48", 2U, 0UL), 0);
    for (uint32_t i = 2; i <= n; i++)
        assert_int_equal(p9c_clunk(c, i), 0);
    assert_int_equal(atomic_load(&c->share->fds), 1);
    /* Every way to fail gives back what it took. */
    for (unsigned max = 1; max < 8; max++) {
        c->share->fds_max = max;
        p9c_call(c, P9_TWALK, "442sss", ROOT, 5U, 3, "d", "e", "none");
        p9c_call(c, P9_TWALK, "442ss", ROOT, 2U, 2, "d", "e");
        p9c_open(c, 2, O_RDONLY);
        p9c_clone(c, ROOT, 3);
        p9c_create(c, 3, "f", O_RDWR, 0644);
        p9c_call(c, P9_TREMOVE, "4", 3U);
        p9c_call(c, P9_TXATTRWALK, "44s", 2U, 4U, "");
        for (uint32_t i = 2; i < 6; i++)
            p9c_clunk(c, i);
        assert_int_equal(atomic_load(&c->share->fds), 1);
        assert_int_equal(p->fids.n, 1);
    }
}

static void test_fids(void **st)
{
    struct p9c *c = *st;
    struct p9 *p = (struct p9 *)c->d.v;
    for (uint32_t i = 0; i < 5000; i++)
        assert_int_equal(p9c_clone(c, ROOT, 100 + i * 77), 0);
    assert_int_equal(atomic_load(&c->share->fds), 1);
    p->fids.n += P9_FIDS_MAX - 5001;
    assert_int_equal(p9c_clone(c, ROOT, 2), -EMFILE);
    p->fids.n -= P9_FIDS_MAX - 5001;
    assert_int_equal(p9c_version(c), 0);
    assert_int_equal(p->fids.n, 0);
    assert_int_equal(atomic_load(&c->share->fds), 0);
    /* Attribute values have a bound of their own. */
    assert_int_equal(p9c_attach(c, ROOT), 0);
    uint32_t i = 2;
    for (; i < 200; i++) {
        assert_int_equal(p9c_clone(c, ROOT, i), 0);
        if (p9c_call(c, P9_TXATTRCREATE, "4s84", i, "user.x", 65536UL, 0U) < 0)
            break;
    }
    assert_int_equal(i, 2 + (P9_ATTRS_MAX >> 16));
    virtio_mmio_ops.reset(c->d.v);
    assert_int_equal(p->fids.attr_bytes, 0);
}

int main(void)
{
    log_set_level(LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_dotdot, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bad_names, setup, teardown),
        cmocka_unit_test_setup_teardown(test_symlinks, setup, teardown),
        cmocka_unit_test_setup_teardown(test_proc, setup, teardown),
        cmocka_unit_test_setup_teardown(test_swap, setup, teardown),
        cmocka_unit_test_setup_teardown(test_moved, setup, teardown),
        cmocka_unit_test_setup_teardown(test_old_kernel, setup, teardown),
        cmocka_unit_test_setup_teardown(test_messages, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_room, setup, teardown),
        cmocka_unit_test_setup_teardown(test_descriptors, setup, teardown),
        cmocka_unit_test_setup_teardown(test_fids, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
