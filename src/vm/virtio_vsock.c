/* SPDX-License-Identifier: MIT */
#include "host/vsock.h"
#include "virtio/devices.h"
#include "vm/internal.h"
#include "vm/virtio.h"

static void close_host(void *h)
{
    vsock_host_close(h);
}

int vm_add_vsock(struct machine *m, struct err *e)
{
    struct virtio_env env;
    if (!m->cfg.vsock.cid)
        return 0;
    int r = vm_virtio_env(m, &env, e);
    if (r < 0)
        return r;
    struct vsock_host *h = vsock_host_open(m->cfg.vsock.path, e);
    r = vm_own_backend(m, h, close_host);
    return r < 0 ? r : vm_add_virtio(m, virtio_vsock_new(&env, m->loop, h, m->cfg.vsock.cid), e);
}
