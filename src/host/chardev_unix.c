/* SPDX-License-Identifier: MIT */
/*
 * unix:PATH: a listening socket. One client at a time; the next one waits in the backlog until the first is gone.
 * A client that only shuts down its sending side still gets output; as epoll is silent about a full close then,
 * it is looked for a few times a second.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "host/stream.h"

struct sock {
    struct stream s; /* first */
    int listener, client;
    struct loop_fd *watch;
    struct sockaddr_un addr;
    dev_t dev;
    ino_t ino; /* of the socket file, so that nobody else's is removed */
};

static void on_connection(void *arg, unsigned events)
{
    struct sock *k = arg;
    (void)events;
    int fd = accept4(k->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
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
    struct stat st;
    loop_fd_del(k->watch);
    close(k->listener);
    if (stat(k->addr.sun_path, &st) == 0 && st.st_dev == k->dev && st.st_ino == k->ino)
        unlink(k->addr.sun_path);
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

/* Whether path is a socket that nobody listens on. */
static bool is_stale(const struct sockaddr_un *a)
{
    struct stat st;
    if (lstat(a->sun_path, &st) < 0 || !S_ISSOCK(st.st_mode))
        return false;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return false;
    bool stale = connect(fd, (const struct sockaddr *)a, sizeof(*a)) < 0 && errno == ECONNREFUSED;
    close(fd);
    return stale;
}

static int bind_path(int fd, const struct sockaddr_un *a, struct err *e)
{
    struct stat st;
    const struct sockaddr *sa = (const struct sockaddr *)a;
    if (bind(fd, sa, sizeof(*a)) == 0)
        return 0;
    if (errno == EADDRINUSE && is_stale(a) && unlink(a->sun_path) == 0 && bind(fd, sa, sizeof(*a)) == 0)
        return 0;
    if (errno != EADDRINUSE)
        return err_set(e, errno, "cannot make the socket '%s': %s", a->sun_path, strerror(errno));
    if (lstat(a->sun_path, &st) == 0 && !S_ISSOCK(st.st_mode))
        return err_set(e, EEXIST, "cannot make the socket '%s': a file of that name exists", a->sun_path);
    return err_set(e, EADDRINUSE, "cannot make the socket '%s': another process listens on it", a->sun_path);
}

struct chardev *chardev_unix_open(const char *path, const struct chardev_env *env, struct err *e)
{
    struct stat st;
    if (strlen(path) >= sizeof(((struct sockaddr_un *)0)->sun_path)) {
        err_set(e, ENAMETOOLONG, "the socket path '%.200s' is longer than %zu bytes", path,
                sizeof(((struct sockaddr_un *)0)->sun_path) - 1);
        return NULL;
    }
    struct sock *k = calloc(1, sizeof(*k));
    if (!k) {
        err_set(e, ENOMEM, "out of memory");
        return NULL;
    }
    k->client = -1;
    k->addr.sun_family = AF_UNIX;
    strcpy(k->addr.sun_path, path);
    k->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (k->listener < 0) {
        err_set(e, errno, "cannot make a socket: %s", strerror(errno));
        goto undo_alloc;
    }
    if (bind_path(k->listener, &k->addr, e) < 0)
        goto undo_socket;
    if (listen(k->listener, 8) < 0 || stat(path, &st) < 0) {
        err_set(e, errno, "cannot listen on the socket '%s': %s", path, strerror(errno));
        unlink(path);
        goto undo_socket;
    }
    k->dev = st.st_dev;
    k->ino = st.st_ino;
    stream_init(&k->s, &sock_kind, env);
    k->watch = loop_fd_add(env->loop, k->listener, LOOP_IN, on_connection, k);
    if (!k->watch) {
        err_set(e, EIO, "cannot watch the socket '%s'", path);
        chardev_free(&k->s.ch);
        return NULL;
    }
    return &k->s.ch;

undo_socket:
    close(k->listener);
undo_alloc:
    free(k);
    return NULL;
}
