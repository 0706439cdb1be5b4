/* SPDX-License-Identifier: MIT */
/* struct share, for share*.c only. */
#ifndef GAZDA_HOST_SHARE_INT_H
#define GAZDA_HOST_SHARE_INT_H

#include <stdatomic.h>

#include "host/share.h"

struct share {
    int top;  /* O_PATH; the share's own, outside of the budget */
    int proc; /* /proc/self/fd: the way from an O_PATH descriptor to the calls that want more than one */
    bool read_only, map_root, no_openat2;
    uid_t uid; /* effective, of this process */
    gid_t gid;
    mode_t umask;
    dev_t dev; /* of the top */
    ino_t ino;
    unsigned fds_max;
    atomic_uint fds;
};

/* The name under s->proc of a descriptor. */
struct share_link {
    char text[16];
};
struct share_link share_proc_name(int fd);
/* Whether name may be that of a new or a removed entry: 0 or -errno. */
int share_check_name(const char *name);
uid_t share_host_uid(const struct share *s, uint32_t uid);
gid_t share_host_gid(const struct share *s, uint32_t gid);
/* Gives something new its owner and permissions. made: those that it was made with, before the umask. */
int share_own(struct share *s, int fd, const struct share_new *n);
/* EPERM of a chown that only a real root could do. */
bool share_pretend(const struct share *s, int node);

#endif
