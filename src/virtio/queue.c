/* SPDX-License-Identifier: MIT */
/* What all virtqueues do, whatever their layout: life, the bytes of a chain, state. */
#include "virtio/queue.h"

#include <errno.h>
#include <string.h>

#include "mem/mem.h"
#include "state/state.h"
#include "virtio/queue_int.h"

int virtq_fail(struct virtq *q, const char *why)
{
    if (!q->broken)
        q->broken = why;
    return -EINVAL;
}

/* ---- ring words ---- */

uint16_t virtq_load16(struct virtq *q, gpa_t gpa)
{
    uint16_t *p = mem_pin(q->mem, gpa, 2);
    if (!p) {
        virtq_fail(q, "a ring outside of memory");
        return 0;
    }
    uint16_t v = __atomic_load_n(p, __ATOMIC_ACQUIRE);
    mem_unpin(q->mem, gpa, 2, false);
    return v;
}

void virtq_store16(struct virtq *q, gpa_t gpa, uint16_t v)
{
    uint16_t *p = mem_pin(q->mem, gpa, 2);
    if (!p) {
        virtq_fail(q, "a ring outside of memory");
        return;
    }
    __atomic_store_n(p, v, __ATOMIC_RELEASE);
    mem_unpin(q->mem, gpa, 2, true);
}

/* ---- life ---- */

void virtq_init(struct virtq *q, struct mem *m, uint16_t max)
{
    *q = (struct virtq){
        .mem = m, .layout = &virtq_split, .max = max, .size = max, .avail_wrap = true, .used_wrap = true
    };
}

void virtq_reset(struct virtq *q)
{
    virtq_init(q, q->mem, q->max);
}

void virtq_set_features(struct virtq *q, bool packed, bool indirect, bool event_idx)
{
    q->layout = packed ? &virtq_packed : &virtq_split;
    q->indirect = indirect;
    q->event_idx = event_idx;
}

void virtq_begin_reset(struct virtq *q)
{
    q->resetting = true;
}

bool virtq_reset_done(struct virtq *q)
{
    if (!q->resetting)
        return true;
    if (q->inflight)
        return false;
    struct virtq old = *q;
    virtq_reset(q);
    virtq_set_features(q, old.layout == &virtq_packed, old.indirect, old.event_idx);
    return true;
}

bool virtq_check(struct virtq *q)
{
    const char *why = q->size && q->size <= q->max && q->size <= VIRTQ_MAX
                          ? q->layout->check(q)
                          : "a queue size that is 0 or above the maximum";
    if (why)
        virtq_fail(q, why);
    return !q->broken;
}

static bool usable(const struct virtq *q)
{
    return q->ready && !q->broken && !q->resetting;
}

/* ---- requests ---- */

int virtq_pop(struct virtq *q, struct virtq_chain *c)
{
    if (!usable(q))
        return q->broken ? -EINVAL : 0;
    int r = q->layout->pop(q, c);
    if (r == 1)
        q->inflight++;
    return r;
}

void virtq_unpop(struct virtq *q)
{
    q->layout->unpop(q);
    q->inflight--;
}

void virtq_push(struct virtq *q, uint16_t head, uint32_t len)
{
    if (q->inflight)
        q->inflight--;
    if (usable(q))
        q->layout->push(q, head, len);
}

bool virtq_wants_interrupt(struct virtq *q)
{
    if (!usable(q))
        return false;
    full_fence(); /* the used entries before the driver's wishes */
    return q->layout->wants_interrupt(q);
}

bool virtq_enable_notify(struct virtq *q)
{
    return usable(q) && q->layout->enable_notify(q) && !q->broken;
}

void virtq_disable_notify(struct virtq *q)
{
    if (usable(q))
        q->layout->disable_notify(q);
}

/* ---- descriptors ---- */

void virtq_chain_init(struct virtq_chain *c)
{
    c->n_out = c->n_in = 0;
    c->out_len = c->in_len = 0;
}

int virtq_add_buf(struct virtq *q, struct virtq_chain *c, gpa_t addr, uint32_t len, bool write)
{
    unsigned n = c->n_out + c->n_in;
    if (n == VIRTQ_MAX || n >= q->size)
        return virtq_fail(q, "a chain longer than the queue, or a loop");
    if (len && !mem_is_ram(q->mem, addr, len))
        return virtq_fail(q, "a buffer outside of memory");
    c->buf[n] = (struct virtq_buf){ .gpa = addr, .len = len };
    if (write) {
        c->n_in++;
        c->in_len += len;
    } else {
        if (c->n_in)
            return virtq_fail(q, "a buffer to read behind one to write");
        c->n_out++;
        c->out_len += len;
    }
    return 0;
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
    state_put_u8(s, (uint8_t)(q->avail_wrap | q->used_wrap << 1));
    state_put_u16(s, q->unsignalled);
    state_put_u8(s, q->broken != NULL);
}

int virtq_load(struct virtq *q, struct state_in *s)
{
    bool packed = q->layout == &virtq_packed;
    q->size = state_get_u16(s);
    uint8_t ready = state_get_u8(s);
    q->desc = state_get_u64(s);
    q->driver = state_get_u64(s);
    q->device = state_get_u64(s);
    q->avail_next = state_get_u16(s);
    q->used_next = state_get_u16(s);
    uint8_t wraps = state_get_u8(s);
    q->unsignalled = state_get_u16(s);
    uint8_t broken = state_get_u8(s);
    q->inflight = q->slots = 0;
    if (s->bad || ready > 1 || wraps > 3 || broken > 1 || q->size > q->max)
        return -EINVAL;
    if (packed && ready && (q->avail_next >= q->size || q->used_next >= q->size))
        return -EINVAL;
    q->ready = ready;
    q->avail_wrap = wraps & 1;
    q->used_wrap = wraps >> 1;
    q->broken = broken ? "a rule, before the state was saved" : NULL;
    return 0;
}
