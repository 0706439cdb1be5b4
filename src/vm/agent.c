/* SPDX-License-Identifier: MIT */
/*
 * Bytes from the guest arrive on any thread, with the device's lock held, and are put into a bounded inbox; all else
 * happens on the control thread, and only the inbox, `open` and the device's callbacks are behind the lock.
 */
#include "vm/agent.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/jsonin.h"
#include "base/lock.h"
#include "base/log.h"
#include "base/loop.h"
#include "host/chardev.h"

enum { INBOX = 65536, SYNC_MS = 5000, TIMEOUT_MS_MAX = 86400000 };
enum { DELIMITER = 0xff }; /* never part of JSON in UTF-8: what follows it is a new line */
enum sync { LOST, SYNCING, READY };

struct request {
    struct request *next;
    struct agent *a;
    char *text; /* the line, without its end */
    char command[48];
    size_t reply_max;
    uint64_t deadline;
    unsigned timeout_ms;
    agent_done *done;
    void *arg;
};

struct agent {
    struct chardev ch; /* first */
    struct loop *loop;
    struct timer timer;
    unsigned refs; /* atomic: the owner and each posted call */

    /* Control thread. */
    enum sync sync;
    bool busy; /* the first request is sent */
    struct request *head, **tail;
    unsigned n;
    unsigned seen_turns;
    uint64_t sync_id, sync_deadline;
    bool delimited; /* while syncing: the delimiter was seen */
    char *line;
    size_t line_len, line_cap;
    char *out;
    size_t out_len, out_at;

    struct lock lock; /* everything below */
    pthread_cond_t idle;
    struct chardev_user user;
    bool attached, in_callback, dead;
    bool posted, tx_short;
    bool open;
    unsigned turns; /* how often the guest opened or closed the port */
    size_t in_len;
    uint8_t inbox[INBOX];
};

static void run(void *arg);

static void unref(struct agent *a)
{
    if (__atomic_sub_fetch(&a->refs, 1, __ATOMIC_ACQ_REL) > 0)
        return;
    pthread_cond_destroy(&a->idle);
    lock_destroy(&a->lock);
    free(a->line);
    free(a->out);
    free(a);
}

static void post(struct agent *a, void (*fn)(void *arg), void *arg)
{
    __atomic_add_fetch(&a->refs, 1, __ATOMIC_ACQ_REL);
    if (loop_post(a->loop, fn, arg) < 0)
        abort(); /* a lost wake-up would hang every request without a word */
}

/* Lock held. */
static void post_run(struct agent *a)
{
    if (!a->posted && !a->dead) {
        a->posted = true;
        post(a, run, a);
    }
}

/* ---- requests ---- */

static void finish(struct request *q, int r, json_t *ret, const char *text)
{
    if (q->done)
        q->done(q->arg, r, ret, text);
    free(q->text);
    free(q);
}

static struct request *take_first(struct agent *a)
{
    struct request *q = a->head;
    a->head = q->next;
    if (!a->head)
        a->tail = &a->head;
    a->n--;
    a->busy = false;
    return q;
}

/* What was sent is forgotten; the next request begins by finding the agent again. */
static void lose(struct agent *a)
{
    a->sync = LOST;
    a->busy = false;
    a->line_len = 0;
    a->out_len = a->out_at = 0;
}

/* The agent's answer to the first request. */
static void end_first(struct agent *a, int r, json_t *ret, const char *text)
{
    struct request *q = take_first(a);
    if (r < 0 && r != -EREMOTEIO)
        lose(a);
    finish(q, r, ret, text);
}

static void fail_all(struct agent *a, int r, const char *text)
{
    lose(a);
    while (a->head)
        finish(take_first(a), r, NULL, text);
}

/* ---- to the guest ---- */

static bool send_text(struct agent *a, const char *prefix, const char *text)
{
    size_t p = strlen(prefix), n = strlen(text);
    char *out = malloc(p + n + 1);
    if (!out)
        return false;
    memcpy(out, prefix, p);
    memcpy(out + p, text, n);
    out[p + n] = '\n';
    free(a->out);
    a->out = out;
    a->out_len = p + n + 1;
    a->out_at = 0;
    return true;
}

/* Gives the device what it takes. */
static void pump(struct agent *a)
{
    lock_take(&a->lock);
    while (a->attached && !a->dead && a->out_at < a->out_len) {
        struct chardev_user u = a->user;
        a->in_callback = true;
        lock_drop(&a->lock);
        size_t room = u.can_rx(u.arg), n = a->out_len - a->out_at;
        n = n < room ? n : room;
        if (n)
            u.rx(u.arg, a->out + a->out_at, n);
        a->out_at += n;
        lock_take(&a->lock);
        a->in_callback = false;
        pthread_cond_broadcast(&a->idle);
        if (!n)
            break;
    }
    lock_drop(&a->lock);
    if (a->out_len && a->out_at == a->out_len) {
        free(a->out);
        a->out = NULL;
        a->out_len = a->out_at = 0;
    }
}

static void start_sync(struct agent *a)
{
    char text[96];
    uint64_t now = timer_now(a->timer.svc);
    a->sync_id = (a->sync_id + 1) & INT32_MAX;
    snprintf(text, sizeof(text), "{\"execute\":\"guest-sync-delimited\",\"arguments\":{\"id\":%lu}}", a->sync_id);
    lose(a);
    if (!send_text(a, "\xff", text))
        return; /* tried again at the next turn of the timer */
    a->sync = SYNCING;
    a->delimited = false;
    a->sync_deadline = now + SYNC_MS * 1000000UL;
}

static void set_timer(struct agent *a)
{
    uint64_t due = UINT64_MAX;
    for (const struct request *q = a->head; q; q = q->next)
        due = q->deadline < due ? q->deadline : due;
    if (a->head && a->sync == SYNCING && a->sync_deadline < due)
        due = a->sync_deadline;
    if (due != UINT64_MAX)
        timer_arm(&a->timer, due);
    else
        timer_disarm(&a->timer);
}

/* Does what can be done for the first request. */
static void advance(struct agent *a)
{
    lock_take(&a->lock);
    bool open = a->open;
    lock_drop(&a->lock);
    if (a->head && !open)
        fail_all(a, -ENOTCONN,
                 "no guest agent runs in the guest (nothing has opened its port; is qemu-guest-agent "
                 "installed and started?)");
    if (a->head && a->sync == LOST)
        start_sync(a);
    if (a->head && a->sync == READY && !a->busy)
        a->busy = send_text(a, "", a->head->text);
    pump(a);
    set_timer(a);
}

/* ---- from the guest ---- */

static void on_reply(struct agent *a, const char *text, size_t n)
{
    struct err e = { 0 };
    char why[256];
    json_t *j = jsonin_load(text, n, &e), *ret = json_object_get(j, "return");
    const json_t *err = json_object_get(j, "error");
    if (ret) {
        end_first(a, 0, ret, "");
    } else if (err) {
        const char *desc = json_string_value(json_object_get(err, "desc"));
        snprintf(why, sizeof(why), "the guest agent: %.200s", desc ? desc : "an error that it does not explain");
        end_first(a, -EREMOTEIO, NULL, why);
    } else {
        snprintf(why, sizeof(why), "the guest agent's answer makes no sense: %.150s",
                 j ? "neither return nor error" : e.text);
        end_first(a, -EPROTO, NULL, why);
    }
    json_decref(j);
}

static void on_line(struct agent *a)
{
    if (a->sync == SYNCING && a->delimited) {
        json_t *j = jsonin_load(a->line, a->line_len, NULL);
        const json_t *id = json_object_get(j, "return");
        if (json_is_integer(id) && (uint64_t)json_integer_value(id) == a->sync_id)
            a->sync = READY;
        a->delimited = false;
        json_decref(j);
    } else if (a->sync == READY && a->busy && a->line_len) {
        on_reply(a, a->line, a->line_len);
    } else if (a->sync == READY && a->line_len) {
        a->sync = LOST; /* it talks without being asked */
    }
    a->line_len = 0;
    if (a->line_cap > 2 * AGENT_REPLY_MAX) { /* room for a long answer is not kept */
        free(a->line);
        a->line = NULL;
        a->line_cap = 0;
    }
}

static bool line_add(struct agent *a, uint8_t c)
{
    size_t max = a->busy && a->head ? a->head->reply_max : AGENT_REPLY_MAX;
    if (a->line_len == max)
        return false;
    if (a->line_len == a->line_cap) {
        size_t cap = a->line_cap ? a->line_cap * 2 : 4096;
        char *more = realloc(a->line, cap);
        if (!more)
            return false;
        a->line = more;
        a->line_cap = cap;
    }
    a->line[a->line_len++] = (char)c;
    return true;
}

static void on_byte(struct agent *a, uint8_t c)
{
    if (c == DELIMITER) {
        a->line_len = 0;
        a->delimited = true;
    } else if (a->sync == LOST || (a->sync == SYNCING && !a->delimited)) {
        ; /* of an earlier life */
    } else if (c == '\n') {
        on_line(a);
    } else if (!line_add(a, c)) {
        if (a->busy)
            end_first(a, -EMSGSIZE, NULL, "the guest agent's answer is longer than it may be");
        else
            lose(a);
    }
}

/* ---- the control thread's turn ---- */

/* Copies the inbox out and tells a device that waits for room. False: it was empty. */
static bool take_inbox(struct agent *a, uint8_t *buf, size_t *n)
{
    struct chardev_user u;
    lock_take(&a->lock);
    *n = a->in_len;
    memcpy(buf, a->inbox, a->in_len);
    a->in_len = 0;
    bool tell = a->tx_short && a->attached && !a->dead;
    a->tx_short = false;
    if (tell) {
        u = a->user;
        a->in_callback = true;
        lock_drop(&a->lock);
        if (u.tx_ready)
            u.tx_ready(u.arg);
        lock_take(&a->lock);
        a->in_callback = false;
        pthread_cond_broadcast(&a->idle);
    }
    lock_drop(&a->lock);
    return *n > 0;
}

static void run(void *arg)
{
    struct agent *a = arg;
    uint8_t *buf = malloc(INBOX);
    size_t n;
    lock_take(&a->lock);
    a->posted = false;
    bool dead = a->dead;
    unsigned turns = a->turns;
    lock_drop(&a->lock);
    if (dead || !buf)
        goto out;
    if (turns != a->seen_turns) {
        a->seen_turns = turns;
        if (a->busy)
            end_first(a, -ENOTCONN, NULL, "the guest agent went away while it worked on this");
        lose(a);
    }
    if (take_inbox(a, buf, &n))
        for (size_t i = 0; i < n; i++)
            on_byte(a, buf[i]);
    advance(a);
out:
    free(buf);
    unref(a);
}

static void on_timer(void *arg)
{
    struct agent *a = arg;
    uint64_t now = timer_now(a->timer.svc);
    char why[160];
    for (struct request **p = &a->head, *q; (q = *p);) {
        if (q->deadline > now) {
            p = &q->next;
            continue;
        }
        if (q == a->head)
            snprintf(why, sizeof(why), "the guest agent did not answer%s%s within %u s", a->busy ? " " : "",
                     a->busy ? q->command : "", (q->timeout_ms + 999) / 1000);
        else
            snprintf(why, sizeof(why), "the guest agent was busy for %u s", (q->timeout_ms + 999) / 1000);
        if (q == a->head)
            lose(a);
        *p = q->next;
        if (!q->next)
            a->tail = p;
        a->n--;
        finish(q, -ETIMEDOUT, NULL, why);
    }
    if (a->sync == SYNCING && a->sync_deadline <= now)
        a->sync = LOST; /* asked again */
    advance(a);
}

static void run_submit(void *arg)
{
    struct request *q = arg;
    struct agent *a = q->a;
    lock_take(&a->lock);
    bool dead = a->dead;
    lock_drop(&a->lock);
    if (dead) {
        finish(q, -ECANCELED, NULL, "the machine ends");
    } else if (a->n == AGENT_QUEUE_MAX) {
        finish(q, -EBUSY, NULL, "too many requests wait for the guest agent");
    } else {
        *a->tail = q;
        a->tail = &q->next;
        a->n++;
        advance(a);
    }
    unref(a);
}

/* ---- the port's back end ---- */

static size_t agent_write(struct chardev *ch, const void *buf, size_t len)
{
    struct agent *a = (struct agent *)ch;
    lock_take(&a->lock);
    size_t n = len < INBOX - a->in_len ? len : INBOX - a->in_len;
    memcpy(a->inbox + a->in_len, buf, n);
    a->in_len += n;
    a->tx_short = a->tx_short || n < len;
    post_run(a);
    lock_drop(&a->lock);
    return n;
}

static void agent_attach(struct chardev *ch, const struct chardev_user *user)
{
    struct agent *a = (struct agent *)ch;
    lock_take(&a->lock);
    while (a->in_callback)
        lock_wait(&a->lock, &a->idle, UINT64_MAX);
    a->attached = user != NULL;
    if (user)
        a->user = *user;
    lock_drop(&a->lock);
}

static void agent_rx_ready(struct chardev *ch)
{
    struct agent *a = (struct agent *)ch;
    lock_take(&a->lock);
    post_run(a);
    lock_drop(&a->lock);
}

static void agent_opened(struct chardev *ch, bool open)
{
    struct agent *a = (struct agent *)ch;
    lock_take(&a->lock);
    a->open = open;
    a->turns++;
    a->in_len = 0;
    post_run(a);
    lock_drop(&a->lock);
}

static void agent_free(struct chardev *ch)
{
    struct agent *a = (struct agent *)ch;
    timer_disarm(&a->timer);
    lock_take(&a->lock);
    a->dead = true;
    lock_drop(&a->lock);
    fail_all(a, -ECANCELED, "the machine ends");
    unref(a);
}

static const struct chardev_ops agent_ops = {
    .write = agent_write,
    .attach = agent_attach,
    .rx_ready = agent_rx_ready,
    .free = agent_free,
    .opened = agent_opened,
};

struct agent *agent_new(struct loop *loop)
{
    struct agent *a = calloc(1, sizeof(*a));
    if (!a)
        return NULL;
    a->ch.ops = &agent_ops;
    a->loop = loop;
    a->refs = 1;
    a->tail = &a->head;
    lock_init(&a->lock, LOCK_CHARDEV);
    pthread_cond_init(&a->idle, NULL);
    timer_init(&a->timer, loop_timers(loop), on_timer, a);
    a->sync_id = timer_now(a->timer.svc); /* what an earlier gazda asked for is no answer to us */
    return a;
}

struct chardev *agent_chardev(struct agent *a)
{
    return &a->ch;
}

bool agent_is_open(struct agent *a)
{
    lock_take(&a->lock);
    bool open = a->open;
    lock_drop(&a->lock);
    return open;
}

/* ---- for those who want something of it ---- */

int agent_submit(struct agent *a, const struct agent_request *r, struct err *e)
{
    json_t *o = json_object();
    json_object_set_new(o, "execute", json_string(r->command));
    if (r->args)
        json_object_set_new(o, "arguments", r->args);
    char *text = json_dumps(o, JSON_COMPACT);
    json_decref(o);
    struct request *q = calloc(1, sizeof(*q));
    if (!text || !q || strlen(text) > AGENT_REQUEST_MAX) {
        bool big = text && q;
        free(text);
        free(q);
        return big ? err_set(e, EMSGSIZE, "the request is longer than %d bytes", AGENT_REQUEST_MAX)
                   : err_set(e, ENOMEM, "out of memory, or the request is no UTF-8");
    }
    unsigned ms = r->timeout_ms < TIMEOUT_MS_MAX ? r->timeout_ms : TIMEOUT_MS_MAX;
    *q = (struct request){ .a = a, .text = text, .timeout_ms = ms, .done = r->done, .arg = r->arg };
    q->deadline = timer_now(a->timer.svc) + ms * 1000000UL;
    q->reply_max = strcmp(r->command, "guest-exec-status") == 0 ? AGENT_OUTPUT_MAX : AGENT_REPLY_MAX;
    snprintf(q->command, sizeof(q->command), "%s", r->command);
    post(a, run_submit, q);
    return 0;
}

static void on_thaw(void *arg, int r, json_t *ret, const char *text)
{
    (void)arg, (void)ret;
    if (r < 0)
        log_warn("the guest's file systems stay frozen: %s", text);
}

void agent_thaw(struct agent *a)
{
    const struct agent_request q = { .command = "guest-fsfreeze-thaw", .timeout_ms = 2 * AGENT_MS, .done = on_thaw };
    struct err e = { 0 };
    if (agent_submit(a, &q, &e) < 0)
        log_warn("the guest's file systems stay frozen: %s", e.text);
}

void agent_set_time(struct agent *a)
{
    struct timespec ts;
    json_t *args = json_object();
    if (!agent_is_open(a)) {
        json_decref(args);
        return;
    }
    clock_gettime(CLOCK_REALTIME, &ts);
    json_object_set_new(args, "time", json_integer((json_int_t)ts.tv_sec * 1000000000 + ts.tv_nsec));
    const struct agent_request q = { .command = "guest-set-time", .args = args, .timeout_ms = AGENT_MS };
    agent_submit(a, &q, NULL);
}
