/* SPDX-License-Identifier: MIT */
#include "host/vsock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "host/unix.h"

enum { BACKLOG = 128 };

struct vsock_host {
    struct unix_listener u;
};

struct vsock_host *vsock_host_open(const char *path, struct err *e)
{
    struct vsock_host *h = calloc(1, sizeof(*h));
    if (!h) {
        err_set(e, ENOMEM, "out of memory");
        return NULL;
    }
    if (unix_listen(&h->u, path, BACKLOG, e) < 0) {
        free(h);
        return NULL;
    }
    return h;
}

void vsock_host_close(struct vsock_host *h)
{
    if (!h)
        return;
    unix_unlisten(&h->u);
    free(h);
}

int vsock_host_fd(const struct vsock_host *h)
{
    return h->u.fd;
}

int vsock_host_accept(struct vsock_host *h)
{
    int fd = accept4(h->u.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

int vsock_host_connect(const struct vsock_host *h, uint32_t port)
{
    struct sockaddr_un a;
    char path[sizeof(a.sun_path) + 16];
    snprintf(path, sizeof(path), "%s_%u", h->u.addr.sun_path, port);
    int r = unix_address(path, &a, NULL);
    if (r < 0)
        return r;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    if (connect(fd, (const struct sockaddr *)&a, sizeof(a)) == 0)
        return fd;
    r = -errno;
    close(fd);
    return r;
}

/* "CONNECT", in any case, and a port; blanks between and behind them do not matter. */
static int parse(const char *line, uint32_t *port)
{
    char *end;
    if (strncasecmp(line, "CONNECT", 7) != 0 || line[7] != ' ')
        return -EPROTO;
    line += strspn(line + 7, " ") + 7;
    if (*line < '0' || *line > '9')
        return -EPROTO;
    unsigned long n = strtoul(line, &end, 10);
    if (n > UINT32_MAX || end[strspn(end, " \r")] != '\n')
        return -EPROTO;
    *port = (uint32_t)n;
    return 1;
}

int vsock_host_greeting(int fd, struct vsock_greeting *g)
{
    char *at = g->text + g->n;
    ssize_t n = recv(fd, at, VSOCK_GREETING_MAX - g->n, MSG_PEEK | MSG_DONTWAIT);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -EPROTO;
    const char *nl = memchr(at, '\n', (size_t)n);
    if (nl)
        n = nl + 1 - at;
    if (n == 0 || recv(fd, at, (size_t)n, MSG_DONTWAIT) != n)
        return -EPROTO;
    g->n += (unsigned)n;
    g->text[g->n] = '\0';
    if (!nl)
        return g->n == VSOCK_GREETING_MAX ? -EPROTO : 0;
    return parse(g->text, &g->port);
}
