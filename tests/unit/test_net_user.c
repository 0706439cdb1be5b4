/* SPDX-License-Identifier: MIT */
/* --net user against a guest of a few lines: a TCP that knows one connection, all in order, nothing lost. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "base/types.h"
#include "host/net.h"
#include "host/net_offload.h"

enum { FRAMES = 256, BIG = 200000, ETH = 14, IP = 34, TCP = 54, SYN = 2, ACK = 16 };

static const uint8_t guest_mac[6] = { 2, 0, 0, 0, 0, 7 }, guest_ip[4] = { 10, 0, 2, 15 }, host_ip[4] = { 10, 0, 2, 2 };

struct packet {
    struct net_hdr h;
    size_t len;
    uint8_t *b;
};

struct rig {
    struct net *net;
    int server; /* a listening socket */
    uint16_t port;
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool closed; /* the guest takes nothing */
    unsigned refused;
    struct packet out[FRAMES], in[FRAMES];
    unsigned out_put, out_get, in_put, in_get, largest;
    /* the connection */
    uint32_t seq, ack;
    uint16_t mss;
};

/* ---- the guest's side of the back end ---- */

static size_t on_tx(void *arg, struct net_hdr *h, uint8_t *buf)
{
    struct rig *r = arg;
    size_t len = 0;
    pthread_mutex_lock(&r->lock);
    if (r->out_get != r->out_put) {
        struct packet *p = &r->out[r->out_get++ % FRAMES];
        *h = p->h;
        len = p->len;
        memcpy(buf, p->b, len);
        free(p->b);
        pthread_cond_broadcast(&r->cond);
    }
    pthread_mutex_unlock(&r->lock);
    return len;
}
static bool on_rx(void *arg, const struct net_hdr *h, const uint8_t *frame, size_t len)
{
    struct rig *r = arg;
    pthread_mutex_lock(&r->lock);
    bool room = !r->closed && r->in_put - r->in_get < FRAMES;
    if (room) {
        struct packet *p = &r->in[r->in_put++ % FRAMES];
        *p = (struct packet){ .h = *h, .len = len, .b = malloc(len) };
        memcpy(p->b, frame, len);
    } else {
        r->refused++;
    }
    pthread_cond_broadcast(&r->cond);
    pthread_mutex_unlock(&r->lock);
    return room;
}
static void on_flush(void *arg)
{
    (void)arg;
}

static void send_frame(struct rig *r, const struct net_hdr *h, const uint8_t *b, size_t len)
{
    pthread_mutex_lock(&r->lock);
    while (r->out_put - r->out_get == FRAMES)
        pthread_cond_wait(&r->cond, &r->lock);
    struct packet *p = &r->out[r->out_put++ % FRAMES];
    *p = (struct packet){ .h = *h, .len = len, .b = malloc(len) };
    memcpy(p->b, b, len);
    pthread_mutex_unlock(&r->lock);
    net_kick(r->net);
}

/* The next frame for the guest; its buffer is the caller's. The test's own time limit ends a wait in vain. */
static struct packet receive(struct rig *r)
{
    pthread_mutex_lock(&r->lock);
    while (r->in_get == r->in_put)
        pthread_cond_wait(&r->cond, &r->lock);
    struct packet p = r->in[r->in_get++ % FRAMES];
    pthread_mutex_unlock(&r->lock);
    net_kick(r->net);
    return p;
}

static void open_net(struct rig *r, const char *options)
{
    const struct net_user u = { .tx = on_tx, .rx = on_rx, .flush = on_flush, .arg = r };
    struct err e = { 0 };
    char copy[128];
    snprintf(copy, sizeof(copy), "%s", options);
    r->net = net_open("user", copy, &e);
    if (!r->net)
        fail_msg("%s", e.text);
    assert_int_equal(net_attach(r->net, &u), 0);
}

static void close_net(struct rig *r)
{
    net_attach(r->net, NULL);
    net_free(r->net);
    for (; r->out_get != r->out_put; r->out_get++)
        free(r->out[r->out_get % FRAMES].b);
    for (; r->in_get != r->in_put; r->in_get++)
        free(r->in[r->in_get % FRAMES].b);
}

static int setup(void **st)
{
    struct rig *r = calloc(1, sizeof(*r));
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t len = sizeof(a);
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->cond, NULL);
    r->server = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(r->server, (struct sockaddr *)&a, sizeof(a)), 0);
    assert_int_equal(listen(r->server, 4), 0);
    getsockname(r->server, (struct sockaddr *)&a, &len);
    r->port = ntohs(a.sin_port);
    *st = r;
    alarm(120);
    return 0;
}
static int teardown(void **st)
{
    struct rig *r = *st;
    close(r->server);
    pthread_cond_destroy(&r->cond);
    pthread_mutex_destroy(&r->lock);
    free(r);
    return 0;
}

/* ---- frames of the guest ---- */

static void put16(uint8_t *p, size_t v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}
static void put32(uint8_t *p, uint32_t v)
{
    put16(p, v >> 16);
    put16(p + 2, v & 0xffff);
}
static uint32_t get32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void send_arp(struct rig *r)
{
    static const uint8_t head[] = { 0, 1, 8, 0, 6, 4, 0, 1 };
    const struct net_hdr h = { 0 };
    uint8_t b[42] = { 0 };
    memset(b, 0xff, 6);
    memcpy(b + 6, guest_mac, 6);
    put16(b + 12, 0x0806);
    memcpy(b + 14, head, sizeof(head));
    memcpy(b + 22, guest_mac, 6);
    memcpy(b + 28, guest_ip, 4);
    memcpy(b + 38, host_ip, 4);
    send_frame(r, &h, b, sizeof(b));
}

/* Fills in the headers of a TCP frame of len bytes, with the checksum left to the device. */
static struct net_hdr tcp(struct rig *r, uint8_t *b, size_t len, uint8_t flags)
{
    memset(b, 0, TCP);
    b[0] = 0x52, b[1] = 0x55, b[2] = 10, b[4] = 2, b[5] = 2; /* what libslirp calls itself */
    memcpy(b + 6, guest_mac, 6);
    put16(b + 12, 0x0800);
    b[14] = 0x45;
    put16(b + 16, len - ETH);
    b[22] = 64;
    b[23] = IPPROTO_TCP;
    memcpy(b + 26, guest_ip, 4);
    memcpy(b + 30, host_ip, 4);
    put16(b + 24, (uint16_t)~net_sum(b + ETH, 20, 0));
    put16(b + 34, 4000);
    put16(b + 36, r->port);
    put32(b + 38, r->seq);
    put32(b + 42, flags & ACK ? r->ack : 0);
    b[46] = flags & SYN ? 0x60 : 0x50;
    b[47] = flags;
    put16(b + 48, 65535);
    struct net_layers l = { .v4 = true, .proto = IPPROTO_TCP, .l3 = ETH, .l4 = IP, .data = TCP };
    put16(b + 50, net_pseudo_sum(b, &l, len - IP));
    return (struct net_hdr){ .flags = NET_NEEDS_CSUM, .csum_start = IP, .csum_offset = 16 };
}

static void acknowledge(struct rig *r)
{
    uint8_t b[TCP];
    const struct net_hdr h = tcp(r, b, sizeof(b), ACK);
    send_frame(r, &h, b, sizeof(b));
}

/* The next TCP frame of the connection, its checksum checked. */
static struct packet receive_tcp(struct rig *r)
{
    for (;;) {
        struct packet p = receive(r);
        struct net_layers l;
        if (!net_parse(p.b, p.len, &l) || l.proto != IPPROTO_TCP) {
            free(p.b);
            continue;
        }
        assert_true(net_hdr_ok(&p.h, p.b, p.len));
        if (p.h.flags & NET_NEEDS_CSUM)
            net_finish_csum(&p.h, p.b, p.len);
        assert_int_equal(net_sum(p.b + IP, p.len - IP, net_pseudo_sum(p.b, &l, p.len - IP)), 0xffff);
        if (p.len > r->largest)
            r->largest = (unsigned)p.len;
        return p;
    }
}

/* Connects; returns the server's socket. */
static int handshake(struct rig *r, uint16_t mss)
{
    uint8_t b[TCP + 4];
    r->seq = 1000;
    r->mss = mss;
    send_arp(r);
    b[TCP] = 2, b[TCP + 1] = 4;
    put16(b + TCP + 2, mss);
    const struct net_hdr h = tcp(r, b, sizeof(b), SYN);
    send_frame(r, &h, b, sizeof(b));
    struct packet p = receive_tcp(r);
    assert_int_equal(p.b[47], SYN | ACK);
    assert_int_equal(get32(p.b + 42), 1001);
    r->seq = 1001;
    r->ack = get32(p.b + 38) + 1;
    free(p.b);
    acknowledge(r);
    return accept(r->server, NULL, NULL);
}

static uint8_t byte_at(size_t i)
{
    return (uint8_t)(i * 31 + i / 251);
}

struct feeder {
    int fd;
    size_t n;
};
static void *feed(void *arg)
{
    struct feeder *f = arg;
    uint8_t *b = malloc(f->n);
    for (size_t i = 0; i < f->n; i++)
        b[i] = byte_at(i);
    for (size_t done = 0; done < f->n;) {
        ssize_t k = send(f->fd, b + done, f->n - done, 0);
        if (k <= 0)
            break;
        done += (size_t)k;
    }
    free(b);
    return NULL;
}

/* Receives n bytes in order, whatever the size of the segments. */
static void take_stream(struct rig *r, size_t n, bool large)
{
    for (size_t done = 0; done < n;) {
        struct packet p = receive_tcp(r);
        size_t k = p.len - TCP;
        if (p.len > 1514) {
            assert_int_equal(p.h.gso_type, NET_GSO_TCPV4);
            assert_int_equal(p.h.gso_size, r->mss);
        } else {
            assert_int_equal(p.h.gso_type, NET_GSO_NONE);
        }
        if (!large)
            assert_true(k <= r->mss);
        if (k) {
            assert_int_equal(get32(p.b + 38), r->ack);
            for (size_t i = 0; i < k; i++)
                assert_int_equal(p.b[TCP + i], byte_at(done + i));
            r->ack += (uint32_t)k;
            done += k;
            acknowledge(r);
        }
        free(p.b);
    }
}

/* ---- tests ---- */

static void from_host(struct rig *r, unsigned offloads, uint16_t mss)
{
    open_net(r, "ipv6=off");
    net_set_guest(r->net, offloads);
    struct feeder f = { .fd = handshake(r, mss), .n = BIG };
    pthread_t t;
    pthread_create(&t, NULL, feed, &f);
    take_stream(r, BIG, offloads & NET_TSO4);
    pthread_join(t, NULL);
    close(f.fd);
    close_net(r);
}

static void test_receive_large(void **st)
{
    struct rig *r = *st;
    from_host(r, NET_CSUM | NET_TSO4, 1400);
    assert_true(r->largest > 10000);
}
static void test_receive_small(void **st)
{
    struct rig *r = *st;
    from_host(r, NET_CSUM, 1200);
    assert_int_equal(r->largest, TCP + 1200);
}

/* Nothing is lost and nothing is out of order when the guest takes nothing for a while, again and again. */
static void test_back_pressure(void **st)
{
    struct rig *r = *st;
    open_net(r, "ipv6=off");
    net_set_guest(r->net, NET_CSUM | NET_TSO4);
    struct feeder f = { .fd = handshake(r, 1460), .n = BIG };
    pthread_t t;
    pthread_mutex_lock(&r->lock);
    r->closed = true;
    pthread_mutex_unlock(&r->lock);
    pthread_create(&t, NULL, feed, &f);
    pthread_mutex_lock(&r->lock);
    while (!r->refused)
        pthread_cond_wait(&r->cond, &r->lock);
    r->closed = false;
    pthread_mutex_unlock(&r->lock);
    net_kick(r->net);
    take_stream(r, BIG, true);
    pthread_join(t, NULL);
    close(f.fd);
    close_net(r);
}

static void test_send_large(void **st)
{
    struct rig *r = *st;
    enum { CHUNK = 20000 };
    static uint8_t b[TCP + CHUNK], got[CHUNK];
    open_net(r, "ipv6=off");
    int fd = handshake(r, 1460);
    for (int round = 0; round < 5; round++) {
        for (size_t i = 0; i < CHUNK; i++)
            b[TCP + i] = byte_at(i + (size_t)round);
        struct net_hdr h = tcp(r, b, sizeof(b), ACK);
        h.gso_type = NET_GSO_TCPV4;
        h.gso_size = 1460;
        put16(b + 16, 0); /* left to the device, like the checksum */
        send_frame(r, &h, b, sizeof(b));
        r->seq += CHUNK;
        assert_int_equal(recv(fd, got, CHUNK, MSG_WAITALL), CHUNK);
        assert_memory_equal(got, b + TCP, CHUNK);
    }
    close(fd);
    close_net(r);
}

/* A datagram that is larger than the guest's network is cut. */
static void test_datagram(void **st)
{
    struct rig *r = *st;
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t len = sizeof(a);
    char options[64];
    static uint8_t b[5000];
    size_t done = 0;
    int s = socket(AF_INET, SOCK_DGRAM, 0); /* for a port that is free */
    assert_int_equal(bind(s, (struct sockaddr *)&a, sizeof(a)), 0);
    getsockname(s, (struct sockaddr *)&a, &len);
    close(s);
    snprintf(options, sizeof(options), "ipv6=off,hostfwd=udp::%u-:9", ntohs(a.sin_port));
    open_net(r, options);
    send_arp(r);
    for (size_t i = 0; i < sizeof(b); i++)
        b[i] = byte_at(i);
    s = socket(AF_INET, SOCK_DGRAM, 0);
    assert_int_equal(sendto(s, b, sizeof(b), 0, (struct sockaddr *)&a, sizeof(a)), sizeof(b));
    while (done < sizeof(b) + 8) {
        struct packet p = receive(r);
        if (p.len > IP && p.b[23] == IPPROTO_UDP) {
            assert_true(p.len <= 1514);
            assert_int_equal(((p.b[20] & 0x1f) << 8 | p.b[21]) * 8, done);
            size_t skip = done ? 0 : 8;
            assert_memory_equal(p.b + IP + skip, b + done + skip - 8, p.len - IP - skip);
            done += p.len - IP;
        }
        free(p.b);
    }
    close(s);
    close_net(r);
}

/* Frames of a hostile guest: all kinds, bent at random. Nothing of it leaves this process (restrict). */
static void test_hostile(void **st)
{
    struct rig *r = *st;
    static const uint16_t ports[] = { 7, 53, 67, 69, 113, 255 };
    static const uint8_t protos[] = { 1, 6, 6, 6, 17, 17, 58 };
    static uint8_t b[3000];
    unsigned seed = 7, frames = 6000;
    open_net(r, "restrict=on");
    net_set_guest(r->net, NET_CSUM | NET_TSO4 | NET_TSO6);
    send_arp(r);
    for (unsigned i = 0; i < frames; i++) {
        size_t len = 60 + (size_t)rand_r(&seed) % (i % 8 ? 200 : 2900);
        for (size_t k = TCP; k < len; k++)
            b[k] = (uint8_t)rand_r(&seed);
        struct net_hdr h = tcp(r, b, len, (uint8_t)rand_r(&seed));
        b[23] = protos[(unsigned)rand_r(&seed) % sizeof(protos)];
        put16(b + 36, ports[(unsigned)rand_r(&seed) % ARRAY_LEN(ports)]);
        b[46] = (uint8_t)(rand_r(&seed) % 3 ? 0x60 : rand_r(&seed));
        if (i % 5 == 0) {
            put16(b + 12, 0x86dd);
            b[14] = 0x60;
            b[20] = b[23];
            put16(b + 18, len - 54);
        }
        for (unsigned k = (unsigned)rand_r(&seed) % 4; k; k--)
            b[12 + (unsigned)rand_r(&seed) % 44] = (uint8_t)rand_r(&seed);
        if (i % 16 == 0) {
            h.gso_type = NET_GSO_TCPV4;
            h.gso_size = (uint16_t)rand_r(&seed);
        }
        if (!net_hdr_ok(&h, b, len))
            h = (struct net_hdr){ 0 };
        send_frame(r, &h, b, len);
        pthread_mutex_lock(&r->lock);
        for (; r->in_get != r->in_put; r->in_get++)
            free(r->in[r->in_get % FRAMES].b);
        pthread_mutex_unlock(&r->lock);
    }
    close_net(r);
}

static void test_options(void **st)
{
    static const struct {
        const char *options, *says;
    } bad[] = {
        { "hostfwd=tcp::99999-:22", "tcp:127.0.0.1:2222-:22" },
        { "hostfwd=tcp::22", "tcp:127.0.0.1:2222-:22" },
        { "hostfwd=sctp::22-:22", "tcp:127.0.0.1:2222-:22" },
        { "hostfwd=tcp:::22-:22", "tcp:127.0.0.1:2222-:22" },
        { "hostfwd=tcp::22 -:22", "tcp:127.0.0.1:2222-:22" },
        { "hostfwd", "tcp:127.0.0.1:2222-:22" },
        { "net=10.0.2.0", "10.0.2.0/24" },
        { "net=10.0.2.0/28", "/8 to /27" },
        { "dns=ten", "not an IPv4 address" },
        { "dns=10.0.2.2", "must differ" },
        { "host=10.0.3.2", "outside" },
        { "hostname", "unknown option" },
        { "ipv6=", "neither on nor off" },
    };
    (void)st;
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        struct err e = { 0 };
        char copy[128];
        snprintf(copy, sizeof(copy), "%s", bad[i].options);
        assert_null(net_open("user", copy, &e));
        if (!strstr(e.text, bad[i].says))
            fail_msg("%s: %s", bad[i].options, e.text);
    }
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_receive_large), T(test_receive_small), T(test_back_pressure), T(test_send_large),
        T(test_datagram),      T(test_hostile),       T(test_options),
    };
    log_set_level(LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
