/* SPDX-License-Identifier: MIT */
/* The virtio console's inside: for console*.c only. */
#ifndef GAZDA_VIRTIO_CONSOLE_INT_H
#define GAZDA_VIRTIO_CONSOLE_INT_H

#include "host/chardev.h"
#include "virtio/devices.h"

#define CONSOLE_F_SIZE (1UL << 0)
#define CONSOLE_F_MULTIPORT (1UL << 1)
#define CONSOLE_F_EMERG_WRITE (1UL << 2)

/* Queues: port 0's pair, the control pair, then a pair for each further port. */
enum { CONSOLE_CTRL_RX = 2, CONSOLE_CTRL_TX = 3 };

/* What the driver is to be told of a port, in this order. One bit each, so a driver that asks again costs nothing. */
enum console_news { NEWS_ADD = 1, NEWS_CONSOLE = 2, NEWS_NAME = 4, NEWS_OPEN = 8, NEWS_SIZE = 16, NEWS_ALL = 31 };

struct console_port {
    struct console *c;
    unsigned id;
    struct chardev *ch; /* NULL: there is no such port */
    char *name;         /* NULL: the console */
    uint64_t tx_off;    /* how much of the first request of its transmit queue is written */
    bool added, ready;  /* the driver is told that it exists; has taken it up */
    bool guest_open;
    uint8_t news;
};

struct console {
    struct virtio_dev v; /* first */
    uint16_t size[2];    /* columns, rows; 0 = unknown */
    unsigned n_ports;
    struct console_port port[VIRTIO_CONSOLE_PORTS_MAX];
};

static inline unsigned console_rxq(const struct console_port *p)
{
    return p->id ? 2 * p->id + 2 : 0;
}
static inline unsigned console_txq(const struct console_port *p)
{
    return console_rxq(p) + 1;
}

/* All with the device's lock held. */

/* Pops a buffer with room off queue q; requests without any are given back at once. False: there is none. */
bool console_pop_room(struct console *c, unsigned q);
/* Tells the driver what it is to be told, as far as it has buffers for that. */
void console_tell(struct console *c);
/* Takes a bounded number of the driver's messages; true: there are more. */
bool console_listen(struct console *c);
/* The guest's side of the port was opened or closed. */
void console_set_open(struct console_port *p, bool open);
/* Looks at the back end again: is anybody there, how large is the terminal. */
void console_look(struct console_port *p);

#endif
