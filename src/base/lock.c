/* SPDX-License-Identifier: MIT */
/* Ranked mutexes; debug builds keep the ranks that this thread holds and check the order. */
#include "base/lock.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <time.h>

#ifdef GAZDA_DEBUG
enum { HELD_MAX = 16 };
static _Thread_local struct {
    const struct lock *l[HELD_MAX];
    int n;
} held;

static void held_push(const struct lock *l)
{
    assert(held.n < HELD_MAX);
    /* Equal ranks may nest only where the code orders them itself: LAPIC to LAPIC never does, so none may. */
    assert(held.n == 0 || held.l[held.n - 1]->rank < l->rank);
    held.l[held.n++] = l;
}
static void held_pop(const struct lock *l)
{
    for (int i = held.n - 1; i >= 0; i--) {
        if (held.l[i] != l)
            continue;
        for (int j = i; j < held.n - 1; j++)
            held.l[j] = held.l[j + 1];
        held.n--;
        return;
    }
    assert(!"dropping a lock that this thread does not hold");
}
#else
#define held_push(l) ((void)(l))
#define held_pop(l) ((void)(l))
#endif

void lock_init(struct lock *l, enum lock_rank rank)
{
    pthread_mutex_init(&l->m, NULL);
    l->rank = rank;
}

void lock_destroy(struct lock *l)
{
    pthread_mutex_destroy(&l->m);
}

void lock_take(struct lock *l)
{
    held_push(l);
    pthread_mutex_lock(&l->m);
}

void lock_drop(struct lock *l)
{
    pthread_mutex_unlock(&l->m);
    held_pop(l);
}

int lock_wait(struct lock *l, pthread_cond_t *c, unsigned long deadline_ns)
{
    if (deadline_ns == ULONG_MAX) {
        pthread_cond_wait(c, &l->m);
        return 0;
    }
    struct timespec ts = { .tv_sec = (time_t)(deadline_ns / 1000000000UL),
                           .tv_nsec = (long)(deadline_ns % 1000000000UL) };
    return pthread_cond_clockwait(c, &l->m, CLOCK_MONOTONIC, &ts) == ETIMEDOUT ? -ETIMEDOUT : 0;
}
