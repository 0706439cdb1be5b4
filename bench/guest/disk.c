/* SPDX-License-Identifier: MIT */
/*
 * Rows of a disk: requests of 4 KiB in random places, one at a time or 32, and of 256 KiB in order, past the guest's
 * page cache. The disk is /dev/vda, or the file that BENCH_DISK names (natively; then the page cache serves it).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "guest/rows.h"

enum { SMALL = 4096, LARGE = DISK_LARGE, DEPTH = 32 };

struct disk {
    int fd;
    uint64_t blocks; /* of SMALL */
    uint8_t *buf;    /* DEPTH times SMALL, or LARGE */
    uint64_t seed;
};

static void open_disk(struct disk *d)
{
    const char *file = getenv("BENCH_DISK");
    d->fd = open(file ? file : "/dev/vda", O_RDWR | (file ? 0 : O_DIRECT));
    off_t end = d->fd < 0 ? 0 : lseek(d->fd, 0, SEEK_END);
    if (end < LARGE || posix_memalign((void **)&d->buf, SMALL, LARGE))
        bench_die("the disk");
    d->blocks = (uint64_t)end / SMALL;
    d->seed = 88172645463325252;
    memset(d->buf, 0x5a, LARGE);
}

static void close_disk(struct disk *d)
{
    close(d->fd);
    free(d->buf);
}

static off_t somewhere(struct disk *d)
{
    d->seed ^= d->seed << 13, d->seed ^= d->seed >> 7, d->seed ^= d->seed << 17;
    return (off_t)(d->seed % d->blocks * SMALL);
}

static uint64_t one_by_one(uint64_t n, bool write, size_t size)
{
    struct disk d;
    open_disk(&d);
    for (uint64_t i = 0; i < n; i++) {
        off_t at = size == SMALL ? somewhere(&d) : (off_t)(i % (d.blocks * SMALL / size) * size);
        ssize_t got = write ? pwrite(d.fd, d.buf, size, at) : pread(d.fd, d.buf, size, at);
        if (got != (ssize_t)size)
            bench_die("disk");
    }
    close_disk(&d);
    return 0;
}

static void submit(struct disk *d, aio_context_t ctx, struct iocb *cb)
{
    cb->aio_offset = somewhere(d);
    if (syscall(SYS_io_submit, ctx, 1, &cb) != 1)
        bench_die("io_submit");
}

/* Always DEPTH in flight but for the last. */
static uint64_t many(uint64_t n, bool write)
{
    struct disk d;
    struct iocb cb[DEPTH];
    struct io_event done[DEPTH];
    aio_context_t ctx = 0;
    uint64_t begun = 0, ended = 0;
    open_disk(&d);
    if (syscall(SYS_io_setup, DEPTH, &ctx) < 0)
        bench_die("io_setup");
    for (unsigned i = 0; i < DEPTH; i++) {
        cb[i] = (struct iocb){ .aio_fildes = (uint32_t)d.fd,
                               .aio_lio_opcode = write ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD,
                               .aio_buf = (uintptr_t)(d.buf + i * SMALL),
                               .aio_nbytes = SMALL };
        cb[i].aio_data = (uintptr_t)&cb[i];
        if (begun++ < n)
            submit(&d, ctx, &cb[i]);
    }
    while (ended < n) {
        long got = syscall(SYS_io_getevents, ctx, 1, DEPTH, done, NULL);
        if (got < 0 && errno != EINTR)
            bench_die("io_getevents");
        for (long i = 0; i < got; i++, ended++) {
            if (done[i].res != SMALL)
                bench_die("disk");
            if (begun++ < n)
                submit(&d, ctx, (struct iocb *)(uintptr_t)done[i].data);
        }
    }
    syscall(SYS_io_destroy, ctx);
    close_disk(&d);
    return 0;
}

uint64_t row_randread(uint64_t n)
{
    return one_by_one(n, false, SMALL);
}
uint64_t row_randwrite(uint64_t n)
{
    return one_by_one(n, true, SMALL);
}
uint64_t row_randread32(uint64_t n)
{
    return many(n, false);
}
uint64_t row_randwrite32(uint64_t n)
{
    return many(n, true);
}
uint64_t row_seqread(uint64_t n)
{
    return one_by_one(n, false, LARGE);
}
uint64_t row_seqwrite(uint64_t n)
{
    return one_by_one(n, true, LARGE);
}
