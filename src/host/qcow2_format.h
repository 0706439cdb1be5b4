/* SPDX-License-Identifier: MIT */
/* The qcow2 file format: constants and the header. Everything in the file is big-endian. */
#ifndef GAZDA_HOST_QCOW2_FORMAT_H
#define GAZDA_HOST_QCOW2_FORMAT_H

#include <stdint.h>

#include "base/err.h"

#define QCOW2_MAGIC 0x514649fbU
#define QCOW2_OFFSET 0x00fffffffffffe00UL /* of L1, L2 and refcount table entries */
#define QCOW2_COPIED (1UL << 63)
#define QCOW2_COMPRESSED (1UL << 62)
#define QCOW2_ZERO 1UL

/* incompatible features */
#define QCOW2_DIRTY (1UL << 0)
#define QCOW2_CORRUPT (1UL << 1)
#define QCOW2_DATA_FILE (1UL << 2)
#define QCOW2_COMPRESSION (1UL << 3)
#define QCOW2_EXTENDED_L2 (1UL << 4)
#define QCOW2_LAZY (1UL << 0)    /* compatible */
#define QCOW2_BITMAPS (1UL << 0) /* autoclear */

enum { QCOW2_ZLIB = 0, QCOW2_ZSTD = 1 };
enum { QCOW2_EXT_BACKING_FORMAT = (int)0xe2792aca, QCOW2_EXT_FEATURES = 0x6803f857 };

/* Offsets of header fields that are written after the header was made. */
enum {
    Q_AT_SIZE = 24, /* size, encryption, L1 entries, L1 offset: 24 bytes */
    Q_AT_RT = 48,   /* refcount table: offset, clusters: 12 bytes */
    Q_AT_INCOMPATIBLE = 72,
    Q_AT_AUTOCLEAR = 88,
    Q_V2_HEADER = 72,
    Q_V3_HEADER = 104,
};

/* Bounds of what an image may ask for. */
enum {
    Q_BITS_MIN = 9,
    Q_BITS_MAX = 21,
    Q_L1_MAX = 32 << 20, /* bytes */
    Q_RT_MAX = 8 << 20,  /* bytes */
    Q_SNAPSHOTS_MAX = 65536,
    Q_SNAPSHOT_BYTES = 1024, /* on average, for all of them together */
    Q_NAME_MAX = 1023,
};

/* In host order, checked. */
struct q_header {
    uint32_t version;
    uint64_t backing_at;
    uint32_t backing_len;
    uint32_t cluster_bits;
    uint64_t size;
    uint32_t encryption;
    uint32_t l1_n;
    uint64_t l1_off;
    uint64_t rt_off;
    uint32_t rt_clusters;
    uint32_t snapshots;
    uint64_t snapshots_off;
    uint64_t incompatible, compatible, autoclear;
    uint32_t refcount_order;
    uint32_t length;
    uint8_t compression;
    char backing[Q_NAME_MAX + 1], backing_format[16]; /* empty: there is none, or it does not say */
};

/*
 * Reads and checks the header of an open file of file_bytes; path is for messages. What gazda does not do is refused
 * (encryption, external data, extended L2 entries, unknown features). 0 or -errno with e set.
 */
int q_read_header(int fd, uint64_t file_bytes, const char *path, struct q_header *h, struct err *e);

/* One snapshot's L1 table, from the snapshot table. */
struct q_snapshot {
    uint64_t l1_off, size, vm_state;
    uint32_t l1_n, seconds;
    char id[32], name[256];
};

/* Reads the snapshot table: h->snapshots entries, malloc'ed, and its length in bytes. 0 or -errno with e set. */
int q_read_snapshots(int fd, const struct q_header *h, struct q_snapshot **out, uint64_t *bytes, struct err *e);

#endif
