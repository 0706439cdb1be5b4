/* SPDX-License-Identifier: MIT */
/* gazda run: options, the default appliance, signals, and what the machine's end means for the exit status. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "cli/cli.h"
#include "vm/boot/guest.h"
#include "vm/gdb.h"
#include "vm/machine.h"

enum { INITRDS_MAX = 64 };

struct run_options {
    struct machine_config mc;
    struct boot_config boot;
    const char *initrd[INITRDS_MAX];
    const char *stats, *gdb, *trace;
    bool perf_map;
};

enum {
    OPT_KERNEL = 256,
    OPT_BOOT,
    OPT_INITRD,
    OPT_APPEND,
    OPT_CPUS,
    OPT_MEM,
    OPT_DISK,
    OPT_SERIAL,
    OPT_CONSOLE,
    OPT_ENGINE,
    OPT_MMU,
    OPT_DIRECT,
    OPT_VERIFY,
    OPT_TRACE,
    OPT_PERF_MAP,
    OPT_NO_REBOOT,
    OPT_NAME,
    OPT_DEBUG_EXIT,
    OPT_STATS,
    OPT_GDB,
    OPT_LOG,
    OPT_HELP,
};

static const struct option options[] = {
    { "kernel", required_argument, NULL, OPT_KERNEL },
    { "boot", required_argument, NULL, OPT_BOOT },
    { "initrd", required_argument, NULL, OPT_INITRD },
    { "append", required_argument, NULL, OPT_APPEND },
    { "cpus", required_argument, NULL, OPT_CPUS },
    { "mem", required_argument, NULL, OPT_MEM },
    { "disk", required_argument, NULL, OPT_DISK },
    { "serial", required_argument, NULL, OPT_SERIAL },
    { "console", required_argument, NULL, OPT_CONSOLE },
    { "engine", required_argument, NULL, OPT_ENGINE },
    { "mmu", required_argument, NULL, OPT_MMU },
    { "direct", required_argument, NULL, OPT_DIRECT },
    { "verify", no_argument, NULL, OPT_VERIFY },
    { "trace", required_argument, NULL, OPT_TRACE },
    { "perf-map", no_argument, NULL, OPT_PERF_MAP },
    { "no-reboot", no_argument, NULL, OPT_NO_REBOOT },
    { "name", required_argument, NULL, OPT_NAME },
    { "debug-exit", no_argument, NULL, OPT_DEBUG_EXIT },
    { "stats", required_argument, NULL, OPT_STATS },
    { "gdb", required_argument, NULL, OPT_GDB },
    { "log", required_argument, NULL, OPT_LOG },
    { "help", no_argument, NULL, OPT_HELP },
    { NULL, 0, NULL, 0 },
};

/* ---- options that take more than storing a pointer ---- */

static int add_initrd(struct run_options *o, const char *path, struct err *e)
{
    if (o->boot.n_initrds == INITRDS_MAX)
        return err_set(e, EINVAL, "--initrd: more than %d", INITRDS_MAX);
    o->initrd[o->boot.n_initrds++] = path;
    return 0;
}

/* FILE[,ro]; the argument is cut in place. */
static int add_disk(struct run_options *o, char *arg, struct err *e)
{
    struct machine_disk *d = &o->mc.disk[o->mc.n_disks];
    if (o->mc.n_disks == MACHINE_DISKS_MAX)
        return err_set(e, EINVAL, "--disk: more than %d", MACHINE_DISKS_MAX);
    char *comma = strrchr(arg, ',');
    if (comma && (strcmp(comma, ",ro") == 0 || strcmp(comma, ",rw") == 0)) {
        d->read_only = comma[2] == 'o';
        *comma = '\0';
    }
    if (!*arg)
        return err_set(e, EINVAL, "--disk: the file name is empty; it must be FILE or FILE,ro");
    d->path = arg;
    o->mc.n_disks++;
    return 0;
}

/* The fastest engine that this host can run. */
static const struct engine_ops *default_engine(void)
{
    return __builtin_cpu_supports("bmi2") ? &engine_translate : &engine_interp;
}

static int set_engine(struct run_options *o, const char *name, struct err *e)
{
    static const struct engine_ops *const engines[] = { &engine_translate, &engine_interp };
    if (strcmp(name, "auto") == 0) {
        o->mc.engine = default_engine();
        return 0;
    }
    for (unsigned i = 0; i < ARRAY_LEN(engines); i++) {
        if (strcmp(name, engines[i]->name) == 0) {
            o->mc.engine = engines[i];
            return 0;
        }
    }
    return err_set(e, EINVAL, "--engine: unknown engine \"%s\"; it must be auto, interp or translate", name);
}

static int set_mmu(struct run_options *o, const char *name, struct err *e)
{
    static const char *const mmu[] = {
        [ENGINE_MMU_AUTO] = "auto", [ENGINE_MMU_SOFT] = "soft", [ENGINE_MMU_WINDOW] = "window"
    };
    for (unsigned i = 0; i < ARRAY_LEN(mmu); i++) {
        if (strcmp(name, mmu[i]) == 0) {
            o->mc.tuning.mmu = (enum engine_mmu)i;
            return 0;
        }
    }
    return err_set(e, EINVAL, "--mmu: unknown kind \"%s\"; it must be auto, soft or window", name);
}

static int set_direct(struct run_options *o, const char *name, struct err *e)
{
    static const char *const direct[] = {
        [ENGINE_DIRECT_AUTO] = "auto", [ENGINE_DIRECT_OFF] = "off", [ENGINE_DIRECT_ON] = "on"
    };
    for (unsigned i = 0; i < ARRAY_LEN(direct); i++) {
        if (strcmp(name, direct[i]) == 0) {
            o->mc.tuning.direct = (enum engine_direct)i;
            return 0;
        }
    }
    return err_set(e, EINVAL, "--direct: unknown choice \"%s\"; it must be auto, off or on", name);
}

/* FILE[,asm][,exec]; the argument is cut in place. */
static int set_trace(struct run_options *o, char *arg, struct err *e)
{
    struct engine_tuning *t = &o->mc.tuning;

    for (char *comma; (comma = strrchr(arg, ',')) != NULL; *comma = '\0') {
        if (strcmp(comma, ",asm") == 0)
            t->trace_asm = true;
        else if (strcmp(comma, ",exec") == 0)
            t->trace_exec = true;
        else
            break;
    }
    if (!*arg)
        return err_set(e, EINVAL, "--trace: the file name is empty; it must be FILE[,asm][,exec]");
    o->trace = arg;
    return 0;
}

static int set_log(const char *name, struct err *e)
{
    static const char *const level[] = { "error", "warn", "info", "debug" };
    for (unsigned i = 0; i < ARRAY_LEN(level); i++) {
        if (strcmp(name, level[i]) == 0) {
            log_set_level((enum log_level)i);
            return 0;
        }
    }
    return err_set(e, EINVAL, "--log: unknown level \"%s\"; it must be error, warn, info or debug", name);
}

static int set_option(struct run_options *o, int opt, char *arg, struct err *e)
{
    switch (opt) {
    case OPT_KERNEL:
        o->boot.kernel = arg;
        return 0;
    case OPT_BOOT:
        return boot_parse_kind(arg, &o->boot, e);
    case OPT_INITRD:
        return add_initrd(o, arg, e);
    case OPT_APPEND:
        o->boot.append = arg;
        return 0;
    case OPT_CPUS:
        if (cli_parse_number(arg, 1, MACHINE_CPUS_MAX, &o->mc.cpus) < 0)
            return err_set(e, EINVAL, "--cpus: \"%s\" is not a number from 1 to %d", arg, MACHINE_CPUS_MAX);
        return 0;
    case OPT_MEM:
        return cli_parse_size(arg, &o->mc.mem_bytes, e);
    case OPT_DISK:
        return add_disk(o, arg, e);
    case OPT_SERIAL:
        o->mc.serial = arg;
        return 0;
    case OPT_CONSOLE:
        o->mc.console = arg;
        return 0;
    case OPT_ENGINE:
        return set_engine(o, arg, e);
    case OPT_MMU:
        return set_mmu(o, arg, e);
    case OPT_DIRECT:
        return set_direct(o, arg, e);
    case OPT_VERIFY:
        o->mc.tuning.verify = true;
        return 0;
    case OPT_TRACE:
        return set_trace(o, arg, e);
    case OPT_PERF_MAP:
        o->perf_map = true;
        return 0;
    case OPT_NO_REBOOT:
        o->mc.no_reboot = true;
        return 0;
    case OPT_NAME:
        o->mc.name = arg;
        return 0;
    case OPT_DEBUG_EXIT:
        o->mc.debug_exit = true;
        return 0;
    case OPT_STATS:
        o->stats = arg;
        return 0;
    case OPT_GDB:
        o->gdb = arg;
        return 0;
    default:
        return set_log(arg, e);
    }
}

/* 0 go on, 1 help was asked for, -errno. */
static int parse(struct run_options *o, int argc, char **argv, struct err *e)
{
    int opt;
    opterr = 0;
    while ((opt = getopt_long(argc, argv, ":h", options, NULL)) != -1) {
        if (opt == 'h' || opt == OPT_HELP)
            return 1;
        if (opt == ':')
            return err_set(e, EINVAL, "%s needs a value; see \"gazda help run\"", argv[optind - 1]);
        if (opt == '?')
            return err_set(e, EINVAL, "unknown option %s; see \"gazda help run\"", argv[optind - 1]);
        int r = set_option(o, opt, optarg, e);
        if (r < 0)
            return r;
    }
    if (optind < argc)
        return err_set(e, EINVAL, "unexpected argument \"%s\"; see \"gazda help run\"", argv[optind]);
    if (!o->boot.kernel && o->boot.kind != BOOT_AUTO)
        return err_set(e, EINVAL, "--boot needs --kernel");
    if (o->mc.engine == &engine_translate)
        return 0;
    if (o->mc.tuning.verify)
        return err_set(e, EINVAL, "--verify: only engine translate can be verified; this is %s", o->mc.engine->name);
    if (o->trace || o->perf_map)
        return err_set(e, EINVAL, "%s: only engine translate makes code; this is %s",
                       o->trace ? "--trace" : "--perf-map", o->mc.engine->name);
    return 0;
}

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
    pthread_sigmask(SIG_BLOCK, &w.set, NULL);
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
    int r = parse(o, argc, argv, &e);
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
            add_initrd(o, initrd, &e);
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
    o->mc =
        (struct machine_config){ .cpus = 1, .mem_bytes = 512UL << 20, .serial = "stdio", .engine = default_engine() };
    int status = run_with_options(o, argc, argv);
    free(o);
    return status;
}
