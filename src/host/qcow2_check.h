/* SPDX-License-Identifier: MIT */
/* Inside qcow2_check.c and qcow2_rebuild.c: what a check counts. */
#ifndef GAZDA_HOST_QCOW2_CHECK_H
#define GAZDA_HOST_QCOW2_CHECK_H

#include "host/qcow2_image.h"

#define L1_TOTAL_MAX (256UL << 20) /* bytes of all L1 tables together */

struct q_check {
    struct qcow2 *q;
    struct disk_check *k;
    uint32_t **chunk; /* users of each cluster; NULL: none */
    size_t chunks, chunks_used;
    uint64_t clusters; /* of the file */
    uint64_t *l2;      /* offsets of L2 tables, one for each reference */
    size_t l2_n;
    uint64_t hopeless, bad_counts, flags; /* errors: none but the first can be repaired */
};

uint32_t q_count(const struct q_check *c, uint64_t cluster);
int q_count_add(struct q_check *c, uint64_t cluster, uint32_t by); /* a cluster of the file*/

/* Whether any cluster that a refcount block of 1 << bits counters counts has users. */
bool q_block_used(const struct q_check *c, uint64_t block, unsigned bits);

/* Writes refcounts as they were counted, in a new place, and switches to them. 0 or -errno, -ERANGE if too large. */
int q_rebuild_refcounts(struct q_check *c);

/* The image is open without tables, as before and after. k->errors is what remains. 0 or -errno with e set. */
int q_check(struct qcow2 *q, struct disk_check *k, struct err *e);

#endif
