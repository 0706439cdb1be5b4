/* SPDX-License-Identifier: MIT */
/* The memory balloon of a running machine. Any thread, no lock held, from machine_new to machine_free. */
#ifndef GAZDA_VM_BALLOON_H
#define GAZDA_VM_BALLOON_H

#include <jansson.h>

#include "virtio/devices.h"
#include "vm/machine.h"

/* All: -ENODEV with e set, or NULL, if the machine has no balloon. */

/* The guest shall give so many bytes, whole pages; it takes its time. -EINVAL: more than it has. */
int machine_balloon_set(struct machine *m, uint64_t bytes, struct err *e);
/* Asks the guest for statistics every so many seconds. -EINVAL: not configured, or 0. */
int machine_balloon_poll(struct machine *m, unsigned seconds, struct err *e);
int machine_balloon_get(struct machine *m, struct virtio_balloon_info *out, struct err *e);
/* The same as one object; the caller's. */
json_t *machine_balloon_json(struct machine *m);

#endif
