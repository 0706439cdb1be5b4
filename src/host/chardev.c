/* SPDX-License-Identifier: MIT */
/* Character back ends by name, and the one that has nothing behind it. */
#include "host/chardev.h"

#include <errno.h>
#include <string.h>

#include "host/stream.h"

static size_t null_write(struct chardev *ch, const void *buf, size_t len)
{
    (void)ch, (void)buf;
    return len;
}
static void null_attach(struct chardev *ch, const struct chardev_user *user)
{
    (void)ch, (void)user;
}
static void null_rx_ready(struct chardev *ch)
{
    (void)ch;
}

static const struct chardev_ops null_ops = {
    .write = null_write,
    .attach = null_attach,
    .rx_ready = null_rx_ready,
    .free = null_rx_ready,
};

/* It has no state, so everybody gets the same one. */
struct chardev *chardev_null_open(void)
{
    static const struct chardev null_dev = { .ops = &null_ops };
    return (struct chardev *)&null_dev;
}

struct chardev *chardev_open(const char *spec, const struct chardev_env *env, struct err *e)
{
    if (strcmp(spec, "null") == 0)
        return chardev_null_open();
    if (strcmp(spec, "stdio") == 0)
        return chardev_stdio_open(env, e);
    if (strcmp(spec, "pty") == 0)
        return chardev_pty_open(env, e);
    if (strncmp(spec, "file:", 5) == 0 && spec[5])
        return chardev_file_open(spec + 5, env, e);
    if (strncmp(spec, "unix:", 5) == 0 && spec[5])
        return chardev_unix_open(spec + 5, env, e);
    if (strncmp(spec, "socket:", 7) == 0 && spec[7])
        return chardev_socket_open(spec + 7, env, e);
    err_set(e, EINVAL,
            "'%.200s' is not a serial device: it must be stdio, pty, file:PATH, unix:PATH, socket:PATH or null", spec);
    return NULL;
}
