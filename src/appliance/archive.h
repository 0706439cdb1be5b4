/* SPDX-License-Identifier: MIT */
/*
 * The file that an appliance is: a tar archive, plain or zstd, of manifest.json and then the files that it lists.
 *
 * A hostile archive can name no file outside the folder that it is unpacked into: only the names that the manifest
 * lists are taken, each once, as a new regular file of the size listed there. All functions block; none is for a thread
 * of a running machine.
 */
#ifndef GAZDA_APPLIANCE_ARCHIVE_H
#define GAZDA_APPLIANCE_ARCHIVE_H

#include <signal.h>

#include "appliance/manifest.h"
#include "base/err.h"

/* Told while bytes are copied; either may be NULL. */
struct appliance_progress {
    void (*step)(void *arg, const char *name, uint64_t done, uint64_t total);
    void *arg;
    const volatile sig_atomic_t *stop; /* when it is set, the work ends with -EINTR */
};

/* Reads only the manifest. 0, or -errno with e set. */
int appliance_peek(const char *path, struct appliance_manifest *m, struct err *e);

/*
 * Unpacks into the folder dirfd, which is empty, and checks every size and checksum. On failure the files that it made
 * are removed. manifest.json is written as well.
 */
int appliance_unpack(const char *path, int dirfd, struct appliance_manifest *m, const struct appliance_progress *p,
                     struct err *e);

/*
 * Packs the files that m lists, out of the folder dirfd; their sizes and checksums in m are set. path appears whole or
 * not at all, and is replaced if it is there.
 */
int appliance_pack(const char *path, int dirfd, struct appliance_manifest *m, const struct appliance_progress *p,
                   struct err *e);

/* Compares the file in dirfd with its size and checksum. 0, -EBADMSG when they differ, or another -errno; e is set. */
int appliance_verify(int dirfd, const struct appliance_file *f, const struct appliance_progress *p, struct err *e);

/* Sets size and sha256 of the file f->name in dirfd. 0 or -errno with e set. */
int appliance_hash(int dirfd, struct appliance_file *f, const struct appliance_progress *p, struct err *e);

/* Writes m as manifest.json into dirfd, replacing it whole; or reads it from there. */
int appliance_save(int dirfd, const struct appliance_manifest *m, struct err *e);
int appliance_load(int dirfd, struct appliance_manifest *m, struct err *e);

/* The qcow2 image in dirfd must refer to no other file of the host: no backing file, no data file of its own. */
int appliance_check_disk(int dirfd, const char *name, struct err *e);

#endif
