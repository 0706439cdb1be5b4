/* SPDX-License-Identifier: MIT */
/* The machine's virtio-mmio devices: their list, addresses and interrupts. */
#include "vm/virtio.h"

#include <errno.h>

#include "host/pool.h"
#include "virtio/transport_mmio.h"
#include "vm/internal.h"

enum { MMIO_BASE = 0xC0001000, WORKERS_MAX = 8 };

/* Firecracker's 5..23, those first that no legacy device uses; 8, 9 and 12 (RTC, SCI, mouse) never. */
static const uint8_t gsis[] = { 5, 6, 7, 10, 11, 16, 17, 18, 19, 20, 21, 22, 23, 15, 14, 13, 3 };

_Static_assert(sizeof(gsis) <= VIRTIO_MAX, "room for every device");

/* In the order of their addresses. To add a kind: its file, and a line here. */
static int (*const kinds[])(struct machine *m, struct err *e) = {
    vm_add_disks, vm_add_nets, vm_add_console, vm_add_rng, vm_add_vsock, vm_add_shares, vm_add_balloon,
};

int vm_virtio_env(struct machine *m, struct virtio_env *env, struct err *e)
{
    if (m->n_virtio >= sizeof(gsis) || m->n_dev >= DEVICES_MAX)
        return err_set(e, ENOSPC, "more than %zu virtio devices (disks, network, consoles, random source ...)",
                       sizeof(gsis));
    *env = (struct virtio_env){ .mem = m->mem,
                                .pool = m->pool,
                                .timers = loop_timers(m->loop),
                                .irq = irq_router_line(&m->router, gsis[m->n_virtio]) };
    return 0;
}

int vm_add_virtio(struct machine *m, struct virtio_dev *v, struct err *e)
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

int vm_own_backend(struct machine *m, void *p, void (*free_fn)(void *p))
{
    if (!p)
        return -EIO;
    if (m->n_backends == BACKENDS_MAX) {
        free_fn(p);
        return -ENOSPC;
    }
    m->backend[m->n_backends++] = (struct machine_backend){ .p = p, .free = free_fn };
    return 0;
}

int vm_build_virtio(struct machine *m, struct err *e)
{
    int r = 0;
    m->pool = pool_new(WORKERS_MAX);
    if (!m->pool)
        return err_set(e, ENOMEM, "cannot start an I/O thread");
    for (unsigned i = 0; i < ARRAY_LEN(kinds) && r == 0; i++)
        r = kinds[i](m, e);
    return r;
}

void vm_free_virtio(struct machine *m)
{
    pool_free(m->pool);
    while (m->n_backends) {
        const struct machine_backend *b = &m->backend[--m->n_backends];
        b->free(b->p);
    }
}
