/* SPDX-License-Identifier: MIT */
/* Parsing and messages that the subcommands share. */
#include <errno.h>
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
