/* SPDX-License-Identifier: MIT */
/* The machine's virtio-mmio devices and what is behind them. */
#include "vm/virtio.h"

#include <errno.h>

#include "host/chardev.h"
#include "host/disk.h"
#include "host/pool.h"
#include "virtio/devices.h"
#include "virtio/transport_mmio.h"
#include "vm/internal.h"

enum { MMIO_BASE = 0xC0001000, WORKERS_MAX = 8 };

/* Firecracker's 5..23, those first that no legacy device uses; 8, 9 and 12 (RTC, SCI, mouse) never. */
static const uint8_t gsis[] = { 5, 6, 7, 10, 11, 16, 17, 18, 19, 20, 21, 22, 23, 15, 14, 13, 3 };

_Static_assert(sizeof(gsis) <= VIRTIO_MAX, "room for every device");

static struct irq_line next_irq(struct machine *m)
{
    return irq_router_line(&m->router, gsis[m->n_virtio]);
}

static int room_for_one(const struct machine *m, struct err *e)
{
    if (m->n_virtio < sizeof(gsis) && m->n_dev < DEVICES_MAX)
        return 0;
    return err_set(e, ENOSPC, "more than %zu virtio devices (disks, console, random source)", sizeof(gsis));
}

/* Lists and maps a new device, which interrupts on next_irq(). */
static int add(struct machine *m, struct virtio_dev *v, struct err *e)
{
    if (!v)
        return err_set(e, ENOMEM, "out of memory for a virtio device");
    struct machine_virtio *slot = &m->virtio[m->n_virtio];
    slot->base = MMIO_BASE + (gpa_t)m->n_virtio * VIRTIO_MMIO_LEN;
    slot->len = VIRTIO_MMIO_LEN;
    slot->gsi = gsis[m->n_virtio];
    m->n_virtio++;
    m->dev[m->n_dev++] =
        (struct machine_device){ .ops = &virtio_mmio_ops, .dev = v, .free = (void (*)(void *))virtio_free };
    return bus_map(m->bus, BUS_MMIO, slot->base, slot->len, BUS_1 | BUS_2 | BUS_4, &virtio_mmio_ops, v, e);
}

static int add_disk(struct machine *m, unsigned i, struct err *e)
{
    const struct machine_disk *d = &m->cfg.disk[i];
    struct virtio_env env = { .mem = m->mem, .pool = m->pool };
    int r = room_for_one(m, e);
    if (r < 0)
        return r;
    m->disk[i] = disk_open(d->path, d->read_only, e);
    if (!m->disk[i])
        return -EIO;
    env.irq = next_irq(m);
    /* A queue a vCPU spares their submissions each other's lock in the guest. */
    return add(m, virtio_blk_new(&env, m->disk[i], m->cfg.cpus < 4 ? m->cfg.cpus : 4), e);
}

static int add_console(struct machine *m, struct err *e)
{
    const struct chardev_env ce = { .loop = m->loop };
    struct virtio_env env = { .mem = m->mem, .pool = m->pool };
    int r = room_for_one(m, e);
    if (r < 0)
        return r;
    m->console = chardev_open(m->cfg.console, &ce, e);
    if (!m->console)
        return -EIO;
    env.irq = next_irq(m);
    return add(m, virtio_console_new(&env, m->console, 0, 0), e);
}

static int add_rng(struct machine *m, struct err *e)
{
    struct virtio_env env = { .mem = m->mem, .pool = m->pool };
    int r = room_for_one(m, e);
    if (r < 0)
        return r;
    env.irq = next_irq(m);
    return add(m, virtio_rng_new(&env), e);
}

int vm_build_virtio(struct machine *m, struct err *e)
{
    int r = 0;
    m->pool = pool_new(WORKERS_MAX);
    if (!m->pool)
        return err_set(e, ENOMEM, "cannot start an I/O thread");
    for (unsigned i = 0; i < m->cfg.n_disks && r == 0; i++)
        r = add_disk(m, i, e);
    if (r == 0 && m->cfg.console)
        r = add_console(m, e);
    if (r == 0)
        r = add_rng(m, e);
    return r;
}

void vm_free_virtio(struct machine *m)
{
    pool_free(m->pool);
    for (unsigned i = 0; i < m->cfg.n_disks; i++)
        disk_close(m->disk[i]);
    if (m->console)
        chardev_free(m->console);
}
