/* SPDX-License-Identifier: MIT */
/* gazda run: the default appliance, signals, and what the machine's end means for the exit status. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "cli/cli.h"
#include "cli/options.h"
#include "vm/gdb.h"

/* ---- signals ---- */

struct signal_watch {
    struct machine *m;
    sigset_t set;
};

/* SIGINT and SIGTERM end the machine in an orderly way, so that the terminal is restored and --stats is written. */
static void *signal_main(void *arg)
{
    struct signal_watch *w = arg;
    int sig = 0;
    if (sigwait(&w->set, &sig) == 0 && sig != SIGUSR2)
        machine_quit(w->m, (uint32_t)sig);
    return NULL;
}

/* ---- traces ---- */

/* A line at a time, so that nothing is missing after a crash. NULL with e set. */
static FILE *open_lines(const char *option, const char *path, int flags, struct err *e)
{
    int fd = open(path, O_CREAT | O_TRUNC | O_CLOEXEC | flags, 0666);
    FILE *f = fd < 0 ? NULL : fdopen(fd, "a");

    if (!f) {
        err_set(e, errno, "%s: cannot write %s: %s", option, path, strerror(errno));
        if (fd >= 0)
            close(fd);
        return NULL;
    }
    setvbuf(f, NULL, _IOLBF, 0);
    return f;
}

static int open_traces(struct run_options *o, struct err *e)
{
    struct engine_tuning *t = &o->mc.tuning;
    char path[64];

    if (o->trace && !(t->trace = open_lines("--trace", o->trace, O_WRONLY | O_APPEND, e)))
        return -EIO;
    snprintf(path, sizeof(path), "/tmp/perf-%d.map", (int)getpid()); /* where perf looks for it */
    if (o->perf_map && !(t->perf_map = open_lines("--perf-map", path, O_RDWR | O_APPEND | O_NOFOLLOW, e)))
        return -EIO;
    return 0;
}

static void close_traces(struct run_options *o)
{
    if (o->mc.tuning.trace)
        fclose(o->mc.tuning.trace);
    if (o->mc.tuning.perf_map)
        fclose(o->mc.tuning.perf_map);
}

/* ---- the run ---- */

static int write_stats(struct machine *m, const char *path, FILE *f)
{
    struct err e = { 0 };
    int r = machine_write_stats(m, f);
    if (fclose(f) != 0 && r == 0)
        r = -errno;
    if (r == 0)
        return STATUS_OK;
    err_set(&e, -r, "--stats: cannot write %s: %s", path, strerror(-r));
    return cli_fail(&e);
}

static int status_of(const struct machine_result *res)
{
    switch (res->end) {
    case MACHINE_POWEROFF:
    case MACHINE_REBOOT:
        return STATUS_OK;
    case MACHINE_CRASH:
        return STATUS_CRASH; /* the machine has said why */
    case MACHINE_DEBUG_EXIT:
        return (int)((res->value << 1 | 1) & 0xff);
    case MACHINE_QUIT:
        return res->value ? STATUS_SIGNAL + (int)res->value : STATUS_OK;
    default:
        return cli_usage_error("%s", res->text);
    }
}

static int run_machine(const struct run_options *o, struct err *e)
{
    struct signal_watch w;
    sigset_t blocked;
    struct machine_result res;
    struct gdb_server *gdb = NULL;
    FILE *stats = NULL;
    pthread_t t;
    if (o->stats) { /* now, so that nobody learns after an hour that it cannot be written */
        stats = fopen(o->stats, "we");
        if (!stats)
            return cli_usage_error("--stats: cannot write %s: %s", o->stats, strerror(errno));
    }
    /* Blocked before any thread exists, so that only signal_main takes them. */
    sigemptyset(&w.set);
    sigaddset(&w.set, SIGINT);
    sigaddset(&w.set, SIGTERM);
    sigaddset(&w.set, SIGHUP);
    sigaddset(&w.set, SIGUSR2);
    blocked = w.set;
    sigaddset(&blocked, SIGWINCH); /* stdio reads it from a descriptor */
    pthread_sigmask(SIG_BLOCK, &blocked, NULL);
    signal(SIGPIPE, SIG_IGN);
    w.m = machine_new(&o->mc, e);
    int status = STATUS_ERROR;
    if (!w.m) {
        status = cli_fail(e);
        goto out;
    }
    if (o->gdb) {
        gdb = gdb_start(w.m, o->gdb, e);
        if (!gdb) {
            status = cli_fail(e);
            goto out;
        }
    }
    if (pthread_create(&t, NULL, signal_main, &w) != 0) {
        status = cli_usage_error("cannot start a thread");
        goto out;
    }
    machine_run(w.m, &res);
    pthread_kill(t, SIGUSR2);
    pthread_join(t, NULL);
    gdb_stop(gdb);
    gdb = NULL;
    status = status_of(&res);
    if (stats) {
        int r = write_stats(w.m, o->stats, stats);
        stats = NULL;
        if (status == STATUS_OK)
            status = r;
    }
out:
    if (stats)
        fclose(stats);
    gdb_stop(gdb);
    machine_free(w.m);
    return status;
}

static int run_with_options(struct run_options *o, int argc, char **argv)
{
    struct err e = { 0 };
    char *kernel = NULL, *initrd = NULL;
    int r = cli_parse_run(o, argc, argv, &e);
    if (r > 0) {
        char help[] = "help", run[] = "run";
        char *args[] = { help, run };
        return cli_help(2, args);
    }
    if (r < 0)
        return cli_fail(&e);
    if (!o->boot.kernel) {
        if (cli_appliance(&kernel, &initrd, &e) < 0)
            return cli_fail(&e);
        o->boot.kernel = kernel;
        if (!o->boot.n_initrds)
            o->initrd[o->boot.n_initrds++] = initrd;
    }
    o->boot.initrds = o->initrd;
    o->mc.load = boot_guest;
    o->mc.load_arg = &o->boot;
    int status = open_traces(o, &e) < 0 ? cli_fail(&e) : run_machine(o, &e);
    close_traces(o);
    free(kernel);
    free(initrd);
    return status;
}

int cli_run(int argc, char **argv)
{
    struct run_options *o = calloc(1, sizeof(*o));
    if (!o)
        return cli_usage_error("out of memory");
    o->mc = (struct machine_config){
        .cpus = 1, .mem_bytes = 512UL << 20, .serial = "stdio", .engine = cli_default_engine()
    };
    int status = run_with_options(o, argc, argv);
    free(o);
    return status;
}
