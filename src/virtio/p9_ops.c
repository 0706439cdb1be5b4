/* SPDX-License-Identifier: MIT */
/* 9P2000.L: the session, walks, and what is asked about or done to names and nodes. See p9_io.c for open files. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>

#include "virtio/p9.h"

enum { NAME = SHARE_NAME_MAX + 1 };

/* ---- qids ---- */

static void qid_from(struct p9 *p, const struct statx *st, struct p9_qid *q)
{
    q->type = S_ISDIR(st->stx_mode) ? P9_QT_DIR : S_ISLNK(st->stx_mode) ? P9_QT_SYMLINK : P9_QT_FILE;
    q->version = (uint32_t)st->stx_mtime.tv_sec ^ st->stx_mtime.tv_nsec ^ (uint32_t)(st->stx_size << 8);
    q->path = share_ino(p->share, st);
}

int p9_qid_of(struct p9 *p, int fd, struct p9_qid *qid)
{
    struct statx st;
    int r = share_stat(p->share, fd, &st);
    if (r == 0)
        qid_from(p, &st, qid);
    return r;
}

int p9_node_at(struct p9 *p, int fd, struct p9_node **out, struct p9_qid *qid)
{
    if (fd < 0)
        return fd;
    int r = p9_qid_of(p, fd, qid);
    if (r < 0) {
        share_close(p->share, fd);
        return r;
    }
    *out = p9_node_new(p, fd, qid->type);
    return *out ? 0 : -ENOMEM;
}

/* ---- session ---- */

/* Runs alone. */
int p9_version(struct p9_req *r)
{
    char name[32];
    uint32_t msize = p9_get32(&r->in);
    p9_get_str(&r->in, name, sizeof(name));
    if (r->in.bad)
        return -EINVAL;
    p9_fids_clear(r->p);
    r->p->msize = 0;
    bool known = strcmp(name, "9P2000.L") == 0;
    if (msize < P9_MSIZE_MIN)
        return -EMSGSIZE;
    if (msize > P9_MSIZE_MAX)
        msize = P9_MSIZE_MAX;
    if (known)
        r->p->msize = msize;
    p9_put32(&r->out, msize);
    p9_put_str(&r->out, known ? name : "unknown", known ? 8 : 7);
    return 0;
}

static int no_auth(struct p9_req *r)
{
    (void)r;
    return -EOPNOTSUPP;
}

static int attach(struct p9_req *r)
{
    struct p9 *p = r->p;
    char user[NAME], path[1024];
    struct p9_qid qid;
    struct p9_fid f = { .num = p9_get32(&r->in) };
    uint32_t afid = p9_get32(&r->in);
    p9_get_str(&r->in, user, sizeof(user));
    int e = p9_get_str(&r->in, path, sizeof(path));
    f.uid = p9_get32(&r->in);
    if (r->in.bad || afid != P9_NOFID)
        return -EINVAL;
    if (e < 0)
        return e;
    e = p9_node_at(p, share_find(p->share, path), &f.node, &qid);
    if (e == 0)
        e = p9_add_fid(p, &f);
    if (e < 0)
        p9_put_fid(p, &f);
    else
        p9_put_qid(&r->out, &qid);
    return e;
}

static int flush_elsewhere(struct p9_req *r)
{
    (void)r;
    return 0;
}

static int clunk(struct p9_req *r)
{
    struct p9_fid f = { 0 };
    uint32_t num = p9_get32(&r->in);
    int e = r->in.bad ? -EINVAL : p9_del_fid(r->p, num, &f);
    if (e == 0 && f.attr)
        e = p9_xattr_end(r->p, &f);
    p9_put_fid(r->p, &f);
    return e;
}

/* ---- walks ---- */

/* The names of a walk: how many, or -errno. */
static int walk_names(struct p9_req *r, char (*name)[NAME])
{
    unsigned n = p9_get16(&r->in);
    if (r->in.bad || n > P9_WALK_MAX)
        return -EINVAL;
    for (unsigned i = 0; i < n; i++) {
        int e = p9_get_str(&r->in, name[i], NAME);
        if (e < 0 && !r->in.bad)
            return e;
        if (!*name[i])
            return -EINVAL;
    }
    return r->in.bad ? -EINVAL : (int)n;
}

/* Steps from f through the names: how many were done; the node that the last led to is in *node if it was all. */
static int walk_steps(struct p9_req *r, const struct p9_fid *f, char (*name)[NAME], int n, struct p9_node **node)
{
    struct p9 *p = r->p;
    int at = f->node->fd, done = 0, e = 0;
    struct p9_qid qid = { 0 };
    p9_put16(&r->out, 0);
    for (; done < n; done++) {
        int next = share_walk(p->share, at, name[done]);
        if (at != f->node->fd)
            share_close(p->share, at);
        at = next;
        e = next < 0 ? next : p9_qid_of(p, next, &qid);
        if (e < 0)
            break;
        p9_put_qid(&r->out, &qid);
    }
    if (done == n) {
        *node = p9_node_new(p, at, qid.type);
        return *node ? n : -ENOMEM;
    }
    if (at != f->node->fd)
        share_close(p->share, at);
    return done ? done : e;
}

static int walk(struct p9_req *r)
{
    struct p9 *p = r->p;
    struct p9_fid f, g = { 0 };
    uint32_t from = p9_get32(&r->in), to = p9_get32(&r->in);
    char(*name)[NAME] = malloc(sizeof(*name) * P9_WALK_MAX);
    int n = name ? walk_names(r, name) : -ENOMEM;
    int e = n < 0 ? n : p9_get_fid(p, from, &f);
    if (e < 0) {
        free(name);
        return e;
    }
    g.num = to;
    g.uid = f.uid;
    if (n == 0) {
        g.node = f.node;
        atomic_fetch_add(&g.node->refs, 1);
        p9_put16(&r->out, 0);
        e = 0;
    } else {
        e = f.file || f.attr ? -EINVAL : walk_steps(r, &f, name, n, &g.node);
        if (e > 0) {
            uint16_t got = (uint16_t)e;
            memcpy(r->out.p, &got, sizeof(got));
        }
    }
    if (e >= 0 && g.node) {
        if (to != from)
            e = p9_add_fid(p, &g);
        else
            e = f.file || f.attr ? -EINVAL : p9_set_fid(p, &f, &g);
        if (e < 0)
            p9_put_fid(p, &g);
    }
    p9_put_fid(p, &f);
    free(name);
    return e < 0 ? e : 0;
}

/* ---- asking about nodes ---- */

static int best_fd(const struct p9_fid *f)
{
    return f->file ? f->file->fd : f->node->fd;
}

static void put_time(struct p9_out *o, const struct statx_timestamp *t)
{
    p9_put64(o, (uint64_t)t->tv_sec);
    p9_put64(o, t->tv_nsec);
}

static int getattr(struct p9_req *r)
{
    enum { BASIC = 0x7ff, BTIME = 0x800 };
    struct p9_fid f;
    struct p9_qid qid;
    struct statx st;
    uint32_t num = p9_get32(&r->in);
    p9_get64(&r->in); /* what the client asks for; it gets what there is */
    int e = r->in.bad ? -EINVAL : p9_get_fid(r->p, num, &f);
    if (e < 0)
        return e;
    e = share_stat(r->p->share, best_fd(&f), &st);
    p9_put_fid(r->p, &f);
    if (e < 0)
        return e;
    qid_from(r->p, &st, &qid);
    p9_put64(&r->out, BASIC | (st.stx_mask & STATX_BTIME ? BTIME : 0));
    p9_put_qid(&r->out, &qid);
    p9_put32(&r->out, st.stx_mode);
    p9_put32(&r->out, st.stx_uid);
    p9_put32(&r->out, st.stx_gid);
    p9_put64(&r->out, st.stx_nlink);
    p9_put64(&r->out, makedev(st.stx_rdev_major, st.stx_rdev_minor));
    p9_put64(&r->out, st.stx_size);
    p9_put64(&r->out, st.stx_blksize);
    p9_put64(&r->out, st.stx_blocks);
    put_time(&r->out, &st.stx_atime);
    put_time(&r->out, &st.stx_mtime);
    put_time(&r->out, &st.stx_ctime);
    put_time(&r->out, &st.stx_btime);
    p9_put64(&r->out, 0); /* generation */
    p9_put64(&r->out, 0); /* data version */
    return 0;
}

static int get_statfs(struct p9_req *r)
{
    struct p9_fid f;
    struct statfs st;
    uint32_t num = p9_get32(&r->in);
    int e = r->in.bad ? -EINVAL : p9_get_fid(r->p, num, &f);
    if (e < 0)
        return e;
    e = fstatfs(best_fd(&f), &st) < 0 ? -errno : 0;
    p9_put_fid(r->p, &f);
    if (e < 0)
        return e;
    uint64_t id;
    memcpy(&id, &st.f_fsid, sizeof(id));
    p9_put32(&r->out, (uint32_t)st.f_type);
    p9_put32(&r->out, (uint32_t)st.f_bsize);
    p9_put64(&r->out, st.f_blocks);
    p9_put64(&r->out, st.f_bfree);
    p9_put64(&r->out, st.f_bavail);
    p9_put64(&r->out, st.f_files);
    p9_put64(&r->out, st.f_ffree);
    p9_put64(&r->out, id);
    p9_put32(&r->out, SHARE_NAME_MAX);
    return 0;
}

static int get_link(struct p9_req *r)
{
    struct p9_fid f;
    uint32_t num = p9_get32(&r->in);
    int e = r->in.bad ? -EINVAL : p9_get_fid(r->p, num, &f);
    if (e < 0)
        return e;
    char *to = malloc(SHARE_PATH_MAX);
    ssize_t n = to ? share_readlink(r->p->share, f.node->fd, to, SHARE_PATH_MAX) : -ENOMEM;
    if (n >= 0)
        p9_put_str(&r->out, to, (size_t)n);
    free(to);
    p9_put_fid(r->p, &f);
    return n < 0 ? (int)n : 0;
}

/* ---- changing nodes ---- */

struct attrs {
    uint32_t valid, mode, uid, gid;
    uint64_t size;
    struct timespec time[2];
};
enum {
    A_MODE = 1,
    A_UID = 2,
    A_GID = 4,
    A_SIZE = 8,
    A_ATIME = 0x10,
    A_MTIME = 0x20,
    A_CTIME = 0x40,
    A_ATIME_SET = 0x80,
    A_MTIME_SET = 0x100,
};

static void read_attrs(struct p9_in *in, struct attrs *a)
{
    a->valid = p9_get32(in);
    a->mode = p9_get32(in);
    a->uid = p9_get32(in);
    a->gid = p9_get32(in);
    a->size = p9_get64(in);
    for (unsigned i = 0; i < 2; i++) {
        a->time[i].tv_sec = (time_t)p9_get64(in);
        a->time[i].tv_nsec = (long)p9_get64(in);
        if (!(a->valid & (i ? A_MTIME : A_ATIME)))
            a->time[i].tv_nsec = UTIME_OMIT;
        else if (!(a->valid & (i ? A_MTIME_SET : A_ATIME_SET)))
            a->time[i].tv_nsec = UTIME_NOW;
        else if (a->time[i].tv_nsec < 0 || a->time[i].tv_nsec > 999999999)
            in->bad = true;
    }
}

/* The owner first, which takes set-user-ID bits away; times last, which a truncation changes. */
static int apply(struct p9 *p, const struct p9_fid *f, const struct attrs *a)
{
    int e = 0, fd = best_fd(f);
    if (a->valid & (A_UID | A_GID))
        e = share_chown(p->share, fd, a->valid & A_UID ? a->uid : UINT32_MAX, a->valid & A_GID ? a->gid : UINT32_MAX);
    else if ((a->valid & ~(uint32_t)A_CTIME) == 0)
        e = share_chown(p->share, fd, UINT32_MAX, UINT32_MAX);
    if (e == 0 && (a->valid & A_MODE))
        e = share_chmod(p->share, fd, a->mode);
    if (e == 0 && (a->valid & A_SIZE))
        e = share_truncate(p->share, fd, a->size);
    if (e == 0 && (a->valid & (A_ATIME | A_MTIME)))
        e = share_utimes(p->share, fd, a->time);
    return e;
}

static int setattr(struct p9_req *r)
{
    struct p9_fid f;
    struct attrs a;
    uint32_t num = p9_get32(&r->in);
    read_attrs(&r->in, &a);
    int e = r->in.bad ? -EINVAL : p9_get_fid(r->p, num, &f);
    if (e < 0)
        return e;
    e = apply(r->p, &f, &a);
    p9_put_fid(r->p, &f);
    return e;
}

/* ---- names ---- */

/* The fid and the name that most of these start with. The reference is the caller's if it is 0. */
static int dir_and_name(struct p9_req *r, struct p9_fid *f, char name[NAME])
{
    uint32_t num = p9_get32(&r->in);
    int e = p9_get_str(&r->in, name, NAME);
    if (r->in.bad)
        return -EINVAL;
    return e < 0 ? e : p9_get_fid(r->p, num, f);
}

/* The answer to what has made an entry: its qid. */
static int answer_qid(struct p9_req *r, int dir, const char *name)
{
    struct p9_qid qid;
    int fd = share_walk(r->p->share, dir, name);
    int e = fd < 0 ? fd : p9_qid_of(r->p, fd, &qid);
    share_close(r->p->share, fd);
    if (e == 0)
        p9_put_qid(&r->out, &qid);
    return e;
}

static int make_dir(struct p9_req *r)
{
    char name[NAME];
    struct p9_fid f;
    int e = dir_and_name(r, &f, name);
    if (e < 0)
        return e;
    struct share_new n = { .uid = f.uid };
    n.mode = p9_get32(&r->in);
    n.gid = p9_get32(&r->in);
    e = r->in.bad ? -EINVAL : share_mkdir(r->p->share, f.node->fd, name, &n);
    if (e == 0)
        e = answer_qid(r, f.node->fd, name);
    p9_put_fid(r->p, &f);
    return e;
}

static int make_node(struct p9_req *r)
{
    char name[NAME];
    struct p9_fid f;
    int e = dir_and_name(r, &f, name);
    if (e < 0)
        return e;
    struct share_new n = { .mode = p9_get32(&r->in), .uid = f.uid };
    p9_get32(&r->in); /* major */
    p9_get32(&r->in); /* minor */
    n.gid = p9_get32(&r->in);
    e = r->in.bad ? -EINVAL : share_mknod(r->p->share, f.node->fd, name, &n);
    if (e == 0)
        e = answer_qid(r, f.node->fd, name);
    p9_put_fid(r->p, &f);
    return e;
}

static int make_symlink(struct p9_req *r)
{
    char name[NAME];
    struct p9_fid f;
    int e = dir_and_name(r, &f, name);
    if (e < 0)
        return e;
    char *target = malloc(SHARE_PATH_MAX);
    e = target ? p9_get_str(&r->in, target, SHARE_PATH_MAX) : -ENOMEM;
    struct share_new n = { .uid = f.uid, .gid = p9_get32(&r->in) };
    if (e == 0)
        e = r->in.bad ? -EINVAL : share_symlink(r->p->share, f.node->fd, name, target, &n);
    if (e == 0)
        e = answer_qid(r, f.node->fd, name);
    free(target);
    p9_put_fid(r->p, &f);
    return e;
}

/* Two fids and a name: Tlink (directory, node, name) and Trename (node, directory, name). */
static int two_fids(struct p9_req *r, struct p9_fid *a, struct p9_fid *b, char name[NAME])
{
    uint32_t x = p9_get32(&r->in), y = p9_get32(&r->in);
    int e = p9_get_str(&r->in, name, NAME);
    if (r->in.bad)
        return -EINVAL;
    if (e == 0)
        e = p9_get_fid(r->p, x, a);
    if (e == 0) {
        e = p9_get_fid(r->p, y, b);
        if (e < 0)
            p9_put_fid(r->p, a);
    }
    return e;
}

static int make_link(struct p9_req *r)
{
    char name[NAME];
    struct p9_fid dir, f;
    int e = two_fids(r, &dir, &f, name);
    if (e < 0)
        return e;
    e = share_link(r->p->share, f.node->fd, dir.node->fd, name);
    p9_put_fid(r->p, &dir);
    p9_put_fid(r->p, &f);
    return e;
}

static int rename_fid(struct p9_req *r)
{
    char name[NAME];
    struct p9_fid f, dir;
    int e = two_fids(r, &f, &dir, name);
    if (e < 0)
        return e;
    e = share_move(r->p->share, f.node->fd, dir.node->fd, name);
    p9_put_fid(r->p, &f);
    p9_put_fid(r->p, &dir);
    return e;
}

static int rename_at(struct p9_req *r)
{
    char old[NAME], name[NAME];
    struct p9_fid from, to;
    int e = dir_and_name(r, &from, old);
    if (e < 0)
        return e;
    e = dir_and_name(r, &to, name);
    if (e == 0) {
        e = share_rename(r->p->share, from.node->fd, old, to.node->fd, name);
        p9_put_fid(r->p, &to);
    }
    p9_put_fid(r->p, &from);
    return e;
}

static int unlink_at(struct p9_req *r)
{
    char name[NAME];
    struct p9_fid f;
    int e = dir_and_name(r, &f, name);
    if (e < 0)
        return e;
    uint32_t flags = p9_get32(&r->in);
    if (r->in.bad || (flags & ~(uint32_t)AT_REMOVEDIR))
        e = -EINVAL;
    else
        e = share_unlink(r->p->share, f.node->fd, name, flags & AT_REMOVEDIR);
    p9_put_fid(r->p, &f);
    return e;
}

/* The fid is gone whether or not the file is. */
static int remove_fid(struct p9_req *r)
{
    struct p9_fid f = { 0 };
    uint32_t num = p9_get32(&r->in);
    int e = r->in.bad ? -EINVAL : p9_del_fid(r->p, num, &f);
    if (e == 0)
        e = f.node->fd < 0 ? -ESTALE : share_remove(r->p->share, f.node->fd);
    p9_put_fid(r->p, &f);
    return e;
}

/* ---- the table ---- */

const struct p9_op *p9_find_op(uint8_t type)
{
    static const struct p9_op ops[] = {
        { P9_TSTATFS, 60, get_statfs },
        { P9_TLOPEN, 17, p9_lopen },
        { P9_TLCREATE, 17, p9_lcreate },
        { P9_TSYMLINK, P9_QID, make_symlink },
        { P9_TMKNOD, P9_QID, make_node },
        { P9_TRENAME, 0, rename_fid },
        { P9_TREADLINK, 2 + SHARE_PATH_MAX, get_link },
        { P9_TGETATTR, 153, getattr },
        { P9_TSETATTR, 0, setattr },
        { P9_TXATTRWALK, 8, p9_xattrwalk },
        { P9_TXATTRCREATE, 0, p9_xattrcreate },
        { P9_TREADDIR, P9_REPLY_MAX, p9_readdir },
        { P9_TFSYNC, 0, p9_fsync },
        { P9_TLOCK, 1, p9_lock },
        { P9_TGETLOCK, 64 + NAME, p9_getlock },
        { P9_TLINK, 0, make_link },
        { P9_TMKDIR, P9_QID, make_dir },
        { P9_TRENAMEAT, 0, rename_at },
        { P9_TUNLINKAT, 0, unlink_at },
        { P9_TVERSION, 64, p9_version },
        { P9_TAUTH, 0, no_auth },
        { P9_TATTACH, P9_QID, attach },
        { P9_TFLUSH, 0, flush_elsewhere },
        { P9_TWALK, 2 + P9_WALK_MAX * P9_QID, walk },
        { P9_TREAD, 4, p9_read },
        { P9_TWRITE, 4, p9_write },
        { P9_TCLUNK, 0, clunk },
        { P9_TREMOVE, 0, remove_fid },
    };
    for (unsigned i = 0; i < ARRAY_LEN(ops); i++)
        if (ops[i].type == type)
            return &ops[i];
    return NULL;
}
