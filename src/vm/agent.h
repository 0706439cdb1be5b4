/* SPDX-License-Identifier: MIT */
/*
 * The guest agent: a program in the guest (qemu-guest-agent) that does what it is told over a virtio port. Its protocol
 * is JSON, one object a line, one request at a time. What comes from the guest may be anything: lines are bounded, and
 * whenever the two sides may have lost each other (a time-out, nonsense, a restart) they meet again by
 * guest-sync-delimited before the next request.
 *
 * The agent is the back end of its port, and works on the control thread, whose loop it is made with.
 */
#ifndef GAZDA_VM_AGENT_H
#define GAZDA_VM_AGENT_H

#include <jansson.h>
#include <stdbool.h>

#include "base/err.h"

#define AGENT_PORT "org.qemu.guest_agent.0"

enum {
    AGENT_REQUEST_MAX = 8 << 20, /* bytes of a line to the agent */
    AGENT_REPLY_MAX = 1 << 20,   /* and from it; */
    AGENT_OUTPUT_MAX = 48 << 20, /* of guest-exec-status, which holds up to 16 MiB each of two streams in Base64 */
    AGENT_QUEUE_MAX = 32,
    AGENT_MS = 30000, /* a reasonable time for a short command */
};

struct agent;
struct chardev;
struct loop;

/* NULL without memory. Freed by chardev_free of its back end, when the loop does not run. */
struct agent *agent_new(struct loop *loop);
struct chardev *agent_chardev(struct agent *a);

/* Whether something in the guest has the port open. Any thread. */
bool agent_is_open(struct agent *a);

/*
 * What became of a request, on the control thread or in chardev_free, once. r: 0, with ret what the agent returned
 * (borrowed); -ENOTCONN no agent runs, or it went away; -ETIMEDOUT; -EREMOTEIO the agent refused, -EPROTO or -EMSGSIZE
 * it talks nonsense, or too much; -ECANCELED the machine ends. text says it for people.
 */
typedef void agent_done(void *arg, int r, json_t *ret, const char *text);

struct agent_request {
    const char *command;
    json_t *args; /* taken, in any case; may be NULL */
    unsigned timeout_ms;
    agent_done *done; /* NULL: nobody wants to know */
    void *arg;
};

/* Sends a request when its turn comes. Any thread, no lock held. 0; -errno with e set: done will not be called. */
int agent_submit(struct agent *a, const struct agent_request *q, struct err *e);

/* Lets the guest write to its file systems again (guest-fsfreeze-thaw); nobody waits. Any thread. */
void agent_thaw(struct agent *a);
/* Tells the guest the time, if its agent is there; nobody waits. Any thread. */
void agent_set_time(struct agent *a);

#endif
