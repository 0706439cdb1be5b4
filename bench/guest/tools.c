/* SPDX-License-Identifier: MIT */
/*
 * Rows that Debian's fio and iperf3 measure: each prints JSON, of which one number is the row. The programs and their
 * libraries are in a folder that is not this process's root, so the folder's own loader starts them: so they need no
 * chroot, and natively no root. BENCH_DISK is the file that fio works on (natively; else it is /dev/vda, past the
 * guest's page cache), BENCH_IPERF is ADDRESS:PORT of an iperf3 server.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest/rows.h"

enum { ARGS = 24, TEXT = 256, NET_UNIT = 262144 };

struct tool {
    const char *name;
    const char *program;
    const char *options;
    const char *object, *member; /* of the JSON: operations or units a second */
    double scale;                /* over that number: ns of one */
};

static const struct tool tools[] = {
    { "randread", "fio", "--rw=randread --bs=4k --iodepth=1", "read", "iops", 1e9 },
    { "randwrite", "fio", "--rw=randwrite --bs=4k --iodepth=1", "write", "iops", 1e9 },
    { "randread32", "fio", "--rw=randread --bs=4k --iodepth=32", "read", "iops", 1e9 },
    { "randwrite32", "fio", "--rw=randwrite --bs=4k --iodepth=32", "write", "iops", 1e9 },
    { "seqread", "fio", "--rw=read --bs=256k --iodepth=1", "read", "iops", 1e9 },
    { "seqwrite", "fio", "--rw=write --bs=256k --iodepth=1", "write", "iops", 1e9 },
    { "nettx", "iperf3", "", "sum_received", "bits_per_second", 8e9 * NET_UNIT },
    { "netrx", "iperf3", "--reverse", "sum_received", "bits_per_second", 8e9 * NET_UNIT },
    { NULL, NULL, NULL, NULL, NULL, 0 },
};

struct job {
    const struct tool *tool;
    const char *root, *seconds;
};

struct args {
    char *v[ARGS];
    size_t n;
};

static char *add(struct args *a, const char *format, ...)
{
    va_list ap;
    if (a->n == ARGS - 1)
        bench_die("arguments");
    va_start(ap, format);
    if (vasprintf(&a->v[a->n], format, ap) < 0)
        bench_die("memory");
    va_end(ap);
    return a->v[a->n++];
}

static void add_words(struct args *a, const char *words)
{
    char buf[TEXT], *rest = buf, *word;
    snprintf(buf, sizeof(buf), "%s", words);
    while ((word = strsep(&rest, " ")))
        if (*word)
            add(a, "%s", word);
}

/* What is in the guest's or the host's page cache stays there: fio would throw it out first. */
static void fio_args(struct args *a, const struct job *job)
{
    const char *file = getenv("BENCH_DISK");
    add_words(a, "--name=bench --ioengine=libaio --invalidate=0 --time_based --output-format=json --eta=never");
    add(a, "--direct=%d", !file);
    add(a, "--filename=%s", file ? file : "/dev/vda");
    add(a, "--runtime=%s", job->seconds);
}

static void iperf_args(struct args *a, const struct job *job)
{
    const char *at = getenv("BENCH_IPERF"), *colon = at ? strchr(at, ':') : NULL;
    if (!colon)
        bench_die("BENCH_IPERF");
    add_words(a, "--json --client");
    add(a, "%.*s", (int)(colon - at), at);
    add(a, "--port=%s", colon + 1);
    add(a, "--time=%s", job->seconds);
}

static void start_tool(const void *arg)
{
    const struct job *job = arg;
    struct args a = { .n = 0 };
    const char *loader = add(&a, "%s/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", job->root);
    add_words(&a, "--inhibit-cache --library-path");
    add(&a, "%s/usr/lib/x86_64-linux-gnu:%s/usr/lib/x86_64-linux-gnu/ceph", job->root, job->root);
    add(&a, "%s/usr/bin/%s", job->root, job->tool->program);
    if (strcmp(job->tool->program, "fio") == 0)
        fio_args(&a, job);
    else
        iperf_args(&a, job);
    add_words(&a, job->tool->options);
    execv(loader, a.v);
    bench_die(loader);
}

/* After "key": and white space; NULL where there is none. */
static const char *value_of(const char *json, const char *key)
{
    const size_t len = strlen(key);
    for (const char *at = json; (at = strstr(at, key)); at += len) {
        const char *end = at + len;
        if (at == json || at[-1] != '"' || *end++ != '"')
            continue;
        end += strspn(end, " \t");
        if (*end == ':')
            return end + 1 + strspn(end + 1, " \t\r\n");
    }
    return NULL;
}

/* The member's number in the first object of that name; 0 where there is none. fio has strings of the same name. */
static double number_in(const char *json, const char *object, const char *member)
{
    while ((json = value_of(json, object)))
        if (*json == '{') {
            json = value_of(json, member);
            return json && isdigit((unsigned char)*json) ? strtod(json, NULL) : 0;
        }
    return 0;
}

/* All that was written to a file in memory, as a string of its own. */
static char *text_of(int fd)
{
    struct stat st;
    char *text;
    if (fstat(fd, &st) < 0 || !(text = calloc(1, (size_t)st.st_size + 1)))
        bench_die("output");
    if (pread(fd, text, (size_t)st.st_size, 0) != st.st_size)
        bench_die("output");
    return text;
}

static int run_tool(const void *arg)
{
    const struct job *job = arg;
    const struct tool *t = job->tool;
    struct launched run;
    launch_captured(&run, start_tool, job);
    char *json = text_of(run.out);
    const char *error = value_of(json, "error"); /* fio's is a number */
    const double rate = number_in(json, t->object, t->member);
    if (run.status != 0)
        launch_complain(t->name, &run);
    else if (error && *error == '"') /* iperf3 ends with status 0 all the same */
        printf("bench %s failed: %s: %.*s\n", t->name, t->program, (int)strcspn(error + 1, "\"\r\n"), error + 1);
    else if (rate <= 0)
        printf("bench %s failed: no number in what %s printed\n", t->name, t->program);
    else
        printf("bench %s=%.4f\n", t->name, t->scale / rate);
    free(json);
    return 0;
}

int tools_run(const char *seconds, unsigned limit, const char *root, char **names)
{
    for (; *names; names++) {
        struct job job = { tools, root, seconds };
        while (job.tool->name && strcmp(job.tool->name, *names) != 0)
            job.tool++;
        if (job.tool->name)
            bench_guarded(*names, limit, run_tool, &job);
        else
            printf("bench %s skipped: no such row\n", *names);
    }
    return 0;
}
