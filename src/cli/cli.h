/* SPDX-License-Identifier: MIT */
/* The command line: one file per subcommand; each returns the process's exit status. */
#ifndef GAZDA_CLI_CLI_H
#define GAZDA_CLI_CLI_H

#include "base/err.h"
#include "base/types.h"

/* Exit statuses; documented in gazda(1). */
enum { STATUS_OK = 0, STATUS_ERROR = 1, STATUS_CRASH = 3, STATUS_EXEC = 125, STATUS_SIGNAL = 128 };

struct command {
    const char *name;
    const char *summary;
    int (*main)(int argc, char **argv); /* argv[0] is the subcommand */
};

/* The list, ended by a NULL name. */
extern const struct command cli_commands[];

int cli_run(int argc, char **argv);
int cli_image(int argc, char **argv);
int cli_ps(int argc, char **argv);
int cli_console(int argc, char **argv);
int cli_exec(int argc, char **argv);
int cli_cp(int argc, char **argv);
int cli_stop(int argc, char **argv);
int cli_pause(int argc, char **argv);
int cli_resume(int argc, char **argv);
int cli_balloon(int argc, char **argv);
int cli_kill(int argc, char **argv);
int cli_appliance_command(int argc, char **argv);
int cli_help(int argc, char **argv);
/* Prints the help text of a subcommand; the exit status. */
int cli_help_on(const char *command);
/* The text of one of help_control.c, or NULL. */
const char *cli_control_help(const char *name);

extern const char cli_image_help[];

/* Prints "gazda: TEXT" on stderr and returns STATUS_ERROR. */
int cli_fail(const struct err *e);
int cli_usage_error(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* The same about the option that getopt_long has refused with opt ('?' or ':'; its letters begin with ':'). */
int cli_bad_option(char **argv, int opt, const char *command);
/* Its text, which lasts until the next call. */
const char *cli_option_complaint(char **argv, int opt, const char *command);

/* "512M", "6G", "131072K", plain bytes: a multiple of 4096. 0 or -EINVAL. */
int cli_parse_size(const char *text, uint64_t *out, struct err *e);
/* What follows a size's digits: nothing, or K, M, G, T, perhaps with iB or B; *shift: what it multiplies by, as a power
 * of two. False: something else. */
bool cli_size_suffix(const char *end, unsigned *shift);
/* A decimal number in [min, max]. */
int cli_parse_number(const char *text, unsigned min, unsigned max, unsigned *out);

/* The default appliance: builds it if needed and stores two malloc'ed paths. 0 or -errno. */
int cli_appliance(char **kernel, char **initrd, struct err *e);

#endif
