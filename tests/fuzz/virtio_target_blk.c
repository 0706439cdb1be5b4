/* SPDX-License-Identifier: MIT */
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
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

/*
 * The two files of all disks; full of zeroes again for each. One is in memory, which is faster; the other is not, for a
 * file in memory cannot be read without waiting (RWF_NOWAIT), which is a path of its own.
 */
static int image_fd[2] = { -1, -1 };
static const char *image(bool in_memory)
{
    static char path[2][32];
    char name[] = "/tmp/gazda-fuzz-XXXXXX";
    int *fd = &image_fd[in_memory];
    if (*fd < 0) {
        *fd = in_memory ? memfd_create("fuzz", 0) : mkstemp(name);
        if (!in_memory)
            unlink(name);
        snprintf(path[in_memory], sizeof(path[0]), "/proc/self/fd/%d", *fd);
    }
    struct stat st;
    if (*fd < 0 || fstat(*fd, &st) < 0)
        abort();
    if ((st.st_size != DISK || st.st_blocks) && (ftruncate(*fd, 0) < 0 || ftruncate(*fd, DISK) < 0))
        abort();
    return path[in_memory];
}
static void blk_end(void)
{
    for (int i = 0; i < 2; i++) {
        if (image_fd[i] >= 0)
            close(image_fd[i]);
        image_fd[i] = -1;
    }
}

/* How a disk is made: also by the case's variant. */
struct how {
    bool ro, in_memory;
    struct virtio_blk_cfg cfg;
};

static void *blk_open(struct drv *d, const struct virtio_env *env, const struct how *h)
{
    struct back *b = calloc(1, sizeof(*b));
    struct virtio_env with_time = *env;
    if (!b)
        abort();
    b->timers = (struct timer_svc){ .now = now, .arm = arm, .disarm = disarm };
    struct err e = { 0 };
    b->disk = disk_open(image(h->in_memory), h->ro, &e);
    if (!b->disk) {
        fprintf(stderr, "blk: %s\n", e.text);
        abort();
    }
    with_time.timers = &b->timers;
    struct virtio_blk_cfg c = h->cfg;
    c.disk = b->disk;
    c.queues = 2;
    d->v = virtio_blk_new(&with_time, &c, NULL);
    if (!d->v) { /* a host without io_uring */
        c.io = DISKIO_THREADS;
        d->v = virtio_blk_new(&with_time, &c, NULL);
    }
    return b;
}

static void *rw_open(struct drv *d, const struct virtio_env *env, unsigned variant)
{
    return blk_open(d, env, &(struct how){ .in_memory = variant & 1, .cfg.io = DISKIO_THREADS });
}
static void *uring_open(struct drv *d, const struct virtio_env *env, unsigned variant)
{
    bool ring = variant % 16 == 0; /* it takes a millisecond or two */
    return blk_open(d, env, &(struct how){ .in_memory = variant & 1, .cfg.io = ring ? DISKIO_URING : DISKIO_THREADS });
}
static void *ro_open(struct drv *d, const struct virtio_env *env, unsigned variant)
{
    return blk_open(d, env, &(struct how){ .ro = true, .in_memory = variant & 1, .cfg.io = DISKIO_THREADS });
}
static void *limit_open(struct drv *d, const struct virtio_env *env, unsigned variant)
{
    static const struct limiter_cfg limit = { .bandwidth = { 8192, 4096, 1 }, .ops = { 3, 2, 1 } };
    return blk_open(d, env,
                    &(struct how){ .in_memory = variant & 1, .cfg = { .limit = &limit, .io = DISKIO_THREADS } });
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

const struct virtio_target virtio_target_blk = { .name = "blk", .open = rw_open, .close = blk_close, .end = blk_end };
const struct virtio_target virtio_target_blk_ro = {
    .name = "blk-ro", .open = ro_open, .close = blk_close, .end = blk_end
};
const struct virtio_target virtio_target_blk_uring = {
    .name = "blk-uring", .unordered = true, .open = uring_open, .close = blk_close, .end = blk_end
};
const struct virtio_target virtio_target_blk_limit = {
    .name = "blk-limit", .open = limit_open, .input = limit_input, .close = blk_close, .end = blk_end
};
