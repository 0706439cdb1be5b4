/* SPDX-License-Identifier: MIT */
/*
 * Code memory: shared memory mapped twice, for writing and for running, never both at one address. It is filled region
 * by region in a ring; before a region is used again everything in it is dropped (the callback). A region's end is for
 * code that seldom runs, so that what runs is dense. Each region has a slab of metadata that lives as long as its code.
 * One thread.
 */
#ifndef GAZDA_CPU_TRANSLATE_CODEMEM_H
#define GAZDA_CPU_TRANSLATE_CODEMEM_H

#include <stddef.h>

#include "base/types.h"

/* Address space; memory is used as far as code fills it. */
enum {
    CODE_REGIONS = 8,
    CODE_REGION = 16 << 20,
    CODE_HOT = 12 << 20, /* of a region; the rest is for cold code */
    META_REGION = 32 << 20,
    CODE_BLOCKS = 1 << 17
};

struct codemem {
    uint8_t *rw;
    const uint8_t *rx;
    uint8_t *meta;
    unsigned region;                       /* that is being filled */
    uint32_t code_pos, cold_pos, meta_pos; /* in it */
    uint32_t keep, keep_meta;              /* bytes at the start of region 0 that stay */
    void (*drop)(void *arg, unsigned region);
    void *arg;
    struct {
        struct tblock **block; /* in the order of their code */
        unsigned n;
    } r[CODE_REGIONS];
};

/* 0 or -errno. */
int codemem_new(struct codemem *m, void (*drop)(void *arg, unsigned region), void *arg);
void codemem_free(struct codemem *m);
/* Makes room for that much code, cold code and metadata; may drop a region. */
void codemem_reserve(struct codemem *m, unsigned code, unsigned cold, unsigned meta);
/* Metadata out of what was reserved; what it holds is not defined. */
void *codemem_meta(struct codemem *m, size_t size);
void codemem_commit(struct codemem *m, uint32_t code, uint32_t cold, struct tblock *b);
/* Offset in the code memory where the next code goes, and the next cold code. */
static inline uint32_t codemem_here(const struct codemem *m)
{
    return m->region * (uint32_t)CODE_REGION + m->code_pos;
}
static inline uint32_t codemem_cold(const struct codemem *m)
{
    return m->region * (uint32_t)CODE_REGION + m->cold_pos;
}
static inline bool codemem_has(const struct codemem *m, const void *pc)
{
    return (uintptr_t)pc - (uintptr_t)m->rx < (size_t)CODE_REGIONS * CODE_REGION;
}

#endif
