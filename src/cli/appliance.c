/* SPDX-License-Identifier: MIT */
/*
 * Finds and builds the default appliance: runs guest/appliance/build, which keeps what exists, says on stderr what it
 * does, and prints the paths of kernel and initrd.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/cli.h"

/* DIR/REL, malloc'ed, if it can be executed; else NULL. */
static char *executable(const char *dir, const char *rel)
{
    char *path;
    if (asprintf(&path, "%s/%s", dir, rel) < 0)
        return NULL;
    if (access(path, X_OK) == 0)
        return path;
    free(path);
    return NULL;
}

/* The script of a checkout (out/gazda or out/MODE/gazda), of an installation (PREFIX/bin), or below $GAZDA_SHARE. */
static char *find_script(struct err *e)
{
    static const char *const rel[] = { "../guest/appliance/build", "../../guest/appliance/build",
                                       "../share/gazda/guest/appliance/build" };
    const char *share = getenv("GAZDA_SHARE");
    char *script = NULL;
    if (share) {
        script = executable(share, "guest/appliance/build");
        if (!script)
            err_set(e, ENOENT, "GAZDA_SHARE: %.300s has no guest/appliance/build", share);
        return script;
    }
    char *exe = realpath("/proc/self/exe", NULL);
    if (exe) {
        *strrchr(exe, '/') = '\0';
        for (size_t i = 0; i < ARRAY_LEN(rel) && !script; i++)
            script = executable(exe, rel[i]);
        free(exe);
    }
    if (!script)
        err_set(e, ENOENT, "the default appliance's recipe was not found; give --kernel, or set GAZDA_SHARE");
    return script;
}

static char *read_line(FILE *f)
{
    char *line = NULL;
    size_t cap = 0;
    ssize_t n = getline(&line, &cap, f);
    if (n <= 1) {
        free(line);
        return NULL;
    }
    if (line[n - 1] == '\n')
        line[n - 1] = '\0';
    return line;
}

int cli_appliance(char **kernel, char **initrd, struct err *e)
{
    int fd[2], status = 0;
    char *script = find_script(e);
    if (!script)
        return -ENOENT;
    pid_t pid = pipe2(fd, 0) < 0 ? -1 : fork();
    if (pid < 0) {
        free(script);
        return err_set(e, errno, "cannot start the appliance's recipe: %s", strerror(errno));
    }
    if (pid == 0) {
        dup2(fd[1], STDOUT_FILENO);
        close(fd[0]);
        close(fd[1]);
        execl(script, script, (char *)NULL);
        _exit(127);
    }
    free(script);
    close(fd[1]);
    FILE *f = fdopen(fd[0], "r");
    *kernel = f ? read_line(f) : NULL;
    *initrd = f ? read_line(f) : NULL;
    if (f)
        fclose(f);
    waitpid(pid, &status, 0);
    if (*kernel && *initrd && WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return 0;
    free(*kernel);
    free(*initrd);
    *kernel = *initrd = NULL;
    return err_set(e, EIO, "the default appliance could not be built (see above); give --kernel and --initrd");
}
