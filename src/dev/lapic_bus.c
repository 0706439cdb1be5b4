/* SPDX-License-Identifier: MIT */
/*
 * Routing of IPIs, IOAPIC messages and MSIs to local APICs (SDM Vol. 3A, "Determining IPI Destination",
 * "Interrupt Distribution Mechanisms", "Message Signalled Interrupts").
 *
 * Matching reads only constants and atomics, so that a sender holds no LAPIC lock but the receiver's, one at a time.
 */
#include "dev/lapic_int.h"

#include <stdlib.h>

struct lapic_bus *lapic_bus_new(const struct lapic_bus_cfg *cfg)
{
    struct lapic_bus *b = calloc(1, sizeof(*b));
    if (b)
        b->cfg = *cfg;
    return b;
}

void lapic_bus_free(struct lapic_bus *b)
{
    if (!b)
        return;
    for (unsigned i = 0; i < LAPIC_MAX; i++) {
        struct lapic *l = b->l[i];
        if (!l)
            continue;
        timer_disarm(&l->timer);
        lock_destroy(&l->lock);
        free(l);
    }
    free(b);
}

static bool match_logical(const struct lapic *l, const struct lapic_msg *m)
{
    uint32_t ldr = lapic_ldr(l);
    if (lapic_x2(l)) /* SDM Vol. 3A, "Logical Destination Mode in x2APIC Mode" */
        return ldr >> 16 == m->dest >> 16 && (ldr & m->dest & 0xffff);
    if (m->wide && m->dest > 0xff)
        return false;
    uint32_t id = ldr >> 24;
    if (atomic_load_explicit(&l->dfr, memory_order_relaxed) >> 28 == 0xf) /* flat */
        return id & m->dest;
    return id >> 4 == m->dest >> 4 && (id & m->dest & 0xf);
}

static bool match(const struct lapic *l, const struct lapic_msg *m)
{
    if (!l || !lapic_hw_enabled(l))
        return false;
    if (m->dest == (m->wide ? 0xffffffffU : 0xffU))
        return true;
    return m->logical ? match_logical(l, m) : m->dest == l->cfg.id;
}

/* SDM Vol. 3A, "Lowest Priority Delivery Mode"; equals take turns. */
static struct lapic *arbitrate(struct lapic_bus *b, uint32_t set)
{
    struct lapic *best = NULL;
    uint32_t turn = atomic_fetch_add_explicit(&b->turn, 1, memory_order_relaxed);
    for (unsigned i = 0; i < LAPIC_MAX; i++) {
        struct lapic *l = b->l[(i + turn) % LAPIC_MAX];
        if (!l || !(set >> l->cfg.id & 1) || !lapic_sw_enabled(l))
            continue;
        if (!best || atomic_load_explicit(&l->ppr, memory_order_relaxed) >> 4 <
                         atomic_load_explicit(&best->ppr, memory_order_relaxed) >> 4)
            best = l;
    }
    return best;
}

void lapic_bus_send(struct lapic_bus *b, const struct lapic_msg *m)
{
    if (!m->logical && !m->lowest && m->dest < LAPIC_MAX) {
        struct lapic *l = b->l[m->dest];
        if (l && lapic_hw_enabled(l))
            lapic_take_msg(l, m);
        return;
    }
    uint32_t set = 0;
    for (unsigned i = 0; i < LAPIC_MAX; i++)
        set |= (uint32_t)match(b->l[i], m) << i;
    if (m->lowest) {
        struct lapic *l = arbitrate(b, set);
        if (l)
            lapic_take_msg(l, m);
        return;
    }
    for (; set; set &= set - 1)
        lapic_take_msg(b->l[__builtin_ctz(set)], m);
}

void lapic_bus_send_all(struct lapic_bus *b, const struct lapic_msg *m, const struct lapic *except)
{
    uint32_t set = 0;
    for (unsigned i = 0; i < LAPIC_MAX; i++) {
        if (b->l[i] && b->l[i] != except && lapic_hw_enabled(b->l[i]))
            set |= 1U << i;
    }
    if (m->lowest) {
        struct lapic *l = arbitrate(b, set);
        if (l)
            lapic_take_msg(l, m);
        return;
    }
    for (; set; set &= set - 1)
        lapic_take_msg(b->l[__builtin_ctz(set)], m);
}

void lapic_bus_msi(void *bus, uint64_t addr, uint32_t data)
{
    if (addr >> 20 != APIC_BASE_ADDR >> 20)
        return;
    struct lapic_msg m = {
        .dest = (uint32_t)(addr >> 12) & 0xff,
        .logical = addr >> 2 & 1,
        .mode = (enum lapic_mode)(data >> 8 & 7),
        .vector = (uint8_t)data,
        .level = data >> 15 & 1,
    };
    /* The redirection hint asks for the lowest priority among the destinations; a physical ID names just one. */
    m.lowest = m.mode == MODE_LOWEST || ((addr >> 3 & 1) && m.logical && m.mode == MODE_FIXED);
    if (m.mode == MODE_SIPI) /* reserved in messages */
        return;
    lapic_bus_send(bus, &m);
}

void lapic_bus_lint(void *bus, unsigned pin, bool level)
{
    struct lapic_bus *b = bus;
    for (unsigned i = 0; i < LAPIC_MAX; i++) {
        if (b->l[i] && pin < 2)
            lapic_lint_set(b->l[i], pin, level);
    }
}
