/* SPDX-License-Identifier: MIT */
/*
 * The life of a virtio device (virtio 1.2, "Basic Facilities of a Virtio Device"). `busy` counts what still touches
 * queues or guest buffers from other threads; a reset, a save and the end wait until it is 0.
 */
#include "virtio/virtio.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "state/state.h"
#include "virtio/stats.h"

enum { COMPLAINTS_MAX = 5 };

static void run_service(struct pool_job *j);

void virtio_init(struct virtio_dev *v, const struct virtio_ops *ops, const struct virtio_env *env, uint64_t features)
{
    v->ops = ops;
    v->mem = env->mem;
    v->irq = env->irq;
    v->pool = env->pool;
    v->timers = env->timers;
    v->offered = features | VIRTIO_F_VERSION_1 | VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX | VIRTIO_F_RING_PACKED |
                 VIRTIO_F_RING_RESET;
    lock_init(&v->lock, LOCK_DEVICE);
    pthread_cond_init(&v->idle, NULL);
}

void virtio_add_queue(struct virtio_dev *v, uint16_t max)
{
    unsigned i = v->n_queues++;
    virtq_init(&v->q[i], v->mem, max);
    v->service[i] = (struct virtio_service){ .job.run = run_service, .v = v, .q = i };
}

static void wait_idle(struct virtio_dev *v)
{
    while (v->busy)
        lock_wait(&v->lock, &v->idle, UINT64_MAX);
}

void virtio_fini(struct virtio_dev *v)
{
    lock_take(&v->lock);
    v->resetting = true;
    wait_idle(v);
    lock_drop(&v->lock);
    pthread_cond_destroy(&v->idle);
    lock_destroy(&v->lock);
}

void virtio_free(struct virtio_dev *v)
{
    if (v)
        v->ops->free(v);
}

bool virtio_live(const struct virtio_dev *v)
{
    return (v->status & (VIRTIO_DRIVER_OK | VIRTIO_NEEDS_RESET | VIRTIO_FAILED)) == VIRTIO_DRIVER_OK && !v->resetting;
}

void virtio_hold(struct virtio_dev *v)
{
    v->busy++;
}

void virtio_release(struct virtio_dev *v)
{
    if (--v->busy == 0)
        pthread_cond_broadcast(&v->idle);
}

/* ---- interrupts ---- */

static void interrupt(struct virtio_dev *v, uint8_t bit)
{
    v->isr |= bit;
    v->interrupts++;
    irq_set(&v->irq, true);
}

void virtio_ack(struct virtio_dev *v, uint8_t isr)
{
    v->isr &= (uint8_t)~isr;
    irq_set(&v->irq, false);
    if (v->isr) /* the driver has not seen this bit: an edge-triggered pin needs another edge */
        irq_set(&v->irq, true);
}

void virtio_signal(struct virtio_dev *v, unsigned q)
{
    if (virtio_live(v) && virtq_wants_interrupt(&v->q[q]))
        interrupt(v, VIRTIO_ISR_QUEUE);
}

void virtio_config_changed(struct virtio_dev *v)
{
    v->config_gen++;
    if (v->status & VIRTIO_DRIVER_OK)
        interrupt(v, VIRTIO_ISR_CONFIG);
}

void virtio_needs_reset(struct virtio_dev *v, const char *why)
{
    if (v->status & VIRTIO_NEEDS_RESET)
        return;
    if (v->complaints++ < COMPLAINTS_MAX) /* a guest must not fill the host's log */
        log_warn("%s: the guest's driver broke a rule (%s); the device waits for its reset", v->ops->name, why);
    v->status |= VIRTIO_NEEDS_RESET;
    if (v->status & VIRTIO_DRIVER_OK)
        interrupt(v, VIRTIO_ISR_CONFIG);
}

/* ---- queues ---- */

/* One bounded round. True: more to do. */
static bool serve(struct virtio_dev *v, unsigned q)
{
    bool more = virtio_live(v) && v->q[q].ready && !v->q[q].resetting && v->ops->serve(v, q);
    if (v->q[q].broken && virtio_live(v))
        virtio_needs_reset(v, v->q[q].broken);
    return more && virtio_live(v);
}

static void run_service(struct pool_job *j)
{
    struct virtio_service *s = (struct virtio_service *)j;
    struct virtio_dev *v = s->v;
    lock_take(&v->lock);
    s->queued = false;
    if (serve(v, s->q))
        virtio_kick(v, s->q);
    virtio_release(v);
    lock_drop(&v->lock);
}

void virtio_kick(struct virtio_dev *v, unsigned q)
{
    struct virtio_service *s = &v->service[q];
    if (s->queued)
        return;
    s->queued = true;
    virtio_hold(v);
    pool_submit(v->pool, &s->job);
}

void virtio_notify(struct virtio_dev *v, unsigned q)
{
    v->notifications++;
    if (q >= v->n_queues || !virtio_live(v) || !v->q[q].ready)
        return;
    bool more = v->ops->on_worker;
    if (!more) {
        v->in_notify = true;
        more = serve(v, q);
        v->in_notify = false;
    }
    if (more)
        virtio_kick(v, q);
}

void virtio_queue_enable(struct virtio_dev *v, unsigned i)
{
    struct virtq *q = &v->q[i];
    q->ready = true;
    if ((v->status & VIRTIO_DRIVER_OK) && !virtq_check(q)) /* else checked when the driver is ready */
        virtio_needs_reset(v, q->broken);
}

/* What is in flight ends by itself; the transport tells the driver when that is so. */
void virtio_queue_reset(struct virtio_dev *v, unsigned i)
{
    if (!v->q[i].ready || v->q[i].resetting)
        return;
    virtq_begin_reset(&v->q[i]);
    if (v->ops->queue_reset)
        v->ops->queue_reset(v, i);
}

/* ---- status ---- */

static void clear(struct virtio_dev *v)
{
    for (unsigned i = 0; i < v->n_queues; i++)
        virtq_reset(&v->q[i]);
    v->features = 0;
    v->status = v->isr = 0;
    v->sel_device = v->sel_driver = v->sel_queue = v->sel_shm = 0;
    irq_set(&v->irq, false);
}

/* The lock is dropped while it waits; resetting keeps everybody else out. */
static void reset(struct virtio_dev *v)
{
    if (v->resetting)
        return;
    v->resetting = true;
    wait_idle(v);
    if (v->ops->reset)
        v->ops->reset(v);
    clear(v);
    v->resetting = false;
}

static bool features_acceptable(struct virtio_dev *v)
{
    if ((v->features & ~v->offered) || !virtio_has(v, VIRTIO_F_VERSION_1))
        return false;
    return !v->ops->features_ok || v->ops->features_ok(v, v->features);
}

static void set_queue_features(struct virtq *q, uint64_t features)
{
    virtq_set_features(q, features & VIRTIO_F_RING_PACKED, features & VIRTIO_F_INDIRECT_DESC,
                       features & VIRTIO_F_EVENT_IDX);
}

static void activate(struct virtio_dev *v)
{
    for (unsigned i = 0; i < v->n_queues; i++) {
        set_queue_features(&v->q[i], v->features);
        if (v->q[i].ready && !virtq_check(&v->q[i])) {
            virtio_needs_reset(v, v->q[i].broken);
            return;
        }
    }
    if (v->ops->activate)
        v->ops->activate(v);
    /* Drivers that fill queues before they are ready, and notify then or not, will not notify of those buffers again.
     */
    for (unsigned i = 0; i < v->n_queues; i++)
        if (v->q[i].ready && virtq_enable_notify(&v->q[i]))
            virtio_notify(v, i);
}

void virtio_set_status(struct virtio_dev *v, uint8_t status)
{
    if (v->resetting)
        return;
    if (status == 0) {
        reset(v);
        return;
    }
    uint8_t old = v->status & (uint8_t)~VIRTIO_NEEDS_RESET;
    uint8_t add = status & (uint8_t) ~(old | VIRTIO_NEEDS_RESET);
    if (old & ~status)
        return; /* "The driver MUST NOT clear a device status bit" */
    if ((add & VIRTIO_FEATURES_OK) && (!((old | add) & VIRTIO_DRIVER) || !features_acceptable(v)))
        add &= (uint8_t)~VIRTIO_FEATURES_OK; /* the driver reads it back and gives up */
    if ((add & VIRTIO_DRIVER_OK) && !((old | add) & VIRTIO_FEATURES_OK))
        add &= (uint8_t)~VIRTIO_DRIVER_OK;
    v->status |= add;
    if ((add & VIRTIO_FEATURES_OK) && v->ops->negotiated)
        v->ops->negotiated(v);
    if (add & VIRTIO_DRIVER_OK)
        activate(v);
}

void virtio_reset(struct virtio_dev *v)
{
    lock_take(&v->lock);
    reset(v);
    v->config_gen = 0;
    lock_drop(&v->lock);
}

void virtio_stats(struct virtio_dev *v, const struct virtio_put *put)
{
    lock_take(&v->lock);
    put->fn(put->arg, "notifications", v->notifications);
    put->fn(put->arg, "interrupts", v->interrupts);
    put->fn(put->arg, "broken_rules", v->complaints);
    if (v->ops->stats)
        v->ops->stats(v, put);
    lock_drop(&v->lock);
}

/* ---- configuration space ---- */

void virtio_config_read(struct virtio_dev *v, uint64_t off, void *buf, unsigned len)
{
    uint8_t space[VIRTIO_CONFIG_MAX] = { 0 };
    unsigned n = v->ops->config ? v->ops->config(v, space) : 0;
    memset(buf, 0, len);
    if (off < n)
        memcpy(buf, space + off, len < n - off ? len : n - off);
}

void virtio_config_write(struct virtio_dev *v, uint64_t off, const void *buf, unsigned len)
{
    uint8_t space[VIRTIO_CONFIG_MAX] = { 0 };
    if (!v->ops->config_write || v->resetting)
        return;
    unsigned n = v->ops->config(v, space);
    if (off < n && len <= n - off)
        v->ops->config_write(v, (unsigned)off, buf, len);
}

/* ---- state ---- */

int virtio_save(struct virtio_dev *v, struct state_out *s)
{
    lock_take(&v->lock);
    wait_idle(v);
    state_put_u64(s, v->offered);
    state_put_u64(s, v->features);
    state_put_u8(s, v->status);
    state_put_u8(s, v->isr);
    state_put_u32(s, v->config_gen);
    state_put_u32(s, v->sel_device);
    state_put_u32(s, v->sel_driver);
    state_put_u32(s, v->sel_queue);
    state_put_u32(s, v->sel_shm);
    state_put_u32(s, v->n_queues);
    for (unsigned i = 0; i < v->n_queues; i++) {
        virtq_reset_done(&v->q[i]);
        virtq_save(&v->q[i], s);
    }
    if (v->ops->save)
        v->ops->save(v, s);
    lock_drop(&v->lock);
    return s->oom ? -ENOMEM : 0;
}

/* What the stream says, before any of it is believed. */
struct image {
    uint64_t offered, features;
    uint8_t status, isr;
    uint32_t gen, sel[4];
    struct virtq q[VIRTIO_QUEUES_MAX];
};

static int parse(const struct virtio_dev *v, struct image *m, struct state_in *s)
{
    m->offered = state_get_u64(s);
    m->features = state_get_u64(s);
    m->status = state_get_u8(s);
    m->isr = state_get_u8(s);
    m->gen = state_get_u32(s);
    for (unsigned i = 0; i < 4; i++)
        m->sel[i] = state_get_u32(s);
    if (state_get_u32(s) != v->n_queues || s->bad || m->isr > 3)
        return -EINVAL;
    bool ok = m->status & VIRTIO_FEATURES_OK, live = m->status & VIRTIO_DRIVER_OK;
    if ((ok && ((m->features & ~v->offered) || !(m->features & VIRTIO_F_VERSION_1))) || (live && !ok))
        return -EINVAL;
    for (unsigned i = 0; i < v->n_queues; i++) {
        struct virtq *q = &m->q[i];
        virtq_init(q, v->mem, v->q[i].max);
        set_queue_features(q, m->features);
        if (virtq_load(q, s) < 0)
            return -EINVAL;
        if (live && q->ready && !q->broken && !virtq_check(q))
            return -EINVAL;
    }
    return 0;
}

static void commit(struct virtio_dev *v, const struct image *m)
{
    v->features = m->features;
    v->status = m->status;
    v->isr = m->isr;
    v->config_gen = m->gen;
    v->sel_device = m->sel[0];
    v->sel_driver = m->sel[1];
    v->sel_queue = m->sel[2];
    v->sel_shm = m->sel[3];
    memcpy(v->q, m->q, sizeof(v->q));
    irq_set(&v->irq, v->isr != 0);
    for (unsigned i = 0; i < v->n_queues; i++) /* what came in before the save and was not served */
        if (virtio_live(v) && v->q[i].ready)
            virtio_kick(v, i);
}

int virtio_load(struct virtio_dev *v, struct state_in *s)
{
    struct image *m = calloc(1, sizeof(*m));
    if (!m)
        return -ENOMEM;
    lock_take(&v->lock);
    wait_idle(v);
    int r = parse(v, m, s);
    if (r == 0 && v->ops->load)
        r = v->ops->load(v, s);
    if (r == 0 && s->bad)
        r = -EINVAL;
    if (r == 0)
        commit(v, m);
    lock_drop(&v->lock);
    free(m);
    return r;
}
