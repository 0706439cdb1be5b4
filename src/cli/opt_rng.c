/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>

#include "cli/options.h"

/* off, or limits. */
int opt_rng(struct run_options *o, char *arg, struct err *e)
{
    char *key, *value;
    if (strcmp(arg, "off") == 0) {
        o->mc.no_rng = true;
        return 0;
    }
    while (opt_next(&arg, &key, &value)) {
        int r = 0;
        if (strcmp(key, "bps") == 0)
            r = opt_limit("--rng: bps", true, value, &o->mc.rng_limit.bandwidth, e);
        else if (strcmp(key, "iops") == 0)
            r = opt_limit("--rng: iops", false, value, &o->mc.rng_limit.ops, e);
        else
            r = err_set(e, EINVAL, "--rng: unknown word \"%s\"; it must be off, or bps=... and iops=...", key);
        if (r < 0)
            return r;
    }
    return 0;
}
