/* SPDX-License-Identifier: MIT */
/*
 * virtio network device (virtio 1.2, "Network Device"): one pair of queues and the control queue. The back end's thread
 * takes frames out of the transmit queue and puts frames into the receive queue, each under the device's lock and
 * copied once; nothing is in flight between two calls, so a reset never waits. The vCPU's part is to wake that thread,
 * which notifications are suppressed for while it is awake.
 *
 * What the guest's driver did not negotiate is done here in software, so a back end may hand in whatever it has.
 */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "host/net_dump.h"
#include "host/net_offload.h"
#include "mem/mem.h"
#include "virtio/net_int.h"
#include "virtio/stats.h"

enum { NET_QUEUE = 256, CTRL_QUEUE = 64, TX_DROPS = 32, STATUS_UP = 1, STATUS_ANNOUNCE = 2 };

_Static_assert(sizeof(struct net_hdr) == 12, "layout of virtio_net_hdr");

/* virtio 1.2, "Device configuration layout". */
struct net_config {
    uint8_t mac[NET_MAC];
    uint16_t status, max_virtqueue_pairs, mtu;
};
_Static_assert(sizeof(struct net_config) == 12, "layout of the configuration space");

static unsigned net_config(struct virtio_dev *v, uint8_t buf[VIRTIO_CONFIG_MAX])
{
    const struct vnet *n = (struct vnet *)v;
    struct net_config c = { .status = (uint16_t)(STATUS_UP | (n->announce ? STATUS_ANNOUNCE : 0)),
                            .max_virtqueue_pairs = 1,
                            .mtu = n->mtu };
    memcpy(c.mac, n->filter.mac, NET_MAC);
    memcpy(buf, &c, sizeof(c));
    return sizeof(c);
}

/* virtio 1.2, "Feature bit requirements". */
static bool net_features_ok(struct virtio_dev *v, uint64_t f)
{
    static const struct {
        uint64_t what, needs;
    } rule[] = {
        { F_GUEST_TSO4 | F_GUEST_TSO6 | F_GUEST_USO4 | F_GUEST_USO6, F_GUEST_CSUM },
        { F_GUEST_ECN, F_GUEST_TSO4 | F_GUEST_TSO6 },
        { F_HOST_TSO4 | F_HOST_TSO6 | F_HOST_USO, F_CSUM },
        { F_HOST_ECN, F_HOST_TSO4 | F_HOST_TSO6 },
        { F_CTRL_RX | F_CTRL_VLAN | F_GUEST_ANNOUNCE | F_CTRL_MAC_ADDR, F_CTRL_VQ },
        { F_CTRL_RX_EXTRA, F_CTRL_VQ },
        { F_CTRL_GUEST_OFFLOADS, F_CTRL_VQ },
    };
    (void)v;
    for (unsigned i = 0; i < ARRAY_LEN(rule); i++)
        if ((f & rule[i].what) && !(f & rule[i].needs))
            return false;
    return true;
}

static unsigned host_offloads(uint64_t f)
{
    unsigned h = f & F_CSUM ? NET_CSUM : 0;
    h |= f & F_HOST_TSO4 ? NET_TSO4 : 0;
    h |= f & F_HOST_TSO6 ? NET_TSO6 : 0;
    h |= f & F_HOST_ECN ? NET_ECN : 0;
    return h | (f & F_HOST_USO ? NET_USO : 0);
}

/* A queue broke a rule on the back end's thread. */
static void check_queue(struct virtio_dev *v, unsigned q)
{
    if (v->q[q].broken && virtio_live(v))
        virtio_needs_reset(v, v->q[q].broken);
}

/* ---- from the guest ---- */

/* The frame of the popped chain: its length, or 0 if it must not be sent. */
static size_t read_frame(struct vnet *n, struct net_hdr *h, uint8_t *buf)
{
    struct virtio_dev *v = &n->v;
    const struct virtq *q = &v->q[TXQ];
    size_t len = v->chain.out_len - sizeof(*h);
    if (len < NET_FRAME_MIN || len > NET_FRAME_MAX || virtq_read(q, &v->chain, 0, h, sizeof(*h)) != sizeof(*h) ||
        virtq_read(q, &v->chain, sizeof(*h), buf, len) != len)
        return 0;
    h->flags &= NET_NEEDS_CSUM;
    h->num_buffers = 0;
    if ((net_hdr_needs(h) & ~n->host) || !net_hdr_ok(h, buf, len))
        return 0;
    return len;
}

static size_t take_frame(struct vnet *n, struct net_hdr *h, uint8_t *buf)
{
    struct virtio_dev *v = &n->v;
    struct virtq *q = &v->q[TXQ];
    bool more = true;
    for (int i = 0; i < TX_DROPS && more && virtio_live(v) && q->ready; i++) {
        if (virtq_pop(q, &v->chain) != 1) {
            more = virtq_enable_notify(q);
            continue;
        }
        if (!virtio_throttle_take(&n->tx, TXQ, v->chain.out_len)) {
            virtq_unpop(q);
            return 0;
        }
        size_t len = v->chain.out_len < sizeof(*h) ? 0 : read_frame(n, h, buf);
        virtq_push(q, v->chain.head, 0);
        n->tx_used = true;
        n->sent.frames += len != 0;
        n->sent.bytes += len;
        n->sent.dropped += len == 0;
        if (v->chain.out_len < sizeof(*h))
            q->broken = "a frame without its header";
        else if (len)
            return len;
    }
    check_queue(v, TXQ);
    if (more && virtio_live(v)) /* so many bad ones in a row: the next call goes on */
        net_kick(n->net);
    return 0;
}

static size_t on_tx(void *arg, struct net_hdr *h, uint8_t *buf)
{
    struct vnet *n = arg;
    lock_take(&n->v.lock);
    size_t len = take_frame(n, h, buf);
    lock_drop(&n->v.lock);
    if (len && n->dump)
        net_dump_frame(n->dump, buf, len);
    return len;
}

/* ---- for the guest ---- */

enum placed { PLACED, DROPPED, NO_ROOM };

/* Pops the next receive buffer. False: there is none, and a notification will come. */
static bool pop_buffer(struct vnet *n)
{
    struct virtq *q = &n->v.q[RXQ];
    for (int i = 0; i < 2; i++) {
        int r = virtq_pop(q, &n->v.chain);
        if (r != 0)
            return r == 1;
        if (!virtq_enable_notify(q))
            return false;
    }
    return false;
}

/* Over several buffers, all of them or none: the queue is put back as it was if they do not suffice. */
static enum placed place_merged(struct vnet *n, struct net_hdr *h, const uint8_t *frame, size_t len)
{
    struct virtio_dev *v = &n->v;
    struct virtq *q = &v->q[RXQ];
    const struct virtq before = *q;
    struct virtq_buf where[sizeof(*h)]; /* of the header: of each of its bytes at the worst */
    unsigned count = 0, n_where = 0;
    size_t total = sizeof(*h) + len, done = 0;
    while (done < total) {
        if (count == q->size || count == VIRTQ_MAX) { /* the whole queue is too small */
            *q = before;
            return DROPPED;
        }
        if (!pop_buffer(n)) {
            const char *broken = q->broken;
            *q = before;
            q->broken = broken;
            return NO_ROOM;
        }
        size_t take = v->chain.in_len < total - done ? v->chain.in_len : total - done, skip = 0;
        for (unsigned i = 0; done + skip < sizeof(*h) && i < v->chain.n_in && skip < take; i++) {
            struct virtq_buf b = v->chain.buf[v->chain.n_out + i];
            size_t left = sizeof(*h) - done - skip;
            b.len = b.len < left ? b.len : (uint32_t)left;
            if (b.len)
                where[n_where++] = b;
            skip += b.len;
        }
        if (take > skip)
            virtq_write(q, &v->chain, skip, frame + (done + skip - sizeof(*h)), take - skip);
        n->head[count] = v->chain.head;
        n->used[count++] = (uint32_t)take;
        done += take;
    }
    h->num_buffers = (uint16_t)count;
    for (unsigned i = 0, at = 0; i < n_where; at += where[i++].len)
        mem_write(v->mem, where[i].gpa, (uint8_t *)h + at, where[i].len);
    for (unsigned i = 0; i < count; i++)
        virtq_push(q, n->head[i], n->used[i]);
    return PLACED;
}

/* virtio 1.2, "Device configuration layout": the device must not pass what exceeds the MTU, if the driver knows it.
 * VLAN tags are part of the Ethernet header. */
static bool exceeds_mtu(const struct vnet *n, const struct net_hdr *h, const uint8_t *frame, size_t len)
{
    size_t head = NET_FRAME_MIN;
    if (!virtio_has(&n->v, F_MTU) || (h->gso_type & ~NET_GSO_ECN) != NET_GSO_NONE)
        return false;
    while (head < 22 && head < len &&
           ((frame[head - 2] == 0x81 && frame[head - 1] == 0) || (frame[head - 2] == 0x88 && frame[head - 1] == 0xa8)))
        head += 4;
    return len > head + n->mtu;
}

/* A frame that the guest can take as it is. */
static enum placed place(struct vnet *n, const struct net_hdr *hdr, const uint8_t *frame, size_t len)
{
    struct virtio_dev *v = &n->v;
    struct virtq *q = &v->q[RXQ];
    struct net_hdr h = *hdr;
    h.num_buffers = 1;
    h.hdr_len = h.hdr_len <= len ? h.hdr_len : 0; /* a hint, and a peer's */
    h.flags &= NET_NEEDS_CSUM | NET_DATA_VALID;
    if (!virtio_has(v, F_GUEST_CSUM))
        h.flags = 0;
    if (exceeds_mtu(n, hdr, frame, len))
        return DROPPED;
    if (!pop_buffer(n))
        return NO_ROOM;
    enum placed r = PLACED;
    if (v->chain.in_len >= sizeof(h) + len) {
        virtq_write(q, &v->chain, 0, &h, sizeof(h));
        virtq_write(q, &v->chain, sizeof(h), frame, len);
        virtq_push(q, v->chain.head, (uint32_t)(sizeof(h) + len));
    } else {
        virtq_unpop(q);
        r = virtio_has(v, F_MRG_RXBUF) ? place_merged(n, &h, frame, len) : DROPPED;
    }
    n->rx_used |= r == PLACED;
    n->received.frames += r == PLACED;
    n->received.bytes += r == PLACED ? len : 0;
    return r;
}

/* Each piece of a segment that the guest does not take whole. If there is room for some only, TCP sends the others
 * again. */
struct pieces {
    struct vnet *n;
    enum placed last;
    bool any;
};

static bool place_piece(void *arg, const uint8_t *frame, size_t len)
{
    const struct net_hdr plain = { 0 };
    struct pieces *p = arg;
    p->last = place(p->n, &plain, frame, len);
    p->any |= p->last != NO_ROOM;
    return p->last != NO_ROOM;
}

static enum placed place_any(struct vnet *n, const struct net_hdr *hdr, const uint8_t *frame, size_t len)
{
    unsigned lacking = net_hdr_needs(hdr) & ~n->guest;
    if (!net_hdr_ok(hdr, frame, len))
        return DROPPED;
    if (!lacking)
        return place(n, hdr, frame, len);
    if (hdr->gso_type != NET_GSO_NONE) {
        struct pieces p = { .n = n, .last = DROPPED };
        const struct net_cut cut = { .emit = place_piece, .arg = &p, .scratch = n->scratch };
        net_segment(hdr, frame, len, &cut);
        return p.any ? PLACED : p.last;
    }
    struct net_hdr h = *hdr;
    memcpy(n->scratch, frame, len);
    net_finish_csum(&h, n->scratch, len);
    return place(n, &h, n->scratch, len);
}

/* Two machines with one address hear each other and never understand why it does not work. */
static void check_source(struct vnet *n, const uint8_t *frame)
{
    if (n->complained || memcmp(frame + NET_MAC, n->filter.mac, NET_MAC) != 0)
        return;
    n->complained = true;
    log_warn("network: another machine has the same address %02x:%02x:%02x:%02x:%02x:%02x; give them different --name "
             "or mac=",
             frame[6], frame[7], frame[8], frame[9], frame[10], frame[11]);
}

static bool on_rx(void *arg, const struct net_hdr *h, const uint8_t *frame, size_t len)
{
    struct vnet *n = arg;
    struct virtio_dev *v = &n->v;
    enum placed r = DROPPED;
    if (len < NET_FRAME_MIN || len > NET_FRAME_MAX)
        return true;
    lock_take(&v->lock);
    bool wanted = vnet_filter_wants(n, frame, len);
    n->filtered += !wanted;
    if (virtio_live(v) && v->q[RXQ].ready && !v->q[RXQ].broken && wanted) {
        check_source(n, frame);
        n->rx_paid = n->rx_paid || virtio_throttle_take(&n->rx, RXQ, len);
        r = n->rx_paid ? place_any(n, h, frame, len) : NO_ROOM;
        check_queue(v, RXQ);
        if (!virtio_live(v))
            r = DROPPED;
        n->rx_paid = n->rx_paid && r == NO_ROOM;
    }
    n->received.dropped += wanted && r == DROPPED;
    lock_drop(&v->lock);
    if (r == PLACED && n->dump)
        net_dump_frame(n->dump, frame, len);
    return r != NO_ROOM;
}

static void on_flush(void *arg)
{
    struct vnet *n = arg;
    lock_take(&n->v.lock);
    if (n->rx_used)
        virtio_signal(&n->v, RXQ);
    if (n->tx_used)
        virtio_signal(&n->v, TXQ);
    n->rx_used = n->tx_used = false;
    lock_drop(&n->v.lock);
}

/* ---- life ---- */

static bool net_serve(struct virtio_dev *v, unsigned q)
{
    struct vnet *n = (struct vnet *)v;
    if (n->announce_soon)
        virtio_config_changed(v);
    n->announce_soon = false;
    if (q == CTRLQ)
        return vnet_serve_ctrl(n);
    virtq_disable_notify(&v->q[q]);
    net_kick(n->net);
    return false;
}

static void net_activate(struct virtio_dev *v)
{
    struct vnet *n = (struct vnet *)v;
    n->host = host_offloads(v->features);
    n->guest = vnet_guest_offloads(v->features);
    net_set_guest(n->net, n->guest); /* which kicks */
}

static void net_reset(struct virtio_dev *v)
{
    struct vnet *n = (struct vnet *)v;
    vnet_filter_reset(n);
    n->host = n->guest = 0;
    n->announce = n->announce_soon = n->rx_used = n->tx_used = n->rx_paid = false;
    virtio_throttle_reset(&n->rx);
    virtio_throttle_reset(&n->tx);
    net_set_guest(n->net, 0);
}

static void net_stats(struct virtio_dev *v, const struct virtio_put *put)
{
    const struct vnet *n = (struct vnet *)v;
    put->fn(put->arg, "tx_frames", n->sent.frames);
    put->fn(put->arg, "tx_bytes", n->sent.bytes);
    put->fn(put->arg, "tx_dropped", n->sent.dropped);
    put->fn(put->arg, "rx_frames", n->received.frames);
    put->fn(put->arg, "rx_bytes", n->received.bytes);
    put->fn(put->arg, "rx_dropped", n->received.dropped);
    put->fn(put->arg, "rx_filtered", n->filtered);
    put->fn(put->arg, "commands", n->commands);
    put->fn(put->arg, "commands_refused", n->refused);
}

static void net_dev_free(struct virtio_dev *v)
{
    struct vnet *n = (struct vnet *)v;
    net_attach(n->net, NULL);
    virtio_throttle_fini(&n->rx);
    virtio_throttle_fini(&n->tx);
    virtio_fini(v);
    free(v);
}

static const struct virtio_ops net_dev_ops = {
    .name = "virtio-net",
    .id = VIRTIO_ID_NET,
    .config = net_config,
    .features_ok = net_features_ok,
    .activate = net_activate,
    .serve = net_serve,
    .reset = net_reset,
    .save = vnet_save,
    .load = vnet_load,
    .stats = net_stats,
    .free = net_dev_free,
};

struct virtio_dev *virtio_net_new(const struct virtio_env *env, const struct virtio_net_cfg *cfg)
{
    uint64_t f = F_MAC | F_STATUS | F_MRG_RXBUF | F_CTRL_VQ | F_CTRL_RX | F_CTRL_RX_EXTRA | F_CTRL_VLAN |
                 F_CTRL_MAC_ADDR | F_GUEST_ANNOUNCE | F_CTRL_GUEST_OFFLOADS | F_GUEST_OFFLOADS;
    unsigned h = cfg->net->offloads;
    struct vnet *n = calloc(1, sizeof(*n));
    if (!n)
        return NULL;
    n->net = cfg->net;
    n->dump = cfg->dump;
    n->mtu = cfg->mtu;
    memcpy(n->mac, cfg->mac, NET_MAC);
    f |= cfg->mtu ? F_MTU : 0;
    f |= h & NET_CSUM ? F_CSUM : 0;
    f |= h & NET_TSO4 ? F_HOST_TSO4 : 0;
    f |= h & NET_TSO6 ? F_HOST_TSO6 : 0;
    f |= h & NET_ECN ? F_HOST_ECN : 0;
    f |= h & NET_USO ? F_HOST_USO : 0;
    virtio_init(&n->v, &net_dev_ops, env, f);
    virtio_add_queue(&n->v, NET_QUEUE);
    virtio_add_queue(&n->v, NET_QUEUE);
    virtio_add_queue(&n->v, CTRL_QUEUE);
    vnet_filter_reset(n);
    virtio_throttle_init(&n->rx, &n->v, cfg->rx);
    virtio_throttle_init(&n->tx, &n->v, cfg->tx);
    const struct net_user u = { .tx = on_tx, .rx = on_rx, .flush = on_flush, .arg = n };
    if (net_attach(n->net, &u) == 0)
        return &n->v;
    virtio_fini(&n->v);
    free(n);
    return NULL;
}
