/* SPDX-License-Identifier: MIT */
/* Appliances of other monitors: OVA archives, and OVF descriptors beside their disks. */
#ifndef GAZDA_CLI_APPLIANCE_OVA_H
#define GAZDA_CLI_APPLIANCE_OVA_H

#include "cli/appliance.h"

/* What such an appliance does not say, since firmware would find it on the disk. Each may be NULL. */
struct ova_options {
    const char *kernel, *initrd, *append;
};

/* Makes an appliance of ours in w. 0 or -errno with e set. */
int ova_import(const char *file, struct work_dir *w, struct appliance_manifest *m, const struct ova_options *o,
               struct err *e);

#endif
