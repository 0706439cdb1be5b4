/* SPDX-License-Identifier: MIT */
/* gazda exec: a command in a running guest, through its agent. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/agent.h"
#include "cli/cli.h"

enum { INPUT_MAX = 4 << 20, WAIT_S_MAX = 86400, CHUNK = 65536 };

/* All of standard input; it goes to the guest at once. 0 or -errno. */
static int read_input(struct exec_input *in, struct err *e)
{
    uint8_t *buf = malloc(INPUT_MAX + 1);
    size_t have = 0;
    if (!buf)
        return err_set(e, ENOMEM, "out of memory");
    for (;;) {
        ssize_t r = read(STDIN_FILENO, buf + have, INPUT_MAX + 1 - have);
        if (r < 0 && errno == EINTR)
            continue;
        if (r <= 0)
            break;
        have += (size_t)r;
        if (have > INPUT_MAX) {
            free(buf);
            return err_set(e, EFBIG,
                           "standard input is longer than %d MiB, which is all that exec passes on; use "
                           "\"gazda cp\", or -n to pass on none",
                           INPUT_MAX >> 20);
        }
    }
    *in = (struct exec_input){ .data = buf, .n = have };
    return 0;
}

static bool put(FILE *f, const struct exec_stream *s)
{
    return (!s->n || fwrite(s->data, 1, s->n, f) == s->n) && fflush(f) == 0;
}

static int run(const char *name, char *const argv[], bool input, unsigned wait_s)
{
    struct err e = { 0 };
    struct client c;
    struct exec_result x = { 0 };
    struct exec_input in = { 0 };
    if (client_open(&c, name, &e) < 0) {
        cli_fail(&e);
        return STATUS_EXEC;
    }
    int r = client_runs(&c, &e);
    r = r == 0 && input ? read_input(&in, &e) : r;
    if (r == 0 && wait_s)
        r = agent_wait(&c, wait_s, &e);
    if (r == 0)
        r = agent_exec(&c, argv, in.data ? &in : NULL, &x, &e);
    free((void *)in.data);
    client_close(&c);
    if (r < 0) {
        cli_fail(&e);
        return STATUS_EXEC;
    }
    bool ok = put(stdout, &x.out) & put(stderr, &x.err);
    if (x.out.cut || x.err.cut)
        fprintf(stderr, "gazda: the guest agent kept the beginning of standard %s only; the rest is lost\n",
                x.out.cut ? "output" : "error");
    int status = ok && !x.out.cut && !x.err.cut ? x.status : x.status ? x.status : STATUS_EXEC;
    exec_result_free(&x);
    return status;
}

int cli_exec(int argc, char **argv)
{
    static const struct option options[] = { { "no-stdin", no_argument, NULL, 'n' },
                                             { "wait", required_argument, NULL, 'w' },
                                             { "help", no_argument, NULL, 'h' },
                                             { 0 } };
    bool input = !isatty(STDIN_FILENO);
    unsigned wait_s = 0;
    int opt;
    opterr = 0;
    while ((opt = getopt_long(argc, argv, "+:nw:h", options, NULL)) != -1) {
        if (opt == 'h')
            return cli_help_on("exec");
        if (opt == 'n')
            input = false;
        else if (opt != 'w')
            return cli_bad_option(argv, opt, "exec");
        else if (cli_parse_number(optarg, 0, WAIT_S_MAX, &wait_s) < 0)
            return cli_usage_error("--wait: \"%s\" is not a number of seconds up to %d", optarg, WAIT_S_MAX);
    }
    const char *name = optind < argc ? argv[optind++] : NULL;
    if (optind < argc && strcmp(argv[optind], "--") == 0)
        optind++;
    if (!name || optind >= argc)
        return cli_usage_error("usage: gazda exec [-n] [--wait S] NAME [--] COMMAND [ARGUMENT]...");
    return run(name, argv + optind, input, wait_s);
}
