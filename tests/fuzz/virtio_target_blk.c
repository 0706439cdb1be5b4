/* SPDX-License-Identifier: MIT */
#include <unistd.h>

#include "host/disk.h"
#include "host/limiter.h"
#include "virtio_targets.h"

enum { DISK = 1 << 20 };

/* A clock that goes as fast as it is looked at, and a timer that a fuzzer's input fires: not much to wait for. */
struct back {
    struct timer_svc timers; /* first */
    _Atomic uint64_t now;
    struct timer *_Atomic armed;
    struct disk *disk;
};

static uint64_t now(struct timer_svc *svc)
{
    return atomic_fetch_add(&((struct back *)svc)->now, 50000);
}
static void arm(struct timer_svc *svc, struct timer *t, uint64_t deadline)
{
    (void)deadline;
    ((struct back *)svc)->armed = t;
}
static void disarm(struct timer_svc *svc, struct timer *t)
{
    (void)t;
    ((struct back *)svc)->armed = NULL;
}

static void *blk_open(struct drv *d, const struct virtio_env *env, bool ro, const struct virtio_blk_cfg *cfg)
{
    char path[] = "/tmp/gazda-fuzz-XXXXXX";
    struct back *b = calloc(1, sizeof(*b));
    struct virtio_env with_time = *env;
    int fd = mkstemp(path);
    if (!b || fd < 0 || ftruncate(fd, DISK) < 0)
        abort();
    close(fd);
    b->timers = (struct timer_svc){ .now = now, .arm = arm, .disarm = disarm };
    b->disk = disk_open(path, ro, NULL);
    with_time.timers = &b->timers;
    struct virtio_blk_cfg c = *cfg;
    c.disk = b->disk;
    c.queues = 2;
    d->v = virtio_blk_new(&with_time, &c, NULL);
    if (!d->v) { /* a host without io_uring */
        c.io = DISKIO_THREADS;
        d->v = virtio_blk_new(&with_time, &c, NULL);
    }
    unlink(path);
    return b;
}
static const struct virtio_blk_cfg threads = { .io = DISKIO_THREADS }, uring = { .io = DISKIO_URING };

static void *rw_open(struct drv *d, const struct virtio_env *env)
{
    return blk_open(d, env, false, &threads);
}
static void *uring_open(struct drv *d, const struct virtio_env *env)
{
    static _Atomic unsigned n; /* the kernel takes a millisecond or two for a ring: not each time, but the first */
    return blk_open(d, env, false, n++ % 16 == 0 ? &uring : &threads);
}
static void *ro_open(struct drv *d, const struct virtio_env *env)
{
    return blk_open(d, env, true, &threads);
}
static void *limit_open(struct drv *d, const struct virtio_env *env)
{
    static const struct limiter_cfg limit = { .bandwidth = { 8192, 4096, 1 }, .ops = { 3, 2, 1 } };
    return blk_open(d, env, false, &(struct virtio_blk_cfg){ .limit = &limit, .io = DISKIO_THREADS });
}
static void limit_input(void *back, const uint8_t *buf, size_t n)
{
    struct timer *t = atomic_exchange(&((struct back *)back)->armed, NULL);
    (void)buf, (void)n;
    if (t)
        t->fn(t->arg);
}
static void blk_close(void *back)
{
    disk_close(((struct back *)back)->disk);
    free(back);
}

const struct virtio_target virtio_target_blk = { .name = "blk", .open = rw_open, .close = blk_close };
const struct virtio_target virtio_target_blk_ro = { .name = "blk-ro", .open = ro_open, .close = blk_close };
const struct virtio_target virtio_target_blk_uring = { .name = "blk-uring", .open = uring_open, .close = blk_close };
const struct virtio_target virtio_target_blk_limit = {
    .name = "blk-limit", .open = limit_open, .input = limit_input, .close = blk_close
};
