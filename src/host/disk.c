/* SPDX-License-Identifier: MIT */
/*
 * Disk images: opening, locking, telling formats apart, and checks before a format's own code. The size is read once:
 * an image that shrinks later gives I/O errors, one that grows is not used further.
 * Locks are OFD locks on the whole file: they belong to the open file, so two disks of one process exclude each other
 * too, and they end with the process however it ends; or a moment later, for the kernel takes a ring (io_uring) apart
 * when its process is gone already. So a lock that is held is tried for a while.
 */
#include "host/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/types.h"
#include "host/disk_format.h"

/* ---- telling formats apart ---- */

struct magic {
    const char *name, *bytes;
    unsigned at, len;
};

enum { HEAD = 128 };

/* A guest must not get the container's bytes as its disk: it would not boot, and its first write destroys the image. */
static const struct magic formats[] = {
    { "qcow2", "QFI\xfb", 0, 4 },
    { "QED", "QED\0", 0, 4 },
    { "VMDK", "KDMV", 0, 4 },
    { "VMDK", "COWD", 0, 4 },
    { "VHDX", "vhdxfile", 0, 8 },
    { "VHD", "conectix", 0, 8 },
    { "VDI", "\x7f\x10\xda\xbe", 64, 4 },
    { "VMDK", "# Disk DescriptorFile", 0, 21 },
    { "parallels", "WithoutFreeSpace", 0, 16 },
    { "parallels", "WithouFreSpacExt", 0, 16 },
};

/* NULL: looks like none of them, so it is raw. */
static const char *looks_like(const uint8_t head[HEAD])
{
    for (size_t i = 0; i < ARRAY_LEN(formats); i++)
        if (memcmp(head + formats[i].at, formats[i].bytes, formats[i].len) == 0)
            return formats[i].name;
    return NULL;
}

static int choose_format(struct disk *d, const char *wanted, struct err *e)
{
    uint8_t head[HEAD];
    if (wanted && strcmp(wanted, "raw") != 0 && strcmp(wanted, "qcow2") != 0)
        return err_set(e, ENOTSUP,
                       "the disk image '%.200s' is said to be in %.40s format; only raw and qcow2 are there", d->path,
                       wanted);
    if (wanted) {
        d->fmt = wanted[0] == 'r' ? &disk_raw : &disk_qcow2;
        return 0;
    }
    int r = file_read(d->fd, head, sizeof(head), 0);
    if (r < 0)
        return err_set(e, -r, "cannot read the disk image '%.300s': %s", d->path, strerror(-r));
    const char *name = looks_like(head);
    if (name && strcmp(name, "qcow2") != 0)
        return err_set(e, ENOTSUP,
                       "the disk image '%.200s' is in %s format, only raw and qcow2 are there: convert it with "
                       "qemu-img convert -O qcow2",
                       d->path, name);
    d->fmt = name ? &disk_qcow2 : &disk_raw;
    d->guard = !name && !d->read_only;
    return 0;
}

/* ---- opening ---- */

static int lock_failed(const struct disk *d, struct err *e)
{
    if (errno == EAGAIN || errno == EACCES)
        return err_set(e, EBUSY, "the disk image '%.300s' is in use by another virtual machine, or given twice%s",
                       d->path, d->read_only ? ", with the right to write" : "");
    log_warn("the disk image '%s' cannot be locked (%s): nothing keeps a second machine from using it", d->path,
             strerror(errno));
    return 0;
}

enum { LOCK_TRIES = 50, LOCK_PAUSE_US = 10000 };

static int lock_image(const struct disk *d, struct err *e)
{
    struct flock fl = { .l_type = (short)(d->read_only ? F_RDLCK : F_WRLCK), .l_whence = SEEK_SET };
    for (int tries = 1; fcntl(d->fd, F_OFD_SETLK, &fl) < 0; tries++) {
        if ((errno != EAGAIN && errno != EACCES) || tries == LOCK_TRIES)
            return lock_failed(d, e);
        usleep(LOCK_PAUSE_US);
    }
    return 0;
}

static int examine(struct disk *d, struct stat *st, struct err *e)
{
    if (fstat(d->fd, st) < 0)
        return err_set(e, errno, "cannot examine the disk image '%.300s': %s", d->path, strerror(errno));
    if (!S_ISBLK(st->st_mode) && !S_ISREG(st->st_mode))
        return err_set(e, EINVAL, "the disk image '%.300s' is neither a regular file nor a block device", d->path);
    d->device = S_ISBLK(st->st_mode);
    d->file_bytes = (uint64_t)st->st_size;
    if (d->device && ioctl(d->fd, BLKGETSIZE64, &d->file_bytes) < 0)
        return err_set(e, errno, "cannot tell the size of the disk '%.300s': %s", d->path, strerror(errno));
    uint64_t block = (uint64_t)st->st_blksize;
    d->block = block >= DISK_SECTOR && block <= 1U << 20 && (block & (block - 1)) == 0 ? (uint32_t)block : 4096;
    d->dev = st->st_dev;
    d->ino = st->st_ino;
    return 0;
}

/* Firecracker's: device, device of the node and inode in decimal, one after the other, cut off. */
static void name_image(struct disk *d, const struct stat *st)
{
    char text[80];
    int n = snprintf(text, sizeof(text), "%lu%lu%lu", (unsigned long)st->st_dev, (unsigned long)st->st_rdev,
                     (unsigned long)st->st_ino);
    memcpy(d->serial, text, n < DISK_SERIAL ? (size_t)n : DISK_SERIAL);
}

static int check_chain(const struct disk *d, struct err *e)
{
    if (d->depth >= DISK_CHAIN_MAX)
        return err_set(e, ELOOP, "the disk image '%.300s' is the end of a chain of more than %d backing files", d->path,
                       DISK_CHAIN_MAX);
    for (const struct disk *o = d->over; o; o = o->over)
        if (o->dev == d->dev && o->ino == d->ino)
            return err_set(e, ELOOP, "the disk image '%.300s' has itself as a backing file", d->path);
    return 0;
}

static int check_size(struct disk *d, struct err *e)
{
    uint64_t bytes = d->bytes;
    if (d->is_base && bytes % DISK_SECTOR) {
        d->bytes = (bytes | (DISK_SECTOR - 1)) + 1;
        return 0;
    }
    d->bytes &= ~(uint64_t)(DISK_SECTOR - 1);
    if (d->bytes == 0 && !d->is_base)
        return err_set(e, EINVAL, "the disk image '%.300s' is %s; a disk has at least one sector of 512 bytes", d->path,
                       bytes ? "too small" : "empty");
    if (d->bytes != bytes)
        log_warn("the disk image '%s' of %lu bytes is not a multiple of 512: the last %lu are not used", d->path, bytes,
                 bytes - d->bytes);
    return 0;
}

static struct disk *open_image(int fd, const char *path, const struct disk_options *o, struct disk *over, struct err *e)
{
    struct stat st;
    struct disk *d = calloc(1, sizeof(*d));
    char *name = strdup(path);
    if (!d || !name) {
        err_set(e, ENOMEM, "out of memory");
        goto undo_alloc;
    }
    d->path = name;
    d->read_only = o->read_only;
    d->fd = fd;
    d->over = over;
    d->is_base = over != NULL;
    d->depth = over ? over->depth + 1 : 0;
    if (examine(d, &st, e) < 0 || check_chain(d, e) < 0 || lock_image(d, e) < 0 || choose_format(d, o->format, e) < 0)
        goto undo_alloc;
    name_image(d, &st);
    if (d->fmt->open(d, o, e) < 0)
        goto undo_alloc;
    if (check_size(d, e) < 0)
        goto undo_format;
    return d;

undo_format:
    d->fmt->close(d);
    disk_close(d->backing);
undo_alloc:
    close(fd);
    free(name);
    free(d);
    return NULL;
}

static struct disk *open_path(const char *path, const struct disk_options *o, struct disk *over, struct err *e)
{
    /* O_NONBLOCK: a FIFO must be refused, not waited for. It does nothing to files and disks. */
    int fd = open(path, (o->read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd >= 0)
        return open_image(fd, path, o, over, e);
    bool hint = !o->read_only && (errno == EACCES || errno == EROFS || errno == EPERM);
    if (over)
        err_set(e, errno, "cannot open '%.200s', the backing file of '%.200s': %s", path, over->path, strerror(errno));
    else
        err_set(e, errno, "cannot open the disk image '%.300s': %s%s", path, strerror(errno),
                hint ? " (a read-only disk is given as FILE,ro)" : "");
    return NULL;
}

struct disk *disk_open(const char *path, bool read_only, struct err *e)
{
    struct disk_options o = { .read_only = read_only };
    return open_path(path, &o, NULL, e);
}

struct disk *disk_open_with(const char *path, const struct disk_options *o, struct err *e)
{
    return open_path(path, o, NULL, e);
}

struct disk *disk_open_fd(int fd, const char *path, const struct disk_options *o, struct err *e)
{
    return open_image(fd, path, o, NULL, e);
}

int disk_open_backing(struct disk *d, const char *name, const char *format, const struct disk_options *o, struct err *e)
{
    char *path;
    struct disk_options b = { .format = format, .read_only = !(o->backing_writable && d->depth == 0) };
    const char *slash = strrchr(d->path, '/');
    int folder = name[0] != '/' && slash ? (int)(slash - d->path + 1) : 0;
    if (asprintf(&path, "%.*s%s", folder, d->path, name) < 0)
        return err_set(e, ENOMEM, "out of memory");
    d->backing = open_path(path, &b, d, e);
    free(path);
    return d->backing ? 0 : -EINVAL;
}

void disk_close(struct disk *d)
{
    while (d) {
        struct disk *below = d->backing;
        d->fmt->close(d);
        close(d->fd);
        free(d->path);
        free(d);
        d = below;
    }
}

uint64_t disk_bytes(const struct disk *d)
{
    return d->bytes;
}
bool disk_read_only(const struct disk *d)
{
    return d->read_only;
}
const char *disk_format_name(const struct disk *d)
{
    return d->fmt->name;
}
struct disk *disk_backing(const struct disk *d)
{
    return d->backing;
}
uint32_t disk_block_size(const struct disk *d)
{
    return d->block;
}
void disk_serial(const struct disk *d, char out[DISK_SERIAL])
{
    memcpy(out, d->serial, DISK_SERIAL);
}
int disk_direct_fd(const struct disk *d)
{
    return d->fmt == &disk_raw ? d->fd : -1;
}

/* ---- I/O ---- */

static int check(const struct disk *d, uint64_t off, uint64_t len, bool change)
{
    if (off > d->bytes || len > d->bytes - off || off % DISK_SECTOR || len % DISK_SECTOR)
        return -EINVAL;
    return change && d->read_only ? -EROFS : 0;
}

static int total(const struct iovec *iov, int n, uint64_t *len)
{
    *len = 0;
    for (int i = 0; i < n; i++)
        if (__builtin_add_overflow(*len, iov[i].iov_len, len))
            return -EINVAL;
    return 0;
}

int disk_read(struct disk *d, struct iovec *iov, int n, uint64_t off)
{
    uint64_t len;
    struct iov_cursor c = { iov, n, 0 };
    int r = total(iov, n, &len);
    if (r == 0)
        r = check(d, off, len, false);
    return r < 0 || len == 0 ? r : d->fmt->read(d, &c, off, len);
}

/*
 * A raw image whose format nobody stated is opened by its looks the next time too. A guest that could give it another
 * format's header would have us read files of its choice as that image's backing file.
 */
static int write_guarded(struct disk *d, struct iov_cursor *c)
{
    uint8_t sector[DISK_SECTOR]; /* decided on and written: the guest's buffer may change */
    iov_get(c, sector, sizeof(sector));
    const char *name = looks_like(sector);
    if (name) {
        log_error("the guest may not make a %s image of its disk '%s', whose format was not stated: add format=raw",
                  name, d->path);
        return -EPERM;
    }
    struct iovec v = { sector, sizeof(sector) };
    struct iov_cursor one = { &v, 1, 0 };
    return d->fmt->write(d, &one, 0, sizeof(sector));
}

int disk_write(struct disk *d, struct iovec *iov, int n, uint64_t off)
{
    uint64_t len;
    struct iov_cursor c = { iov, n, 0 };
    int r = total(iov, n, &len);
    if (r == 0)
        r = check(d, off, len, true);
    if (r < 0 || len == 0)
        return r;
    if (d->guard && off == 0) {
        r = write_guarded(d, &c);
        off += DISK_SECTOR;
        len -= DISK_SECTOR;
        if (r < 0 || len == 0)
            return r;
    }
    return d->fmt->write(d, &c, off, len);
}

int disk_sync(struct disk *d)
{
    int r = file_sync(d->fd), none = 0;
    if (r < 0 && atomic_compare_exchange_strong(&d->sync_error, &none, r))
        log_error("what was written to '%s' may be lost: %s; it cannot be flushed any more", d->path, strerror(-r));
    return atomic_load(&d->sync_error);
}

int disk_flush(struct disk *d)
{
    return d->read_only ? 0 : d->fmt->flush(d);
}

int disk_discard(struct disk *d, uint64_t off, uint64_t len)
{
    int r = check(d, off, len, true);
    return r < 0 || len == 0 ? r : d->fmt->discard(d, off, len);
}

int disk_zero(struct disk *d, uint64_t off, uint64_t len, bool unmap)
{
    int r = check(d, off, len, true);
    return r < 0 || len == 0 ? r : d->fmt->zero(d, off, len, unmap);
}

int disk_map(struct disk *d, uint64_t off, uint64_t *len)
{
    int r = check(d, off, *len, false);
    return r < 0 || *len == 0 ? r : d->fmt->map(d, off, len);
}

int disk_read_backing(struct disk *d, struct iov_cursor *c, uint64_t off, uint64_t len)
{
    uint64_t there = !d || off >= d->bytes ? 0 : d->bytes - off;
    if (there > len)
        there = len;
    int r = there ? d->fmt->read(d, c, off, there) : 0;
    if (r == 0)
        iov_zero(c, len - there);
    return r;
}
