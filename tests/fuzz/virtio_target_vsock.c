/* SPDX-License-Identifier: MIT */
#include <pthread.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/loop.h"
#include "host/vsock.h"
#include "virtio_targets.h"

/* ---- the host: one listener for a guest's port, and programs that connect and talk ---- */

enum { PEERS = 4, PORT = 0 };

struct vsock_back {
    struct drv *d;
    struct loop *loop;
    pthread_t thread;
    struct vsock_host *host;
    char dir[32], path[64], listen_path[80];
    int listener, peer[PEERS];
    unsigned turn;
};

static void *loop_main(void *l)
{
    loop_run(l);
    return NULL;
}

static struct sockaddr_un address(const char *path)
{
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
    return a;
}

static void *vsock_open(struct drv *d, const struct virtio_env *env)
{
    struct vsock_back *b = calloc(1, sizeof(*b));
    struct virtio_env e = *env;
    b->d = d;
    strcpy(b->dir, "/tmp/gazda-fuzz-XXXXXX");
    if (!mkdtemp(b->dir))
        abort();
    snprintf(b->path, sizeof(b->path), "%s/v", b->dir);
    snprintf(b->listen_path, sizeof(b->listen_path), "%s_%d", b->path, PORT);
    b->host = vsock_host_open(b->path, NULL);
    struct sockaddr_un a = address(b->listen_path);
    b->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (!b->host || bind(b->listener, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(b->listener, 4) < 0)
        abort();
    b->loop = loop_new();
    e.timers = loop_timers(b->loop);
    d->v = virtio_vsock_new(&e, b->loop, b->host, 0); /* the CID that hostile packets begin with */
    pthread_create(&b->thread, NULL, loop_main, b->loop);
    for (int i = 0; i < PEERS; i++)
        b->peer[i] = -1;
    return b;
}

/* A packet of the guest that says something: a driver of the mere bytes would hardly ever come that far. */
static void guest_packet(struct vsock_back *b, const uint8_t *buf, size_t n)
{
    enum { TX = 1, AT = DRV_DATA + 0x4000 };
    struct {
        uint64_t src_cid, dst_cid;
        uint32_t src_port, dst_port, len;
        uint16_t type, op;
        uint32_t flags, buf_alloc, fwd_cnt;
    } __attribute__((packed)) h = { .dst_cid = 2, .type = 1 };
    uint8_t x[8] = { 0 };
    memcpy(x, buf, n < sizeof(x) ? n : sizeof(x));
    h.op = x[1] % 9;
    h.src_port = x[2] % 4 ? 16 : x[2];
    h.dst_port = x[3] % 2 ? PORT : (1U << 30) + x[3] / 2 % 4;
    h.len = x[4] * 64U;
    h.flags = x[5];
    h.buf_alloc = x[6] * 32U;
    h.fwd_cnt = x[7] % 2 ? 0 : x[7];
    mem_write(b->d->mem, AT, &h, sizeof(h));
    drv_desc(b->d, TX, 0, (struct drv_desc){ AT, 44, D_NEXT, 1 });
    drv_desc(b->d, TX, 1, (struct drv_desc){ AT, x[5] & 16 ? h.len : 16384, 0, 0 });
    drv_add(b->d, TX, 0);
    drv_kick(b->d, TX);
}

static void vsock_input(void *back, const uint8_t *buf, size_t n)
{
    struct vsock_back *b = back;
    if (n && buf[0] & 16) {
        guest_packet(b, buf, n);
        return;
    }
    int *fd = &b->peer[b->turn++ % PEERS];
    struct sockaddr_un a = address(b->path);
    char sink[256];
    if (n && buf[0] % 4 == 0 && *fd >= 0) {
        close(*fd);
        *fd = -1;
    }
    if (*fd < 0 && n && buf[0] % 2) {
        *fd = accept4(b->listener, NULL, NULL, SOCK_NONBLOCK);
    } else if (*fd < 0) {
        *fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
        if (connect(*fd, (struct sockaddr *)&a, sizeof(a)) == 0 && n)
            (void)!send(*fd, "CONNECT 16\n", 11, MSG_NOSIGNAL);
    }
    if (*fd < 0)
        return;
    (void)!send(*fd, buf, n, MSG_NOSIGNAL);
    (void)!read(*fd, sink, sizeof(sink));
    if (n && buf[0] % 8 == 3)
        shutdown(*fd, SHUT_WR);
}

static void vsock_close(void *back)
{
    struct vsock_back *b = back;
    loop_stop(b->loop);
    pthread_join(b->thread, NULL);
    loop_free(b->loop);
    vsock_host_close(b->host);
    for (int i = 0; i < PEERS; i++)
        if (b->peer[i] >= 0)
            close(b->peer[i]);
    close(b->listener);
    unlink(b->listen_path);
    rmdir(b->dir);
    free(b);
}

const struct virtio_target virtio_target_vsock = {
    .name = "vsock", .open = vsock_open, .input = vsock_input, .close = vsock_close
};
