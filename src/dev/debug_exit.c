/* SPDX-License-Identifier: MIT */
/* Ports for test guests and firmware. None has state worth saving. */
#include "dev/debug_exit.h"

#include <stdatomic.h>
#include <string.h>

static void zero_read(void *dev, uint64_t off, void *buf, unsigned len)
{
    (void)dev;
    (void)off;
    memset(buf, 0, len);
}

static void exit_write(void *dev, uint64_t off, const void *buf, unsigned len)
{
    const struct debug_exit *d = dev;
    uint32_t val = 0;
    (void)off;
    memcpy(&val, buf, len < sizeof(val) ? len : sizeof(val));
    d->exit(d->arg, val);
}

static void con_read(void *dev, uint64_t off, void *buf, unsigned len)
{
    (void)dev;
    (void)off;
    memset(buf, 0xe9, len); /* how a guest finds out that it is there */
}

static void con_write(void *dev, uint64_t off, const void *buf, unsigned len)
{
    const struct debug_con *d = dev;
    (void)off;
    if (d->ch)
        chardev_write(d->ch, buf, len);
}

static void post_read(void *dev, uint64_t off, void *buf, unsigned len)
{
    _Atomic uint8_t *code = dev;
    (void)off;
    memset(buf, *code, len);
}

static void post_write(void *dev, uint64_t off, const void *buf, unsigned len)
{
    _Atomic uint8_t *code = dev;
    (void)off;
    (void)len;
    *code = *(const uint8_t *)buf;
}

const struct dev_ops debug_exit_ops = { .name = "debug-exit", .read = zero_read, .write = exit_write };
const struct dev_ops debug_con_ops = { .name = "debug-con", .read = con_read, .write = con_write };
const struct dev_ops post_ops = { .name = "post", .read = post_read, .write = post_write };
