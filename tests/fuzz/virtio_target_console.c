/* SPDX-License-Identifier: MIT */
#include "host/chardev.h"
#include "virtio_targets.h"

/* ---- a back end that takes a bit, and sends when told ---- */

struct sink {
    struct chardev ch; /* first */
    struct chardev_user user;
    bool attached;
    unsigned writes;
    bool peer;
    struct sink *next; /* of another port */
};

static size_t sink_write(struct chardev *ch, const void *buf, size_t n)
{
    struct sink *k = (struct sink *)ch;
    const uint8_t *p = buf;
    volatile uint8_t sum = 0;
    for (size_t i = 0; i < n; i++)
        sum = (uint8_t)(sum + p[i]);
    return k->writes++ % 4 == 3 ? n / 2 : n;
}
static void sink_attach(struct chardev *ch, const struct chardev_user *u)
{
    struct sink *k = (struct sink *)ch;
    k->attached = u != NULL;
    if (u)
        k->user = *u;
}
static void sink_rx_ready(struct chardev *ch)
{
    (void)ch;
}
static void sink_status(struct chardev *ch, struct chardev_status *st)
{
    struct sink *k = (struct sink *)ch;
    *st = (struct chardev_status){ .peer = k->peer, .cols = (uint16_t)(k->writes % 200), .rows = 25 };
}
static const struct chardev_ops sink_ops = {
    .write = sink_write, .attach = sink_attach, .rx_ready = sink_rx_ready, .status = sink_status
};

static struct sink *sink_new(struct sink *next)
{
    struct sink *k = calloc(1, sizeof(*k));
    k->ch.ops = &sink_ops;
    k->writes = 80;
    k->next = next;
    return k;
}

static void *console_open(struct drv *d, const struct virtio_env *env, unsigned variant)
{
    (void)variant;
    struct sink *k = sink_new(NULL);
    const struct virtio_console_port port = { .ch = &k->ch };
    d->v = virtio_console_new(env, &port, 1);
    return k;
}

/* Queues 2 and 3 are the control queues; port 1 is not there. */
static void *ports_open(struct drv *d, const struct virtio_env *env, unsigned variant)
{
    (void)variant;
    struct sink *k = sink_new(sink_new(sink_new(NULL)));
    const struct virtio_console_port port[] = {
        { .ch = &k->ch }, { 0 }, { "two", &k->next->ch }, { "three", &k->next->next->ch }
    };
    d->v = virtio_console_new(env, port, ARRAY_LEN(port));
    return k;
}

/* The first byte says which port's back end acts, and whether its peer comes or goes. */
static void console_input(void *back, const uint8_t *buf, size_t n)
{
    struct sink *k = back;
    for (unsigned i = n ? buf[0] % 4 : 0; i && k->next; i--)
        k = k->next;
    if (!k->attached)
        return;
    if (n && buf[0] & 8) {
        k->peer = buf[0] & 16;
        k->user.changed(k->user.arg);
    }
    size_t room = k->user.can_rx(k->user.arg);
    if (n)
        k->user.rx(k->user.arg, buf, n < room || !room ? n : room); /* also without room */
    k->user.tx_ready(k->user.arg);
}

static void console_close(void *back)
{
    for (struct sink *k = back, *next; k; k = next) {
        next = k->next;
        free(k);
    }
}

const struct virtio_target virtio_target_console = {
    .name = "console", .open = console_open, .input = console_input, .close = console_close
};
const struct virtio_target virtio_target_ports = {
    .name = "ports", .control = true, .open = ports_open, .input = console_input, .close = console_close
};
