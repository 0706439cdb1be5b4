/* SPDX-License-Identifier: MIT */
/*
 * A rate limiter in front of a device's queues: what must wait stays in its queue, which is served again when there are
 * tokens. Nothing spins meanwhile, and a reset or a save finds nothing in flight. Calls run with the device's lock
 * held.
 */
#ifndef GAZDA_VIRTIO_THROTTLE_H
#define GAZDA_VIRTIO_THROTTLE_H

#include "host/limiter.h"
#include "state/state.h"
#include "virtio/virtio.h"

struct virtio_throttle {
    struct limiter limiter;
    struct timer timer;
    struct virtio_dev *v;
    uint32_t waiting; /* a bit a queue */
    unsigned first;   /* the one that waits for the timer */
};

/* After virtio_init. cfg NULL: no limit; with one the device must have been given timers. */
void virtio_throttle_init(struct virtio_throttle *t, struct virtio_dev *v, const struct limiter_cfg *cfg);
/* In virtio_ops.free, before virtio_fini; lock not held, and the timers' thread has stopped or the timer is not armed.
 */
void virtio_throttle_fini(struct virtio_throttle *t);

/*
 * Whether a request of queue q may start now. False: it is for the caller to put it back (virtq_unpop) and to return
 * from serve with "no more"; the queue is served again in time. Notifications may stay off.
 */
bool virtio_throttle_take(struct virtio_throttle *t, unsigned q, uint64_t bytes);
/* In virtio_ops.reset: nobody waits. The tokens stay as they are, or a guest could get its burst again. */
void virtio_throttle_reset(struct virtio_throttle *t);
void virtio_throttle_save(struct virtio_throttle *t, struct state_out *s);
/* Sets s->bad when the stream ends early, and changes nothing then. Nobody waits afterwards: a device that was loaded
 * serves its queues. */
void virtio_throttle_load(struct virtio_throttle *t, struct state_in *s);

#endif
