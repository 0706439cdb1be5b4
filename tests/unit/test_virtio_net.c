/* SPDX-License-Identifier: MIT */
/* virtio-net against a fake back end that the test drives by hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>

#include "base/log.h"
#include "fake_env.h"
#include "host/limiter.h"
#include "host/net.h"
#include "state/state.h"
#include "virtio_driver.h"

enum { RX, TX, CTRL, HDR = 12 };
enum { B_CSUM = 0, B_GUEST_CSUM = 1, B_OFFLOADS = 2, B_GUEST_TSO4 = 7, B_TSO4 = 11, B_MRG = 15, B_STATUS = 16 };
enum {
    B_MTU = 3,
    B_GUEST_ECN = 9,
    B_ECN = 13,
    B_CTRL = 17,
    B_CTRL_RX = 18,
    B_VLAN = 19,
    B_EXTRA = 20,
    B_ANNOUNCE = 21,
    B_MACADDR = 23
};
#define BIT(n) (1UL << (n))
#define ALL_CTRL                                                                                                       \
    (BIT(B_CTRL) | BIT(B_CTRL_RX) | BIT(B_VLAN) | BIT(B_EXTRA) | BIT(B_ANNOUNCE) | BIT(B_MACADDR) | BIT(B_OFFLOADS))

struct fake {
    struct net net; /* first */
    struct net_user user;
    bool attached;
    _Atomic unsigned kicks;
    unsigned guest;
};

static int fake_attach(struct net *n, const struct net_user *u)
{
    struct fake *f = (struct fake *)n;
    f->attached = u != NULL;
    if (u)
        f->user = *u;
    return 0;
}
static void fake_kick(struct net *n)
{
    ((struct fake *)n)->kicks++;
}
static void fake_set_guest(struct net *n, unsigned offloads)
{
    ((struct fake *)n)->guest = offloads;
}
static const struct net_ops fake_ops = { .attach = fake_attach, .kick = fake_kick, .set_guest = fake_set_guest };

struct rig {
    struct drv d; /* first */
    struct fake f;
    struct fake_timers t;
    struct virtio_env env;
    struct net_hdr hdr;
    uint8_t got[NET_FRAME_MAX];
};

static const uint8_t mac[6] = { 2, 0, 0, 0, 0, 7 };

static void make(struct rig *r, const struct limiter_cfg *rx, const struct limiter_cfg *tx)
{
    const struct virtio_net_cfg cfg = {
        .net = &r->f.net, .mac = { 2, 0, 0, 0, 0, 7 }, .mtu = 1400, .rx = rx, .tx = tx
    };
    r->f.net = (struct net){ .ops = &fake_ops, .offloads = NET_CSUM | NET_TSO4 | NET_ECN };
    r->d.v = virtio_net_new(&r->env, &cfg);
}
static int setup(void **st)
{
    struct rig *r = calloc(1, sizeof(*r));
    r->env = drv_open(&r->d);
    fake_timers_init(&r->t);
    r->env.timers = &r->t.svc;
    make(r, NULL, NULL);
    *st = r;
    return 0;
}
static int teardown(void **st)
{
    struct rig *r = *st;
    drv_close(&r->d);
    assert_false(r->f.attached);
    free(r);
    return 0;
}

/* ---- the back end's side ---- */

static size_t pull(struct rig *r)
{
    size_t n = r->f.user.tx(r->f.user.arg, &r->hdr, r->got);
    r->f.user.flush(r->f.user.arg);
    return n;
}
static bool push_hdr(struct rig *r, const struct net_hdr *h, const void *frame, size_t n)
{
    bool taken = r->f.user.rx(r->f.user.arg, h, frame, n);
    r->f.user.flush(r->f.user.arg);
    return taken;
}
static bool push(struct rig *r, const void *frame, size_t n)
{
    const struct net_hdr h = { 0 };
    return push_hdr(r, &h, frame, n);
}

/* ---- the driver's side ---- */

/* A frame of len bytes, its header in front, over two buffers. */
static void send(struct rig *r, uint16_t i, const struct net_hdr *h, const uint8_t *frame, uint32_t len)
{
    gpa_t at = DRV_DATA + i * 0x20000UL;
    mem_write(r->d.mem, at, h, HDR);
    mem_write(r->d.mem, at + HDR, frame, len);
    drv_desc(&r->d, TX, i, (struct drv_desc){ at, 7, D_NEXT, (uint16_t)(i + 1) });
    drv_desc(&r->d, TX, i + 1U, (struct drv_desc){ at + 7, HDR - 7 + len, 0, 0 });
    drv_add(&r->d, TX, i);
}
/* Receive buffers first..first+n-1 of len bytes each. */
static void offer(struct rig *r, unsigned first, unsigned n, uint32_t len)
{
    for (unsigned i = first; i < first + n; i++) {
        drv_desc(&r->d, RX, i, (struct drv_desc){ DRV_DATA + 0x200000 + i * 0x20000UL, len, D_WRITE, 0 });
        drv_add(&r->d, RX, (uint16_t)i);
    }
    drv_kick(&r->d, RX);
}
static gpa_t rx_at(unsigned i)
{
    return DRV_DATA + 0x200000 + i * 0x20000UL;
}

static uint8_t *pattern(void)
{
    static uint8_t b[NET_FRAME_MAX + 8];
    for (size_t i = 0; i < sizeof(b); i++)
        b[i] = (uint8_t)(i * 7 + i / 256);
    memset(b, 0xff, 6);
    b[6] = 2;
    b[12] = 0x12;
    return b;
}

/* ---- tests ---- */

static void test_config(void **st)
{
    struct rig *r = *st;
    uint8_t c[12];
    assert_int_equal(drv_get(&r->d, 8), 1);
    for (unsigned i = 0; i < sizeof(c); i++)
        virtio_mmio_ops.read(r->d.v, 0x100 + i, c + i, 1);
    assert_memory_equal(c, mac, 6);
    assert_int_equal(c[6] | c[7] << 8, 1);
    assert_int_equal(c[10] | c[11] << 8, 1400);
    uint64_t f = drv_offered(&r->d);
    assert_true(f & BIT(B_TSO4) && f & BIT(B_CSUM));
    assert_false(f & BIT(12)); /* not what the back end cannot */
    /* Features that need others. */
    assert_int_equal(drv_negotiate(&r->d, VIRTIO_F_VERSION_1 | BIT(B_TSO4)) & 8, 0);
    assert_int_equal(drv_negotiate(&r->d, VIRTIO_F_VERSION_1 | BIT(B_GUEST_TSO4)) & 8, 0);
    assert_int_equal(drv_negotiate(&r->d, VIRTIO_F_VERSION_1 | BIT(B_CTRL_RX)) & 8, 0);
    assert_int_equal(drv_negotiate(&r->d, VIRTIO_F_VERSION_1 | BIT(B_CSUM) | BIT(B_ECN)) & 8, 0);
    assert_int_equal(drv_negotiate(&r->d, VIRTIO_F_VERSION_1 | BIT(B_GUEST_CSUM) | BIT(B_GUEST_ECN)) & 8, 0);
    assert_int_equal(drv_negotiate(&r->d, VIRTIO_F_VERSION_1 | BIT(B_GUEST_TSO4) | BIT(B_GUEST_CSUM)) & 8, 8);
    assert_int_equal(drv_negotiate(&r->d, VIRTIO_F_VERSION_1 | BIT(B_TSO4) | BIT(B_CSUM) | BIT(B_ECN)) & 8, 8);
}

static void test_send(void **st)
{
    struct rig *r = *st;
    const struct net_hdr h = { .num_buffers = 99 };
    uint8_t *p = pattern();
    uint32_t len = 0;
    assert_int_equal(pull(r), 0); /* no driver */
    drv_start(&r->d, VIRTIO_F_EVENT_IDX);
    assert_int_equal(pull(r), 0);
    send(r, 0, &h, p, 60);
    send(r, 2, &h, p, 65550);
    unsigned kicks = r->f.kicks;
    drv_kick(&r->d, TX);
    assert_int_equal(r->f.kicks, kicks + 1);
    assert_int_equal(pull(r), 60);
    assert_memory_equal(r->got, p, 60);
    assert_int_equal(r->hdr.num_buffers, 0);
    assert_int_equal(pull(r), 65550);
    assert_memory_equal(r->got, p, 65550);
    assert_int_equal(drv_used(&r->d, TX, &len), 0);
    assert_int_equal(len, 0);
    assert_int_equal(drv_used(&r->d, TX, &len), 2);
    assert_int_equal(r->d.level, 1);
    assert_int_equal(pull(r), 0);
    /* Too short, too long: given back, not sent. The next one is. */
    send(r, 0, &h, p, 13);
    send(r, 2, &h, p, NET_FRAME_MAX + 1);
    send(r, 4, &h, p, 14);
    assert_int_equal(pull(r), 14);
    for (int i = 0; i < 3; i++)
        assert_int_equal(drv_used(&r->d, TX, NULL), 2 * i);
    /* No header. */
    drv_desc(&r->d, TX, 0, (struct drv_desc){ DRV_DATA, 11, 0, 0 });
    drv_add(&r->d, TX, 0);
    assert_int_equal(pull(r), 0);
    assert_int_equal(drv_get(&r->d, 0x70), 15 | 64);
    assert_int_equal(pull(r), 0);
}

/* Whoever stops in the midst of many bad frames asks to be called again: the driver will not. */
static void test_send_bad(void **st)
{
    struct rig *r = *st;
    enum { MANY = 64 };
    r->d.size = MANY;
    drv_start(&r->d, 0);
    for (unsigned i = 0; i < MANY; i++) {
        drv_desc(&r->d, TX, i, (struct drv_desc){ DRV_DATA, HDR + (i < MANY - 1 ? 13 : 60), 0, 0 });
        drv_add(&r->d, TX, (uint16_t)i);
    }
    drv_desc(&r->d, TX, 0, (struct drv_desc){ DRV_DATA, HDR + 13, 0, 0 });
    drv_kick(&r->d, TX);
    while (r->f.kicks) {
        r->f.kicks = 0;
        if (pull(r) == 60)
            return;
    }
    fail_msg("the good frame behind the bad ones is stuck");
}

static void test_send_offloads(void **st)
{
    struct rig *r = *st;
    static uint8_t p[2000] = { 2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 7, 8, 0, 0x45 };
    p[16] = (sizeof(p) - 14) >> 8;
    p[17] = (sizeof(p) - 14) & 0xff;
    p[23] = 6;
    p[14 + 20 + 12] = 0x50;
    const struct net_hdr good = { .flags = NET_NEEDS_CSUM, .csum_start = 34, .csum_offset = 16 };
    struct net_hdr h[6] = { good, good, good, good, good, good };
    h[1].csum_start = 1984; /* its checksum would end behind the frame */
    h[2].csum_offset = 0xffff;
    h[3].gso_type = NET_GSO_TCPV6; /* not negotiated */
    h[4].gso_type = NET_GSO_TCPV4; /* without a size */
    h[5].gso_type = NET_GSO_TCPV4;
    h[5].gso_size = 1000;
    drv_start(&r->d, BIT(B_CSUM) | BIT(B_TSO4));
    for (uint16_t i = 0; i < 6; i++)
        send(r, (uint16_t)(2 * i), &h[i], p, sizeof(p));
    assert_int_equal(pull(r), sizeof(p));
    assert_memory_equal(&r->hdr, &h[0], sizeof(h[0]));
    assert_int_equal(pull(r), sizeof(p));
    assert_memory_equal(&r->hdr, &h[5], sizeof(h[0]));
    assert_int_equal(pull(r), 0);
    drv_start(&r->d, 0); /* nothing negotiated */
    send(r, 0, &h[0], p, sizeof(p));
    send(r, 2, &h[5], p, sizeof(p));
    assert_int_equal(pull(r), 0);
    assert_int_equal(drv_used(&r->d, TX, NULL), 0);
    assert_int_equal(drv_used(&r->d, TX, NULL), 2);
}

static void test_receive(void **st)
{
    struct rig *r = *st;
    static uint8_t b[1600];
    uint8_t *p = pattern();
    uint32_t len = 0;
    assert_true(push(r, p, 100)); /* nobody is there: gone */
    drv_start(&r->d, VIRTIO_F_EVENT_IDX);
    assert_false(push(r, p, 100)); /* no buffer: to be offered again */
    unsigned kicks = r->f.kicks;
    offer(r, 0, 2, 1526);
    assert_true(r->f.kicks > kicks); /* and told when */
    assert_true(push(r, p, 1514));
    assert_int_equal(drv_used(&r->d, RX, &len), 0);
    assert_int_equal(len, 1526);
    mem_read(r->d.mem, rx_at(0), b, 1526);
    assert_memory_equal(b, "\0\0\0\0\0\0\0\0\0\0\1\0", HDR);
    assert_memory_equal(b + HDR, p, 1514);
    assert_int_equal(r->d.level, 1);
    assert_true(push(r, p, 1515)); /* too large for this driver's buffers: dropped, and the buffer stays */
    assert_int_equal(drv_used(&r->d, RX, &len), -1);
    assert_true(push(r, p, 60));
    assert_int_equal(drv_used(&r->d, RX, &len), 1);
    assert_int_equal(len, 72);
    assert_true(push(r, p, 13));
    assert_true(push(r, p, NET_FRAME_MAX + 1));
    /* A hostile buffer. */
    drv_desc(&r->d, RX, 0, (struct drv_desc){ DRV_RAM, 2000, D_WRITE, 0 });
    drv_add(&r->d, RX, 0);
    assert_true(push(r, p, 60));
    assert_int_equal(drv_get(&r->d, 0x70), 15 | 64);
}

static void test_mergeable(void **st)
{
    struct rig *r = *st;
    static uint8_t b[4096];
    uint8_t *p = pattern();
    struct net_hdr h;
    uint32_t len = 0;
    static const uint32_t sizes[] = { 4000, 1000, 100, 64, 13, 12, 5, 1 };
    for (unsigned k = 0; k < ARRAY_LEN(sizes); k++) {
        uint32_t size = sizes[k], total = HDR + (size < 100 ? 40U : 3000U);
        unsigned need = (total + size - 1) / size;
        drv_start(&r->d, BIT(B_MRG) | VIRTIO_F_EVENT_IDX);
        if (need > DRV_QSIZE) {
            /* It will never fit: dropped, so that the next one gets through. */
            offer(r, 0, DRV_QSIZE, size);
            assert_true(push(r, p, total - HDR));
            assert_int_equal(drv_used(&r->d, RX, NULL), -1);
            continue;
        }
        if (need > 1) {
            offer(r, 0, need - 1, size);
            assert_false(push(r, p, total - HDR));
            assert_false(push(r, p, total - HDR));
            assert_int_equal(drv_used(&r->d, RX, NULL), -1); /* all or none */
        }
        unsigned kicks = r->f.kicks;
        offer(r, need - 1, 1, size);
        assert_true(r->f.kicks > kicks);
        assert_true(push(r, p, total - HDR));
        uint32_t done = 0;
        for (unsigned i = 0; i < need; i++) {
            assert_int_equal(drv_used(&r->d, RX, &len), i);
            assert_int_equal(len, total - done < size ? total - done : size);
            mem_read(r->d.mem, rx_at(i), b + done, len);
            done += len;
        }
        assert_int_equal(done, total);
        memcpy(&h, b, HDR);
        assert_int_equal(h.num_buffers, need);
        assert_memory_equal(b + HDR, p, total - HDR);
    }
}

/* What the driver did not negotiate is finished for it. */
static void test_receive_offloads(void **st)
{
    struct rig *r = *st;
    static uint8_t p[54 + 2500] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 8, 0, 0x45 }, b[4000];
    const struct net_hdr large = { .flags = NET_NEEDS_CSUM,
                                   .csum_start = 34,
                                   .csum_offset = 16,
                                   .gso_type = NET_GSO_TCPV4,
                                   .gso_size = 1000,
                                   .hdr_len = 54 };
    const struct net_hdr valid = { .flags = NET_DATA_VALID };
    uint32_t len = 0;
    p[16] = (sizeof(p) - 14) >> 8;
    p[17] = (sizeof(p) - 14) & 0xff;
    p[23] = 6;
    p[46] = 0x50;
    drv_start(&r->d, BIT(B_GUEST_CSUM) | BIT(B_GUEST_TSO4));
    assert_int_equal(r->f.guest, NET_CSUM | NET_TSO4);
    offer(r, 0, 1, 4000);
    assert_true(push_hdr(r, &large, p, sizeof(p)));
    assert_int_equal(drv_used(&r->d, RX, &len), 0);
    assert_int_equal(len, HDR + sizeof(p));
    mem_read(r->d.mem, rx_at(0), b, len);
    assert_memory_equal(b, &large, 10);
    /* Cut. When there is room for some pieces only, the others are lost, as on a network. */
    drv_start(&r->d, BIT(B_GUEST_CSUM));
    assert_int_equal(r->f.guest, NET_CSUM);
    assert_false(push_hdr(r, &large, p, sizeof(p)));
    offer(r, 0, 3, 2000);
    assert_true(push_hdr(r, &large, p, sizeof(p)));
    for (int i = 0; i < 3; i++) {
        assert_int_equal(drv_used(&r->d, RX, &len), i);
        assert_int_equal(len, HDR + 54 + (i < 2 ? 1000 : 500));
    }
    offer(r, 0, 2, 2000);
    assert_true(push_hdr(r, &large, p, sizeof(p)));
    assert_int_equal(drv_used(&r->d, RX, &len), 0);
    assert_int_equal(drv_used(&r->d, RX, &len), 1);
    offer(r, 0, 1, 2000);
    assert_true(push_hdr(r, &valid, p, 100));
    mem_read(r->d.mem, rx_at(0), b, 1);
    assert_int_equal(b[0], NET_DATA_VALID);
    /* No checksums either: made, and nothing is claimed. */
    drv_start(&r->d, 0);
    offer(r, 0, 2, 3000);
    struct net_hdr h = { .flags = NET_NEEDS_CSUM, .csum_start = 34, .csum_offset = 16 };
    assert_true(push_hdr(r, &h, p, sizeof(p)));
    mem_read(r->d.mem, rx_at(0), b, HDR + sizeof(p));
    assert_int_equal(b[0], 0);
    assert_true(b[HDR + 50] || b[HDR + 51]);
    assert_true(push_hdr(r, &valid, p, 100));
    mem_read(r->d.mem, rx_at(1), b, 1);
    assert_int_equal(b[0], 0);
    /* Nonsense of a peer is dropped. */
    h.csum_start = 0xfff0;
    offer(r, 2, 1, 3000);
    assert_true(push_hdr(r, &h, p, sizeof(p)));
    drv_used(&r->d, RX, NULL);
    drv_used(&r->d, RX, NULL);
    assert_int_equal(drv_used(&r->d, RX, NULL), -1);
}

/* A driver that knows the MTU gets no longer frames but for segments that it takes whole. */
static void test_mtu(void **st)
{
    struct rig *r = *st;
    static uint8_t p[14 + 2000] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 8, 0, 0x45 };
    const struct net_hdr large = {
        .flags = NET_NEEDS_CSUM, .csum_start = 34, .csum_offset = 16, .gso_type = NET_GSO_TCPV4, .gso_size = 1000
    };
    const struct {
        uint8_t type[2];
        unsigned head;
    } kind[] = { { { 8, 0 }, 14 }, { { 0x81, 0 }, 18 }, { { 0x88, 0xa8 }, 18 } };
    for (unsigned k = 0; k < ARRAY_LEN(kind); k++) {
        uint32_t len = 0;
        memcpy(p + 12, kind[k].type, 2);
        drv_start(&r->d, BIT(B_MTU));
        offer(r, 0, 1, 3000);
        assert_true(push(r, p, kind[k].head + 1401));
        assert_int_equal(drv_used(&r->d, RX, &len), -1);
        assert_true(push(r, p, kind[k].head + 1400));
        assert_int_equal(drv_used(&r->d, RX, &len), 0);
        assert_int_equal(len, HDR + kind[k].head + 1400);
        drv_start(&r->d, 0); /* it does not know */
        offer(r, 0, 1, 3000);
        assert_true(push(r, p, kind[k].head + 1401));
        assert_int_equal(drv_used(&r->d, RX, &len), 0);
    }
    memcpy(p + 12, kind[0].type, 2);
    p[16] = (sizeof(p) - 14) >> 8;
    p[17] = (sizeof(p) - 14) & 0xff;
    p[23] = 6;
    p[46] = 0x50;
    drv_start(&r->d, BIT(B_MTU) | BIT(B_GUEST_CSUM) | BIT(B_GUEST_TSO4));
    offer(r, 0, 1, 3000);
    assert_true(push_hdr(r, &large, p, sizeof(p)));
    assert_int_equal(drv_used(&r->d, RX, NULL), 0);
}

/* ---- the control queue ---- */

static int command(struct rig *r, uint8_t class, uint8_t cmd, const void *data, uint32_t len)
{
    const uint8_t head[2] = { class, cmd };
    uint8_t ack = 77;
    mem_write(r->d.mem, DRV_DATA, head, 2);
    mem_write(r->d.mem, DRV_DATA + 2, data, len);
    mem_write(r->d.mem, DRV_DATA + 0x8000, &ack, 1);
    drv_desc(&r->d, CTRL, 0, (struct drv_desc){ DRV_DATA, 1, D_NEXT, 1 });
    drv_desc(&r->d, CTRL, 1, (struct drv_desc){ DRV_DATA + 1, 1 + len, D_NEXT, 2 });
    drv_desc(&r->d, CTRL, 2, (struct drv_desc){ DRV_DATA + 0x8000, 1, D_WRITE, 0 });
    drv_add(&r->d, CTRL, 0);
    drv_kick(&r->d, CTRL);
    assert_int_equal(drv_used(&r->d, CTRL, &len), 0);
    assert_int_equal(len, 1);
    mem_read(r->d.mem, DRV_DATA + 0x8000, &ack, 1);
    return ack;
}

/* Whether a frame for that address, with that VLAN tag (-1: none), reaches the guest. */
static bool reaches(struct rig *r, const char *to, int vlan)
{
    uint8_t b[64] = { 0 };
    memcpy(b, to, 6);
    b[12] = vlan < 0 ? 8 : 0x81;
    b[14] = (uint8_t)(vlan >> 8);
    b[15] = (uint8_t)vlan;
    offer(r, 0, 1, 100);
    assert_true(push(r, b, sizeof(b)));
    if (drv_used(&r->d, RX, NULL) == 0)
        return true;
    r->f.user.rx(r->f.user.arg, &(struct net_hdr){ 0 }, pattern(), 60); /* a broadcast takes the buffer back */
    assert_int_equal(drv_used(&r->d, RX, NULL), 0);
    return false;
}

#define OWN "\2\0\0\0\0\7"
#define OTHER "\2\0\0\0\0\10"
#define GROUP "\1\0\136\0\0\1"
#define BROADCAST "\377\377\377\377\377\377"

static void test_filter(void **st)
{
    struct rig *r = *st;
    const uint8_t on = 1, off = 0, odd = 2;
    drv_start(&r->d, ALL_CTRL);
    assert_true(reaches(r, OTHER, -1)); /* until a driver says otherwise */
    assert_int_equal(command(r, 0, 0, &off, 1), 0);
    assert_false(reaches(r, OTHER, -1));
    assert_true(reaches(r, OWN, -1));
    assert_true(reaches(r, BROADCAST, -1));
    assert_false(reaches(r, GROUP, -1));
    assert_int_equal(command(r, 0, 1, &on, 1), 0);
    assert_true(reaches(r, GROUP, -1));
    assert_int_equal(command(r, 0, 3, &on, 1), 0); /* no multicast beats all multicast */
    assert_false(reaches(r, GROUP, -1));
    assert_int_equal(command(r, 0, 3, &off, 1), 0);
    assert_int_equal(command(r, 0, 1, &off, 1), 0);
    assert_int_equal(command(r, 0, 2, &on, 1), 0);
    assert_true(reaches(r, OTHER, -1));
    assert_int_equal(command(r, 0, 2, &off, 1), 0);
    assert_int_equal(command(r, 0, 4, &on, 1), 0);
    assert_false(reaches(r, OWN, -1));
    assert_int_equal(command(r, 0, 4, &off, 1), 0);
    assert_int_equal(command(r, 1, 0, "\1\0\0\0" OTHER "\1\0\0\0" GROUP, 20), 0);
    assert_true(reaches(r, OTHER, -1));
    assert_true(reaches(r, GROUP, -1));
    assert_int_equal(command(r, 1, 1, "\2\0\0\0\0\11", 6), 0);
    assert_false(reaches(r, OWN, -1));
    assert_true(reaches(r, "\2\0\0\0\0\11", -1));
    /* VLANs. */
    assert_false(reaches(r, BROADCAST, 5));
    assert_int_equal(command(r, 2, 0, "\5\0", 2), 0);
    assert_true(reaches(r, BROADCAST, 5));
    assert_false(reaches(r, BROADCAST, 6));
    assert_int_equal(command(r, 2, 1, "\5\0", 2), 0);
    assert_false(reaches(r, BROADCAST, 5));
    /* Refused, and nothing changes. */
    assert_int_equal(command(r, 0, 0, &odd, 1), 1);
    assert_int_equal(command(r, 0, 0, "", 0), 1);
    assert_int_equal(command(r, 0, 6, &on, 1), 1);
    assert_int_equal(command(r, 1, 0, "\377\377\377\377" OTHER, 10), 1);
    assert_int_equal(command(r, 1, 0, "\1\0\0\0" OTHER "\2\0\0\0" GROUP, 20), 1);
    assert_int_equal(command(r, 1, 1, OTHER, 5), 1);
    assert_int_equal(command(r, 2, 0, "\0\20", 2), 1);
    assert_int_equal(command(r, 4, 0, "\1\0", 2), 1);
    assert_int_equal(command(r, 99, 0, "\1\0", 2), 1);
    assert_true(reaches(r, OTHER, -1));
    /* A table that does not fit is one that has everybody. */
    uint8_t many[4 + 65 * 6 + 4] = { 65 };
    assert_int_equal(command(r, 1, 0, many, sizeof(many)), 0);
    assert_true(reaches(r, "\2\1\1\1\1\1", -1));
    assert_false(reaches(r, GROUP, -1));
    /* All of it is gone after a reset. */
    drv_start(&r->d, ALL_CTRL);
    assert_true(reaches(r, GROUP, 7));
    /* MAC_ADDR_SET belongs to receive filtering as well as to a feature of its own. */
    drv_start(&r->d, BIT(B_CTRL) | BIT(B_CTRL_RX));
    assert_int_equal(command(r, 1, 1, OTHER, 6), 0);
    drv_start(&r->d, BIT(B_CTRL) | BIT(B_MACADDR));
    assert_int_equal(command(r, 1, 1, OTHER, 6), 0);
    assert_int_equal(command(r, 1, 0, "\0\0\0\0\0\0\0\0", 8), 1);
    drv_start(&r->d, BIT(B_CTRL)); /* commands that were not negotiated */
    assert_int_equal(command(r, 0, 0, &off, 1), 1);
    assert_int_equal(command(r, 1, 1, OTHER, 6), 1);
    assert_int_equal(command(r, 2, 0, "\5\0", 2), 1);
    assert_int_equal(command(r, 5, 0, "\0\0\0\0\0\0\0\0", 8), 1);
    /* No room for an answer. */
    drv_desc(&r->d, CTRL, 0, (struct drv_desc){ DRV_DATA, 3, 0, 0 });
    drv_add(&r->d, CTRL, 0);
    drv_kick(&r->d, CTRL);
    assert_int_equal(drv_get(&r->d, 0x70), 15 | 64);
}

static void test_stats(void **st)
{
    struct rig *r = *st;
    static const struct drv_counter want[] = {
        { "tx_frames", 2 },  { "tx_bytes", 160 },  { "tx_dropped", 1 }, { "rx_frames", 1 },        { "rx_bytes", 70 },
        { "rx_dropped", 2 }, { "rx_filtered", 1 }, { "commands", 2 },   { "commands_refused", 1 },
    };
    const struct net_hdr h = { 0 };
    const uint8_t off = 0;
    uint8_t other[70] = OTHER;
    uint8_t *p = pattern();
    assert_true(push(r, p, 70)); /* no driver */
    drv_start(&r->d, ALL_CTRL);
    send(r, 0, &h, p, 60);
    send(r, 2, &h, p, 13);
    send(r, 4, &h, p, 100);
    assert_int_equal(pull(r) + pull(r), 160);
    assert_false(push(r, p, 70)); /* to be offered again */
    offer(r, 0, 1, 100);
    assert_true(push(r, p, 200));
    assert_true(push(r, p, 70));
    command(r, 0, 0, &off, 1);
    command(r, 99, 0, &off, 1);
    assert_true(push(r, other, sizeof(other)));
    for (unsigned i = 0; i < ARRAY_LEN(want); i++)
        if (drv_counter(&r->d, want[i].name) != want[i].value)
            fail_msg("%s: %lu", want[i].name, drv_counter(&r->d, want[i].name));
}

static void test_guest_offloads(void **st)
{
    struct rig *r = *st;
    drv_start(&r->d, ALL_CTRL | BIT(B_GUEST_CSUM) | BIT(B_GUEST_TSO4));
    assert_int_equal(r->f.guest, NET_CSUM | NET_TSO4);
    assert_int_equal(command(r, 5, 0, "\2\0\0\0\0\0\0\0", 8), 0);
    assert_int_equal(r->f.guest, NET_CSUM);
    assert_int_equal(command(r, 5, 0, "\0\1\0\0\0\0\0\0", 8), 1); /* TSO6 was not negotiated */
    assert_int_equal(command(r, 5, 0, "\2\0\0\0", 4), 1);
    assert_int_equal(r->f.guest, NET_CSUM);
    assert_int_equal(command(r, 5, 0, "\202\0\0\0\0\0\0\0", 8), 0);
    assert_int_equal(r->f.guest, NET_CSUM | NET_TSO4);
}

/* ---- limits, reset, state ---- */

static void test_limits(void **st)
{
    struct rig *r = *st;
    const struct limiter_cfg rx = { .ops = { 2, 0, 1000 } }, tx = { .bandwidth = { 100, 0, 1000 } };
    const struct net_hdr h = { 0 };
    uint8_t *p = pattern();
    virtio_free(r->d.v);
    make(r, &rx, &tx);
    drv_start(&r->d, 0);
    offer(r, 0, 4, 200);
    assert_true(push(r, p, 60));
    assert_true(push(r, p, 60));
    assert_false(push(r, p, 60));
    assert_false(push(r, p, 60));
    unsigned kicks = r->f.kicks;
    fake_advance(&r->t, 500000000);
    drv_quiet(&r->d);
    assert_true(r->f.kicks > kicks);
    assert_true(push(r, p, 60));
    assert_false(push(r, p, 60));
    send(r, 0, &h, p, 60); /* 72 with its header */
    send(r, 2, &h, p, 60);
    assert_int_equal(pull(r), 60);
    assert_int_equal(pull(r), 0);
    kicks = r->f.kicks;
    fake_advance(&r->t, 500000000);
    drv_quiet(&r->d);
    assert_true(r->f.kicks > kicks);
    assert_int_equal(pull(r), 60);
    /* A frame that has paid and finds no buffer does not pay again. */
    drv_start(&r->d, 0);
    fake_advance(&r->t, 1000000000);
    assert_false(push(r, p, 60));
    assert_false(push(r, p, 60));
    assert_false(push(r, p, 60));
    offer(r, 0, 2, 200);
    assert_true(push(r, p, 60));
    assert_true(push(r, p, 60));
}

static void test_reset(void **st)
{
    struct rig *r = *st;
    const struct net_hdr h = { 0 };
    uint8_t *p = pattern();
    drv_start(&r->d, BIT(B_MRG));
    offer(r, 0, 1, 50);
    send(r, 0, &h, p, 60);
    send(r, 2, &h, p, 61);
    assert_int_equal(pull(r), 60);
    assert_false(push(r, p, 60)); /* half of what it needs is there */
    virtio_mmio_ops.reset(r->d.v);
    assert_int_equal(pull(r), 0);
    assert_true(push(r, p, 60));
    assert_int_equal(r->f.guest, 0);
    drv_start(&r->d, BIT(B_MRG));
    offer(r, 0, 2, 50);
    assert_true(push(r, p, 60));
    assert_int_equal(drv_used(&r->d, RX, NULL), 0);
    assert_int_equal(drv_used(&r->d, RX, NULL), 1);
    send(r, 0, &h, p, 62);
    assert_int_equal(pull(r), 62);
}

static void test_state(void **st)
{
    struct rig *r = *st;
    struct state_out out = { 0 };
    const struct net_hdr h = { 0 };
    const uint8_t off = 0;
    uint16_t status;
    drv_start(&r->d, ALL_CTRL | BIT(B_STATUS) | BIT(B_GUEST_CSUM) | BIT(B_MRG));
    assert_int_equal(command(r, 0, 0, &off, 1), 0);
    assert_int_equal(command(r, 1, 1, OTHER, 6), 0);
    assert_int_equal(command(r, 2, 0, "\5\0", 2), 0);
    assert_int_equal(command(r, 1, 0, "\0\0\0\0\1\0\0\0" GROUP, 14), 0);
    send(r, 0, &h, pattern(), 60);
    assert_int_equal(virtio_mmio_ops.save(r->d.v, &out), 0);
    /* Another device goes on where this one stopped. */
    virtio_free(r->d.v);
    make(r, NULL, NULL);
    unsigned kicks = r->f.kicks;
    struct state_in in = { .buf = out.buf, .len = out.len };
    assert_int_equal(virtio_mmio_ops.load(r->d.v, &in, 1), 0);
    drv_quiet(&r->d);
    assert_true(r->f.kicks > kicks);
    assert_int_equal(r->f.guest, NET_CSUM);
    assert_int_equal(pull(r), 60);
    assert_false(reaches(r, OWN, -1));
    assert_true(reaches(r, OTHER, -1));
    assert_true(reaches(r, GROUP, -1));
    assert_true(reaches(r, BROADCAST, 5));
    assert_false(reaches(r, BROADCAST, 6));
    /* And its neighbours are to hear of it. */
    virtio_mmio_ops.read(r->d.v, 0x106, &status, 2);
    assert_int_equal(status, 3);
    assert_int_equal(drv_get(&r->d, 0x60) & 2, 2);
    assert_int_equal(command(r, 3, 0, "", 0), 0);
    virtio_mmio_ops.read(r->d.v, 0x106, &status, 2);
    assert_int_equal(status, 1);
    for (size_t n = 0; n < out.len; n++) {
        in = (struct state_in){ .buf = out.buf, .len = n };
        assert_int_equal(virtio_mmio_ops.load(r->d.v, &in, 1), -EINVAL);
    }
    state_out_free(&out);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_config),  T(test_send),      T(test_send_bad),         T(test_send_offloads),
        T(test_receive), T(test_mergeable), T(test_receive_offloads), T(test_mtu),
        T(test_filter),  T(test_stats),     T(test_guest_offloads),   T(test_limits),
        T(test_reset),   T(test_state),
    };
    log_set_level(LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
