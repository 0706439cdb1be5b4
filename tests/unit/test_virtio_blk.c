/* SPDX-License-Identifier: MIT */
/* virtio-blk over a real image: data, flush, discard, zeroes, identity, refusals, hostile chains, load and state. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "host/disk.h"
#include "host/limiter.h"
#include "virtio_time.h"

enum { IN, OUT, FLUSH = 4, GET_ID = 8, DISCARD = 11, ZEROES = 13 };
enum { HDR = DRV_DATA, STATUS = DRV_DATA + 0x100, RANGES = DRV_DATA + 0x200, BUF = DRV_DATA + 0x10000 };
enum { DISK = 1 << 20 };
#define F_RO (1UL << 5)
#define F_FLUSH (1UL << 9)
#define F_WCE (1UL << 11)
#define F_MQ (1UL << 12)
#define F_DISCARD (1UL << 13)
#define F_ZEROES (1UL << 14)

static enum diskio_way way = DISKIO_THREADS;

struct rig {
    struct drv d; /* first */
    struct disk *disk;
    char path[64];
    struct fake_timers timers;
    struct limiter_cfg limit;
};

static void open_rig(struct rig *r, bool ro, unsigned queues)
{
    struct err e = { 0 };
    struct virtio_env env = drv_open(&r->d);
    fake_timers_init(&r->timers);
    env.timers = &r->timers.svc;
    r->disk = disk_open(r->path, ro, &e);
    if (!r->disk)
        fail_msg("%s", e.text);
    const struct virtio_blk_cfg cfg = { .disk = r->disk, .queues = queues, .limit = &r->limit, .io = way };
    r->d.v = virtio_blk_new(&env, &cfg, &e);
    if (!r->d.v)
        fail_msg("%s", e.text);
}
static void close_rig(struct rig *r)
{
    drv_close(&r->d);
    disk_close(r->disk);
}

static int setup(void **st)
{
    struct rig *r = calloc(1, sizeof(*r));
    strcpy(r->path, "/tmp/gazda-test-XXXXXX");
    int fd = mkstemp(r->path);
    assert_int_equal(ftruncate(fd, DISK), 0);
    close(fd);
    open_rig(r, false, 1);
    *st = r;
    return 0;
}
static int teardown(void **st)
{
    struct rig *r = *st;
    close_rig(r);
    unlink(r->path);
    free(r);
    return 0;
}

static void header(struct rig *r, uint32_t type, uint64_t sector)
{
    const struct {
        uint32_t type, zero;
        uint64_t sector;
    } h = { type, 0, sector };
    uint8_t s = 0xee;
    mem_write(r->d.mem, HDR, &h, sizeof(h));
    mem_write(r->d.mem, STATUS, &s, 1);
}

static int result(struct rig *r)
{
    uint8_t s;
    mem_read(r->d.mem, STATUS, &s, 1);
    return s;
}

static int finish(struct rig *r, uint32_t *len)
{
    drv_add(&r->d, 0, 0);
    drv_kick(&r->d, 0);
    drv_quiet(&r->d);
    if (drv_used(&r->d, 0, len) != 0)
        return -1;
    return result(r);
}

/* One request with at most one data buffer. */
static int request(struct rig *r, uint32_t type, uint64_t sector, gpa_t buf, uint32_t len)
{
    uint32_t used = 0;
    bool to_guest = type == IN || type == GET_ID;
    header(r, type, sector);
    drv_desc(&r->d, 0, 0, (struct drv_desc){ HDR, 16, D_NEXT, len ? 1 : 2 });
    drv_desc(&r->d, 0, 1, (struct drv_desc){ buf, len, (uint16_t)(D_NEXT | (to_guest ? D_WRITE : 0)), 2 });
    drv_desc(&r->d, 0, 2, (struct drv_desc){ STATUS, 1, D_WRITE, 0 });
    int s = finish(r, &used);
    /* Bytes from the first on that were written: the status is none of them if there is a gap in front of it. */
    if (s == 0)
        assert_int_equal(used, type == IN ? len + 1 : type == GET_ID && len > 20 ? 20 : type == GET_ID ? len + 1 : 1);
    else if (s > 0)
        assert_int_equal(used, to_guest && len ? 0 : 1);
    return s;
}

struct range {
    uint64_t sector;
    uint32_t count, flags;
};

static int ranges(struct rig *r, uint32_t type, const struct range *g, unsigned n)
{
    mem_write(r->d.mem, RANGES, g, n * sizeof(*g));
    return request(r, type, 0, RANGES, (uint32_t)(n * sizeof(*g)));
}

static void fill(struct rig *r, gpa_t at, uint8_t x, size_t n)
{
    uint8_t *b = malloc(n);
    memset(b, x, n);
    mem_write(r->d.mem, at, b, n);
    free(b);
}
static void check_file(struct rig *r, off_t at, uint8_t x, size_t n)
{
    uint8_t *b = malloc(n);
    int fd = open(r->path, O_RDONLY);
    assert_int_equal(pread(fd, b, n, at), n);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(b[i], x);
    close(fd);
    free(b);
}

static void test_config(void **st)
{
    struct rig *r = *st;
    uint64_t cap;
    uint32_t x;
    virtio_mmio_ops.read(r->d.v, 0x100, &cap, 4);
    virtio_mmio_ops.read(r->d.v, 0x104, (char *)&cap + 4, 4);
    assert_int_equal(cap, DISK / 512);
    virtio_mmio_ops.read(r->d.v, 0x100 + 20, &x, 4);
    assert_int_equal(x, 512);
    uint64_t f = drv_offered(&r->d);
    assert_true(f & F_FLUSH && f & F_WCE && f & F_DISCARD && f & F_ZEROES);
    assert_false(f & (F_RO | F_MQ));
    assert_int_equal(drv_get(&r->d, 8), 2);
}

static void test_data(void **st)
{
    struct rig *r = *st;
    drv_start(&r->d, F_FLUSH);
    fill(r, BUF, 0x11, 8192);
    assert_int_equal(request(r, OUT, 3, BUF, 8192), 0);
    check_file(r, 3 * 512, 0x11, 8192);
    assert_int_equal(request(r, FLUSH, 0, 0, 0), 0);
    fill(r, BUF, 0, 8192);
    assert_int_equal(request(r, IN, 3, BUF, 8192), 0);
    uint8_t b[1024];
    mem_read(r->d.mem, BUF + 7168, b, sizeof(b));
    assert_int_equal(b[1023], 0x11);
    /* The last sector, and beyond. */
    assert_int_equal(request(r, IN, DISK / 512 - 1, BUF, 512), 0);
    assert_int_equal(request(r, IN, DISK / 512, BUF, 512), 1);
    assert_int_equal(request(r, IN, DISK / 512 - 1, BUF, 1024), 1);
    assert_int_equal(request(r, OUT, UINT64_MAX, BUF, 512), 1);
    assert_int_equal(request(r, OUT, UINT64_MAX / 512, BUF, 512), 1);
    assert_int_equal(request(r, OUT, 0, BUF, 511), 1);
    assert_int_equal(request(r, IN, 0, BUF, 0), 1);
    assert_int_equal(request(r, 99, 0, BUF, 512), 2);
    /* Life time, secure erase, zones: not offered. The old SCSI, and the out bit of it. */
    static const uint32_t unknown[] = { 2, 3, 5, 9, 10, 12, 14, 15, 16, 18, 20, 24, 26, UINT32_MAX, 1U << 31 };
    for (unsigned i = 0; i < ARRAY_LEN(unknown); i++) {
        assert_int_equal(request(r, unknown[i], 0, BUF, 512), 2);
        assert_int_equal(request(r, unknown[i], 0, 0, 0), 2);
    }
    assert_false(drv_offered(&r->d) & (1UL << 16 | 1UL << 17 | 1UL << 15 | 1UL << 4 | 1UL << 7));
}

/* Header, data and status cut in odd places (virtio 1.2, "Message Framing"). */
static void test_framing(void **st)
{
    struct rig *r = *st;
    uint32_t used;
    drv_start(&r->d, VIRTIO_F_INDIRECT_DESC);
    fill(r, BUF, 0x77, 1536);
    header(r, OUT, 8);
    drv_desc(&r->d, 0, 0, (struct drv_desc){ HDR, 7, D_NEXT, 1 });
    drv_desc(&r->d, 0, 1, (struct drv_desc){ HDR + 7, 9, D_NEXT, 2 });
    drv_desc(&r->d, 0, 2, (struct drv_desc){ BUF, 1, D_NEXT, 3 });
    drv_desc(&r->d, 0, 3, (struct drv_desc){ BUF + 1, 0, D_NEXT, 4 });
    drv_desc(&r->d, 0, 4, (struct drv_desc){ BUF + 1, 1535, D_NEXT, 5 });
    drv_desc(&r->d, 0, 5, (struct drv_desc){ STATUS, 1, D_WRITE, 0 });
    assert_int_equal(finish(r, &used), 0);
    check_file(r, 8 * 512, 0x77, 1536);
    /* Header and data in one buffer; data and status in one buffer. */
    fill(r, HDR + 16, 0x66, 512);
    header(r, OUT, 9);
    mem_write(r->d.mem, HDR + 16 + 0xf0, "\x66", 1); /* STATUS lies in there */
    drv_desc(&r->d, 0, 0, (struct drv_desc){ HDR, 528, D_NEXT, 1 });
    drv_desc(&r->d, 0, 1, (struct drv_desc){ BUF + 0x8000, 1, D_WRITE, 0 });
    drv_add(&r->d, 0, 0);
    drv_kick(&r->d, 0);
    drv_quiet(&r->d);
    assert_int_equal(drv_used(&r->d, 0, &used), 0);
    check_file(r, 9 * 512, 0x66, 512);
    header(r, IN, 8);
    drv_desc(&r->d, 0, 0, (struct drv_desc){ HDR, 16, D_NEXT, 1 });
    drv_desc(&r->d, 0, 1, (struct drv_desc){ BUF, 1537, D_WRITE, 0 });
    drv_add(&r->d, 0, 0);
    drv_kick(&r->d, 0);
    drv_quiet(&r->d);
    assert_int_equal(drv_used(&r->d, 0, &used), 0);
    assert_int_equal(used, 1537);
    uint8_t b[3];
    mem_read(r->d.mem, BUF + 1534, b, 3);
    assert_memory_equal(b, "\x77\x77\0", 3);
}

static void test_id(void **st)
{
    struct rig *r = *st;
    char want[DISK_SERIAL], got[DISK_SERIAL];
    drv_start(&r->d, 0);
    disk_serial(r->disk, want);
    assert_int_equal(request(r, GET_ID, 0, BUF, 20), 0);
    mem_read(r->d.mem, BUF, got, 20);
    assert_memory_equal(want, got, 20);
    fill(r, BUF, 0xcc, 20);
    assert_int_equal(request(r, GET_ID, 0, BUF, 5), 0);
    mem_read(r->d.mem, BUF, got, 20);
    assert_memory_equal(want, got, 5);
    assert_int_equal((uint8_t)got[5], 0xcc);
    assert_int_equal(request(r, GET_ID, 0, BUF, 600), 0);
}

static void test_stats(void **st)
{
    struct rig *r = *st;
    static const struct drv_counter want[] = {
        { "reads", 2 },    { "read_bytes", 5120 }, { "writes", 1 }, { "written_bytes", 8192 }, { "flushes", 1 },
        { "discards", 1 }, { "write_zeroes", 1 },  { "errors", 3 }, { "notifications", 9 },
    };
    drv_start(&r->d, F_FLUSH | F_DISCARD | F_ZEROES);
    request(r, OUT, 3, BUF, 8192);
    request(r, IN, 3, BUF, 4096);
    request(r, IN, 0, BUF, 1024);
    request(r, FLUSH, 0, 0, 0);
    ranges(r, DISCARD, (struct range[]){ { 8, 8, 0 } }, 1);
    ranges(r, ZEROES, (struct range[]){ { 8, 8, 0 } }, 1);
    request(r, IN, DISK / 512, BUF, 512);
    request(r, 99, 0, BUF, 512);
    ranges(r, ZEROES, (struct range[]){ { 8, 8, 8 } }, 1);
    for (unsigned round = 0; round < 2; round++) {
        for (unsigned i = 0; i < ARRAY_LEN(want); i++)
            if (drv_counter(&r->d, want[i].name) != want[i].value)
                fail_msg("%s: %lu", want[i].name, drv_counter(&r->d, want[i].name));
        virtio_mmio_ops.reset(r->d.v); /* which changes nothing */
    }
}

static void test_discard(void **st)
{
    struct rig *r = *st;
    struct stat s0, s1;
    drv_start(&r->d, F_DISCARD | F_ZEROES | F_FLUSH);
    fill(r, BUF, 0x33, 65536);
    assert_int_equal(request(r, OUT, 0, BUF, 65536), 0);
    assert_int_equal(request(r, FLUSH, 0, 0, 0), 0);
    stat(r->path, &s0);
    assert_int_equal(ranges(r, DISCARD, (struct range[]){ { 0, 16, 0 }, { 32, 16, 0 } }, 2), 0);
    stat(r->path, &s1);
    assert_int_equal(s0.st_blocks - s1.st_blocks, 32);
    check_file(r, 8192, 0x33, 8192);
    assert_int_equal(ranges(r, ZEROES, (struct range[]){ { 17, 2, 0 } }, 1), 0);
    check_file(r, 17 * 512, 0, 1024);
    check_file(r, 19 * 512, 0x33, 512);
    assert_int_equal(ranges(r, ZEROES, (struct range[]){ { 64, 64, 1 } }, 1), 0);
    check_file(r, 32768, 0, 32768);
    /* What must be refused, and changes nothing. */
    assert_int_equal(ranges(r, DISCARD, (struct range[]){ { 16, 1, 1 } }, 1), 2);
    assert_int_equal(ranges(r, ZEROES, (struct range[]){ { 16, 1, 2 } }, 1), 2);
    assert_int_equal(ranges(r, ZEROES, (struct range[]){ { UINT64_MAX, 2, 0 }, { 16, 1, 1U << 31 } }, 2), 2);
    assert_int_equal(ranges(r, ZEROES, (struct range[]){ { 16, 1, 0 }, { DISK / 512, 1, 0 } }, 2), 1);
    assert_int_equal(ranges(r, ZEROES, (struct range[]){ { UINT64_MAX, 2, 0 } }, 1), 1);
    assert_int_equal(ranges(r, DISCARD, (struct range[]){ { 0, UINT32_MAX, 0 } }, 1), 1);
    assert_int_equal(request(r, DISCARD, 0, RANGES, 15), 1);
    assert_int_equal(request(r, DISCARD, 0, RANGES, 0), 1);
    assert_int_equal(request(r, DISCARD, 0, RANGES, 17 * 16), 1);
    check_file(r, 16 * 512, 0x33, 512);
    /* Not negotiated: not known. */
    drv_start(&r->d, 0);
    assert_int_equal(ranges(r, DISCARD, (struct range[]){ { 16, 1, 0 } }, 1), 2);
    assert_int_equal(ranges(r, ZEROES, (struct range[]){ { 16, 1, 0 } }, 1), 2);
}

static void test_read_only(void **st)
{
    struct rig *r = *st;
    close_rig(r);
    open_rig(r, true, 1);
    assert_true(drv_offered(&r->d) & F_RO);
    assert_false(drv_offered(&r->d) & (F_DISCARD | F_ZEROES));
    drv_start(&r->d, 0); /* a driver that has not even looked */
    fill(r, BUF, 0x44, 512);
    assert_int_equal(request(r, OUT, 0, BUF, 512), 1);
    assert_int_equal(ranges(r, DISCARD, (struct range[]){ { 0, 8, 0 } }, 1), 1);
    assert_int_equal(ranges(r, ZEROES, (struct range[]){ { 0, 8, 0 } }, 1), 1);
    assert_int_equal(request(r, IN, 0, BUF, 512), 0);
    assert_int_equal(request(r, FLUSH, 0, 0, 0), 0);
    check_file(r, 0, 0, 512);
}

static void test_cache_mode(void **st)
{
    struct rig *r = *st;
    uint8_t wce;
    drv_start(&r->d, F_FLUSH | F_WCE);
    virtio_mmio_ops.read(r->d.v, 0x120, &wce, 1);
    assert_int_equal(wce, 1);
    virtio_mmio_ops.write(r->d.v, 0x120, "\0", 1);
    virtio_mmio_ops.read(r->d.v, 0x120, &wce, 1);
    assert_int_equal(wce, 0);
    fill(r, BUF, 0x44, 512);
    assert_int_equal(request(r, OUT, 0, BUF, 512), 0);
    drv_start(&r->d, F_FLUSH);
    virtio_mmio_ops.write(r->d.v, 0x120, "\0", 1); /* not negotiated */
    virtio_mmio_ops.read(r->d.v, 0x120, &wce, 1);
    assert_int_equal(wce, 1);
    /* No flush: the device must write through, and say so as soon as it knows. */
    for (uint64_t f = 0; f <= F_WCE; f += F_WCE) {
        drv_negotiate(&r->d, VIRTIO_F_VERSION_1 | f);
        virtio_mmio_ops.read(r->d.v, 0x120, &wce, 1);
        assert_int_equal(wce, 0);
        virtio_mmio_ops.write(r->d.v, 0x120, "\1", 1); /* what the driver sets before it is ready stays */
        drv_set(&r->d, 0x70, 15);
        virtio_mmio_ops.read(r->d.v, 0x120, &wce, 1);
        assert_int_equal(wce, f != 0);
    }
}

static void needs_reset(struct rig *r, const char *what)
{
    drv_add(&r->d, 0, 0);
    drv_kick(&r->d, 0);
    drv_quiet(&r->d);
    if (!(drv_get(&r->d, 0x70) & 64))
        fail_msg("%s: not noticed", what);
    drv_start(&r->d, 0);
}

static void test_hostile(void **st)
{
    struct rig *r = *st;
    drv_start(&r->d, 0);
    header(r, IN, 0);
    drv_desc(&r->d, 0, 0, (struct drv_desc){ HDR, 16, 0, 0 });
    needs_reset(r, "no status byte");
    drv_desc(&r->d, 0, 0, (struct drv_desc){ HDR, 15, D_NEXT, 1 });
    drv_desc(&r->d, 0, 1, (struct drv_desc){ STATUS, 1, D_WRITE, 0 });
    needs_reset(r, "a short header");
    drv_desc(&r->d, 0, 0, (struct drv_desc){ STATUS, 1, D_WRITE, 0 });
    needs_reset(r, "no header");
    drv_desc(&r->d, 0, 0, (struct drv_desc){ HDR, 16, D_NEXT, 1 });
    drv_desc(&r->d, 0, 1, (struct drv_desc){ STATUS, 0, D_WRITE, 0 });
    needs_reset(r, "an empty status");
    drv_desc(&r->d, 0, 0, (struct drv_desc){ HDR, 16, D_NEXT, 1 });
    drv_desc(&r->d, 0, 1, (struct drv_desc){ DRV_RAM - 256, 512, D_NEXT | D_WRITE, 2 });
    drv_desc(&r->d, 0, 2, (struct drv_desc){ STATUS, 1, D_WRITE, 0 });
    needs_reset(r, "data outside of memory");
    /* Data on top of the rings and the header: garbage, but ours to survive. */
    assert_int_equal(request(r, OUT, 0, drv_desc_at(0), 8192), 0);
    header(r, IN, 0);
    assert_int_equal(request(r, IN, 0, HDR & ~511UL, 512) & 0xe0, 0);
}

static void test_many(void **st)
{
    struct rig *r = *st;
    uint32_t len;
    drv_start(&r->d, VIRTIO_F_EVENT_IDX);
    /* All slots in flight at once, each with its own header and status; then again, with a reset in the middle. */
    for (int round = 0; round < 20; round++) {
        for (unsigned i = 0; i < 5; i++) {
            const struct {
                uint32_t type, zero;
                uint64_t sector;
            } h = { round % 2 ? IN : OUT, 0, i * 64 };
            gpa_t at = DRV_DATA + i * 0x20000UL;
            mem_write(r->d.mem, at, &h, sizeof(h));
            fill(r, at + 0x1000, (uint8_t)(i + 1), round % 2 ? 1 : 32768);
            drv_desc(&r->d, 0, 3 * i, (struct drv_desc){ at, 16, D_NEXT, (uint16_t)(3 * i + 1) });
            drv_desc(
                &r->d, 0, 3 * i + 1,
                (struct drv_desc){ at + 0x1000, 32768, round % 2 ? D_NEXT | D_WRITE : D_NEXT, (uint16_t)(3 * i + 2) });
            drv_desc(&r->d, 0, 3 * i + 2, (struct drv_desc){ at + 0x100, 1, D_WRITE, 0 });
            drv_add(&r->d, 0, (uint16_t)(3 * i));
            drv_kick(&r->d, 0);
        }
        if (round % 5 == 4) {
            drv_start(&r->d, VIRTIO_F_EVENT_IDX); /* waits for what is in flight */
            assert_int_equal(r->d.v->busy, 0);
            assert_int_equal(drv_used(&r->d, 0, NULL), -1);
            continue;
        }
        drv_quiet(&r->d);
        unsigned seen = 0;
        for (unsigned i = 0; i < 5; i++) {
            int head = drv_used(&r->d, 0, &len);
            assert_true(head >= 0 && head % 3 == 0);
            seen |= 1U << (head / 3);
            assert_int_equal(len, round % 2 ? 32769 : 1);
        }
        assert_int_equal(seen, 31);
        drv_ack(&r->d);
    }
    for (unsigned i = 0; i < 5; i++)
        check_file(r, i * 64 * 512, (uint8_t)(i + 1), 32768);
}

static void test_queues(void **st)
{
    struct rig *r = *st;
    uint16_t n;
    close_rig(r);
    open_rig(r, false, 4);
    assert_true(drv_offered(&r->d) & F_MQ);
    virtio_mmio_ops.read(r->d.v, 0x122, &n, 2);
    assert_int_equal(n, 4);
    drv_start(&r->d, F_MQ);
    header(r, FLUSH, 0);
    for (unsigned q = 0; q < 4; q++) {
        drv_desc(&r->d, q, 0, (struct drv_desc){ HDR, 16, D_NEXT, 1 });
        drv_desc(&r->d, q, 1, (struct drv_desc){ STATUS + q, 1, D_WRITE, 0 });
        drv_add(&r->d, q, 0);
        drv_kick(&r->d, q);
    }
    drv_quiet(&r->d);
    for (unsigned q = 0; q < 4; q++)
        assert_int_equal(drv_used(&r->d, q, NULL), 0);
}

/* What must wait stays in the queue, is served when there are tokens, and costs one timer meanwhile. */
static void test_limit(void **st)
{
    struct rig *r = *st;
    close_rig(r);
    r->limit = (struct limiter_cfg){ .bandwidth = { 4096, 0, 100 }, .ops = { 1000, 0, 1000 } };
    open_rig(r, false, 2);
    drv_start(&r->d, F_FLUSH | F_MQ);
    fill(r, BUF, 0x61, 8192);
    assert_int_equal(request(r, OUT, 0, BUF, 4096), 0);
    assert_int_equal(request(r, OUT, 8, BUF, 2048), -1);
    assert_int_equal(r->timers.n, 1);
    assert_int_equal(r->d.v->busy, 0);
    /* The other queue waits too, with what it could have, behind the first. */
    drv_desc(&r->d, 1, 0, (struct drv_desc){ HDR, 16, D_NEXT, 1 });
    drv_desc(&r->d, 1, 1, (struct drv_desc){ STATUS + 1, 1, D_WRITE, 0 });
    drv_add(&r->d, 1, 0);
    drv_kick(&r->d, 1);
    drv_kick(&r->d, 0);
    drv_quiet(&r->d);
    assert_int_equal(drv_used(&r->d, 1, NULL), -1);
    assert_int_equal(r->timers.arms, 1);
    virtio_time_pass(&r->d, &r->timers, 49000000);
    assert_int_equal(drv_used(&r->d, 0, NULL), -1);
    check_file(r, 4096, 0, 2048);
    virtio_time_pass(&r->d, &r->timers, 1000000);
    assert_int_equal(drv_used(&r->d, 0, NULL), 0);
    assert_int_equal(drv_used(&r->d, 1, NULL), 0);
    check_file(r, 4096, 0x61, 2048);
    assert_int_equal(r->timers.n, 0);
    /* A reset while a request waits: it is gone, and the tokens are no more than they were. */
    assert_int_equal(request(r, OUT, 16, BUF, 1024), -1);
    drv_start(&r->d, F_FLUSH | F_MQ);
    assert_int_equal(r->timers.n, 0);
    virtio_time_pass(&r->d, &r->timers, 10000000);
    assert_int_equal(drv_used(&r->d, 0, NULL), -1);
    check_file(r, 8192, 0, 1024);
    assert_int_equal(request(r, OUT, 16, BUF, 4096), -1);
    virtio_time_pass(&r->d, &r->timers, 1000000000);
    check_file(r, 8192, 0x61, 4096);
}

/* A save while a request waits: after the load it waits on, and is done. */
static void test_limit_state(void **st)
{
    struct rig *r = *st;
    struct state_out out = { 0 };
    close_rig(r);
    r->limit = (struct limiter_cfg){ .bandwidth = { 4096, 0, 100 } };
    open_rig(r, false, 1);
    drv_start(&r->d, 0);
    fill(r, BUF, 0x62, 8192);
    assert_int_equal(request(r, OUT, 0, BUF, 8192), 0); /* larger than the bucket: paid for afterwards */
    assert_int_equal(request(r, OUT, 16, BUF, 4096), -1);
    assert_int_equal(virtio_mmio_ops.save(r->d.v, &out), 0);
    virtio_mmio_ops.reset(r->d.v);
    assert_int_equal(r->timers.n, 0);
    struct state_in in = { .buf = out.buf, .len = out.len };
    assert_int_equal(virtio_mmio_ops.load(r->d.v, &in, 1), 0);
    drv_quiet(&r->d);
    virtio_time_pass(&r->d, &r->timers, 199000000);
    assert_int_equal(drv_used(&r->d, 0, NULL), -1);
    virtio_time_pass(&r->d, &r->timers, 1000000);
    assert_int_equal(drv_used(&r->d, 0, NULL), 0);
    check_file(r, 8192, 0x62, 4096);
    state_out_free(&out);
}

static void test_state(void **st)
{
    struct rig *r = *st;
    struct state_out out = { 0 };
    drv_start(&r->d, F_FLUSH | F_WCE);
    virtio_mmio_ops.write(r->d.v, 0x120, "\0", 1);
    fill(r, BUF, 0x5c, 4096);
    assert_int_equal(request(r, OUT, 0, BUF, 4096), 0);
    assert_int_equal(virtio_mmio_ops.save(r->d.v, &out), 0);
    virtio_mmio_ops.reset(r->d.v);
    for (size_t n = 0; n < out.len; n++) {
        struct state_in in = { .buf = out.buf, .len = n };
        assert_int_equal(virtio_mmio_ops.load(r->d.v, &in, 1), -EINVAL);
    }
    struct state_in in = { .buf = out.buf, .len = out.len };
    assert_int_equal(virtio_mmio_ops.load(r->d.v, &in, 1), 0);
    uint8_t wce = 9;
    virtio_mmio_ops.read(r->d.v, 0x120, &wce, 1);
    assert_int_equal(wce, 0);
    assert_int_equal(request(r, IN, 0, BUF + 8192, 4096), 0);
    uint8_t b;
    mem_read(r->d.mem, BUF + 8192 + 4095, &b, 1);
    assert_int_equal(b, 0x5c);
    /* Another disk is not this disk. */
    close_rig(r);
    assert_int_equal(truncate(r->path, DISK / 2), 0);
    open_rig(r, false, 1);
    in = (struct state_in){ .buf = out.buf, .len = out.len };
    assert_int_equal(virtio_mmio_ops.load(r->d.v, &in, 1), -EINVAL);
    state_out_free(&out);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

static void no_list(void *arg, struct diskio_req *list)
{
    (void)arg, (void)list;
}

static bool have_uring(void)
{
    char path[] = "/tmp/gazda-test-XXXXXX";
    struct err e = { 0 };
    int fd = mkstemp(path);
    assert_int_equal(ftruncate(fd, DISK), 0);
    struct disk *disk = disk_open(path, true, &e);
    struct diskio *io = diskio_new(disk, NULL, DISKIO_URING, (struct diskio_user){ no_list, NULL }, &e);
    if (!io)
        printf("# SKIP: %s\n", e.text);
    diskio_free(io);
    disk_close(disk);
    close(fd);
    unlink(path);
    return io != NULL;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_config),  T(test_data),      T(test_framing),     T(test_id),      T(test_stats),
        T(test_discard), T(test_read_only), T(test_cache_mode),  T(test_hostile), T(test_many),
        T(test_queues),  T(test_limit),     T(test_limit_state), T(test_state),
    };
    log_set_level(LOG_ERROR);
    int r = cmocka_run_group_tests_name("threads", tests, NULL, NULL);
    way = DISKIO_URING;
    return have_uring() ? r + cmocka_run_group_tests_name("io_uring", tests, NULL, NULL) : r;
}
