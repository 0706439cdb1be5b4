/* SPDX-License-Identifier: MIT */
/* A new refcount table and new blocks for a qcow2 image, behind the end of its file, from counted references. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "host/qcow2_check.h"

struct rebuild {
    struct q_check *c;
    unsigned bits;          /* log2 of counters in a block */
    uint64_t first;         /* cluster where the new structure begins: blocks, then the table */
    uint64_t blocks, table; /* clusters */
    uint64_t entries;       /* of the table that are used */
};

/* The old structure is not in use any more. */
static int forget_old(struct q_check *c)
{
    const struct qcow2 *q = c->q;
    int r = 0;
    for (uint64_t i = 0; i < q->h.rt_clusters && r == 0; i++)
        r = q_count_add(c, (q->h.rt_off >> q->bits) + i, (uint32_t)-1);
    for (uint64_t i = 0; i < q->rt_n && r == 0; i++)
        if (q->rt[i])
            r = q_count_add(c, q->rt[i] >> q->bits, (uint32_t)-1);
    return r;
}

/* How much room the new structure takes, itself counted. */
static void measure(struct rebuild *b)
{
    const struct qcow2 *q = b->c->q;
    uint64_t old_blocks = 0, own = b->first >> b->bits;
    for (uint64_t i = 0; i < own; i++)
        old_blocks += q_block_used(b->c, i, b->bits);
    for (uint64_t more = 1;; more++) {
        b->blocks = old_blocks + more;
        b->entries = own + more;
        b->table = (b->entries * 8 + q->cluster - 1) >> q->bits;
        if (b->first + b->blocks + b->table <= (own + more) << b->bits)
            return;
    }
}

static int write_block(struct rebuild *b, uint64_t block, uint64_t at, uint8_t *buf)
{
    const struct qcow2 *q = b->c->q;
    unsigned order = q->h.refcount_order;
    uint64_t max = order == 6 ? UINT64_MAX : (1UL << (1U << order)) - 1;
    for (uint64_t i = 0; i < 1UL << b->bits; i++) {
        uint64_t cluster = (block << b->bits) + i, n = q_count(b->c, cluster);
        if (cluster >= b->first)
            n = cluster < b->first + b->blocks + b->table;
        if (n > max)
            return -ERANGE;
        q_counter_set(buf, i, order, n);
    }
    return file_write(q->fd, buf, q->cluster, at << q->bits);
}

int q_rebuild_refcounts(struct q_check *c)
{
    struct qcow2 *q = c->q;
    struct rebuild b = { .c = c, .bits = q->bits + 3 - q->h.refcount_order, .first = q->file_end >> q->bits };
    int r = forget_old(c);
    if (r < 0)
        return r;
    measure(&b);
    if (b.table << q->bits > Q_RT_MAX)
        return -EFBIG;
    uint64_t n = b.table << (q->bits - 3), at = b.first;
    uint64_t *t = calloc(n, 8);
    uint8_t *buf = malloc(q->cluster);
    r = t && buf ? 0 : -ENOMEM;
    for (uint64_t i = 0; i < b.entries && r == 0; i++) {
        if (i < b.first >> b.bits && !q_block_used(c, i, b.bits))
            continue;
        t[i] = at << q->bits;
        r = write_block(&b, i, at++, buf);
    }
    if (r == 0)
        r = q_write_table(q, (b.first + b.blocks) << q->bits, t, n);
    if (r == 0)
        r = q_switch_table(q, (b.first + b.blocks) << q->bits, (uint32_t)b.table);
    if (r == 0) {
        q->file_end = (b.first + b.blocks + b.table) << q->bits;
        c->clusters = q->file_end >> q->bits; /* counters of the new ones stay 0: nothing asks for them */
    }
    free(buf);
    free(t);
    return r;
}
