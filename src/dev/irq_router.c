/* SPDX-License-Identifier: MIT */
/*
 * Interrupt lines to PIC and IOAPIC pins. Both see every ISA line; a guest uses one and masks the other. The PIC's INT
 * output is wired to LINT0 only, not to IOAPIC pin 0.
 */
#include "dev/irq_router.h"

#include "dev/ioapic.h"
#include "dev/pic.h"

void irq_router_set(void *router, unsigned line, bool level)
{
    const struct irq_router *r = router;
    if (r->pic && line < 16)
        pic_set(r->pic, line, level);
    /* ISA IRQ 2 is the PICs' cascade: no such line; its pin is taken by IRQ 0. */
    if (r->ioapic && line != 2)
        ioapic_set(r->ioapic, line ? line : 2, level);
}
