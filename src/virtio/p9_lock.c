/* SPDX-License-Identifier: MIT */
/*
 * 9P2000.L: Tlock and Tgetlock. The guest's kernel has settled every conflict between its own processes before it asks,
 * so all that is left are other users of the directory, and those are not told: a lock always succeeds, as with other
 * hosts of 9p. (A host lock belongs to a process or to an open file; neither is what the guest's owners are.)
 */
#include <errno.h>
#include <string.h>

#include "virtio/p9.h"

enum { NAME = SHARE_NAME_MAX + 1 };
enum { LOCK_TYPE_UNLOCK = 2, LOCK_OK = 0 };

int p9_lock(struct p9_req *r)
{
    struct p9_fid f;
    uint32_t num = p9_get32(&r->in);
    uint8_t type = p9_get8(&r->in);
    uint32_t flags = p9_get32(&r->in);
    p9_get64(&r->in); /* start */
    p9_get64(&r->in); /* length */
    p9_get32(&r->in); /* process */
    char client[NAME];
    int e = p9_get_str(&r->in, client, sizeof(client));
    if (r->in.bad || type > LOCK_TYPE_UNLOCK || (flags & ~3U))
        return -EINVAL;
    if (e == 0)
        e = p9_get_fid(r->p, num, &f);
    if (e < 0)
        return e;
    e = f.file ? 0 : -EBADF;
    p9_put_fid(r->p, &f);
    p9_put8(&r->out, LOCK_OK);
    return e;
}

int p9_getlock(struct p9_req *r)
{
    struct p9_fid f;
    uint32_t num = p9_get32(&r->in);
    uint8_t type = p9_get8(&r->in);
    uint64_t start = p9_get64(&r->in), length = p9_get64(&r->in);
    uint32_t process = p9_get32(&r->in);
    char client[NAME];
    int e = p9_get_str(&r->in, client, sizeof(client));
    if (r->in.bad || type > LOCK_TYPE_UNLOCK)
        return -EINVAL;
    if (e == 0)
        e = p9_get_fid(r->p, num, &f);
    if (e < 0)
        return e;
    e = f.file ? 0 : -EBADF;
    p9_put_fid(r->p, &f);
    p9_put8(&r->out, LOCK_TYPE_UNLOCK);
    p9_put64(&r->out, start);
    p9_put64(&r->out, length);
    p9_put32(&r->out, process);
    p9_put_str(&r->out, client, strlen(client));
    return e;
}
