/* SPDX-License-Identifier: MIT */
/* Frames into a pcap file, for tcpdump and wireshark. */
#ifndef GAZDA_HOST_NET_DUMP_H
#define GAZDA_HOST_NET_DUMP_H

#include <stddef.h>

#include "base/err.h"

struct net_dump;

/* Overwrites path. NULL with e set. */
struct net_dump *net_dump_open(const char *path, struct err *e);
/* One write, so that the file is complete whenever the process ends. One thread. A full disk ends the capture. */
void net_dump_frame(struct net_dump *d, const void *frame, size_t len);
void net_dump_close(struct net_dump *d); /* NULL is fine */

#endif
