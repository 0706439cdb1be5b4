/* SPDX-License-Identifier: MIT */
/*
 * Split virtqueues, device side (virtio 1.2, "Split Virtqueues"). The rings lie in guest memory and are hostile: each
 * descriptor is read once into a private copy, checked, and only the copy is used. A queue that breaks a rule turns
 * `broken` and gives nothing more until the device is reset. Locks: the device's own.
 */
#ifndef GAZDA_VIRTIO_QUEUE_H
#define GAZDA_VIRTIO_QUEUE_H

#include "base/types.h"

struct mem;
struct state_out;
struct state_in;

enum { VIRTQ_MAX = 256 }; /* entries of a ring, and buffers of a chain */

struct virtq_buf {
    gpa_t gpa;
    uint32_t len;
};

/* A request: buffers the device reads, then buffers it writes. All lie in RAM; lengths may be 0. */
struct virtq_chain {
    uint16_t head;
    uint16_t n_out, n_in;     /* driver to device; device to driver */
    uint64_t out_len, in_len; /* sums */
    struct virtq_buf buf[VIRTQ_MAX];
};

struct virtq {
    struct mem *mem;
    uint16_t max, size; /* size: a power of two, 1..max */
    bool ready;
    gpa_t desc, driver, device;
    bool indirect, event_idx; /* negotiated */
    const char *broken;       /* which rule the driver broke, or NULL */
    uint16_t avail_next;      /* next entry of the available ring to look at */
    uint16_t used_next;       /* next entry of the used ring to fill */
    uint16_t signalled;       /* used_next at the last interrupt decision */
    bool signalled_valid;
    uint16_t inflight; /* taken and not given back */
};

void virtq_init(struct virtq *q, struct mem *m, uint16_t max);
/* As after a device reset; mem and max stay. */
void virtq_reset(struct virtq *q);
/* The rings are aligned and in RAM. False also sets broken. */
bool virtq_check(struct virtq *q);

/* Takes the next request: 1, 0 = none, -EINVAL = broken. c is the caller's, filled on 1. */
int virtq_pop(struct virtq *q, struct virtq_chain *c);
/* Takes the popped chain back, as if never popped. Only for the chain popped last. */
void virtq_unpop(struct virtq *q);
/* Gives request head back with len bytes written into its buffers. */
void virtq_push(struct virtq *q, uint16_t head, uint32_t len);
/* Whether the driver wants an interrupt for what was pushed since the last call. */
bool virtq_wants_interrupt(struct virtq *q);
/* Asks the driver for notifications, or not. True: a request is there already, look again. */
bool virtq_enable_notify(struct virtq *q);
void virtq_disable_notify(struct virtq *q);

/* Copy between a chain's buffers of one direction, from byte off on, and host memory. They return the bytes copied. */
uint64_t virtq_read(const struct virtq *q, const struct virtq_chain *c, uint64_t off, void *dst, uint64_t len);
uint64_t virtq_write(const struct virtq *q, const struct virtq_chain *c, uint64_t off, const void *src, uint64_t len);

void virtq_save(const struct virtq *q, struct state_out *s);
/* Parses into *q (initialised by virtq_init): 0 or -EINVAL. Nothing is in flight in a saved queue. */
int virtq_load(struct virtq *q, struct state_in *s);

#endif
