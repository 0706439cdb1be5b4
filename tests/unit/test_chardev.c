/* SPDX-License-Identifier: MIT */
/* Character back ends against real pipes, sockets, files and pseudo-terminals, with the loop in a thread. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "base/lock.h"
#include "base/loop.h"
#include "host/chardev.h"

enum { SINK = 1 << 20 };

/* A device: takes what fits below limit. */
struct sink {
    struct lock lock;
    pthread_cond_t cond;
    size_t n, limit;
    unsigned tx_ready, quits;
    uint8_t buf[SINK];
};

struct rig {
    struct loop *l;
    pthread_t thread;
    struct chardev *ch;
    struct sink *sink;
    char dir[64], path[96];
};

static size_t sink_can(void *arg)
{
    struct sink *k = arg;
    lock_take(&k->lock);
    size_t room = k->limit - k->n;
    lock_drop(&k->lock);
    return room;
}
static void sink_rx(void *arg, const void *buf, size_t n)
{
    struct sink *k = arg;
    lock_take(&k->lock);
    assert_true(n <= k->limit - k->n);
    memcpy(k->buf + k->n, buf, n);
    k->n += n;
    pthread_cond_broadcast(&k->cond);
    lock_drop(&k->lock);
}
static void sink_ready(void *arg)
{
    struct sink *k = arg;
    lock_take(&k->lock);
    k->tx_ready++;
    pthread_cond_broadcast(&k->cond);
    lock_drop(&k->lock);
}
static void sink_quit(void *arg)
{
    struct sink *k = arg;
    lock_take(&k->lock);
    k->quits++;
    pthread_cond_broadcast(&k->cond);
    lock_drop(&k->lock);
}

static void *run(void *l)
{
    loop_run(l);
    return NULL;
}

static void rig_open(struct rig *r, const char *spec)
{
    struct err e = { 0 };
    r->l = loop_new();
    r->sink = calloc(1, sizeof(*r->sink));
    r->sink->limit = SINK;
    lock_init(&r->sink->lock, LOCK_DEVICE);
    pthread_cond_init(&r->sink->cond, NULL);
    const struct chardev_env env = { .loop = r->l, .quit = sink_quit, .arg = r->sink };
    r->ch = chardev_open(spec, &env, &e);
    if (!r->ch)
        fail_msg("%s: %s", spec, e.text);
    const struct chardev_user u = { .can_rx = sink_can, .rx = sink_rx, .tx_ready = sink_ready, .arg = r->sink };
    chardev_attach(r->ch, &u);
    pthread_create(&r->thread, NULL, run, r->l);
}

static void rig_close(struct rig *r)
{
    chardev_attach(r->ch, NULL);
    loop_stop(r->l);
    pthread_join(r->thread, NULL);
    chardev_free(r->ch);
    loop_free(r->l);
    pthread_cond_destroy(&r->sink->cond);
    lock_destroy(&r->sink->lock);
    free(r->sink);
}

static void rig_path(struct rig *r, const char *name)
{
    strcpy(r->dir, "/tmp/gazda-test-XXXXXX");
    assert_non_null(mkdtemp(r->dir));
    snprintf(r->path, sizeof(r->path), "%s/%s", r->dir, name);
}
static void rig_unpath(struct rig *r)
{
    unlink(r->path);
    rmdir(r->dir);
}

static void wait_input(struct sink *k, size_t n)
{
    lock_take(&k->lock);
    while (k->n < n)
        lock_wait(&k->lock, &k->cond, UINT64_MAX);
    lock_drop(&k->lock);
}

static int dial(const char *path)
{
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    strcpy(a.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
    return fd;
}

static void read_all(int fd, char *buf, size_t n)
{
    for (size_t k = 0; k < n;) {
        ssize_t r = read(fd, buf + k, n - k);
        assert_true(r > 0);
        k += (size_t)r;
    }
}

static char *spec_of(struct rig *r, const char *kind, char *out, size_t n)
{
    snprintf(out, n, "%s:%s", kind, r->path);
    return out;
}

static void test_bad_names(void **st)
{
    static const char *const bad[] = { "",       "std",  "file:", "unix:", "file:/nonexistent/x", "unix:/nonexistent/x",
                                       "file:/", "pty:1" };
    struct loop *l = loop_new();
    const struct chardev_env env = { .loop = l };
    (void)st;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct err e = { 0 };
        assert_null(chardev_open(bad[i], &env, &e));
        assert_true(strlen(e.text) > 10);
    }
    char longname[200] = "unix:/tmp/";
    memset(longname + 10, 'x', 150);
    struct err e = { 0 };
    assert_null(chardev_open(longname, &env, &e));
    assert_non_null(strstr(e.text, "longer than"));
    loop_free(l);
}

static void test_null(void **st)
{
    struct rig r;
    (void)st;
    rig_open(&r, "null");
    assert_int_equal(chardev_write(r.ch, "abc", 3), 3);
    rig_close(&r);
}

static void test_file(void **st)
{
    struct rig r;
    char spec[128], buf[16];
    (void)st;
    rig_path(&r, "out");
    rig_open(&r, spec_of(&r, "file", spec, sizeof(spec)));
    assert_int_equal(chardev_write(r.ch, "hello ", 6), 6);
    assert_int_equal(chardev_write(r.ch, "world", 5), 5);
    rig_close(&r);
    int fd = open(r.path, O_RDONLY);
    assert_int_equal(read(fd, buf, sizeof(buf)), 11);
    assert_memory_equal(buf, "hello world", 11);
    close(fd);
    rig_unpath(&r);
}

static void test_fifo_stalls(void **st)
{
    struct rig r;
    static const char block[4096];
    char spec[128];
    size_t taken = 0;
    (void)st;
    rig_path(&r, "fifo");
    assert_int_equal(mkfifo(r.path, 0600), 0);
    int rd = open(r.path, O_RDONLY | O_NONBLOCK);
    rig_open(&r, spec_of(&r, "file", spec, sizeof(spec)));
    /* A reader that does not read: bounded, refused, never blocking. */
    for (int i = 0; i < 1000; i++)
        taken += chardev_write(r.ch, block, sizeof(block));
    assert_true(taken < 512 * 1024);
    assert_int_equal(chardev_write(r.ch, block, 1), 0);
    /* It reads: the device is told, and all that was taken arrives. */
    fcntl(rd, F_SETFL, 0);
    char *all = malloc(taken);
    read_all(rd, all, taken);
    free(all);
    lock_take(&r.sink->lock);
    while (!r.sink->tx_ready)
        lock_wait(&r.sink->lock, &r.sink->cond, UINT64_MAX);
    lock_drop(&r.sink->lock);
    assert_int_equal(chardev_write(r.ch, block, 1), 1);
    /* It goes away: output is dropped. */
    close(rd);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(chardev_write(r.ch, block, sizeof(block)), sizeof(block));
    rig_close(&r);
    rig_unpath(&r);
}

static void test_unix(void **st)
{
    struct rig r;
    char spec[128], buf[64];
    (void)st;
    rig_path(&r, "sock");
    rig_open(&r, spec_of(&r, "unix", spec, sizeof(spec)));
    /* Nobody there: taken; the first client sees it. */
    assert_int_equal(chardev_write(r.ch, "early ", 6), 6);
    int c = dial(r.path);
    read_all(c, buf, 6);
    assert_memory_equal(buf, "early ", 6);
    assert_int_equal(write(c, "input", 5), 5);
    wait_input(r.sink, 5);
    assert_memory_equal(r.sink->buf, "input", 5);
    assert_int_equal(chardev_write(r.ch, "out", 3), 3);
    read_all(c, buf, 3);
    /* A second client waits its turn, and gets nothing from before. */
    int c2 = dial(r.path);
    struct pollfd p = { .fd = c2, .events = POLLIN };
    assert_int_equal(write(c2, "later", 5), 5);
    assert_int_equal(poll(&p, 1, 50), 0);
    close(c);
    wait_input(r.sink, 10);
    assert_memory_equal(r.sink->buf, "inputlater", 10);
    assert_int_equal(chardev_write(r.ch, "x", 1), 1);
    read_all(c2, buf, 1);
    /* Half closed: output still goes there. */
    shutdown(c2, SHUT_WR);
    usleep(20000);
    assert_int_equal(chardev_write(r.ch, "y", 1), 1);
    read_all(c2, buf, 1);
    close(c2);
    int c3 = dial(r.path);
    assert_int_equal(write(c3, "3", 1), 1);
    wait_input(r.sink, 11);
    rig_close(&r);
    assert_int_equal(read(c3, buf, 1), 0);
    close(c3);
    assert_int_equal(access(r.path, F_OK), -1); /* removed */
    rig_unpath(&r);
}

/* Input beyond what the device takes stays with the client: n KiB of it, taken bit by bit. */
static void test_flow(const char *kind, size_t n)
{
    struct rig r;
    char spec[128], block[1024];
    rig_path(&r, "sock");
    rig_open(&r, spec_of(&r, kind, spec, sizeof(spec)));
    lock_take(&r.sink->lock);
    r.sink->limit = 100;
    lock_drop(&r.sink->lock);
    int c = dial(r.path);
    for (size_t i = 0; i < sizeof(block); i++)
        block[i] = (char)(i * 7);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(write(c, block, sizeof(block)), sizeof(block));
    wait_input(r.sink, 100);
    for (size_t lim = 200; lim < n * 1024 + 4000; lim += 3000) {
        lock_take(&r.sink->lock);
        r.sink->limit = lim;
        chardev_rx_ready(r.ch); /* with the device's lock held, as devices do */
        lock_drop(&r.sink->lock);
        wait_input(r.sink, lim < n * 1024 ? lim : n * 1024);
    }
    for (size_t i = 0; i < n * 1024; i++)
        assert_int_equal(r.sink->buf[i], (uint8_t)(i % 1024 * 7));
    close(c);
    rig_close(&r);
    rig_unpath(&r);
}

static void test_unix_flow(void **st)
{
    (void)st;
    test_flow("unix", 64);
}

static void test_socket_flow(void **st)
{
    (void)st;
    test_flow("socket", 16);
}

/* Several clients: each is shown what came before it, all are heard, none holds up the rest. */
static void test_socket(void **st)
{
    enum { RING = 65536, MANY = 8 };
    struct rig r;
    char spec[128];
    static char buf[RING], block[1000];
    int c[MANY + 1];
    (void)st;
    rig_path(&r, "sock");
    rig_open(&r, spec_of(&r, "socket", spec, sizeof(spec)));
    assert_int_equal(chardev_write(r.ch, "early ", 6), 6);
    int a = dial(r.path);
    read_all(a, buf, 6);
    assert_memory_equal(buf, "early ", 6);
    assert_int_equal(chardev_write(r.ch, "more", 4), 4);
    int b = dial(r.path);
    read_all(a, buf, 4);
    read_all(b, buf, 10);
    assert_memory_equal(buf, "early more", 10);
    assert_int_equal(write(a, "from a", 6), 6);
    wait_input(r.sink, 6);
    assert_int_equal(write(b, "from b", 6), 6);
    wait_input(r.sink, 12);
    assert_memory_equal(r.sink->buf, "from afrom b", 12);
    close(b);
    /* a reads nothing: all is taken, and the newest is what a newcomer sees. */
    for (int i = 0; i < 2000; i++) {
        memset(block, 'a' + i % 26, sizeof(block));
        assert_int_equal(chardev_write(r.ch, block, sizeof(block)), sizeof(block));
    }
    b = dial(r.path);
    read_all(b, buf, RING);
    for (int i = 0; i < RING; i++)
        assert_int_equal(buf[i], 'a' + (2000000 - RING + i) / 1000 % 26);
    /* a has lost what was overwritten before its socket took it, and goes on with the newest. */
    struct pollfd p = { .fd = a, .events = POLLIN };
    size_t total = 0;
    while (poll(&p, 1, 300) > 0) {
        ssize_t n = read(a, block, sizeof(block));
        assert_true(n > 0);
        total += (size_t)n;
        block[0] = block[n - 1];
    }
    assert_in_range(total, RING, 1000000);
    assert_int_equal(block[0], 'a' + 1999 % 26);
    /* One that has sent all it has to say still listens. */
    shutdown(b, SHUT_WR);
    usleep(20000);
    assert_int_equal(chardev_write(r.ch, "!", 1), 1);
    read_all(b, buf, 1);
    close(a);
    close(b);
    /* Places are given back, also of those that left without a word. */
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < MANY; i++) {
            c[i] = dial(r.path);
            read_all(c[i], buf, RING);
        }
        c[MANY] = dial(r.path);
        assert_int_equal(read(c[MANY], buf, 1), 0); /* one too many */
        for (int i = 0; i <= MANY; i++)
            close(c[i]);
    }
    a = dial(r.path);
    read_all(a, buf, RING);
    rig_close(&r);
    assert_int_equal(read(a, buf, 1), 0);
    close(a);
    assert_int_equal(access(r.path, F_OK), -1);
    rig_unpath(&r);
}

static void test_unix_names(void **st)
{
    struct rig r, r2 = { 0 };
    char spec[128];
    struct err e = { 0 };
    (void)st;
    rig_path(&r, "sock");
    rig_open(&r, spec_of(&r, "unix", spec, sizeof(spec)));
    /* In use: refused. */
    r2.l = loop_new();
    const struct chardev_env env = { .loop = r2.l };
    assert_null(chardev_open(spec, &env, &e));
    assert_non_null(strstr(e.text, "another process listens"));
    rig_close(&r);
    /* Left behind by a process that died: taken over. */
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    strcpy(a.sun_path, r.path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
    close(fd);
    rig_open(&r, spec);
    rig_close(&r);
    /* Somebody's file: left alone. */
    fd = open(r.path, O_CREAT | O_WRONLY, 0600);
    close(fd);
    memset(&e, 0, sizeof(e));
    assert_null(chardev_open(spec, &env, &e));
    assert_non_null(strstr(e.text, "a file of that name exists"));
    assert_int_equal(access(r.path, F_OK), 0);
    loop_free(r2.l);
    rig_unpath(&r);
}

/* Catches the name that the pty back end prints. */
static void open_pty(struct rig *r, char *name)
{
    int p[2], saved = dup(2);
    assert_int_equal(pipe(p), 0);
    dup2(p[1], 2);
    rig_open(r, "pty");
    dup2(saved, 2);
    close(saved);
    close(p[1]);
    char line[256] = { 0 };
    assert_true(read(p[0], line, sizeof(line) - 1) > 0);
    close(p[0]);
    char *at = strstr(line, "/dev/pts/");
    assert_non_null(at);
    at[strcspn(at, "\n")] = 0;
    snprintf(name, 64, "%.60s", at);
}

static void test_pty(void **st)
{
    struct rig r;
    char name[64], buf[64];
    (void)st;
    open_pty(&r, name);
    assert_int_equal(chardev_write(r.ch, "early", 5), 5);
    for (int round = 0; round < 2; round++) {
        int fd = open(name, O_RDWR | O_NOCTTY);
        assert_true(fd >= 0);
        if (round == 0)
            read_all(fd, buf, 5);
        assert_int_equal(write(fd, "in\r\x03", 4), 4); /* raw: not touched, not echoed */
        wait_input(r.sink, 4 * ((size_t)round + 1));
        assert_memory_equal(r.sink->buf + 4 * round, "in\r\x03", 4);
        assert_int_equal(chardev_write(r.ch, "out\n", 4), 4);
        read_all(fd, buf, 4);
        assert_memory_equal(buf, "out\n", 4);
        close(fd);
        usleep(50000);
        assert_int_equal(chardev_write(r.ch, "lost", 4), 4);
    }
    rig_close(&r);
}

/* Runs fn in a child whose stdin and stdout are given; returns its exit status. */
static int in_child(int in, int out, int (*fn)(void))
{
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        alarm(60);
        if (in >= 0)
            dup2(in, 0);
        else
            close(0);
        if (out >= 0)
            dup2(out, 1);
        else
            close(1);
        _exit(fn());
    }
    int status = -1;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + status;
}

static int child_echo(void)
{
    struct rig r;
    rig_open(&r, "stdio");
    wait_input(r.sink, 6);
    size_t k = chardev_write(r.ch, r.sink->buf, 6);
    /* The end of the input is nothing special. */
    usleep(20000);
    k += chardev_write(r.ch, "!", 1);
    rig_close(&r);
    return (int)k;
}

static void test_stdio_pipes(void **st)
{
    int in[2], out[2];
    char buf[16];
    (void)st;
    assert_int_equal(pipe(in), 0);
    assert_int_equal(pipe(out), 0);
    assert_int_equal(write(in[1], "\x01xyz\x01h", 6), 6); /* no escape key in a pipe */
    close(in[1]);
    assert_int_equal(in_child(in[0], out[1], child_echo), 7);
    close(out[1]);
    read_all(out[0], buf, 7);
    assert_memory_equal(buf, "\x01xyz\x01h!", 7);
    assert_int_equal(fcntl(in[0], F_GETFL) & O_NONBLOCK, 0);
    close(in[0]);
    close(out[0]);
}

static void test_stdio_files(void **st)
{
    struct rig r;
    char buf[16];
    (void)st;
    rig_path(&r, "in");
    int in = open(r.path, O_RDWR | O_CREAT, 0600);
    assert_int_equal(write(in, "skip123456", 10), 10);
    lseek(in, 4, SEEK_SET);
    int out[2];
    assert_int_equal(pipe(out), 0);
    assert_int_equal(in_child(in, out[1], child_echo), 7);
    read_all(out[0], buf, 7);
    assert_memory_equal(buf, "123456!", 7);
    close(in), close(out[0]), close(out[1]);
    rig_unpath(&r);
}

static int child_closed(void)
{
    struct rig r;
    rig_open(&r, "stdio");
    int n = (int)chardev_write(r.ch, "abc", 3);
    usleep(20000);
    n += (int)chardev_write(r.ch, "abc", 3);
    rig_close(&r);
    return n;
}

static void test_stdio_closed(void **st)
{
    int p[2];
    (void)st;
    assert_int_equal(pipe(p), 0);
    close(p[0]); /* like `gazda run | head`, later */
    int devnull = open("/dev/null", O_RDWR);
    assert_int_equal(in_child(devnull, p[1], child_closed), 6);
    close(p[1]);
    close(devnull);
}

static int child_terminal(void)
{
    struct rig r;
    struct termios t;
    rig_open(&r, "stdio");
    if (tcgetattr(0, &t) != 0 || (t.c_lflag & (ICANON | ISIG | ECHO)))
        return 100;
    if (chardev_write(r.ch, "ready", 5) != 5)
        return 101;
    lock_take(&r.sink->lock);
    while (!r.sink->quits)
        lock_wait(&r.sink->lock, &r.sink->cond, UINT64_MAX);
    int bad = r.sink->n != 4 || memcmp(r.sink->buf,
                                       "a\x03\x01"
                                       "b",
                                       4) != 0;
    lock_drop(&r.sink->lock);
    rig_close(&r);
    return bad ? 102 : 42;
}

static int child_dies(void)
{
    struct rig r;
    rig_open(&r, "stdio");
    if (chardev_write(r.ch, "ready", 5) != 5)
        return 101;
    struct sigaction sa;
    sigaction(SIGABRT, NULL, &sa);
    abort();
}

struct terminal {
    int master, slave;
    struct termios before;
};

static void *type_keys(void *arg)
{
    const struct terminal *t = arg;
    char buf[8];
    read_all(t->master, buf, 5);
    ssize_t n = write(t->master, "a\x03\x01\x01\x01qb\x01x", 9);
    (void)n;
    return NULL;
}

static void test_stdio_terminal(void **st)
{
    struct terminal t;
    struct termios after;
    pthread_t th;
    char name[64];
    (void)st;
    for (int dies = 0; dies < 2; dies++) {
        t.master = posix_openpt(O_RDWR | O_NOCTTY);
        assert_int_equal(grantpt(t.master) | unlockpt(t.master), 0);
        assert_int_equal(ptsname_r(t.master, name, sizeof(name)), 0);
        t.slave = open(name, O_RDWR | O_NOCTTY);
        assert_int_equal(tcgetattr(t.slave, &t.before), 0);
        assert_true(t.before.c_lflag & ICANON);
        pthread_create(&th, NULL, type_keys, &t);
        int r = in_child(t.slave, t.slave, dies ? child_dies : child_terminal);
        pthread_join(th, NULL);
        if (dies)
            assert_true(r != 101);
        else
            assert_int_equal(r, 42);
        assert_int_equal(tcgetattr(t.slave, &after), 0);
        assert_int_equal(after.c_lflag, t.before.c_lflag);
        assert_int_equal(after.c_iflag, t.before.c_iflag);
        assert_int_equal(after.c_oflag, t.before.c_oflag);
        close(t.slave);
        close(t.master);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bad_names),    cmocka_unit_test(test_null),           cmocka_unit_test(test_file),
        cmocka_unit_test(test_fifo_stalls),  cmocka_unit_test(test_unix),           cmocka_unit_test(test_unix_flow),
        cmocka_unit_test(test_socket),       cmocka_unit_test(test_socket_flow),    cmocka_unit_test(test_unix_names),
        cmocka_unit_test(test_pty),          cmocka_unit_test(test_stdio_pipes),    cmocka_unit_test(test_stdio_files),
        cmocka_unit_test(test_stdio_closed), cmocka_unit_test(test_stdio_terminal),
    };
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
