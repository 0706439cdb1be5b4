/* SPDX-License-Identifier: MIT */
/* Machines by name, and the control socket: what it answers, and clients that do not behave. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/jsonin.h"
#include "base/log.h"
#include "cli/client.h"
#include "host/rundir.h"
#include "vm/control.h"
#include "vm/machine.h"

static char folder[64];

static int make_folder(void **st)
{
    (void)st;
    strcpy(folder, "/tmp/gazda-test-XXXXXX");
    assert_non_null(mkdtemp(folder));
    return setenv("XDG_RUNTIME_DIR", folder, 1);
}
static int remove_folder(void **st)
{
    char path[128];
    (void)st;
    snprintf(path, sizeof(path), "%s/gazda", folder);
    rmdir(path);
    return rmdir(folder); /* fails if anything was left behind */
}

/* ---- names ---- */

static void test_names(void **st)
{
    static const char *const good[] = { "a", "vm1", "A.b_c-d", "_x", "0" };
    static const char *const bad[] = { "", ".", "..", ".a", "-a", "a/b", "a b", "\xc3\xa4", "a\n" };
    char long_name[RUNDIR_NAME_MAX + 2];
    (void)st;
    for (size_t i = 0; i < ARRAY_LEN(good); i++)
        assert_true(rundir_name_ok(good[i]));
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_false(rundir_name_ok(bad[i]));
    memset(long_name, 'a', sizeof(long_name));
    long_name[RUNDIR_NAME_MAX + 1] = '\0';
    assert_false(rundir_name_ok(long_name));
    long_name[RUNDIR_NAME_MAX] = '\0';
    assert_true(rundir_name_ok(long_name));
}

static void test_claims(void **st)
{
    struct err e = { 0 };
    struct rundir_entry *x;
    size_t n;
    pid_t pid = 0;
    (void)st;
    assert_int_equal(rundir_list(&x, &n, &e), 0); /* no folder at all yet */
    assert_int_equal(n, 0);
    struct rundir *a = rundir_claim("alpha", &e);
    assert_non_null(a);
    assert_null(rundir_claim("alpha", &e));
    assert_non_null(strstr(e.text, "alpha is running already"));
    struct rundir *v1 = rundir_claim(NULL, &e), *v2 = rundir_claim(NULL, &e);
    assert_string_equal(rundir_name(v1), "vm1");
    assert_string_equal(rundir_name(v2), "vm2");
    assert_int_equal(rundir_list(&x, &n, &e), 0);
    assert_int_equal(n, 3);
    assert_string_equal(x[0].name, "alpha");
    assert_int_equal(x[0].pid, getpid());
    free(x);
    assert_true(rundir_alive("alpha", &pid));
    assert_int_equal(pid, getpid());
    assert_int_equal(rundir_connect("alpha", "control", &e), -ENOENT);
    assert_int_equal(rundir_connect("beta", "control", &e), -ENOENT);
    assert_non_null(strstr(e.text, "no machine named beta"));
    assert_int_equal(rundir_connect("../x", "control", &e), -ENOENT);
    rundir_release(v1);
    v1 = rundir_claim(NULL, &e);
    assert_string_equal(rundir_name(v1), "vm1");
    rundir_release(v1);
    rundir_release(v2);
    rundir_release(a);
    assert_false(rundir_alive("alpha", NULL));
}

/* What a killed machine left is no machine, and its name is free. */
static void test_dead(void **st)
{
    struct err e = { 0 };
    struct rundir_entry *x;
    char path[128];
    size_t n;
    (void)st;
    for (int again = 0; again < 2; again++) {
        pid_t child = fork();
        if (child == 0) {
            struct rundir *r = rundir_claim("victim", NULL);
            _exit(r && rundir_listen(r, "control", NULL) >= 0 && rundir_open_log(r, "log", NULL) >= 0 ? 0 : 1);
        }
        int status = 1;
        waitpid(child, &status, 0);
        assert_int_equal(status, 0);
        snprintf(path, sizeof(path), "%s/gazda/victim/control", folder);
        assert_int_equal(access(path, F_OK), 0);
        if (again) {
            struct rundir *r = rundir_claim("victim", &e);
            assert_non_null(r);
            int fd = rundir_listen(r, "control", &e);
            assert_true(fd >= 0);
            close(fd);
            rundir_release(r);
        } else {
            assert_int_equal(rundir_list(&x, &n, &e), 0);
            assert_int_equal(n, 0);
        }
        assert_int_equal(access(path, F_OK), -1);
    }
}

/* A folder that others may write to, a file and a link in its place are refused. */
static void test_foreign(void **st)
{
    struct err e = { 0 };
    char path[128];
    (void)st;
    snprintf(path, sizeof(path), "%s/gazda", folder);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(chmod(path, 0750), 0);
    assert_null(rundir_claim("a", &e));
    assert_non_null(strstr(e.text, "0700"));
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(symlink("/tmp", path), 0);
    assert_null(rundir_claim("a", &e));
    assert_int_equal(unlink(path), 0);
    int fd = open(path, O_CREAT | O_WRONLY, 0600);
    close(fd);
    assert_null(rundir_claim("a", &e));
    assert_int_equal(unlink(path), 0);
}

/* ---- the socket ---- */

struct rig {
    struct machine *m;
    struct rundir *dir;
    struct client c;
};

static int load_nothing(void *arg, const struct machine_guest *g, struct err *e)
{
    (void)arg, (void)g, (void)e;
    return 0;
}

static int start(void **st)
{
    struct err e = { 0 };
    struct rig *r = calloc(1, sizeof(*r));
    static const struct machine_config mc = {
        .cpus = 2, .mem_bytes = 16 << 20, .serial = "null", .engine = &engine_interp, .load = load_nothing
    };
    make_folder(st);
    r->dir = rundir_claim("rig", &e);
    r->m = machine_new(&mc, &e);
    assert_non_null(r->m);
    assert_int_equal(control_listen(r->m, rundir_listen(r->dir, "control", &e), "rig", &e), 0);
    assert_int_equal(client_open(&r->c, "rig", &e), 0);
    *st = r;
    return 0;
}
static int stop(void **st)
{
    struct rig *r = *st;
    client_close(&r->c);
    machine_free(r->m);
    rundir_release(r->dir);
    free(r);
    return remove_folder(st);
}

static json_t *call(struct rig *r, const char *command)
{
    json_t *ret = NULL;
    struct err e = { 0 };
    if (client_call(&r->c, command, NULL, &ret, &e) < 0)
        fail_msg("%s: %s", command, e.text);
    return ret;
}
static void check_state(struct rig *r, const char *state)
{
    json_t *j = call(r, "info");
    assert_string_equal(json_string_value(json_object_get(j, "state")), state);
    json_decref(j);
}

static void test_commands(void **st)
{
    struct rig *r = *st;
    struct err e = { 0 };
    json_t *j = call(r, "info");
    assert_string_equal(json_string_value(json_object_get(j, "name")), "rig");
    assert_int_equal(json_integer_value(json_object_get(j, "pid")), getpid());
    assert_int_equal(json_integer_value(json_object_get(j, "cpus")), 2);
    assert_int_equal(json_integer_value(json_object_get(j, "memory_bytes")), 16 << 20);
    json_decref(j);
    check_state(r, "running");
    json_decref(call(r, "pause"));
    json_decref(call(r, "pause"));
    check_state(r, "paused");
    json_decref(call(r, "resume"));
    check_state(r, "running");
    json_decref(call(r, "resume"));
    j = call(r, "stats");
    assert_int_equal(json_array_size(json_object_get(j, "cpus")), 2);
    json_decref(j);
    j = call(r, "powerbutton");
    assert_true(json_is_false(json_object_get(j, "guest_listens")));
    json_decref(j);
    assert_int_equal(client_call(&r->c, "dance", NULL, &j, &e), -EREMOTEIO);
    assert_string_equal(r->c.code, "ENOSYS");
    assert_non_null(strstr(e.text, "dance"));
    check_state(r, "running");
}

static int raw(void)
{
    int fd = rundir_connect("rig", "control", NULL);
    assert_true(fd >= 0);
    return fd;
}

/* Sends a line and returns what comes back up to a newline, or to the end. */
static char *say(int fd, const char *text, size_t n)
{
    static char buf[4096];
    size_t got = 0;
    while (n) {
        ssize_t r = send(fd, text, n, MSG_NOSIGNAL);
        if (r < 0)
            break; /* thrown out in the middle of it */
        text += r;
        n -= (size_t)r;
    }
    while (got < sizeof(buf) - 1) {
        ssize_t r = recv(fd, buf + got, sizeof(buf) - 1 - got, 0);
        if (r <= 0)
            break;
        got += (size_t)r;
        if (buf[got - 1] == '\n')
            break;
    }
    buf[got] = '\0';
    return buf;
}
static bool answers(int fd, const char *line, const char *want)
{
    return strstr(say(fd, line, strlen(line)), want) != NULL;
}

static void test_bad_lines(void **st)
{
    struct rig *r = *st;
    int fd = raw();
    assert_true(answers(fd, "\n", "EINVAL"));
    assert_true(answers(fd, "hello\n", "EINVAL"));
    assert_true(answers(fd, "[1, 2]\n", "not an object"));
    assert_true(answers(fd, "{\"command\": 3, \"id\": 7}\n", "\"id\":7"));
    assert_true(answers(fd, "{\"command\": \"info\", \"arguments\": []}\n", "must be an object"));
    assert_true(answers(fd, "{\"command\": \"info\", \"command\": \"quit\"}\n", "EINVAL"));
    assert_true(answers(fd, "{\"command\": \"in\\u0000fo\"}\n", "EINVAL"));
    assert_true(answers(fd, "{\"command\": \"resume\", \"id\": {\"a\": [1]}}\n", "\"id\":{\"a\":[1]}"));
    static char deep[5002];
    memset(deep, '[', 5000);
    deep[5000] = '\n';
    deep[5001] = '\0';
    assert_true(answers(fd, deep, "deeper"));
    char *wide = malloc(3 * JSONIN_ITEMS + 40);
    strcpy(wide, "{\"command\":[");
    for (int i = 0; i < JSONIN_ITEMS; i++)
        strcat(wide + 3UL * (size_t)i, "[],");
    strcat(wide, "0]}\n");
    assert_true(answers(fd, wide, "more than"));
    free(wide);
    assert_true(answers(fd, "{\"command\": \"resume\"}\n", "return"));
    close(fd);
    check_state(r, "running");
}

/* A line without end, half a line, a client that does not read its answers, and too many clients. */
static void test_bad_clients(void **st)
{
    struct rig *r = *st;
    static const char ask[] = "{\"command\": \"info\"}\n";
    int fd = raw(), many[CONTROL_CLIENTS_MAX + 2];
    size_t len = CONTROL_LINE_MAX + (1 << 20);
    char *line = malloc(len);
    memset(line, 'x', len);
    /* The connection is closed with bytes unread, so that the answer may be lost to the reset: it ends at any rate. */
    say(fd, line, len);
    struct pollfd p = { .fd = fd, .events = POLLIN };
    assert_int_equal(poll(&p, 1, 10000), 1);
    free(line);
    close(fd);
    check_state(r, "running");

    fd = raw();
    assert_int_equal(send(fd, ask, 5, 0), 5); /* and no more */
    int deaf = raw();
    fcntl(deaf, F_SETFL, O_NONBLOCK);
    size_t sent = 0;
    for (int i = 0; i < 100000 && send(deaf, ask, sizeof(ask) - 1, MSG_NOSIGNAL) == sizeof(ask) - 1; i++)
        sent++;
    assert_in_range(sent, 1, 99999); /* it is not read without end either */
    check_state(r, "running");
    close(fd);
    close(deaf);

    usleep(100000);
    for (size_t i = 0; i < ARRAY_LEN(many); i++)
        many[i] = raw();
    unsigned refused = 0;
    for (size_t i = 0; i < ARRAY_LEN(many); i++)
        refused += !answers(many[i], ask, "return");
    assert_in_range(refused, 2, 5);
    for (size_t i = 0; i < ARRAY_LEN(many); i++)
        close(many[i]);
    check_state(r, "running");
}

/* Several requests at once are answered in order, with their ids; the rest of the queue is not lost. */
static void test_pipelined(void **st)
{
    (void)st;
    enum { N = 200 };
    char *text = calloc(1, 64 * N), *got = calloc(1, 64 * N);
    int fd = raw();
    size_t n = 0, have = 0;
    for (int i = 0; i < N; i++)
        n += (size_t)sprintf(text + n, "{\"command\":\"resume\",\"id\":%d}\n", i);
    assert_int_equal(send(fd, text, n, 0), (ssize_t)n);
    for (int lines = 0; lines < N;) {
        ssize_t r = recv(fd, got + have, 64 * N - 1 - have, 0);
        assert_true(r > 0);
        for (ssize_t i = 0; i < r; i++)
            lines += got[have + (size_t)i] == '\n';
        have += (size_t)r;
    }
    const char *at = got;
    for (int i = 0; i < N; i++) {
        char want[32];
        sprintf(want, "\"id\":%d}", i);
        at = strstr(at, want);
        assert_non_null(at);
    }
    close(fd);
    free(text);
    free(got);
}

#define F(f) cmocka_unit_test_setup_teardown(f, make_folder, remove_folder)
#define T(f) cmocka_unit_test_setup_teardown(f, start, stop)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        F(test_claims),
        F(test_dead),
        F(test_foreign),
        T(test_commands),
        T(test_bad_lines),
        T(test_bad_clients),
        T(test_pipelined),
    };
    log_set_level(LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
