/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/options.h"

enum { MTU_MIN = 68, MTU_MAX = 65520 };

static int set_mac(struct machine_net *n, const char *value, struct err *e)
{
    unsigned b[6];
    int end = 0;
    if (sscanf(value, "%2x:%2x:%2x:%2x:%2x:%2x%n", b, b + 1, b + 2, b + 3, b + 4, b + 5, &end) != 6 || value[end])
        return err_set(e, EINVAL, "--net: mac: \"%s\" is not an address such as 02:00:00:00:00:01", value);
    for (unsigned i = 0; i < 6; i++)
        n->mac[i] = (uint8_t)b[i];
    if (b[0] & 1 || !(b[0] | b[1] | b[2] | b[3] | b[4] | b[5]))
        return err_set(e, EINVAL,
                       "--net: mac: %s is not the address of one machine; its first byte must be even, and "
                       "some byte not 0",
                       value);
    return 0;
}

/* What no back end is asked about: 0, -errno, or 1 = it is the back end's. */
static int set_common(struct machine_net *n, const char *key, char *value, struct err *e)
{
    static const struct {
        const char *key, *what;
        bool rx, bytes;
    } limit[] = {
        { "rx-bps", "--net: rx-bps", true, true },
        { "rx-ops", "--net: rx-ops", true, false },
        { "tx-bps", "--net: tx-bps", false, true },
        { "tx-ops", "--net: tx-ops", false, false },
    };
    unsigned mtu;
    if (!value)
        return 1;
    if (strcmp(key, "mac") == 0)
        return set_mac(n, value, e);
    if (strcmp(key, "dump") == 0) {
        n->dump = value;
        return *value ? 0 : err_set(e, EINVAL, "--net: dump: the file name is empty");
    }
    if (strcmp(key, "mtu") == 0) {
        if (cli_parse_number(value, MTU_MIN, MTU_MAX, &mtu) < 0)
            return err_set(e, EINVAL, "--net: mtu: \"%s\" is not a number from %d to %d", value, MTU_MIN, MTU_MAX);
        n->mtu = (uint16_t)mtu;
        return 0;
    }
    for (unsigned i = 0; i < ARRAY_LEN(limit); i++) {
        struct limiter_cfg *c = limit[i].rx ? &n->rx : &n->tx;
        if (strcmp(key, limit[i].key) == 0)
            return opt_limit(limit[i].what, limit[i].bytes, value, limit[i].bytes ? &c->bandwidth : &c->ops, e);
    }
    return 1;
}

/* The rest of the list: what is the back end's is joined again at out, in place. end: of the list's memory. */
static int take_words(struct machine_net *n, char *list, char *out, char *end, struct err *e)
{
    const char *begin = n->options;
    char *key, *value;
    while (opt_next(&list, &key, &value)) {
        int r = set_common(n, key, value, e);
        if (r < 0)
            return r;
        if (n->dump == value && value) { /* it stays, at the end of what the list took up */
            end -= strlen(value) + 1;
            n->dump = strcpy(end, value);
        } else if (r > 0) {
            out += sprintf(out, "%s%s%s%s", out == begin ? "" : ",", key, value ? "=" : "", value ? value : "");
        }
    }
    return 0;
}

/* KIND[=VALUE][,KEY[=VALUE]]... */
int opt_net(struct run_options *o, char *arg, struct err *e)
{
    struct machine_net *n = &o->mc.net[o->mc.n_nets];
    char *rest = arg, *key, *value, *end = arg + strlen(arg) + 1;
    if (o->mc.n_nets == MACHINE_NETS_MAX)
        return err_set(e, EINVAL, "--net: more than %d", MACHINE_NETS_MAX);
    opt_next(&rest, &key, &value);
    n->backend = key;
    if (!*key)
        return err_set(e, EINVAL, "--net: it must be user, tap=NAME, link=PATH or none, and options behind commas");
    /* tap=NAME and link=PATH: the value is the back end's first option. */
    n->options = value ? value : rest;
    if (rest) {
        char *list = strdup(rest);
        if (!list)
            return err_set(e, ENOMEM, "out of memory");
        *rest = '\0';
        int r = take_words(n, list, value ? value + strlen(value) : rest, end, e);
        free(list);
        if (r < 0)
            return r;
    }
    o->mc.n_nets++;
    return 0;
}
