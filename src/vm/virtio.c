/* SPDX-License-Identifier: MIT */
/* The machine's virtio-mmio devices. None is here yet: src/virtio/ is being written. */
#include "vm/virtio.h"

#include <errno.h>

#include "vm/internal.h"

int vm_build_virtio(struct machine *m, struct err *e)
{
    if (m->cfg.n_disks || m->cfg.console)
        return err_set(e, ENOTSUP, "--disk and --console: this build has no virtio devices");
    return 0;
}

void vm_free_virtio(struct machine *m)
{
    (void)m;
}
