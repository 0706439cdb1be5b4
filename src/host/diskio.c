/* SPDX-License-Identifier: MIT */
/*
 * What begins a list of requests becomes one job on a worker. It tries each (a read from the host's page cache never
 * waits), tells of those that are done in one go, and hands on the rest: into the ring, whose completions one thread
 * waits for; or to a job each, of which it runs the last itself. Unless told otherwise only reads go into the ring: the
 * kernel hands a write to the page cache to threads of its own, one at a time a file, which ours are faster than
 * (docs/virtio.md, "Disk I/O").
 */
#include "host/diskio.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/lock.h"
#include "base/log.h"
#include "base/thread.h"
#include "host/disk.h"

enum {
    RING_ENTRIES = 128,
    REAP = 64,            /* completions that are told in one go */
    TRY_BYTES = 65536,    /* more is not done at once: it is copied while a vCPU waits */
    TRY_PAUSE = 32,       /* at most so many requests are not tried after one that would have blocked */
    SUBMIT_TRIES = 10000, /* the kernel is out of something */
    STACK = 256 * 1024,
};

struct diskio {
    struct disk *disk;
    struct pool *pool;
    int fd; /* or -1 */
    struct diskio_user user;
    _Atomic bool no_try[2];         /* reads, writes: the host's file system has no way without waiting */
    _Atomic unsigned skip, penalty; /* how many are not tried now, and after the next failure */
    bool ring_on, ring_writes;
    struct io_uring ring;
    struct lock sq; /* the submission side of the ring; the completion side is the reaper's */
    pthread_t reaper;
};

/* ---- without waiting ---- */

/* The first sector is disk.h's to write. */
static bool direct(const struct diskio *io, const struct diskio_req *r)
{
    return io->fd >= 0 && (r->op == DISKIO_READ || (r->op == DISKIO_WRITE && r->off >= DISK_SECTOR));
}

static bool may_try(struct diskio *io, const struct diskio_req *r)
{
    if (!direct(io, r) || r->through || atomic_load(&io->no_try[r->op]))
        return false;
    unsigned skip = atomic_load_explicit(&io->skip, memory_order_relaxed);
    if (skip)
        atomic_store_explicit(&io->skip, skip - 1, memory_order_relaxed);
    return !skip;
}

/* Takes what is done off a request: whole sectors. */
static void advance(struct diskio_req *r, uint64_t did)
{
    did = did < r->len ? did & ~(uint64_t)(DISK_SECTOR - 1) : r->len;
    r->off += did;
    r->len -= did;
    while (did && did >= r->iov->iov_len) {
        did -= r->iov->iov_len;
        r->iov++, r->n--;
    }
    if (did) {
        r->iov->iov_base = (char *)r->iov->iov_base + did;
        r->iov->iov_len -= did;
    }
}

static bool try_now(struct diskio *io, struct diskio_req *r)
{
    if (!may_try(io, r))
        return false;
    ssize_t n = r->op == DISKIO_READ ? preadv2(io->fd, r->iov, (int)r->n, (off_t)r->off, RWF_NOWAIT)
                                     : pwritev2(io->fd, r->iov, (int)r->n, (off_t)r->off, RWF_NOWAIT);
    if (n >= 0 && (uint64_t)n == r->len) {
        atomic_store_explicit(&io->penalty, 0, memory_order_relaxed);
        r->result = 0;
        return true;
    }
    if (n < 0 && (errno == EOPNOTSUPP || errno == ENOSYS || errno == EINVAL)) {
        atomic_store(&io->no_try[r->op], true);
        return false;
    }
    if (n > 0) {
        advance(r, (uint64_t)n);
        return false;
    }
    unsigned p = atomic_load_explicit(&io->penalty, memory_order_relaxed);
    p = p ? (p < TRY_PAUSE ? 2 * p : TRY_PAUSE) : 1;
    atomic_store_explicit(&io->penalty, p, memory_order_relaxed);
    atomic_store_explicit(&io->skip, p, memory_order_relaxed);
    return false;
}

bool diskio_try(struct diskio *io, struct diskio_req *r)
{
    return r->len <= TRY_BYTES && try_now(io, r);
}

/* ---- on workers ---- */

static void run_one(struct pool_job *j)
{
    struct diskio_req *r = (struct diskio_req *)j;
    struct disk *d = r->io->disk;
    if (r->op == DISKIO_READ)
        r->result = disk_read(d, r->iov, (int)r->n, r->off);
    else if (r->op == DISKIO_WRITE)
        r->result = disk_write(d, r->iov, (int)r->n, r->off);
    else
        r->result = r->work(r);
    if (r->result == 0 && r->through)
        r->result = disk_flush(d);
    r->next = NULL;
    r->io->user.done(r->io->user.arg, r);
}

static void submit(struct diskio *io, struct diskio_req *r)
{
    r->job.run = run_one;
    pool_submit(io->pool, &r->job);
}

/* ---- through the ring ---- */

/* The kernel takes no more for now: the last n entries become nothing, and their requests go to workers. */
static void withdraw(struct diskio *io, struct diskio_req **r, unsigned n)
{
    struct io_uring_sq *sq = &io->ring.sq;
    for (unsigned i = 0; i < n; i++) {
        struct io_uring_sqe *e = &sq->sqes[(sq->sqe_tail - n + i) & *sq->kring_mask];
        io_uring_prep_nop(e);
        io_uring_sqe_set_data(e, NULL);
        submit(io, r[i]);
    }
}

/* Gives up to REAP requests to the kernel. */
static void send_some(struct diskio *io, struct diskio_req **r, unsigned n)
{
    unsigned queued = 0, left;
    lock_take(&io->sq);
    for (; queued < n; queued++) {
        struct io_uring_sqe *e = io_uring_get_sqe(&io->ring);
        if (!e)
            break;
        if (r[queued]->op == DISKIO_READ)
            io_uring_prep_readv(e, io->fd, r[queued]->iov, r[queued]->n, r[queued]->off);
        else
            io_uring_prep_writev(e, io->fd, r[queued]->iov, r[queued]->n, r[queued]->off);
        io_uring_sqe_set_data(e, r[queued]);
        /* The kernel's ring orders this thread's writes before the reaper's reads; this says so in C. */
        atomic_store_explicit(&r[queued]->sent, true, memory_order_release);
    }
    /* What was withdrawn before may still be in front of them. */
    for (int tries = 0; (left = io_uring_sq_ready(&io->ring)) != 0 && tries < SUBMIT_TRIES; tries++)
        if (io_uring_submit(&io->ring) <= 0)
            sched_yield();
    left = left < queued ? left : queued;
    withdraw(io, r + queued - left, left);
    lock_drop(&io->sq); /* diskio_free takes it once more, so that io is still there */
    for (; queued < n; queued++)
        submit(io, r[queued]);
}

/* False: a worker finishes it, what is left of a short transfer or the flush. */
static bool finish(struct diskio *io, struct diskio_req *r, int res)
{
    if (res == -EAGAIN || res == -EINTR || res == -ECANCELED)
        res = 0; /* not done */
    if (res < 0) {
        r->result = res;
        return true;
    }
    r->result = 0;
    if ((uint64_t)res >= r->len && !r->through)
        return true;
    advance(r, (uint64_t)res);
    submit(io, r);
    return false;
}

static void *reap(void *arg)
{
    struct diskio *io = arg;
    bool stop = false;
    while (!stop) {
        struct io_uring_cqe *cqe[REAP];
        struct diskio_req *list = NULL;
        if (io_uring_wait_cqe(&io->ring, cqe) < 0)
            continue;
        unsigned n = io_uring_peek_batch_cqe(&io->ring, cqe, REAP);
        for (unsigned i = 0; i < n; i++) {
            void *data = io_uring_cqe_get_data(cqe[i]);
            struct diskio_req *r = data;
            if (data == io) {
                stop = true;
            } else if (data && atomic_load_explicit(&r->sent, memory_order_acquire) && finish(io, r, cqe[i]->res)) {
                r->next = list;
                list = r;
            }
        }
        io_uring_cq_advance(&io->ring, n);
        if (list)
            io->user.done(io->user.arg, list);
    }
    return NULL;
}

/* ---- a list ---- */

/* Sends what is the ring's; the rest goes to workers, but for the last, which is returned for the caller to run. */
static struct diskio_req *hand_on(struct diskio *io, struct diskio_req *r)
{
    struct diskio_req *some[REAP], *next, *last = NULL;
    unsigned n = 0;
    for (; r; r = next) {
        next = r->next;
        if (io->ring_on && direct(io, r) && (r->op == DISKIO_READ || io->ring_writes)) {
            some[n++] = r;
        } else {
            if (last)
                submit(io, last);
            last = r;
        }
        if (n == REAP) {
            send_some(io, some, n);
            n = 0;
        }
    }
    if (n)
        send_some(io, some, n);
    return last;
}

static void run_list(struct pool_job *j)
{
    struct diskio_req *r = (struct diskio_req *)j, *done = NULL, *left = NULL, **end = &left, *next;
    struct diskio *io = r->io;
    for (; r; r = next) {
        next = r->next;
        if (try_now(io, r)) {
            r->next = done;
            done = r;
        } else {
            r->next = NULL;
            *end = r;
            end = &r->next;
        }
    }
    /* io lives as long as a request of it has not been told of: one that is done here, or that is left to run. */
    r = hand_on(io, left);
    if (done)
        io->user.done(io->user.arg, done);
    if (r)
        run_one(&r->job);
}

void diskio_begin(struct diskio *io, struct diskio_req *list, bool on_worker)
{
    for (struct diskio_req *r = list; r; r = r->next)
        r->io = io;
    list->job.run = run_list;
    if (on_worker)
        pool_submit_next(io->pool, &list->job);
    else
        pool_submit(io->pool, &list->job);
}

/* ---- life ---- */

static int start_ring(struct diskio *io)
{
    int r = io->fd < 0 ? -EOPNOTSUPP : io_uring_queue_init(RING_ENTRIES, &io->ring, 0);
    if (r < 0)
        return r;
    if (!(io->ring.features & IORING_FEAT_NODROP)) { /* a Linux before 5.5 */
        io_uring_queue_exit(&io->ring);
        return -ENOSYS;
    }
    /* Where a file is O_NONBLOCK some kernels give EAGAIN back instead of waiting; disk_open needs it for opening only.
     */
    int flags = fcntl(io->fd, F_GETFL);
    if (flags >= 0)
        fcntl(io->fd, F_SETFL, flags & ~O_NONBLOCK);
    lock_init(&io->sq, LOCK_CHARDEV);
    r = thread_start(&io->reaper, STACK, reap, io);
    if (r < 0) {
        lock_destroy(&io->sq);
        io_uring_queue_exit(&io->ring);
        return r;
    }
    io->ring_on = true;
    return 0;
}

struct diskio *diskio_new(struct disk *disk, struct pool *pool, enum diskio_way way, struct diskio_user user,
                          struct err *e)
{
    struct diskio *io = calloc(1, sizeof(*io));
    if (!io) {
        err_set(e, ENOMEM, "out of memory");
        return NULL;
    }
    io->disk = disk;
    io->pool = pool;
    io->user = user;
    io->fd = disk_direct_fd(disk);
    io->ring_writes = way == DISKIO_URING;
    int r = way == DISKIO_THREADS ? 0 : start_ring(io);
    if (r < 0 && way == DISKIO_URING) {
        if (io->fd < 0)
            err_set(e, ENOTSUP, "io=uring is for raw images; this one takes io=threads");
        else
            err_set(e, -r, "io=uring: this host lets no io_uring be made: %s; io=threads does without", strerror(-r));
        free(io);
        return NULL;
    }
    if (r < 0)
        log_debug("disk I/O by threads: io_uring: %s", strerror(-r));
    return io;
}

void diskio_free(struct diskio *io)
{
    if (!io)
        return;
    if (io->ring_on) {
        lock_take(&io->sq);
        struct io_uring_sqe *e;
        while (!(e = io_uring_get_sqe(&io->ring)))
            io_uring_submit(&io->ring);
        io_uring_prep_nop(e);
        io_uring_sqe_set_data(e, io);
        while (io_uring_submit(&io->ring) <= 0)
            sched_yield();
        lock_drop(&io->sq);
        pthread_join(io->reaper, NULL);
        lock_destroy(&io->sq);
        io_uring_queue_exit(&io->ring);
    }
    free(io);
}

const char *diskio_name(const struct diskio *io)
{
    return io->ring_on ? "io_uring" : "threads";
}
