/* SPDX-License-Identifier: MIT */
/* The memory image of the instruction tests: where its pages are mapped, what they hold, what has changed. */
#include <stdlib.h>
#include <string.h>

#include "insn.h"

const struct insn_map insn_maps[] = {
    { INSN_LOW, INSN_PG_LOW, 2, INSN_W },      { INSN_CODE, INSN_PG_CODE, 2, INSN_X },
    { INSN_DATA, INSN_PG_DATA, 2, INSN_W },    { INSN_RO, INSN_PG_RO, 1, INSN_R },
    { INSN_RO + 4096, INSN_PG_RW, 1, INSN_W }, { INSN_STACK, INSN_PG_STACK, 2, INSN_W },
    { INSN_HIGH, INSN_PG_DATA, 2, INSN_W },
};
const unsigned insn_maps_n = ARRAY_LEN(insn_maps);

void *insn_alloc(size_t size)
{
    void *p = aligned_alloc(64, (size + 63) & ~63UL);

    return p ? memset(p, 0, size) : NULL;
}

void insn_image_fill(uint8_t *image)
{
    static const uint64_t special[] = {
        0,
        ~0UL,
        0x8000000000000000,
        0x7fffffffffffffff,
        0x3f800000bf800000,
        0x7fc000007f800001,
        0x7ff0000000000000,
        0x7ff8000000000000,
        0x3ff0000000000000,
        0x0000000100000001,
        0x00ff00ff00ff00ff,
        0x8000000080000000,
    };
    uint64_t x = 0x9e3779b97f4a7c15;

    memset(image, 0xcc, INSN_PG_FIRST_CMP * PAGE_SIZE);
    for (size_t i = INSN_PG_FIRST_CMP * PAGE_SIZE; i < INSN_IMAGE; i += 8) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        uint64_t v = x % 3 ? x : special[(x >> 8) % ARRAY_LEN(special)];

        memcpy(image + i, &v, 8);
    }
}

void insn_image_diff(uint8_t *image, const uint8_t *pristine, struct insn_result *r)
{
    r->lines = 0;
    for (size_t i = INSN_PG_FIRST_CMP * PAGE_SIZE; i < INSN_IMAGE; i += 512) {
        if (!memcmp(image + i, pristine + i, 512))
            continue;
        for (size_t j = i; j < i + 512; j += INSN_LINE) {
            if (!memcmp(image + j, pristine + j, INSN_LINE))
                continue;
            if (r->lines < INSN_LINES) {
                r->line[r->lines].idx = (uint16_t)(j / INSN_LINE);
                memcpy(r->line[r->lines].data, image + j, INSN_LINE);
            }
            r->lines++;
            memcpy(image + j, pristine + j, INSN_LINE);
        }
    }
}

int64_t insn_image_off(uint64_t lin)
{
    for (unsigned i = 0; i < insn_maps_n; i++)
        if (lin >= insn_maps[i].lin && lin - insn_maps[i].lin < insn_maps[i].pages * PAGE_SIZE)
            return (int64_t)(insn_maps[i].page * PAGE_SIZE + (lin - insn_maps[i].lin));
    return -1;
}
