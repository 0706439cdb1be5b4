/* SPDX-License-Identifier: MIT */
/*
 * Saved fids. A descriptor cannot be saved, so each fid is saved as the path that its node has then, and is opened by
 * it when the state is loaded. A fid whose path is gone by then (deleted while open, or another directory) is kept as
 * one that is lost: what the guest does with it fails with ESTALE, as with a file server that was replaced.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "state/state.h"
#include "virtio/p9.h"

enum { FLAGS_CLOSED = UINT32_MAX, PATH_LOST = UINT16_MAX };
/* What an open file was created or emptied with must not happen again. */
enum { FLAGS_AGAIN = O_ACCMODE | O_APPEND | O_DSYNC | O_SYNC | O_DIRECTORY };

void p9_save_fids(struct p9 *p, struct state_out *s)
{
    char *path = malloc(SHARE_PATH_MAX);
    lock_take(&p->fids.lock);
    state_put_u32(s, p->fids.n);
    for (const struct p9_slot *k = p->fids.first; k; k = k->after) {
        const struct p9_fid *f = &k->fid;
        /* An attribute that is being read or written has no path: the call fails in the guest. */
        bool lost = !path || f->attr || f->node->fd < 0 || share_path(p->share, f->node->fd, path) < 0;
        state_put_u32(s, f->num);
        state_put_u32(s, f->uid);
        state_put_u8(s, f->node->type);
        state_put_u32(s, f->file ? (uint32_t)f->file->flags & FLAGS_AGAIN : FLAGS_CLOSED);
        state_put_u16(s, lost ? PATH_LOST : (uint16_t)strlen(path));
        if (!lost)
            state_put_bytes(s, path, strlen(path));
    }
    lock_drop(&p->fids.lock);
    free(path);
}

struct record {
    struct p9_fid fid;
    uint32_t flags;
    uint8_t type;
    uint16_t len;
    char path[SHARE_PATH_MAX];
};

static bool read_record(struct state_in *s, struct record *k)
{
    k->fid = (struct p9_fid){ .num = state_get_u32(s) };
    k->fid.uid = state_get_u32(s);
    k->type = state_get_u8(s);
    k->flags = state_get_u32(s);
    k->len = state_get_u16(s);
    if (s->bad || k->fid.num == P9_NOFID || (k->flags != FLAGS_CLOSED && (k->flags & ~(uint32_t)FLAGS_AGAIN)))
        return false;
    k->path[0] = '\0';
    if (k->len == PATH_LOST)
        return true;
    if (k->len >= SHARE_PATH_MAX)
        return false;
    state_get_bytes(s, k->path, k->len);
    k->path[k->len] = '\0';
    return !s->bad && strlen(k->path) == k->len;
}

/* Opens what a record names. Without success the fid is lost. */
static int reopen(struct p9 *p, struct record *k)
{
    struct p9_qid qid;
    int e = k->len == PATH_LOST ? -ESTALE : p9_node_at(p, share_find(p->share, k->path), &k->fid.node, &qid);
    int fd = -1;
    if (e == 0 && qid.type != k->type)
        e = -ESTALE;
    if (e == 0 && k->flags != FLAGS_CLOSED) {
        fd = share_reopen(p->share, k->fid.node->fd, (int)k->flags);
        k->fid.file = fd < 0 ? NULL : p9_file_new(p, fd, (int)k->flags);
        e = k->fid.file ? 0 : fd < 0 ? fd : -ENOMEM;
    }
    if (e == 0)
        return 0;
    p9_put_fid(p, &k->fid);
    k->fid.node = p9_node_new(p, -ESTALE, k->type);
    return k->fid.node ? e : -ENOMEM;
}

static int load_all(struct p9 *p, struct state_in *s, struct record *k)
{
    uint32_t n = state_get_u32(s);
    unsigned lost = 0;
    if (s->bad || n > P9_FIDS_MAX)
        return -EINVAL;
    for (uint32_t i = 0; i < n; i++) {
        if (!read_record(s, k))
            return -EINVAL;
        int e = reopen(p, k);
        if (!k->fid.node)
            return -ENOMEM;
        if (e < 0 && lost++ == 0)
            log_warn("share %s: \"%s\", which the guest had open when its state was saved, is not there (%s)", p->tag,
                     k->path, strerror(-e));
        e = p9_add_fid(p, &k->fid);
        if (e < 0) {
            p9_put_fid(p, &k->fid);
            return -EINVAL; /* a fid twice */
        }
    }
    if (lost > 1)
        log_warn("share %s: %u files that the guest had open are not there", p->tag, lost);
    return 0;
}

int p9_load_fids(struct p9 *p, struct state_in *s)
{
    struct record *k = malloc(sizeof(*k));
    if (!k)
        return -ENOMEM;
    p9_unlock_all(p); /* locks are not saved */
    /* The device's lock is held and nothing is in flight: the table is ours. */
    struct p9_slot *drop = p9_detach_fids(p);
    int r = load_all(p, s, k);
    if (r < 0) {
        struct p9_slot *old = drop;
        drop = p9_detach_fids(p);
        p9_attach_fids(p, old);
    }
    p9_free_fids(p, drop);
    free(k);
    return r;
}
