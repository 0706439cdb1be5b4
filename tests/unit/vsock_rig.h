/* SPDX-License-Identifier: MIT */
/* Both ends of virtio-vsock for its test: a driver with rings, programs with unix sockets, and a clock that is moved.
 */
#ifndef GAZDA_TESTS_VSOCK_RIG_H
#define GAZDA_TESTS_VSOCK_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/loop.h"
#include "host/vsock.h"
#include "virtio_driver.h"

enum { RX, TX, EV, CID = 5, HOST = 2, ALLOC = 256 << 10, PATIENCE_MS = 20000 };
enum { REQUEST = 1, RESPONSE, RST, SHUTDOWN, RW, CREDIT_UPDATE, CREDIT_REQUEST };
enum { RX_LEN = 44 + 8192, RX_AT = 0x200000, RX_STEP = 0x4000, TX_AT = 0x400000, TX_STEP = 0x20000 };

struct hdr {
    uint64_t src_cid, dst_cid;
    uint32_t src_port, dst_port, len;
    uint16_t type, op;
    uint32_t flags, buf_alloc, fwd_cnt;
} __attribute__((packed));

struct rig {
    struct drv d; /* first */
    struct timer_svc timers;
    struct timer *timer; /* armed */
    uint64_t now;
    struct loop *loop;
    pthread_t thread;
    struct vsock_host *host;
    struct virtio_env env;
    char dir[32], path[64];
    struct hdr h; /* the last packet that came */
    uint8_t data[8192];
    uint32_t alloc; /* what packets to the device say */
    uint32_t got;   /* bytes that came, which they say are read */
};

/* ---- loop and clock ---- */

static uint64_t clock_now(struct timer_svc *t)
{
    return __atomic_load_n(&container_of(t, struct rig, timers)->now, __ATOMIC_SEQ_CST);
}
static void clock_arm(struct timer_svc *t, struct timer *x, uint64_t deadline)
{
    x->deadline = deadline;
    __atomic_store_n(&container_of(t, struct rig, timers)->timer, x, __ATOMIC_SEQ_CST);
}
static void clock_disarm(struct timer_svc *t, struct timer *x)
{
    (void)x;
    __atomic_store_n(&container_of(t, struct rig, timers)->timer, NULL, __ATOMIC_SEQ_CST);
}

static void *loop_main(void *l)
{
    loop_run(l);
    return NULL;
}

struct turn {
    struct rig *r;
    _Atomic bool done;
};

static void run_turn(void *arg)
{
    struct turn *t = arg;
    struct timer *x = __atomic_load_n(&t->r->timer, __ATOMIC_SEQ_CST);
    if (x && x->deadline <= t->r->now) {
        __atomic_store_n(&t->r->timer, NULL, __ATOMIC_SEQ_CST);
        x->fn(x->arg);
    }
    atomic_store(&t->done, true);
}

/* Lets the loop and the workers do what there is. */
static void settle(struct rig *r)
{
    for (int i = 0; i < 4; i++) {
        struct turn t = { .r = r };
        assert_int_equal(loop_post(r->loop, run_turn, &t), 0);
        while (!atomic_load(&t.done))
            usleep(100);
        drv_quiet(&r->d);
    }
}

static void pass_ms(struct rig *r, unsigned ms)
{
    __atomic_fetch_add(&r->now, ms * 1000000UL, __ATOMIC_SEQ_CST);
    settle(r);
}

/* ---- the guest ---- */

static void give(struct rig *r, uint16_t i, uint32_t len)
{
    drv_desc(&r->d, RX, i, (struct drv_desc){ RX_AT + (gpa_t)i * RX_STEP, len, D_WRITE, 0 });
    drv_add(&r->d, RX, i);
}
static void give_all(struct rig *r)
{
    for (uint16_t i = 0; i < DRV_QSIZE; i++)
        give(r, i, RX_LEN);
    drv_kick(&r->d, RX);
}

/* Takes the next packet if there is one. */
static bool look(struct rig *r)
{
    uint32_t len;
    int i = drv_used(&r->d, RX, &len);
    if (i < 0)
        return false;
    assert_in_range(len, 44, RX_LEN);
    mem_read(r->d.mem, RX_AT + (gpa_t)i * RX_STEP, &r->h, sizeof(r->h));
    assert_int_equal(len, 44 + r->h.len);
    mem_read(r->d.mem, RX_AT + (gpa_t)i * RX_STEP + 44, r->data, r->h.len);
    r->got += r->h.len;
    assert_int_equal(r->h.dst_cid, CID);
    give(r, (uint16_t)i, RX_LEN);
    drv_kick(&r->d, RX);
    return true;
}

static void expect(struct rig *r, unsigned op)
{
    for (int i = 0; !look(r); i++) {
        assert_true(i < PATIENCE_MS);
        usleep(1000);
    }
    assert_int_equal(r->h.op, op);
}
static void expect_none(struct rig *r)
{
    settle(r);
    assert_false(look(r));
}

static void send_hdr(struct rig *r, const struct hdr *h, const void *data, uint32_t len)
{
    static uint16_t slot;
    uint16_t i = (uint16_t)(slot++ % (DRV_QSIZE / 2) * 2);
    gpa_t at = TX_AT + (gpa_t)i / 2 * TX_STEP;
    mem_write(r->d.mem, at, h, sizeof(*h));
    mem_write(r->d.mem, at + 64, data, len);
    drv_desc(&r->d, TX, i, (struct drv_desc){ at, 44, len ? D_NEXT : 0, (uint16_t)(i + 1) });
    drv_desc(&r->d, TX, i + 1U, (struct drv_desc){ at + 64, len, 0, 0 });
    drv_add(&r->d, TX, i);
    drv_kick(&r->d, TX);
    drv_quiet(&r->d);
    while (drv_used(&r->d, TX, NULL) >= 0)
        ;
}

static struct hdr packet(struct rig *r, unsigned op, uint32_t guest_port, uint32_t host_port)
{
    return (struct hdr){ .src_cid = CID,
                         .dst_cid = HOST,
                         .src_port = guest_port,
                         .dst_port = host_port,
                         .type = 1,
                         .op = (uint16_t)op,
                         .buf_alloc = r->alloc,
                         .fwd_cnt = r->got };
}
static void say(struct rig *r, unsigned op, uint32_t guest_port, uint32_t host_port)
{
    struct hdr h = packet(r, op, guest_port, host_port);
    send_hdr(r, &h, NULL, 0);
}
static void shut(struct rig *r, unsigned flags, uint32_t guest_port, uint32_t host_port)
{
    struct hdr h = packet(r, SHUTDOWN, guest_port, host_port);
    h.flags = flags;
    send_hdr(r, &h, NULL, 0);
}
static void rw(struct rig *r, uint32_t guest_port, uint32_t host_port, const void *data, uint32_t len)
{
    struct hdr h = packet(r, RW, guest_port, host_port);
    h.len = len;
    send_hdr(r, &h, data, len);
}

/* ---- programs of the host ---- */

static struct sockaddr_un address(const char *path)
{
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
    return a;
}

static int dial(struct rig *r)
{
    struct sockaddr_un a = address(r->path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
    return fd;
}
static int listen_at(struct rig *r, unsigned port, int backlog)
{
    char path[100];
    snprintf(path, sizeof(path), "%s_%u", r->path, port);
    struct sockaddr_un a = address(path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    unlink(path);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
    assert_int_equal(listen(fd, backlog), 0);
    return fd;
}
static void put(int fd, const char *text)
{
    assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}
static ssize_t get(int fd, void *buf, size_t n)
{
    struct pollfd p = { .fd = fd, .events = POLLIN };
    assert_int_equal(poll(&p, 1, PATIENCE_MS), 1);
    return recv(fd, buf, n, 0);
}
static void expect_text(int fd, const char *text)
{
    char buf[100];
    size_t n = 0;
    while (n < strlen(text)) {
        ssize_t k = get(fd, buf + n, strlen(text) - n);
        assert_true(k > 0);
        n += (size_t)k;
    }
    assert_memory_equal(buf, text, n);
}
static void expect_end(int fd)
{
    char c;
    assert_true(get(fd, &c, 1) <= 0);
}
static bool silent(int fd)
{
    struct pollfd p = { .fd = fd, .events = POLLIN };
    return poll(&p, 1, 0) == 0;
}

/* A connection that the host made to guest port 52: *port is the host's. */
static int open_down(struct rig *r, uint32_t *port)
{
    char ok[40];
    int fd = dial(r);
    r->got = 0;
    put(fd, "CONNECT 52\n");
    expect(r, REQUEST);
    assert_int_equal(r->h.dst_port, 52);
    *port = r->h.src_port;
    say(r, RESPONSE, 52, *port);
    snprintf(ok, sizeof(ok), "OK %u\n", *port);
    expect_text(fd, ok);
    return fd;
}
/* One that the guest made from port 1000 to 77, where l listens. */
static int open_up(struct rig *r, int l)
{
    r->got = 0;
    say(r, REQUEST, 1000, 77);
    expect(r, RESPONSE);
    assert_int_equal(r->h.src_port, 77);
    assert_int_equal(r->h.dst_port, 1000);
    assert_int_equal(r->h.src_cid, HOST);
    assert_int_equal(r->h.buf_alloc, ALLOC);
    int fd = accept(l, NULL, NULL);
    assert_true(fd >= 0);
    return fd;
}

static int setup(void **st)
{
    struct rig *r = calloc(1, sizeof(*r));
    r->env = drv_open(&r->d);
    r->timers = (struct timer_svc){ .now = clock_now, .arm = clock_arm, .disarm = clock_disarm };
    r->env.timers = &r->timers;
    r->now = 1000000000;
    r->alloc = ALLOC;
    strcpy(r->dir, "/tmp/gazda-vsock-XXXXXX");
    assert_non_null(mkdtemp(r->dir));
    snprintf(r->path, sizeof(r->path), "%s/v", r->dir);
    r->host = vsock_host_open(r->path, NULL);
    assert_non_null(r->host);
    r->loop = loop_new();
    r->d.v = virtio_vsock_new(&r->env, r->loop, r->host, CID);
    pthread_create(&r->thread, NULL, loop_main, r->loop);
    drv_start(&r->d, VIRTIO_F_EVENT_IDX | 1);
    settle(r); /* the loop runs: before, everything would happen on this thread */
    *st = r;
    return 0;
}

static int teardown(void **st)
{
    struct rig *r = *st;
    char cmd[64];
    virtio_free(r->d.v);
    r->d.v = NULL;
    drv_close(&r->d);
    vsock_host_close(r->host);
    assert_int_not_equal(access(r->path, F_OK), 0);
    loop_stop(r->loop);
    pthread_join(r->thread, NULL);
    loop_free(r->loop);
    snprintf(cmd, sizeof(cmd), "rm -r %s", r->dir);
    assert_int_equal(system(cmd), 0);
    free(r);
    return 0;
}

#endif
