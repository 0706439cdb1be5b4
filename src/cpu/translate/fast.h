/* SPDX-License-Identifier: MIT */
/* What the files of fast paths share: instructions done in C without the interpreter, and without vector registers. */
#ifndef GAZDA_CPU_TRANSLATE_FAST_H
#define GAZDA_CPU_TRANSLATE_FAST_H

#include "cpu/translate/translate.h"

/* Host address of a byte of RAM with the rights of the current context, good to the end of its page; or NULL. */
uint8_t *xl_fast_host(struct xlate *x, gva_t lin, bool write);
/*
 * After a store by it to [lin, lin + len) of one page: it happened outside of translated code, which those who begin to
 * decode the frame wait for, so it looks at CODE behind the store.
 */
void xl_fast_stored(struct xlate *x, gva_t lin, uint64_t len);
/* The address of the instruction behind the record's. */
static inline uint64_t xl_fast_next(const struct xlate *x, const struct xrec *r)
{
    return block_page(x, r->b) + (uint64_t)(int64_t)r->target;
}

/* As xl_fast. */
bool xl_fast_string(struct xlate *x, const struct xrec *r);
/* x->aux is the image's address, r->size tells whether pointers have 64 bits. */
bool xl_fast_xsave(struct xlate *x, const struct xrec *r);

/* From x->lane to x->lane.dst; x->spill is the address of index 0. False: it must be interpreted. */
#define XL_LANE(f) offsetof(struct xlate, lane.f)
bool xl_fast_gather(struct xlate *x, const struct gather *g);

#endif
