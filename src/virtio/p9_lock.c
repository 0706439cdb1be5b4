/* SPDX-License-Identifier: MIT */
/*
 * 9P2000.L: Tlock and Tgetlock. The guest's kernel settles what its own processes want of each other before it asks;
 * towards the host, the guest is one owner: for each file with locks one open file description holds the union of them
 * (F_OFD_SETLK), so other guests and processes of the host see them. A lock remembers who asked, so that one process's
 * unlock leaves the range to others that share it, and through which fid, so that a clunk ends it at the latest.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "virtio/p9.h"

enum { NAME = SHARE_NAME_MAX + 1 };
enum { TYPE_READ = 0, TYPE_WRITE = 1, TYPE_UNLOCK = 2 };
enum { LOCK_OK = 0, LOCK_BLOCKED = 1, LOCK_ERROR = 2 };
enum { FILES_MAX = 512, RANGES_MAX = 256 /* of a file */ };

struct range {
    int64_t start, end; /* inclusive */
    uint32_t process, fid;
    uint8_t type;
};

struct p9_locked {
    struct p9_locked *next;
    uint64_t ino; /* share_ino */
    int fd;
    bool read_only; /* fd cannot hold write locks */
    unsigned n;
    struct range range[2 * RANGES_MAX + 1]; /* a change may split each, and add one */
};

/* ---- towards the host; the table's lock is held ---- */

static int host_lock(const struct p9_locked *k, uint8_t type, int64_t start, int64_t end)
{
    struct flock l = { .l_type = type == TYPE_WRITE  ? F_WRLCK
                                 : type == TYPE_READ ? F_RDLCK
                                                     : F_UNLCK,
                       .l_whence = SEEK_SET,
                       .l_start = start,
                       .l_len = end == INT64_MAX ? 0 : end - start + 1 };
    if (type == TYPE_WRITE && k->read_only) /* opened by a guest for reading only: what can be had */
        l.l_type = F_RDLCK;
    return fcntl(k->fd, F_OFD_SETLK, &l) < 0 ? -errno : 0;
}

/* The strongest lock at a position, and where that may change next. */
static uint8_t type_at(const struct p9_locked *k, int64_t at, int64_t *end)
{
    uint8_t type = TYPE_UNLOCK;
    for (unsigned i = 0; i < k->n; i++) {
        const struct range *r = &k->range[i];
        if (r->start > at) {
            *end = r->start - 1 < *end ? r->start - 1 : *end;
        } else if (r->end >= at) {
            *end = r->end < *end ? r->end : *end;
            if (type == TYPE_UNLOCK || r->type == TYPE_WRITE)
                type = r->type;
        }
    }
    return type;
}

/* Makes the host's locks of [start, end] the union of the table's. */
static int apply(const struct p9_locked *k, int64_t start, int64_t end)
{
    int e = 0;
    for (int64_t at = start;;) {
        int64_t to = end;
        uint8_t type = type_at(k, at, &to);
        e = host_lock(k, type, at, to);
        if (e < 0 || to >= end)
            return e;
        at = to + 1;
    }
}

/* ---- the table ---- */

static struct p9_locked *find(struct p9 *p, uint64_t ino)
{
    struct p9_locked *k = p->locked;
    while (k && k->ino != ino)
        k = k->next;
    return k;
}

static struct p9_locked *find_or_make(struct p9 *p, const struct p9_fid *f, uint64_t ino)
{
    struct p9_locked *k = find(p, ino);
    if (k || p->n_locked == FILES_MAX)
        return k;
    k = calloc(1, sizeof(*k));
    if (!k)
        return NULL;
    k->ino = ino;
    k->fd = share_reopen(p->share, f->node->fd, O_RDWR);
    if (k->fd < 0) {
        k->read_only = true;
        k->fd = share_reopen(p->share, f->node->fd, O_RDONLY);
    }
    if (k->fd < 0) {
        free(k);
        return NULL;
    }
    k->next = p->locked;
    p->locked = k;
    p->n_locked++;
    return k;
}

static void drop_if_unused(struct p9 *p, struct p9_locked *k)
{
    struct p9_locked **at = &p->locked;
    if (k->n)
        return;
    while (*at != k)
        at = &(*at)->next;
    *at = k->next;
    p->n_locked--;
    share_close(p->share, k->fd); /* with what locks it may have left */
    free(k);
}

static bool by_process(const struct range *r, const struct range *who)
{
    return r->process == who->process;
}
static bool by_fid(const struct range *r, const struct range *who)
{
    return r->fid == who->fid;
}

/* Cuts [who->start, who->end] out of the ranges that are who's. Whether there were any. */
static bool cut(struct p9_locked *k, const struct range *who, bool (*is)(const struct range *, const struct range *))
{
    bool any = false;
    for (unsigned i = 0, n = k->n; i < n; i++) {
        struct range *r = &k->range[i];
        if (r->start > who->end || r->end < who->start || !is(r, who))
            continue;
        any = true;
        if (r->end > who->end) { /* what is behind */
            k->range[k->n] = *r;
            k->range[k->n++].start = who->end + 1;
        }
        r->end = who->start - 1; /* what is before; may be nothing */
    }
    unsigned left = 0;
    for (unsigned i = 0; i < k->n; i++)
        if (k->range[i].end >= k->range[i].start)
            k->range[left++] = k->range[i];
    k->n = left;
    return any;
}

static uint8_t change(struct p9 *p, struct p9_locked *k, const struct range *want)
{
    struct p9_locked *old = malloc(sizeof(*old));
    uint8_t status = LOCK_OK;
    if (!old)
        return LOCK_ERROR;
    *old = *k;
    if (!cut(k, want, by_process) && want->type == TYPE_UNLOCK)
        cut(k, want, by_fid);
    if (want->type != TYPE_UNLOCK)
        k->range[k->n++] = *want;
    int e = k->n > RANGES_MAX ? -ENOLCK : apply(k, want->start, want->end);
    if (e < 0) {
        k->n = old->n;
        memcpy(k->range, old->range, sizeof(k->range));
        apply(k, want->start, want->end); /* gives back what was had; nobody else can have taken the rest */
        status = e == -EAGAIN || e == -EACCES ? LOCK_BLOCKED : LOCK_ERROR;
    }
    free(old);
    drop_if_unused(p, k);
    return status;
}

void p9_unlock_fid(struct p9 *p, uint32_t fid)
{
    lock_take(&p->lock_lock);
    for (struct p9_locked *k = p->locked, *next; k; k = next) {
        struct range who = { .start = 0, .end = INT64_MAX, .fid = fid };
        next = k->next;
        if (cut(k, &who, by_fid)) {
            apply(k, 0, INT64_MAX);
            drop_if_unused(p, k);
        }
    }
    lock_drop(&p->lock_lock);
}

void p9_unlock_all(struct p9 *p)
{
    lock_take(&p->lock_lock);
    while (p->locked) {
        p->locked->n = 0;
        drop_if_unused(p, p->locked);
    }
    lock_drop(&p->lock_lock);
}

/* ---- messages ---- */

static int ino_of(struct p9 *p, const struct p9_fid *f, uint64_t *ino)
{
    struct statx st;
    if (!f->file || f->node->type != P9_QT_FILE)
        return -EBADF;
    int e = share_stat(p->share, f->file->fd, &st);
    if (e == 0)
        *ino = share_ino(p->share, &st);
    return e;
}

/* start and length of a message; 0 or -EINVAL. */
static int read_range(struct p9_in *in, struct range *r)
{
    uint64_t start = p9_get64(in), length = p9_get64(in);
    if (start > INT64_MAX || length > INT64_MAX - start)
        return -EINVAL;
    r->start = (int64_t)start;
    r->end = length ? (int64_t)(start + length) - 1 : INT64_MAX;
    return 0;
}

int p9_lock(struct p9_req *r)
{
    struct p9 *p = r->p;
    struct p9_fid f;
    struct range want = { .fid = p9_get32(&r->in) };
    want.type = p9_get8(&r->in);
    uint32_t flags = p9_get32(&r->in);
    int e = read_range(&r->in, &want);
    want.process = p9_get32(&r->in);
    char client[NAME];
    uint64_t ino = 0;
    if (e == 0)
        e = p9_get_str(&r->in, client, sizeof(client));
    if (r->in.bad || want.type > TYPE_UNLOCK || (flags & ~3U))
        return -EINVAL;
    if (e == 0)
        e = p9_get_fid(p, want.fid, &f);
    if (e < 0)
        return e;
    e = ino_of(p, &f, &ino);
    if (e == 0) {
        uint8_t status = LOCK_OK;
        lock_take(&p->lock_lock);
        struct p9_locked *k = want.type == TYPE_UNLOCK ? find(p, ino) : find_or_make(p, &f, ino);
        if (k)
            status = change(p, k, &want);
        else if (want.type != TYPE_UNLOCK)
            status = LOCK_ERROR;
        lock_drop(&p->lock_lock);
        p9_put8(&r->out, status);
    }
    p9_put_fid(p, &f);
    if (e == 0 && p9_get_fid(p, want.fid, &f) < 0)
        p9_unlock_fid(p, want.fid); /* clunked meanwhile */
    else if (e == 0)
        p9_put_fid(p, &f);
    return e;
}

/* Who of the host stands in the way, if anybody does. */
static int probe(struct p9 *p, const struct p9_fid *f, const struct range *r, struct flock *l)
{
    uint64_t ino = 0;
    int e = ino_of(p, f, &ino);
    if (e < 0)
        return e;
    *l = (struct flock){ .l_type = r->type == TYPE_WRITE ? F_WRLCK : F_RDLCK,
                         .l_start = r->start,
                         .l_len = r->end == INT64_MAX ? 0 : r->end - r->start + 1 };
    lock_take(&p->lock_lock);
    const struct p9_locked *k = find(p, ino); /* the guest's own locks are its kernel's business */
    e = r->type != TYPE_UNLOCK && fcntl(k ? k->fd : f->file->fd, F_OFD_GETLK, l) < 0 ? -errno : 0;
    lock_drop(&p->lock_lock);
    if (r->type == TYPE_UNLOCK)
        l->l_type = F_UNLCK;
    return e;
}

int p9_getlock(struct p9_req *r)
{
    struct p9_fid f;
    struct flock l;
    struct range want = { .fid = p9_get32(&r->in) };
    want.type = p9_get8(&r->in);
    int e = read_range(&r->in, &want);
    want.process = p9_get32(&r->in);
    char client[NAME];
    if (e == 0)
        e = p9_get_str(&r->in, client, sizeof(client));
    if (r->in.bad || want.type > TYPE_UNLOCK)
        return -EINVAL;
    if (e == 0)
        e = p9_get_fid(r->p, want.fid, &f);
    if (e < 0)
        return e;
    e = probe(r->p, &f, &want, &l);
    p9_put_fid(r->p, &f);
    if (e < 0)
        return e;
    bool free_ = l.l_type == F_UNLCK;
    p9_put8(&r->out, free_ ? TYPE_UNLOCK : l.l_type == F_WRLCK ? TYPE_WRITE : TYPE_READ);
    p9_put64(&r->out, (uint64_t)l.l_start);
    p9_put64(&r->out, (uint64_t)l.l_len);
    p9_put32(&r->out, free_ ? want.process : l.l_pid > 0 ? (uint32_t)l.l_pid : 0);
    p9_put_str(&r->out, free_ ? client : "host", free_ ? strlen(client) : 4);
    return 0;
}
