/* SPDX-License-Identifier: MIT */
/* Raw images: byte n of the file is byte n of the disk. */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host/disk_format.h"

struct raw {
    _Atomic bool no_punch, no_zero; /* the host said EOPNOTSUPP once */
};

static int raw_open(struct disk *d, const struct disk_options *o, struct err *e)
{
    (void)o;
    d->state = calloc(1, sizeof(struct raw));
    if (!d->state)
        return err_set(e, ENOMEM, "out of memory");
    d->bytes = d->file_bytes;
    return 0;
}

static void raw_close(struct disk *d)
{
    free(d->state);
}

static int raw_read(struct disk *d, struct iov_cursor *c, uint64_t off, uint64_t len)
{
    return file_readv(d->fd, c, off, len, d->is_base ? EOF_ZEROES : EOF_ERROR);
}

static int raw_write(struct disk *d, struct iov_cursor *c, uint64_t off, uint64_t len)
{
    return file_writev(d->fd, c, off, len);
}

static int raw_flush(struct disk *d)
{
    return disk_sync(d);
}

/* As file_allocate; remembers in *cannot that the host can never do it. */
static int try_allocate(struct disk *d, int mode, uint64_t off, uint64_t len)
{
    struct raw *w = d->state;
    _Atomic bool *cannot = mode & FALLOC_FL_PUNCH_HOLE ? &w->no_punch : &w->no_zero;
    if (atomic_load(cannot))
        return -EOPNOTSUPP;
    int r = file_allocate(d->fd, mode | FALLOC_FL_KEEP_SIZE, off, len);
    if (r == -EOPNOTSUPP && errno != EINVAL)
        atomic_store(cannot, true);
    return r;
}

static int raw_discard(struct disk *d, uint64_t off, uint64_t len)
{
    int r = try_allocate(d, FALLOC_FL_PUNCH_HOLE, off, len);
    return r == -EOPNOTSUPP ? 0 : r;
}

static int raw_zero(struct disk *d, uint64_t off, uint64_t len, bool unmap)
{
    int r = unmap ? try_allocate(d, FALLOC_FL_PUNCH_HOLE, off, len) : -EOPNOTSUPP;
    if (r == -EOPNOTSUPP)
        r = try_allocate(d, FALLOC_FL_ZERO_RANGE, off, len);
    return r == -EOPNOTSUPP ? file_write_zeroes(d->fd, off, len) : r;
}

static int raw_map(struct disk *d, uint64_t off, uint64_t *len)
{
    off_t data = lseek(d->fd, (off_t)off, SEEK_DATA);
    if (data < 0)
        return errno == ENXIO ? DISK_MAP_ZERO : DISK_MAP_DATA;
    uint64_t to = (uint64_t)data & ~(uint64_t)(DISK_SECTOR - 1);
    if (to > off) {
        *len = to - off < *len ? to - off : *len;
        return DISK_MAP_ZERO;
    }
    off_t hole = lseek(d->fd, (off_t)off, SEEK_HOLE);
    to = hole < 0 ? off + *len : ((uint64_t)hole + DISK_SECTOR - 1) & ~(uint64_t)(DISK_SECTOR - 1);
    if (to > off && to - off < *len)
        *len = to - off;
    return DISK_MAP_DATA;
}

static int raw_resize(struct disk *d, uint64_t bytes, struct err *e)
{
    if (d->device)
        return err_set(e, EINVAL, "'%.300s' is a block device, whose size is fixed", d->path);
    if (ftruncate(d->fd, (off_t)bytes) < 0)
        return err_set(e, errno, "cannot resize '%.300s': %s", d->path, strerror(errno));
    d->bytes = d->file_bytes = bytes;
    return 0;
}

const struct disk_format disk_raw = {
    .name = "raw",
    .open = raw_open,
    .close = raw_close,
    .read = raw_read,
    .write = raw_write,
    .flush = raw_flush,
    .discard = raw_discard,
    .zero = raw_zero,
    .map = raw_map,
    .resize = raw_resize,
};
