/* SPDX-License-Identifier: MIT */
/* gazda image: makes, describes, checks and resizes disk images. */
#include "cli/image.h"

#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { CHECK_ERRORS = 2, CHECK_LEAKS = 3, SHOWN_MAX = 50 };

const char cli_image_help[] =
    "usage: gazda image create [OPTION]... FILE [SIZE]\n"
    "       gazda image info [-f FORMAT] [--json] FILE\n"
    "       gazda image convert [OPTION]... FILE NEW\n"
    "       gazda image resize [-f FORMAT] [--shrink] FILE SIZE|+SIZE\n"
    "       gazda image check [-f FORMAT] [--repair] [-q] FILE\n"
    "       gazda image commit [-q] [--keep] FILE\n"
    "\n"
    "Formats are raw and qcow2. An image is locked while it is worked on. SIZE is a number with an optional\n"
    "K, M, G or T.\n"
    "\n"
    "  -f, --format FORMAT    what FILE is (create: is to be); without it create goes by the name (.qcow2,\n"
    "                         else raw), the others by the content, and images with a backing file need it\n"
    "  -O, --output FORMAT    convert: what NEW is to be (by the name)\n"
    "  -b, --backing FILE     create: an overlay of FILE, which must not change any more; needs -F\n"
    "  -F, --backing-format FORMAT\n"
    "                         what the backing file is\n"
    "  -c, --compress         convert: compressed clusters\n"
    "      --compression TYPE create, convert: zlib or zstd (zlib)\n"
    "      --cluster-size N   create, convert: 512 to 2M (64K)\n"
    "      --refcount-bits N  create, convert: 1 to 64 (16)\n"
    "      --compat VERSION   create, convert: v2 or v3 (v3)\n"
    "      --lazy-refcounts   create, convert: fewer metadata writes, repair after a crash\n"
    "      --force            create, convert: replace a file that is there\n"
    "      --shrink           resize: a raw image may become smaller; what is cut off is lost\n"
    "      --repair           check: correct refcounts and flags\n"
    "      --keep             commit: leave FILE as it is instead of emptying it\n"
    "      --json             info: as JSON, with the names that qemu-img uses\n"
    "  -q, --quiet            no progress, check: no findings\n"
    "\n"
    "commit writes what FILE holds into its backing file.\n"
    "\n"
    "Exit status: 0 done (check: in order, or repaired); 1 usage or other error, or check was not possible;\n"
    "2 check found errors; 3 check found only leaks (space that is not in use, no harm).\n";

volatile sig_atomic_t image_signal;

/* ---- options ---- */

enum { O_CLUSTER = 256, O_REFCOUNT, O_COMPAT, O_COMPRESSION, O_LAZY, O_FORCE, O_SHRINK, O_REPAIR, O_KEEP, O_JSON };

static const struct option long_options[] = {
    { "format", required_argument, NULL, 'f' },
    { "output", required_argument, NULL, 'O' },
    { "backing", required_argument, NULL, 'b' },
    { "backing-format", required_argument, NULL, 'F' },
    { "compress", no_argument, NULL, 'c' },
    { "quiet", no_argument, NULL, 'q' },
    { "help", no_argument, NULL, 'h' },
    { "cluster-size", required_argument, NULL, O_CLUSTER },
    { "refcount-bits", required_argument, NULL, O_REFCOUNT },
    { "compat", required_argument, NULL, O_COMPAT },
    { "compression", required_argument, NULL, O_COMPRESSION },
    { "lazy-refcounts", no_argument, NULL, O_LAZY },
    { "force", no_argument, NULL, O_FORCE },
    { "shrink", no_argument, NULL, O_SHRINK },
    { "repair", no_argument, NULL, O_REPAIR },
    { "keep", no_argument, NULL, O_KEEP },
    { "json", no_argument, NULL, O_JSON },
    { 0 },
};

int image_size(const char *text, uint64_t *out, struct err *e)
{
    char *end;
    errno = 0;
    double n = strtod(text, &end);
    unsigned shift;
    bool ok = cli_size_suffix(end, &shift);
    if (errno || end == text || !ok || text[0] < '0' || text[0] > '9' || strpbrk(text, "xXpPnN"))
        return err_set(e, EINVAL, "\"%.100s\" is not a size: it must be a number with an optional K, M, G or T", text);
    n *= (double)(1UL << shift);
    if (n > (double)(1UL << 62))
        return err_set(e, EINVAL, "the size \"%.100s\" is too large", text);
    /* A double is exact up to 2^53 only. */
    *out = strchr(text, '.') ? (uint64_t)n & ~(uint64_t)(DISK_SECTOR - 1) : strtoull(text, NULL, 10) << shift;
    if (*out == 0 || *out % DISK_SECTOR)
        return err_set(e, EINVAL, "the size \"%.100s\" is not a multiple of 512 bytes", text);
    return 0;
}

static int set_number(struct image_options *o, int opt, char *arg, struct err *e)
{
    if (opt == O_CLUSTER) {
        if (image_size(arg, &o->cluster_size, NULL) < 0 || o->cluster_size & (o->cluster_size - 1) ||
            o->cluster_size > 2 << 20)
            return err_set(e, EINVAL, "--cluster-size: \"%.100s\" is not a power of two from 512 to 2M", arg);
        return 0;
    }
    if (cli_parse_number(arg, 1, 64, &o->refcount_bits) < 0 || o->refcount_bits & (o->refcount_bits - 1))
        return err_set(e, EINVAL, "--refcount-bits: \"%.100s\" is not 1, 2, 4, 8, 16, 32 or 64", arg);
    return 0;
}

static int set_word(struct image_options *o, int opt, char *arg, struct err *e)
{
    if (opt == O_COMPAT) {
        o->version = strcmp(arg, "v2") == 0 ? 2 : strcmp(arg, "v3") == 0 ? 3 : 0;
        return o->version ? 0 : err_set(e, EINVAL, "--compat: unknown version \"%.100s\"; it must be v2 or v3", arg);
    }
    o->zstd = strcmp(arg, "zstd") == 0;
    if (!o->zstd && strcmp(arg, "zlib") != 0)
        return err_set(e, EINVAL, "--compression: unknown type \"%.100s\"; it must be zlib or zstd", arg);
    return 0;
}

static int set_format(const char **out, char *arg, struct err *e)
{
    *out = arg;
    if (strcmp(arg, "raw") != 0 && strcmp(arg, "qcow2") != 0)
        return err_set(e, EINVAL, "unknown format \"%.100s\"; it must be raw or qcow2", arg);
    return 0;
}

static int set_option(struct image_options *o, int opt, char *arg, struct err *e)
{
    switch (opt) {
    case 'f':
        return set_format(&o->format, arg, e);
    case 'O':
        return set_format(&o->out_format, arg, e);
    case 'F':
        return set_format(&o->backing_format, arg, e);
    case 'b':
        o->backing = arg;
        return 0;
    case O_CLUSTER:
    case O_REFCOUNT:
        return set_number(o, opt, arg, e);
    case O_COMPAT:
    case O_COMPRESSION:
        return set_word(o, opt, arg, e);
    default:
        break;
    }
    bool *flag = opt == 'c'        ? &o->compress
                 : opt == 'q'      ? &o->quiet
                 : opt == O_LAZY   ? &o->lazy
                 : opt == O_FORCE  ? &o->force
                 : opt == O_SHRINK ? &o->shrink
                 : opt == O_REPAIR ? &o->repair
                 : opt == O_KEEP   ? &o->keep
                                   : &o->json;
    *flag = true;
    return 0;
}

const char *image_out_format(const char *asked, const char *name)
{
    const char *dot = strrchr(name, '.');
    return asked ? asked : dot && strcmp(dot, ".qcow2") == 0 ? "qcow2" : "raw";
}

void image_describe(const struct image_options *o, struct disk_create *c)
{
    c->cluster_bits = o->cluster_size ? (unsigned)__builtin_ctzl(o->cluster_size) : 0;
    c->refcount_bits = o->refcount_bits;
    c->version = o->version;
    c->lazy_refcounts = o->lazy;
    c->zstd = o->zstd;
}

/* ---- create, resize, check ---- */

static int create(const struct image_options *o, struct err *e)
{
    struct disk_create c = { .backing = o->backing, .backing_format = o->backing_format };
    image_describe(o, &c);
    c.format = image_out_format(o->backing && !o->format ? "qcow2" : o->format, o->file[0]);
    if (o->n_files == 1 && !o->backing)
        return err_set(e, EINVAL, "create: a size is needed, or a backing file to have its size");
    if (o->n_files == 2 && image_size(o->file[1], &c.bytes, e) < 0)
        return -EINVAL;
    return disk_create(o->file[0], &c, o->force, e);
}

static int resize(const struct image_options *o, struct err *e)
{
    const struct disk_options open_as = { .format = o->format };
    const char *text = o->file[1];
    uint64_t bytes;
    if (image_size(text + (*text == '+'), &bytes, e) < 0)
        return -EINVAL;
    struct disk *d = disk_open_with(o->file[0], &open_as, e);
    if (!d)
        return -EINVAL;
    int r = 0;
    if (*text == '+' && __builtin_add_overflow(bytes, disk_bytes(d), &bytes))
        r = err_set(e, EINVAL, "resize: too large");
    else if (bytes < disk_bytes(d) && !o->shrink)
        r = err_set(e, EINVAL, "'%.300s' would become smaller and lose its end; --shrink allows that", o->file[0]);
    if (r == 0)
        r = disk_resize(d, bytes, e);
    disk_close(d);
    return r;
}

struct shown {
    bool quiet;
    unsigned n;
};

static void say(void *ctx, const char *text)
{
    struct shown *s = ctx;
    if (!s->quiet && s->n++ < SHOWN_MAX)
        puts(text);
    if (!s->quiet && s->n == SHOWN_MAX)
        puts("(more are not shown)");
}

static int check(const struct image_options *o, struct err *e)
{
    struct shown s = { .quiet = o->quiet };
    struct disk_check k = { .repair = o->repair, .say = say, .ctx = &s };
    int r = disk_check(o->file[0], o->format, &k, e);
    if (r < 0)
        return r;
    if (!o->quiet) {
        if (k.errors_fixed || k.leaks_fixed)
            printf("repaired: %lu errors, %lu leaked clusters\n", k.errors_fixed, k.leaks_fixed);
        if (k.errors || k.leaks)
            printf("%lu errors, %lu leaked clusters%s\n", k.errors, k.leaks, o->repair ? " remain" : "");
        else
            puts("no errors");
        printf("%lu of %lu clusters are allocated, %lu compressed; the image ends at %lu\n", k.allocated, k.clusters,
               k.compressed, k.end);
    }
    return k.errors ? CHECK_ERRORS : k.leaks ? CHECK_LEAKS : 0;
}

/* ---- info ---- */

static void print_size(const char *label, uint64_t bytes)
{
    static const char units[] = "KMGTPE";
    double n = (double)bytes;
    int u = -1;
    while (n >= 1024 && units[u + 1])
        n /= 1024, u++;
    if (u < 0)
        printf("%s: %lu bytes\n", label, bytes);
    else
        printf("%s: %.3g %ciB (%lu bytes)\n", label, n, units[u], bytes);
}

static json_t *text(const char *s)
{
    json_t *j = json_string(s);
    return j ? j : json_string("(not UTF-8)");
}

static int info_json(const char *file, const struct disk_info *i)
{
    json_t *j = json_pack("{s:o s:s s:I s:I}", "filename", text(file), "format", i->format, "virtual-size",
                          (json_int_t)i->bytes, "actual-size", (json_int_t)i->allocated);
    if (i->cluster) {
        json_t *s = json_array();
        json_object_set_new(j, "cluster-size", json_integer((json_int_t)i->cluster));
        json_object_set_new(j, "dirty-flag", json_boolean(i->dirty));
        if (i->backing[0])
            json_object_set_new(j, "backing-filename", text(i->backing));
        if (i->backing_format[0])
            json_object_set_new(j, "backing-filename-format", text(i->backing_format));
        for (unsigned k = 0; k < i->n_snapshots; k++)
            json_array_append_new(s, json_pack("{s:o s:o s:I s:I}", "id", text(i->snapshots[k].id), "name",
                                               text(i->snapshots[k].name), "vm-state-size",
                                               (json_int_t)i->snapshots[k].vm_state, "date-sec",
                                               (json_int_t)i->snapshots[k].seconds));
        json_object_set_new(j, "snapshots", s);
        json_object_set_new(j, "format-specific",
                            json_pack("{s:s s:{s:s s:b s:i s:b s:s}}", "type", "qcow2", "data", "compat",
                                      i->version == 2 ? "0.10" : "1.1", "lazy-refcounts", i->lazy_refcounts,
                                      "refcount-bits", (int)i->refcount_bits, "corrupt", i->corrupt, "compression-type",
                                      i->zstd ? "zstd" : "zlib"));
    }
    int r = json_dumpf(j, stdout, JSON_INDENT(4));
    putchar('\n');
    json_decref(j);
    return r == 0 ? 0 : -EIO;
}

/* Names come from the image: no control characters reach the terminal. */
static void print_name(const char *label, const char *name)
{
    printf("%s: ", label);
    for (; *name; name++)
        putchar((unsigned char)*name < ' ' || *name == 127 ? '?' : *name);
    putchar('\n');
}

static void info_text(const char *file, const struct disk_info *i)
{
    print_name("image", file);
    printf("format: %s%s\n", i->format, i->version == 2 ? " version 2" : "");
    print_size("virtual size", i->bytes);
    print_size("on disk", i->allocated);
    if (!i->cluster)
        return;
    print_size("cluster size", i->cluster);
    if (i->backing[0])
        print_name("backing file", i->backing);
    if (i->backing_format[0])
        print_name("backing format", i->backing_format);
    printf("compression: %s\nrefcount bits: %u%s\n", i->zstd ? "zstd" : "zlib", i->refcount_bits,
           i->lazy_refcounts ? ", lazy" : "");
    if (i->dirty)
        puts("it was not closed properly: it is repaired when it is next opened to write");
    if (i->corrupt)
        puts("it is marked corrupt");
    if (i->bitmaps)
        puts("it has persistent bitmaps: read-only for gazda");
    for (unsigned k = 0; k < i->n_snapshots; k++) {
        char date[40];
        time_t t = (time_t)i->snapshots[k].seconds;
        struct tm tm;
        strftime(date, sizeof(date), "%Y-%m-%d %H:%M:%S", localtime_r(&t, &tm));
        printf("snapshot of %s ", date);
        print_name(i->snapshots[k].id, i->snapshots[k].name);
    }
}

static int info(const struct image_options *o, struct err *e)
{
    struct disk_info i = { 0 };
    int r = disk_info(o->file[0], o->format, &i, e);
    if (r < 0)
        return r;
    if (o->json)
        r = info_json(o->file[0], &i);
    else
        info_text(o->file[0], &i);
    free(i.snapshots);
    return r;
}

/* ---- the subcommands ---- */

static const struct {
    const char *name, *takes; /* option letters; long ones as below */
    int min, max;             /* arguments */
    int (*run)(const struct image_options *o, struct err *e);
} verbs[] = {
    { "create", "fbFqCRVZLX", 1, 2, create },
    { "info", "fqJ", 1, 1, info },
    { "convert", "fOcqCRVZLX", 2, 2, image_convert },
    { "resize", "fqS", 2, 2, resize },
    { "check", "fqP", 1, 1, check },
    { "commit", "qK", 1, 1, image_commit },
};

/* The letters of long options in `takes`. */
static int letter(int opt)
{
    static const char letters[] = "CRVZLXSPKJ";
    return opt < O_CLUSTER ? opt : letters[opt - O_CLUSTER];
}

static void on_signal(int n)
{
    image_signal = n;
}

static int parse(unsigned v, struct image_options *o, int argc, char **argv)
{
    struct err e = { 0 };
    int opt;
    opterr = 0;
    optind = 1;
    while ((opt = getopt_long(argc, argv, ":f:O:b:F:cqh", long_options, NULL)) != -1) {
        if (opt == 'h') {
            fputs(cli_image_help, stdout);
            return -1;
        }
        if (opt == ':' || opt == '?')
            return cli_bad_option(argv, opt, "image");
        if (!strchr(verbs[v].takes, letter(opt)))
            return cli_usage_error("image %s does not take %s; see \"gazda help image\"", verbs[v].name,
                                   argv[optind - 1 - (optarg == argv[optind - 1])]);
        if (set_option(o, opt, optarg, &e) < 0)
            return cli_fail(&e);
    }
    o->file = argv + optind;
    o->n_files = argc - optind;
    if (o->n_files < verbs[v].min || o->n_files > verbs[v].max)
        return cli_usage_error("image %s: %s; see \"gazda help image\"", verbs[v].name,
                               o->n_files < verbs[v].min ? "a file name or size is missing" : "too many arguments");
    return STATUS_OK;
}

int cli_image(int argc, char **argv)
{
    struct image_options o = { 0 };
    struct err e = { 0 };
    if (argc >= 2 && (strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "--help") == 0)) {
        fputs(cli_image_help, stdout);
        return STATUS_OK;
    }
    for (unsigned v = 0; v < ARRAY_LEN(verbs) && argc >= 2; v++) {
        if (strcmp(argv[1], verbs[v].name) != 0)
            continue;
        int r = parse(v, &o, argc - 1, argv + 1);
        if (r != STATUS_OK)
            return r < 0 ? STATUS_OK : r;
        struct sigaction sa = { .sa_handler = on_signal };
        sigaction(SIGINT, &sa, NULL);
        sigaction(SIGTERM, &sa, NULL);
        sigaction(SIGHUP, &sa, NULL);
        r = verbs[v].run(&o, &e);
        if (fflush(stdout) != 0 && r == 0)
            r = err_set(&e, errno, "cannot write to standard output: %s", strerror(errno));
        if (image_signal)
            return STATUS_SIGNAL + image_signal;
        return r < 0 ? cli_fail(&e) : r;
    }
    return argc < 2
               ? cli_usage_error("image: what is to be done is missing; see \"gazda help image\"")
               : cli_usage_error("image: \"%.100s\" is not create, info, convert, resize, check or commit", argv[1]);
}
