/* SPDX-License-Identifier: MIT */
/*
 * virtio memory balloon (virtio 1.2, "Traditional Memory Balloon Device"). Pages of the inflate queue and reported free
 * pages go back to the host at once. A page is there again, zero, when the guest touches it, so MUST_TELL_HOST is not
 * asked for and the deflate queue is only counted. What the guest lists is its own affair: of pages that are no RAM,
 * are listed again or are in use it hurts itself only.
 *
 * mem_discard may wait for vCPUs, which may wait for the device's lock; so it is called without it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "mem/mem.h"
#include "state/state.h"
#include "virtio/devices.h"

#define F_STATS_VQ (1UL << 1)
#define F_DEFLATE_ON_OOM (1UL << 2)
#define F_REPORTING (1UL << 5)

enum { INFLATEQ, DEFLATEQ, STANDARD_REPORTQ = 4, BALLOON_QUEUE = 128, BATCH = 8, NO_QUEUE = VIRTIO_QUEUES_MAX };
enum { ACTUAL_OFF = 4, CONFIG_LEN = 8, PFNS_MAX = 65536, STAT_LEN = 10 };

struct balloon {
    struct virtio_dev v; /* first */
    uint32_t target, actual;
    /* As negotiated: only queues that are in use are counted, as Linux does. Reports are taken from the queue that the
     * standard numbers so, too. */
    unsigned statsq, reportq;
    unsigned stats_seconds;
    bool over; /* no more timers */
    struct timer timer;
    struct virtio_balloon_info info;
};

static unsigned balloon_config(struct virtio_dev *v, uint8_t buf[VIRTIO_CONFIG_MAX])
{
    const struct balloon *b = (struct balloon *)v;
    memcpy(buf, &b->target, sizeof(b->target));
    memcpy(buf + ACTUAL_OFF, &b->actual, sizeof(b->actual));
    return CONFIG_LEN;
}

static void balloon_config_write(struct virtio_dev *v, unsigned off, const uint8_t *buf, unsigned len)
{
    struct balloon *b = (struct balloon *)v;
    if (off >= ACTUAL_OFF)
        memcpy((uint8_t *)&b->actual + (off - ACTUAL_OFF), buf, len);
}

/* ---- giving memory back ---- */

/* A request's worth of memory, on its own for the time without the lock. */
struct job {
    unsigned n;
    uint64_t bytes; /* listed */
    struct mem_range r[];
};

static struct job *new_job(size_t ranges)
{
    struct job *j = malloc(sizeof(*j) + ranges * sizeof(j->r[0]));
    if (j)
        *j = (struct job){ .n = 0 };
    return j;
}

static int by_number(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* What is RAM, sorted; how many there are. Most lists are in order already, those of a hostile driver mostly no RAM. */
static size_t sort_frames(struct virtio_dev *v, uint32_t *pfn, size_t n)
{
    size_t k = 0;
    bool sorted = true;
    for (size_t i = 0; i < n; i++) {
        if ((k && pfn[i] == pfn[k - 1]) || !mem_is_ram(v->mem, (gpa_t)pfn[i] << PAGE_SHIFT, PAGE_SIZE))
            continue;
        sorted = sorted && (!k || pfn[i] > pfn[k - 1]);
        pfn[k++] = pfn[i];
    }
    if (!sorted)
        qsort(pfn, k, sizeof(*pfn), by_number);
    return k;
}

/* Runs of sorted frames as one range each: a hole of many pages is one call. */
static struct job *job_of_frames(uint32_t *pfn, size_t n)
{
    struct job *j = new_job(n);
    for (size_t i = 0; j && i < n; i++) {
        gpa_t gpa = (gpa_t)pfn[i] << PAGE_SHIFT;
        struct mem_range *last = j->n ? &j->r[j->n - 1] : NULL;
        if (last && gpa < last->gpa + last->len)
            continue;
        j->bytes += PAGE_SIZE;
        if (last && last->gpa + last->len == gpa && gpa != MEM_GAP_END)
            last->len += PAGE_SIZE;
        else
            j->r[j->n++] = (struct mem_range){ .gpa = gpa, .len = PAGE_SIZE };
    }
    return j;
}

/* The frames that the popped request lists. NULL: none, or no memory for so many. */
static struct job *listed(struct virtio_dev *v, unsigned q)
{
    uint64_t n = v->chain.out_len / sizeof(uint32_t);
    if (n > PFNS_MAX)
        n = PFNS_MAX; /* the rest stays where it is */
    uint32_t *pfn = n ? malloc(n * sizeof(*pfn)) : NULL;
    if (!pfn)
        return NULL;
    n = virtq_read(&v->q[q], &v->chain, 0, pfn, n * sizeof(*pfn)) / sizeof(*pfn);
    struct job *j = job_of_frames(pfn, sort_frames(v, pfn, n));
    free(pfn);
    return j;
}

/* The buffers of the popped request themselves, which are free pages. */
static struct job *reported(struct virtio_dev *v)
{
    const struct virtq_chain *c = &v->chain;
    struct job *j = new_job(c->n_in);
    for (unsigned i = c->n_out; j && i < (unsigned)c->n_out + c->n_in; i++) {
        j->bytes += c->buf[i].len;
        j->r[j->n++] = (struct mem_range){ .gpa = c->buf[i].gpa, .len = c->buf[i].len };
    }
    return j;
}

static void give_back(struct balloon *b, const struct job *j)
{
    lock_drop(&b->v.lock);
    uint64_t bytes = mem_discard(b->v.mem, j->r, j->n);
    lock_take(&b->v.lock);
    b->info.given_back += bytes;
}

static bool is_reports(const struct balloon *b, unsigned q)
{
    return b->reportq != NO_QUEUE && (q == b->reportq || q == STANDARD_REPORTQ);
}

static bool serve_pages(struct balloon *b, unsigned q)
{
    struct virtio_dev *v = &b->v;
    struct virtq *vq = &v->q[q];
    bool more = true, pushed = false;
    virtq_disable_notify(vq);
    for (int i = 0; i < BATCH && more; i++) {
        if (virtq_pop(vq, &v->chain) != 1) {
            more = virtq_enable_notify(vq);
            continue;
        }
        uint16_t head = v->chain.head; /* the chain is another's without the lock */
        struct job *j = is_reports(b, q) ? reported(v) : listed(v, q);
        if (j) {
            *(q == INFLATEQ ? &b->info.inflated : q == DEFLATEQ ? &b->info.deflated : &b->info.reported) += j->bytes;
            if (q != DEFLATEQ)
                give_back(b, j);
        }
        free(j);
        virtq_push(vq, head, 0);
        pushed = true;
    }
    if (pushed)
        virtio_signal(v, q);
    return more;
}

/* ---- statistics ---- */

/* The driver leaves a buffer with numbers in the queue. Giving it back asks for new ones. */
static void read_stats(struct balloon *b)
{
    struct virtio_dev *v = &b->v;
    struct virtq *q = &v->q[b->statsq];
    uint8_t buf[STAT_LEN * 2 * VIRTIO_BALLOON_STATS];
    if (virtq_pop(q, &v->chain) != 1) {
        virtq_enable_notify(q);
        return;
    }
    uint64_t n = virtq_read(q, &v->chain, 0, buf, sizeof(buf));
    b->info.stats_known = 0;
    for (uint64_t at = 0; at + STAT_LEN <= n; at += STAT_LEN) {
        uint16_t tag;
        memcpy(&tag, buf + at, sizeof(tag));
        if (tag >= VIRTIO_BALLOON_STATS)
            continue;
        memcpy(&b->info.stats[tag], buf + at + sizeof(tag), sizeof(uint64_t));
        b->info.stats_known |= 1U << tag;
    }
    b->info.stats_updates++;
    virtq_enable_notify(q);
    virtq_unpop(q);
}

static void arm(struct balloon *b)
{
    if (b->statsq != NO_QUEUE && !b->over)
        timer_arm(&b->timer, timer_now(b->v.timers) + b->stats_seconds * 1000000000UL);
}

static void on_timer(void *arg)
{
    struct balloon *b = arg;
    struct virtio_dev *v = &b->v;
    lock_take(&v->lock);
    struct virtq *q = b->statsq == NO_QUEUE ? NULL : &v->q[b->statsq];
    if (q && virtio_live(v) && virtq_pop(q, &v->chain) == 1) {
        virtq_push(q, v->chain.head, 0);
        virtio_signal(v, b->statsq);
        if (virtq_enable_notify(q))
            virtio_kick(v, b->statsq);
    }
    if (q && q->broken)
        virtio_needs_reset(v, q->broken);
    arm(b);
    lock_drop(&v->lock);
}

const char *virtio_balloon_stat_name(unsigned i)
{
    static const char *const names[VIRTIO_BALLOON_STATS] = {
        "swap_in",          "swap_out",    "major_faults",        "minor_faults",     "free_memory", "total_memory",
        "available_memory", "disk_caches", "hugetlb_allocations", "hugetlb_failures", "oom_kill",    "alloc_stall",
        "async_scan",       "direct_scan", "async_reclaim",       "direct_reclaim",
    };
    return names[i];
}

/* ---- the host's side ---- */

int virtio_balloon_set(struct virtio_dev *v, uint64_t target)
{
    struct balloon *b = (struct balloon *)v;
    if (target > mem_size(v->mem))
        return -EINVAL;
    lock_take(&v->lock);
    uint32_t pages = (uint32_t)(target >> PAGE_SHIFT);
    if (pages != b->target) {
        b->target = pages;
        virtio_config_changed(v);
    }
    lock_drop(&v->lock);
    return 0;
}

int virtio_balloon_poll(struct virtio_dev *v, unsigned seconds)
{
    struct balloon *b = (struct balloon *)v;
    lock_take(&v->lock);
    int r = seconds && b->stats_seconds ? 0 : -EINVAL;
    if (r == 0) {
        b->stats_seconds = seconds;
        arm(b);
    }
    lock_drop(&v->lock);
    return r;
}

void virtio_balloon_get(struct virtio_dev *v, struct virtio_balloon_info *out)
{
    struct balloon *b = (struct balloon *)v;
    lock_take(&v->lock);
    *out = b->info;
    out->target = (uint64_t)b->target << PAGE_SHIFT;
    out->actual = (uint64_t)b->actual << PAGE_SHIFT;
    lock_drop(&v->lock);
}

/* ---- life ---- */

static bool balloon_serve(struct virtio_dev *v, unsigned q)
{
    struct balloon *b = (struct balloon *)v;
    if (q == b->statsq) {
        read_stats(b);
        return false;
    }
    return q <= DEFLATEQ || is_reports(b, q) ? serve_pages(b, q) : false;
}

static void name_queues(struct balloon *b, uint64_t features)
{
    unsigned n = DEFLATEQ + 1;
    b->statsq = features & F_STATS_VQ ? n++ : NO_QUEUE;
    b->reportq = features & F_REPORTING ? n++ : NO_QUEUE;
    arm(b);
}

static void balloon_activate(struct virtio_dev *v)
{
    name_queues((struct balloon *)v, v->features);
}

static void balloon_reset(struct virtio_dev *v)
{
    struct balloon *b = (struct balloon *)v;
    b->actual = 0;
    b->info.stats_known = 0;
    b->statsq = b->reportq = NO_QUEUE;
}

static void balloon_save(struct virtio_dev *v, struct state_out *s)
{
    const struct balloon *b = (struct balloon *)v;
    state_put_u32(s, b->target);
    state_put_u32(s, b->actual);
    state_put_u64(s, v->status & VIRTIO_DRIVER_OK ? v->features : 0);
}

static int balloon_load(struct virtio_dev *v, struct state_in *s)
{
    struct balloon *b = (struct balloon *)v;
    uint32_t target = state_get_u32(s), actual = state_get_u32(s);
    uint64_t features = state_get_u64(s);
    if (s->bad || target > mem_size(v->mem) >> PAGE_SHIFT || (features & ~v->offered))
        return -EINVAL;
    b->target = target;
    b->actual = actual;
    name_queues(b, features);
    return 0;
}

static void balloon_free(struct virtio_dev *v)
{
    struct balloon *b = (struct balloon *)v;
    lock_take(&v->lock);
    b->over = true;
    lock_drop(&v->lock);
    if (b->stats_seconds)
        timer_disarm(&b->timer);
    virtio_fini(v);
    free(v);
}

static const struct virtio_ops balloon_ops = {
    .name = "virtio-balloon",
    .id = VIRTIO_ID_BALLOON,
    .on_worker = true,
    .config = balloon_config,
    .config_write = balloon_config_write,
    .activate = balloon_activate,
    .serve = balloon_serve,
    .reset = balloon_reset,
    .save = balloon_save,
    .load = balloon_load,
    .free = balloon_free,
};

struct virtio_dev *virtio_balloon_new(const struct virtio_env *env, const struct virtio_balloon_cfg *cfg)
{
    struct balloon *b = calloc(1, sizeof(*b));
    if (!b)
        return NULL;
    b->target = (uint32_t)(cfg->target >> PAGE_SHIFT);
    b->stats_seconds = cfg->stats_seconds;
    b->statsq = b->reportq = NO_QUEUE;
    virtio_init(&b->v, &balloon_ops, env,
                (cfg->stats_seconds ? F_STATS_VQ : 0) | (cfg->deflate_on_oom ? F_DEFLATE_ON_OOM : 0) |
                    (cfg->reporting ? F_REPORTING : 0));
    for (unsigned i = 0; i < (cfg->reporting ? STANDARD_REPORTQ + 1U : 2U + (cfg->stats_seconds != 0)); i++)
        virtio_add_queue(&b->v, BALLOON_QUEUE);
    if (cfg->stats_seconds)
        timer_init(&b->timer, env->timers, on_timer, b);
    return &b->v;
}
