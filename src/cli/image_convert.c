/* SPDX-License-Identifier: MIT */
/* gazda image convert and commit: copies what an image has, not what it has not. */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/image.h"

enum { WORKERS_MAX = 8, CHUNK_MIN = 1 << 20, BLOCK = 4096, TICK_NS = 200000000 };

/* ---- progress ---- */

void image_progress_start(struct image_progress *p, bool quiet, uint64_t total)
{
    p->shown = !quiet && isatty(STDERR_FILENO);
    p->total = total;
    atomic_store(&p->done, 0);
}

void image_progress(const struct image_progress *p)
{
    enum { WIDTH = 50 };
    double part = p->total ? (double)atomic_load(&p->done) / (double)p->total : 1;
    int full = (int)(part * WIDTH);
    if (p->shown)
        fprintf(stderr, "\r[%.*s%*s] %5.1f%%", full, "##################################################", WIDTH - full,
                "", part * 100);
}

void image_progress_end(const struct image_progress *p)
{
    if (p->shown)
        fprintf(stderr, "\r%60s\r", "");
}

/* ---- convert ---- */

struct copy {
    struct disk *from, *to;
    uint64_t bytes, chunk;
    uint64_t cluster; /* of compressed output; 0: not compressed */
    _Atomic uint64_t next;
    _Atomic int failed; /* -errno of the first */
    _Atomic bool reading;
    struct image_progress progress;
};

/* Through the whole chain: nothing but zeroes at off, for *len bytes. */
static int maps_to_zero(struct disk *d, uint64_t off, uint64_t *len)
{
    while (d) {
        if (off >= disk_bytes(d))
            return DISK_MAP_ZERO; /* behind a shorter backing file */
        if (*len > disk_bytes(d) - off)
            *len = disk_bytes(d) - off;
        int r = disk_map(d, off, len);
        if (r != DISK_MAP_BACKING)
            return r;
        d = disk_backing(d);
    }
    return DISK_MAP_ZERO;
}

static bool is_zero(const uint8_t *p, uint64_t n)
{
    return p[0] == 0 && memcmp(p, p + 1, n - 1) == 0;
}

/* Writes the blocks that are not zero, in as few calls as that takes. */
static int write_sparse(struct copy *c, uint8_t *buf, uint64_t off, uint64_t len)
{
    uint64_t begin = 0, at = 0;
    int r = 0;
    while (at < len && r == 0) {
        uint64_t n = len - at < BLOCK ? len - at : BLOCK;
        if (!is_zero(buf + at, n)) {
            at += n;
            if (at < len)
                continue;
        }
        struct iovec v = { buf + begin, at - begin };
        if (v.iov_len)
            r = disk_write(c->to, &v, 1, off + begin);
        at += n;
        begin = at;
    }
    return r;
}

static int write_compressed(struct copy *c, const uint8_t *buf, uint64_t off, uint64_t len)
{
    int r = 0;
    for (uint64_t at = 0; at < len && r == 0; at += c->cluster) {
        uint64_t n = len - at < c->cluster ? len - at : c->cluster;
        if (!is_zero(buf + at, n))
            r = disk_write_compressed(c->to, buf + at, n, off + at);
    }
    return r;
}

static int copy_chunk(struct copy *c, uint8_t *buf, uint64_t off, uint64_t len)
{
    bool any = false;
    for (uint64_t at = 0, n; at < len; at += n) {
        n = len - at;
        int r = maps_to_zero(c->from, off + at, &n);
        if (r == DISK_MAP_DATA) {
            struct iovec v = { buf + at, n };
            r = disk_read(c->from, &v, 1, off + at);
            any = true;
        } else if (r == DISK_MAP_ZERO) {
            memset(buf + at, 0, n);
            r = 0;
        }
        if (r < 0) {
            atomic_store(&c->reading, true);
            return r;
        }
    }
    if (!any)
        return 0;
    return c->cluster ? write_compressed(c, buf, off, len) : write_sparse(c, buf, off, len);
}

static void *copy_worker(void *arg)
{
    struct copy *c = arg;
    uint8_t *buf = malloc(c->chunk);
    int none = 0, r = buf ? 0 : -ENOMEM;
    while (r == 0 && !image_signal && atomic_load(&c->failed) == 0) {
        uint64_t off = atomic_fetch_add(&c->next, c->chunk);
        if (off >= c->bytes)
            break;
        uint64_t len = c->bytes - off < c->chunk ? c->bytes - off : c->chunk;
        r = copy_chunk(c, buf, off, len);
        atomic_fetch_add(&c->progress.done, len);
    }
    if (r < 0)
        atomic_compare_exchange_strong(&c->failed, &none, r);
    free(buf);
    return NULL;
}

static void copy_all(struct copy *c)
{
    pthread_t t[WORKERS_MAX];
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    int n = 0, max = cpus < 1 ? 1 : cpus > WORKERS_MAX ? WORKERS_MAX : (int)cpus;
    while (n < max && pthread_create(&t[n], NULL, copy_worker, c) == 0)
        n++;
    if (n == 0)
        copy_worker(c);
    for (int i = 0; i < n; i++) {
        struct timespec ts;
        do {
            image_progress(&c->progress);
            clock_gettime(CLOCK_REALTIME, &ts);
            ts.tv_nsec += TICK_NS;
            if (ts.tv_nsec >= 1000000000)
                ts.tv_sec++, ts.tv_nsec -= 1000000000;
        } while (pthread_timedjoin_np(t[i], NULL, &ts) == ETIMEDOUT);
    }
    image_progress_end(&c->progress);
}

static int convert_to(const struct image_options *o, struct disk *from, struct err *e)
{
    struct disk_create make = { .format = image_out_format(o->out_format, o->file[1]), .bytes = disk_bytes(from) };
    struct disk_options open_as = { .format = make.format };
    struct copy c = { .from = from, .bytes = disk_bytes(from) };
    bool raw = strcmp(make.format, "raw") == 0;
    if (raw && (o->compress || o->cluster_size || o->refcount_bits || o->version || o->lazy || o->zstd))
        return err_set(e, EINVAL, "convert: a raw image has no compression, clusters or versions; -O qcow2 is missing");
    image_describe(o, &make);
    int r = disk_create(o->file[1], &make, o->force, e);
    if (r < 0)
        return r;
    c.to = disk_open_with(o->file[1], &open_as, e);
    if (!c.to) {
        r = -EIO;
        goto undo_create;
    }
    c.cluster = o->compress ? disk_cluster(c.to) : 0;
    c.chunk = disk_cluster(c.to) > CHUNK_MIN ? disk_cluster(c.to) : CHUNK_MIN;
    image_progress_start(&c.progress, o->quiet, c.bytes);
    copy_all(&c);
    r = atomic_load(&c.failed);
    if (r == 0 && !image_signal)
        r = disk_flush(c.to);
    if (r < 0)
        err_set(e, -r, "convert: cannot %s '%.300s': %s", c.reading ? "read" : "write", o->file[!c.reading],
                strerror(-r));
    disk_close(c.to);
    if (r == 0 && !image_signal)
        return 0;
undo_create:
    unlink(o->file[1]); /* also one that was replaced: what it had is gone */
    return r;
}

int image_convert(const struct image_options *o, struct err *e)
{
    const struct disk_options open_as = { .format = o->format, .read_only = true };
    struct disk *from = disk_open_with(o->file[0], &open_as, e);
    if (!from)
        return -EINVAL;
    int r = convert_to(o, from, e);
    disk_close(from);
    return r;
}

/* ---- commit ---- */

static int commit_part(struct disk *top, struct disk *base, uint8_t *buf, uint64_t off, uint64_t *len)
{
    int r = disk_map(top, off, len);
    if (r == DISK_MAP_ZERO)
        return disk_zero(base, off, *len, true);
    if (r != DISK_MAP_DATA)
        return r == DISK_MAP_BACKING ? 0 : r;
    if (*len > CHUNK_MIN)
        *len = CHUNK_MIN;
    struct iovec v = { buf, *len };
    r = disk_read(top, &v, 1, off);
    v = (struct iovec){ buf, *len };
    return r == 0 ? disk_write(base, &v, 1, off) : r;
}

static int commit(struct disk *top, struct disk *base, const struct image_options *o, struct err *e)
{
    struct image_progress p;
    uint64_t bytes = disk_bytes(top), off = 0;
    uint8_t *buf = malloc(CHUNK_MIN);
    int r = buf ? 0 : -ENOMEM;
    if (r == 0 && disk_bytes(base) < bytes && disk_resize(base, bytes, e) < 0) {
        free(buf);
        return -EINVAL;
    }
    image_progress_start(&p, o->quiet, bytes);
    for (unsigned n = 0; off < bytes && r == 0 && !image_signal; n++) {
        uint64_t len = bytes - off;
        r = commit_part(top, base, buf, off, &len);
        off += len;
        atomic_store(&p.done, off);
        if (n % 64 == 0)
            image_progress(&p);
    }
    image_progress_end(&p);
    free(buf);
    if (r == 0)
        r = disk_flush(base);
    /* Only now: until here the overlay has everything, and a commit that was cut short is done again. */
    if (r == 0 && !o->keep && !image_signal) {
        r = disk_empty(top);
        if (r == 0)
            r = disk_flush(top);
    }
    return r == 0 ? 0 : err_set(e, -r, "commit: '%.300s': %s", o->file[0], strerror(-r));
}

int image_commit(const struct image_options *o, struct err *e)
{
    const struct disk_options open_as = { .format = "qcow2", .backing_writable = true };
    struct disk *top = disk_open_with(o->file[0], &open_as, e);
    if (!top)
        return -EINVAL;
    struct disk *base = disk_backing(top);
    int r = base ? commit(top, base, o, e)
                 : err_set(e, EINVAL, "commit: '%.300s' has no backing file to write into", o->file[0]);
    disk_close(top);
    return r;
}
