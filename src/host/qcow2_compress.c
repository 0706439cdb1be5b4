/* SPDX-License-Identifier: MIT */
/*
 * Compressed clusters: raw deflate or zstd. The last few that were read are kept, since guests read less than a cluster
 * at a time.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "host/disk_image.h"
#include "host/qcow2.h"

enum { WINDOW_BITS = 12 }; /* what readers of the format allow for */

static int inflate_cluster(uint8_t *out, size_t size, uint8_t *in, size_t len)
{
    z_stream z = { .next_in = in, .avail_in = (uInt)len, .next_out = out, .avail_out = (uInt)size };
    if (inflateInit2(&z, -MAX_WBITS) != Z_OK)
        return -ENOMEM;
    int r = inflate(&z, Z_FINISH);
    inflateEnd(&z);
    /* Behind the data there may be anything, up to the end of a sector. */
    return (r == Z_STREAM_END || r == Z_BUF_ERROR) && z.avail_out == 0 ? 0 : -EIO;
}

static int unzstd_cluster(uint8_t *out, size_t size, const uint8_t *in, size_t len)
{
    ZSTD_DCtx *z = ZSTD_createDCtx();
    ZSTD_inBuffer i = { in, len, 0 };
    ZSTD_outBuffer o = { out, size, 0 };
    if (!z)
        return -ENOMEM;
    while (o.pos < o.size) {
        size_t before = o.pos + i.pos, r = ZSTD_decompressStream(z, &o, &i);
        if (ZSTD_isError(r) || o.pos + i.pos == before)
            break;
    }
    ZSTD_freeDCtx(z);
    return o.pos == o.size ? 0 : -EIO;
}

static int unpack(struct qcow2 *q, uint64_t entry, uint8_t *out)
{
    unsigned x = 62 - (q->bits - 8);
    uint64_t at = entry & ((1UL << x) - 1), sectors = ((entry & (QCOW2_COMPRESSED - 1)) >> x) + 1;
    size_t len = sectors * 512 - (at & 511);
    if (at >= q->file_end || at < q->cluster) {
        lock_take(&q->lock);
        int r = q_corrupt(q, "compressed data are at %#lx, outside of the file", at);
        lock_drop(&q->lock);
        return r;
    }
    uint8_t *in = malloc(len);
    int r = in ? file_read(q->fd, in, len, at) : -ENOMEM;
    if (r == 0)
        r = q->h.compression == QCOW2_ZSTD ? unzstd_cluster(out, q->cluster, in, len)
                                           : inflate_cluster(out, q->cluster, in, len);
    free(in);
    return r;
}

int q_read_packed(struct qcow2 *q, uint64_t entry, unsigned at, struct iov_cursor *c, unsigned len)
{
    lock_take(&q->zip_lock);
    for (int i = 0; i < Q_UNZIPPED; i++) {
        if (q->unzipped[i].data && q->unzipped[i].entry == entry) {
            q->unzipped[i].stamp = ++q->stamp;
            iov_put(c, q->unzipped[i].data + at, len);
            lock_drop(&q->zip_lock);
            return 0;
        }
    }
    lock_drop(&q->zip_lock);
    uint8_t *out = malloc(q->cluster), *old = NULL;
    int r = out ? unpack(q, entry, out) : -ENOMEM;
    if (r < 0) {
        free(out);
        return r;
    }
    iov_put(c, out + at, len);
    lock_take(&q->zip_lock);
    int oldest = 0;
    for (int i = 1; i < Q_UNZIPPED; i++)
        if (q->unzipped[i].stamp < q->unzipped[oldest].stamp)
            oldest = i;
    old = q->unzipped[oldest].data;
    q->unzipped[oldest].data = out;
    q->unzipped[oldest].entry = entry;
    q->unzipped[oldest].stamp = ++q->stamp;
    lock_drop(&q->zip_lock);
    free(old);
    return 0;
}

void q_forget_unzipped(struct qcow2 *q)
{
    lock_take(&q->zip_lock);
    for (int i = 0; i < Q_UNZIPPED; i++) {
        free(q->unzipped[i].data);
        q->unzipped[i].data = NULL;
        q->unzipped[i].stamp = 0;
    }
    lock_drop(&q->zip_lock);
}

/* ---- writing ---- */

/* Bytes of the result, 0 if it is no smaller than size, or -errno. */
static ssize_t compress_cluster(const struct qcow2 *q, const uint8_t *in, uint8_t *out)
{
    size_t size = q->cluster;
    if (q->h.compression == QCOW2_ZSTD) {
        size_t n = ZSTD_compress(out, size - 1, in, size, 3);
        return ZSTD_isError(n) ? 0 : (ssize_t)n;
    }
    z_stream z = { .next_in = (uint8_t *)(uintptr_t)in, .avail_in = (uInt)size, .next_out = out };
    z.avail_out = (uInt)(size - 1);
    if (deflateInit2(&z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, -WINDOW_BITS, 9, Z_DEFAULT_STRATEGY) != Z_OK)
        return -ENOMEM;
    int r = deflate(&z, Z_FINISH);
    deflateEnd(&z);
    return r == Z_STREAM_END ? (ssize_t)(size - 1 - z.avail_out) : 0;
}

/*
 * Room for size bytes: behind the last ones, if their cluster has room and its refcount can rise. Each cluster that is
 * touched is referred to once. Lock held, change.
 */
static int pack_alloc(struct qcow2 *q, uint64_t size, uint64_t *at)
{
    uint64_t n = 1, c, room = q->pack_end - q->pack;
    bool shared = false;
    int r = 0;
    if (room >= size) {
        r = q_refcount_add(q, q->pack >> q->bits, 1);
        if (r < 0 && r != -ERANGE)
            return r;
        shared = r == 0;
    }
    if (!shared) {
        r = q_alloc(q, &n, &c);
        if (r < 0)
            return r;
        if (room && room < size && c << q->bits == q->pack_end && q_refcount_add(q, q->pack >> q->bits, 1) == 0)
            q->pack_end += q->cluster;
        else
            q->pack = c << q->bits, q->pack_end = q->pack + q->cluster;
    }
    *at = q->pack;
    q->pack += size;
    return 0;
}

static int write_packed(struct qcow2 *q, const uint8_t *data, uint64_t size, uint64_t off)
{
    struct q_range in = { .first = off >> q->bits, .last = off >> q->bits, .exclusive = true };
    uint64_t at = 0;
    int r;
    lock_take(&q->lock);
    while ((r = q_begin_change(q)) == 0 && !q_enter(q, &in))
        ;
    if (r < 0) {
        lock_drop(&q->lock);
        return r;
    }
    r = q_own_l2(q, off);
    if (r == 0)
        r = pack_alloc(q, size, &at);
    if (r < 0)
        goto out;
    lock_drop(&q->lock);
    r = file_write(q->fd, data, size, at);
    lock_take(&q->lock);
    unsigned x = 62 - (q->bits - 8);
    uint64_t entry = QCOW2_COMPRESSED | at | ((at + size - 1) / 512 - at / 512) << x;
    if (r == 0)
        r = q_begin_change(q);
    if (r == 0) {
        q->data_unsynced = true;
        r = q_set_entries(q, off, 1, entry, 0);
    } /* else what was allocated leaks */
out:
    q_leave(q, &in);
    lock_drop(&q->lock);
    return r;
}

int disk_write_compressed(struct disk *d, const void *buf, uint64_t len, uint64_t off)
{
    struct qcow2 *q = d->state;
    if (d->fmt != &disk_qcow2 || d->read_only || off % q->cluster || len > q->cluster || off + len > d->bytes)
        return -EINVAL;
    uint8_t *in = calloc(1, q->cluster), *out = malloc(q->cluster);
    ssize_t n = in && out ? 0 : -ENOMEM;
    if (n == 0) {
        memcpy(in, buf, len);
        n = compress_cluster(q, in, out);
    }
    int r = (int)n;
    if (n > 0)
        r = write_packed(q, out, (uint64_t)n, off);
    free(in);
    free(out);
    if (n != 0)
        return r;
    struct iovec v = { (void *)(uintptr_t)buf, len };
    struct iov_cursor c = { &v, 1, 0 };
    return q_write(d, &c, off, len);
}
