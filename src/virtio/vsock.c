/* SPDX-License-Identifier: MIT */
/*
 * virtio socket device (virtio 1.2, "Socket Device"): stream sockets between the guest and programs of the host. This
 * file has the queues and what the guest's packets mean. A guest that takes no answers cannot make us remember them
 * without bound: its packets wait in their queue when too many RSTs are owed.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "state/state.h"
#include "virtio/stats.h"
#include "virtio/vsock_int.h"

#define F_STREAM (1UL << 0)

enum { VSOCK_QUEUE = 128, EVENT_QUEUE = 16, PACKETS = 64, BYTES = 256 << 10, EVENT_TRANSPORT_RESET = 0 };

static unsigned vsock_config(struct virtio_dev *v, uint8_t buf[VIRTIO_CONFIG_MAX])
{
    const struct vsock *s = (struct vsock *)v;
    memcpy(buf, &s->cid, sizeof(s->cid));
    return sizeof(s->cid);
}

/* ---- to the guest ---- */

static void owe_rst(struct vsock *s, struct vsock_rst r)
{
    if (s->n_rsts < VSOCK_RSTS) /* a guest that leaves so many alone hears of the rest when it sends again */
        s->rst[(s->rst_at + s->n_rsts++) % VSOCK_RSTS] = r;
}

void vsock_answer_rst(struct vsock *s, const struct vsock_hdr *h)
{
    owe_rst(s, (struct vsock_rst){
                   .src_cid = h->dst_cid, .src_port = h->dst_port, .dst_port = h->src_port, .type = h->type });
}

void vsock_send_rst(const struct vsock_conn *c)
{
    owe_rst(c->s, (struct vsock_rst){ .src_cid = VSOCK_CID_HOST,
                                      .src_port = c->host_port,
                                      .dst_port = c->guest_port,
                                      .buf_alloc = c->buf_alloc,
                                      .fwd_cnt = c->fwd_cnt,
                                      .type = VSOCK_TYPE_STREAM });
}

/* Makes the next packet in v.chain, which has room for a header: its length, 0 = there is none after all. */
static uint32_t next_packet(struct vsock *s)
{
    struct vsock_hdr h = { .src_cid = VSOCK_CID_HOST, .dst_cid = s->cid, .type = VSOCK_TYPE_STREAM };
    uint32_t n = VSOCK_HDR;
    if (s->n_rsts) {
        const struct vsock_rst *r = &s->rst[s->rst_at];
        s->rst_at = (s->rst_at + 1) % VSOCK_RSTS;
        s->n_rsts--;
        h.src_cid = r->src_cid;
        h.src_port = r->src_port;
        h.dst_port = r->dst_port;
        h.type = r->type;
        h.buf_alloc = r->buf_alloc;
        h.fwd_cnt = r->fwd_cnt;
        h.op = VSOCK_OP_RST;
    } else {
        struct vsock_conn *c = vsock_of(s->active.next, active);
        vsock_list_del(&c->active);
        n = vsock_conn_down(c, &h);
        vsock_conn_update(c); /* the others come first */
    }
    if (!n)
        return 0;
    virtq_write(&s->v.q[VSOCK_RXQ], &s->v.chain, 0, &h, sizeof(h));
    s->down.packets++;
    s->down.bytes += h.len;
    s->resets += h.op == VSOCK_OP_RST;
    return n;
}

static bool has_work(const struct vsock *s)
{
    return s->n_rsts || s->active.next != &s->active;
}

void vsock_pump(struct vsock *s)
{
    struct virtio_dev *v = &s->v;
    struct virtq *q = &v->q[VSOCK_RXQ];
    uint32_t packets = 0, bytes = 0;
    bool pushed = false, starved = false;
    if (!virtio_live(v) || !q->ready || !has_work(s))
        return;
    virtq_disable_notify(q);
    while (has_work(s) && packets++ < PACKETS && bytes < BYTES) {
        if (virtq_pop(q, &v->chain) != 1) {
            if (virtq_enable_notify(q))
                continue;
            starved = true;
            break;
        }
        bool room = v->chain.in_len >= VSOCK_HDR;
        uint32_t n = room ? next_packet(s) : 0;
        if (n || !room) {
            virtq_push(q, v->chain.head, n);
            pushed = true;
        } else {
            virtq_unpop(q);
        }
        bytes += n;
    }
    if (pushed)
        virtio_signal(v, VSOCK_RXQ);
    if (q->broken)
        virtio_needs_reset(v, q->broken);
    else if (has_work(s) && !starved)
        virtio_kick(v, VSOCK_RXQ);
    if (s->tx_waits && s->n_rsts < VSOCK_RSTS_HIGH) {
        s->tx_waits = false;
        virtio_kick(v, VSOCK_TXQ);
    }
}

/* ---- from the guest ---- */

static void on_request(struct vsock *s, const struct vsock_hdr *h)
{
    struct vsock_conn *c = vsock_conn_new(s, CONN_CONNECTING);
    if (!c) {
        vsock_answer_rst(s, h);
        return;
    }
    vsock_conn_name(c, h->src_port, h->dst_port);
    c->peer_alloc = h->buf_alloc;
    c->peer_fwd = h->fwd_cnt;
    vsock_loop_call(s);
}

/* The guest has agreed: so hears the program that asked. */
static bool on_response(struct vsock_conn *c)
{
    char line[24];
    int n = snprintf(line, sizeof(line), "OK %u\n", c->host_port);
    if (c->state != CONN_ASKED || send(c->fd, line, (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT) != n)
        return false;
    c->state = CONN_OPEN;
    c->deadline = 0;
    c->s->opened++;
    return true;
}

static bool on_shutdown(struct vsock_conn *c, unsigned flags)
{
    if (c->state != CONN_OPEN)
        return false;
    c->guest_shut |= flags & VSOCK_NO_BOTH;
    if (c->guest_shut == VSOCK_NO_BOTH) {
        vsock_send_rst(c);
        vsock_conn_leave(c);
        return true;
    }
    if (c->guest_shut & VSOCK_NO_RECEIVE) {
        shutdown(c->fd, SHUT_RD);
        vsock_loop_tick(c->s); /* from now on nobody tells when it closes */
    }
    vsock_conn_flush(c);
    return true;
}

/* A packet of connection c. False: it does not belong there. */
static bool on_packet(struct vsock_conn *c, const struct vsock_hdr *h)
{
    c->peer_alloc = h->buf_alloc;
    c->peer_fwd = h->fwd_cnt;
    switch (h->op) {
    case VSOCK_OP_RESPONSE:
        return on_response(c);
    case VSOCK_OP_SHUTDOWN:
        return on_shutdown(c, h->flags);
    case VSOCK_OP_RW:
        if (c->state != CONN_OPEN || c->guest_shut & VSOCK_NO_SEND || h->len > c->s->v.chain.out_len - VSOCK_HDR ||
            !vsock_conn_up(c, h->len))
            return false;
        c->s->up.bytes += h->len;
        return true;
    case VSOCK_OP_CREDIT_UPDATE:
        return c->state == CONN_OPEN;
    case VSOCK_OP_CREDIT_REQUEST:
        c->pend |= PEND_CREDIT_UPDATE;
        return c->state == CONN_OPEN;
    default: /* a REQUEST for a pair of ports in use, too: the two sides disagree */
        return false;
    }
}

static void take_packet(struct vsock *s)
{
    struct vsock_hdr h;
    struct virtio_dev *v = &s->v;
    if (virtq_read(&v->q[VSOCK_TXQ], &v->chain, 0, &h, sizeof(h)) != sizeof(h) || h.src_cid != s->cid)
        return; /* nobody to answer to */
    s->up.packets++;
    bool ours = h.dst_cid == VSOCK_CID_HOST && h.type == VSOCK_TYPE_STREAM;
    struct vsock_conn *c = ours ? vsock_conn_find(s, h.src_port, h.dst_port) : NULL;
    if (h.op == VSOCK_OP_RST) {
        if (c)
            vsock_conn_leave(c);
    } else if (ours && !c && h.op == VSOCK_OP_REQUEST) {
        on_request(s, &h);
    } else if (!c) {
        vsock_answer_rst(s, &h);
    } else if (!on_packet(c, &h)) {
        vsock_conn_abort(c);
    } else {
        vsock_conn_update(c);
    }
}

static bool serve_tx(struct vsock *s)
{
    struct virtio_dev *v = &s->v;
    struct virtq *q = &v->q[VSOCK_TXQ];
    uint64_t bytes = 0;
    bool more = true, pushed = false;
    virtq_disable_notify(q);
    for (int i = 0; i < PACKETS && more && bytes < BYTES; i++) {
        if (s->n_rsts >= VSOCK_RSTS_HIGH) {
            s->tx_waits = true;
            more = false;
        } else if (virtq_pop(q, &v->chain) == 1) {
            bytes += v->chain.out_len;
            take_packet(s);
            virtq_push(q, v->chain.head, 0);
            pushed = true;
        } else {
            more = virtq_enable_notify(q);
        }
    }
    if (pushed)
        virtio_signal(v, VSOCK_TXQ);
    vsock_pump(s);
    return more;
}

/* ---- events ---- */

static void serve_events(struct vsock *s)
{
    struct virtio_dev *v = &s->v;
    struct virtq *q = &v->q[VSOCK_EVENTQ];
    const uint32_t id = EVENT_TRANSPORT_RESET;
    for (int i = 0; i < EVENT_QUEUE && s->reset_event; i++) {
        if (virtq_pop(q, &v->chain) != 1) {
            if (!virtq_enable_notify(q))
                return;
            continue;
        }
        bool told = virtq_write(q, &v->chain, 0, &id, sizeof(id)) == sizeof(id);
        virtq_push(q, v->chain.head, told ? sizeof(id) : 0);
        virtio_signal(v, VSOCK_EVENTQ);
        s->reset_event = !told;
    }
}

static bool vsock_serve(struct virtio_dev *v, unsigned q)
{
    struct vsock *s = (struct vsock *)v;
    if (q == VSOCK_TXQ)
        return serve_tx(s);
    if (q == VSOCK_RXQ)
        vsock_pump(s);
    else
        serve_events(s);
    return false;
}

/* ---- life ---- */

static void vsock_reset(struct virtio_dev *v)
{
    struct vsock *s = (struct vsock *)v;
    while (s->all.next != &s->all)
        vsock_conn_kill(vsock_of(s->all.next, all));
    s->n_rsts = 0;
    s->reset_event = s->tx_waits = false;
}

static void vsock_save(struct virtio_dev *v, struct state_out *o)
{
    state_put_u64(o, ((struct vsock *)v)->cid);
}

/* Connections do not travel: the guest is told that all are gone. */
static int vsock_load(struct virtio_dev *v, struct state_in *in)
{
    struct vsock *s = (struct vsock *)v;
    uint64_t cid = state_get_u64(in);
    if (in->bad || cid != s->cid)
        return -EINVAL;
    vsock_reset(v);
    s->reset_event = true; /* serve is called for each queue next */
    return 0;
}

/* "tx" is from the guest, as for a network. */
static void vsock_stats(struct virtio_dev *v, const struct virtio_put *put)
{
    const struct vsock *s = (struct vsock *)v;
    put->fn(put->arg, "tx_packets", s->up.packets);
    put->fn(put->arg, "tx_bytes", s->up.bytes);
    put->fn(put->arg, "rx_packets", s->down.packets);
    put->fn(put->arg, "rx_bytes", s->down.bytes);
    put->fn(put->arg, "connections", s->opened);
    put->fn(put->arg, "resets_sent", s->resets);
}

static void vsock_free(struct virtio_dev *v)
{
    struct vsock *s = (struct vsock *)v;
    vsock_loop_end(s);
    virtio_fini(v);
    vsock_unref(s);
}

static const struct virtio_ops vsock_ops = {
    .name = "virtio-vsock",
    .id = VIRTIO_ID_VSOCK,
    .on_worker = true,
    .config = vsock_config,
    .serve = vsock_serve,
    .reset = vsock_reset,
    .save = vsock_save,
    .load = vsock_load,
    .stats = vsock_stats,
    .free = vsock_free,
};

struct virtio_dev *virtio_vsock_new(const struct virtio_env *env, struct loop *loop, struct vsock_host *host,
                                    uint32_t cid)
{
    struct vsock *s = calloc(1, sizeof(*s));
    if (!s)
        return NULL;
    s->loop = loop;
    s->host = host;
    s->cid = cid;
    s->refs = 1;
    vsock_list_init(&s->all);
    vsock_list_init(&s->active);
    vsock_list_init(&s->dead);
    virtio_init(&s->v, &vsock_ops, env, F_STREAM);
    virtio_add_queue(&s->v, VSOCK_QUEUE);
    virtio_add_queue(&s->v, VSOCK_QUEUE);
    virtio_add_queue(&s->v, EVENT_QUEUE);
    if (vsock_loop_start(s) < 0) {
        vsock_free(&s->v);
        return NULL;
    }
    return &s->v;
}
