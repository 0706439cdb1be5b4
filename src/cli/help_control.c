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

static const char exec_help[] =
    "usage: gazda exec [-n] [--wait S] NAME [--] COMMAND [ARGUMENT]...\n"
    "\n"
    "Runs a command in the guest, through its agent (the package qemu-guest-agent), and ends with its exit\n"
    "status; 125 if it could not be run. Standard input, unless it is a terminal, goes to the command (at most\n"
    "4 MiB, read to its end first); what it writes is shown when it has ended (at most 16 MiB of each stream).\n"
    "\n"
    "  -n, --no-stdin   no standard input\n"
    "  --wait S         wait up to S seconds for the agent, as after a start (0)\n";

static const char cp_help[] =
    "usage: gazda cp NAME:FILE FILE\n"
    "       gazda cp FILE NAME:FILE\n"
    "\n"
    "Copies a file out of a guest or into it, through its agent. - is standard output or input.\n"
    "A FILE of the guest that ends with a slash is a folder.\n";

static const char stop_help[] = "usage: gazda stop [--timeout S] [--force] NAME\n"
                                "\n"
                                "Presses the machine's power button and waits until the guest has powered off.\n"
                                "\n"
                                "  --timeout S    how long to wait, in seconds (60); then it is an error\n"
                                "  --force        instead of an error, end the machine as \"gazda kill\" does\n";

static const char kill_help[] = "usage: gazda kill NAME\n"
                                "\n"
                                "Ends a machine at once, without asking its guest.\n";

static const char pause_help[] =
    "usage: gazda pause [--freeze] NAME\n"
    "\n"
    "Stops a machine's processors until \"gazda resume\". Its clocks and its connections to the host go on.\n"
    "\n"
    "  --freeze   first have the guest's agent bring its file systems to a consistent state on disk, as for a\n"
    "             copy of its disk; resuming thaws them\n";

static const char resume_help[] =
    "usage: gazda resume NAME\n"
    "\n"
    "Lets a paused machine go on. If its guest agent runs, frozen file systems are thawed and the clock is set.\n";

static const char balloon_help[] =
    "usage: gazda balloon NAME [SIZE]\n"
    "\n"
    "Asks the guest of a machine that was started with --balloon for so much memory in all (0: to keep it all); it\n"
    "takes its time. Without SIZE: prints what it has given, and its statistics if there are any, in bytes.\n";

static const struct {
    const char *name, *text;
} texts[] = {
    { "ps", ps_help },     { "console", console_help }, { "exec", exec_help },
    { "cp", cp_help },     { "stop", stop_help },       { "balloon", balloon_help },
    { "kill", kill_help }, { "pause", pause_help },     { "resume", resume_help },
};

const char *cli_control_help(const char *name)
{
    for (unsigned i = 0; i < ARRAY_LEN(texts); i++)
        if (strcmp(texts[i].name, name) == 0)
            return texts[i].text;
    return NULL;
}
