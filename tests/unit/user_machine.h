/* SPDX-License-Identifier: MIT */
/* The bare processor of vector_machine.h in user mode, where HLT, the end of a test's code, is a #GP. */
#ifndef GAZDA_TESTS_UNIT_USER_MACHINE_H
#define GAZDA_TESTS_UNIT_USER_MACHINE_H

#include "vector_machine.h"

enum { UM_USER = 4 }; /* in entries of page tables */
#define UM_TSS 0xc000UL
#define UM_RSP0 (IM_STACK + 0x11000)

/* From the code on everything, and device memory, is the user's. */
static inline void um_open(struct im *t)
{
    const uint64_t device = 0x10000 + 8 * (IM_MMIO >> 21);

    im_put64(t, 0x1000, im_get64(t, 0x1000) | UM_USER);
    for (unsigned k = 0; k < 4; k++)
        im_put64(t, 0x2000 + 8 * k, im_get64(t, 0x2000 + 8 * k) | UM_USER);
    im_put64(t, 0x10000, im_get64(t, 0x10000) | UM_USER);
    im_put64(t, device, im_get64(t, device) | UM_USER);
    for (unsigned k = IM_CODE >> 12; k < 512; k++)
        im_put64(t, IM_PT + 8 * k, im_get64(t, IM_PT + 8 * k) | UM_USER);
}
static inline bool um_is_user(struct im *t)
{
    return im_get64(t, 0x1000) & UM_USER;
}

/* Between im_edit and im_done. */
static inline void um_set_cpl(struct im *t, unsigned cpl)
{
    uint64_t rsp0 = UM_RSP0 + 0x1000UL * t->v.id;

    mem_write(t->v.mem, UM_TSS + 0x80 * t->v.id + 4, &rsp0, 8);
    t->c->tr = (struct x86_seg){ .base = UM_TSS + 0x80 * t->v.id, .limit = 0x67, .sel = 40, .attr = 11 | X86_SEG_P };
    t->c->cpl = (uint8_t)cpl;
    for (unsigned k = 0; k < X86_SEG_NONE; k++) {
        struct x86_seg *g = &t->c->seg[k];

        *g = (struct x86_seg){ .limit = ~0U, .sel = (uint16_t)(16 | cpl), .attr = 3 | X86_SEG_S | X86_SEG_P };
        g->attr |= (uint32_t)(X86_SEG_G | cpl << X86_SEG_DPL_SHIFT) | (k == X86_CS ? 8 | X86_SEG_L : X86_SEG_DB);
    }
}

/* Has the code come to its HLT? */
static inline bool um_at_end(struct im *t)
{
    uint8_t op = 0;

    if (t->v.exit.kind != EXIT_HLT || !um_is_user(t))
        return t->v.exit.kind == EXIT_HLT && im_vector(t) == -1;
    mem_read(t->v.mem, im_frame(t, 1), &op, 1);
    return im_vector(t) == X86_GP && op == 0xf4;
}

#endif
