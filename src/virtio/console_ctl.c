/* SPDX-License-Identifier: MIT */
/*
 * The control queues of the virtio console (virtio 1.2, "Multiport Device Operation"). What the driver must be told
 * is kept as bits of the port and put into words only when there is a buffer for it: a driver that gives none, or asks
 * without end, makes nothing grow.
 */
#include <string.h>

#include "virtio/console_int.h"

enum { LISTEN_BATCH = 16 };
enum {
    DEVICE_READY = 0,
    PORT_ADD = 1,
    PORT_READY = 3,
    CONSOLE_PORT = 4,
    RESIZE = 5,
    PORT_OPEN = 6,
    PORT_NAME = 7,
};

struct control {
    uint32_t id;
    uint16_t event, value;
};

/* Writes one message into the popped buffer; one that is too short for it gets what fits. */
static void put_message(struct console *c, const struct control *m, const void *more, size_t len)
{
    struct virtio_dev *v = &c->v;
    struct virtq *q = &v->q[CONSOLE_CTRL_RX];
    uint64_t n = virtq_write(q, &v->chain, 0, m, sizeof(*m));
    if (len && n == sizeof(*m))
        n += virtq_write(q, &v->chain, n, more, len);
    virtq_push(q, v->chain.head, (uint32_t)n);
}

static void put_news(struct console_port *p, enum console_news news)
{
    struct console *c = p->c;
    struct control m = { .id = p->id, .value = 1 };
    struct chardev_status st;
    switch (news) {
    case NEWS_ADD:
        m.event = PORT_ADD;
        put_message(c, &m, NULL, 0);
        break;
    case NEWS_CONSOLE:
        m.event = CONSOLE_PORT;
        put_message(c, &m, NULL, 0);
        break;
    case NEWS_NAME:
        m.event = PORT_NAME;
        put_message(c, &m, p->name, strlen(p->name));
        break;
    case NEWS_OPEN:
        chardev_get_status(p->ch, &st);
        m.event = PORT_OPEN;
        m.value = st.peer;
        put_message(c, &m, NULL, 0);
        break;
    default: /* columns first, as virtio 1.2 has it; old Linux takes them for the rows */
        m.event = RESIZE;
        put_message(c, &m, c->size, sizeof(c->size));
        break;
    }
}

void console_tell(struct console *c)
{
    bool told = false;
    if (!virtio_live(&c->v) || !virtio_has(&c->v, CONSOLE_F_MULTIPORT))
        return;
    for (unsigned i = 0; i < c->n_ports; i++) {
        struct console_port *p = &c->port[i];
        while (p->news) {
            uint8_t bit = p->news & (uint8_t)-p->news;
            if (!console_pop_room(c, CONSOLE_CTRL_RX))
                goto out;
            put_news(p, bit);
            p->news &= (uint8_t)~bit;
            told = true;
        }
    }
out:
    if (told)
        virtio_signal(&c->v, CONSOLE_CTRL_RX);
}

void console_set_open(struct console_port *p, bool open)
{
    if (p->guest_open == open)
        return;
    p->guest_open = open;
    chardev_opened(p->ch, open);
    if (open)
        chardev_rx_ready(p->ch);
}

void console_look(struct console_port *p)
{
    struct console *c = p->c;
    struct chardev_status st;
    chardev_get_status(p->ch, &st);
    if (p->ready)
        p->news |= NEWS_OPEN;
    if (p->id || !st.cols || !st.rows || (st.cols == c->size[0] && st.rows == c->size[1]))
        return;
    c->size[0] = st.cols;
    c->size[1] = st.rows;
    if (p->ready)
        p->news |= NEWS_SIZE;
    if (virtio_has(&c->v, CONSOLE_F_SIZE))
        virtio_config_changed(&c->v);
    else
        c->v.config_gen++; /* it may be read all the same */
}

/* A port that the driver took up hears all there is to know. One that comes back from a suspend needs no PORT_ADD. */
static void introduce(struct console_port *p)
{
    p->ready = p->added = true;
    p->news |= p->name ? NEWS_NAME : NEWS_CONSOLE;
    p->news |= NEWS_OPEN;
    if (!p->id && p->c->size[0])
        p->news |= NEWS_SIZE;
}

static void hear(struct console *c, const struct control *m)
{
    struct console_port *p = m->id < c->n_ports && c->port[m->id].ch ? &c->port[m->id] : NULL;
    if (m->event == DEVICE_READY && m->value == 1) {
        for (unsigned i = 0; i < c->n_ports; i++) {
            if (c->port[i].ch && !c->port[i].added) /* a port that exists must not be added */
                c->port[i].news |= NEWS_ADD;
            c->port[i].added = true;
        }
    } else if (p && m->event == PORT_READY) { /* 0: the driver could not; it will not use the port */
        if (m->value == 1)
            introduce(p);
        else
            p->ready = false;
    } else if (p && m->event == PORT_OPEN) {
        console_set_open(p, m->value != 0);
    } /* anything else is no message of a driver's, or of a port that there is not */
}

bool console_listen(struct console *c)
{
    struct virtio_dev *v = &c->v;
    struct virtq *q = &v->q[CONSOLE_CTRL_TX];
    bool more = true, heard = false;
    if (!virtio_has(v, CONSOLE_F_MULTIPORT))
        return false;
    virtq_disable_notify(q);
    for (int i = 0; i < LISTEN_BATCH && more; i++) {
        struct control m;
        if (virtq_pop(q, &v->chain) != 1) {
            more = virtq_enable_notify(q);
            continue;
        }
        if (virtq_read(q, &v->chain, 0, &m, sizeof(m)) == sizeof(m))
            hear(c, &m);
        virtq_push(q, v->chain.head, 0);
        heard = true;
    }
    if (heard)
        virtio_signal(v, CONSOLE_CTRL_TX);
    console_tell(c);
    return more;
}
