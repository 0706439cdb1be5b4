/* SPDX-License-Identifier: MIT */
/*
 * Opening and closing qcow2 images. All that the header and the tables in memory refer to is entered in a set of
 * metadata clusters; what is in it twice, or outside of the file, makes the image corrupt, and no data may be there.
 */
#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"
#include "host/qcow2.h"
#include "host/qcow2_image.h"

enum { L2_CACHE = 16 << 20, RC_CACHE = 2 << 20, SLICE = 4096 };

int q_write_incompatible(struct qcow2 *q, uint64_t features)
{
    uint64_t be = htobe64(features);
    int r = file_write(q->fd, &be, sizeof(be), Q_AT_INCOMPATIBLE);
    if (r == 0)
        r = q_sync(q);
    if (r == 0)
        q->h.incompatible = features;
    return r;
}

int q_corrupt(struct qcow2 *q, const char *fmt, ...)
{
    char text[200];
    va_list ap;
    if (q->broken)
        return -EIO;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    log_error("the qcow2 image '%s' is corrupt: %s%s", q->d->path, text,
              q->writable ? "; it is not written any more" : "");
    q->broken = true;
    if (q->writable && q->h.version == 3)
        q_write_incompatible(q, q->h.incompatible | QCOW2_CORRUPT);
    return -EIO;
}

/* ---- tables ---- */

static int add_meta(struct qcow2 *q, uint64_t off, uint64_t bytes, const char *what, struct err *e)
{
    if (off % q->cluster || off > q->file_end || bytes > q->file_end - off)
        return err_set(e, EINVAL, "the qcow2 image '%.200s' is corrupt: %s at %#" PRIx64 " is %s", q->d->path, what,
                       off, off % q->cluster ? "not aligned to a cluster" : "outside of the file");
    for (uint64_t at = off; at < off + bytes; at += q->cluster) {
        int r = q_set_add(&q->meta, at >> q->bits);
        if (r == -EEXIST)
            return err_set(e, EINVAL, "the qcow2 image '%.200s' is corrupt: %s at %#" PRIx64 " overlaps other metadata",
                           q->d->path, what, at);
        if (r < 0)
            return err_set(e, ENOMEM, "out of memory");
    }
    return 0;
}

static uint64_t *load_table(struct qcow2 *q, uint64_t off, uint64_t n, struct err *e)
{
    uint64_t *t = malloc(n ? n * 8 : 8);
    int r = t ? file_read(q->fd, t, n * 8, off) : -ENOMEM;
    if (r < 0) {
        err_set(e, -r, "cannot read the tables of '%.300s': %s", q->d->path, strerror(-r));
        free(t);
        return NULL;
    }
    for (uint64_t i = 0; i < n; i++)
        t[i] = be64toh(t[i]);
    return t;
}

static int add_entries(struct qcow2 *q, const uint64_t *t, uint64_t n, const char *what, struct err *e)
{
    int r = 0;
    for (uint64_t i = 0; i < n && r == 0; i++)
        if (t[i] & QCOW2_OFFSET)
            r = add_meta(q, t[i] & QCOW2_OFFSET, q->cluster, what, e);
    return r;
}

static int add_snapshots(struct qcow2 *q, struct err *e)
{
    struct q_snapshot *s;
    uint64_t bytes;
    if (!q->h.snapshots)
        return 0;
    int r = q_read_snapshots(q->fd, &q->h, &s, &bytes, e);
    if (r < 0)
        return r;
    r = add_meta(q, q->h.snapshots_off, bytes, "the snapshot table", e);
    for (uint32_t i = 0; i < q->h.snapshots && r == 0; i++)
        if (s[i].l1_n)
            r = add_meta(q, s[i].l1_off, (uint64_t)s[i].l1_n * 8, "a snapshot's L1 table", e);
    free(s);
    return r;
}

int q_load_tables(struct qcow2 *q, struct err *e)
{
    q->rt_n = (uint64_t)q->h.rt_clusters << (q->bits - 3);
    q->l1 = load_table(q, q->h.l1_off, q->h.l1_n, e);
    q->rt = q->l1 ? load_table(q, q->h.rt_off, q->rt_n, e) : NULL;
    if (!q->rt)
        return -EIO;
    /* A dirty or a damaged image is about to be looked at more closely, or never written. */
    int r = add_meta(q, 0, q->cluster, "the header", e);
    if (r == 0 && q->h.l1_n)
        r = add_meta(q, q->h.l1_off, (uint64_t)q->h.l1_n * 8, "the L1 table", e);
    if (r == 0)
        r = add_meta(q, q->h.rt_off, q->rt_n * 8, "the refcount table", e);
    if (r == 0)
        r = add_snapshots(q, e);
    if (r == 0)
        r = add_entries(q, q->l1, q->h.l1_n, "an L2 table", e);
    if (r == 0 && q->writable)
        r = add_entries(q, q->rt, q->rt_n, "a refcount block", e);
    return r;
}

void q_drop_tables(struct qcow2 *q)
{
    free(q->l1);
    free(q->rt);
    free(q->meta.slot);
    q->l1 = q->rt = NULL;
    q->meta = (struct q_set){ 0 };
}

/* ---- life ---- */

static int check_state(struct qcow2 *q, const struct disk_options *o, struct err *e)
{
    const char *path = q->d->path;
    if (q->h.incompatible & QCOW2_CORRUPT) {
        if (q->writable)
            return err_set(
                e, EINVAL,
                "the qcow2 image '%.200s' is marked corrupt: \"gazda image check --repair\" may help; it can "
                "be read with ,ro",
                path);
        log_warn("the qcow2 image '%s' is marked corrupt", path);
    }
    if (q->writable && q->h.autoclear & QCOW2_BITMAPS)
        return err_set(e, ENOTSUP,
                       "the qcow2 image '%.200s' has persistent bitmaps, which would not be kept up to date: remove "
                       "them with qemu-img bitmap --remove, or use the image with ,ro",
                       path);
    if (q->writable && q->d->device)
        return err_set(e, ENOTSUP, "the qcow2 image '%.300s' is on a block device, where it can only be read (,ro)",
                       path);
    if (q->h.backing[0] && !o->format && !o->no_backing)
        return err_set(
            e, EINVAL,
            "the image '%.200s' looks like a qcow2 image with the backing file '%.100s'; it is only taken as "
            "one if you say so, with format=qcow2 or -f qcow2 (a guest can make its raw disk look like that)",
            path, q->h.backing);
    if (q->writable && q->h.autoclear) {
        uint64_t zero = 0;
        int r = file_write(q->fd, &zero, sizeof(zero), Q_AT_AUTOCLEAR);
        if (r < 0)
            return err_set(e, -r, "cannot write to '%.300s': %s", path, strerror(-r));
        q->h.autoclear = 0;
    }
    return 0;
}

static uint32_t slice_bytes(const struct qcow2 *q)
{
    return q->cluster < SLICE ? (uint32_t)q->cluster : SLICE;
}

static void close_state(struct disk *d)
{
    struct qcow2 *q = d->state;
    q_forget_unzipped(q);
    q_cache_free(&q->l2);
    q_cache_free(&q->rc);
    q_drop_tables(q);
    free(q->unref);
    lock_destroy(&q->lock);
    lock_destroy(&q->zip_lock);
    pthread_cond_destroy(&q->wait);
    free(q);
    d->state = NULL;
}

static int qcow2_open(struct disk *d, const struct disk_options *o, struct err *e)
{
    struct q_header h;
    int r = q_read_header(d->fd, d->file_bytes, d->path, &h, e);
    struct qcow2 *q = r == 0 ? calloc(1, sizeof(*q)) : NULL;
    if (r < 0)
        return r;
    if (!q)
        return err_set(e, ENOMEM, "out of memory");
    *q = (struct qcow2){ .d = d, .fd = d->fd, .h = h, .bits = h.cluster_bits, .l2_bits = h.cluster_bits - 3 };
    q->cluster = 1UL << q->bits;
    q->file_end = (d->file_bytes + q->cluster - 1) & ~(q->cluster - 1);
    q->writable = !d->read_only;
    q->lazy = h.version == 3 && h.compatible & QCOW2_LAZY;
    lock_init(&q->lock, LOCK_DISK);
    lock_init(&q->zip_lock, LOCK_DISK_CACHE);
    pthread_cond_init(&q->wait, NULL);
    q_cache_init(&q->l2, q->fd, slice_bytes(q), L2_CACHE / slice_bytes(q));
    q_cache_init(&q->rc, q->fd, slice_bytes(q), RC_CACHE / slice_bytes(q));
    q->rc.write_evicted = true;
    d->state = q;
    d->bytes = h.size;
    if (o->no_repair)
        return 0; /* qcow2_check.c loads what it can */
    r = check_state(q, o, e);
    if (r == 0 && q->writable && h.incompatible & QCOW2_DIRTY) {
        log_warn("the qcow2 image '%s' was not closed: its refcounts are made anew", d->path);
        r = q_repair_refcounts(d, e);
    }
    if (r == 0 && !q->l1)
        r = q_load_tables(q, e);
    if (r == 0 && h.backing[0] && !o->no_backing)
        r = disk_open_backing(d, h.backing, h.backing_format[0] ? h.backing_format : NULL, o, e);
    if (r < 0)
        close_state(d);
    return r;
}

static void qcow2_close(struct disk *d)
{
    struct qcow2 *q = d->state;
    if (q->writable && q->l1) {
        lock_take(&q->lock);
        int r = q_finish(q);
        lock_drop(&q->lock);
        if (r < 0 && !q->broken)
            log_error("the qcow2 image '%s' could not be closed properly: %s", d->path, strerror(-r));
    }
    close_state(d);
}

static int qcow2_flush(struct disk *d)
{
    struct qcow2 *q = d->state;
    lock_take(&q->lock);
    int r = q_flush(q);
    lock_drop(&q->lock);
    return r;
}

const struct disk_format disk_qcow2 = {
    .name = "qcow2",
    .open = qcow2_open,
    .close = qcow2_close,
    .read = q_read,
    .write = q_write,
    .flush = qcow2_flush,
    .discard = q_discard,
    .zero = q_zero,
    .map = q_disk_map,
    .resize = q_resize,
};
