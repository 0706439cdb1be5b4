/* SPDX-License-Identifier: MIT */
/*
 * Packed virtqueues: one ring of descriptors, which both sides write. A descriptor is the device's when its AVAIL bit
 * equals the driver's wrap counter and its USED bit does not; a used one carries the device's counter in both. A chain
 * is a run of slots; its buffer ID is in the last of them, and the used descriptor goes to the first slot that is free
 * on the device's side and stands for as many slots as the chain had. IDs are below the queue's size, as all drivers
 * have them, so that what a chain occupies is remembered in a table.
 */
#include <errno.h>
#include <stddef.h>

#include "mem/mem.h"
#include "virtio/queue_int.h"

enum { DESC_AVAIL = 1 << 7, DESC_USED = 1 << 15 };
/* Event suppression: a position with wrap counter, then flags. */
enum { EVENT_POS = 0, EVENT_FLAGS = 2, EVENT_ENABLE = 0, EVENT_DISABLE = 1, EVENT_DESC = 2 };

struct desc {
    uint64_t addr;
    uint32_t len;
    uint16_t id, flags;
};

static gpa_t slot(const struct virtq *q, unsigned i)
{
    return q->desc + 16UL * i;
}

static const char *packed_check(const struct virtq *q)
{
    if (q->desc % 16 || q->driver % 4 || q->device % 4)
        return "a misaligned ring";
    if (!mem_is_ram(q->mem, q->desc, 16UL * q->size) || !mem_is_ram(q->mem, q->driver, 4) ||
        !mem_is_ram(q->mem, q->device, 4))
        return "a ring outside of memory";
    return NULL;
}

static bool available(struct virtq *q)
{
    uint16_t flags = virtq_load16(q, slot(q, q->avail_next) + offsetof(struct desc, flags));
    return !q->broken && !(flags & DESC_AVAIL) == !q->avail_wrap && !(flags & DESC_USED) == q->avail_wrap;
}

/* The buffers of an indirect table, which is a list: no flag but WRITE means anything in it, the others are ignored. */
static int gather_table(struct virtq *q, struct virtq_chain *c, const struct desc *table)
{
    struct desc d;
    if (!q->indirect)
        return virtq_fail(q, "an indirect descriptor that was not negotiated");
    if (!table->len || table->len % 16)
        return virtq_fail(q, "an indirect table of no whole number of descriptors");
    for (uint32_t i = 0; i < table->len / 16; i++) {
        if (mem_read(q->mem, table->addr + 16UL * i, &d, sizeof(d)) < 0)
            return virtq_fail(q, "a descriptor table outside of memory");
        if (virtq_add_buf(q, c, d.addr, d.len, d.flags & DESC_WRITE) < 0)
            return -EINVAL;
    }
    return 0;
}

/* Reads the run of slots that begins at avail_next. Its length, or -1. The first is available; the driver has written
 * the others before it. */
static int gather(struct virtq *q, struct virtq_chain *c)
{
    unsigned i = q->avail_next;
    struct desc d;
    virtq_chain_init(c);
    for (unsigned n = 1; n <= q->size; n++) {
        if (mem_read(q->mem, slot(q, i), &d, sizeof(d)) < 0)
            return virtq_fail(q, "a ring outside of memory");
        if (d.flags & DESC_INDIRECT) {
            if (d.flags & DESC_NEXT || n > 1)
                return virtq_fail(q, "an indirect descriptor in a chain");
            if (gather_table(q, c, &d) < 0)
                return -EINVAL;
        } else if (virtq_add_buf(q, c, d.addr, d.len, d.flags & DESC_WRITE) < 0) {
            return -EINVAL;
        }
        if (!(d.flags & DESC_NEXT)) {
            c->head = d.id;
            return (int)n;
        }
        i = i + 1 == q->size ? 0 : i + 1;
    }
    return virtq_fail(q, "a chain that loops");
}

static void advance(const struct virtq *q, uint16_t *at, bool *wrap, unsigned n)
{
    unsigned to = *at + n;
    if (to >= q->size) {
        to -= q->size;
        *wrap = !*wrap;
    }
    *at = (uint16_t)to;
}

static int packed_pop(struct virtq *q, struct virtq_chain *c)
{
    if (!available(q))
        return q->broken ? -1 : 0;
    int n = gather(q, c);
    if (n < 0)
        return -EINVAL;
    if (c->head >= q->size)
        return virtq_fail(q, "a buffer ID that is not below the queue's size");
    if (q->held[c->head])
        return virtq_fail(q, "a buffer ID that is in flight already");
    if (n > q->size - q->slots)
        return virtq_fail(q, "more in flight than the queue has slots");
    q->held[c->head] = (uint16_t)n;
    q->slots = (uint16_t)(q->slots + n);
    q->last = c->head;
    advance(q, &q->avail_next, &q->avail_wrap, (unsigned)n);
    return 1;
}

static void packed_unpop(struct virtq *q)
{
    unsigned n = q->held[q->last], at = q->avail_next;
    q->held[q->last] = 0;
    q->slots = (uint16_t)(q->slots - n);
    if (at < n) {
        at += q->size;
        q->avail_wrap = !q->avail_wrap;
    }
    q->avail_next = (uint16_t)(at - n);
}

static void packed_push(struct virtq *q, uint16_t head, uint32_t len)
{
    unsigned n = head < q->size ? q->held[head] : 0;
    struct desc d = { .len = len, .id = head };
    gpa_t at = slot(q, q->used_next);
    if (!n) /* it was taken before a reset */
        return;
    uint16_t flags = q->used_wrap ? DESC_AVAIL | DESC_USED : 0;
    if (len)
        flags |= DESC_WRITE;
    if (mem_write(q->mem, at + offsetof(struct desc, len), &d.len, 4) < 0 ||
        mem_write(q->mem, at + offsetof(struct desc, id), &d.id, 2) < 0) {
        virtq_fail(q, "a ring outside of memory");
        return;
    }
    virtq_store16(q, at + offsetof(struct desc, flags), flags); /* releases the entry and the data */
    q->held[head] = 0;
    q->slots = (uint16_t)(q->slots - n);
    q->unsignalled = (uint16_t)(q->unsignalled + n);
    advance(q, &q->used_next, &q->used_wrap, n);
}

static bool packed_wants_interrupt(struct virtq *q)
{
    uint16_t flags = virtq_load16(q, q->driver + EVENT_FLAGS) & 3;
    uint16_t pos = virtq_load16(q, q->driver + EVENT_POS);
    uint16_t n = q->unsignalled;
    if (q->broken || !n)
        return false;
    q->unsignalled = 0;
    if (!q->event_idx || flags != EVENT_DESC)
        return flags != EVENT_DISABLE;
    uint16_t event = pos & 0x7fff;
    if ((bool)(pos >> 15) != q->used_wrap)
        event = (uint16_t)(event - q->size);
    return virtq_passed(event, (uint16_t)(q->used_next - n), q->used_next);
}

static bool packed_enable_notify(struct virtq *q)
{
    if (q->event_idx) {
        virtq_store16(q, q->device + EVENT_POS, (uint16_t)(q->avail_next | q->avail_wrap << 15));
        virtq_store16(q, q->device + EVENT_FLAGS, EVENT_DESC);
    } else {
        virtq_store16(q, q->device + EVENT_FLAGS, EVENT_ENABLE);
    }
    full_fence(); /* the event words before the descriptor */
    return available(q);
}

static void packed_disable_notify(struct virtq *q)
{
    virtq_store16(q, q->device + EVENT_FLAGS, EVENT_DISABLE);
}

const struct virtq_layout virtq_packed = {
    .check = packed_check,
    .pop = packed_pop,
    .unpop = packed_unpop,
    .push = packed_push,
    .wants_interrupt = packed_wants_interrupt,
    .enable_notify = packed_enable_notify,
    .disable_notify = packed_disable_notify,
};
