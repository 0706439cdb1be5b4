/* SPDX-License-Identifier: MIT */
/* gazda appliance: its subcommands, and build, which has guest/appliance/pack make the files. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/appliance.h"
#include "cli/cli.h"

enum { PACKAGES_MAX = 256 };

struct build {
    char *packages; /* with commas; cut in place */
    const char *name, *run, *out, *description;
    uint64_t size, mem;
    unsigned cpus;
    struct appliance_net net;
};

/* [tcp:|udp:]HOST:GUEST */
static int add_port(struct build *b, char *arg, struct err *e)
{
    struct appliance_port *p = &b->net.port[b->net.n_ports];
    char *s = arg, *colon;
    unsigned host, guest;
    if (b->net.n_ports == APPLIANCE_PORTS_MAX)
        return err_set(e, EINVAL, "--port: more than %d", APPLIANCE_PORTS_MAX);
    p->udp = strncmp(s, "udp:", 4) == 0;
    if (p->udp || strncmp(s, "tcp:", 4) == 0)
        s += 4;
    colon = strchr(s, ':');
    if (colon)
        *colon = '\0';
    if (!colon || cli_parse_number(s, 1, 65535, &host) < 0 || cli_parse_number(colon + 1, 1, 65535, &guest) < 0)
        return err_set(e, EINVAL, "--port: it must be [tcp:|udp:]HOST:GUEST, e.g. 8080:80");
    p->host = (uint16_t)host;
    p->guest = (uint16_t)guest;
    b->net.n_ports++;
    return 0;
}

static int set_option(struct build *b, int opt, char *arg, struct err *e)
{
    switch (opt) {
    case 'p':
        b->packages = arg;
        return 0;
    case 'n':
        b->name = arg;
        return appliance_name_ok(arg) ? 0
                                      : err_set(e, EINVAL,
                                                "--name: \"%.80s\" must have letters, digits, . _ - + "
                                                "only",
                                                arg);
    case 's':
        return cli_parse_size(arg, &b->size, e);
    case 'm':
        return cli_parse_size(arg, &b->mem, e);
    case 'c':
        return cli_parse_number(arg, 1, 32, &b->cpus) < 0 ? err_set(e, EINVAL, "--cpus: it must be 1 to 32") : 0;
    case 'r':
        b->run = arg;
        return 0;
    case 'd':
        b->description = arg;
        return strlen(arg) < sizeof(((struct appliance_manifest *)0)->description)
                   ? 0
                   : err_set(e, EINVAL, "--description: it is too long");
    case 't':
        return add_port(b, arg, e);
    default: /* 'o' */
        b->out = arg;
        return 0;
    }
}

static int parse(struct build *b, int argc, char **argv, struct err *e)
{
    static const struct option options[] = {
        { "packages", required_argument, NULL, 'p' }, { "name", required_argument, NULL, 'n' },
        { "size", required_argument, NULL, 's' },     { "mem", required_argument, NULL, 'm' },
        { "cpus", required_argument, NULL, 'c' },     { "run", required_argument, NULL, 'r' },
        { "port", required_argument, NULL, 't' },     { "description", required_argument, NULL, 'd' },
        { "output", required_argument, NULL, 'o' },   { 0 },
    };
    int opt;
    opterr = 0;
    while ((opt = getopt_long(argc, argv, ":o:", options, NULL)) != -1) {
        if (opt == '?' || opt == ':')
            return err_set(e, EINVAL, "%s", cli_option_complaint(argv, opt, "appliance"));
        int r = set_option(b, opt, optarg, e);
        if (r < 0)
            return r;
    }
    if (optind != argc)
        return err_set(e, EINVAL, "unexpected argument \"%s\"; see \"gazda help appliance\"", argv[optind]);
    if (!b->packages || !*b->packages || !b->out)
        return err_set(e, EINVAL, "appliance build needs --packages and -o FILE; see \"gazda help appliance\"");
    return 0;
}

/* The recipe's arguments; the packages are names of Debian's, so that none is taken for an option. */
static int pack_argv(struct build *b, char **argv, struct err *e)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyz0123456789+.-";
    int n = 0;
    char *save = NULL;
    for (char *p = strtok_r(b->packages, ", ", &save); p; p = strtok_r(NULL, ", ", &save)) {
        if (n == PACKAGES_MAX)
            return err_set(e, EINVAL, "--packages: more than %d", PACKAGES_MAX);
        if (strspn(p, plain) != strlen(p) || strchr("+.-", *p))
            return err_set(e, EINVAL, "--packages: \"%.80s\" is no name of a Debian package", p);
        argv[n++] = p;
    }
    argv[n] = NULL;
    return n ? 0 : err_set(e, EINVAL, "--packages: it names none");
}

/* The folder that will hold the file: there is the room that it takes. */
static char *parent_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    return !slash ? strdup(".") : slash == path ? strdup("/") : strndup(path, (size_t)(slash - path));
}

static int run_pack(struct build *b, const struct work_dir *w, struct err *e)
{
    char size[24], **argv, *script = work_script("guest/appliance/pack", e);
    if (!script)
        return -ENOENT;
    argv = calloc(PACKAGES_MAX + 6, sizeof(*argv));
    if (!argv) {
        free(script);
        return err_set(e, ENOMEM, "out of memory");
    }
    snprintf(size, sizeof(size), "%lu", b->size);
    argv[0] = script;
    argv[1] = w->path;
    argv[2] = size;
    argv[3] = (char *)b->name;
    argv[4] = (char *)b->run;
    char *self = realpath("/proc/self/exe", NULL);
    if (self)
        setenv("GAZDA", self, 1);
    free(self);
    int r = pack_argv(b, argv + 5, e);
    r = r ? r : work_run(argv, -1, "the appliance could not be built (see above)", e);
    free(argv);
    free(script);
    return r;
}

static int build(struct build *b, struct err *e)
{
    struct work_dir w = { NULL, -1 };
    struct appliance_manifest *m = calloc(1, sizeof(*m));
    char *parent = parent_of(b->out);
    int r = m && parent ? work_dir_make(&w, parent, e) : err_set(e, ENOMEM, "out of memory");
    r = r ? r : run_pack(b, &w, e);
    if (r == 0) {
        snprintf(m->name, sizeof(m->name), "%s", b->name);
        snprintf(m->description, sizeof(m->description), "%s", b->description);
        m->cpus = b->cpus;
        m->mem = b->mem;
        strcpy(m->kernel, "vmlinuz");
        strcpy(m->initrd, "initrd");
        strcpy(m->cmdline, "console=ttyS0 quiet root=/dev/vda rw");
        strcpy(m->disk[m->n_disks++].file, "disk0.qcow2");
        m->net[m->n_nets++] = b->net;
        appliance_manifest_add(m, m->kernel);
        appliance_manifest_add(m, m->initrd);
        appliance_manifest_add(m, m->disk[0].file);
        r = appliance_pack(b->out, w.fd, m, work_progress(), e);
    }
    work_dir_remove(&w);
    free(parent);
    free(m);
    return r;
}

/* web.gazda -> web */
static void name_of_file(const char *path, char out[APPLIANCE_NAME_MAX + 1])
{
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path, *dot = strrchr(base, '.');
    snprintf(out, APPLIANCE_NAME_MAX + 1, "%.*s", dot && dot != base ? (int)(dot - base) : (int)strlen(base), base);
    if (!appliance_name_ok(out))
        strcpy(out, "appliance");
}

int appliance_build(int argc, char **argv)
{
    struct build b = { .run = "", .description = "", .cpus = 1, .mem = 512UL << 20 };
    struct err e = { 0 };
    char name[APPLIANCE_NAME_MAX + 1];
    if (parse(&b, argc, argv, &e) < 0)
        return cli_fail(&e);
    name_of_file(b.out, name);
    if (!b.name)
        b.name = name;
    work_begin();
    return appliance_done(build(&b, &e), &e);
}

int cli_appliance_command(int argc, char **argv)
{
    static const struct {
        const char *name;
        int (*main)(int argc, char **argv);
    } table[] = { { "build", appliance_build },   { "run", appliance_run },   { "import", appliance_import },
                  { "export", appliance_export }, { "list", appliance_list }, { "info", appliance_info },
                  { "delete", appliance_delete } };
    char help[] = "help", topic[] = "appliance", *args[] = { help, topic };
    if (argc < 2)
        return cli_usage_error("appliance needs a command: build, run, import, export, list, info or delete");
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)
        return cli_help(2, args);
    for (size_t i = 0; i < ARRAY_LEN(table); i++)
        if (strcmp(argv[1], table[i].name) == 0)
            return table[i].main(argc - 1, argv + 1);
    return cli_usage_error("unknown command \"appliance %s\"; see \"gazda help appliance\"", argv[1]);
}
