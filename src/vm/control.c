/* SPDX-License-Identifier: MIT */
/*
 * The listener. All of it runs on the machine's control thread, whose loop it shares with the guest agent, so nothing
 * here is locked. A client has one request at a time: nothing more is read before its answer is taken, so a client
 * costs a line in and an answer out, and one that does not take its answer for ANSWER_S seconds is thrown out.
 */
#include "vm/control.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/jsonin.h"
#include "vm/agent.h"
#include "vm/internal.h"

enum { READ_CHUNK = 65536, ANSWER_S = 30, LINES_A_TURN = 8 };

struct client {
    struct control *c;
    struct client *next;
    int fd;
    struct loop_fd *watch;
    char *in; /* what was read and is no whole line yet, or waits */
    size_t in_len, in_cap;
    char *out;
    size_t out_len, out_at;
    struct pending *pending; /* a request that the guest agent has */
    uint64_t since;          /* ns: when the answer began to wait for the client */
    bool dead;
};

/* Outlives the client if it must. */
struct pending {
    struct client *cl; /* NULL: gone */
    json_t *id;
};

struct control {
    struct machine *m;
    struct loop *loop;
    int listener;
    struct loop_fd *watch;
    struct timer timer;
    struct client *clients;
    unsigned n_clients;
};

static void step(struct client *cl);

/* ---- clients ---- */

static void forget(struct client *cl)
{
    struct client **p = &cl->c->clients;
    while (*p != cl)
        p = &(*p)->next;
    *p = cl->next;
    cl->c->n_clients--;
    if (cl->pending)
        cl->pending->cl = NULL;
    loop_fd_del(cl->watch);
    close(cl->fd);
    free(cl->in);
    free(cl->out);
    free(cl);
}

static void on_client(void *arg, unsigned events)
{
    (void)events;
    step(arg);
}

static bool same_user(int fd)
{
    struct ucred cred;
    socklen_t len = sizeof(cred);
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) == 0 && cred.uid == geteuid();
}

static void refuse(int fd, const char *why)
{
    char text[160];
    int n = snprintf(text, sizeof(text), "{\"error\": {\"code\": \"EACCES\", \"text\": \"%s\"}}\n", why);
    ssize_t r = send(fd, text, (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT);
    (void)r;
    close(fd);
}

static void on_connection(void *arg, unsigned events)
{
    struct control *c = arg;
    (void)events;
    int fd = accept4(c->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0)
        return;
    if (!same_user(fd)) {
        refuse(fd, "only the user who runs the machine controls it");
        return;
    }
    if (c->n_clients == CONTROL_CLIENTS_MAX) {
        refuse(fd, "too many clients");
        return;
    }
    struct client *cl = calloc(1, sizeof(*cl));
    if (!cl) {
        close(fd);
        return;
    }
    *cl = (struct client){ .c = c, .fd = fd, .next = c->clients };
    cl->watch = loop_fd_add(c->loop, fd, LOOP_IN, on_client, cl);
    if (!cl->watch) {
        close(fd);
        free(cl);
        return;
    }
    c->clients = cl;
    c->n_clients++;
}

/* ---- answers ---- */

/* Takes the answer. */
static void answer(struct client *cl, const json_t *id, json_t *o)
{
    if (id)
        json_object_set(o, "id", (json_t *)id);
    char *text = json_dumps(o, JSON_COMPACT);
    json_decref(o);
    size_t n = text ? strlen(text) : 0;
    free(cl->out);
    cl->out = text ? realloc(text, n + 1) : NULL;
    if (!cl->out) {
        free(text);
        cl->dead = true;
        return;
    }
    cl->out[n] = '\n';
    cl->out_len = n + 1;
    cl->out_at = 0;
    cl->since = timer_now(cl->c->timer.svc);
}

static void answer_error(struct client *cl, const json_t *id, int code, const char *text)
{
    const char *name = strerrorname_np(code);
    json_t *o = json_object(), *err = json_object();
    json_object_set_new(err, "code", json_string(name ? name : "EIO"));
    json_object_set_new(err, "text", json_string(text));
    json_object_set_new(o, "error", err);
    answer(cl, id, o);
}

/* ---- the guest agent ---- */

static void on_agent(void *arg, int r, json_t *ret, const char *text)
{
    struct pending *p = arg;
    struct client *cl = p->cl;
    if (cl) {
        cl->pending = NULL;
        if (r < 0) {
            answer_error(cl, p->id, -r, text);
        } else {
            json_t *o = json_object();
            json_object_set(o, "return", ret);
            answer(cl, p->id, o);
        }
        step(cl);
    }
    json_decref(p->id);
    free(p);
}

/* 0: the answer comes when the agent has given one. */
static int ask_agent(struct client *cl, const json_t *args, json_t *id, struct err *e)
{
    enum { TIMEOUT_S_MAX = 86400 };
    struct agent *a = machine_agent(cl->c->m);
    json_t *inner = json_object_get(args, "arguments"), *timeout = json_object_get(args, "timeout_s");
    struct agent_request q = { .command = json_string_value(json_object_get(args, "execute")), .done = on_agent };
    json_int_t s = json_is_integer(timeout) ? json_integer_value(timeout) : AGENT_MS / 1000;
    if (!a)
        return err_set(e, ENOTCONN, "the machine has no port for a guest agent (--no-agent)");
    if (!q.command || (inner && !json_is_object(inner)) || s < 1 || s > TIMEOUT_S_MAX)
        return err_set(e, EINVAL,
                       "arguments are {\"execute\": \"COMMAND\", \"arguments\": {...}, \"timeout_s\": 1 to %d}",
                       TIMEOUT_S_MAX);
    struct pending *p = calloc(1, sizeof(*p));
    if (!p)
        return err_set(e, ENOMEM, "out of memory");
    *p = (struct pending){ .cl = cl, .id = json_incref(id) };
    q.args = json_incref(inner);
    q.timeout_ms = (unsigned)s * 1000;
    q.arg = p;
    int r = agent_submit(a, &q, e);
    if (r < 0) {
        json_decref(p->id);
        free(p);
        return r;
    }
    cl->pending = p;
    return 0;
}

/* ---- requests ---- */

static void request(struct client *cl, const char *line, size_t len)
{
    struct err e = { 0 };
    json_t *ret = NULL, *q = jsonin_load(line, len, &e);
    if (!q) {
        answer_error(cl, NULL, EINVAL, e.text);
        return;
    }
    json_t *id = json_object_get(q, "id");
    const json_t *args = json_object_get(q, "arguments");
    const char *command = json_string_value(json_object_get(q, "command"));
    int r = 0;
    if (!command)
        r = err_set(&e, EINVAL, "a request is {\"command\": \"NAME\", \"arguments\": {...}, \"id\": ANY}");
    else if (args && !json_is_object(args))
        r = err_set(&e, EINVAL, "\"arguments\" must be an object");
    else if (strcmp(command, "agent") == 0)
        r = ask_agent(cl, args, id, &e);
    else
        r = control_execute(cl->c->m, command, args, &ret, &e);
    if (r < 0) {
        answer_error(cl, id, -r, e.text);
    } else if (ret) {
        json_t *o = json_object();
        json_object_set_new(o, "return", ret);
        answer(cl, id, o);
    }
    json_decref(q);
}

/* ---- one turn of a client ---- */

static void flush(struct client *cl)
{
    while (cl->out_at < cl->out_len && !cl->dead) {
        ssize_t r = send(cl->fd, cl->out + cl->out_at, cl->out_len - cl->out_at, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (r < 0 && errno == EAGAIN)
            return;
        if (r < 0 && errno != EINTR)
            cl->dead = true;
        if (r > 0)
            cl->out_at += (size_t)r;
    }
    free(cl->out);
    cl->out = NULL;
    cl->out_len = cl->out_at = 0;
}

/* Reads what is there, up to a line of the longest. */
static void fill(struct client *cl)
{
    if (cl->in_cap - cl->in_len < READ_CHUNK) {
        char *more = realloc(cl->in, cl->in_len + 2 * READ_CHUNK);
        if (!more) {
            cl->dead = true;
            return;
        }
        cl->in = more;
        cl->in_cap = cl->in_len + 2 * READ_CHUNK;
    }
    ssize_t r = recv(cl->fd, cl->in + cl->in_len, READ_CHUNK, MSG_DONTWAIT);
    if (r == 0 || (r < 0 && errno != EAGAIN && errno != EINTR))
        cl->dead = true;
    else if (r > 0)
        cl->in_len += (size_t)r;
}

/* Does the first whole line, if there is one. */
static bool take_line(struct client *cl)
{
    const char *end = cl->in_len ? memchr(cl->in, '\n', cl->in_len) : NULL;
    if (!end) {
        if (cl->in_len <= CONTROL_LINE_MAX)
            return false;
        answer_error(cl, NULL, EMSGSIZE, "the request is longer than a line may be");
        flush(cl);
        cl->dead = true; /* where the next line begins is anybody's guess */
        return false;
    }
    size_t n = (size_t)(end - cl->in);
    request(cl, cl->in, n);
    cl->in_len -= n + 1;
    memmove(cl->in, end + 1, cl->in_len);
    if (!cl->in_len) { /* a long line is not kept room for */
        free(cl->in);
        cl->in = NULL;
        cl->in_cap = 0;
    }
    return true;
}

static bool waits(const struct client *cl)
{
    return cl->out_len > 0 || cl->pending;
}

static void step(struct client *cl)
{
    flush(cl);
    if (!cl->dead && !waits(cl))
        fill(cl);
    for (int i = 0; i < LINES_A_TURN && !cl->dead && !waits(cl) && take_line(cl); i++)
        flush(cl);
    if (cl->dead) {
        forget(cl);
        return;
    }
    bool more = !waits(cl) && cl->in_len && memchr(cl->in, '\n', cl->in_len);
    /* Whole lines that are left are done when the socket can be written, which is at once. */
    loop_fd_update(cl->watch, cl->out_len || more ? LOOP_OUT : cl->pending ? 0 : LOOP_IN);
}

static void on_timer(void *arg)
{
    struct control *c = arg;
    uint64_t now = timer_now(c->timer.svc);
    for (struct client *cl = c->clients, *next; cl; cl = next) {
        next = cl->next;
        if (cl->out_len && now - cl->since > ANSWER_S * 1000000000UL)
            forget(cl);
    }
    timer_arm(&c->timer, now + 1000000000UL);
}

/* ---- life ---- */

static void *control_main(void *arg)
{
    loop_run(arg);
    return NULL;
}

int vm_control_start(struct machine *m, struct err *e)
{
    m->control_loop = loop_new();
    if (!m->control_loop)
        return err_set(e, ENOMEM, "cannot set up the control thread");
    int r = pthread_create(&m->control_thread, NULL, control_main, m->control_loop);
    if (r != 0) {
        loop_free(m->control_loop);
        m->control_loop = NULL;
        return err_set(e, r, "cannot start the control thread: %s", strerror(r));
    }
    pthread_setname_np(m->control_thread, "control");
    m->started_ns = timer_now(loop_timers(m->control_loop));
    return 0;
}

void vm_control_stop(struct machine *m)
{
    struct control *c = m->control;
    if (!m->control_loop)
        return;
    loop_stop(m->control_loop);
    pthread_join(m->control_thread, NULL);
    if (c) {
        timer_disarm(&c->timer);
        while (c->clients)
            forget(c->clients);
        loop_fd_del(c->watch);
        close(c->listener);
        free(c);
        m->control = NULL;
    }
}

int control_listen(struct machine *m, int listener, const char *name, struct err *e)
{
    struct control *c = calloc(1, sizeof(*c));
    if (!c) {
        close(listener);
        return err_set(e, ENOMEM, "out of memory");
    }
    *c = (struct control){ .m = m, .loop = m->control_loop, .listener = listener };
    snprintf(m->control_name, sizeof(m->control_name), "%s", name);
    timer_init(&c->timer, loop_timers(c->loop), on_timer, c);
    timer_arm(&c->timer, 0);
    c->watch = loop_fd_add(c->loop, listener, LOOP_IN, on_connection, c);
    if (!c->watch) {
        timer_disarm(&c->timer);
        close(listener);
        free(c);
        return err_set(e, EIO, "cannot watch the control socket");
    }
    m->control = c;
    return 0;
}
