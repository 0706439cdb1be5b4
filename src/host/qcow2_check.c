/* SPDX-License-Identifier: MIT */
/*
 * Checking and repairing qcow2 images: every reference is counted from the L1 tables on, and compared with the
 * refcounts in the file. An L2 table that many L1 entries refer to is read once. Repair writes a new refcount structure
 * behind the end of the file, switches over to it, and corrects the COPIED flags; it never touches what entries refer
 * to.
 */
#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/qcow2_check.h"

#define CHUNK_BITS 10
#define CLUSTERS_MAX (1UL << 32)
#define CHUNKS_MAX (1UL << 18) /* 1 GiB of counters */

/* ---- findings and counters ---- */

static void found(struct q_check *c, uint64_t *kind, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static void found(struct q_check *c, uint64_t *kind, const char *fmt, ...)
{
    char text[256];
    va_list ap;
    ++*kind;
    if (!c->k->say)
        return;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    c->k->say(c->k->ctx, text);
}

uint32_t q_count(const struct q_check *c, uint64_t cluster)
{
    const uint32_t *chunk = cluster < c->clusters ? c->chunk[cluster >> CHUNK_BITS] : NULL;
    return chunk ? chunk[cluster & ((1U << CHUNK_BITS) - 1)] : 0;
}

int q_count_add(struct q_check *c, uint64_t cluster, uint32_t by)
{
    uint32_t **chunk = &c->chunk[cluster >> CHUNK_BITS];
    if (!*chunk && c->chunks_used++ == CHUNKS_MAX)
        return -EFBIG;
    if (!*chunk)
        *chunk = calloc(1UL << CHUNK_BITS, sizeof(**chunk));
    if (!*chunk)
        return -ENOMEM;
    (*chunk)[cluster & ((1U << CHUNK_BITS) - 1)] += by;
    return 0;
}

bool q_block_used(const struct q_check *c, uint64_t block, unsigned bits)
{
    uint64_t end = (block + 1) << bits;
    if (end > c->clusters)
        end = c->clusters;
    for (uint64_t i = block << bits; i < end; i++) {
        if (!c->chunk[i >> CHUNK_BITS])
            i |= (1UL << CHUNK_BITS) - 1;
        else if (q_count(c, i))
            return true;
    }
    return false;
}

/* A reference to metadata; each cluster of them may have one meaning only. 1: it cannot be used. */
static int count_meta(struct q_check *c, uint64_t off, uint64_t bytes, uint32_t by, const char *what)
{
    struct qcow2 *q = c->q;
    if (off % q->cluster || off >= q->file_end || bytes > q->file_end - off) {
        found(c, &c->hopeless, "error: %s at %#" PRIx64 " is %s", what, off,
              off % q->cluster ? "not aligned" : "outside of the file");
        return 1;
    }
    for (uint64_t at = off; at < off + bytes; at += q->cluster) {
        int r = q_set_add(&q->meta, at >> q->bits);
        if (r == -EEXIST) {
            found(c, &c->hopeless, "error: %s at %#" PRIx64 " overlaps other metadata", what, at);
            return 1;
        }
        if (r == 0)
            r = q_count_add(c, at >> q->bits, by);
        if (r < 0)
            return r;
    }
    return 0;
}

/* ---- L1 and L2 ---- */

static int count_entry(struct q_check *c, uint64_t entry, uint32_t by)
{
    struct qcow2 *q = c->q;
    uint64_t off = entry & QCOW2_OFFSET, n = 1;
    if (entry & QCOW2_COMPRESSED) {
        unsigned x = 62 - (q->bits - 8);
        uint64_t at = entry & ((1UL << x) - 1), sectors = ((entry & (QCOW2_COMPRESSED - 1)) >> x) + 1;
        uint64_t last = (at & ~511UL) + sectors * 512 - 1;
        off = at & ~(q->cluster - 1);
        n = (last >> q->bits) - (off >> q->bits) + 1;
        c->k->compressed++;
        if (entry & QCOW2_COPIED)
            found(c, &c->flags, "error: a compressed cluster at %#" PRIx64 " has the COPIED flag", at);
    } else if (off == 0) {
        return 0;
    } else if (off & (q->cluster - 1)) {
        found(c, &c->hopeless, "error: data at %#" PRIx64 " are not aligned to a cluster", off);
        return 0;
    }
    c->k->allocated++;
    if (off >= q->file_end || n << q->bits > q->file_end - off) {
        found(c, &c->hopeless, "error: data at %#" PRIx64 " are outside of the file", off);
        return 0;
    }
    int r = 0;
    for (uint64_t i = off >> q->bits; n && r == 0; i++, n--) {
        if (q_set_has(&q->meta, i))
            found(c, &c->hopeless, "error: data at %#" PRIx64 " are where metadata are", i << q->bits);
        r = q_count_add(c, i, by);
    }
    return r;
}

static int count_l2(struct q_check *c, uint64_t off, uint32_t by, uint64_t *table)
{
    struct qcow2 *q = c->q;
    int r = file_read(q->fd, table, q->cluster, off);
    for (uint64_t i = 0; i < q->cluster / 8 && r == 0; i++)
        if (table[i])
            r = count_entry(c, be64toh(table[i]), by);
    return r;
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* All L2 tables that L1 tables refer to, sorted. */
static int collect_l1(struct q_check *c, uint64_t off, uint64_t n)
{
    uint64_t *t = realloc(c->l2, (c->l2_n + n + 1) * 8);
    if (!t)
        return -ENOMEM;
    c->l2 = t;
    t += c->l2_n;
    int r = file_read(c->q->fd, t, n * 8, off);
    for (uint64_t i = 0; i < n && r == 0; i++) {
        uint64_t l2 = be64toh(t[i]) & QCOW2_OFFSET;
        if (l2)
            c->l2[c->l2_n++] = l2;
    }
    return r;
}

static int count_l1(struct q_check *c, uint64_t off, uint64_t n, const char *what)
{
    int r = n ? count_meta(c, off, n * 8, 1, what) : 0;
    if (n * 8 > L1_TOTAL_MAX - c->l2_n * 8)
        return -EFBIG;
    return r == 0 && n ? collect_l1(c, off, n) : r < 0 ? r : 0;
}

static int count_l2s(struct q_check *c)
{
    uint64_t *table = malloc(c->q->cluster);
    size_t first = 0, n;
    int r = table ? 0 : -ENOMEM;
    if (c->l2_n)
        qsort(c->l2, c->l2_n, 8, by_value);
    /* All tables are known as such before any data is. */
    for (size_t i = 0; i < c->l2_n && r == 0; i += n) {
        for (n = 1; i + n < c->l2_n && c->l2[i + n] == c->l2[i]; n++)
            ;
        r = count_meta(c, c->l2[i], c->q->cluster, (uint32_t)n, "an L2 table");
        if (r == 1) {
            r = 0;
            continue;
        }
        for (size_t k = 0; k < n; k++)
            c->l2[first++] = c->l2[i];
    }
    c->l2_n = first;
    for (size_t i = 0; i < c->l2_n && r == 0; i += n) {
        for (n = 1; i + n < c->l2_n && c->l2[i + n] == c->l2[i]; n++)
            ;
        r = count_l2(c, c->l2[i], (uint32_t)n, table);
    }
    free(table);
    return r;
}

static int count_snapshots(struct q_check *c, struct err *e)
{
    struct qcow2 *q = c->q;
    struct q_snapshot *s;
    uint64_t bytes;
    if (!q->h.snapshots)
        return 0;
    int r = q_read_snapshots(q->fd, &q->h, &s, &bytes, e);
    if (r < 0)
        return r;
    r = count_meta(c, q->h.snapshots_off, bytes, 1, "the snapshot table");
    for (uint32_t i = 0; i < q->h.snapshots && r >= 0; i++)
        r = count_l1(c, s[i].l1_off, s[i].l1_n, "a snapshot's L1 table");
    free(s);
    return r < 0 ? r : 0;
}

/* ---- refcounts ---- */

/* Loads the refcount table and counts it; entries that cannot be followed become 0. */
static int count_refcounts(struct q_check *c)
{
    struct qcow2 *q = c->q;
    q->rt_n = (uint64_t)q->h.rt_clusters << (q->bits - 3);
    q->rt = malloc(q->rt_n * 8);
    int r = q->rt ? file_read(q->fd, q->rt, q->rt_n * 8, q->h.rt_off) : -ENOMEM;
    if (r == 0)
        r = count_meta(c, q->h.rt_off, q->rt_n * 8, 1, "the refcount table");
    for (uint64_t i = 0; i < q->rt_n && r >= 0; i++) {
        q->rt[i] = be64toh(q->rt[i]) & QCOW2_OFFSET;
        uint64_t before = c->hopeless;
        if (!q->rt[i])
            continue;
        r = count_meta(c, q->rt[i], q->cluster, 1, "a refcount block");
        if (r != 1)
            continue;
        q->rt[i] = 0;
        c->bad_counts += c->hopeless - before; /* a new structure helps */
        c->hopeless = before;
    }
    return r < 0 ? r : 0;
}

static int compare_block(struct q_check *c, uint64_t block, unsigned bits)
{
    int r = 0;
    for (uint64_t i = block << bits; i < (block + 1) << bits && r == 0; i++) {
        uint64_t has, uses = q_count(c, i);
        r = q_refcount(c->q, i, &has);
        if (has < uses)
            found(c, &c->bad_counts,
                  "error: the cluster at %#" PRIx64 " has refcount %" PRIu64 " and %" PRIu64 " users", i << c->q->bits,
                  has, uses);
        else if (has > uses)
            found(c, &c->k->leaks, "leak: the cluster at %#" PRIx64 " has refcount %" PRIu64 " and %" PRIu64 " users",
                  i << c->q->bits, has, uses);
        if (uses)
            c->k->end = (i + 1) << c->q->bits;
    }
    return r;
}

static int compare(struct q_check *c)
{
    struct qcow2 *q = c->q;
    unsigned bits = q->bits + 3 - q->h.refcount_order;
    uint64_t blocks = (c->clusters >> bits) + 1;
    int r = 0;
    if (blocks < q->rt_n)
        blocks = q->rt_n;
    for (uint64_t b = 0; b < blocks && r == 0; b++) {
        if ((b < q->rt_n && q->rt[b]) || q_block_used(c, b, bits))
            r = compare_block(c, b, bits);
    }
    return r;
}

/* ---- COPIED flags of the active tables ---- */

static bool flag_wrong(struct q_check *c, uint64_t entry)
{
    uint64_t off = entry & QCOW2_OFFSET;
    if (entry & QCOW2_COMPRESSED)
        return entry & QCOW2_COPIED;
    if (!off || off & (c->q->cluster - 1))
        return false;
    return ((entry & QCOW2_COPIED) != 0) != (q_count(c, off >> c->q->bits) == 1);
}

/* Entries in t are big-endian. Returns whether any changed; in L2 tables a wrong flag is an error found here. */
static bool fix_flags(struct q_check *c, uint64_t *t, uint64_t n, const char *what)
{
    bool changed = false;
    for (uint64_t i = 0; i < n; i++) {
        uint64_t entry = be64toh(t[i]);
        if (!flag_wrong(c, entry))
            continue;
        if (!(entry & QCOW2_COMPRESSED)) /* those were counted */
            found(c, &c->flags, "error: the COPIED flag of %s at %#" PRIx64 " is wrong", what,
                  (uint64_t)(entry & QCOW2_OFFSET));
        t[i] = htobe64(entry ^ QCOW2_COPIED);
        changed = true;
    }
    return changed;
}

static int check_flags(struct q_check *c)
{
    struct qcow2 *q = c->q;
    uint64_t n = q->h.l1_n, *l1 = malloc(n * 8 + 8), *l2 = malloc(q->cluster);
    int r = l1 && l2 ? file_read(q->fd, l1, n * 8, q->h.l1_off) : -ENOMEM;
    for (uint64_t i = 0; i < n && r == 0; i++) {
        uint64_t off = be64toh(l1[i]) & QCOW2_OFFSET;
        if (!off || off & (q->cluster - 1) || off >= q->file_end)
            continue;
        r = file_read(q->fd, l2, q->cluster, off);
        if (r == 0 && fix_flags(c, l2, q->cluster / 8, "data") && c->k->repair)
            r = file_write(q->fd, l2, q->cluster, off);
    }
    if (r == 0 && fix_flags(c, l1, n, "the L2 table") && c->k->repair)
        r = file_write(q->fd, l1, n * 8, q->h.l1_off);
    free(l1);
    free(l2);
    return r;
}

/* ---- all of it ---- */

static int count_all(struct q_check *c, struct err *e)
{
    struct qcow2 *q = c->q;
    c->clusters = q->file_end >> q->bits;
    if (c->clusters > CLUSTERS_MAX)
        return -EFBIG;
    /* Room for what a repair appends. */
    c->chunks = (c->clusters >> CHUNK_BITS) + 1;
    c->chunk = calloc(c->chunks, sizeof(c->chunk[0]));
    if (!c->chunk)
        return -ENOMEM;
    int r = count_meta(c, 0, q->cluster, 1, "the header");
    if (r >= 0)
        r = count_l1(c, q->h.l1_off, q->h.l1_n, "the L1 table");
    if (r >= 0)
        r = count_snapshots(c, e);
    if (r >= 0)
        r = count_refcounts(c);
    return r >= 0 ? count_l2s(c) : r;
}

static int repair(struct q_check *c)
{
    struct qcow2 *q = c->q;
    struct disk_check *k = c->k;
    int r = 0;
    if (c->hopeless)
        return 0; /* no refcount can be right */
    if (c->bad_counts || k->leaks)
        r = q_rebuild_refcounts(c);
    if (r == 0)
        r = check_flags(c);
    if (r == 0)
        r = q_sync(q);
    if (r == 0 && q->h.incompatible & (QCOW2_DIRTY | QCOW2_CORRUPT))
        r = q_write_incompatible(q, q->h.incompatible & ~(QCOW2_DIRTY | QCOW2_CORRUPT));
    if (r < 0)
        return r;
    k->errors_fixed = c->bad_counts + c->flags;
    k->leaks_fixed = k->leaks;
    k->leaks = c->bad_counts = c->flags = 0;
    return 0;
}

int q_check(struct qcow2 *q, struct disk_check *k, struct err *e)
{
    struct q_check c = { .q = q, .k = k };
    k->clusters = (q->h.size + q->cluster - 1) >> q->bits;
    if (e)
        e->text[0] = '\0';
    int r = q->h.autoclear & QCOW2_BITMAPS ? -ENOTSUP : count_all(&c, e);
    if (r == 0)
        r = compare(&c);
    if (r == 0)
        r = k->repair ? repair(&c) : check_flags(&c);
    k->errors = c.hopeless + c.bad_counts + c.flags;
    for (size_t i = 0; c.chunk && i < c.chunks; i++)
        free(c.chunk[i]);
    free(c.chunk);
    free(c.l2);
    q_drop_tables(q);
    q_cache_free(&q->rc);
    if (r < 0 && e && !e->text[0])
        err_set(e, -r, "the qcow2 image '%.200s' cannot be checked: %s", q->d->path,
                r == -ENOTSUP ? "it has persistent bitmaps"
                : r == -EFBIG ? "its tables are too large"
                              : strerror(-r));
    return r;
}

int q_repair_refcounts(struct disk *d, struct err *e)
{
    struct disk_check k = { .repair = true };
    int r = q_check(d->state, &k, e);
    if (r == 0 && k.errors)
        return err_set(e, EINVAL,
                       "the qcow2 image '%.200s' was not closed, and has %" PRIu64 " errors that cannot be repaired: "
                       "\"gazda image check\" shows them",
                       d->path, k.errors);
    return r;
}
