/* SPDX-License-Identifier: MIT */
/* Windows: window.c tells what they are. */
#ifndef GAZDA_CPU_TRANSLATE_WINDOW_H
#define GAZDA_CPU_TRANSLATE_WINDOW_H

#include "cpu/tuning.h"
#include "cpu/translate/softtlb.h"

enum { XL_WIN_SLOTS = 16, XL_WIN_PAGES = 1 << 18, XL_SITES = 256 };

struct xl_win_page {
    gva_t lin;
    uint32_t frame;
    bool used, logged, write;
    bool large; /* of a large page of the guest's */
    bool piece; /* of a mapping of all of that, for writing */
    bool uffd;  /* protected by it, singly */
};
struct xl_win_slot {
    unsigned index;   /* bits 39..47 of the addresses */
    uintptr_t lo, hi; /* host addresses between which something is mapped */
};
/* An instruction whose accesses fault for what filling does not cure. */
struct xl_site {
    gpa_t gpa;
    uint32_t faults;
};
struct xl_win {
    enum engine_mmu mode;
    bool active;
    unsigned ticks, need; /* timer ticks without a flush; how many promote */
    unsigned rest;        /* of them until windows, which were asked for, are tried again; 0 if they are in use */
    unsigned drops, lost, maps, maps_max;
    bool told;      /* the guest was told of a page fault: */
    gva_t told_lin; /* there; mapped when it goes on */
    bool large;     /* pages of large pages are mapped */
    bool huge;      /* of such as have 1 GiB */
    int uffd;       /* descriptor; below 0: the host has none, or was not asked */
    bool any_site;  /* one has faulted since they were last cleared */
    struct xl_site site[XL_SITES];
    uintptr_t area;
    unsigned slots, max;
    struct xl_win_slot slot[XL_WIN_SLOTS];
    uint32_t n; /* in log */
    uint32_t log[XL_WIN_PAGES];
    struct xl_win_page page[XL_WIN_PAGES]; /* by page number: what is mapped */
};

/* 0 or -errno; a host without the address space falls back to the soft TLB unless windows were asked for. */
int xl_win_init(struct xlate *x);
void xl_win_fini(struct xlate *x);
/* Drops all; ends their use for a while, unless they were asked for. */
void xl_win_flush(struct xlate *x);
void xl_win_flush_page(struct xlate *x, gva_t lin);
/* The frame begins to hold code: nothing may be mapped for writing. */
void xl_win_protect(struct xlate *x, gpa_t gpa);
/* A timer tick: may promote. */
void xl_win_tick(struct xlate *x);
/* After a fault at a host address. RETRY: the page is there now. */
enum xl_miss xl_win_miss(struct xlate *x, uintptr_t host, bool write);
bool xl_win_scan(struct xlate *x);
/* User code goes on after a page fault that the guest was told of: maps the page, if it is there now. */
void xl_win_return(struct xlate *x);

/*
 * adapt.c: sites that go on faulting are translated anew, with the soft TLB. The address is the instruction's.
 */
void xl_site_faulted(struct xlate *x, gpa_t gpa);
bool xl_site_adapted(const struct xlate *x, gpa_t gpa);
/* The frame's code has changed, or (NO_GPA) that of any. */
void xl_sites_forget(struct xlate *x, gpa_t frame);

#endif
