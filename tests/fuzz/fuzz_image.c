/* SPDX-License-Identifier: MIT */
/*
 * Hostile qcow2 images. Good images of several shapes are made here, then damaged where it hurts (header fields, table
 * entries, refcounts), opened, described, read, written, checked and repaired. Nothing may crash or run away; no write
 * of a guest may reach the header; and an image that repair calls good must be good.
 *
 *   fuzz_image [--cases N] [--seed N]    or with fuzz_one as the body of another fuzzer
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/log.h"
#include "base/types.h"
#include "host/disk.h"
#include "host/disk_image.h"

int fuzz_one(const uint8_t *data, size_t n);

enum { IMAGE_MAX = 4 << 20, SPAN = 1 << 20, SHAPES = 6 };

static struct {
    unsigned bits, refcount_bits, version;
    bool lazy, compress;
    uint8_t *bytes;
    size_t n;
} shape[SHAPES] = {
    { .bits = 16, .compress = true },
    { .bits = 9 },
    { .bits = 9, .refcount_bits = 64, .compress = true },
    { .bits = 12, .lazy = true },
    { .bits = 12, .refcount_bits = 1 },
    { .bits = 10, .version = 2, .compress = true },
};

struct input {
    const uint8_t *p;
    size_t n;
};

static uint64_t take(struct input *in, unsigned bytes)
{
    uint64_t x = 0;
    for (; bytes && in->n; bytes--, in->n--)
        x = x << 8 | *in->p++;
    return x;
}

static void must(bool ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "fuzz_image: %s\n", what);
        abort();
    }
}

/* ---- good images ---- */

static void make_shape(int i)
{
    struct disk_create c = { .format = "qcow2", .bytes = SPAN, .cluster_bits = shape[i].bits };
    struct disk_options o = { .format = "qcow2" };
    struct err e = { 0 };
    static uint8_t buf[65536];
    char path[40];
    int fd = memfd_create("shape", MFD_CLOEXEC);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    c.refcount_bits = shape[i].refcount_bits;
    c.version = shape[i].version;
    c.lazy_refcounts = shape[i].lazy;
    must(disk_create(path, &c, true, &e) == 0, e.text);
    struct disk *d = disk_open_with(path, &o, &e);
    must(d != NULL, e.text);
    for (unsigned k = 0; k < 12; k++) {
        struct iovec v = { buf, 16384 };
        memset(buf, (int)k + 1, sizeof(buf));
        must(disk_write(d, &v, 1, k % 6 * 131072 + k * 4096) == 0, "cannot write a good image");
    }
    if (shape[i].compress)
        for (uint64_t k = 0; k < 4; k++)
            must(disk_write_compressed(d, buf, 1UL << shape[i].bits, SPAN / 2 + (k << shape[i].bits)) == 0,
                 "cannot write a good image");
    disk_zero(d, 65536, 65536, false);
    disk_close(d);
    shape[i].bytes = malloc(IMAGE_MAX);
    shape[i].n = (size_t)pread(fd, shape[i].bytes, IMAGE_MAX, 0);
    close(fd);
}

/* ---- damage ---- */

static uint64_t be(const uint8_t *p, unsigned n)
{
    uint64_t x = 0;
    while (n--)
        x = x << 8 | *p++;
    return x;
}

static void put_be(uint8_t *p, unsigned n, uint64_t x)
{
    while (n--) {
        p[n] = (uint8_t)x;
        x >>= 8;
    }
}

/* Where tables are, so that most of the damage is in them. */
static size_t place(struct input *in, const uint8_t *b, size_t n)
{
    size_t cluster = 1UL << (be(b + 20, 4) & 31), l1 = be(b + 40, 8), rt = be(b + 48, 8), at;
    switch (take(in, 1) % 6) {
    case 0:
        return take(in, 1) % 120;
    case 1:
        at = l1 + take(in, 1) % 40 * 8;
        break;
    case 2:
        at = rt + take(in, 1) % 4 * 8;
        break;
    case 3: /* an L2 entry */
        at = l1 + take(in, 1) % 4 * 8;
        at = at < n - 8 ? (be(b + at, 8) & 0xfffffffffffe00) + take(in, 1) * 8 % cluster : 0;
        break;
    case 4: /* a refcount */
        at = rt + 8 <= n ? (be(b + rt, 8) & 0xfffffffffffe00) + take(in, 1) % cluster : 0;
        break;
    default:
        at = take(in, 4);
    }
    return at < n - 8 ? at : at % (n - 8);
}

static void damage(struct input *in, uint8_t *b, size_t n)
{
    static const uint64_t odd[] = { 0,        1,          2,         512,       0xffff,     0x10000,
                                    0x20000,  UINT32_MAX, 1UL << 62, 1UL << 63, UINT64_MAX, 0x00fffffffffffe00,
                                    3UL << 62 };
    size_t at = place(in, b, n);
    unsigned w = 1U << take(in, 1) % 4;
    uint64_t old = be(b + at, w);
    switch (take(in, 1) % 6) {
    case 0:
        put_be(b + at, w, odd[take(in, 1) % ARRAY_LEN(odd)]);
        break;
    case 1:
        put_be(b + at, w, old ^ 1UL << take(in, 1) % 64);
        break;
    case 2:
        put_be(b + at, w, old + take(in, 1) - 128);
        break;
    case 3: /* refers to what something else refers to */
        put_be(b + at, 8, be(b + place(in, b, n), 8));
        break;
    case 4:
        put_be(b + at, 8, (be(b + at, 8) & (3UL << 62)) | (take(in, 1) << (be(b + 20, 4) & 31)));
        break;
    default:
        put_be(b + at, w, take(in, w));
    }
}

/* ---- use ---- */

static void use(struct input *in, struct disk *d)
{
    static uint8_t buf[SPAN];
    uint64_t bytes = disk_bytes(d), n;
    for (unsigned ops = 0; ops < 24 && in->n; ops++) {
        unsigned op = (unsigned)take(in, 1) % 8;
        uint64_t off = (take(in, 1) & 1 ? bytes : take(in, 2) * 512) % bytes, len = (1 + take(in, 1)) * 512;
        if (op == 7)
            len = take(in, 2) * 4096;
        if (len > bytes - off)
            len = bytes - off;
        n = len < sizeof(buf) ? len : sizeof(buf);
        struct iovec v[2] = { { buf, n / 2 }, { buf + n / 2, n - n / 2 } };
        if (op < 2)
            disk_read(d, v, 2, off);
        else if (op < 4)
            disk_write(d, v, 2, off);
        else if (op == 4)
            disk_zero(d, off, n, n & 512);
        else if (op == 5)
            disk_discard(d, off, n);
        else if (op == 6)
            disk_flush(d);
        else
            disk_map(d, off, &len);
    }
}

static void check_and_repair(const char *path)
{
    struct err e = { 0 };
    struct disk_check k = { 0 }, fix = { .repair = true }, again = { 0 };
    if (disk_check(path, "qcow2", &k, &e) < 0 || disk_check(path, "qcow2", &fix, &e) < 0)
        return;
    if (fix.errors || fix.leaks)
        return;
    must(disk_check(path, "qcow2", &again, &e) == 0, "what was repaired cannot be checked");
    must(again.errors == 0 && again.leaks == 0, "what was repaired is not in order");
}

int fuzz_one(const uint8_t *data, size_t n)
{
    struct input in = { data, n };
    struct err e = { 0 };
    static struct disk_info info;
    struct disk_options o = { .format = "qcow2", .no_backing = true };
    uint8_t magic[4] = { 0 }, first = (uint8_t)take(&in, 1);
    int s = first % SHAPES, fd = memfd_create("image", MFD_CLOEXEC);
    char path[40];
    if (!shape[s].bytes)
        make_shape(s);
    uint8_t *b = malloc(shape[s].n);
    memcpy(b, shape[s].bytes, shape[s].n);
    for (unsigned k = (unsigned)take(&in, 1) % 5; k; k--)
        damage(&in, b, shape[s].n);
    must(write(fd, b, shape[s].n) == (ssize_t)shape[s].n, "no memory");
    bool looks_good = memcmp(b, "QFI\xfb", 4) == 0;
    free(b);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    if (disk_info(path, "qcow2", &info, &e) == 0)
        free(info.snapshots);
    if (first & 0x80)
        check_and_repair(path);
    o.read_only = (first & 0x60) == 0x60;
    struct disk *d = disk_open_with(path, &o, &e);
    if (d) {
        use(&in, d);
        disk_close(d);
    }
    must(pread(fd, magic, 4, 0) == 4 && (!looks_good || memcmp(magic, "QFI\xfb", 4) == 0),
         "the header was overwritten");
    check_and_repair(path);
    close(fd);
    return 0;
}

/* ---- replay ---- */

static uint64_t rnd(uint64_t *seed)
{
    uint64_t x = *seed += 0x9e3779b97f4a7c15;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return x ^ x >> 31;
}

int main(int argc, char **argv)
{
    uint64_t cases = 1500, first = 1;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--cases") == 0)
            cases = strtoul(argv[i + 1], NULL, 0);
        else if (strcmp(argv[i], "--seed") == 0)
            first = strtoul(argv[i + 1], NULL, 0);
    }
    log_set_level(LOG_ERROR);
    for (uint64_t i = 0; i < cases; i++) {
        static uint8_t data[512];
        uint64_t seed = (first + i) * 0x2545f4914f6cdd1d;
        size_t n = 16 + rnd(&seed) % (sizeof(data) - 16);
        for (size_t k = 0; k < n; k++)
            data[k] = (uint8_t)rnd(&seed);
        if (getenv("FUZZ_VERBOSE"))
            fprintf(stderr, "case %lu\n", first + i);
        fuzz_one(data, n);
    }
    for (int i = 0; i < SHAPES; i++)
        free(shape[i].bytes);
    printf("ok 1 - %lu hostile images\n1..1\n", cases);
    return 0;
}
