/* SPDX-License-Identifier: MIT */
/* The fids of a 9p device; see p9.h. Descriptors are closed without the table's lock. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "virtio/p9.h"

/* ---- what fids stand for ---- */

struct p9_node *p9_node_new(struct p9 *p, int fd, uint8_t type)
{
    struct p9_node *n = malloc(sizeof(*n));
    if (!n) {
        share_close(p->share, fd);
        return NULL;
    }
    *n = (struct p9_node){ .refs = 1, .fd = fd, .type = type };
    return n;
}

struct p9_file *p9_file_new(struct p9 *p, int fd, int flags)
{
    struct p9_file *f = calloc(1, sizeof(*f));
    if (!f) {
        share_close(p->share, fd);
        return NULL;
    }
    f->refs = 1;
    f->fd = fd;
    f->flags = flags;
    lock_init(&f->lock, LOCK_CHARDEV);
    return f;
}

static void put_file(struct p9 *p, struct p9_file *f)
{
    if (atomic_fetch_sub(&f->refs, 1) != 1)
        return;
    share_close(p->share, f->fd);
    lock_destroy(&f->lock);
    free(f);
}

static void put_attr(struct p9 *p, struct p9_attr *a)
{
    if (atomic_fetch_sub(&a->refs, 1) != 1)
        return;
    lock_take(&p->fids.lock);
    p->fids.attr_bytes -= a->size;
    lock_drop(&p->fids.lock);
    free(a);
}

void p9_put_fid(struct p9 *p, struct p9_fid *f)
{
    if (f->file)
        put_file(p, f->file);
    if (f->attr)
        put_attr(p, f->attr);
    if (f->node && atomic_fetch_sub(&f->node->refs, 1) == 1) {
        share_close(p->share, f->node->fd);
        free(f->node);
    }
    f->file = NULL;
    f->attr = NULL;
    f->node = NULL;
}

/* ---- the table ---- */

static struct p9_slot **bucket(struct p9 *p, uint32_t num)
{
    return &p->fids.bucket[num * 0x9e3779b1U >> 18];
}

static struct p9_slot **find(struct p9 *p, uint32_t num)
{
    struct p9_slot **at = bucket(p, num);
    while (*at && (*at)->fid.num != num)
        at = &(*at)->next;
    return at;
}

_Static_assert(P9_BUCKETS == 1 << (32 - 18), "the hash has as many bits as there are buckets");

/* Its number is not in the table. */
static void insert(struct p9 *p, struct p9_slot *s)
{
    struct p9_slot **at = bucket(p, s->fid.num);
    s->next = *at;
    *at = s;
    s->after = NULL;
    s->before = p->fids.last;
    *(s->before ? &s->before->after : &p->fids.first) = s;
    p->fids.last = s;
    p->fids.n++;
}

static void take_out(struct p9 *p, struct p9_slot **at)
{
    struct p9_slot *s = *at;
    *at = s->next;
    *(s->before ? &s->before->after : &p->fids.first) = s->after;
    *(s->after ? &s->after->before : &p->fids.last) = s->before;
    p->fids.n--;
}

int p9_get_fid(struct p9 *p, uint32_t num, struct p9_fid *out)
{
    lock_take(&p->fids.lock);
    const struct p9_slot *s = *find(p, num);
    *out = (struct p9_fid){ 0 };
    int r = !s ? -EBADF : s->fid.node->fd < 0 ? -ESTALE : 0;
    if (r == 0) {
        *out = s->fid;
        atomic_fetch_add(&out->node->refs, 1);
        if (out->file)
            atomic_fetch_add(&out->file->refs, 1);
        if (out->attr)
            atomic_fetch_add(&out->attr->refs, 1);
    }
    lock_drop(&p->fids.lock);
    return r;
}

int p9_add_fid(struct p9 *p, struct p9_fid *f)
{
    struct p9_slot *s = malloc(sizeof(*s));
    if (!s)
        return -ENOMEM;
    lock_take(&p->fids.lock);
    int r = f->num == P9_NOFID ? -EBADF : *find(p, f->num) ? -EBUSY : p->fids.n >= P9_FIDS_MAX ? -EMFILE : 0;
    if (r == 0) {
        *s = (struct p9_slot){ .fid = *f };
        insert(p, s);
    }
    lock_drop(&p->fids.lock);
    if (r < 0)
        free(s);
    return r;
}

int p9_set_fid(struct p9 *p, const struct p9_fid *was, struct p9_fid *f)
{
    struct p9_fid old = { 0 };
    lock_take(&p->fids.lock);
    struct p9_slot *s = *find(p, f->num);
    int r = -EBUSY;
    if (s && s->fid.node == was->node && s->fid.file == was->file && s->fid.attr == was->attr) {
        old = s->fid;
        s->fid = *f;
        r = 0;
    }
    lock_drop(&p->fids.lock);
    p9_put_fid(p, &old);
    return r;
}

int p9_del_fid(struct p9 *p, uint32_t num, struct p9_fid *out)
{
    lock_take(&p->fids.lock);
    struct p9_slot **at = find(p, num), *s = *at;
    if (s) {
        take_out(p, at);
        *out = s->fid;
    }
    lock_drop(&p->fids.lock);
    if (s && s->fid.file)
        p9_unlock_fid(p, num);
    free(s);
    return s ? 0 : -EBADF;
}

void p9_fids_init(struct p9 *p)
{
    lock_init(&p->fids.lock, LOCK_CHARDEV);
    lock_init(&p->lock_lock, LOCK_CHARDEV);
}

struct p9_slot *p9_detach_fids(struct p9 *p)
{
    struct p9_slot *list = p->fids.first;
    for (const struct p9_slot *s = list; s; s = s->after)
        *bucket(p, s->fid.num) = NULL;
    p->fids.first = p->fids.last = NULL;
    p->fids.n = 0;
    return list;
}

void p9_attach_fids(struct p9 *p, struct p9_slot *list)
{
    for (struct p9_slot *next; list; list = next) {
        next = list->after;
        insert(p, list);
    }
}

void p9_free_fids(struct p9 *p, struct p9_slot *list)
{
    for (struct p9_slot *next; list; list = next) {
        next = list->after;
        p9_put_fid(p, &list->fid);
        free(list);
    }
}

void p9_fids_clear(struct p9 *p)
{
    p9_unlock_all(p);
    lock_take(&p->fids.lock);
    struct p9_slot *list = p9_detach_fids(p);
    lock_drop(&p->fids.lock);
    p9_free_fids(p, list);
}
