/* SPDX-License-Identifier: MIT */
/*
 * Checksums and segmentation in software (RFC 791, 793, 768, 1071, 2460; virtio 1.2, "Packet Transmission"). Nothing in
 * a frame is trusted: every offset is checked against its length before use.
 */
#include "host/net_offload.h"

#include <netinet/in.h>
#include <string.h>

enum { ETH_LEN = 14, VLAN_LEN = 4, IP4_LEN = 20, IP6_LEN = 40, TCP_LEN = 20, UDP_LEN = 8, TCP_CSUM = 16, UDP_CSUM = 6 };
enum { IP4_DF = 0x4000, IP4_MF = 0x2000 };
enum { TYPE_IP4 = 0x0800, TYPE_IP6 = 0x86dd, TYPE_VLAN = 0x8100, TYPE_QINQ = 0x88a8 };
enum { TCP_FIN = 1, TCP_PSH = 8, TCP_CWR = 0x80 };
enum { VLANS_MAX = 2, EXTENSIONS_MAX = 8, PIECES_MAX = 1024 };

static uint16_t get16(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}
static void put16(uint8_t *p, size_t v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}
static uint32_t get32(const uint8_t *p)
{
    return (uint32_t)get16(p) << 16 | get16(p + 2);
}
static void put32(uint8_t *p, uint32_t v)
{
    put16(p, v >> 16);
    put16(p + 2, v & 0xffff);
}

/* ---- headers ---- */

static bool parse_v4(const uint8_t *f, size_t len, struct net_layers *out)
{
    const uint8_t *ip = f + out->l3;
    if (len < out->l3 + (size_t)IP4_LEN || ip[0] >> 4 != 4)
        return false;
    size_t ihl = (ip[0] & 15) * 4U;
    if (ihl < IP4_LEN || out->l3 + ihl > len)
        return false;
    out->v4 = true;
    out->l4 = out->l3 + (uint32_t)ihl;
    out->proto = get16(ip + 6) & 0x3fff ? 0 : ip[9]; /* a fragment has no checksum of its own */
    return true;
}

static bool parse_v6(const uint8_t *f, size_t len, struct net_layers *out)
{
    size_t at = out->l3 + (size_t)IP6_LEN;
    if (len < at || f[out->l3] >> 4 != 6)
        return false;
    uint8_t next = f[out->l3 + 6];
    for (int i = 0; i < EXTENSIONS_MAX; i++) {
        if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_DSTOPTS)
            break;
        if (at + 8 > len)
            return false;
        next = f[at];
        at += 8 + f[at + 1] * 8U;
    }
    if (at > len)
        return false;
    out->v6 = true;
    out->l4 = (uint32_t)at;
    out->proto = next == IPPROTO_TCP || next == IPPROTO_UDP || next == IPPROTO_ICMPV6 ? next : 0;
    return true;
}

bool net_parse(const uint8_t *frame, size_t len, struct net_layers *out)
{
    size_t at = ETH_LEN - 2;
    *out = (struct net_layers){ 0 };
    if (len < ETH_LEN || len > NET_FRAME_MAX)
        return false;
    uint16_t type = get16(frame + at);
    for (int i = 0; i < VLANS_MAX && (type == TYPE_VLAN || type == TYPE_QINQ); i++) {
        at += VLAN_LEN;
        if (at + 2 > len)
            return false;
        type = get16(frame + at);
    }
    out->l3 = (uint32_t)(at + 2);
    if (type == TYPE_IP4 ? !parse_v4(frame, len, out) : type == TYPE_IP6 ? !parse_v6(frame, len, out) : true)
        return false;
    if (out->proto == IPPROTO_TCP) {
        size_t doff = out->l4 + (size_t)TCP_LEN <= len ? (frame[out->l4 + 12] >> 4) * 4U : 0;
        if (doff < TCP_LEN || out->l4 + doff > len)
            out->proto = 0;
        else
            out->data = out->l4 + (uint32_t)doff;
    } else if (out->proto == IPPROTO_UDP) {
        if (out->l4 + (size_t)UDP_LEN > len)
            out->proto = 0;
        else
            out->data = out->l4 + UDP_LEN;
    }
    return true;
}

/* ---- sums ---- */

/* Sums are the same in either byte order (RFC 1071, 2.(B)), so words are added as the host has them. */
uint16_t net_sum(const void *buf, size_t len, uint16_t sum)
{
    const uint8_t *p = buf;
    uint64_t a = 0, b = 0;
    for (; len >= 16; p += 16, len -= 16) {
        uint32_t w[4];
        memcpy(w, p, 16);
        a += (uint64_t)w[0] + w[2];
        b += (uint64_t)w[1] + w[3];
    }
    for (; len >= 4; p += 4, len -= 4) {
        uint32_t w;
        memcpy(&w, p, 4);
        a += w;
    }
    uint8_t rest[4] = { 0 };
    memcpy(rest, p, len);
    uint32_t w;
    memcpy(&w, rest, 4);
    a += w;
    a = (a & 0xffffffff) + (a >> 32) + (b & 0xffffffff) + (b >> 32);
    while (a >> 16)
        a = (a & 0xffff) + (a >> 16);
    a = (uint64_t)__builtin_bswap16((uint16_t)a) + sum;
    return (uint16_t)((a & 0xffff) + (a >> 16));
}

static uint16_t add(uint16_t sum, uint32_t x)
{
    uint64_t s = (uint64_t)sum + (x & 0xffff) + (x >> 16);
    while (s >> 16)
        s = (s & 0xffff) + (s >> 16);
    return (uint16_t)s;
}

uint16_t net_pseudo_sum(const uint8_t *f, const struct net_layers *l, size_t l4_len)
{
    uint16_t s = l->v4 ? net_sum(f + l->l3 + 12, 8, 0) : net_sum(f + l->l3 + 8, 32, 0);
    return add(add(s, l->proto), (uint32_t)l4_len);
}

static size_t csum_at(const struct net_layers *l)
{
    return l->l4 + (l->proto == IPPROTO_TCP ? TCP_CSUM : UDP_CSUM);
}

void net_finish_l4(uint8_t *f, size_t len, const struct net_layers *l)
{
    if (l->v4) {
        put16(f + l->l3 + 2, len - l->l3);
        put16(f + l->l3 + 10, 0);
        put16(f + l->l3 + 10, (uint16_t)~net_sum(f + l->l3, l->l4 - l->l3, 0));
    } else {
        put16(f + l->l3 + 4, len - l->l3 - IP6_LEN);
    }
    if (l->proto == IPPROTO_UDP)
        put16(f + l->l4 + 4, len - l->l4);
    put16(f + csum_at(l), 0);
    uint16_t c = (uint16_t)~net_sum(f + l->l4, len - l->l4, net_pseudo_sum(f, l, len - l->l4));
    put16(f + csum_at(l), c || l->proto == IPPROTO_TCP ? c : 0xffff); /* 0 means "none" in UDP */
}

void net_finish_csum(struct net_hdr *h, uint8_t *frame, size_t len)
{
    size_t at = (size_t)h->csum_start + h->csum_offset;
    if (h->flags & NET_NEEDS_CSUM && h->csum_start <= len && at + 2 <= len) {
        uint16_t c = (uint16_t)~net_sum(frame + h->csum_start, len - h->csum_start, 0);
        put16(frame + at, c || h->csum_offset != UDP_CSUM ? c : 0xffff);
    }
    h->flags &= (uint8_t)~NET_NEEDS_CSUM;
    h->csum_start = h->csum_offset = 0;
}

/* ---- headers of offloads ---- */

unsigned net_hdr_needs(const struct net_hdr *h)
{
    unsigned n = h->flags & NET_NEEDS_CSUM ? NET_CSUM : 0;
    switch (h->gso_type & ~NET_GSO_ECN) {
    case NET_GSO_TCPV4:
        n |= NET_TSO4;
        break;
    case NET_GSO_TCPV6:
        n |= NET_TSO6;
        break;
    case NET_GSO_UDP_L4:
        n |= NET_USO;
        break;
    default:
        break;
    }
    return n | (h->gso_type & NET_GSO_ECN ? NET_ECN : 0);
}

static bool gso_fits(const struct net_hdr *h, const struct net_layers *l)
{
    switch (h->gso_type & ~NET_GSO_ECN) {
    case NET_GSO_TCPV4:
        return l->v4 && l->proto == IPPROTO_TCP;
    case NET_GSO_TCPV6:
        return l->v6 && l->proto == IPPROTO_TCP;
    case NET_GSO_UDP_L4:
        return l->proto == IPPROTO_UDP;
    default:
        return false;
    }
}

bool net_hdr_ok(const struct net_hdr *h, const uint8_t *frame, size_t len)
{
    struct net_layers l;
    if (h->flags & NET_NEEDS_CSUM && (size_t)h->csum_start + h->csum_offset + 2 > len)
        return false;
    if (h->gso_type == NET_GSO_NONE)
        return true;
    return h->flags & NET_NEEDS_CSUM && h->gso_size && net_parse(frame, len, &l) && gso_fits(h, &l) &&
           len - l.l3 <= 65535 + (l.v6 ? (size_t)IP6_LEN : 0);
}

bool net_finish_whole(struct net_hdr *h, uint8_t *frame, size_t len)
{
    struct net_layers l;
    if (!net_parse(frame, len, &l) || !gso_fits(h, &l) || l.proto != IPPROTO_TCP ||
        len - l.l3 > 65535 + (l.v6 ? (size_t)IP6_LEN : 0))
        return false;
    net_finish_l4(frame, len, &l);
    *h = (struct net_hdr){ 0 };
    return true;
}

/* ---- cutting ---- */

/* The headers of the piece at byte off of the payload. */
static void fix_piece(uint8_t *f, const struct net_layers *l, size_t off, unsigned index, bool last)
{
    if (l->v4)
        put16(f + l->l3 + 4, get16(f + l->l3 + 4) + index); /* identification */
    if (l->proto != IPPROTO_TCP)
        return;
    put32(f + l->l4 + 4, get32(f + l->l4 + 4) + (uint32_t)off);
    if (!last)
        f[l->l4 + 13] &= (uint8_t) ~(TCP_FIN | TCP_PSH);
    if (off)
        f[l->l4 + 13] &= (uint8_t)~TCP_CWR;
}

bool net_segment(const struct net_hdr *h, const uint8_t *frame, size_t len, const struct net_cut *cut)
{
    struct net_layers l;
    if (!h->gso_size || !net_parse(frame, len, &l) || !gso_fits(h, &l))
        return false;
    size_t payload = len - l.data, off = 0;
    unsigned index = 0;
    if (payload > (size_t)h->gso_size * PIECES_MAX)
        return false;
    do {
        size_t n = payload - off < h->gso_size ? payload - off : h->gso_size;
        memcpy(cut->scratch, frame, l.data);
        memcpy(cut->scratch + l.data, frame + l.data + off, n);
        fix_piece(cut->scratch, &l, off, index++, off + n == payload);
        net_finish_l4(cut->scratch, l.data + n, &l);
        off += n;
        if (!cut->emit(cut->arg, cut->scratch, l.data + n))
            return true;
    } while (off < payload);
    return true;
}

bool net_fragment_v4(const uint8_t *frame, size_t len, size_t limit, const struct net_cut *cut)
{
    struct net_layers l;
    if (!net_parse(frame, len, &l) || !l.v4 || limit < l.l4 + 8U)
        return false;
    uint16_t field = get16(frame + l.l3 + 6); /* flags and offset; its own if it is a fragment already */
    size_t room = (limit - l.l4) & ~(size_t)7, total = get16(frame + l.l3 + 2);
    if (field & IP4_DF || total < l.l4 - l.l3 || l.l3 + total > len || (field & 0x1fff) * 8U + total > 65535)
        return false;
    size_t payload = l.l3 + total - l.l4;
    for (size_t off = 0; off < payload; off += room) {
        size_t n = payload - off < room ? payload - off : room;
        uint8_t *ip = cut->scratch + l.l3;
        memcpy(cut->scratch, frame, l.l4);
        memcpy(cut->scratch + l.l4, frame + l.l4 + off, n);
        put16(ip + 2, l.l4 - l.l3 + n);
        put16(ip + 6, (field + off / 8) | (off + n < payload ? IP4_MF : 0U));
        put16(ip + 10, 0);
        put16(ip + 10, (uint16_t)~net_sum(ip, l.l4 - l.l3, 0));
        if (!cut->emit(cut->arg, cut->scratch, l.l4 + n))
            break;
    }
    return true;
}
