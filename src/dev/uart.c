/* SPDX-License-Identifier: MIT */
/*
 * 16550A UART (National Semiconductor PC16550D data sheet, "Universal Asynchronous Receiver/Transmitter with FIFOs").
 *
 * Transmission takes no time: a character leaves when it is written, and stays in the FIFO only while the back end
 * takes none. The receiver is fed no faster than the FIFO has room, so that only loop-back can overrun. `thre` is
 * the latched transmitter interrupt: set when THR becomes empty or when it is enabled while empty, cleared by reading
 * it from IIR or by writing THR.
 *
 * Departures: line speed and format do not matter, breaks are not sent, DMA mode is ignored, and the interrupt does not
 * depend on OUT2 (which gates it on the PC's boards, but guests rely on emulators that ignore it).
 */
#include "dev/uart.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/lock.h"
#include "state/state.h"

enum { R_DATA, R_IER, R_IIR, R_LCR, R_MCR, R_LSR, R_MSR, R_SCR };
enum { IER_RDA = 1, IER_THRE = 2, IER_LSR = 4, IER_MSR = 8 };
enum { IIR_NONE = 1, IIR_MSR = 0, IIR_THRE = 2, IIR_RDA = 4, IIR_LSR = 6, IIR_TIMEOUT = 0xc, IIR_FIFO = 0xc0 };
enum { FCR_ENABLE = 1, FCR_CLEAR_RX = 2, FCR_CLEAR_TX = 4, FCR_KEPT = 0xc9 };
enum { LCR_DLAB = 0x80 };
enum { MCR_DTR = 1, MCR_RTS = 2, MCR_OUT1 = 4, MCR_OUT2 = 8, MCR_LOOP = 0x10 };
enum { LSR_DR = 1, LSR_OE = 2, LSR_BI = 0x10, LSR_ERRORS = 0x1e, LSR_THRE = 0x20, LSR_TEMT = 0x40 };
enum { MSR_TERI = 4, MSR_CTS = 0x10, MSR_DSR = 0x20, MSR_RI = 0x40, MSR_DCD = 0x80 };
enum { FIFO = 16, BASE_BAUD = 115200 };

struct fifo {
    uint8_t b[FIFO], n;
};

struct uart {
    struct lock lock;
    struct irq_line irq;
    struct chardev *ch;
    struct timer timer; /* receiver time-out */
    struct fifo rx, tx;
    uint16_t divisor;
    uint8_t ier, fcr, lcr, mcr, lsr_err, msr, scr; /* lsr_err: the error bits; the others are computed */
    bool thre, timeout;
    bool level;   /* of the interrupt line */
    bool rx_full; /* the back end was told to stop */
};

static unsigned fifo_size(const struct uart *u)
{
    return u->fcr & FCR_ENABLE ? FIFO : 1;
}

static unsigned trigger(const struct uart *u)
{
    static const uint8_t level[] = { 1, 4, 8, 14 };
    return u->fcr & FCR_ENABLE ? level[u->fcr >> 6] : 1;
}

/* PC16550D data sheet, "Interrupt Control Functions" table: by priority. */
static uint8_t cause(const struct uart *u)
{
    if ((u->ier & IER_LSR) && u->lsr_err)
        return IIR_LSR;
    if ((u->ier & IER_RDA) && u->rx.n >= trigger(u))
        return IIR_RDA;
    if ((u->ier & IER_RDA) && u->timeout)
        return IIR_TIMEOUT;
    if ((u->ier & IER_THRE) && u->thre)
        return IIR_THRE;
    if ((u->ier & IER_MSR) && (u->msr & 0xf))
        return IIR_MSR;
    return IIR_NONE;
}

static void update(struct uart *u)
{
    bool level = cause(u) != IIR_NONE;
    if (level != u->level) {
        u->level = level;
        irq_set(&u->irq, level);
    }
}

/* Four character times without the FIFO being touched, while it holds less than the trigger level. */
static void timeout_arm(struct uart *u)
{
    u->timeout = false;
    if (!(u->fcr & FCR_ENABLE) || !u->rx.n || u->rx.n >= trigger(u)) {
        timer_disarm(&u->timer);
        return;
    }
    uint64_t div = u->divisor ? u->divisor : 65536;
    timer_arm(&u->timer, timer_now(u->timer.svc) + 4 * 10 * div * 1000000000UL / BASE_BAUD);
}

static void expired(void *arg)
{
    struct uart *u = arg;
    lock_take(&u->lock);
    if ((u->fcr & FCR_ENABLE) && u->rx.n) {
        u->timeout = true;
        update(u);
    }
    lock_drop(&u->lock);
}

/* ---- receiver ---- */

static void rx_push(struct uart *u, uint8_t byte)
{
    if (u->rx.n < fifo_size(u)) {
        u->rx.b[u->rx.n++] = byte;
        return;
    }
    u->lsr_err |= LSR_OE;
    if (!(u->fcr & FCR_ENABLE))
        u->rx.b[0] = byte; /* without FIFO the new character replaces the old; with it, it is lost */
}

static void rx_room(struct uart *u)
{
    if (u->rx_full && u->ch) {
        u->rx_full = false;
        chardev_rx_ready(u->ch);
    }
}

static uint8_t rx_pop(struct uart *u)
{
    uint8_t byte = u->rx.b[0];
    if (u->rx.n) {
        u->rx.n--;
        memmove(u->rx.b, u->rx.b + 1, u->rx.n);
        rx_room(u);
    }
    timeout_arm(u);
    return byte;
}

static size_t ch_can_rx(void *arg)
{
    struct uart *u = arg;
    lock_take(&u->lock);
    size_t room = u->mcr & MCR_LOOP ? 0 : fifo_size(u) - u->rx.n;
    if (u->rx.n > fifo_size(u))
        room = 0;
    u->rx_full = !room;
    lock_drop(&u->lock);
    return room;
}

static void ch_rx(void *arg, const void *buf, size_t len)
{
    struct uart *u = arg;
    const uint8_t *b = buf;
    lock_take(&u->lock);
    for (size_t i = 0; i < len; i++)
        rx_push(u, b[i]);
    timeout_arm(u);
    update(u);
    lock_drop(&u->lock);
}

/* ---- transmitter ---- */

static void tx_drain(struct uart *u)
{
    if (!u->tx.n)
        return;
    size_t took = u->ch ? chardev_write(u->ch, u->tx.b, u->tx.n) : u->tx.n;
    if (took > u->tx.n)
        took = u->tx.n;
    u->tx.n = (uint8_t)(u->tx.n - took);
    memmove(u->tx.b, u->tx.b + took, u->tx.n);
    if (!u->tx.n)
        u->thre = true;
}

static void ch_tx_ready(void *arg)
{
    struct uart *u = arg;
    lock_take(&u->lock);
    tx_drain(u);
    update(u);
    lock_drop(&u->lock);
}

static void tx_write(struct uart *u, uint8_t byte)
{
    u->thre = false;
    update(u); /* the line falls, however soon the character is gone: the next interrupt is an edge */
    if (u->mcr & MCR_LOOP) {
        rx_push(u, byte);
        timeout_arm(u);
        u->thre = true;
        return;
    }
    if (u->tx.n == fifo_size(u)) /* a guest that did not look at THRE overwrites the last character */
        u->tx.n--;
    u->tx.b[u->tx.n++] = byte;
    tx_drain(u);
}

/* ---- registers ---- */

/* In loop-back the modem inputs are the outputs; otherwise a peer is always there. */
static uint8_t modem_lines(const struct uart *u)
{
    if (!(u->mcr & MCR_LOOP))
        return MSR_CTS | MSR_DSR | MSR_DCD;
    return (uint8_t)((u->mcr & MCR_RTS ? MSR_CTS : 0) | (u->mcr & MCR_DTR ? MSR_DSR : 0) |
                     (u->mcr & MCR_OUT1 ? MSR_RI : 0) | (u->mcr & MCR_OUT2 ? MSR_DCD : 0));
}

static void msr_update(struct uart *u)
{
    uint8_t now = modem_lines(u), changed = (u->msr ^ now) & 0xf0;
    uint8_t delta = (uint8_t)(changed >> 4);
    if ((delta & MSR_TERI) && (now & MSR_RI)) /* RI counts when it ends */
        delta &= (uint8_t)~MSR_TERI;
    u->msr = (uint8_t)((u->msr & 0xf) | delta | now);
}

static void mcr_write(struct uart *u, uint8_t val)
{
    u->mcr = val & 0x1f;
    msr_update(u);
    if (!(u->mcr & MCR_LOOP))
        rx_room(u);
}

static void fcr_write(struct uart *u, uint8_t val)
{
    bool switched = (u->fcr ^ val) & FCR_ENABLE;
    if (!(val & FCR_ENABLE))
        val = 0; /* "bit 0 must be 1 when other FCR bits are written to" */
    u->fcr = val & FCR_KEPT;
    if (switched || (val & FCR_CLEAR_RX)) {
        u->rx.n = 0;
        rx_room(u);
    }
    if ((switched || (val & FCR_CLEAR_TX)) && u->tx.n) {
        u->tx.n = 0;
        u->thre = true;
    }
    timeout_arm(u);
}

static uint8_t reg_read(struct uart *u, unsigned reg)
{
    uint8_t val;
    switch (reg) {
    case R_DATA:
        return u->lcr & LCR_DLAB ? (uint8_t)u->divisor : rx_pop(u);
    case R_IER:
        return u->lcr & LCR_DLAB ? (uint8_t)(u->divisor >> 8) : u->ier;
    case R_IIR:
        val = cause(u);
        if (val == IIR_THRE)
            u->thre = false;
        return val | (u->fcr & FCR_ENABLE ? IIR_FIFO : 0);
    case R_LCR:
        return u->lcr;
    case R_MCR:
        return u->mcr;
    case R_LSR:
        val = (uint8_t)(u->lsr_err | (u->rx.n ? LSR_DR : 0) | (u->tx.n ? 0 : LSR_THRE | LSR_TEMT));
        u->lsr_err = 0;
        return val;
    case R_MSR:
        val = u->msr;
        u->msr &= 0xf0;
        return val;
    default:
        return u->scr;
    }
}

static void reg_write(struct uart *u, unsigned reg, uint8_t val)
{
    switch (reg) {
    case R_DATA:
        if (u->lcr & LCR_DLAB)
            u->divisor = (uint16_t)((u->divisor & 0xff00) | val);
        else
            tx_write(u, val);
        break;
    case R_IER:
        if (u->lcr & LCR_DLAB) {
            u->divisor = (uint16_t)((u->divisor & 0xff) | val << 8);
            break;
        }
        if ((val & ~u->ier & IER_THRE) && !u->tx.n)
            u->thre = true;
        u->ier = val & 0xf;
        break;
    case R_IIR:
        fcr_write(u, val);
        break;
    case R_LCR:
        u->lcr = val;
        break;
    case R_MCR:
        mcr_write(u, val);
        break;
    case R_SCR:
        u->scr = val;
        break;
    default: /* LSR and MSR are read-only outside of factory tests */
        break;
    }
}

static void dev_read(void *dev, uint64_t off, void *buf, unsigned len)
{
    struct uart *u = dev;
    (void)len;
    lock_take(&u->lock);
    *(uint8_t *)buf = reg_read(u, (unsigned)off & 7);
    update(u);
    lock_drop(&u->lock);
}

static void dev_write(void *dev, uint64_t off, const void *buf, unsigned len)
{
    struct uart *u = dev;
    (void)len;
    lock_take(&u->lock);
    reg_write(u, (unsigned)off & 7, *(const uint8_t *)buf);
    update(u);
    lock_drop(&u->lock);
}

/* PC16550D data sheet, "UART Reset Configuration"; the divisor (undefined there) is 9600 baud. */
static void dev_reset(void *dev)
{
    struct uart *u = dev;
    lock_take(&u->lock);
    u->rx.n = u->tx.n = 0;
    u->divisor = 12;
    u->ier = u->fcr = u->lcr = u->mcr = u->lsr_err = u->scr = 0;
    u->thre = u->timeout = false;
    u->msr = modem_lines(u);
    timer_disarm(&u->timer);
    rx_room(u);
    update(u);
    lock_drop(&u->lock);
}

static int dev_save(const void *dev, struct state_out *s)
{
    struct uart *u = (struct uart *)(uintptr_t)dev; /* the lock is not part of the state */
    lock_take(&u->lock);
    const uint8_t b[] = { u->ier,     u->fcr, u->lcr, u->mcr,
                          u->lsr_err, u->msr, u->scr, (uint8_t)(u->thre | u->timeout << 1),
                          u->rx.n,    u->tx.n };
    state_put_bytes(s, b, sizeof(b));
    state_put_u16(s, u->divisor);
    state_put_bytes(s, u->rx.b, FIFO);
    state_put_bytes(s, u->tx.b, FIFO);
    lock_drop(&u->lock);
    return s->oom ? -ENOMEM : 0;
}

static int dev_load(void *dev, struct state_in *s, unsigned version)
{
    struct uart *u = dev;
    uint8_t b[10], rx[FIFO], tx[FIFO];
    if (version != uart_ops.version)
        return -EINVAL;
    state_get_bytes(s, b, sizeof(b));
    uint16_t divisor = state_get_u16(s);
    state_get_bytes(s, rx, FIFO);
    state_get_bytes(s, tx, FIFO);
    unsigned size = b[1] & FCR_ENABLE ? FIFO : 1;
    if (s->bad || b[0] > 0xf || (b[1] & ~FCR_KEPT) || (!(b[1] & FCR_ENABLE) && b[1]) || b[3] > 0x1f ||
        (b[4] & ~LSR_ERRORS) || b[7] > 3 || b[8] > size || b[9] > size)
        return -EINVAL;
    lock_take(&u->lock);
    u->ier = b[0];
    u->fcr = b[1];
    u->lcr = b[2];
    u->mcr = b[3];
    u->lsr_err = b[4];
    u->msr = b[5];
    u->scr = b[6];
    u->rx.n = b[8];
    u->tx.n = b[9];
    u->divisor = divisor;
    memcpy(u->rx.b, rx, FIFO);
    memcpy(u->tx.b, tx, FIFO);
    timeout_arm(u);
    u->thre = b[7] & 1;
    u->timeout = b[7] >> 1;
    tx_drain(u);
    rx_room(u);
    update(u);
    lock_drop(&u->lock);
    return 0;
}

const struct dev_ops uart_ops = {
    .name = "uart",
    .read = dev_read,
    .write = dev_write,
    .reset = dev_reset,
    .save = dev_save,
    .load = dev_load,
    .version = 1,
};

struct uart *uart_new(const struct uart_cfg *cfg)
{
    struct uart *u = calloc(1, sizeof(*u));
    if (!u)
        return NULL;
    lock_init(&u->lock, LOCK_DEVICE);
    timer_init(&u->timer, cfg->timers, expired, u);
    u->irq = cfg->irq;
    u->ch = cfg->ch;
    dev_reset(u);
    if (u->ch) {
        const struct chardev_user user = { .can_rx = ch_can_rx, .rx = ch_rx, .tx_ready = ch_tx_ready, .arg = u };
        chardev_attach(u->ch, &user);
    }
    return u;
}

void uart_free(struct uart *u)
{
    if (!u)
        return;
    if (u->ch)
        chardev_attach(u->ch, NULL);
    timer_disarm(&u->timer);
    lock_destroy(&u->lock);
    free(u);
}
