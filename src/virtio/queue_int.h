/* SPDX-License-Identifier: MIT */
/* What the two layouts of a virtqueue share; for queue*.c only. */
#ifndef GAZDA_VIRTIO_QUEUE_INT_H
#define GAZDA_VIRTIO_QUEUE_INT_H

#include "virtio/queue.h"

enum { DESC_NEXT = 1, DESC_WRITE = 2, DESC_INDIRECT = 4 };

/* Each gets a queue that is ready and not broken. */
struct virtq_layout {
    /* Alignment, size and place of the areas: NULL, or which rule is broken. */
    const char *(*check)(const struct virtq *q);
    /* As virtq_pop and so on; inflight is kept by the caller. */
    int (*pop)(struct virtq *q, struct virtq_chain *c);
    void (*unpop)(struct virtq *q);
    void (*push)(struct virtq *q, uint16_t head, uint32_t len);
    bool (*wants_interrupt)(struct virtq *q);
    bool (*enable_notify)(struct virtq *q);
    void (*disable_notify)(struct virtq *q);
};
extern const struct virtq_layout virtq_split, virtq_packed;

/* Breaks the queue, and returns -EINVAL. */
int virtq_fail(struct virtq *q, const char *why);
/* Ring words: single accesses, acquire and release. 0, and a broken queue, outside of memory. */
uint16_t virtq_load16(struct virtq *q, gpa_t gpa);
void virtq_store16(struct virtq *q, gpa_t gpa, uint16_t v);

void virtq_chain_init(struct virtq_chain *c);
/* Adds a descriptor's buffer after checking it: 0 or -EINVAL. */
int virtq_add_buf(struct virtq *q, struct virtq_chain *c, gpa_t addr, uint32_t len, bool write);
/* virtio 1.2, "Used Buffer Notification Suppression": was event passed on the way from old to now? */
static inline bool virtq_passed(uint16_t event, uint16_t old, uint16_t now)
{
    return (uint16_t)(now - event - 1) < (uint16_t)(now - old);
}

#endif
