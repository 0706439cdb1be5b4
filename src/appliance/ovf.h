/* SPDX-License-Identifier: MIT */
/*
 * OVF, the DMTF's format of virtual machines (DSP0243, "Open Virtualization Format Specification"): the descriptor, and
 * the OVA archive or the folder that it comes in. Only what a machine of ours can have is taken: CPUs, memory, disks,
 * the number of network cards.
 */
#ifndef GAZDA_APPLIANCE_OVF_H
#define GAZDA_APPLIANCE_OVF_H

#include "appliance/archive.h"
#include "appliance/manifest.h"

enum { OVF_TEXT_MAX = 1 << 20, OVF_HREF_MAX = 255 };

struct ovf_machine {
    char name[APPLIANCE_NAME_MAX + 1]; /* made a plain name */
    unsigned cpus;
    uint64_t mem; /* bytes */
    unsigned nets;
    struct ovf_disk {
        char href[OVF_HREF_MAX + 1]; /* a file name without slashes */
        uint64_t size;               /* of the file; 0: not said */
    } disk[APPLIANCE_DISKS_MAX];
    unsigned n_disks;
};

/* No entity, no DTD, nothing outside of the text is read. 0 or -EINVAL with e set; *m is only written on success. */
int ovf_parse(struct ovf_machine *m, const char *text, size_t len, struct err *e);

/*
 * Reads an .ova, or an .ovf with its disks beside it: the files of m's disks become "disk0.src", "disk1.src" ... in
 * dirfd, checked against the checksums of the manifest (.mf) if there is one. The caller removes them. 0 or -errno
 * with e set.
 */
int ovf_unpack(const char *path, int dirfd, struct ovf_machine *m, const struct appliance_progress *p, struct err *e);

/* What a disk's file holds, told by its content. */
enum ovf_format { OVF_VMDK, OVF_QCOW2 };
/*
 * The format, or -EINVAL with e set if it is none of these, or if it refers to other files of the host: those are as
 * the image's author likes.
 */
int ovf_check_disk(int dirfd, const char *name, struct err *e);

#endif
