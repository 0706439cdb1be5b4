/* SPDX-License-Identifier: MIT */
/*
 * What the descriptor-backed character back ends share: bounded buffers both ways, the loop's watchers, and a timer
 * that looks for peers where epoll has nothing to say. For files of this folder only.
 */
#ifndef GAZDA_HOST_STREAM_H
#define GAZDA_HOST_STREAM_H

#include <pthread.h>

#include "base/lock.h"
#include "base/loop.h"
#include "host/chardev.h"

enum { STREAM_TX = 65536, STREAM_RX = 8192, STREAM_POLL_MS = 250 };

struct stream;

/* A kind of back end. All but fini may be NULL; all but filter and size run with no lock held, on the
 * loop thread. */
struct stream_kind {
    /* Edits n fresh bytes in place and returns how many are input. Lock held: the stream may only be flagged. */
    size_t (*filter)(struct stream *s, uint8_t *buf, size_t n);
    void (*after_read)(struct stream *s); /* acts on what filter found */
    bool (*may_read)(struct stream *s);   /* false: not now; it has called stream_hold_input */
    void (*hangup)(struct stream *s);     /* end of input, or an error on either side */
    void (*tick)(struct stream *s);       /* STREAM_POLL_MS after stream_poll_later */
    void (*closing)(struct stream *s);    /* chardev_free, output is drained */
    void (*fini)(struct stream *s);       /* the last reference is gone: free it */
    /* The terminal's size. Lock held, any thread. */
    void (*size)(const struct stream *s, uint16_t *cols, uint16_t *rows);
    bool socket;   /* the output descriptor is one */
    bool keeps_fd; /* fini closes the descriptors, nobody else does */
    bool history;  /* output before the first peer is kept (the newest) and shown to it */
};

struct stream {
    struct chardev ch; /* first */
    const struct stream_kind *kind;
    struct chardev_env env;
    struct timer timer;
    unsigned refs; /* atomic: the owner and each posted call */

    struct lock lock; /* everything below */
    pthread_cond_t idle;
    struct chardev_user user;
    bool attached, in_callback, dead;
    bool posted;          /* a deliver is on its way */
    bool connected, once; /* somebody is there; ever was */
    bool rx_end, hold_rx; /* nothing more to read; not now */
    bool tx_short;        /* the user waits for tx_ready */
    bool hangup_posted, file_posted;
    int rfd, wfd;                    /* -1 = none; may be one descriptor */
    struct loop_fd *rwatch, *wwatch; /* the same for one descriptor; NULL where epoll cannot watch */
    size_t rx_len, tx_at, tx_len;
    uint8_t rx[STREAM_RX];
    uint8_t tx[STREAM_TX]; /* a ring */
};

extern const struct chardev_ops stream_ops;

void stream_init(struct stream *s, const struct stream_kind *kind, const struct chardev_env *env);
/* The peer is there: takes both descriptors (non-blocking; equal or -1 allowed) and watches them. 0 or -EIO. */
int stream_connect(struct stream *s, int rfd, int wfd);
/* The peer is gone: what it did not take is dropped, the descriptors are closed. */
void stream_disconnect(struct stream *s);
/* Stops or goes on reading the descriptor. */
void stream_hold_input(struct stream *s, bool hold);
void stream_poll_later(struct stream *s);
/* The status is another one now: tells the user. Loop thread, or while the loop does not run; lock not held. */
void stream_changed(struct stream *s);

struct chardev *chardev_null_open(void);
struct chardev *chardev_stdio_open(const struct chardev_env *env, struct err *e);
struct chardev *chardev_pty_open(const struct chardev_env *env, struct err *e);
struct chardev *chardev_file_open(const char *path, const struct chardev_env *env, struct err *e);
struct chardev *chardev_unix_open(const char *path, const struct chardev_env *env, struct err *e);
struct chardev *chardev_socket_open(const char *path, const struct chardev_env *env, struct err *e);

#endif
