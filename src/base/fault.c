/* SPDX-License-Identifier: MIT */
/* The process's handler of host faults. Its tables are the only state; sigaction leaves no choice. */
#include "base/fault.h"

#include <errno.h>
#include <pthread.h>
#include <stddef.h>

#include "base/types.h"

enum { CLAIMS = 4 };

static const int signals[] = { SIGSEGV, SIGFPE, SIGILL, SIGBUS, SIGTRAP };
static struct sigaction previous[ARRAY_LEN(signals)];
static fault_claim claims[CLAIMS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void chain(int sig, siginfo_t *info, void *uc)
{
    for (unsigned k = 0; k < ARRAY_LEN(signals); k++) {
        const struct sigaction *old = &previous[k];

        if (signals[k] != sig)
            continue;
        if (old->sa_flags & SA_SIGINFO) {
            old->sa_sigaction(sig, info, uc);
        } else if (old->sa_handler != SIG_DFL && old->sa_handler != SIG_IGN) {
            old->sa_handler(sig);
        } else {
            /* Returning runs the same instruction again, without us: a core of the right place. */
            signal(sig, SIG_DFL);
            if (info->si_code <= 0)
                raise(sig);
        }
    }
}

static void on_fault(int sig, siginfo_t *info, void *uc)
{
    for (unsigned k = 0; k < CLAIMS; k++) {
        fault_claim claim = __atomic_load_n(&claims[k], __ATOMIC_ACQUIRE);

        if (claim && claim(sig, info, uc))
            return;
    }
    chain(sig, info, uc);
}

static int install(void)
{
    struct sigaction sa = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK }, old;

    sigfillset(&sa.sa_mask);
    for (unsigned k = 0; k < ARRAY_LEN(signals); k++) {
        if (sigaction(signals[k], NULL, &old))
            return -errno;
        if ((old.sa_flags & SA_SIGINFO) && old.sa_sigaction == on_fault)
            continue;
        previous[k] = old;
        if (sigaction(signals[k], &sa, NULL))
            return -errno;
    }
    return 0;
}

int fault_listen(fault_claim claim)
{
    int err = -ENOSPC;

    pthread_mutex_lock(&lock);
    for (unsigned k = 0; k < CLAIMS && err; k++) {
        if (claims[k] && claims[k] != claim)
            continue;
        __atomic_store_n(&claims[k], claim, __ATOMIC_RELEASE);
        err = install();
        break;
    }
    pthread_mutex_unlock(&lock);
    return err;
}
