/* SPDX-License-Identifier: MIT */
#include "base/thread.h"

#include <signal.h>

int thread_start(pthread_t *t, size_t stack, void *(*fn)(void *arg), void *arg)
{
    sigset_t set, old;
    pthread_attr_t a;

    sigfillset(&set);
    sigdelset(&set, SIGSEGV); /* guest memory may fault */
    sigdelset(&set, SIGBUS);
    sigdelset(&set, SIGILL);
    sigdelset(&set, SIGFPE);
    sigdelset(&set, SIGABRT);
    pthread_attr_init(&a);
    if (stack)
        pthread_attr_setstacksize(&a, stack);
    pthread_sigmask(SIG_SETMASK, &set, &old);
    int r = -pthread_create(t, &a, fn, arg);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&a);
    return r;
}
