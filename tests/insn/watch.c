/* SPDX-License-Identifier: MIT */
/* The tick: a signal handler has no argument of its own, so its state is file-static. */
#include <signal.h>
#include <string.h>
#include <sys/time.h>

#include "cpu/engine.h"
#include "watch.h"

static volatile sig_atomic_t g_ticks;
static struct vcpu *volatile g_vcpu;

static void on_alarm(int sig)
{
    struct vcpu *v = g_vcpu;

    (void)sig;
    g_ticks = g_ticks + 1;
    if (v)
        v->ops->kick(v);
}

void watch_start(void)
{
    struct sigaction sa = { .sa_handler = on_alarm, .sa_flags = SA_ONSTACK }; /* no SA_RESTART: waits return */
    const struct timeval every = { .tv_usec = 1000000 / WATCH_HZ };
    const struct itimerval it = { .it_interval = every, .it_value = every };

    sigfillset(&sa.sa_mask);
    sigaction(SIGALRM, &sa, NULL);
    setitimer(ITIMER_REAL, &it, NULL);
}

unsigned watch_ticks(void)
{
    return (unsigned)g_ticks;
}

void watch_vcpu(struct vcpu *v)
{
    g_vcpu = v;
}
