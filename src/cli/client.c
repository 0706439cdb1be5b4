/* SPDX-License-Identifier: MIT */
#include "cli/client.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/types.h"
#include "host/rundir.h"

enum { ANSWER_MAX = 128 << 20, READ_CHUNK = 65536, OBEY_MS = 3000, LOOK_MS = 20 };

static long now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1000L + ts.tv_nsec / 1000000;
}

int client_open(struct client *c, const char *name, struct err *e)
{
    struct ucred cred = { 0 };
    socklen_t len = sizeof(cred);
    *c = (struct client){ .fd = rundir_connect(name, "control", e), .name = name, .timeout_ms = CLIENT_MS };
    if (c->fd < 0)
        return c->fd;
    getsockopt(c->fd, SOL_SOCKET, SO_PEERCRED, &cred, &len);
    c->pid = cred.pid;
    return 0;
}

void client_close(struct client *c)
{
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    free(c->in);
    c->in = NULL;
}

/* 0, or -ETIMEDOUT. */
static int wait_for(int fd, short events, long deadline)
{
    struct pollfd p = { .fd = fd, .events = events };
    for (;;) {
        long left = deadline - now_ms();
        int r = poll(&p, 1, left > 0 ? (int)left : 0);
        if (r > 0)
            return 0;
        if (r == 0 || errno != EINTR)
            return -ETIMEDOUT;
    }
}

static int send_all(struct client *c, const char *text, size_t n, long deadline)
{
    while (n) {
        ssize_t r = send(c->fd, text, n, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (r > 0) {
            text += r;
            n -= (size_t)r;
        } else if (r < 0 && errno == EAGAIN) {
            if (wait_for(c->fd, POLLOUT, deadline) < 0)
                return -ETIMEDOUT;
        } else if (r < 0 && errno != EINTR) {
            return -errno;
        }
    }
    return 0;
}

/* A whole line in c->in, its length without the newline in *n. */
static int receive_line(struct client *c, size_t *n, long deadline)
{
    size_t seen = 0;
    for (;;) {
        const char *end = c->in_len > seen ? memchr(c->in + seen, '\n', c->in_len - seen) : NULL;
        if (end) {
            *n = (size_t)(end - c->in);
            return 0;
        }
        seen = c->in_len;
        if (c->in_len > ANSWER_MAX)
            return -EMSGSIZE;
        if (c->in_cap - c->in_len < READ_CHUNK) {
            size_t cap = c->in_cap * 2 + READ_CHUNK;
            char *more = realloc(c->in, cap);
            if (!more)
                return -ENOMEM;
            c->in = more;
            c->in_cap = cap;
        }
        if (wait_for(c->fd, POLLIN, deadline) < 0)
            return -ETIMEDOUT;
        ssize_t r = recv(c->fd, c->in + c->in_len, READ_CHUNK, 0);
        if (r == 0)
            return -EPIPE;
        if (r < 0 && errno != EINTR)
            return -errno;
        if (r > 0)
            c->in_len += (size_t)r;
    }
}

static int take_answer(struct client *c, size_t n, json_t **ret, struct err *e)
{
    json_t *a = json_loadb(c->in, n, 0, NULL);
    c->in_len -= n + 1;
    memmove(c->in, c->in + n + 1, c->in_len);
    const json_t *err = json_object_get(a, "error");
    json_t *r = json_object_get(a, "return");
    const char *code = json_string_value(json_object_get(err, "code"));
    const char *text = json_string_value(json_object_get(err, "text"));
    int status = 0;
    if (r)
        *ret = json_incref(r);
    else
        status = err_set(e, EREMOTEIO, "machine %s: %s", c->name, text ? text : "an answer that makes no sense");
    snprintf(c->code, sizeof(c->code), "%s", code ? code : "");
    json_decref(a);
    return status;
}

int client_call(struct client *c, const char *command, json_t *args, json_t **ret, struct err *e)
{
    long deadline = now_ms() + c->timeout_ms;
    size_t n = 0;
    json_t *q = json_object();
    c->code[0] = '\0';
    json_object_set_new(q, "command", json_string(command));
    if (args)
        json_object_set_new(q, "arguments", args);
    char *text = json_dumps(q, JSON_COMPACT);
    json_decref(q);
    if (!text)
        return err_set(e, EINVAL, "what is to be sent to machine %s is no UTF-8, or too much", c->name);
    size_t len = strlen(text);
    text[len] = '\n'; /* in place of the end */
    int r = send_all(c, text, len + 1, deadline);
    free(text);
    if (r == 0)
        r = receive_line(c, &n, deadline);
    if (r == -ETIMEDOUT)
        return err_set(e, ETIMEDOUT, "machine %s does not answer", c->name);
    if (r == -EPIPE || r == -ECONNRESET)
        return err_set(e, EPIPE, "machine %s ended", c->name);
    if (r < 0)
        return err_set(e, -r, "cannot talk to machine %s: %s", c->name, strerror(-r));
    return take_answer(c, n, ret, e);
}

int client_runs(struct client *c, struct err *e)
{
    json_t *ret = NULL;
    int r = client_call(c, "info", NULL, &ret, e);
    const char *state = json_string_value(json_object_get(ret, "state"));
    if (r == 0 && state && strcmp(state, "paused") == 0)
        r = err_set(e, EAGAIN, "machine %s is paused; \"gazda resume %s\" lets it go on", c->name, c->name);
    json_decref(ret);
    return r;
}

int client_wait_end(struct client *c, int timeout_ms)
{
    long deadline = now_ms() + timeout_ms;
    char buf[256];
    for (;;) {
        if (wait_for(c->fd, POLLIN, deadline) < 0)
            return -ETIMEDOUT;
        ssize_t r = recv(c->fd, buf, sizeof(buf), 0);
        if (r == 0 || (r < 0 && errno != EINTR))
            return 0;
    }
}

int client_wait_gone(const char *name, int timeout_ms)
{
    const struct timespec pause = { .tv_nsec = LOOK_MS * 1000000L };
    long deadline = now_ms() + timeout_ms;
    while (rundir_alive(name, NULL)) {
        if (now_ms() >= deadline)
            return -ETIMEDOUT;
        nanosleep(&pause, NULL);
    }
    return 0;
}

int client_kill(const char *name, struct err *e)
{
    struct client c;
    pid_t pid = 0;
    int r = client_open(&c, name, e);
    if (r == 0) {
        json_t *ret = NULL;
        pid = c.pid;
        c.timeout_ms = OBEY_MS;
        bool heard = client_call(&c, "quit", NULL, &ret, NULL) == 0;
        json_decref(ret);
        client_close(&c);
        if (client_wait_gone(name, heard ? OBEY_MS : 0) == 0)
            return 0;
    }
    /* The descriptor is of the process that holds the name: a process ID may be used again, a descriptor is not. */
    if (!rundir_alive(name, pid ? NULL : &pid) || pid <= 0)
        return r;
    int fd = pidfd_open(pid, 0);
    bool mine = fd >= 0 && rundir_alive(name, NULL);
    if (!mine || pidfd_send_signal(fd, SIGKILL, NULL, 0) < 0)
        r = err_set(e, ESRCH, "cannot kill process %d of machine %s", (int)pid, name);
    else
        r = 0;
    if (fd >= 0)
        close(fd);
    if (r == 0 && client_wait_gone(name, OBEY_MS) < 0)
        return err_set(e, ETIMEDOUT, "process %d of machine %s was killed but has not ended", (int)pid, name);
    return r;
}
