/* SPDX-License-Identifier: MIT */
/* gazda appliance run, import of our own format, and export. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "cli/appliance.h"
#include "cli/appliance_ova.h"
#include "cli/cli.h"

/* ---- run ---- */

/* A growing argument list; its texts are malloc'ed. */
struct args {
    char **v;
    int n;
    bool failed;
};

static void add(struct args *a, const char *text)
{
    char **v = realloc(a->v, ((size_t)a->n + 2) * sizeof(*v));
    if (v)
        a->v = v;
    if (!v || !(v[a->n] = strdup(text))) {
        a->failed = true;
        return;
    }
    v[++a->n] = NULL;
}

/* OPTION DIR/FILE[SUFFIX] */
static void add_file(struct args *a, const char *option, const char *dir, const char *file, const char *suffix)
{
    char *path;
    if (asprintf(&path, "%s/%s%s", dir, file, suffix) < 0) {
        a->failed = true;
        return;
    }
    add(a, option);
    add(a, path);
    free(path);
}

/* The ports are the loopback's only: a manifest from elsewhere opens nothing to the network. */
static void add_net(struct args *a, const struct appliance_net *n)
{
    char text[64 + APPLIANCE_PORTS_MAX * 48];
    int len = snprintf(text, sizeof(text), "user");
    for (unsigned i = 0; i < n->n_ports; i++)
        len += snprintf(text + len, sizeof(text) - (size_t)len, ",hostfwd=%s:127.0.0.1:%u-:%u",
                        n->port[i].udp ? "udp" : "tcp", n->port[i].host, n->port[i].guest);
    add(a, "--net");
    add(a, text);
}

/* What "gazda run" is to be given for the machine in folder dir; the user's own options follow and win. */
static void add_machine(struct args *a, const struct appliance_manifest *m, const char *dir)
{
    char number[32];
    add(a, "run");
    add(a, "--name");
    add(a, m->name);
    add(a, "--cpus");
    snprintf(number, sizeof(number), "%u", m->cpus);
    add(a, number);
    add(a, "--mem");
    snprintf(number, sizeof(number), "%lu", m->mem);
    add(a, number);
    if (*m->kernel)
        add_file(a, "--kernel", dir, m->kernel, "");
    if (*m->initrd)
        add_file(a, "--initrd", dir, m->initrd, "");
    if (*m->cmdline) {
        add(a, "--append");
        add(a, m->cmdline);
    }
    for (unsigned i = 0; i < m->n_disks; i++)
        add_file(a, "--disk", dir, m->disk[i].file, m->disk[i].read_only ? ",ro" : "");
    for (unsigned i = 0; i < m->n_nets; i++)
        add_net(a, &m->net[i]);
}

/* The machine of a folder, until it ends: the exit status. */
static int run_dir(const struct appliance_manifest *m, const char *dir, int argc, char **argv)
{
    struct args a = { 0 };
    int status = STATUS_ERROR;
    add_machine(&a, m, dir);
    for (int i = 0; i < argc; i++)
        add(&a, argv[i]);
    if (a.failed) {
        cli_usage_error("out of memory");
    } else {
        /* getopt moves entries: the texts are freed from a list of our own. */
        char **v = calloc((size_t)a.n + 1, sizeof(*v));
        if (v) {
            memcpy(v, a.v, (size_t)a.n * sizeof(*v));
            optind = 0;
            status = cli_run(a.n, v);
        }
        free(v);
    }
    for (int i = 0; i < a.n; i++)
        free(a.v[i]);
    free(a.v);
    return status;
}

/* Disks change when the machine runs; what it starts from must be what was imported. */
static int verify_boot_files(int fd, struct appliance_manifest *m, struct err *e)
{
    const char *const name[] = { m->kernel, m->initrd };
    int r = 0;
    for (size_t i = 0; r == 0 && i < ARRAY_LEN(name); i++)
        if (*name[i])
            r = appliance_verify(fd, appliance_manifest_file(m, name[i]), work_progress(), e);
    for (unsigned i = 0; r == 0 && i < m->n_disks; i++)
        r = appliance_check_disk(fd, m->disk[i].file, e);
    return r;
}

static int run_stored(struct appliance_manifest *m, char **argv, int argc)
{
    struct err e = { 0 };
    work_begin();
    char *path = store_entry(argv[1], &e);
    int fd = path ? store_open(argv[1], m, &e) : -EINVAL, r = fd;
    if (fd >= 0)
        r = verify_boot_files(fd, m, &e);
    int status = appliance_done(r, &e);
    if (r >= 0)
        status = run_dir(m, path, argc - 2, argv + 2);
    if (fd >= 0)
        close(fd);
    free(path);
    return status;
}

/* From a copy that is thrown away. */
static int run_file(struct appliance_manifest *m, char **argv, int argc)
{
    struct err e = { 0 };
    struct work_dir w = { NULL, -1 };
    work_begin();
    char *store = store_path(&e);
    int r = store ? work_dir_make(&w, store, &e) : -ENOENT;
    r = r ? r : appliance_unpack(argv[1], w.fd, m, work_progress(), &e);
    int status = appliance_done(r, &e);
    if (r == 0 && m->n_disks)
        fprintf(stderr, "gazda: what %s writes to its disks is gone at the end; \"gazda appliance import\" keeps it\n",
                m->name);
    if (r == 0)
        status = run_dir(m, w.path, argc - 2, argv + 2);
    work_dir_remove(&w);
    free(store);
    return status;
}

int appliance_run(int argc, char **argv)
{
    if (argc < 2 || argv[1][0] == '-')
        return cli_usage_error("appliance run needs a NAME or a FILE first; see \"gazda help appliance\"");
    struct appliance_manifest *m = calloc(1, sizeof(*m));
    char *path = m && appliance_name_ok(argv[1]) ? store_entry(argv[1], NULL) : NULL;
    bool stored = path && access(path, F_OK) == 0;
    if (!stored && appliance_name_ok(argv[1]) && access(argv[1], F_OK) != 0)
        stored = true; /* for its message */
    free(path);
    int status = !m ? STATUS_ERROR : stored ? run_stored(m, argv, argc) : run_file(m, argv, argc);
    free(m);
    return status;
}

/* ---- import ---- */

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n > m && strcasecmp(s + n - m, end) == 0;
}

static int import_file(const char *file, const char *name, const struct ova_options *ova, struct err *e)
{
    struct work_dir w = { NULL, -1 };
    struct appliance_manifest *m = calloc(1, sizeof(*m));
    char *store = store_path(e), *path = NULL;
    int r = store && m ? work_dir_make(&w, store, e) : -ENOENT;
    if (r == 0 && (ends_with(file, ".ova") || ends_with(file, ".ovf")))
        r = ova_import(file, &w, m, ova, e);
    else if (r == 0)
        r = appliance_unpack(file, w.fd, m, work_progress(), e);
    if (r == 0 && name) {
        snprintf(m->name, sizeof(m->name), "%s", name);
        r = appliance_save(w.fd, m, e);
    }
    path = r == 0 ? store_entry(m->name, e) : NULL;
    if (r == 0)
        r = path ? work_dir_keep(&w, path, e) : -EINVAL;
    if (r == 0) {
        work_quiet();
        printf("%s\n", m->name);
    }
    work_dir_remove(&w);
    free(path);
    free(store);
    free(m);
    return r;
}

int appliance_import(int argc, char **argv)
{
    static const struct option options[] = { { "name", required_argument, NULL, 'n' },
                                             { "kernel", required_argument, NULL, 'k' },
                                             { "initrd", required_argument, NULL, 'i' },
                                             { "append", required_argument, NULL, 'a' },
                                             { 0 } };
    struct ova_options ova = { 0 };
    struct err e = { 0 };
    const char *name = NULL;
    int opt;
    opterr = 0;
    while ((opt = getopt_long(argc, argv, ":", options, NULL)) != -1) {
        switch (opt) {
        case 'n':
            name = optarg;
            break;
        case 'k':
            ova.kernel = optarg;
            break;
        case 'i':
            ova.initrd = optarg;
            break;
        case 'a':
            ova.append = optarg;
            break;
        default:
            return cli_bad_option(argv, opt, "appliance");
        }
    }
    if (optind != argc - 1)
        return cli_usage_error("appliance import needs one FILE; see \"gazda help appliance\"");
    if (name && !appliance_name_ok(name))
        return cli_usage_error("--name: \"%.80s\" must have letters, digits, . _ - + only", name);
    work_begin();
    return appliance_done(import_file(argv[optind], name, &ova, &e), &e);
}

/* ---- export ---- */

int appliance_export(int argc, char **argv)
{
    static const struct option options[] = { { "output", required_argument, NULL, 'o' }, { 0 } };
    struct err e = { 0 };
    const char *out = NULL;
    int opt, r = -ENOMEM;
    opterr = 0;
    while ((opt = getopt_long(argc, argv, ":o:", options, NULL)) != -1) {
        if (opt != 'o')
            return cli_bad_option(argv, opt, "appliance");
        out = optarg;
    }
    if (optind != argc - 1 || !out)
        return cli_usage_error("appliance export needs a NAME and -o FILE; see \"gazda help appliance\"");
    work_begin();
    struct appliance_manifest *m = calloc(1, sizeof(*m));
    int fd = m ? store_open(argv[optind], m, &e) : -ENOMEM;
    if (fd >= 0) {
        r = appliance_pack(out, fd, m, work_progress(), &e);
        close(fd);
    } else {
        r = fd;
    }
    free(m);
    return appliance_done(r, &e);
}
