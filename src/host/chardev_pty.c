/* SPDX-License-Identifier: MIT */
/*
 * pty: the slave's name is printed on stderr. A master whose slave nobody holds open reads EIO and polls as hung up,
 * without an edge that would tell of a new opener: so it is looked at a few times a second until somebody comes.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "host/stream.h"

struct pty {
    struct stream s; /* first */
    int master;
};

static void pty_tick(struct stream *s)
{
    struct pty *p = (struct pty *)s;
    struct pollfd pf = { .fd = p->master };
    if (poll(&pf, 1, 0) < 0 || (pf.revents & POLLHUP)) {
        stream_poll_later(s);
        return;
    }
    stream_connect(s, p->master, p->master);
}

static void pty_hangup(struct stream *s)
{
    stream_disconnect(s);
    stream_poll_later(s);
}

static void pty_fini(struct stream *s)
{
    close(((struct pty *)s)->master);
    free(s);
}

static const struct stream_kind pty_kind = {
    .hangup = pty_hangup, .tick = pty_tick, .fini = pty_fini, .keeps_fd = true, .history = true
};

struct chardev *chardev_pty_open(const struct chardev_env *env, struct err *e)
{
    struct termios t;
    char name[64];
    struct pty *p = calloc(1, sizeof(*p));
    if (!p) {
        err_set(e, ENOMEM, "out of memory");
        return NULL;
    }
    p->master = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    if (p->master < 0 || grantpt(p->master) < 0 || unlockpt(p->master) < 0 ||
        ptsname_r(p->master, name, sizeof(name)) != 0)
        goto fail;
    /* Raw, or the line discipline would echo the guest's output back as input. Closing it sets the hung-up state. */
    int slave = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (slave < 0)
        goto fail;
    if (tcgetattr(slave, &t) == 0) {
        cfmakeraw(&t);
        tcsetattr(slave, TCSANOW, &t);
    }
    close(slave);
    stream_init(&p->s, &pty_kind, env);
    dprintf(STDERR_FILENO, "gazda: serial port on %s\n", name);
    stream_poll_later(&p->s);
    return &p->s.ch;

fail:
    err_set(e, errno, "cannot make a pseudo-terminal: %s", strerror(errno));
    if (p->master >= 0)
        close(p->master);
    free(p);
    return NULL;
}
