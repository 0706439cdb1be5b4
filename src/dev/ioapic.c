/* SPDX-License-Identifier: MIT */
/*
 * I/O APIC (Intel 82093AA data sheet). Version 20h: with the EOI register of later parts (ICH9 data sheet, "EOI - EOI
 * Register").
 *
 * A level pin sends one message, sets remote IRR and stays silent until the EOI of its vector; if the line is still
 * high then, it sends again. An edge that comes while the pin is masked is lost, as in the 82093AA. Messages that no
 * LAPIC accepts are not retried.
 */
#include "dev/ioapic.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/lock.h"
#include "state/state.h"

enum { REG_SELECT = 0x00, REG_WINDOW = 0x10, REG_EOI = 0x40 };
enum { IDX_ID, IDX_VERSION, IDX_ARBITRATION, IDX_TABLE = 0x10 };
enum { VERSION = 0x20 };

#define RTE_VECTOR 0xffUL
#define RTE_MODE_SHIFT 8
#define RTE_LOGICAL (1UL << 11)
#define RTE_REMOTE_IRR (1UL << 14)
#define RTE_LEVEL (1UL << 15)
#define RTE_MASKED (1UL << 16)
#define RTE_DEST_SHIFT 56
#define RTE_BITS (0xff0000000001afffUL)

struct ioapic {
    struct lock lock;
    struct irq_msi_sink sink;
    uint8_t reset_id;
    uint8_t select, id;
    uint32_t lines; /* levels of the pins */
    uint64_t rte[IOAPIC_PINS];
};

/* Modes that are edge-triggered whatever the entry says: 82093AA data sheet, "I/O Redirection Table", DELMOD. */
static bool level_mode(uint64_t rte)
{
    unsigned mode = rte >> RTE_MODE_SHIFT & 7;
    return (rte & RTE_LEVEL) && mode <= 1;
}

static void send_locked(struct ioapic *io, unsigned pin)
{
    uint64_t rte = io->rte[pin];
    bool level = level_mode(rte);
    uint64_t addr = 0xfee00000UL | (rte >> RTE_DEST_SHIFT) << 12 | (rte & RTE_LOGICAL ? 4 : 0);
    uint32_t data = (uint32_t)(rte & 0x7ff) | (level ? 1U << 15 | 1U << 14 : 0);
    if (level)
        io->rte[pin] |= RTE_REMOTE_IRR;
    io->sink.send(io->sink.arg, addr, data);
}

/* A level pin whose line is high asks for service unless it is masked or being served. */
static void level_locked(struct ioapic *io, unsigned pin)
{
    uint64_t rte = io->rte[pin];
    if (level_mode(rte) && (io->lines >> pin & 1) && !(rte & (RTE_MASKED | RTE_REMOTE_IRR)))
        send_locked(io, pin);
}

void ioapic_set(void *ioapic, unsigned pin, bool level)
{
    struct ioapic *io = ioapic;
    if (pin >= IOAPIC_PINS)
        return;
    lock_take(&io->lock);
    bool was = io->lines >> pin & 1;
    if (level)
        io->lines |= 1U << pin;
    else
        io->lines &= ~(1U << pin);
    if (level_mode(io->rte[pin]))
        level_locked(io, pin);
    else if (level && !was && !(io->rte[pin] & RTE_MASKED))
        send_locked(io, pin);
    lock_drop(&io->lock);
}

static void eoi_locked(struct ioapic *io, uint8_t vector)
{
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
        if ((io->rte[pin] & RTE_VECTOR) != vector || !(io->rte[pin] & RTE_REMOTE_IRR))
            continue;
        io->rte[pin] &= ~RTE_REMOTE_IRR;
        level_locked(io, pin);
    }
}

void ioapic_eoi(void *ioapic, uint8_t vector)
{
    struct ioapic *io = ioapic;
    lock_take(&io->lock);
    eoi_locked(io, vector);
    lock_drop(&io->lock);
}

static uint32_t window_read_locked(const struct ioapic *io)
{
    switch (io->select) {
    case IDX_ID:
    case IDX_ARBITRATION:
        return (uint32_t)io->id << 24;
    case IDX_VERSION:
        return VERSION | (IOAPIC_PINS - 1) << 16;
    case IDX_TABLE ... IDX_TABLE + 2 * IOAPIC_PINS - 1: {
        unsigned n = io->select - IDX_TABLE;
        return (uint32_t)(io->rte[n >> 1] >> (n & 1 ? 32 : 0));
    }
    default:
        return 0;
    }
}

static void rte_write_locked(struct ioapic *io, unsigned n, uint32_t val)
{
    unsigned pin = n >> 1;
    uint64_t old = io->rte[pin];
    uint64_t rte = n & 1 ? (old & 0xffffffffUL) | (uint64_t)val << 32 : (old & ~0xffffffffUL) | val;
    rte = (rte & RTE_BITS) | (old & RTE_REMOTE_IRR);
    /* Writing the entry as edge forgets the service under way: how guests without an EOI register reset a pin. */
    if (!level_mode(rte))
        rte &= ~RTE_REMOTE_IRR;
    io->rte[pin] = rte;
    level_locked(io, pin);
}

static void window_write_locked(struct ioapic *io, uint32_t val)
{
    if (io->select == IDX_ID)
        io->id = val >> 24 & 0xf;
    else if (io->select >= IDX_TABLE && io->select < IDX_TABLE + 2 * IOAPIC_PINS)
        rte_write_locked(io, io->select - IDX_TABLE, val);
}

static void dev_read(void *dev, uint64_t off, void *buf, unsigned len)
{
    struct ioapic *io = dev;
    uint32_t val = 0;
    lock_take(&io->lock);
    if (off == REG_SELECT)
        val = io->select;
    else if (off == REG_WINDOW)
        val = window_read_locked(io);
    lock_drop(&io->lock);
    memcpy(buf, &val, len);
}

static void dev_write(void *dev, uint64_t off, const void *buf, unsigned len)
{
    struct ioapic *io = dev;
    uint32_t val = 0;
    memcpy(&val, buf, len);
    lock_take(&io->lock);
    if (off == REG_SELECT)
        io->select = (uint8_t)val;
    else if (off == REG_WINDOW)
        window_write_locked(io, val);
    else if (off == REG_EOI)
        eoi_locked(io, (uint8_t)val);
    lock_drop(&io->lock);
}

/* The levels of the pins belong to the devices and stay. */
static void dev_reset(void *dev)
{
    struct ioapic *io = dev;
    lock_take(&io->lock);
    io->select = 0;
    io->id = io->reset_id;
    for (unsigned i = 0; i < IOAPIC_PINS; i++)
        io->rte[i] = RTE_MASKED;
    lock_drop(&io->lock);
}

static int dev_save(const void *dev, struct state_out *s)
{
    struct ioapic *io = (struct ioapic *)(uintptr_t)dev; /* the lock is not part of the state */
    lock_take(&io->lock);
    state_put_u8(s, io->select);
    state_put_u8(s, io->id);
    state_put_u32(s, io->lines);
    for (unsigned i = 0; i < IOAPIC_PINS; i++)
        state_put_u64(s, io->rte[i]);
    lock_drop(&io->lock);
    return s->oom ? -ENOMEM : 0;
}

static int dev_load(void *dev, struct state_in *s, unsigned version)
{
    struct ioapic *io = dev;
    uint64_t rte[IOAPIC_PINS];
    if (version != ioapic_ops.version)
        return -EINVAL;
    uint8_t select = state_get_u8(s), id = state_get_u8(s);
    uint32_t lines = state_get_u32(s);
    bool ok = id < 16 && !(lines >> IOAPIC_PINS);
    for (unsigned i = 0; i < IOAPIC_PINS; i++) {
        rte[i] = state_get_u64(s);
        ok = ok && !(rte[i] & ~(RTE_BITS | RTE_REMOTE_IRR)) && (!(rte[i] & RTE_REMOTE_IRR) || level_mode(rte[i]));
    }
    if (s->bad || !ok)
        return -EINVAL;
    lock_take(&io->lock);
    io->select = select;
    io->id = id;
    io->lines = lines;
    memcpy(io->rte, rte, sizeof(rte));
    lock_drop(&io->lock);
    return 0;
}

const struct dev_ops ioapic_ops = {
    .name = "ioapic",
    .read = dev_read,
    .write = dev_write,
    .reset = dev_reset,
    .save = dev_save,
    .load = dev_load,
    .version = 1,
};

struct ioapic *ioapic_new(const struct irq_msi_sink *sink, uint8_t id)
{
    struct ioapic *io = calloc(1, sizeof(*io));
    if (!io)
        return NULL;
    lock_init(&io->lock, LOCK_IRQCHIP);
    io->sink = *sink;
    io->reset_id = id & 0xf;
    dev_reset(io);
    return io;
}

void ioapic_free(struct ioapic *io)
{
    if (!io)
        return;
    lock_destroy(&io->lock);
    free(io);
}
