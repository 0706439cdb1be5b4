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
    int peer[PEERS];
    unsigned turn;
};

/* From case to case: the event loop and the listeners, on which nobody waits when a case begins. */
static struct {
    struct loop *loop;
    pthread_t thread;
    struct vsock_host *host;
    char dir[32], path[64], listen_path[80];
    int listener;
} kept;

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

static void keep(void)
{
    strcpy(kept.dir, "/tmp/gazda-fuzz-XXXXXX");
    if (!mkdtemp(kept.dir))
        abort();
    snprintf(kept.path, sizeof(kept.path), "%s/v", kept.dir);
    snprintf(kept.listen_path, sizeof(kept.listen_path), "%s_%d", kept.path, PORT);
    kept.host = vsock_host_open(kept.path, NULL);
    struct sockaddr_un a = address(kept.listen_path);
    kept.listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    kept.loop = loop_new();
    if (!kept.host || !kept.loop || bind(kept.listener, (struct sockaddr *)&a, sizeof(a)) < 0 ||
        listen(kept.listener, 4) < 0)
        abort();
    pthread_create(&kept.thread, NULL, loop_main, kept.loop);
}

static void *vsock_open(struct drv *d, const struct virtio_env *env, unsigned variant)
{
    struct vsock_back *b = calloc(1, sizeof(*b));
    struct virtio_env e = *env;
    (void)variant;
    if (!kept.loop)
        keep();
    b->d = d;
    e.timers = loop_timers(kept.loop);
    d->v = virtio_vsock_new(&e, kept.loop, kept.host, 0); /* the CID that hostile packets begin with */
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
    struct sockaddr_un a = address(kept.path);
    char sink[256];
    if (n && buf[0] % 4 == 0 && *fd >= 0) {
        close(*fd);
        *fd = -1;
    }
    if (*fd < 0 && n && buf[0] % 2) {
        *fd = accept4(kept.listener, NULL, NULL, SOCK_NONBLOCK);
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
    int fd;
    for (int i = 0; i < PEERS; i++)
        if (b->peer[i] >= 0)
            close(b->peer[i]);
    while ((fd = vsock_host_accept(kept.host)) >= 0)
        close(fd);
    while ((fd = accept4(kept.listener, NULL, NULL, SOCK_NONBLOCK)) >= 0)
        close(fd);
    free(b);
}

static void vsock_end(void)
{
    if (!kept.loop)
        return;
    loop_stop(kept.loop);
    pthread_join(kept.thread, NULL);
    loop_free(kept.loop);
    kept.loop = NULL;
    vsock_host_close(kept.host);
    close(kept.listener);
    unlink(kept.listen_path);
    rmdir(kept.dir);
}

const struct virtio_target virtio_target_vsock = {
    .name = "vsock",
    .unordered = true,
    .open = vsock_open,
    .input = vsock_input,
    .close = vsock_close,
    .end = vsock_end,
};
