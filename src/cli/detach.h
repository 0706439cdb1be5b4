/* SPDX-License-Identifier: MIT */
/* gazda run --detach: the machine goes on in the background once it has started. */
#ifndef GAZDA_CLI_DETACH_H
#define GAZDA_CLI_DETACH_H

#include "base/err.h"

struct rundir;

struct detach {
    int pipe; /* to the process in the foreground */
};

/*
 * Splits the process, before there is any thread. 0: this is the one in the background. 1: this is the one in the
 * foreground, the start has succeeded or failed, and *status is its exit status. -errno: it could not be split.
 */
int detach_begin(struct detach *d, int *status, struct err *e);
/* The machine has started: the other process prints its name and leaves; messages go to "log" in its folder. */
int detach_done(struct detach *d, struct rundir *dir, struct err *e);

#endif
