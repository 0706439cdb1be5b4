/* SPDX-License-Identifier: MIT */
/* gazda help. */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

static const char run_help[] =
    "usage: gazda run [OPTION]...\n"
    "\n"
    "Starts a machine; its serial console is this terminal (Ctrl-A x leaves, Ctrl-A h shows the keys).\n"
    "Without --kernel it is the default appliance, built from Debian packages when it is first needed.\n"
    "\n"
    "  --kernel FILE          bzImage, vmlinux (PVH or Linux protocol) or multiboot image\n"
    "  --boot KIND            auto (by content), linux, stub, pvh, multiboot, or\n"
    "                         flat:{real|prot|long}@ADDR[,entry=ADDR] for raw code\n"
    "  --initrd FILE          initial RAM disk; several are concatenated (multiboot: modules)\n"
    "  --append TEXT          kernel command line, in place of the default\n"
    "  --cpus N               virtual CPUs, 1 to 32 (1)\n"
    "  --mem SIZE             memory, e.g. 512M or 6G (512M)\n"
    "  --disk FILE[,ro][,format=raw|qcow2][,overlay[=NEW]][,bps=LIMIT][,iops=LIMIT]\n"
    "         [,io=auto|uring|threads]\n"
    "                         disk image, the first is /dev/vda; overlay: FILE stays as it is, writes\n"
    "                         go to NEW (qcow2) or are gone at the end; LIMIT is N[:BURST[:MS]]: so\n"
    "                         much in MS ms (1000), and BURST more once\n"
    "  --rng off|bps=LIMIT[,iops=LIMIT]\n"
    "                         no random number device, or a slower one\n"
    "  --net user[,hostfwd=tcp::PORT-:PORT]...\n"
    "                         a network behind address translation, with ports forwarded to the guest\n"
    "  --net tap=NAME | link=PATH | none\n"
    "                         on a TAP device; to another machine; nowhere. All take mac=, mtu=,\n"
    "                         dump=FILE (pcap), and rx-bps= rx-ops= tx-bps= tx-ops=LIMIT\n"
    "  --share DIR:TAG[,ro]   a directory for the guest: mount -t 9p -o trans=virtio TAG /mnt\n"
    "  --root DIR[,ro]        a directory as the appliance's root file system\n"
    "  --serial SPEC          stdio, pty, file:FILE, unix:FILE, socket[:FILE] or null (stdio)\n"
    "  --console SPEC         adds a virtio console (/dev/hvc0) on another back end\n"
    "  --port NAME=SPEC       a virtio port, /dev/virtio-ports/NAME, on a back end like that of --serial\n"
    "  --vsock CID:FILE       sockets between the guest and the host; FILE is the unix socket to\n"
    "                         reach the guest by, FILE_PORT reaches the host\n"
    "  --balloon [SIZE][,deflate-on-oom][,stats=SECONDS][,reporting]\n"
    "                         memory that the guest shall give back to the host\n"
    "  --no-agent             no port for the guest agent (qemu-guest-agent), by which exec and cp work\n"
    "  --engine NAME          auto, translate or interp (auto)\n"
    "  --verify               check translate against the interpreter, block by block\n"
    "  --trace FILE[,asm][,exec]\n"
    "                         a line for each block that translate makes (asm: and its code;\n"
    "                         exec: and one each time that it is entered)\n"
    "  --perf-map             names translated code for perf in /tmp/perf-PID.map\n"
    "  --mmu KIND             translate's way to memory: auto, soft or window (auto)\n"
    "  --direct WHEN          user code natively in processes of its own: auto, off or on (auto)\n"
    "  --no-reboot            a reset ends the machine instead of restarting it\n"
    "  --name NAME            the name for ps, console, stop and kill (vm1, vm2 ...)\n"
    "  --detach               goes on in the background, prints the name; see \"gazda console\"\n"
    "  --debug-exit           port 0xf4 ends the machine with status (value << 1) | 1\n"
    "  --stats FILE           writes counters as JSON at the end\n"
    "  --gdb :PORT|unix:FILE  waits for a debugger there before the first instruction\n"
    "  --log LEVEL            error, warn, info or debug (warn)\n"
    "\n"
    "Exit status: 0 the guest powered off (or rebooted, with --no-reboot); 1 usage or set-up error;\n"
    "3 the guest crashed (triple fault, with --no-reboot); (value << 1) | 1 with --debug-exit;\n"
    "128 + N ended by signal N.\n";

static const char appliance_help[] =
    "usage: gazda appliance COMMAND ...\n"
    "\n"
    "Machines as files: a manifest, a kernel and disks in one archive with checksums.\n"
    "\n"
    "  build --packages A,B,C -o FILE   makes one of Debian packages, without root\n"
    "        --name NAME                its name (FILE's)\n"
    "        --description TEXT         for humans\n"
    "        --size SIZE                of its disk (what fits)\n"
    "        --cpus N, --mem SIZE       of its machine (1, 512M)\n"
    "        --port [tcp:|udp:]HOST:GUEST\n"
    "                                   a port of this host's loopback that leads to it\n"
    "        --run COMMAND              runs at each start in place of a shell; then it powers off\n"
    "  run NAME|FILE [OPTION]...        starts it; options as of gazda run. What runs from a FILE\n"
    "                                   keeps nothing, what was imported keeps its disks.\n"
    "  import FILE [--name NAME]        checks and keeps one; prints its name. Of other monitors:\n"
    "                                   .ova, .ovf with VMDK disks (by qemu-img)\n"
    "        --kernel FILE, --initrd FILE, --append TEXT\n"
    "                                   what an .ova starts with (the default appliance's kernel)\n"
    "  export NAME -o FILE              the other way round, disks as they are now\n"
    "  list                             what is kept ($GAZDA_APPLIANCES, or\n"
    "                                   ~/.local/share/gazda/appliances)\n"
    "  info NAME|FILE                   its manifest\n"
    "  delete NAME\n";

static const char main_help[] = "usage: gazda COMMAND [OPTION]...\n"
                                "\n"
                                "gazda runs unmodified x86-64 machines on any x86-64 Linux, as an ordinary user.\n"
                                "\n";

static const char *help_text(const char *command)
{
    static const struct {
        const char *name, *text;
    } texts[] = { { "run", run_help }, { "image", cli_image_help }, { "appliance", appliance_help } };
    for (unsigned i = 0; i < ARRAY_LEN(texts); i++)
        if (strcmp(texts[i].name, command) == 0)
            return texts[i].text;
    return cli_control_help(command);
}

int cli_help_on(const char *command)
{
    const char *text = help_text(command);
    if (!text)
        return cli_usage_error("there is no help on \"%s\"; \"gazda help\" lists the subcommands", command);
    fputs(text, stdout);
    return STATUS_OK;
}

int cli_help(int argc, char **argv)
{
    if (argc >= 2 && strcmp(argv[0], "help") == 0)
        return cli_help_on(argv[1]);
    FILE *f = argc == 0 ? stderr : stdout;
    fputs(main_help, f);
    for (const struct command *c = cli_commands; c->name; c++)
        fprintf(f, "  gazda %-9s %s\n", c->name, c->summary);
    fputs("  gazda --version\n\n\"gazda help COMMAND\" shows the options of one; gazda(1) has the rest.\n", f);
    return STATUS_OK;
}
