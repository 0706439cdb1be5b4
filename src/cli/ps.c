/* SPDX-License-Identifier: MIT */
/* gazda ps: the running machines of this user. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/client.h"
#include "host/rundir.h"

enum { PS_MS = 3000 };
enum how { HOW_TABLE, HOW_JSON, HOW_NAMES };

/* What the machine says of itself, or what is known of one that says nothing. */
static json_t *ask(const struct rundir_entry *x)
{
    struct client c;
    json_t *info = NULL;
    if (client_open(&c, x->name, NULL) == 0) {
        c.timeout_ms = PS_MS;
        client_call(&c, "info", NULL, &info, NULL);
        client_close(&c);
    } else if (!rundir_alive(x->name, NULL)) {
        return NULL; /* it has ended meanwhile */
    }
    if (!info) {
        info = json_object();
        json_object_set_new(info, "name", json_string(x->name));
        json_object_set_new(info, "pid", json_integer(x->pid));
        json_object_set_new(info, "state", json_string("silent"));
    }
    return info;
}

static const char *text_of(const json_t *info, const char *key)
{
    const char *s = json_string_value(json_object_get(info, key));
    return s ? s : "-";
}

static void print_uptime(double s)
{
    unsigned long t = (unsigned long)s;
    if (t >= 86400)
        printf("%lud %luh\n", t / 86400, t / 3600 % 24);
    else if (t >= 3600)
        printf("%luh %lum\n", t / 3600, t / 60 % 60);
    else if (t >= 60)
        printf("%lum %lus\n", t / 60, t % 60);
    else
        printf("%lus\n", t);
}

static void print_row(const json_t *info)
{
    json_int_t mem = json_integer_value(json_object_get(info, "memory_bytes"));
    printf("%-16s %8lld %-8s %4lld %6lldM  ", text_of(info, "name"),
           (long long)json_integer_value(json_object_get(info, "pid")), text_of(info, "state"),
           (long long)json_integer_value(json_object_get(info, "cpus")), (long long)(mem >> 20));
    print_uptime(json_number_value(json_object_get(info, "uptime_s")));
}

static int list(enum how how)
{
    struct err e = { 0 };
    struct rundir_entry *x;
    size_t n;
    json_t *all = json_array();
    if (rundir_list(&x, &n, &e) < 0) {
        json_decref(all);
        return cli_fail(&e);
    }
    if (how == HOW_TABLE)
        printf("%-16s %8s %-8s %4s %7s  %s\n", "NAME", "PID", "STATE", "CPUS", "MEMORY", "UPTIME");
    for (size_t i = 0; i < n; i++) {
        if (how == HOW_NAMES) {
            puts(x[i].name);
            continue;
        }
        json_t *info = ask(&x[i]);
        if (info && how == HOW_TABLE)
            print_row(info);
        if (info)
            json_array_append_new(all, info);
    }
    if (how == HOW_JSON) {
        json_dumpf(all, stdout, JSON_INDENT(2));
        putchar('\n');
    }
    json_decref(all);
    free(x);
    return fflush(stdout) == 0 ? STATUS_OK : STATUS_ERROR;
}

int cli_ps(int argc, char **argv)
{
    static const struct option options[] = { { "json", no_argument, NULL, 'j' },
                                             { "quiet", no_argument, NULL, 'q' },
                                             { "help", no_argument, NULL, 'h' },
                                             { 0 } };
    enum how how = HOW_TABLE;
    int opt;
    opterr = 0;
    while ((opt = getopt_long(argc, argv, ":jqh", options, NULL)) != -1) {
        if (opt == 'h')
            return cli_help_on("ps");
        if (opt == '?')
            return cli_bad_option(argv, opt, "ps");
        how = opt == 'j' ? HOW_JSON : HOW_NAMES;
    }
    if (optind < argc)
        return cli_usage_error("unexpected argument \"%s\"; see \"gazda help ps\"", argv[optind]);
    return list(how);
}
