/* SPDX-License-Identifier: MIT */
/* gazda pause and gazda resume. */
#include <errno.h>
#include <getopt.h>
#include <string.h>

#include "cli/agent.h"
#include "cli/cli.h"
#include "cli/client.h"

static int pause_machine(const char *name, bool freeze)
{
    struct err e = { 0 };
    struct client c;
    if (client_open(&c, name, &e) < 0)
        return cli_fail(&e);
    int r = freeze ? client_runs(&c, &e) : 0;
    if (r == 0 && freeze)
        r = agent_do(&c, "guest-fsfreeze-freeze", NULL, NULL, &e);
    c.timeout_ms = CLIENT_MS;
    if (r == 0) {
        json_t *args = json_object(), *ret = NULL;
        json_object_set_new(args, "frozen", json_boolean(freeze));
        r = client_call(&c, "pause", args, &ret, &e);
        json_decref(ret);
        if (r < 0 && freeze)
            agent_do(&c, "guest-fsfreeze-thaw", NULL, NULL, NULL);
    }
    client_close(&c);
    return r < 0 ? cli_fail(&e) : STATUS_OK;
}

/* The machine has asked the agent to thaw: what it says now comes after that. */
static int check_thawed(struct client *c, struct err *e)
{
    json_t *ret = NULL;
    int r = agent_do(c, "guest-fsfreeze-status", NULL, &ret, e);
    if (r < 0)
        return r;
    const char *status = json_string_value(ret);
    if (status && strcmp(status, "thawed") != 0)
        r = err_set(e, EIO, "the machine runs, but its guest's file systems are still frozen (%.32s)", status);
    json_decref(ret);
    return r;
}

static int resume_machine(const char *name)
{
    struct err e = { 0 };
    struct client c;
    json_t *ret = NULL;
    if (client_open(&c, name, &e) < 0)
        return cli_fail(&e);
    int r = client_call(&c, "resume", NULL, &ret, &e);
    if (r == 0 && json_is_true(json_object_get(ret, "thaws")))
        r = check_thawed(&c, &e);
    json_decref(ret);
    client_close(&c);
    return r < 0 ? cli_fail(&e) : STATUS_OK;
}

int cli_pause(int argc, char **argv)
{
    static const struct option options[] = { { "freeze", no_argument, NULL, 'f' },
                                             { "help", no_argument, NULL, 'h' },
                                             { 0 } };
    bool freeze = false;
    int opt;
    opterr = 0;
    while ((opt = getopt_long(argc, argv, ":fh", options, NULL)) != -1) {
        if (opt == 'h')
            return cli_help_on("pause");
        if (opt != 'f')
            return cli_bad_option(argv, opt, "pause");
        freeze = true;
    }
    if (optind + 1 != argc)
        return cli_usage_error("usage: gazda pause [--freeze] NAME");
    return pause_machine(argv[optind], freeze);
}

int cli_resume(int argc, char **argv)
{
    if (argc == 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0))
        return cli_help_on("resume");
    if (argc != 2 || argv[1][0] == '-')
        return cli_usage_error("usage: gazda resume NAME");
    return resume_machine(argv[1]);
}
