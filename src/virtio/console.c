/* SPDX-License-Identifier: MIT */
/*
 * virtio console (virtio 1.2, "Console Device"): one port, no multiport. Output that the back end refuses stays in
 * the queue (tx_off remembers how much of its first request is written) until tx_ready; input is only taken when the
 * driver has a buffer for it. So neither side buffers without bound and nobody blocks.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "host/chardev.h"
#include "state/state.h"
#include "virtio/devices.h"

#define F_SIZE (1UL << 0)
#define F_EMERG_WRITE (1UL << 2)

enum { RXQ, TXQ, CONSOLE_QUEUE = 64, TX_BATCH = 16, TX_BYTES = 65536, CHUNK = 1024 };
enum { EMERG_OFF = 8, CONFIG_LEN = 12 };

struct console {
    struct virtio_dev v; /* first */
    struct chardev *ch;
    uint16_t size[2]; /* columns, rows */
    uint64_t tx_off;
};

static unsigned console_config(struct virtio_dev *v, uint8_t buf[VIRTIO_CONFIG_MAX])
{
    const struct console *c = (struct console *)v;
    const uint32_t ports = 1;
    memcpy(buf, c->size, sizeof(c->size));
    memcpy(buf + 4, &ports, sizeof(ports));
    return CONFIG_LEN;
}

/* The emergency write works in any state of the device; a character is all it takes. */
static void console_config_write(struct virtio_dev *v, unsigned off, const uint8_t *buf, unsigned len)
{
    struct console *c = (struct console *)v;
    if (off == EMERG_OFF && len >= 1)
        chardev_write(c->ch, buf, 1); /* what does not fit is lost: the guest is dying */
}

void virtio_console_resize(struct virtio_dev *v, uint16_t cols, uint16_t rows)
{
    struct console *c = (struct console *)v;
    lock_take(&v->lock);
    c->size[0] = cols;
    c->size[1] = rows;
    if (virtio_has(v, F_SIZE))
        virtio_config_changed(v);
    lock_drop(&v->lock);
}

/* ---- output ---- */

/* Writes the popped request from tx_off on. True: all of it; false: the rest must wait, or the budget is used up. */
static bool put_chain(struct console *c, uint64_t *budget)
{
    struct virtio_dev *v = &c->v;
    uint8_t buf[CHUNK];
    while (c->tx_off < v->chain.out_len) {
        uint64_t n = v->chain.out_len - c->tx_off;
        if (n > sizeof(buf))
            n = sizeof(buf);
        if (n > *budget)
            n = *budget;
        n = virtq_read(&v->q[TXQ], &v->chain, c->tx_off, buf, n);
        if (!n)
            return false;
        size_t k = chardev_write(c->ch, buf, n);
        c->tx_off += k;
        *budget -= k;
        if (k < n)
            return false;
    }
    c->tx_off = 0;
    return true;
}

static bool serve_tx(struct console *c)
{
    struct virtio_dev *v = &c->v;
    struct virtq *q = &v->q[TXQ];
    uint64_t budget = TX_BYTES;
    bool more = true, pushed = false;
    virtq_disable_notify(q);
    for (int i = 0; i < TX_BATCH && more; i++) {
        if (virtq_pop(q, &v->chain) != 1) {
            more = virtq_enable_notify(q);
        } else if (put_chain(c, &budget)) {
            virtq_push(q, v->chain.head, 0);
            pushed = true;
        } else {
            virtq_unpop(q);
            more = budget == 0; /* otherwise tx_ready comes */
            break;
        }
    }
    if (pushed)
        virtio_signal(v, TXQ);
    return more;
}

static void on_tx_ready(void *arg)
{
    struct virtio_dev *v = arg;
    lock_take(&v->lock);
    if (virtio_live(v))
        virtio_kick(v, TXQ);
    lock_drop(&v->lock);
}

/* ---- input ---- */

/* Pops a receive buffer with room; requests without any are given back at once. False: there is none. */
static bool pop_room(struct console *c)
{
    struct virtio_dev *v = &c->v;
    struct virtq *q = &v->q[RXQ];
    if (!virtio_live(v) || !q->ready)
        return false;
    for (int i = 0; i < VIRTQ_MAX; i++) {
        if (virtq_pop(q, &v->chain) != 1) {
            if (!virtq_enable_notify(q))
                break;
        } else if (v->chain.in_len) {
            return true;
        } else {
            virtq_push(q, v->chain.head, 0);
        }
    }
    if (q->broken)
        virtio_needs_reset(v, q->broken);
    return false;
}

static size_t on_can_rx(void *arg)
{
    struct console *c = arg;
    size_t room = 0;
    lock_take(&c->v.lock);
    if (pop_room(c)) {
        room = c->v.chain.in_len;
        virtq_unpop(&c->v.q[RXQ]);
    }
    lock_drop(&c->v.lock);
    return room;
}

static void on_rx(void *arg, const void *buf, size_t len)
{
    struct console *c = arg;
    struct virtio_dev *v = &c->v;
    lock_take(&v->lock);
    /* Gone since can_rx only if the driver reset the device or broke a rule: then the input is nobody's. */
    if (pop_room(c)) {
        uint64_t n = virtq_write(&v->q[RXQ], &v->chain, 0, buf, len);
        virtq_push(&v->q[RXQ], v->chain.head, (uint32_t)n);
        virtio_signal(v, RXQ);
    }
    lock_drop(&v->lock);
}

static bool console_serve(struct virtio_dev *v, unsigned q)
{
    struct console *c = (struct console *)v;
    if (q == TXQ)
        return serve_tx(c);
    chardev_rx_ready(c->ch);
    return false;
}

/* ---- life ---- */

static void console_activate(struct virtio_dev *v)
{
    chardev_rx_ready(((struct console *)v)->ch);
}

static void console_reset(struct virtio_dev *v)
{
    ((struct console *)v)->tx_off = 0;
}

static void console_queue_reset(struct virtio_dev *v, unsigned q)
{
    if (q == TXQ)
        ((struct console *)v)->tx_off = 0;
}

static void console_save(struct virtio_dev *v, struct state_out *s)
{
    const struct console *c = (struct console *)v;
    state_put_u16(s, c->size[0]);
    state_put_u16(s, c->size[1]);
    state_put_u64(s, c->tx_off);
}

static int console_load(struct virtio_dev *v, struct state_in *s)
{
    struct console *c = (struct console *)v;
    uint16_t cols = state_get_u16(s), rows = state_get_u16(s);
    uint64_t off = state_get_u64(s);
    if (s->bad)
        return -EINVAL;
    c->size[0] = cols;
    c->size[1] = rows;
    c->tx_off = off; /* beyond the request it only means that the request is done */
    return 0;
}

static void console_free(struct virtio_dev *v)
{
    chardev_attach(((struct console *)v)->ch, NULL);
    virtio_fini(v);
    free(v);
}

static const struct virtio_ops console_ops = {
    .name = "virtio-console",
    .id = VIRTIO_ID_CONSOLE,
    .config = console_config,
    .config_write = console_config_write,
    .activate = console_activate,
    .serve = console_serve,
    .queue_reset = console_queue_reset,
    .reset = console_reset,
    .save = console_save,
    .load = console_load,
    .free = console_free,
};

struct virtio_dev *virtio_console_new(const struct virtio_env *env, struct chardev *ch, uint16_t cols, uint16_t rows)
{
    struct console *c = calloc(1, sizeof(*c));
    if (!c)
        return NULL;
    c->ch = ch;
    c->size[0] = cols;
    c->size[1] = rows;
    virtio_init(&c->v, &console_ops, env, F_EMERG_WRITE | (cols && rows ? F_SIZE : 0));
    virtio_add_queue(&c->v, CONSOLE_QUEUE);
    virtio_add_queue(&c->v, CONSOLE_QUEUE);
    const struct chardev_user u = { .can_rx = on_can_rx, .rx = on_rx, .tx_ready = on_tx_ready, .arg = c };
    chardev_attach(ch, &u);
    return &c->v;
}
