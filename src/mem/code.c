/* SPDX-License-Identifier: MIT */
/*
 * Code tracking: which 64-byte lines of which frames somebody decoded, and a generation for each frame.
 *
 * Writer:  store; test flags; if CODE: full fence, read lines; if hit: under the lock, gen += 1, lines = 0.
 * Marker:  read gen; set flags; barrier; under the lock, set lines; read the bytes.
 *
 * Why it is exact: the marker's first barrier on a frame is a membarrier, which makes every running thread execute a
 * full fence. A writer whose flag test missed CODE therefore stored before that fence, and the marker reads the new
 * bytes. A writer that saw CODE fences itself, and either sees the line (and moves the generation after the store, so
 * what the marker decoded is thrown away), or stored before the marker read, or finds that another writer has cleared
 * the line. The generation moves first, so whoever finds the line cleared finds the generation moved; and no mark is
 * made between the two, where it would be lost though its generation stands: hence the lock.
 *
 * A frame without marked lines may be released: its CODE goes, and who asks for it (an engine that is about to give its
 * own code the right to store there) need not look at the flag again until code_marked. That is safe with any number
 * of processors:
 *
 *  - Nobody runs old code of the frame as if it were new. Lines go only when all listeners have been told and the
 *    generation has moved, and what they decode afterwards is marked again. So whoever sees the frame released has his
 *    own notice already, and looks at it before he runs on; the right to store is of use to him only behind that.
 *  - Nobody has the right left over when the frame is marked again. The marker sets CODE, from when on no right is
 *    given, has all those that exist withdrawn (code_marked), and only then counts on CODE being complete (READY). A
 *    release in between, a right given, and another marker's CODE would together look like the first marker's own: he
 *    would set READY while the second one is still to have that right withdrawn. Then its owner marks his next code
 *    without a round of his own, and writes to it behind everybody's back. Hence no release while any marker is on
 *    that way (`making`; shared by several frames, which only makes a release wait).
 *  - Who runs more than one instruction of decoded code, and learns of its change by the generation when CODE is set
 *    behind a store of his own, would no longer look: he holds releases off (mem_code_hold). He counts himself among
 *    the holds, then reads the generation; the release reads the holds when the generation has long moved. Either it
 *    sees the hold, or he sees the new generation before he begins.
 *
 * Withdrawing rights costs far more than a few stores that ask, so a frame is released at the IDLE_STORES-th only.
 */
#include <linux/membarrier.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "mem/internal.h"

enum { IDLE_STORES = 4 };

static long membarrier(int cmd)
{
    return syscall(SYS_membarrier, cmd, 0, 0);
}

void mem_code_init(struct mem *m)
{
    m->expedited = membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED) == 0;
    if (m->expedited)
        return;
    void *p = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    m->barrier_page = p == MAP_FAILED ? NULL : p;
}

void mem_code_fini(struct mem *m)
{
    if (m->barrier_page)
        munmap(m->barrier_page, PAGE_SIZE);
}

/* A full fence on every running thread of the process. */
static void barrier_all(struct mem *m)
{
    full_fence();
    if (m->expedited && membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED) == 0)
        return;
    if (membarrier(MEMBARRIER_CMD_GLOBAL) == 0)
        return;
    /* Where the sandbox forbids membarrier: taking rights from a touched page interrupts every CPU that has it. */
    if (m->barrier_page) {
        mprotect(m->barrier_page, PAGE_SIZE, PROT_READ | PROT_WRITE);
        *(volatile char *)m->barrier_page = 1;
        mprotect(m->barrier_page, PAGE_SIZE, PROT_READ);
    }
}

static uint64_t line_mask(uint64_t first_off, uint64_t last_off)
{
    unsigned a = (unsigned)(first_off & (PAGE_SIZE - 1)) >> 6;
    unsigned b = (unsigned)(last_off & (PAGE_SIZE - 1)) >> 6;
    return (~0UL << a) & (~0UL >> (63 - b));
}

static void tell_code(struct mem *m, gpa_t gpa, bool written)
{
    for (unsigned i = 0; i < MEM_LISTENERS; i++) {
        const struct mem_listener *l = __atomic_load_n(&m->listener[i].l, __ATOMIC_ACQUIRE);
        void (*fn)(void *, gpa_t) = !l ? NULL : written ? l->code_written : l->code_marked;
        if (fn)
            fn(m->listener[i].arg, gpa & PAGE_MASK);
    }
}

static unsigned *making(struct mem *m, uint64_t f)
{
    return &m->making[f % ARRAY_LEN(m->making)];
}

/* Makes MEM_F_CODE of frame f reliable. Called, and returns, with the lock held; drops it meanwhile. */
static void make_ready(struct mem *m, gpa_t gpa, uint64_t f)
{
    __atomic_fetch_or(&m->flags[f], MEM_F_CODE, __ATOMIC_SEQ_CST);
    ++*making(m, f);
    lock_drop(&m->lock);
    tell_code(m, gpa, false); /* twice, if two mark at once: harmless */
    lock_take(&m->lock);
    --*making(m, f);
    if (m->flags[f] & MEM_F_CODE_READY)
        return;
    barrier_all(m);
    __atomic_fetch_or(&m->flags[f], MEM_F_CODE_READY, __ATOMIC_SEQ_CST);
    __atomic_fetch_add(&m->code_frames, 1, __ATOMIC_RELAXED);
}

void mem_code_mark(struct mem *m, gpa_t gpa, uint64_t len)
{
    uint64_t off;
    if (!len || !mem_offset(m, gpa, len, &off))
        return;
    uint64_t f = off >> PAGE_SHIFT;
    lock_take(&m->lock);
    if (!(m->flags[f] & MEM_F_CODE_READY))
        make_ready(m, gpa, f);
    __atomic_fetch_or(&m->lines[f], line_mask(off, off + len - 1), __ATOMIC_SEQ_CST);
    lock_drop(&m->lock);
}

bool mem_code_release(struct mem *m, gpa_t gpa)
{
    uint64_t off;
    bool free;
    if (!mem_offset(m, gpa, 1, &off))
        return false;
    uint64_t f = off >> PAGE_SHIFT;
    if (__atomic_load_n(&m->lines[f], __ATOMIC_RELAXED))
        return false;
    lock_take(&m->lock);
    free = !(m->flags[f] & MEM_F_CODE);
    if (!free && !m->lines[f] && (m->flags[f] & MEM_F_CODE_READY) && !*making(m, f) &&
        !__atomic_load_n(&m->holds, __ATOMIC_SEQ_CST) && ++m->idle[f] >= IDLE_STORES) {
        __atomic_fetch_and(&m->flags[f], (uint8_t) ~(MEM_F_CODE | MEM_F_CODE_READY), __ATOMIC_SEQ_CST);
        __atomic_fetch_sub(&m->code_frames, 1, __ATOMIC_RELAXED);
        free = true;
    }
    lock_drop(&m->lock);
    return free;
}

void mem_code_hold(struct mem *m, bool hold)
{
    __atomic_fetch_add(&m->holds, hold ? 1 : -1U, __ATOMIC_SEQ_CST);
}

const volatile uint32_t *mem_code_gen(struct mem *m, gpa_t gpa)
{
    uint64_t off;
    return mem_offset(m, gpa, 1, &off) ? &m->gen[off >> PAGE_SHIFT] : NULL;
}

bool mem_code_written(struct mem *m, gpa_t gpa, uint64_t len)
{
    uint64_t off;
    bool hit = false;
    if (!len || !mem_offset(m, gpa, len, &off))
        return false;
    uint64_t first = off;
    for (uint64_t last = off + len - 1; off <= last; off = (off & PAGE_MASK) + PAGE_SIZE) {
        uint64_t f = off >> PAGE_SHIFT;
        if (!(__atomic_load_n(&m->flags[f], __ATOMIC_ACQUIRE) & MEM_F_CODE))
            continue;
        uint64_t end = last >> PAGE_SHIFT == f ? last : (off | (PAGE_SIZE - 1));
        full_fence();
        if (!(__atomic_load_n(&m->lines[f], __ATOMIC_SEQ_CST) & line_mask(off, end)))
            continue;
        lock_take(&m->lock);
        __atomic_fetch_add(&m->gen[f], 1, __ATOMIC_SEQ_CST);
        /* before the marks go: a writer that finds none must find its own engine told */
        tell_code(m, gpa + (off - first), true);
        __atomic_exchange_n(&m->lines[f], 0, __ATOMIC_SEQ_CST);
        m->idle[f] = 0;
        lock_drop(&m->lock);
        __atomic_fetch_add(&m->code_writes, 1, __ATOMIC_RELAXED);
        hit = true;
    }
    return hit;
}

void mem_code_reset(struct mem *m)
{
    for (uint64_t f = 0; f < m->frames; f++) {
        if (!(__atomic_load_n(&m->state[f], __ATOMIC_RELAXED)) || !m->flags[f])
            continue;
        __atomic_exchange_n(&m->lines[f], 0, __ATOMIC_SEQ_CST);
        __atomic_fetch_add(&m->gen[f], 1, __ATOMIC_SEQ_CST);
    }
}
