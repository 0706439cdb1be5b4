/* SPDX-License-Identifier: MIT */
#include "host/unix.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int unix_address(const char *path, struct sockaddr_un *out, struct err *e)
{
    if (strlen(path) >= sizeof(out->sun_path))
        return err_set(e, ENAMETOOLONG, "the socket path '%.200s' is longer than %zu bytes", path,
                       sizeof(out->sun_path) - 1);
    *out = (struct sockaddr_un){ .sun_family = AF_UNIX };
    strcpy(out->sun_path, path);
    return 0;
}

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

int unix_listen(struct unix_listener *u, const char *path, int backlog, struct err *e)
{
    struct stat st;
    int r = unix_address(path, &u->addr, e);
    if (r < 0)
        return r;
    u->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (u->fd < 0)
        return err_set(e, errno, "cannot make a socket: %s", strerror(errno));
    r = bind_path(u->fd, &u->addr, e);
    if (r < 0)
        goto undo_socket;
    if (listen(u->fd, backlog) < 0 || stat(path, &st) < 0) {
        r = err_set(e, errno, "cannot listen on the socket '%s': %s", path, strerror(errno));
        unlink(path);
        goto undo_socket;
    }
    u->dev = st.st_dev;
    u->ino = st.st_ino;
    return 0;

undo_socket:
    close(u->fd);
    return r;
}

void unix_unlisten(struct unix_listener *u)
{
    struct stat st;
    close(u->fd);
    if (stat(u->addr.sun_path, &st) == 0 && st.st_dev == u->dev && st.st_ino == u->ino)
        unlink(u->addr.sun_path);
}
