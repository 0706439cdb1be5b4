/* SPDX-License-Identifier: MIT */
/* Shared directories: what is done to nodes and names. See share.c for how they are reached. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "host/share_int.h"

static int result(int r)
{
    return r < 0 ? -errno : 0;
}

/* ---- reading ---- */

int share_stat(struct share *s, int node, struct statx *st)
{
    if (statx(node, "", AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS | STATX_BTIME, st) < 0)
        return -errno;
    if (s->map_root && st->stx_uid == s->uid)
        st->stx_uid = 0;
    if (s->map_root && st->stx_gid == s->gid)
        st->stx_gid = 0;
    return 0;
}

ssize_t share_readlink(struct share *s, int node, char *buf, size_t size)
{
    (void)s;
    ssize_t n = readlinkat(node, "", buf, size);
    if (n >= 0)
        return n;
    return errno == ENOENT ? -EINVAL : -errno; /* what readlink says of anything that is no link */
}

/* The name that the kernel has for a descriptor: its length, or -errno. */
static ssize_t full_name(const struct share *s, int fd, char out[SHARE_PATH_MAX])
{
    ssize_t n = readlinkat(s->proc, share_proc_name(fd).text, out, SHARE_PATH_MAX);
    return n < 0 ? -errno : n == SHARE_PATH_MAX ? -ENAMETOOLONG : n;
}

static bool same_file(int a, int b)
{
    struct stat x, y;
    return fstat(a, &x) == 0 && fstat(b, &y) == 0 && x.st_ino == y.st_ino && x.st_dev == y.st_dev;
}

static int below(struct share *s, int node, const char *top, const char *full, char *out)
{
    size_t a = strlen(top);
    if (a == 1) /* "/" */
        a = 0;
    if (strncmp(top, full, a) != 0 || (full[a] && full[a] != '/'))
        return -ENOENT;
    strcpy(out, full + a + (full[a] == '/'));
    /* A deleted file's name has " (deleted)" behind it; a file may also be called so. */
    int fd = share_find(s, out);
    if (fd < 0)
        return -ENOENT;
    bool same = same_file(fd, node);
    share_close(s, fd);
    return same ? 0 : -ENOENT;
}

int share_path(struct share *s, int node, char out[SHARE_PATH_MAX])
{
    char *top = calloc(2, SHARE_PATH_MAX + 1), *full = top + SHARE_PATH_MAX + 1;
    if (!top)
        return -ENOMEM;
    ssize_t r = full_name(s, s->top, top);
    if (r >= 0)
        r = full_name(s, node, full);
    if (r >= 0)
        r = below(s, node, top, full, out);
    free(top);
    return (int)r;
}

/* ---- owners ---- */

bool share_pretend(const struct share *s, int node)
{
    struct stat st;
    return s->map_root && fstat(node, &st) == 0 && st.st_uid == s->uid;
}

static int chown_node(int node, uid_t uid, gid_t gid)
{
    return fchownat(node, "", uid, gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW);
}

static int chmod_node(struct share *s, int node, mode_t mode)
{
    return result(fchmodat(s->proc, share_proc_name(node).text, mode & 07777, 0));
}

int share_own(struct share *s, int fd, const struct share_new *n)
{
    uid_t uid = n->uid == UINT32_MAX ? s->uid : share_host_uid(s, n->uid);
    gid_t gid = share_host_gid(s, n->gid);
    struct stat st;
    if (s->uid == 0 ? uid != 0 || gid != s->gid : gid != s->gid)
        if (chown_node(fd, s->uid == 0 ? uid : (uid_t)-1, gid) < 0 && errno != EPERM)
            return -errno;
    if (!(n->mode & (s->umask | 07000)))
        return 0;
    if (fstat(fd, &st) < 0)
        return -errno;
    if (S_ISLNK(st.st_mode))
        return 0;
    /* A directory may have inherited the bit from the one it is in; a file made in such one by mode alone has not. */
    mode_t want = (n->mode & 07777) | (S_ISDIR(st.st_mode) ? st.st_mode & S_ISGID : 0);
    return want == (st.st_mode & 07777) ? 0 : chmod_node(s, fd, want);
}

/* ---- changes in directories ---- */

/* Owner and permissions of an entry that was just made: if it is still what was made. */
static int own_entry(struct share *s, int dir, const char *name, const struct share_new *n, mode_t type)
{
    struct stat st;
    int fd = share_walk(s, dir, name);
    if (fd == -EMFILE)
        return fd;
    if (fd < 0)
        return 0; /* gone already */
    int r = fstat(fd, &st) == 0 && (st.st_mode & S_IFMT) == type && st.st_uid == s->uid ? share_own(s, fd, n) : 0;
    share_close(s, fd);
    return r;
}

static int may_change(const struct share *s, const char *name)
{
    int r = share_check_name(name);
    return r < 0 ? r : s->read_only ? -EROFS : 0;
}

int share_mkdir(struct share *s, int dir, const char *name, const struct share_new *n)
{
    int r = may_change(s, name);
    if (r == 0)
        r = result(mkdirat(dir, name, n->mode & 01777));
    return r < 0 ? r : own_entry(s, dir, name, n, S_IFDIR);
}

int share_mknod(struct share *s, int dir, const char *name, const struct share_new *n)
{
    mode_t type = n->mode & S_IFMT;
    int r = may_change(s, name);
    if (r < 0)
        return r;
    if (type != S_IFREG && type != S_IFIFO && type != S_IFSOCK)
        return type == S_IFCHR || type == S_IFBLK ? -EPERM : -EINVAL;
    r = result(mknodat(dir, name, type | (n->mode & 0777), 0));
    return r < 0 ? r : own_entry(s, dir, name, n, type);
}

int share_symlink(struct share *s, int dir, const char *name, const char *target, const struct share_new *n)
{
    int r = may_change(s, name);
    if (r == 0)
        r = result(symlinkat(target, dir, name));
    if (r < 0 || (s->uid != 0 && share_host_gid(s, n->gid) == s->gid))
        return r;
    return own_entry(s, dir, name, n, S_IFLNK);
}

int share_link(struct share *s, int node, int dir, const char *name)
{
    struct stat st;
    int r = may_change(s, name);
    if (r < 0)
        return r;
    if (fstat(node, &st) < 0)
        return -errno;
    if (S_ISDIR(st.st_mode))
        return -EPERM;
    return result(linkat(s->proc, share_proc_name(node).text, dir, name, AT_SYMLINK_FOLLOW));
}

int share_rename(struct share *s, int from, const char *old, int to, const char *name)
{
    int r = may_change(s, old);
    if (r == 0)
        r = may_change(s, name);
    return r < 0 ? r : result(renameat(from, old, to, name));
}

int share_unlink(struct share *s, int dir, const char *name, bool is_dir)
{
    int r = may_change(s, name);
    return r < 0 ? r : result(unlinkat(dir, name, is_dir ? AT_REMOVEDIR : 0));
}

/* The directory and the name that a node has now: a descriptor, or -errno. */
static int entry_of(struct share *s, int node, char name[SHARE_NAME_MAX + 1])
{
    char *path = malloc(SHARE_PATH_MAX);
    int r = path ? share_path(s, node, path) : -ENOMEM;
    if (r == 0) {
        char *slash = strrchr(path, '/');
        const char *last = slash ? slash + 1 : path;
        size_t n = strlen(last);
        if (n == 0 || n > SHARE_NAME_MAX) {
            r = n ? -ENAMETOOLONG : -EBUSY; /* the top */
        } else {
            memcpy(name, last, n + 1);
            path[slash ? slash - path : 0] = '\0';
            r = share_find(s, path);
        }
    }
    free(path);
    return r;
}

int share_move(struct share *s, int node, int to, const char *name)
{
    char old[SHARE_NAME_MAX + 1];
    if (s->read_only)
        return -EROFS;
    int from = entry_of(s, node, old);
    if (from < 0)
        return from;
    int r = share_rename(s, from, old, to, name);
    share_close(s, from);
    return r;
}

int share_remove(struct share *s, int node)
{
    char name[SHARE_NAME_MAX + 1];
    struct stat st;
    if (s->read_only)
        return -EROFS;
    if (fstat(node, &st) < 0)
        return -errno;
    int dir = entry_of(s, node, name);
    if (dir < 0)
        return dir;
    int r = share_unlink(s, dir, name, S_ISDIR(st.st_mode));
    share_close(s, dir);
    return r;
}

/* ---- changes of nodes ---- */

int share_chmod(struct share *s, int node, uint32_t mode)
{
    struct stat st;
    if (s->read_only)
        return -EROFS;
    if (fstat(node, &st) < 0)
        return -errno;
    return S_ISLNK(st.st_mode) ? -EOPNOTSUPP : chmod_node(s, node, mode);
}

int share_chown(struct share *s, int node, uint32_t uid, uint32_t gid)
{
    if (s->read_only)
        return -EROFS;
    uid_t u = uid == UINT32_MAX ? (uid_t)-1 : share_host_uid(s, uid);
    gid_t g = gid == UINT32_MAX ? (gid_t)-1 : share_host_gid(s, gid);
    if (chown_node(node, u, g) == 0)
        return 0;
    /* What unpacks archives as the guest's root goes on; the owner stays. */
    return errno == EPERM && share_pretend(s, node) ? 0 : -errno;
}

int share_truncate(struct share *s, int node, uint64_t size)
{
    struct stat st;
    if (size > INT64_MAX)
        return -EINVAL;
    if (s->read_only)
        return -EROFS;
    if (fstat(node, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode))
        return S_ISDIR(st.st_mode) ? -EISDIR : -EINVAL;
    int how = fcntl(node, F_GETFL);
    if (how >= 0 && !(how & O_PATH) && (how & O_ACCMODE) != O_RDONLY)
        return result(ftruncate(node, (off_t)size));
    int fd = share_reopen(s, node, O_WRONLY);
    if (fd < 0)
        return fd;
    int r = result(ftruncate(fd, (off_t)size));
    share_close(s, fd);
    return r;
}

int share_utimes(struct share *s, int node, const struct timespec t[2])
{
    if (s->read_only)
        return -EROFS;
    return result(utimensat(s->proc, share_proc_name(node).text, t, 0));
}

/* ---- extended attributes ---- */

static bool is_user(const char *name)
{
    return strncmp(name, "user.", 5) == 0 && name[5];
}

/* A descriptor that f*xattr takes; -ENXIO or -ELOOP for what has no attributes of users. */
static int open_attrs(struct share *s, int node)
{
    int fd = share_reopen(s, node, O_RDONLY);
    return fd == -EACCES ? share_reopen(s, node, O_WRONLY) : fd;
}

ssize_t share_getxattr(struct share *s, int node, const char *name, void *buf, size_t size)
{
    if (!is_user(name))
        return strncmp(name, "system.", 7) == 0 ? -EOPNOTSUPP : -ENODATA;
    int fd = open_attrs(s, node);
    if (fd < 0)
        return fd == -ENXIO || fd == -ELOOP ? -ENODATA : fd;
    ssize_t r = fgetxattr(fd, name, buf, size);
    if (r < 0)
        r = -errno;
    share_close(s, fd);
    return r;
}

ssize_t share_listxattr(struct share *s, int node, char *buf, size_t size)
{
    char *all = malloc(SHARE_XATTR_MAX);
    ssize_t r = -ENOMEM, n;
    size_t len = 0;
    int fd = all ? open_attrs(s, node) : -1;
    if (fd < 0) {
        free(all);
        return !all ? -ENOMEM : fd == -ENXIO || fd == -ELOOP || fd == -EACCES ? 0 : fd;
    }
    r = flistxattr(fd, all, SHARE_XATTR_MAX);
    if (r < 0)
        r = errno == EOPNOTSUPP ? 0 : -errno;
    share_close(s, fd);
    for (ssize_t at = 0; at < r; at += n) {
        n = (ssize_t)strlen(all + at) + 1;
        if (!is_user(all + at))
            continue;
        if (size && len + (size_t)n > size) {
            r = -ERANGE;
            break;
        }
        if (size)
            memcpy(buf + len, all + at, (size_t)n);
        len += (size_t)n;
    }
    free(all);
    return r < 0 ? r : (ssize_t)len;
}

int share_setxattr(struct share *s, int node, const struct share_attr *a)
{
    if (s->read_only)
        return -EROFS;
    if (!is_user(a->name))
        return strncmp(a->name, "system.", 7) == 0 ? -EOPNOTSUPP : -EPERM;
    int fd = open_attrs(s, node);
    if (fd < 0)
        return fd == -ENXIO || fd == -ELOOP ? -EPERM : fd;
    /* The protocol has one message for both: the guest's kernel removes with an empty value that must be there. */
    int r = !a->size && a->flags == XATTR_REPLACE ? fremovexattr(fd, a->name)
                                                  : fsetxattr(fd, a->name, a->value, a->size, a->flags);
    r = result(r);
    share_close(s, fd);
    return r;
}
