/* SPDX-License-Identifier: MIT */
/* Whole transfers on image files, and cursors over iovs. */
#include "host/disk_file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>
#include <unistd.h>

enum { PIECES = 64, ZERO_BUFFER = 65536 };

/* ---- cursors ---- */

/* The next piece that is in one buffer, at most len bytes; moves on by it. */
static struct iovec next_piece(struct iov_cursor *c, uint64_t len)
{
    while (c->n && c->pos == c->iov->iov_len) {
        c->iov++, c->n--;
        c->pos = 0;
    }
    struct iovec v = { 0 };
    if (!c->n)
        return v;
    v.iov_base = (char *)c->iov->iov_base + c->pos;
    v.iov_len = c->iov->iov_len - c->pos;
    if (v.iov_len > len)
        v.iov_len = len;
    c->pos += v.iov_len;
    return v;
}

void iov_zero(struct iov_cursor *c, uint64_t len)
{
    for (struct iovec v; len && (v = next_piece(c, len)).iov_len; len -= v.iov_len)
        memset(v.iov_base, 0, v.iov_len);
}

void iov_put(struct iov_cursor *c, const void *from, size_t len)
{
    for (struct iovec v; len && (v = next_piece(c, len)).iov_len; len -= v.iov_len) {
        memcpy(v.iov_base, from, v.iov_len);
        from = (const char *)from + v.iov_len;
    }
}

void iov_get(struct iov_cursor *c, void *to, size_t len)
{
    for (struct iovec v; len && (v = next_piece(c, len)).iov_len; len -= v.iov_len) {
        memcpy(to, v.iov_base, v.iov_len);
        to = (char *)to + v.iov_len;
    }
}

void iov_skip(struct iov_cursor *c, uint64_t len)
{
    for (struct iovec v; len && (v = next_piece(c, len)).iov_len; len -= v.iov_len)
        ;
}

/* ---- transfers ---- */

/* One system call for what PIECES buffers hold. Bytes done (0: end of the file) or -errno. */
static ssize_t transfer(int fd, struct iov_cursor c, uint64_t off, uint64_t len, bool write)
{
    struct iovec v[PIECES];
    int n = 0;
    for (; n < PIECES && len; n++) {
        v[n] = next_piece(&c, len);
        if (!v[n].iov_len)
            break;
        len -= v[n].iov_len;
    }
    for (;;) {
        ssize_t done = write ? pwritev(fd, v, n, (off_t)off) : preadv(fd, v, n, (off_t)off);
        if (done >= 0)
            return done;
        if (errno != EINTR && errno != EAGAIN)
            return -errno;
    }
}

int file_readv(int fd, struct iov_cursor *c, uint64_t off, uint64_t len, enum file_eof eof)
{
    while (len) {
        ssize_t done = transfer(fd, *c, off, len, false);
        if (done < 0)
            return (int)done;
        if (done == 0) {
            if (eof == EOF_ERROR)
                return -EIO; /* the image was truncated under us */
            iov_zero(c, len);
            return 0;
        }
        iov_skip(c, (uint64_t)done);
        off += (uint64_t)done;
        len -= (uint64_t)done;
    }
    return 0;
}

int file_writev(int fd, struct iov_cursor *c, uint64_t off, uint64_t len)
{
    while (len) {
        ssize_t done = transfer(fd, *c, off, len, true);
        if (done <= 0)
            return done ? (int)done : -EIO;
        iov_skip(c, (uint64_t)done);
        off += (uint64_t)done;
        len -= (uint64_t)done;
    }
    return 0;
}

int file_read(int fd, void *buf, size_t len, uint64_t off)
{
    struct iovec v = { buf, len };
    struct iov_cursor c = { &v, 1, 0 };
    return file_readv(fd, &c, off, len, EOF_ZEROES);
}

int file_write(int fd, const void *buf, size_t len, uint64_t off)
{
    struct iovec v = { (void *)(uintptr_t)buf, len };
    struct iov_cursor c = { &v, 1, 0 };
    return file_writev(fd, &c, off, len);
}

int file_write_zeroes(int fd, uint64_t off, uint64_t len)
{
    static const uint8_t zeroes[ZERO_BUFFER];
    int r = 0;
    while (len && r == 0) {
        struct iovec v[16];
        struct iov_cursor c = { v, 0, 0 };
        uint64_t sum = 0;
        for (; c.n < 16 && sum < len; c.n++) {
            uint64_t k = len - sum < ZERO_BUFFER ? len - sum : ZERO_BUFFER;
            v[c.n] = (struct iovec){ (void *)(uintptr_t)zeroes, k };
            sum += k;
        }
        r = file_writev(fd, &c, off, sum);
        off += sum;
        len -= sum;
    }
    return r;
}

int file_sync(int fd)
{
    while (fdatasync(fd) < 0)
        if (errno != EINTR)
            return -errno;
    return 0;
}

int file_allocate(int fd, int mode, uint64_t off, uint64_t len)
{
    while (fallocate(fd, mode, (off_t)off, (off_t)len) < 0) {
        if (errno == EINTR)
            continue;
        /* EINVAL: not aligned to the device's blocks */
        return errno == ENOSYS || errno == ENODEV || errno == EINVAL ? -EOPNOTSUPP : -errno;
    }
    return 0;
}

void file_punch(int fd, uint64_t off, uint64_t len)
{
    file_allocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off, len);
}
