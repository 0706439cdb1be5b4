/* SPDX-License-Identifier: MIT */
/* Canaries: blocks of this process that nobody writes but canary_fill, so whoever changes one has gone astray. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "isolation.h"

static void add(struct canaries *cs, void *p, size_t len, const char *what, bool heap)
{
    cs->c[cs->n++] = (struct canary){ .p = p, .len = len, .what = what, .heap = heap };
}

bool canary_at(struct canaries *cs, uint64_t addr, size_t len, const char *what)
{
    void *want = (void *)addr, *p;

    if (cs->n == CANARIES)
        return false;
    p = mmap(want, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (p == MAP_FAILED)
        return false;
    if (p != want) {
        munmap(p, len);
        return false;
    }
    add(cs, p, len, what, false);
    return true;
}

void canary_scatter(struct canaries *cs, unsigned n)
{
    static const size_t size[] = { 64, 4096, 256, 16384, 1024, 8192 };

    for (unsigned k = 0; k < n && cs->n < CANARIES; k++) {
        size_t len = size[k % ARRAY_LEN(size)];
        bool heap = k % 3 != 2;
        void *p = heap ? malloc(len) : mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        if (p && p != MAP_FAILED)
            add(cs, p, heap ? len : 4096, heap ? "heap" : "mapping", heap);
    }
}

void canary_fill(struct canaries *cs, uint64_t word)
{
    cs->word = word;
    for (unsigned k = 0; k < CANARY_ROTATIONS; k++)
        cs->turn[k] = k ? word >> (8 * k) | word << (64 - 8 * k) : word;
    for (unsigned i = 0; i < cs->n; i++) {
        uint64_t *p = (uint64_t *)(void *)cs->c[i].p;

        for (size_t k = 0; k < cs->c[i].len / 8; k++)
            p[k] = word;
    }
}

const struct canary *canary_check(const struct canaries *cs, size_t *off)
{
    for (unsigned i = 0; i < cs->n; i++) {
        const uint64_t *p = (const uint64_t *)(void *)cs->c[i].p;

        for (size_t k = 0; k < cs->c[i].len / 8; k++)
            if (p[k] != cs->word) {
                *off = 8 * k;
                return &cs->c[i];
            }
    }
    return NULL;
}

bool canary_seen(const struct canaries *cs, uint64_t v)
{
    for (unsigned k = 0; k < CANARY_ROTATIONS; k++)
        if (v == cs->turn[k])
            return true;
    return false;
}

void canary_free(struct canaries *cs)
{
    for (unsigned i = 0; i < cs->n; i++)
        if (cs->c[i].heap)
            free(cs->c[i].p);
        else
            munmap(cs->c[i].p, cs->c[i].len);
    cs->n = 0;
}
