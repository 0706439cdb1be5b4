/* SPDX-License-Identifier: MIT */
/* virtio-vsock with real unix sockets, a loop in a thread, and a clock that the test moves. */
#include "vsock_rig.h"

#include <sys/resource.h>

#include "base/log.h"
#include "state/state.h"

static void test_config(void **st)
{
    struct rig *r = *st;
    uint32_t lo = 0, hi = 1;
    assert_int_equal(drv_get(&r->d, 8), 19);
    assert_int_equal(drv_offered(&r->d) & 3, 1); /* STREAM, not SEQPACKET */
    virtio_mmio_ops.read(r->d.v, 0x100, &lo, 4);
    virtio_mmio_ops.read(r->d.v, 0x104, &hi, 4);
    assert_int_equal(lo, CID);
    assert_int_equal(hi, 0);
}

static void test_from_host(void **st)
{
    struct rig *r = *st;
    uint32_t port;
    int fd = dial(r);
    give_all(r);
    put(fd, "CONN");
    expect_none(r);
    put(fd, "ECT 52\nearly"); /* what comes early is data */
    expect(r, REQUEST);
    assert_int_equal(r->h.src_cid, HOST);
    assert_int_equal(r->h.src_port, 1 << 30);
    assert_int_equal(r->h.dst_port, 52);
    assert_int_equal(r->h.type, 1);
    assert_int_equal(r->h.buf_alloc, ALLOC);
    assert_int_equal(r->h.fwd_cnt, 0);
    expect_none(r);
    assert_true(silent(fd));
    say(r, RESPONSE, 52, 1 << 30);
    expect_text(fd, "OK 1073741824\n");
    expect(r, RW);
    assert_int_equal(r->h.len, 5);
    assert_memory_equal(r->data, "early", 5);
    rw(r, 52, 1 << 30, "answer", 6);
    expect_text(fd, "answer");
    /* A second one has a port of its own; a refusal closes it. */
    int other = dial(r);
    put(other, "connect 52\r\n");
    expect(r, REQUEST);
    assert_int_equal(r->h.src_port, (1 << 30) + 1);
    say(r, RST, 52, (1 << 30) + 1);
    expect_end(other);
    expect_none(r);
    close(other);
    close(fd);
    expect(r, SHUTDOWN);
    assert_int_equal(r->h.flags, 3);
    say(r, RST, 52, 1 << 30);
    fd = open_down(r, &port);
    assert_int_equal(port, (1 << 30) + 2);
    close(fd);
}

static void test_greetings(void **st)
{
    struct rig *r = *st;
    static const char *const wrong[] = { "HELLO 52\n",
                                         "CONNECT\n",
                                         "CONNECT x\n",
                                         "CONNECT 4294967296\n",
                                         "CONNECT 52 now\n",
                                         "CONNECT52\n",
                                         "\n",
                                         "CONNECT -1\n",
                                         "CONNECT 0000000000000000000000052" };
    int fd[66];
    give_all(r);
    for (unsigned i = 0; i < ARRAY_LEN(wrong); i++) {
        fd[0] = dial(r);
        put(fd[0], wrong[i]);
        expect_end(fd[0]);
        close(fd[0]);
    }
    /* Who says nothing must make room, the oldest first. */
    for (unsigned i = 0; i < ARRAY_LEN(fd); i++) {
        fd[i] = dial(r);
        settle(r);
    }
    expect_end(fd[0]);
    expect_end(fd[1]);
    assert_true(silent(fd[2]));
    put(fd[65], "CONNECT 4294967295\n");
    expect(r, REQUEST);
    assert_int_equal(r->h.dst_port, UINT32_MAX);
    for (unsigned i = 0; i < ARRAY_LEN(fd); i++)
        close(fd[i]);
    /* Without a driver nobody is there. */
    drv_set(&r->d, 0x70, 0);
    expect_end(fd[0] = dial(r));
    close(fd[0]);
}

static void test_from_guest(void **st)
{
    struct rig *r = *st;
    int l = listen_at(r, 77, 5);
    give_all(r);
    int fd = open_up(r, l);
    rw(r, 1000, 77, "hello", 5);
    expect_text(fd, "hello");
    put(fd, "world");
    expect(r, RW);
    assert_memory_equal(r->data, "world", 5);
    assert_int_equal(r->h.fwd_cnt, 5); /* exact */
    say(r, CREDIT_REQUEST, 1000, 77);
    expect(r, CREDIT_UPDATE);
    assert_int_equal(r->h.fwd_cnt, 5);
    assert_int_equal(r->h.buf_alloc, ALLOC);
    say(r, REQUEST, 1001, 78); /* nobody listens */
    expect(r, RST);
    assert_int_equal(drv_counter(&r->d, "connections"), 1);
    assert_int_equal(drv_counter(&r->d, "tx_packets"), 4);
    assert_int_equal(drv_counter(&r->d, "tx_bytes"), 5);
    assert_int_equal(drv_counter(&r->d, "rx_packets"), 4);
    assert_int_equal(drv_counter(&r->d, "rx_bytes"), 5);
    assert_int_equal(drv_counter(&r->d, "resets_sent"), 1);
    assert_int_equal(r->h.src_port, 78);
    assert_int_equal(r->h.dst_port, 1001);
    expect_none(r);
    close(fd);
    close(l);
}

static void test_resets(void **st)
{
    struct rig *r = *st;
    int l = listen_at(r, 77, 5);
    static const uint16_t unknown[] = { RESPONSE, SHUTDOWN, RW, CREDIT_UPDATE, CREDIT_REQUEST, 0, 8, 65535 };
    static const uint16_t fatal[] = { REQUEST, RESPONSE, 0, 8 };
    give_all(r);
    for (unsigned i = 0; i < ARRAY_LEN(unknown); i++) {
        say(r, unknown[i], 7, 8);
        expect(r, RST);
        assert_int_equal(r->h.src_port, 8);
        assert_int_equal(r->h.dst_port, 7);
    }
    say(r, RST, 7, 8);
    struct hdr h = packet(r, REQUEST, 7, 77);
    h.src_cid = 6; /* not the guest's */
    send_hdr(r, &h, NULL, 0);
    expect_none(r);
    h = packet(r, REQUEST, 7, 77);
    h.dst_cid = 9;
    send_hdr(r, &h, NULL, 0);
    expect(r, RST);
    assert_int_equal(r->h.src_cid, 9);
    h = packet(r, REQUEST, 7, 77);
    h.type = 2;
    send_hdr(r, &h, NULL, 0);
    expect(r, RST);
    assert_int_equal(r->h.type, 2);
    for (unsigned i = 0; i < ARRAY_LEN(fatal); i++) { /* of a connection that is open */
        int fd = open_up(r, l);
        say(r, fatal[i], 1000, 77);
        expect(r, RST);
        expect_end(fd);
        close(fd);
        say(r, CREDIT_UPDATE, 1000, 77);
        expect(r, RST);
    }
    int fd = open_up(r, l);
    h = packet(r, RW, 1000, 77);
    h.len = 6; /* longer than its chain */
    send_hdr(r, &h, "hello", 5);
    expect(r, RST);
    expect_end(fd);
    close(fd);
    expect_none(r);
    close(l);
}

static void read_all(int fd, uint64_t n)
{
    static uint8_t buf[65536];
    while (n) {
        ssize_t k = get(fd, buf, n < sizeof(buf) ? n : sizeof(buf));
        assert_true(k > 0);
        n -= (uint64_t)k;
    }
}

/* Fills the socket of a reader that does not read, and then what the device holds: bytes sent, all within credit. */
static uint32_t fill_up(struct rig *r)
{
    static uint8_t block[65536];
    uint32_t sent = 0, told = 0;
    for (;;) {
        while (look(r)) {
            assert_int_equal(r->h.op, CREDIT_UPDATE);
            assert_true(r->h.fwd_cnt <= sent);
            told = r->h.fwd_cnt;
        }
        say(r, CREDIT_REQUEST, 1000, 77);
        expect(r, CREDIT_UPDATE);
        told = r->h.fwd_cnt;
        uint32_t room = ALLOC - (sent - told);
        if (!room)
            return sent;
        uint32_t n = room < sizeof(block) ? room : sizeof(block);
        rw(r, 1000, 77, block, n);
        sent += n;
    }
}

static void test_credit_up(void **st)
{
    struct rig *r = *st;
    int l = listen_at(r, 77, 5);
    give_all(r);
    int fd = open_up(r, l);
    uint32_t sent = fill_up(r);
    assert_true(sent > ALLOC);
    read_all(fd, sent);
    uint32_t told = 0;
    while (told != sent) { /* the last quarter is told when asked */
        settle(r);
        say(r, CREDIT_REQUEST, 1000, 77);
        expect(r, CREDIT_UPDATE);
        assert_true(r->h.fwd_cnt >= told && r->h.fwd_cnt <= sent);
        told = r->h.fwd_cnt;
    }
    while (look(r))
        assert_int_equal(r->h.op, CREDIT_UPDATE);
    close(fd);
    close(l);
}

static void test_credit_down(void **st)
{
    struct rig *r = *st;
    int l = listen_at(r, 77, 5);
    static char text[5001];
    memset(text, 'a', 5000);
    r->alloc = 1000;
    give_all(r);
    int fd = open_up(r, l);
    put(fd, text);
    uint32_t n = 0;
    while (n < 1000) {
        expect(r, RW);
        n += r->h.len;
    }
    assert_int_equal(n, 1000); /* exactly its credit */
    expect(r, CREDIT_REQUEST);
    expect_none(r);
    r->got = 300;
    say(r, CREDIT_UPDATE, 1000, 77);
    expect(r, RW);
    assert_int_equal(r->h.len, 300);
    expect(r, CREDIT_REQUEST);
    expect_none(r);
    r->got = 5000; /* more than was sent: nonsense gives nothing */
    say(r, CREDIT_UPDATE, 1000, 77);
    expect_none(r);
    r->alloc = 1 << 20;
    r->got = 1300;
    say(r, CREDIT_UPDATE, 1000, 77);
    for (n = 1300; n < 5000; n += r->h.len)
        expect(r, RW);
    assert_int_equal(n, 5000);
    expect_none(r);
    close(fd);
    close(l);
}

static void test_half_close(void **st)
{
    struct rig *r = *st;
    uint32_t port;
    int l = listen_at(r, 77, 5);
    give_all(r);
    int fd = open_up(r, l);
    /* The guest ends its half: the host reads the end, and goes on sending. */
    rw(r, 1000, 77, "last", 4);
    shut(r, 2, 1000, 77);
    expect_text(fd, "last");
    expect_end(fd);
    put(fd, "more");
    expect(r, RW);
    rw(r, 1000, 77, "x", 1); /* after it said that it would not */
    expect(r, RST);
    assert_int_equal(r->h.buf_alloc, ALLOC); /* as in all packets of a flow */
    assert_int_equal(r->h.fwd_cnt, 4);
    close(fd);
    /* The host ends its half: the guest goes on sending. */
    fd = open_down(r, &port);
    put(fd, "last");
    shutdown(fd, SHUT_WR);
    expect(r, RW);
    expect(r, SHUTDOWN);
    assert_int_equal(r->h.flags, 2);
    rw(r, 52, port, "still", 5);
    expect_text(fd, "still");
    pass_ms(r, 300);
    expect_none(r);
    close(fd); /* nobody tells, but it is looked for */
    pass_ms(r, 300);
    expect(r, SHUTDOWN);
    assert_int_equal(r->h.flags, 3);
    say(r, RST, 52, port);
    /* Both at once from the guest: answered by a RST. */
    fd = open_down(r, &port);
    rw(r, 52, port, "still", 5);
    expect_text(fd, "still");
    shut(r, 3, 52, port);
    expect(r, RST);
    assert_int_equal(r->h.buf_alloc, ALLOC);
    assert_int_equal(r->h.fwd_cnt, 5);
    expect_end(fd);
    close(fd);
    /* The guest will not receive: the host cannot send, and its end is noticed. */
    fd = open_down(r, &port);
    shut(r, 1, 52, port);
    settle(r);
    assert_int_equal(send(fd, "x", 1, MSG_NOSIGNAL), -1);
    rw(r, 52, port, "still", 5);
    expect_text(fd, "still");
    close(fd);
    pass_ms(r, 300);
    expect(r, SHUTDOWN);
    assert_int_equal(r->h.flags, 3);
    pass_ms(r, 9000); /* no RST for an answer: it is closed for it */
    expect(r, RST);
    expect_none(r);
    close(l);
}

/* The reader is gone before the writer. */
static void test_deaf(void **st)
{
    struct rig *r = *st;
    uint32_t port;
    give_all(r);
    int fd = open_down(r, &port);
    shutdown(fd, SHUT_RD);
    rw(r, 52, port, "lost", 4);
    expect(r, SHUTDOWN);
    assert_int_equal(r->h.flags, 1);
    assert_int_equal(r->h.fwd_cnt, 4); /* as good as forwarded */
    put(fd, "still");
    expect(r, RW);
    assert_memory_equal(r->data, "still", 5);
    close(fd);
    expect(r, SHUTDOWN);
    assert_int_equal(r->h.flags, 3);
}

/* What the guest has sent arrives though the guest is gone. */
static void test_orphans(void **st)
{
    struct rig *r = *st;
    int l = listen_at(r, 77, 5);
    give_all(r);
    for (int i = 0; i < 2; i++) {
        int fd = open_up(r, l);
        uint32_t sent = fill_up(r);
        if (i)
            say(r, RST, 1000, 77);
        else
            shut(r, 3, 1000, 77);
        if (!i)
            expect(r, RST);
        read_all(fd, sent);
        expect_end(fd);
        close(fd);
    }
    int fd = open_up(r, l); /* beyond its credit */
    fill_up(r);
    rw(r, 1000, 77, "x", 1);
    expect(r, RST);
    close(fd);
    close(l);
}

static void test_timeouts(void **st)
{
    struct rig *r = *st;
    give_all(r);
    int fd = dial(r);
    put(fd, "CONNECT 52\n");
    expect(r, REQUEST);
    pass_ms(r, 4000);
    assert_true(silent(fd));
    pass_ms(r, 1100);
    expect_end(fd);
    expect(r, RST);
    assert_int_equal(r->h.dst_port, 52);
    say(r, RESPONSE, 52, 1 << 30); /* too late */
    expect(r, RST);
    close(fd);
    /* A listener that does not accept: it may come to it, or not. */
    int l = listen_at(r, 77, 0);
    say(r, REQUEST, 1, 77);
    expect(r, RESPONSE);
    say(r, REQUEST, 2, 77);
    say(r, REQUEST, 3, 77);
    pass_ms(r, 100);
    while (look(r))
        assert_int_equal(r->h.dst_port, 2); /* some kernels take one more */
    assert_true(accept(l, NULL, NULL) >= 0);
    pass_ms(r, 100);
    expect(r, RESPONSE);
    say(r, REQUEST, 4, 77);
    pass_ms(r, 1000);
    say(r, RW, 4, 77); /* it has no answer yet */
    expect(r, RST);
    assert_int_equal(r->h.dst_port, 4);
    say(r, REQUEST, 5, 77);
    pass_ms(r, 100);
    pass_ms(r, 2500);
    do
        expect(r, RST);
    while (r->h.dst_port != 5);
    close(l);
}

static void test_many(void **st)
{
    struct rig *r = *st;
    enum { N = 200 };
    int l = listen_at(r, 77, 128), fd[N];
    bool seen[N] = { false };
    struct rlimit rl;
    char text[32];
    getrlimit(RLIMIT_NOFILE, &rl);
    if (rl.rlim_cur < 2 * N + 50)
        skip();
    give_all(r);
    for (uint32_t i = 0; i < N; i++) {
        say(r, REQUEST, 1000 + i, 77);
        expect(r, RESPONSE);
        assert_int_equal(r->h.buf_alloc, i < 64 ? ALLOC : ALLOC / 4); /* the more there are the less each holds */
        fd[i] = accept(l, NULL, NULL);
    }
    for (uint32_t i = 0; i < N; i++) {
        snprintf(text, sizeof(text), "connection %u", i);
        put(fd[i], text);
        rw(r, 1000 + i, 77, text, (uint32_t)strlen(text));
    }
    for (uint32_t i = 0; i < N; i++) {
        expect(r, RW);
        uint32_t k = r->h.dst_port - 1000;
        assert_true(k < N && !seen[k]);
        seen[k] = true;
        snprintf(text, sizeof(text), "connection %u", k);
        assert_memory_equal(r->data, text, strlen(text));
        expect_text(fd[k], text);
    }
    for (uint32_t i = 0; i < N; i++) {
        shut(r, 3, 1000 + i, 77);
        expect(r, RST);
        expect_end(fd[i]);
        close(fd[i]);
    }
    close(l);
}

/* A guest that provokes answers and takes none: its packets wait. */
static void test_flood(void **st)
{
    struct rig *r = *st;
    enum { N = 1500 };
    struct hdr h = packet(r, RW, 7, 8);
    unsigned sent = 0, taken = 0, answers = 0;
    mem_write(r->d.mem, TX_AT, &h, sizeof(h));
    for (uint16_t i = 0; i < DRV_QSIZE; i++)
        drv_desc(&r->d, TX, i, (struct drv_desc){ TX_AT, 44, 0, 0 });
    for (bool stuck = false; !stuck; taken += !stuck) {
        for (; sent - taken < DRV_QSIZE; sent++)
            drv_add(&r->d, TX, (uint16_t)(sent % DRV_QSIZE));
        drv_kick(&r->d, TX);
        drv_quiet(&r->d);
        stuck = drv_used(&r->d, TX, NULL) < 0;
        assert_true(taken < N);
    }
    assert_in_range(taken, 1000, N);
    give_all(r);
    for (int i = 0; answers < sent && i < PATIENCE_MS; i++) {
        while (look(r))
            answers += r->h.op == RST;
        usleep(1000);
    }
    assert_int_equal(answers, sent); /* none is lost */
}

static void test_small_buffers(void **st)
{
    struct rig *r = *st;
    uint32_t len, port;
    for (uint16_t i = 0; i < 2; i++)
        give(r, i, i ? 44 : 43);
    drv_kick(&r->d, RX);
    say(r, RW, 7, 8);
    drv_quiet(&r->d);
    assert_int_equal(drv_used(&r->d, RX, &len), 0);
    assert_int_equal(len, 0);
    assert_int_equal(drv_used(&r->d, RX, &len), 1);
    assert_int_equal(len, 44);
    give_all(r);
    int fd = open_down(r, &port);
    close(fd);
}

static void test_state(void **st)
{
    struct rig *r = *st;
    uint32_t port, len, id = 99;
    struct state_out out = { 0 };
    give_all(r);
    int fd = open_down(r, &port);
    assert_int_equal(virtio_mmio_ops.save(r->d.v, &out), 0);
    put(fd, "x"); /* saving has harmed nothing */
    expect(r, RW);
    for (size_t n = 0; n < out.len; n++) {
        struct state_in in = { .buf = out.buf, .len = n };
        assert_int_equal(virtio_mmio_ops.load(r->d.v, &in, 1), -EINVAL);
    }
    put(fd, "y"); /* nor has what was refused */
    expect(r, RW);
    struct state_in in = { .buf = out.buf, .len = out.len };
    assert_int_equal(virtio_mmio_ops.load(r->d.v, &in, 1), 0);
    expect_end(fd);
    close(fd);
    drv_quiet(&r->d);
    drv_desc(&r->d, EV, 0, (struct drv_desc){ DRV_DATA, 2, D_WRITE, 0 });
    drv_desc(&r->d, EV, 1, (struct drv_desc){ DRV_DATA, 8, D_WRITE, 0 });
    drv_add(&r->d, EV, 0);
    drv_add(&r->d, EV, 1);
    drv_kick(&r->d, EV);
    drv_quiet(&r->d);
    assert_int_equal(drv_used(&r->d, EV, &len), 0); /* too short */
    assert_int_equal(len, 0);
    assert_int_equal(drv_used(&r->d, EV, &len), 1);
    assert_int_equal(len, 4);
    mem_read(r->d.mem, DRV_DATA, &id, 4);
    assert_int_equal(id, 0);
    out.buf[out.len - 8] ^= 1; /* another CID */
    in = (struct state_in){ .buf = out.buf, .len = out.len };
    assert_int_equal(virtio_mmio_ops.load(r->d.v, &in, 1), -EINVAL);
    state_out_free(&out);
}

/* A reset drops all connections, and the listener serves the next driver. */
static void test_reset(void **st)
{
    struct rig *r = *st;
    uint32_t port;
    give_all(r);
    int fd = open_down(r, &port);
    drv_start(&r->d, 0);
    expect_end(fd);
    close(fd);
    give_all(r);
    fd = open_down(r, &port);
    expect_none(r);
    close(fd);
    expect(r, SHUTDOWN);
    open_down(r, &port); /* left open for the end of the device */
}

static void test_socket_file(void **st)
{
    struct rig *r = *st;
    struct err e = { 0 };
    char path[100];
    assert_null(vsock_host_open(r->path, &e)); /* somebody listens: we do */
    assert_non_null(strstr(e.text, "another process"));
    snprintf(path, sizeof(path), "%s/w", r->dir);
    struct sockaddr_un a = address(path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
    close(fd); /* left behind */
    struct vsock_host *h = vsock_host_open(path, &e);
    assert_non_null(h);
    vsock_host_close(h);
    assert_int_equal(access(path, F_OK), -1);
    e = (struct err){ 0 };
    fclose(fopen(path, "w"));
    assert_null(vsock_host_open(path, &e));
    assert_non_null(strstr(e.text, "a file of that name"));
    memset(path, 'x', sizeof(path) - 1);
    e = (struct err){ 0 };
    char *longer = calloc(1, 300);
    memset(longer, 'x', 299);
    assert_null(vsock_host_open(longer, &e));
    assert_non_null(strstr(e.text, "longer than"));
    free(longer);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_config),    T(test_from_host),   T(test_greetings),  T(test_from_guest),    T(test_resets),
        T(test_credit_up), T(test_credit_down), T(test_half_close), T(test_deaf),          T(test_orphans),
        T(test_timeouts),  T(test_many),        T(test_flood),      T(test_small_buffers), T(test_state),
        T(test_reset),     T(test_socket_file),
    };
    log_set_level(LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
