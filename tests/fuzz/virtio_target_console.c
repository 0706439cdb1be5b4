/* SPDX-License-Identifier: MIT */
#include "host/chardev.h"
#include "virtio_targets.h"

/* ---- a back end that takes a bit, and sends when told ---- */

struct sink {
    struct chardev ch; /* first */
    struct chardev_user user;
    bool attached;
    unsigned writes;
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
static const struct chardev_ops sink_ops = { .write = sink_write, .attach = sink_attach, .rx_ready = sink_rx_ready };

static void *console_open(struct drv *d, const struct virtio_env *env)
{
    struct sink *k = calloc(1, sizeof(*k));
    k->ch.ops = &sink_ops;
    d->v = virtio_console_new(env, &k->ch, 80, 25);
    return k;
}

static void console_input(void *back, const uint8_t *buf, size_t n)
{
    struct sink *k = back;
    if (!k->attached)
        return;
    size_t room = k->user.can_rx(k->user.arg);
    if (n)
        k->user.rx(k->user.arg, buf, n < room || !room ? n : room); /* also without room */
    k->user.tx_ready(k->user.arg);
}

const struct virtio_target virtio_target_console = {
    .name = "console", .open = console_open, .input = console_input, .close = free
};
