/* SPDX-License-Identifier: MIT */
#include "host/net.h"
#include "host/net_offload.h"
#include "virtio_targets.h"

/* A back end on the test's own thread: it sends when it is kicked, cuts what it gets, and receives when told. */
struct cable {
    struct net net; /* first */
    struct net_user user;
    bool attached;
    struct net_hdr hdr;
    uint8_t frame[NET_FRAME_MAX], scratch[NET_FRAME_MAX];
};

static int cable_attach(struct net *n, const struct net_user *u)
{
    struct cable *c = (struct cable *)n;
    c->attached = u != NULL;
    if (u)
        c->user = *u;
    return 0;
}
static void cable_kick(struct net *n)
{
    (void)n; /* the device's lock is held */
}
static void cable_set_guest(struct net *n, unsigned offloads)
{
    (void)n, (void)offloads;
}
static const struct net_ops cable_ops = { .attach = cable_attach, .kick = cable_kick, .set_guest = cable_set_guest };

static bool swallow(void *arg, const uint8_t *frame, size_t len)
{
    unsigned *left = arg;
    volatile uint8_t sum = 0;
    for (size_t i = 0; i < len; i += 64)
        sum = (uint8_t)(sum + frame[i]);
    return --*left > 0;
}

/* All that the guest's frames can lead to here. */
static void cable_send(struct cable *c)
{
    for (int i = 0; i < 32; i++) {
        unsigned left = 50;
        const struct net_cut cut = { .emit = swallow, .arg = &left, .scratch = c->scratch };
        size_t len = c->user.tx(c->user.arg, &c->hdr, c->frame);
        if (!len)
            break;
        if (len < NET_FRAME_MIN || len > NET_FRAME_MAX || !net_hdr_ok(&c->hdr, c->frame, len))
            abort();
        net_fragment_v4(c->frame, len, 600, &cut);
        if (c->hdr.gso_type != NET_GSO_NONE)
            net_segment(&c->hdr, c->frame, len, &cut);
        if (c->hdr.gso_type == NET_GSO_NONE || !net_finish_whole(&c->hdr, c->frame, len))
            net_finish_csum(&c->hdr, c->frame, len);
    }
    c->user.flush(c->user.arg);
}

static void *net_target_open(struct drv *d, const struct virtio_env *env, unsigned variant)
{
    struct cable *c = calloc(1, sizeof(*c));
    (void)variant;
    c->net = (struct net){ .ops = &cable_ops, .offloads = NET_CSUM | NET_TSO4 | NET_TSO6 | NET_ECN | NET_USO };
    const struct virtio_net_cfg cfg = { .net = &c->net, .mac = { 2, 0, 0, 0, 0, 1 }, .mtu = 1500 };
    d->v = virtio_net_new(env, &cfg);
    return c;
}

/* What a hostile peer of a link may send: a header as it comes, a frame that looks like TCP or not. */
static void net_input(void *back, const uint8_t *buf, size_t n)
{
    static const uint8_t tcp4[] = { 2, 0, 0, 0, 0, 1,  2, 0, 0, 0,  0, 2, 8, 0,  0x45, 0, 0,
                                    0, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 2, 2, 10, 0,    2, 15 };
    struct cable *c = back;
    struct net_hdr h = { 0 };
    if (!c->attached)
        return;
    size_t at = n < sizeof(h) ? n : sizeof(h), len = n > 64 ? n * 100 % NET_FRAME_MAX : n;
    memcpy(&h, buf, at);
    memset(c->frame, 0x50, sizeof(c->frame));
    memcpy(c->frame, tcp4, sizeof(tcp4));
    if (n % 3 == 0)
        memcpy(c->frame, buf, n < sizeof(c->frame) ? n : sizeof(c->frame));
    c->user.rx(c->user.arg, &h, c->frame, len);
    cable_send(c);
}

const struct virtio_target virtio_target_net = {
    .name = "net", .open = net_target_open, .input = net_input, .close = free
};
