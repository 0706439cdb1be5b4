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
#include "cli/detach.h"
#include "cli/options.h"
#include "host/rundir.h"
#include "vm/control.h"
#include "vm/gdb.h"

/* ---- signals ---- */

struct signal_watch {
    struct machine *m;
    sigset_t set;
};

/*
 * SIGTERM, and SIGINT where it is not the key of a terminal, ask the guest to power off, once and if it listens. All
 * others end the machine in an orderly way, so that the terminal is restored and --stats is written.
 */
static void *signal_main(void *arg)
{
    static const char note[] = "gazda: the guest was asked to power off; the next signal ends the machine\n";
    struct signal_watch *w = arg;
    bool asked = false;
    int sig = 0;
    while (sigwait(&w->set, &sig) == 0 && sig != SIGUSR2) {
        bool polite = sig == SIGTERM || (sig == SIGINT && !isatty(STDIN_FILENO));
        if (polite && !asked && machine_power_button(w->m)) {
            asked = true;
            ssize_t r = write(STDERR_FILENO, note, sizeof(note) - 1);
            (void)r;
        } else {
            machine_quit(w->m, (uint32_t)sig);
        }
    }
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

/* What one run holds besides the machine. */
struct run {
    struct run_options *o;

    struct detach *detach; /* NULL: it stays in the foreground */
    struct rundir *dir;    /* NULL: nobody finds the machine by name */
    char serial[64];
    FILE *stats;
    struct signal_watch w;
};

/* Blocked before any thread exists, so that only signal_main takes them. */
static void block_signals(struct run *r)
{
    sigset_t blocked;
    sigemptyset(&r->w.set);
    sigaddset(&r->w.set, SIGINT);
    sigaddset(&r->w.set, SIGTERM);
    sigaddset(&r->w.set, SIGHUP);
    sigaddset(&r->w.set, SIGUSR2);
    blocked = r->w.set;
    sigaddset(&blocked, SIGWINCH); /* stdio reads it from a descriptor */
    pthread_sigmask(SIG_BLOCK, &blocked, NULL);
    signal(SIGPIPE, SIG_IGN);
}

/* A machine that nobody asked to be found runs without a name where there is no place for one. */
static int claim_name(struct run *r, struct err *e)
{
    bool shared = strcmp(r->o->mc.serial, "socket") == 0;
    r->dir = rundir_claim(r->o->mc.name, e);
    if (!r->dir && (r->o->mc.name || r->detach || shared))
        return -EIO;
    if (!r->dir)
        log_warn("gazda ps will not know this machine: %s", e->text);
    *e = (struct err){ 0 };
    if (!shared)
        return 0;
    snprintf(r->serial, sizeof(r->serial), "socket:/proc/self/fd/%d/console", rundir_fd(r->dir));
    r->o->mc.serial = r->serial;
    return 0;
}

static int listen_for_control(struct run *r, struct err *e)
{
    if (!r->dir)
        return 0;
    int fd = rundir_listen(r->dir, "control", e);
    return fd < 0 ? fd : control_listen(r->w.m, fd, rundir_name(r->dir), e);
}

static int start_machine(struct run *r, struct gdb_server **gdb, pthread_t *t, struct err *e)
{
    if (r->o->stats) { /* now, so that nobody learns after an hour that it cannot be written */
        r->stats = fopen(r->o->stats, "we");
        if (!r->stats)
            return err_set(e, errno, "--stats: cannot write %s: %s", r->o->stats, strerror(errno));
    }
    block_signals(r);
    if (claim_name(r, e) < 0)
        return -EIO;
    r->w.m = machine_new(&r->o->mc, e);
    if (!r->w.m || listen_for_control(r, e) < 0)
        return -EIO;
    if (r->o->gdb && !(*gdb = gdb_start(r->w.m, r->o->gdb, e)))
        return -EIO;
    if (r->detach && detach_done(r->detach, r->dir, e) < 0)
        return -EIO;
    return pthread_create(t, NULL, signal_main, &r->w) == 0 ? 0 : err_set(e, EAGAIN, "cannot start a thread");
}

static int run_machine(struct run_options *o, struct detach *detach, struct err *e)
{
    struct run r = { .o = o, .detach = detach };
    struct machine_result res;
    struct gdb_server *gdb = NULL;
    pthread_t t;
    int status = STATUS_ERROR;
    if (start_machine(&r, &gdb, &t, e) < 0) {
        status = cli_fail(e);
    } else {
        machine_run(r.w.m, &res);
        pthread_kill(t, SIGUSR2);
        pthread_join(t, NULL);
        gdb_stop(gdb);
        gdb = NULL;
        status = status_of(&res);
        if (r.stats) {
            int s = write_stats(r.w.m, o->stats, r.stats);
            r.stats = NULL;
            if (status == STATUS_OK)
                status = s;
        }
    }
    if (r.stats)
        fclose(r.stats);
    gdb_stop(gdb);
    machine_free(r.w.m);
    rundir_release(r.dir);
    return status;
}

/* In the background with --detach: the foreground process leaves here when the machine runs, or does not. */
static int run_detached(struct run_options *o, struct err *e)
{
    struct detach d;
    int status = 0;
    if (!o->detach)
        return run_machine(o, NULL, e);
    int r = detach_begin(&d, &status, e);
    if (r < 0)
        return cli_fail(e);
    return r > 0 ? status : run_machine(o, &d, e);
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
    int status = open_traces(o, &e) < 0 ? cli_fail(&e) : run_detached(o, &e);
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
    o->mc =
        (struct machine_config){ .cpus = 1, .mem_bytes = 512UL << 20, .agent = true, .engine = cli_default_engine() };
    int status = run_with_options(o, argc, argv);
    free(o);
    return status;
}
