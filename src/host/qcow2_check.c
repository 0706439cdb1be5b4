/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include "host/qcow2_image.h"
int q_repair_refcounts(struct disk *d, struct err *e)
{
    return err_set(e, ENOTSUP, "the qcow2 image '%.300s' was not closed: repair it with qemu-img check -r all",
                   d->path);
}
int q_resize(struct disk *d, uint64_t bytes, struct err *e)
{
    return err_set(e, ENOTSUP, "cannot resize '%.300s' to %lu", d->path, bytes);
}
