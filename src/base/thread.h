/* SPDX-License-Identifier: MIT */
/* Threads that serve: they take no signals but those of their own faults, which belong to whoever runs there. */
#ifndef GAZDA_BASE_THREAD_H
#define GAZDA_BASE_THREAD_H

#include <pthread.h>
#include <stddef.h>

/* Starts one with a stack of so many bytes (0: the default). 0 or -errno. */
int thread_start(pthread_t *t, size_t stack, void *(*fn)(void *arg), void *arg);

#endif
