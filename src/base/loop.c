/* SPDX-License-Identifier: MIT */
/*
 * The event loop over libuv. libuv handles belong to the loop thread, so requests of other threads travel through a
 * queue and an async wake-up. Timers live in a binary heap under their own lock (any thread arms them) and share one
 * timerfd, reprogrammed only when the earliest deadline moves forward.
 */
#include "base/loop.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>
#include <uv.h>

#include "base/lock.h"
#include "base/types.h"

struct post {
    struct post *next;
    void (*fn)(void *arg);
    void *arg;
};

struct loop {
    struct timer_svc svc; /* first: timers point here */
    uv_loop_t uv;
    uv_async_t wake;
    uv_poll_t tick;
    int timer_fd;
    _Atomic bool stop;
    bool freeing;     /* in loop_free: the queue was run for the last time */
    struct lock lock; /* everything below */
    bool running;
    pthread_t thread; /* valid while running */
    pthread_cond_t called;
    struct post *head, **tail;
    struct timer **heap;
    size_t n, cap;
    uint64_t programmed; /* deadline in the timerfd, UINT64_MAX = none */
};

struct loop_fd {
    uv_poll_t poll;
    struct loop *l;
    unsigned events;
    void (*fn)(void *arg, unsigned events);
    void *arg;
    bool closing; /* loop thread */
    int fd, init_error;
};

/* ---- timers ---- */

static uint64_t loop_now(struct timer_svc *svc)
{
    struct timespec ts;
    (void)svc;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000UL + (uint64_t)ts.tv_nsec;
}

static void heap_put(struct loop *l, size_t i, struct timer *t)
{
    l->heap[i] = t;
    t->slot = i + 1;
}

static void heap_up(struct loop *l, size_t i, struct timer *t)
{
    for (; i > 0 && l->heap[(i - 1) / 2]->deadline > t->deadline; i = (i - 1) / 2)
        heap_put(l, i, l->heap[(i - 1) / 2]);
    heap_put(l, i, t);
}

static void heap_down(struct loop *l, size_t i, struct timer *t)
{
    for (size_t k; (k = 2 * i + 1) < l->n; i = k) {
        if (k + 1 < l->n && l->heap[k + 1]->deadline < l->heap[k]->deadline)
            k++;
        if (l->heap[k]->deadline >= t->deadline)
            break;
        heap_put(l, i, l->heap[k]);
    }
    heap_put(l, i, t);
}

static void heap_remove(struct loop *l, struct timer *t)
{
    size_t i = t->slot - 1;
    struct timer *last = l->heap[--l->n];
    t->slot = 0;
    if (last == t)
        return;
    if (i > 0 && l->heap[(i - 1) / 2]->deadline > last->deadline)
        heap_up(l, i, last);
    else
        heap_down(l, i, last);
}

static void timerfd_program(struct loop *l)
{
    uint64_t due = l->n ? l->heap[0]->deadline : UINT64_MAX;
    if (due >= l->programmed)
        return; /* an early tick finds nothing due and programs the rest */
    l->programmed = due;
    struct itimerspec its = { .it_value = { .tv_sec = (time_t)(due / 1000000000UL),
                                            .tv_nsec = (long)(due % 1000000000UL) } };
    if (due == 0)
        its.it_value.tv_nsec = 1;
    timerfd_settime(l->timer_fd, TFD_TIMER_ABSTIME, &its, NULL);
}

static void loop_arm(struct timer_svc *svc, struct timer *t, uint64_t deadline_ns)
{
    struct loop *l = container_of(svc, struct loop, svc);
    lock_take(&l->lock);
    if (t->slot)
        heap_remove(l, t);
    if (l->n == l->cap) {
        size_t cap = l->cap ? l->cap * 2 : 64;
        struct timer **h = realloc(l->heap, cap * sizeof(*h));
        if (!h)
            abort(); /* a lost timer would hang the guest without a word */
        l->heap = h;
        l->cap = cap;
    }
    t->deadline = deadline_ns;
    heap_up(l, l->n++, t);
    timerfd_program(l);
    lock_drop(&l->lock);
}

static void loop_disarm(struct timer_svc *svc, struct timer *t)
{
    struct loop *l = container_of(svc, struct loop, svc);
    lock_take(&l->lock);
    if (t->slot)
        heap_remove(l, t);
    lock_drop(&l->lock);
}

static void on_tick(uv_poll_t *p, int status, int events)
{
    struct loop *l = p->data;
    uint64_t count;
    (void)status, (void)events;
    ssize_t r = read(l->timer_fd, &count, sizeof(count));
    (void)r; /* EAGAIN: reprogrammed meanwhile */
    lock_take(&l->lock);
    l->programmed = UINT64_MAX;
    /* Due now, not due by the time the last one ran: a timer that re-arms itself must not starve the loop. */
    uint64_t now = loop_now(&l->svc);
    while (l->n && l->heap[0]->deadline <= now) {
        struct timer *t = l->heap[0];
        void (*fn)(void *) = t->fn;
        void *arg = t->arg;
        heap_remove(l, t);
        lock_drop(&l->lock);
        fn(arg);
        lock_take(&l->lock);
    }
    timerfd_program(l);
    lock_drop(&l->lock);
}

/* ---- work from other threads ---- */

static void on_wake(uv_async_t *a)
{
    struct loop *l = a->data;
    lock_take(&l->lock);
    struct post *p = l->head;
    l->head = NULL;
    l->tail = &l->head;
    lock_drop(&l->lock);
    while (p) {
        struct post *next = p->next;
        p->fn(p->arg);
        free(p);
        p = next;
    }
}

int loop_post(struct loop *l, void (*fn)(void *arg), void *arg)
{
    struct post *p = malloc(sizeof(*p));
    if (!p)
        return -ENOMEM;
    *p = (struct post){ .fn = fn, .arg = arg };
    lock_take(&l->lock);
    *l->tail = p;
    l->tail = &p->next;
    lock_drop(&l->lock);
    uv_async_send(&l->wake);
    return 0;
}

struct call {
    struct loop *l;
    void (*fn)(void *arg);
    void *arg;
    bool done;
};

static void run_call(void *arg)
{
    struct call *c = arg;
    c->fn(c->arg);
    lock_take(&c->l->lock);
    c->done = true;
    pthread_cond_broadcast(&c->l->called);
    lock_drop(&c->l->lock);
}

/* Runs fn where libuv handles may be touched, and waits for it. */
static void loop_call(struct loop *l, void (*fn)(void *arg), void *arg)
{
    struct call c = { .l = l, .fn = fn, .arg = arg };
    lock_take(&l->lock);
    bool here = !l->running || pthread_equal(l->thread, pthread_self());
    lock_drop(&l->lock);
    if (here) {
        fn(arg);
        return;
    }
    if (loop_post(l, run_call, &c) < 0)
        abort(); /* the caller has no way to undo a half-registered descriptor */
    lock_take(&l->lock);
    while (!c.done)
        lock_wait(&l->lock, &l->called, UINT64_MAX);
    lock_drop(&l->lock);
}

/* ---- descriptors ---- */

static void on_fd(uv_poll_t *p, int status, int events)
{
    struct loop_fd *f = p->data;
    unsigned ev = 0;
    if (f->closing)
        return;
    if (status < 0) /* hang-up or error: the handler finds out by reading or writing */
        ev = f->events;
    if (events & UV_READABLE)
        ev |= LOOP_IN;
    if (events & UV_WRITABLE)
        ev |= LOOP_OUT;
    f->fn(f->arg, ev);
}

static void fd_apply(void *arg)
{
    struct loop_fd *f = arg;
    if (f->closing)
        return;
    unsigned want = __atomic_load_n(&f->events, __ATOMIC_SEQ_CST);
    int ev = ((want & LOOP_IN) ? UV_READABLE : 0) | ((want & LOOP_OUT) ? UV_WRITABLE : 0);
    if (ev)
        uv_poll_start(&f->poll, ev, on_fd);
    else
        uv_poll_stop(&f->poll);
}

static void fd_start(void *arg)
{
    struct loop_fd *f = arg;
    f->init_error = uv_poll_init(&f->l->uv, &f->poll, f->fd);
    if (f->init_error < 0)
        return;
    f->poll.data = f;
    fd_apply(f);
}

struct loop_fd *loop_fd_add(struct loop *l, int fd, unsigned events, void (*fn)(void *arg, unsigned events), void *arg)
{
    struct loop_fd *f = calloc(1, sizeof(*f));
    if (!f)
        return NULL;
    *f = (struct loop_fd){ .l = l, .fd = fd, .events = events, .fn = fn, .arg = arg };
    loop_call(l, fd_start, f);
    if (f->init_error < 0) { /* what epoll cannot watch: regular files */
        free(f);
        return NULL;
    }
    return f;
}

void loop_fd_update(struct loop_fd *f, unsigned events)
{
    if (__atomic_exchange_n(&f->events, events, __ATOMIC_SEQ_CST) == events)
        return;
    lock_take(&f->l->lock);
    bool here = !f->l->running || pthread_equal(f->l->thread, pthread_self());
    lock_drop(&f->l->lock);
    if (here)
        fd_apply(f);
    else if (loop_post(f->l, fd_apply, f) < 0)
        abort();
}

/* A loop_fd_update of another thread may still be queued; the queue is in order, so the memory goes after it. */
static void fd_closed(uv_handle_t *h)
{
    struct loop_fd *f = h->data;
    if (f->l->freeing)
        free(f);
    else if (loop_post(f->l, free, f) < 0)
        abort();
}

static void fd_close(void *arg)
{
    struct loop_fd *f = arg;
    f->closing = true;
    uv_poll_stop(&f->poll);
    uv_close((uv_handle_t *)&f->poll, fd_closed);
}

void loop_fd_del(struct loop_fd *f)
{
    if (f)
        loop_call(f->l, fd_close, f);
}

/* ---- life ---- */

struct loop *loop_new(void)
{
    struct loop *l = calloc(1, sizeof(*l));
    if (!l)
        return NULL;
    l->svc = (struct timer_svc){ .now = loop_now, .arm = loop_arm, .disarm = loop_disarm };
    l->tail = &l->head;
    l->programmed = UINT64_MAX;
    lock_init(&l->lock, LOCK_TIMER);
    pthread_cond_init(&l->called, NULL);
    l->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (l->timer_fd < 0)
        goto undo_alloc;
    if (uv_loop_init(&l->uv) < 0)
        goto undo_timer;
    if (uv_async_init(&l->uv, &l->wake, on_wake) < 0 || uv_poll_init(&l->uv, &l->tick, l->timer_fd) < 0)
        goto undo_loop;
    l->wake.data = l;
    l->tick.data = l;
    uv_poll_start(&l->tick, UV_READABLE, on_tick);
    return l;

undo_loop:
    uv_loop_close(&l->uv);
undo_timer:
    close(l->timer_fd);
undo_alloc:
    free(l);
    return NULL;
}

static void close_rest(uv_handle_t *h, void *arg)
{
    struct loop *l = arg;
    if (uv_is_closing(h))
        return;
    bool own = h == (uv_handle_t *)&l->wake || h == (uv_handle_t *)&l->tick;
    uv_close(h, own ? NULL : fd_closed);
}

void loop_free(struct loop *l)
{
    if (!l)
        return;
    on_wake(&l->wake);
    l->freeing = true;
    uv_walk(&l->uv, close_rest, l);
    uv_run(&l->uv, UV_RUN_DEFAULT);
    uv_loop_close(&l->uv);
    close(l->timer_fd);
    pthread_cond_destroy(&l->called);
    lock_destroy(&l->lock);
    free(l->heap);
    free(l);
}

static void set_running(struct loop *l, bool on)
{
    lock_take(&l->lock);
    l->running = on;
    l->thread = pthread_self();
    lock_drop(&l->lock);
}

void loop_run(struct loop *l)
{
    set_running(l, true);
    while (!atomic_load(&l->stop))
        uv_run(&l->uv, UV_RUN_ONCE);
    set_running(l, false);
    on_wake(&l->wake); /* a call that waits must not be left behind */
}

void loop_stop(struct loop *l)
{
    atomic_store(&l->stop, true);
    uv_async_send(&l->wake);
}

struct timer_svc *loop_timers(struct loop *l)
{
    return &l->svc;
}
