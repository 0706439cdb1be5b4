/* SPDX-License-Identifier: MIT */
/*
 * OVA archives, and OVF descriptors with their files beside them. Files are copied under names of ours; what the
 * archive calls them is only compared.
 */
#include <archive.h>
#include <archive_entry.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <nettle/sha1.h>
#include <nettle/sha2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "appliance/internal.h"
#include "appliance/ovf.h"

enum { MF_MAX = 64 << 10 };

struct ova {
    const char *path;
    struct archive *a; /* NULL: a folder */
    int folder;        /* of the descriptor */
    int fd;            /* of the folder's file that is being read */
    int out;           /* where the files go */
    const struct appliance_progress *p;
    struct ovf_machine *m;
    char ovf_name[OVF_HREF_MAX + 1];
    char *mf; /* the manifest's text, or NULL */
    struct digests {
        bool have;
        uint8_t sha1[SHA1_DIGEST_SIZE], sha256[SHA256_DIGEST_SIZE];
    } ovf, disk[APPLIANCE_DISKS_MAX];
};

/* ---- bytes from one or the other ---- */

static ssize_t read_some(struct ova *o, void *buf, size_t n, struct err *e)
{
    ssize_t got = o->a ? archive_read_data(o->a, buf, n) : read(o->fd, buf, n);
    if (got < 0)
        err_set(e, EINVAL, "%.200s: cannot read: %.150s", o->path, o->a ? archive_error_string(o->a) : strerror(errno));
    return got < 0 ? -EINVAL : got;
}

/* A small file as text, malloc'ed, NUL behind it. */
static char *read_text(struct ova *o, size_t max, size_t *len, struct err *e)
{
    char *text = malloc(max + 2);
    ssize_t n = 0;
    *len = 0;
    while (text && *len <= max && (n = read_some(o, text + *len, max + 1 - *len, e)) > 0)
        *len += (size_t)n;
    if (text && n >= 0 && *len <= max) {
        text[*len] = '\0';
        return text;
    }
    if (text && n >= 0)
        err_set(e, EINVAL, "%.200s: a descriptor or manifest is longer than %zu bytes", o->path, max);
    free(text);
    return NULL;
}

static void digest_text(struct digests *d, const char *text, size_t len)
{
    struct sha1_ctx s1;
    struct sha256_ctx s2;
    sha1_init(&s1);
    sha256_init(&s2);
    sha1_update(&s1, len, (const uint8_t *)text);
    sha256_update(&s2, len, (const uint8_t *)text);
    sha1_digest(&s1, sizeof(d->sha1), d->sha1);
    sha256_digest(&s2, sizeof(d->sha256), d->sha256);
    d->have = true;
}

static int write_all(int fd, const uint8_t *buf, size_t n)
{
    while (n) {
        ssize_t w = write(fd, buf, n);
        if (w < 0)
            return -errno;
        buf += w;
        n -= (size_t)w;
    }
    return 0;
}

/* The current file becomes diskN.src. */
static int take_disk(struct ova *o, unsigned i, uint64_t size, struct err *e)
{
    struct digests *d = &o->disk[i];
    struct sha1_ctx s1;
    struct sha256_ctx s2;
    char name[32];
    uint64_t done = 0;
    ssize_t n = 0;
    snprintf(name, sizeof(name), "disk%u.src", i);
    int fd = openat(o->out, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644), r = 0;
    uint8_t *buf = malloc(APPLIANCE_CHUNK);
    if (fd < 0 || !buf)
        r = err_set(e, errno, "cannot make %s: %s", name, strerror(errno));
    sha1_init(&s1);
    sha256_init(&s2);
    while (r == 0 && (n = read_some(o, buf, APPLIANCE_CHUNK, e)) > 0) {
        sha1_update(&s1, (size_t)n, buf);
        sha256_update(&s2, (size_t)n, buf);
        r = write_all(fd, buf, (size_t)n);
        if (r < 0)
            err_set(e, -r, "cannot write %s: %s", name, strerror(-r));
        done += (uint64_t)n;
        r = r ? r : appliance_step(o->p, o->m->disk[i].href, done, size, e);
    }
    r = r ? r : n < 0 ? (int)n : 0;
    if (r == 0 && o->m->disk[i].size && o->m->disk[i].size != done)
        r = err_set(e, EBADMSG, "%.100s has %lu bytes; the OVF descriptor says %lu", o->m->disk[i].href, done,
                    o->m->disk[i].size);
    sha1_digest(&s1, sizeof(d->sha1), d->sha1);
    sha256_digest(&s2, sizeof(d->sha256), d->sha256);
    d->have = true;
    free(buf);
    if (fd >= 0)
        close(fd);
    return r;
}

static int take_descriptor(struct ova *o, struct err *e)
{
    size_t len;
    char *text = read_text(o, OVF_TEXT_MAX, &len, e);
    int r = text ? ovf_parse(o->m, text, len, e) : -EINVAL;
    if (text)
        digest_text(&o->ovf, text, len);
    free(text);
    return r;
}

/* ---- the manifest: lines "SHA256(name)= hex" ---- */

static const struct digests *digests_of(const struct ova *o, const char *name)
{
    if (strcmp(name, o->ovf_name) == 0)
        return &o->ovf;
    for (unsigned i = 0; i < o->m->n_disks; i++)
        if (strcmp(name, o->m->disk[i].href) == 0)
            return &o->disk[i];
    return NULL;
}

static bool same(const uint8_t *digest, size_t n, const char *hex)
{
    char text[2 * SHA256_DIGEST_SIZE + 1];
    for (size_t i = 0; i < n; i++)
        snprintf(text + 2 * i, 3, "%02x", digest[i]);
    return strncasecmp(text, hex, 2 * n) == 0 && strspn(hex + 2 * n, " \t\r") == strlen(hex + 2 * n);
}

static int check_line(const struct ova *o, char *line, struct err *e)
{
    char *open = strchr(line, '('), *close = strrchr(line, ')'), *equals = close ? strchr(close, '=') : NULL;
    if (!open || !equals || close < open)
        return line[strspn(line, " \t\r")] ? err_set(e, EINVAL, "%.200s: its manifest has a line that is none", o->path)
                                           : 0;
    *open = *close = '\0';
    const struct digests *d = digests_of(o, open + 1);
    if (!d)
        return 0; /* of a file that is not used */
    equals += 1 + strspn(equals + 1, " \t");
    line[strcspn(line, " \t")] = '\0';
    if (strcasecmp(line, "SHA256") != 0 && strcasecmp(line, "SHA1") != 0)
        return err_set(e, EINVAL, "%.200s: its manifest has checksums by \"%.20s\"; SHA1 and SHA256 are known", o->path,
                       line);
    bool good = strcasecmp(line, "SHA1") == 0 ? same(d->sha1, sizeof(d->sha1), equals)
                                              : same(d->sha256, sizeof(d->sha256), equals);
    return good ? 0
                : err_set(e, EBADMSG, "%.200s: %.100s: its %s is not the one in the manifest", o->path, open + 1, line);
}

static int check_all(struct ova *o, struct err *e)
{
    char *save = NULL;
    int r = 0;
    for (unsigned i = 0; i < o->m->n_disks; i++)
        if (!o->disk[i].have)
            return err_set(e, EINVAL, "%.200s: \"%.100s\" is missing; the file may be cut short", o->path,
                           o->m->disk[i].href);
    for (char *line = o->mf ? strtok_r(o->mf, "\n", &save) : NULL; line && r == 0; line = strtok_r(NULL, "\n", &save))
        r = check_line(o, line, e);
    return r;
}

static bool has_suffix(const char *name, const char *suffix)
{
    size_t n = strlen(name), m = strlen(suffix);
    return n > m && strcasecmp(name + n - m, suffix) == 0;
}

/* ---- an archive ---- */

static int take_entry(struct ova *o, struct archive_entry *entry, struct err *e)
{
    const char *name = archive_entry_pathname(entry);
    size_t len;
    if (!name || archive_entry_filetype(entry) != AE_IFREG || archive_entry_hardlink(entry))
        return err_set(e, EINVAL, "%.200s: entry \"%.100s\" is not a regular file", o->path, name ? name : "?");
    if (!*o->ovf_name) {
        if (!has_suffix(name, ".ovf") || strlen(name) > OVF_HREF_MAX)
            return err_set(e, EINVAL, "%.200s: it is no OVA: its first entry must be an .ovf", o->path);
        strcpy(o->ovf_name, name);
        return take_descriptor(o, e);
    }
    if (has_suffix(name, ".mf") && !o->mf)
        return (o->mf = read_text(o, MF_MAX, &len, e)) ? 0 : -EINVAL;
    for (unsigned i = 0; i < o->m->n_disks; i++) {
        if (strcmp(o->m->disk[i].href, name) != 0)
            continue;
        if (o->disk[i].have)
            return err_set(e, EINVAL, "%.200s: entry \"%.100s\" is there twice", o->path, name);
        return take_disk(o, i, (uint64_t)archive_entry_size(entry), e);
    }
    return 0; /* a certificate, an ISO image: not used */
}

static int unpack_archive(struct ova *o, struct err *e)
{
    struct archive_entry *entry;
    struct stat st;
    int s = ARCHIVE_OK, r = 0;
    if (stat(o->path, &st) < 0 || !S_ISREG(st.st_mode))
        return err_set(e, ENOENT, "%.300s: there is no such regular file", o->path);
    o->a = archive_read_new();
    if (!o->a || archive_read_support_format_tar(o->a) != ARCHIVE_OK ||
        archive_read_open_filename(o->a, o->path, APPLIANCE_CHUNK) != ARCHIVE_OK)
        r = err_set(e, EINVAL, "%.300s: cannot read: %.100s", o->path, o->a ? archive_error_string(o->a) : "no memory");
    while (r == 0 && (s = archive_read_next_header(o->a, &entry)) == ARCHIVE_OK)
        r = take_entry(o, entry, e);
    if (r == 0 && s != ARCHIVE_EOF)
        r = err_set(e, EINVAL, "%.200s: it is no OVA, or damaged: %.150s", o->path, archive_error_string(o->a));
    if (r == 0 && !*o->ovf_name)
        r = err_set(e, EINVAL, "%.200s: it is empty", o->path);
    r = r ? r : check_all(o, e);
    archive_read_free(o->a);
    return r;
}

/* ---- a folder ---- */

static int open_beside(struct ova *o, const char *name, struct stat *st, struct err *e)
{
    o->fd = openat(o->folder, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (o->fd < 0)
        return err_set(e, errno, "%.200s: %.100s: %s", o->path, name, strerror(errno));
    if (fstat(o->fd, st) < 0 || !S_ISREG(st->st_mode)) {
        close(o->fd);
        return err_set(e, EINVAL, "%.200s: %.100s is not a regular file", o->path, name);
    }
    return 0;
}

static int read_folder(struct ova *o, struct err *e)
{
    struct stat st;
    char mf[OVF_HREF_MAX + 1];
    size_t len;
    int r = open_beside(o, o->ovf_name, &st, e);
    if (r < 0)
        return r;
    r = take_descriptor(o, e);
    close(o->fd);
    snprintf(mf, sizeof(mf), "%.*s.mf", (int)strlen(o->ovf_name) - 4, o->ovf_name);
    if (r == 0 && open_beside(o, mf, &st, NULL) == 0) {
        o->mf = read_text(o, MF_MAX, &len, e);
        r = o->mf ? 0 : -EINVAL;
        close(o->fd);
    }
    for (unsigned i = 0; r == 0 && i < o->m->n_disks; i++) {
        r = open_beside(o, o->m->disk[i].href, &st, e);
        if (r == 0) {
            r = take_disk(o, i, (uint64_t)st.st_size, e);
            close(o->fd);
        }
    }
    return r ? r : check_all(o, e);
}

static int unpack_folder(struct ova *o, struct err *e)
{
    const char *slash = strrchr(o->path, '/'), *base = slash ? slash + 1 : o->path;
    char *dir = slash ? strndup(o->path, (size_t)(slash - o->path) + 1) : strdup(".");
    if (!dir || strlen(base) > OVF_HREF_MAX) {
        free(dir);
        return err_set(e, EINVAL, "%.300s: the name is too long", o->path);
    }
    strcpy(o->ovf_name, base);
    o->folder = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int r = o->folder < 0 ? err_set(e, errno, "%.300s: %s", dir, strerror(errno)) : read_folder(o, e);
    if (o->folder >= 0)
        close(o->folder);
    free(dir);
    return r;
}

int ovf_unpack(const char *path, int dirfd, struct ovf_machine *m, const struct appliance_progress *p, struct err *e)
{
    struct ova *o = calloc(1, sizeof(*o));
    struct ovf_machine *n = calloc(1, sizeof(*n));
    int r = o && n ? 0 : err_set(e, ENOMEM, "out of memory");
    if (r == 0) {
        *o = (struct ova){ .path = path, .folder = -1, .fd = -1, .out = dirfd, .p = p, .m = n };
        r = has_suffix(path, ".ovf") ? unpack_folder(o, e) : unpack_archive(o, e);
        free(o->mf);
    }
    if (r == 0)
        *m = *n;
    free(n);
    free(o);
    return r;
}

/* ---- what the disks are ---- */

/*
 * VMDK (VMware's "Virtual Disk Format 5.0"): a text descriptor in the file may name files of the host as extents or as
 * parent, and a converter would follow it. A sparse extent with its own data needs neither.
 */
static int check_vmdk_text(char *text, size_t n, const char *name, struct err *e)
{
    for (size_t i = 0; i < n; i++)
        if (text[i] == '\0')
            text[i] = '\n';
    text[n] = '\0';
    if (strcasestr(text, "parentFileNameHint"))
        return err_set(e, EINVAL, "%s: this VMDK is based on another file", name);
    if (n && !strstr(text, "createType=\"streamOptimized\"") && !strstr(text, "createType=\"monolithicSparse\""))
        return err_set(e, EINVAL, "%s: the VMDK's createType must be streamOptimized or monolithicSparse", name);
    return 0;
}

static int check_vmdk(int fd, const char *name, struct err *e)
{
    enum { SECTOR = 512, DESCRIPTOR_MAX = 128 }; /* sectors */
    struct __attribute__((packed)) {
        uint32_t magic, version, flags;
        uint64_t capacity, grain, descriptor, descriptor_size;
    } h;
    if (pread(fd, &h, sizeof(h), 0) != sizeof(h))
        return err_set(e, EINVAL, "%s: cut short", name);
    if (le64toh(h.capacity) == 0)
        return err_set(e, EINVAL, "%s: this VMDK keeps its data in other files; it must be streamOptimized or so",
                       name);
    uint64_t at = le64toh(h.descriptor), sectors = le64toh(h.descriptor_size);
    if (at > 1 << 20 || sectors > DESCRIPTOR_MAX)
        return err_set(e, EINVAL, "%s: the VMDK's descriptor is where none can be", name);
    char *text = malloc(sectors * SECTOR + 1);
    ssize_t n = !text ? -1 : at ? pread(fd, text, sectors * SECTOR, (off_t)(at * SECTOR)) : 0;
    int r = n < 0 ? err_set(e, errno, "%s: %s", name, strerror(errno)) : check_vmdk_text(text, (size_t)n, name, e);
    free(text);
    return r;
}

int ovf_check_disk(int dirfd, const char *name, struct err *e)
{
    char magic[4] = "";
    int fd = openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC), r;
    if (fd < 0)
        return err_set(e, errno, "%s: %s", name, strerror(errno));
    if (pread(fd, magic, sizeof(magic), 0) != sizeof(magic))
        r = err_set(e, EINVAL, "%s: cut short", name);
    else if (memcmp(magic, "KDMV", 4) == 0)
        r = check_vmdk(fd, name, e) < 0 ? -EINVAL : OVF_VMDK;
    else if (memcmp(magic, "QFI\xfb", 4) == 0)
        r = appliance_check_disk(dirfd, name, e) < 0 ? -EINVAL : OVF_QCOW2;
    else if (memcmp(magic, "# Di", 4) == 0)
        r = err_set(e, EINVAL, "%s: a VMDK that is a mere list of other files; it must be streamOptimized", name);
    else
        r = err_set(e, EINVAL, "%s: it is neither VMDK nor qcow2", name);
    close(fd);
    return r;
}
