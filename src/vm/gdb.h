/* SPDX-License-Identifier: MIT */
/* The gdb stub: the machine as a remote target, one thread per vCPU. */
#ifndef GAZDA_VM_GDB_H
#define GAZDA_VM_GDB_H

#include "base/err.h"

struct machine;
struct gdb_server;

/*
 * Listens at ":PORT" (on the loopback address) or "unix:FILE", and holds the machine paused until a debugger lets it
 * go. Call between machine_new and machine_run. NULL with e set.
 */
struct gdb_server *gdb_start(struct machine *m, const char *where, struct err *e);
/* Ends the session; the machine is no longer paused by it. NULL is allowed. */
void gdb_stop(struct gdb_server *g);

#endif
