/* SPDX-License-Identifier: MIT */
/*
 * Two 8259As, cascaded at IR2 (Intel 8259A data sheet), with the edge/level control registers of the PIIX4.
 *
 * IRR holds requests: an edge sets it and it stays until INTA or until the line falls (then INTA finds nothing and
 * gives the spurious vector); for level pins it follows the line. The slave's INT output is the master's IR2. All state
 * is under one lock.
 *
 * Departures: MCS-80/85 mode, buffered mode and SNGL are accepted and ignored (the PC's wiring fixes them).
 */
#include "dev/pic.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/lock.h"
#include "state/state.h"

enum { ICW1 = 0x10, ICW1_IC4 = 0x01, ICW1_SNGL = 0x02, ICW1_LTIM = 0x08 };
enum { ICW4_AEOI = 0x02, ICW4_SFNM = 0x10 };
enum { OCW3 = 0x08, OCW3_RIS = 0x01, OCW3_RR = 0x02, OCW3_POLL = 0x04, OCW3_SMM = 0x20, OCW3_ESMM = 0x40 };
enum { CASCADE = 2 };

struct i8259 {
    uint8_t lines, irr, isr, imr; /* lines: levels of the pins */
    uint8_t elcr, base;           /* base: vector of IR0 */
    uint8_t top;                  /* the IR with the highest priority: lowest + 1 */
    uint8_t init;                 /* next initialisation word expected: 2, 3, 4; 0 = operating */
    bool icw4, aeoi, rotate_aeoi, sfnm, smm, ltim, read_isr, poll;
};

struct pic {
    struct lock lock;
    struct irq_line out;
    bool level; /* of the INT pin */
    struct i8259 c[2];
};

/* Distance of the first set bit from the top priority; 8 if none. */
static unsigned first(const struct i8259 *c, uint8_t set)
{
    if (!set)
        return 8;
    unsigned wide = (set | (unsigned)set << 8) >> c->top;
    return (unsigned)__builtin_ctz(wide);
}

static bool pin_level(const struct i8259 *c, unsigned ir)
{
    return c->ltim || (c->elcr >> ir & 1);
}

/* The IR whose request would be acknowledged now, or -1: 8259A data sheet, "Interrupt Sequence", "Special Mask Mode".
 */
static int request(const struct i8259 *c, bool master)
{
    uint8_t masked_in = c->irr & (uint8_t)~c->imr;
    uint8_t served = c->isr;
    if (c->smm)
        served &= (uint8_t)~c->imr;
    unsigned p = first(c, masked_in);
    if (p == 8)
        return -1;
    unsigned busy = first(c, served);
    unsigned ir = (p + c->top) & 7;
    /* Special fully nested mode: a slave in service does not lock out its own higher requests. */
    if (p < busy || (p == busy && master && c->sfnm && ir == CASCADE))
        return (int)ir;
    return -1;
}

static void line_locked(struct i8259 *c, unsigned ir, bool level)
{
    uint8_t bit = (uint8_t)(1U << ir);
    bool was = c->lines & bit;
    c->lines = level ? c->lines | bit : c->lines & (uint8_t)~bit;
    if (!level)
        c->irr &= (uint8_t)~bit;
    else if (!was || pin_level(c, ir))
        c->irr |= bit;
}

/* Recomputes both INT outputs. */
static void update_locked(struct pic *p)
{
    line_locked(&p->c[0], CASCADE, request(&p->c[1], false) >= 0);
    bool level = request(&p->c[0], true) >= 0;
    if (level != p->level) {
        p->level = level;
        irq_set(&p->out, level);
    }
}

void pic_set(void *pic, unsigned pin, bool level)
{
    struct pic *p = pic;
    if (pin > 15 || pin == CASCADE)
        return;
    lock_take(&p->lock);
    line_locked(&p->c[pin >> 3], pin & 7, level);
    update_locked(p);
    lock_drop(&p->lock);
}

static void eoi(struct i8259 *c, unsigned ir, bool rotate)
{
    c->isr &= (uint8_t) ~(1U << ir);
    if (rotate)
        c->top = (uint8_t)((ir + 1) & 7);
}

/* The INTA cycle at one chip; -1 if nothing is requested. */
static int ack_chip(struct i8259 *c, bool master)
{
    int ir = request(c, master);
    if (ir < 0)
        return -1;
    uint8_t bit = (uint8_t)(1U << ir);
    c->isr |= bit;
    if (!pin_level(c, (unsigned)ir))
        c->irr &= (uint8_t)~bit;
    if (c->aeoi)
        eoi(c, (unsigned)ir, c->rotate_aeoi);
    return ir;
}

/* Requests of the slave reach the master as an edge each, so that the next one after this is seen. */
static int ack_slave(struct pic *p)
{
    int ir = ack_chip(&p->c[1], false);
    line_locked(&p->c[0], CASCADE, false);
    return ir < 0 ? 7 : ir;
}

int pic_ack(void *pic)
{
    struct pic *p = pic;
    lock_take(&p->lock);
    int vector, ir = ack_chip(&p->c[0], true);
    if (ir == CASCADE)
        vector = (p->c[1].base & 0xf8) + ack_slave(p);
    else
        vector = (p->c[0].base & 0xf8) + (ir < 0 ? 7 : ir);
    /* INT falls during INTA; an output that stays up would hide the next request from an edge-triggered input. */
    if (p->level) {
        p->level = false;
        irq_set(&p->out, false);
    }
    update_locked(p);
    lock_drop(&p->lock);
    return vector;
}

/* OCW2: R, SL, EOI in bits 7:5. */
static void ocw2(struct i8259 *c, uint8_t val)
{
    uint8_t served = c->smm ? c->isr & (uint8_t)~c->imr : c->isr;
    unsigned p = first(c, served), ir = (p + c->top) & 7;
    switch (val >> 5) {
    case 0: /* rotate in automatic EOI mode: clear */
    case 4: /* set */
        c->rotate_aeoi = val >> 7;
        break;
    case 1: /* non-specific EOI */
    case 5: /* and rotate */
        if (p < 8)
            eoi(c, ir, val >> 7);
        break;
    case 3: /* specific EOI */
    case 7: /* and rotate */
        eoi(c, val & 7, val >> 7);
        break;
    case 6: /* set priority: the given IR becomes the lowest */
        c->top = (uint8_t)(((val & 7) + 1) & 7);
        break;
    default: /* 2: no operation */
        break;
    }
}

static void icw1(struct i8259 *c, uint8_t val)
{
    c->imr = c->isr = 0;
    /* "The edge sense circuit is reset": a line must fall and rise to be seen; level requests show at once. */
    c->ltim = val & ICW1_LTIM;
    c->irr = c->lines & (c->ltim ? 0xff : c->elcr);
    c->top = 0;
    c->smm = c->aeoi = c->rotate_aeoi = c->sfnm = c->read_isr = c->poll = false;
    c->icw4 = val & ICW1_IC4;
    c->init = 2;
}

static void command_locked(struct i8259 *c, uint8_t val)
{
    if (val & ICW1) {
        icw1(c, val);
    } else if (val & OCW3) {
        c->poll = val & OCW3_POLL;
        if (val & OCW3_RR)
            c->read_isr = val & OCW3_RIS;
        if (val & OCW3_ESMM)
            c->smm = val & OCW3_SMM;
    } else {
        ocw2(c, val);
    }
}

static void data_locked(struct i8259 *c, uint8_t val)
{
    switch (c->init) {
    case 2:
        c->base = val & 0xf8;
        c->init = 3;
        break;
    case 3:
        c->init = c->icw4 ? 4 : 0;
        break;
    case 4:
        c->aeoi = val & ICW4_AEOI;
        c->sfnm = val & ICW4_SFNM;
        c->init = 0;
        break;
    default:
        c->imr = val;
        break;
    }
}

/* Poll: the read is an INTA; bit 7 says whether there was a request. */
static uint8_t poll_read_locked(struct pic *p, unsigned n)
{
    p->c[n].poll = false;
    int ir = ack_chip(&p->c[n], n == 0);
    if (n == 1 || ir == CASCADE)
        line_locked(&p->c[0], CASCADE, false);
    update_locked(p);
    return ir < 0 ? 0 : (uint8_t)(0x80 | ir);
}

static void chip_read(struct pic *p, unsigned n, uint64_t off, uint8_t *val)
{
    struct i8259 *c = &p->c[n];
    lock_take(&p->lock);
    if (c->poll)
        *val = poll_read_locked(p, n);
    else if (off)
        *val = c->imr;
    else
        *val = c->read_isr ? c->isr : c->irr;
    lock_drop(&p->lock);
}

static void chip_write(struct pic *p, unsigned n, uint64_t off, uint8_t val)
{
    lock_take(&p->lock);
    if (off)
        data_locked(&p->c[n], val);
    else
        command_locked(&p->c[n], val);
    update_locked(p);
    lock_drop(&p->lock);
}

static void master_read(void *dev, uint64_t off, void *buf, unsigned len)
{
    (void)len;
    chip_read(dev, 0, off, buf);
}
static void master_write(void *dev, uint64_t off, const void *buf, unsigned len)
{
    (void)len;
    chip_write(dev, 0, off, *(const uint8_t *)buf);
}
static void slave_read(void *dev, uint64_t off, void *buf, unsigned len)
{
    (void)len;
    chip_read(dev, 1, off, buf);
}
static void slave_write(void *dev, uint64_t off, const void *buf, unsigned len)
{
    (void)len;
    chip_write(dev, 1, off, *(const uint8_t *)buf);
}

/* IRQ 0, 1, 2, 8 and 13 are always edge-triggered: PIIX4 data sheet, "ELCR1", "ELCR2". */
static uint8_t elcr_bits(unsigned n)
{
    return n ? 0xde : 0xf8;
}

static void elcr_read(void *dev, uint64_t off, void *buf, unsigned len)
{
    struct pic *p = dev;
    (void)len;
    lock_take(&p->lock);
    *(uint8_t *)buf = p->c[off & 1].elcr;
    lock_drop(&p->lock);
}

static void elcr_write(void *dev, uint64_t off, const void *buf, unsigned len)
{
    struct pic *p = dev;
    struct i8259 *c = &p->c[off & 1];
    (void)len;
    lock_take(&p->lock);
    uint8_t val = *(const uint8_t *)buf & elcr_bits(off & 1);
    /* A pin that becomes level-triggered follows its line from now on; the other way the latched request stays. */
    uint8_t new_level = val & (uint8_t)~c->elcr;
    c->elcr = val;
    c->irr = (c->irr & (uint8_t)~new_level) | (c->lines & new_level);
    update_locked(p);
    lock_drop(&p->lock);
}

/*
 * The levels of the lines belong to the devices and stay. The data sheet leaves the rest open before ICW1; this is what
 * PC firmware leaves: vectors 08h and 70h, everything masked, so that a guest that only knows the IOAPIC sees no PIC.
 */
static void dev_reset(void *dev)
{
    struct pic *p = dev;
    lock_take(&p->lock);
    for (unsigned n = 0; n < 2; n++) {
        uint8_t lines = p->c[n].lines;
        p->c[n] = (struct i8259){ .lines = lines, .base = n ? 0x70 : 0x08, .imr = 0xff };
    }
    p->c[0].lines &= (uint8_t) ~(1U << CASCADE);
    update_locked(p);
    lock_drop(&p->lock);
}

static int dev_save(const void *dev, struct state_out *s)
{
    struct pic *p = (struct pic *)(uintptr_t)dev; /* the lock is not part of the state */
    lock_take(&p->lock);
    for (unsigned n = 0; n < 2; n++) {
        const struct i8259 *c = &p->c[n];
        const uint8_t b[] = { c->lines, c->irr, c->isr, c->imr, c->elcr, c->base, c->top, c->init };
        state_put_bytes(s, b, sizeof(b));
        state_put_u8(s, (uint8_t)(c->icw4 | c->aeoi << 1 | c->rotate_aeoi << 2 | c->sfnm << 3 | c->smm << 4 |
                                  c->ltim << 5 | c->read_isr << 6 | c->poll << 7));
    }
    lock_drop(&p->lock);
    return s->oom ? -ENOMEM : 0;
}

static bool get_chip(struct state_in *s, unsigned n, struct i8259 *c)
{
    uint8_t b[9];
    state_get_bytes(s, b, sizeof(b));
    *c = (struct i8259){
        .lines = b[0],
        .irr = b[1],
        .isr = b[2],
        .imr = b[3],
        .elcr = b[4],
        .base = b[5],
        .top = b[6],
        .init = b[7],
        .icw4 = b[8] & 1,
        .aeoi = b[8] >> 1 & 1,
        .rotate_aeoi = b[8] >> 2 & 1,
        .sfnm = b[8] >> 3 & 1,
        .smm = b[8] >> 4 & 1,
        .ltim = b[8] >> 5 & 1,
        .read_isr = b[8] >> 6 & 1,
        .poll = b[8] >> 7 & 1,
    };
    bool init_ok = c->init == 0 || (c->init >= 2 && c->init <= 4);
    return init_ok && c->top < 8 && !(c->base & 7) && !(c->elcr & ~elcr_bits(n)) && !(c->irr & ~c->lines);
}

static int dev_load(void *dev, struct state_in *s, unsigned version)
{
    struct pic *p = dev;
    struct i8259 c[2];
    if (version != pic_master_ops.version)
        return -EINVAL;
    bool ok = get_chip(s, 0, &c[0]);
    ok &= get_chip(s, 1, &c[1]);
    if (s->bad || !ok)
        return -EINVAL;
    lock_take(&p->lock);
    memcpy(p->c, c, sizeof(c));
    update_locked(p);
    lock_drop(&p->lock);
    return 0;
}

const struct dev_ops pic_master_ops = {
    .name = "pic",
    .read = master_read,
    .write = master_write,
    .reset = dev_reset,
    .save = dev_save,
    .load = dev_load,
    .version = 1,
};
const struct dev_ops pic_slave_ops = { .name = "pic-slave", .read = slave_read, .write = slave_write };
const struct dev_ops pic_elcr_ops = { .name = "elcr", .read = elcr_read, .write = elcr_write };

struct pic *pic_new(const struct irq_line *out)
{
    struct pic *p = calloc(1, sizeof(*p));
    if (!p)
        return NULL;
    lock_init(&p->lock, LOCK_IRQCHIP);
    p->out = *out;
    dev_reset(p);
    return p;
}

void pic_free(struct pic *p)
{
    if (!p)
        return;
    lock_destroy(&p->lock);
    free(p);
}
