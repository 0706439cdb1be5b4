/* SPDX-License-Identifier: MIT */
/*
 * The part of virtio-vsock that runs on the event loop's thread. Only it makes and ends watches of descriptors (from
 * other threads that would wait for a callback, which wants the lock), so it alone frees connections.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "virtio/vsock_int.h"

enum { ACCEPTS = 16, ASK_SECONDS = 5, CONNECT_SECONDS = 2, TICK_MS = 20, SLOW_TICK_MS = 250 };
enum { HOST_PORTS = 1 << 30 }; /* those of host programs begin there, as Firecracker's do */

uint64_t vsock_after(struct vsock *s, unsigned seconds)
{
    vsock_loop_tick(s);
    return timer_now(s->v.timers) + seconds * 1000000000UL;
}

/* ---- programs of the host ---- */

static uint32_t new_port(struct vsock *s, uint32_t guest_port)
{
    uint32_t port;
    do /* ends: there are fewer connections than ports */
        port = HOST_PORTS + s->next_port++ % HOST_PORTS;
    while (vsock_conn_find(s, guest_port, port));
    return port;
}

static void greet(struct vsock_conn *c)
{
    int r = vsock_host_greeting(c->fd, &c->greeting);
    if (r < 0 || (r > 0 && !virtio_live(&c->s->v)))
        vsock_conn_kill(c);
    if (r <= 0 || c->state == CONN_DEAD)
        return;
    vsock_conn_name(c, c->greeting.port, new_port(c->s, c->greeting.port));
    c->state = CONN_ASKED;
    c->pend = PEND_REQUEST;
    c->deadline = vsock_after(c->s, ASK_SECONDS);
}

static void on_conn(void *arg, unsigned events)
{
    struct vsock_conn *c = arg;
    struct vsock *s = c->s;
    lock_take(&s->v.lock);
    if (c->state == CONN_GREETING)
        greet(c);
    else if (c->state != CONN_DEAD && (events & LOOP_OUT))
        vsock_conn_flush(c);
    if (c->state == CONN_OPEN && (events & LOOP_IN))
        c->readable = true;
    vsock_conn_update(c);
    vsock_pump(s);
    lock_drop(&s->v.lock);
}

static bool adopt(struct vsock_conn *c, int fd)
{
    c->fd = fd;
    c->watch = loop_fd_add(c->s->loop, fd, 0, on_conn, c);
    return c->watch != NULL;
}

static void listen_on(struct vsock *s, bool on)
{
    s->listening = on;
    if (s->listener)
        loop_fd_update(s->listener, on ? LOOP_IN : 0);
    if (!on)
        vsock_loop_tick(s);
}

static void on_listener(void *arg, unsigned events)
{
    struct vsock *s = arg;
    (void)events;
    lock_take(&s->v.lock);
    for (int i = 0; i < ACCEPTS && !s->gone; i++) {
        int fd = vsock_host_accept(s->host);
        if (fd < 0) {
            if (fd != -EAGAIN && fd != -EINTR && fd != -ECONNABORTED)
                listen_on(s, false); /* no descriptors left, say: in a while there may be */
            break;
        }
        struct vsock_conn *c = virtio_live(&s->v) ? vsock_conn_new(s, CONN_GREETING) : NULL;
        if (!c) {
            close(fd); /* nobody is there */
            continue;
        }
        if (!adopt(c, fd))
            vsock_conn_kill(c);
        vsock_conn_update(c);
    }
    lock_drop(&s->v.lock);
}

/* ---- listeners of the host ---- */

static void try_connect(struct vsock_conn *c)
{
    int fd = vsock_host_connect(c->s->host, c->host_port);
    if (fd == -EAGAIN) {
        vsock_loop_tick(c->s);
        return;
    }
    if (fd < 0 || !adopt(c, fd)) {
        vsock_conn_abort(c);
        return;
    }
    c->state = CONN_OPEN;
    c->deadline = 0;
    c->s->opened++;
    c->pend |= PEND_RESPONSE;
    vsock_conn_update(c);
}

static void connect_all(struct vsock *s)
{
    struct vsock_link *next;
    for (struct vsock_link *l = s->all.next; l != &s->all; l = next) {
        struct vsock_conn *c = vsock_of(l, all);
        next = l->next;
        if (c->state != CONN_CONNECTING)
            continue;
        if (!c->deadline)
            c->deadline = vsock_after(s, CONNECT_SECONDS);
        try_connect(c);
    }
}

/* ---- calls from other threads ---- */

static void bury(struct vsock_conn *c)
{
    loop_fd_del(c->watch);
    if (c->fd >= 0)
        close(c->fd);
    free(c);
}

void vsock_unref(struct vsock *s)
{
    if (__atomic_sub_fetch(&s->refs, 1, __ATOMIC_ACQ_REL) == 0)
        free(s);
}

static void run_call(void *arg)
{
    struct vsock *s = arg;
    if (!__atomic_load_n(&s->gone, __ATOMIC_ACQUIRE)) {
        lock_take(&s->v.lock);
        s->posted = false;
        connect_all(s);
        while (s->dead.next != &s->dead) {
            struct vsock_conn *c = vsock_of(s->dead.next, all);
            vsock_list_del(&c->all);
            s->n_conns--;
            bury(c);
        }
        vsock_pump(s);
        lock_drop(&s->v.lock);
    }
    vsock_unref(s);
}

void vsock_loop_call(struct vsock *s)
{
    if (s->posted || s->gone)
        return;
    s->posted = true;
    __atomic_add_fetch(&s->refs, 1, __ATOMIC_ACQ_REL);
    if (loop_post(s->loop, run_call, s) < 0)
        abort(); /* connections would hang without a word */
}

/* ---- time ---- */

static void arm(struct vsock *s, unsigned ms)
{
    s->ticking = true;
    timer_arm(&s->tick, timer_now(s->v.timers) + ms * 1000000UL);
}

void vsock_loop_tick(struct vsock *s)
{
    if (!s->ticking && !s->gone)
        arm(s, TICK_MS);
}

/* True: there will be something to look at. */
static bool look_at(struct vsock_conn *c, uint64_t now)
{
    if (c->deadline && c->deadline <= now) {
        vsock_conn_abort(c);
        return false;
    }
    if (c->state == CONN_OPEN && !c->host_deaf && (c->host_eof || (c->guest_shut & VSOCK_NO_RECEIVE))) {
        if (!vsock_conn_hung_up(c))
            return true;
        c->host_eof = true;
        vsock_conn_update(c);
    }
    return c->deadline != 0;
}

static void on_tick(void *arg)
{
    struct vsock *s = arg;
    struct vsock_link *next;
    bool more = false, fast = false;
    lock_take(&s->v.lock);
    s->ticking = false;
    uint64_t now = timer_now(s->v.timers);
    connect_all(s);
    for (struct vsock_link *l = s->all.next; l != &s->all; l = next) {
        struct vsock_conn *c = vsock_of(l, all);
        next = l->next;
        more |= look_at(c, now);
        fast |= c->state == CONN_CONNECTING;
    }
    if (!s->listening)
        listen_on(s, true);
    vsock_pump(s);
    if ((more || fast) && !s->ticking && !s->gone)
        arm(s, fast ? TICK_MS : SLOW_TICK_MS);
    lock_drop(&s->v.lock);
}

/* ---- life ---- */

int vsock_loop_start(struct vsock *s)
{
    timer_init(&s->tick, s->v.timers, on_tick, s);
    s->listening = true;
    s->listener = loop_fd_add(s->loop, vsock_host_fd(s->host), LOOP_IN, on_listener, s);
    return s->listener ? 0 : -EIO;
}

/*
 * Waiting for the deletion of the listener waits for the loop's thread, and so for every call that was posted before;
 * where the loop has been stopped those that are left find the device gone.
 */
void vsock_loop_end(struct vsock *s)
{
    lock_take(&s->v.lock);
    __atomic_store_n(&s->gone, true, __ATOMIC_RELEASE);
    while (s->all.next != &s->all)
        vsock_conn_kill(vsock_of(s->all.next, all));
    struct loop_fd *listener = s->listener;
    s->listener = NULL;
    lock_drop(&s->v.lock);
    timer_disarm(&s->tick);
    loop_fd_del(listener);
    timer_disarm(&s->tick);
    while (s->dead.next != &s->dead) { /* nobody else is left who could change the list */
        struct vsock_conn *c = vsock_of(s->dead.next, all);
        vsock_list_del(&c->all);
        bury(c);
    }
}
