/* SPDX-License-Identifier: MIT */
/*
 * Asynchronous I/O on a disk image. A request is tried without blocking first; what would block goes to the host's
 * kernel through io_uring (raw images) or to workers that make the blocking calls of disk.h.
 *
 * Requests in flight have no order. They are embedded in their owners and never fail to start; how many there are is
 * for the owner to bound.
 */
#ifndef GAZDA_HOST_DISKIO_H
#define GAZDA_HOST_DISKIO_H

#include <sys/uio.h>

#include "base/err.h"
#include "base/types.h"
#include "host/pool.h"

struct disk;
struct diskio;

enum diskio_way { DISKIO_AUTO, DISKIO_THREADS, DISKIO_URING };
enum diskio_op { DISKIO_READ, DISKIO_WRITE, DISKIO_WORK };

struct diskio_req {
    struct pool_job job;     /* first; diskio's */
    struct diskio_req *next; /* of the list that done gets */
    struct diskio *io;       /* diskio's */
    enum diskio_op op;
    bool through; /* WRITE: ends on the medium */
    unsigned n;   /* entries of iov, which may be used up */
    struct iovec *iov;
    uint64_t off, len;                   /* bytes, multiples of DISK_SECTOR */
    int (*work)(struct diskio_req *req); /* WORK: what to do, on a worker, blocking: 0 or -errno */
    int result;                          /* 0 or -errno */
    _Atomic bool sent;                   /* diskio's */
};

/*
 * done gets the requests that have ended, as a list: on any thread, no lock of diskio's held, never inside of
 * diskio_begin and diskio_try.
 */
struct diskio_user {
    void (*done)(void *arg, struct diskio_req *list);
    void *arg;
};

/*
 * disk and pool are not owned. NULL with e set: DISKIO_URING cannot be had (AUTO takes threads then, and
 * logs why for debugging), or no memory. AUTO uses the ring for reads only.
 */
struct diskio *diskio_new(struct disk *disk, struct pool *pool, enum diskio_way way, struct diskio_user user,
                          struct err *e);
void diskio_free(struct diskio *io);              /* nothing is in flight; NULL is fine */
const char *diskio_name(const struct diskio *io); /* "io_uring", if only for reads, or "threads" */

/*
 * Does r at once if that takes neither waiting nor long: true, and r->result is set; done is not called. False: it is
 * to be begun (r says no more than what is left of it). Any thread, a vCPU's too.
 */
bool diskio_try(struct diskio *io, struct diskio_req *r);
/*
 * Begins a list of requests, linked by next. on_worker: the caller is a job of the pool that is about to return, so
 * that its worker goes on with them. Any thread.
 */
void diskio_begin(struct diskio *io, struct diskio_req *list, bool on_worker);

#endif
