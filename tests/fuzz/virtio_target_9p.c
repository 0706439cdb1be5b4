/* SPDX-License-Identifier: MIT */
/*
 * 9p: besides what fuzz_virtio makes, its input makes messages that are right in most of their parts, on a small tree
 * with a few fids, so that the device gets deep into them. What is outside of the shared directory must stay.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host/share.h"
#include "virtio/p9_msg.h"
#include "virtio_targets.h"

enum { AREA = DRV_DATA + 0x200000, AREA_STEP = 0x10000, SLOTS = 8 };

struct back {
    struct drv *d;
    struct share *share;
    uint32_t rnd;
    unsigned slot;
    uint16_t tag;
};

/*
 * From case to case: a directory with the shared one, which is new in each case, and one beside it. Their times are
 * OLD, so that the time alone tells of what was made or removed in one of them.
 */
enum { OLD = 1000000 };
static struct {
    char dir[40];
    int fd, outside;
    bool there;
} kept;

static void check(bool ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "9p: %s\n", what);
    abort();
}

static void make_old(int fd)
{
    const struct timespec t[2] = { { .tv_sec = OLD }, { .tv_sec = OLD } };
    check(futimens(fd, t) == 0, "no time can be set");
}

static bool is_old(int fd, mode_t mode)
{
    struct stat st;
    return fstat(fd, &st) == 0 && st.st_mtim.tv_sec == OLD && (st.st_mode & 07777) == mode;
}

static void keep(void)
{
    strcpy(kept.dir, access("/dev/shm", W_OK) == 0 ? "/dev/shm/gazda-fuzz9p-XXXXXX" : "/tmp/gazda-fuzz9p-XXXXXX");
    check(mkdtemp(kept.dir) != NULL, "no directory");
    kept.fd = open(kept.dir, O_RDONLY | O_DIRECTORY);
    check(kept.fd >= 0 && mkdirat(kept.fd, "outside", 0700) == 0, "no directory");
    kept.outside = openat(kept.fd, "outside", O_RDONLY | O_DIRECTORY);
    make_old(kept.outside);
    kept.there = true;
}

/* All that is in the directory, and its descriptor. */
static void empty(int fd)
{
    DIR *dir = fdopendir(fd);
    check(dir != NULL, "a directory cannot be read");
    for (struct dirent *e; (e = readdir(dir)) != NULL;) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 || unlinkat(fd, e->d_name, 0) == 0)
            continue;
        fchmodat(fd, e->d_name, 0700, 0);
        empty(openat(fd, e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
        check(unlinkat(fd, e->d_name, AT_REMOVEDIR) == 0, "a directory cannot be removed");
    }
    closedir(dir);
}

static void *p9_target_open(struct drv *d, const struct virtio_env *env, unsigned variant)
{
    struct back *b = calloc(1, sizeof(*b));
    char path[64];
    (void)variant;
    if (!kept.there)
        keep();
    snprintf(path, sizeof(path), "%s/in", kept.dir);
    check(mkdirat(kept.fd, "in", 0755) == 0 && mkdirat(kept.fd, "in/a", 0755) == 0, "no directory");
    check(symlinkat("../outside", kept.fd, "in/b") == 0, "no link");
    make_old(kept.fd);
    b->d = d;
    b->share = share_open(&(struct share_cfg){ .dir = path, .map_root = true }, NULL);
    d->v = virtio_9p_new(env, b->share, "fuzz");
    return b;
}

static void p9_target_close(void *back)
{
    struct back *b = back;
    check(is_old(kept.outside, 0700), "what is outside has changed");
    check(is_old(kept.fd, 0700), "something is beside the directory");
    share_free(b->share);
    fchmodat(kept.fd, "in", 0700, 0);
    empty(openat(kept.fd, "in", O_RDONLY | O_DIRECTORY));
    check(unlinkat(kept.fd, "in", AT_REMOVEDIR) == 0, "the directory cannot be removed");
    free(b);
}

static void p9_target_end(void)
{
    if (!kept.there)
        return;
    close(kept.outside);
    check(unlinkat(kept.fd, "outside", AT_REMOVEDIR) == 0, "something is outside");
    close(kept.fd);
    check(rmdir(kept.dir) == 0, "something is beside the directory");
    kept.there = false;
}

static uint32_t draw(struct back *b, uint32_t n)
{
    b->rnd = b->rnd * 1664525 + 1013904223;
    return (b->rnd >> 8) % n;
}

static void put_name(struct back *b, struct p9_out *o)
{
    static const char *const names[] = { "a", "b", "c", "d", "..", ".", "", "a/b", "/etc", "../outside" };
    const char *s = names[draw(b, draw(b, 4) ? 4 : ARRAY_LEN(names))];
    p9_put_str(o, s, strlen(s));
}

/* One field: mostly something that means something there. */
static void put_field(struct back *b, struct p9_out *o, char kind)
{
    static const uint64_t sizes[] = { 0, 1, 4, 100, 4096, 65536, INT64_MAX, UINT64_MAX, 1UL << 31, 1UL << 32 };
    static const uint32_t modes[] = { 0100644, 0040755, 0120777, 0010600, 0140600, 0020600, 0777, 0 };
    switch (kind) {
    case 'f':
        p9_put32(o, draw(b, 40) ? draw(b, 1 + draw(b, 6)) : P9_NOFID);
        break;
    case 'c': /* the first, which is attached, stays mostly */
        p9_put32(o, draw(b, 30) ? 1 + draw(b, 5) : 0);
        break;
    case 'N':
        p9_put32(o, draw(b, 16) ? P9_NOFID : draw(b, 6));
        break;
    case 'M':
        p9_put32(o, draw(b, 16) ? 4096U << draw(b, 10) : draw(b, 5000));
        break;
    case 'e':
        if (draw(b, 8)) {
            p9_put16(o, 0);
            break;
        }
        __attribute__((fallthrough));
    case 'n':
        put_name(b, o);
        break;
    case 'o': /* open flags */
        p9_put32(o, draw(b, 3) | (draw(b, 4) ? 0 : draw(b, 2) ? 01000 : 0202000));
        break;
    case 'm':
        p9_put32(o, modes[draw(b, ARRAY_LEN(modes))]);
        break;
    case '8':
        p9_put64(o, sizes[draw(b, draw(b, 3) ? 4 : ARRAY_LEN(sizes))]);
        break;
    case '4':
        p9_put32(o, (uint32_t)sizes[draw(b, draw(b, 3) ? 5 : ARRAY_LEN(sizes))]);
        break;
    case 'v':
        p9_put32(o, draw(b, 0x200));
        break;
    case 'x':
        p9_put_str(o, "user.a", draw(b, 7));
        break;
    case 'V':
        p9_put_str(o, "9P2000.L", 8);
        break;
    case '1':
        p9_put8(o, (uint8_t)draw(b, 4));
        break;
    case 't':
        p9_put16(o, (uint16_t)draw(b, 8));
        break;
    default: /* names of a walk */ {
        unsigned n = draw(b, 4);
        p9_put16(o, (uint16_t)n);
        while (n--)
            put_name(b, o);
    }
    }
}

static size_t make(struct back *b, uint8_t *buf, size_t size)
{
    static const struct {
        uint8_t type;
        const char *fields;
    } ops[] = {
        { P9_TVERSION, "MV" },
        { P9_TATTACH, "fNee4" },
        { P9_TATTACH, "fNee4" },
        { P9_TWALK, "ffw" },
        { P9_TWALK, "ffw" },
        { P9_TWALK, "ffw" },
        { P9_TLOPEN, "fo" },
        { P9_TLOPEN, "fo" },
        { P9_TLCREATE, "fnom4" },
        { P9_TLCREATE, "fnom4" },
        { P9_TREAD, "f84" },
        { P9_TREAD, "f84" },
        { P9_TWRITE, "f844444" },
        { P9_TWRITE, "f844444" },
        { P9_TREADDIR, "f84" },
        { P9_TGETATTR, "f8" },
        { P9_TSETATTR, "fvm448888888" },
        { P9_TSTATFS, "f" },
        { P9_TFSYNC, "f4" },
        { P9_TMKDIR, "fnm4" },
        { P9_TSYMLINK, "fnn4" },
        { P9_TMKNOD, "fnm444" },
        { P9_TLINK, "ffn" },
        { P9_TRENAME, "ffn" },
        { P9_TRENAMEAT, "fnfn" },
        { P9_TUNLINKAT, "fn4" },
        { P9_TREADLINK, "f" },
        { P9_TXATTRWALK, "ffx" },
        { P9_TXATTRCREATE, "fx84" },
        { P9_TLOCK, "f14884n" },
        { P9_TGETLOCK, "f1884n" },
        { P9_TFLUSH, "t" },
        { P9_TCLUNK, "c" },
        { P9_TREMOVE, "c" },
    };
    struct p9_out o = { .p = buf, .n = size };
    unsigned i = draw(b, ARRAY_LEN(ops));
    if (i == 0 && draw(b, 30)) /* a new session only now and then */
        i = 3;
    p9_put32(&o, 0);
    p9_put8(&o, ops[i].type);
    p9_put16(&o, ops[i].type == P9_TVERSION ? (uint16_t)P9_NOTAG : (uint16_t)(b->tag++ % 8));
    for (const char *f = ops[i].fields; *f; f++)
        put_field(b, &o, *f);
    uint32_t n = (uint32_t)o.at;
    memcpy(buf, &n, 4);
    for (unsigned k = draw(b, 8) ? 0 : 1 + draw(b, 3); k; k--)
        buf[draw(b, n)] = (uint8_t)draw(b, 256);
    return n;
}

static void post(struct back *b, const uint8_t *msg, size_t n)
{
    gpa_t at = AREA + (gpa_t)b->slot * AREA_STEP;
    uint16_t head = (uint16_t)(b->slot * 2);
    mem_write(b->d->mem, at, msg, n);
    drv_desc(b->d, 0, head, (struct drv_desc){ at, (uint32_t)n, D_NEXT, (uint16_t)(head + 1) });
    drv_desc(b->d, 0, head + 1U, (struct drv_desc){ at + 0x1000, draw(b, 20) ? 0x8000 : 11 + draw(b, 50), D_WRITE, 0 });
    drv_add(b->d, 0, head);
    b->slot = (b->slot + 1) % SLOTS;
}

/* A session if the driver has none, or the first byte says so; then a batch of messages that are in flight together. */
static void p9_target_input(void *back, const uint8_t *in, size_t n)
{
    struct back *b = back;
    uint8_t msg[1024];
    for (size_t i = 0; i < n; i++)
        b->rnd = b->rnd * 31 + in[i];
    if (n && (drv_get(b->d, 0x70) != 15 || in[0] % 16 < 6)) {
        static const uint8_t version[] = { 21, 0, 0,   0,   100, 255, 255, 0,   0,   8,  0,
                                           8,  0, '9', 'P', '2', '0', '0', '0', '.', 'L' };
        static const uint8_t attach[] = {
            23, 0, 0, 0, 104, 1, 0, 0, 0, 0, 0, 255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0
        };
        drv_start(b->d, VIRTIO_F_INDIRECT_DESC);
        b->slot = 0;
        post(b, version, sizeof(version));
        post(b, attach, sizeof(attach));
        drv_kick(b->d, 0);
    }
    for (size_t i = 0; i < n; i++) {
        post(b, msg, make(b, msg, sizeof(msg)));
        if (b->slot == 0) {
            drv_kick(b->d, 0);
            drv_quiet(b->d);
            for (unsigned k = 0; k < DRV_QSIZE && drv_used(b->d, 0, NULL) >= 0; k++)
                ; /* no more than may be there: a packed ring that the program wrote over can look used all round */
        }
    }
    drv_kick(b->d, 0);
}

const struct virtio_target virtio_target_9p = {
    .name = "9p",
    .unordered = true,
    .open = p9_target_open,
    .input = p9_target_input,
    .close = p9_target_close,
    .end = p9_target_end,
};
