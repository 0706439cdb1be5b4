/* SPDX-License-Identifier: MIT */
/*
 * The x87 registers: the host's are the guest's from its first use of them on, until they are saved here. The vector
 * registers must have been saved (the images hold both). FOP, FIP and FDP are put together from notes that translated
 * code makes (vector.c), since the host's are those of translated code.
 */
#include <string.h>

#include "cpu/translate/translate.h"

struct fx_image {
    uint16_t fcw, fsw;
    uint8_t ftw, rsvd;
    uint16_t fop;
    uint64_t fip, fdp;
    uint32_t mxcsr, mxcsr_mask;
    uint8_t st[8][16];
    uint8_t rest[512 - 160];
} __attribute__((aligned(16)));

void xl_x87_init(struct xlate *x)
{
    static const double one = 1;
    struct fx_image fx;

    __asm__ volatile("fninit\n\tfldl %1\n\tfxsave64 %0\n\tfninit" : "=m"(fx) : "m"(one));
    x->mxcsr_mask = fx.mxcsr_mask ? fx.mxcsr_mask : 0xffbf;
    x->x87_ptrs_only_es = !fx.fdp;
    x->x87_dead = 1;
}

void xl_x87_load(struct xlate *x)
{
    const struct x86_fpu *f = &x->cpu->fpu;
    struct fx_image fx = { .fcw = f->fcw, .fsw = f->fsw, .ftw = f->ftw, .mxcsr = __builtin_ia32_stmxcsr() };

    memcpy(fx.st, f->st, sizeof(fx.st));
    for (unsigned k = 0; k < 8; k++)
        memset(fx.st[k] + 10, 0, 6);
    __asm__ volatile("fxrstor64 %0"
                     :
                     : "m"(fx)
                     : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",
                       "xmm12", "xmm13", "xmm14", "xmm15");
    x->x87_dead = 0;
    x->x87_last = 0;
    x->x87_fdp = f->fdp;
    x->x87_seg = X86_SEG_NONE;
}

__attribute__((target("general-regs-only"))) void xl_x87_pointers(struct xlate *x)
{
    struct x86_fpu *f = &x->cpu->fpu;

    if (x->x87_dead || !x->x87_last)
        return;
    f->fop = (x->x87_last >> 13) & 0x7ff;
    f->fip = x->x87_page + (x->x87_last & 0x1fff);
    f->fdp = x->x87_fdp;
    f->fcs = x->cpu->seg[X86_CS].sel;
    if (x->x87_seg != X86_SEG_NONE) /* it had an operand in memory */
        f->fds = x->cpu->seg[x->x87_seg].sel;
    x->x87_last = 0;
    x->x87_seg = X86_SEG_NONE;
}

void xl_x87_save(struct xlate *x)
{
    struct x86_fpu *f = &x->cpu->fpu;
    struct fx_image fx;

    if (x->x87_dead)
        return;
    __asm__ volatile("fxsave64 %0\n\tfninit" : "=m"(fx));
    f->fcw = fx.fcw;
    f->fsw = fx.fsw;
    f->ftw = fx.ftw;
    for (unsigned k = 0; k < 8; k++)
        memcpy(f->st[k], fx.st[k], 10);
    xl_x87_pointers(x);
    x->x87_dead = 1;
}
