/* SPDX-License-Identifier: MIT */
/* A virtio network device; for its files, net*.c of this folder, only. */
#ifndef GAZDA_VIRTIO_NET_INT_H
#define GAZDA_VIRTIO_NET_INT_H

#include "host/net.h"
#include "virtio/devices.h"
#include "virtio/throttle.h"

/* virtio 1.2, "Network Device", "Feature bits". */
#define F_CSUM (1UL << 0)
#define F_GUEST_CSUM (1UL << 1)
#define F_CTRL_GUEST_OFFLOADS (1UL << 2)
#define F_MTU (1UL << 3)
#define F_MAC (1UL << 5)
#define F_GUEST_TSO4 (1UL << 7)
#define F_GUEST_TSO6 (1UL << 8)
#define F_GUEST_ECN (1UL << 9)
#define F_HOST_TSO4 (1UL << 11)
#define F_HOST_TSO6 (1UL << 12)
#define F_HOST_ECN (1UL << 13)
#define F_MRG_RXBUF (1UL << 15)
#define F_STATUS (1UL << 16)
#define F_CTRL_VQ (1UL << 17)
#define F_CTRL_RX (1UL << 18)
#define F_CTRL_VLAN (1UL << 19)
#define F_CTRL_RX_EXTRA (1UL << 20)
#define F_GUEST_ANNOUNCE (1UL << 21)
#define F_CTRL_MAC_ADDR (1UL << 23)
#define F_GUEST_USO4 (1UL << 54)
#define F_GUEST_USO6 (1UL << 55)
#define F_HOST_USO (1UL << 56)

#define F_GUEST_OFFLOADS (F_GUEST_CSUM | F_GUEST_TSO4 | F_GUEST_TSO6 | F_GUEST_ECN | F_GUEST_USO4 | F_GUEST_USO6)

enum { RXQ, TXQ, CTRLQ };
enum { FILTER_MAX = 64, VLANS = 4096 };

/* Which frames the guest wants: virtio 1.2, "Packet Receive Filtering", "Setting MAC Address Filtering". */
struct vnet_filter {
    uint8_t mac[NET_MAC];
    bool promisc, allmulti, alluni, nomulti, nouni, nobcast;
    struct vnet_macs {
        bool all; /* more than fit were asked for */
        uint32_t n;
        uint8_t mac[FILTER_MAX][NET_MAC];
    } uni, multi;
    uint64_t vlan[VLANS / 64];
};

struct vnet {
    struct virtio_dev v; /* first; its lock guards all of this but dump, which is the back end's thread's */
    struct net *net;
    struct net_dump *dump;
    uint8_t mac[NET_MAC]; /* the one it was made with */
    uint16_t mtu;
    struct vnet_filter filter;
    unsigned host, guest; /* NET_*: what the guest may send, and what it takes */
    bool announce;        /* the guest is asked to make itself known */
    bool announce_soon;
    bool rx_used, tx_used; /* the guest is to be told */
    bool complained;
    struct virtio_throttle rx, tx;
    bool rx_paid; /* the frame that has no room has its tokens */
    struct vnet_count {
        uint64_t frames, bytes, dropped;
    } sent, received; /* by the guest */
    uint64_t filtered, commands, refused;
    uint16_t head[VIRTQ_MAX]; /* scratch: the receive buffers that one frame is put into */
    uint32_t used[VIRTQ_MAX];
    uint8_t scratch[NET_FRAME_MAX];
};

/* ---- net_ctrl.c; lock held ---- */

void vnet_filter_reset(struct vnet *n);
bool vnet_filter_wants(const struct vnet *n, const uint8_t *frame, size_t len);
/* NET_*, of the driver's feature bits or of its CTRL_GUEST_OFFLOADS. */
unsigned vnet_guest_offloads(uint64_t features);
bool vnet_serve_ctrl(struct vnet *n);
void vnet_save(struct virtio_dev *v, struct state_out *s);
int vnet_load(struct virtio_dev *v, struct state_in *s);

#endif
