/* SPDX-License-Identifier: MIT */
/* virtio-console against a fake back end that the test throttles. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>

#include "base/log.h"
#include "host/chardev.h"
#include "state/state.h"
#include "virtio_driver.h"

enum { RX, TX, TXBUF = 1 << 20 };

struct fake {
    struct chardev ch; /* first */
    struct chardev_user user;
    bool attached;
    size_t n, limit;
    unsigned rx_ready;
    struct chardev_status st;
    int opened; /* by the guest: 0 never, else 1 + what was told last */
    uint8_t buf[TXBUF];
};

static size_t fake_write(struct chardev *ch, const void *buf, size_t n)
{
    struct fake *f = (struct fake *)ch;
    size_t k = n < f->limit - f->n ? n : f->limit - f->n;
    memcpy(f->buf + f->n, buf, k);
    f->n += k;
    return k;
}
static void fake_attach(struct chardev *ch, const struct chardev_user *u)
{
    struct fake *f = (struct fake *)ch;
    f->attached = u != NULL;
    if (u)
        f->user = *u;
}
static void fake_rx_ready(struct chardev *ch)
{
    ((struct fake *)ch)->rx_ready++;
}

static void fake_status(struct chardev *ch, struct chardev_status *st)
{
    *st = ((struct fake *)ch)->st;
}
static void fake_opened(struct chardev *ch, bool open)
{
    ((struct fake *)ch)->opened = 1 + open;
}

static const struct chardev_ops fake_ops = {
    .write = fake_write, .attach = fake_attach, .rx_ready = fake_rx_ready, .status = fake_status, .opened = fake_opened
};

struct rig {
    struct drv d;    /* first */
    struct fake *f;  /* of the console */
    struct fake *p2; /* of port 2; there is no port 1 */
    struct virtio_env env;
};

static struct fake *fake_new(uint16_t cols, uint16_t rows)
{
    struct fake *f = calloc(1, sizeof(*f));
    f->ch.ops = &fake_ops;
    f->limit = TXBUF;
    f->st = (struct chardev_status){ .peer = true, .cols = cols, .rows = rows };
    return f;
}

static void make(struct rig *r, unsigned n)
{
    const struct virtio_console_port port[3] = { { .ch = &r->f->ch }, { 0 }, { "org.example.two", &r->p2->ch } };
    r->d.v = virtio_console_new(&r->env, port, n);
}

static int setup_ports(void **st, unsigned n)
{
    struct rig *r = calloc(1, sizeof(*r));
    r->env = drv_open(&r->d);
    r->f = fake_new(132, 43);
    r->p2 = fake_new(0, 0);
    make(r, n);
    *st = r;
    return 0;
}
static int setup(void **st)
{
    return setup_ports(st, 1);
}
static int setup_multi(void **st)
{
    return setup_ports(st, 3);
}
static int teardown(void **st)
{
    struct rig *r = *st;
    drv_close(&r->d);
    assert_false(r->f->attached);
    assert_false(r->p2->attached);
    free(r->f);
    free(r->p2);
    free(r);
    return 0;
}

static void resize(struct rig *r, uint16_t cols, uint16_t rows)
{
    r->f->st.cols = cols;
    r->f->st.rows = rows;
    r->f->user.changed(r->f->user.arg);
}

static void test_config(void **st)
{
    struct rig *r = *st;
    uint16_t wh[2];
    assert_int_equal(drv_get(&r->d, 8), 3);
    assert_int_equal(drv_offered(&r->d) & 7, 5); /* SIZE, EMERG_WRITE, no MULTIPORT */
    virtio_mmio_ops.read(r->d.v, 0x100, wh, 2);
    virtio_mmio_ops.read(r->d.v, 0x102, wh + 1, 2);
    assert_int_equal(wh[0], 132);
    assert_int_equal(wh[1], 43);
    /* A new size tells a driver that asked for it. */
    drv_start(&r->d, 0);
    uint32_t gen = drv_get(&r->d, 0xfc);
    resize(r, 80, 25);
    assert_int_equal(drv_get(&r->d, 0x60), 0);
    assert_int_not_equal(drv_get(&r->d, 0xfc), gen);
    drv_start(&r->d, 1);
    resize(r, 100, 30);
    assert_int_equal(drv_get(&r->d, 0x60), 2);
    virtio_mmio_ops.read(r->d.v, 0x100, wh, 2);
    assert_int_equal(wh[0], 100);
}

static void test_emergency(void **st)
{
    struct rig *r = *st;
    uint32_t c = 'E';
    virtio_mmio_ops.write(r->d.v, 0x108, &c, 4); /* no driver at all */
    virtio_mmio_ops.write(r->d.v, 0x108, &c, 1);
    assert_memory_equal(r->f->buf, "EE", 2);
    r->f->limit = r->f->n;
    virtio_mmio_ops.write(r->d.v, 0x108, &c, 4); /* lost, not waited for */
    assert_int_equal(r->f->n, 2);
    virtio_mmio_ops.write(r->d.v, 0x100, &c, 4);
    virtio_mmio_ops.write(r->d.v, 0x104, &c, 4);
    assert_int_equal(r->f->n, 2);
}

static void send(struct rig *r, uint16_t i, gpa_t at, uint32_t len)
{
    drv_desc(&r->d, TX, i, (struct drv_desc){ at, len, 0, 0 });
    drv_add(&r->d, TX, i);
}

static void test_output(void **st)
{
    struct rig *r = *st;
    uint32_t len;
    drv_start(&r->d, 0);
    mem_write(r->d.mem, DRV_DATA, "hello world", 11);
    send(r, 0, DRV_DATA, 6);
    send(r, 1, DRV_DATA + 6, 5);
    drv_kick(&r->d, TX);
    assert_int_equal(r->f->n, 11);
    assert_memory_equal(r->f->buf, "hello world", 11);
    assert_int_equal(drv_used(&r->d, TX, &len), 0);
    assert_int_equal(len, 0);
    assert_int_equal(drv_used(&r->d, TX, &len), 1);
    assert_int_equal(r->d.level, 1);
    /* Empty, and one with nothing to read in it. */
    send(r, 2, DRV_DATA, 0);
    drv_desc(&r->d, TX, 3, (struct drv_desc){ DRV_DATA, 9, D_WRITE, 0 });
    drv_add(&r->d, TX, 3);
    drv_kick(&r->d, TX);
    assert_int_equal(drv_used(&r->d, TX, &len), 2);
    assert_int_equal(drv_used(&r->d, TX, &len), 3);
    assert_int_equal(r->f->n, 11);
}

static void test_throttled(void **st)
{
    struct rig *r = *st;
    enum { BIG = 300000 };
    uint8_t *b = malloc(BIG);
    for (unsigned i = 0; i < BIG; i++)
        b[i] = (uint8_t)(i * 13 + i / 256);
    drv_start(&r->d, VIRTIO_F_EVENT_IDX);
    mem_write(r->d.mem, DRV_DATA, b, BIG);
    r->f->limit = 100;
    send(r, 0, DRV_DATA, BIG);
    send(r, 1, DRV_DATA, 3);
    drv_kick(&r->d, TX);
    drv_quiet(&r->d);
    assert_int_equal(r->f->n, 100);
    assert_int_equal(drv_used(&r->d, TX, NULL), -1); /* waits in the queue, nothing is lost */
    for (size_t lim = 5000; lim <= 700000; lim += 131072) {
        r->f->limit = lim;
        r->f->user.tx_ready(r->f->user.arg);
        drv_quiet(&r->d);
        assert_int_equal(r->f->n, lim < BIG + 3 ? lim : BIG + 3);
    }
    assert_memory_equal(r->f->buf, b, BIG);
    assert_memory_equal(r->f->buf + BIG, b, 3);
    assert_int_equal(drv_used(&r->d, TX, NULL), 0);
    assert_int_equal(drv_used(&r->d, TX, NULL), 1);
    /* A reset forgets a half-written request. */
    r->f->limit = r->f->n + 2;
    send(r, 2, DRV_DATA, 10);
    drv_kick(&r->d, TX);
    drv_start(&r->d, 0);
    r->f->limit = TXBUF;
    size_t before = r->f->n;
    r->f->user.tx_ready(r->f->user.arg);
    drv_quiet(&r->d);
    assert_int_equal(r->f->n, before);
    send(r, 0, DRV_DATA, 4);
    drv_kick(&r->d, TX);
    drv_quiet(&r->d);
    assert_int_equal(r->f->n, before + 4);
    assert_memory_equal(r->f->buf + before, b, 4);
    free(b);
}

static size_t can(struct rig *r)
{
    return r->f->user.can_rx(r->f->user.arg);
}

static void test_input(void **st)
{
    struct rig *r = *st;
    uint32_t len;
    char b[8] = { 0 };
    assert_int_equal(can(r), 0); /* no driver */
    unsigned told = r->f->rx_ready;
    drv_start(&r->d, VIRTIO_F_EVENT_IDX);
    assert_true(r->f->rx_ready > told);
    assert_int_equal(can(r), 0); /* no buffer */
    drv_desc(&r->d, RX, 4, (struct drv_desc){ DRV_DATA, 0, D_WRITE, 0 });
    drv_desc(&r->d, RX, 5, (struct drv_desc){ DRV_DATA, 3, D_WRITE | D_NEXT, 6 });
    drv_desc(&r->d, RX, 6, (struct drv_desc){ DRV_DATA + 0x1000, 5, D_WRITE, 0 });
    drv_add(&r->d, RX, 4);
    drv_add(&r->d, RX, 5);
    told = r->f->rx_ready;
    drv_kick(&r->d, RX);
    assert_int_equal(r->f->rx_ready, told + 1);
    assert_int_equal(can(r), 8);
    assert_int_equal(can(r), 8);
    r->f->user.rx(r->f->user.arg, "abcdef", 6);
    assert_int_equal(drv_used(&r->d, RX, &len), 4); /* the empty one came back */
    assert_int_equal(len, 0);
    assert_int_equal(drv_used(&r->d, RX, &len), 5);
    assert_int_equal(len, 6);
    mem_read(r->d.mem, DRV_DATA, b, 3);
    mem_read(r->d.mem, DRV_DATA + 0x1000, b + 3, 4);
    assert_memory_equal(b, "abcdef\0", 7);
    assert_int_equal(can(r), 0);
    assert_int_equal(r->d.level, 1);
    /* Input whose buffer went away meanwhile is dropped. */
    r->f->user.rx(r->f->user.arg, "x", 1);
    /* A broken ring: no input, no crash. */
    drv_desc(&r->d, RX, 7, (struct drv_desc){ DRV_RAM, 8, D_WRITE, 0 });
    drv_add(&r->d, RX, 7);
    assert_int_equal(can(r), 0);
    assert_int_equal(drv_get(&r->d, 0x70), 15 | 64);
    r->f->user.rx(r->f->user.arg, "x", 1);
}

static void test_state(void **st)
{
    struct rig *r = *st;
    struct state_out out = { 0 };
    drv_start(&r->d, 0);
    mem_write(r->d.mem, DRV_DATA, "0123456789", 10);
    r->f->limit = 4;
    send(r, 0, DRV_DATA, 10);
    drv_kick(&r->d, TX);
    drv_quiet(&r->d);
    assert_int_equal(virtio_mmio_ops.save(r->d.v, &out), 0);
    /* Another console goes on where this one stopped. */
    virtio_free(r->d.v);
    r->f->limit = TXBUF;
    make(r, 1);
    struct state_in in = { .buf = out.buf, .len = out.len };
    assert_int_equal(virtio_mmio_ops.load(r->d.v, &in, 1), 0);
    drv_quiet(&r->d);
    assert_int_equal(r->f->n, 10);
    assert_memory_equal(r->f->buf, "0123456789", 10);
    assert_int_equal(drv_used(&r->d, TX, NULL), 0);
    for (size_t n = 0; n < out.len; n++) {
        in = (struct state_in){ .buf = out.buf, .len = n };
        assert_int_equal(virtio_mmio_ops.load(r->d.v, &in, 1), -EINVAL);
    }
    state_out_free(&out);
}

/* ---- several ports ---- */

enum { CRX = 2, CTX = 3, RX2 = 6, TX2 = 7, MULTIPORT = 2 };
enum { READY, ADD, REMOVE, PORT_READY, CONSOLE, SIZE, OPEN, NAME };
enum { MSGS = DRV_DATA + 0x10000, SAYS = DRV_DATA + 0x20000, MSG_LEN = 64 };

/* Gives the device n buffers for its messages. */
static void listen(struct rig *r, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        drv_desc(&r->d, CRX, i, (struct drv_desc){ MSGS + i * MSG_LEN, MSG_LEN, D_WRITE, 0 });
        drv_add(&r->d, CRX, (uint16_t)i);
    }
    drv_kick(&r->d, CRX);
}

static void say(struct rig *r, uint32_t id, uint16_t event, uint16_t value)
{
    const struct {
        uint32_t id;
        uint16_t event, value;
    } m = { id, event, value };
    mem_write(r->d.mem, SAYS, &m, sizeof(m));
    drv_desc(&r->d, CTX, 0, (struct drv_desc){ SAYS, sizeof(m), 0, 0 });
    drv_add(&r->d, CTX, 0);
    drv_kick(&r->d, CTX);
    drv_quiet(&r->d);
    assert_int_equal(drv_used(&r->d, CTX, NULL), 0);
}

/* The next message must be this one. */
static void hear(struct rig *r, uint32_t id, uint16_t event, const void *more, uint32_t n)
{
    uint8_t b[MSG_LEN];
    uint32_t len = 0, got_id;
    uint16_t got;
    int head = drv_used(&r->d, CRX, &len);
    assert_true(head >= 0);
    mem_read(r->d.mem, MSGS + (gpa_t)head * MSG_LEN, b, sizeof(b));
    memcpy(&got_id, b, 4);
    memcpy(&got, b + 4, 2);
    assert_int_equal(got_id, id);
    assert_int_equal(got, event);
    if (event == OPEN) {
        assert_int_equal(b[6], n);
        n = 0;
    }
    assert_int_equal(len, 8 + n);
    if (n)
        assert_memory_equal(b + 8, more, n);
}
static void hear_none(struct rig *r)
{
    assert_int_equal(drv_used(&r->d, CRX, NULL), -1);
}

static void test_ports(void **st)
{
    struct rig *r = *st;
    const uint16_t size[2] = { 132, 43 };
    assert_int_equal(drv_offered(&r->d) & 7, 7);
    assert_int_equal(drv_get(&r->d, 0x104), 3);
    drv_start(&r->d, MULTIPORT);
    listen(r, 16);
    hear_none(r);
    say(r, 0, READY, 1);
    hear(r, 0, ADD, NULL, 0);
    hear(r, 2, ADD, NULL, 0);
    hear_none(r);
    say(r, 0, PORT_READY, 1);
    hear(r, 0, CONSOLE, NULL, 0);
    hear(r, 0, OPEN, NULL, 1);
    hear(r, 0, SIZE, size, 4);
    r->p2->st.peer = false;
    say(r, 2, PORT_READY, 1);
    hear(r, 2, NAME, "org.example.two", 15);
    hear(r, 2, OPEN, NULL, 0);
    hear_none(r);
    /* Its peer comes. */
    r->p2->st.peer = true;
    r->p2->user.changed(r->p2->user.arg);
    hear(r, 2, OPEN, NULL, 1);
    resize(r, 80, 25);
    const uint16_t new_size[2] = { 80, 25 };
    hear(r, 0, OPEN, NULL, 1);
    hear(r, 0, SIZE, new_size, 4);
    hear_none(r);
    /* What is no message of a driver's, and ports that there are not. */
    say(r, 1, PORT_READY, 1);
    say(r, 3, PORT_READY, 1);
    say(r, UINT32_MAX, OPEN, 1);
    say(r, 1, OPEN, 1);
    say(r, 2, ADD, 1);
    say(r, 2, NAME, 1);
    say(r, 2, 0xffff, 0xffff);
    say(r, 0, READY, 0);
    say(r, 0, READY, 1); /* a port that exists must not be added */
    hear_none(r);
    assert_int_equal(drv_get(&r->d, 0x70), 15);
    /* After a reset none exists; and a driver that knows them still need not ask. */
    drv_start(&r->d, MULTIPORT);
    listen(r, 16);
    say(r, 2, PORT_READY, 1);
    hear(r, 2, NAME, "org.example.two", 15);
    hear(r, 2, OPEN, NULL, 1);
    say(r, 0, READY, 1);
    hear(r, 0, ADD, NULL, 0);
    hear_none(r);
}

/* Ports and no console: its queues are there all the same, for a driver that knows of no ports. */
static void test_no_console(void **st)
{
    struct rig *r = *st;
    const struct virtio_console_port port[2] = { { 0 }, { "org.example.two", &r->p2->ch } };
    virtio_free(r->d.v);
    r->d.v = virtio_console_new(&r->env, port, 2);
    assert_int_equal(drv_offered(&r->d) & 7, MULTIPORT); /* an emergency write would go nowhere */
    drv_start(&r->d, 0);
    send(r, 0, DRV_DATA, 8);
    drv_kick(&r->d, TX);
    drv_quiet(&r->d);
    assert_int_equal(drv_used(&r->d, TX, NULL), 0);
    drv_desc(&r->d, RX, 0, (struct drv_desc){ DRV_DATA, 8, D_WRITE, 0 });
    drv_add(&r->d, RX, 0);
    drv_kick(&r->d, RX);
    drv_quiet(&r->d);
    assert_int_equal(drv_used(&r->d, RX, NULL), -1);
    virtio_mmio_ops.write(r->d.v, 0x108, "x", 1);
    assert_int_equal(r->f->n + r->p2->n, 0);
}

/* Messages that nobody makes room for are kept once each, however often they are asked for. */
static void test_ports_patience(void **st)
{
    struct rig *r = *st;
    drv_start(&r->d, MULTIPORT);
    for (int i = 0; i < 100; i++) {
        say(r, 0, READY, 1);
        say(r, 2, PORT_READY, 1);
    }
    listen(r, 2);
    drv_quiet(&r->d);
    hear(r, 0, ADD, NULL, 0);
    hear(r, 2, ADD, NULL, 0);
    listen(r, 2);
    drv_quiet(&r->d);
    hear(r, 2, NAME, "org.example.two", 15);
    hear(r, 2, OPEN, NULL, 1);
    listen(r, 4);
    drv_quiet(&r->d);
    hear_none(r);
    /* A buffer too short for a message, and a message too short to be one. */
    drv_start(&r->d, MULTIPORT);
    drv_desc(&r->d, CRX, 5, (struct drv_desc){ MSGS, 3, D_WRITE, 0 });
    drv_add(&r->d, CRX, 5);
    say(r, 0, READY, 1);
    uint32_t len = 0;
    assert_int_equal(drv_used(&r->d, CRX, &len), 5);
    assert_int_equal(len, 3);
    drv_desc(&r->d, CTX, 1, (struct drv_desc){ SAYS, 7, 0, 0 });
    drv_add(&r->d, CTX, 1);
    drv_kick(&r->d, CTX);
    drv_quiet(&r->d);
    assert_int_equal(drv_used(&r->d, CTX, NULL), 1);
    /* Without MULTIPORT the control queues are dead, and the console works. */
    drv_start(&r->d, 0);
    listen(r, 1);
    drv_desc(&r->d, CTX, 0, (struct drv_desc){ SAYS, 8, 0, 0 });
    drv_add(&r->d, CTX, 0);
    drv_kick(&r->d, CTX);
    send(r, 0, SAYS, 8);
    drv_kick(&r->d, TX);
    drv_quiet(&r->d);
    hear_none(r);
    assert_int_equal(r->f->n, 8);
}

static void test_ports_data(void **st)
{
    struct rig *r = *st;
    struct fake *p = r->p2;
    uint32_t len;
    drv_start(&r->d, MULTIPORT | VIRTIO_F_EVENT_IDX);
    mem_write(r->d.mem, DRV_DATA, "to two", 6);
    drv_desc(&r->d, TX2, 0, (struct drv_desc){ DRV_DATA, 6, 0, 0 });
    drv_add(&r->d, TX2, 0);
    drv_kick(&r->d, TX2);
    drv_quiet(&r->d);
    assert_int_equal(p->n, 6);
    assert_memory_equal(p->buf, "to two", 6);
    assert_int_equal(r->f->n, 0);
    assert_int_equal(drv_used(&r->d, TX2, NULL), 0);
    /* The queues of port 1, which there is not, are left alone. */
    drv_desc(&r->d, 5, 0, (struct drv_desc){ DRV_DATA, 6, 0, 0 });
    drv_add(&r->d, 5, 0);
    drv_kick(&r->d, 5);
    drv_kick(&r->d, 4);
    assert_int_equal(drv_used(&r->d, 5, NULL), -1);
    /* Input waits until the guest opens the port, and again when it closed it. */
    drv_desc(&r->d, RX2, 0, (struct drv_desc){ DRV_DATA + 64, 5, D_WRITE, 0 });
    drv_add(&r->d, RX2, 0);
    drv_kick(&r->d, RX2);
    assert_int_equal(p->user.can_rx(p->user.arg), 0);
    unsigned told = p->rx_ready;
    say(r, 2, OPEN, 1);
    assert_int_equal(p->opened, 2);
    assert_true(p->rx_ready > told);
    assert_int_equal(p->user.can_rx(p->user.arg), 5);
    say(r, 2, OPEN, 0);
    assert_int_equal(p->opened, 1);
    assert_int_equal(p->user.can_rx(p->user.arg), 0);
    p->user.rx(p->user.arg, "lost", 4);
    assert_int_equal(drv_used(&r->d, RX2, NULL), -1);
    say(r, 2, OPEN, 1);
    p->user.rx(p->user.arg, "gets", 4);
    assert_int_equal(drv_used(&r->d, RX2, &len), 0);
    assert_int_equal(len, 4);
    /* A reset closes it. */
    drv_start(&r->d, MULTIPORT);
    assert_int_equal(p->opened, 1);
}

static void test_ports_state(void **st)
{
    struct rig *r = *st;
    struct state_out out = { 0 };
    drv_start(&r->d, MULTIPORT);
    say(r, 2, PORT_READY, 1);
    say(r, 2, OPEN, 1);
    r->p2->limit = 2;
    drv_desc(&r->d, TX2, 0, (struct drv_desc){ DRV_DATA, 5, 0, 0 });
    mem_write(r->d.mem, DRV_DATA, "abcde", 5);
    drv_add(&r->d, TX2, 0);
    drv_kick(&r->d, TX2);
    drv_quiet(&r->d);
    assert_int_equal(virtio_mmio_ops.save(r->d.v, &out), 0);
    virtio_free(r->d.v);
    r->p2->limit = TXBUF;
    r->p2->opened = 0;
    r->p2->st.peer = false;
    make(r, 3);
    struct state_in in = { .buf = out.buf, .len = out.len };
    assert_int_equal(virtio_mmio_ops.load(r->d.v, &in, 1), 0);
    drv_quiet(&r->d);
    assert_int_equal(r->p2->opened, 2);
    assert_int_equal(r->p2->n, 5);
    assert_memory_equal(r->p2->buf, "abcde", 5);
    /* What was not yet said is said now, of the new back end. */
    listen(r, 8);
    drv_quiet(&r->d);
    hear(r, 2, NAME, "org.example.two", 15);
    hear(r, 2, OPEN, NULL, 0);
    hear_none(r);
    for (size_t n = 0; n < out.len; n++) {
        in = (struct state_in){ .buf = out.buf, .len = n };
        assert_int_equal(virtio_mmio_ops.load(r->d.v, &in, 1), -EINVAL);
    }
    /* The last bytes are port 2's news and flags, before them port 1's, which there is not. */
    out.buf[out.len - 1] = 8;
    in = (struct state_in){ .buf = out.buf, .len = out.len };
    assert_int_equal(virtio_mmio_ops.load(r->d.v, &in, 1), -EINVAL);
    out.buf[out.len - 1] = 3;
    out.buf[out.len - 11] = 1;
    in = (struct state_in){ .buf = out.buf, .len = out.len };
    assert_int_equal(virtio_mmio_ops.load(r->d.v, &in, 1), -EINVAL);
    state_out_free(&out);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
#define P(f) cmocka_unit_test_setup_teardown(f, setup_multi, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_config),         T(test_emergency),  T(test_output),      T(test_throttled),
        T(test_input),          T(test_state),      P(test_ports),       P(test_no_console),
        P(test_ports_patience), P(test_ports_data), P(test_ports_state),
    };
    log_set_level(LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
