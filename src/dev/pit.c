/* SPDX-License-Identifier: MIT */
/*
 * Intel 8254 (data sheet: "8254 Programmable Interval Timer") and port 61h.
 *
 * Counters are not ticked: count and OUT follow from the time since the count was loaded. Only channel 0 arms a host
 * timer, for its next rising edge of OUT; the edge is delivered as a fall and a rise, so that OUT is high between.
 * The gates of channels 0 and 1 are high for ever; that of channel 2 is bit 0 of port 61h.
 *
 * Departure: a count takes effect at once, not one CLK pulse after it was written.
 */
#include "dev/pit.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/lock.h"
#include "state/state.h"

enum { RW_LATCH, RW_LOW, RW_HIGH, RW_BOTH };

#define NS 1000000000U
#define REFRESH_NS 15085U /* half a period of the refresh clock on bit 4 of port 61h */
#define MIN_PERIOD_NS 20000U

struct channel {
    uint8_t mode, rw;
    bool bcd, gate;
    bool loaded;                /* the counting element holds a count */
    bool triggered;             /* modes 1 and 5: a gate edge came */
    bool paused;                /* modes 0 and 4 with the gate low, or between two bytes of mode 0 */
    bool fresh;                 /* a new count waits for the end of the period or for a trigger (NULL COUNT) */
    bool write_high, read_high; /* the next byte of a RW_BOTH access is the high one */
    uint8_t low;                /* first byte written */
    bool status_latched;
    uint8_t status, latches; /* latches: bytes left of the latched count */
    uint16_t latch;
    uint16_t next;      /* the new count as written */
    uint32_t n;         /* count in force, 1..65536 (or what bad BCD makes of it) */
    uint64_t start;     /* ns when the count was loaded */
    uint64_t paused_at; /* CLK pulses counted when it was paused */
};

struct pit {
    struct lock lock;
    struct irq_line irq;
    struct timer timer;
    uint64_t edge;  /* channel 0: CLK pulses after start of the next rising edge; 0 = none */
    uint8_t port61; /* bits 3:0 as written */
    struct channel c[3];
};

static uint64_t to_clk(uint64_t ns)
{
    return (uint64_t)((unsigned __int128)ns * PIT_HZ / NS);
}

static uint64_t to_ns(uint64_t clk)
{
    return (uint64_t)(((unsigned __int128)clk * NS + PIT_HZ - 1) / PIT_HZ);
}

static uint32_t count_of(const struct channel *c, uint16_t raw)
{
    if (!c->bcd)
        return raw ? raw : 65536;
    uint32_t v = (raw & 15U) + (raw >> 4 & 15U) * 10 + (raw >> 8 & 15U) * 100 + (raw >> 12) * 1000U;
    return v ? v : 10000;
}

static bool periodic(const struct channel *c)
{
    return c->mode == 2 || c->mode == 3;
}

static uint64_t elapsed(const struct channel *c, uint64_t now)
{
    return c->paused ? c->paused_at : to_clk(now - c->start);
}

/* Takes a new count into force if a period has ended since it was written. */
static void advance(struct channel *c, uint64_t now)
{
    if (!c->fresh || !periodic(c) || !c->loaded || !c->gate)
        return;
    /* start is moved up to the period of the write when the count is written, so one period decides. */
    if (elapsed(c, now) < c->n)
        return;
    c->start += to_ns(c->n);
    c->n = count_of(c, c->next);
    c->fresh = false;
}

static bool out(const struct channel *c, uint64_t now)
{
    uint64_t t = elapsed(c, now);
    switch (c->mode) {
    case 0:
        return c->loaded && t >= c->n;
    case 1:
        return !c->triggered || t >= c->n;
    case 2:
        return !c->gate || !c->loaded || t % c->n != c->n - 1;
    case 3:
        return !c->gate || !c->loaded || t % c->n < (c->n + 1) / 2;
    default:
        return !(c->mode == 4 ? c->loaded : c->triggered) || t != c->n;
    }
}

static uint16_t count(const struct channel *c, uint64_t now)
{
    uint64_t t = elapsed(c, now), v, wrap = c->bcd ? 10000 : 65536;
    if (!c->loaded && !c->triggered)
        v = c->n;
    else if (c->mode == 2)
        v = c->n - t % c->n;
    else if (c->mode == 3)
        v = c->n - t * 2 % c->n;
    else
        v = (c->n % wrap + wrap - t % wrap) % wrap;
    v %= wrap;
    if (c->bcd)
        v = v % 10 | v / 10 % 10 << 4 | v / 100 % 10 << 8 | v / 1000 << 12;
    return (uint16_t)v;
}

/* Finds channel 0's next rising edge after now and arms the timer for it. */
static void arm_locked(struct pit *p, uint64_t now)
{
    struct channel *c = &p->c[0];
    p->edge = 0;
    if (c->loaded && !c->paused) {
        uint64_t t = elapsed(c, now);
        if (periodic(c))
            p->edge = (t / c->n + 1) * c->n;
        else if (c->mode == 0 && t < c->n)
            p->edge = c->n;
        else if (c->mode == 4 && t <= c->n)
            p->edge = c->n + 1;
    }
    if (!p->edge) {
        timer_disarm(&p->timer);
        return;
    }
    uint64_t at = c->start + to_ns(p->edge);
    if (periodic(c) && to_ns(c->n) < MIN_PERIOD_NS && at < now + MIN_PERIOD_NS)
        at = now + MIN_PERIOD_NS;
    timer_arm(&p->timer, at);
}

static void expired(void *arg)
{
    struct pit *p = arg;
    struct channel *c = &p->c[0];
    lock_take(&p->lock);
    uint64_t now = timer_now(p->timer.svc);
    if (p->edge) {
        if (elapsed(c, now) >= p->edge) {
            irq_set(&p->irq, false);
            irq_set(&p->irq, true);
            advance(c, now);
        }
        arm_locked(p, now);
    }
    lock_drop(&p->lock);
}

/* After anything changed on channel 0: its line and its timer. */
static void sync_locked(struct pit *p, unsigned n, uint64_t now)
{
    if (n != 0)
        return;
    irq_set(&p->irq, periodic(&p->c[0]) || out(&p->c[0], now));
    arm_locked(p, now);
}

static void load(struct channel *c, uint64_t now)
{
    c->n = count_of(c, c->next);
    c->start = now;
    c->fresh = false;
    c->loaded = true;
    c->paused = (c->mode == 0 || c->mode == 4) && !c->gate;
    c->paused_at = 0;
}

static void count_written(struct channel *c, uint16_t raw, uint64_t now)
{
    advance(c, now);
    c->next = raw;
    if (c->mode == 1 || c->mode == 5) {
        c->fresh = true; /* loaded by the next trigger */
    } else if (periodic(c) && c->loaded) {
        uint64_t whole = c->gate ? elapsed(c, now) / c->n : 0;
        c->start += to_ns(whole * c->n);
        c->fresh = true;
    } else if (periodic(c) && !c->gate) {
        c->n = count_of(c, raw);
        c->fresh = true;
    } else {
        load(c, now);
    }
}

static void counter_write(struct channel *c, uint8_t val, uint64_t now)
{
    switch (c->rw) {
    case RW_LOW:
        count_written(c, val, now);
        break;
    case RW_HIGH:
        count_written(c, (uint16_t)(val << 8), now);
        break;
    case RW_BOTH:
        if (c->write_high) {
            c->write_high = false;
            count_written(c, (uint16_t)(c->low | val << 8), now);
        } else {
            c->write_high = true;
            c->low = val;
            if (c->mode == 0) { /* "writing the first byte disables counting; OUT is set low immediately" */
                c->paused_at = 0;
                c->paused = true;
                c->loaded = false;
            }
        }
        break;
    default:
        break;
    }
}

static void latch_count(struct channel *c, uint64_t now)
{
    if (c->latches)
        return; /* a second latch command before the count is read is ignored */
    advance(c, now);
    c->latch = count(c, now);
    c->latches = c->rw == RW_BOTH ? 2 : 1;
}

static void latch_status(struct channel *c, uint64_t now)
{
    if (c->status_latched)
        return;
    advance(c, now);
    c->status = (uint8_t)(out(c, now) << 7 | (c->fresh || (!c->loaded && !c->triggered)) << 6 | c->rw << 4 |
                          c->mode << 1 | c->bcd);
    c->status_latched = true;
}

static uint8_t counter_read(struct channel *c, uint64_t now)
{
    if (c->status_latched) {
        c->status_latched = false;
        return c->status;
    }
    if (c->latches) {
        bool high = c->rw == RW_HIGH || (c->rw == RW_BOTH && c->latches == 1);
        c->latches--;
        return (uint8_t)(c->latch >> (high ? 8 : 0));
    }
    advance(c, now);
    bool high = c->rw == RW_HIGH || (c->rw == RW_BOTH && c->read_high);
    if (c->rw == RW_BOTH)
        c->read_high = !c->read_high;
    return (uint8_t)(count(c, now) >> (high ? 8 : 0));
}

static void control(struct pit *p, uint8_t val, uint64_t now)
{
    unsigned n = val >> 6;
    if (n == 3) { /* read-back: bits 5 and 4 are active low */
        for (n = 0; n < 3; n++) {
            if (!(val >> (n + 1) & 1))
                continue;
            if (!(val & 0x20))
                latch_count(&p->c[n], now);
            if (!(val & 0x10))
                latch_status(&p->c[n], now);
        }
        return;
    }
    struct channel *c = &p->c[n];
    unsigned rw = val >> 4 & 3, mode = val >> 1 & 7;
    if (rw == RW_LATCH) {
        latch_count(c, now);
        return;
    }
    bool gate = c->gate;
    *c = (struct channel){ .rw = (uint8_t)rw,
                           .mode = (uint8_t)(mode > 5 ? mode - 4 : mode), /* modes 2 and 3 ignore bit 3 */
                           .bcd = val & 1,
                           .gate = gate,
                           .n = c->n };
    sync_locked(p, n, now);
}

/* 8254 data sheet, "Gate Pin Operations Summary". */
static void gate_set(struct channel *c, bool gate, uint64_t now)
{
    if (c->gate == gate)
        return;
    advance(c, now);
    if (c->mode == 0 || c->mode == 4) {
        if (!gate) {
            c->paused_at = elapsed(c, now);
            c->paused = true;
        } else if (c->paused && c->loaded) {
            c->paused = false;
            c->start = now - to_ns(c->paused_at);
        }
    } else if (gate) {
        if (c->mode == 1 || c->mode == 5) {
            if (c->fresh || c->triggered) {
                if (c->fresh)
                    c->n = count_of(c, c->next);
                c->start = now;
                c->fresh = false;
                c->triggered = true;
            }
        } else if (c->loaded || c->fresh) {
            if (c->fresh)
                c->n = count_of(c, c->next);
            c->start = now;
            c->fresh = false;
            c->loaded = true;
        }
    }
    c->gate = gate;
}

static void pit_read(void *dev, uint64_t off, void *buf, unsigned len)
{
    struct pit *p = dev;
    (void)len;
    lock_take(&p->lock);
    *(uint8_t *)buf = off < 3 ? counter_read(&p->c[off], timer_now(p->timer.svc)) : 0xff;
    lock_drop(&p->lock);
}

static void pit_write(void *dev, uint64_t off, const void *buf, unsigned len)
{
    struct pit *p = dev;
    uint8_t val = *(const uint8_t *)buf;
    (void)len;
    lock_take(&p->lock);
    uint64_t now = timer_now(p->timer.svc);
    if (off == 3) {
        control(p, val, now);
    } else if (off < 3) {
        counter_write(&p->c[off], val, now);
        sync_locked(p, (unsigned)off, now);
    }
    lock_drop(&p->lock);
}

static void port61_read(void *dev, uint64_t off, void *buf, unsigned len)
{
    struct pit *p = dev;
    (void)off;
    (void)len;
    lock_take(&p->lock);
    uint64_t now = timer_now(p->timer.svc);
    advance(&p->c[2], now);
    unsigned refresh = now / REFRESH_NS & 1, out2 = out(&p->c[2], now);
    *(uint8_t *)buf = (uint8_t)(p->port61 | refresh << 4 | out2 << 5);
    lock_drop(&p->lock);
}

static void port61_write(void *dev, uint64_t off, const void *buf, unsigned len)
{
    struct pit *p = dev;
    (void)off;
    (void)len;
    lock_take(&p->lock);
    p->port61 = *(const uint8_t *)buf & 0xf;
    gate_set(&p->c[2], p->port61 & 1, timer_now(p->timer.svc));
    lock_drop(&p->lock);
}

/* The 8254's power-on state is undefined; this is what PC firmware leaves: channel 0 ticks 18.2 times a second. */
static void dev_reset(void *dev)
{
    struct pit *p = dev;
    lock_take(&p->lock);
    for (unsigned i = 0; i < 3; i++)
        p->c[i] = (struct channel){ .mode = i ? 3 : 2, .rw = RW_BOTH, .gate = i != 2, .n = 65536 };
    p->port61 = 0;
    load(&p->c[0], timer_now(p->timer.svc));
    irq_set(&p->irq, true); /* OUT is high but for one pulse */
    arm_locked(p, timer_now(p->timer.svc));
    lock_drop(&p->lock);
}

static int dev_save(const void *dev, struct state_out *s)
{
    struct pit *p = (struct pit *)(uintptr_t)dev; /* the lock is not part of the state */
    lock_take(&p->lock);
    uint64_t now = timer_now(p->timer.svc);
    state_put_u8(s, p->port61);
    for (unsigned i = 0; i < 3; i++) {
        const struct channel *c = &p->c[i];
        state_put_u8(s, c->mode);
        state_put_u8(s, c->rw);
        state_put_u16(s, (uint16_t)(c->bcd | c->gate << 1 | c->loaded << 2 | c->triggered << 3 | c->paused << 4 |
                                    c->fresh << 5 | c->write_high << 6 | c->read_high << 7 | c->status_latched << 8));
        state_put_u8(s, c->low);
        state_put_u8(s, c->status);
        state_put_u8(s, c->latches);
        state_put_u16(s, c->latch);
        state_put_u16(s, c->next);
        state_put_u32(s, c->n);
        state_put_u64(s, now - c->start);
        state_put_u64(s, c->paused_at);
    }
    lock_drop(&p->lock);
    return s->oom ? -ENOMEM : 0;
}

static bool get_channel(struct state_in *s, uint64_t now, struct channel *c)
{
    c->mode = state_get_u8(s);
    c->rw = state_get_u8(s);
    uint16_t f = state_get_u16(s);
    c->bcd = f & 1;
    c->gate = f >> 1 & 1;
    c->loaded = f >> 2 & 1;
    c->triggered = f >> 3 & 1;
    c->paused = f >> 4 & 1;
    c->fresh = f >> 5 & 1;
    c->write_high = f >> 6 & 1;
    c->read_high = f >> 7 & 1;
    c->status_latched = f >> 8 & 1;
    c->low = state_get_u8(s);
    c->status = state_get_u8(s);
    c->latches = state_get_u8(s);
    c->latch = state_get_u16(s);
    c->next = state_get_u16(s);
    c->n = state_get_u32(s);
    uint64_t age = state_get_u64(s);
    c->start = now - age;
    c->paused_at = state_get_u64(s);
    return c->mode <= 5 && c->rw >= RW_LOW && c->rw <= RW_BOTH && !(f >> 9) && c->latches <= 2 && c->n >= 1 &&
           c->n <= 65536 && age >> 63 == 0 && c->paused_at >> 62 == 0;
}

static int dev_load(void *dev, struct state_in *s, unsigned version)
{
    struct pit *p = dev;
    struct channel c[3];
    if (version != pit_ops.version)
        return -EINVAL;
    uint64_t now = timer_now(p->timer.svc);
    uint8_t port61 = state_get_u8(s);
    bool ok = port61 < 16;
    for (unsigned i = 0; i < 3; i++)
        ok &= get_channel(s, now, &c[i]);
    if (s->bad || !ok || !c[0].gate || !c[1].gate || c[2].gate != (port61 & 1))
        return -EINVAL;
    lock_take(&p->lock);
    memcpy(p->c, c, sizeof(c));
    p->port61 = port61;
    arm_locked(p, now);
    lock_drop(&p->lock);
    return 0;
}

const struct dev_ops pit_ops = {
    .name = "pit",
    .read = pit_read,
    .write = pit_write,
    .reset = dev_reset,
    .save = dev_save,
    .load = dev_load,
    .version = 1,
};
const struct dev_ops pit_port61_ops = { .name = "port61", .read = port61_read, .write = port61_write };

struct pit *pit_new(struct timer_svc *timers, const struct irq_line *irq)
{
    struct pit *p = calloc(1, sizeof(*p));
    if (!p)
        return NULL;
    lock_init(&p->lock, LOCK_DEVICE);
    timer_init(&p->timer, timers, expired, p);
    p->irq = *irq;
    dev_reset(p);
    return p;
}

void pit_free(struct pit *p)
{
    if (!p)
        return;
    timer_disarm(&p->timer);
    lock_destroy(&p->lock);
    free(p);
}
