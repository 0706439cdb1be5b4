/* SPDX-License-Identifier: MIT */
/*
 * Guest RAM: the memfd, the frame table, checked access and pinning. Frame number here = file offset / 4096, so the
 * MMIO gap costs nothing. The per-frame tables are lazily backed anonymous mappings: untouched frames cost no memory.
 */
#include "mem/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mem/internal.h"

static void *table_map(uint64_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

static void table_unmap(void *p, uint64_t bytes)
{
    if (p)
        munmap(p, bytes);
}

static void tables_unmap(struct mem *m)
{
    table_unmap((void *)m->state, m->frames);
    table_unmap((void *)m->flags, m->frames);
    table_unmap((void *)m->pins, m->frames * sizeof(*m->pins));
    table_unmap((void *)m->lines, m->frames * sizeof(*m->lines));
    table_unmap((void *)m->gen, m->frames * sizeof(*m->gen));
    table_unmap((void *)m->idle, m->frames);
}

static int tables_map(struct mem *m)
{
    m->state = table_map(m->frames);
    m->flags = table_map(m->frames);
    m->pins = table_map(m->frames * sizeof(*m->pins));
    m->lines = table_map(m->frames * sizeof(*m->lines));
    m->gen = table_map(m->frames * sizeof(*m->gen));
    m->idle = table_map(m->frames);
    if (m->state && m->flags && m->pins && m->lines && m->gen && m->idle)
        return 0;
    tables_unmap(m);
    return -ENOMEM;
}

struct mem *mem_new(uint64_t ram_bytes, struct err *e)
{
    if (ram_bytes % PAGE_SIZE || ram_bytes < (1UL << 20) || ram_bytes > (1UL << 40)) {
        err_set(e, EINVAL, "memory size of %lu bytes: it must be a multiple of 4096 from 1 MiB to 1 TiB", ram_bytes);
        return NULL;
    }
    struct mem *m = calloc(1, sizeof(*m));
    if (!m) {
        err_set(e, ENOMEM, "out of memory");
        return NULL;
    }
    m->size = ram_bytes;
    m->frames = ram_bytes >> PAGE_SHIFT;
    m->low_end = ram_bytes < MEM_GAP_START ? ram_bytes : MEM_GAP_START;
    lock_init(&m->lock, LOCK_MEM);
    if (tables_map(m) < 0) {
        err_set(e, ENOMEM, "cannot reserve the frame tables for %lu MiB of guest memory", ram_bytes >> 20);
        goto undo_alloc;
    }
    m->fd = memfd_create("gazda-ram", MFD_CLOEXEC);
    if (m->fd < 0 || ftruncate(m->fd, (off_t)ram_bytes) < 0) {
        err_set(e, errno, "cannot create guest memory of %lu MiB: %s", ram_bytes >> 20, strerror(errno));
        goto undo_fd;
    }
    void *p = mmap(NULL, ram_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, m->fd, 0);
    if (p == MAP_FAILED) {
        err_set(e, errno, "cannot map guest memory of %lu MiB: %s", ram_bytes >> 20, strerror(errno));
        goto undo_fd;
    }
    m->base = p;
    madvise(p, ram_bytes, MADV_DONTDUMP);
    mem_code_init(m);
    return m;

undo_fd:
    if (m->fd >= 0)
        close(m->fd);
    tables_unmap(m);
undo_alloc:
    lock_destroy(&m->lock);
    free(m);
    return NULL;
}

void mem_free(struct mem *m)
{
    if (!m)
        return;
    munmap(m->base, m->size);
    close(m->fd);
    tables_unmap(m);
    mem_code_fini(m);
    lock_destroy(&m->lock);
    free(m);
}

uint64_t mem_size(const struct mem *m)
{
    return m->size;
}

gpa_t mem_low_end(const struct mem *m)
{
    return m->low_end;
}

gpa_t mem_high_end(const struct mem *m)
{
    return MEM_GAP_END + (m->size - m->low_end);
}

bool mem_is_ram(const struct mem *m, gpa_t gpa, uint64_t len)
{
    uint64_t off;
    return mem_offset(m, gpa, len, &off);
}

/* ---- page states ---- */

static void make_private(struct mem *m, uint64_t frame)
{
    uint8_t absent = MEM_ABSENT;
    if (__atomic_compare_exchange_n(&m->state[frame], &absent, MEM_PRIVATE, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
        __atomic_fetch_add(&m->private_frames, 1, __ATOMIC_RELAXED);
}

static bool is_absent(const struct mem *m, uint64_t frame)
{
    return __atomic_load_n(&m->state[frame], __ATOMIC_ACQUIRE) == MEM_ABSENT;
}

static void make_private_range(struct mem *m, uint64_t off, uint64_t len)
{
    for (uint64_t f = off >> PAGE_SHIFT; f <= (off + len - 1) >> PAGE_SHIFT; f++)
        if (is_absent(m, f))
            make_private(m, f);
}

static void punch(struct mem *m, uint64_t off, uint64_t len)
{
    if (fallocate(m->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)off, (off_t)len) < 0)
        memset(m->base + off, 0, len); /* the contract is zeroes; the memory is returned when the host lets us */
}

hva_t mem_frame_get(struct mem *m, gpa_t gpa)
{
    uint64_t off;
    if (!mem_offset(m, gpa & PAGE_MASK, PAGE_SIZE, &off))
        return 0;
    if (is_absent(m, off >> PAGE_SHIFT))
        make_private(m, off >> PAGE_SHIFT);
    return (hva_t)(m->base + off);
}

int mem_fd(const struct mem *m)
{
    return m->fd;
}

bool mem_file_offset(const struct mem *m, gpa_t gpa, uint64_t *off)
{
    return mem_offset(m, gpa, 1, off);
}

const volatile uint8_t *mem_frame_flags(struct mem *m, gpa_t gpa)
{
    uint64_t off;
    return mem_offset(m, gpa & PAGE_MASK, PAGE_SIZE, &off) ? &m->flags[off >> PAGE_SHIFT] : NULL;
}

/* ---- checked access ---- */

int mem_read(struct mem *m, gpa_t gpa, void *buf, uint64_t len)
{
    uint64_t off;
    uint8_t *p = buf;
    if (!len)
        return 0;
    if (!mem_offset(m, gpa, len, &off))
        return -EFAULT;
    while (len) {
        uint64_t n = PAGE_SIZE - (off & (PAGE_SIZE - 1));
        if (n > len)
            n = len;
        if (is_absent(m, off >> PAGE_SHIFT))
            memset(p, 0, n);
        else
            memcpy(p, m->base + off, n);
        p += n, off += n, len -= n;
    }
    return 0;
}

int mem_write(struct mem *m, gpa_t gpa, const void *buf, uint64_t len)
{
    void *p = mem_pin(m, gpa, len);
    if (!len)
        return 0;
    if (!p)
        return -EFAULT;
    memcpy(p, buf, len);
    mem_unpin(m, gpa, len, true);
    return 0;
}

int mem_zero(struct mem *m, gpa_t gpa, uint64_t len)
{
    uint64_t off;
    if (!len)
        return 0;
    if (!mem_offset(m, gpa, len, &off))
        return -EFAULT;
    for (uint64_t n; len; off += n, gpa += n, len -= n) {
        uint64_t f = off >> PAGE_SHIFT;
        n = PAGE_SIZE - (off & (PAGE_SIZE - 1));
        if (n > len)
            n = len;
        if (is_absent(m, f))
            continue;
        if (n < PAGE_SIZE || __atomic_load_n(&m->pins[f], __ATOMIC_ACQUIRE)) {
            memset(m->base + off, 0, n);
        } else {
            mem_tell_unmap(m, gpa, PAGE_SIZE);
            punch(m, off, PAGE_SIZE);
            __atomic_store_n(&m->state[f], MEM_ABSENT, __ATOMIC_RELEASE);
            __atomic_fetch_sub(&m->private_frames, 1, __ATOMIC_RELAXED);
        }
        mem_code_written(m, gpa, n);
    }
    return 0;
}

static bool discardable(struct mem *m, uint64_t f)
{
    return !is_absent(m, f) && !__atomic_load_n(&m->pins[f], __ATOMIC_ACQUIRE);
}

/* Adds to *done what it gave back. True: some of it has, or had, marked code. */
static bool discard_range(struct mem *m, gpa_t gpa, uint64_t len, uint64_t *done)
{
    uint64_t off;
    bool code = false;
    if (!mem_offset(m, gpa, len, &off))
        return false;
    uint64_t end = (off + len) >> PAGE_SHIFT;
    for (uint64_t f = (off + PAGE_SIZE - 1) >> PAGE_SHIFT; f < end; f++) {
        uint64_t first = f;
        while (f < end && discardable(m, f))
            f++;
        if (f == first)
            continue;
        punch(m, first << PAGE_SHIFT, (f - first) << PAGE_SHIFT);
        *done += (f - first) << PAGE_SHIFT;
        for (; first < f; first++) /* after the hole, as after a store: who marks later protects later */
            code |= (__atomic_load_n(&m->flags[first], __ATOMIC_SEQ_CST) & MEM_F_CODE) ||
                    __atomic_load_n(&m->gen[first], __ATOMIC_SEQ_CST);
    }
    return code;
}

uint64_t mem_discard(struct mem *m, const struct mem_range *r, unsigned n)
{
    gpa_t lo = UINT64_MAX, hi = 0;
    uint64_t done = 0;
    for (unsigned i = 0; i < n; i++) {
        if (!discard_range(m, r[i].gpa, r[i].len, &done))
            continue;
        lo = r[i].gpa < lo ? r[i].gpa : lo;
        hi = r[i].gpa + r[i].len > hi ? r[i].gpa + r[i].len : hi;
    }
    if (hi)
        mem_tell_unmap(m, lo, hi - lo);
    for (unsigned i = 0; i < n; i++)
        mem_code_written(m, r[i].gpa, r[i].len);
    return done;
}

uint64_t mem_occupied(const struct mem *m)
{
    struct stat st;
    return fstat(m->fd, &st) == 0 ? (uint64_t)st.st_blocks * 512 : 0;
}

void mem_reset(struct mem *m)
{
    mem_tell_unmap(m, 0, m->low_end);
    if (m->size > m->low_end)
        mem_tell_unmap(m, MEM_GAP_END, m->size - m->low_end);
    mem_code_reset(m);
    punch(m, 0, m->size);
    madvise((void *)m->state, m->frames, MADV_DONTNEED);
    __atomic_store_n(&m->private_frames, 0, __ATOMIC_RELAXED);
}

/* ---- pinning ---- */

void *mem_pin(struct mem *m, gpa_t gpa, uint64_t len)
{
    uint64_t off;
    if (!len || !mem_offset(m, gpa, len, &off))
        return NULL;
    for (uint64_t f = off >> PAGE_SHIFT; f <= (off + len - 1) >> PAGE_SHIFT; f++)
        __atomic_fetch_add(&m->pins[f], 1, __ATOMIC_ACQ_REL);
    make_private_range(m, off, len);
    return m->base + off;
}

void mem_unpin(struct mem *m, gpa_t gpa, uint64_t len, bool written)
{
    uint64_t off;
    if (!len || !mem_offset(m, gpa, len, &off))
        return;
    for (uint64_t f = off >> PAGE_SHIFT; f <= (off + len - 1) >> PAGE_SHIFT; f++)
        __atomic_fetch_sub(&m->pins[f], 1, __ATOMIC_ACQ_REL);
    if (written)
        mem_code_written(m, gpa, len);
}

/* ---- listeners ---- */

int mem_listen(struct mem *m, const struct mem_listener *l, void *arg)
{
    int r = -ENOSPC;
    lock_take(&m->lock);
    for (unsigned i = 0; i < MEM_LISTENERS && r; i++) {
        if (!m->listener[i].l) {
            m->listener[i].arg = arg;
            __atomic_store_n(&m->listener[i].l, l, __ATOMIC_RELEASE);
            r = 0;
        }
    }
    lock_drop(&m->lock);
    return r;
}

void mem_unlisten(struct mem *m, const struct mem_listener *l, void *arg)
{
    lock_take(&m->lock);
    for (unsigned i = 0; i < MEM_LISTENERS; i++)
        if (m->listener[i].l == l && m->listener[i].arg == arg)
            m->listener[i].l = NULL;
    lock_drop(&m->lock);
}

void mem_tell_unmap(struct mem *m, gpa_t gpa, uint64_t len)
{
    for (unsigned i = 0; i < MEM_LISTENERS; i++) {
        lock_take(&m->lock);
        const struct mem_listener *l = m->listener[i].l;
        void *arg = m->listener[i].arg;
        lock_drop(&m->lock);
        if (l && l->unmap)
            l->unmap(arg, gpa, len);
    }
}

void mem_get_stats(struct mem *m, struct mem_stats *out)
{
    *out = (struct mem_stats){
        .ram_bytes = m->size,
        .private_frames = __atomic_load_n(&m->private_frames, __ATOMIC_RELAXED),
        .code_frames = __atomic_load_n(&m->code_frames, __ATOMIC_RELAXED),
        .code_writes = __atomic_load_n(&m->code_writes, __ATOMIC_RELAXED),
    };
}
