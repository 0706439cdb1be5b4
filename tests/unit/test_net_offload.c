/* SPDX-License-Identifier: MIT */
/* Checksums and segmentation in software, against a slow reference that follows the RFCs byte by byte. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "base/types.h"
#include "host/net_offload.h"

static uint32_t rnd_state = 1;
static uint8_t rnd(void)
{
    rnd_state = rnd_state * 1664525 + 1013904223;
    return (uint8_t)(rnd_state >> 24);
}

/* RFC 1071 literally: 16-bit big-endian words, end-around carry at each addition. */
static uint16_t ref_sum(const uint8_t *p, size_t n, uint16_t sum)
{
    for (size_t i = 0; i < n; i += 2) {
        uint32_t s = sum + (uint32_t)(p[i] << 8 | (i + 1 < n ? p[i + 1] : 0));
        sum = (uint16_t)((s & 0xffff) + (s >> 16));
    }
    return sum;
}

/* ---- frames ---- */

enum { V4 = 0, V6 = 1, VLAN = 2, UDP = 4, OPTS = 8, EXT = 16 };

struct frame {
    uint8_t b[NET_FRAME_MAX];
    size_t len, l3, l4, data;
    unsigned kind;
};

static void put16(uint8_t *p, size_t v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}
static unsigned get16(const uint8_t *p)
{
    return (unsigned)(p[0] << 8 | p[1]);
}
static uint32_t get32(const uint8_t *p)
{
    return get16(p) << 16 | get16(p + 2);
}

/* As a driver leaves it with checksum offload: the pseudo header's sum in the checksum field. */
static struct net_hdr build(struct frame *f, unsigned kind, size_t payload)
{
    uint8_t *b = f->b;
    bool udp = kind & UDP, v6 = kind & V6;
    memset(b, 0, 160);
    f->kind = kind;
    f->l3 = kind & VLAN ? 18 : 14;
    if (kind & VLAN)
        put16(b + 12, 0x8100);
    put16(b + f->l3 - 2, v6 ? 0x86dd : 0x0800);
    size_t ext = kind & EXT ? 8 : 0, opts = kind & OPTS ? 12 : 0;
    f->l4 = f->l3 + (v6 ? 40 : 20) + ext;
    f->data = f->l4 + (udp ? 8 : 20 + opts);
    f->len = f->data + payload;
    uint8_t *ip = b + f->l3, *l4 = b + f->l4, proto = udp ? IPPROTO_UDP : IPPROTO_TCP;
    for (size_t i = f->data; i < f->len; i++)
        b[i] = rnd();
    if (v6) {
        ip[0] = 0x60;
        put16(ip + 4, f->len - f->l3 - 40);
        ip[6] = ext ? IPPROTO_HOPOPTS : proto;
        if (ext)
            ip[40] = proto;
        for (int i = 8; i < 40; i++)
            ip[i] = rnd();
    } else {
        ip[0] = (uint8_t)(0x45 + ext / 4);
        put16(ip + 2, f->len - f->l3);
        put16(ip + 4, 0xfffe);
        ip[9] = proto;
        for (int i = 12; i < 20; i++)
            ip[i] = rnd();
        put16(ip + 10, (uint16_t)~ref_sum(ip, 20 + ext, 0));
    }
    put16(l4, 1234);
    put16(l4 + 2, 80);
    if (udp) {
        put16(l4 + 4, f->len - f->l4);
    } else {
        put16(l4 + 4, 0xffff);
        put16(l4 + 6, 0xfff0);
        l4[12] = (uint8_t)((20 + opts) / 4 << 4);
        l4[13] = 0x80 | 0x10 | 8 | 1; /* CWR ACK PSH FIN */
        memset(l4 + 20, 1, opts);
    }
    uint16_t s = v6 ? ref_sum(ip + 8, 32, 0) : ref_sum(ip + 12, 8, 0);
    uint8_t tail[4] = { 0, proto, (uint8_t)((f->len - f->l4) >> 8), (uint8_t)(f->len - f->l4) };
    put16(l4 + (udp ? 6 : 16), ref_sum(tail, 4, s));
    return (struct net_hdr){ .flags = NET_NEEDS_CSUM,
                             .csum_start = (uint16_t)f->l4,
                             .csum_offset = udp ? 6 : 16,
                             .hdr_len = (uint16_t)f->data };
}

/* Lengths and checksums are right, by the reference. */
static void check_frame(const uint8_t *b, size_t len, const struct frame *f)
{
    const uint8_t *ip = b + f->l3;
    uint16_t s;
    if (f->kind & V6) {
        assert_int_equal(get16(ip + 4), len - f->l3 - 40);
        s = ref_sum(ip + 8, 32, 0);
    } else {
        assert_int_equal(get16(ip + 2), len - f->l3);
        assert_int_equal(ref_sum(ip, f->l4 - f->l3, 0), 0xffff);
        s = ref_sum(ip + 12, 8, 0);
    }
    uint8_t tail[4] = { 0, f->kind & UDP ? IPPROTO_UDP : IPPROTO_TCP };
    put16(tail + 2, len - f->l4);
    s = ref_sum(b + f->l4, len - f->l4, ref_sum(tail, 4, s));
    assert_int_equal(s, 0xffff);
    if (f->kind & UDP) {
        assert_int_equal(get16(b + f->l4 + 4), len - f->l4);
        assert_int_not_equal(get16(b + f->l4 + 6), 0);
    }
}

static const unsigned kinds[] = { V4,        V6,       V4 | VLAN, V6 | VLAN, V4 | OPTS,
                                  V6 | OPTS, V4 | UDP, V6 | UDP,  V6 | EXT,  V4 | EXT };

static void test_sum(void **st)
{
    uint8_t b[300];
    (void)st;
    for (unsigned i = 0; i < sizeof(b); i++)
        b[i] = i % 3 ? 0xff : rnd();
    for (unsigned at = 0; at < 17; at++)
        for (unsigned n = 0; n + at <= sizeof(b); n++) {
            uint16_t want = ref_sum(b + at, n, 0x1234), got = net_sum(b + at, n, 0x1234);
            assert_true(got == want || (got % 0xffff == 0 && want % 0xffff == 0));
        }
}

static void test_checksum(void **st)
{
    static struct frame f;
    struct net_layers l;
    (void)st;
    for (unsigned k = 0; k < ARRAY_LEN(kinds); k++)
        for (size_t n = 0; n < 40; n++) {
            struct net_hdr h = build(&f, kinds[k], n);
            assert_true(net_hdr_ok(&h, f.b, f.len));
            assert_int_equal(net_hdr_needs(&h), NET_CSUM);
            assert_true(net_parse(f.b, f.len, &l));
            assert_int_equal(l.l4, f.l4);
            assert_int_equal(l.data, f.data);
            net_finish_csum(&h, f.b, f.len);
            assert_int_equal(net_hdr_needs(&h), 0);
            check_frame(f.b, f.len, &f);
        }
    /* A UDP checksum that comes out as 0 is sent as ffff. */
    struct net_hdr h = build(&f, UDP, 2);
    memcpy(f.b + f.l3 + 12, "\1\2\3\4\5\6\7\10", 8);
    put16(f.b + f.data, 0);
    uint8_t tail[4] = { 0, IPPROTO_UDP, 0, 10 };
    put16(f.b + f.l4 + 6, ref_sum(tail, 4, ref_sum(f.b + f.l3 + 12, 8, 0)));
    put16(f.b + f.data, 0xffff ^ ref_sum(f.b + f.l4, 10, 0));
    net_finish_csum(&h, f.b, f.len);
    assert_int_equal(get16(f.b + f.l4 + 6), 0xffff);
}

/* ---- cutting ---- */

struct collect {
    const struct frame *whole;
    size_t gso, done;
    unsigned n, stop;
};

static bool collect(void *arg, const uint8_t *b, size_t len)
{
    struct collect *c = arg;
    const struct frame *w = c->whole;
    size_t payload = w->len - w->data, n = len - w->data;
    bool last = c->done + n == payload;
    check_frame(b, len, w);
    assert_true(n == c->gso || last);
    assert_memory_equal(b + w->data, w->b + w->data + c->done, n);
    assert_memory_equal(b, w->b, w->l3);
    if (!(w->kind & V6))
        assert_int_equal(get16(b + w->l3 + 4), (0xfffe + c->n) & 0xffff);
    if (!(w->kind & UDP)) {
        assert_int_equal(get32(b + w->l4 + 4), (uint32_t)(0xfffffff0 + c->done));
        assert_int_equal(b[w->l4 + 13], 0x10 | (c->done ? 0 : 0x80) | (last ? 9 : 0));
    }
    c->done += n;
    return ++c->n != c->stop;
}

static struct net_hdr gso(struct frame *f, unsigned kind, size_t payload, uint16_t size)
{
    struct net_hdr h = build(f, kind, payload);
    h.gso_size = size;
    h.gso_type = kind & UDP ? NET_GSO_UDP_L4 : kind & V6 ? NET_GSO_TCPV6 : NET_GSO_TCPV4;
    return h;
}

static void test_segments(void **st)
{
    static struct frame f;
    static uint8_t scratch[NET_FRAME_MAX];
    static const size_t sizes[] = { 1, 999, 1000, 1001, 2000, 30011, 64000 };
    (void)st;
    for (unsigned k = 0; k < ARRAY_LEN(kinds); k++)
        for (unsigned i = 0; i < ARRAY_LEN(sizes); i++) {
            struct net_hdr h = gso(&f, kinds[k], sizes[i], 1000);
            struct collect c = { .whole = &f, .gso = 1000 };
            const struct net_cut cut = { .emit = collect, .arg = &c, .scratch = scratch };
            assert_true(net_hdr_ok(&h, f.b, f.len));
            assert_true(net_segment(&h, f.b, f.len, &cut));
            assert_int_equal(c.done, sizes[i]);
            assert_int_equal(c.n, (sizes[i] + 999) / 1000);
            if (!(kinds[k] & UDP)) {
                put16(f.b + f.l3 + (kinds[k] & V6 ? 4 : 2), 0); /* some drivers leave that to the device */
                assert_true(net_finish_whole(&h, f.b, f.len));
                check_frame(f.b, f.len, &f);
            }
        }
    struct net_hdr h = gso(&f, V4, 10000, 1000);
    struct collect c = { .whole = &f, .gso = 1000, .stop = 3 };
    const struct net_cut cut = { .emit = collect, .arg = &c, .scratch = scratch };
    assert_true(net_segment(&h, f.b, f.len, &cut));
    assert_int_equal(c.n, 3);
}

static void test_refused(void **st)
{
    static struct frame f;
    static uint8_t scratch[NET_FRAME_MAX];
    struct collect c = { .whole = &f, .gso = 1000 };
    const struct net_cut cut = { .emit = collect, .arg = &c, .scratch = scratch };
    struct net_hdr h = build(&f, V4, 10);
    (void)st;
    h.csum_offset = (uint16_t)(f.len - f.l4 - 1); /* one byte beyond */
    assert_false(net_hdr_ok(&h, f.b, f.len));
    h.csum_offset--;
    assert_true(net_hdr_ok(&h, f.b, f.len));
    h.csum_start = h.csum_offset = 0xffff;
    assert_false(net_hdr_ok(&h, f.b, f.len));
    net_finish_csum(&h, f.b, f.len); /* harmless all the same */
    h = gso(&f, V4, 5000, 0);
    assert_false(net_hdr_ok(&h, f.b, f.len));
    h = gso(&f, V4, 5000, 1000);
    h.gso_type = NET_GSO_TCPV6; /* not what the frame is */
    assert_false(net_hdr_ok(&h, f.b, f.len));
    assert_false(net_segment(&h, f.b, f.len, &cut));
    h.gso_type = NET_GSO_UDP; /* never offered */
    assert_false(net_hdr_ok(&h, f.b, f.len));
    h = gso(&f, V4, 5000, 1000);
    h.flags = 0;
    assert_false(net_hdr_ok(&h, f.b, f.len));
    h = gso(&f, V4, 60000, 8); /* more pieces than any sane driver asks for */
    assert_false(net_segment(&h, f.b, f.len, &cut));
    assert_int_equal(c.n, 0);
    /* Cut off anywhere, it never reads beyond: the copy ends where the frame does (MODE=asan sees it). */
    for (unsigned k = 0; k < ARRAY_LEN(kinds); k++) {
        h = gso(&f, kinds[k], 40, 10);
        for (size_t n = 0; n < f.len; n++) {
            struct net_layers l;
            uint8_t *copy = malloc(n + 1);
            memcpy(copy, f.b, n);
            copy = realloc(copy, n ? n : 1);
            if (net_parse(copy, n, &l) && l.proto)
                assert_true(l.l4 <= n && l.data <= n);
            net_hdr_ok(&h, copy, n);
            free(copy);
        }
    }
}

/* ---- fragments ---- */

struct rebuilt {
    const struct frame *whole;
    size_t done, n;
    uint8_t b[NET_FRAME_MAX];
};

static bool rebuild(void *arg, const uint8_t *b, size_t len)
{
    struct rebuilt *r = arg;
    const struct frame *w = r->whole;
    const uint8_t *ip = b + w->l3;
    assert_true(len <= 1514);
    assert_int_equal(get16(ip + 2), len - w->l3);
    assert_int_equal(ref_sum(ip, w->l4 - w->l3, 0), 0xffff);
    assert_int_equal((get16(ip + 6) & 0x1fff) * 8, r->done);
    memcpy(r->b + r->done, b + w->l4, len - w->l4);
    r->done += len - w->l4;
    assert_int_equal(!(get16(ip + 6) & 0x2000), r->done == w->len - w->l4);
    r->n++;
    return true;
}

static void test_fragments(void **st)
{
    static struct frame f;
    static struct rebuilt r;
    static uint8_t scratch[NET_FRAME_MAX];
    (void)st;
    for (size_t n = 1473; n < 12000; n += 811) {
        build(&f, UDP, n);
        r.whole = &f;
        r.done = r.n = 0;
        const struct net_cut cut = { .emit = rebuild, .arg = &r, .scratch = scratch };
        assert_true(net_fragment_v4(f.b, f.len, 1514, &cut));
        assert_int_equal(r.done, f.len - f.l4);
        assert_memory_equal(r.b, f.b + f.l4, r.done);
        assert_int_equal(r.n, (n + 8 + 1479) / 1480);
        put16(f.b + f.l3 + 6, 0x4000); /* must not be cut */
        assert_false(net_fragment_v4(f.b, f.len, 1514, &cut));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sum),     cmocka_unit_test(test_checksum),  cmocka_unit_test(test_segments),
        cmocka_unit_test(test_refused), cmocka_unit_test(test_fragments),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
