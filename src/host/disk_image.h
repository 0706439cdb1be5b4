/* SPDX-License-Identifier: MIT */
/* Work on whole images, for tools: nothing else uses the disk meanwhile. */
#ifndef GAZDA_HOST_DISK_IMAGE_H
#define GAZDA_HOST_DISK_IMAGE_H

#include "host/disk.h"

struct disk_create {
    const char *format;         /* "raw" or "qcow2" */
    uint64_t bytes;             /* 0: as large as the backing file */
    const char *backing;        /* or NULL; written into the image as it is, looked up from its folder */
    const char *backing_format; /* needed with backing */
    unsigned cluster_bits;      /* 0: the default, 16 */
    unsigned refcount_bits;     /* 0: the default, 16 */
    unsigned version;           /* 0: the default, 3 */
    bool lazy_refcounts, zstd;
};

#endif
