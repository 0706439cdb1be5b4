/* SPDX-License-Identifier: MIT */
/*
 * Worker threads for what may block (disk I/O), so that vCPU and loop threads never do. Threads are started as work
 * comes, up to a bound; jobs are embedded in their owners, so queueing never allocates and never fails.
 */
#ifndef GAZDA_HOST_POOL_H
#define GAZDA_HOST_POOL_H

struct pool;

struct pool_job {
    void (*run)(struct pool_job *j); /* on a worker, no lock held; may submit j again, or free it */
    struct pool_job *next;           /* the pool's while it is queued */
};

/* Starts one thread at once, so that there always is one. NULL: the host gives no memory or no thread. */
struct pool *pool_new(unsigned max_threads);
/* Runs what is queued to the end. No submit at the same time. NULL is fine. */
void pool_free(struct pool *p);
/* First come, first started. Any thread, any lock of rank below LOCK_TIMER. */
void pool_submit(struct pool *p, struct pool_job *j);
/* From a job that is about to return: wakes nobody, its own worker goes on with j. */
void pool_submit_next(struct pool *p, struct pool_job *j);

#endif
