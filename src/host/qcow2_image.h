/* SPDX-License-Identifier: MIT */
/* What is done to whole qcow2 images: making, checking and repairing them, and the parts that these share. */
#ifndef GAZDA_HOST_QCOW2_IMAGE_H
#define GAZDA_HOST_QCOW2_IMAGE_H

#include "host/disk_image.h"
#include "host/qcow2.h"

/* Counter i of a refcount block whose counters have 1 << order bits. */
uint64_t q_counter_get(const uint8_t *block, uint64_t i, unsigned order);
void q_counter_set(uint8_t *block, uint64_t i, unsigned order, uint64_t v);

/* Reads L1 and refcount table and enters all metadata in q->meta. 0 or -errno with e set: then q_drop_tables. */
int q_load_tables(struct qcow2 *q, struct err *e);
void q_drop_tables(struct qcow2 *q);

/* Parts of a new refcount structure, straight into the file; nothing refers to it before q_switch_table. */
/* Blocks in clusters [first, first + blocks), which count those clusters from first on; n counters are 1. */
int q_write_counters(struct qcow2 *q, uint64_t first, uint64_t blocks, uint64_t n);
int q_write_table(struct qcow2 *q, uint64_t off, const uint64_t *t, uint64_t n); /* big-endian in the file */
int q_switch_table(struct qcow2 *q, uint64_t off, uint32_t clusters);            /* synced before and after */

/* Whether such an image can be made: everything that q_create refuses, without a file. */
int q_create_check(const struct disk_create *c, struct err *e);
/* Writes the header and tables of an empty image into an empty file; backing is taken as it is. */
int q_create(int fd, const char *path, const struct disk_create *c, struct err *e);
/* Lock held, change: n clusters in a row, behind all others. */
int q_alloc_contiguous(struct qcow2 *q, uint64_t n, uint64_t *first);
int q_write_refcounts(struct qcow2 *q); /* lock held: those that rose are in the file */

/* Makes all refcounts anew from what L1 and L2 tables refer to; the image is open with no tables loaded. */
int q_repair_refcounts(struct disk *d, struct err *e);

#endif
