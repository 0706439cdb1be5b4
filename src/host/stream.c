/* SPDX-License-Identifier: MIT */
/*
 * Descriptor-backed character back ends. Reading, watching and callbacks happen on the loop thread only; writing on
 * any thread, under the lock. Callbacks are made without the lock, so in_callback tells attach(NULL) to wait.
 */
#include "host/stream.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void unref(struct stream *s)
{
    if (__atomic_sub_fetch(&s->refs, 1, __ATOMIC_ACQ_REL) > 0)
        return;
    pthread_cond_destroy(&s->idle);
    lock_destroy(&s->lock);
    s->kind->fini(s);
}

static void post(struct stream *s, void (*fn)(void *arg))
{
    __atomic_add_fetch(&s->refs, 1, __ATOMIC_ACQ_REL);
    if (loop_post(s->env.loop, fn, s) < 0)
        abort(); /* lost input or a lost wake-up would hang the console without a word */
}

/* ---- watchers ---- */

static void watch(struct stream *s)
{
    bool in = s->rfd >= 0 && !s->rx_end && !s->hold_rx && s->attached && s->rx_len < STREAM_RX;
    bool out = s->wfd >= 0 && s->tx_len > 0;
    if (s->dead)
        in = out = false;
    if (s->rwatch && s->rwatch == s->wwatch) {
        loop_fd_update(s->rwatch, (in ? LOOP_IN : 0U) | (out ? LOOP_OUT : 0U));
        return;
    }
    if (s->rwatch)
        loop_fd_update(s->rwatch, in ? LOOP_IN : 0);
    if (s->wwatch)
        loop_fd_update(s->wwatch, out ? LOOP_OUT : 0);
}

/* Claims the right to call the user; false if nobody is attached. Loop thread, lock held. */
static bool callback_begin(struct stream *s, struct chardev_user *u)
{
    if (!s->attached)
        return false;
    *u = s->user;
    s->in_callback = true;
    lock_drop(&s->lock);
    return true;
}

static void callback_end(struct stream *s)
{
    lock_take(&s->lock);
    s->in_callback = false;
    pthread_cond_broadcast(&s->idle);
}

/* ---- output ---- */

static ssize_t put(const struct stream *s, const void *buf, size_t n)
{
    ssize_t r;
    do
        r = s->kind->socket ? send(s->wfd, buf, n, MSG_NOSIGNAL | MSG_DONTWAIT) : write(s->wfd, buf, n);
    while (r < 0 && errno == EINTR);
    return r;
}

static void ring_add(struct stream *s, const uint8_t *p, size_t n)
{
    size_t at = (s->tx_at + s->tx_len) % STREAM_TX;
    size_t first = n < STREAM_TX - at ? n : STREAM_TX - at;
    memcpy(s->tx + at, p, first);
    memcpy(s->tx, p + first, n - first);
    s->tx_len += n;
}

static void ring_drop(struct stream *s, size_t n)
{
    s->tx_at = (s->tx_at + n) % STREAM_TX;
    s->tx_len -= n;
}

static void run_hangup(void *arg)
{
    struct stream *s = arg;
    lock_take(&s->lock);
    bool go = s->hangup_posted && !s->dead; /* a new peer clears it */
    s->hangup_posted = false;
    lock_drop(&s->lock);
    if (go && s->kind->hangup)
        s->kind->hangup(s);
    unref(s);
}

/* The peer took its last byte: from now on output is dropped. Lock held, any thread. */
static void output_lost(struct stream *s)
{
    s->connected = false;
    s->tx_len = 0;
    if (!s->hangup_posted) {
        s->hangup_posted = true;
        post(s, run_hangup);
    }
}

/* Writes what the ring has; lock held. */
static void flush(struct stream *s)
{
    while (s->tx_len && s->connected && s->wfd >= 0) {
        size_t n = STREAM_TX - s->tx_at;
        ssize_t r = put(s, s->tx + s->tx_at, n < s->tx_len ? n : s->tx_len);
        if (r > 0)
            ring_drop(s, (size_t)r);
        else if (r < 0 && errno == EAGAIN)
            return;
        else
            output_lost(s);
    }
}

static size_t keep_history(struct stream *s, const uint8_t *p, size_t n)
{
    size_t all = n;
    if (n > STREAM_TX) {
        p += n - STREAM_TX;
        n = STREAM_TX;
    }
    if (n > STREAM_TX - s->tx_len)
        ring_drop(s, n - (STREAM_TX - s->tx_len));
    ring_add(s, p, n);
    return all;
}

static size_t stream_write(struct chardev *ch, const void *buf, size_t len)
{
    struct stream *s = (struct stream *)ch;
    const uint8_t *p = buf;
    size_t n = len;
    lock_take(&s->lock);
    if (!s->connected) {
        if (s->kind->history && !s->once)
            keep_history(s, p, n);
        lock_drop(&s->lock);
        return len;
    }
    if (!s->tx_len) {
        ssize_t r = put(s, p, n);
        if (r < 0 && errno != EAGAIN) {
            output_lost(s);
            r = (ssize_t)n;
        }
        if (r > 0) {
            p += r;
            n -= (size_t)r;
        }
    }
    size_t room = STREAM_TX - s->tx_len;
    size_t take = n < room ? n : room;
    if (!s->wwatch) { /* nothing would tell of room: what it does not take at once is lost */
        n = take = 0;
    } else if (take) {
        ring_add(s, p, take);
        watch(s);
    }
    s->tx_short = s->tx_short || take < n;
    lock_drop(&s->lock);
    return len - (n - take);
}

/* Tells a user that waits for room. Loop thread, lock held (dropped meanwhile). */
static void tell_room(struct stream *s)
{
    struct chardev_user u;
    if (!s->tx_short || s->tx_len > STREAM_TX / 2)
        return;
    s->tx_short = false;
    if (!callback_begin(s, &u))
        return;
    if (u.tx_ready)
        u.tx_ready(u.arg);
    callback_end(s);
}

/* ---- input ---- */

static void read_input(struct stream *s);

static void run_read_file(void *arg)
{
    struct stream *s = arg;
    lock_take(&s->lock);
    s->file_posted = false;
    bool ready = !s->dead && s->attached && s->rfd >= 0;
    lock_drop(&s->lock);
    if (ready)
        read_input(s);
    unref(s);
}

/* Regular files are always ready and epoll refuses them: read on whenever the buffer is empty. Lock held. */
static void read_file_on(struct stream *s)
{
    if (s->rfd < 0 || s->rwatch || s->rx_end || s->rx_len || !s->attached || s->dead || s->file_posted)
        return;
    s->file_posted = true;
    post(s, run_read_file);
}

/* Hands pending input to the user, as much as it takes. Loop thread. */
static void deliver(struct stream *s)
{
    struct chardev_user u;
    lock_take(&s->lock);
    while (s->rx_len && !s->dead && callback_begin(s, &u)) {
        size_t room = u.can_rx ? u.can_rx(u.arg) : STREAM_RX;
        /* rx_len grows on this thread only, so the bytes stand still without the lock. */
        size_t n = room < s->rx_len ? room : s->rx_len;
        if (n)
            u.rx(u.arg, s->rx, n);
        callback_end(s);
        if (!n)
            break;
        memmove(s->rx, s->rx + n, s->rx_len - n);
        s->rx_len -= n;
    }
    read_file_on(s);
    watch(s);
    lock_drop(&s->lock);
}

static void run_deliver(void *arg)
{
    struct stream *s = arg;
    lock_take(&s->lock);
    s->posted = false;
    lock_drop(&s->lock);
    deliver(s);
    unref(s);
}

static void post_deliver(struct stream *s)
{
    if (!s->posted && !s->dead) {
        s->posted = true;
        post(s, run_deliver);
    }
}

static void stream_rx_ready(struct chardev *ch)
{
    struct stream *s = (struct stream *)ch;
    lock_take(&s->lock);
    if (s->rx_len)
        post_deliver(s);
    lock_drop(&s->lock);
}

static void read_input(struct stream *s)
{
    bool hangup = false;
    if (s->kind->may_read && !s->kind->may_read(s))
        return;
    lock_take(&s->lock);
    if (s->rfd < 0 || s->rx_end || s->hold_rx || s->rx_len == STREAM_RX) {
        watch(s);
        lock_drop(&s->lock);
        return;
    }
    ssize_t r = read(s->rfd, s->rx + s->rx_len, STREAM_RX - s->rx_len);
    if (r > 0) {
        size_t n = (size_t)r;
        if (s->kind->filter)
            n = s->kind->filter(s, s->rx + s->rx_len, n);
        s->rx_len += n;
    } else if (r == 0 || (errno != EAGAIN && errno != EINTR)) {
        s->rx_end = true;
        hangup = true;
    }
    watch(s);
    lock_drop(&s->lock);
    deliver(s); /* what was typed before the escape key comes first */
    if (s->kind->after_read)
        s->kind->after_read(s);
    if (hangup && s->kind->hangup)
        s->kind->hangup(s);
}

static void on_fd(void *arg, unsigned events)
{
    struct stream *s = arg;
    if (events & LOOP_OUT) {
        lock_take(&s->lock);
        flush(s);
        tell_room(s);
        watch(s);
        lock_drop(&s->lock);
    }
    if (events & LOOP_IN)
        read_input(s);
}

/* ---- peers ---- */

static void on_timer(void *arg)
{
    struct stream *s = arg;
    lock_take(&s->lock);
    bool dead = s->dead;
    lock_drop(&s->lock);
    if (!dead && s->kind->tick)
        s->kind->tick(s);
}

void stream_poll_later(struct stream *s)
{
    timer_arm(&s->timer, timer_now(s->timer.svc) + STREAM_POLL_MS * 1000000UL);
}

void stream_init(struct stream *s, const struct stream_kind *kind, const struct chardev_env *env)
{
    s->ch.ops = &stream_ops;
    s->kind = kind;
    s->env = *env;
    s->refs = 1;
    s->rfd = s->wfd = -1;
    lock_init(&s->lock, LOCK_CHARDEV);
    pthread_cond_init(&s->idle, NULL);
    timer_init(&s->timer, loop_timers(env->loop), on_timer, s);
}

void stream_changed(struct stream *s)
{
    struct chardev_user u;
    lock_take(&s->lock);
    if (!s->dead && callback_begin(s, &u)) {
        if (u.changed)
            u.changed(u.arg);
        callback_end(s);
    }
    lock_drop(&s->lock);
}

int stream_connect(struct stream *s, int rfd, int wfd)
{
    struct loop_fd *rw = NULL, *ww = NULL;
    if (rfd >= 0)
        rw = loop_fd_add(s->env.loop, rfd, 0, on_fd, s); /* NULL: a regular file */
    if (wfd == rfd)
        ww = rw;
    else if (wfd >= 0)
        ww = loop_fd_add(s->env.loop, wfd, 0, on_fd, s);
    if (rfd >= 0 && rfd == wfd && !rw)
        return -EIO;
    lock_take(&s->lock);
    s->rfd = rfd;
    s->wfd = wfd;
    s->rwatch = rw;
    s->wwatch = ww;
    s->connected = wfd >= 0;
    s->once = true;
    s->rx_end = s->hold_rx = s->hangup_posted = false;
    flush(s);
    read_file_on(s);
    watch(s);
    lock_drop(&s->lock);
    stream_changed(s);
    return 0;
}

static void unwatch(struct stream *s, bool closing)
{
    lock_take(&s->lock);
    struct loop_fd *rw = s->rwatch, *ww = s->wwatch;
    int rfd = s->rfd, wfd = s->wfd;
    s->rwatch = s->wwatch = NULL;
    s->rfd = s->wfd = -1;
    s->connected = false;
    lock_drop(&s->lock);
    loop_fd_del(rw);
    if (ww != rw)
        loop_fd_del(ww);
    if (closing && rfd >= 0)
        close(rfd);
    if (closing && wfd >= 0 && wfd != rfd)
        close(wfd);
}

void stream_disconnect(struct stream *s)
{
    unwatch(s, !s->kind->keeps_fd);
    lock_take(&s->lock);
    s->tx_len = 0;
    tell_room(s);
    lock_drop(&s->lock);
    stream_changed(s);
}

void stream_hold_input(struct stream *s, bool hold)
{
    lock_take(&s->lock);
    s->hold_rx = hold;
    watch(s);
    lock_drop(&s->lock);
}

/* ---- the contract ---- */

static void stream_attach(struct chardev *ch, const struct chardev_user *user)
{
    struct stream *s = (struct stream *)ch;
    lock_take(&s->lock);
    while (s->in_callback)
        lock_wait(&s->lock, &s->idle, UINT64_MAX);
    s->attached = user != NULL;
    if (user)
        s->user = *user;
    if (user && s->rx_len)
        post_deliver(s);
    read_file_on(s);
    watch(s);
    lock_drop(&s->lock);
}

/* Gives a reader that still reads the rest; one that stalls for half a second loses it. */
static void drain(struct stream *s)
{
    struct pollfd p = { .fd = s->wfd, .events = POLLOUT };
    while (s->tx_len && s->connected && s->wfd >= 0 && poll(&p, 1, 500) > 0) {
        size_t before = s->tx_len;
        flush(s);
        if (s->tx_len == before)
            break;
    }
}

static void stream_free(struct chardev *ch)
{
    struct stream *s = (struct stream *)ch;
    timer_disarm(&s->timer);
    lock_take(&s->lock);
    s->dead = true;
    drain(s);
    lock_drop(&s->lock);
    unwatch(s, !s->kind->keeps_fd);
    if (s->kind->closing)
        s->kind->closing(s);
    unref(s);
}

static void stream_status(struct chardev *ch, struct chardev_status *st)
{
    struct stream *s = (struct stream *)ch;
    lock_take(&s->lock);
    st->peer = s->connected;
    if (s->kind->size)
        s->kind->size(s, &st->cols, &st->rows);
    lock_drop(&s->lock);
}

const struct chardev_ops stream_ops = {
    .write = stream_write,
    .attach = stream_attach,
    .rx_ready = stream_rx_ready,
    .free = stream_free,
    .status = stream_status,
};
