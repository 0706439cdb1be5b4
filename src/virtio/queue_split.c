/* SPDX-License-Identifier: MIT */
/*
 * Split virtqueues. Ring indexes are single aligned 16-bit accesses; the two full fences (one in virtq_wants_interrupt)
 * stand where virtio 1.2, "Used Buffer Notification Suppression" and "Available Buffer Notification Suppression" need a
 * store to be seen before a load. Every loop is bounded by VIRTQ_MAX.
 */
#include <errno.h>
#include <stddef.h>

#include "mem/mem.h"
#include "virtio/queue_int.h"

enum { AVAIL_NO_INTERRUPT = 1, USED_NO_NOTIFY = 1 };
enum { AVAIL_IDX = 2, AVAIL_RING = 4, USED_IDX = 2, USED_RING = 4 };

struct desc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags, next;
};

/* The event words lie behind the rings. */
static gpa_t used_event(const struct virtq *q)
{
    return q->driver + AVAIL_RING + 2UL * q->size;
}
static gpa_t avail_event(const struct virtq *q)
{
    return q->device + USED_RING + 8UL * q->size;
}

static const char *split_check(const struct virtq *q)
{
    uint64_t ev = q->event_idx ? 2 : 0;
    if (q->size & (q->size - 1))
        return "a queue size that is not a power of two";
    if (q->desc % 16 || q->driver % 2 || q->device % 4)
        return "a misaligned ring";
    if (!mem_is_ram(q->mem, q->desc, 16UL * q->size) ||
        !mem_is_ram(q->mem, q->driver, AVAIL_RING + 2UL * q->size + ev) ||
        !mem_is_ram(q->mem, q->device, USED_RING + 8UL * q->size + ev))
        return "a ring outside of memory";
    return NULL;
}

/* Follows a chain through one table, from entry d->next on: 0 at its end, 1 with d the indirect descriptor there. */
static int walk(struct virtq *q, struct virtq_chain *c, gpa_t table, uint32_t entries, struct desc *d)
{
    for (uint32_t n = 0; n < entries; n++) {
        uint32_t i = d->next;
        if (i >= entries)
            return virtq_fail(q, "a descriptor index outside of its table");
        if (mem_read(q->mem, table + 16UL * i, d, sizeof(*d)) < 0)
            return virtq_fail(q, "a descriptor table outside of memory");
        if (d->flags & DESC_INDIRECT)
            return d->flags & DESC_NEXT ? virtq_fail(q, "an indirect descriptor with a successor") : 1;
        int r = virtq_add_buf(q, c, d->addr, d->len, d->flags & DESC_WRITE);
        if (r < 0 || !(d->flags & DESC_NEXT))
            return r;
    }
    return virtq_fail(q, "a chain that loops");
}

static int gather(struct virtq *q, struct virtq_chain *c)
{
    struct desc d = { .next = c->head };
    virtq_chain_init(c);
    int r = walk(q, c, q->desc, q->size, &d);
    if (r <= 0)
        return r;
    if (!q->indirect)
        return virtq_fail(q, "an indirect descriptor that was not negotiated");
    if (!d.len || d.len % 16)
        return virtq_fail(q, "an indirect table of no whole number of descriptors");
    d.next = 0;
    r = walk(q, c, d.addr, d.len / 16, &d);
    return r > 0 ? virtq_fail(q, "an indirect table in an indirect table") : r;
}

static int split_pop(struct virtq *q, struct virtq_chain *c)
{
    uint16_t count = (uint16_t)(virtq_load16(q, q->driver + AVAIL_IDX) - q->avail_next);
    if (q->broken)
        return -EINVAL;
    if (count == 0)
        return 0;
    if (count > q->size)
        return virtq_fail(q, "more available requests than the queue has entries");
    if (q->inflight >= q->size)
        return virtq_fail(q, "a request made available twice");
    c->head = virtq_load16(q, q->driver + AVAIL_RING + 2UL * (q->avail_next & (q->size - 1U)));
    if (q->broken || gather(q, c) < 0)
        return -EINVAL;
    q->avail_next++;
    return 1;
}

static void split_unpop(struct virtq *q)
{
    q->avail_next--;
}

static void split_push(struct virtq *q, uint16_t head, uint32_t len)
{
    const uint32_t e[2] = { head, len };
    if (mem_write(q->mem, q->device + USED_RING + 8UL * (q->used_next & (q->size - 1U)), e, sizeof(e)) < 0) {
        virtq_fail(q, "a ring outside of memory");
        return;
    }
    virtq_store16(q, q->device + USED_IDX, ++q->used_next); /* releases the entry and the data */
    q->unsignalled++;
}

static bool split_wants_interrupt(struct virtq *q)
{
    uint16_t n = q->unsignalled;
    if (!n)
        return false;
    q->unsignalled = 0;
    if (!q->event_idx)
        return !(virtq_load16(q, q->driver) & AVAIL_NO_INTERRUPT);
    return virtq_passed(virtq_load16(q, used_event(q)), (uint16_t)(q->used_next - n), q->used_next);
}

static bool split_enable_notify(struct virtq *q)
{
    if (q->event_idx)
        virtq_store16(q, avail_event(q), q->avail_next);
    else
        virtq_store16(q, q->device, 0);
    full_fence(); /* the event word before the available index */
    return virtq_load16(q, q->driver + AVAIL_IDX) != q->avail_next;
}

static void split_disable_notify(struct virtq *q)
{
    /* With event indexes the word just stays behind, which asks for none. */
    if (!q->event_idx)
        virtq_store16(q, q->device, USED_NO_NOTIFY);
}

const struct virtq_layout virtq_split = {
    .check = split_check,
    .pop = split_pop,
    .unpop = split_unpop,
    .push = split_push,
    .wants_interrupt = split_wants_interrupt,
    .enable_notify = split_enable_notify,
    .disable_notify = split_disable_notify,
};
