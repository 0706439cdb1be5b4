/* SPDX-License-Identifier: MIT */
/*
 * Split virtqueues, device side. Ring indexes are single aligned 16-bit accesses; the two full fences stand where
 * virtio 1.2, "Used Buffer Notification Suppression" and "Available Buffer Notification Suppression" need a store to
 * be seen before a load. Every loop is bounded by VIRTQ_MAX.
 */
#include "virtio/queue.h"

#include <errno.h>
#include <string.h>

#include "mem/mem.h"
#include "state/state.h"

enum { DESC_NEXT = 1, DESC_WRITE = 2, DESC_INDIRECT = 4 };
enum { AVAIL_NO_INTERRUPT = 1, USED_NO_NOTIFY = 1 };
enum { AVAIL_IDX = 2, AVAIL_RING = 4, USED_IDX = 2, USED_RING = 4 };

struct desc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags, next;
};

static int fail(struct virtq *q, const char *why)
{
    if (!q->broken)
        q->broken = why;
    return -EINVAL;
}

/* ---- ring words ---- */

static uint16_t load16(struct virtq *q, gpa_t gpa)
{
    uint16_t *p = mem_pin(q->mem, gpa, 2);
    if (!p) {
        fail(q, "a ring outside of memory");
        return 0;
    }
    uint16_t v = __atomic_load_n(p, __ATOMIC_ACQUIRE);
    mem_unpin(q->mem, gpa, 2, false);
    return v;
}

static void store16(struct virtq *q, gpa_t gpa, uint16_t v)
{
    uint16_t *p = mem_pin(q->mem, gpa, 2);
    if (!p) {
        fail(q, "a ring outside of memory");
        return;
    }
    __atomic_store_n(p, v, __ATOMIC_RELEASE);
    mem_unpin(q->mem, gpa, 2, true);
}

/* The event words lie behind the rings. */
static gpa_t used_event(const struct virtq *q)
{
    return q->driver + AVAIL_RING + 2UL * q->size;
}
static gpa_t avail_event(const struct virtq *q)
{
    return q->device + USED_RING + 8UL * q->size;
}

/* ---- life ---- */

void virtq_init(struct virtq *q, struct mem *m, uint16_t max)
{
    *q = (struct virtq){ .mem = m, .max = max, .size = max };
}

void virtq_reset(struct virtq *q)
{
    virtq_init(q, q->mem, q->max);
}

bool virtq_check(struct virtq *q)
{
    uint64_t ev = q->event_idx ? 2 : 0;
    if (!q->size || q->size > q->max || q->size > VIRTQ_MAX || (q->size & (q->size - 1)))
        fail(q, "a queue size that is not a power of two up to the maximum");
    else if (q->desc % 16 || q->driver % 2 || q->device % 4)
        fail(q, "a misaligned ring");
    else if (!mem_is_ram(q->mem, q->desc, 16UL * q->size) ||
             !mem_is_ram(q->mem, q->driver, AVAIL_RING + 2UL * q->size + ev) ||
             !mem_is_ram(q->mem, q->device, USED_RING + 8UL * q->size + ev))
        fail(q, "a ring outside of memory");
    return !q->broken;
}

/* ---- taking requests ---- */

static int add_buf(struct virtq *q, struct virtq_chain *c, const struct desc *d)
{
    unsigned n = c->n_out + c->n_in;
    if (n == VIRTQ_MAX || n >= q->size)
        return fail(q, "a chain longer than the queue, or a loop");
    if (d->len && !mem_is_ram(q->mem, d->addr, d->len))
        return fail(q, "a buffer outside of memory");
    c->buf[n] = (struct virtq_buf){ .gpa = d->addr, .len = d->len };
    if (d->flags & DESC_WRITE) {
        c->n_in++;
        c->in_len += d->len;
    } else {
        if (c->n_in)
            return fail(q, "a buffer to read behind one to write");
        c->n_out++;
        c->out_len += d->len;
    }
    return 0;
}

/* Follows a chain through one table, from entry d->next on: 0 at its end, 1 with d the indirect descriptor there. */
static int walk(struct virtq *q, struct virtq_chain *c, gpa_t table, uint32_t entries, struct desc *d)
{
    for (uint32_t n = 0; n < entries; n++) {
        uint32_t i = d->next;
        if (i >= entries)
            return fail(q, "a descriptor index outside of its table");
        if (mem_read(q->mem, table + 16UL * i, d, sizeof(*d)) < 0)
            return fail(q, "a descriptor table outside of memory");
        if (d->flags & DESC_INDIRECT)
            return d->flags & DESC_NEXT ? fail(q, "an indirect descriptor with a successor") : 1;
        int r = add_buf(q, c, d);
        if (r < 0 || !(d->flags & DESC_NEXT))
            return r;
    }
    return fail(q, "a chain that loops");
}

static int gather(struct virtq *q, struct virtq_chain *c)
{
    struct desc d = { .next = c->head };
    c->n_out = c->n_in = 0;
    c->out_len = c->in_len = 0;
    int r = walk(q, c, q->desc, q->size, &d);
    if (r <= 0)
        return r;
    if (!q->indirect)
        return fail(q, "an indirect descriptor that was not negotiated");
    if (!d.len || d.len % 16)
        return fail(q, "an indirect table of no whole number of descriptors");
    d.next = 0;
    r = walk(q, c, d.addr, d.len / 16, &d);
    return r > 0 ? fail(q, "an indirect table in an indirect table") : r;
}

int virtq_pop(struct virtq *q, struct virtq_chain *c)
{
    if (!q->ready || q->broken)
        return q->broken ? -EINVAL : 0;
    uint16_t count = (uint16_t)(load16(q, q->driver + AVAIL_IDX) - q->avail_next);
    if (q->broken)
        return -EINVAL;
    if (count == 0)
        return 0;
    if (count > q->size)
        return fail(q, "more available requests than the queue has entries");
    if (q->inflight >= q->size)
        return fail(q, "a request made available twice");
    c->head = load16(q, q->driver + AVAIL_RING + 2UL * (q->avail_next & (q->size - 1U)));
    if (q->broken || gather(q, c) < 0)
        return -EINVAL;
    q->avail_next++;
    q->inflight++;
    return 1;
}

void virtq_unpop(struct virtq *q)
{
    q->avail_next--;
    q->inflight--;
}

/* ---- giving them back ---- */

void virtq_push(struct virtq *q, uint16_t head, uint32_t len)
{
    const uint32_t e[2] = { head, len };
    if (q->inflight)
        q->inflight--;
    if (!q->ready || q->broken)
        return;
    if (mem_write(q->mem, q->device + USED_RING + 8UL * (q->used_next & (q->size - 1U)), e, sizeof(e)) < 0) {
        fail(q, "a ring outside of memory");
        return;
    }
    store16(q, q->device + USED_IDX, ++q->used_next); /* releases the entry and the data */
}

/* virtio 1.2, "Used Buffer Notification Suppression": was event passed on the way from old to now? */
static bool passed(uint16_t event, uint16_t old, uint16_t now)
{
    return (uint16_t)(now - event - 1) < (uint16_t)(now - old);
}

bool virtq_wants_interrupt(struct virtq *q)
{
    if (!q->ready || q->broken)
        return false;
    full_fence(); /* the used index before the event word */
    if (!q->event_idx)
        return !(load16(q, q->driver) & AVAIL_NO_INTERRUPT);
    uint16_t old = q->signalled;
    bool first = !q->signalled_valid;
    if (!first && old == q->used_next)
        return false;
    q->signalled = q->used_next;
    q->signalled_valid = true;
    return first || passed(load16(q, used_event(q)), old, q->used_next);
}

bool virtq_enable_notify(struct virtq *q)
{
    if (!q->ready || q->broken)
        return false;
    if (q->event_idx)
        store16(q, avail_event(q), q->avail_next);
    else
        store16(q, q->device, 0);
    full_fence(); /* the event word before the available index */
    return load16(q, q->driver + AVAIL_IDX) != q->avail_next && !q->broken;
}

void virtq_disable_notify(struct virtq *q)
{
    /* With event indexes the word just stays behind, which asks for none. */
    if (q->ready && !q->broken && !q->event_idx)
        store16(q, q->device, USED_NO_NOTIFY);
}

/* ---- bytes of a chain ---- */

struct copy {
    const struct virtq_buf *b;
    unsigned n;
    uint64_t off, len;
    uint8_t *host;
    bool to_guest;
};

static uint64_t copy(const struct virtq *q, struct copy k)
{
    uint64_t done = 0;
    for (unsigned i = 0; i < k.n && done < k.len; i++) {
        if (k.off >= k.b[i].len) {
            k.off -= k.b[i].len;
            continue;
        }
        uint64_t n = k.b[i].len - k.off;
        if (n > k.len - done)
            n = k.len - done;
        int r = k.to_guest ? mem_write(q->mem, k.b[i].gpa + k.off, k.host + done, n)
                           : mem_read(q->mem, k.b[i].gpa + k.off, k.host + done, n);
        if (r < 0)
            break;
        done += n;
        k.off = 0;
    }
    return done;
}

uint64_t virtq_read(const struct virtq *q, const struct virtq_chain *c, uint64_t off, void *dst, uint64_t len)
{
    return copy(q, (struct copy){ .b = c->buf, .n = c->n_out, .off = off, .len = len, .host = dst });
}

uint64_t virtq_write(const struct virtq *q, const struct virtq_chain *c, uint64_t off, const void *src, uint64_t len)
{
    return copy(q, (struct copy){ .b = c->buf + c->n_out,
                                  .n = c->n_in,
                                  .off = off,
                                  .len = len,
                                  .host = (uint8_t *)(uintptr_t)src,
                                  .to_guest = true });
}

/* ---- state ---- */

void virtq_save(const struct virtq *q, struct state_out *s)
{
    state_put_u16(s, q->size);
    state_put_u8(s, q->ready);
    state_put_u64(s, q->desc);
    state_put_u64(s, q->driver);
    state_put_u64(s, q->device);
    state_put_u16(s, q->avail_next);
    state_put_u16(s, q->used_next);
    state_put_u16(s, q->signalled);
    state_put_u8(s, q->signalled_valid);
    state_put_u8(s, q->broken != NULL);
}

int virtq_load(struct virtq *q, struct state_in *s)
{
    q->size = state_get_u16(s);
    uint8_t ready = state_get_u8(s);
    q->desc = state_get_u64(s);
    q->driver = state_get_u64(s);
    q->device = state_get_u64(s);
    q->avail_next = state_get_u16(s);
    q->used_next = state_get_u16(s);
    q->signalled = state_get_u16(s);
    uint8_t valid = state_get_u8(s), broken = state_get_u8(s);
    q->inflight = 0;
    if (s->bad || ready > 1 || valid > 1 || broken > 1 || q->size > q->max)
        return -EINVAL;
    q->ready = ready;
    q->signalled_valid = valid;
    q->broken = broken ? "a rule, before the state was saved" : NULL;
    return 0;
}
