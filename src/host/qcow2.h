/* SPDX-License-Identifier: MIT */
/*
 * Inside the qcow2 format (versions 2 and 3; the names are those of QEMU's docs/interop/qcow2). Where things are:
 * qcow2_open.c header and life; qcow2_cache.c metadata blocks; qcow2_map.c L1 and L2; qcow2_refcount.c allocation;
 * qcow2_flush.c the order on the medium; qcow2_io.c requests.
 *
 * One lock guards all metadata; data moves without it. A request enters its clusters in `ranges` first: shared to read
 * or write clusters that stay where they are, exclusive to give them another place. So a cluster that is in use by a
 * request is neither freed nor moved. Functions called with the lock held say so; those marked "change" need
 * q_begin_change first, and no dropping of the lock between.
 */
#ifndef GAZDA_HOST_QCOW2_H
#define GAZDA_HOST_QCOW2_H

#include "base/lock.h"
#include "base/types.h"
#include "host/disk_format.h"
#include "host/qcow2_cache.h"
#include "host/qcow2_format.h"

/* ---- an open image ---- */

struct q_range {
    uint64_t first, last; /* clusters of the disk */
    bool exclusive;
    struct q_range *next;
};

struct q_run {
    uint64_t cluster, n;
};

enum { Q_UNZIPPED = 4 };

struct qcow2 {
    struct disk *d;
    int fd;
    struct q_header h;
    unsigned bits, l2_bits; /* log2 of bytes in a cluster, of entries in an L2 table */
    uint64_t cluster;       /* bytes */
    uint64_t file_end;      /* behind all that is allocated or was there */
    bool lazy, writable;

    struct lock lock; /* guards the rest; LOCK_DISK */
    pthread_cond_t wait;
    unsigned waiting;
    bool busy;   /* a flush is between its steps: no changes of metadata */
    bool broken; /* found corrupt while in use, or nobody knows what is on the medium: no more changes */
    bool data_unsynced;
    struct q_range *ranges;
    uint64_t *l1, *rt;                   /* in host order; rt: the refcount table */
    uint64_t rt_n;                       /* its entries */
    uint64_t l1_lo, l1_hi, rt_lo, rt_hi; /* entries that are not in the file yet */
    struct q_cache l2, rc;
    uint64_t free_hint;  /* no free cluster is below it */
    struct q_run *unref; /* loses a reference once the L2 tables in the file do not refer to it */
    size_t unrefs, unref_max;
    struct q_set meta;       /* clusters of header, tables, blocks: no data may be there */
    uint64_t pack, pack_end; /* where the next compressed cluster goes, in bytes; equal: a new cluster */

    struct lock zip_lock; /* guards unzipped; LOCK_DISK_CACHE */
    struct {
        uint64_t entry, stamp;
        uint8_t *data;
    } unzipped[Q_UNZIPPED]; /* clusters as they were decompressed; forgotten when clusters are freed */
    uint64_t stamp;
};

/* Says so once, marks the image corrupt if it can, and returns -EIO. Lock held. */
int q_corrupt(struct qcow2 *q, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int q_write_incompatible(struct qcow2 *q, uint64_t features); /* the header's bits, in the file at once */
/* disk_sync; after a failure there are no more changes, whose order would mean nothing. Lock held. */
int q_sync(struct qcow2 *q);

/* ---- qcow2_map.c; lock held ---- */

enum q_kind { Q_NONE, Q_ZERO, Q_DATA, Q_ZERO_DATA, Q_PACKED };

struct q_extent {
    enum q_kind kind;
    bool mine;      /* a cluster that only this entry refers to */
    uint64_t host;  /* DATA, ZERO_DATA: of the first byte */
    uint64_t entry; /* PACKED: the L2 entry */
    uint64_t len;   /* bytes of the disk */
};

/* What is at off, for at most len bytes that are alike and, if they are somewhere, contiguous there. */
int q_map(struct qcow2 *q, uint64_t off, uint64_t len, struct q_extent *x);
/* Shortens *len to the clusters from off's on that have no place of their own to write to. change: none. */
int q_map_placeless(struct qcow2 *q, uint64_t off, uint64_t *len);
/* change: the L2 table of off exists and is the active state's own. */
int q_own_l2(struct qcow2 *q, uint64_t off);
/* change: sets n entries from off's on, which are in one slice, to entry + i * step; what they had loses a reference.
 */
int q_set_entries(struct qcow2 *q, uint64_t off, unsigned n, uint64_t entry, uint64_t step);
int q_get_entry(struct qcow2 *q, uint64_t off, uint64_t *entry);
unsigned q_slice_left(const struct qcow2 *q, uint64_t off); /* entries from off's to the end of its slice */

/* ---- qcow2_refcount.c; lock held ---- */

int q_refcount(struct qcow2 *q, uint64_t cluster, uint64_t *n);
/* change: adds 1 or -1 at once. -ERANGE if the image's counters are too narrow. */
int q_refcount_add(struct qcow2 *q, uint64_t cluster, int by);
/* change: up to n contiguous free clusters, which get refcount 1; at least 1. *n is what there was. */
int q_alloc(struct qcow2 *q, uint64_t *n, uint64_t *first);
int q_unref_later(struct qcow2 *q, uint64_t cluster, uint64_t n); /* change */

/* ---- qcow2_flush.c; lock held, dropped between ---- */

/* Waits until metadata may be changed. 0 or -errno. */
int q_begin_change(struct qcow2 *q);
/* Everything that was written before is on the medium, in an order that is consistent at each point. */
int q_flush(struct qcow2 *q);
int q_finish(struct qcow2 *q); /* q_flush, and refcounts are exact in the file */
void q_wait(struct qcow2 *q);
void q_wake(struct qcow2 *q);

/* ---- qcow2_compress.c; no lock held ---- */

int q_read_packed(struct qcow2 *q, uint64_t entry, unsigned at, struct iov_cursor *c, unsigned len);
void q_forget_unzipped(struct qcow2 *q);

/* ---- qcow2_io.c; no lock held ---- */

int q_read(struct disk *d, struct iov_cursor *c, uint64_t off, uint64_t len);
int q_write(struct disk *d, struct iov_cursor *c, uint64_t off, uint64_t len);
int q_discard(struct disk *d, uint64_t off, uint64_t len);
int q_zero(struct disk *d, uint64_t off, uint64_t len, bool unmap);
int q_disk_map(struct disk *d, uint64_t off, uint64_t *len);
int q_resize(struct disk *d, uint64_t bytes, struct err *e);
bool q_enter(struct qcow2 *q, struct q_range *r); /* lock held; false: waited, look again */
void q_leave(struct qcow2 *q, struct q_range *r); /* lock held */

#endif
