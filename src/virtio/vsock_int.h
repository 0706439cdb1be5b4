/* SPDX-License-Identifier: MIT */
/*
 * virtio-vsock, for its own files: vsock.c has the queues and what the guest's packets mean, vsock_conn.c the
 * connections and their bytes, vsock_loop.c what must happen on the event loop's thread: unix sockets come and go
 * there. "Up" is from the guest to the host, "down" the other way. Everything is under the device's lock.
 */
#ifndef GAZDA_VIRTIO_VSOCK_INT_H
#define GAZDA_VIRTIO_VSOCK_INT_H

#include <sys/uio.h>

#include "base/loop.h"
#include "host/vsock.h"
#include "virtio/devices.h"
#include "virtio/vsock_wire.h"

enum { VSOCK_RXQ, VSOCK_TXQ, VSOCK_EVENTQ };
enum {
    VSOCK_CONNS = 1023,
    VSOCK_GREETINGS = 64, /* that may be waited for at a time */
    VSOCK_HASH = 256,
    VSOCK_RSTS = 2048,
    VSOCK_RSTS_HIGH = 1024, /* from then on nothing that may be answered by one is taken from the guest */
    VSOCK_BUF = 256 << 10,  /* what one connection may hold for a host program that reads slowly ... */
    VSOCK_BUF_MANY = 64 << 10,
    VSOCK_FEW = 64, /* ... while there are no more connections than that */
};

enum vsock_state {
    CONN_GREETING,   /* a host program has connected, but not said where to */
    CONN_ASKED,      /* the guest has a REQUEST */
    CONN_CONNECTING, /* the guest's REQUEST: the loop connects to the listener */
    CONN_OPEN,
    CONN_ORPHAN, /* the guest knows it no more; the host program still gets what was sent to it */
    CONN_DEAD,   /* for the loop to close and free */
};
enum { PEND_REQUEST = 1, PEND_RESPONSE = 2, PEND_CREDIT_UPDATE = 4, PEND_CREDIT_REQUEST = 8 };

struct vsock_conn {
    struct vsock_link all, active; /* first; active: has something for the guest */
    struct vsock_conn *hash_next;
    struct vsock *s;
    enum vsock_state state;
    uint32_t guest_port, host_port;
    int fd; /* -1: none yet */
    struct loop_fd *watch;
    struct vsock_greeting greeting;
    unsigned pend;                /* PEND_*: packets owed to the guest */
    uint64_t deadline;            /* ns; 0 = none */
    unsigned guest_shut, we_told; /* VSOCK_NO_*: given up by the guest; told to the guest of the host's side */
    bool host_eof, host_deaf;     /* the host program sends no more; takes no more */
    /* up: fwd_cnt - bytes passed on; fwd_told - of which the guest knows */
    uint32_t buf_alloc, fwd_cnt, fwd_told;
    uint8_t *buf; /* a ring of buf_alloc bytes, there while it holds some */
    uint32_t at, used;
    /* down: as the guest says, and bytes sent */
    uint32_t peer_alloc, peer_fwd, tx_cnt;
    bool readable, asked_credit;
};

struct vsock_rst {
    uint64_t src_cid;
    uint32_t src_port, dst_port;
    uint32_t buf_alloc, fwd_cnt; /* all packets of a flow say these; 0 where there is none */
    uint16_t type;
};

struct vsock {
    struct virtio_dev v; /* first */
    struct loop *loop;
    struct vsock_host *host;
    uint64_t cid;
    int refs; /* the device's, and of each posted call; atomic */
    bool gone, posted, reset_event, tx_waits, listening;
    struct loop_fd *listener;
    struct timer tick;
    bool ticking;
    struct vsock_link all, active, dead;
    unsigned n_conns;
    struct vsock_count {
        uint64_t packets, bytes;
    } up, down;
    uint64_t opened, resets;
    uint32_t next_port;
    struct vsock_conn *hash[VSOCK_HASH];
    unsigned rst_at, n_rsts;
    struct vsock_rst rst[VSOCK_RSTS];
    struct iovec iov[VIRTQ_MAX]; /* the pinned part of v.chain, */
    struct virtq_buf part[VIRTQ_MAX];
    unsigned n_parts;
};

/* ---- vsock.c ---- */

/* Gives the guest what there is for it, within bounds; goes on by itself if that was not all. */
void vsock_pump(struct vsock *s);
/* Owes the guest a RST that answers h, or one for a connection that it knows. */
void vsock_answer_rst(struct vsock *s, const struct vsock_hdr *h);
void vsock_send_rst(const struct vsock_conn *c);

/* ---- vsock_conn.c ---- */

/* NULL: no memory, or too many. */
struct vsock_conn *vsock_conn_new(struct vsock *s, enum vsock_state state);
/* Gives it its ports, by which the guest's packets find it. */
void vsock_conn_name(struct vsock_conn *c, uint32_t guest_port, uint32_t host_port);
struct vsock_conn *vsock_conn_find(struct vsock *s, uint32_t guest_port, uint32_t host_port);
/* Nobody is told anything; the loop closes and frees it. */
void vsock_conn_kill(struct vsock_conn *c);
/* The same with a RST to the guest. */
void vsock_conn_abort(struct vsock_conn *c);
/* The guest has done with it: what it sent is still passed on. */
void vsock_conn_leave(struct vsock_conn *c);
/* The guest's RW packet in chain v.chain. False: it broke a rule. */
bool vsock_conn_up(struct vsock_conn *c, uint32_t len);
/* Passes on what is held. */
void vsock_conn_flush(struct vsock_conn *c);
/* Makes the next packet for the guest in v.chain: its length, 0 = none. h comes with the fields that all have in
 * common. */
uint32_t vsock_conn_down(struct vsock_conn *c, struct vsock_hdr *h);
/* Looks at what changed: queues it for the guest, watches its socket. */
void vsock_conn_update(struct vsock_conn *c);
/* Whether the host program has closed its end; then it is remembered as deaf. */
bool vsock_conn_hung_up(struct vsock_conn *c);

/* ---- vsock_loop.c ---- */

int vsock_loop_start(struct vsock *s);
void vsock_loop_end(struct vsock *s); /* lock not held: ends all connections and callbacks */
void vsock_unref(struct vsock *s);
/* There are connections to connect, or dead ones. */
void vsock_loop_call(struct vsock *s);
/* There is a deadline. */
void vsock_loop_tick(struct vsock *s);
uint64_t vsock_after(struct vsock *s, unsigned seconds);

#endif
