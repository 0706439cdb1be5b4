/* SPDX-License-Identifier: MIT */
/*
 * Write protection of single pages of a large mapping, by userfaultfd(2): it takes no system call per change of rights
 * of the whole mapping, and does not split it as mprotect does. A write to such a page raises SIGBUS in the thread.
 */
#ifndef GAZDA_HOST_UFFD_H
#define GAZDA_HOST_UFFD_H

#include "base/types.h"

/* A descriptor to protect shared memory with; -errno: the host (Linux before 5.19, a sandbox) does not offer it. */
int uffd_open(void);
/* Whole pages of one or more mappings, before the first protection; again does no harm. 0 or -errno. */
int uffd_register(int fd, uintptr_t at, size_t len);
/* Of what is registered. on: writes fault, else they do not. 0 or -errno. */
int uffd_protect(int fd, uintptr_t at, size_t len, bool on);

#endif
