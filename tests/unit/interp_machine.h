/* SPDX-License-Identifier: MIT */
/*
 * A bare processor for engine tests: RAM, page tables, an IDT whose handlers are HLT. No devices.
 *
 * Linear addresses below 4 GiB map to themselves: the first 2 MiB by 4 KiB pages, the rest by 2 MiB pages, so that
 * 0xC0000000 and up is device space. The handler of vector v is at IM_HANDLER + 16 * v, so after an exception RIP
 * tells the vector, and the frame lies on the stack.
 */
#ifndef GAZDA_TESTS_UNIT_INTERP_MACHINE_H
#define GAZDA_TESTS_UNIT_INTERP_MACHINE_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/engine.h"
#include "mem/mem.h"
#include "x86/fault.h"

#define IM_PT 0x6000UL /* of the first 2 MiB */
#define IM_IDT 0x8000UL
#define IM_GDT 0x9000UL
#define IM_HANDLER 0xa000UL
#define IM_CODE 0x100000UL
#define IM_STACK 0x180000UL
#define IM_DATA 0x140000UL
#define IM_MMIO 0xd0000000UL

struct im {
    struct vcpu v;
    struct x86_model model;
    struct cpu_state *c;
};

static inline void im_put64(struct im *t, gpa_t gpa, uint64_t v)
{
    mem_write(t->v.mem, gpa, &v, 8);
}
static inline uint64_t im_get64(struct im *t, gpa_t gpa)
{
    uint64_t v = 0;
    mem_read(t->v.mem, gpa, &v, 8);
    return v;
}

static inline void im_tables(struct im *t)
{
    im_put64(t, 0x1000, 0x2003);
    for (uint64_t k = 0; k < 4; k++)
        im_put64(t, 0x2000 + k * 8, (0x10000 + k * 0x1000) | 3);
    for (uint64_t k = 0; k < 2048; k++)
        im_put64(t, 0x10000 + k * 8, k << 21 | 0x83);
    im_put64(t, 0x10000, IM_PT | 3);
    for (uint64_t k = 0; k < 512; k++)
        im_put64(t, IM_PT + k * 8, k << 12 | 3);
    im_put64(t, IM_GDT + 8, 0x00af9b000000ffffUL);  /* 64-bit code */
    im_put64(t, IM_GDT + 16, 0x00cf93000000ffffUL); /* data */
    im_put64(t, IM_GDT + 24, 0x00cf9b000000ffffUL); /* 32-bit code */
    im_put64(t, IM_GDT + 32, 0x000f9b000000ffffUL); /* 16-bit code, 1 MiB */
    for (uint64_t v = 0; v < 32; v++) {
        uint64_t to = IM_HANDLER + 16 * v;
        im_put64(t, IM_IDT + v * 16, (to & 0xffff) | 8UL << 16 | 0x8eUL << 40 | (to >> 16 & 0xffff) << 48);
        im_put64(t, IM_IDT + v * 16 + 8, to >> 32);
        mem_write(t->v.mem, to, "\xf4", 1);
    }
}

static inline void im_load(struct im *t, gpa_t at, const void *code, size_t len)
{
    mem_write(t->v.mem, at, code, len);
}

/* State changes go between these two. */
static inline struct cpu_state *im_edit(struct im *t)
{
    t->v.ops->sync(&t->v, SYNC_OUT);
    return t->c;
}
static inline void im_done(struct im *t)
{
    t->v.ops->sync(&t->v, SYNC_IN);
}

/* One of `cpus` processors, on the RAM of another one, or (NULL) on RAM of its own. */
static inline struct im *im_new_smp(const struct engine_ops *ops, struct mem *mem, unsigned cpus)
{
    struct im *t = calloc(1, sizeof(*t));
    struct cpu_state *c;

    x86_model_host(&t->model, 1, 1000000);
    t->v.ops = ops;
    t->v.tuning.cpus = cpus;
    t->v.mem = mem ? mem : mem_new(64UL << 20, NULL);
    t->v.model = &t->model;
    if (ops->create(&t->v)) {
        fprintf(stderr, "engine %s cannot be created\n", ops->name);
        abort();
    }
    t->c = t->v.cpu;
    if (!mem)
        im_tables(t);
    c = im_edit(t);
    c->cr0 = X86_CR0_PE | X86_CR0_PG | X86_CR0_WP | X86_CR0_NE | X86_CR0_ET;
    c->cr4 = X86_CR4_PAE | X86_CR4_OSFXSR | X86_CR4_PGE;
    c->cr3 = 0x1000;
    c->msr.efer = X86_EFER_LME | X86_EFER_LMA;
    c->gdtr = (struct x86_dtable){ .base = IM_GDT, .limit = 0x27 };
    c->idtr = (struct x86_dtable){ .base = IM_IDT, .limit = 0x1ff };
    for (unsigned s = 0; s < X86_SEG_NONE; s++)
        c->seg[s] =
            (struct x86_seg){ .limit = ~0U, .sel = 16, .attr = 3 | X86_SEG_S | X86_SEG_P | X86_SEG_DB | X86_SEG_G };
    c->seg[X86_CS] =
        (struct x86_seg){ .limit = ~0U, .sel = 8, .attr = 0xb | X86_SEG_S | X86_SEG_P | X86_SEG_L | X86_SEG_G };
    c->gpr[X86_RSP] = IM_STACK;
    c->rip = IM_CODE;
    c->rflags = X86_FL_1;
    im_done(t);
    return t;
}

static inline struct im *im_new(const struct engine_ops *ops)
{
    return im_new_smp(ops, NULL, 1);
}

/* One that is on the RAM of another one, before the owner of its RAM. */
static inline void im_free_on(struct im *t)
{
    t->v.ops->destroy(&t->v);
    free(t);
}
static inline void im_free(struct im *t)
{
    struct mem *mem = t->v.mem;

    im_free_on(t);
    mem_free(mem);
}

/* Runs to the next exit and makes t->c exact. */
static inline enum vcpu_exit_kind im_run(struct im *t)
{
    t->v.ops->run(&t->v, &t->v.exit);
    t->v.ops->sync(&t->v, SYNC_OUT);
    return t->v.exit.kind;
}

/* Code at IM_CODE, run from there. */
static inline enum vcpu_exit_kind im_exec(struct im *t, const void *code, size_t len)
{
    im_load(t, IM_CODE, code, len);
    im_edit(t)->rip = IM_CODE;
    im_done(t);
    return im_run(t);
}
#define IM_EXEC(t, bytes) im_exec((t), (bytes), sizeof(bytes) - 1)

/* The vector whose handler HLT has just ended the run, or -1. */
static inline int im_vector(const struct im *t)
{
    uint64_t off = t->c->rip - 1 - IM_HANDLER;
    return t->v.exit.kind == EXIT_HLT && off < 32 * 16 && off % 16 == 0 ? (int)(off / 16) : -1;
}
/* Word k of the exception frame: error code (if any) first, then RIP CS RFLAGS RSP SS. */
static inline uint64_t im_frame(struct im *t, unsigned k)
{
    return im_get64(t, t->c->gpr[X86_RSP] + 8 * k);
}

#endif
