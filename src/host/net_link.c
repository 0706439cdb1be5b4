/* SPDX-License-Identifier: MIT */
/*
 * --net link=PATH: a cable between machines of this host, over a socket that keeps messages apart (SOCK_SEQPACKET). A
 * message is a virtio-net header and a frame, so large segments and unfinished checksums cross it as they are; the
 * receiving device finishes what its guest does not take.
 *
 * Whoever finds nobody at PATH listens there, and is a hub for all that connect. When it goes, one of the others takes
 * its place. A new socket is made under another name and then moved to PATH, so that nobody ever sees one that does not
 * listen yet; of two that do so at once the one that is overwritten notices, and connects to the other.
 *
 * Back-pressure: with one peer, frames that it does not take wait, but not for longer than STALL_MS, lest a stopped
 * machine stops another. With several, what one does not take is lost to that one.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "host/net_thread.h"

enum { PEERS_MAX = 16, RX_BATCH = 64, BACKLOG = 16, STALL_MS = 500, RETRY_MS = 100, CHECK_MS = 1000, SNDBUF = 1 << 20 };

struct net_link {
    struct net_thread t; /* first */
    struct sockaddr_un addr;
    int listener; /* -1: somebody else listens, or nobody */
    dev_t dev;
    ino_t ino; /* of our socket file */
    unsigned n_peers;
    int peer[PEERS_MAX];
    int poll_listener, poll_peer[PEERS_MAX]; /* in the poll set, -1 = not there */
    int64_t again_ms;                        /* when to connect, or to look after the listener */
    int64_t stalled_ms;                      /* since when the peer takes nothing; 0 = it does */
    bool complained;
    size_t held; /* bytes of the frame that the guest had no room for */
    struct net_hdr hdr;
    uint8_t frame[NET_FRAME_MAX];
};

static int64_t now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1000L + ts.tv_nsec / 1000000;
}

static int new_socket(void)
{
    const int size = SNDBUF;
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd >= 0)
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)); /* as much as the host allows */
    return fd;
}

/* ---- connecting ---- */

static void add_peer(struct net_link *k, int fd)
{
    k->poll_peer[k->n_peers] = -1;
    k->peer[k->n_peers++] = fd;
    k->stalled_ms = 0;
}

static void drop_peer(struct net_link *k, unsigned i)
{
    close(k->peer[i]);
    k->peer[i] = k->peer[--k->n_peers];
    k->poll_peer[i] = k->poll_peer[k->n_peers];
    k->stalled_ms = 0;
    if (k->listener < 0)
        k->again_ms = now_ms();
}

/* Whether PATH still is the socket that this listens on. */
static bool owns_path(const struct net_link *k)
{
    struct stat st;
    return k->listener >= 0 && lstat(k->addr.sun_path, &st) == 0 && st.st_dev == k->dev && st.st_ino == k->ino;
}

static void stop_listening(struct net_link *k, bool remove)
{
    if (k->listener < 0)
        return;
    if (remove && owns_path(k))
        unlink(k->addr.sun_path);
    close(k->listener);
    k->listener = -1;
}

/* stale: a socket that nobody listens on is there, to be overwritten. 0, -EEXIST (somebody was faster) or -errno. */
static int listen_at(struct net_link *k, bool stale)
{
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    struct stat st;
    int r = snprintf(a.sun_path, sizeof(a.sun_path), "%s.%x", k->addr.sun_path, (unsigned)getpid());
    if (r < 0 || (size_t)r >= sizeof(a.sun_path))
        return -ENAMETOOLONG;
    int fd = new_socket();
    if (fd < 0)
        return -errno;
    unlink(a.sun_path);
    if (bind(fd, (const struct sockaddr *)&a, sizeof(a)) < 0) {
        r = -errno;
        goto undo_socket;
    }
    if (listen(fd, BACKLOG) < 0 || lstat(a.sun_path, &st) < 0 ||
        (stale ? rename(a.sun_path, k->addr.sun_path) : link(a.sun_path, k->addr.sun_path)) < 0) {
        r = -errno;
        goto undo_bind;
    }
    if (!stale)
        unlink(a.sun_path);
    k->listener = fd;
    k->dev = st.st_dev;
    k->ino = st.st_ino;
    k->again_ms = now_ms() + CHECK_MS;
    return 0;

undo_bind:
    unlink(a.sun_path);
undo_socket:
    close(fd);
    return r;
}

/* Connects, or listens. 0 or -errno, to be tried again. */
static int plug_in(struct net_link *k)
{
    struct stat st;
    int fd = new_socket(), r;
    if (fd < 0)
        return -errno;
    k->again_ms = now_ms() + RETRY_MS;
    if (connect(fd, (const struct sockaddr *)&k->addr, sizeof(k->addr)) == 0) {
        add_peer(k, fd);
        return 0;
    }
    r = -errno;
    close(fd);
    if (r == -ECONNREFUSED && lstat(k->addr.sun_path, &st) == 0 && !S_ISSOCK(st.st_mode))
        return -ENOTSOCK;
    if (r == -ENOENT || r == -ECONNREFUSED)
        r = listen_at(k, r == -ECONNREFUSED);
    return r;
}

static void stay_plugged(struct net_link *k)
{
    if (now_ms() < k->again_ms || (k->listener < 0 && k->n_peers))
        return;
    k->again_ms = now_ms() + CHECK_MS;
    if (k->listener >= 0) {
        if (owns_path(k))
            return;
        stop_listening(k, false);
        while (k->n_peers)
            drop_peer(k, k->n_peers - 1);
    }
    int r = plug_in(k);
    if (r < 0 && r != -EEXIST && r != -EAGAIN && !k->complained) {
        k->complained = true;
        log_warn("network link '%s': %s; it is tried again and again", k->addr.sun_path, strerror(-r));
    }
}

static void accept_peers(struct net_link *k)
{
    const int size = SNDBUF;
    while (k->n_peers < PEERS_MAX) {
        int fd = accept4(k->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0)
            break;
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
        add_peer(k, fd);
    }
}

/* ---- frames ---- */

/* 0, -EAGAIN, or another -errno: the peer is of no use any more. */
static int send_to(int fd, const struct net_hdr *h, const uint8_t *frame, size_t len)
{
    struct iovec v[2] = { { (void *)(uintptr_t)h, sizeof(*h) }, { (void *)(uintptr_t)frame, len } };
    const struct msghdr m = { .msg_iov = v, .msg_iovlen = 2 };
    return sendmsg(fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 0;
}

static bool link_send(struct net_thread *t)
{
    struct net_link *k = (struct net_link *)t;
    for (unsigned i = k->n_peers; i-- > 0;) {
        int r = send_to(k->peer[i], &t->hdr, t->frame, t->len);
        if (r == 0) {
            k->stalled_ms = 0;
        } else if (r != -EAGAIN && r != -EMSGSIZE) {
            drop_peer(k, i);
        } else if (r == -EAGAIN && k->n_peers == 1) {
            if (!k->stalled_ms)
                k->stalled_ms = now_ms();
            if (now_ms() - k->stalled_ms < STALL_MS)
                return false;
        }
    }
    return true;
}

/* A hub's other peers get what one has sent. */
static void relay(struct net_link *k, unsigned from)
{
    for (unsigned i = 0; i < k->n_peers; i++)
        if (i != from && k->held)
            send_to(k->peer[i], &k->hdr, k->frame, k->held); /* one that is gone is noticed when it is read */
}

/* Takes one message of peer i for the guest: 1, 0 = there is none, -1 = the peer is gone. */
static int receive(struct net_link *k, unsigned i)
{
    struct iovec v[2] = { { &k->hdr, sizeof(k->hdr) }, { k->frame, sizeof(k->frame) } };
    struct msghdr m = { .msg_iov = v, .msg_iovlen = 2 };
    ssize_t n = recvmsg(k->peer[i], &m, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    if (n <= 0)
        return -1;
    k->held = (size_t)n > sizeof(k->hdr) && !(m.msg_flags & MSG_TRUNC) ? (size_t)n - sizeof(k->hdr) : 0;
    return 1;
}

static bool deliver(struct net_link *k)
{
    if (k->held && !k->t.user.rx(k->t.user.arg, &k->hdr, k->frame, k->held))
        return false;
    k->held = 0;
    return true;
}

/* True: there may be more. */
static bool receive_some(struct net_link *k, unsigned i)
{
    for (int n = 0; n < RX_BATCH; n++) {
        int r = receive(k, i);
        if (r < 0)
            drop_peer(k, i);
        if (r <= 0)
            return false;
        relay(k, i);
        if (!deliver(k))
            return false;
    }
    return true;
}

/* ---- waiting ---- */

static void link_prepare(struct net_thread *t, int *timeout_ms)
{
    struct net_link *k = (struct net_link *)t;
    short events = (short)((k->held ? 0 : POLLIN) | (t->len ? POLLOUT : 0));
    int64_t left = k->again_ms - now_ms();
    k->poll_listener = k->listener >= 0 && k->n_peers < PEERS_MAX ? net_thread_poll(t, k->listener, POLLIN) : -1;
    for (unsigned i = 0; i < k->n_peers; i++)
        k->poll_peer[i] = events ? net_thread_poll(t, k->peer[i], events) : -1;
    if (k->listener >= 0 || !k->n_peers)
        *timeout_ms = left < 0 ? 0 : left > CHECK_MS ? CHECK_MS : (int)left;
    if (t->len && (*timeout_ms < 0 || *timeout_ms > RETRY_MS))
        *timeout_ms = RETRY_MS;
}

static bool link_ready(struct net_thread *t)
{
    struct net_link *k = (struct net_link *)t;
    bool more = false;
    if (net_thread_revents(t, k->poll_listener))
        accept_peers(k);
    stay_plugged(k);
    bool was_held = k->held != 0;
    if (!deliver(k))
        return false;
    for (unsigned i = k->n_peers; i-- > 0 && !k->held;) {
        int e = net_thread_revents(t, k->poll_peer[i]);
        if (e & (POLLIN | POLLHUP | POLLERR))
            more |= receive_some(k, i);
    }
    return more || was_held; /* what is held kept us from looking */
}

/* ---- life ---- */

static void link_fini(struct net_thread *t)
{
    struct net_link *k = (struct net_link *)t;
    while (k->n_peers)
        drop_peer(k, k->n_peers - 1);
    stop_listening(k, true);
    net_thread_fini(t);
    free(k);
}

static int explain(const char *path, int r, struct err *e)
{
    if (r == -ENOTSOCK || r == -EPROTOTYPE)
        return err_set(e, -r, "--net link: '%s' exists and is not a link's socket; name a path that is free", path);
    if (r == -ENAMETOOLONG)
        return err_set(e, -r, "--net link: the path '%.120s' is too long", path);
    return err_set(e, -r, "--net link: cannot make the socket '%s': %s", path, strerror(-r));
}

struct net *net_link_open(char *options, struct err *e)
{
    static const struct net_kind kind = {
        .prepare = link_prepare, .ready = link_ready, .send = link_send, .fini = link_fini
    };
    char *path = NULL, *value = NULL, *word;
    if (!net_next_option(&options, &path, &value) || value || !*path) {
        err_set(e, EINVAL, "--net link needs a path: link=PATH, the same one for each machine");
        return NULL;
    }
    if (net_next_option(&options, &word, &value)) {
        err_set(e, EINVAL, "--net link: unknown option \"%s\"; it takes mac, mtu, dump and limits", word);
        return NULL;
    }
    struct net_link *k = calloc(1, sizeof(*k));
    if (!k || net_thread_init(&k->t, &kind) < 0) {
        free(k);
        err_set(e, ENOMEM, "out of memory for a network device");
        return NULL;
    }
    k->listener = -1;
    k->poll_listener = -1;
    k->addr.sun_family = AF_UNIX;
    k->t.net.offloads = NET_CSUM | NET_TSO4 | NET_TSO6 | NET_ECN | NET_USO;
    int r = strlen(path) + 10 > sizeof(k->addr.sun_path) ? -ENAMETOOLONG : 0;
    if (r == 0) {
        strcpy(k->addr.sun_path, path);
        r = plug_in(k);
    }
    if (r == 0 || r == -EEXIST || r == -EAGAIN)
        return &k->t.net;
    explain(path, r, e);
    link_fini(&k->t);
    return NULL;
}
