/* SPDX-License-Identifier: MIT */
/*
 * gazda console: this terminal as the serial console of a machine that runs in the background. On a terminal every key
 * is the guest's but Ctrl-A, as in gazda run; the machine goes on when the terminal leaves.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

#include "cli/cli.h"
#include "host/rundir.h"

enum { ESCAPE_KEY = 1, CHUNK = 1024 };

static struct termios saved_mode;
static volatile sig_atomic_t mode_changed;

struct attach {
    int fd;
    bool terminal, escaped, detach, in_end;
    char out[CHUNK]; /* keys that the machine has not taken yet */
    size_t n;
};

static void restore(void)
{
    if (mode_changed)
        tcsetattr(STDIN_FILENO, TCSANOW, &saved_mode);
    mode_changed = 0;
}

static void on_signal(int sig)
{
    restore();
    signal(sig, SIG_DFL);
    raise(sig);
}

static void go_raw(void)
{
    static const int fatal[] = { SIGTERM, SIGHUP, SIGINT, SIGQUIT, SIGSEGV, SIGABRT };
    struct termios raw = saved_mode;
    for (unsigned i = 0; i < ARRAY_LEN(fatal); i++)
        signal(fatal[i], on_signal);
    cfmakeraw(&raw);
    mode_changed = 1;
    tcsetattr(STDIN_FILENO, TCSANOW, &raw);
}

static bool write_all(int fd, const char *p, size_t n)
{
    while (n) {
        ssize_t r = write(fd, p, n);
        if (r < 0 && errno != EINTR)
            return false;
        if (r > 0) {
            p += r;
            n -= (size_t)r;
        }
    }
    return true;
}

static void help(void)
{
    static const char text[] = "\r\nCtrl-A x       leave; the machine goes on\r\nCtrl-A h       this help\r\n"
                               "Ctrl-A Ctrl-A  send Ctrl-A to the guest\r\n";
    write_all(STDERR_FILENO, text, sizeof(text) - 1);
}

/* Takes the keys that are for us out of n bytes in place. */
static size_t filter(struct attach *a, char *p, size_t n)
{
    size_t out = 0;
    if (!a->terminal)
        return n;
    for (size_t i = 0; i < n && !a->detach; i++) {
        bool escaped = a->escaped;
        a->escaped = !escaped && p[i] == ESCAPE_KEY;
        if (a->escaped)
            continue;
        if (!escaped || p[i] == ESCAPE_KEY)
            p[out++] = p[i];
        else if (p[i] == 'x' || p[i] == 'X')
            a->detach = true;
        else if (p[i] == 'h' || p[i] == '?')
            help();
    }
    return out;
}

static void take_keys(struct attach *a)
{
    if (a->n == sizeof(a->out)) /* a guest that takes none loses them, so that the escape key is seen */
        a->n = 0;
    ssize_t r = read(STDIN_FILENO, a->out + a->n, sizeof(a->out) - a->n);
    if (r > 0) {
        a->n += filter(a, a->out + a->n, (size_t)r);
    } else if (r == 0 || errno != EINTR) {
        a->in_end = true; /* output is wanted still */
        shutdown(a->fd, SHUT_WR);
    }
}

static bool send_keys(struct attach *a)
{
    ssize_t r = send(a->fd, a->out, a->n, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (r < 0)
        return errno == EAGAIN || errno == EINTR;
    a->n -= (size_t)r;
    memmove(a->out, a->out + r, a->n);
    return true;
}

/* True: somebody left; false: the machine ended. */
static bool attached(struct attach *a)
{
    char buf[CHUNK];
    while (!a->detach) {
        struct pollfd p[2] = {
            { .fd = a->fd, .events = (short)(POLLIN | (a->n ? POLLOUT : 0)) },
            { .fd = a->in_end || (a->n && !a->terminal) ? -1 : STDIN_FILENO, .events = POLLIN },
        };
        if (poll(p, 2, -1) < 0 && errno != EINTR)
            return false;
        if (p[0].revents & (POLLIN | POLLHUP | POLLERR)) {
            ssize_t r = recv(a->fd, buf, sizeof(buf), MSG_DONTWAIT);
            if (r == 0 || (r < 0 && errno != EAGAIN && errno != EINTR))
                return false;
            if (r > 0 && !write_all(STDOUT_FILENO, buf, (size_t)r))
                return true;
        }
        if ((p[0].revents & POLLOUT) && !send_keys(a))
            return false;
        if (p[1].revents)
            take_keys(a);
    }
    return true;
}

int cli_console(int argc, char **argv)
{
    struct err e = { 0 };
    if (argc == 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0))
        return cli_help_on("console");
    if (argc != 2 || argv[1][0] == '-')
        return cli_usage_error("usage: gazda console NAME");
    struct attach *a = calloc(1, sizeof(*a));
    if (!a)
        return cli_usage_error("out of memory");
    a->fd = rundir_connect(argv[1], "console", &e);
    if (a->fd < 0) {
        bool alive = rundir_alive(argv[1], NULL);
        free(a);
        return alive ? cli_usage_error("the serial console of machine %s is not here to be attached; start the machine "
                                       "with --detach or --serial socket",
                                       argv[1])
                     : cli_fail(&e);
    }
    a->terminal = tcgetattr(STDIN_FILENO, &saved_mode) == 0;
    if (a->terminal) {
        fprintf(stderr, "gazda: this is %s's serial console; Ctrl-A x leaves it, Ctrl-A h shows the keys\r\n", argv[1]);
        go_raw();
    }
    bool left = attached(a);
    restore();
    if (a->terminal)
        fprintf(stderr, "\ngazda: %s %s\n", argv[1], left ? "goes on in the background" : "ended");
    close(a->fd);
    free(a);
    return STATUS_OK;
}
