/* SPDX-License-Identifier: MIT */
/*
 * An engine as a runner: a bare vCPU in long mode at CPL 3 with the linear addresses of insn.h. Every gate of its IDT
 * leads to a HLT of its own at ring 0, so the exit tells the vector, and the frame pushed on the ring-0 stack holds
 * error code, RIP, CS, RFLAGS, RSP and SS; nothing else changes.
 *
 * Guest-physical layout: system structures from 0, the memory image at IMG. Supervisor linear addresses are
 * KERNEL + gpa. The GDT has Linux's selectors, so that LAR, LSL, VERR and segment loads agree with the host.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../unit/engines.h"
#include "insn.h"
#include "mem/mem.h"
#include "watch.h"
#include "x86/fault.h"

#define KERNEL 0xffff800000000000UL
enum {
    GPA_PML4 = 0x1000,
    GPA_GDT = 0x2000,
    GPA_IDT = 0x3000,
    GPA_TSS = 0x4000,
    GPA_STUBS = 0x5000,
    GPA_KSTACK = 0x7000,  /* top */
    GPA_TABLES = 0x10000, /* further page tables */
    GPA_IMG = 0x100000,
    RAM = 0x200000,
};
enum { PTE_P = 1, PTE_W = 2, PTE_U = 4, PTE_A = 0x20, PTE_D = 0x40 };
#define PTE_NX (1UL << 63)
/* A minute: a busy host may not get round to a stub's process, or to a split lock, for long. */
enum { HANG_TICKS = 60 * WATCH_HZ };
enum { STUB_SHIFT = 4, VECTORS = 32 };

struct eng {
    struct insn_runner r;
    const struct insn_host *host;
    struct vcpu v;
    struct x86_model model;
    struct mem *mem;
    gpa_t next_table;
    uint8_t *ram; /* host address of guest RAM, pinned */
    uint8_t *image, *pristine;
    struct cpu_state base; /* system state at the start of each case */
};

static uint64_t *entry_of(struct eng *e, gpa_t table, unsigned i)
{
    return (uint64_t *)(void *)(e->ram + table + 8 * i);
}

static void map(struct eng *e, gva_t lin, gpa_t gpa, uint64_t leaf)
{
    gpa_t t = GPA_PML4;

    for (unsigned shift = 39; shift > 12; shift -= 9) {
        uint64_t *p = entry_of(e, t, (lin >> shift) & 511);

        if (!*p) {
            *p = e->next_table | PTE_P | PTE_W | PTE_U;
            e->next_table += PAGE_SIZE;
        }
        t = *p & 0xffffffffff000;
    }
    *entry_of(e, t, (lin >> 12) & 511) = gpa | leaf | PTE_P;
}

static void put(struct eng *e, gpa_t gpa, const void *p, size_t n)
{
    memcpy(e->ram + gpa, p, n);
}

static void build_tables(struct eng *e)
{
    static const uint64_t gdt[16] = {
        [1] = 0x00cf9b000000ffff, /* 0x08 kernel 32-bit code */
        [2] = 0x00af9b000000ffff, /* 0x10 kernel code */
        [3] = 0x00cf93000000ffff, /* 0x18 kernel data */
        [4] = 0x00cffb000000ffff, /* 0x20 user 32-bit code */
        [5] = 0x00cff3000000ffff, /* 0x28 user data */
        [6] = 0x00affb000000ffff, /* 0x30 user code */
        [8] = 0x00008b0000000067 | (GPA_TSS & 0xffffffUL) << 16,
        [9] = KERNEL >> 32,
    };
    uint64_t rsp0 = KERNEL + GPA_KSTACK;
    uint16_t iomap = 0x68; /* behind the limit: no port is allowed at CPL 3 */

    for (gpa_t a = 0; a < GPA_TABLES; a += PAGE_SIZE)
        map(e, KERNEL + a, a, PTE_W);
    for (unsigned i = 0; i < insn_maps_n; i++)
        for (unsigned k = 0; k < insn_maps[i].pages; k++)
            map(e, insn_maps[i].lin + k * PAGE_SIZE, GPA_IMG + (insn_maps[i].page + k) * PAGE_SIZE,
                PTE_U | (insn_maps[i].rights & INSN_W ? PTE_W : 0) | (insn_maps[i].rights & INSN_X ? 0 : PTE_NX));
    put(e, GPA_GDT, gdt, sizeof(gdt));
    put(e, GPA_TSS + 4, &rsp0, 8);
    put(e, GPA_TSS + 0x66, &iomap, 2);
    memset(e->ram + GPA_STUBS, 0xf4, VECTORS << STUB_SHIFT);
    for (unsigned i = 0; i < VECTORS; i++) {
        uint64_t ip = KERNEL + GPA_STUBS + (i << STUB_SHIFT);
        uint64_t dpl = i == X86_BP || i == X86_OF ? 3 : 0;
        uint64_t g[2] = { (ip & 0xffff) | 0x10UL << 16 | 0x8eUL << 40 | dpl << 45 | (ip >> 16 & 0xffff) << 48,
                          ip >> 32 };

        put(e, GPA_IDT + 16 * i, g, sizeof(g));
    }
}

static struct x86_seg seg_of(uint16_t sel, uint64_t desc)
{
    return (struct x86_seg){
        .sel = sel,
        .attr = (uint16_t)((desc >> 40 & 0xff) | (desc >> 40 & 0xf000)),
        .limit = desc >> 55 & 1 ? 0xffffffff : 0x67,
    };
}

static void build_state(struct eng *e)
{
    struct cpu_state *c = &e->base;

    *c = *e->v.cpu;
    c->cr0 = X86_CR0_PE | X86_CR0_MP | X86_CR0_ET | X86_CR0_NE | X86_CR0_WP | X86_CR0_AM | X86_CR0_PG;
    c->cr3 = GPA_PML4;
    c->cr4 = X86_CR4_PAE | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | X86_CR4_OSXSAVE | X86_CR4_PGE;
    c->cr4 |= X86_CR4_FSGSBASE | X86_CR4_SMEP | X86_CR4_SMAP | X86_CR4_UMIP;
    c->cr4 &= x86_cr4_mask(&e->model);
    c->xcr0 = c->cr4 & X86_CR4_OSXSAVE ? e->host->xfeatures : 1;
    c->msr.efer = X86_EFER_SCE | X86_EFER_LME | X86_EFER_LMA | X86_EFER_NXE;
    c->gdtr = (struct x86_dtable){ .base = KERNEL + GPA_GDT, .limit = 16 * 8 - 1 };
    c->idtr = (struct x86_dtable){ .base = KERNEL + GPA_IDT, .limit = VECTORS * 16 - 1 };
    c->tr = seg_of(0x40, 0x00008b0000000067);
    c->tr.base = KERNEL + GPA_TSS;
    c->seg[X86_DS] = c->seg[X86_ES] = c->seg[X86_SS_SEG] = seg_of(0x2b, 0x00cff3000000ffff);
    c->seg[X86_FS] = c->seg[X86_GS] = (struct x86_seg){ .sel = 0 };
    c->cpl = 3;
    c->int_shadow = c->nmi_blocked = false;
    c->pending_db = 0;
}

static void case_in(struct eng *e, const struct insn_case *c)
{
    struct cpu_state *s = e->v.cpu;

    *s = e->base;
    memcpy(s->gpr, c->in.gpr, sizeof(c->in.gpr));
    s->rip = c->in.rip;
    s->rflags = c->in.rflags | X86_FL_IF | X86_FL_1;
    s->seg[X86_CS] = c->mode32 ? seg_of(0x23, 0x00cffb000000ffff) : seg_of(0x33, 0x00affb000000ffff);
    s->seg[X86_FS].base = c->in.fs_base;
    s->seg[X86_GS].base = c->in.gs_base;
    s->fpu = c->in.fpu;
    mem_write(e->mem, GPA_IMG + c->code_off, c->code, c->code_len);
    for (unsigned i = 0; i < c->patches; i++)
        mem_write(e->mem, GPA_IMG + c->patch[i].off, c->patch[i].data, c->patch[i].len);
}

static void case_out(struct eng *e, const struct insn_case *c, struct insn_result *r)
{
    const struct cpu_state *s = e->v.cpu;
    uint64_t f[6], vec = (s->rip - 1 - (KERNEL + GPA_STUBS)) >> STUB_SHIFT;
    uint8_t cc[INSN_CODE_MAX];

    r->status = INSN_OK;
    if (vec >= VECTORS || s->cpl) {
        r->status = INSN_BROKEN;
        snprintf(r->text, sizeof(r->text), "HLT at %#lx, CPL %u", s->rip, s->cpl);
        return;
    }
    bool err = x86_vector_has_error((unsigned)vec);
    uint64_t sp = KERNEL + GPA_KSTACK - (err ? 48 : 40);

    if (s->gpr[X86_RSP] != sp) {
        r->status = INSN_BROKEN;
        snprintf(r->text, sizeof(r->text), "vector %lu: ring-0 RSP %#lx, should be %#lx", vec, s->gpr[X86_RSP], sp);
        return;
    }
    memcpy(f, e->ram + GPA_KSTACK - 48, sizeof(f));
    r->vector = (uint8_t)vec;
    r->error = err ? (uint32_t)f[0] : 0;
    r->cr2 = vec == X86_PF ? s->cr2 : 0;
    memcpy(r->out.gpr, s->gpr, sizeof(r->out.gpr));
    r->out.gpr[X86_RSP] = f[4];
    r->out.rip = f[1];
    r->out.rflags = f[3];
    r->out.fs_base = s->seg[X86_FS].base;
    r->out.gs_base = s->seg[X86_GS].base;
    r->out.fpu = s->fpu;
    for (unsigned i = 0; i < 8; i++)
        memset(r->out.fpu.st[i] + 10, 0, 6);
    for (unsigned i = 0; i < 6; i++)
        r->out.sreg[i] = s->seg[i].sel;
    r->out.sreg[X86_CS] = (uint16_t)f[2];
    r->out.sreg[X86_SS_SEG] = (uint16_t)f[5];
    insn_image_diff(e->image, e->pristine, r);
    memset(cc, 0xcc, sizeof(cc));
    mem_write(e->mem, GPA_IMG + c->code_off, cc, c->code_len);
}

static const char *exit_name(enum vcpu_exit_kind k)
{
    static const char *const n[EXIT_KINDS] = { "KICKED", "PIO",   "MMIO",       "MSR",      "TPR",   "HYPERCALL",
                                               "HLT",    "PAUSE", "IRQ_WINDOW", "SHUTDOWN", "DEBUG", "FATAL" };

    return k < EXIT_KINDS ? n[k] : "?";
}

static int run_case(struct eng *e, const struct insn_case *c, struct insn_result *r)
{
    unsigned start = watch_ticks();

    memset(r, 0, offsetof(struct insn_result, line));
    r->text[0] = 0;
    case_in(e, c);
    e->v.ops->sync(&e->v, SYNC_IN);
    for (;;) {
        int err = e->v.ops->run(&e->v, &e->v.exit);

        if (err)
            return err;
        if (e->v.exit.kind == EXIT_PAUSE)
            continue;
        if (e->v.exit.kind != EXIT_KICKED)
            break;
        if (watch_ticks() - start > HANG_TICKS)
            break;
    }
    e->v.ops->sync(&e->v, SYNC_OUT);
    if (e->v.exit.kind == EXIT_HLT) {
        case_out(e, c, r);
    } else {
        uint8_t cc[INSN_CODE_MAX];

        r->status = INSN_BROKEN;
        snprintf(r->text, sizeof(r->text), "exit %s: %.100s", exit_name(e->v.exit.kind), e->v.exit.text);
        insn_image_diff(e->image, e->pristine, r);
        memset(cc, 0xcc, sizeof(cc));
        mem_write(e->mem, GPA_IMG + c->code_off, cc, c->code_len);
    }
    return 0;
}

static int eng_run(struct insn_runner *r, const struct insn_case *c, struct insn_result *out, unsigned n)
{
    struct eng *e = container_of(r, struct eng, r);
    int err = 0;

    watch_vcpu(&e->v);
    for (unsigned i = 0; i < n && !err; i++)
        err = run_case(e, &c[i], &out[i]);
    watch_vcpu(NULL);
    return err;
}

static void eng_free(struct insn_runner *r)
{
    struct eng *e = container_of(r, struct eng, r);

    if (e->v.engine)
        e->v.ops->destroy(&e->v);
    if (e->ram)
        mem_unpin(e->mem, 0, RAM, true);
    if (e->mem)
        mem_free(e->mem);
    free(e->pristine);
    free(e);
}

struct insn_runner *insn_engine_new(const char *name, const struct insn_host *h)
{
    const struct engine_ops *ops = engine_find(name);
    struct eng *e = insn_alloc(sizeof(*e));
    struct err err = { "" };

    if (!ops || !e) {
        fprintf(stderr, "insn_diff: no engine '%s'\n", name);
        goto undo;
    }
    e->r = (struct insn_runner){ .name = name, .run = eng_run, .free = eng_free };
    e->host = h;
    e->next_table = GPA_TABLES;
    e->pristine = malloc(INSN_IMAGE);
    e->mem = mem_new(RAM, &err);
    if (!e->mem || !e->pristine) {
        fprintf(stderr, "insn_diff: %s\n", err.text);
        goto undo;
    }
    e->ram = mem_pin(e->mem, 0, RAM);
    if (!e->ram)
        goto undo;
    e->image = e->ram + GPA_IMG;
    insn_image_fill(e->pristine);
    memcpy(e->image, e->pristine, INSN_IMAGE);
    build_tables(e);
    x86_model_host(&e->model, 1, 1000000);
    e->v.ops = ops;
    e->v.mem = e->mem;
    e->v.model = &e->model;
    if (ops->create(&e->v)) {
        fprintf(stderr, "insn_diff: engine '%s' cannot be created\n", name);
        goto undo;
    }
    build_state(e);
    return &e->r;
undo:
    if (e)
        eng_free(&e->r);
    return NULL;
}
