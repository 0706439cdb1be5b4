/* SPDX-License-Identifier: MIT */
/*
 * Runs scripts of a Debian system in a folder, natively and in guests the same: chroot, a fixed environment, output
 * kept in memory. Prints the wall time of each and a digest of what it wrote.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guest/rows.h"

struct app {
    const char *root, *name;
};

static void enter_app(const void *arg)
{
    const struct app *app = arg;
    static char sh[] = "/bin/sh";
    static char *const env[] = { "PATH=/usr/bin:/bin",        "HOME=/",           "LC_ALL=C",         "TZ=UTC",
                                 "PYTHONDONTWRITEBYTECODE=1", "PYTHONHASHSEED=0", "PERL_HASH_SEED=0", NULL };
    char script[128];
    char *const argv[] = { sh, script, NULL };
    snprintf(script, sizeof(script), "/bench/%s.sh", app->name);
    if (chroot(app->root) < 0 || chdir("/bench") < 0)
        bench_die(app->root);
    execve(sh, argv, env);
    _exit(127);
}

void launch_captured(struct launched *l, void (*start)(const void *arg), const void *arg)
{
    int null = open("/dev/null", O_RDONLY);
    l->out = memfd_create("out", MFD_CLOEXEC);
    l->err = memfd_create("err", MFD_CLOEXEC);
    if (null < 0 || l->out < 0 || l->err < 0)
        bench_die("memfd");
    uint64_t begin = bench_now_ns();
    pid_t pid = fork();
    if (pid == 0) {
        dup2(null, 0);
        dup2(l->out, 1);
        dup2(l->err, 2);
        close(null);
        start(arg);
    }
    if (pid < 0 || waitpid(pid, &l->status, 0) != pid)
        bench_die("fork");
    l->ns = bench_now_ns() - begin;
    close(null);
}

void launch_complain(const char *name, const struct launched *l)
{
    char line[160];
    ssize_t n = pread(l->err, line, sizeof(line) - 1, 0);
    line[n < 0 ? 0 : n] = 0;
    line[strcspn(line, "\r\n")] = 0;
    printf("bench %s failed: %s %d %s\n", name, WIFSIGNALED(l->status) ? "signal" : "exit status",
           WIFSIGNALED(l->status) ? WTERMSIG(l->status) : WEXITSTATUS(l->status), line);
}

static int run_app(const void *arg)
{
    const struct app *app = arg;
    struct launched l;
    struct stat st;
    launch_captured(&l, enter_app, app);
    if (l.status != 0 || fstat(l.out, &st) < 0) {
        launch_complain(app->name, &l);
        return 0;
    }
    uint8_t *data = st.st_size ? mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, l.out, 0) : NULL;
    if (data == MAP_FAILED)
        bench_die("mmap");
    printf("bench %s=%llu sum=%016llx\n", app->name, (unsigned long long)l.ns,
           (unsigned long long)sha256_of(data, (size_t)st.st_size));
    return 0;
}

/* Device nodes that programs expect; they stay for the next time. */
static void make_devices(const char *root)
{
    static const struct {
        const char *name;
        unsigned minor;
    } nodes[] = { { "null", 3 }, { "zero", 5 }, { "urandom", 9 } };
    char path[4096];
    umask(0);
    snprintf(path, sizeof(path), "%s/dev", root);
    mkdir(path, 0755);
    for (size_t i = 0; i < sizeof(nodes) / sizeof(nodes[0]); i++) {
        snprintf(path, sizeof(path), "%s/dev/%s", root, nodes[i].name);
        if (mknod(path, S_IFCHR | 0666, makedev(1, nodes[i].minor)) < 0 && errno != EEXIST)
            perror(path);
    }
}

int launch_apps(const char *root, unsigned limit, char **names)
{
    make_devices(root);
    for (; *names; names++) {
        struct app app = { root, *names };
        bench_guarded(app.name, limit, run_app, &app);
    }
    return 0;
}
