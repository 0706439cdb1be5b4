/* SPDX-License-Identifier: MIT */
/* Frames into a pcap file (the classic format, with nanoseconds), one writev each. */
#include "host/net_dump.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"

enum { SNAPLEN = 262144, LINKTYPE_ETHERNET = 1 };

struct net_dump {
    int fd; /* -1: given up */
};

struct net_dump *net_dump_open(const char *path, struct err *e)
{
    const struct {
        uint32_t magic;
        uint16_t major, minor;
        uint32_t zone, accuracy, snaplen, linktype;
    } head = { 0xa1b23c4d, 2, 4, 0, 0, SNAPLEN, LINKTYPE_ETHERNET };
    struct net_dump *d = calloc(1, sizeof(*d));
    if (!d) {
        err_set(e, ENOMEM, "out of memory");
        return NULL;
    }
    d->fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (d->fd >= 0 && write(d->fd, &head, sizeof(head)) == sizeof(head))
        return d;
    err_set(e, errno ? errno : EIO, "--net dump: cannot write '%s': %s", path, strerror(errno));
    net_dump_close(d);
    return NULL;
}

void net_dump_frame(struct net_dump *d, const void *frame, size_t len)
{
    struct timespec ts;
    if (d->fd < 0)
        return;
    clock_gettime(CLOCK_REALTIME, &ts);
    uint32_t head[4] = { (uint32_t)ts.tv_sec, (uint32_t)ts.tv_nsec, (uint32_t)len, (uint32_t)len };
    const struct iovec v[2] = { { head, sizeof(head) }, { (void *)(uintptr_t)frame, len } };
    ssize_t r = writev(d->fd, v, 2);
    if (r == (ssize_t)(sizeof(head) + len))
        return;
    log_warn("network: the capture ends here: %s", r < 0 ? strerror(errno) : "the disk is full");
    if (r > 0) { /* half a frame would make the file unreadable */
        off_t end = lseek(d->fd, 0, SEEK_CUR);
        if (end < 0 || ftruncate(d->fd, end - r) < 0)
            log_warn("network: its last frame is incomplete");
    }
    close(d->fd);
    d->fd = -1;
}

void net_dump_close(struct net_dump *d)
{
    if (d && d->fd >= 0)
        close(d->fd);
    free(d);
}
