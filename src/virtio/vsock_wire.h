/* SPDX-License-Identifier: MIT */
/* virtio-vsock, for its own files: packets (virtio 1.2, "Socket Device"), and the lists that connections are in. */
#ifndef GAZDA_VIRTIO_VSOCK_WIRE_H
#define GAZDA_VIRTIO_VSOCK_WIRE_H

#include "base/types.h"

enum { VSOCK_CID_HOST = 2, VSOCK_TYPE_STREAM = 1, VSOCK_HDR = 44, VSOCK_PACKET_MAX = 65536 };
/* virtio 1.2, "Device Operation" of the socket device. */
enum {
    VSOCK_OP_REQUEST = 1,
    VSOCK_OP_RESPONSE,
    VSOCK_OP_RST,
    VSOCK_OP_SHUTDOWN,
    VSOCK_OP_RW,
    VSOCK_OP_CREDIT_UPDATE,
    VSOCK_OP_CREDIT_REQUEST
};
enum { VSOCK_NO_RECEIVE = 1, VSOCK_NO_SEND = 2, VSOCK_NO_BOTH = 3 }; /* flags of SHUTDOWN: what the sender gave up */

struct vsock_hdr {
    uint64_t src_cid, dst_cid;
    uint32_t src_port, dst_port;
    uint32_t len;
    uint16_t type, op;
    uint32_t flags, buf_alloc, fwd_cnt;
} __attribute__((packed));
_Static_assert(sizeof(struct vsock_hdr) == VSOCK_HDR, "virtio 1.2, struct virtio_vsock_hdr");

/* ---- lists: a ring with a head; a link that is in none is linked to itself ---- */

struct vsock_link {
    struct vsock_link *prev, *next;
};
#define vsock_of(link, member) container_of(link, struct vsock_conn, member)

static inline void vsock_list_init(struct vsock_link *l)
{
    l->prev = l->next = l;
}
static inline void vsock_list_del(struct vsock_link *l)
{
    l->prev->next = l->next;
    l->next->prev = l->prev;
    vsock_list_init(l);
}
static inline void vsock_list_add(struct vsock_link *head, struct vsock_link *l)
{
    l->prev = head->prev;
    l->next = head;
    head->prev->next = l;
    head->prev = l;
}

#endif
