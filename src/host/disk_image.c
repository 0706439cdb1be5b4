/* SPDX-License-Identifier: MIT */
/* Whole images: making, checking, describing them; overlays. */
#include "host/disk_image.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host/qcow2_check.h"

/* ---- making ---- */

/* The backing file, opened from where the image will be; its size is the image's if that has none. */
static struct disk *open_backing(const char *path, struct disk_create *c, struct err *e)
{
    struct disk_options o = { .format = c->backing_format, .read_only = true };
    const char *slash = strrchr(path, '/');
    int folder = c->backing[0] != '/' && slash ? (int)(slash - path + 1) : 0;
    char *name;
    if (!c->backing_format) {
        err_set(e, EINVAL, "the format of the backing file '%.300s' must be given: raw or qcow2", c->backing);
        return NULL;
    }
    if (asprintf(&name, "%.*s%s", folder, path, c->backing) < 0) {
        err_set(e, ENOMEM, "out of memory");
        return NULL;
    }
    struct disk *d = disk_open_with(name, &o, e);
    free(name);
    if (d && !c->bytes)
        c->bytes = disk_bytes(d);
    return d;
}

/* All that is wrong with the wish itself, before a file is emptied for it. */
static int check_wish(const char *path, struct disk_create *c, struct err *e)
{
    c->bytes = (c->bytes + DISK_SECTOR - 1) & ~(uint64_t)(DISK_SECTOR - 1);
    if (c->bytes == 0)
        return err_set(e, EINVAL, "the image '%.300s' needs a size", path);
    if (c->bytes > 1UL << 62)
        return err_set(e, EINVAL, "the image '%.300s' would be too large", path);
    if (strcmp(c->format, "qcow2") == 0)
        return q_create_check(c, e);
    return c->backing ? err_set(e, EINVAL, "a raw image cannot have a backing file") : 0;
}

int disk_create_fd(int fd, const char *path, const struct disk_create *c, struct err *e)
{
    if (strcmp(c->format, "qcow2") == 0)
        return q_create(fd, path, c, e);
    if (strcmp(c->format, "raw") != 0)
        return err_set(e, ENOTSUP, "\"%.100s\" is not a format of images that can be made: raw or qcow2", c->format);
    if (ftruncate(fd, (off_t)c->bytes) < 0)
        return err_set(e, errno, "cannot make the image '%.300s' %lu bytes large: %s", path, c->bytes, strerror(errno));
    return 0;
}

/* Opens the file for a new image, empty and locked. *made: it was not there before. */
static int open_new(const char *path, bool force, bool *made, struct err *e)
{
    struct stat st;
    struct flock fl = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    *made = fd >= 0;
    if (fd < 0 && errno == EEXIST && force)
        fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return err_set(e, errno, "cannot make the image '%.300s': %s%s", path, strerror(errno),
                       errno == EEXIST ? "; --force replaces it" : "");
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
        err_set(e, EINVAL, "cannot make the image '%.300s': it is not a regular file", path);
    else if (fcntl(fd, F_OFD_SETLK, &fl) < 0 && (errno == EAGAIN || errno == EACCES))
        err_set(e, EBUSY, "cannot replace the image '%.300s': it is in use", path);
    else if (ftruncate(fd, 0) < 0)
        err_set(e, errno, "cannot empty the image '%.300s': %s", path, strerror(errno));
    else
        return fd;
    close(fd);
    return -EINVAL;
}

int disk_create(const char *path, const struct disk_create *want, bool force, struct err *e)
{
    struct disk_create c = *want;
    /* It stays open, and so locked: the file to be replaced may be it, or one that it is based on. */
    struct disk *backing = c.backing ? open_backing(path, &c, e) : NULL;
    bool made;
    if (c.backing && !backing)
        return -EINVAL;
    int r = check_wish(path, &c, e);
    int fd = r < 0 ? r : open_new(path, force, &made, e);
    if (fd >= 0) {
        r = disk_create_fd(fd, path, &c, e);
        if (r < 0 && made)
            unlink(path);
        close(fd);
    }
    if (backing)
        disk_close(backing);
    return fd < 0 ? fd : r;
}

/* ---- overlays ---- */

static struct disk *temporary_overlay(struct disk *base, struct err *e)
{
    struct disk_create c = { .format = "qcow2", .bytes = base->bytes };
    struct disk_options o = { .format = "qcow2" };
    const char *dir = getenv("TMPDIR");
    char path[512];
    if (!dir || !*dir)
        dir = "/tmp";
    snprintf(path, sizeof(path), "%s/gazda-overlay-XXXXXX", dir);
    int fd = open(dir, O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
    if (fd < 0) {
        fd = mkostemp(path, O_CLOEXEC);
        if (fd >= 0)
            unlink(path);
    }
    if (fd < 0) {
        err_set(e, errno, "cannot make a temporary overlay in '%.300s': %s", dir, strerror(errno));
        return NULL;
    }
    if (disk_create_fd(fd, "temporary overlay", &c, e) < 0) {
        close(fd);
        return NULL;
    }
    return disk_open_fd(fd, "temporary overlay", &o, e);
}

/* The overlay as it is, or a new one; its backing file is what the user named. */
static struct disk *named_overlay(const struct disk *base, const char *overlay, struct err *e)
{
    struct disk_options o = { .format = "qcow2" };
    struct stat st;
    if (stat(overlay, &st) < 0 && errno == ENOENT) {
        char *path = realpath(base->path, NULL);
        struct disk_create c = { .format = "qcow2", .bytes = base->bytes, .backing_format = base->fmt->name };
        c.backing = path ? path : base->path;
        int r = disk_create(overlay, &c, false, e);
        free(path);
        if (r < 0)
            return NULL;
    }
    struct disk *d = disk_open_with(overlay, &o, e);
    if (d && (!d->backing || d->backing->dev != base->dev || d->backing->ino != base->ino)) {
        err_set(e, EINVAL, "'%.200s' is not an overlay of '%.200s': its backing file is '%.80s'", overlay, base->path,
                d->backing ? d->backing->path : "none");
        disk_close(d);
        return NULL;
    }
    return d;
}

struct disk *disk_open_overlay(const char *path, const struct disk_options *o, const char *overlay, struct err *e)
{
    struct disk_options below = *o;
    below.read_only = true;
    struct disk *base = disk_open_with(path, &below, e);
    if (!base)
        return NULL;
    struct disk *d = overlay ? named_overlay(base, overlay, e) : temporary_overlay(base, e);
    if (d)
        memcpy(d->serial, base->serial, sizeof(d->serial));
    if (d && !overlay) {
        d->backing = base;
        base->over = d;
        base->depth = 1;
    } else {
        disk_close(base);
    }
    return d;
}

/* ---- changing, checking, describing ---- */

int disk_resize(struct disk *d, uint64_t bytes, struct err *e)
{
    if (d->read_only || bytes == 0 || bytes % DISK_SECTOR || bytes > 1UL << 62)
        return err_set(e, EINVAL, "'%.300s' cannot be resized to %lu bytes", d->path, bytes);
    return bytes == d->bytes ? 0 : d->fmt->resize(d, bytes, e);
}

uint64_t disk_cluster(const struct disk *d)
{
    return d->fmt == &disk_qcow2 ? ((const struct qcow2 *)d->state)->cluster : 0;
}

int disk_check(const char *path, const char *format, struct disk_check *k, struct err *e)
{
    struct disk_options o = { .format = format, .read_only = !k->repair, .no_backing = true, .no_repair = true };
    struct disk *d = disk_open_with(path, &o, e);
    if (!d)
        return -EINVAL;
    int r = d->fmt == &disk_qcow2 ? q_check(d->state, k, e)
                                  : err_set(e, ENOTSUP, "'%.300s' is a raw image: there is nothing to check", path);
    disk_close(d);
    return r;
}

static int list_snapshots(const struct qcow2 *q, struct disk_info *i, struct err *e)
{
    struct q_snapshot *s;
    uint64_t bytes;
    int r = q_read_snapshots(q->fd, &q->h, &s, &bytes, e);
    if (r < 0)
        return r;
    i->n_snapshots = q->h.snapshots;
    i->snapshots = calloc(i->n_snapshots + 1, sizeof(i->snapshots[0]));
    for (unsigned k = 0; k < i->n_snapshots && i->snapshots; k++) {
        memcpy(i->snapshots[k].id, s[k].id, sizeof(s[k].id));
        memcpy(i->snapshots[k].name, s[k].name, sizeof(s[k].name));
        i->snapshots[k].vm_state = s[k].vm_state;
        i->snapshots[k].seconds = s[k].seconds;
    }
    free(s);
    return i->snapshots ? 0 : err_set(e, ENOMEM, "out of memory");
}

int disk_info(const char *path, const char *format, struct disk_info *i, struct err *e)
{
    struct disk_options o = { .format = format, .read_only = true, .no_backing = true, .no_repair = true };
    struct disk *d = disk_open_with(path, &o, e);
    struct stat st;
    int r = 0;
    if (!d)
        return -EINVAL;
    *i = (struct disk_info){ .format = d->fmt->name, .bytes = d->bytes };
    if (fstat(d->fd, &st) == 0)
        i->allocated = (uint64_t)st.st_blocks * 512;
    if (d->fmt == &disk_qcow2) {
        const struct qcow2 *q = d->state;
        i->cluster = q->cluster;
        i->version = q->h.version;
        i->refcount_bits = 1U << q->h.refcount_order;
        i->lazy_refcounts = q->lazy;
        i->dirty = q->h.incompatible & QCOW2_DIRTY;
        i->corrupt = q->h.incompatible & QCOW2_CORRUPT;
        i->zstd = q->h.compression == QCOW2_ZSTD;
        i->bitmaps = q->h.autoclear & QCOW2_BITMAPS;
        memcpy(i->backing, q->h.backing, sizeof(i->backing));
        memcpy(i->backing_format, q->h.backing_format, sizeof(i->backing_format));
        r = list_snapshots(q, i, e);
    }
    disk_close(d);
    return r;
}
