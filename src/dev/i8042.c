/* SPDX-License-Identifier: MIT */
/*
 * PS/2 keyboard controller, port 92h included (IBM PS/2 Hardware Interface Technical Reference, "Keyboard and Auxiliary
 * Device Controller").
 *
 * The output buffer holds one byte; behind it wait the controller's replies and one queue a device (i8042_kbd.c,
 * i8042_mouse.c). A reply goes first, then the keyboard, then the mouse, unless its interface is disabled. IRQ 1 and 12
 * are the buffer-full flags gated by the command byte, so that each byte is an edge.
 *
 * Departures: the controller's RAM beyond the command byte reads as written but does nothing; parity and time-out
 * errors do not occur; the keyboard lock is open.
 */
#include "dev/i8042_int.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/lock.h"
#include "state/state.h"

enum { STS_OBF = 0x01, STS_SYS = 0x04, STS_CMD = 0x08, STS_UNLOCKED = 0x10, STS_AUX = 0x20 };
enum { CB_KBD_INT = 0x01, CB_AUX_INT = 0x02, CB_SYS = 0x04, CB_KBD_OFF = 0x10, CB_AUX_OFF = 0x20, CB_XLATE = 0x40 };
enum { OUT_RESET = 0x01, OUT_A20 = 0x02, OUT_KBD_OBF = 0x10, OUT_AUX_OBF = 0x20 };
enum { PORT_A_RESET = 0x01, PORT_A_A20 = 0x02 };
enum source { FROM_CTRL, FROM_KBD, FROM_AUX };
enum { REPLIES = 4 };

struct i8042 {
    struct lock lock;
    struct i8042_cfg cfg;
    struct ps2_kbd kbd;
    struct ps2_mouse mouse;
    uint8_t ram[32];                 /* byte 0 is the command byte */
    uint8_t data;                    /* output buffer */
    uint8_t source;                  /* enum source: where it came from */
    bool full, last_cmd, break_code; /* break_code: F0 was seen by the translation */
    uint8_t pending;                 /* controller command that waits for its data byte; 0 = none */
    uint8_t port_a;
    bool a20;
    struct ps2_queue reply, aux_reply; /* aux_reply: command D3h */
};

/* Set 2 to set 1: "Keyboard Scan Code Translation" table of the reference. */
static const uint8_t xlate[128] = {
    0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29, 0x59, 0x65, 0x38, 0x2a,
    0x70, 0x1d, 0x10, 0x02, 0x5a, 0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11, 0x03, 0x5b, 0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05,
    0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14, 0x13, 0x06, 0x5d, 0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a,
    0x72, 0x32, 0x24, 0x16, 0x08, 0x09, 0x5f, 0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60, 0x6c, 0x34, 0x35, 0x26,
    0x27, 0x19, 0x0c, 0x61, 0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e, 0x3a, 0x36, 0x1c, 0x1b, 0x75, 0x2b, 0x63,
    0x76, 0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, 0x7c, 0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f, 0x6f, 0x52, 0x53,
    0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45, 0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54,
};

uint8_t ps2_to_set1(uint8_t code)
{
    if (code < 0x80)
        return xlate[code];
    return code == 0x83 ? 0x41 : code == 0x84 ? 0x54 : code;
}

/* What the host sees of a byte from the keyboard; -1: nothing yet (the F0 prefix of a break code). */
static int translate(struct i8042 *k, uint8_t code)
{
    if (!(k->ram[0] & CB_XLATE))
        return code;
    if (code == 0xf0) {
        k->break_code = true;
        return -1;
    }
    uint8_t up = k->break_code ? 0x80 : 0;
    k->break_code = false;
    return ps2_to_set1(code) | up;
}

static void update_irqs(struct i8042 *k)
{
    bool aux = k->full && k->source == FROM_AUX;
    irq_set(&k->cfg.kbd, k->full && !aux && (k->ram[0] & CB_KBD_INT));
    irq_set(&k->cfg.aux, aux && (k->ram[0] & CB_AUX_INT));
}

/* Moves the next byte into the output buffer if it is free. */
static void fill(struct i8042 *k)
{
    uint8_t byte;
    while (!k->full) {
        if (ps2_take(&k->reply, &byte)) {
            k->source = FROM_CTRL;
        } else if (ps2_take(&k->aux_reply, &byte)) {
            k->source = FROM_AUX;
        } else if (!(k->ram[0] & CB_KBD_OFF) && ps2_take(&k->kbd.out, &byte)) {
            int code = translate(k, byte);
            if (code < 0)
                continue;
            byte = (uint8_t)code;
            k->source = FROM_KBD;
        } else if (!(k->ram[0] & CB_AUX_OFF) && ps2_take(&k->mouse.out, &byte)) {
            k->source = FROM_AUX;
        } else {
            break;
        }
        k->data = byte;
        k->full = true;
    }
    update_irqs(k);
}

static uint8_t output_port(const struct i8042 *k)
{
    bool aux = k->source == FROM_AUX;
    return (uint8_t)(0xcc | OUT_RESET | (k->a20 ? OUT_A20 : 0) | (k->full && !aux ? OUT_KBD_OBF : 0) |
                     (k->full && aux ? OUT_AUX_OBF : 0));
}

/* What is to be done when the lock is dropped. */
struct after {
    bool reset, a20_changed, a20;
};

static void a20_set(struct i8042 *k, bool on, struct after *todo)
{
    if (k->a20 == on)
        return;
    k->a20 = on;
    todo->a20_changed = true;
    todo->a20 = on;
}

static void after(struct i8042 *k, const struct after *todo)
{
    if (todo->a20_changed && k->cfg.a20)
        k->cfg.a20(k->cfg.arg, todo->a20);
    if (todo->reset)
        k->cfg.reset(k->cfg.arg);
}

static void reply(struct i8042 *k, uint8_t val)
{
    ps2_put(&k->reply, val);
}

static void command(struct i8042 *k, uint8_t cmd, struct after *todo)
{
    k->pending = 0;
    switch (cmd) {
    case 0x20 ... 0x3f:
        reply(k, k->ram[cmd & 0x1f]);
        break;
    case 0x60 ... 0x7f:
    case 0xd1 ... 0xd4:
        k->pending = cmd;
        break;
    case 0xa4: /* password: none is installed */
        reply(k, 0xf1);
        break;
    case 0xa7:
        k->ram[0] |= CB_AUX_OFF;
        break;
    case 0xa8:
        k->ram[0] &= (uint8_t)~CB_AUX_OFF;
        break;
    case 0xa9:
    case 0xab: /* interface tests: no error */
        reply(k, 0);
        break;
    case 0xaa:
        k->ram[0] |= CB_SYS;
        reply(k, 0x55);
        break;
    case 0xad:
        k->ram[0] |= CB_KBD_OFF;
        break;
    case 0xae:
        k->ram[0] &= (uint8_t)~CB_KBD_OFF;
        break;
    case 0xc0: /* input port: keyboard not inhibited, manufacturing jumper open */
        reply(k, 0xbf);
        break;
    case 0xd0:
        reply(k, output_port(k));
        break;
    case 0xdd:
    case 0xdf:
        a20_set(k, cmd == 0xdf, todo);
        break;
    case 0xe0: /* test inputs: both clocks idle high unless the interface is held */
        reply(k, (uint8_t)((k->ram[0] & CB_KBD_OFF ? 0 : 1) | (k->ram[0] & CB_AUX_OFF ? 0 : 2)));
        break;
    case 0xf0 ... 0xff: /* pulse output port bits that are 0: bit 0 is the CPU's reset */
        todo->reset = !(cmd & 1);
        break;
    default:
        break;
    }
}

static void command_data(struct i8042 *k, uint8_t val, struct after *todo)
{
    uint8_t cmd = k->pending;
    k->pending = 0;
    switch (cmd) {
    case 0x60 ... 0x7f:
        k->ram[cmd & 0x1f] = val;
        break;
    case 0xd1:
        a20_set(k, val & OUT_A20, todo);
        todo->reset = !(val & OUT_RESET);
        break;
    case 0xd2:
        reply(k, val);
        break;
    case 0xd3:
        ps2_put(&k->aux_reply, val);
        break;
    case 0xd4:
        k->ram[0] &= (uint8_t)~CB_AUX_OFF;
        ps2_mouse_write(&k->mouse, val);
        break;
    default: /* no command waits: a byte for the keyboard, which enables its interface */
        k->ram[0] &= (uint8_t)~CB_KBD_OFF;
        ps2_kbd_write(&k->kbd, val);
        break;
    }
}

static void data_read(void *dev, uint64_t off, void *buf, unsigned len)
{
    struct i8042 *k = dev;
    (void)off;
    (void)len;
    lock_take(&k->lock);
    *(uint8_t *)buf = k->data;
    k->full = false;
    update_irqs(k); /* the line falls, so that the next byte is an edge */
    fill(k);
    lock_drop(&k->lock);
}

static void data_write(void *dev, uint64_t off, const void *buf, unsigned len)
{
    struct i8042 *k = dev;
    struct after todo = { 0 };
    (void)off;
    (void)len;
    lock_take(&k->lock);
    k->last_cmd = false;
    command_data(k, *(const uint8_t *)buf, &todo);
    fill(k);
    lock_drop(&k->lock);
    after(k, &todo);
}

static void status_read(void *dev, uint64_t off, void *buf, unsigned len)
{
    struct i8042 *k = dev;
    (void)off;
    (void)len;
    lock_take(&k->lock);
    *(uint8_t *)buf = (uint8_t)(STS_UNLOCKED | (k->full ? STS_OBF : 0) | (k->ram[0] & CB_SYS ? STS_SYS : 0) |
                                (k->last_cmd ? STS_CMD : 0) | (k->full && k->source == FROM_AUX ? STS_AUX : 0));
    lock_drop(&k->lock);
}

static void command_write(void *dev, uint64_t off, const void *buf, unsigned len)
{
    struct i8042 *k = dev;
    struct after todo = { 0 };
    (void)off;
    (void)len;
    lock_take(&k->lock);
    k->last_cmd = true;
    command(k, *(const uint8_t *)buf, &todo);
    fill(k);
    lock_drop(&k->lock);
    after(k, &todo);
}

static void port_a_read(void *dev, uint64_t off, void *buf, unsigned len)
{
    struct i8042 *k = dev;
    (void)off;
    (void)len;
    lock_take(&k->lock);
    *(uint8_t *)buf = (uint8_t)((k->port_a & ~PORT_A_A20) | (k->a20 ? PORT_A_A20 : 0));
    lock_drop(&k->lock);
}

static void port_a_write(void *dev, uint64_t off, const void *buf, unsigned len)
{
    struct i8042 *k = dev;
    uint8_t val = *(const uint8_t *)buf;
    struct after todo = { 0 };
    (void)off;
    (void)len;
    lock_take(&k->lock);
    todo.reset = (val & PORT_A_RESET) && !(k->port_a & PORT_A_RESET);
    k->port_a = val;
    a20_set(k, val & PORT_A_A20, &todo);
    lock_drop(&k->lock);
    after(k, &todo);
}

int i8042_type(struct i8042 *k, const uint8_t *codes, size_t n)
{
    lock_take(&k->lock);
    int rc = ps2_kbd_type(&k->kbd, codes, n);
    fill(k);
    lock_drop(&k->lock);
    return rc;
}

int i8042_ctrl_alt_del(struct i8042 *k)
{
    static const uint8_t codes[] = { 0x14, 0x11, 0xe0, 0x71, 0xe0, 0xf0, 0x71, 0xf0, 0x11, 0xf0, 0x14 };
    return i8042_type(k, codes, sizeof(codes));
}

/* As PC firmware leaves it: self test passed, keyboard on, translation on, interrupts off, mouse off; A20 on. */
static void dev_reset(void *dev)
{
    struct i8042 *k = dev;
    struct after todo = { 0 };
    lock_take(&k->lock);
    ps2_kbd_reset(&k->kbd);
    ps2_mouse_reset(&k->mouse);
    memset(k->ram, 0, sizeof(k->ram));
    k->ram[0] = CB_SYS | CB_XLATE | CB_AUX_OFF;
    k->data = k->source = k->pending = k->port_a = 0;
    k->full = k->last_cmd = k->break_code = false;
    k->reply.n = k->aux_reply.n = 0;
    a20_set(k, true, &todo);
    update_irqs(k);
    lock_drop(&k->lock);
    after(k, &todo);
}

static int dev_save(const void *dev, struct state_out *s)
{
    struct i8042 *k = (struct i8042 *)(uintptr_t)dev; /* the lock is not part of the state */
    lock_take(&k->lock);
    state_put_bytes(s, k->ram, sizeof(k->ram));
    const uint8_t b[] = { k->data, k->source, k->pending, k->port_a };
    state_put_bytes(s, b, sizeof(b));
    state_put_u8(s, (uint8_t)(k->full | k->last_cmd << 1 | k->break_code << 2 | k->a20 << 3));
    ps2_queue_save(&k->reply, s);
    ps2_queue_save(&k->aux_reply, s);
    ps2_kbd_save(&k->kbd, s);
    ps2_mouse_save(&k->mouse, s);
    lock_drop(&k->lock);
    return s->oom ? -ENOMEM : 0;
}

static int dev_load(void *dev, struct state_in *s, unsigned version)
{
    struct i8042 *k = dev;
    struct i8042 n = { 0 };
    uint8_t b[4];
    if (version != i8042_data_ops.version)
        return -EINVAL;
    state_get_bytes(s, n.ram, sizeof(n.ram));
    state_get_bytes(s, b, sizeof(b));
    uint8_t f = state_get_u8(s);
    bool ok = ps2_queue_load(&n.reply, s);
    ok &= ps2_queue_load(&n.aux_reply, s);
    ok &= ps2_kbd_load(&n.kbd, s);
    ok &= ps2_mouse_load(&n.mouse, s);
    bool pending_ok = !b[2] || (b[2] >= 0x60 && b[2] <= 0x7f) || (b[2] >= 0xd1 && b[2] <= 0xd4);
    if (s->bad || !ok || f > 15 || b[1] > FROM_AUX || !pending_ok)
        return -EINVAL;
    struct after todo = { 0 };
    lock_take(&k->lock);
    memcpy(k->ram, n.ram, sizeof(k->ram));
    k->data = b[0];
    k->source = b[1];
    k->pending = b[2];
    k->port_a = b[3];
    k->full = f & 1;
    k->last_cmd = f >> 1 & 1;
    k->break_code = f >> 2 & 1;
    k->reply = n.reply;
    k->aux_reply = n.aux_reply;
    k->kbd = n.kbd;
    k->mouse = n.mouse;
    a20_set(k, f >> 3, &todo);
    fill(k);
    lock_drop(&k->lock);
    after(k, &todo);
    return 0;
}

const struct dev_ops i8042_data_ops = {
    .name = "i8042",
    .read = data_read,
    .write = data_write,
    .reset = dev_reset,
    .save = dev_save,
    .load = dev_load,
    .version = 1,
};
const struct dev_ops i8042_cmd_ops = { .name = "i8042-command", .read = status_read, .write = command_write };
const struct dev_ops i8042_port_a_ops = { .name = "port-92", .read = port_a_read, .write = port_a_write };

struct i8042 *i8042_new(const struct i8042_cfg *cfg)
{
    struct i8042 *k = calloc(1, sizeof(*k));
    if (!k)
        return NULL;
    lock_init(&k->lock, LOCK_DEVICE);
    k->cfg = *cfg;
    k->a20 = true;
    dev_reset(k);
    return k;
}

void i8042_free(struct i8042 *k)
{
    if (!k)
        return;
    lock_destroy(&k->lock);
    free(k);
}
