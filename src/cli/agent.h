/* SPDX-License-Identifier: MIT */
/* Commands to a machine's guest agent over its control socket; the protocol is that of qemu-guest-agent. */
#ifndef GAZDA_CLI_AGENT_H
#define GAZDA_CLI_AGENT_H

#include <stdint.h>

#include "cli/client.h"

struct exec_input {
    const void *data;
    size_t n;
};

struct exec_stream {
    uint8_t *data; /* malloc'ed */
    size_t n;
    bool cut; /* the agent kept the beginning only */
};

struct exec_result {
    int status; /* as a shell would say it: 128 + n for signal n */
    struct exec_stream out, err;
};

/* Waits up to seconds for an agent that answers. 0 or -errno. */
int agent_wait(struct client *c, unsigned seconds, struct err *e);
/* One command; args are taken. *ret, the caller's, may be NULL. 0 or -errno. */
int agent_do(struct client *c, const char *command, json_t *args, json_t **ret, struct err *e);
/* Runs argv in the guest with input (NULL: none) and waits for its end. 0 or -errno. */
int agent_exec(struct client *c, char *const argv[], const struct exec_input *in, struct exec_result *x, struct err *e);
void exec_result_free(struct exec_result *x);

#endif
