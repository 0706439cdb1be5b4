/* SPDX-License-Identifier: MIT */
/* struct mem, for the files of this folder only. */
#ifndef GAZDA_MEM_INTERNAL_H
#define GAZDA_MEM_INTERNAL_H

#include "base/lock.h"
#include "mem/mem.h"

enum { MEM_LISTENERS = 64 };
/* Private flag bit: the barrier that makes MEM_F_CODE reliable has run. */
enum { MEM_F_CODE_READY = 0x80 };

struct mem {
    uint64_t size, frames;
    gpa_t low_end;
    int fd;
    uint8_t *base;
    /* One entry a frame, all accessed atomically. */
    uint8_t *state; /* enum mem_state */
    uint8_t *flags; /* MEM_F_* */
    uint32_t *pins;
    uint64_t *lines; /* marked code, a bit for 64 bytes */
    uint32_t *gen;
    uint8_t *idle;        /* times that a release was asked for since lines went; under the lock */
    unsigned making[256]; /* by frame, hashed: markers between CODE and CODE_READY; under the lock */
    unsigned holds;       /* mem_code_hold */
    uint64_t private_frames, code_frames, code_writes;
    bool expedited;     /* membarrier's private expedited command works */
    void *barrier_page; /* stand-in where it does not */
    struct lock lock;   /* listeners; code.c: flags, lines and gen */
    struct {
        const struct mem_listener *l;
        void *arg;
    } listener[MEM_LISTENERS];
};

/* File offset of a range that is RAM throughout (it may span the gap only if there is none). */
static inline bool mem_offset(const struct mem *m, gpa_t gpa, uint64_t len, uint64_t *off)
{
    if (gpa < m->low_end) {
        *off = gpa;
        return len <= m->low_end - gpa;
    }
    if (gpa < MEM_GAP_END)
        return false;
    *off = gpa - MEM_GAP_END + m->low_end;
    return *off <= m->size && len <= m->size - *off;
}

void mem_tell_unmap(struct mem *m, gpa_t gpa, uint64_t len);
void mem_code_init(struct mem *m);
void mem_code_fini(struct mem *m);
void mem_code_reset(struct mem *m);

#endif
