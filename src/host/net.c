/* SPDX-License-Identifier: MIT */
/* The kinds of network back ends, and the thread that drives one. */
#include "host/net.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/thread.h"
#include "host/net_thread.h"

enum { TX_BATCH = 64 };

/* ---- the thread ---- */

static void wait_events(struct net_thread *t, bool busy)
{
    int timeout = -1;
    t->n_fds = 1;
    t->fds[0] = (struct pollfd){ .fd = t->wake, .events = POLLIN };
    t->kind->prepare(t, &timeout);
    if (poll(t->fds, t->n_fds, busy ? 0 : timeout) < 0) { /* EINTR, or no memory: nothing is ready */
        for (unsigned i = 0; i < t->n_fds; i++)
            t->fds[i].revents = 0;
    }
    if (t->fds[0].revents) {
        uint64_t count;
        ssize_t r = read(t->wake, &count, sizeof(count));
        (void)r;
    }
    /* From here on a kick writes again, so whoever kicks after we looked is not missed. */
    __atomic_store_n(&t->kicked, false, __ATOMIC_SEQ_CST);
}

/* True: there is more to send. */
static bool send_some(struct net_thread *t)
{
    for (unsigned i = 0; i < TX_BATCH; i++) {
        if (!t->len)
            t->len = t->user.tx(t->user.arg, &t->hdr, t->frame);
        if (!t->len || !t->kind->send(t))
            return false;
        t->len = 0;
    }
    return true;
}

static void *thread_main(void *arg)
{
    struct net_thread *t = arg;
    bool busy = true;
    while (!__atomic_load_n(&t->stop, __ATOMIC_SEQ_CST)) {
        wait_events(t, busy);
        busy = t->kind->ready(t);
        busy |= send_some(t);
        t->user.flush(t->user.arg);
    }
    return NULL;
}

static void thread_kick(struct net *n)
{
    struct net_thread *t = (struct net_thread *)n;
    const uint64_t one = 1;
    if (__atomic_exchange_n(&t->kicked, true, __ATOMIC_SEQ_CST))
        return;
    ssize_t r = write(t->wake, &one, sizeof(one));
    (void)r; /* EAGAIN: it is readable already */
}

static void thread_stop(struct net_thread *t)
{
    if (!t->running)
        return;
    __atomic_store_n(&t->stop, true, __ATOMIC_SEQ_CST);
    thread_kick(&t->net);
    pthread_join(t->thread, NULL);
    t->running = false;
    t->len = 0;
}

/* Like all threads here but the main one, it takes no signals but those of its own faults. */
static int thread_attach(struct net *n, const struct net_user *user)
{
    struct net_thread *t = (struct net_thread *)n;
    thread_stop(t);
    if (!user)
        return 0;
    t->user = *user;
    t->stop = false;
    int r = thread_start(&t->thread, 0, thread_main, t);
    if (r == 0)
        pthread_setname_np(t->thread, "net");
    t->running = r == 0;
    return r;
}

static void thread_set_guest(struct net *n, unsigned offloads)
{
    __atomic_store_n(&((struct net_thread *)n)->guest, offloads, __ATOMIC_RELAXED);
    thread_kick(n);
}

static void thread_free(struct net *n)
{
    struct net_thread *t = (struct net_thread *)n;
    thread_stop(t);
    t->kind->fini(t);
}

static const struct net_ops thread_ops = {
    .attach = thread_attach, .kick = thread_kick, .set_guest = thread_set_guest, .free = thread_free
};

int net_thread_init(struct net_thread *t, const struct net_kind *kind)
{
    t->net.ops = &thread_ops;
    t->kind = kind;
    t->wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    return t->wake < 0 ? -errno : 0;
}

void net_thread_fini(struct net_thread *t)
{
    if (t->wake >= 0)
        close(t->wake);
}

int net_thread_poll(struct net_thread *t, int fd, short events)
{
    if (t->n_fds == NET_FDS_MAX)
        return -1;
    t->fds[t->n_fds] = (struct pollfd){ .fd = fd, .events = events };
    return (int)t->n_fds++;
}

/* ---- "none": a cable that ends nowhere ---- */

static void none_prepare(struct net_thread *t, int *timeout_ms)
{
    (void)t, (void)timeout_ms;
}
static bool none_ready(struct net_thread *t)
{
    (void)t;
    return false;
}
static bool none_send(struct net_thread *t)
{
    (void)t;
    return true;
}
static void none_fini(struct net_thread *t)
{
    net_thread_fini(t);
    free(t);
}

static struct net *none_open(char *options, struct err *e)
{
    static const struct net_kind kind = {
        .prepare = none_prepare, .ready = none_ready, .send = none_send, .fini = none_fini
    };
    struct net_thread *t = calloc(1, sizeof(*t));
    if (options && *options)
        err_set(e, EINVAL, "--net none has no option \"%s\"", options);
    else if (!t || net_thread_init(t, &kind) < 0)
        err_set(e, ENOMEM, "out of memory for a network device");
    else
        return &t->net;
    free(t);
    return NULL;
}

/* ---- opening ---- */

bool net_next_option(char **rest, char **key, char **value)
{
    if (!*rest || !**rest)
        return false;
    *key = *rest;
    *rest = strchr(*rest, ',');
    if (*rest)
        *(*rest)++ = '\0';
    *value = strchr(*key, '=');
    if (*value)
        *(*value)++ = '\0';
    return true;
}

struct net *net_open(const char *kind, char *options, struct err *e)
{
    static const struct {
        const char *name;
        struct net *(*open)(char *options, struct err *e);
    } kinds[] = {
        { "user", net_user_open },
        { "tap", net_tap_open },
        { "link", net_link_open },
        { "none", none_open },
    };
    for (unsigned i = 0; i < ARRAY_LEN(kinds); i++)
        if (strcmp(kind, kinds[i].name) == 0)
            return kinds[i].open(options, e);
    err_set(e, EINVAL, "--net: unknown kind \"%s\"; it must be user, tap, link or none", kind);
    return NULL;
}
