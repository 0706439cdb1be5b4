/* SPDX-License-Identifier: MIT */
/*
 * Reference counts of a qcow2 image's clusters, and the allocation of clusters. The image's lock is held. Blocks in the
 * cache never hold a decrement that the file is not ready for (q_unref_later), so they may be written at any time.
 */
#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "host/qcow2.h"
#include "host/qcow2_image.h"

static unsigned block_bits(const struct qcow2 *q)
{
    return q->bits + 3 - q->h.refcount_order; /* log2 of counters in a block */
}

static uint64_t refcount_max(const struct qcow2 *q)
{
    return q->h.refcount_order == 6 ? UINT64_MAX : (1UL << (1U << q->h.refcount_order)) - 1;
}

uint64_t q_counter_get(const uint8_t *p, uint64_t i, unsigned order)
{
    uint16_t h;
    uint32_t w;
    uint64_t l;
    switch (order) {
    case 3:
        return p[i];
    case 4:
        memcpy(&h, p + 2 * i, 2);
        return be16toh(h);
    case 5:
        memcpy(&w, p + 4 * i, 4);
        return be32toh(w);
    case 6:
        memcpy(&l, p + 8 * i, 8);
        return be64toh(l);
    default:
        return (unsigned)p[i >> (3 - order)] >> ((i & ((8U >> order) - 1)) << order) & ((1U << (1U << order)) - 1);
    }
}

void q_counter_set(uint8_t *p, uint64_t i, unsigned order, uint64_t v)
{
    uint16_t h = htobe16((uint16_t)v);
    uint32_t w = htobe32((uint32_t)v);
    uint64_t l = htobe64(v);
    unsigned shift;
    switch (order) {
    case 3:
        p[i] = (uint8_t)v;
        break;
    case 4:
        memcpy(p + 2 * i, &h, 2);
        break;
    case 5:
        memcpy(p + 4 * i, &w, 4);
        break;
    case 6:
        memcpy(p + 8 * i, &l, 8);
        break;
    default:
        shift = (unsigned)(i & ((8U >> order) - 1)) << order;
        p += i >> (3 - order);
        *p = (uint8_t)((*p & ~(((1U << (1U << order)) - 1) << shift)) | (unsigned)v << shift);
    }
}

/* The slice with a cluster's counter, and the counter's number in it; *e is NULL where there is no block. */
static int get_slice(struct qcow2 *q, uint64_t cluster, struct q_entry **e, uint64_t *i)
{
    uint64_t block = cluster >> block_bits(q), at = cluster & ((1UL << block_bits(q)) - 1);
    unsigned per_slice = q->rc.slice * 8 >> q->h.refcount_order;
    uint64_t table = block < q->rt_n ? q->rt[block] & QCOW2_OFFSET : 0;
    *e = NULL;
    *i = at % per_slice;
    return table ? q_cache_get(&q->rc, table + at / per_slice * q->rc.slice, e) : 0;
}

int q_refcount(struct qcow2 *q, uint64_t cluster, uint64_t *n)
{
    struct q_entry *e;
    uint64_t i;
    int r = get_slice(q, cluster, &e, &i);
    *n = r == 0 && e ? q_counter_get(e->data, i, q->h.refcount_order) : 0;
    return r;
}

int q_refcount_add(struct qcow2 *q, uint64_t cluster, int by)
{
    struct q_entry *e;
    uint64_t i;
    int r = get_slice(q, cluster, &e, &i);
    if (r < 0)
        return r;
    uint64_t n = e ? q_counter_get(e->data, i, q->h.refcount_order) : 0;
    if (by < 0 ? n == 0 : !e)
        return q_corrupt(q, "the cluster at %#" PRIx64 " is in use and has refcount 0", cluster << q->bits);
    if (by > 0 && n == refcount_max(q))
        return -ERANGE;
    q_counter_set(e->data, i, q->h.refcount_order, by > 0 ? n + 1 : n - 1);
    q_cache_dirty(&q->rc, e);
    if (by < 0 && n == 1 && cluster < q->free_hint)
        q->free_hint = cluster;
    return 0;
}

int q_unref_later(struct qcow2 *q, uint64_t cluster, uint64_t n)
{
    struct q_run *last = q->unrefs ? &q->unref[q->unrefs - 1] : NULL;
    if (last && last->cluster + last->n == cluster) {
        last->n += n;
        return 0;
    }
    if (q->unrefs == q->unref_max) {
        size_t max = q->unref_max ? 2 * q->unref_max : 64;
        struct q_run *more = realloc(q->unref, max * sizeof(*more));
        if (!more)
            return -ENOMEM;
        q->unref = more;
        q->unref_max = max;
    }
    q->unref[q->unrefs++] = (struct q_run){ cluster, n };
    return 0;
}

/* ---- allocation ---- */

static void table_changed(struct qcow2 *q, uint64_t block)
{
    if (q->rt_lo == q->rt_hi)
        q->rt_lo = block, q->rt_hi = block + 1;
    q->rt_lo = block < q->rt_lo ? block : q->rt_lo;
    q->rt_hi = block >= q->rt_hi ? block + 1 : q->rt_hi;
}

/* A block for the counters around a cluster, in that very cluster: none of those it counts is in use. */
static int add_block(struct qcow2 *q, uint64_t cluster)
{
    uint64_t at = cluster << q->bits, block = cluster >> block_bits(q);
    if (q_set_has(&q->meta, cluster))
        return q_corrupt(q, "metadata at %#" PRIx64 " have refcount 0", at);
    int r = file_write_zeroes(q->fd, at, q->cluster);
    if (r == 0)
        r = q_set_add(&q->meta, cluster);
    if (r < 0)
        return r;
    q_cache_forget(&q->rc, at, q->cluster);
    q->rt[block] = at;
    table_changed(q, block);
    if (at + q->cluster > q->file_end)
        q->file_end = at + q->cluster;
    return q_refcount_add(q, cluster, 1);
}

/*
 * A larger refcount table, in the clusters behind all that the old one can count, with the blocks that count those.
 * Rare, so it is done on the medium at once, step by step.
 */
static int grow_table(struct qcow2 *q)
{
    uint64_t first = q->rt_n << block_bits(q), n, per_block = 1UL << block_bits(q);
    uint64_t table, blocks = 1, old_off = q->h.rt_off, old_n = q->h.rt_clusters;
    if (first < q->file_end >> q->bits) /* the file ends later, in clusters that nothing counted */
        first = (q->file_end + q->cluster * per_block - 1) >> q->bits >> block_bits(q) << block_bits(q);
    for (;; blocks++) {
        n = ((first >> block_bits(q)) + blocks) * 3 / 2 + 1;
        table = (n * 8 + q->cluster - 1) >> q->bits;
        if (blocks + table <= blocks << block_bits(q))
            break;
    }
    n = table << (q->bits - 3);
    if (table << q->bits > Q_RT_MAX)
        return -EFBIG;
    uint64_t *t = calloc(n, 8);
    if (!t)
        return -ENOMEM;
    memcpy(t, q->rt, q->rt_n * 8);
    for (uint64_t i = 0; i < blocks; i++)
        t[(first >> block_bits(q)) + i] = (first + i) << q->bits;
    /* The old table's blocks first: the new table is all that leads to them. */
    int r = q_cache_write(&q->rc);
    if (r == 0)
        r = q_write_counters(q, first, blocks, blocks + table);
    if (r == 0)
        r = q_write_table(q, (first + blocks) << q->bits, t, n);
    for (uint64_t i = 0; i < blocks + table && r == 0; i++)
        r = q_set_add(&q->meta, first + i);
    if (r == 0)
        r = q_switch_table(q, (first + blocks) << q->bits, (uint32_t)table);
    if (r < 0) {
        free(t);
        return r;
    }
    q_cache_forget(&q->rc, first << q->bits, blocks << q->bits);
    free(q->rt);
    q->rt = t;
    q->rt_n = n;
    q->rt_lo = q->rt_hi = 0;
    q->file_end = (first + blocks + table) << q->bits;
    for (uint64_t i = 0; i < old_n; i++)
        q_set_remove(&q->meta, (old_off >> q->bits) + i);
    return q_unref_later(q, old_off >> q->bits, old_n);
}

/* A free cluster at or behind the hint. Blocks and a larger table are made on the way. */
static int find_free(struct qcow2 *q, uint64_t *cluster)
{
    uint64_t c = q->free_hint;
    for (;;) {
        struct q_entry *e;
        uint64_t i;
        int r;
        if (c >> block_bits(q) >= q->rt_n) {
            r = grow_table(q);
            if (r < 0)
                return r;
            continue;
        }
        r = get_slice(q, c, &e, &i);
        if (r < 0)
            return r;
        if (!e) {
            r = add_block(q, c++);
            if (r < 0)
                return r;
            continue;
        }
        uint64_t n = q->rc.slice * 8UL >> q->h.refcount_order;
        while (i < n && q_counter_get(e->data, i, q->h.refcount_order))
            i++, c++;
        if (i < n)
            break;
    }
    *cluster = q->free_hint = c;
    return 0;
}

int q_alloc(struct qcow2 *q, uint64_t *n, uint64_t *first)
{
    uint64_t c, k = 0, count = 0;
    int r = find_free(q, &c);
    if (r < 0)
        return r;
    for (; k < *n; k++) {
        struct q_entry *e;
        uint64_t i;
        r = get_slice(q, c + k, &e, &i);
        if (r < 0 || !e || q_counter_get(e->data, i, q->h.refcount_order))
            break;
        if (q_set_has(&q->meta, c + k)) {
            r = q_corrupt(q, "metadata at %#" PRIx64 " have refcount 0", (c + k) << q->bits);
            break;
        }
        q_counter_set(e->data, i, q->h.refcount_order, 1);
        q_cache_dirty(&q->rc, e);
        count++;
    }
    if (count == 0)
        return r < 0 ? r : -EIO;
    *n = count;
    *first = c;
    q->free_hint = c + count;
    if ((c + count) << q->bits > q->file_end)
        q->file_end = (c + count) << q->bits;
    return 0;
}

/* Blocks for counters up to that of cluster end, each in a cluster of the one before, so that none is in the way. */
static int add_blocks(struct qcow2 *q, uint64_t end)
{
    for (uint64_t b = q->free_hint >> block_bits(q); b <= end >> block_bits(q); b++) {
        uint64_t n = 1, at;
        int r;
        while (b >= q->rt_n)
            if ((r = grow_table(q)) < 0)
                return r;
        if (q->rt[b])
            continue;
        r = q_alloc(q, &n, &at);
        if (r == 0 && !q->rt[b]) {
            r = file_write_zeroes(q->fd, at << q->bits, q->cluster);
            if (r == 0)
                r = q_set_add(&q->meta, at);
            if (r < 0)
                return r;
            q_cache_forget(&q->rc, at << q->bits, q->cluster);
            q->rt[b] = at << q->bits;
            table_changed(q, b);
        } else if (r == 0) {
            r = q_refcount_add(q, at, -1); /* the first one made itself */
        }
        if (r < 0)
            return r;
    }
    return 0;
}

int q_alloc_contiguous(struct qcow2 *q, uint64_t n, uint64_t *first)
{
    uint64_t hint = q->free_hint, spare = (n >> block_bits(q)) + 4, got = 0, at = 0;
    int r = 0;
    for (int tries = 0; tries < 4 && r == 0 && got < n; tries++) {
        for (uint64_t i = 0; i < got; i++)
            q_refcount_add(q, at + i, -1);
        q->free_hint = q->file_end >> q->bits;
        r = add_blocks(q, q->free_hint + n + spare);
        got = n;
        if (r == 0)
            r = q_alloc(q, &got, &at);
    }
    q->free_hint = hint;
    *first = at;
    return r == 0 && got < n ? -ENOSPC : r;
}
