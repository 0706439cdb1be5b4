/* SPDX-License-Identifier: MIT */
/* Making empty qcow2 images: header, refcount table, blocks for what there is, L1 table. And making them larger. */
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host/qcow2_image.h"

struct layout {
    unsigned bits, order;
    uint64_t l1_n;
    uint64_t rt, blocks, l1; /* clusters of each; they follow the header in this order */
};

static unsigned log2_of(unsigned v)
{
    return (unsigned)__builtin_ctz(v);
}

static int plan(const struct disk_create *c, struct layout *l, struct err *e)
{
    unsigned refcount_bits = c->refcount_bits ? c->refcount_bits : 16;
    l->bits = c->cluster_bits ? c->cluster_bits : 16;
    if (l->bits < Q_BITS_MIN || l->bits > Q_BITS_MAX)
        return err_set(e, EINVAL, "the cluster size must be a power of two from 512 to 2M");
    if (refcount_bits > 64 || refcount_bits & (refcount_bits - 1))
        return err_set(e, EINVAL, "the refcount width must be 1, 2, 4, 8, 16, 32 or 64 bits");
    if (c->version == 2 && (refcount_bits != 16 || c->lazy_refcounts || c->zstd))
        return err_set(e, EINVAL, "qcow2 version 2 has no lazy refcounts, no zstd and only 16-bit refcounts");
    l->order = log2_of(refcount_bits);
    uint64_t cluster = 1UL << l->bits, span = cluster << (l->bits - 3);
    l->l1_n = c->bytes / span + (c->bytes % span != 0);
    if (l->l1_n * 8 > Q_L1_MAX)
        return err_set(e, EINVAL, "the image is too large for clusters of %lu bytes: %lu TiB at most", cluster,
                       (Q_L1_MAX / 8 * span) >> 40);
    l->l1 = (l->l1_n * 8 + cluster - 1) >> l->bits;
    /* A table that can count the full image, so that it never has to be moved; blocks for what there is now. */
    uint64_t counters = cluster * 8 >> l->order;
    uint64_t full = (c->bytes >> l->bits) + l->l1_n + l->l1 + 64;
    full += full / counters + 2;
    l->rt = ((full / counters + 1) * 8 + cluster - 1) >> l->bits;
    if (l->rt << l->bits > Q_RT_MAX)
        l->rt = Q_RT_MAX >> l->bits;
    for (l->blocks = 1; (l->blocks * counters) < 1 + l->rt + l->blocks + l->l1; l->blocks++)
        ;
    return 0;
}

static void put32(uint8_t *p, uint32_t v)
{
    v = htobe32(v);
    memcpy(p, &v, 4);
}

static void put64(uint8_t *p, uint64_t v)
{
    v = htobe64(v);
    memcpy(p, &v, 8);
}

static int make_header(const struct disk_create *c, const struct layout *l, uint8_t *h, struct err *e)
{
    unsigned version = c->version ? c->version : 3, len = version == 3 ? Q_V3_HEADER + 8 : Q_V2_HEADER, at = len;
    size_t name = c->backing ? strlen(c->backing) : 0, format = c->backing ? strlen(c->backing_format) : 0;
    uint64_t cluster = 1UL << l->bits;
    if (name > Q_NAME_MAX || at + 16 + format + 8 + name > cluster)
        return err_set(e, ENAMETOOLONG, "the backing file's name is too long for a header of %lu bytes", cluster);
    put32(h, QCOW2_MAGIC);
    put32(h + 4, version);
    put32(h + 20, l->bits);
    put64(h + Q_AT_SIZE, c->bytes);
    put32(h + 36, (uint32_t)l->l1_n);
    put64(h + 40, (1 + l->rt + l->blocks) << l->bits);
    put64(h + Q_AT_RT, cluster);
    put32(h + 56, (uint32_t)l->rt);
    if (version == 3) {
        put64(h + Q_AT_INCOMPATIBLE, c->zstd ? QCOW2_COMPRESSION : 0);
        put64(h + 80, c->lazy_refcounts ? QCOW2_LAZY : 0);
        put32(h + 96, l->order);
        put32(h + 100, len);
        h[104] = c->zstd ? QCOW2_ZSTD : QCOW2_ZLIB;
    }
    if (!c->backing)
        return 0;
    put32(h + at, (uint32_t)QCOW2_EXT_BACKING_FORMAT);
    put32(h + at + 4, (uint32_t)format);
    memcpy(h + at + 8, c->backing_format, format);
    at += 8 + (unsigned)((format + 7) & ~7UL) + 8; /* and the end of the extensions, zeroes */
    memcpy(h + at, c->backing, name);
    put64(h + 8, at);
    put32(h + 16, (uint32_t)name);
    return 0;
}

static int write_refcounts(int fd, const struct layout *l)
{
    uint64_t cluster = 1UL << l->bits, used = 1 + l->rt + l->blocks + l->l1, counters = cluster * 8 >> l->order, i = 0;
    uint8_t *b = malloc(cluster);
    int r = b ? 0 : -ENOMEM;
    for (uint64_t k = 0; k < l->blocks && r == 0; k++) {
        uint64_t at = (1 + l->rt + k) << l->bits, be = htobe64(at);
        for (uint64_t n = 0; n < counters; n++, i++)
            q_counter_set(b, n, l->order, i < used);
        r = file_write(fd, b, cluster, at);
        if (r == 0)
            r = file_write(fd, &be, 8, cluster + k * 8);
    }
    free(b);
    return r;
}

int q_create_check(const struct disk_create *c, struct err *e)
{
    struct layout l = { 0 };
    int r = plan(c, &l, e);
    uint8_t *h = r == 0 ? calloc(1, 1UL << l.bits) : NULL;
    if (r == 0)
        r = h ? make_header(c, &l, h, e) : err_set(e, ENOMEM, "out of memory");
    free(h);
    return r;
}

int q_create(int fd, const char *path, const struct disk_create *c, struct err *e)
{
    struct layout l = { 0 };
    int r = plan(c, &l, e);
    if (r < 0)
        return r;
    uint8_t *h = calloc(1, 1UL << l.bits);
    if (!h)
        return err_set(e, ENOMEM, "out of memory");
    r = make_header(c, &l, h, e);
    if (r < 0)
        goto out;
    if (ftruncate(fd, (off_t)((1 + l.rt + l.blocks + l.l1) << l.bits)) < 0)
        r = -errno;
    if (r == 0)
        r = write_refcounts(fd, &l);
    if (r == 0)
        r = file_write(fd, h, 1UL << l.bits, 0); /* last: before, it is no image */
    if (r < 0)
        err_set(e, -r, "cannot write the image '%.300s': %s", path, strerror(-r));
out:
    free(h);
    return r;
}

/* ---- growing ---- */

/* A larger L1 table in a new place; the header switches over to it and to the size in one write. */
static int move_l1(struct qcow2 *q, uint64_t n, uint64_t bytes)
{
    uint64_t first = q->h.l1_off >> q->bits, clusters = (n * 8 + q->cluster - 1) >> q->bits, old = first;
    uint64_t old_clusters = ((uint64_t)q->h.l1_n * 8 + q->cluster - 1) >> q->bits;
    uint64_t *t = calloc(n ? n : 1, 8);
    uint8_t b[24] = { 0 };
    int r = t ? 0 : -ENOMEM;
    bool moves = clusters > old_clusters;
    if (r == 0 && q->l1)
        memcpy(t, q->l1, (uint64_t)q->h.l1_n * 8);
    if (r == 0 && moves)
        r = q_alloc_contiguous(q, clusters, &first);
    for (uint64_t i = 0; moves && i < clusters && r == 0; i++)
        r = q_set_add(&q->meta, first + i);
    if (r == 0)
        r = q_write_refcounts(q);
    if (r == 0 && moves)
        r = file_write_zeroes(q->fd, first << q->bits, clusters << q->bits);
    if (r == 0)
        r = q_write_table(q, first << q->bits, t, n);
    if (r == 0)
        r = q_sync(q);
    put64(b, bytes);
    put32(b + 12, (uint32_t)n);
    put64(b + 16, first << q->bits);
    if (r == 0)
        r = file_write(q->fd, b, sizeof(b), Q_AT_SIZE);
    if (r == 0)
        r = q_sync(q);
    if (r < 0) {
        free(t);
        return r;
    }
    for (uint64_t i = 0; moves && i < old_clusters; i++)
        q_set_remove(&q->meta, old + i);
    if (moves && old_clusters)
        q_unref_later(q, old, old_clusters); /* at worst leaks */
    free(q->l1);
    q->l1 = t;
    q->h.l1_n = (uint32_t)n;
    q->h.l1_off = first << q->bits;
    q->h.size = bytes;
    return 0;
}

int q_resize(struct disk *d, uint64_t bytes, struct err *e)
{
    struct qcow2 *q = d->state;
    uint64_t span = q->cluster << q->l2_bits, n = bytes / span + (bytes % span != 0), old = d->bytes;
    if (bytes < d->bytes)
        return err_set(e, ENOTSUP, "'%.300s': qcow2 images can only grow", d->path);
    if (q->h.snapshots)
        return err_set(e, ENOTSUP, "'%.300s' has internal snapshots: it cannot be resized", d->path);
    if (n * 8 > Q_L1_MAX)
        return err_set(e, EINVAL, "'%.300s' cannot grow beyond %lu TiB with its clusters of %lu bytes", d->path,
                       (Q_L1_MAX / 8 * span) >> 40, q->cluster);
    bool shows = d->backing && d->backing->bytes > old;
    if (shows && q->h.version < 3)
        return err_set(e, ENOTSUP, "'%.300s' cannot grow: its backing file is larger, and version 2 cannot hide that",
                       d->path);
    lock_take(&q->lock);
    int r = q_flush(q);
    if (r == 0)
        r = q_begin_change(q);
    if (r == 0)
        r = move_l1(q, n < q->h.l1_n ? q->h.l1_n : n, bytes);
    lock_drop(&q->lock);
    if (r == 0) {
        d->bytes = bytes;
        if (shows) /* what the backing file has there was never part of this disk */
            r = q_zero(d, old, (d->backing->bytes < bytes ? d->backing->bytes : bytes) - old, true);
    }
    return r == 0 ? 0 : err_set(e, -r, "cannot resize '%.300s': %s", d->path, strerror(-r));
}
