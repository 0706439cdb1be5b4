/* SPDX-License-Identifier: MIT */
/*
 * The event loop: file descriptors, nanosecond timers (a timer_svc) and work posted from other threads.
 * One loop a VM, run by one thread. It is libuv underneath; timers use a timerfd because libuv's are in ms.
 */
#ifndef GAZDA_BASE_LOOP_H
#define GAZDA_BASE_LOOP_H

#include "base/timer.h"

struct loop;
struct loop_fd;

enum loop_events { LOOP_IN = 1, LOOP_OUT = 2 };

/* NULL when the host refuses a descriptor. */
struct loop *loop_new(void);
void loop_free(struct loop *l);
/* Runs until loop_stop; loop_stop may be called from any thread and before loop_run. */
void loop_run(struct loop *l);
void loop_stop(struct loop *l);
struct timer_svc *loop_timers(struct loop *l);

/*
 * Watches fd (not owned) for events; fn runs on the loop thread with the events that are ready. NULL when the fd
 * cannot be watched (a regular file). Any thread; add and del wait for the loop thread unless called on it, so the
 * caller holds no lock that a callback takes. After del returns fn is not running and will not run. An update that
 * races with del must be excluded by the caller.
 */
struct loop_fd *loop_fd_add(struct loop *l, int fd, unsigned events, void (*fn)(void *arg, unsigned events), void *arg);
void loop_fd_update(struct loop_fd *f, unsigned events);
void loop_fd_del(struct loop_fd *f);

/* Runs fn(arg) on the loop thread soon. Any thread. Returns 0 or -ENOMEM. */
int loop_post(struct loop *l, void (*fn)(void *arg), void *arg);

#endif
