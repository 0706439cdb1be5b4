/* SPDX-License-Identifier: MIT */
/*
 * Everything goes through descriptors of the folders, so that nothing depends on a path that somebody may exchange,
 * and sockets are bound and reached as /proc/self/fd/N/NAME, so that no path is too long for a socket address.
 */
#include "host/rundir.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum {
    AUTO_NAMES = 10000,
    CLAIM_TRIES = 20,
    CLAIM_WAIT_MS = 10,
    FOLDER_OPEN = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC
};

struct rundir {
    char name[RUNDIR_NAME_MAX + 1];
    int base, dir, lock;
};

bool rundir_name_ok(const char *name)
{
    size_t n = strlen(name);
    for (size_t i = 0; i < n; i++)
        if (!isalnum((unsigned char)name[i]) && (!strchr("._-", name[i]) || (i == 0 && name[i] != '_')))
            return false;
    return n > 0 && n <= RUNDIR_NAME_MAX;
}

/* ---- the folder of folders ---- */

static bool is_mine(const char *path)
{
    struct stat st;
    return path[0] == '/' && stat(path, &st) == 0 && S_ISDIR(st.st_mode) && st.st_uid == geteuid();
}

static void base_path(char *path, size_t size)
{
    const char *xdg = getenv("XDG_RUNTIME_DIR");
    if (xdg && strlen(xdg) < size - 16 && is_mine(xdg))
        snprintf(path, size, "%s/gazda", xdg);
    else if (geteuid() == 0 && is_mine("/run"))
        snprintf(path, size, "/run/gazda");
    else
        snprintf(path, size, "/tmp/gazda-%u", (unsigned)geteuid());
}

/* A descriptor, or -errno: -ENOENT without a message when it is not there and is not to be made. */
static int open_base(bool make, struct err *e)
{
    char path[512];
    struct stat st;
    base_path(path, sizeof(path));
    if (make && mkdir(path, 0700) < 0 && errno != EEXIST)
        return err_set(e, errno, "cannot make the folder '%.300s' for running machines: %s", path, strerror(errno));
    int fd = open(path, FOLDER_OPEN);
    if (fd < 0 && errno == ENOENT)
        return -ENOENT;
    if (fd < 0)
        return err_set(e, errno, "cannot use '%.300s' for running machines: %s", path,
                       errno == ELOOP || errno == ENOTDIR ? "it is not a folder" : strerror(errno));
    if (fstat(fd, &st) == 0 && st.st_uid == geteuid() && (st.st_mode & 077) == 0)
        return fd;
    close(fd);
    return err_set(e, EPERM,
                   "'%.300s' must belong to user %u, with permissions 0700: somebody else's could not be trusted", path,
                   (unsigned)geteuid());
}

/* ---- one folder ---- */

static int set_lock(int fd)
{
    struct flock fl = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
    return fcntl(fd, F_OFD_SETLK, &fl) == 0 ? 0 : -errno;
}

static bool is_locked(int fd)
{
    struct flock fl = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
    return fcntl(fd, F_OFD_GETLK, &fl) == 0 && fl.l_type != F_UNLCK;
}

static pid_t read_pid(int fd)
{
    char text[24] = { 0 };
    ssize_t n = pread(fd, text, sizeof(text) - 1, 0);
    long pid = n > 0 ? strtol(text, NULL, 10) : 0;
    return pid > 0 && pid <= INT32_MAX ? (pid_t)pid : 0;
}

/* Whether the lock file that was opened is still the one of that name. */
static bool is_current(int base, const char *name, int lock)
{
    char path[RUNDIR_NAME_MAX + 8];
    struct stat a, b;
    snprintf(path, sizeof(path), "%s/lock", name);
    return fstat(lock, &a) == 0 && fstatat(base, path, &b, AT_SYMLINK_NOFOLLOW) == 0 && a.st_ino == b.st_ino &&
           a.st_dev == b.st_dev;
}

/* Empties and removes a folder whose lock the caller holds; the lock file last. */
static void remove_folder(int base, const char *name, int dir)
{
    int again = openat(dir, ".", FOLDER_OPEN);
    DIR *d = again < 0 ? NULL : fdopendir(again);
    for (const struct dirent *de; d && (de = readdir(d));)
        if (strcmp(de->d_name, ".") != 0 && strcmp(de->d_name, "..") != 0 && strcmp(de->d_name, "lock") != 0)
            unlinkat(dir, de->d_name, 0);
    if (d)
        closedir(d);
    else if (again >= 0)
        close(again);
    unlinkat(dir, "lock", 0);
    unlinkat(base, name, AT_REMOVEDIR);
}

/* Whether the machine of that folder lives; what a dead one left is removed. */
static bool look(int base, const char *name, pid_t *pid)
{
    int dir = openat(base, name, FOLDER_OPEN);
    int lock = dir < 0 ? -1 : openat(dir, "lock", O_RDWR | O_NOFOLLOW | O_CLOEXEC);
    bool alive = lock >= 0 && is_locked(lock);
    if (alive && pid)
        *pid = read_pid(lock);
    if (lock >= 0 && !alive && set_lock(lock) == 0 && is_current(base, name, lock))
        remove_folder(base, name, dir);
    else if (dir >= 0 && lock < 0 && errno == ENOENT)
        unlinkat(base, name, AT_REMOVEDIR); /* somebody died between two steps; fails if it is being filled */
    if (lock >= 0)
        close(lock);
    if (dir >= 0)
        close(dir);
    return alive;
}

/* One attempt: 0; -EAGAIN: held, or it went away meanwhile; another error. On 0 what was there before is gone. */
static int try_claim(struct rundir *r, const char *name)
{
    char pid[24];
    int err;
    if (mkdirat(r->base, name, 0700) < 0 && errno != EEXIST)
        return -errno;
    r->dir = openat(r->base, name, FOLDER_OPEN);
    if (r->dir < 0)
        return errno == ENOENT ? -EAGAIN : -errno;
    r->lock = openat(r->dir, "lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (r->lock < 0) {
        err = errno == ENOENT ? EAGAIN : errno;
        goto undo_dir;
    }
    err = -set_lock(r->lock);
    if (err == EACCES || (err == 0 && !is_current(r->base, name, r->lock)))
        err = EAGAIN;
    if (err)
        goto undo_lock;
    unlinkat(r->dir, "control", 0);
    unlinkat(r->dir, "console", 0);
    snprintf(pid, sizeof(pid), "%d\n", (int)getpid());
    if (ftruncate(r->lock, 0) < 0 || pwrite(r->lock, pid, strlen(pid), 0) < 0) {
        err = errno;
        goto undo_lock;
    }
    snprintf(r->name, sizeof(r->name), "%s", name);
    return 0;

undo_lock:
    close(r->lock);
undo_dir:
    close(r->dir);
    return -err;
}

/* Somebody who removes what a dead machine left holds the lock too, but not for long. */
static int claim(struct rundir *r, const char *name, unsigned tries)
{
    const struct timespec pause = { .tv_nsec = CLAIM_WAIT_MS * 1000000L };
    int err;
    while ((err = try_claim(r, name)) == -EAGAIN && --tries)
        nanosleep(&pause, NULL);
    return err;
}

static int claim_any(struct rundir *r)
{
    char name[24];
    int err = -EAGAIN;
    for (unsigned i = 1; i <= AUTO_NAMES && err == -EAGAIN; i++) {
        snprintf(name, sizeof(name), "vm%u", i);
        err = claim(r, name, 1);
    }
    return err;
}

struct rundir *rundir_claim(const char *name, struct err *e)
{
    pid_t pid = 0;
    if (name && !rundir_name_ok(name)) {
        err_set(e, EINVAL,
                "the name \"%.100s\" must be 1 to %d of A-Z, a-z, 0-9, '.', '_' and '-', and begin with a "
                "letter, a digit or '_'",
                name, RUNDIR_NAME_MAX);
        return NULL;
    }
    struct rundir *r = calloc(1, sizeof(*r));
    if (!r) {
        err_set(e, ENOMEM, "out of memory");
        return NULL;
    }
    r->base = open_base(true, e);
    if (r->base < 0)
        goto undo_alloc;
    int err = name ? claim(r, name, CLAIM_TRIES) : claim_any(r);
    if (err == 0)
        return r;
    if (err == -EAGAIN && name && rundir_alive(name, &pid))
        err_set(e, EBUSY, "a machine named %s is running already (process %d); choose another --name", name, (int)pid);
    else
        err_set(e, -err, "cannot make the folder of the machine %s: %s", name ? name : "", strerror(-err));
    close(r->base);

undo_alloc:
    free(r);
    return NULL;
}

const char *rundir_name(const struct rundir *r)
{
    return r->name;
}

int rundir_fd(const struct rundir *r)
{
    return r->dir;
}

void rundir_release(struct rundir *r)
{
    if (!r)
        return;
    remove_folder(r->base, r->name, r->dir);
    close(r->lock);
    close(r->dir);
    close(r->base);
    free(r);
}

/* ---- what is in it ---- */

static void address(struct sockaddr_un *a, int dir, const char *socket)
{
    *a = (struct sockaddr_un){ .sun_family = AF_UNIX };
    snprintf(a->sun_path, sizeof(a->sun_path), "/proc/self/fd/%d/%s", dir, socket);
}

int rundir_listen(struct rundir *r, const char *name, struct err *e)
{
    struct sockaddr_un a;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return err_set(e, errno, "cannot make a socket: %s", strerror(errno));
    address(&a, r->dir, name);
    if (bind(fd, (const struct sockaddr *)&a, sizeof(a)) == 0 && fchmodat(r->dir, name, 0600, 0) == 0 &&
        listen(fd, 16) == 0)
        return fd;
    int err = errno;
    close(fd);
    return err_set(e, err, "cannot listen on the socket '%s' of machine %s: %s", name, r->name, strerror(err));
}

int rundir_open_log(struct rundir *r, const char *file, struct err *e)
{
    int fd = openat(r->dir, file, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0600);
    return fd >= 0 ? fd
                   : err_set(e, errno, "cannot write the file '%s' of machine %s: %s", file, r->name, strerror(errno));
}

static int by_name(const void *a, const void *b)
{
    return strverscmp(((const struct rundir_entry *)a)->name, ((const struct rundir_entry *)b)->name);
}

int rundir_list(struct rundir_entry **out, size_t *n, struct err *e)
{
    struct rundir_entry *list = NULL;
    size_t count = 0;
    int base = open_base(false, e), err = 0;
    *out = NULL;
    *n = 0;
    if (base < 0)
        return base == -ENOENT ? 0 : base;
    DIR *d = fdopendir(base);
    if (!d) {
        close(base);
        return err_set(e, ENOMEM, "out of memory");
    }
    for (const struct dirent *de; (de = readdir(d));) {
        struct rundir_entry x = { 0 };
        if (!rundir_name_ok(de->d_name) || !look(base, de->d_name, &x.pid))
            continue;
        strcpy(x.name, de->d_name);
        struct rundir_entry *more = realloc(list, (count + 1) * sizeof(*list));
        if (!more) {
            err = err_set(e, ENOMEM, "out of memory");
            break;
        }
        list = more;
        list[count++] = x;
    }
    closedir(d);
    if (err) {
        free(list);
        return err;
    }
    if (count)
        qsort(list, count, sizeof(*list), by_name);
    *out = list;
    *n = count;
    return 0;
}

bool rundir_alive(const char *name, pid_t *pid)
{
    int base = rundir_name_ok(name) ? open_base(false, NULL) : -1;
    if (base < 0)
        return false;
    bool alive = look(base, name, pid);
    close(base);
    return alive;
}

static int connect_in(int dir, const char *name, const char *sock_name, struct err *e)
{
    struct sockaddr_un a;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return err_set(e, errno, "cannot make a socket: %s", strerror(errno));
    address(&a, dir, sock_name);
    if (connect(fd, (const struct sockaddr *)&a, sizeof(a)) == 0)
        return fd;
    int err = errno;
    close(fd);
    if (err == ENOENT)
        return err_set(e, err, "the machine %s has no %s", name, sock_name);
    return err_set(e, err, "cannot reach the %s of machine %s: %s", sock_name, name, strerror(err));
}

int rundir_connect(const char *name, const char *socket, struct err *e)
{
    int base = rundir_name_ok(name) ? open_base(false, e) : -ENOENT;
    if (base < 0)
        return base == -ENOENT ? err_set(e, ENOENT, "no machine named %.100s is running; \"gazda ps\" lists them", name)
                               : base;
    int r, dir = look(base, name, NULL) ? openat(base, name, FOLDER_OPEN) : -1;
    if (dir < 0) {
        r = err_set(e, ENOENT, "no machine named %.100s is running; \"gazda ps\" lists them", name);
    } else {
        r = connect_in(dir, name, socket, e);
        close(dir);
    }
    close(base);
    return r;
}
