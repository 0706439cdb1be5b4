/* SPDX-License-Identifier: MIT */
#include <errno.h>

#include "host/disk.h"
#include "virtio/devices.h"
#include "vm/internal.h"
#include "vm/virtio.h"

static int add_disk(struct machine *m, const struct machine_disk *d, struct err *e)
{
    struct virtio_env env;
    int r = vm_virtio_env(m, &env, e);
    if (r < 0)
        return r;
    const struct disk_options o = { .format = d->format, .read_only = d->read_only };
    struct disk *disk =
        d->overlay ? disk_open_overlay(d->path, &o, d->overlay_path, e) : disk_open_with(d->path, &o, e);
    r = vm_own_backend(m, disk, (void (*)(void *))disk_close);
    if (r < 0)
        return r;
    const struct virtio_blk_cfg cfg = {
        .disk = disk,
        /* A queue a vCPU spares their submissions each other's lock in the guest. */
        .queues = m->cfg.cpus < 4 ? m->cfg.cpus : 4,
        .limit = &d->limit,
        .io = d->io,
    };
    struct virtio_dev *v = virtio_blk_new(&env, &cfg, e);
    return v ? vm_add_virtio(m, v, e) : -EIO;
}

int vm_add_disks(struct machine *m, struct err *e)
{
    int r = 0;
    for (unsigned i = 0; i < m->cfg.n_disks && r == 0; i++)
        r = add_disk(m, &m->cfg.disk[i], e);
    return r;
}
