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
