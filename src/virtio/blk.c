/* SPDX-License-Identifier: MIT */
/*
 * virtio block device (virtio 1.2, "Block Device"). serve takes requests off a queue and gives them to host/diskio.h,
 * which moves data straight between the image and the pinned guest buffers. What needs no waiting is done in the vCPU's
 * thread; at the first request that does, a worker takes over. Requests in flight have no order; a flush covers what
 * completed before it, as the standard asks.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "host/disk.h"
#include "mem/mem.h"
#include "state/state.h"
#include "virtio/devices.h"
#include "virtio/stats.h"
#include "virtio/throttle.h"

enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_GET_ID = 8, T_DISCARD = 11, T_WRITE_ZEROES = 13 };
enum { S_OK = 0, S_IOERR = 1, S_UNSUPP = 2 };
enum { ZEROES_UNMAP = 1 };

#define F_SIZE_MAX (1UL << 1)
#define F_SEG_MAX (1UL << 2)
#define F_RO (1UL << 5)
#define F_BLK_SIZE (1UL << 6)
#define F_FLUSH (1UL << 9)
#define F_TOPOLOGY (1UL << 10)
#define F_CONFIG_WCE (1UL << 11)
#define F_MQ (1UL << 12)
#define F_DISCARD (1UL << 13)
#define F_WRITE_ZEROES (1UL << 14)

enum {
    BLK_QUEUE = 256,
    BLK_BATCH = 64,
    BLK_SEG_MAX = 126,
    BLK_SIZE_MAX = 1 << 20,
    BLK_RANGES_MAX = 16,         /* of one discard or write zeroes request */
    BLK_RANGE_SECTORS = 1 << 21, /* 1 GiB */
    BLK_REQ_MAX = 256 << 20,     /* data bytes of one request; more than SEG_MAX times SIZE_MAX */
    BLK_AT_ONCE = 65536,         /* data bytes that a vCPU moves itself before a worker takes over */
    BLK_WCE_OFF = 32,            /* config offset of writeback */
};

/* virtio 1.2, "Device configuration layout". */
struct blk_config {
    uint64_t capacity;
    uint32_t size_max, seg_max;
    uint16_t cylinders;
    uint8_t heads, sectors;
    uint32_t blk_size;
    uint8_t physical_block_exp, alignment_offset;
    uint16_t min_io_size;
    uint32_t opt_io_size;
    uint8_t writeback, unused0;
    uint16_t num_queues;
    uint32_t max_discard_sectors, max_discard_seg, discard_sector_alignment;
    uint32_t max_write_zeroes_sectors, max_write_zeroes_seg;
    uint8_t write_zeroes_may_unmap, unused1[3];
} __attribute__((packed));

_Static_assert(offsetof(struct blk_config, writeback) == BLK_WCE_OFF, "layout of the configuration space");
_Static_assert(sizeof(struct blk_config) == 60, "layout of the configuration space");

struct blk_header {
    uint32_t type, reserved;
    uint64_t sector;
};

struct blk_range {
    uint64_t sector;
    uint32_t count, flags;
};

struct blk {
    struct virtio_dev v; /* first */
    struct disk *disk;
    struct diskio *io;
    bool writeback;
    struct virtio_throttle throttle;
    uint64_t reads, writes, flushes, discards, zeroes, errors; /* requests that ended; errors are none of the others */
    uint64_t read_bytes, written_bytes;
};

/* One request in flight. The buffers are pinned from start to finish. */
struct blk_req {
    struct diskio_req io; /* first */
    struct blk *b;
    unsigned q;
    uint16_t head;
    struct blk_header hdr;
    gpa_t status;  /* where the status byte goes */
    uint64_t room; /* for the guest's data, in front of it */
    unsigned n_ranges;
    struct blk_range range[BLK_RANGES_MAX];
    unsigned n; /* data buffers */
    struct virtq_buf *buf;
    struct iovec iov[];
};

/* ---- configuration ---- */

static unsigned blk_config(struct virtio_dev *v, uint8_t buf[VIRTIO_CONFIG_MAX])
{
    const struct blk *b = (struct blk *)v;
    uint32_t block = disk_block_size(b->disk);
    struct blk_config c = {
        .capacity = disk_bytes(b->disk) / DISK_SECTOR,
        .size_max = BLK_SIZE_MAX,
        .seg_max = BLK_SEG_MAX,
        .blk_size = DISK_SECTOR,
        .physical_block_exp = (uint8_t)__builtin_ctz(block / DISK_SECTOR),
        .min_io_size = (uint16_t)(block / DISK_SECTOR > UINT16_MAX ? 1 : block / DISK_SECTOR),
        .writeback = b->writeback,
        .num_queues = (uint16_t)v->n_queues,
        .max_discard_sectors = BLK_RANGE_SECTORS,
        .max_discard_seg = BLK_RANGES_MAX,
        .discard_sector_alignment = block / DISK_SECTOR,
        .max_write_zeroes_sectors = BLK_RANGE_SECTORS,
        .max_write_zeroes_seg = BLK_RANGES_MAX,
        .write_zeroes_may_unmap = 1,
    };
    memcpy(buf, &c, sizeof(c));
    return sizeof(c);
}

static void blk_config_write(struct virtio_dev *v, unsigned off, const uint8_t *buf, unsigned len)
{
    if (off == BLK_WCE_OFF && len == 1 && (v->status & VIRTIO_FEATURES_OK) && virtio_has(v, F_CONFIG_WCE))
        ((struct blk *)v)->writeback = buf[0] != 0;
}

/* A driver that cannot flush expects that a finished write is on the medium, until it says otherwise. */
static void blk_negotiated(struct virtio_dev *v)
{
    ((struct blk *)v)->writeback = virtio_has(v, F_FLUSH);
}

static void blk_reset(struct virtio_dev *v)
{
    ((struct blk *)v)->writeback = true;
    virtio_throttle_reset(&((struct blk *)v)->throttle);
}

/* ---- what is not reading or writing; on a worker, no lock held ---- */

static int work_ranges(struct diskio_req *io)
{
    const struct blk_req *r = (struct blk_req *)io;
    struct disk *d = r->b->disk;
    int e = 0;
    for (unsigned i = 0; i < r->n_ranges && e == 0; i++) {
        uint64_t off = r->range[i].sector * DISK_SECTOR, len = (uint64_t)r->range[i].count * DISK_SECTOR;
        if (r->hdr.type == T_DISCARD)
            e = disk_discard(d, off, len);
        else
            e = disk_zero(d, off, len, r->range[i].flags & ZEROES_UNMAP);
    }
    return e;
}

static int work_flush(struct diskio_req *io)
{
    return disk_flush(((struct blk_req *)io)->b->disk);
}

static int work_id(struct diskio_req *io)
{
    const struct blk_req *r = (struct blk_req *)io;
    char id[DISK_SERIAL];
    size_t done = 0;
    disk_serial(r->b->disk, id);
    for (unsigned i = 0; i < r->n && done < sizeof(id); i++) {
        size_t n = r->iov[i].iov_len < sizeof(id) - done ? r->iov[i].iov_len : sizeof(id) - done;
        memcpy(r->iov[i].iov_base, id + done, n);
        done += n;
    }
    return 0;
}

/* ---- the end of a request ---- */

static uint8_t status_of(int r)
{
    return r == 0 ? S_OK : r == -EOPNOTSUPP ? S_UNSUPP : S_IOERR;
}

/* Returns how many bytes there are. */
static uint64_t unpin(const struct blk_req *r)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < r->n; i++) {
        mem_unpin(r->b->v.mem, r->buf[i].gpa, r->buf[i].len, r->hdr.type != T_OUT);
        sum += r->buf[i].len;
    }
    return sum;
}

/* virtio 1.2, "The Virtqueue Used Ring": at least so many bytes were written, from the first on; rather too few than
 * too many. data of them are no status, which counts if there is nothing unwritten in front of it. */
static uint32_t used_len(uint64_t data, uint64_t room)
{
    return (uint32_t)(data < room ? data : room + 1);
}

/* Lock held. bytes: of a read or write. */
static void count(struct blk *b, uint32_t type, uint8_t status, uint64_t bytes)
{
    if (status != S_OK) {
        b->errors++;
        return;
    }
    b->reads += type == T_IN;
    b->read_bytes += type == T_IN ? bytes : 0;
    b->writes += type == T_OUT;
    b->written_bytes += type == T_OUT ? bytes : 0;
    b->flushes += type == T_FLUSH;
    b->discards += type == T_DISCARD;
    b->zeroes += type == T_WRITE_ZEROES;
}

/* Gives a request back that has ended; lock held. */
static void finish(struct blk_req *r)
{
    struct virtio_dev *v = &r->b->v;
    uint8_t status = status_of(r->io.result);
    uint64_t data = status != S_OK ? 0 : r->hdr.type == T_IN ? r->room : r->hdr.type == T_GET_ID ? DISK_SERIAL : 0;
    count(r->b, r->hdr.type, status, unpin(r));
    /* The status byte may lie in the data of a hostile driver; it is written last. */
    mem_write(v->mem, r->status, &status, 1);
    virtq_push(&v->q[r->q], r->head, used_len(data, r->room));
    free(r);
}

/* What diskio is done with: one interrupt for a list. */
static void done(void *arg, struct diskio_req *list)
{
    struct blk *b = arg;
    struct virtio_dev *v = &b->v;
    uint32_t queues = 0;
    lock_take(&v->lock);
    for (struct diskio_req *next; list; list = next) {
        next = list->next;
        queues |= 1U << ((struct blk_req *)list)->q;
        finish((struct blk_req *)list);
        virtio_release(v);
    }
    for (unsigned q = 0; q < v->n_queues; q++)
        if (queues >> q & 1)
            virtio_signal(v, q);
    lock_drop(&v->lock);
}

/* ---- taking a request apart; lock held ---- */

/* The chain without header and status byte. */
struct blk_parse {
    struct blk_header hdr;
    gpa_t status;
    uint64_t len;  /* of the data */
    bool to_guest; /* its direction */
    uint8_t verdict;
    unsigned n_ranges;
    struct blk_range range[BLK_RANGES_MAX];
};

/* virtio 1.2, "Device Requirements: Device Operation": what a discard or write zeroes request must not be. */
static uint8_t read_ranges(struct blk *b, const struct virtq *q, const struct virtq_chain *c, struct blk_parse *p)
{
    uint64_t sectors = disk_bytes(b->disk) / DISK_SECTOR;
    if (!p->len || p->len % sizeof(p->range[0]) || p->len > sizeof(p->range))
        return S_IOERR;
    virtq_read(q, c, sizeof(p->hdr), p->range, p->len);
    p->n_ranges = (unsigned)(p->len / sizeof(p->range[0]));
    for (unsigned i = 0; i < p->n_ranges; i++)
        if (p->range[i].flags & ~(uint32_t)(p->hdr.type == T_WRITE_ZEROES ? ZEROES_UNMAP : 0))
            return S_UNSUPP;
    for (unsigned i = 0; i < p->n_ranges; i++) {
        const struct blk_range *g = &p->range[i];
        if (g->count > BLK_RANGE_SECTORS || g->sector > sectors || g->count > sectors - g->sector)
            return S_IOERR;
    }
    return S_OK;
}

/* False: not even a status can be given back. */
static bool parse(struct blk *b, const struct virtq *q, struct virtq_chain *c, struct blk_parse *p)
{
    if (c->out_len < sizeof(p->hdr) || c->in_len == 0)
        return false;
    if (virtq_read(q, c, 0, &p->hdr, sizeof(p->hdr)) != sizeof(p->hdr))
        return false;
    for (unsigned i = (unsigned)c->n_out + c->n_in; i-- > c->n_out;)
        if (c->buf[i].len) {
            p->status = c->buf[i].gpa + --c->buf[i].len;
            break;
        }
    uint32_t t = p->hdr.type;
    bool change = t == T_OUT || t == T_DISCARD || t == T_WRITE_ZEROES;
    p->to_guest = !change;
    p->len = change ? c->out_len - sizeof(p->hdr) : c->in_len - 1;
    p->verdict = S_OK;
    if (!change && t != T_IN && t != T_FLUSH && t != T_GET_ID)
        p->verdict = S_UNSUPP;
    else if (change && disk_read_only(b->disk))
        p->verdict = S_IOERR;
    else if ((t == T_DISCARD && !virtio_has(&b->v, F_DISCARD)) ||
             (t == T_WRITE_ZEROES && !virtio_has(&b->v, F_WRITE_ZEROES)))
        p->verdict = S_UNSUPP;
    else if (t == T_DISCARD || t == T_WRITE_ZEROES)
        p->verdict = read_ranges(b, q, c, p);
    else if (t == T_FLUSH)
        return true;
    else if (p->len > BLK_REQ_MAX || (t != T_GET_ID && (p->len % DISK_SECTOR || !p->len)))
        p->verdict = S_IOERR;
    else if (t != T_GET_ID && (p->hdr.sector > disk_bytes(b->disk) / DISK_SECTOR ||
                               p->len / DISK_SECTOR > disk_bytes(b->disk) / DISK_SECTOR - p->hdr.sector))
        p->verdict = S_IOERR;
    return true;
}

/* Pins the data buffers: those of one direction, without the header. */
static int pin_data(struct blk_req *r, const struct virtq_chain *c, bool to_guest)
{
    uint64_t skip = to_guest ? 0 : sizeof(r->hdr);
    unsigned i = to_guest ? c->n_out : 0, end = to_guest ? (unsigned)c->n_out + c->n_in : c->n_out;
    for (; i < end; i++) {
        uint64_t cut = skip < c->buf[i].len ? skip : c->buf[i].len;
        struct virtq_buf d = { .gpa = c->buf[i].gpa + cut, .len = (uint32_t)(c->buf[i].len - cut) };
        skip -= cut;
        if (!d.len)
            continue;
        void *p = mem_pin(r->b->v.mem, d.gpa, d.len);
        if (!p)
            return -EFAULT;
        r->iov[r->n] = (struct iovec){ .iov_base = p, .iov_len = d.len };
        r->buf[r->n++] = d;
        r->io.len += d.len;
    }
    return 0;
}

/* What a rate limit counts: bytes that move. A host that cannot make zeroes writes them. */
static uint64_t cost(const struct blk_parse *p)
{
    uint64_t sum = 0;
    if (p->verdict != S_OK)
        return 0;
    if (p->hdr.type == T_IN || p->hdr.type == T_OUT)
        return p->len;
    for (unsigned i = 0; i < p->n_ranges && p->hdr.type == T_WRITE_ZEROES; i++)
        sum += (uint64_t)p->range[i].count * DISK_SECTOR;
    return sum;
}

static struct blk_req *make_req(struct blk *b, unsigned q, const struct virtq_chain *c, struct blk_parse *p)
{
    uint32_t t = p->hdr.type;
    bool data = t == T_IN || t == T_OUT || t == T_GET_ID;
    size_t n = !data ? 0 : p->to_guest ? c->n_in : c->n_out;
    struct blk_req *r = calloc(1, sizeof(*r) + n * (sizeof(r->iov[0]) + sizeof(r->buf[0])));
    p->verdict = S_IOERR;
    if (!r)
        return NULL;
    *r = (struct blk_req){ .b = b, .q = q, .head = c->head, .hdr = p->hdr, .status = p->status, .room = c->in_len - 1 };
    r->buf = (struct virtq_buf *)(void *)&r->iov[n];
    r->n_ranges = p->n_ranges;
    memcpy(r->range, p->range, p->n_ranges * sizeof(p->range[0]));
    if (data && pin_data(r, c, p->to_guest) < 0) {
        unpin(r);
        free(r);
        return NULL;
    }
    r->io.op = t == T_IN ? DISKIO_READ : t == T_OUT ? DISKIO_WRITE : DISKIO_WORK;
    r->io.work = t == T_FLUSH ? work_flush : t == T_GET_ID ? work_id : work_ranges;
    r->io.through = !b->writeback && (t == T_OUT || t == T_DISCARD || t == T_WRITE_ZEROES);
    r->io.off = p->hdr.sector * DISK_SECTOR;
    r->io.iov = r->iov;
    r->io.n = r->n;
    return r;
}

enum taken { TAKEN_NONE, TAKEN_ANSWERED, TAKEN_REQ, TAKEN_LATER };

/* The next request of a queue: none, answered already, in *req, or left in the queue for later. */
static enum taken take(struct blk *b, unsigned qi, struct blk_req **req)
{
    struct virtio_dev *v = &b->v;
    struct virtq *q = &v->q[qi];
    struct blk_parse p = { 0 };
    if (virtq_pop(q, &v->chain) != 1)
        return TAKEN_NONE;
    if (!parse(b, q, &v->chain, &p)) {
        virtq_push(q, v->chain.head, 0);
        q->broken = "a block request without header or status";
        return TAKEN_LATER;
    }
    if (!virtio_throttle_take(&b->throttle, qi, cost(&p))) {
        virtq_unpop(q);
        return TAKEN_LATER;
    }
    if (p.verdict == S_OK && (*req = make_req(b, qi, &v->chain, &p)) != NULL)
        return TAKEN_REQ;
    mem_write(v->mem, p.status, &p.verdict, 1);
    count(b, p.hdr.type, p.verdict, 0);
    virtq_push(q, v->chain.head, used_len(0, v->chain.in_len - 1));
    return TAKEN_ANSWERED;
}

static bool blk_serve(struct virtio_dev *v, unsigned qi)
{
    struct blk *b = (struct blk *)v;
    struct virtq *q = &v->q[qi];
    struct diskio_req *list = NULL, **end = &list;
    bool more = true, answered = false;
    uint64_t moved = 0;
    virtq_disable_notify(q);
    for (int i = 0; i < BLK_BATCH && more; i++) {
        struct blk_req *r = NULL;
        enum taken t = take(b, qi, &r);
        if (t == TAKEN_NONE) {
            more = virtq_enable_notify(q);
        } else if (t == TAKEN_LATER) {
            more = false;
        } else if (t == TAKEN_ANSWERED) {
            answered = true;
        } else if (v->in_notify && (moved += r->io.len) <= BLK_AT_ONCE && diskio_try(b->io, &r->io)) {
            finish(r);
            answered = true;
        } else {
            virtio_hold(v);
            *end = &r->io;
            end = &r->io.next;
            if (v->in_notify) { /* what comes behind it is for a worker too */
                more = virtq_enable_notify(q);
                break;
            }
        }
    }
    if (list)
        diskio_begin(b->io, list, !v->in_notify);
    if (answered)
        virtio_signal(v, qi);
    return more && !q->broken;
}

/* ---- life ---- */

static void blk_save(struct virtio_dev *v, struct state_out *s)
{
    const struct blk *b = (struct blk *)v;
    state_put_u64(s, disk_bytes(b->disk));
    state_put_u8(s, b->writeback);
    virtio_throttle_save(&((struct blk *)v)->throttle, s);
}

static int blk_load(struct virtio_dev *v, struct state_in *s)
{
    struct blk *b = (struct blk *)v;
    uint64_t bytes = state_get_u64(s);
    uint8_t writeback = state_get_u8(s);
    if (s->bad || bytes != disk_bytes(b->disk) || writeback > 1)
        return -EINVAL;
    virtio_throttle_load(&b->throttle, s);
    if (s->bad)
        return -EINVAL;
    b->writeback = writeback;
    return 0;
}

static void blk_stats(struct virtio_dev *v, const struct virtio_put *put)
{
    const struct blk *b = (struct blk *)v;
    put->fn(put->arg, "reads", b->reads);
    put->fn(put->arg, "read_bytes", b->read_bytes);
    put->fn(put->arg, "writes", b->writes);
    put->fn(put->arg, "written_bytes", b->written_bytes);
    put->fn(put->arg, "flushes", b->flushes);
    put->fn(put->arg, "discards", b->discards);
    put->fn(put->arg, "write_zeroes", b->zeroes);
    put->fn(put->arg, "errors", b->errors);
}

static void blk_free(struct virtio_dev *v)
{
    virtio_throttle_fini(&((struct blk *)v)->throttle);
    virtio_fini(v);
    diskio_free(((struct blk *)v)->io);
    free(v);
}

static const struct virtio_ops blk_ops = {
    .name = "virtio-blk",
    .id = VIRTIO_ID_BLOCK,
    .config = blk_config,
    .config_write = blk_config_write,
    .negotiated = blk_negotiated,
    .serve = blk_serve,
    .reset = blk_reset,
    .save = blk_save,
    .load = blk_load,
    .stats = blk_stats,
    .free = blk_free,
};

struct virtio_dev *virtio_blk_new(const struct virtio_env *env, const struct virtio_blk_cfg *cfg, struct err *e)
{
    uint64_t f = F_SIZE_MAX | F_SEG_MAX | F_BLK_SIZE | F_TOPOLOGY | F_FLUSH | F_CONFIG_WCE;
    struct blk *b = calloc(1, sizeof(*b));
    if (!b) {
        err_set(e, ENOMEM, "out of memory");
        return NULL;
    }
    b->disk = cfg->disk;
    b->io = diskio_new(cfg->disk, env->pool, cfg->io, (struct diskio_user){ done, b }, e);
    if (!b->io) {
        free(b);
        return NULL;
    }
    b->writeback = true;
    f |= disk_read_only(cfg->disk) ? F_RO : F_DISCARD | F_WRITE_ZEROES;
    if (cfg->queues > 1)
        f |= F_MQ;
    virtio_init(&b->v, &blk_ops, env, f);
    virtio_throttle_init(&b->throttle, &b->v, cfg->limit);
    for (unsigned i = 0; i < cfg->queues && i < VIRTIO_QUEUES_MAX; i++)
        virtio_add_queue(&b->v, BLK_QUEUE);
    return &b->v;
}
