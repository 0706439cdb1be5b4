/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>

#include "cli/options.h"

/* One word behind the file name: 0, -errno, or 1 = it is none of ours, so it belongs to the name. */
static int set_word(struct machine_disk *d, char *word, struct err *e)
{
    if (strcmp(word, "ro") == 0 || strcmp(word, "rw") == 0) {
        d->read_only = word[1] == 'o';
        return 0;
    }
    if (strncmp(word, "bps=", 4) == 0)
        return opt_limit("--disk: bps", true, word + 4, &d->limit.bandwidth, e);
    if (strncmp(word, "iops=", 5) == 0)
        return opt_limit("--disk: iops", false, word + 5, &d->limit.ops, e);
    return 1;
}

/* FILE[,ro][,KEY=VALUE]...; the argument is cut in place, from its end, since names may have commas. */
int opt_disk(struct run_options *o, char *arg, struct err *e)
{
    struct machine_disk *d = &o->mc.disk[o->mc.n_disks];
    if (o->mc.n_disks == MACHINE_DISKS_MAX)
        return err_set(e, EINVAL, "--disk: more than %d", MACHINE_DISKS_MAX);
    for (char *comma; (comma = strrchr(arg, ',')) != NULL; *comma = '\0') {
        int r = set_word(d, comma + 1, e);
        if (r < 0)
            return r;
        if (r > 0)
            break;
    }
    if (!*arg)
        return err_set(e, EINVAL, "--disk: the file name is empty; it must be FILE or FILE,ro");
    d->path = arg;
    o->mc.n_disks++;
    return 0;
}
