/* SPDX-License-Identifier: MIT */
#include <string.h>

#include "host/net.h"
#include "host/net_dump.h"
#include "virtio/devices.h"
#include "vm/internal.h"
#include "vm/virtio.h"

/* Locally administered, and the same for the same name and number whenever the machine is started (FNV-1a, 64 bits). */
static void default_mac(const char *name, unsigned index, uint8_t mac[6])
{
    uint64_t h = 0xcbf29ce484222325;
    for (const char *p = name ? name : "gazda"; *p; p++)
        h = (h ^ (uint8_t)*p) * 0x100000001b3;
    h = (h ^ 0x100 ^ index) * 0x100000001b3;
    h ^= h >> 32;
    mac[0] = 0x02;
    for (unsigned i = 1; i < 6; i++)
        mac[i] = (uint8_t)(h >> (8 * (i - 1)));
}

static void close_net(void *p)
{
    net_free(p);
}
static void close_dump(void *p)
{
    net_dump_close(p);
}

static int add_net(struct machine *m, unsigned index, struct err *e)
{
    static const uint8_t none[6];
    const struct machine_net *c = &m->cfg.net[index];
    struct virtio_net_cfg cfg = { .mtu = c->mtu, .rx = &c->rx, .tx = &c->tx };
    struct virtio_env env;
    int r = vm_virtio_env(m, &env, e);
    if (r < 0)
        return r;
    if (c->dump) {
        cfg.dump = net_dump_open(c->dump, e);
        r = vm_own_backend(m, cfg.dump, close_dump);
        if (r < 0)
            return r;
    }
    cfg.net = net_open(c->backend, c->options, e);
    r = vm_own_backend(m, cfg.net, close_net);
    if (r < 0)
        return r;
    if (c->mtu)
        cfg.net->mtu = c->mtu;
    memcpy(cfg.mac, c->mac, sizeof(cfg.mac));
    if (memcmp(cfg.mac, none, sizeof(none)) == 0)
        default_mac(m->cfg.name, index, cfg.mac);
    return vm_add_virtio(m, virtio_net_new(&env, &cfg), e);
}

int vm_add_nets(struct machine *m, struct err *e)
{
    int r = 0;
    for (unsigned i = 0; i < m->cfg.n_nets && r == 0; i++)
        r = add_net(m, i, e);
    return r;
}
