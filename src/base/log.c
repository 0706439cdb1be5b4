/* SPDX-License-Identifier: MIT */
/* The process log. The level is the one global besides const tables (house rule 11). */
#include "base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

static _Atomic int log_level = LOG_WARN;

void log_set_level(enum log_level level)
{
    atomic_store(&log_level, (int)level);
}

void log_msg(enum log_level level, const char *fmt, ...)
{
    static const char *const name[] = { "error", "warning", "info", "debug" };
    char line[640];
    if ((int)level > atomic_load_explicit(&log_level, memory_order_relaxed))
        return;
    int n = snprintf(line, sizeof(line), "gazda: %s: ", name[level]);
    va_list ap;
    va_start(ap, fmt);
    int k = vsnprintf(line + n, sizeof(line) - (size_t)n - 1, fmt, ap);
    va_end(ap);
    if (k < 0)
        return;
    size_t len = (size_t)n + (size_t)k;
    if (len > sizeof(line) - 2)
        len = sizeof(line) - 2;
    line[len++] = '\n';
    /* One write a message keeps lines of several threads apart. */
    ssize_t r = write(STDERR_FILENO, line, len);
    (void)r;
}
