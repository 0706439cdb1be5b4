/* SPDX-License-Identifier: MIT */
/* What image formats do to the file that holds the image: whole transfers, holes, and a cursor over a request's iov. */
#ifndef GAZDA_HOST_DISK_FILE_H
#define GAZDA_HOST_DISK_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

/* How far a request has come. The iov itself is not changed; its buffers may be a guest's and change at any time. */
struct iov_cursor {
    const struct iovec *iov;
    int n;
    size_t pos; /* bytes of iov[0] that are done */
};

/* All move the cursor by len bytes, which it must have. */
void iov_zero(struct iov_cursor *c, uint64_t len);
void iov_put(struct iov_cursor *c, const void *from, size_t len); /* into the iov */
void iov_get(struct iov_cursor *c, void *to, size_t len);         /* out of it */
void iov_skip(struct iov_cursor *c, uint64_t len);

/* What a read finds behind the end of the file. */
enum file_eof { EOF_ERROR, EOF_ZEROES };

/* Transfer all of len or fail: 0 or -errno, -EIO at the end of the file. Any thread. */
int file_readv(int fd, struct iov_cursor *c, uint64_t off, uint64_t len, enum file_eof eof);
int file_writev(int fd, struct iov_cursor *c, uint64_t off, uint64_t len);
int file_read(int fd, void *buf, size_t len, uint64_t off); /* zeroes behind the end */
int file_write(int fd, const void *buf, size_t len, uint64_t off);
int file_write_zeroes(int fd, uint64_t off, uint64_t len);
int file_sync(int fd);
/* fallocate: 0, -EOPNOTSUPP if the host cannot do that here, or another error. */
int file_allocate(int fd, int mode, uint64_t off, uint64_t len);
/* Best effort to give the host its blocks back. */
void file_punch(int fd, uint64_t off, uint64_t len);

#endif
