/* SPDX-License-Identifier: MIT */
/* The header of a qcow2 image and its snapshot table, which may hold anything: nothing is used before it is checked. */
#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/qcow2.h"

static uint32_t be32_at(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof(v));
    return be32toh(v);
}

static uint64_t be64_at(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof(v));
    return be64toh(v);
}

static uint16_t be16_at(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}

static void parse_fixed(const uint8_t b[Q_V3_HEADER + 8], struct q_header *h)
{
    *h = (struct q_header){
        .version = be32_at(b + 4),
        .backing_at = be64_at(b + 8),
        .backing_len = be32_at(b + 16),
        .cluster_bits = be32_at(b + 20),
        .size = be64_at(b + Q_AT_SIZE),
        .encryption = be32_at(b + 32),
        .l1_n = be32_at(b + 36),
        .l1_off = be64_at(b + 40),
        .rt_off = be64_at(b + Q_AT_RT),
        .rt_clusters = be32_at(b + 56),
        .snapshots = be32_at(b + 60),
        .snapshots_off = be64_at(b + 64),
        .refcount_order = 4,
        .length = Q_V2_HEADER,
    };
    if (h->version != 3)
        return;
    h->incompatible = be64_at(b + Q_AT_INCOMPATIBLE);
    h->compatible = be64_at(b + 80);
    h->autoclear = be64_at(b + Q_AT_AUTOCLEAR);
    h->refcount_order = be32_at(b + 96);
    h->length = be32_at(b + 100);
    if (h->length > Q_V3_HEADER)
        h->compression = b[104];
}

/* ---- header extensions ---- */

struct ext_walk {
    int fd;
    const char *path;
    uint64_t at, end;
};

/* Calls for each extension: its type, where its data is and their length. */
static int next_ext(struct ext_walk *w, uint32_t *type, uint64_t *data, uint32_t *len, struct err *e)
{
    uint8_t b[8];
    if (w->at + 8 > w->end)
        return 0;
    int r = file_read(w->fd, b, sizeof(b), w->at);
    if (r < 0)
        return err_set(e, -r, "cannot read the header of '%.300s': %s", w->path, strerror(-r));
    *type = be32_at(b);
    *len = be32_at(b + 4);
    *data = w->at + 8;
    if (*type == 0)
        return 0;
    if (*len > w->end - *data)
        return err_set(e, EINVAL, "the qcow2 image '%.300s' has a header extension (%08x) that does not end in it",
                       w->path, *type);
    w->at = *data + (((uint64_t)*len + 7) & ~7UL);
    return 1;
}

static int read_backing_format(struct ext_walk *w, struct q_header *h, struct err *e)
{
    uint32_t type, len;
    uint64_t data;
    int r;
    while ((r = next_ext(w, &type, &data, &len, e)) > 0) {
        if (type != (uint32_t)QCOW2_EXT_BACKING_FORMAT)
            continue;
        if (len >= sizeof(h->backing_format))
            return err_set(e, EINVAL, "the qcow2 image '%.300s' has too long a name for its backing file's format",
                           w->path);
        memset(h->backing_format, 0, sizeof(h->backing_format));
        r = file_read(w->fd, h->backing_format, len, data);
        if (r < 0)
            return err_set(e, -r, "cannot read the header of '%.300s': %s", w->path, strerror(-r));
    }
    return r;
}

/* What the image calls the incompatible feature of this bit, if it says. */
static void feature_name(struct ext_walk *w, unsigned bit, char name[48])
{
    uint32_t type, len;
    uint64_t data;
    strcpy(name, "no name given");
    while (next_ext(w, &type, &data, &len, NULL) > 0) {
        for (uint32_t i = 0; type == QCOW2_EXT_FEATURES && i + 48 <= len; i += 48) {
            uint8_t b[48];
            if (file_read(w->fd, b, sizeof(b), data + i) < 0)
                return;
            if (b[0] != 0 || b[1] != bit)
                continue;
            memcpy(name, b + 2, 46);
            name[46] = '\0';
            for (char *p = name; *p; p++)
                if (*p < ' ' || *p > '~')
                    *p = '?';
            return;
        }
    }
}

/* ---- what is refused ---- */

static int check_features(const struct q_header *h, struct ext_walk *w, struct err *e)
{
    char name[48];
    uint64_t unknown = h->incompatible & ~(QCOW2_DIRTY | QCOW2_CORRUPT | QCOW2_COMPRESSION);
    const char *why = NULL;
    if (h->encryption)
        why = h->encryption == 2 ? "is encrypted (LUKS)" : "is encrypted";
    else if (h->incompatible & QCOW2_DATA_FILE)
        why = "keeps its data in an external file";
    else if (h->incompatible & QCOW2_EXTENDED_L2)
        why = "has extended L2 entries (subclusters)";
    if (why)
        return err_set(
            e, ENOTSUP,
            "the qcow2 image '%.200s' %s, which gazda cannot read: convert it with qemu-img convert -O qcow2", w->path,
            why);
    if (unknown) {
        unsigned bit = (unsigned)__builtin_ctzl(unknown);
        feature_name(w, bit, name);
        return err_set(e, ENOTSUP, "the qcow2 image '%.200s' uses incompatible feature bit %u (%s), unknown to gazda",
                       w->path, bit, name);
    }
    if (h->compression > QCOW2_ZSTD || (h->compression != QCOW2_ZLIB) != ((h->incompatible & QCOW2_COMPRESSION) != 0))
        return err_set(e, ENOTSUP, "the qcow2 image '%.200s' has compression type %u, not 0 (zlib) or 1 (zstd)",
                       w->path, h->compression);
    return 0;
}

static int bad(const char *path, struct err *e, const char *what, uint64_t value)
{
    return err_set(e, EINVAL, "the qcow2 image '%.300s' is corrupt: its %s is %" PRIu64 " (%#" PRIx64 ")", path, what,
                   value, value);
}

static bool table_ok(uint64_t off, uint64_t bytes, uint64_t file_bytes, uint64_t align)
{
    return off % align == 0 && off >= align && off <= file_bytes && bytes <= file_bytes - off;
}

static int check_sizes(const struct q_header *h, const char *path, struct err *e)
{
    if (h->version != 2 && h->version != 3)
        return err_set(e, ENOTSUP, "the qcow2 image '%.300s' has version %u; gazda knows 2 and 3", path, h->version);
    if (h->cluster_bits < Q_BITS_MIN || h->cluster_bits > Q_BITS_MAX)
        return bad(path, e, "cluster_bits", h->cluster_bits);
    if (h->version == 3 && (h->length < Q_V3_HEADER || h->length % 8 || h->length > 1UL << h->cluster_bits))
        return bad(path, e, "header length", h->length);
    if (h->refcount_order > 6)
        return bad(path, e, "refcount order", h->refcount_order);
    if (h->size > 1UL << 62)
        return bad(path, e, "size", h->size);
    return 0;
}

static int check_tables(const struct q_header *h, uint64_t file_bytes, const char *path, struct err *e)
{
    uint64_t cluster = 1UL << h->cluster_bits, l2_bytes = cluster << (h->cluster_bits - 3);
    uint64_t l1_bytes = (uint64_t)h->l1_n * 8, rt_bytes = (uint64_t)h->rt_clusters << h->cluster_bits;
    /* The last cluster of a file may be there in part. */
    uint64_t file = (file_bytes + cluster - 1) & ~(cluster - 1);
    if (l1_bytes > Q_L1_MAX || h->l1_n < h->size / l2_bytes + (h->size % l2_bytes != 0))
        return bad(path, e, "number of L1 entries", h->l1_n);
    if (l1_bytes && !table_ok(h->l1_off, l1_bytes, file, cluster))
        return bad(path, e, "L1 table's offset", h->l1_off);
    if (rt_bytes == 0 || rt_bytes > Q_RT_MAX)
        return bad(path, e, "number of refcount table clusters", h->rt_clusters);
    if (!table_ok(h->rt_off, rt_bytes, file, cluster))
        return bad(path, e, "refcount table's offset", h->rt_off);
    if (h->snapshots > Q_SNAPSHOTS_MAX)
        return bad(path, e, "number of snapshots", h->snapshots);
    if (h->snapshots && !table_ok(h->snapshots_off, (uint64_t)h->snapshots * 40, file, cluster))
        return bad(path, e, "snapshot table's offset", h->snapshots_off);
    if (h->backing_at && (h->backing_len > Q_NAME_MAX || h->backing_len == 0))
        return bad(path, e, "length of the backing file's name", h->backing_len);
    if (h->backing_at && (h->backing_at < h->length || h->backing_at > cluster - h->backing_len))
        return bad(path, e, "backing file name's offset", h->backing_at);
    return 0;
}

int q_read_header(int fd, uint64_t file_bytes, const char *path, struct q_header *h, struct err *e)
{
    uint8_t b[Q_V3_HEADER + 8];
    int r = file_read(fd, b, sizeof(b), 0);
    if (r < 0)
        return err_set(e, -r, "cannot read the disk image '%.300s': %s", path, strerror(-r));
    if (be32_at(b) != QCOW2_MAGIC)
        return err_set(e, EINVAL, "the disk image '%.300s' is not in qcow2 format", path);
    parse_fixed(b, h);
    r = check_sizes(h, path, e);
    if (r < 0)
        return r;
    struct ext_walk w = { fd, path, h->length, h->backing_at ? h->backing_at : 1UL << h->cluster_bits }, again = w;
    r = check_features(h, &w, e);
    if (r == 0)
        r = check_tables(h, file_bytes, path, e);
    if (r == 0)
        r = read_backing_format(&again, h, e);
    if (r < 0 || !h->backing_at)
        return r;
    r = file_read(fd, h->backing, h->backing_len, h->backing_at);
    if (r < 0)
        return err_set(e, -r, "cannot read the header of '%.300s': %s", path, strerror(-r));
    if (memchr(h->backing, 0, h->backing_len))
        return err_set(e, EINVAL, "the qcow2 image '%.300s' has a zero byte in its backing file's name", path);
    return 0;
}

/* ---- snapshots ---- */

static int read_name(int fd, uint64_t at, unsigned len, char *out, size_t size)
{
    unsigned n = len < size ? len : (unsigned)size - 1;
    memset(out, 0, size);
    return file_read(fd, out, n, at);
}

static int read_snapshot(int fd, uint64_t *at, struct q_snapshot *s, const struct q_header *h)
{
    uint8_t b[40 + 16] = { 0 };
    int r = file_read(fd, b, sizeof(b), *at);
    if (r < 0)
        return r;
    uint32_t extra = be32_at(b + 36);
    unsigned id = be16_at(b + 12), name = be16_at(b + 14);
    if (extra > 1024)
        return -EINVAL;
    *s = (struct q_snapshot){ .l1_off = be64_at(b), .l1_n = be32_at(b + 8), .seconds = be32_at(b + 16) };
    s->vm_state = extra >= 8 ? be64_at(b + 40) : be32_at(b + 32);
    s->size = extra >= 16 ? be64_at(b + 48) : h->size;
    r = read_name(fd, *at + 40 + extra, id, s->id, sizeof(s->id));
    if (r == 0)
        r = read_name(fd, *at + 40 + extra + id, name, s->name, sizeof(s->name));
    *at += (40 + (uint64_t)extra + id + name + 7) & ~7UL;
    return r;
}

int q_read_snapshots(int fd, const struct q_header *h, struct q_snapshot **out, uint64_t *bytes, struct err *e)
{
    struct q_snapshot *s = calloc(h->snapshots ? h->snapshots : 1, sizeof(*s));
    uint64_t at = h->snapshots_off;
    if (!s)
        return err_set(e, ENOMEM, "out of memory");
    for (uint32_t i = 0; i < h->snapshots; i++) {
        int r = read_snapshot(fd, &at, &s[i], h);
        if (r == 0 && at - h->snapshots_off > (uint64_t)Q_SNAPSHOTS_MAX * Q_SNAPSHOT_BYTES)
            r = -EINVAL;
        if (r == 0 && (uint64_t)s[i].l1_n * 8 > Q_L1_MAX)
            r = -EINVAL;
        if (r < 0) {
            free(s);
            return err_set(e, -r, "the image is corrupt: entry %u of its snapshot table cannot be read", i);
        }
    }
    *out = s;
    *bytes = at - h->snapshots_off;
    return 0;
}
