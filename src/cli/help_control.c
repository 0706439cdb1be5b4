/* SPDX-License-Identifier: MIT */
/* The help texts of the subcommands that deal with running machines. */
#include <string.h>

#include "base/types.h"
#include "cli/cli.h"

static const char ps_help[] = "usage: gazda ps [--json | --quiet]\n"
                              "\n"
                              "Lists your running machines.\n"
                              "\n"
                              "  --json         all that is known of them, as JSON\n"
                              "  --quiet, -q    the names only\n";

static const char console_help[] =
    "usage: gazda console NAME\n"
    "\n"
    "Attaches this terminal to the serial console of a machine that was started with --detach (or --serial\n"
    "socket), and shows the newest 64 KiB of its output first. Ctrl-A x leaves; the machine goes on.\n";

static const char stop_help[] = "usage: gazda stop [--timeout S] [--force] NAME\n"
                                "\n"
                                "Presses the machine's power button and waits until the guest has powered off.\n"
                                "\n"
                                "  --timeout S    how long to wait, in seconds (60); then it is an error\n"
                                "  --force        instead of an error, end the machine as \"gazda kill\" does\n";

static const char kill_help[] = "usage: gazda kill NAME\n"
                                "\n"
                                "Ends a machine at once, without asking its guest.\n";

static const struct {
    const char *name, *text;
} texts[] = {
    { "ps", ps_help },
    { "console", console_help },
    { "stop", stop_help },
    { "kill", kill_help },
};

const char *cli_control_help(const char *name)
{
    for (unsigned i = 0; i < ARRAY_LEN(texts); i++)
        if (strcmp(texts[i].name, name) == 0)
            return texts[i].text;
    return NULL;
}
