/* SPDX-License-Identifier: MIT */
/*
 * Control of a running machine from outside. control_execute does what a command says; the listener (docs/control.md)
 * is one way to get there: a Unix socket, one JSON object a line, served by a thread of its own, so that a client that
 * stalls or lies holds up nobody.
 */
#ifndef GAZDA_VM_CONTROL_H
#define GAZDA_VM_CONTROL_H

#include <jansson.h>

#include "base/err.h"

struct machine;

enum { CONTROL_LINE_MAX = 8 << 20, CONTROL_CLIENTS_MAX = 16 };

/*
 * Serves the machine, called name, on a listening non-blocking socket, which it takes in any case. Once, before
 * machine_run; machine_free ends it. 0 or -errno.
 */
int control_listen(struct machine *m, int listener, const char *name, struct err *e);

/*
 * Does a command and makes its answer, an object (the caller's). args may be NULL. May wait for vCPUs to stop, so not
 * on a vCPU's or the loop's thread. 0 or -errno with e set; -ENOSYS: there is no such command.
 */
int control_execute(struct machine *m, const char *command, const json_t *args, json_t **ret, struct err *e);

#endif
