/* SPDX-License-Identifier: MIT */
/* The options of gazda run. */
#include "cli/options.h"

#include <errno.h>
#include <getopt.h>
#include <string.h>

#include "base/log.h"
#include "cli/cli.h"

/* ---- options that take more than storing a pointer ---- */

static int add_initrd(struct run_options *o, char *path, struct err *e)
{
    if (o->boot.n_initrds == INITRDS_MAX)
        return err_set(e, EINVAL, "--initrd: more than %d", INITRDS_MAX);
    o->initrd[o->boot.n_initrds++] = path;
    return 0;
}

/* The fastest engine that this host can run. */
const struct engine_ops *cli_default_engine(void)
{
    return __builtin_cpu_supports("bmi2") ? &engine_translate : &engine_interp;
}

static int set_engine(struct run_options *o, char *name, struct err *e)
{
    static const struct engine_ops *const engines[] = { &engine_translate, &engine_interp };
    if (strcmp(name, "auto") == 0) {
        o->mc.engine = cli_default_engine();
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

static int set_mmu(struct run_options *o, char *name, struct err *e)
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

static int set_direct(struct run_options *o, char *name, struct err *e)
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

static int set_log(struct run_options *o, char *name, struct err *e)
{
    (void)o;
    static const char *const level[] = { "error", "warn", "info", "debug" };
    for (unsigned i = 0; i < ARRAY_LEN(level); i++) {
        if (strcmp(name, level[i]) == 0) {
            log_set_level((enum log_level)i);
            return 0;
        }
    }
    return err_set(e, EINVAL, "--log: unknown level \"%s\"; it must be error, warn, info or debug", name);
}

/* ---- options that store ---- */

static int set_kernel(struct run_options *o, char *arg, struct err *e)
{
    (void)e;
    o->boot.kernel = arg;
    return 0;
}
static int set_boot(struct run_options *o, char *arg, struct err *e)
{
    return boot_parse_kind(arg, &o->boot, e);
}
static int set_append(struct run_options *o, char *arg, struct err *e)
{
    (void)e;
    o->boot.append = arg;
    return 0;
}
static int set_cpus(struct run_options *o, char *arg, struct err *e)
{
    if (cli_parse_number(arg, 1, MACHINE_CPUS_MAX, &o->mc.cpus) < 0)
        return err_set(e, EINVAL, "--cpus: \"%s\" is not a number from 1 to %d", arg, MACHINE_CPUS_MAX);
    return 0;
}
static int set_mem(struct run_options *o, char *arg, struct err *e)
{
    struct err why = { 0 };
    int r = cli_parse_size(arg, &o->mc.mem_bytes, &why);
    return r < 0 ? err_set(e, EINVAL, "--mem: %s", why.text) : 0;
}
static int set_serial(struct run_options *o, char *arg, struct err *e)
{
    (void)e;
    o->mc.serial = arg;
    return 0;
}
static int set_console(struct run_options *o, char *arg, struct err *e)
{
    (void)e;
    o->mc.console = arg;
    return 0;
}
static int set_verify(struct run_options *o, char *arg, struct err *e)
{
    (void)arg, (void)e;
    o->mc.tuning.verify = true;
    return 0;
}
static int set_perf_map(struct run_options *o, char *arg, struct err *e)
{
    (void)arg, (void)e;
    o->perf_map = true;
    return 0;
}
static int set_no_reboot(struct run_options *o, char *arg, struct err *e)
{
    (void)arg, (void)e;
    o->mc.no_reboot = true;
    return 0;
}
static int set_no_agent(struct run_options *o, char *arg, struct err *e)
{
    (void)arg, (void)e;
    o->mc.agent = false;
    return 0;
}
static int set_detach(struct run_options *o, char *arg, struct err *e)
{
    (void)arg, (void)e;
    o->detach = true;
    return 0;
}
static int set_name(struct run_options *o, char *arg, struct err *e)
{
    (void)e;
    o->mc.name = arg;
    return 0;
}
static int set_debug_exit(struct run_options *o, char *arg, struct err *e)
{
    (void)arg, (void)e;
    o->mc.debug_exit = true;
    return 0;
}
static int set_stats(struct run_options *o, char *arg, struct err *e)
{
    (void)e;
    o->stats = arg;
    return 0;
}
static int set_gdb(struct run_options *o, char *arg, struct err *e)
{
    (void)e;
    o->gdb = arg;
    return 0;
}

/* ---- the table ---- */

/* To add an option: a line here, one in help.c, gazda(1) and tools/gazda.bash. Those of devices are in opt_*.c. */
static const struct {
    const char *name;
    bool has_value;
    int (*set)(struct run_options *o, char *arg, struct err *e); /* the value may be cut in place; it lives on */
} table[] = {
    { "kernel", true, set_kernel },
    { "boot", true, set_boot },
    { "initrd", true, add_initrd },
    { "append", true, set_append },
    { "cpus", true, set_cpus },
    { "mem", true, set_mem },
    { "disk", true, opt_disk },
    { "net", true, opt_net },
    { "rng", true, opt_rng },
    { "vsock", true, opt_vsock },
    { "share", true, opt_share },
    { "root", true, opt_root },
    { "balloon", true, opt_balloon },
    { "serial", true, set_serial },
    { "console", true, set_console },
    { "port", true, opt_port },
    { "engine", true, set_engine },
    { "mmu", true, set_mmu },
    { "direct", true, set_direct },
    { "verify", false, set_verify },
    { "trace", true, set_trace },
    { "perf-map", false, set_perf_map },
    { "no-reboot", false, set_no_reboot },
    { "name", true, set_name },
    { "no-agent", false, set_no_agent },
    { "detach", false, set_detach },
    { "debug-exit", false, set_debug_exit },
    { "stats", true, set_stats },
    { "gdb", true, set_gdb },
    { "log", true, set_log },
};

enum { OPT_FIRST = 256, OPT_HELP = 'h' };

static void long_options(struct option out[ARRAY_LEN(table) + 2])
{
    unsigned n = 0;

    for (; n < ARRAY_LEN(table); n++)
        out[n] = (struct option){ .name = table[n].name,
                                  .has_arg = table[n].has_value ? required_argument : no_argument,
                                  .val = OPT_FIRST + (int)n };
    out[n++] = (struct option){ .name = "help", .val = OPT_HELP };
    out[n] = (struct option){ 0 };
}

/* What fits together only when all options are known. */
static int check(struct run_options *o, struct err *e)
{
    if (!o->mc.serial)
        o->mc.serial = o->detach ? "socket" : "stdio";
    if (o->detach && (strcmp(o->mc.serial, "stdio") == 0 || (o->mc.console && strcmp(o->mc.console, "stdio") == 0)))
        return err_set(e, EINVAL, "--detach leaves the terminal, so nothing can be on stdio");
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

int cli_parse_run(struct run_options *o, int argc, char **argv, struct err *e)
{
    struct option options[ARRAY_LEN(table) + 2];
    int opt;

    long_options(options);
    opterr = 0;
    while ((opt = getopt_long(argc, argv, ":h", options, NULL)) != -1) {
        if (opt == OPT_HELP)
            return 1;
        if (opt == ':' || opt == '?')
            return err_set(e, EINVAL, "%s", cli_option_complaint(argv, opt, "run"));
        int r = table[opt - OPT_FIRST].set(o, optarg, e);
        if (r < 0)
            return r;
    }
    if (optind < argc)
        return err_set(e, EINVAL, "unexpected argument \"%s\"; see \"gazda help run\"", argv[optind]);
    return check(o, e);
}

bool opt_next(char **rest, char **key, char **value)
{
    if (!*rest)
        return false;
    *key = *rest;
    *rest = strchr(*rest, ',');
    if (*rest)
        *(*rest)++ = '\0';
    *value = strchr(*key, '=');
    if (*value)
        *(*value)++ = '\0';
    return true;
}
