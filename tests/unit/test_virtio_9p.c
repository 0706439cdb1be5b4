/* SPDX-License-Identifier: MIT */
/* virtio-9p over a real directory: every message, its errors, order, read-only shares, owners, state. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <semaphore.h>
#include <sys/xattr.h>

#include "base/log.h"
#include "state/state.h"
#include "p9_client.h"

enum { NONE = 1000, ROOT = 1 };

static int setup(void **st)
{
    struct p9c *c = p9c_new();
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

static void restart(struct p9c *c, const struct share_cfg *cfg)
{
    p9c_stop(c);
    p9c_start(c, cfg);
    assert_int_equal(p9c_version(c), 0);
    assert_int_equal(p9c_attach(c, ROOT), 0);
}

static void put_file(struct p9c *c, const char *name, const char *text)
{
    int fd = open(p9c_path(c, name), O_WRONLY | O_CREAT | O_TRUNC, 0644);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
}

static void check_file(struct p9c *c, const char *name, const char *text)
{
    char b[256] = "";
    int fd = open(p9c_path(c, name), O_RDONLY);
    assert_true(fd >= 0);
    assert_int_equal(read(fd, b, sizeof(b) - 1), strlen(text));
    close(fd);
    assert_string_equal(b, text);
}

static mode_t mode_of(struct p9c *c, const char *name)
{
    struct stat st = { 0 };
    return lstat(p9c_path(c, name), &st) < 0 ? 0 : st.st_mode;
}

/* ---- session ---- */

static void test_config(void **st)
{
    struct p9c *c = *st;
    char b[8] = "";
    uint16_t n;
    virtio_mmio_ops.read(c->d.v, 0x100, &n, 2);
    assert_int_equal(n, 5);
    for (unsigned i = 0; i < 5; i++)
        virtio_mmio_ops.read(c->d.v, 0x102 + i, b + i, 1);
    assert_string_equal(b, "mytag");
    assert_true(drv_offered(&c->d) & 1);
    assert_int_equal(drv_get(&c->d, 8), 9);
}

static void test_version(void **st)
{
    struct p9c *c = *st;
    assert_int_equal(p9c_call(c, P9_TVERSION, "4s", 1U << 30, "9P2000.L"), 0);
    assert_int_equal(p9_get32(&c->in), 512 << 10);
    assert_int_equal(p9c_clunk(c, ROOT), -EBADF); /* a new session has no fids */
    assert_int_equal(p9c_call(c, P9_TVERSION, "4s", 4095U, "9P2000.L"), -EMSGSIZE);
    assert_int_equal(p9c_attach(c, ROOT), -EPROTO);
    assert_int_equal(p9c_call(c, P9_TVERSION, "4s", 8192U, "9P2000.u"), 0);
    assert_int_equal(p9_get32(&c->in), 8192);
    assert_memory_equal(c->reply + 11, "\7\0unknown", 9);
    assert_int_equal(p9c_attach(c, ROOT), -EPROTO);
    assert_int_equal(p9c_version(c), 0);
    assert_int_equal(p9c_attach(c, ROOT), 0);
    assert_int_equal(p9c_call(c, P9_TAUTH, "4ss4", 9U, "", "", 0U), -EOPNOTSUPP);
    assert_int_equal(p9c_call(c, P9_TATTACH, "44ss4", 9U, 8U, "", "", 0U), -EINVAL);
    assert_int_equal(p9c_call(c, 200, ""), -EOPNOTSUPP);
    assert_int_equal(p9c_call(c, P9_TLERROR, "4", 1U), -EOPNOTSUPP);
}

static void test_walk(void **st)
{
    struct p9c *c = *st;
    mkdir(p9c_path(c, "in/a"), 0755);
    mkdir(p9c_path(c, "in/a/b"), 0755);
    put_file(c, "in/a/b/f", "x");
    assert_int_equal(p9c_call(c, P9_TWALK, "442sss", ROOT, 2U, 3, "a", "b", "f"), 0);
    assert_int_equal(p9_get16(&c->in), 3);
    assert_int_equal(p9_get8(&c->in), P9_QT_DIR);
    struct stat s;
    stat(p9c_path(c, "in/a"), &s);
    p9_get32(&c->in);
    assert_int_equal(p9_get64(&c->in), s.st_ino);
    assert_int_equal(p9c_walk1(c, ROOT, 2, "a"), -EBUSY);
    assert_int_equal(p9c_attach(c, 2), -EBUSY);
    assert_int_equal(p9c_clone(c, ROOT, 2), -EBUSY);
    assert_int_equal(p9c_walk1(c, ROOT, P9_NOFID, "a"), -EBADF);
    assert_int_equal(p9c_walk1(c, 99, 3, "a"), -EBADF);
    assert_int_equal(p9c_walk1(c, ROOT, 3, "none"), -ENOENT);
    assert_int_equal(p9c_walk1(c, 2, 3, "f"), -ENOTDIR);
    assert_int_equal(p9c_clunk(c, 3), -EBADF);
    /* Half a walk makes no fid. */
    assert_int_equal(p9c_call(c, P9_TWALK, "442sss", ROOT, 3U, 3, "a", "none", "f"), 0);
    assert_int_equal(p9_get16(&c->in), 1);
    assert_int_equal(c->used, 7 + 2 + 13);
    assert_int_equal(p9c_clunk(c, 3), -EBADF);
    /* A clone, and a walk onto itself. */
    assert_int_equal(p9c_clone(c, ROOT, 3), 0);
    assert_int_equal(p9c_call(c, P9_TWALK, "442ss", 3U, 3U, 2, "a", "b"), 0);
    assert_int_equal(p9c_walk1(c, 3, 4, "f"), 0);
    assert_int_equal(p9c_clunk(c, 4), 0);
    assert_int_equal(p9c_clunk(c, 4), -EBADF);
    /* Fids on one node are independent; attach takes a path. */
    assert_int_equal(p9c_call(c, P9_TATTACH, "44ss4", 5U, P9_NOFID, "", "/a/b", 0U), 0);
    assert_int_equal(p9c_walk1(c, 5, 6, "f"), 0);
    assert_int_equal(p9c_call(c, P9_TATTACH, "44ss4", 7U, P9_NOFID, "", "../out", 0U), -ENOENT);
    assert_int_equal(p9c_call(c, P9_TWALK, "442sssssssssssssssss", ROOT, 8U, 17, "a", "a", "a", "a", "a", "a", "a", "a",
                              "a", "a", "a", "a", "a", "a", "a", "a", "a"),
                     -EINVAL);
}

/* ---- files ---- */

static void test_files(void **st)
{
    struct p9c *c = *st;
    assert_int_equal(p9c_clone(c, ROOT, 2), 0);
    assert_int_equal(p9c_write(c, 2, 0, "x", 1), -EBADF);
    assert_int_equal(p9c_create(c, 2, "f", O_RDWR, 0666), 0);
    assert_int_equal(mode_of(c, "in/f"), S_IFREG | 0666);           /* no umask of the host's */
    assert_int_equal(p9c_create(c, 2, "g", O_RDWR, 0666), -EINVAL); /* it is a file now */
    assert_int_equal(p9c_write(c, 2, 0, "hello", 5), 5);
    assert_int_equal(p9c_write(c, 2, 10, "there", 5), 5);
    assert_int_equal(p9c_read(c, 2, 0, 100), 15);
    assert_memory_equal(c->reply + 11, "hello\0\0\0\0\0there", 15);
    assert_int_equal(c->used, 11 + 15);
    assert_int_equal(p9c_read(c, 2, 15, 100), 0);
    assert_int_equal(p9c_read(c, 2, UINT64_MAX, 100), -EINVAL);
    assert_int_equal(p9c_write(c, 2, UINT64_MAX - 2, "hello", 5), -EINVAL);
    assert_int_equal(p9c_write(c, 2, INT64_MAX, "hello", 5), -EINVAL);
    assert_int_equal(p9c_call(c, P9_TFSYNC, "44", 2U, 0U), 0);
    assert_int_equal(p9c_call(c, P9_TFSYNC, "4", 2U), 0); /* as older clients say it */
    assert_int_equal(p9c_call(c, P9_TFSYNC, "44", ROOT, 0U), -EBADF);
    /* Made again, with and without O_EXCL. */
    assert_int_equal(p9c_clone(c, ROOT, 3), 0);
    assert_int_equal(p9c_create(c, 3, "f", O_RDWR | O_EXCL, 0600), -EEXIST);
    assert_int_equal(p9c_create(c, 3, "f", O_RDONLY, 0600), 0);
    assert_int_equal(p9c_read(c, 3, 0, 5), 5);
    assert_int_equal(p9c_write(c, 3, 0, "x", 1), -EBADF);
    assert_int_equal(p9c_open(c, 3, O_RDONLY), -EINVAL);
    assert_int_equal(p9c_walk1(c, ROOT, 4, "f"), 0);
    assert_int_equal(p9c_open(c, 4, O_WRONLY | O_TRUNC), 0);
    assert_int_equal(p9c_read(c, 2, 0, 5), 0);
    assert_int_equal(p9c_read(c, 4, 0, 5), -EBADF);
    /* Append goes to the end whatever the offset. */
    assert_int_equal(p9c_walk1(c, ROOT, 5, "f"), 0);
    assert_int_equal(p9c_write(c, 4, 0, "abc", 3), 3);
    assert_int_equal(p9c_open(c, 5, O_WRONLY | O_APPEND), 0);
    assert_int_equal(p9c_write(c, 5, 0, "d", 1), 1);
    check_file(c, "in/f", "abcd");
    /* Unlinked, it lives on. */
    assert_int_equal(p9c_call(c, P9_TUNLINKAT, "4s4", ROOT, "f", 0U), 0);
    assert_int_equal(p9c_read(c, 2, 0, 100), 4);
    assert_int_equal(p9c_call(c, P9_TGETATTR, "48", 2U, 0x7ffUL), 0);
    /* Directories are not read, special files not opened. */
    assert_int_equal(p9c_clone(c, ROOT, 6), 0);
    assert_int_equal(p9c_open(c, 6, O_RDWR), -EISDIR);
    assert_int_equal(p9c_open(c, 6, O_RDONLY), 0);
    assert_int_equal(p9c_read(c, 6, 0, 10), -EISDIR);
    assert_int_equal(mkfifo(p9c_path(c, "in/p"), 0644), 0);
    assert_int_equal(p9c_walk1(c, ROOT, 7, "p"), 0);
    assert_int_equal(p9c_open(c, 7, O_RDONLY), -ENXIO);
    assert_int_equal(p9c_open(c, 7, O_RDWR), -ENXIO);
    symlink("p", p9c_path(c, "in/l"));
    assert_int_equal(p9c_walk1(c, ROOT, 8, "l"), 0);
    assert_int_equal(p9c_open(c, 8, O_RDONLY), -ELOOP);
    assert_int_equal(p9c_clone(c, ROOT, 9), 0);
    assert_int_equal(p9c_create(c, 9, "l", O_RDWR, 0600), -ELOOP);
    assert_int_equal(p9c_create(c, 9, "p", O_RDWR, 0600), -ENXIO);
}

/* Message and data cut into many buffers, as the zero-copy path of Linux does. */
static void test_framing(void **st)
{
    struct p9c *c = *st;
    static uint8_t data[5000], back[5000];
    for (unsigned i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)(i * 7);
    assert_int_equal(p9c_clone(c, ROOT, 2), 0);
    assert_int_equal(p9c_create(c, 2, "f", O_RDWR, 0644), 0);
    assert_int_equal(p9c_call(c, P9_TWRITE, "484z", 2U, 0UL, 5000U, sizeof(data), data), 0);
    mem_write(c->d.mem, P9C_OUT, c->msg, 23 + 5000);
    const uint32_t cut[] = { 3, 19, 6, 0, 4000, 995 };
    gpa_t at = P9C_OUT;
    for (uint16_t i = 0; i < 6; i++) {
        drv_desc(&c->d, 0, i, (struct drv_desc){ at, cut[i], D_NEXT, (uint16_t)(i + 1) });
        at += cut[i];
    }
    drv_desc(&c->d, 0, 6, (struct drv_desc){ P9C_IN, 5, D_WRITE | D_NEXT, 7 });
    drv_desc(&c->d, 0, 7, (struct drv_desc){ P9C_IN + 5, 100, D_WRITE, 0 });
    drv_add(&c->d, 0, 0);
    drv_kick(&c->d, 0);
    drv_quiet(&c->d);
    assert_int_equal(p9c_next(c), 0);
    assert_int_equal(p9c_result(c, P9_TWRITE, (uint16_t)(c->tag - 1)), 0);
    assert_int_equal(p9_get32(&c->in), 5000);
    /* Reading: the header's eleven bytes, then pages. */
    p9c_send(c, 0, P9C_TAGGED(P9_TREAD, 77), "484", 2U, 0UL, 5000U);
    drv_quiet(&c->d);
    assert_int_equal(p9c_next(c), 0);
    drv_desc(&c->d, 0, 1, (struct drv_desc){ P9C_IN, 4, D_WRITE | D_NEXT, 2 });
    drv_desc(&c->d, 0, 2, (struct drv_desc){ P9C_IN + 4, 7, D_WRITE | D_NEXT, 3 });
    drv_desc(&c->d, 0, 3, (struct drv_desc){ P9C_IN + 0x3000, 4096, D_WRITE | D_NEXT, 4 });
    drv_desc(&c->d, 0, 4, (struct drv_desc){ P9C_IN + 0x1000, 904, D_WRITE, 0 });
    drv_add(&c->d, 0, 0);
    drv_kick(&c->d, 0);
    drv_quiet(&c->d);
    assert_int_equal(p9c_next(c), 0);
    assert_int_equal(c->used, 5011);
    mem_read(c->d.mem, P9C_IN + 0x3000, back, 4096);
    mem_read(c->d.mem, P9C_IN + 0x1000, back + 4096, 904);
    assert_memory_equal(back, data, sizeof(data));
}

static void test_attrs(void **st)
{
    struct p9c *c = *st;
    struct stat s;
    put_file(c, "in/f", "hello");
    assert_int_equal(p9c_walk1(c, ROOT, 2, "f"), 0);
    assert_int_equal(p9c_setattr(c, 2, 1 | 8, 04751, 3), 0);
    check_file(c, "in/f", "hel");
    assert_int_equal(mode_of(c, "in/f"), S_IFREG | 04751);
    assert_int_equal(p9c_setattr(c, 2, 0x10 | 0x20 | 0x80 | 0x100, 0, 0), 0);
    stat(p9c_path(c, "in/f"), &s);
    assert_int_equal(s.st_atim.tv_sec, 1000);
    assert_int_equal(s.st_mtim.tv_nsec, 6);
    assert_int_equal(p9c_setattr(c, 2, 0x20, 0, 0), 0); /* now */
    stat(p9c_path(c, "in/f"), &s);
    assert_int_equal(s.st_atim.tv_sec, 1000);
    assert_true(s.st_mtim.tv_sec > 1000000);
    assert_int_equal(p9c_setattr(c, 2, 8, 0, UINT64_MAX), -EINVAL);
    assert_int_equal(p9c_setattr(c, ROOT, 8, 0, 0), -EISDIR);
    int owner = p9c_setattr(c, 2, 2 | 4, 0, 0); /* 12:34 */
    assert_int_equal(owner, geteuid() ? -EPERM : 0);
    assert_int_equal(p9c_call(c, P9_TGETATTR, "48", 2U, 0x7ffUL), 0);
    stat(p9c_path(c, "in/f"), &s);
    assert_int_equal(p9_get64(&c->in) & 0x7ff, 0x7ff);
    assert_int_equal(p9_get8(&c->in), 0);
    p9_get32(&c->in);
    assert_int_equal(p9_get64(&c->in), s.st_ino);
    assert_int_equal(p9_get32(&c->in), s.st_mode);
    assert_int_equal(p9_get32(&c->in), s.st_uid);
    assert_int_equal(p9_get32(&c->in), s.st_gid);
    assert_int_equal(p9_get64(&c->in), 1);
    assert_int_equal(p9_get64(&c->in), 0);
    assert_int_equal(p9_get64(&c->in), 3);
    assert_int_equal(c->used, 7 + 153);
    assert_int_equal(p9c_call(c, P9_TSTATFS, "4", 2U), 0);
    assert_int_equal(c->used, 7 + 60);
    /* A symbolic link itself, not what it leads to. */
    symlink("../out", p9c_path(c, "in/l"));
    assert_int_equal(p9c_walk1(c, ROOT, 3, "l"), 0);
    assert_int_equal(p9c_setattr(c, 3, 1, 0777, 0), -EOPNOTSUPP);
    assert_int_equal(p9c_setattr(c, 3, 0x20 | 0x100, 0, 0), 0);
    lstat(p9c_path(c, "in/l"), &s);
    assert_int_equal(s.st_mtim.tv_sec, 2000);
    stat(p9c_path(c, "out"), &s);
    assert_true(s.st_mtim.tv_sec > 1000000);
    assert_int_equal(p9c_call(c, P9_TREADLINK, "4", 3U), 0);
    assert_memory_equal(c->reply + 7, "\6\0../out", 8);
    assert_int_equal(p9c_call(c, P9_TREADLINK, "4", 2U), -EINVAL);
}

/* ---- names ---- */

static void test_names(void **st)
{
    struct p9c *c = *st;
    assert_int_equal(p9c_mkdir(c, ROOT, "d", 0777), 0);
    assert_int_equal(mode_of(c, "in/d"), S_IFDIR | 0777);
    assert_int_equal(p9c_mkdir(c, ROOT, "d", 0777), -EEXIST);
    put_file(c, "in/f", "x");
    assert_int_equal(p9c_walk1(c, ROOT, 2, "d"), 0);
    assert_int_equal(p9c_walk1(c, ROOT, 3, "f"), 0);
    assert_int_equal(p9c_call(c, P9_TLINK, "44s", 2U, 3U, "hard"), 0);
    check_file(c, "in/d/hard", "x");
    assert_int_equal(p9c_call(c, P9_TLINK, "44s", ROOT, 2U, "dirlink"), -EPERM);
    assert_int_equal(p9c_call(c, P9_TSYMLINK, "4ss4", ROOT, "s", "/etc/passwd", 0U), 0);
    assert_int_equal(p9_get8(&c->in), P9_QT_SYMLINK);
    assert_int_equal(p9c_walk1(c, ROOT, 4, "s"), 0);
    assert_int_equal(p9c_call(c, P9_TLINK, "44s", ROOT, 4U, "s2"), 0); /* the link, not what it names */
    assert_int_equal(mode_of(c, "in/s2") & S_IFMT, S_IFLNK);
    assert_int_equal(p9c_call(c, P9_TMKNOD, "4s4444", ROOT, "p", S_IFIFO | 0622U, 0U, 0U, 0U), 0);
    assert_int_equal(mode_of(c, "in/p"), S_IFIFO | 0622);
    assert_int_equal(p9c_call(c, P9_TMKNOD, "4s4444", ROOT, "sock", S_IFSOCK | 0600U, 0U, 0U, 0U), 0);
    assert_int_equal(p9c_call(c, P9_TMKNOD, "4s4444", ROOT, "r", S_IFREG | 0600U, 0U, 0U, 0U), 0);
    assert_int_equal(p9c_call(c, P9_TMKNOD, "4s4444", ROOT, "c", S_IFCHR | 0600U, 1U, 3U, 0U), -EPERM);
    assert_int_equal(p9c_call(c, P9_TMKNOD, "4s4444", ROOT, "b", S_IFBLK | 0600U, 1U, 3U, 0U), -EPERM);
    assert_int_equal(mode_of(c, "in/c"), 0);
    assert_int_equal(p9c_call(c, P9_TRENAMEAT, "4s4s", ROOT, "f", 2U, "g"), 0);
    check_file(c, "in/d/g", "x");
    assert_int_equal(p9c_call(c, P9_TRENAMEAT, "4s4s", ROOT, "f", 2U, "g"), -ENOENT);
    assert_int_equal(p9c_call(c, P9_TRENAMEAT, "4s4s", ROOT, "d", 2U, "sub"), -EINVAL);
    /* By fid, after its name has changed twice. */
    assert_int_equal(p9c_call(c, P9_TRENAME, "44s", 3U, ROOT, "again"), 0);
    check_file(c, "in/again", "x");
    assert_int_equal(p9c_call(c, P9_TRENAME, "44s", ROOT, 2U, "top"), -EBUSY);
    assert_int_equal(p9c_call(c, P9_TUNLINKAT, "4s4", ROOT, "d", 0U), -EISDIR);
    assert_int_equal(p9c_call(c, P9_TUNLINKAT, "4s4", ROOT, "d", 0x200U), -ENOTEMPTY);
    assert_int_equal(p9c_call(c, P9_TUNLINKAT, "4s4", ROOT, "d", 1U), -EINVAL);
    assert_int_equal(p9c_call(c, P9_TREMOVE, "4", 2U), -ENOTEMPTY);
    assert_int_equal(p9c_clunk(c, 2), -EBADF); /* it is gone all the same */
    assert_int_equal(p9c_call(c, P9_TUNLINKAT, "4s4", ROOT, "again", 0U), 0);
    assert_int_equal(p9c_call(c, P9_TREMOVE, "4", 3U), -ENOENT);
    assert_int_equal(p9c_call(c, P9_TREMOVE, "4", 4U), 0);
    assert_int_equal(mode_of(c, "in/s"), 0);
    assert_int_equal(mode_of(c, "in/s2") & S_IFMT, S_IFLNK);
}

/* One answer of Treaddir: the entries go to seen; the offset after the last, or what it began with at the end. */
static uint64_t dir_part(struct p9c *c, uint32_t fid, uint64_t off, uint32_t count, uint8_t *seen)
{
    assert_int_equal(p9c_call(c, P9_TREADDIR, "484", fid, off, count), 0);
    uint32_t n = p9_get32(&c->in);
    assert_true(n <= count && n == c->used - 11);
    while (c->in.at < c->used) {
        char name[256];
        unsigned i;
        p9_get8(&c->in);
        p9_get32(&c->in);
        assert_true(p9_get64(&c->in) != 0);
        off = p9_get64(&c->in);
        p9_get8(&c->in);
        assert_int_equal(p9_get_str(&c->in, name, sizeof(name)), 0);
        if (sscanf(name, "file%u", &i) == 1)
            seen[i]++;
    }
    return off;
}

static void test_readdir(void **st)
{
    enum { N = 2000 };
    struct p9c *c = *st;
    static const uint32_t counts[] = { 400, 1500, 8000, 65000 };
    uint8_t *seen = calloc(2, N), *again = seen + N;
    for (unsigned i = 0; i < N; i++) {
        char name[64];
        snprintf(name, sizeof(name), "in/file%u%.*s", i, (int)(i % 40), "-123456789012345678901234567890123456789");
        put_file(c, name, "");
    }
    assert_int_equal(p9c_call(c, P9_TREADDIR, "484", ROOT, 0UL, 8000U), -EBADF);
    for (unsigned k = 0; k < ARRAY_LEN(counts); k++) {
        assert_int_equal(p9c_clone(c, ROOT, 2), 0);
        assert_int_equal(p9c_open(c, 2, O_RDONLY | O_DIRECTORY), 0);
        memset(seen, 0, N);
        uint64_t at = 0, next, middle = 0;
        for (unsigned parts = 0; (next = dir_part(c, 2, at, counts[k], seen)) != at; parts++) {
            at = next;
            if (parts == 3) /* elsewhere and back */
                middle = dir_part(c, 2, 0, counts[k], again);
        }
        for (unsigned i = 0; i < N; i++)
            assert_int_equal(seen[i], 1);
        if (middle) { /* an offset of the first part is still good */
            memset(seen, 0, N);
            dir_part(c, 2, 0, counts[k], seen);
            for (at = middle; (next = dir_part(c, 2, at, counts[k], seen)) != at;)
                at = next;
            for (unsigned i = 0; i < N; i++)
                assert_int_equal(seen[i], 1);
        }
        assert_int_equal(p9c_clunk(c, 2), 0);
    }
    assert_int_equal(p9c_clone(c, ROOT, 2), 0);
    assert_int_equal(p9c_open(c, 2, O_RDONLY), 0);
    assert_int_equal(p9c_call(c, P9_TREADDIR, "484", 2U, 0UL, 20U), -EINVAL);
    p9c_call(c, P9_TREADDIR, "484", 2U, UINT64_MAX, 8000U);
    free(seen);
}

static void test_xattrs(void **st)
{
    struct p9c *c = *st;
    char b[16];
    put_file(c, "in/f", "x");
    if (setxattr(p9c_path(c, "in/f"), "user.host", "1", 1, 0) < 0)
        skip(); /* the file system of /tmp has none */
    assert_int_equal(p9c_walk1(c, ROOT, 2, "f"), 0);
    assert_int_equal(p9c_call(c, P9_TXATTRWALK, "44s", 2U, 3U, "user.host"), 0);
    assert_int_equal(p9_get64(&c->in), 1);
    assert_int_equal(p9c_read(c, 3, 0, 10), 1);
    assert_int_equal(c->reply[11], '1');
    assert_int_equal(p9c_write(c, 3, 0, "2", 1), -EINVAL);
    assert_int_equal(p9c_clunk(c, 3), 0);
    assert_int_equal(p9c_call(c, P9_TXATTRWALK, "44s", 2U, 3U, "user.none"), -ENODATA);
    assert_int_equal(p9c_call(c, P9_TXATTRWALK, "44s", 2U, 3U, "security.capability"), -ENODATA);
    assert_int_equal(p9c_call(c, P9_TXATTRWALK, "44s", 2U, 3U, "system.posix_acl_access"), -EOPNOTSUPP);
    /* Writing: it counts when the fid is clunked, and only when all of it came. */
    assert_int_equal(p9c_clone(c, 2, 4), 0);
    assert_int_equal(p9c_call(c, P9_TXATTRCREATE, "4s84", 4U, "user.guest", 6UL, 0U), 0);
    assert_int_equal(p9c_write(c, 4, 0, "abc", 3), 3);
    assert_int_equal(p9c_write(c, 4, 0, "abc", 3), -ENOSPC);
    assert_int_equal(p9c_write(c, 4, 3, "defg", 4), -ENOSPC);
    assert_int_equal(p9c_read(c, 4, 0, 3), -EINVAL);
    assert_int_equal(p9c_write(c, 4, 3, "def", 3), 3);
    assert_int_equal(p9c_clunk(c, 4), 0);
    assert_int_equal(getxattr(p9c_path(c, "in/f"), "user.guest", b, sizeof(b)), 6);
    assert_memory_equal(b, "abcdef", 6);
    assert_int_equal(p9c_clone(c, 2, 4), 0);
    assert_int_equal(p9c_call(c, P9_TXATTRCREATE, "4s84", 4U, "user.guest", 6UL, 0U), 0);
    assert_int_equal(p9c_clunk(c, 4), -EINVAL);
    static const struct {
        const char *name;
        uint64_t size;
        int create, clunk;
        uint32_t flags;
    } t[] = {
        { "user.guest", 0, 0, -EEXIST, XATTR_CREATE },
        { "trusted.x", 0, 0, -EPERM, 0 },
        { "security.x", 0, 0, -EPERM, 0 },
        { "user.", 0, 0, -EPERM, 0 },
        { "user.big", 65537, -E2BIG, 0, 0 },
        { "user.guest", 0, 0, 0, XATTR_REPLACE },
    };
    for (unsigned i = 0; i < ARRAY_LEN(t); i++) {
        assert_int_equal(p9c_clone(c, 2, 5), 0);
        assert_int_equal(p9c_call(c, P9_TXATTRCREATE, "4s84", 5U, t[i].name, t[i].size, t[i].flags), t[i].create);
        assert_int_equal(p9c_clunk(c, 5), t[i].clunk);
    }
    assert_true(getxattr(p9c_path(c, "in/f"), "user.guest", b, sizeof(b)) < 0);
    assert_int_equal(p9c_call(c, P9_TXATTRWALK, "44s", 2U, 6U, ""), 0);
    assert_int_equal(p9_get64(&c->in), 10);
    assert_int_equal(p9c_read(c, 6, 0, 100), 10);
    assert_memory_equal(c->reply + 11, "user.host", 10);
}

/* Whether somebody else of the host could lock [start, start + len) for writing. */
static bool host_may(struct p9c *c, off_t start, off_t len)
{
    struct flock l = { .l_type = F_WRLCK, .l_start = start, .l_len = len };
    int fd = open(p9c_path(c, "in/f"), O_RDWR);
    assert_int_equal(fcntl(fd, F_OFD_GETLK, &l), 0);
    close(fd);
    return l.l_type == F_UNLCK;
}

enum { RD, WR, UN };
/* The status of Tlock, or -errno. */
static int lock_range(struct p9c *c, uint32_t fid, uint32_t process, int type, uint64_t range[2])
{
    int e = p9c_call(c, P9_TLOCK, "414884s", fid, type, 1U, range[0], range[1], process, "me");
    return e < 0 ? e : c->reply[7];
}
#define RANGE(...) ((uint64_t[2]){ __VA_ARGS__ })

static void test_locks(void **st)
{
    struct p9c *c = *st;
    put_file(c, "in/f", "x");
    assert_int_equal(p9c_walk1(c, ROOT, 2, "f"), 0);
    assert_int_equal(lock_range(c, 2, 7, WR, RANGE(0, 0)), -EBADF);
    assert_int_equal(p9c_clone(c, 2, 3), 0);
    assert_int_equal(p9c_open(c, 2, O_RDWR), 0);
    assert_int_equal(p9c_open(c, 3, O_RDWR), 0);
    assert_int_equal(lock_range(c, 2, 7, WR, RANGE(0, 100)), 0);
    assert_false(host_may(c, 99, 1));
    assert_true(host_may(c, 100, 0));
    assert_int_equal(lock_range(c, 2, 7, UN, RANGE(10, 10)), 0); /* a hole */
    assert_true(host_may(c, 10, 10));
    assert_false(host_may(c, 9, 1));
    assert_false(host_may(c, 20, 1));
    assert_int_equal(lock_range(c, 3, 7, UN, RANGE(0, 0)), 0); /* by another fid of the same process */
    assert_true(host_may(c, 0, 0));
    /* Two that share: it is free when both have let go. */
    assert_int_equal(lock_range(c, 2, 7, RD, RANGE(0, 10)), 0);
    assert_int_equal(lock_range(c, 3, 8, RD, RANGE(5, 10)), 0);
    assert_int_equal(lock_range(c, 2, 7, UN, RANGE(0, 0)), 0);
    assert_true(host_may(c, 0, 5));
    assert_false(host_may(c, 5, 1));
    assert_int_equal(p9c_clunk(c, 3), 0);
    assert_true(host_may(c, 0, 0));
    assert_int_equal(((struct p9 *)c->d.v)->n_locked, 0);
    /* The host was first. */
    int fd = open(p9c_path(c, "in/f"), O_RDWR);
    struct flock l = { .l_type = F_WRLCK, .l_start = 100, .l_len = 10 };
    assert_int_equal(fcntl(fd, F_OFD_SETLK, &l), 0);
    assert_int_equal(lock_range(c, 2, 7, RD, RANGE(0, 10)), 0);
    assert_int_equal(lock_range(c, 2, 7, WR, RANGE(5, 100)), 1);
    assert_true(host_may(c, 10, 90)); /* half of it was given back */
    assert_int_equal(p9c_call(c, P9_TGETLOCK, "41884s", 2U, WR, 50UL, 100UL, 7U, "me"), 0);
    assert_int_equal(p9_get8(&c->in), WR);
    assert_int_equal(p9_get64(&c->in), 100);
    assert_int_equal(p9_get64(&c->in), 10);
    assert_int_equal(p9c_call(c, P9_TGETLOCK, "41884s", 2U, WR, 0UL, 10UL, 7U, "me"), 0);
    assert_int_equal(c->reply[7], UN); /* the guest's own do not count */
    close(fd);
    assert_int_equal(lock_range(c, 2, 7, WR, RANGE(5, 100)), 0);
    assert_int_equal(lock_range(c, 2, 7, 9, RANGE(0, 0)), -EINVAL);
    assert_int_equal(lock_range(c, 2, 7, WR, RANGE(UINT64_MAX, 1)), -EINVAL);
    assert_int_equal(lock_range(c, 2, 7, WR, RANGE(INT64_MAX, INT64_MAX)), -EINVAL);
    assert_int_equal(lock_range(c, 2, 7, WR, RANGE(INT64_MAX - 1, 1)), 0);
    for (uint64_t i = 0; i < 300; i++) /* bounded */
        assert_int_equal(lock_range(c, 2, 9, RD, RANGE(1000 + i * 2, 1)), i < 253 ? 0 : 2);
    assert_int_equal(p9c_version(c), 0);
    assert_true(host_may(c, 0, 0));
}

/* ---- shares of other kinds ---- */

static void test_read_only(void **st)
{
    struct p9c *c = *st;
    put_file(c, "in/f", "x");
    mkdir(p9c_path(c, "in/d"), 0755);
    restart(c, &(struct share_cfg){ .read_only = true });
    assert_int_equal(p9c_walk1(c, ROOT, 2, "f"), 0);
    assert_int_equal(p9c_clone(c, 2, 3), 0);
    assert_int_equal(p9c_open(c, 3, O_RDWR), -EROFS);
    assert_int_equal(p9c_open(c, 3, O_WRONLY), -EROFS);
    assert_int_equal(p9c_open(c, 3, O_RDONLY | O_TRUNC), -EROFS);
    assert_int_equal(p9c_open(c, 3, O_RDONLY), 0);
    assert_int_equal(p9c_read(c, 3, 0, 10), 1);
    assert_int_equal(p9c_write(c, 3, 0, "y", 1), -EBADF);
    assert_int_equal(p9c_call(c, P9_TFSYNC, "44", 3U, 0U), 0);
    assert_int_equal(p9c_clone(c, ROOT, 4), 0);
    assert_int_equal(p9c_create(c, 4, "n", O_RDWR, 0644), -EROFS);
    assert_int_equal(p9c_create(c, 4, "f", O_RDONLY, 0644), -EROFS);
    assert_int_equal(p9c_mkdir(c, ROOT, "n", 0755), -EROFS);
    assert_int_equal(p9c_call(c, P9_TSYMLINK, "4ss4", ROOT, "n", "x", 0U), -EROFS);
    assert_int_equal(p9c_call(c, P9_TMKNOD, "4s4444", ROOT, "n", S_IFIFO | 0622U, 0U, 0U, 0U), -EROFS);
    assert_int_equal(p9c_call(c, P9_TLINK, "44s", ROOT, 2U, "n"), -EROFS);
    assert_int_equal(p9c_call(c, P9_TRENAMEAT, "4s4s", ROOT, "f", ROOT, "n"), -EROFS);
    assert_int_equal(p9c_call(c, P9_TRENAME, "44s", 2U, ROOT, "n"), -EROFS);
    assert_int_equal(p9c_call(c, P9_TUNLINKAT, "4s4", ROOT, "f", 0U), -EROFS);
    for (uint32_t bit = 1; bit < 0x200; bit <<= 1)
        if (bit != 0x80 && bit != 0x100) /* they only qualify others */
            assert_int_equal(p9c_setattr(c, 2, bit, 0644, 0), -EROFS);
    assert_int_equal(p9c_call(c, P9_TXATTRCREATE, "4s84", 2U, "user.x", 1UL, 0U), -EROFS);
    assert_int_equal(p9c_call(c, P9_TREMOVE, "4", 2U), -EROFS);
    check_file(c, "in/f", "x");
}

/* As an ordinary user that the guest takes for root. */
static void test_map_root(void **st)
{
    struct p9c *c = *st;
    enum { USER = 4242 };
    struct stat s;
    bool root = geteuid() == 0;
    put_file(c, "in/f", "x");
    put_file(c, "in/other", "x");
    p9c_stop(c);
    if (root) {
        assert_int_equal(chown(c->dir, USER, USER) | chown(p9c_path(c, "in"), USER, USER) |
                             chown(p9c_path(c, "in/f"), USER, USER),
                         0);
        assert_int_equal(setegid(USER) | seteuid(USER), 0);
    }
    p9c_start(c, &(struct share_cfg){ .map_root = true });
    assert_int_equal(p9c_version(c), 0);
    assert_int_equal(p9c_attach(c, ROOT), 0);
    assert_int_equal(p9c_walk1(c, ROOT, 2, "f"), 0);
    assert_int_equal(p9c_call(c, P9_TGETATTR, "48", 2U, 0x7ffUL), 0);
    c->in.at = 7 + 8 + 13 + 4;
    assert_int_equal(p9_get32(&c->in), 0);
    assert_int_equal(p9_get32(&c->in), 0);
    assert_int_equal(p9c_setattr(c, 2, 2 | 4, 0, 0), 0); /* chown 12:34 is taken, and forgotten */
    stat(p9c_path(c, "in/f"), &s);
    assert_int_equal(s.st_uid, geteuid());
    assert_int_equal(p9c_setattr(c, 2, 1, 0, 0), 0); /* root may open what nobody may */
    assert_int_equal(p9c_open(c, 2, O_RDWR), 0);
    assert_int_equal(p9c_write(c, 2, 0, "y", 1), 1);
    assert_int_equal(mode_of(c, "in/f") & 0777, 0);
    if (root) { /* what belongs to another user stays so */
        assert_int_equal(p9c_walk1(c, ROOT, 3, "other"), 0);
        assert_int_equal(p9c_setattr(c, 3, 2, 0, 0), -EPERM);
        assert_int_equal(p9c_open(c, 3, O_RDWR), -EACCES);
    }
    assert_int_equal(p9c_clone(c, ROOT, 4), 0);
    assert_int_equal(p9c_create(c, 4, "new", O_RDWR, 0400), 0);
    assert_int_equal(p9c_write(c, 4, 0, "y", 1), 1);
    p9c_stop(c);
    if (root)
        assert_int_equal(seteuid(0) | setegid(0), 0);
    p9c_start(c, NULL);
}

/* ---- order ---- */

struct blocker {
    struct p9_file *file;
    sem_t held, go;
};
static void *block_main(void *arg)
{
    struct blocker *b = arg;
    lock_take(&b->file->lock);
    sem_post(&b->held);
    sem_wait(&b->go);
    lock_drop(&b->file->lock);
    return NULL;
}

/* A Treaddir with tag 5 that does not end until unblock. */
static pthread_t block(struct p9c *c, struct blocker *b)
{
    struct p9_fid f;
    pthread_t t;
    assert_int_equal(p9c_clone(c, ROOT, 2), 0);
    assert_int_equal(p9c_open(c, 2, O_RDONLY), 0);
    assert_int_equal(p9_get_fid((struct p9 *)c->d.v, 2, &f), 0);
    b->file = f.file;
    sem_init(&b->held, 0, 0);
    sem_init(&b->go, 0, 0);
    pthread_create(&t, NULL, block_main, b);
    sem_wait(&b->held);
    p9_put_fid((struct p9 *)c->d.v, &f);
    p9c_send(c, 0, P9C_TAGGED(P9_TREADDIR, 5), "484", 2U, 0UL, 8000U);
    return t;
}
static void unblock(struct p9c *c, struct blocker *b, pthread_t t)
{
    sem_post(&b->go);
    pthread_join(t, NULL);
    drv_quiet(&c->d);
}

static void wait_answer(struct p9c *c, int slot)
{
    int got;
    while ((got = p9c_next(c)) < 0)
        usleep(100);
    assert_int_equal(got, slot);
}

static void test_flush(void **st)
{
    struct p9c *c = *st;
    struct blocker b;
    pthread_t t = block(c, &b);
    p9c_send(c, 1, P9C_TAGGED(P9_TFLUSH, 6), "2", 5);
    p9c_send(c, 2, P9C_TAGGED(P9_TFLUSH, 7), "2", 99); /* nothing of that name: at once */
    wait_answer(c, 2);
    assert_int_equal(p9c_result(c, P9_TFLUSH, 7), 0);
    p9c_send(c, 3, P9C_TAGGED(P9_TREADDIR, 5), "484", 2U, 0UL, 8000U); /* the tag is in use */
    wait_answer(c, 3);
    assert_int_equal(p9c_result(c, P9_TREADDIR, 5), -EINVAL);
    p9c_send(c, 4, P9C_TAGGED(P9_TFLUSH, 8), "2", 5);  /* a second one */
    p9c_send(c, 5, P9C_TAGGED(P9_TCLUNK, 9), "4", 2U); /* the fid may go meanwhile, and others go on */
    wait_answer(c, 5);
    assert_int_equal(p9c_result(c, P9_TCLUNK, 9), 0);
    assert_int_equal(p9c_next(c), -1);
    unblock(c, &b, t);
    assert_int_equal(p9c_next(c), 0);
    assert_int_equal(p9c_result(c, P9_TREADDIR, 5), 0);
    assert_int_equal(p9c_next(c), 1);
    assert_int_equal(p9c_result(c, P9_TFLUSH, 6), 0);
    assert_int_equal(p9c_next(c), 4);
    assert_int_equal(p9c_result(c, P9_TFLUSH, 8), 0);
}

static void test_version_alone(void **st)
{
    struct p9c *c = *st;
    struct blocker b;
    pthread_t t = block(c, &b);
    p9c_send(c, 1, P9C_TAGGED(P9_TVERSION, (uint16_t)P9_NOTAG), "4s", 65536U, "9P2000.L");
    p9c_send(c, 2, P9C_TAGGED(P9_TCLUNK, 9), "4", (uint32_t)ROOT);
    assert_int_equal(p9c_next(c), -1);
    unblock(c, &b, t);
    assert_int_equal(p9c_next(c), 0);
    assert_int_equal(p9c_result(c, P9_TREADDIR, 5), 0);
    assert_int_equal(p9c_next(c), 1);
    assert_int_equal(p9c_result(c, P9_TVERSION, (uint16_t)P9_NOTAG), 0);
    assert_int_equal(p9c_next(c), 2);
    assert_int_equal(p9c_result(c, P9_TCLUNK, 9), -EBADF);
}

/* ---- state ---- */

static void test_state(void **st)
{
    struct p9c *c = *st;
    struct state_out out = { 0 };
    mkdir(p9c_path(c, "in/d"), 0755);
    put_file(c, "in/d/f", "hello");
    put_file(c, "in/gone", "x");
    assert_int_equal(p9c_call(c, P9_TWALK, "442ss", ROOT, 2U, 2, "d", "f"), 0);
    assert_int_equal(p9c_open(c, 2, O_RDWR | O_TRUNC), 0);
    assert_int_equal(p9c_write(c, 2, 0, "kept", 4), 4);
    assert_int_equal(p9c_walk1(c, ROOT, 3, "d"), 0);
    assert_int_equal(p9c_walk1(c, ROOT, 4, "gone"), 0);
    rename(p9c_path(c, "in/d"), p9c_path(c, "in/e"));
    assert_int_equal(virtio_mmio_ops.save(c->d.v, &out), 0);
    unlink(p9c_path(c, "in/gone"));
    virtio_mmio_ops.reset(c->d.v);
    assert_int_equal(((struct p9 *)c->d.v)->fids.n, 0);
    for (size_t n = 0; n < out.len; n++) {
        struct state_in in = { .buf = out.buf, .len = n };
        assert_int_equal(virtio_mmio_ops.load(c->d.v, &in, 1), -EINVAL);
    }
    assert_int_equal(((struct p9 *)c->d.v)->fids.n, 0);
    struct state_in in = { .buf = out.buf, .len = out.len };
    assert_int_equal(virtio_mmio_ops.load(c->d.v, &in, 1), 0);
    assert_int_equal(p9c_read(c, 2, 0, 100), 4);
    assert_int_equal(p9c_write(c, 2, 4, "!", 1), 1);
    check_file(c, "in/e/f", "kept!");
    assert_int_equal(p9c_walk1(c, 3, 5, "f"), 0);
    struct state_in cut = { .buf = out.buf, .len = out.len - 1 };
    assert_int_equal(virtio_mmio_ops.load(c->d.v, &cut, 1), -EINVAL); /* leaves all as it was */
    assert_int_equal(((struct p9 *)c->d.v)->fids.n, 5);
    assert_int_equal(p9c_read(c, 2, 0, 100), 5);
    assert_int_equal(p9c_clunk(c, 5), 0);
    assert_int_equal(p9c_call(c, P9_TGETATTR, "48", 4U, 0UL), -ESTALE);
    assert_int_equal(p9c_open(c, 4, O_RDONLY), -ESTALE);
    assert_int_equal(p9c_clunk(c, 4), 0);
    state_out_free(&out);
}

int main(void)
{
    log_set_level(LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_config, setup, teardown),
        cmocka_unit_test_setup_teardown(test_version, setup, teardown),
        cmocka_unit_test_setup_teardown(test_walk, setup, teardown),
        cmocka_unit_test_setup_teardown(test_files, setup, teardown),
        cmocka_unit_test_setup_teardown(test_framing, setup, teardown),
        cmocka_unit_test_setup_teardown(test_attrs, setup, teardown),
        cmocka_unit_test_setup_teardown(test_names, setup, teardown),
        cmocka_unit_test_setup_teardown(test_readdir, setup, teardown),
        cmocka_unit_test_setup_teardown(test_xattrs, setup, teardown),
        cmocka_unit_test_setup_teardown(test_locks, setup, teardown),
        cmocka_unit_test_setup_teardown(test_read_only, setup, teardown),
        cmocka_unit_test_setup_teardown(test_map_root, setup, teardown),
        cmocka_unit_test_setup_teardown(test_flush, setup, teardown),
        cmocka_unit_test_setup_teardown(test_version_alone, setup, teardown),
        cmocka_unit_test_setup_teardown(test_state, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
