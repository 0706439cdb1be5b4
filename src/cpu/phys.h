/* SPDX-License-Identifier: MIT */
/* A vCPU's physical memory as the page walker of x86/paging.h sees it. */
#ifndef GAZDA_CPU_PHYS_H
#define GAZDA_CPU_PHYS_H

#include "x86/paging.h"

struct vcpu;

/* Entries are read in one piece; a page table that holds code is announced as written. v is borrowed. */
struct x86_phys vcpu_phys(struct vcpu *v);

#endif
