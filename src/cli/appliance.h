/* SPDX-License-Identifier: MIT */
/* Shared by the files of gazda appliance: the store, progress and interruption, programs that are run. */
#ifndef GAZDA_CLI_APPLIANCE_H
#define GAZDA_CLI_APPLIANCE_H

#include "appliance/archive.h"
#include "appliance/manifest.h"
#include "base/err.h"
#include "base/types.h"

/* ---- what is done, and its end by a signal (appliance_work.c) ---- */

/* From here on SIGINT, SIGTERM and SIGHUP only set a flag: whoever works looks at it, cleans up and returns. */
void work_begin(void);
/* The signals are what they were; gives the one that came, or 0. */
int work_end(void);
/* Reports on stderr when that is a terminal. The same object each time. */
const struct appliance_progress *work_progress(void);
/* Ends a line of progress. */
void work_quiet(void);

/*
 * Runs a program to its end; a signal that ends us ends it. argv[0] is searched in PATH. out_fd becomes its stdout, -1:
 * our stderr. 0, -ENOENT when there is no such program, -EINTR, or -EIO when it failed; e is set, for -EIO with `what`.
 */
int work_run(char *const argv[], int out_fd, const char *what, struct err *e);

/* A malloc'ed path of a script that comes with gazda, e.g. "guest/appliance/build"; NULL with e set. */
char *work_script(const char *rel, struct err *e);

/* ---- folders (appliance_store.c) ---- */

/* A folder that is made for some work and removed with what is in it (no folders), unless it was kept. */
struct work_dir {
    char *path;
    int fd;
};

/* A new folder of an unguessable name in parent. 0 or -errno with e set. */
int work_dir_make(struct work_dir *w, const char *parent, struct err *e);
/* Gives it its name, which must not be there yet (-EEXIST). */
int work_dir_keep(struct work_dir *w, const char *path, struct err *e);
void work_dir_remove(struct work_dir *w); /* also after keep, where it only frees */

/* The folder of all appliances, malloc'ed, made if it is not there; NULL with e set. */
char *store_path(struct err *e);
/* STORE/NAME, malloc'ed; the name must be plain. NULL with e set. */
char *store_entry(const char *name, struct err *e);
/*
 * Opens an appliance of the store and locks it against any other use. Returns the folder's descriptor, or -errno with e
 * set: -ENOENT, -EBUSY.
 */
int store_open(const char *name, struct appliance_manifest *m, struct err *e);
/* Removes all files of the folder, then the folder. */
int store_remove_dir(const char *path, struct err *e);

/* ---- subcommands: each returns the exit status ---- */

int appliance_build(int argc, char **argv);
int appliance_run(int argc, char **argv);
int appliance_import(int argc, char **argv);
int appliance_export(int argc, char **argv);
int appliance_list(int argc, char **argv);
int appliance_info(int argc, char **argv);
int appliance_delete(int argc, char **argv);

/* Ends the work, prints e if r is an error; the exit status. */
int appliance_done(int r, const struct err *e);

#endif
