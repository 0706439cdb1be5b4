/* SPDX-License-Identifier: MIT */
/*
 * unix:PATH: a listening socket. One client at a time; the next one waits in the backlog until the first is gone.
 * A client that only shuts down its sending side still gets output; as epoll is silent about a full close then,
 * it is looked for a few times a second.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "host/stream.h"
#include "host/unix.h"

struct sock {
    struct stream s; /* first */
    struct unix_listener u;
    int client;
    struct loop_fd *watch;
};

static void on_connection(void *arg, unsigned events)
{
    struct sock *k = arg;
    (void)events;
    int fd = accept4(k->u.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0)
        return;
    loop_fd_update(k->watch, 0);
    k->client = fd;
    if (stream_connect(&k->s, fd, fd) < 0) {
        close(fd);
        loop_fd_update(k->watch, LOOP_IN);
    }
}

static void sock_hangup(struct stream *s)
{
    struct sock *k = (struct sock *)s;
    struct pollfd p = { .fd = k->client };
    lock_take(&s->lock);
    bool there = s->connected;
    lock_drop(&s->lock);
    if (there && poll(&p, 1, 0) >= 0 && !(p.revents & (POLLHUP | POLLERR))) {
        stream_poll_later(s);
        return;
    }
    stream_disconnect(s);
    k->client = -1;
    loop_fd_update(k->watch, LOOP_IN);
}

static void sock_tick(struct stream *s)
{
    if (((struct sock *)s)->client >= 0)
        sock_hangup(s);
}

static void sock_closing(struct stream *s)
{
    struct sock *k = (struct sock *)s;
    loop_fd_del(k->watch);
    unix_unlisten(&k->u);
}

static void sock_fini(struct stream *s)
{
    free(s);
}

static const struct stream_kind sock_kind = { .hangup = sock_hangup,
                                              .tick = sock_tick,
                                              .closing = sock_closing,
                                              .fini = sock_fini,
                                              .socket = true,
                                              .history = true };

struct chardev *chardev_unix_open(const char *path, const struct chardev_env *env, struct err *e)
{
    struct sock *k = calloc(1, sizeof(*k));
    if (!k) {
        err_set(e, ENOMEM, "out of memory");
        return NULL;
    }
    k->client = -1;
    if (unix_listen(&k->u, path, 8, e) < 0) {
        free(k);
        return NULL;
    }
    stream_init(&k->s, &sock_kind, env);
    k->watch = loop_fd_add(env->loop, k->u.fd, LOOP_IN, on_connection, k);
    if (!k->watch) {
        err_set(e, EIO, "cannot watch the socket '%s'", path);
        chardev_free(&k->s.ch);
        return NULL;
    }
    return &k->s.ch;
}
