/* SPDX-License-Identifier: MIT */
#include "virtio/devices.h"
#include "vm/internal.h"
#include "vm/virtio.h"

int vm_add_rng(struct machine *m, struct err *e)
{
    struct virtio_env env;
    if (m->cfg.no_rng)
        return 0;
    int r = vm_virtio_env(m, &env, e);
    return r < 0 ? r : vm_add_virtio(m, virtio_rng_new(&env, &m->cfg.rng_limit), e);
}
