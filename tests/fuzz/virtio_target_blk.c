/* SPDX-License-Identifier: MIT */
#include <unistd.h>

#include "host/disk.h"
#include "virtio_targets.h"

enum { DISK = 1 << 20 };

static void *blk_open(struct drv *d, const struct virtio_env *env, bool ro)
{
    char path[] = "/tmp/gazda-fuzz-XXXXXX";
    int fd = mkstemp(path);
    if (fd < 0 || ftruncate(fd, DISK) < 0)
        abort();
    close(fd);
    struct disk *disk = disk_open(path, ro, NULL);
    d->v = virtio_blk_new(env, disk, 2);
    unlink(path);
    return disk;
}
static void *rw_open(struct drv *d, const struct virtio_env *env)
{
    return blk_open(d, env, false);
}
static void *ro_open(struct drv *d, const struct virtio_env *env)
{
    return blk_open(d, env, true);
}
static void blk_close(void *back)
{
    disk_close(back);
}

const struct virtio_target virtio_target_blk = { .name = "blk", .open = rw_open, .close = blk_close };
const struct virtio_target virtio_target_blk_ro = { .name = "blk-ro", .open = ro_open, .close = blk_close };
