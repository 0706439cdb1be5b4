/* SPDX-License-Identifier: MIT */
/*
 * The boot processor's registers at the first instruction, in the three shapes that boot protocols ask for. bsp comes
 * in RESET state; only what a protocol or a firmware would have changed is changed here.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vm/boot/internal.h"

enum { SEL_CODE = 0x10, SEL_DATA = 0x18, SEL_TSS = 0x20 };
enum {
    ATTR_CODE32 = 0xb | X86_SEG_S | X86_SEG_P | X86_SEG_DB | X86_SEG_G,
    ATTR_CODE64 = 0xb | X86_SEG_S | X86_SEG_P | X86_SEG_L | X86_SEG_G,
    ATTR_DATA = 0x3 | X86_SEG_S | X86_SEG_P | X86_SEG_DB | X86_SEG_G,
    ATTR_TSS = 0xb | X86_SEG_P,
    ATTR_REAL_CODE = 0xb | X86_SEG_S | X86_SEG_P,
    ATTR_REAL_DATA = 0x3 | X86_SEG_S | X86_SEG_P,
};
enum { TSS_LIMIT = 0x67 };
enum { MTRR_ENABLE_WB = 1 << 11 | 6 }; /* default type write-back, no ranges */
enum { PDE_2M = 1 << 7, PTE_RW_P = 3 };

static uint64_t gdt_entry(uint32_t attr, uint32_t base, uint32_t limit)
{
    uint32_t lim = attr & X86_SEG_G ? limit >> 12 : limit;
    return (uint64_t)(lim & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)(attr & 0xf0ff) << 40 |
           (uint64_t)(lim >> 16 & 0xf) << 48 | (uint64_t)(base >> 24) << 56;
}

static int enter_gdt(struct boot *b, uint32_t code, struct err *e)
{
    uint64_t gdt[5] = { [SEL_CODE / 8] = gdt_entry(code, 0, UINT32_MAX),
                        [SEL_DATA / 8] = gdt_entry(ATTR_DATA, 0, UINT32_MAX),
                        [SEL_TSS / 8] = gdt_entry(ATTR_TSS, 0, TSS_LIMIT) };
    return boot_put(b, LAYOUT_GDT, gdt, sizeof(gdt), e);
}

static void enter_segments(struct cpu_state *c, uint32_t code)
{
    const struct x86_seg data = { .limit = UINT32_MAX, .attr = ATTR_DATA, .sel = SEL_DATA };
    c->seg[X86_CS] = (struct x86_seg){ .limit = UINT32_MAX, .attr = code, .sel = SEL_CODE };
    c->seg[X86_DS] = c->seg[X86_ES] = c->seg[X86_SS_SEG] = c->seg[X86_FS] = c->seg[X86_GS] = data;
    c->tr = (struct x86_seg){ .limit = TSS_LIMIT, .attr = ATTR_TSS, .sel = SEL_TSS };
    c->ldtr = (struct x86_seg){ .attr = X86_SEG_UNUSABLE };
    c->gdtr = (struct x86_dtable){ .base = LAYOUT_GDT, .limit = 5 * 8 - 1 };
    c->idtr = (struct x86_dtable){ 0 };
}

/* What firmware leaves behind in every mode: caches on, memory write-back, interrupts off. */
static void enter_common(struct cpu_state *c)
{
    memset(c->gpr, 0, sizeof(c->gpr));
    c->rflags = X86_FL_1;
    c->cr0 = X86_CR0_ET;
    c->msr.mtrr_def_type = MTRR_ENABLE_WB;
    c->cpl = 0;
}

void boot_enter_real(struct boot *b, uint16_t cs, uint16_t ip)
{
    struct cpu_state *c = b->cpu;
    enter_common(c);
    for (unsigned s = X86_ES; s <= X86_GS; s++)
        c->seg[s] = (struct x86_seg){ .limit = 0xffff, .attr = ATTR_REAL_DATA };
    c->seg[X86_CS] = (struct x86_seg){ .base = (uint64_t)cs << 4, .limit = 0xffff, .attr = ATTR_REAL_CODE, .sel = cs };
    c->idtr = (struct x86_dtable){ .base = 0, .limit = 0x3ff };
    c->rip = ip;
    c->gpr[X86_RSP] = 0x7000;
    c->gpr[X86_RDX] = 0x80; /* a boot sector expects the number of its drive */
}

int boot_enter_prot(struct boot *b, gpa_t eip, struct err *e)
{
    struct cpu_state *c = b->cpu;
    if (eip > UINT32_MAX)
        return err_set(e, EINVAL, "kernel '%.200s' has its 32-bit entry at %#lx, above 4 GiB", b->name, eip);
    enter_common(c);
    enter_segments(c, ATTR_CODE32);
    c->cr0 |= X86_CR0_PE;
    c->rip = eip;
    c->gpr[X86_RSP] = LAYOUT_STACK;
    return enter_gdt(b, ATTR_CODE32, e);
}

int boot_enter_long(struct boot *b, gpa_t rip, struct err *e)
{
    struct cpu_state *c = b->cpu;
    uint64_t *t = calloc(1, LAYOUT_PGTABLES_LEN);
    if (!t)
        return err_set(e, ENOMEM, "no memory for the boot page tables");
    t[0] = (LAYOUT_PML4 + PAGE_SIZE) | PTE_RW_P;
    for (uint64_t i = 0; i < 4; i++)
        t[512 + i] = (LAYOUT_PML4 + (2 + i) * PAGE_SIZE) | PTE_RW_P;
    for (uint64_t i = 0; i < 4UL * 512; i++)
        t[1024 + i] = i << 21 | PDE_2M | PTE_RW_P;
    int r = boot_put(b, LAYOUT_PML4, t, LAYOUT_PGTABLES_LEN, e);
    free(t);
    if (r < 0)
        return r;
    enter_common(c);
    enter_segments(c, ATTR_CODE64);
    c->cr3 = LAYOUT_PML4;
    c->cr4 = X86_CR4_PAE;
    c->cr0 |= X86_CR0_PE | X86_CR0_PG;
    c->msr.efer = X86_EFER_LME | X86_EFER_LMA;
    c->rip = rip;
    c->gpr[X86_RSP] = LAYOUT_STACK;
    return enter_gdt(b, ATTR_CODE64, e);
}
