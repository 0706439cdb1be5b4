/* SPDX-License-Identifier: MIT */
/* Rate limits, as the options of several devices have them. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/options.h"

/* A number of at most 63 bits with an optional K, M, G or T, which is 1024 or 1000 to the power of so many. */
static bool number(const char *text, unsigned kilo, uint64_t *out)
{
    static const char units[] = "KMGT";
    char *end;
    errno = 0;
    unsigned __int128 n = strtoull(text, &end, 10);
    const char *u = *end ? strchr(units, *end & ~0x20) : NULL;
    if (errno || text[0] < '0' || text[0] > '9' || (*end && (!u || end[1])))
        return false;
    for (long i = u ? u - units + 1 : 0; i > 0; i--)
        n *= kilo;
    *out = (uint64_t)n;
    return n <= INT64_MAX;
}

int opt_limit(const char *what, bool bytes, char *value, struct bucket_cfg *b, struct err *e)
{
    struct bucket_cfg c = { .refill_ms = 1000 };
    char *part[3] = { value, NULL, NULL };
    for (int i = 1; i < 3 && value; i++) {
        part[i] = strchr(part[i - 1], ':');
        if (!part[i])
            break;
        *part[i]++ = '\0';
    }
    unsigned kilo = bytes ? 1024 : 1000;
    bool ok = value && number(part[0], kilo, &c.size) && c.size && (!part[1] || number(part[1], kilo, &c.burst)) &&
              (!part[2] || (number(part[2], 1, &c.refill_ms) && c.refill_ms));
    if (!ok)
        return err_set(e, EINVAL, "%s is %s[:BURST[:MS]]: so many %s in MS milliseconds (1000), and BURST more once",
                       what, bytes ? "SIZE" : "N", bytes ? "bytes" : "operations");
    *b = c;
    return 0;
}
