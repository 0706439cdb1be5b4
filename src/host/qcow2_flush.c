/* SPDX-License-Identifier: MIT */
/*
 * The order in which a qcow2 image reaches the medium. Refcounts that rise, new tables (all zeroes or a copy) and data
 * come first; then, when those are on the medium, L2 slices and L1 entries that refer to them; then, when these are,
 * refcounts that fall, and their clusters may be used again. So whatever a crash leaves refers only to what is there,
 * and at worst has clusters that nothing refers to. With lazy refcounts the first step leaves the refcounts out, and
 * the dirty bit in the header says so until the image is closed.
 */
#include <endian.h>
#include <errno.h>
#include <stdlib.h>

#include "host/qcow2.h"
#include "host/qcow2_image.h"

enum { L2_CLEAN_MIN = 16, UNREF_RUNS = 65536 };

void q_wait(struct qcow2 *q)
{
    q->waiting++;
    lock_wait(&q->lock, &q->wait, UINT64_MAX);
    q->waiting--;
}

void q_wake(struct qcow2 *q)
{
    if (q->waiting)
        pthread_cond_broadcast(&q->wait);
}

/* ---- tables ---- */

static int write_entries(struct qcow2 *q, uint64_t off, const uint64_t *t, uint64_t n)
{
    uint64_t be[128];
    int r = 0;
    while (n && r == 0) {
        uint64_t k = n < ARRAY_LEN(be) ? n : ARRAY_LEN(be);
        for (uint64_t i = 0; i < k; i++)
            be[i] = htobe64(t[i]);
        r = file_write(q->fd, be, k * 8, off);
        off += k * 8;
        t += k;
        n -= k;
    }
    return r;
}

int q_write_table(struct qcow2 *q, uint64_t off, const uint64_t *t, uint64_t n)
{
    return write_entries(q, off, t, n);
}

int q_write_counters(struct qcow2 *q, uint64_t first, uint64_t blocks, uint64_t n)
{
    uint64_t per_block = q->cluster * 8 >> q->h.refcount_order;
    uint8_t *b = malloc(q->cluster);
    int r = b ? 0 : -ENOMEM;
    for (uint64_t i = 0; i < blocks && r == 0; i++) {
        for (uint64_t k = 0; k < per_block; k++)
            q_counter_set(b, k, q->h.refcount_order, i * per_block + k < n);
        r = file_write(q->fd, b, q->cluster, (first + i) << q->bits);
    }
    free(b);
    return r;
}

int q_sync(struct qcow2 *q)
{
    int r = disk_sync(q->d);
    if (r < 0)
        q->broken = true;
    return r;
}

int q_switch_table(struct qcow2 *q, uint64_t off, uint32_t clusters)
{
    struct {
        uint64_t off;
        uint32_t clusters;
    } __attribute__((packed)) be = { htobe64(off), htobe32(clusters) };
    int r = q_sync(q);
    if (r == 0)
        r = file_write(q->fd, &be, sizeof(be), Q_AT_RT);
    if (r == 0)
        r = q_sync(q);
    if (r == 0) {
        q->h.rt_off = off;
        q->h.rt_clusters = clusters;
    }
    return r;
}

/* Blocks, then the table entries that lead to new ones. */
int q_write_refcounts(struct qcow2 *q)
{
    int r = q_cache_write(&q->rc);
    if (r == 0 && q->rt_lo < q->rt_hi) {
        r = q_sync(q);
        if (r == 0)
            r = write_entries(q, q->h.rt_off + q->rt_lo * 8, q->rt + q->rt_lo, q->rt_hi - q->rt_lo);
        if (r == 0)
            q->rt_lo = q->rt_hi = 0;
    }
    return r;
}

/* ---- flushing ---- */

static int sync_unlocked(struct qcow2 *q)
{
    lock_drop(&q->lock);
    int r = disk_sync(q->d);
    lock_take(&q->lock);
    if (r < 0)
        q->broken = true;
    return r;
}

/* Takes the references away whose users are gone from the medium. The host gets the space of what nobody uses. */
static int apply_unrefs(struct qcow2 *q)
{
    struct q_run free_run = { 0 };
    int r = 0;
    if (!q->unrefs)
        return 0;
    q_forget_unzipped(q);
    q->pack = q->pack_end = 0; /* its cluster may be among them */
    for (size_t i = 0; i < q->unrefs && r == 0; i++) {
        for (uint64_t k = 0; k < q->unref[i].n && r == 0; k++) {
            uint64_t c = q->unref[i].cluster + k, n;
            r = q_refcount(q, c, &n);
            if (r == 0 && n == 1 && q_set_has(&q->meta, c)) /* some L2 entry lied */
                r = q_corrupt(q, "metadata at %#lx were data as well", c << q->bits);
            if (r == 0)
                r = q_refcount_add(q, c, -1);
            if (r < 0 || n != 1)
                continue;
            if (free_run.n && free_run.cluster + free_run.n == c) {
                free_run.n++;
                continue;
            }
            if (free_run.n)
                file_punch(q->fd, free_run.cluster << q->bits, free_run.n << q->bits);
            free_run = (struct q_run){ c, 1 };
        }
    }
    if (free_run.n)
        file_punch(q->fd, free_run.cluster << q->bits, free_run.n << q->bits);
    q->unrefs = 0;
    return r;
}

/* busy is set: the tables stay as they are while the lock is dropped. */
static int flush_steps(struct qcow2 *q)
{
    int r = 0;
    if (!q->lazy && (q->rc.dirty || q->rt_lo < q->rt_hi)) {
        q->data_unsynced = true;
        r = q_write_refcounts(q);
    }
    if (r == 0 && q->data_unsynced)
        r = sync_unlocked(q);
    if (r == 0) {
        q->data_unsynced = false;
        r = q_cache_write(&q->l2);
    }
    if (r == 0 && q->l1_lo < q->l1_hi)
        r = write_entries(q, q->h.l1_off + q->l1_lo * 8, q->l1 + q->l1_lo, q->l1_hi - q->l1_lo);
    if (r == 0) {
        q->l1_lo = q->l1_hi = 0;
        r = sync_unlocked(q);
    }
    return r == 0 ? apply_unrefs(q) : r;
}

int q_flush(struct qcow2 *q)
{
    while (q->busy)
        q_wait(q);
    if (!q->writable)
        return 0;
    if (q->broken)
        return -EIO;
    if (!q->l2.dirty && q->l1_lo == q->l1_hi && !q->unrefs)
        return sync_unlocked(q);
    q->busy = true;
    int r = flush_steps(q);
    q->busy = false;
    q_wake(q);
    return r;
}

int q_begin_change(struct qcow2 *q)
{
    for (;;) {
        int r = 0;
        if (q->broken)
            return -EIO;
        if (q->busy) {
            q_wait(q);
            continue;
        }
        if (q->lazy && !(q->h.incompatible & QCOW2_DIRTY)) {
            r = q_write_incompatible(q, q->h.incompatible | QCOW2_DIRTY);
        } else if (q->l2.dirty + L2_CLEAN_MIN > q->l2.max || q->unrefs > UNREF_RUNS) {
            r = q_flush(q);
        } else {
            return 0;
        }
        if (r < 0)
            return r;
    }
}

int q_finish(struct qcow2 *q)
{
    int r = q_flush(q);
    if (r == 0 && (q->rc.dirty || q->rt_lo < q->rt_hi))
        r = q_write_refcounts(q);
    if (r == 0)
        r = q_sync(q);
    if (r == 0 && q->h.incompatible & QCOW2_DIRTY)
        r = q_write_incompatible(q, q->h.incompatible & ~QCOW2_DIRTY);
    return r;
}
