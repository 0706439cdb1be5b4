/* SPDX-License-Identifier: MIT */
/* The control queue of a virtio network device, what it sets, and its state (virtio 1.2, "Control Virtqueue"). */
#include <errno.h>
#include <string.h>

#include "state/state.h"
#include "virtio/net_int.h"

enum { CLASS_RX, CLASS_MAC, CLASS_VLAN, CLASS_ANNOUNCE, CLASS_OFFLOADS = 5 };
enum { RX_PROMISC, RX_ALLMULTI, RX_ALLUNI, RX_NOMULTI, RX_NOUNI, RX_NOBCAST };
enum { MAC_TABLE_SET, MAC_ADDR_SET, VLAN_ADD = 0, VLAN_DEL, ANNOUNCE_ACK = 0, OFFLOADS_SET = 0 };
enum { ACK_OK, ACK_ERR };
enum { CTRL_BATCH = 16 };

/* ---- the filter ---- */

void vnet_filter_reset(struct vnet *n)
{
    n->filter = (struct vnet_filter){ .promisc = true };
    memcpy(n->filter.mac, n->mac, NET_MAC);
}

static bool listed(const struct vnet_macs *m, const uint8_t *mac)
{
    for (uint32_t i = 0; i < m->n; i++)
        if (memcmp(m->mac[i], mac, NET_MAC) == 0)
            return true;
    return m->all;
}

bool vnet_filter_wants(const struct vnet *n, const uint8_t *frame, size_t len)
{
    static const uint8_t broadcast[NET_MAC] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
    const struct vnet_filter *f = &n->filter;
    if (f->promisc || len < NET_FRAME_MIN)
        return true;
    if (virtio_has(&n->v, F_CTRL_VLAN) && len >= 16 && frame[12] == 0x81 && frame[13] == 0) {
        unsigned id = (frame[14] << 8 | frame[15]) & (VLANS - 1);
        if (!(f->vlan[id / 64] >> (id % 64) & 1))
            return false;
    }
    if (memcmp(frame, broadcast, NET_MAC) == 0)
        return !f->nobcast;
    if (frame[0] & 1)
        return !f->nomulti && (f->allmulti || listed(&f->multi, frame));
    return !f->nouni && (f->alluni || memcmp(frame, f->mac, NET_MAC) == 0 || listed(&f->uni, frame));
}

/* ---- commands ---- */

/* What is left of the command being taken apart. */
struct command {
    struct vnet *n;
    uint64_t off;
};

static bool take(struct command *c, void *dst, uint64_t len)
{
    const struct virtio_dev *v = &c->n->v;
    if (c->off > v->chain.out_len || len > v->chain.out_len - c->off ||
        virtq_read(&v->q[CTRLQ], &v->chain, c->off, dst, len) != len)
        return false;
    c->off += len;
    return true;
}

static bool rx_mode(struct command *c, uint8_t what)
{
    struct vnet_filter *f = &c->n->filter;
    bool *const flag[] = { [RX_PROMISC] = &f->promisc, [RX_ALLMULTI] = &f->allmulti, [RX_ALLUNI] = &f->alluni,
                           [RX_NOMULTI] = &f->nomulti, [RX_NOUNI] = &f->nouni,       [RX_NOBCAST] = &f->nobcast };
    uint8_t on;
    if (!virtio_has(&c->n->v, what <= RX_ALLMULTI ? F_CTRL_RX : F_CTRL_RX_EXTRA))
        return false;
    if (what >= ARRAY_LEN(flag) || !take(c, &on, 1) || on > 1)
        return false;
    *flag[what] = on;
    return true;
}

static bool take_table(struct command *c, struct vnet_macs *m)
{
    uint32_t count;
    *m = (struct vnet_macs){ 0 };
    if (!take(c, &count, sizeof(count)) || count > (c->n->v.chain.out_len - c->off) / NET_MAC)
        return false;
    m->all = count > FILTER_MAX;
    m->n = m->all ? 0 : count;
    if (m->all) {
        c->off += (uint64_t)count * NET_MAC;
        return true;
    }
    return !m->n || take(c, m->mac, (uint64_t)m->n * NET_MAC);
}

static bool set_mac(struct command *c, uint8_t what)
{
    struct vnet_macs uni, multi;
    uint8_t mac[NET_MAC];
    if (what == MAC_ADDR_SET && virtio_has(&c->n->v, F_CTRL_MAC_ADDR | F_CTRL_RX)) {
        if (!take(c, mac, sizeof(mac)))
            return false;
        memcpy(c->n->filter.mac, mac, sizeof(mac));
        return true;
    }
    if (what != MAC_TABLE_SET || !virtio_has(&c->n->v, F_CTRL_RX) || !take_table(c, &uni) || !take_table(c, &multi))
        return false;
    c->n->filter.uni = uni;
    c->n->filter.multi = multi;
    return true;
}

static bool set_vlan(struct command *c, uint8_t what)
{
    uint16_t id;
    if (!virtio_has(&c->n->v, F_CTRL_VLAN) || what > VLAN_DEL || !take(c, &id, sizeof(id)) || id >= VLANS)
        return false;
    uint64_t bit = 1UL << (id % 64), *word = &c->n->filter.vlan[id / 64];
    *word = what == VLAN_ADD ? *word | bit : *word & ~bit;
    return true;
}

unsigned vnet_guest_offloads(uint64_t features)
{
    if (!(features & F_GUEST_CSUM))
        return 0;
    unsigned g = NET_CSUM;
    g |= features & F_GUEST_TSO4 ? NET_TSO4 : 0;
    g |= features & F_GUEST_TSO6 ? NET_TSO6 : 0;
    g |= features & F_GUEST_ECN ? NET_ECN : 0;
    g |= (features & (F_GUEST_USO4 | F_GUEST_USO6)) == (F_GUEST_USO4 | F_GUEST_USO6) ? NET_USO : 0;
    return g;
}

static bool set_offloads(struct command *c, uint8_t what)
{
    uint64_t wanted;
    if (!virtio_has(&c->n->v, F_CTRL_GUEST_OFFLOADS) || what != OFFLOADS_SET || !take(c, &wanted, sizeof(wanted)) ||
        (wanted & ~(c->n->v.features & F_GUEST_OFFLOADS)))
        return false;
    c->n->guest = vnet_guest_offloads(wanted);
    net_set_guest(c->n->net, c->n->guest);
    return true;
}

static uint8_t run(struct vnet *n)
{
    struct command c = { .n = n };
    uint8_t head[2];
    bool ok = false;
    if (!take(&c, head, sizeof(head)))
        return ACK_ERR;
    switch (head[0]) {
    case CLASS_RX:
        ok = rx_mode(&c, head[1]);
        break;
    case CLASS_MAC:
        ok = set_mac(&c, head[1]);
        break;
    case CLASS_VLAN:
        ok = set_vlan(&c, head[1]);
        break;
    case CLASS_ANNOUNCE:
        ok = virtio_has(&n->v, F_GUEST_ANNOUNCE) && head[1] == ANNOUNCE_ACK;
        if (ok)
            n->announce = false;
        break;
    case CLASS_OFFLOADS:
        ok = set_offloads(&c, head[1]);
        break;
    default:
        break;
    }
    return ok ? ACK_OK : ACK_ERR;
}

bool vnet_serve_ctrl(struct vnet *n)
{
    struct virtio_dev *v = &n->v;
    struct virtq *q = &v->q[CTRLQ];
    bool more = true;
    virtq_disable_notify(q);
    for (int i = 0; i < CTRL_BATCH && more; i++) {
        if (virtq_pop(q, &v->chain) != 1) {
            more = virtq_enable_notify(q);
            continue;
        }
        if (!v->chain.in_len) {
            virtq_push(q, v->chain.head, 0);
            q->broken = "a control command without room for its answer";
            break;
        }
        uint8_t ack = run(n);
        n->commands++;
        n->refused += ack != ACK_OK;
        virtq_write(q, &v->chain, 0, &ack, 1);
        virtq_push(q, v->chain.head, 1);
    }
    virtio_signal(v, CTRLQ);
    return more && !q->broken;
}

/* ---- state ---- */

static void save_macs(const struct vnet_macs *m, struct state_out *s)
{
    state_put_u8(s, m->all);
    state_put_u32(s, m->n);
    state_put_bytes(s, m->mac, (size_t)m->n * NET_MAC);
}

static bool load_macs(struct vnet_macs *m, struct state_in *s)
{
    uint8_t all = state_get_u8(s);
    m->n = state_get_u32(s);
    m->all = all;
    if (s->bad || all > 1 || m->n > FILTER_MAX)
        return false;
    state_get_bytes(s, m->mac, (size_t)m->n * NET_MAC);
    return !s->bad;
}

void vnet_save(struct virtio_dev *v, struct state_out *s)
{
    struct vnet *n = (struct vnet *)v;
    const struct vnet_filter *f = &n->filter;
    const bool flag[] = { f->promisc, f->allmulti, f->alluni, f->nomulti, f->nouni, f->nobcast };
    state_put_bytes(s, n->mac, NET_MAC);
    state_put_bytes(s, f->mac, NET_MAC);
    for (unsigned i = 0; i < ARRAY_LEN(flag); i++)
        state_put_u8(s, flag[i]);
    save_macs(&f->uni, s);
    save_macs(&f->multi, s);
    for (unsigned i = 0; i < ARRAY_LEN(f->vlan); i++)
        state_put_u64(s, f->vlan[i]);
    state_put_u32(s, n->host);
    state_put_u32(s, n->guest);
    state_put_u8(s, virtio_has(v, F_GUEST_ANNOUNCE));
    virtio_throttle_save(&n->rx, s);
    virtio_throttle_save(&n->tx, s);
}

/* The machine that goes on elsewhere is asked to tell its neighbours. */
int vnet_load(struct virtio_dev *v, struct state_in *s)
{
    struct vnet *n = (struct vnet *)v;
    struct vnet_filter f = { 0 };
    bool *const flag[] = { &f.promisc, &f.allmulti, &f.alluni, &f.nomulti, &f.nouni, &f.nobcast };
    const unsigned all = NET_CSUM | NET_TSO4 | NET_TSO6 | NET_ECN | NET_USO;
    uint8_t mac[NET_MAC];
    state_get_bytes(s, mac, NET_MAC);
    state_get_bytes(s, f.mac, NET_MAC);
    for (unsigned i = 0; i < ARRAY_LEN(flag); i++) {
        uint8_t on = state_get_u8(s);
        if (on > 1)
            return -EINVAL;
        *flag[i] = on;
    }
    if (!load_macs(&f.uni, s) || !load_macs(&f.multi, s))
        return -EINVAL;
    for (unsigned i = 0; i < ARRAY_LEN(f.vlan); i++)
        f.vlan[i] = state_get_u64(s);
    uint32_t host = state_get_u32(s), guest = state_get_u32(s);
    uint8_t announce = state_get_u8(s);
    if (s->bad || announce > 1 || (host & ~n->net->offloads) || (guest & ~all))
        return -EINVAL;
    virtio_throttle_load(&n->rx, s);
    virtio_throttle_load(&n->tx, s);
    if (s->bad)
        return -EINVAL;
    memcpy(n->mac, mac, sizeof(mac));
    n->filter = f;
    n->host = host;
    n->guest = guest;
    n->announce = n->announce_soon = announce;
    net_set_guest(n->net, guest);
    return 0;
}
