/* SPDX-License-Identifier: MIT */
/* Inside disk.c and the image formats: what a disk is made of, and the shape of a format. */
#ifndef GAZDA_HOST_DISK_FORMAT_H
#define GAZDA_HOST_DISK_FORMAT_H

#include <sys/types.h>

#include "host/disk.h"
#include "host/disk_file.h"

enum { DISK_CHAIN_MAX = 64 };

/* All calls as those of disk.h, of any number of threads; ranges are checked and not empty, a change is allowed. */
struct disk_format {
    const char *name;
    /* The file is open and locked, d filled in but for bytes, block, backing and state. 0 or -errno with e set. */
    int (*open)(struct disk *d, const struct disk_options *o, struct err *e);
    void (*close)(struct disk *d); /* the file stays open; backing is disk.c's */
    int (*read)(struct disk *d, struct iov_cursor *c, uint64_t off, uint64_t len);
    int (*write)(struct disk *d, struct iov_cursor *c, uint64_t off, uint64_t len);
    int (*flush)(struct disk *d);
    int (*discard)(struct disk *d, uint64_t off, uint64_t len);
    int (*zero)(struct disk *d, uint64_t off, uint64_t len, bool unmap);
    int (*map)(struct disk *d, uint64_t off, uint64_t *len);
    int (*resize)(struct disk *d, uint64_t bytes, struct err *e); /* nothing else is going on */
};

extern const struct disk_format disk_raw, disk_qcow2;

struct disk {
    const struct disk_format *fmt;
    void *state; /* the format's */
    int fd;
    char *path;
    uint64_t bytes;      /* a multiple of DISK_SECTOR */
    uint64_t file_bytes; /* of the file or device when it was opened */
    uint32_t block;
    bool read_only;
    bool device;  /* a host block device: it does not grow, and is not zero where nothing was written */
    bool guard;   /* raw only by its looks: must not come to look otherwise */
    bool is_base; /* some other disk's backing: reads may go beyond its end, up to the next sector */
    dev_t dev;
    ino_t ino;
    unsigned depth;       /* 0: what the user named */
    struct disk *over;    /* the image whose backing this is */
    struct disk *backing; /* owned */
    char serial[DISK_SERIAL];
    _Atomic int sync_error; /* of the first disk_sync that failed */
};

/*
 * Opens the image that d is based on, d->backing; name as the image has it (relative to d's folder), format NULL if
 * it does not say.
 */
int disk_open_backing(struct disk *d, const char *name, const char *format, const struct disk_options *o,
                      struct err *e);
/* As disk_open_with, of a file that is open already (taken over, closed on failure too). */
struct disk *disk_open_fd(int fd, const char *path, const struct disk_options *o, struct err *e);
/* What was written to the file is on the medium. Once this has failed it fails for good: the kernel tells of pages that
 * it could not write once, and forgets them. Any thread. */
int disk_sync(struct disk *d);
/* Reads of what is behind a shorter backing are zeroes. d may be NULL: all zeroes. */
int disk_read_backing(struct disk *d, struct iov_cursor *c, uint64_t off, uint64_t len);

#endif
