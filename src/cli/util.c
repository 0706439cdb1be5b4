/* SPDX-License-Identifier: MIT */
/* Parsing and messages that the subcommands share. */
#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

int cli_fail(const struct err *e)
{
    fprintf(stderr, "gazda: %s\n", e->text);
    return STATUS_ERROR;
}

int cli_usage_error(const char *fmt, ...)
{
    struct err e;
    char text[sizeof(e.text)];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    err_set(&e, EINVAL, "%s", text);
    return cli_fail(&e);
}

bool cli_size_suffix(const char *end, unsigned *shift)
{
    static const char units[] = "KMGT";
    const char *u = *end ? strchr(units, *end & ~0x20) : NULL;
    *shift = u ? 10 * (unsigned)(u - units + 1) : 0;
    return !*end || (u && (!end[1] || strcmp(end + 1, "iB") == 0 || strcmp(end + 1, "B") == 0));
}

int cli_parse_size(const char *text, uint64_t *out, struct err *e)
{
    char *end;
    errno = 0;
    unsigned long long n = strtoull(text, &end, 10);
    unsigned shift;
    bool ok = cli_size_suffix(end, &shift);
    if (errno || end == text || !ok || text[0] < '0' || text[0] > '9' || n > (UINT64_MAX >> shift))
        return err_set(e, EINVAL, "\"%s\" is not a size: it must be a number with an optional K, M, G or T", text);
    if (!n)
        return err_set(e, EINVAL, "the size \"%s\" is nothing; it must be a multiple of 4096 bytes", text);
    if ((n << shift) % PAGE_SIZE)
        return err_set(e, EINVAL, "size \"%s\" is not a multiple of 4096 bytes", text);
    *out = n << shift;
    return 0;
}

int cli_parse_number(const char *text, unsigned min, unsigned max, unsigned *out)
{
    char *end;
    errno = 0;
    unsigned long n = strtoul(text, &end, 10);
    if (errno || end == text || *end || text[0] < '0' || text[0] > '9' || n < min || n > max)
        return -EINVAL;
    *out = (unsigned)n;
    return 0;
}

const char *cli_option_complaint(char **argv, int opt, const char *command)
{
    static char text[256];
    const char *last = argv[optind - 1], *now = argv[optind], *equals = strchr(last, '=');
    /* getopt_long is still inside of an argument of several letters, or has gone on behind what it refuses. */
    bool inside = optopt && now && now[0] == '-' && now[1] != '-' && strchr(now + 1, optopt);
    bool is_long = !inside && strncmp(last, "--", 2) == 0;
    char letter[] = { '-', (char)optopt, '\0' };
    const char *name = is_long || !optopt ? last : letter;
    if (opt == ':')
        snprintf(text, sizeof(text), "%.100s needs a value; see \"gazda help %s\"", name, command);
    else if (is_long && optopt && equals)
        snprintf(text, sizeof(text), "%.*s takes no value; see \"gazda help %s\"", (int)(equals - last), last, command);
    else
        snprintf(text, sizeof(text), "unknown option %.100s; see \"gazda help %s\"", name, command);
    return text;
}

int cli_bad_option(char **argv, int opt, const char *command)
{
    return cli_usage_error("%s", cli_option_complaint(argv, opt, command));
}
