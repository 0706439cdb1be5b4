/* SPDX-License-Identifier: MIT */
/* Code memory: the mappings and the ring of regions. */
#include "cpu/translate/codemem.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define TOTAL ((size_t)CODE_REGIONS * CODE_REGION)
#define META_TOTAL ((size_t)CODE_REGIONS * META_REGION)
#define BLOCKS_TOTAL ((size_t)CODE_REGIONS * CODE_BLOCKS * sizeof(struct tblock *))

static void *map(size_t len, int how)
{
    void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, how | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    return p == MAP_FAILED ? NULL : p;
}

/* A second mapping of shared memory, for running. perf takes its name, /dev/zero, for code with a map in /tmp. */
static const uint8_t *map_again(uint8_t *rw)
{
    void *p = rw ? mremap(rw, 0, TOTAL, MREMAP_MAYMOVE) : MAP_FAILED;

    if (p == MAP_FAILED)
        return NULL;
    if (!mprotect(p, TOTAL, PROT_READ | PROT_EXEC))
        return p;
    munmap(p, TOTAL);
    return NULL;
}

int codemem_new(struct codemem *m, void (*drop)(void *arg, unsigned region), void *arg)
{
    *m = (struct codemem){ .drop = drop, .arg = arg, .cold_pos = CODE_HOT };
    m->rw = map(TOTAL, MAP_SHARED);
    m->rx = map_again(m->rw);
    m->meta = map(META_TOTAL, MAP_PRIVATE);
    struct tblock **blocks = map(BLOCKS_TOTAL, MAP_PRIVATE);
    for (unsigned k = 0; blocks && k < CODE_REGIONS; k++)
        m->r[k].block = blocks + (size_t)k * CODE_BLOCKS;
    if (m->rw && m->rx && m->meta && blocks)
        return 0;
    codemem_free(m);
    return -ENOMEM;
}

void codemem_free(struct codemem *m)
{
    if (m->rw)
        munmap(m->rw, TOTAL);
    if (m->rx)
        munmap((void *)(uintptr_t)m->rx, TOTAL);
    if (m->meta)
        munmap(m->meta, META_TOTAL);
    if (m->r[0].block)
        munmap(m->r[0].block, BLOCKS_TOTAL);
    memset(m, 0, sizeof(*m));
}

void codemem_reserve(struct codemem *m, unsigned code, unsigned cold, unsigned meta)
{
    if (m->code_pos + code <= CODE_HOT && m->cold_pos + cold <= CODE_REGION && m->meta_pos + meta <= META_REGION &&
        m->r[m->region].n < CODE_BLOCKS)
        return;
    m->region = (m->region + 1) % CODE_REGIONS;
    m->code_pos = m->region ? 0 : m->keep;
    m->cold_pos = CODE_HOT;
    m->meta_pos = m->region ? 0 : m->keep_meta;
    if (m->r[m->region].n)
        m->drop(m->arg, m->region);
    m->r[m->region].n = 0;
}

void *codemem_meta(struct codemem *m, size_t size)
{
    uint8_t *p = m->meta + (size_t)m->region * META_REGION + m->meta_pos;

    size = (size + 15) & ~(size_t)15;
    m->meta_pos += (uint32_t)size;
    return p;
}

void codemem_commit(struct codemem *m, uint32_t code, uint32_t cold, struct tblock *b)
{
    m->code_pos += (code + 15) & ~15U;
    m->cold_pos += cold;
    m->r[m->region].block[m->r[m->region].n++] = b;
}
