/* SPDX-License-Identifier: MIT */
/* The control socket of a running machine (docs/control.md), from the subcommands' side. */
#ifndef GAZDA_CLI_CLIENT_H
#define GAZDA_CLI_CLIENT_H

#include <jansson.h>
#include <stdbool.h>

#include "base/err.h"

enum { CLIENT_MS = 10000 }; /* what a command that only looks may take */

struct client {
    int fd;
    pid_t pid; /* of the machine's process */
    const char *name;
    int timeout_ms; /* of client_call; CLIENT_MS at first */
    char code[24];  /* of the last error that the machine answered, "" = it did not answer */
    char *in;
    size_t in_len, in_cap;
};

/* Connects to the machine of that name, borrowed. 0 or -errno. */
int client_open(struct client *c, const char *name, struct err *e);
void client_close(struct client *c);
/* Sends a command with arguments (taken; may be NULL) and waits for its answer, the caller's. 0 or -errno. */
int client_call(struct client *c, const char *command, json_t *args, json_t **ret, struct err *e);
/* 0 if the machine is not paused: else nothing in the guest would answer. */
int client_runs(struct client *c, struct err *e);
/* Waits until the machine closes the connection, that is, ends. 0 or -ETIMEDOUT. */
int client_wait_end(struct client *c, int timeout_ms);
/* Waits until the name is free again. 0 or -ETIMEDOUT. */
int client_wait_gone(const char *name, int timeout_ms);
/* Ends the machine's process: asks it, and kills it if it does not answer or obey. 0 or -errno. */
int client_kill(const char *name, struct err *e);

#endif
