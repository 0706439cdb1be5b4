/* SPDX-License-Identifier: MIT */
/*
 * --net user: a network behind network address translation, made by libslirp inside of this process.
 *
 * libslirp has no way to say "not now": frames that the guest has no room for are kept here, and while there are any
 * the host's sockets are not read, so only what answers the guest's own frames can be added; beyond HELD_MAX it is
 * dropped.
 *
 * Large frames. libslirp's TCP ends at this process, so the size of its segments is nobody's business but the guest's.
 * It is told of an MTU of 16 KiB, does not look at the MSS that the guest announces when that connects, and is shown a
 * larger one when the guest answers a forwarded connection. The large segments that come are labelled with the MSS that
 * the guest had announced, or are cut here if it does not take any. What the guest sends large goes to libslirp whole.
 * More than a quarter of the window, which libslirp does not scale, would be bad: it sends no segment that is smaller
 * than an MSS or half of the largest window, and a guest whose window is between a quarter and that need not tell when
 * it grows, so they would wait for a timer of 5 seconds.
 */
#include <netinet/in.h>
#include <slirp/libslirp.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "host/net_offload.h"
#include "host/net_user.h"

enum { MSS_LARGE = 16384 };
enum { HELD_MAX = 4 << 20, TIMERS = 4, SLIRP_MTU = MSS_LARGE + 40, MSS_LEAST = 64, MSS_SAFE = 1220 };
enum { FLOWS = 4096, TCP_SYN = 2, OPT_END = 0, OPT_NOP = 1, OPT_MSS = 2 };

struct held {
    struct held *next;
    struct net_hdr hdr;
    size_t len;
    uint8_t frame[];
};

struct slirp_timer {
    bool used;
    SlirpTimerId id;
    void *opaque;
    int64_t due_ms; /* INT64_MAX: not armed */
};

struct net_user_mode {
    struct net_thread t; /* first */
    Slirp *slirp;
    bool filled; /* slirp_pollfds_fill was called for this wait */
    struct slirp_timer timer[TIMERS];
    struct held *head, **tail;
    size_t held_bytes;
    /* What MSS the guest announced, by a hash of the connection. */
    struct {
        uint32_t tag;
        uint16_t mss;
    } flow[FLOWS];
    uint8_t out[NET_FRAME_MAX]; /* a frame for the guest while it is made; also what is cut */
    uint8_t piece[NET_FRAME_MAX];
};

/* libslirp keeps a few things, such as the host's name server, for all of its instances together. */
static pthread_mutex_t slirp_mutex = PTHREAD_MUTEX_INITIALIZER;

static int64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1000000000L + ts.tv_nsec;
}

/* ---- towards the guest ---- */

static void deliver(struct net_user_mode *u, const struct net_hdr *h, const uint8_t *frame, size_t len)
{
    if (!u->head && u->t.user.rx(u->t.user.arg, h, frame, len))
        return;
    struct held *k = u->held_bytes + len > HELD_MAX ? NULL : malloc(sizeof(*k) + len);
    if (!k)
        return; /* dropped; TCP sends it again */
    k->next = NULL;
    k->hdr = *h;
    k->len = len;
    memcpy(k->frame, frame, len);
    *u->tail = k;
    u->tail = &k->next;
    u->held_bytes += len;
}

/* True: nothing is held any more. */
static bool deliver_held(struct net_user_mode *u)
{
    for (struct held *k; (k = u->head) != NULL; free(k)) {
        if (!u->t.user.rx(u->t.user.arg, &k->hdr, k->frame, k->len))
            return false;
        u->held_bytes -= k->len;
        u->head = k->next;
        if (!u->head)
            u->tail = &u->head;
    }
    return true;
}

static void drop_held(struct net_user_mode *u)
{
    for (struct held *k; (k = u->head) != NULL; free(k))
        u->head = k->next;
    u->tail = &u->head;
    u->held_bytes = 0;
}

/* A hash of a connection as the guest sees it: its own end first. */
static uint32_t flow_tag(const uint8_t *f, const struct net_layers *l, bool from_guest)
{
    size_t n = l->v4 ? 4 : 16, at = l->l3 + (l->v4 ? 12U : 8U);
    const uint8_t *addr[2] = { f + at, f + at + n }, *port[2] = { f + l->l4, f + l->l4 + 2 };
    uint32_t h = 2166136261U;
    for (unsigned i = 0; i < 2; i++) {
        unsigned end = from_guest ? i : 1 - i;
        for (size_t k = 0; k < n; k++)
            h = (h ^ addr[end][k]) * 16777619U;
        h = (h ^ port[end][0]) * 16777619U;
        h = (h ^ port[end][1]) * 16777619U;
    }
    return h;
}

static uint16_t flow_mss(const struct net_user_mode *u, uint32_t tag)
{
    unsigned i = tag % FLOWS;
    return u->flow[i].tag == tag && u->flow[i].mss ? u->flow[i].mss : MSS_SAFE;
}

static bool emit_deliver(void *arg, const uint8_t *frame, size_t len)
{
    const struct net_hdr valid = { .flags = NET_DATA_VALID }; /* made here */
    deliver(arg, &valid, frame, len);
    return true;
}

static void deliver_large_tcp(struct net_user_mode *u, size_t len, const struct net_layers *l)
{
    struct net_hdr h = { .flags = NET_NEEDS_CSUM,
                         .gso_type = l->v4 ? NET_GSO_TCPV4 : NET_GSO_TCPV6,
                         .hdr_len = (uint16_t)l->data,
                         .gso_size = flow_mss(u, flow_tag(u->out, l, false)),
                         .csum_start = (uint16_t)l->l4,
                         .csum_offset = 16 };
    uint16_t sum = net_pseudo_sum(u->out, l, len - l->l4);
    u->out[l->l4 + 16] = (uint8_t)(sum >> 8);
    u->out[l->l4 + 17] = (uint8_t)sum;
    if (net_thread_guest(&u->t) & (l->v4 ? NET_TSO4 : NET_TSO6)) {
        deliver(u, &h, u->out, len);
    } else {
        const struct net_cut cut = { .emit = emit_deliver, .arg = u, .scratch = u->piece };
        net_segment(&h, u->out, len, &cut);
    }
}

static bool emit_fragment(void *arg, const uint8_t *frame, size_t len)
{
    const struct net_hdr plain = { 0 };
    deliver(arg, &plain, frame, len);
    return true;
}

static ssize_t on_packet(const void *buf, size_t len, void *opaque)
{
    struct net_user_mode *u = opaque;
    const struct net_hdr plain = { 0 }, valid = { .flags = NET_DATA_VALID };
    size_t limit = NET_FRAME_MIN + (size_t)u->t.net.mtu;
    struct net_layers l;
    if (len < NET_FRAME_MIN || len > NET_FRAME_MAX)
        return (ssize_t)len;
    bool ip = net_parse(buf, len, &l), l4 = ip && (l.proto == IPPROTO_TCP || l.proto == IPPROTO_UDP);
    if (len <= limit) {
        deliver(u, l4 ? &valid : &plain, buf, len);
    } else if (l4 && l.proto == IPPROTO_TCP) {
        memcpy(u->out, buf, len);
        deliver_large_tcp(u, len, &l);
    } else if (ip && l.v4) {
        const struct net_cut cut = { .emit = emit_fragment, .arg = u, .scratch = u->out };
        net_fragment_v4(buf, len, limit, &cut);
    }
    return (ssize_t)len; /* what is larger and cannot be cut is lost, as on any network */
}

/* ---- from the guest ---- */

/* See the head comment. A frame that is padded is left alone. */
static void note_mss(struct net_user_mode *u, size_t len, const struct net_layers *l)
{
    uint8_t *f = u->t.frame, *ip = f + l->l3;
    size_t ip_len = l->v4 ? (size_t)(ip[2] << 8 | ip[3]) : (size_t)(ip[4] << 8 | ip[5]) + 40U;
    if (!(f[l->l4 + 13] & TCP_SYN) || ip_len != len - l->l3)
        return;
    for (size_t i = l->l4 + 20; i + 4 <= l->data && f[i] != OPT_END; i += f[i] == OPT_NOP ? 1U : f[i + 1]) {
        if (f[i] != OPT_NOP && f[i + 1] < 2)
            return;
        uint16_t mss = (uint16_t)(f[i + 2] << 8 | f[i + 3]);
        if (f[i] != OPT_MSS || f[i + 1] != 4 || mss < MSS_LEAST)
            continue;
        uint32_t tag = flow_tag(f, l, true);
        u->flow[tag % FLOWS].tag = tag;
        u->flow[tag % FLOWS].mss = mss;
        f[i + 2] = MSS_LARGE >> 8;
        f[i + 3] = MSS_LARGE & 0xff;
        net_finish_l4(f, len, l);
        u->t.hdr = (struct net_hdr){ 0 };
        return;
    }
}

static bool emit_input(void *arg, const uint8_t *frame, size_t len)
{
    slirp_input(((struct net_user_mode *)arg)->slirp, frame, (int)len);
    return true;
}

static bool user_send(struct net_thread *t)
{
    struct net_user_mode *u = (struct net_user_mode *)t;
    const struct net_cut cut = { .emit = emit_input, .arg = u, .scratch = u->out };
    struct net_layers l;
    if (net_parse(t->frame, t->len, &l) && l.proto == IPPROTO_TCP && t->hdr.gso_type == NET_GSO_NONE)
        note_mss(u, t->len, &l);
    pthread_mutex_lock(&slirp_mutex);
    if (t->hdr.gso_type == NET_GSO_NONE || net_finish_whole(&t->hdr, t->frame, t->len)) {
        net_finish_csum(&t->hdr, t->frame, t->len);
        slirp_input(u->slirp, t->frame, (int)t->len);
    } else {
        net_segment(&t->hdr, t->frame, t->len, &cut);
    }
    pthread_mutex_unlock(&slirp_mutex);
    return true;
}

/* ---- libslirp's callbacks ---- */

static void on_guest_error(const char *msg, void *opaque)
{
    (void)opaque;
    log_debug("network: %s", msg);
}
static int64_t on_clock(void *opaque)
{
    (void)opaque;
    return now_ns();
}
static void *on_timer_new(SlirpTimerId id, void *cb_opaque, void *opaque)
{
    struct net_user_mode *u = opaque;
    for (unsigned i = 0; i < TIMERS; i++) {
        if (!u->timer[i].used) {
            u->timer[i] = (struct slirp_timer){ .used = true, .id = id, .opaque = cb_opaque, .due_ms = INT64_MAX };
            return &u->timer[i];
        }
    }
    return NULL;
}
static void on_timer_free(void *timer, void *opaque)
{
    (void)opaque;
    if (timer)
        ((struct slirp_timer *)timer)->used = false;
}
static void on_timer_mod(void *timer, int64_t expire_ms, void *opaque)
{
    (void)opaque;
    if (timer)
        ((struct slirp_timer *)timer)->due_ms = expire_ms;
}
static void on_poll_fd(int fd, void *opaque)
{
    (void)fd, (void)opaque;
}
static void on_notify(void *opaque)
{
    (void)opaque; /* everything is on one thread */
}
static void on_ready(Slirp *slirp, void *opaque)
{
    (void)slirp, (void)opaque;
}

static const SlirpCb callbacks = {
    .send_packet = on_packet,
    .guest_error = on_guest_error,
    .clock_get_ns = on_clock,
    .timer_new_opaque = on_timer_new,
    .timer_free = on_timer_free,
    .timer_mod = on_timer_mod,
    .register_poll_fd = on_poll_fd,
    .unregister_poll_fd = on_poll_fd,
    .notify = on_notify,
    .init_completed = on_ready,
};

/* ---- waiting ---- */

static int add_poll(int fd, int events, void *opaque)
{
    short e = 0;
    e |= events & SLIRP_POLL_IN ? POLLIN : 0;
    e |= events & SLIRP_POLL_OUT ? POLLOUT : 0;
    e |= events & SLIRP_POLL_PRI ? POLLPRI : 0;
    return net_thread_poll(opaque, fd, e);
}
static int get_revents(int i, void *opaque)
{
    int e = net_thread_revents(opaque, i), r = 0;
    r |= e & POLLIN ? SLIRP_POLL_IN : 0;
    r |= e & POLLOUT ? SLIRP_POLL_OUT : 0;
    r |= e & POLLPRI ? SLIRP_POLL_PRI : 0;
    r |= e & POLLERR ? SLIRP_POLL_ERR : 0;
    r |= e & POLLHUP ? SLIRP_POLL_HUP : 0;
    return r;
}

static void user_prepare(struct net_thread *t, int *timeout_ms)
{
    struct net_user_mode *u = (struct net_user_mode *)t;
    uint32_t wait = UINT32_MAX;
    u->filled = u->head == NULL;
    if (!u->filled)
        return; /* until the guest has room again: a kick */
    pthread_mutex_lock(&slirp_mutex);
    slirp_pollfds_fill(u->slirp, &wait, add_poll, t);
    pthread_mutex_unlock(&slirp_mutex);
    int64_t left = wait, now = now_ns() / 1000000;
    for (unsigned i = 0; i < TIMERS; i++) {
        const struct slirp_timer *s = &u->timer[i];
        if (s->used && s->due_ms != INT64_MAX && s->due_ms - now < left)
            left = s->due_ms > now ? s->due_ms - now : 0;
    }
    if (left < INT32_MAX)
        *timeout_ms = (int)left;
}

static bool user_ready(struct net_thread *t)
{
    struct net_user_mode *u = (struct net_user_mode *)t;
    if (!deliver_held(u) || !u->filled)
        return false;
    int64_t now = now_ns() / 1000000;
    pthread_mutex_lock(&slirp_mutex);
    slirp_pollfds_poll(u->slirp, 0, get_revents, t);
    for (unsigned i = 0; i < TIMERS; i++) {
        struct slirp_timer *s = &u->timer[i];
        if (s->used && s->due_ms <= now) {
            s->due_ms = INT64_MAX;
            slirp_handle_timer(u->slirp, s->id, s->opaque);
        }
    }
    pthread_mutex_unlock(&slirp_mutex);
    return false;
}

/* ---- life ---- */

static void user_fini(struct net_thread *t)
{
    struct net_user_mode *u = (struct net_user_mode *)t;
    pthread_mutex_lock(&slirp_mutex);
    if (u->slirp)
        slirp_cleanup(u->slirp);
    pthread_mutex_unlock(&slirp_mutex);
    drop_held(u);
    net_thread_fini(t);
    free(u);
}

static Slirp *make_slirp(struct net_user_mode *u, const struct net_user_cfg *c)
{
    SlirpConfig cfg = {
        .version = 4,
        .restricted = c->restricted,
        .in_enabled = true,
        .vnetwork = c->net,
        .vnetmask = c->mask,
        .vhost = c->host,
        .in6_enabled = !c->no_ipv6,
        .vprefix_len = 64,
        .vhostname = c->hostname,
        .vdhcp_start = c->dhcp,
        .vnameserver = c->dns,
        .vdomainname = c->domain,
        .if_mtu = SLIRP_MTU,
        .if_mru = SLIRP_MTU,
    };
    inet_pton(AF_INET6, "fec0::", &cfg.vprefix_addr6);
    inet_pton(AF_INET6, "fec0::2", &cfg.vhost6);
    inet_pton(AF_INET6, "fec0::3", &cfg.vnameserver6);
    pthread_mutex_lock(&slirp_mutex);
    Slirp *s = slirp_new(&cfg, &callbacks, u);
    pthread_mutex_unlock(&slirp_mutex);
    return s;
}

struct net *net_user_open(char *options, struct err *e)
{
    static const struct net_kind kind = {
        .prepare = user_prepare, .ready = user_ready, .send = user_send, .fini = user_fini
    };
    struct net_user_cfg c;
    if (net_user_parse(options, &c, e) < 0)
        return NULL;
    struct net_user_mode *u = calloc(1, sizeof(*u));
    if (!u || net_thread_init(&u->t, &kind) < 0) {
        free(u);
        err_set(e, ENOMEM, "out of memory for a network device");
        return NULL;
    }
    u->tail = &u->head;
    u->t.net.mtu = 1500;
    u->t.net.offloads = NET_CSUM | NET_TSO4 | NET_TSO6 | NET_ECN | NET_USO;
    u->slirp = make_slirp(u, &c);
    if (!u->slirp)
        err_set(e, ENOMEM, "--net user: libslirp %s cannot be started", slirp_version_string());
    else if (net_user_forward(u->slirp, &c, e) == 0)
        return &u->t.net;
    user_fini(&u->t);
    return NULL;
}
