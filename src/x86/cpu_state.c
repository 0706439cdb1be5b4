/* SPDX-License-Identifier: MIT */
/* The state of a processor after RESET and after INIT. */
#include "x86/cpu_state.h"

#include <string.h>

/*
 * SDM Vol. 3A, "IA-32 and Intel 64 Processor States Following Power-up, Reset, or INIT": what both have in common.
 * EDX would hold the family, model and stepping; nothing that boots here looks at it.
 */
static void reset_common(struct cpu_state *c)
{
    const struct x86_seg data = { .limit = 0xffff, .attr = X86_SEG_P | X86_SEG_S | 3 };

    memset(c->gpr, 0, sizeof(c->gpr));
    c->gpr[X86_RDX] = 0x600;
    c->rip = 0xfff0;
    c->rflags = X86_FL_1;
    for (unsigned i = 0; i < X86_SREGS; i++)
        c->seg[i] = data;
    c->seg[X86_CS] =
        (struct x86_seg){ .base = 0xffff0000, .limit = 0xffff, .attr = X86_SEG_P | X86_SEG_S | 0xb, .sel = 0xf000 };
    c->seg[X86_SEG_NONE] = (struct x86_seg){ 0 };
    c->ldtr = (struct x86_seg){ .limit = 0xffff, .attr = X86_SEG_P | 2 };
    c->tr = (struct x86_seg){ .limit = 0xffff, .attr = X86_SEG_P | 0xb };
    c->gdtr = c->idtr = (struct x86_dtable){ .limit = 0xffff };
    c->cr2 = c->cr3 = c->cr4 = 0;
    memset(c->dr, 0, sizeof(c->dr));
    c->dr[6] = 0xffff0ff0;
    c->dr[7] = 0x400;
    memset(c->pdpte, 0, sizeof(c->pdpte));
    c->cpl = 0;
    c->int_shadow = false;
    c->nmi_blocked = false;
    c->pending_db = 0;
    c->msr.efer = 0;
}

void x86_cpu_reset(struct cpu_state *c)
{
    memset(c, 0, sizeof(*c));
    reset_common(c);
    c->cr0 = X86_CR0_CD | X86_CR0_NW | X86_CR0_ET;
    c->xcr0 = 1;
    c->fpu.fcw = 0x40;
    c->fpu.ftw = 0xff; /* all valid, all +0.0 */
    c->fpu.mxcsr = 0x1f80;
    c->msr.pat = 0x0007040600070406;
    c->msr.misc_enable = 0x1801; /* fast strings; no branch trace, no PEBS */
}

void x86_cpu_init(struct cpu_state *c)
{
    uint64_t keep = c->cr0 & (X86_CR0_CD | X86_CR0_NW);

    reset_common(c);
    c->cr0 = keep | X86_CR0_ET;
}
