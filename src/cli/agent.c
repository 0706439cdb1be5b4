/* SPDX-License-Identifier: MIT */
#include "cli/agent.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/base64.h"
#include "base/types.h"

enum { ANSWER_S = 60, SLACK_MS = 10000, POLL_MS_MIN = 5, POLL_MS_MAX = 250 };

static void sleep_ms(unsigned ms)
{
    const struct timespec t = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L };
    nanosleep(&t, NULL);
}

/* How long the agent may take is c->timeout_ms; the machine may take a bit longer to say so. */
static int ask(struct client *c, const char *command, json_t *args, json_t **ret, struct err *e)
{
    unsigned seconds = (unsigned)c->timeout_ms / 1000;
    json_t *a = json_object(), *r = NULL;
    json_object_set_new(a, "execute", json_string(command));
    json_object_set_new(a, "timeout_s", json_integer(seconds));
    if (args)
        json_object_set_new(a, "arguments", args);
    c->timeout_ms += SLACK_MS;
    int status = client_call(c, "agent", a, &r, e);
    if (status == 0 && ret)
        *ret = r;
    else
        json_decref(r);
    return status;
}

int agent_do(struct client *c, const char *command, json_t *args, json_t **ret, struct err *e)
{
    c->timeout_ms = ANSWER_S * 1000;
    return ask(c, command, args, ret, e);
}

int agent_wait(struct client *c, unsigned seconds, struct err *e)
{
    enum { TRY_S = 5, PAUSE_MS = 200 };
    time_t end = time(NULL) + (time_t)seconds;
    for (;;) {
        struct err mine = { 0 };
        c->timeout_ms = TRY_S * 1000;
        int r = ask(c, "guest-ping", NULL, NULL, &mine);
        if (r == 0 || time(NULL) >= end || !c->code[0]) {
            if (r < 0)
                err_set(e, -r, "%s", mine.text);
            return r;
        }
        sleep_ms(PAUSE_MS);
    }
}

/* A stream of the command. */
static int take_output(const json_t *ret, const char *key, const char *cut_key, struct exec_stream *s)
{
    const char *text = json_string_value(json_object_get(ret, key));
    s->cut = json_is_true(json_object_get(ret, cut_key));
    if (!text)
        return 0;
    s->data = base64_decode(text, &s->n);
    return s->data ? 0 : -EPROTO;
}

static int take_result(const json_t *ret, struct exec_result *x, struct err *e)
{
    const json_t *sig = json_object_get(ret, "signal"), *code = json_object_get(ret, "exitcode");
    if (json_is_integer(sig))
        x->status = 128 + (int)(json_integer_value(sig) & 127);
    else
        x->status = (int)(json_integer_value(code) & 255);
    if (take_output(ret, "out-data", "out-truncated", &x->out) < 0 ||
        take_output(ret, "err-data", "err-truncated", &x->err) < 0)
        return err_set(e, EPROTO, "the guest agent's answer makes no sense: output that is no Base64");
    return 0;
}

static int wait_for_end(struct client *c, json_int_t pid, struct exec_result *x, struct err *e)
{
    unsigned pause = POLL_MS_MIN;
    for (;;) {
        json_t *args = json_object(), *ret = NULL;
        json_object_set_new(args, "pid", json_integer(pid));
        int r = agent_do(c, "guest-exec-status", args, &ret, e);
        if (r < 0)
            return r;
        bool over = json_is_true(json_object_get(ret, "exited"));
        if (over)
            r = take_result(ret, x, e);
        json_decref(ret);
        if (over || r < 0)
            return r;
        sleep_ms(pause);
        pause = pause * 3 / 2 < POLL_MS_MAX ? pause * 3 / 2 : POLL_MS_MAX;
    }
}

int agent_exec(struct client *c, char *const argv[], const struct exec_input *in, struct exec_result *x, struct err *e)
{
    json_t *args = json_object(), *list = json_array(), *ret = NULL;
    *x = (struct exec_result){ 0 };
    json_object_set_new(args, "path", json_string(argv[0]));
    for (size_t i = 1; argv[i]; i++)
        json_array_append_new(list, json_string(argv[i]));
    json_object_set_new(args, "arg", list);
    json_object_set_new(args, "capture-output", json_true());
    char *text = in ? base64_encode(in->data, in->n) : NULL;
    if (text)
        json_object_set_new(args, "input-data", json_string(text));
    free(text);
    int r = agent_do(c, "guest-exec", args, &ret, e);
    if (r < 0)
        return r;
    const json_t *pid = json_object_get(ret, "pid");
    if (json_is_integer(pid))
        r = wait_for_end(c, json_integer_value(pid), x, e);
    else
        r = err_set(e, EPROTO, "the guest agent's answer makes no sense: no process ID");
    json_decref(ret);
    if (r < 0)
        exec_result_free(x);
    return r;
}

void exec_result_free(struct exec_result *x)
{
    free(x->out.data);
    free(x->err.data);
    *x = (struct exec_result){ 0 };
}
