/* SPDX-License-Identifier: MIT */
/*
 * Guest RAM: one memfd a VM, one state a frame, checked access, pinning for DMA, and listeners for whoever keeps
 * host pointers. The private page of a frame lies at a fixed file offset: its gpa below the MMIO gap, its gpa
 * minus the gap above it, so linear ranges map with one mmap.
 *
 * Code tracking. An engine that caches decoded or translated code remembers mem_code_gen of the frame, then marks
 * the lines it decodes (mem_code_mark), then reads them, and trusts its copy while the generation stands. Whoever
 * writes guest memory must, after the store, test MEM_F_CODE of the frame and call mem_code_written if it is set; the
 * functions here do so. One who stores from cached code, and so may have hit the instructions that come next, must
 * leave them if that says true, and also if their generation has moved: another's write may have spent the mark.
 * Marking runs an expedited membarrier, so a store whose flag test came too early is visible to the marker's reads:
 * that makes the test after the store sufficient without a fence.
 */
#ifndef GAZDA_MEM_MEM_H
#define GAZDA_MEM_MEM_H

#include "base/err.h"
#include "base/types.h"

#define MEM_GAP_START 0xC0000000UL /* 3 GiB */
#define MEM_GAP_END 0x100000000UL  /* 4 GiB */

enum mem_state {
    MEM_ABSENT = 0, /* reads as zero; no host memory */
    MEM_PRIVATE,    /* backed by the memfd at its offset */
    MEM_SHARED,
    MEM_COMPRESSED,
    MEM_SWAPPED,
    MEM_FILE, /* later: leave them through mem_frame_get */
};

enum { MEM_F_CODE = 1, MEM_F_DIRTY_LOG = 2 };

struct mem;

/*
 * Somebody who keeps host pointers (an engine's TLB or window). Callbacks run on the thread that changes the page
 * state, with no mem lock held, and return only when no vCPU uses a pointer to [gpa, gpa+len) any more.
 */
struct mem_listener {
    void (*unmap)(void *arg, gpa_t gpa, uint64_t len);   /* the host page changes or goes away */
    void (*protect)(void *arg, gpa_t gpa, uint64_t len); /* writes must ask again */
    /* For those who do not test MEM_F_CODE after each store: the frame begins to hold code (stores must ask again). */
    void (*code_marked)(void *arg, gpa_t gpa);
    /* Marked code of the frame was written. Only takes note of it, for a lock is held; need not wait. */
    void (*code_written)(void *arg, gpa_t gpa);
};

struct mem_stats {
    uint64_t ram_bytes, private_frames, code_frames, code_writes;
};

/* ram_bytes is a multiple of 4 KiB, 1 MiB..1 TiB. NULL with e set on failure. */
struct mem *mem_new(uint64_t ram_bytes, struct err *e);
void mem_free(struct mem *m);
uint64_t mem_size(const struct mem *m);
/* End of RAM below the gap, and end of RAM above it (MEM_GAP_END when there is none). */
gpa_t mem_low_end(const struct mem *m);
gpa_t mem_high_end(const struct mem *m);
bool mem_is_ram(const struct mem *m, gpa_t gpa, uint64_t len);

/* Copies; ABSENT frames read as zero and stay absent. 0 or -EFAULT (some byte is not RAM; nothing was copied). */
int mem_read(struct mem *m, gpa_t gpa, void *buf, uint64_t len);
int mem_write(struct mem *m, gpa_t gpa, const void *buf, uint64_t len);
/* Zero-fills; frames wholly inside become ABSENT again. */
int mem_zero(struct mem *m, gpa_t gpa, uint64_t len);
/*
 * Gives the memory of the frames that lie wholly inside of these ranges back to the host: they read as zero, and take
 * memory again when they are touched. Host pointers stay good, for the frames stay PRIVATE, with a hole in the memfd;
 * so engines need not let go of them, and go on at full speed. Only frames that hold or held code are told of, once a
 * call, because the hole takes write protection by userfaultfd with it. Pinned frames are left alone. A store at the
 * same time is lost or stays. What is not RAM is skipped. Returns the bytes given back. Lock-free callers only, as for
 * unmap.
 */
struct mem_range {
    gpa_t gpa;
    uint64_t len;
};
uint64_t mem_discard(struct mem *m, const struct mem_range *r, unsigned n);
/* Host memory that the guest's RAM occupies, in bytes. */
uint64_t mem_occupied(const struct mem *m);
/* Back to power-on: every frame ABSENT. No vCPU runs, nothing is pinned. */
void mem_reset(struct mem *m);

/*
 * Pins [gpa, gpa+len) for one DMA and returns its host address; the range must be RAM on one side of the gap.
 * NULL if not. mem_unpin(written) does the code and dirty bookkeeping for a device that wrote.
 */
void *mem_pin(struct mem *m, gpa_t gpa, uint64_t len);
void mem_unpin(struct mem *m, gpa_t gpa, uint64_t len, bool written);

/* For engines: makes the frame PRIVATE and returns its host address, 0 if not RAM. Valid until unmap is called. */
hva_t mem_frame_get(struct mem *m, gpa_t gpa);
/* For engines that map frames themselves: the memfd, and where in it a private frame lies; false if not RAM. */
int mem_fd(const struct mem *m);
bool mem_file_offset(const struct mem *m, gpa_t gpa, uint64_t *off);
/* The frame's MEM_F_* flags, to test after each store through a pointer from mem_frame_get. Never NULL for RAM. */
const volatile uint8_t *mem_frame_flags(struct mem *m, gpa_t gpa);

/* See the head comment. mark covers [gpa, gpa+len) in 64-byte lines inside one frame. Any vCPU thread. */
void mem_code_mark(struct mem *m, gpa_t gpa, uint64_t len);
/*
 * Ends the watch on a frame that has no marked line any more, so that stores to it are plain again; to be asked at each
 * store that the watch makes slow, for the first few are refused. True: the frame is not watched (just now).
 */
bool mem_code_release(struct mem *m, gpa_t gpa);
/* Refuses releases while whoever said true (they are counted) has not said false: see code.c. */
void mem_code_hold(struct mem *m, bool hold);
/* The generation counter of the frame: changes whenever a marked line of it was written. Stable address. */
const volatile uint32_t *mem_code_gen(struct mem *m, gpa_t gpa);
/* Tells that [gpa, gpa+len) was written. True if a marked line was hit (the generation moved). */
bool mem_code_written(struct mem *m, gpa_t gpa, uint64_t len);

int mem_listen(struct mem *m, const struct mem_listener *l, void *arg); /* 0 or -ENOSPC */
void mem_unlisten(struct mem *m, const struct mem_listener *l, void *arg);
void mem_get_stats(struct mem *m, struct mem_stats *out);

#endif
