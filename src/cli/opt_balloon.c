/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/options.h"

enum { STATS_MAX = 65535 };

/* [SIZE][,deflate-on-oom][,stats=SECONDS][,reporting]; the argument is cut in place. */
int opt_balloon(struct run_options *o, char *arg, struct err *e)
{
    struct machine_balloon *b = &o->mc.balloon;
    char *key, *value, *rest = arg;
    if (b->on)
        return err_set(e, EINVAL, "--balloon: there is one already; a machine has one at most");
    b->on = true;
    for (bool first = true; opt_next(&rest, &key, &value); first = false) {
        if (first && !value && (*key == '\0' || strcmp(key, "0") == 0))
            continue;
        if (first && !value && *key >= '0' && *key <= '9') {
            int r = cli_parse_size(key, &b->target, e);
            if (r < 0)
                return r;
        } else if (!value && strcmp(key, "deflate-on-oom") == 0) {
            b->deflate_on_oom = true;
        } else if (!value && strcmp(key, "reporting") == 0) {
            b->free_page_reporting = true;
        } else if (value && strcmp(key, "stats") == 0) {
            if (cli_parse_number(value, 1, STATS_MAX, &b->stats_seconds) < 0)
                return err_set(e, EINVAL, "--balloon: stats: \"%s\" is not a number of seconds from 1 to %d", value,
                               STATS_MAX);
        } else {
            return err_set(e, EINVAL,
                           "--balloon: \"%s\" is not understood; it must be "
                           "[SIZE][,deflate-on-oom][,stats=SECONDS][,reporting]",
                           key);
        }
    }
    return 0;
}
