/* SPDX-License-Identifier: MIT */
/* gazda balloon. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/client.h"

static void print(const json_t *o)
{
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)o, key, v)
    {
        if (json_is_object(v))
            print(v); /* of the guest */
        else
            printf("%-22s %lld\n", key, (long long)json_integer_value(v));
    }
}

static int balloon(const char *name, const char *size)
{
    struct err e = { 0 };
    struct client c;
    json_t *ret = NULL, *args = NULL;
    uint64_t bytes = 0;
    if (size && strcmp(size, "0") != 0 && cli_parse_size(size, &bytes, &e) < 0)
        return cli_fail(&e);
    if (client_open(&c, name, &e) < 0)
        return cli_fail(&e);
    if (size)
        args = json_pack("{sI}", "target_bytes", (json_int_t)bytes);
    int r = client_call(&c, "balloon", args, &ret, &e);
    client_close(&c);
    if (r == 0 && !size)
        print(ret);
    json_decref(ret);
    return r < 0 ? cli_fail(&e) : STATUS_OK;
}

int cli_balloon(int argc, char **argv)
{
    if (argc == 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0))
        return cli_help_on("balloon");
    if (argc < 2 || argc > 3 || argv[1][0] == '-')
        return cli_usage_error("usage: gazda balloon NAME [SIZE]");
    return balloon(argv[1], argc == 3 ? argv[2] : NULL);
}
