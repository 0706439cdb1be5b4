/* SPDX-License-Identifier: MIT */
/*
 * The machine's virtio-mmio devices: which there are, in which order, at which addresses. Each kind has a file,
 * virtio_KIND.c, with one function of the list in virtio.c.
 */
#ifndef GAZDA_VM_VIRTIO_H
#define GAZDA_VM_VIRTIO_H

#include "base/err.h"
#include "virtio/virtio.h"

struct machine;

/* Builds and maps them: block devices first, so that the first disk is /dev/vda. 0 or -errno. */
int vm_build_virtio(struct machine *m, struct err *e);
/* Closes the back ends, after the devices were freed. */
void vm_free_virtio(struct machine *m);

/* ---- for virtio_KIND.c ---- */

/* What the next device is built with. -ENOSPC: there is no room for one. */
int vm_virtio_env(struct machine *m, struct virtio_env *env, struct err *e);
/* Lists and maps a device that was built with that. NULL: -ENOMEM. */
int vm_add_virtio(struct machine *m, struct virtio_dev *v, struct err *e);
/* Frees p after all devices. NULL is fine: -EIO, for whoever opened it has set e. */
int vm_own_backend(struct machine *m, void *p, void (*free)(void *p));

int vm_add_disks(struct machine *m, struct err *e);
int vm_add_nets(struct machine *m, struct err *e);
int vm_add_shares(struct machine *m, struct err *e);
int vm_add_console(struct machine *m, struct err *e);
int vm_add_rng(struct machine *m, struct err *e);
int vm_add_vsock(struct machine *m, struct err *e);
int vm_add_balloon(struct machine *m, struct err *e);

#endif
