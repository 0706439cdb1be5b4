/* SPDX-License-Identifier: MIT */
/*
 * Shared directories: descriptors and the ways to them. A step of a walk is one openat2 (or openat) of one component
 * with O_PATH and O_NOFOLLOW, so a symbolic link is a node like any other and no step can leave the directory that it
 * starts from, whatever is renamed meanwhile.
 */
#include "host/share.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "host/share_int.h"

enum {
    FDS_WANTED = 1 << 20, /* of the process, if the host lets it */
    FDS_OTHERS = 256,     /* left for everything else */
    DEPTH_MAX = 4096,
};

/* ---- life ---- */

/* What a share may hold: as many descriptors as the process can get, less some for the rest of it. */
static unsigned fd_budget(void)
{
    struct rlimit l;
    if (getrlimit(RLIMIT_NOFILE, &l) < 0)
        return FDS_OTHERS;
    rlim_t want = l.rlim_max < FDS_WANTED ? l.rlim_max : FDS_WANTED;
    if (l.rlim_cur < want) {
        struct rlimit more = { .rlim_cur = want, .rlim_max = l.rlim_max };
        if (setrlimit(RLIMIT_NOFILE, &more) == 0)
            l.rlim_cur = want;
    }
    rlim_t n = l.rlim_cur < FDS_WANTED ? l.rlim_cur : FDS_WANTED;
    return (unsigned)(n > 2UL * FDS_OTHERS ? n - FDS_OTHERS : n / 2);
}

/* Without setting it, which would be seen by all threads. */
static mode_t process_umask(void)
{
    unsigned mask = 0777; /* unknown: permissions are then always set after the fact */
    char line[256];
    FILE *f = fopen("/proc/self/status", "re");
    while (f && fgets(line, sizeof(line), f))
        if (sscanf(line, "Umask: %o", &mask) == 1)
            break;
    if (f)
        fclose(f);
    return mask;
}

/* Its files are this process: what is written to /proc/PID/mem is written into the monitor. */
static bool is_proc(int fd)
{
    struct statfs fs;
    return fstatfs(fd, &fs) < 0 || fs.f_type == PROC_SUPER_MAGIC;
}

struct share *share_open(const struct share_cfg *cfg, struct err *e)
{
    struct stat st;
    struct share *s = calloc(1, sizeof(*s));
    if (!s) {
        err_set(e, ENOMEM, "out of memory for the shared directory %s", cfg->dir);
        return NULL;
    }
    s->proc = -1;
    s->read_only = cfg->read_only;
    s->uid = geteuid();
    s->gid = getegid();
    s->map_root = cfg->map_root && s->uid != 0;
    s->umask = process_umask();
    s->fds_max = fd_budget();
    s->top = open(cfg->dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (s->top < 0 || fstat(s->top, &st) < 0) {
        err_set(e, errno, "cannot share %s: %s%s", cfg->dir, strerror(errno),
                errno == ENOTDIR ? "; it must be a directory" : "");
        goto undo_share;
    }
    if (is_proc(s->top)) {
        err_set(e, EINVAL, "cannot share %s: what is in /proc leads out of the guest", cfg->dir);
        goto undo_share;
    }
    s->dev = st.st_dev;
    s->ino = st.st_ino;
    s->proc = open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (s->proc < 0) {
        err_set(e, errno, "cannot share %s: /proc is needed, and /proc/self/fd cannot be opened: %s", cfg->dir,
                strerror(errno));
        goto undo_share;
    }
    if (faccessat(s->proc, share_proc_name(s->top).text, R_OK | X_OK, AT_EACCESS) < 0 ||
        (!cfg->read_only && faccessat(s->proc, share_proc_name(s->top).text, W_OK, AT_EACCESS) < 0 && errno == EROFS)) {
        err_set(e, errno, "cannot share %s: %s%s", cfg->dir, strerror(errno), errno == EROFS ? "; add \",ro\"" : "");
        goto undo_share;
    }
    return s;
undo_share:
    share_free(s);
    return NULL;
}

void share_free(struct share *s)
{
    if (!s)
        return;
    if (s->top >= 0)
        close(s->top);
    if (s->proc >= 0)
        close(s->proc);
    free(s);
}

bool share_read_only(const struct share *s)
{
    return s->read_only;
}

/* ---- descriptors ---- */

static bool reserve(struct share *s)
{
    if (atomic_fetch_add(&s->fds, 1) < s->fds_max)
        return true;
    atomic_fetch_sub(&s->fds, 1);
    return false;
}

/* The result of a system call that opens, for which reserve was called. */
static int opened(struct share *s, int fd)
{
    if (fd >= 0)
        return fd;
    int r = errno == ENFILE ? -EMFILE : -errno;
    atomic_fetch_sub(&s->fds, 1);
    return r;
}

void share_close(struct share *s, int fd)
{
    if (fd < 0)
        return;
    close(fd);
    atomic_fetch_sub(&s->fds, 1);
}

int share_dup(struct share *s, int fd)
{
    return reserve(s) ? opened(s, fcntl(fd, F_DUPFD_CLOEXEC, 0)) : -EMFILE;
}

int share_top(struct share *s)
{
    return share_dup(s, s->top);
}

struct share_link share_proc_name(int fd)
{
    struct share_link l;
    snprintf(l.text, sizeof(l.text), "%d", fd);
    return l;
}

int share_check_name(const char *name)
{
    if (!*name || strchr(name, '/') || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return -EINVAL;
    return strlen(name) > SHARE_NAME_MAX ? -ENAMETOOLONG : 0;
}

static int step(struct share *s, int dir, const char *name)
{
    if (!s->no_openat2) {
        const struct open_how how = { .flags = O_PATH | O_NOFOLLOW | O_CLOEXEC,
                                      .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS };
        int fd = (int)syscall(SYS_openat2, dir, name, &how, sizeof(how));
        if (fd >= 0 || (errno != ENOSYS && errno != EPERM))
            return fd;
        s->no_openat2 = true; /* an old kernel, or a filter that does not know it */
    }
    return openat(dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
}

static bool is_top(const struct share *s, const struct stat *st)
{
    return st->st_ino == s->ino && st->st_dev == s->dev;
}

/* Whether the top is above dir, or is it. Climbs to the host's root at most. */
static bool below_top(const struct share *s, int dir)
{
    struct stat st, up;
    int at = fcntl(dir, F_DUPFD_CLOEXEC, 0);
    bool yes = false;
    for (unsigned n = 0; at >= 0 && n < DEPTH_MAX && fstat(at, &st) == 0; n++) {
        yes = is_top(s, &st);
        if (yes)
            break;
        int above = openat(at, "..", O_PATH | O_DIRECTORY | O_CLOEXEC);
        close(at);
        at = above;
        if (at < 0 || fstat(at, &up) < 0 || (up.st_ino == st.st_ino && up.st_dev == st.st_dev))
            break;
    }
    if (at >= 0)
        close(at);
    return yes;
}

static int walk_up(struct share *s, int dir)
{
    struct stat st;
    if (fstat(dir, &st) < 0)
        return -errno;
    if (!S_ISDIR(st.st_mode))
        return -ENOTDIR;
    if (is_top(s, &st))
        return share_top(s);
    if (!reserve(s))
        return -EMFILE;
    int fd = opened(s, openat(dir, "..", O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (fd >= 0 && !below_top(s, fd)) {
        share_close(s, fd);
        return -ENOENT;
    }
    return fd;
}

int share_walk(struct share *s, int dir, const char *name)
{
    if (strcmp(name, "..") == 0)
        return walk_up(s, dir);
    if (strcmp(name, ".") != 0) {
        int r = share_check_name(name);
        if (r < 0)
            return r;
    }
    return reserve(s) ? opened(s, step(s, dir, name)) : -EMFILE;
}

int share_find(struct share *s, const char *path)
{
    int at = share_top(s);
    while (at >= 0) {
        char name[SHARE_NAME_MAX + 1];
        path += strspn(path, "/");
        size_t n = strcspn(path, "/");
        if (n == 0)
            break;
        int next = -ENAMETOOLONG;
        if (n < sizeof(name)) {
            memcpy(name, path, n);
            name[n] = '\0';
            next = share_walk(s, at, name);
        }
        share_close(s, at);
        at = next;
        path += n;
    }
    return at;
}

/* What open flags of a guest mean here; O_DIRECT would ask for aligned guest buffers. */
static int io_flags(int flags)
{
    return (flags & (O_ACCMODE | O_APPEND | O_TRUNC | O_DSYNC | O_SYNC)) | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC;
}

/*
 * A guest's root may open what permissions forbid. The host's user may not, but may lift them for the moment from a
 * file of its own.
 */
static int open_forced(struct share *s, const char *link, const struct stat *st, int flags)
{
    if (!s->map_root || st->st_uid != s->uid)
        return openat(s->proc, link, flags);
    int fd = openat(s->proc, link, flags);
    if (fd >= 0 || errno != EACCES || fchmodat(s->proc, link, (st->st_mode & 07777) | 0700, 0) < 0)
        return fd;
    fd = openat(s->proc, link, flags);
    int err = errno;
    fchmodat(s->proc, link, st->st_mode & 07777, 0);
    errno = err;
    return fd;
}

int share_reopen(struct share *s, int node, int flags)
{
    struct stat st;
    const struct share_link l = share_proc_name(node);
    bool writes = (flags & O_ACCMODE) != O_RDONLY || (flags & O_TRUNC);
    if (fstat(node, &st) < 0)
        return -errno;
    if (S_ISLNK(st.st_mode))
        return -ELOOP;
    if (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))
        return -ENXIO;
    if (!S_ISDIR(st.st_mode) && st.st_dev != s->dev && is_proc(node))
        return -EACCES;
    if (S_ISDIR(st.st_mode) && writes)
        return -EISDIR;
    if (!S_ISDIR(st.st_mode) && (flags & O_DIRECTORY))
        return -ENOTDIR;
    if (writes && s->read_only)
        return -EROFS;
    /* O_NOFOLLOW would refuse the magic link; what it leads to was checked, and cannot change. */
    return reserve(s) ? opened(s, open_forced(s, l.text, &st, io_flags(flags) & ~O_NOFOLLOW)) : -EMFILE;
}

int share_create(struct share *s, int dir, const char *name, int flags, const struct share_new *n)
{
    int r = share_check_name(name);
    if (r < 0 || s->read_only)
        return r < 0 ? r : -EROFS;
    if (!reserve(s))
        return -EMFILE;
    int fd = opened(s, openat(dir, name, (io_flags(flags) & ~O_TRUNC) | O_CREAT | O_EXCL, n->mode & 0777));
    if (fd >= 0) {
        r = share_own(s, fd, n);
        if (r < 0)
            share_close(s, fd);
        return r < 0 ? r : fd;
    }
    if (fd != -EEXIST || (flags & O_EXCL))
        return fd;
    int node = share_walk(s, dir, name);
    if (node < 0)
        return node;
    fd = share_reopen(s, node, flags);
    share_close(s, node);
    return fd;
}

/* ---- numbers ---- */

static uint64_t dev_salt(const struct share *s, dev_t dev)
{
    return dev == s->dev ? 0 : (dev ^ s->dev) * 0x9e3779b97f4a7c15;
}

uint64_t share_ino(const struct share *s, const struct statx *st)
{
    return share_ino_beside(s, st, st->stx_ino);
}

uint64_t share_ino_beside(const struct share *s, const struct statx *st, uint64_t ino)
{
    return ino + dev_salt(s, makedev(st->stx_dev_major, st->stx_dev_minor));
}

uint64_t share_top_ino(const struct share *s)
{
    return s->ino;
}

uid_t share_host_uid(const struct share *s, uint32_t uid)
{
    return s->map_root && uid == 0 ? s->uid : uid;
}
gid_t share_host_gid(const struct share *s, uint32_t gid)
{
    return s->map_root && gid == 0 ? s->gid : gid;
}
