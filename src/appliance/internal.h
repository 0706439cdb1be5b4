/* SPDX-License-Identifier: MIT */
/* Shared by the files of this folder. */
#ifndef GAZDA_APPLIANCE_INTERNAL_H
#define GAZDA_APPLIANCE_INTERNAL_H

#include "appliance/archive.h"

enum { APPLIANCE_CHUNK = 1 << 20 };

/* Reports, and gives -EINTR with e set when the work is to end. p may be NULL. */
int appliance_step(const struct appliance_progress *p, const char *name, uint64_t done, uint64_t total, struct err *e);

#endif
