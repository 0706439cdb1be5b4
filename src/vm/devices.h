/* SPDX-License-Identifier: MIT */
/* What a machine's configuration says of its virtio devices. Strings are borrowed until machine_free. */
#ifndef GAZDA_VM_DEVICES_H
#define GAZDA_VM_DEVICES_H

#include "base/types.h"
#include "host/diskio.h"
#include "host/limiter.h"

enum { MACHINE_DISKS_MAX = 16, MACHINE_NETS_MAX = 8, MACHINE_SHARES_MAX = 8, MACHINE_PORTS_MAX = 8 };

struct machine_disk {
    const char *path;
    const char *format; /* "raw", "qcow2", or NULL: by content */
    bool read_only;
    bool overlay;             /* writes go to a qcow2 file over it: */
    const char *overlay_path; /* this one, made if it is not there; NULL: a temporary one */
    struct limiter_cfg limit;
    enum diskio_way io;
};

struct machine_net {
    const char *backend; /* "user", "tap", "link" ... */
    char *options;       /* what the back end makes of the rest, cut in place; NULL = none */
    uint8_t mac[6];      /* all 0: one that is made from the machine's name and the device's number */
    const char *dump;    /* pcap file, or NULL */
    uint16_t mtu;        /* 0: the back end's */
    struct limiter_cfg rx, tx;
};

struct machine_share {
    const char *dir, *tag;
    bool read_only;
    bool map_root; /* who runs this process is root in the guest */
};

struct machine_vsock {
    uint32_t cid; /* 0: there is none */
    const char *path;
};

struct machine_balloon {
    bool on;
    uint64_t target; /* bytes at the start */
    bool deflate_on_oom, free_page_reporting;
    unsigned stats_seconds; /* 0: no statistics */
};

/* A port of the multiport console. */
struct machine_port {
    const char *name;
    const char *spec; /* chardev specification */
};

#endif
