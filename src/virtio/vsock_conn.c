/* SPDX-License-Identifier: MIT */
/*
 * The connections of virtio-vsock. Bytes go straight between the socket and the guest's buffers. Up, what the socket
 * does not take is held, never more than buf_alloc allowed the guest to send; it counts as forwarded when the socket
 * has it. Down, nothing is read from the socket that the guest has no buffer and no credit for.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "mem/mem.h"
#include "virtio/vsock_int.h"

enum { CLOSE_SECONDS = 8 };

/* ---- the table ---- */

static struct vsock_conn **slot(struct vsock *s, uint32_t guest_port, uint32_t host_port)
{
    return &s->hash[(guest_port * 31 + host_port) % VSOCK_HASH];
}

struct vsock_conn *vsock_conn_find(struct vsock *s, uint32_t guest_port, uint32_t host_port)
{
    struct vsock_conn *c = *slot(s, guest_port, host_port);
    while (c && (c->guest_port != guest_port || c->host_port != host_port))
        c = c->hash_next;
    return c;
}

void vsock_conn_name(struct vsock_conn *c, uint32_t guest_port, uint32_t host_port)
{
    struct vsock_conn **at = slot(c->s, guest_port, host_port);
    c->guest_port = guest_port;
    c->host_port = host_port;
    c->hash_next = *at;
    *at = c;
}

static void unname(struct vsock_conn *c)
{
    struct vsock_conn **at = slot(c->s, c->guest_port, c->host_port);
    while (*at && *at != c)
        at = &(*at)->hash_next;
    if (*at)
        *at = c->hash_next;
    vsock_list_del(&c->active);
    c->pend = 0;
}

/* The oldest connection of that state, or NULL. */
static struct vsock_conn *oldest(struct vsock *s, enum vsock_state state, unsigned *count)
{
    struct vsock_conn *first = NULL;
    *count = 0;
    for (struct vsock_link *l = s->all.next; l != &s->all; l = l->next) {
        struct vsock_conn *c = vsock_of(l, all);
        if (c->state != state)
            continue;
        if (!first)
            first = c;
        ++*count;
    }
    return first;
}

struct vsock_conn *vsock_conn_new(struct vsock *s, enum vsock_state state)
{
    unsigned n;
    if (s->n_conns == VSOCK_CONNS) { /* those that no one will miss make room for the next one that comes */
        struct vsock_conn *old = oldest(s, CONN_ORPHAN, &n);
        if (old)
            vsock_conn_kill(old);
    }
    if (state == CONN_GREETING) {
        struct vsock_conn *old = oldest(s, CONN_GREETING, &n);
        if (n >= VSOCK_GREETINGS)
            vsock_conn_kill(old);
    }
    if (s->n_conns == VSOCK_CONNS || s->gone)
        return NULL;
    struct vsock_conn *c = calloc(1, sizeof(*c));
    if (!c)
        return NULL;
    c->s = s;
    c->state = state;
    c->fd = -1;
    c->buf_alloc = s->n_conns < VSOCK_FEW ? VSOCK_BUF : VSOCK_BUF_MANY;
    vsock_list_init(&c->active);
    vsock_list_add(&s->all, &c->all);
    s->n_conns++;
    return c;
}

/* ---- how it ends ---- */

static void forget_buffer(struct vsock_conn *c)
{
    free(c->buf);
    c->buf = NULL;
    c->at = c->used = 0;
}

void vsock_conn_kill(struct vsock_conn *c)
{
    if (c->state == CONN_DEAD)
        return;
    unname(c);
    forget_buffer(c);
    c->state = CONN_DEAD;
    vsock_list_del(&c->all);
    vsock_list_add(&c->s->dead, &c->all);
    vsock_loop_call(c->s);
}

void vsock_conn_abort(struct vsock_conn *c)
{
    vsock_send_rst(c);
    vsock_conn_kill(c);
}

void vsock_conn_leave(struct vsock_conn *c)
{
    if (c->state != CONN_OPEN || !c->used) {
        vsock_conn_kill(c);
        return;
    }
    unname(c);
    c->state = CONN_ORPHAN;
    c->deadline = 0;
    vsock_conn_update(c);
}

/* ---- up ---- */

/* Pins max bytes behind the header, of the buffers that the guest filled or is to get filled. */
static void pin(struct vsock *s, bool down, uint32_t max)
{
    const struct virtq_chain *k = &s->v.chain;
    unsigned i = down ? k->n_out : 0, end = down ? (unsigned)k->n_out + k->n_in : k->n_out;
    uint32_t skip = VSOCK_HDR;
    s->n_parts = 0;
    for (; i < end && max; i++) {
        uint32_t cut = skip < k->buf[i].len ? skip : k->buf[i].len, len = k->buf[i].len - cut;
        skip -= cut;
        if (len > max)
            len = max;
        void *p = len ? mem_pin(s->v.mem, k->buf[i].gpa + cut, len) : NULL;
        if (!p)
            continue; /* empty: virtq_pop has checked the rest */
        s->part[s->n_parts] = (struct virtq_buf){ .gpa = k->buf[i].gpa + cut, .len = len };
        s->iov[s->n_parts++] = (struct iovec){ .iov_base = p, .iov_len = len };
        max -= len;
    }
}

static void unpin(struct vsock *s, bool down)
{
    for (unsigned i = 0; i < s->n_parts; i++)
        mem_unpin(s->v.mem, s->part[i].gpa, s->part[i].len, down);
}

static void forwarded(struct vsock_conn *c, uint32_t n)
{
    c->fwd_cnt += n;
    if (c->fwd_cnt - c->fwd_told >= c->buf_alloc / 4)
        c->pend |= PEND_CREDIT_UPDATE;
}

/* The host program takes no more: what it did not take is as good as forwarded, so that the guest does not wait. */
static void deafen(struct vsock_conn *c)
{
    c->host_deaf = true;
    forwarded(c, c->used);
    forget_buffer(c);
}

bool vsock_conn_hung_up(struct vsock_conn *c)
{
    struct pollfd p = { .fd = c->fd };
    if (poll(&p, 1, 0) <= 0 || !(p.revents & (POLLHUP | POLLERR)))
        return false;
    deafen(c);
    return true;
}

static uint32_t put(struct vsock_conn *c, struct iovec *iov, unsigned n)
{
    struct msghdr m = { .msg_iov = iov, .msg_iovlen = n };
    ssize_t r;
    do
        r = sendmsg(c->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (r < 0 && errno == EINTR);
    if (r < 0 && errno != EAGAIN)
        deafen(c);
    return r < 0 ? 0 : (uint32_t)r;
}

/* Holds len bytes of the packet, from byte off on. */
static bool hold(struct vsock_conn *c, uint32_t off, uint32_t len)
{
    struct virtio_dev *v = &c->s->v;
    if (!c->buf)
        c->buf = malloc(c->buf_alloc);
    if (!c->buf)
        return false;
    uint32_t at = (c->at + c->used) % c->buf_alloc;
    uint32_t first = len < c->buf_alloc - at ? len : c->buf_alloc - at;
    if (virtq_read(&v->q[VSOCK_TXQ], &v->chain, VSOCK_HDR + off, c->buf + at, first) != first ||
        virtq_read(&v->q[VSOCK_TXQ], &v->chain, VSOCK_HDR + off + first, c->buf, len - first) != len - first)
        return false;
    c->used += len;
    return true;
}

bool vsock_conn_up(struct vsock_conn *c, uint32_t len)
{
    uint32_t done = 0;
    if (len > c->buf_alloc - c->used)
        return false; /* beyond its credit */
    if (!len)
        return true;
    if (!c->used && !c->host_deaf) {
        pin(c->s, false, len);
        done = put(c, c->s->iov, c->s->n_parts);
        unpin(c->s, false);
    }
    if (c->host_deaf)
        done = len;
    forwarded(c, done);
    return done == len || hold(c, done, len - done);
}

void vsock_conn_flush(struct vsock_conn *c)
{
    while (c->used && !c->host_deaf) {
        uint32_t n = c->buf_alloc - c->at;
        struct iovec iov = { .iov_base = c->buf + c->at, .iov_len = n < c->used ? n : c->used };
        n = put(c, &iov, 1);
        if (!n)
            break;
        c->at = (c->at + n) % c->buf_alloc;
        c->used -= n;
        forwarded(c, n);
    }
    if (c->used)
        return;
    forget_buffer(c);
    if (c->state == CONN_ORPHAN)
        vsock_conn_kill(c);
    else if (c->guest_shut & VSOCK_NO_SEND)
        shutdown(c->fd, SHUT_WR);
}

/* ---- down ---- */

static uint32_t credit(const struct vsock_conn *c)
{
    uint32_t out = c->tx_cnt - c->peer_fwd;
    return out < c->peer_alloc ? c->peer_alloc - out : 0;
}

static bool may_read(const struct vsock_conn *c)
{
    return c->state == CONN_OPEN && !c->host_eof && !(c->guest_shut & VSOCK_NO_RECEIVE);
}

/* What the guest is to be told that the host's side has given up. */
static unsigned shut_owed(const struct vsock_conn *c)
{
    unsigned f = (c->host_deaf ? VSOCK_NO_RECEIVE : 0U) | (c->host_eof ? VSOCK_NO_SEND : 0U);
    return c->state == CONN_OPEN ? f & ~c->we_told : 0;
}

static uint32_t receive(struct vsock_conn *c)
{
    struct vsock *s = c->s;
    uint32_t max = credit(c);
    if (!c->readable || !may_read(c))
        return 0;
    if (!max && !c->asked_credit) {
        c->pend |= PEND_CREDIT_REQUEST;
        c->asked_credit = true;
    }
    if (!max)
        return 0;
    if (max > VSOCK_PACKET_MAX)
        max = VSOCK_PACKET_MAX;
    if (max > s->v.chain.in_len - VSOCK_HDR)
        max = (uint32_t)(s->v.chain.in_len - VSOCK_HDR);
    pin(s, true, max);
    if (!s->n_parts) {
        c->pend |= PEND_CREDIT_UPDATE; /* a buffer for a header only is no use but for this */
        return 0;
    }
    struct msghdr m = { .msg_iov = s->iov, .msg_iovlen = s->n_parts };
    ssize_t r = recvmsg(c->fd, &m, MSG_DONTWAIT);
    int error = errno;
    unpin(s, true);
    if (r > 0)
        return (uint32_t)r;
    if (r < 0 && error == EINTR)
        return 0;
    c->readable = false;
    if (r < 0 && error == EAGAIN)
        return 0;
    c->host_eof = true;
    if (!vsock_conn_hung_up(c))
        vsock_loop_tick(s); /* nobody tells when it closes the other half */
    return 0;
}

uint32_t vsock_conn_down(struct vsock_conn *c, struct vsock_hdr *h)
{
    uint32_t n;
    h->src_port = c->host_port;
    h->dst_port = c->guest_port;
    if (c->pend & (PEND_REQUEST | PEND_RESPONSE)) {
        h->op = c->pend & PEND_REQUEST ? VSOCK_OP_REQUEST : VSOCK_OP_RESPONSE;
        c->pend = 0;
    } else if ((n = receive(c)) > 0) {
        h->op = VSOCK_OP_RW;
        h->len = n;
        c->tx_cnt += n;
        c->pend &= ~(unsigned)PEND_CREDIT_UPDATE;
    } else if (shut_owed(c)) {
        h->op = VSOCK_OP_SHUTDOWN;
        c->we_told |= shut_owed(c);
        h->flags = c->we_told;
        if (c->we_told == VSOCK_NO_BOTH)
            c->deadline = vsock_after(c->s, CLOSE_SECONDS);
    } else if (c->pend & PEND_CREDIT_REQUEST) {
        h->op = VSOCK_OP_CREDIT_REQUEST;
        c->pend &= ~(unsigned)PEND_CREDIT_REQUEST;
    } else if (c->pend & PEND_CREDIT_UPDATE) {
        h->op = VSOCK_OP_CREDIT_UPDATE;
        c->pend &= ~(unsigned)PEND_CREDIT_UPDATE;
    } else {
        return 0;
    }
    h->buf_alloc = c->buf_alloc;
    h->fwd_cnt = c->fwd_told = c->fwd_cnt;
    return VSOCK_HDR + h->len;
}

void vsock_conn_update(struct vsock_conn *c)
{
    unsigned ev = 0;
    if (c->state == CONN_DEAD)
        return;
    if (credit(c))
        c->asked_credit = false;
    bool read = c->readable && may_read(c) && (credit(c) || !c->asked_credit);
    if ((c->pend || read || shut_owed(c)) && c->active.next == &c->active && c->state != CONN_ORPHAN)
        vsock_list_add(&c->s->active, &c->active);
    if (!c->watch)
        return;
    if (c->state == CONN_GREETING || (may_read(c) && !c->readable))
        ev |= LOOP_IN;
    if (c->used)
        ev |= LOOP_OUT;
    loop_fd_update(c->watch, ev);
}
