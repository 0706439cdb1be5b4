/* SPDX-License-Identifier: MIT */
/*
 * What the host has for a guest's vsock: unix sockets, by Firecracker's convention. Host programs connect to PATH and
 * say "CONNECT <port>\n"; a guest's connection to port P of the host goes to whoever listens at PATH_P.
 * No function blocks. No locks: the owner's.
 */
#ifndef GAZDA_HOST_VSOCK_H
#define GAZDA_HOST_VSOCK_H

#include "base/err.h"
#include "base/types.h"

struct vsock_host;

/* Listens at path. NULL with e set. */
struct vsock_host *vsock_host_open(const char *path, struct err *e);
/* Removes the file. NULL is fine. */
void vsock_host_close(struct vsock_host *h);
/* The listening descriptor, for the event loop. */
int vsock_host_fd(const struct vsock_host *h);
/* All descriptors that are returned are non-blocking and the caller's. */
int vsock_host_accept(struct vsock_host *h);
/* To the listener of a guest's port: its descriptor or -errno; -EAGAIN: its backlog is full. */
int vsock_host_connect(const struct vsock_host *h, uint32_t port);

enum { VSOCK_GREETING_MAX = 32 };
struct vsock_greeting {
    char text[VSOCK_GREETING_MAX + 1];
    unsigned n;
    uint32_t port;
};
/* Takes what there is of the greeting and nothing behind it: 1, 0 = more must come, -EPROTO = wrong, or the end. */
int vsock_host_greeting(int fd, struct vsock_greeting *g);

#endif
