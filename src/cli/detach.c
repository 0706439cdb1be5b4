/* SPDX-License-Identifier: MIT */
#include "cli/detach.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/cli.h"
#include "host/rundir.h"

/* Waits for the name; without one the other process has said what is wrong. */
static int foreground(int fd, pid_t child)
{
    char name[RUNDIR_NAME_MAX + 2];
    size_t n = 0;
    ssize_t r;
    int status = 0;
    while (n < sizeof(name) && ((r = read(fd, name + n, sizeof(name) - n)) > 0 || (r < 0 && errno == EINTR)))
        n += r > 0 ? (size_t)r : 0;
    close(fd);
    if (n) {
        printf("%.*s\n", (int)n, name);
        return fflush(stdout) == 0 ? STATUS_OK : STATUS_ERROR;
    }
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    if (WIFEXITED(status) && WEXITSTATUS(status) != STATUS_OK)
        return WEXITSTATUS(status);
    return cli_usage_error("the machine's process ended while it started");
}

int detach_begin(struct detach *d, int *status, struct err *e)
{
    int fd[2];
    if (pipe2(fd, O_CLOEXEC) < 0)
        return err_set(e, errno, "--detach: cannot make a pipe: %s", strerror(errno));
    fflush(stdout);
    fflush(stderr);
    pid_t child = fork();
    if (child < 0) {
        int err = errno;
        close(fd[0]);
        close(fd[1]);
        return err_set(e, err, "--detach: cannot make a process: %s", strerror(err));
    }
    if (child > 0) {
        close(fd[1]);
        *status = foreground(fd[0], child);
        return 1;
    }
    close(fd[0]);
    setsid();
    d->pipe = fd[1];
    return 0;
}

int detach_done(struct detach *d, struct rundir *dir, struct err *e)
{
    const char *name = rundir_name(dir);
    int log = rundir_open_log(dir, "log", e);
    if (log < 0)
        return log;
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(null, STDOUT_FILENO) < 0 || dup2(log, STDERR_FILENO) < 0) {
        int err = errno;
        close(log);
        if (null >= 0)
            close(null);
        return err_set(e, err, "--detach: cannot leave the terminal: %s", strerror(err));
    }
    close(log);
    close(null);
    ssize_t r = write(d->pipe, name, strlen(name));
    close(d->pipe);
    return r > 0 ? 0 : err_set(e, EIO, "--detach: cannot tell the name");
}
