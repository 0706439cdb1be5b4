/* SPDX-License-Identifier: MIT */
/*
 * Running machines by name. Each has a folder NAME, with its sockets, in $XDG_RUNTIME_DIR/gazda, /run/gazda (root) or
 * /tmp/gazda-UID, which belong to the user alone. The file "lock" in it is locked as long as the machine lives and
 * holds its process ID; what a dead one left behind is removed by whoever finds it. No locks needed; any thread.
 */
#ifndef GAZDA_HOST_RUNDIR_H
#define GAZDA_HOST_RUNDIR_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/err.h"

enum { RUNDIR_NAME_MAX = 64 };

struct rundir;

/* 1 to RUNDIR_NAME_MAX of A-Z, a-z, 0-9, '.', '_' and '-', not a '.' or '-' first. */
bool rundir_name_ok(const char *name);

/* Claims name, or a free one (vm1, vm2 ...) when it is NULL. NULL with e set: in use (EBUSY), or no such place. */
struct rundir *rundir_claim(const char *name, struct err *e);
const char *rundir_name(const struct rundir *r);
int rundir_fd(const struct rundir *r); /* of the folder */
/* A socket in the folder that listens, non-blocking: its descriptor, or -errno. */
int rundir_listen(struct rundir *r, const char *socket, struct err *e);
/* Opens a file in the folder for appending: its descriptor, or -errno. */
int rundir_open_log(struct rundir *r, const char *file, struct err *e);
/* Removes the folder and gives the name back. NULL is fine. */
void rundir_release(struct rundir *r);

/* ---- for those who look for machines ---- */

struct rundir_entry {
    char name[RUNDIR_NAME_MAX + 1];
    pid_t pid; /* 0: not known yet */
};

/* The living machines by name, malloc'ed. 0 or -errno. */
int rundir_list(struct rundir_entry **out, size_t *n, struct err *e);
/* Whether a machine of that name lives; its process in *pid, which may be NULL. */
bool rundir_alive(const char *name, pid_t *pid);
/* A blocking connection to a socket of the machine, or -errno: ENOENT when no such machine, or no such socket, is
 * there. */
int rundir_connect(const char *name, const char *socket, struct err *e);

#endif
