/* SPDX-License-Identifier: MIT */
/*
 * Disk images: raw files and host block devices. Calls block; they belong on a worker (host/pool.h). Any number of
 * threads may use one disk at once; requests that overlap in place and time have no order, as on a real disk.
 */
#ifndef GAZDA_HOST_DISK_H
#define GAZDA_HOST_DISK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/err.h"

enum { DISK_SECTOR = 512, DISK_SERIAL = 20 };

struct disk;

/*
 * Opens and locks an image: many readers or one writer, over all processes. NULL with e set, also for image formats
 * that are not raw. A last partial sector is cut off with a warning.
 */
struct disk *disk_open(const char *path, bool read_only, struct err *e);
void disk_close(struct disk *d); /* NULL is fine; nothing is in flight */

uint64_t disk_bytes(const struct disk *d); /* a multiple of DISK_SECTOR, not 0 */
bool disk_read_only(const struct disk *d);
/* What the host's file system likes for I/O, a power of two of at least DISK_SECTOR. */
uint32_t disk_block_size(const struct disk *d);
/* Names the image, not a C string: padded with zeroes. The same for the same file. */
void disk_serial(const struct disk *d, char out[DISK_SERIAL]);

/*
 * All return 0 or -errno; -EINVAL outside of the disk, -EROFS for changes to a read-only one. off and lengths are
 * multiples of DISK_SECTOR. read and write use up iov (its entries change). flush: what was written is on the medium.
 * discard is advice; zero makes the range read as zeroes, freeing its space if unmap is set and the host can.
 */
int disk_read(struct disk *d, struct iovec *iov, int n, uint64_t off);
int disk_write(struct disk *d, struct iovec *iov, int n, uint64_t off);
int disk_flush(struct disk *d);
int disk_discard(struct disk *d, uint64_t off, uint64_t len);
int disk_zero(struct disk *d, uint64_t off, uint64_t len, bool unmap);

#endif
