/* SPDX-License-Identifier: MIT */
/*
 * socket:PATH: a listening socket for several clients at once, each of which is shown the newest output first: what
 * "gazda console" attaches to. Output goes into one ring; a client is a position in it, so one that is slow loses what
 * was overwritten, and never holds up the guest. Input of all clients is one stream; it is read while the device takes
 * it. Only the same user may connect. Loop thread, but for write and rx_ready.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "host/stream.h"
#include "host/unix.h"

enum { RING = 65536, CLIENTS_MAX = 8, INPUT = 1024 };

struct hub;

struct hub_client {
    struct hub *h;
    int fd; /* -1 = free */
    struct loop_fd *watch;
    uint64_t pos; /* what it has been sent of all output ever */
    bool rx_end;
};

struct hub {
    struct chardev ch; /* first */
    struct loop *loop;
    struct unix_listener u;
    struct loop_fd *watch;
    unsigned refs; /* atomic: the owner and each posted call */

    struct lock lock; /* everything below */
    pthread_cond_t idle;
    struct chardev_user user;
    bool attached, in_callback, dead;
    bool pump_posted, rx_posted;
    uint64_t written; /* all output ever; the ring has the newest of it */
    struct hub_client client[CLIENTS_MAX];
    uint8_t ring[RING];
};

static void unref(struct hub *h)
{
    if (__atomic_sub_fetch(&h->refs, 1, __ATOMIC_ACQ_REL) > 0)
        return;
    pthread_cond_destroy(&h->idle);
    lock_destroy(&h->lock);
    free(h);
}

static void post(struct hub *h, void (*fn)(void *arg))
{
    __atomic_add_fetch(&h->refs, 1, __ATOMIC_ACQ_REL);
    if (loop_post(h->loop, fn, h) < 0)
        abort(); /* a lost wake-up would hang the console without a word */
}

/* ---- output ---- */

/* Sends what the client has not seen. False: it is gone. Lock held. */
static bool catch_up(struct hub *h, struct hub_client *cl)
{
    if (h->written - cl->pos > RING)
        cl->pos = h->written - RING;
    while (cl->pos < h->written) {
        size_t at = cl->pos % RING, n = (size_t)(h->written - cl->pos);
        if (n > RING - at)
            n = RING - at;
        ssize_t r = send(cl->fd, h->ring + at, n, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            return errno == EAGAIN;
        cl->pos += (uint64_t)r;
    }
    return true;
}

static void watch(struct hub *h, struct hub_client *cl)
{
    unsigned ev = (h->attached && !cl->rx_end ? LOOP_IN : 0U) | (cl->pos < h->written ? LOOP_OUT : 0U);
    loop_fd_update(cl->watch, ev);
}

/* Whether the other side closed both ways; one that only shut down its sending still gets output. */
static bool hung_up(int fd)
{
    struct pollfd p = { .fd = fd };
    return poll(&p, 1, 0) < 0 || (p.revents & (POLLHUP | POLLERR));
}

/* Lock not held. */
static void drop(struct hub *h, struct hub_client *cl)
{
    loop_fd_del(cl->watch);
    close(cl->fd);
    lock_take(&h->lock);
    *cl = (struct hub_client){ .h = h, .fd = -1 };
    lock_drop(&h->lock);
}

static void pump(void *arg)
{
    struct hub *h = arg;
    for (unsigned i = 0; i < CLIENTS_MAX; i++) {
        struct hub_client *cl = &h->client[i];
        lock_take(&h->lock);
        if (!i)
            h->pump_posted = false;
        bool there = cl->fd >= 0 && !h->dead, gone = there && !catch_up(h, cl);
        if (there && !gone)
            watch(h, cl);
        lock_drop(&h->lock);
        if (gone)
            drop(h, cl);
    }
    unref(h);
}

static size_t hub_write(struct chardev *ch, const void *buf, size_t len)
{
    struct hub *h = (struct hub *)ch;
    const uint8_t *p = buf;
    lock_take(&h->lock);
    for (size_t left = len; left;) {
        size_t at = h->written % RING, n = left < RING - at ? left : RING - at;
        memcpy(h->ring + at, p, n);
        h->written += n;
        p += n;
        left -= n;
    }
    if (!h->pump_posted && !h->dead && len) {
        h->pump_posted = true;
        post(h, pump);
    }
    lock_drop(&h->lock);
    return len;
}

/* ---- input ---- */

/* Reads no more than the device takes, so nothing is kept here. False: the client is gone. */
static bool read_client(struct hub *h, struct hub_client *cl)
{
    uint8_t buf[INPUT];
    ssize_t r = 1;
    lock_take(&h->lock);
    if (!h->attached || cl->rx_end || h->dead) {
        watch(h, cl);
        lock_drop(&h->lock);
        return true;
    }
    struct chardev_user u = h->user;
    h->in_callback = true;
    lock_drop(&h->lock);
    size_t room = u.can_rx(u.arg);
    if (room) {
        r = recv(cl->fd, buf, room < sizeof(buf) ? room : sizeof(buf), MSG_DONTWAIT);
        if (r > 0)
            u.rx(u.arg, buf, (size_t)r);
    }
    int err = errno;
    lock_take(&h->lock);
    h->in_callback = false;
    pthread_cond_broadcast(&h->idle);
    bool gone = (r < 0 && err != EAGAIN && err != EINTR) || (r == 0 && hung_up(cl->fd));
    cl->rx_end = cl->rx_end || r == 0;
    if (!gone)
        loop_fd_update(cl->watch, (room && !cl->rx_end ? LOOP_IN : 0U) | (cl->pos < h->written ? LOOP_OUT : 0U));
    lock_drop(&h->lock);
    return !gone;
}

static void run_rx(void *arg)
{
    struct hub *h = arg;
    lock_take(&h->lock);
    h->rx_posted = false;
    for (unsigned i = 0; i < CLIENTS_MAX && !h->dead; i++)
        if (h->client[i].fd >= 0)
            watch(h, &h->client[i]);
    lock_drop(&h->lock);
    unref(h);
}

static void hub_rx_ready(struct chardev *ch)
{
    struct hub *h = (struct hub *)ch;
    lock_take(&h->lock);
    if (!h->rx_posted && !h->dead) {
        h->rx_posted = true;
        post(h, run_rx);
    }
    lock_drop(&h->lock);
}

static void on_client(void *arg, unsigned events)
{
    struct hub_client *cl = arg;
    struct hub *h = cl->h;
    bool there = true;
    if (events & LOOP_OUT) {
        lock_take(&h->lock);
        there = catch_up(h, cl);
        if (there)
            watch(h, cl);
        lock_drop(&h->lock);
    }
    if (there && (events & LOOP_IN))
        there = read_client(h, cl);
    if (!there)
        drop(h, cl);
}

static void on_connection(void *arg, unsigned events)
{
    struct hub *h = arg;
    struct ucred cred;
    socklen_t len = sizeof(cred);
    struct hub_client *cl = h->client;
    (void)events;
    int fd = accept4(h->u.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0)
        return;
    for (unsigned i = 0; i < CLIENTS_MAX; i++)
        if (h->client[i].fd >= 0 && hung_up(h->client[i].fd)) /* silent since, so nothing has told */
            drop(h, &h->client[i]);
    while (cl < h->client + CLIENTS_MAX && cl->fd >= 0)
        cl++;
    bool ok = getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) == 0 && cred.uid == geteuid();
    if (!ok || cl == h->client + CLIENTS_MAX) {
        close(fd);
        return;
    }
    struct loop_fd *w = loop_fd_add(h->loop, fd, 0, on_client, cl);
    if (!w) {
        close(fd);
        return;
    }
    lock_take(&h->lock);
    *cl = (struct hub_client){ .h = h, .fd = fd, .watch = w };
    cl->pos = h->written > RING ? h->written - RING : 0;
    bool there = catch_up(h, cl);
    watch(h, cl);
    lock_drop(&h->lock);
    if (!there)
        drop(h, cl);
}

/* ---- the contract ---- */

static void hub_attach(struct chardev *ch, const struct chardev_user *user)
{
    struct hub *h = (struct hub *)ch;
    lock_take(&h->lock);
    while (h->in_callback)
        lock_wait(&h->lock, &h->idle, UINT64_MAX);
    h->attached = user != NULL;
    if (user)
        h->user = *user;
    for (unsigned i = 0; i < CLIENTS_MAX; i++)
        if (h->client[i].fd >= 0)
            watch(h, &h->client[i]);
    lock_drop(&h->lock);
}

/* The last words are sent to those who take them at once. */
static void hub_free(struct chardev *ch)
{
    struct hub *h = (struct hub *)ch;
    lock_take(&h->lock);
    h->dead = true;
    for (unsigned i = 0; i < CLIENTS_MAX; i++)
        if (h->client[i].fd >= 0)
            catch_up(h, &h->client[i]);
    lock_drop(&h->lock);
    for (unsigned i = 0; i < CLIENTS_MAX; i++)
        if (h->client[i].fd >= 0)
            drop(h, &h->client[i]);
    loop_fd_del(h->watch);
    unix_unlisten(&h->u);
    unref(h);
}

static const struct chardev_ops hub_ops = {
    .write = hub_write,
    .attach = hub_attach,
    .rx_ready = hub_rx_ready,
    .free = hub_free,
};

struct chardev *chardev_socket_open(const char *path, const struct chardev_env *env, struct err *e)
{
    struct hub *h = calloc(1, sizeof(*h));
    if (!h) {
        err_set(e, ENOMEM, "out of memory");
        return NULL;
    }
    if (unix_listen(&h->u, path, 8, e) < 0)
        goto undo_alloc;
    h->ch.ops = &hub_ops;
    h->loop = env->loop;
    h->refs = 1;
    for (unsigned i = 0; i < CLIENTS_MAX; i++)
        h->client[i] = (struct hub_client){ .h = h, .fd = -1 };
    lock_init(&h->lock, LOCK_CHARDEV);
    pthread_cond_init(&h->idle, NULL);
    h->watch = loop_fd_add(env->loop, h->u.fd, LOOP_IN, on_connection, h);
    if (h->watch)
        return &h->ch;
    err_set(e, EIO, "cannot watch the socket '%.200s'", path);
    unix_unlisten(&h->u);
    pthread_cond_destroy(&h->idle);
    lock_destroy(&h->lock);

undo_alloc:
    free(h);
    return NULL;
}
