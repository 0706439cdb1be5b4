/* SPDX-License-Identifier: MIT */
/*
 * Adaptive sites: an instruction is innocent until proven guilty (Adams, Agesen, "A Comparison of Software and Hardware
 * Techniques for x86 Virtualization", section 4.3).
 *
 * In windows an access to a device, or a store to a frame that holds code, costs a signal each time, and the
 * interpreter does it after all. After some of these the instruction is translated anew: in the midst of code that uses
 * windows it looks up the soft TLB, whose miss needs no signal. The guest's own page faults do not count, for each is
 * followed by many accesses that do not fault; nor does what finds no window, of which the tier as a whole takes care
 * (xl_win_scan).
 *
 * A site is known by the guest-physical address of its instruction, in a table where a later one may take its place;
 * then, and when its code is written, it is innocent again.
 */
#include "cpu/translate/translate.h"

enum { FAULTS = 16 };

static unsigned place(gpa_t gpa)
{
    return (gpa ^ gpa >> 8) % XL_SITES;
}

void xl_site_faulted(struct xlate *x, gpa_t gpa)
{
    struct xl_site *s = &x->win.site[place(gpa)];

    if (s->gpa != gpa || !s->faults)
        *s = (struct xl_site){ .gpa = gpa };
    x->win.any_site = true;
    if (++s->faults != FAULTS)
        return;
    x->st.adapted++;
    xl_drop_frame(x, gpa & PAGE_MASK);
}

bool xl_site_adapted(const struct xlate *x, gpa_t gpa)
{
    const struct xl_site *s = &x->win.site[place(gpa)];

    if (unlikely(x->v->tuning.adapt_half))
        return gpa * 0x9e3779b97f4a7c15UL >> 63;
    return s->faults >= FAULTS && s->gpa == gpa;
}

void xl_sites_forget(struct xlate *x, gpa_t frame)
{
    if (!x->win.any_site)
        return;
    for (struct xl_site *s = x->win.site; s < x->win.site + XL_SITES; s++)
        if (frame == NO_GPA || (s->gpa & PAGE_MASK) == frame)
            *s = (struct xl_site){ 0 };
    if (frame == NO_GPA)
        x->win.any_site = false;
}
