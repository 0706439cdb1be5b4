/* SPDX-License-Identifier: MIT */
/* Joins the boot loader to the machine; see guest.h. */
#include "vm/boot/guest.h"

#include "base/log.h"

enum { VIRTIO_MAX = 32 };

int boot_guest(void *arg, const struct machine_guest *g, struct err *e)
{
    struct boot_config cfg = *(const struct boot_config *)arg;
    struct boot_virtio virtio[VIRTIO_MAX];
    struct boot_info info;
    cfg.cpus = g->cpus;
    cfg.n_virtio = g->n_virtio < VIRTIO_MAX ? g->n_virtio : VIRTIO_MAX;
    for (unsigned i = 0; i < cfg.n_virtio; i++)
        virtio[i] = (struct boot_virtio){ .base = g->virtio[i].base, .len = g->virtio[i].len, .gsi = g->virtio[i].gsi };
    cfg.virtio = virtio;
    /* With an initrd the guest finds its root itself; a disk without one is the root. */
    if (g->has_disk && cfg.n_initrds == 0 && cfg.root == BOOT_ROOT_NONE)
        cfg.root = g->disk_read_only ? BOOT_ROOT_RO : BOOT_ROOT_RW;
    int r = boot_load(&cfg, g->mem, g->bsp, &info, e);
    if (r == 0)
        log_info("boot: %s", info.how);
    return r;
}
