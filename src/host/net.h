/* SPDX-License-Identifier: MIT */
/*
 * Back ends of network devices: what carries Ethernet frames between a guest and the outside. Frames travel with a
 * virtio-net header, so that checksums and segmentation can be left to whoever is better at it.
 *
 * A back end has a thread of its own that pulls the guest's frames and pushes those for it; a device only kicks it. So
 * nothing is queued between the two, neither waits for the other, and a side that is slow slows the other down.
 */
#ifndef GAZDA_HOST_NET_H
#define GAZDA_HOST_NET_H

#include <stddef.h>

#include "base/err.h"
#include "base/types.h"

/* virtio 1.2, "struct virtio_net_hdr"; little endian, as the host. */
struct net_hdr {
    uint8_t flags, gso_type;
    uint16_t hdr_len, gso_size;
    uint16_t csum_start, csum_offset;
    uint16_t num_buffers; /* the device's business */
};
enum { NET_NEEDS_CSUM = 1, NET_DATA_VALID = 2 };
enum {
    NET_GSO_NONE = 0,
    NET_GSO_TCPV4 = 1,
    NET_GSO_UDP = 3,
    NET_GSO_TCPV6 = 4,
    NET_GSO_UDP_L4 = 5,
    NET_GSO_ECN = 0x80
};

/* What a side takes unfinished: checksums to be completed, large segments to be cut. */
enum { NET_CSUM = 1, NET_TSO4 = 2, NET_TSO6 = 4, NET_ECN = 8, NET_USO = 16 };

/* Bytes: an Ethernet header with two VLAN tags and 64 KiB; a header of 14 bytes and nothing. */
enum { NET_FRAME_MAX = 22 + 65536, NET_FRAME_MIN = 14, NET_MAC = 6 };

/* The device's side; all on the back end's thread, with no lock held. */
struct net_user {
    /* The next frame of the guest, into buf (NET_FRAME_MAX): its length, 0 = none; net_kick tells when there is. The
     * header is checked: what it refers to lies in the frame, and it asks for nothing but what the back end takes. */
    size_t (*tx)(void *arg, struct net_hdr *h, uint8_t *buf);
    /* A frame for the guest. False: not now, net_kick tells when to offer it again. True: taken, or not wanted. */
    bool (*rx)(void *arg, const struct net_hdr *h, const uint8_t *frame, size_t len);
    /* That was all for now: time to tell the guest. */
    void (*flush)(void *arg);
    void *arg;
};

struct net;

struct net_ops {
    int (*attach)(struct net *n, const struct net_user *user);
    void (*kick)(struct net *n);
    void (*set_guest)(struct net *n, unsigned offloads);
    void (*free)(struct net *n);
};

struct net {
    const struct net_ops *ops; /* back ends embed this first */
    unsigned offloads;         /* NET_*: what it takes from the guest */
    uint16_t mtu;              /* of the outside; 0: not known */
};

/*
 * Opens "user", "tap", "link" or "none" with its options ("a=b,c", cut in place; may be NULL). NULL with e set.
 * docs/network.md has the options.
 */
struct net *net_open(const char *kind, char *options, struct err *e);

/* Connects the device and starts the thread, or, with NULL, stops it: no callback runs any more on return. *user is
 * copied. 0 or -errno. No lock held. */
static inline int net_attach(struct net *n, const struct net_user *user)
{
    return n->ops->attach(n, user);
}
/* There are frames to send, or room for those that came. Any thread, any lock; never blocks. */
static inline void net_kick(struct net *n)
{
    n->ops->kick(n);
}
/* NET_*: what the guest takes, a hint of what is worth making. Any thread, any lock. */
static inline void net_set_guest(struct net *n, unsigned offloads)
{
    n->ops->set_guest(n, offloads);
}
/* After attach(NULL). NULL is fine. */
static inline void net_free(struct net *n)
{
    if (n)
        n->ops->free(n);
}

#endif
