/* SPDX-License-Identifier: MIT */
#include "host/share.h"
#include "virtio/devices.h"
#include "vm/internal.h"
#include "vm/virtio.h"

static int add_share(struct machine *m, const struct machine_share *c, struct err *e)
{
    struct virtio_env env;
    const struct share_cfg cfg = { .dir = c->dir, .read_only = c->read_only, .map_root = c->map_root };
    int r = vm_virtio_env(m, &env, e);
    if (r < 0)
        return r;
    struct share *s = share_open(&cfg, e);
    r = vm_own_backend(m, s, (void (*)(void *))share_free);
    return r < 0 ? r : vm_add_virtio(m, virtio_9p_new(&env, s, c->tag), e);
}

int vm_add_shares(struct machine *m, struct err *e)
{
    int r = 0;
    for (unsigned i = 0; i < m->cfg.n_shares && r == 0; i++)
        r = add_share(m, &m->cfg.share[i], e);
    return r;
}
