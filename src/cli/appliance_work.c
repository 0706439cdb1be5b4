/* SPDX-License-Identifier: MIT */
/* What the long commands of gazda appliance share: ^C, progress, programs. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cli/appliance.h"
#include "cli/cli.h"

/* One process does one command, and a signal handler has no argument: these are the process's. */
static volatile sig_atomic_t stop;
static bool line_open;

static const int signals[] = { SIGINT, SIGTERM, SIGHUP };
static struct sigaction before[ARRAY_LEN(signals)];

static void on_signal(int sig)
{
    stop = sig;
}

void work_begin(void)
{
    struct sigaction sa = { .sa_handler = on_signal }; /* no SA_RESTART: waitpid is to return */
    sigemptyset(&sa.sa_mask);
    stop = 0;
    for (size_t i = 0; i < ARRAY_LEN(signals); i++)
        sigaction(signals[i], &sa, &before[i]);
}

int work_end(void)
{
    work_quiet();
    for (size_t i = 0; i < ARRAY_LEN(signals); i++)
        sigaction(signals[i], &before[i], NULL);
    return stop;
}

static void show(void *arg, const char *name, uint64_t done, uint64_t total)
{
    (void)arg;
    fprintf(stderr, "\r\033[K%s %lu of %lu MiB", name, done >> 20, total >> 20);
    line_open = true;
}

void work_quiet(void)
{
    if (line_open)
        fputs("\r\033[K", stderr);
    line_open = false;
}

const struct appliance_progress *work_progress(void)
{
    static struct appliance_progress p = { .stop = &stop };
    p.step = isatty(STDERR_FILENO) ? show : NULL;
    return &p;
}

/* In the child, which leads a group: what it starts ends with it. */
static void exec_program(char *const argv[], int out_fd)
{
    setpgid(0, 0);
    for (size_t i = 0; i < ARRAY_LEN(signals); i++)
        signal(signals[i], SIG_DFL);
    dup2(out_fd < 0 ? STDERR_FILENO : out_fd, STDOUT_FILENO);
    execvp(argv[0], argv);
    _exit(errno == ENOENT ? 127 : 126);
}

/* The program was interrupted and has ended; what it had started may still write into folders that go now. */
static void end_group(pid_t group)
{
    enum { TRIES = 50, PAUSE_NS = 100000000 };
    const struct timespec pause = { .tv_nsec = PAUSE_NS };
    for (int i = 0; i < TRIES && kill(-group, SIGKILL) == 0; i++)
        nanosleep(&pause, NULL);
}

int work_run(char *const argv[], int out_fd, const char *what, struct err *e)
{
    int status = 0;
    work_quiet();
    pid_t pid = fork();
    if (pid < 0)
        return err_set(e, errno, "cannot start %s: %s", argv[0], strerror(errno));
    if (pid == 0)
        exec_program(argv, out_fd);
    setpgid(pid, pid); /* also here, before a signal is passed on to the group */
    if (stop)
        kill(-pid, SIGTERM);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        if (stop)
            kill(-pid, SIGTERM); /* a ^C reaches us alone */
    if (stop) {
        end_group(pid);
        return err_set(e, EINTR, "interrupted");
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
        return err_set(e, ENOENT, "%s is not installed", argv[0]);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        return err_set(e, EIO, "%s", what);
    return 0;
}

int appliance_done(int r, const struct err *e)
{
    int sig = work_end();
    if (r >= 0)
        return STATUS_OK;
    if (r == -EINTR && sig)
        return STATUS_SIGNAL + sig;
    return cli_fail(e);
}
