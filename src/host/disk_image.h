/* SPDX-License-Identifier: MIT */
/* Work on whole images, for tools: nothing else uses the disk meanwhile. All block. */
#ifndef GAZDA_HOST_DISK_IMAGE_H
#define GAZDA_HOST_DISK_IMAGE_H

#include "host/disk.h"

struct disk_create {
    const char *format;         /* "raw" or "qcow2" */
    uint64_t bytes;             /* 0: as large as the backing file; rounded up to sectors */
    const char *backing;        /* or NULL; written into the image as it is, looked up from its folder */
    const char *backing_format; /* needed with backing */
    unsigned cluster_bits;      /* 0: the default, 16 */
    unsigned refcount_bits;     /* 0: the default, 16 */
    unsigned version;           /* 0: the default, 3 */
    bool lazy_refcounts, zstd;
};

/* Makes an image; a file that is there is only replaced with force. Nothing is left of one that cannot be made. */
int disk_create(const char *path, const struct disk_create *c, bool force, struct err *e);
/* The same into an open, empty file; no backing. */
int disk_create_fd(int fd, const char *path, const struct disk_create *c, struct err *e);

/* Growing keeps the content; shrinking cuts it off, and only raw images can. */
int disk_resize(struct disk *d, uint64_t bytes, struct err *e);
/* One cluster of an image that can compress it, off a multiple of disk_cluster; len is less at the disk's end only. */
int disk_write_compressed(struct disk *d, const void *buf, uint64_t len, uint64_t off);
uint64_t disk_cluster(const struct disk *d); /* bytes; 0: the format has none */
/* Forgets all that d itself holds: it reads as its backing file does. */
int disk_empty(struct disk *d);

struct disk_check {
    bool repair;
    void (*say)(void *ctx, const char *text); /* each finding; NULL: nobody wants them */
    void *ctx;
    uint64_t errors, leaks; /* found, and, if repair was asked for, not repaired */
    uint64_t errors_fixed, leaks_fixed;
    uint64_t clusters, allocated, compressed; /* of the disk */
    uint64_t end;                             /* bytes of the file that are in use */
};

/* Checks a qcow2 image (-ENOTSUP for raw ones: nothing to check). 0: it could be checked, the findings are in k. */
int disk_check(const char *path, const char *format, struct disk_check *k, struct err *e);

struct disk_snapshot {
    char id[32], name[256];
    uint64_t vm_state, seconds;
};
struct disk_info {
    const char *format;
    uint64_t bytes, allocated; /* of the disk; of the file, in the host */
    char backing[1024], backing_format[16];
    uint64_t cluster; /* the rest is only of qcow2 */
    unsigned version, refcount_bits;
    bool lazy_refcounts, dirty, corrupt, zstd, bitmaps;
    unsigned n_snapshots;
    struct disk_snapshot *snapshots; /* to be freed */
};
int disk_info(const char *path, const char *format, struct disk_info *i, struct err *e);

#endif
