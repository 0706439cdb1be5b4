/* SPDX-License-Identifier: MIT */
/*
 * stdio: the terminal (or whatever stdin and stdout are) as the guest's serial port. A terminal is put into raw mode,
 * so Ctrl-C and friends belong to the guest; Ctrl-A is the escape key: Ctrl-A x quits, Ctrl-A h helps, Ctrl-A Ctrl-A
 * sends one. In a pipe every byte is the guest's. While the process is in the terminal's background nothing is read
 * and the mode is left alone.
 *
 * The terminal's size is looked at again when SIGWINCH comes: through a descriptor, so it must be blocked in all
 * threads.
 *
 * The terminal's old mode is process-wide state that signal handlers need: the one exception to "no globals" here.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include "host/stream.h"

enum { ESCAPE_KEY = 1 }; /* Ctrl-A */

static struct {
    _Atomic bool taken; /* one stdio back end a process */
    _Atomic bool raw;   /* restore has something to do */
    struct termios saved, mode;
    struct sigaction old_cont;
} tty;

struct stdio {
    struct stream s; /* first */
    bool terminal;   /* stdin is one */
    bool escaped;    /* the last key was Ctrl-A */
    bool want_quit, want_help;
    int winch; /* signalfd, -1 = none */
    struct loop_fd *winch_watch;
    int flags[2]; /* what the descriptions of 0 and 1 had, -1 = untouched */
};

static bool foreground(void)
{
    pid_t p = tcgetpgrp(STDIN_FILENO);
    return p < 0 || p == getpgrp();
}

void chardev_stdio_restore(void)
{
    if (atomic_exchange(&tty.raw, false))
        tcsetattr(STDIN_FILENO, TCSANOW, &tty.saved);
}

static void go_raw(void)
{
    if (!foreground())
        return;
    atomic_store(&tty.raw, true);
    tcsetattr(STDIN_FILENO, TCSANOW, &tty.mode);
}

static void on_fatal_signal(int sig)
{
    chardev_stdio_restore();
    signal(sig, SIG_DFL);
    raise(sig);
}

/* Stopped and continued: the shell gave the terminal its own mode meanwhile. */
static void on_cont(int sig)
{
    int saved = errno;
    (void)sig;
    if (atomic_load(&tty.raw))
        go_raw();
    errno = saved;
}

/* Engines may own some of these signals: theirs stay, and they call chardev_stdio_restore themselves. */
static void catch_signals(void)
{
    static const int fatal[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGQUIT, SIGTERM, SIGHUP, SIGINT };
    struct sigaction old, sa = { .sa_handler = on_fatal_signal, .sa_flags = SA_NODEFER };
    sigemptyset(&sa.sa_mask);
    for (unsigned i = 0; i < sizeof(fatal) / sizeof(fatal[0]); i++)
        if (sigaction(fatal[i], NULL, &old) == 0 && !(old.sa_flags & SA_SIGINFO) && old.sa_handler == SIG_DFL)
            sigaction(fatal[i], &sa, NULL);
    sa = (struct sigaction){ .sa_handler = on_cont, .sa_flags = SA_RESTART };
    sigaction(SIGCONT, &sa, &tty.old_cont);
}

static void help(void)
{
    static const char text[] = "\r\nCtrl-A x       quit\r\nCtrl-A h       this help\r\n"
                               "Ctrl-A Ctrl-A  send Ctrl-A to the guest\r\n";
    ssize_t r = write(STDERR_FILENO, text, sizeof(text) - 1);
    (void)r;
}

static size_t stdio_filter(struct stream *s, uint8_t *buf, size_t n)
{
    struct stdio *t = (struct stdio *)s;
    size_t out = 0;
    if (!t->terminal)
        return n;
    for (size_t i = 0; i < n; i++) {
        uint8_t c = buf[i];
        if (!t->escaped) {
            if (c == ESCAPE_KEY)
                t->escaped = true;
            else
                buf[out++] = c;
            continue;
        }
        t->escaped = false;
        if (c == 'x' || c == 'X')
            t->want_quit = true;
        else if (c == 'h' || c == '?')
            t->want_help = true;
        else if (c == ESCAPE_KEY)
            buf[out++] = c;
        /* any other key after Ctrl-A does nothing */
    }
    return out;
}

static void stdio_after_read(struct stream *s)
{
    struct stdio *t = (struct stdio *)s;
    if (t->want_help)
        help();
    t->want_help = false;
    if (t->want_quit && s->env.quit)
        s->env.quit(s->env.arg);
    t->want_quit = false;
}

/* A background job must not read: see whether the terminal came back, and take it over then. */
static void stdio_tick(struct stream *s)
{
    if (!foreground()) {
        stream_poll_later(s);
        return;
    }
    go_raw();
    stream_hold_input(s, false);
}

static bool stdio_may_read(struct stream *s)
{
    if (!((struct stdio *)s)->terminal || foreground())
        return true;
    stream_hold_input(s, true);
    stream_poll_later(s);
    return false;
}

static void stdio_size(const struct stream *s, uint16_t *cols, uint16_t *rows)
{
    struct winsize w;
    if (!((const struct stdio *)s)->terminal || ioctl(STDIN_FILENO, TIOCGWINSZ, &w) < 0)
        return;
    *cols = w.ws_col;
    *rows = w.ws_row;
}

static void on_winch(void *arg, unsigned events)
{
    struct stdio *t = arg;
    struct signalfd_siginfo info;
    (void)events;
    while (read(t->winch, &info, sizeof(info)) > 0)
        ;
    stream_changed(&t->s);
}

static void watch_size(struct stdio *t)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGWINCH);
    t->winch = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    if (t->winch >= 0)
        t->winch_watch = loop_fd_add(t->s.env.loop, t->winch, LOOP_IN, on_winch, t);
}

static void stdio_closing(struct stream *s)
{
    struct stdio *t = (struct stdio *)s;
    loop_fd_del(t->winch_watch);
    if (t->winch >= 0)
        close(t->winch);
    chardev_stdio_restore();
    for (int i = 0; i < 2; i++)
        if (t->flags[i] >= 0)
            fcntl(i, F_SETFL, t->flags[i]);
    if (t->terminal)
        sigaction(SIGCONT, &tty.old_cont, NULL);
    atomic_store(&tty.taken, false);
}

static void stdio_fini(struct stream *s)
{
    free(s);
}

static const struct stream_kind stdio_kind = {
    .filter = stdio_filter,
    .after_read = stdio_after_read,
    .may_read = stdio_may_read,
    .tick = stdio_tick,
    .closing = stdio_closing,
    .size = stdio_size,
    .fini = stdio_fini,
};

/*
 * A non-blocking description of our own for descriptor i: O_NONBLOCK on the given one would change it for the shell
 * and every other process that shares it. Sockets and terminals of other users cannot be reopened: those are changed
 * and put back at the end. -1: closed.
 */
static int reopen(struct stdio *t, int i)
{
    char path[32];
    int fl = fcntl(i, F_GETFL);
    t->flags[i] = -1;
    if (fl < 0)
        return -1;
    struct stat st;

    /* A regular file never blocks, and its position is to be shared, so that what others write goes behind ours. */
    if (fstat(i, &st) == 0 && S_ISREG(st.st_mode))
        return fcntl(i, F_DUPFD_CLOEXEC, 3);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", i);
    int fd = open(path, (i ? O_WRONLY : O_RDONLY) | (fl & O_APPEND) | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd >= 0)
        return fd;
    fd = fcntl(i, F_DUPFD_CLOEXEC, 3);
    if (fd >= 0 && !(fl & O_NONBLOCK) && fcntl(fd, F_SETFL, fl | O_NONBLOCK) == 0)
        t->flags[i] = fl;
    return fd;
}

struct chardev *chardev_stdio_open(const struct chardev_env *env, struct err *e)
{
    if (atomic_exchange(&tty.taken, true)) {
        err_set(e, EBUSY, "stdio is already in use by another serial device");
        return NULL;
    }
    struct stdio *t = calloc(1, sizeof(*t));
    if (!t) {
        atomic_store(&tty.taken, false);
        err_set(e, ENOMEM, "out of memory");
        return NULL;
    }
    stream_init(&t->s, &stdio_kind, env);
    t->winch = -1;
    t->terminal = tcgetattr(STDIN_FILENO, &tty.saved) == 0;
    stream_connect(&t->s, reopen(t, STDIN_FILENO), reopen(t, STDOUT_FILENO));
    if (!t->terminal)
        return &t->s.ch;
    tty.mode = tty.saved;
    cfmakeraw(&tty.mode);
    catch_signals();
    watch_size(t);
    atexit(chardev_stdio_restore);
    if (foreground()) {
        go_raw();
    } else {
        stream_hold_input(&t->s, true);
        stream_poll_later(&t->s);
    }
    return &t->s.ch;
}
