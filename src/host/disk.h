/* SPDX-License-Identifier: MIT */
/*
 * Disk images: raw files, host block devices and qcow2. Calls block; they belong on a worker (host/pool.h). Any number
 * of threads may use one disk at once; requests that overlap in place and time have no order, as on a real disk.
 */
#ifndef GAZDA_HOST_DISK_H
#define GAZDA_HOST_DISK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/err.h"

enum { DISK_SECTOR = 512, DISK_SERIAL = 20 };

struct disk;

struct disk_options {
    const char *format; /* "raw" or "qcow2"; NULL: by content, with less trust (docs/images.md) */
    bool read_only;
    bool no_backing; /* do not open backing files: what they hold reads as zeroes. Only for looking at an image. */
    bool backing_writable; /* for commit: the image below too */
    bool no_repair;        /* open an image as it is, damaged or not, for a check; never written before that */
};

/*
 * Opens and locks an image and those it is based on: many readers or one writer, over all processes. NULL with e set,
 * also for formats that are neither raw nor qcow2. A last partial sector is cut off with a warning.
 */
struct disk *disk_open(const char *path, bool read_only, struct err *e);
struct disk *disk_open_with(const char *path, const struct disk_options *o, struct err *e);
/*
 * path, unchanged, under a qcow2 image that takes the writes: the file named overlay, which is made if it is not
 * there, or a temporary one that ends with the disk if overlay is NULL.
 */
struct disk *disk_open_overlay(const char *path, const struct disk_options *o, const char *overlay, struct err *e);
void disk_close(struct disk *d); /* NULL is fine; nothing is in flight. What was written is in the file. */

uint64_t disk_bytes(const struct disk *d); /* a multiple of DISK_SECTOR, not 0 */
bool disk_read_only(const struct disk *d);
const char *disk_format_name(const struct disk *d);
struct disk *disk_backing(const struct disk *d); /* the image below, still owned by d, or NULL */
/* What the host's file system likes for I/O, a power of two of at least DISK_SECTOR. */
uint32_t disk_block_size(const struct disk *d);
/* Names the image, not a C string: padded with zeroes. The same for the same file. */
void disk_serial(const struct disk *d, char out[DISK_SERIAL]);
/*
 * The file in which byte n of the disk is byte n, for a caller with its own way of reading and writing (it checks range
 * and disk_read_only itself), or -1. Writes that touch the first sector go through disk_write all the same: see
 * docs/images.md, "Formats".
 */
int disk_direct_fd(const struct disk *d);

/*
 * All return 0 or -errno; -EINVAL outside of the disk, -EROFS for changes to a read-only one. off and lengths are
 * multiples of DISK_SECTOR. read and write may use up iov (its entries change). flush: what was written is on the
 * medium. discard is advice; zero makes the range read as zeroes, freeing its space if unmap is set and the host can.
 */
int disk_read(struct disk *d, struct iovec *iov, int n, uint64_t off);
int disk_write(struct disk *d, struct iovec *iov, int n, uint64_t off);
int disk_flush(struct disk *d);
int disk_discard(struct disk *d, uint64_t off, uint64_t len);
int disk_zero(struct disk *d, uint64_t off, uint64_t len, bool unmap);

/* What there is at a place of the disk, as its metadata know it. */
enum disk_map { DISK_MAP_DATA, DISK_MAP_ZERO, DISK_MAP_BACKING };
/*
 * The kind of [off, off + *len), of which *len is shortened to what is alike; BACKING: the image below has it (for an
 * image with none that is ZERO). Returns the kind or -errno.
 */
int disk_map(struct disk *d, uint64_t off, uint64_t *len);

#endif
