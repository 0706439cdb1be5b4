/* SPDX-License-Identifier: MIT */
/* The guest agent's protocol, against agents that are there, late, gone, talkative or mad. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base64.h"
#include "base/log.h"
#include "base/lock.h"
#include "base/loop.h"
#include "base/types.h"
#include "host/chardev.h"
#include "vm/agent.h"

enum { LINE = 1 << 20, SHORT_MS = 300 };

/* What a guest does with a line (or, in `say`, with the request that is no sync). */
struct guest {
    struct loop *loop;
    pthread_t thread;
    struct agent *a;
    struct chardev *ch;
    size_t room; /* of each buffer */
    char line[LINE];
    size_t n;
    bool no_sync;
    _Atomic unsigned syncs, lines, tx_ready;
    void (*say)(struct guest *g, const char *line);
    _Atomic int done, last;
    char text[512]; /* of the last result */
};

static void *loop_main(void *arg)
{
    loop_run(arg);
    return NULL;
}

/* All of it, however little the agent takes at a time; only from the loop's own thread in pieces of an inbox. */
static void put(struct guest *g, const char *text, size_t n)
{
    while (n) {
        size_t k = chardev_write(g->ch, text, n);
        text += k;
        n -= k;
        if (!k)
            usleep(100);
    }
}
static void puts_(struct guest *g, const char *text)
{
    put(g, text, strlen(text));
}

static void on_line(struct guest *g)
{
    char reply[64];
    const char *sync = strstr(g->line, "guest-sync-delimited"), *id = strstr(g->line, "\"id\":");
    g->lines++;
    if (!sync) {
        g->say(g, g->line);
        return;
    }
    g->syncs++;
    assert_true((uint8_t)g->line[0] == 0xff);
    assert_non_null(id);
    if (g->no_sync)
        return;
    snprintf(reply, sizeof(reply), "\xff{\"return\": %lu}\n", strtoul(id + 5, NULL, 10));
    puts_(g, "{\"return\": \"late\"}\n");
    puts_(g, reply);
}

static size_t can_rx(void *arg)
{
    return ((struct guest *)arg)->room;
}
static void rx(void *arg, const void *buf, size_t len)
{
    struct guest *g = arg;
    for (size_t i = 0; i < len; i++) {
        assert_true(g->n < LINE);
        char c = ((const char *)buf)[i];
        if ((uint8_t)c == 0xff)
            g->n = 0;
        g->line[g->n++] = c;
        if (c == '\n') {
            g->line[g->n - 1] = '\0';
            g->n = 0;
            on_line(g);
        }
    }
}
static void tx_ready(void *arg)
{
    ((struct guest *)arg)->tx_ready++;
}

static void say_ok(struct guest *g, const char *line)
{
    (void)line;
    puts_(g, "{\"return\": {}}\n");
}
static void say_nothing(struct guest *g, const char *line)
{
    (void)g, (void)line;
}

static int setup(void **st)
{
    struct guest *g = calloc(1, sizeof(*g));
    g->loop = loop_new();
    g->a = agent_new(g->loop);
    g->ch = agent_chardev(g->a);
    g->room = 4096;
    g->say = say_ok;
    const struct chardev_user u = { .can_rx = can_rx, .rx = rx, .tx_ready = tx_ready, .arg = g };
    chardev_attach(g->ch, &u);
    pthread_create(&g->thread, NULL, loop_main, g->loop);
    *st = g;
    return 0;
}
static int teardown(void **st)
{
    struct guest *g = *st;
    chardev_attach(g->ch, NULL);
    loop_stop(g->loop);
    pthread_join(g->thread, NULL);
    chardev_free(g->ch);
    loop_free(g->loop);
    free(g);
    return 0;
}

/* agent_submit, and what became of it. */
struct waiter {
    struct lock lock;
    pthread_cond_t cond;
    bool over;
    int r;
    json_t *ret;
    char text[256];
};

static void on_called(void *arg, int r, json_t *ret, const char *text)
{
    struct waiter *w = arg;
    lock_take(&w->lock);
    w->r = r;
    w->ret = json_incref(ret);
    snprintf(w->text, sizeof(w->text), "%s", text);
    w->over = true;
    pthread_cond_broadcast(&w->cond);
    lock_drop(&w->lock);
}

static int agent_call(struct agent *a, const struct agent_request *r_in, json_t **ret, struct err *e)
{
    struct waiter w = { 0 };
    struct agent_request q = *r_in;
    q.done = on_called;
    q.arg = &w;
    lock_init(&w.lock, LOCK_MACHINE);
    pthread_cond_init(&w.cond, NULL);
    int r = agent_submit(a, &q, e);
    if (r == 0) {
        lock_take(&w.lock);
        while (!w.over)
            lock_wait(&w.lock, &w.cond, UINT64_MAX);
        lock_drop(&w.lock);
        r = w.r;
        if (r < 0)
            err_set(e, -r, "%s", w.text);
    }
    pthread_cond_destroy(&w.cond);
    lock_destroy(&w.lock);
    if (r == 0 && ret)
        *ret = w.ret;
    else
        json_decref(w.ret);
    return r;
}

static int call_ms(struct guest *g, const char *command, unsigned ms, json_t **ret)
{
    struct err e = { 0 };
    const struct agent_request q = { .command = command, .timeout_ms = ms };
    int r = agent_call(g->a, &q, ret, &e);
    snprintf(g->text, sizeof(g->text), "%s", e.text);
    return r;
}
static int call(struct guest *g, const char *command)
{
    return call_ms(g, command, AGENT_MS, NULL);
}

static void test_absent(void **st)
{
    struct guest *g = *st;
    assert_false(agent_is_open(g->a));
    assert_int_equal(call(g, "guest-ping"), -ENOTCONN);
    assert_non_null(strstr(g->text, "qemu-guest-agent"));
    assert_int_equal(g->lines, 0);
    agent_set_time(g->a); /* does nothing, without a word */
    chardev_opened(g->ch, true);
    assert_true(agent_is_open(g->a));
    assert_int_equal(call(g, "guest-ping"), 0);
}

static void say_value(struct guest *g, const char *line)
{
    assert_non_null(strstr(line, "\"execute\":\"guest-get-time\""));
    puts_(g, "\n{\"retu");
    puts_(g, "rn\": 12");
    puts_(g, "34}\n");
}
static void say_error(struct guest *g, const char *line)
{
    (void)line;
    puts_(g, "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no such thing\"}}\n");
}

static void test_answers(void **st)
{
    struct guest *g = *st;
    json_t *ret = NULL;
    chardev_opened(g->ch, true);
    g->say = say_value;
    assert_int_equal(call_ms(g, "guest-get-time", AGENT_MS, &ret), 0);
    assert_int_equal(json_integer_value(ret), 1234);
    json_decref(ret);
    g->say = say_error;
    assert_int_equal(call(g, "guest-ping"), -EREMOTEIO);
    assert_non_null(strstr(g->text, "no such thing"));
    g->say = say_ok;
    agent_thaw(g->a); /* nobody waits, and what comes next is done next */
    assert_int_equal(call(g, "guest-fsfreeze-status"), 0);
    assert_int_equal(g->lines, 5);
    assert_int_equal(g->syncs, 1); /* nothing was lost, so once is enough */
}

/* Requests reach an agent that reads a few bytes at a time. */
static char seen[512];
static void say_seen(struct guest *g, const char *line)
{
    snprintf(seen, sizeof(seen), "%s", line);
    say_ok(g, line);
}
static void test_small_buffers(void **st)
{
    struct guest *g = *st;
    json_t *args = json_object();
    json_object_set_new(args, "text", json_string("a line with \n and \" in it"));
    const struct agent_request q = { .command = "x", .args = args, .timeout_ms = AGENT_MS };
    g->room = 3;
    g->say = say_seen;
    chardev_opened(g->ch, true);
    assert_int_equal(agent_call(g->a, &q, NULL, NULL), 0);
    assert_string_equal(seen, "{\"execute\":\"x\",\"arguments\":{\"text\":\"a line with \\n and \\\" in it\"}}");
}

static void test_timeout(void **st)
{
    struct guest *g = *st;
    chardev_opened(g->ch, true);
    g->say = say_nothing;
    assert_int_equal(call_ms(g, "guest-slow", SHORT_MS, NULL), -ETIMEDOUT);
    assert_non_null(strstr(g->text, "guest-slow"));
    puts_(g, "{\"return\": \"too late\"}\n");
    g->say = say_value;
    json_t *ret = NULL;
    assert_int_equal(call_ms(g, "guest-get-time", AGENT_MS, &ret), 0);
    assert_int_equal(json_integer_value(ret), 1234);
    json_decref(ret);
    assert_int_equal(g->syncs, 2);
    /* One that does not even synchronise, and one that takes no bytes. */
    g->no_sync = true;
    chardev_opened(g->ch, false);
    chardev_opened(g->ch, true);
    assert_int_equal(call_ms(g, "guest-ping", SHORT_MS, NULL), -ETIMEDOUT);
    g->room = 0;
    assert_int_equal(call_ms(g, "guest-ping", SHORT_MS, NULL), -ETIMEDOUT);
    g->no_sync = false;
    g->room = 100;
    chardev_rx_ready(g->ch);
    g->say = say_ok;
    assert_int_equal(call(g, "guest-ping"), 0);
}

static const char *nonsense;
static void say_nonsense(struct guest *g, const char *line)
{
    (void)line;
    puts_(g, nonsense);
}

static void test_nonsense(void **st)
{
    struct guest *g = *st;
    static const char *const lines[] = { "hello\n",
                                         "{}\n",
                                         "[]\n",
                                         "{\"return\": 1, \"return\": 2}\n",
                                         "{\"ret\n",
                                         "{\"return\": \"\xc3\x28\"}\n",
                                         "{\"return\": [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["
                                         "]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]}\n" };
    chardev_opened(g->ch, true);
    for (size_t i = 0; i < ARRAY_LEN(lines); i++) {
        nonsense = lines[i];
        g->say = say_nonsense;
        assert_int_equal(call(g, "guest-ping"), -EPROTO);
        g->say = say_ok;
        assert_int_equal(call(g, "guest-ping"), 0);
        assert_int_equal(g->syncs, i + 2);
    }
    nonsense = "{\"error\": 7}\n";
    g->say = say_nonsense;
    assert_int_equal(call(g, "guest-ping"), -EREMOTEIO);
    /* Talking without being asked is forgiven, and no answer to what is asked next. */
    puts_(g, "{\"return\": \"unasked\"}\n");
    g->say = say_ok;
    assert_int_equal(call(g, "guest-ping"), 0);
}

static size_t long_size;
static void *long_main(void *arg)
{
    struct guest *g = arg;
    char *x = malloc(long_size);
    memset(x, 'A', long_size);
    puts_(g, "{\"return\": {\"out-data\": \"");
    put(g, x, long_size);
    puts_(g, "\"}}\n");
    free(x);
    return NULL;
}
/* From another thread, as a vCPU would: the loop's must be free to take it. */
static pthread_t long_thread;
static void say_long(struct guest *g, const char *line)
{
    (void)line;
    pthread_create(&long_thread, NULL, long_main, g);
}

static void test_long(void **st)
{
    struct guest *g = *st;
    json_t *ret = NULL;
    chardev_opened(g->ch, true);
    g->say = say_long;
    long_size = 5 << 20;
    assert_int_equal(call_ms(g, "guest-exec-status", AGENT_MS, &ret), 0);
    pthread_join(long_thread, NULL);
    assert_int_equal(json_string_length(json_object_get(ret, "out-data")), long_size);
    json_decref(ret);
    assert_true(g->tx_ready > 0); /* the device had to wait, and was told */
    assert_int_equal(call(g, "guest-info"), -EMSGSIZE);
    pthread_join(long_thread, NULL);
    long_size = AGENT_OUTPUT_MAX;
    assert_int_equal(call(g, "guest-exec-status"), -EMSGSIZE);
    pthread_join(long_thread, NULL);
    g->say = say_ok;
    assert_int_equal(call(g, "guest-ping"), 0);
}

static void say_goodbye(struct guest *g, const char *line)
{
    (void)line;
    puts_(g, "{\"return\"");
    chardev_opened(g->ch, false);
}

static void test_restart(void **st)
{
    struct guest *g = *st;
    chardev_opened(g->ch, true);
    assert_int_equal(call(g, "guest-ping"), 0);
    g->say = say_goodbye;
    assert_int_equal(call(g, "guest-ping"), -ENOTCONN);
    assert_int_equal(call(g, "guest-ping"), -ENOTCONN);
    g->say = say_ok;
    chardev_opened(g->ch, true);
    assert_int_equal(call(g, "guest-ping"), 0);
    assert_int_equal(g->syncs, 2);
}

static void on_done(void *arg, int r, json_t *ret, const char *text)
{
    struct guest *g = arg;
    (void)ret, (void)text;
    g->last = r;
    g->done++;
}

static void test_queue(void **st)
{
    struct guest *g = *st;
    chardev_opened(g->ch, true);
    g->say = say_nothing;
    for (int i = 0; i < AGENT_QUEUE_MAX + 1; i++) {
        const struct agent_request q = { .command = "wait", .timeout_ms = AGENT_MS, .done = on_done, .arg = g };
        assert_int_equal(agent_submit(g->a, &q, NULL), 0);
    }
    while (!g->done)
        usleep(1000);
    assert_int_equal(g->last, -EBUSY);
    json_t *args = json_object();
    char *big = malloc(AGENT_REQUEST_MAX + 1);
    memset(big, 'x', AGENT_REQUEST_MAX);
    big[AGENT_REQUEST_MAX] = '\0';
    json_object_set_new(args, "text", json_string(big));
    const struct agent_request q = { .command = "big", .args = args, .timeout_ms = AGENT_MS };
    assert_int_equal(agent_submit(g->a, &q, NULL), -EMSGSIZE);
    free(big);
    /* The end answers all who still wait. */
    chardev_attach(g->ch, NULL);
    loop_stop(g->loop);
    pthread_join(g->thread, NULL);
    chardev_free(g->ch);
    assert_int_equal(g->done, AGENT_QUEUE_MAX + 1);
    assert_int_equal(g->last, -ECANCELED);
    loop_free(g->loop);
    free(g);
}

/* ---- an agent that says anything ---- */

static uint64_t seed = 1;
static uint64_t rnd(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    return seed ^= seed << 17;
}

static void say_anything(struct guest *g, const char *line)
{
    static const char *const parts[] = { "{\"return\": ",
                                         "{}",
                                         "}",
                                         "\n",
                                         "\xff",
                                         "[",
                                         "]",
                                         "{",
                                         "\"",
                                         "\\",
                                         "\\u0000",
                                         "1e999",
                                         "{\"error\":",
                                         "null",
                                         ",",
                                         ":",
                                         "{\"return\": {}}\n",
                                         "{\"error\": {\"desc\": \"x\"}}\n",
                                         "\"desc\"",
                                         "-",
                                         "99999999999999999999" };
    char one[2] = { 0 };
    (void)line;
    for (unsigned k = (unsigned)(rnd() % 40); k; k--) {
        if (rnd() % 4) {
            puts_(g, parts[rnd() % ARRAY_LEN(parts)]);
        } else {
            one[0] = (char)rnd();
            put(g, one, 1);
        }
    }
    if (rnd() % 16 == 0) {
        chardev_opened(g->ch, false);
        chardev_opened(g->ch, true);
    } else if (rnd() % 8) {
        puts_(g, "\n{}\n");
    }
}

static void test_anything(void **st)
{
    struct guest *g = *st;
    chardev_opened(g->ch, true);
    for (int i = 0; i < 2000; i++) {
        g->say = say_anything;
        g->room = 1 + rnd() % 200;
        call_ms(g, rnd() & 1 ? "guest-exec-status" : "guest-ping", 20, NULL);
        if (i % 50)
            continue;
        g->say = say_ok;
        chardev_opened(g->ch, true);
        assert_int_equal(call(g, "guest-ping"), 0); /* it is found again, whatever it said */
    }
}

static void test_base64(void **st)
{
    static const char *const bad[] = { "A", "AA", "AAA", "A===", "====", "AA=A", "A-AA", "AAAA=" };
    uint8_t data[64];
    size_t n = 0;
    (void)st;
    for (size_t len = 0; len < sizeof(data); len++) {
        for (size_t i = 0; i < len; i++)
            data[i] = (uint8_t)(i * 37 + len);
        char *text = base64_encode(data, len);
        uint8_t *back = base64_decode(text, &n);
        assert_int_equal(n, len);
        assert_memory_equal(back, data, len);
        free(text);
        free(back);
    }
    char *text = base64_encode("\xfb\xff\xfe~", 4);
    assert_string_equal(text, "+//+fg==");
    free(text);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_null(base64_decode(bad[i], &n));
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_absent),        T(test_answers),
        T(test_small_buffers), T(test_timeout),
        T(test_nonsense),      T(test_long),
        T(test_restart),       cmocka_unit_test_setup(test_queue, setup),
        T(test_anything),      cmocka_unit_test(test_base64),
    };
    log_set_level(LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
