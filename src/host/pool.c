/* SPDX-License-Identifier: MIT */
/* Worker threads; see pool.h. A thread is added when a job comes, none is idle and the bound allows it. */
#include "host/pool.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

#include "base/lock.h"
#include "base/thread.h"

enum { POOL_MAX = 64, STACK = 256 * 1024 };

struct pool {
    struct lock lock;
    pthread_cond_t cond;
    struct pool_job *head, **tail;
    unsigned n, max, idle, waiting; /* threads; those asleep; jobs queued */
    bool stop;
    pthread_t thread[POOL_MAX];
};

static void *worker(void *arg)
{
    struct pool *p = arg;
    lock_take(&p->lock);
    for (;;) {
        struct pool_job *j = p->head;
        if (j) {
            p->head = j->next;
            if (!p->head)
                p->tail = &p->head;
            p->waiting--;
            lock_drop(&p->lock);
            j->run(j);
            lock_take(&p->lock);
        } else if (p->stop) {
            break;
        } else {
            p->idle++;
            lock_wait(&p->lock, &p->cond, UINT64_MAX);
            p->idle--;
        }
    }
    lock_drop(&p->lock);
    return NULL;
}

/* Lock held. */
static void add_thread(struct pool *p)
{
    if (thread_start(&p->thread[p->n], STACK, worker, p) == 0)
        p->n++;
}

struct pool *pool_new(unsigned max_threads)
{
    struct pool *p = calloc(1, sizeof(*p));
    if (!p)
        return NULL;
    lock_init(&p->lock, LOCK_TIMER);
    pthread_cond_init(&p->cond, NULL);
    p->tail = &p->head;
    p->max = max_threads < 1 ? 1 : max_threads > POOL_MAX ? POOL_MAX : max_threads;
    lock_take(&p->lock);
    add_thread(p);
    lock_drop(&p->lock);
    if (p->n)
        return p;
    pool_free(p);
    return NULL;
}

void pool_free(struct pool *p)
{
    if (!p)
        return;
    lock_take(&p->lock);
    p->stop = true;
    pthread_cond_broadcast(&p->cond);
    lock_drop(&p->lock);
    for (unsigned i = 0; i < p->n; i++)
        pthread_join(p->thread[i], NULL);
    pthread_cond_destroy(&p->cond);
    lock_destroy(&p->lock);
    free(p);
}

static void enqueue(struct pool *p, struct pool_job *j)
{
    j->next = NULL;
    *p->tail = j;
    p->tail = &j->next;
    p->waiting++;
}

void pool_submit(struct pool *p, struct pool_job *j)
{
    lock_take(&p->lock);
    enqueue(p, j);
    if (p->idle)
        pthread_cond_signal(&p->cond);
    if (p->waiting > p->idle && p->n < p->max && !p->stop)
        add_thread(p);
    lock_drop(&p->lock);
}

void pool_submit_next(struct pool *p, struct pool_job *j)
{
    lock_take(&p->lock);
    enqueue(p, j);
    lock_drop(&p->lock);
}
