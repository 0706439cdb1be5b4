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

#include "cli/appliance.h"
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

/* Of a checkout (out/gazda or out/MODE/gazda), of an installation (PREFIX/bin), or below $GAZDA_SHARE. */
char *work_script(const char *rel, struct err *e)
{
    static const char *const tops[] = { "..", "../..", "../share/gazda" };
    const char *share = getenv("GAZDA_SHARE");
    char *script = NULL;
    if (share) {
        script = executable(share, rel);
        if (!script)
            err_set(e, ENOENT, "GAZDA_SHARE: %.300s has no %s", share, rel);
        return script;
    }
    char *exe = realpath("/proc/self/exe", NULL), *dir;
    if (exe) {
        *strrchr(exe, '/') = '\0';
        for (size_t i = 0; i < ARRAY_LEN(tops) && !script; i++) {
            if (asprintf(&dir, "%s/%s", exe, tops[i]) < 0)
                break;
            script = executable(dir, rel);
            free(dir);
        }
        free(exe);
    }
    if (!script)
        err_set(e, ENOENT, "%s, which comes with gazda, was not found; set GAZDA_SHARE", rel);
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
    char *script = work_script("guest/appliance/build", e);
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
