/* SPDX-License-Identifier: MIT */
/* file:PATH: output only, the file is truncated. A FIFO or a device works too; one that stalls loses output. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "host/stream.h"

static void file_hangup(struct stream *s)
{
    lock_take(&s->lock);
    bool lost = !s->connected;
    lock_drop(&s->lock);
    if (lost)
        log_warn("the serial output file cannot be written any more; output is dropped");
}

static void file_fini(struct stream *s)
{
    free(s);
}

static const struct stream_kind file_kind = { .hangup = file_hangup, .fini = file_fini };

struct chardev *chardev_file_open(const char *path, const struct chardev_env *env, struct err *e)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0666);
    if (fd < 0) {
        const char *why = errno == ENXIO ? "a FIFO that nobody reads, or a socket" : strerror(errno);
        err_set(e, errno, "cannot write serial output to '%.300s': %s", path, why);
        return NULL;
    }
    struct stream *s = calloc(1, sizeof(*s));
    if (!s) {
        err_set(e, ENOMEM, "out of memory");
        close(fd);
        return NULL;
    }
    stream_init(s, &file_kind, env);
    stream_connect(s, -1, fd);
    return &s->ch;
}
