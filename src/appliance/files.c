/* SPDX-License-Identifier: MIT */
/* The files of an unpacked appliance: the manifest, checksums, and what a disk image must not be. */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <nettle/sha2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "appliance/archive.h"
#include "appliance/internal.h"

static const char manifest_new[] = ".manifest.new";

int appliance_hash(int dirfd, struct appliance_file *f, const struct appliance_progress *p, struct err *e)
{
    struct sha256_ctx sha;
    struct stat st;
    uint64_t done = 0;
    ssize_t n = 0;
    int fd = openat(dirfd, f->name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return err_set(e, errno, "%s: %s", f->name, strerror(errno));
    uint8_t *buf = malloc(APPLIANCE_CHUNK);
    int r = !buf || fstat(fd, &st) < 0 ? -errno : S_ISREG(st.st_mode) ? 0 : -EINVAL;
    if (r)
        err_set(e, -r, "%s: it must be a regular file", f->name);
    sha256_init(&sha);
    while (r == 0 && (n = read(fd, buf, APPLIANCE_CHUNK)) > 0) {
        sha256_update(&sha, (size_t)n, buf);
        done += (uint64_t)n;
        r = appliance_step(p, f->name, done, (uint64_t)st.st_size, e);
    }
    if (r == 0 && n < 0)
        r = err_set(e, errno, "%s: cannot read: %s", f->name, strerror(errno));
    if (r == 0) {
        f->size = done;
        sha256_digest(&sha, sizeof(f->sha256), f->sha256);
    }
    free(buf);
    close(fd);
    return r;
}

int appliance_step(const struct appliance_progress *p, const char *name, uint64_t done, uint64_t total, struct err *e)
{
    if (p && p->stop && *p->stop)
        return err_set(e, EINTR, "interrupted");
    if (p && p->step)
        p->step(p->arg, name, done, total);
    return 0;
}

int appliance_verify(int dirfd, const struct appliance_file *f, const struct appliance_progress *p, struct err *e)
{
    struct appliance_file is = *f;
    int r = appliance_hash(dirfd, &is, p, e);
    if (r < 0)
        return r;
    if (is.size != f->size)
        return err_set(e, EBADMSG, "%s: it has %lu bytes; the manifest says %lu", f->name, is.size, f->size);
    if (memcmp(is.sha256, f->sha256, sizeof(is.sha256)) != 0)
        return err_set(e, EBADMSG, "%s: its SHA-256 is not the one in the manifest", f->name);
    return 0;
}

int appliance_save(int dirfd, const struct appliance_manifest *m, struct err *e)
{
    char *text = appliance_manifest_print(m);
    int fd = text ? openat(dirfd, manifest_new, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0644) : -1;
    FILE *f = fd < 0 ? NULL : fdopen(fd, "w");
    int r = f ? 0 : -errno;
    if (f) {
        if (fputs(text, f) < 0 || fflush(f) != 0 || fsync(fd) < 0)
            r = -errno;
        if (fclose(f) != 0 && r == 0)
            r = -errno;
    }
    if (r == 0 && renameat(dirfd, manifest_new, dirfd, "manifest.json") < 0)
        r = -errno;
    if (r < 0) {
        unlinkat(dirfd, manifest_new, 0);
        err_set(e, -r, "cannot write manifest.json: %s", strerror(-r));
    }
    free(text);
    return r;
}

int appliance_load(int dirfd, struct appliance_manifest *m, struct err *e)
{
    int fd = openat(dirfd, "manifest.json", O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return err_set(e, errno, "manifest.json: %s", strerror(errno));
    char *text = malloc(APPLIANCE_MANIFEST_MAX + 1);
    ssize_t n = text ? pread(fd, text, APPLIANCE_MANIFEST_MAX + 1, 0) : -1;
    int r = n < 0 ? err_set(e, errno, "manifest.json: cannot read: %s", strerror(errno))
                  : appliance_manifest_parse(m, text, (size_t)n, e);
    free(text);
    close(fd);
    return r;
}

/* ---- qcow2: what is read here is where the format's specification has it; host/ has the whole reader ---- */

enum { QCOW2_MAGIC = 0x514649fb, QCOW2_INCOMPAT_DATA_FILE = 1 << 2 };

int appliance_check_disk(int dirfd, const char *name, struct err *e)
{
    struct {
        uint32_t magic, version;
        uint64_t backing_offset;
        uint32_t backing_size, cluster_bits;
        uint64_t size;
        uint32_t crypt, l1_size;
        uint64_t l1, refcounts;
        uint32_t refcount_clusters, snapshots;
        uint64_t snapshot_offset, incompatible;
    } h;
    int fd = openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return err_set(e, errno, "%s: %s", name, strerror(errno));
    ssize_t n = pread(fd, &h, sizeof(h), 0);
    close(fd);
    if (n != sizeof(h) || be32toh(h.magic) != QCOW2_MAGIC || be32toh(h.version) < 2 || be32toh(h.version) > 3)
        return err_set(e, EINVAL, "%s: an appliance's disk must be a qcow2 image", name);
    if (h.backing_offset)
        return err_set(e, EINVAL, "%s: an appliance's disk must not have a backing file", name);
    if (be32toh(h.version) == 3 && (be64toh(h.incompatible) & QCOW2_INCOMPAT_DATA_FILE))
        return err_set(e, EINVAL, "%s: an appliance's disk must not keep its data in another file", name);
    return 0;
}
