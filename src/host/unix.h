/* SPDX-License-Identifier: MIT */
/* Listening unix stream sockets that leave no file behind. No locks: the owner's. */
#ifndef GAZDA_HOST_UNIX_H
#define GAZDA_HOST_UNIX_H

#include <sys/stat.h>
#include <sys/un.h>

#include "base/err.h"

struct unix_listener {
    int fd; /* non-blocking */
    struct sockaddr_un addr;
    dev_t dev;
    ino_t ino; /* of the socket file, so that nobody else's is removed */
};

/* 0, or -ENAMETOOLONG with e set. */
int unix_address(const char *path, struct sockaddr_un *out, struct err *e);
/* A file of that name is replaced if it is a socket that nobody listens on. 0, or -errno with e set. */
int unix_listen(struct unix_listener *u, const char *path, int backlog, struct err *e);
/* Closes, and removes the file if it is still the one that was made. */
void unix_unlisten(struct unix_listener *u);

#endif
