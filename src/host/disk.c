/* SPDX-License-Identifier: MIT */
/*
 * Raw images. The size is read once: an image that shrinks later gives I/O errors, one that grows is not used further.
 * Locks are OFD locks on the whole file: they belong to the open file, so two disks of one process exclude each other
 * too, and they end with the process however it ends.
 */
#include "host/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
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

struct disk {
    int fd;
    uint64_t bytes;
    uint32_t block;
    bool read_only;
    _Atomic bool no_punch, no_zero; /* the host said EOPNOTSUPP once */
    char serial[DISK_SERIAL];
};

/* ---- opening ---- */

struct magic {
    const char *name, *bytes;
    unsigned at, len;
};

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

static int refuse_formats(int fd, const char *path, struct err *e)
{
    uint8_t head[512] = { 0 };
    ssize_t n = pread(fd, head, sizeof(head), 0);
    if (n < 0)
        return err_set(e, errno, "cannot read the disk image '%.300s': %s", path, strerror(errno));
    for (size_t i = 0; i < ARRAY_LEN(formats); i++) {
        const struct magic *m = &formats[i];
        if (memcmp(head + m->at, m->bytes, m->len) == 0)
            return err_set(e, ENOTSUP,
                           "the disk image '%.200s' is in %s format, only raw images are supported: convert it with "
                           "qemu-img convert -O raw",
                           path, m->name);
    }
    return 0;
}

static int lock_image(int fd, bool read_only, const char *path, struct err *e)
{
    struct flock fl = { .l_type = (short)(read_only ? F_RDLCK : F_WRLCK), .l_whence = SEEK_SET };
    if (fcntl(fd, F_OFD_SETLK, &fl) == 0)
        return 0;
    if (errno == EAGAIN || errno == EACCES)
        return err_set(e, EBUSY, "the disk image '%.300s' is in use by another virtual machine, or given twice%s", path,
                       read_only ? ", with the right to write" : "");
    log_warn("the disk image '%s' cannot be locked (%s): nothing keeps a second machine from using it", path,
             strerror(errno));
    return 0;
}

static int probe_size(struct disk *d, const struct stat *st, const char *path, struct err *e)
{
    uint64_t bytes = (uint64_t)st->st_size;
    if (S_ISBLK(st->st_mode) && ioctl(d->fd, BLKGETSIZE64, &bytes) < 0)
        return err_set(e, errno, "cannot tell the size of the disk '%.300s': %s", path, strerror(errno));
    if (!S_ISBLK(st->st_mode) && !S_ISREG(st->st_mode))
        return err_set(e, EINVAL, "the disk image '%.300s' is neither a regular file nor a block device", path);
    d->bytes = bytes & ~(uint64_t)(DISK_SECTOR - 1);
    if (d->bytes == 0)
        return err_set(e, EINVAL, "the disk image '%.300s' is %s; a disk has at least one sector of 512 bytes", path,
                       bytes ? "too small" : "empty");
    if (d->bytes != bytes)
        log_warn("the disk image '%s' of %lu bytes is not a multiple of 512: the last %lu are not used", path, bytes,
                 bytes - d->bytes);
    uint64_t block = (uint64_t)st->st_blksize;
    d->block = block >= DISK_SECTOR && block <= 1U << 20 && (block & (block - 1)) == 0 ? (uint32_t)block : 4096;
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

struct disk *disk_open(const char *path, bool read_only, struct err *e)
{
    struct stat st;
    struct disk *d = calloc(1, sizeof(*d));
    if (!d) {
        err_set(e, ENOMEM, "out of memory");
        return NULL;
    }
    d->read_only = read_only;
    /* O_NONBLOCK: a FIFO must be refused, not waited for. It does nothing to files and disks. */
    d->fd = open(path, (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (d->fd < 0) {
        bool hint = !read_only && (errno == EACCES || errno == EROFS || errno == EPERM);
        err_set(e, errno, "cannot open the disk image '%.300s': %s%s", path, strerror(errno),
                hint ? " (a read-only disk is given as FILE,ro)" : "");
        goto undo_alloc;
    }
    if (fstat(d->fd, &st) < 0) {
        err_set(e, errno, "cannot examine the disk image '%.300s': %s", path, strerror(errno));
        goto undo_open;
    }
    if (probe_size(d, &st, path, e) < 0 || refuse_formats(d->fd, path, e) < 0 ||
        lock_image(d->fd, read_only, path, e) < 0)
        goto undo_open;
    name_image(d, &st);
    return d;

undo_open:
    close(d->fd);
undo_alloc:
    free(d);
    return NULL;
}

void disk_close(struct disk *d)
{
    if (!d)
        return;
    close(d->fd);
    free(d);
}

uint64_t disk_bytes(const struct disk *d)
{
    return d->bytes;
}
bool disk_read_only(const struct disk *d)
{
    return d->read_only;
}
uint32_t disk_block_size(const struct disk *d)
{
    return d->block;
}
void disk_serial(const struct disk *d, char out[DISK_SERIAL])
{
    memcpy(out, d->serial, DISK_SERIAL);
}

/* ---- I/O ---- */

static int check(const struct disk *d, uint64_t off, uint64_t len, bool change)
{
    if (off > d->bytes || len > d->bytes - off || off % DISK_SECTOR || len % DISK_SECTOR)
        return -EINVAL;
    return change && d->read_only ? -EROFS : 0;
}

static int transfer(struct disk *d, struct iovec *iov, int n, uint64_t off, bool write)
{
    uint64_t len = 0;
    for (int i = 0; i < n; i++)
        if (__builtin_add_overflow(len, iov[i].iov_len, &len))
            return -EINVAL;
    int r = check(d, off, len, write);
    if (r < 0)
        return r;
    while (n > 0) {
        int k = n < 1024 ? n : 1024; /* IOV_MAX */
        ssize_t done = write ? pwritev(d->fd, iov, k, (off_t)off) : preadv(d->fd, iov, k, (off_t)off);
        if (done < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (done < 0)
            return -errno;
        off += (uint64_t)done;
        bool moved = done > 0;
        while (n > 0 && (size_t)done >= iov->iov_len) {
            moved = true; /* an empty entry is progress too */
            done -= (ssize_t)iov->iov_len;
            iov++, n--;
        }
        if (!moved)
            return -EIO; /* the image was truncated under us */
        if (done) {
            iov->iov_base = (char *)iov->iov_base + done;
            iov->iov_len -= (size_t)done;
        }
    }
    return 0;
}

int disk_read(struct disk *d, struct iovec *iov, int n, uint64_t off)
{
    return transfer(d, iov, n, off, false);
}

int disk_write(struct disk *d, struct iovec *iov, int n, uint64_t off)
{
    return transfer(d, iov, n, off, true);
}

int disk_flush(struct disk *d)
{
    if (d->read_only)
        return 0;
    while (fdatasync(d->fd) < 0)
        if (errno != EINTR)
            return -errno;
    return 0;
}

/* 0, or -EOPNOTSUPP when the host cannot do it here (remembered in *cannot), or another error. */
static int try_fallocate(struct disk *d, int mode, uint64_t off, uint64_t len, _Atomic bool *cannot)
{
    if (atomic_load(cannot))
        return -EOPNOTSUPP;
    while (fallocate(d->fd, mode, (off_t)off, (off_t)len) < 0) {
        if (errno == EINTR)
            continue;
        if (errno == EOPNOTSUPP || errno == ENOSYS || errno == ENODEV)
            atomic_store(cannot, true);
        else if (errno != EINVAL) /* EINVAL: not aligned to the device's blocks */
            return -errno;
        return -EOPNOTSUPP;
    }
    return 0;
}

int disk_discard(struct disk *d, uint64_t off, uint64_t len)
{
    int r = check(d, off, len, true);
    if (r < 0 || len == 0)
        return r;
    r = try_fallocate(d, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off, len, &d->no_punch);
    return r == -EOPNOTSUPP ? 0 : r;
}

static int write_zeroes(struct disk *d, uint64_t off, uint64_t len)
{
    static const uint8_t zeroes[65536];
    int r = 0;
    while (len && r == 0) {
        struct iovec iov[16];
        int n = 0;
        uint64_t sum = 0;
        for (; n < 16 && sum < len; n++) {
            uint64_t k = len - sum < sizeof(zeroes) ? len - sum : sizeof(zeroes);
            iov[n] = (struct iovec){ .iov_base = (void *)(uintptr_t)zeroes, .iov_len = k };
            sum += k;
        }
        r = transfer(d, iov, n, off, true);
        off += sum;
        len -= sum;
    }
    return r;
}

int disk_zero(struct disk *d, uint64_t off, uint64_t len, bool unmap)
{
    int r = check(d, off, len, true);
    if (r < 0 || len == 0)
        return r;
    r = -EOPNOTSUPP;
    if (unmap)
        r = try_fallocate(d, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off, len, &d->no_punch);
    if (r == -EOPNOTSUPP)
        r = try_fallocate(d, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, off, len, &d->no_zero);
    return r == -EOPNOTSUPP ? write_zeroes(d, off, len) : r;
}
