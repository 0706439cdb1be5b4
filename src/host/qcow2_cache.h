/* SPDX-License-Identifier: MIT */
/* Metadata blocks of a qcow2 image in memory, and sets of cluster numbers. Callers hold the image's lock. */
#ifndef GAZDA_HOST_QCOW2_CACHE_H
#define GAZDA_HOST_QCOW2_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- metadata blocks: slices of L2 tables or refcount blocks ---- */

enum { Q_HASH = 1024 };

struct q_entry {
    uint64_t off; /* in the file */
    struct q_entry *hash, *next, *prev;
    bool dirty;
    _Alignas(8) uint8_t data[]; /* entries of up to 8 bytes */
};

struct q_cache {
    int fd;
    uint32_t slice; /* bytes */
    unsigned n, max, dirty;
    bool write_evicted; /* dirty slices may be written whenever there is need */
    struct q_entry lru; /* head: next is the newest */
    struct q_entry *bucket[Q_HASH];
};

void q_cache_init(struct q_cache *c, int fd, uint32_t slice, unsigned max);
void q_cache_free(struct q_cache *c); /* drops what is dirty */
/* The slice at off, read if need be; valid until the next q_cache_get of the same cache. 0 or -errno. */
int q_cache_get(struct q_cache *c, uint64_t off, struct q_entry **e);
void q_cache_dirty(struct q_cache *c, struct q_entry *e);
int q_cache_write(struct q_cache *c);                               /* all that is dirty */
void q_cache_forget(struct q_cache *c, uint64_t off, uint64_t len); /* that part of the file is written anew */

/* ---- a set of cluster numbers ---- */

struct q_set {
    uint64_t *slot; /* number + 1; 0 is empty */
    size_t n, size;
};

int q_set_add(struct q_set *s, uint64_t cluster); /* 0, -EEXIST, -ENOMEM */
void q_set_remove(struct q_set *s, uint64_t cluster);
bool q_set_has(const struct q_set *s, uint64_t cluster);

#endif
