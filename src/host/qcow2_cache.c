/* SPDX-License-Identifier: MIT */
/*
 * Metadata blocks of a qcow2 image, kept in slices, least recently used out first; and sets of cluster numbers. The
 * image's lock is held by callers. The number of slices is bounded whatever the image has.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "host/disk_file.h"
#include "host/qcow2_cache.h"

/* ---- slices ---- */

static unsigned bucket_of(const struct q_cache *c, uint64_t off)
{
    return (unsigned)(off / c->slice * 0x9e3779b97f4a7c15UL >> 54) % Q_HASH;
}

static void lru_remove(struct q_entry *e)
{
    e->prev->next = e->next;
    e->next->prev = e->prev;
}

static void lru_front(struct q_cache *c, struct q_entry *e)
{
    e->next = c->lru.next;
    e->prev = &c->lru;
    e->next->prev = e;
    c->lru.next = e;
}

static void unhash(struct q_cache *c, struct q_entry *e)
{
    struct q_entry **p = &c->bucket[bucket_of(c, e->off)];
    while (*p != e)
        p = &(*p)->hash;
    *p = e->hash;
}

static void drop(struct q_cache *c, struct q_entry *e)
{
    unhash(c, e);
    lru_remove(e);
    c->dirty -= e->dirty;
    c->n--;
    free(e);
}

void q_cache_init(struct q_cache *c, int fd, uint32_t slice, unsigned max)
{
    *c = (struct q_cache){ .fd = fd, .slice = slice, .max = max };
    c->lru.next = c->lru.prev = &c->lru;
}

void q_cache_free(struct q_cache *c)
{
    while (c->n)
        drop(c, c->lru.next);
}

static int write_slice(struct q_cache *c, struct q_entry *e)
{
    int r = file_write(c->fd, e->data, c->slice, e->off);
    if (r == 0) {
        e->dirty = false;
        c->dirty--;
    }
    return r;
}

/* A slice to use anew: the oldest clean one, or a fresh one while there may be more. */
static int make_room(struct q_cache *c)
{
    if (c->n < c->max)
        return 0;
    struct q_entry *e = c->lru.prev;
    while (e != &c->lru && e->dirty && !c->write_evicted)
        e = e->prev;
    if (e == &c->lru)
        return 0; /* callers see to it that some are clean; one more does no harm */
    int r = e->dirty ? write_slice(c, e) : 0;
    if (r == 0)
        drop(c, e);
    return r;
}

int q_cache_get(struct q_cache *c, uint64_t off, struct q_entry **out)
{
    struct q_entry *e = c->bucket[bucket_of(c, off)];
    while (e && e->off != off)
        e = e->hash;
    if (e) {
        if (c->lru.next != e) {
            lru_remove(e);
            lru_front(c, e);
        }
        *out = e;
        return 0;
    }
    int r = make_room(c);
    if (r < 0)
        return r;
    e = malloc(sizeof(*e) + c->slice);
    if (!e)
        return -ENOMEM;
    r = file_read(c->fd, e->data, c->slice, off);
    if (r < 0) {
        free(e);
        return r;
    }
    e->off = off;
    e->dirty = false;
    e->hash = c->bucket[bucket_of(c, off)];
    c->bucket[bucket_of(c, off)] = e;
    lru_front(c, e);
    c->n++;
    *out = e;
    return 0;
}

void q_cache_dirty(struct q_cache *c, struct q_entry *e)
{
    c->dirty += !e->dirty;
    e->dirty = true;
}

int q_cache_write(struct q_cache *c)
{
    int r = 0;
    for (struct q_entry *e = c->lru.next; e != &c->lru && c->dirty && r == 0; e = e->next)
        if (e->dirty)
            r = write_slice(c, e);
    return r;
}

void q_cache_forget(struct q_cache *c, uint64_t off, uint64_t len)
{
    for (uint64_t at = off; at < off + len; at += c->slice) {
        struct q_entry *e = c->bucket[bucket_of(c, at)];
        while (e && e->off != at)
            e = e->hash;
        if (e)
            drop(c, e);
    }
}

/* ---- sets ---- */

static size_t slot_of(const struct q_set *s, uint64_t cluster)
{
    size_t i = (size_t)((cluster + 1) * 0x9e3779b97f4a7c15UL >> 20) & (s->size - 1);
    while (s->slot[i] && s->slot[i] != cluster + 1)
        i = (i + 1) & (s->size - 1);
    return i;
}

static int grow(struct q_set *s)
{
    struct q_set bigger = { .n = s->n, .size = s->size ? 2 * s->size : 256 };
    bigger.slot = calloc(bigger.size, sizeof(bigger.slot[0]));
    if (!bigger.slot)
        return -ENOMEM;
    for (size_t i = 0; i < s->size; i++)
        if (s->slot[i])
            bigger.slot[slot_of(&bigger, s->slot[i] - 1)] = s->slot[i];
    free(s->slot);
    *s = bigger;
    return 0;
}

int q_set_add(struct q_set *s, uint64_t cluster)
{
    if (2 * s->n >= s->size && grow(s) < 0)
        return -ENOMEM;
    size_t i = slot_of(s, cluster);
    if (s->slot[i])
        return -EEXIST;
    s->slot[i] = cluster + 1;
    s->n++;
    return 0;
}

bool q_set_has(const struct q_set *s, uint64_t cluster)
{
    return s->size && s->slot[slot_of(s, cluster)];
}

void q_set_remove(struct q_set *s, uint64_t cluster)
{
    size_t i = s->size ? slot_of(s, cluster) : 0, mask = s->size - 1;
    if (!s->size || !s->slot[i])
        return;
    s->n--;
    s->slot[i] = 0;
    /* What probing put behind it may belong here now. */
    for (size_t k = (i + 1) & mask; s->slot[k]; k = (k + 1) & mask) {
        uint64_t moved = s->slot[k];
        s->slot[k] = 0;
        s->slot[slot_of(s, moved - 1)] = moved;
    }
}
