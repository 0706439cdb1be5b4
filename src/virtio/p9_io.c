/* SPDX-License-Identifier: MIT */
/* 9P2000.L: open files and directories, and extended attributes, which are read and written like files. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/uio.h>
#include <unistd.h>

#include "mem/mem.h"
#include "virtio/p9.h"

enum { NAME = SHARE_NAME_MAX + 1 };

static struct p9_node *share_node(struct p9_node *n)
{
    atomic_fetch_add(&n->refs, 1);
    return n;
}

/* ---- opening ---- */

/* The flags of the protocol are Linux's on x86. What is put into the answer: qid, and that I/O is bounded by msize. */
static int answer_open(struct p9_req *r, int fd)
{
    struct p9_qid qid;
    int e = p9_qid_of(r->p, fd, &qid);
    p9_put_qid(&r->out, &qid);
    p9_put32(&r->out, 0);
    return e;
}

int p9_lopen(struct p9_req *r)
{
    struct p9 *p = r->p;
    struct p9_fid f, g;
    uint32_t num = p9_get32(&r->in), flags = p9_get32(&r->in);
    int e = r->in.bad ? -EINVAL : p9_get_fid(p, num, &f);
    if (e < 0)
        return e;
    int fd = f.file || f.attr ? -EINVAL : share_reopen(p->share, f.node->fd, (int)flags);
    g = (struct p9_fid){ .num = num, .uid = f.uid };
    e = fd < 0 ? fd : answer_open(r, fd);
    if (fd >= 0) {
        g.file = p9_file_new(p, fd, (int)flags);
        g.node = share_node(f.node);
        if (e == 0)
            e = g.file ? p9_set_fid(p, &f, &g) : -ENOMEM;
        if (e < 0)
            p9_put_fid(p, &g);
    }
    p9_put_fid(p, &f);
    return e;
}

/* The fid of the directory becomes one of the new file. */
int p9_lcreate(struct p9_req *r)
{
    struct p9 *p = r->p;
    struct p9_fid f, g;
    char name[NAME];
    uint32_t num = p9_get32(&r->in);
    int e = p9_get_str(&r->in, name, sizeof(name));
    uint32_t flags = p9_get32(&r->in);
    struct share_new n = { .mode = p9_get32(&r->in) };
    n.gid = p9_get32(&r->in);
    if (e == 0)
        e = r->in.bad ? -EINVAL : p9_get_fid(p, num, &f);
    if (e < 0)
        return e;
    n.uid = f.uid;
    int fd = f.file || f.attr ? -EINVAL : share_create(p->share, f.node->fd, name, (int)flags, &n);
    g = (struct p9_fid){ .num = num, .uid = f.uid };
    e = fd < 0 ? fd : answer_open(r, fd);
    if (fd >= 0) {
        int node = share_dup(p->share, fd);
        g.file = p9_file_new(p, fd, (int)flags);
        g.node = node < 0 ? NULL : p9_node_new(p, node, P9_QT_FILE);
        if (e == 0)
            e = g.file && g.node ? p9_set_fid(p, &f, &g) : node < 0 ? node : -ENOMEM;
        if (e < 0)
            p9_put_fid(p, &g);
    }
    p9_put_fid(p, &f);
    return e;
}

int p9_fsync(struct p9_req *r)
{
    struct p9_fid f;
    uint32_t num = p9_get32(&r->in);
    bool data = r->in.n - r->in.at >= 4 && p9_get32(&r->in);
    int e = r->in.bad ? -EINVAL : p9_get_fid(r->p, num, &f);
    if (e < 0)
        return e;
    if (!f.file)
        e = -EBADF;
    else if ((data ? fdatasync(f.file->fd) : fsync(f.file->fd)) < 0)
        e = errno == EINVAL && share_read_only(r->p->share) ? 0 : -errno;
    p9_put_fid(r->p, &f);
    return e;
}

/* ---- data ---- */

struct span {
    const struct virtq_buf *buf;
    unsigned n;
    uint32_t skip, len; /* bytes before the data, and of it */
};

struct pinned {
    unsigned n;
    struct virtq_buf *buf;
    struct iovec iov[];
};

static void unpin(struct p9 *p, struct pinned *k, bool written)
{
    for (unsigned i = 0; i < k->n; i++)
        mem_unpin(p->v.mem, k->buf[i].gpa, k->buf[i].len, written);
    free(k);
}

static struct pinned *pin(struct p9 *p, const struct span *s)
{
    struct pinned *k = malloc(sizeof(*k) + s->n * (sizeof(k->iov[0]) + sizeof(k->buf[0])));
    uint64_t skip = s->skip, left = s->len;
    if (!k)
        return NULL;
    k->n = 0;
    k->buf = (struct virtq_buf *)(void *)&k->iov[s->n];
    for (unsigned i = 0; i < s->n && left; i++) {
        uint64_t cut = skip < s->buf[i].len ? skip : s->buf[i].len, n = s->buf[i].len - cut;
        skip -= cut;
        if (n > left)
            n = left;
        if (!n)
            continue;
        void *at = mem_pin(p->v.mem, s->buf[i].gpa + cut, n);
        if (!at)
            break;
        k->iov[k->n] = (struct iovec){ .iov_base = at, .iov_len = n };
        k->buf[k->n++] = (struct virtq_buf){ .gpa = s->buf[i].gpa + cut, .len = (uint32_t)n };
        left -= n;
    }
    if (!left)
        return k;
    unpin(p, k, false);
    return NULL;
}

static int io_file(const struct p9_fid *f, uint64_t off)
{
    if (!f->file)
        return -EBADF;
    if (f->node->type == P9_QT_DIR)
        return -EISDIR;
    return off > INT64_MAX ? -EINVAL : 0;
}

/* Bytes of an attribute's value straight into the buffers behind the header. */
static ssize_t read_attr(struct p9_req *r, const struct p9_attr *a, uint64_t off, uint32_t count)
{
    if (a->write)
        return -EINVAL;
    uint32_t n = off >= a->size ? 0 : a->size - (uint32_t)off < count ? a->size - (uint32_t)off : count, done = 0;
    struct span s = { .buf = r->buf, .n = r->n_in, .skip = P9_IO_HEADER, .len = n };
    struct pinned *k = pin(r->p, &s);
    if (!k)
        return -EFAULT;
    for (unsigned i = 0; i < k->n; i++) {
        memcpy(k->iov[i].iov_base, a->value + off + done, k->iov[i].iov_len);
        done += (uint32_t)k->iov[i].iov_len;
    }
    unpin(r->p, k, true);
    return n;
}

static ssize_t read_file(struct p9_req *r, const struct p9_fid *f, uint64_t off, uint32_t count)
{
    struct span s = { .buf = r->buf, .n = r->n_in, .skip = P9_IO_HEADER, .len = count };
    int e = io_file(f, off);
    struct pinned *k = e < 0 ? NULL : pin(r->p, &s);
    if (!k)
        return e < 0 ? e : -EFAULT;
    ssize_t n = preadv(f->file->fd, k->iov, (int)k->n, (off_t)off);
    if (n < 0)
        n = -errno;
    unpin(r->p, k, true);
    return n;
}

int p9_read(struct p9_req *r)
{
    struct p9_fid f;
    uint32_t num = p9_get32(&r->in);
    uint64_t off = p9_get64(&r->in);
    uint32_t count = p9_get32(&r->in), max = r->p->msize < r->room ? r->p->msize : r->room;
    int e = r->in.bad ? -EINVAL : p9_get_fid(r->p, num, &f);
    if (e < 0)
        return e;
    if (count > max - P9_IO_HEADER)
        count = max - P9_IO_HEADER;
    ssize_t n = f.attr ? read_attr(r, f.attr, off, count) : read_file(r, &f, off, count);
    p9_put_fid(r->p, &f);
    if (n < 0)
        return (int)n;
    p9_put32(&r->out, (uint32_t)n);
    r->moved = (uint32_t)n;
    return 0;
}

static ssize_t write_attr(struct p9 *p, struct p9_attr *a, const struct pinned *k, uint64_t off, uint32_t count)
{
    if (!a->write)
        return -EINVAL;
    lock_take(&p->fids.lock);
    ssize_t r = off != a->got || count > a->size - a->got ? -ENOSPC : (ssize_t)count;
    for (unsigned i = 0; i < k->n && r >= 0; i++) {
        memcpy(a->value + a->got, k->iov[i].iov_base, k->iov[i].iov_len);
        a->got += (uint32_t)k->iov[i].iov_len;
    }
    lock_drop(&p->fids.lock);
    return r;
}

int p9_write(struct p9_req *r)
{
    struct p9_fid f;
    uint32_t num = p9_get32(&r->in);
    uint64_t off = p9_get64(&r->in);
    uint32_t count = p9_get32(&r->in);
    struct span s = { .buf = r->buf + r->n_in, .n = r->n_out, .skip = P9_WRITE_HEADER, .len = count };
    int e = r->in.bad || count > r->p->msize ? -EINVAL : p9_get_fid(r->p, num, &f);
    if (e < 0)
        return e;
    e = f.attr ? 0 : io_file(&f, off);
    struct pinned *k = e < 0 ? NULL : pin(r->p, &s); /* fails when there is less data than it says */
    ssize_t n = e < 0 ? e : -EINVAL;
    if (k && f.attr) {
        n = write_attr(r->p, f.attr, k, off, count);
    } else if (k) {
        n = pwritev(f.file->fd, k->iov, (int)k->n, (off_t)off);
        if (n < 0)
            n = -errno;
    }
    if (k)
        unpin(r->p, k, false);
    p9_put_fid(r->p, &f);
    if (n < 0)
        return (int)n;
    p9_put32(&r->out, (uint32_t)n);
    return 0;
}

/* ---- directories ---- */

/*
 * An entry is 24 bytes and its name here, and 20 and its name rounded up to 8 in the kernel's form: at most 7/6 as
 * much. So everything that is read with 6/7 of the room fits, and nobody has to seek back, which is slow on some
 * systems.
 */
enum { ENTRY_MAX = 24 + SHARE_NAME_MAX, KERNEL_ENTRY_MAX = 280 };

struct dir_read {
    struct p9_req *r;
    struct p9_file *file;
    struct statx st; /* of the directory */
    bool top;
};

static void put_entry(struct dir_read *d, const struct dirent64 *e)
{
    struct p9_qid qid = { .type = e->d_type == DT_DIR ? P9_QT_DIR : e->d_type == DT_LNK ? P9_QT_SYMLINK : P9_QT_FILE };
    /* What is above the top is nobody's business. */
    bool up = d->top && strcmp(e->d_name, "..") == 0;
    qid.path = up ? share_top_ino(d->r->p->share) : share_ino_beside(d->r->p->share, &d->st, e->d_ino);
    p9_put_qid(&d->r->out, &qid);
    p9_put64(&d->r->out, (uint64_t)e->d_off);
    p9_put8(&d->r->out, e->d_type);
    p9_put_str(&d->r->out, e->d_name, strlen(e->d_name));
}

/* From offset off on, up to `max` bytes of answer; the file's lock is held. */
static int fill_dir(struct dir_read *d, int64_t off, size_t max, char *buf)
{
    struct p9_file *f = d->file;
    size_t start = d->r->out.at;
    if (f->pos != off && lseek(f->fd, off, SEEK_SET) < 0)
        return -errno;
    f->pos = off;
    for (;;) {
        size_t room = (max - (d->r->out.at - start)) / 7 * 6;
        if (room < KERNEL_ENTRY_MAX)
            return d->r->out.at > start ? 0 : -EINVAL;
        ssize_t n = getdents64(f->fd, buf, room);
        if (n <= 0)
            return n < 0 && d->r->out.at == start ? -errno : 0;
        for (ssize_t at = 0; at < n;) {
            const struct dirent64 *e = (const struct dirent64 *)(void *)(buf + at);
            if (strlen(e->d_name) <= SHARE_NAME_MAX)
                put_entry(d, e);
            f->pos = e->d_off;
            at += e->d_reclen;
        }
        if (d->r->out.at - start > max / 2)
            return 0;
    }
}

int p9_readdir(struct p9_req *r)
{
    struct p9_fid f;
    uint32_t num = p9_get32(&r->in);
    uint64_t off = p9_get64(&r->in);
    size_t max = p9_get32(&r->in);
    int e = r->in.bad ? -EINVAL : p9_get_fid(r->p, num, &f);
    if (e < 0)
        return e;
    if (r->out.n < 4)
        e = -EINVAL;
    else if (max > r->out.n - 4)
        max = r->out.n - 4;
    struct dir_read d = { .r = r, .file = f.file };
    char *buf = NULL;
    if (e == 0)
        e = !f.file ? -EBADF : f.node->type != P9_QT_DIR ? -ENOTDIR : share_stat(r->p->share, f.file->fd, &d.st);
    if (e == 0 && (buf = malloc(max + 1)) == NULL)
        e = -ENOMEM;
    if (e == 0) {
        d.top = share_ino(r->p->share, &d.st) == share_top_ino(r->p->share);
        p9_put32(&r->out, 0);
        lock_take(&f.file->lock);
        e = fill_dir(&d, (int64_t)off, max, buf);
        lock_drop(&f.file->lock);
        uint32_t n = (uint32_t)r->out.at - 4;
        memcpy(r->out.p, &n, sizeof(n));
    }
    free(buf);
    p9_put_fid(r->p, &f);
    return e;
}

/* ---- extended attributes ---- */

/* A value of so many bytes, within the device's bound; NULL: there is no room. */
static struct p9_attr *attr_new(struct p9 *p, uint32_t size)
{
    lock_take(&p->fids.lock);
    bool fits = size <= P9_ATTRS_MAX - p->fids.attr_bytes;
    if (fits)
        p->fids.attr_bytes += size;
    lock_drop(&p->fids.lock);
    struct p9_attr *a = fits ? calloc(1, sizeof(*a) + size) : NULL;
    if (fits && !a) {
        lock_take(&p->fids.lock);
        p->fids.attr_bytes -= size;
        lock_drop(&p->fids.lock);
    }
    if (a) {
        a->refs = 1;
        a->size = size;
    }
    return a;
}

static ssize_t fetch(struct p9 *p, int node, const char *name, void *buf, size_t size)
{
    return *name ? share_getxattr(p->share, node, name, buf, size) : share_listxattr(p->share, node, buf, size);
}

int p9_xattrwalk(struct p9_req *r)
{
    struct p9 *p = r->p;
    char name[NAME];
    struct p9_fid f, g = { 0 };
    uint32_t num = p9_get32(&r->in);
    g.num = p9_get32(&r->in);
    int e = p9_get_str(&r->in, name, sizeof(name));
    if (e == 0)
        e = r->in.bad ? -EINVAL : p9_get_fid(p, num, &f);
    if (e < 0)
        return e;
    ssize_t n = fetch(p, f.node->fd, name, NULL, 0);
    if (n > SHARE_XATTR_MAX)
        n = -E2BIG;
    g.uid = f.uid;
    g.attr = n < 0 ? NULL : attr_new(p, (uint32_t)n);
    if (n >= 0 && !g.attr)
        n = -ENOMEM;
    if (n > 0) {
        n = fetch(p, f.node->fd, name, g.attr->value, (size_t)n);
        if (n >= 0 && n < g.attr->size) /* it has become shorter; the rest is zeroes that nobody wants */
            n = -EAGAIN;
    }
    e = n < 0 ? (int)n : 0;
    if (e == 0) {
        g.node = share_node(f.node);
        e = p9_add_fid(p, &g);
    }
    if (e < 0)
        p9_put_fid(p, &g);
    else
        p9_put64(&r->out, (uint64_t)n);
    p9_put_fid(p, &f);
    return e;
}

/* The fid takes the value by writes; it is set when the fid is clunked. */
int p9_xattrcreate(struct p9_req *r)
{
    struct p9 *p = r->p;
    char name[NAME];
    struct p9_fid f, g;
    uint32_t num = p9_get32(&r->in);
    int e = p9_get_str(&r->in, name, sizeof(name));
    uint64_t size = p9_get64(&r->in);
    uint32_t flags = p9_get32(&r->in);
    if (e == 0)
        e = r->in.bad ? -EINVAL : size > SHARE_XATTR_MAX ? -E2BIG : share_read_only(p->share) ? -EROFS : 0;
    if (e == 0)
        e = p9_get_fid(p, num, &f);
    if (e < 0)
        return e;
    g = (struct p9_fid){ .num = num, .uid = f.uid };
    g.attr = f.file || f.attr ? NULL : attr_new(p, (uint32_t)size);
    e = f.file || f.attr ? -EINVAL : g.attr ? 0 : -ENOMEM;
    if (e == 0) {
        g.node = share_node(f.node);
        g.attr->write = true;
        g.attr->flags = flags;
        strcpy(g.attr->name, name);
        e = p9_set_fid(p, &f, &g);
        if (e < 0)
            p9_put_fid(p, &g);
    }
    p9_put_fid(p, &f);
    return e;
}

int p9_xattr_end(struct p9 *p, struct p9_fid *f)
{
    const struct p9_attr *a = f->attr;
    if (!a->write)
        return 0;
    if (a->got != a->size)
        return -EINVAL;
    const struct share_attr set = { .name = a->name, .value = a->value, .size = a->size, .flags = (int)a->flags };
    return share_setxattr(p->share, f->node->fd, &set);
}
