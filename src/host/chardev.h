/* SPDX-License-Identifier: MIT */
/*
 * A byte stream to the outside (stdio, pty, file, socket) as a guest's serial device or console sees it.
 *
 * Nothing here blocks. Output that the outside does not take yet is buffered up to a bound; beyond it write takes
 * less than it was given and tx_ready is called when there is room again. A back end without a peer (a socket nobody
 * connected to, a pty nobody opened) takes everything and drops it, so that a guest never hangs on its console.
 */
#ifndef GAZDA_HOST_CHARDEV_H
#define GAZDA_HOST_CHARDEV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct chardev;
struct loop;

/* What a back end needs of its process. quit: the user asked to leave (escape key of stdio); loop thread, only flags.
 */
struct chardev_env {
    struct loop *loop;
    void (*quit)(void *arg);
    void *arg;
};

/* The device's side. All are called on the loop thread with no lock held; any but rx and can_rx may be NULL. */
struct chardev_user {
    size_t (*can_rx)(void *arg); /* how many bytes rx takes now; 0 = stop reading until chardev_rx_ready */
    void (*rx)(void *arg, const void *buf, size_t len); /* len <= what can_rx said last */
    void (*tx_ready)(void *arg);                        /* after a short write: there is room again */
    void (*changed)(void *arg);                         /* chardev_get_status may say something else now */
    void *arg;
};

struct chardev_status {
    bool peer;           /* somebody is there */
    uint16_t cols, rows; /* of the terminal, 0 = it is none, or unknown */
};

/* The back end's side; chardev_* below are the callers. Those from status on may be NULL. */
struct chardev_ops {
    size_t (*write)(struct chardev *ch, const void *buf, size_t len);
    void (*attach)(struct chardev *ch, const struct chardev_user *user);
    void (*rx_ready)(struct chardev *ch);
    void (*free)(struct chardev *ch);
    void (*status)(struct chardev *ch, struct chardev_status *st);
    void (*opened)(struct chardev *ch, bool open);
};

struct chardev {
    const struct chardev_ops *ops; /* back ends embed this first */
};

/* Any thread; takes LOCK_CHARDEV, so a device may hold its own lock. Returns how many bytes were taken. */
static inline size_t chardev_write(struct chardev *ch, const void *buf, size_t len)
{
    return ch->ops->write(ch, buf, len);
}

/* Connects the device, or disconnects it with user == NULL: then no callback runs any more on return. *user is copied.
 * While nobody is attached nothing is read. Not from a callback, no lock held. */
static inline void chardev_attach(struct chardev *ch, const struct chardev_user *user)
{
    ch->ops->attach(ch, user);
}

/* "can_rx may be above 0 again." Any thread, a device lock may be held; never calls back before it returns. */
static inline void chardev_rx_ready(struct chardev *ch)
{
    ch->ops->rx_ready(ch);
}

/* Any thread, a device lock may be held. */
static inline void chardev_get_status(struct chardev *ch, struct chardev_status *st)
{
    *st = (struct chardev_status){ .peer = true };
    if (ch->ops->status)
        ch->ops->status(ch, st);
}

/* The guest's side was opened or closed, where that is known (virtio ports). Any thread, a device lock may be held. */
static inline void chardev_opened(struct chardev *ch, bool open)
{
    if (ch->ops->opened)
        ch->ops->opened(ch, open);
}

/* Flushes what can be written at once, restores the terminal, closes. After attach(NULL). ch may be NULL. */
static inline void chardev_free(struct chardev *ch)
{
    if (ch)
        ch->ops->free(ch);
}

/* Gives the terminal its old mode back. Async-signal-safe, for the fatal signal handlers of others; never fails. */
void chardev_stdio_restore(void);

/*
 * Opens "stdio", "pty", "file:F", "unix:F", "socket:F" or "null". env is copied. NULL with e set. The process ignores
 * SIGPIPE. This and chardev_free are called on the loop thread or while the loop does not run.
 */
struct chardev *chardev_open(const char *spec, const struct chardev_env *env, struct err *e);

#endif
