/* SPDX-License-Identifier: MIT */
/* The virtio devices: constructors. Each returns NULL without memory; virtio_free frees any of them. */
#ifndef GAZDA_VIRTIO_DEVICES_H
#define GAZDA_VIRTIO_DEVICES_H

#include "host/diskio.h"
#include "virtio/virtio.h"

struct chardev;
struct disk;
struct net;
struct net_dump;
struct limiter_cfg;
struct loop;
struct vsock_host;
struct share;
struct err;

/* Up to VIRTIO_QUEUES_MAX queues, 1 at least. */
struct virtio_blk_cfg {
    struct disk *disk; /* not owned */
    unsigned queues;
    const struct limiter_cfg *limit; /* NULL: none. With one, env has timers. */
    enum diskio_way io;
};
/* NULL with e set. */
struct virtio_dev *virtio_blk_new(const struct virtio_env *env, const struct virtio_blk_cfg *cfg, struct err *e);

enum { VIRTIO_CONSOLE_PORTS_MAX = 9 };
struct virtio_console_port {
    const char *name;   /* copied; NULL: a console. Linux shows it as /dev/virtio-ports/NAME */
    struct chardev *ch; /* not owned; NULL: there is no port of this number */
};
/* Port 0 is the console or absent; several ports come with MULTIPORT. Attaches to the back ends. */
struct virtio_dev *virtio_console_new(const struct virtio_env *env, const struct virtio_console_port *port, unsigned n);

/* One pair of queues. */
struct virtio_net_cfg {
    struct net *net;       /* not owned, like dump */
    struct net_dump *dump; /* NULL: none */
    uint8_t mac[6];
    uint16_t mtu;                      /* told to the guest; 0: nothing is */
    const struct limiter_cfg *rx, *tx; /* NULL: none */
};
struct virtio_dev *virtio_net_new(const struct virtio_env *env, const struct virtio_net_cfg *cfg);

/* limit as for a disk. */
struct virtio_dev *virtio_rng_new(const struct virtio_env *env, const struct limiter_cfg *limit);

struct virtio_balloon_cfg {
    uint64_t target;        /* bytes that the guest shall give */
    bool deflate_on_oom;    /* the guest may take them back rather than kill a process */
    bool reporting;         /* it also tells of pages that are free for the moment */
    unsigned stats_seconds; /* 0: no statistics; else env has timers */
};
struct virtio_dev *virtio_balloon_new(const struct virtio_env *env, const struct virtio_balloon_cfg *cfg);
enum { VIRTIO_BALLOON_STATS = 16 };
struct virtio_balloon_info {
    uint64_t target, actual;              /* bytes: what the guest shall give, and says it gave */
    uint64_t inflated, deflated;          /* bytes in the guest's lists, all told */
    uint64_t reported, given_back;        /* bytes it reported free; host memory that all this freed */
    uint64_t stats_updates;               /* 0: the guest has sent no statistics yet */
    uint32_t stats_known;                 /* which of these it sent, a bit each */
    uint64_t stats[VIRTIO_BALLOON_STATS]; /* bytes, or counts */
};
/* Lock not held, for all three. A target beyond RAM: -EINVAL. */
int virtio_balloon_set(struct virtio_dev *v, uint64_t target);
/* Asks for statistics that often from now on. -EINVAL: there were none from the start, or there shall be none. */
int virtio_balloon_poll(struct virtio_dev *v, unsigned seconds);
void virtio_balloon_get(struct virtio_dev *v, struct virtio_balloon_info *out);
/* Firecracker's name of a statistic. */
const char *virtio_balloon_stat_name(unsigned i);

/*
 * Stream sockets to the unix sockets of host, which is not owned; cid is the guest's. The loop's thread may run
 * already; without it nothing connects. Timers are needed.
 */
struct virtio_dev *virtio_vsock_new(const struct virtio_env *env, struct loop *loop, struct vsock_host *host,
                                    uint32_t cid);

/* The tag is at most VIRTIO_9P_TAG_MAX bytes and not empty. The share is not owned. */
enum { VIRTIO_9P_TAG_MAX = 64 };
struct virtio_dev *virtio_9p_new(const struct virtio_env *env, struct share *share, const char *tag);

#endif
