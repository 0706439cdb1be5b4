/* SPDX-License-Identifier: MIT */
/*
 * virtio console (virtio 1.2, "Console Device"): a console and named ports, each on a character back end. Output that
 * the back end refuses stays in the queue (tx_off remembers how much of its first request is written) until tx_ready;
 * input is only taken when the driver has a buffer for it and, with several ports, has opened the port. So neither
 * side buffers without bound and nobody blocks.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "state/state.h"
#include "virtio/console_int.h"

enum { CONSOLE_QUEUE = 64, PORT_QUEUE = 16, CTRL_QUEUE = 16, TX_BATCH = 16, TX_BYTES = 65536, CHUNK = 1024 };
enum { EMERG_OFF = 8, CONFIG_LEN = 12 };

_Static_assert(2 * VIRTIO_CONSOLE_PORTS_MAX + 2 <= VIRTIO_QUEUES_MAX, "two queues a port, and two for control");

static unsigned console_config(struct virtio_dev *v, uint8_t buf[VIRTIO_CONFIG_MAX])
{
    const struct console *c = (struct console *)v;
    uint32_t ports = c->n_ports;
    memcpy(buf, c->size, sizeof(c->size));
    memcpy(buf + 4, &ports, sizeof(ports));
    return CONFIG_LEN;
}

/* The emergency write works in any state of the device; a character is all it takes. */
static void console_config_write(struct virtio_dev *v, unsigned off, const uint8_t *buf, unsigned len)
{
    struct console *c = (struct console *)v;
    if (off == EMERG_OFF && len >= 1 && c->port[0].ch)
        chardev_write(c->port[0].ch, buf, 1); /* what does not fit is lost: the guest is dying */
}

/* ---- output ---- */

/* Writes the popped request from tx_off on. True: all of it; false: the rest must wait, or the budget is used up.
 * Output to a console that is absent is lost. */
static bool put_chain(struct console_port *p, uint64_t *budget)
{
    struct virtio_dev *v = &p->c->v;
    uint8_t buf[CHUNK];
    while (p->ch && p->tx_off < v->chain.out_len) {
        uint64_t n = v->chain.out_len - p->tx_off;
        if (n > sizeof(buf))
            n = sizeof(buf);
        if (n > *budget)
            n = *budget;
        n = virtq_read(&v->q[console_txq(p)], &v->chain, p->tx_off, buf, n);
        if (!n)
            return false;
        size_t k = chardev_write(p->ch, buf, n);
        p->tx_off += k;
        *budget -= k;
        if (k < n)
            return false;
    }
    p->tx_off = 0;
    return true;
}

static bool serve_tx(struct console_port *p)
{
    struct virtio_dev *v = &p->c->v;
    struct virtq *q = &v->q[console_txq(p)];
    uint64_t budget = TX_BYTES;
    bool more = true, pushed = false;
    virtq_disable_notify(q);
    for (int i = 0; i < TX_BATCH && more; i++) {
        if (virtq_pop(q, &v->chain) != 1) {
            more = virtq_enable_notify(q);
        } else if (put_chain(p, &budget)) {
            virtq_push(q, v->chain.head, 0);
            pushed = true;
        } else {
            virtq_unpop(q);
            more = budget == 0; /* otherwise tx_ready comes */
            break;
        }
    }
    if (pushed)
        virtio_signal(v, console_txq(p));
    return more;
}

static void on_tx_ready(void *arg)
{
    struct console_port *p = arg;
    struct virtio_dev *v = &p->c->v;
    lock_take(&v->lock);
    if (virtio_live(v))
        virtio_kick(v, console_txq(p));
    lock_drop(&v->lock);
}

/* ---- input ---- */

bool console_pop_room(struct console *c, unsigned qi)
{
    struct virtio_dev *v = &c->v;
    struct virtq *q = &v->q[qi];
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

/* A port that nobody in the guest has opened gets no input: it waits in the back end, as in a pipe. */
static bool pop_input(struct console_port *p)
{
    if (virtio_has(&p->c->v, CONSOLE_F_MULTIPORT) && !p->guest_open)
        return false;
    return console_pop_room(p->c, console_rxq(p));
}

static size_t on_can_rx(void *arg)
{
    struct console_port *p = arg;
    struct virtio_dev *v = &p->c->v;
    size_t room = 0;
    lock_take(&v->lock);
    if (pop_input(p)) {
        room = v->chain.in_len;
        virtq_unpop(&v->q[console_rxq(p)]);
    }
    lock_drop(&v->lock);
    return room;
}

static void on_rx(void *arg, const void *buf, size_t len)
{
    struct console_port *p = arg;
    struct virtio_dev *v = &p->c->v;
    unsigned q = console_rxq(p);
    lock_take(&v->lock);
    /* Gone since can_rx only if the driver closed the port, reset the device or broke a rule: it is nobody's then. */
    if (pop_input(p)) {
        uint64_t n = virtq_write(&v->q[q], &v->chain, 0, buf, len);
        virtq_push(&v->q[q], v->chain.head, (uint32_t)n);
        virtio_signal(v, q);
    }
    lock_drop(&v->lock);
}

static void on_changed(void *arg)
{
    struct console_port *p = arg;
    struct virtio_dev *v = &p->c->v;
    lock_take(&v->lock);
    console_look(p);
    console_tell(p->c);
    lock_drop(&v->lock);
}

/* The port of a data queue, or NULL. The queues of port 0 always exist: a driver without MULTIPORT writes there. */
static struct console_port *port_of(struct console *c, unsigned q)
{
    struct console_port *p = &c->port[q < 2 ? 0 : q / 2 - 1];
    return q == CONSOLE_CTRL_RX || q == CONSOLE_CTRL_TX || (!p->ch && q != console_txq(&c->port[0])) ? NULL : p;
}

static bool console_serve(struct virtio_dev *v, unsigned q)
{
    struct console *c = (struct console *)v;
    if (q == CONSOLE_CTRL_RX) {
        console_tell(c);
        return false;
    }
    if (q == CONSOLE_CTRL_TX)
        return console_listen(c);
    struct console_port *p = port_of(c, q);
    if (!p)
        return false;
    if (q == console_txq(p))
        return serve_tx(p);
    chardev_rx_ready(p->ch);
    return false;
}

/* ---- life ---- */

static void console_activate(struct virtio_dev *v)
{
    const struct console *c = (struct console *)v;
    for (unsigned i = 0; i < c->n_ports; i++)
        if (c->port[i].ch)
            chardev_rx_ready(c->port[i].ch);
}

static void console_reset(struct virtio_dev *v)
{
    struct console *c = (struct console *)v;
    for (unsigned i = 0; i < c->n_ports; i++) {
        struct console_port *p = &c->port[i];
        if (!p->ch)
            continue;
        p->tx_off = 0;
        p->news = 0;
        p->added = p->ready = false;
        console_set_open(p, false);
    }
}

static void console_queue_reset(struct virtio_dev *v, unsigned q)
{
    struct console_port *p = port_of((struct console *)v, q);
    if (p && q == console_txq(p))
        p->tx_off = 0;
}

static void console_save(struct virtio_dev *v, struct state_out *s)
{
    const struct console *c = (struct console *)v;
    state_put_u16(s, c->size[0]);
    state_put_u16(s, c->size[1]);
    state_put_u32(s, c->n_ports);
    for (unsigned i = 0; i < c->n_ports; i++) {
        state_put_u64(s, c->port[i].tx_off);
        state_put_u8(s, c->port[i].news);
        state_put_u8(s, (uint8_t)(c->port[i].ready | c->port[i].guest_open << 1 | c->port[i].added << 2));
    }
}

static int console_load(struct virtio_dev *v, struct state_in *s)
{
    struct console *c = (struct console *)v;
    uint16_t cols = state_get_u16(s), rows = state_get_u16(s);
    uint64_t off[VIRTIO_CONSOLE_PORTS_MAX];
    uint8_t news[VIRTIO_CONSOLE_PORTS_MAX], flags[VIRTIO_CONSOLE_PORTS_MAX];
    if (state_get_u32(s) != c->n_ports)
        return -EINVAL;
    for (unsigned i = 0; i < c->n_ports; i++) {
        off[i] = state_get_u64(s);
        news[i] = state_get_u8(s);
        flags[i] = state_get_u8(s);
        if (news[i] & ~NEWS_ALL || flags[i] > 7 || (!c->port[i].ch && (news[i] || flags[i] & 3)))
            return -EINVAL;
        if ((!c->port[i].name && news[i] & NEWS_NAME) || (i && news[i] & NEWS_SIZE))
            return -EINVAL;
    }
    if (s->bad)
        return -EINVAL;
    c->size[0] = cols;
    c->size[1] = rows;
    for (unsigned i = 0; i < c->n_ports; i++) {
        struct console_port *p = &c->port[i];
        if (!p->ch)
            continue;
        p->tx_off = off[i]; /* beyond the request it only means that the request is done */
        p->news = news[i];
        p->ready = flags[i] & 1;
        p->added = flags[i] & 4;
        console_set_open(p, flags[i] & 2);
        console_look(p); /* the back end is another one than when it was saved */
    }
    return 0;
}

static void console_free(struct virtio_dev *v)
{
    struct console *c = (struct console *)v;
    for (unsigned i = 0; i < c->n_ports; i++)
        if (c->port[i].ch)
            chardev_attach(c->port[i].ch, NULL);
    virtio_fini(v);
    for (unsigned i = 0; i < c->n_ports; i++)
        free(c->port[i].name);
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

static void add_queues(struct console *c)
{
    for (unsigned i = 0; i < c->n_ports; i++) {
        uint16_t max = i ? PORT_QUEUE : CONSOLE_QUEUE;
        virtio_add_queue(&c->v, max);
        virtio_add_queue(&c->v, max);
        if (!i && c->n_ports > 1) {
            virtio_add_queue(&c->v, CTRL_QUEUE);
            virtio_add_queue(&c->v, CTRL_QUEUE);
        }
    }
}

struct virtio_dev *virtio_console_new(const struct virtio_env *env, const struct virtio_console_port *port, unsigned n)
{
    struct chardev_status st = { 0 };
    if (n < 1 || n > VIRTIO_CONSOLE_PORTS_MAX)
        return NULL;
    struct console *c = calloc(1, sizeof(*c));
    if (!c)
        return NULL;
    c->n_ports = n;
    for (unsigned i = 0; i < n; i++) {
        c->port[i] = (struct console_port){ .c = c, .id = i, .ch = port[i].ch };
        if (port[i].name && !(c->port[i].name = strdup(port[i].name)))
            goto undo_names;
    }
    if (c->port[0].ch)
        chardev_get_status(c->port[0].ch, &st);
    c->size[0] = st.cols;
    c->size[1] = st.rows;
    uint64_t features = (c->port[0].ch ? CONSOLE_F_EMERG_WRITE : 0) | (n > 1 ? CONSOLE_F_MULTIPORT : 0);
    virtio_init(&c->v, &console_ops, env, features | (st.cols && st.rows ? CONSOLE_F_SIZE : 0));
    add_queues(c);
    for (unsigned i = 0; i < n; i++) {
        const struct chardev_user u = {
            .can_rx = on_can_rx, .rx = on_rx, .tx_ready = on_tx_ready, .changed = on_changed, .arg = &c->port[i]
        };
        if (c->port[i].ch)
            chardev_attach(c->port[i].ch, &u);
    }
    return &c->v;

undo_names:
    for (unsigned i = 0; i < n; i++)
        free(c->port[i].name);
    free(c);
    return NULL;
}
