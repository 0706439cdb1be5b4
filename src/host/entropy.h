/* SPDX-License-Identifier: MIT */
/* The host's random numbers. */
#ifndef GAZDA_HOST_ENTROPY_H
#define GAZDA_HOST_ENTROPY_H

#include <stddef.h>

/* Fills buf from the kernel's generator: 0 or -errno. Blocks only in the first moments of the host's life. */
int entropy_fill(void *buf, size_t n);

#endif
