/* SPDX-License-Identifier: MIT */
/*
 * Requests to qcow2 images. Each goes extent by extent; a thread is in one range at a time, so they cannot wait for
 * each other in a circle. The image below is read with no lock held.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "host/disk_image.h"
#include "host/qcow2.h"

/* ---- ranges ---- */

bool q_enter(struct qcow2 *q, struct q_range *r)
{
    for (const struct q_range *o = q->ranges; o; o = o->next) {
        if ((o->exclusive || r->exclusive) && o->first <= r->last && r->first <= o->last) {
            q_wait(q);
            return false;
        }
    }
    r->next = q->ranges;
    q->ranges = r;
    return true;
}

void q_leave(struct qcow2 *q, struct q_range *r)
{
    struct q_range **p = &q->ranges;
    while (*p != r)
        p = &(*p)->next;
    *p = r->next;
    q_wake(q);
}

static struct q_range range_of(const struct qcow2 *q, uint64_t off, uint64_t len, bool exclusive)
{
    return (struct q_range){ .first = off >> q->bits, .last = (off + len - 1) >> q->bits, .exclusive = exclusive };
}

/* ---- reading ---- */

static int read_extent(struct qcow2 *q, const struct q_extent *x, struct iov_cursor *c, uint64_t off)
{
    switch (x->kind) {
    case Q_DATA:
        return file_readv(q->fd, c, x->host, x->len, EOF_ZEROES);
    case Q_PACKED:
        return q_read_packed(q, x->entry, (unsigned)(off & (q->cluster - 1)), c, (unsigned)x->len);
    case Q_NONE:
        return disk_read_backing(q->d->backing, c, off, x->len);
    default:
        iov_zero(c, x->len);
        return 0;
    }
}

/* enter is false for a caller that has the range to itself already. */
static int read_range(struct qcow2 *q, struct iov_cursor *c, uint64_t off, uint64_t len, bool enter)
{
    int r = 0;
    while (len && r == 0) {
        struct q_extent x;
        struct q_range in;
        lock_take(&q->lock);
        do {
            r = q_map(q, off, len, &x);
            if (r == 0)
                in = range_of(q, off, x.len, false);
        } while (r == 0 && enter && !q_enter(q, &in));
        lock_drop(&q->lock);
        if (r < 0)
            return r;
        r = read_extent(q, &x, c, off);
        if (enter) {
            lock_take(&q->lock);
            q_leave(q, &in);
            lock_drop(&q->lock);
        }
        off += x.len;
        len -= x.len;
    }
    return r;
}

int q_read(struct disk *d, struct iov_cursor *c, uint64_t off, uint64_t len)
{
    return read_range(d->state, c, off, len, true);
}

/* ---- writing ---- */

/* Bytes of the disk as they are now, zeroes behind its end. */
static int read_old(struct qcow2 *q, void *buf, uint64_t off, uint64_t len)
{
    uint64_t there = off >= q->d->bytes ? 0 : q->d->bytes - off < len ? q->d->bytes - off : len;
    struct iovec v = { buf, len };
    struct iov_cursor c = { &v, 1, 0 };
    int r = read_range(q, &c, off, there, false);
    iov_zero(&c, len - there);
    return r;
}

static bool all_zero(const uint8_t *p, size_t n)
{
    return n == 0 || (p[0] == 0 && memcmp(p, p + 1, n - 1) == 0);
}

/* Copies what a write leaves of its clusters' old content to their new place. fresh: zeroes are there already. */
static int copy_edge(struct qcow2 *q, uint64_t off, uint64_t len, uint64_t host, bool fresh)
{
    uint8_t *buf = len ? malloc(len) : NULL;
    if (!len)
        return 0;
    int r = buf ? read_old(q, buf, off, len) : -ENOMEM;
    if (r == 0 && !(fresh && all_zero(buf, len)))
        r = file_write(q->fd, buf, len, host);
    free(buf);
    return r;
}

struct place {
    uint64_t host; /* of the first cluster */
    uint64_t n;
    bool fresh; /* never written: reads as zeroes */
    bool new;   /* allocated for this write */
};

/* Gives the clusters of [off, off + *len) a place; *len is shortened to what is contiguous. Lock held, change. */
static int find_place(struct qcow2 *q, uint64_t off, uint64_t *len, struct place *p)
{
    uint64_t in = off & (q->cluster - 1), end = q->file_end, first;
    int r = q_own_l2(q, off);
    if (r == 0)
        r = q_map_placeless(q, off, len);
    p->n = (in + *len + q->cluster - 1) >> q->bits;
    if (r == 0)
        r = q_alloc(q, &p->n, &first);
    if (r < 0)
        return r;
    if (p->n << q->bits < in + *len)
        *len = (p->n << q->bits) - in;
    p->host = first << q->bits;
    p->fresh = p->host >= end;
    p->new = true;
    return 0;
}

/* Data, and what surrounds them in the first and the last cluster. No lock. */
static int fill_place(struct qcow2 *q, struct iov_cursor *c, uint64_t off, uint64_t len, const struct place *p)
{
    uint64_t head = off & (q->cluster - 1), end = head + len, all = p->n << q->bits;
    int r = copy_edge(q, off - head, head, p->host, p->fresh);
    if (r == 0)
        r = copy_edge(q, off + len, all - end, p->host + end, p->fresh);
    return r == 0 ? file_writev(q->fd, c, p->host + head, len) : r;
}

/* The L2 entries get the place, or, if it could not be filled, it is given back. Lock held. */
static int settle(struct qcow2 *q, uint64_t off, const struct place *p, int r)
{
    int begun = q_begin_change(q);
    if (begun < 0)
        return begun;
    if (r == 0) {
        q->data_unsynced = true;
        return q_set_entries(q, off, (unsigned)p->n, p->host | QCOW2_COPIED, q->cluster);
    }
    for (uint64_t i = 0; p->new &&i < p->n; i++)
        q_refcount_add(q, (p->host >> q->bits) + i, -1);
    return r;
}

enum way { IN_PLACE, PLACED };

/*
 * Decides how the first bytes of a request are written and enters their range. Lock held; dropped and taken while
 * waiting, after which everything is looked at again.
 */
static int enter_write(struct qcow2 *q, uint64_t off, uint64_t *len, struct q_range *in, struct place *p)
{
    struct q_extent x;
    for (uint64_t want = *len;; *len = want) {
        int r = q_map(q, off, want, &x);
        if (r < 0)
            return r;
        *len = x.len;
        if (x.mine && x.kind == Q_DATA) {
            p->host = x.host;
            *in = range_of(q, off, *len, false);
            if (q_enter(q, in))
                return IN_PLACE;
            continue;
        }
        if (q->busy) {
            q_wait(q);
            continue;
        }
        *len = want;
        if (x.mine) { /* allocated, but says zero: the place is there, not its content */
            *len = x.len;
            *p = (struct place){ .host = x.host & ~(q->cluster - 1) };
            p->n = ((off & (q->cluster - 1)) + *len + q->cluster - 1) >> q->bits;
        } else {
            r = q_map_placeless(q, off, len);
        }
        *in = range_of(q, off, *len, true);
        if (r < 0)
            return r;
        if (!q_enter(q, in))
            continue;
        r = x.mine ? 0 : find_place(q, off, len, p);
        if (r < 0)
            q_leave(q, in);
        else
            in->last = (off + *len - 1) >> q->bits; /* what was not placed may go on */
        return r < 0 ? r : PLACED;
    }
}

int q_write(struct disk *d, struct iov_cursor *c, uint64_t off, uint64_t len)
{
    struct qcow2 *q = d->state;
    int r = 0;
    while (len && r >= 0) {
        struct q_range in;
        struct place p = { 0 };
        uint64_t part = len;
        lock_take(&q->lock);
        int way = q->broken ? -EIO : enter_write(q, off, &part, &in, &p);
        lock_drop(&q->lock);
        if (way < 0)
            return way;
        r = way == PLACED ? fill_place(q, c, off, part, &p) : file_writev(q->fd, c, p.host, part);
        lock_take(&q->lock);
        if (way == PLACED)
            r = settle(q, off, &p, r);
        q_leave(q, &in);
        lock_drop(&q->lock);
        off += part;
        len -= part;
    }
    return r;
}

/* ---- discard and write zeroes ---- */

static int write_zero_data(struct disk *d, uint64_t off, uint64_t len)
{
    static const uint8_t zeroes[65536];
    int r = 0;
    while (len && r == 0) {
        uint64_t k = len < sizeof(zeroes) ? len : sizeof(zeroes);
        struct iovec v = { (void *)(uintptr_t)zeroes, k };
        struct iov_cursor c = { &v, 1, 0 };
        r = q_write(d, &c, off, k);
        off += k;
        len -= k;
    }
    return r;
}

/* Part of a cluster: nothing to do if it is zero already. */
static int zero_part(struct disk *d, uint64_t off, uint64_t len)
{
    uint64_t n = len;
    int r = len ? q_disk_map(d, off, &n) : DISK_MAP_ZERO;
    if (r < 0 || (r == DISK_MAP_ZERO && n == len))
        return r < 0 ? r : 0;
    return write_zero_data(d, off, len);
}

enum { Z_KEEP, Z_UNMAP, Z_DISCARD, Z_EMPTY };

/* What an entry becomes. False: it stays. */
static bool zeroed(const struct qcow2 *q, uint64_t entry, int how, uint64_t *out)
{
    if (how == Z_EMPTY) {
        *out = 0;
        return entry != 0;
    }
    bool none = !(entry & QCOW2_COMPRESSED) && !(entry & QCOW2_OFFSET);
    bool flagged = !(entry & QCOW2_COMPRESSED) && q->h.version >= 3 && entry & QCOW2_ZERO;
    if (none && (flagged || !q->d->backing))
        return false;
    *out = q->d->backing ? QCOW2_ZERO : 0;
    if (how == Z_KEEP && q->h.version >= 3 && !none && !(entry & QCOW2_COMPRESSED) && entry & QCOW2_COPIED)
        *out = entry | QCOW2_ZERO;
    return *out != entry;
}

/* Whole clusters of one slice, with the lock held throughout. *n entries are done. */
static int zero_slice(struct qcow2 *q, uint64_t off, uint64_t *n, int how)
{
    int r;
    lock_take(&q->lock);
    for (;;) {
        struct q_range in = range_of(q, off, *n << q->bits, true);
        r = q_begin_change(q);
        if (r < 0)
            goto out;
        if (!q_enter(q, &in))
            continue;
        q_leave(q, &in); /* nobody is there, and nobody comes before the lock is dropped */
        break;
    }
    bool owned = false;
    for (uint64_t i = 0; i < *n && r == 0; i++) {
        uint64_t at = off + (i << q->bits), entry, now;
        r = q_get_entry(q, at, &entry);
        if (r < 0 || !zeroed(q, entry, how, &now))
            continue;
        if (!owned)
            r = q_own_l2(q, at);
        owned = true;
        if (r == 0)
            r = q_set_entries(q, at, 1, now, 0);
    }
out:
    lock_drop(&q->lock);
    return r;
}

static int zero_clusters(struct qcow2 *q, uint64_t off, uint64_t end, int how)
{
    int r = 0;
    while (off < end && r == 0) {
        uint64_t n = q_slice_left(q, off), max = (end - off + q->cluster - 1) >> q->bits, span;
        struct q_extent x;
        lock_take(&q->lock);
        r = q_map(q, off, end - off, &x);
        lock_drop(&q->lock);
        span = r == 0 && x.kind == Q_NONE && (!q->d->backing || how == Z_EMPTY) ? x.len >> q->bits : 0;
        if (span) { /* nothing there, perhaps as far as a whole table */
            off += span << q->bits;
            continue;
        }
        if (n > max)
            n = max;
        if (r == 0)
            r = zero_slice(q, off, &n, how);
        off += n << q->bits;
    }
    return r;
}

/* The whole clusters of a range; the disk's last one counts as whole. */
static bool whole_clusters(const struct qcow2 *q, uint64_t off, uint64_t len, uint64_t *first, uint64_t *end)
{
    *first = (off + q->cluster - 1) & ~(q->cluster - 1);
    *end = off + len == q->d->bytes ? off + len : (off + len) & ~(q->cluster - 1);
    return *first < *end;
}

int q_discard(struct disk *d, uint64_t off, uint64_t len)
{
    struct qcow2 *q = d->state;
    uint64_t first, end;
    /* Without the zero flag the old content of the image below would come back. */
    if (!whole_clusters(q, off, len, &first, &end) || (q->h.version < 3 && d->backing))
        return 0;
    return zero_clusters(q, first, end, Z_DISCARD);
}

int q_zero(struct disk *d, uint64_t off, uint64_t len, bool unmap)
{
    struct qcow2 *q = d->state;
    uint64_t first, end;
    if (!whole_clusters(q, off, len, &first, &end))
        return zero_part(d, off, len);
    if (q->h.version < 3 && d->backing)
        return write_zero_data(d, off, len);
    int r = zero_part(d, off, first - off);
    if (r == 0)
        r = zero_clusters(q, first, end, unmap ? Z_UNMAP : Z_KEEP);
    if (r == 0)
        r = zero_part(d, end, off + len - end);
    return r;
}

int disk_empty(struct disk *d)
{
    return d->fmt == &disk_qcow2 && !d->read_only ? zero_clusters(d->state, 0, d->bytes, Z_EMPTY) : -EINVAL;
}

int q_disk_map(struct disk *d, uint64_t off, uint64_t *len)
{
    struct qcow2 *q = d->state;
    struct q_extent x;
    lock_take(&q->lock);
    int r = q_map(q, off, *len, &x);
    lock_drop(&q->lock);
    if (r < 0)
        return r;
    *len = x.len;
    if (x.kind == Q_DATA || x.kind == Q_PACKED)
        return DISK_MAP_DATA;
    return x.kind == Q_NONE && d->backing ? DISK_MAP_BACKING : DISK_MAP_ZERO;
}
