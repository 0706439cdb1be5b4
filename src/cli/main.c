/* SPDX-License-Identifier: MIT */
/* gazda: a virtual machine monitor. Dispatch to the subcommands. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"

const struct command cli_commands[] = {
    { "run", "start a machine", cli_run },
    { "image", "make, describe, convert, check disk images", cli_image },
    { "ps", "list the running machines", cli_ps },
    { "console", "attach to the serial console of a machine", cli_console },
    { "exec", "run a command in a guest", cli_exec },
    { "cp", "copy a file into a guest or out of it", cli_cp },
    { "stop", "press the power button of a machine and wait", cli_stop },
    { "pause", "stop a machine's processors", cli_pause },
    { "resume", "let a paused machine go on", cli_resume },
    { "balloon", "set or show what memory a guest has given back", cli_balloon },
    { "kill", "end a machine at once", cli_kill },
    { "appliance", "build, run, import and export machines as files", cli_appliance_command },
    { "help", "show help on a subcommand", cli_help },
    { NULL, NULL, NULL },
};

static int print_version(void)
{
    puts("gazda " GAZDA_VERSION);
    return STATUS_OK;
}

/* Otherwise the first files we open (guest memory, a disk) become stdin and stdout, and are used as such. */
static void fill_std_fds(void)
{
    int fd;
    do
        fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd >= 0)
        close(fd);
}

static int dispatch(int argc, char **argv)
{
    if (argc < 2) {
        cli_help(0, NULL);
        return STATUS_ERROR;
    }
    if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0)
        return print_version();
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)
        return cli_help(1, argv);
    for (const struct command *c = cli_commands; c->name; c++)
        if (strcmp(argv[1], c->name) == 0)
            return c->main(argc - 1, argv + 1);
    return cli_usage_error("unknown subcommand \"%s\"; \"gazda help\" lists them", argv[1]);
}

int main(int argc, char **argv)
{
    fill_std_fds();
    int status = dispatch(argc, argv);
    if ((fflush(stdout) != 0 || ferror(stdout)) && status == STATUS_OK)
        return cli_usage_error("cannot write to standard output: %s", strerror(errno));
    return status;
}
