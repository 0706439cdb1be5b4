/* SPDX-License-Identifier: MIT */
/* Gathers in C, on the copies of the registers that gather.c makes. All or nothing: faults are the interpreter's. */
#include <string.h>

#include "cpu/translate/fast.h"

static bool element(struct xlate *x, const struct gather *g, unsigned k, uint8_t *to)
{
    unsigned size = 1U << g->elem_log;
    uint64_t index;
    const uint8_t *from;

    if (g->index_log == 3)
        memcpy(&index, x->lane.index + 8 * k, 8);
    else
        index = (uint64_t) * (const int32_t *)(const void *)(x->lane.index + 4 * k);
    uint64_t lin = x->spill + (index << g->scale_log);
    if (g->narrow)
        lin = (uint32_t)lin;
    if ((lin & ~PAGE_MASK) > PAGE_SIZE - size || !(from = xl_fast_host(x, lin, false)))
        return false;
    if (size == 8)
        *(uint64_t *)(void *)to = __atomic_load_n((const uint64_t *)(const void *)from, __ATOMIC_RELAXED);
    else
        *(uint32_t *)(void *)to = __atomic_load_n((const uint32_t *)(const void *)from, __ATOMIC_RELAXED);
    return true;
}

bool xl_fast_gather(struct xlate *x, const struct gather *g)
{
    unsigned size = 1U << g->elem_log;

    for (unsigned k = 0; k < g->count; k++)
        if ((x->lane.mask[(k + 1) * size - 1] & 0x80) && !element(x, g, k, x->lane.dst + k * size))
            return false;
    if (g->count * size < 16)
        memset(x->lane.dst + g->count * size, 0, 16 - g->count * size);
    return true;
}
