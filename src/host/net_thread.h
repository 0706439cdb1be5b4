/* SPDX-License-Identifier: MIT */
/* The thread of a network back end, and its poll set. For the files net_*.c of this folder only. */
#ifndef GAZDA_HOST_NET_THREAD_H
#define GAZDA_HOST_NET_THREAD_H

#include <poll.h>
#include <pthread.h>

#include "host/net.h"

enum { NET_FDS_MAX = 1024 };

struct net_thread;

/* A kind of back end. All but fini run on the thread. */
struct net_kind {
    /* Names what to wait for: net_thread_poll, and *timeout_ms (-1: for ever), which it may only shorten. */
    void (*prepare)(struct net_thread *t, int *timeout_ms);
    /* After the wait: reads what came, and gives it to t->user. True: there is more, do not wait. */
    bool (*ready)(struct net_thread *t);
    /* Sends t->frame (t->len bytes, t->hdr). False: it cannot now; it is asked again after the next wait. */
    bool (*send)(struct net_thread *t);
    void (*fini)(struct net_thread *t); /* frees it; the thread is gone */
};

struct net_thread {
    struct net net; /* first */
    const struct net_kind *kind;
    struct net_user user;
    pthread_t thread;
    bool running, stop; /* stop: atomic */
    bool kicked;        /* atomic: wake is readable, or the thread is awake and will look */
    int wake;           /* an eventfd */
    unsigned guest;     /* atomic: NET_* */
    unsigned n_fds;
    struct pollfd fds[NET_FDS_MAX];
    size_t len; /* of the frame that waits to be sent; 0 = none */
    struct net_hdr hdr;
    uint8_t frame[NET_FRAME_MAX];
};

/* 0 or -errno. */
int net_thread_init(struct net_thread *t, const struct net_kind *kind);
void net_thread_fini(struct net_thread *t);
/* Adds fd to the poll set: its index, or -1 if there are too many. */
int net_thread_poll(struct net_thread *t, int fd, short events);
static inline short net_thread_revents(const struct net_thread *t, int i)
{
    return i < 0 ? 0 : t->fds[i].revents;
}
static inline unsigned net_thread_guest(const struct net_thread *t)
{
    return __atomic_load_n(&t->guest, __ATOMIC_RELAXED);
}

struct net *net_user_open(char *options, struct err *e);
struct net *net_tap_open(char *options, struct err *e);
struct net *net_link_open(char *options, struct err *e);

/* Takes "key=value" or "word" (value NULL) off a list with commas: false at its end. */
bool net_next_option(char **rest, char **key, char **value);

#endif
