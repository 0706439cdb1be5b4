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
    if (strcmp(word, "overlay") == 0 || strncmp(word, "overlay=", 8) == 0) {
        d->overlay = true;
        d->overlay_path = word[7] ? word + 8 : NULL;
        return word[7] && !word[8] ? err_set(e, EINVAL, "--disk: overlay= needs the name of a file") : 0;
    }
    if (strncmp(word, "format=", 7) == 0) {
        d->format = word + 7;
        if (strcmp(d->format, "raw") != 0 && strcmp(d->format, "qcow2") != 0)
            return err_set(e, EINVAL, "--disk: unknown format \"%s\"; it must be raw or qcow2", d->format);
        return 0;
    }
    if (strncmp(word, "bps=", 4) == 0)
        return opt_limit("--disk: bps", true, word + 4, &d->limit.bandwidth, e);
    if (strncmp(word, "iops=", 5) == 0)
        return opt_limit("--disk: iops", false, word + 5, &d->limit.ops, e);
    if (strncmp(word, "io=", 3) == 0) {
        static const char *const way[] = {
            [DISKIO_AUTO] = "auto", [DISKIO_THREADS] = "threads", [DISKIO_URING] = "uring"
        };
        for (unsigned i = 0; i < ARRAY_LEN(way); i++)
            if (strcmp(word + 3, way[i]) == 0) {
                d->io = (enum diskio_way)i;
                return 0;
            }
        return err_set(e, EINVAL, "--disk: io=%s is unknown; it must be auto, uring or threads", word + 3);
    }
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
    if (d->overlay && d->read_only)
        return err_set(e, EINVAL, "--disk: overlay and ro exclude each other");
    d->path = arg;
    o->mc.n_disks++;
    return 0;
}
