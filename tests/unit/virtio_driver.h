/* SPDX-License-Identifier: MIT */
/*
 * The driver's side of virtio-mmio for tests: registers through virtio_mmio_ops, rings built in guest memory. It also
 * lets a test build what no sane driver would.
 */
#ifndef GAZDA_TESTS_VIRTIO_DRIVER_H
#define GAZDA_TESTS_VIRTIO_DRIVER_H

#include <assert.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "host/pool.h"
#include "mem/mem.h"
#include "virtio/devices.h"
#include "virtio/stats.h"
#include "virtio/transport_mmio.h"

enum { DRV_QSIZE_MAX = 64 };
enum { DRV_RAM = 8 << 20, DRV_QSIZE = 16, DRV_RINGS = 0x10000, DRV_RING_STEP = 0x4000, DRV_DATA = 0x100000 };
enum { D_NEXT = 1, D_WRITE = 2, D_INDIRECT = 4 };

struct drv_desc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags, next;
};

/* Of the driver's side of packed rings, a queue each. */
struct drv_packed {
    struct drv_desc stage[DRV_QSIZE_MAX]; /* chains before they are in the ring */
    uint16_t at, seen;                    /* the next slot to fill; to look at */
    bool at_wrap, seen_wrap;
    uint16_t slots[DRV_QSIZE_MAX]; /* of a chain, by its ID */
};

struct drv {
    struct mem *mem;
    struct pool *pool;
    struct virtio_dev *v;
    _Atomic int level, edges; /* of the interrupt line */
    bool packed;              /* DRV_PACKED=1 is in the environment: what is not said of split rings is packed */
    bool in_packed;           /* negotiated now */
    struct drv_packed *pk;
    uint16_t size;
    uint16_t avail[VIRTIO_QUEUES_MAX], used[VIRTIO_QUEUES_MAX]; /* what the driver has made and seen */
};

static inline void drv_irq(void *arg, unsigned pin, bool level)
{
    struct drv *d = arg;
    (void)pin;
    if (level && !atomic_exchange(&d->level, 1))
        atomic_fetch_add(&d->edges, 1);
    if (!level)
        atomic_store(&d->level, 0);
}

/* On memory and workers that the caller keeps. */
static inline struct virtio_env drv_on(struct drv *d, struct mem *m, struct pool *p)
{
    memset(d, 0, sizeof(*d));
    d->mem = m;
    d->pool = p;
    d->size = DRV_QSIZE;
    d->packed = getenv("DRV_PACKED") != NULL;
    d->pk = calloc(VIRTIO_QUEUES_MAX, sizeof(*d->pk));
    return (struct virtio_env){ .mem = d->mem, .pool = d->pool, .irq = { .set = drv_irq, .arg = d } };
}

static inline struct virtio_env drv_open(struct drv *d)
{
    return drv_on(d, mem_new(DRV_RAM, NULL), pool_new(4));
}

static inline void drv_off(struct drv *d)
{
    free(d->pk);
    virtio_free(d->v);
}

static inline void drv_close(struct drv *d)
{
    drv_off(d);
    pool_free(d->pool);
    mem_free(d->mem);
}

/* ---- registers ---- */

static inline uint32_t drv_get(struct drv *d, uint64_t off)
{
    uint32_t x = 0xdeadbeef;
    virtio_mmio_ops.read(d->v, off, &x, 4);
    return x;
}
static inline void drv_set(struct drv *d, uint64_t off, uint32_t x)
{
    virtio_mmio_ops.write(d->v, off, &x, 4);
}
static inline uint64_t drv_offered(struct drv *d)
{
    drv_set(d, 0x14, 0);
    uint64_t lo = drv_get(d, 0x10);
    drv_set(d, 0x14, 1);
    return lo | (uint64_t)drv_get(d, 0x10) << 32;
}

/* ---- rings ---- */

static inline gpa_t drv_desc_at(unsigned q)
{
    return DRV_RINGS + q * DRV_RING_STEP;
}
static inline gpa_t drv_avail_at(unsigned q)
{
    return drv_desc_at(q) + 0x1000;
}
static inline gpa_t drv_used_at(unsigned q)
{
    return drv_desc_at(q) + 0x2000;
}

static inline void drv_put16(struct drv *d, gpa_t at, uint16_t x)
{
    mem_write(d->mem, at, &x, 2);
}
static inline uint16_t drv_peek16(struct drv *d, gpa_t at)
{
    uint16_t x = 0;
    mem_read(d->mem, at, &x, 2);
    return x;
}

static inline void drv_queue(struct drv *d, unsigned q, gpa_t desc, gpa_t avail, gpa_t used)
{
    drv_set(d, 0x30, q);
    drv_set(d, 0x38, d->size);
    drv_set(d, 0x80, (uint32_t)desc);
    drv_set(d, 0x84, (uint32_t)(desc >> 32));
    drv_set(d, 0x90, (uint32_t)avail);
    drv_set(d, 0x94, (uint32_t)(avail >> 32));
    drv_set(d, 0xa0, (uint32_t)used);
    drv_set(d, 0xa4, (uint32_t)(used >> 32));
    drv_set(d, 0x44, 1);
}

/* Reset to FEATURES_OK. Returns the status register. */
static inline uint32_t drv_negotiate(struct drv *d, uint64_t features)
{
    if (d->packed)
        features |= VIRTIO_F_RING_PACKED;
    d->in_packed = features & VIRTIO_F_RING_PACKED;
    drv_set(d, 0x70, 0);
    drv_set(d, 0x70, 1);
    drv_set(d, 0x70, 3);
    drv_set(d, 0x24, 0);
    drv_set(d, 0x20, (uint32_t)features);
    drv_set(d, 0x24, 1);
    drv_set(d, 0x20, (uint32_t)(features >> 32));
    drv_set(d, 0x70, 11);
    return drv_get(d, 0x70);
}

/* Queue q's rings, as before the first request. Not whole pages, of which each would become a hole. */
static inline void drv_fresh(struct drv *d, unsigned q)
{
    mem_zero(d->mem, drv_desc_at(q), 16UL * DRV_QSIZE_MAX);
    mem_zero(d->mem, drv_avail_at(q), 6 + 2UL * DRV_QSIZE_MAX);
    mem_zero(d->mem, drv_used_at(q), 6 + 8UL * DRV_QSIZE_MAX);
    d->avail[q] = d->used[q] = 0;
    d->pk[q] = (struct drv_packed){ .at_wrap = true, .seen_wrap = true };
}

/* Everything up to DRIVER_OK, all queues in their usual places. */
static inline void drv_start(struct drv *d, uint64_t features)
{
    drv_negotiate(d, features | VIRTIO_F_VERSION_1);
    for (unsigned q = 0; q < d->v->n_queues; q++) {
        drv_fresh(d, q);
        drv_queue(d, q, drv_desc_at(q), drv_avail_at(q), drv_used_at(q));
    }
    drv_set(d, 0x70, 15);
}

static inline void drv_desc(struct drv *d, unsigned q, unsigned i, struct drv_desc x)
{
    if (d->in_packed)
        d->pk[q].stage[i % DRV_QSIZE_MAX] = x;
    else
        mem_write(d->mem, drv_desc_at(q) + 16UL * i, &x, sizeof(x));
}

/* The chain of the stage that begins at head becomes a run of slots, the first one last. */
static inline void drv_add_packed(struct drv *d, unsigned q, uint16_t head)
{
    uint16_t first = d->pk[q].at, n = 0;
    uint64_t first_word = 0;
    for (unsigned i = head;; i = d->pk[q].stage[i].next % DRV_QSIZE_MAX) {
        const struct drv_desc *x = &d->pk[q].stage[i];
        bool more = (x->flags & D_NEXT) && n + 1 < d->size;
        uint16_t avail = d->pk[q].at_wrap ? 1 << 7 : 1 << 15;
        uint16_t flags = (uint16_t)((x->flags & ~(more ? 0 : D_NEXT)) | avail);
        uint64_t word = x->len | (uint64_t)head << 32 | (uint64_t)flags << 48;
        mem_write(d->mem, drv_desc_at(q) + 16UL * d->pk[q].at, &x->addr, 8);
        if (n++)
            mem_write(d->mem, drv_desc_at(q) + 16UL * d->pk[q].at + 8, &word, 8);
        else
            first_word = word;
        if (++d->pk[q].at == d->size) {
            d->pk[q].at = 0;
            d->pk[q].at_wrap = !d->pk[q].at_wrap;
        }
        if (!more)
            break;
    }
    d->pk[q].slots[head % DRV_QSIZE_MAX] = n;
    full_fence();
    mem_write(d->mem, drv_desc_at(q) + 16UL * first + 8, &first_word, 8);
}

/* Makes a chain available without notifying. */
static inline void drv_add(struct drv *d, unsigned q, uint16_t head)
{
    if (d->in_packed) {
        drv_add_packed(d, q, head % DRV_QSIZE_MAX);
        return;
    }
    drv_put16(d, drv_avail_at(q) + 4 + 2UL * (d->avail[q] % d->size), head);
    drv_put16(d, drv_avail_at(q) + 2, ++d->avail[q]);
}
static inline void drv_kick(struct drv *d, unsigned q)
{
    drv_set(d, 0x50, q);
}

/* Waits until the device is quiet: no service queued, no request in flight. */
static inline void drv_quiet(struct drv *d)
{
    lock_take(&d->v->lock);
    while (d->v->busy)
        lock_wait(&d->v->lock, &d->v->idle, UINT64_MAX);
    lock_drop(&d->v->lock);
}

static inline int drv_used_packed(struct drv *d, unsigned q, uint32_t *len)
{
    uint64_t word;
    mem_read(d->mem, drv_desc_at(q) + 16UL * d->pk[q].seen + 8, &word, 8);
    uint16_t id = (uint16_t)(word >> 32), flags = (uint16_t)(word >> 48);
    if (!!(flags & 1 << 7) != d->pk[q].seen_wrap || !!(flags & 1 << 15) != d->pk[q].seen_wrap)
        return -1;
    d->pk[q].seen = (uint16_t)(d->pk[q].seen + d->pk[q].slots[id % DRV_QSIZE_MAX]);
    if (d->pk[q].seen >= d->size) {
        d->pk[q].seen = (uint16_t)(d->pk[q].seen - d->size);
        d->pk[q].seen_wrap = !d->pk[q].seen_wrap;
    }
    if (len)
        *len = (uint32_t)word;
    return id;
}

/* The next used entry: its head, with the length in *len; -1 = none. */
static inline int drv_used(struct drv *d, unsigned q, uint32_t *len)
{
    uint32_t e[2];
    if (d->in_packed)
        return drv_used_packed(d, q, len);
    if (drv_peek16(d, drv_used_at(q) + 2) == d->used[q])
        return -1;
    mem_read(d->mem, drv_used_at(q) + 4 + 8UL * (d->used[q] % d->size), e, sizeof(e));
    d->used[q]++;
    if (len)
        *len = e[1];
    return (int)e[0];
}

struct drv_counter {
    const char *name;
    uint64_t value;
};
static inline void drv_take_counter(void *arg, const char *name, uint64_t value)
{
    struct drv_counter *c = arg;
    if (strcmp(c->name, name) == 0)
        c->value = value;
}
/* What the device says under that name; ~0: it does not. */
static inline uint64_t drv_counter(struct drv *d, const char *name)
{
    struct drv_counter c = { name, ~0UL };
    const struct virtio_put put = { drv_take_counter, &c };
    virtio_stats(d->v, &put);
    return c.value;
}

static inline void drv_ack(struct drv *d)
{
    drv_set(d, 0x64, drv_get(d, 0x60));
}

#endif
