/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>

#include "cli/options.h"

/* FILE[,ro]; the argument is cut in place. */
int opt_disk(struct run_options *o, char *arg, struct err *e)
{
    struct machine_disk *d = &o->mc.disk[o->mc.n_disks];
    if (o->mc.n_disks == MACHINE_DISKS_MAX)
        return err_set(e, EINVAL, "--disk: more than %d", MACHINE_DISKS_MAX);
    char *comma = strrchr(arg, ',');
    if (comma && (strcmp(comma, ",ro") == 0 || strcmp(comma, ",rw") == 0)) {
        d->read_only = comma[2] == 'o';
        *comma = '\0';
    }
    if (!*arg)
        return err_set(e, EINVAL, "--disk: the file name is empty; it must be FILE or FILE,ro");
    d->path = arg;
    o->mc.n_disks++;
    return 0;
}
