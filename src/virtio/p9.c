/* SPDX-License-Identifier: MIT */
/*
 * virtio 9p transport (virtio 1.2 lists the device; its layout is the Linux header's: a tag in the configuration space,
 * one queue, a request and the room for its answer in each chain) and the life of requests. serve copies what a message
 * says and gives it to a worker; data of reads and writes goes straight between the host's file and the guest's
 * buffers. Requests in flight have no order, with two exceptions: a Tflush is answered right after the request that it
 * names, and a Tversion runs alone.
 */
#include "virtio/p9.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "mem/mem.h"
#include "state/state.h"
#include "virtio/devices.h"

enum { P9_QUEUE = 256, P9_BATCH = 64 };

#define F_MOUNT_TAG (1UL << 0)

struct header {
    uint32_t size;
    uint8_t type;
    uint16_t tag;
} __attribute__((packed));

/* ---- answers ---- */

/* Copies to the buffers of the answer, from byte off on. */
static void answer_write(const struct p9_req *r, uint64_t off, const uint8_t *src, uint64_t len)
{
    for (unsigned i = 0; i < r->n_in && len; i++) {
        const struct virtq_buf *b = &r->buf[i];
        if (off >= b->len) {
            off -= b->len;
            continue;
        }
        uint64_t n = b->len - off < len ? b->len - off : len;
        mem_write(r->p->v.mem, b->gpa + off, src, n);
        src += n;
        len -= n;
        off = 0;
    }
}

/* Writes the answer for result; its length. */
static uint32_t answer(struct p9_req *r, int result)
{
    uint8_t type = r->op ? (uint8_t)(r->op->type + 1) : P9_TLERROR + 1;
    if (result == 0 && r->out.bad)
        result = -EMSGSIZE; /* the room that the client gave is too small */
    if (result < 0) {
        r->moved = 0;
        r->out.at = 0;
        r->out.bad = false;
        type = P9_TLERROR + 1;
        p9_put32(&r->out, (uint32_t)-result);
    }
    uint32_t len = P9_HEADER + (uint32_t)r->out.at + r->moved;
    struct header h = { .size = len, .type = type, .tag = r->tag };
    memcpy(r->out.p - P9_HEADER, &h, P9_HEADER);
    answer_write(r, 0, r->out.p - P9_HEADER, P9_HEADER + r->out.at);
    return len;
}

/* ---- running; no lock held but where it says so ---- */

/* Lock held. Answers r and those that wait for it, in this order, and frees them. */
static void complete(struct p9_req *r, uint32_t len)
{
    struct p9 *p = r->p;
    struct p9_req **at = &p->inflight, *next;
    while (*at != r)
        at = &(*at)->next;
    *at = r->next;
    virtq_push(&p->v.q[0], r->head, len);
    for (struct p9_req *f = r->flush; f; f = next) {
        next = f->next;
        virtq_push(&p->v.q[0], f->head, answer(f, 0));
        virtio_release(&p->v);
        free(f);
    }
    virtio_signal(&p->v, 0);
    free(r);
}

static void run_req(struct pool_job *j)
{
    struct p9_req *r = (struct p9_req *)j;
    struct p9 *p = r->p;
    int result = p->msize || r->op->type == P9_TVERSION ? r->op->run(r) : -EPROTO;
    if (result == 0 && r->in.bad)
        result = -EINVAL;
    uint32_t len = answer(r, result);
    bool alone = r->op->type == P9_TVERSION;
    lock_take(&p->v.lock);
    complete(r, len);
    if (alone) {
        p->draining = false;
        virtio_kick(&p->v, 0);
    } else if (p->draining && !p->inflight->next) {
        pool_submit(p->v.pool, &p->inflight->job);
    }
    virtio_release(&p->v);
    lock_drop(&p->v.lock);
}

/* ---- taking a message apart; lock held ---- */

/* A request for the chain in p->v.chain: its answer's buffers, and the n bytes of its message to keep. */
static struct p9_req *make_req(struct p9 *p, const struct p9_op *op, const struct header *h, uint32_t n)
{
    const struct virtq_chain *c = &p->v.chain;
    unsigned n_out = op && op->type == P9_TWRITE ? c->n_out : 0;
    size_t bufs = ((size_t)c->n_in + n_out) * sizeof(struct virtq_buf);
    uint64_t room = c->in_len < P9_MSIZE_MAX ? c->in_len : P9_MSIZE_MAX;
    size_t reply = op && op->reply > 4 ? op->reply : 4;
    if (reply > room - P9_HEADER)
        reply = room - P9_HEADER;
    uint8_t *tail;
    struct p9_req *r = malloc(sizeof(*r) + bufs + n + P9_HEADER + reply);
    if (!r)
        return NULL;
    *r = (struct p9_req){ .job.run = run_req, .p = p, .op = op, .head = c->head, .tag = h->tag };
    r->room = (uint32_t)room;
    r->n_in = c->n_in;
    r->n_out = n_out;
    r->buf = (struct virtq_buf *)(void *)(r + 1);
    memcpy(r->buf, c->buf + c->n_out, c->n_in * sizeof(r->buf[0]));
    memcpy(r->buf + c->n_in, c->buf, n_out * sizeof(r->buf[0]));
    tail = (uint8_t *)r->buf + bufs;
    r->in = (struct p9_in){ .p = tail, .n = n };
    virtq_read(&p->v.q[0], c, P9_HEADER, tail, n);
    r->out = (struct p9_out){ .p = tail + n + P9_HEADER, .n = reply };
    return r;
}

/* Answers a chain that never becomes a request in flight. */
static void answer_now(struct p9 *p, struct p9_req *r, int result)
{
    virtq_push(&p->v.q[0], r->head, answer(r, result));
    free(r);
}

static struct p9_req *find_tag(struct p9 *p, uint16_t tag)
{
    struct p9_req *r = p->inflight;
    while (r && r->tag != tag)
        r = r->next;
    return r;
}

/* Tflush: answered when the request that it names is; at once when there is none (any more). */
static void flush(struct p9 *p, struct p9_req *r)
{
    struct p9_req *old = find_tag(p, p9_get16(&r->in));
    if (r->in.bad || !old) {
        answer_now(p, r, r->in.bad ? -EINVAL : 0);
        return;
    }
    struct p9_req **at = &old->flush;
    while (*at)
        at = &(*at)->next;
    *at = r;
    virtio_hold(&p->v);
}

/* What is wrong with a message before anybody looks into it: 0 or -errno. */
static int check(struct p9 *p, const struct p9_op *op, const struct header *h)
{
    uint32_t max = op && op->type == P9_TWRITE ? P9_MSIZE_MAX : P9_MSG_MAX;
    if (h->size < P9_HEADER || h->size > p->v.chain.out_len)
        return -EINVAL;
    if (h->size > max || (p->msize && h->size > p->msize))
        return -EMSGSIZE;
    if (!op)
        return -EOPNOTSUPP;
    return op->type != P9_TVERSION && (h->tag == P9_NOTAG || find_tag(p, h->tag)) ? -EINVAL : 0;
}

/* The request that a chain asks for, in flight now; NULL: it was answered, or there is no memory for it. */
static struct p9_req *take(struct p9 *p)
{
    struct virtq *q = &p->v.q[0];
    struct header h;
    if (p->v.chain.out_len < P9_HEADER || p->v.chain.in_len < P9_IO_HEADER ||
        virtq_read(q, &p->v.chain, 0, &h, P9_HEADER) != P9_HEADER) {
        virtq_push(q, p->v.chain.head, 0);
        q->broken = "a 9p request without header, or without room for an answer";
        return NULL;
    }
    const struct p9_op *op = p9_find_op(h.type);
    int err = check(p, op, &h);
    uint32_t n = err ? 0 : h.size - P9_HEADER;
    if (op && op->type == P9_TWRITE && n > P9_WRITE_HEADER - P9_HEADER)
        n = P9_WRITE_HEADER - P9_HEADER;
    struct p9_req *r = make_req(p, op, &h, n);
    if (!r) {
        virtq_push(q, p->v.chain.head, 0); /* no answer is an error to the driver */
        return NULL;
    }
    if (err) {
        answer_now(p, r, err);
        return NULL;
    }
    if (op->type == P9_TFLUSH) {
        flush(p, r);
        return NULL;
    }
    r->next = p->inflight;
    p->inflight = r;
    virtio_hold(&p->v);
    return r;
}

static bool p9_serve(struct virtio_dev *v, unsigned qi)
{
    struct p9 *p = (struct p9 *)v;
    struct virtq *q = &v->q[qi];
    struct p9_req *last = NULL;
    bool more = true;
    virtq_disable_notify(q);
    for (int i = 0; i < P9_BATCH && more && !p->draining && !q->broken; i++) {
        if (virtq_pop(q, &v->chain) != 1) {
            more = virtq_enable_notify(q);
            continue;
        }
        struct p9_req *r = take(p);
        if (!r)
            continue;
        if (r->op->type == P9_TVERSION) {
            p->draining = true; /* the last in flight starts it, and it goes on with the queue */
            if (r->next)
                r = NULL;
        }
        if (last && r)
            pool_submit(v->pool, &last->job);
        last = r ? r : last;
    }
    if (last)
        pool_submit_next(v->pool, &last->job); /* this very worker goes on with it */
    virtio_signal(v, qi);
    return more && !p->draining && !q->broken;
}

/* ---- life ---- */

static unsigned p9_config(struct virtio_dev *v, uint8_t buf[VIRTIO_CONFIG_MAX])
{
    const struct p9 *p = (struct p9 *)v;
    uint16_t n = (uint16_t)strlen(p->tag);
    memcpy(buf, &n, sizeof(n));
    memcpy(buf + sizeof(n), p->tag, n);
    return (unsigned)sizeof(n) + n;
}

static void p9_reset(struct virtio_dev *v)
{
    struct p9 *p = (struct p9 *)v;
    p9_fids_clear(p);
    p->msize = 0;
}

static void p9_save(struct virtio_dev *v, struct state_out *s)
{
    struct p9 *p = (struct p9 *)v;
    state_put_u32(s, p->msize);
    p9_save_fids(p, s);
}

static int p9_load(struct virtio_dev *v, struct state_in *s)
{
    struct p9 *p = (struct p9 *)v;
    uint32_t msize = state_get_u32(s);
    if (s->bad || msize > P9_MSIZE_MAX || (msize && msize < P9_MSIZE_MIN))
        return -EINVAL;
    int r = p9_load_fids(p, s);
    if (r == 0)
        p->msize = msize;
    return r;
}

static void p9_free(struct virtio_dev *v)
{
    struct p9 *p = (struct p9 *)v;
    virtio_fini(v);
    p9_fids_clear(p);
    lock_destroy(&p->fids.lock);
    lock_destroy(&p->lock_lock);
    free(p);
}

static const struct virtio_ops p9_ops = {
    .name = "virtio-9p",
    .id = VIRTIO_ID_9P,
    .on_worker = true,
    .config = p9_config,
    .serve = p9_serve,
    .reset = p9_reset,
    .save = p9_save,
    .load = p9_load,
    .free = p9_free,
};

struct virtio_dev *virtio_9p_new(const struct virtio_env *env, struct share *share, const char *tag)
{
    struct p9 *p = calloc(1, sizeof(*p));
    if (!p || strlen(tag) > VIRTIO_9P_TAG_MAX) {
        free(p);
        return NULL;
    }
    strcpy(p->tag, tag);
    p->share = share;
    p9_fids_init(p);
    virtio_init(&p->v, &p9_ops, env, F_MOUNT_TAG);
    virtio_add_queue(&p->v, P9_QUEUE);
    return &p->v;
}
