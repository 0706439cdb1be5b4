/* SPDX-License-Identifier: MIT */
/* What gazda run is asked for, and the option functions of its devices (opt_*.c). */
#ifndef GAZDA_CLI_OPTIONS_H
#define GAZDA_CLI_OPTIONS_H

#include "vm/boot/guest.h"
#include "vm/machine.h"

enum { INITRDS_MAX = 64 };

struct run_options {
    struct machine_config mc;
    struct boot_config boot;
    const char *initrd[INITRDS_MAX];
    const char *stats, *gdb, *trace;
    bool perf_map;
    char root_arg[64]; /* --root: what the appliance is told on the command line */
    bool detach;
};

/* 0 go on, 1 help was asked for, -errno. The arguments are cut in place. */
int cli_parse_run(struct run_options *o, int argc, char **argv, struct err *e);
const struct engine_ops *cli_default_engine(void);

/*
 * Takes "key=value" or "word" (value NULL) off a list with commas, in place: false at its end. *rest is the list
 * before the first call.
 */
bool opt_next(char **rest, char **key, char **value);

/*
 * SIZE[:BURST[:MS]], a bucket of a rate limiter (host/limiter.h): SIZE in MS ms (1000), BURST more once. bytes: units
 * of 1024, else 1000. value is cut in place; NULL is an error. what begins the message.
 */
int opt_limit(const char *what, bool bytes, char *value, struct bucket_cfg *b, struct err *e);

/* One a device; each checks its value and appends to o->mc. */
int opt_disk(struct run_options *o, char *arg, struct err *e);
int opt_net(struct run_options *o, char *arg, struct err *e);
int opt_rng(struct run_options *o, char *arg, struct err *e);
int opt_port(struct run_options *o, char *arg, struct err *e);
int opt_vsock(struct run_options *o, char *arg, struct err *e);
int opt_share(struct run_options *o, char *arg, struct err *e);
int opt_root(struct run_options *o, char *arg, struct err *e);
int opt_balloon(struct run_options *o, char *arg, struct err *e);

#endif
