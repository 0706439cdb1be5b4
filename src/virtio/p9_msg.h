/* SPDX-License-Identifier: MIT */
/*
 * Messages of 9P2000.L: little-endian fields one after the other. A read past the end, or a string that is none, sets
 * `bad` and gives zeroes; a write past the end sets `bad` and writes nothing.
 */
#ifndef GAZDA_VIRTIO_P9_MSG_H
#define GAZDA_VIRTIO_P9_MSG_H

#include "base/types.h"

enum {
    P9_TLERROR = 6, /* only its answer exists */
    P9_TSTATFS = 8,
    P9_TLOPEN = 12,
    P9_TLCREATE = 14,
    P9_TSYMLINK = 16,
    P9_TMKNOD = 18,
    P9_TRENAME = 20,
    P9_TREADLINK = 22,
    P9_TGETATTR = 24,
    P9_TSETATTR = 26,
    P9_TXATTRWALK = 30,
    P9_TXATTRCREATE = 32,
    P9_TREADDIR = 40,
    P9_TFSYNC = 50,
    P9_TLOCK = 52,
    P9_TGETLOCK = 54,
    P9_TLINK = 70,
    P9_TMKDIR = 72,
    P9_TRENAMEAT = 74,
    P9_TUNLINKAT = 76,
    P9_TVERSION = 100,
    P9_TAUTH = 102,
    P9_TATTACH = 104,
    P9_TFLUSH = 108,
    P9_TWALK = 110,
    P9_TREAD = 116,
    P9_TWRITE = 118,
    P9_TCLUNK = 120,
    P9_TREMOVE = 122,
};

enum {
    P9_HEADER = 7,        /* size[4] type[1] tag[2] */
    P9_IO_HEADER = 11,    /* of an answer with data: and count[4]; also the length of an error */
    P9_WRITE_HEADER = 23, /* header fid[4] offset[8] count[4] */
    P9_QID = 13,
    P9_WALK_MAX = 16,
};
enum { P9_QT_DIR = 0x80, P9_QT_SYMLINK = 2, P9_QT_FILE = 0 };

#define P9_NOTAG 0xffffU
#define P9_NOFID 0xffffffffU

struct p9_in {
    const uint8_t *p;
    size_t n, at;
    bool bad;
};

uint8_t p9_get8(struct p9_in *m);
uint16_t p9_get16(struct p9_in *m);
uint32_t p9_get32(struct p9_in *m);
uint64_t p9_get64(struct p9_in *m);
/* A string as a C string. One that does not fit: -ENAMETOOLONG; one with a NUL in it, or cut off: -EINVAL and bad. */
int p9_get_str(struct p9_in *m, char *out, size_t size);

struct p9_out {
    uint8_t *p;
    size_t n, at;
    bool bad;
};

struct p9_qid {
    uint8_t type;
    uint32_t version;
    uint64_t path;
};

void p9_put8(struct p9_out *m, uint8_t x);
void p9_put16(struct p9_out *m, uint16_t x);
void p9_put32(struct p9_out *m, uint32_t x);
void p9_put64(struct p9_out *m, uint64_t x);
void p9_put_str(struct p9_out *m, const char *s, size_t n);
void p9_put_qid(struct p9_out *m, const struct p9_qid *q);

#endif
