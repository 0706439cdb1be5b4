/* SPDX-License-Identifier: MIT */
/* The machine's virtio-mmio devices: which there are, in which order, at which addresses. */
#ifndef GAZDA_VM_VIRTIO_H
#define GAZDA_VM_VIRTIO_H

#include "base/err.h"

struct machine;

/* Builds and maps them: block devices first, so that the first disk is /dev/vda; then console and rng. 0 or -errno. */
int vm_build_virtio(struct machine *m, struct err *e);
/* Closes the back ends, after the devices were freed. */
void vm_free_virtio(struct machine *m);

#endif
