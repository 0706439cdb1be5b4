/* SPDX-License-Identifier: MIT */
/* Reading and writing appliance files, by libarchive. */
#include "appliance/archive.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <nettle/sha2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "appliance/internal.h"

static const char manifest_name[] = "manifest.json";

/* ---- reading ---- */

/* What is being read, for messages. */
struct reader {
    struct archive *a;
    const char *path;
    const struct appliance_progress *p;
};

static int broken(const struct reader *r, struct err *e)
{
    const char *why = archive_error_string(r->a);
    return err_set(e, EINVAL, "%.200s: it is no appliance, or damaged: %.150s", r->path, why ? why : "unknown reason");
}

static int open_reader(struct reader *r, const char *path, const struct appliance_progress *p, struct err *e)
{
    struct stat st;
    *r = (struct reader){ archive_read_new(), path, p };
    if (stat(path, &st) < 0 || !S_ISREG(st.st_mode)) {
        int code = errno == ENOENT ? ENOENT : EINVAL;
        archive_read_free(r->a);
        return err_set(e, code, "%.300s: %s", path, code == ENOENT ? strerror(code) : "it must be a regular file");
    }
    /* Few formats, so that little code stands behind a file from a stranger. */
    if (!r->a || archive_read_support_format_tar(r->a) != ARCHIVE_OK ||
        archive_read_support_filter_zstd(r->a) != ARCHIVE_OK ||
        archive_read_open_filename(r->a, path, APPLIANCE_CHUNK) != ARCHIVE_OK) {
        int code = broken(r, e);
        archive_read_free(r->a);
        return code;
    }
    return 0;
}

/* The next entry, a plain file: 1, 0 at the end, or -EINVAL. */
static int next_entry(struct reader *r, struct archive_entry **entry, struct err *e)
{
    int s = archive_read_next_header(r->a, entry);
    if (s == ARCHIVE_EOF)
        return 0;
    if (s != ARCHIVE_OK)
        return broken(r, e);
    const char *name = archive_entry_pathname(*entry);
    if (!name || !appliance_name_ok(name))
        return err_set(e, EINVAL, "%.200s: entry \"%.100s\" has a name that an appliance must not have", r->path,
                       name ? name : "?");
    if (archive_entry_filetype(*entry) != AE_IFREG || archive_entry_hardlink(*entry) || archive_entry_symlink(*entry))
        return err_set(e, EINVAL, "%.200s: entry \"%s\" is not a regular file", r->path, name);
    if (!archive_entry_size_is_set(*entry) || archive_entry_sparse_count(*entry))
        return err_set(e, EINVAL, "%.200s: entry \"%s\" has no plain size", r->path, name);
    return 1;
}

static int read_manifest(struct reader *r, struct appliance_manifest *m, struct err *e)
{
    struct archive_entry *entry;
    int s = next_entry(r, &entry, e);
    if (s < 0)
        return s;
    if (s == 0 || strcmp(archive_entry_pathname(entry), manifest_name) != 0)
        return err_set(e, EINVAL, "%.200s: it is no appliance: its first entry must be %s", r->path, manifest_name);
    if (archive_entry_size(entry) > APPLIANCE_MANIFEST_MAX)
        return err_set(e, EINVAL, "%.200s: its manifest is longer than %d bytes", r->path, APPLIANCE_MANIFEST_MAX);
    size_t len = (size_t)archive_entry_size(entry);
    char *text = malloc(len + 1);
    if (!text)
        return err_set(e, ENOMEM, "out of memory");
    la_ssize_t n = archive_read_data(r->a, text, len);
    s = n < 0 || (size_t)n != len ? broken(r, e) : appliance_manifest_parse(m, text, len, e);
    free(text);
    return s;
}

/* Copies the entry's data to fd and checks them. */
static int copy_out(struct reader *r, const struct appliance_file *f, int fd, struct err *e)
{
    struct sha256_ctx sha;
    uint8_t digest[APPLIANCE_SHA256_LEN], *buf = malloc(APPLIANCE_CHUNK);
    uint64_t done = 0;
    int s = buf ? 0 : err_set(e, ENOMEM, "out of memory");
    sha256_init(&sha);
    while (s == 0 && done < f->size) {
        la_ssize_t n = archive_read_data(r->a, buf, APPLIANCE_CHUNK);
        if (n <= 0) {
            s = n < 0 ? broken(r, e) : err_set(e, EINVAL, "%.200s: %s is cut short", r->path, f->name);
            break;
        }
        if ((uint64_t)n > f->size - done) {
            s = err_set(e, EINVAL, "%.200s: %s is longer than announced", r->path, f->name);
            break;
        }
        sha256_update(&sha, (size_t)n, buf);
        for (la_ssize_t at = 0; s == 0 && at < n;) {
            ssize_t w = write(fd, buf + at, (size_t)(n - at));
            if (w < 0)
                s = err_set(e, errno, "cannot write %s: %s", f->name, strerror(errno));
            at += w;
        }
        done += (uint64_t)n;
        s = s ? s : appliance_step(r->p, f->name, done, f->size, e);
    }
    free(buf);
    if (s)
        return s;
    sha256_digest(&sha, sizeof(digest), digest);
    if (memcmp(digest, f->sha256, sizeof(digest)) != 0)
        return err_set(e, EBADMSG, "%.200s: %s: its SHA-256 is not the one in the manifest", r->path, f->name);
    return 0;
}

static int unpack_entry(struct reader *r, struct archive_entry *entry, int dirfd, const struct appliance_file *f,
                        struct err *e)
{
    if ((uint64_t)archive_entry_size(entry) != f->size)
        return err_set(e, EBADMSG, "%.200s: %s has %lu bytes; the manifest says %lu", r->path, f->name,
                       (uint64_t)archive_entry_size(entry), f->size);
    int fd = openat(dirfd, f->name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (fd < 0)
        return err_set(e, errno, "cannot make %s: %s", f->name, strerror(errno));
    int s = copy_out(r, f, fd, e);
    if (close(fd) < 0 && s == 0)
        s = err_set(e, errno, "cannot write %s: %s", f->name, strerror(errno));
    return s;
}

static int check_room(const struct reader *r, int dirfd, const struct appliance_manifest *m, struct err *e)
{
    struct statvfs fs;
    uint64_t need = 0;
    for (unsigned i = 0; i < m->n_files; i++)
        need += m->file[i].size; /* each is below 2^46 */
    if (fstatvfs(dirfd, &fs) == 0 && need / fs.f_frsize >= fs.f_bavail)
        return err_set(e, ENOSPC, "%.200s: unpacked it takes %lu MiB; there is room for %lu", r->path, need >> 20,
                       (uint64_t)(fs.f_bavail * fs.f_frsize) >> 20);
    return 0;
}

/* *seen has a bit for each file that was made. */
static int unpack_all(struct reader *r, int dirfd, struct appliance_manifest *m, unsigned *seen, struct err *e)
{
    struct archive_entry *entry;
    int s = read_manifest(r, m, e);
    s = s ? s : check_room(r, dirfd, m, e);
    while (s == 0) {
        int more = next_entry(r, &entry, e);
        if (more <= 0) {
            s = more;
            break;
        }
        const char *name = archive_entry_pathname(entry);
        const struct appliance_file *f = appliance_manifest_file(m, name);
        if (!f)
            return err_set(e, EINVAL, "%.200s: entry \"%s\" is not in the manifest", r->path, name);
        unsigned bit = 1U << (f - m->file);
        if (*seen & bit)
            return err_set(e, EINVAL, "%.200s: entry \"%s\" is there twice", r->path, name);
        *seen |= bit;
        s = unpack_entry(r, entry, dirfd, f, e);
    }
    for (unsigned i = 0; s == 0 && i < m->n_files; i++)
        if (!(*seen & 1U << i))
            s = err_set(e, EINVAL, "%.200s: %s is missing; the file may be cut short", r->path, m->file[i].name);
    for (unsigned i = 0; s == 0 && i < m->n_disks; i++)
        s = appliance_check_disk(dirfd, m->disk[i].file, e);
    return s ? s : appliance_save(dirfd, m, e);
}

int appliance_peek(const char *path, struct appliance_manifest *m, struct err *e)
{
    struct reader r;
    int s = open_reader(&r, path, NULL, e);
    if (s < 0)
        return s;
    s = read_manifest(&r, m, e);
    archive_read_free(r.a);
    return s;
}

int appliance_unpack(const char *path, int dirfd, struct appliance_manifest *m, const struct appliance_progress *p,
                     struct err *e)
{
    struct reader r;
    struct appliance_manifest *n = calloc(1, sizeof(*n));
    unsigned seen = 0;
    int s = n ? open_reader(&r, path, p, e) : err_set(e, ENOMEM, "out of memory");
    if (s == 0) {
        s = unpack_all(&r, dirfd, n, &seen, e);
        archive_read_free(r.a);
    }
    for (unsigned i = 0; s < 0 && n && i < n->n_files; i++)
        if (seen & 1U << i)
            unlinkat(dirfd, n->file[i].name, 0);
    if (s == 0)
        *m = *n;
    free(n);
    return s;
}

/* ---- writing ---- */

static int write_failed(struct archive *a, const char *path, struct err *e)
{
    const char *why = archive_error_string(a);
    return err_set(e, EIO, "cannot write %.300s: %.150s", path, why ? why : "unknown reason");
}

static int put_header(struct archive *a, const char *name, uint64_t size)
{
    struct archive_entry *entry = archive_entry_new();
    if (!entry)
        return ARCHIVE_FATAL;
    /* No owner, no time: the same appliance is the same bytes. */
    archive_entry_set_pathname(entry, name);
    archive_entry_set_filetype(entry, AE_IFREG);
    archive_entry_set_perm(entry, 0644);
    archive_entry_set_size(entry, (la_int64_t)size);
    archive_entry_set_mtime(entry, 0, 0);
    int s = archive_write_header(a, entry);
    archive_entry_free(entry);
    return s;
}

/* The file must be what appliance_hash saw: its checksum is on paper already. */
static int put_file(struct archive *a, const char *path, int dirfd, const struct appliance_file *f, struct err *e)
{
    uint64_t done = 0;
    ssize_t n = 0;
    int fd = openat(dirfd, f->name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    uint8_t *buf = malloc(APPLIANCE_CHUNK);
    int s = fd < 0 || !buf ? err_set(e, errno, "%s: %s", f->name, strerror(errno)) : 0;
    if (s == 0 && put_header(a, f->name, f->size) != ARCHIVE_OK)
        s = write_failed(a, path, e);
    while (s == 0 && (n = read(fd, buf, APPLIANCE_CHUNK)) > 0) {
        done += (uint64_t)n;
        if (archive_write_data(a, buf, (size_t)n) != n)
            s = write_failed(a, path, e);
    }
    if (s == 0 && (n < 0 || done != f->size))
        s = err_set(e, EIO, "%s: it changed while it was packed", f->name);
    free(buf);
    if (fd >= 0)
        close(fd);
    return s;
}

static int put_all(struct archive *a, const char *path, int dirfd, const struct appliance_manifest *m, struct err *e)
{
    char *text = appliance_manifest_print(m);
    int s = text ? 0 : err_set(e, ENOMEM, "out of memory");
    size_t len = text ? strlen(text) : 0;
    if (s == 0 &&
        (put_header(a, manifest_name, len) != ARCHIVE_OK || archive_write_data(a, text, len) != (la_ssize_t)len))
        s = write_failed(a, path, e);
    free(text);
    for (unsigned i = 0; s == 0 && i < m->n_files; i++)
        s = put_file(a, path, dirfd, &m->file[i], e);
    if (s == 0 && archive_write_close(a) != ARCHIVE_OK)
        s = write_failed(a, path, e);
    return s;
}

static int write_archive(const char *path, int dirfd, const struct appliance_manifest *m, struct err *e)
{
    char *tmp;
    if (asprintf(&tmp, "%s.%d.new", path, (int)getpid()) < 0)
        return err_set(e, ENOMEM, "out of memory");
    int fd = open(tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    struct archive *a = archive_write_new();
    int s = fd < 0 || !a ? err_set(e, errno, "cannot make %.300s: %s", path, strerror(errno)) : 0;
    if (s == 0 &&
        (archive_write_set_format_pax_restricted(a) != ARCHIVE_OK || archive_write_open_fd(a, fd) != ARCHIVE_OK))
        s = write_failed(a, path, e);
    s = s ? s : put_all(a, path, dirfd, m, e);
    archive_write_free(a);
    if (s == 0 && (fsync(fd) < 0 || rename(tmp, path) < 0))
        s = err_set(e, errno, "cannot write %.300s: %s", path, strerror(errno));
    if (fd >= 0)
        close(fd);
    if (s < 0 && fd >= 0)
        unlink(tmp);
    free(tmp);
    return s;
}

int appliance_pack(const char *path, int dirfd, struct appliance_manifest *m, const struct appliance_progress *p,
                   struct err *e)
{
    int s = 0;
    for (unsigned i = 0; s == 0 && i < m->n_disks; i++)
        s = appliance_check_disk(dirfd, m->disk[i].file, e);
    for (unsigned i = 0; s == 0 && i < m->n_files; i++)
        s = appliance_hash(dirfd, &m->file[i], p, e);
    return s ? s : write_archive(path, dirfd, m, e);
}
