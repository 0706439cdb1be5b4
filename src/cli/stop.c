/* SPDX-License-Identifier: MIT */
/* gazda stop and gazda kill. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>

#include "cli/cli.h"
#include "cli/client.h"

enum { STOP_S = 60, STOP_S_MAX = 86400, GONE_MS = 10000 };

static int stop(const char *name, unsigned seconds, bool force)
{
    struct err e = { 0 };
    struct client c;
    json_t *ret = NULL;
    if (client_open(&c, name, &e) < 0)
        return cli_fail(&e);
    int r = client_runs(&c, &e);
    if (r == -EAGAIN && force)
        r = 0; /* it is ended without being asked */
    else if (r == 0)
        r = client_call(&c, "powerbutton", NULL, &ret, &e);
    bool listens = json_is_true(json_object_get(ret, "guest_listens"));
    json_decref(ret);
    if (r == 0 && !listens && !force)
        r = err_set(&e, ENOTSUP,
                    "the guest of machine %s does not listen to its power button (no driver, or not yet); "
                    "\"gazda kill\" ends it without asking, as does --force",
                    name);
    else if (r == 0 && listens && client_wait_end(&c, (int)seconds * 1000) < 0)
        r = err_set(&e, ETIMEDOUT,
                    "machine %s still runs %u s after its power button was pressed; wait on with a longer "
                    "--timeout, or end it with --force or \"gazda kill\"",
                    name, seconds);
    else if (r == 0 && listens)
        force = false; /* it has ended */
    client_close(&c);
    if (force)
        r = client_kill(name, &e);
    else if (r == 0 && client_wait_gone(name, GONE_MS) < 0)
        r = err_set(&e, ETIMEDOUT, "machine %s has ended but its process has not", name);
    return r < 0 ? cli_fail(&e) : STATUS_OK;
}

int cli_stop(int argc, char **argv)
{
    static const struct option options[] = { { "timeout", required_argument, NULL, 't' },
                                             { "force", no_argument, NULL, 'f' },
                                             { "help", no_argument, NULL, 'h' },
                                             { 0 } };
    unsigned seconds = STOP_S;
    bool force = false;
    int opt;
    opterr = 0;
    while ((opt = getopt_long(argc, argv, ":t:fh", options, NULL)) != -1) {
        if (opt == 'h')
            return cli_help_on("stop");
        if (opt == 'f')
            force = true;
        else if (opt != 't')
            return cli_bad_option(argv, opt, "stop");
        else if (cli_parse_number(optarg, 0, STOP_S_MAX, &seconds) < 0)
            return cli_usage_error("--timeout: \"%s\" is not a number of seconds up to %d", optarg, STOP_S_MAX);
    }
    if (optind + 1 != argc)
        return cli_usage_error("usage: gazda stop [--timeout S] [--force] NAME");
    return stop(argv[optind], seconds, force);
}

int cli_kill(int argc, char **argv)
{
    struct err e = { 0 };
    if (argc == 2 && argv[1][0] == '-')
        return argv[1][1] == 'h' || argv[1][2] == 'h' ? cli_help_on("kill") : cli_usage_error("usage: gazda kill NAME");
    if (argc != 2)
        return cli_usage_error("usage: gazda kill NAME");
    return client_kill(argv[1], &e) < 0 ? cli_fail(&e) : STATUS_OK;
}
