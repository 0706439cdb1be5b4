/* SPDX-License-Identifier: MIT */
/* From places of the disk to places of the file: L1 and L2 tables of a qcow2 image. The image's lock is held. */
#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "host/qcow2.h"

static uint64_t l1_index(const struct qcow2 *q, uint64_t off)
{
    return off >> (q->bits + q->l2_bits);
}

static unsigned l2_index(const struct qcow2 *q, uint64_t off)
{
    return (unsigned)(off >> q->bits) & ((1U << q->l2_bits) - 1);
}

static unsigned slice_entries(const struct qcow2 *q)
{
    return q->l2.slice / 8;
}

unsigned q_slice_left(const struct qcow2 *q, uint64_t off)
{
    return slice_entries(q) - l2_index(q, off) % slice_entries(q);
}

/* The slice with off's entry; *p is that entry, NULL if there is no table. */
static int get_slice(struct qcow2 *q, uint64_t off, struct q_entry **e, uint64_t **p)
{
    uint64_t i = l1_index(q, off), table = i < q->h.l1_n ? q->l1[i] & QCOW2_OFFSET : 0;
    unsigned at = l2_index(q, off), first = at - at % slice_entries(q);
    *p = NULL;
    if (i >= q->h.l1_n)
        return -EINVAL;
    if (!table)
        return 0;
    int r = q_cache_get(&q->l2, table + (uint64_t)first * 8, e);
    if (r == 0)
        *p = (uint64_t *)(void *)(*e)->data + (at - first);
    return r;
}

static enum q_kind kind_of(const struct qcow2 *q, uint64_t entry)
{
    if (entry & QCOW2_COMPRESSED)
        return Q_PACKED;
    if (q->h.version >= 3 && entry & QCOW2_ZERO)
        return entry & QCOW2_OFFSET ? Q_ZERO_DATA : Q_ZERO;
    return entry & QCOW2_OFFSET ? Q_DATA : Q_NONE;
}

static bool has_place(enum q_kind k)
{
    return k == Q_DATA || k == Q_ZERO_DATA;
}

static int check_host(struct qcow2 *q, uint64_t off, uint64_t host)
{
    if (host & (q->cluster - 1))
        return q_corrupt(q, "the data of offset %#" PRIx64 " are at %#" PRIx64 ", which is not aligned", off, host);
    if (host >= q->file_end)
        return q_corrupt(q, "the data of offset %#" PRIx64 " are at %#" PRIx64 ", outside of the file", off, host);
    if (q_set_has(&q->meta, host >> q->bits))
        return q_corrupt(q, "the data of offset %#" PRIx64 " are at %#" PRIx64 ", where metadata are", off, host);
    return 0;
}

int q_map(struct qcow2 *q, uint64_t off, uint64_t len, struct q_extent *x)
{
    uint64_t in = off & (q->cluster - 1), *p, i = l1_index(q, off);
    struct q_entry *e;
    int r = get_slice(q, off, &e, &p);
    if (r < 0)
        return r;
    *x = (struct q_extent){ .kind = Q_NONE };
    if (!p) {
        uint64_t span = 1UL << (q->bits + q->l2_bits), left = span - (off & (span - 1));
        x->len = len < left ? len : left;
        return 0;
    }
    uint64_t first = be64toh(*p), host = first & QCOW2_OFFSET;
    bool own_table = q->l1[i] & QCOW2_COPIED;
    x->kind = kind_of(q, first);
    x->mine = has_place(x->kind) && own_table && first & QCOW2_COPIED;
    x->host = host + in;
    x->entry = first;
    x->len = q->cluster - in;
    if (has_place(x->kind))
        r = check_host(q, off, host);
    unsigned left = x->kind == Q_PACKED ? 1 : q_slice_left(q, off);
    for (unsigned k = 1; k < left && r == 0 && x->len < len; k++) {
        uint64_t next = be64toh(p[k]);
        enum q_kind kind = kind_of(q, next);
        if (kind != x->kind)
            break;
        if (has_place(kind)) {
            host += q->cluster;
            if ((next & QCOW2_OFFSET) != host || x->mine != (own_table && next & QCOW2_COPIED))
                break;
            r = check_host(q, off + x->len, host);
        }
        x->len += q->cluster;
    }
    if (x->len > len)
        x->len = len;
    return r;
}

int q_map_placeless(struct qcow2 *q, uint64_t off, uint64_t *len)
{
    struct q_entry *e;
    uint64_t *p, n = q->cluster - (off & (q->cluster - 1));
    int r = get_slice(q, off, &e, &p);
    if (r < 0)
        return r;
    bool own_table = q->l1[l1_index(q, off)] & QCOW2_COPIED;
    unsigned left = q_slice_left(q, off);
    for (unsigned k = 1; k < left && n < *len; k++, n += q->cluster) {
        uint64_t entry = p ? be64toh(p[k]) : 0;
        if (has_place(kind_of(q, entry)) && own_table && entry & QCOW2_COPIED)
            break;
    }
    if (n < *len)
        *len = n;
    return 0;
}

/* ---- changes ---- */

int q_own_l2(struct qcow2 *q, uint64_t off)
{
    uint64_t i = l1_index(q, off), n = 1, cluster, users;
    if (i >= q->h.l1_n)
        return -EINVAL;
    uint64_t old = q->l1[i] & QCOW2_OFFSET;
    if (old && q->l1[i] & QCOW2_COPIED)
        return 0;
    uint8_t *table = calloc(1, q->cluster);
    if (!table)
        return -ENOMEM;
    int r = q_alloc(q, &n, &cluster);
    if (r < 0)
        goto out;
    /* A table that is not our own was never changed by us: what the file has is what it is. */
    if (old)
        r = file_read(q->fd, table, q->cluster, old);
    /* The new table is in the file before the L1 table refers to it, see q_flush. */
    if (r == 0)
        r = file_write(q->fd, table, q->cluster, cluster << q->bits);
    if (r == 0)
        r = q_set_add(&q->meta, cluster);
    if (r == 0 && old)
        r = q_unref_later(q, old >> q->bits, 1);
    if (r < 0) {
        q_refcount_add(q, cluster, -1);
        goto out;
    }
    if (old && q_refcount(q, old >> q->bits, &users) == 0 && users == 1)
        q_set_remove(&q->meta, old >> q->bits); /* only its flag was wrong */
    q_cache_forget(&q->l2, cluster << q->bits, q->cluster);
    q->l1[i] = cluster << q->bits | QCOW2_COPIED;
    q->data_unsynced = true;
    if (q->l1_lo == q->l1_hi)
        q->l1_lo = i, q->l1_hi = i + 1;
    q->l1_lo = i < q->l1_lo ? i : q->l1_lo;
    q->l1_hi = i >= q->l1_hi ? i + 1 : q->l1_hi;
out:
    free(table);
    return r;
}

/* The clusters that an entry holds references to. */
static void clusters_of(const struct qcow2 *q, uint64_t entry, struct q_run *run)
{
    *run = (struct q_run){ 0 };
    if (entry & QCOW2_COMPRESSED) {
        unsigned x = 62 - (q->bits - 8);
        uint64_t at = entry & ((1UL << x) - 1), sectors = ((entry & (QCOW2_COMPRESSED - 1)) >> x) + 1;
        uint64_t last = (at & ~511UL) + sectors * 512 - 1;
        run->cluster = at >> q->bits;
        run->n = (last >> q->bits) - run->cluster + 1;
    } else if (entry & QCOW2_OFFSET) {
        run->cluster = (entry & QCOW2_OFFSET) >> q->bits;
        run->n = 1;
    }
}

int q_set_entries(struct qcow2 *q, uint64_t off, unsigned n, uint64_t entry, uint64_t step)
{
    struct q_entry *e;
    uint64_t *p;
    int r = get_slice(q, off, &e, &p);
    if (r < 0 || !p || n > q_slice_left(q, off))
        return r < 0 ? r : -EINVAL;
    for (unsigned i = 0; i < n; i++) {
        uint64_t old = be64toh(p[i]), now = entry + i * step;
        struct q_run run;
        clusters_of(q, old, &run);
        if (old == now)
            continue;
        bool keeps =
            !(old & QCOW2_COMPRESSED) && !(now & QCOW2_COMPRESSED) && (old & QCOW2_OFFSET) == (now & QCOW2_OFFSET);
        if (run.n && !keeps)
            r = q_unref_later(q, run.cluster, run.n);
        if (r < 0)
            return r;
        p[i] = htobe64(now);
        q_cache_dirty(&q->l2, e);
    }
    return 0;
}

int q_get_entry(struct qcow2 *q, uint64_t off, uint64_t *entry)
{
    struct q_entry *e;
    uint64_t *p;
    int r = get_slice(q, off, &e, &p);
    *entry = r == 0 && p ? be64toh(*p) : 0;
    return r;
}
