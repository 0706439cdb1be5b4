/* SPDX-License-Identifier: MIT */
/*
 * A directory of the host that a guest uses: every access is by descriptors below it. All calls block; they belong on a
 * worker. Any number of threads may use one share at once. Unless said otherwise a call returns 0 or -errno, and every
 * change of a read-only share is -EROFS.
 *
 * Nothing leads out of the directory. A name is one component, looked up without following symbolic links in a
 * directory that was reached the same way from the top; ".." is followed only where the top is still above. Only
 * regular files and directories are ever opened; everything else is held by O_PATH descriptors. What processes of the
 * host move out of the directory while the guest holds it stays the guest's, as an open file would.
 */
#ifndef GAZDA_HOST_SHARE_H
#define GAZDA_HOST_SHARE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>

#include "base/err.h"

enum { SHARE_NAME_MAX = 255, SHARE_PATH_MAX = 4096, SHARE_XATTR_MAX = 65536 };

struct share;

struct share_cfg {
    const char *dir;
    bool read_only;
    bool map_root; /* the user that runs this process is uid 0 in the guest, its group gid 0 */
};

/* Owner and permissions of something new, as the guest names them. uid may be UINT32_MAX: whoever it is. */
struct share_new {
    uint32_t mode, uid, gid;
};

struct share *share_open(const struct share_cfg *cfg, struct err *e); /* NULL with e set */
void share_free(struct share *s);                                     /* NULL is fine; its descriptors are closed */
bool share_read_only(const struct share *s);

/* ---- descriptors: each call returns a new one or -errno (-EMFILE when the share's bound is reached) ---- */

void share_close(struct share *s, int fd); /* for all that came from here; -1 is fine */
int share_top(struct share *s);
/* name in directory dir: "." and ".." too (".." of the top is the top). */
int share_walk(struct share *s, int dir, const char *name);
/* A relative path from the top, component by component. */
int share_find(struct share *s, const char *path);
/* Opens a node for I/O; flags as for open(2), of which only those that make sense count. -ENXIO: a special file. */
int share_reopen(struct share *s, int node, int flags);
/* Makes (or, without O_EXCL, opens) a regular file. */
int share_create(struct share *s, int dir, const char *name, int flags, const struct share_new *n);
int share_dup(struct share *s, int fd);

/* ---- about nodes ---- */

int share_stat(struct share *s, int node, struct statx *st); /* uid and gid as the guest sees them */
/* A number that names the file within the share, over all file systems mounted in it. */
uint64_t share_ino(const struct share *s, const struct statx *st);
uint64_t share_top_ino(const struct share *s);
/* Of a directory that st tells of: the number of a file of the same file system with inode number ino. */
uint64_t share_ino_beside(const struct share *s, const struct statx *st, uint64_t ino);
ssize_t share_readlink(struct share *s, int node, char *buf, size_t size);
/* Where the node is now, relative to the top ("" is the top). -ENOENT: deleted, or moved out. */
int share_path(struct share *s, int node, char out[SHARE_PATH_MAX]);

/* ---- changes in directories ---- */

int share_mkdir(struct share *s, int dir, const char *name, const struct share_new *n);
int share_mknod(struct share *s, int dir, const char *name, const struct share_new *n); /* no devices: -EPERM */
int share_symlink(struct share *s, int dir, const char *name, const char *target, const struct share_new *n);
int share_link(struct share *s, int node, int dir, const char *name);
int share_rename(struct share *s, int from, const char *old, int to, const char *name);
int share_unlink(struct share *s, int dir, const char *name, bool is_dir);
/* The same by node: of the name that it has now. */
int share_move(struct share *s, int node, int to, const char *name);
int share_remove(struct share *s, int node);

/* ---- changes of nodes ---- */

int share_chmod(struct share *s, int node, uint32_t mode);
int share_chown(struct share *s, int node, uint32_t uid, uint32_t gid); /* UINT32_MAX leaves one as it is */
int share_truncate(struct share *s, int node, uint64_t size);
int share_utimes(struct share *s, int node, const struct timespec t[2]);

/* Only user.* exists; -EPERM or -ENODATA for the rest. They return lengths; with size 0 only that. */
ssize_t share_getxattr(struct share *s, int node, const char *name, void *buf, size_t size);
ssize_t share_listxattr(struct share *s, int node, char *buf, size_t size);
struct share_attr {
    const char *name;
    const void *value;
    size_t size;
    int flags; /* as of setxattr(2); XATTR_REPLACE with size 0 removes */
};
int share_setxattr(struct share *s, int node, const struct share_attr *a);

#endif
