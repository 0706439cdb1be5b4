/* SPDX-License-Identifier: MIT */
/* What the subcommands of gazda image share. */
#ifndef GAZDA_CLI_IMAGE_H
#define GAZDA_CLI_IMAGE_H

#include <signal.h>

#include "cli/cli.h"
#include "host/disk_image.h"

/* The options of all subcommands of gazda image; each takes some. */
struct image_options {
    const char *format, *out_format, *backing, *backing_format;
    uint64_t cluster_size;
    unsigned refcount_bits, version;
    bool zstd, lazy, compress, force, quiet, json, repair, shrink, keep;
    char **file; /* the arguments behind the options */
    int n_files;
};

/* The last of ^C, SIGTERM and SIGHUP that came; 0: none. Loops end soon then. */
extern volatile sig_atomic_t image_signal;

/* Bytes, rounded to nothing: a multiple of 512. "512M", "10G", "1.5T". 0 or -EINVAL with e set. */
int image_size(const char *text, uint64_t *out, struct err *e);
void image_describe(const struct image_options *o, struct disk_create *c);
/* The format that a file is to be made in: what was asked for, else by the name (.qcow2), else raw. */
const char *image_out_format(const char *asked, const char *name);

/* A line "NN.N%" on a terminal. Any thread may add to done; one calls image_progress. */
struct image_progress {
    bool shown;
    uint64_t total;
    _Atomic uint64_t done;
};
void image_progress_start(struct image_progress *p, bool quiet, uint64_t total);
void image_progress(const struct image_progress *p);
void image_progress_end(const struct image_progress *p);

/* Each returns 0, -errno with e set, or an exit status. */
int image_convert(const struct image_options *o, struct err *e);
int image_commit(const struct image_options *o, struct err *e);

#endif
