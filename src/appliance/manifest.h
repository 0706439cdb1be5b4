/* SPDX-License-Identifier: MIT */
/*
 * What an appliance's manifest.json says: the machine, and the files that come with it, with their checksums.
 *
 * A manifest may come from anyone. What appliance_manifest_parse accepts is safe to act upon: numbers are in range,
 * names are plain file names, texts have no control characters, every file that the machine needs is listed once.
 */
#ifndef GAZDA_APPLIANCE_MANIFEST_H
#define GAZDA_APPLIANCE_MANIFEST_H

#include <stddef.h>

#include "base/err.h"
#include "base/types.h"

enum {
    APPLIANCE_VERSION = 1,
    APPLIANCE_MANIFEST_MAX = 64 << 10, /* bytes of JSON */
    APPLIANCE_NAME_MAX = 63,
    APPLIANCE_DISKS_MAX = 8,
    APPLIANCE_NETS_MAX = 4,
    APPLIANCE_PORTS_MAX = 16,
    APPLIANCE_FILES_MAX = APPLIANCE_DISKS_MAX + 2,
    APPLIANCE_SHA256_LEN = 32,
};

struct appliance_file {
    char name[APPLIANCE_NAME_MAX + 1];
    uint64_t size;
    uint8_t sha256[APPLIANCE_SHA256_LEN];
};

/* A user-mode network; its ports are those of the host's loopback that lead to the guest. */
struct appliance_net {
    struct appliance_port {
        bool udp;
        uint16_t host, guest;
    } port[APPLIANCE_PORTS_MAX];
    unsigned n_ports;
};

struct appliance_manifest {
    char name[APPLIANCE_NAME_MAX + 1];
    char description[256];
    unsigned cpus;
    uint64_t mem; /* bytes */
    /* Names of files; empty: the kernel and initrd of the default appliance. */
    char kernel[APPLIANCE_NAME_MAX + 1], initrd[APPLIANCE_NAME_MAX + 1];
    char cmdline[1024]; /* empty: gazda run's own */
    struct appliance_disk {
        char file[APPLIANCE_NAME_MAX + 1]; /* qcow2, without a backing file */
        bool read_only;
    } disk[APPLIANCE_DISKS_MAX];
    unsigned n_disks;
    struct appliance_net net[APPLIANCE_NETS_MAX];
    unsigned n_nets;
    struct appliance_file file[APPLIANCE_FILES_MAX];
    unsigned n_files;
};

/* A plain file name: letters, digits, ".", "_", "-" and "+", the first a letter or digit, 1 to 63 of them. */
bool appliance_name_ok(const char *name);

/* The text need not end with a NUL. 0, or -EINVAL with e set; *m is only written on success. */
int appliance_manifest_parse(struct appliance_manifest *m, const char *text, size_t len, struct err *e);
/* The JSON text, malloc'ed, with a final newline; NULL when there is no memory. */
char *appliance_manifest_print(const struct appliance_manifest *m);

/* The file of this name, or NULL. */
struct appliance_file *appliance_manifest_file(struct appliance_manifest *m, const char *name);
/* Adds a file whose size and checksum are not known yet; NULL when there are too many or it is there. */
struct appliance_file *appliance_manifest_add(struct appliance_manifest *m, const char *name);

#endif
