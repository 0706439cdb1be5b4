/* SPDX-License-Identifier: MIT */
/* A 9P2000.L client for tests, over the driver's side of virtio: messages by format, answers by field. */
#ifndef GAZDA_TESTS_P9_CLIENT_H
#define GAZDA_TESTS_P9_CLIENT_H

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host/share_int.h"
#include "virtio/p9.h"
#include "virtio_driver.h"

enum { P9C_OUT = DRV_DATA, P9C_IN = DRV_DATA + 0x10000, P9C_STEP = 0x20000, P9C_ROOM = 0x10000 };

struct p9c {
    struct drv d; /* first */
    struct share *share;
    char dir[64];      /* with in/, which is shared, and out/, which must not change */
    uint8_t msg[9000]; /* the last message, and the answer to it */
    uint8_t reply[P9C_ROOM];
    struct p9_in in; /* the answer's fields */
    uint32_t used;
    uint16_t tag;
};

static inline const char *p9c_path(struct p9c *c, const char *name)
{
    static char path[2][600];
    static int turn;
    turn = !turn;
    snprintf(path[turn], sizeof(path[turn]), "%s/%s", c->dir, name);
    return path[turn];
}

static inline void p9c_start(struct p9c *c, const struct share_cfg *how)
{
    struct err e = { 0 };
    const struct virtio_env env = drv_open(&c->d);
    char in[80];
    snprintf(in, sizeof(in), "%s/in", c->dir);
    struct share_cfg cfg = how ? *how : (struct share_cfg){ 0 };
    cfg.dir = in;
    c->share = share_open(&cfg, &e);
    if (!c->share) {
        fprintf(stderr, "%s\n", e.text);
        abort();
    }
    c->d.v = virtio_9p_new(&env, c->share, "mytag");
    drv_start(&c->d, 0);
}

static inline void p9c_stop(struct p9c *c)
{
    drv_close(&c->d);
    share_free(c->share);
}

static inline struct p9c *p9c_new(void)
{
    struct p9c *c = calloc(1, sizeof(*c));
    strcpy(c->dir, "/tmp/gazda-9p-XXXXXX");
    if (!mkdtemp(c->dir) || mkdir(p9c_path(c, "in"), 0755) < 0 || mkdir(p9c_path(c, "out"), 0755) < 0)
        abort();
    p9c_start(c, NULL);
    return c;
}

static inline int p9c_rm(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st, (void)flag, (void)ftw;
    return remove(path);
}
static inline void p9c_free(struct p9c *c)
{
    p9c_stop(c);
    nftw(c->dir, p9c_rm, 32, FTW_DEPTH | FTW_PHYS);
    free(c);
}

/* 1, 2, 4, 8: a number; s: a string; z: a length and so many bytes, without one in front. */
static inline size_t p9c_build(struct p9c *c, uint8_t type, uint16_t tag, const char *fmt, va_list ap)
{
    struct p9_out o = { .p = c->msg, .n = sizeof(c->msg) };
    p9_put32(&o, 0);
    p9_put8(&o, type);
    p9_put16(&o, tag);
    for (; *fmt; fmt++)
        switch (*fmt) {
        case '1':
            p9_put8(&o, (uint8_t)va_arg(ap, int));
            break;
        case '2':
            p9_put16(&o, (uint16_t)va_arg(ap, int));
            break;
        case '4':
            p9_put32(&o, va_arg(ap, uint32_t));
            break;
        case '8':
            p9_put64(&o, va_arg(ap, uint64_t));
            break;
        case 's': {
            const char *s = va_arg(ap, const char *);
            p9_put_str(&o, s, strlen(s));
            break;
        }
        default: {
            size_t n = va_arg(ap, size_t);
            const uint8_t *p = va_arg(ap, const uint8_t *);
            while (n--)
                p9_put8(&o, *p++);
        }
        }
    uint32_t n = (uint32_t)o.at;
    memcpy(c->msg, &n, sizeof(n));
    return o.at;
}

/* Puts n bytes of c->msg into slot i of the queue and makes them available. */
static inline void p9c_post(struct p9c *c, unsigned i, size_t n)
{
    gpa_t out = P9C_OUT + (gpa_t)i * P9C_STEP, in = P9C_IN + (gpa_t)i * P9C_STEP;
    uint16_t d = (uint16_t)(2 * i);
    mem_write(c->d.mem, out, c->msg, n);
    drv_desc(&c->d, 0, d, (struct drv_desc){ out, (uint32_t)n, D_NEXT, (uint16_t)(d + 1) });
    drv_desc(&c->d, 0, d + 1U, (struct drv_desc){ in, P9C_ROOM, D_WRITE, 0 });
    drv_add(&c->d, 0, d);
    drv_kick(&c->d, 0);
}

/* The next answer: its slot, -1 when there is none. c->in is behind the header. */
static inline int p9c_next(struct p9c *c)
{
    int head = drv_used(&c->d, 0, &c->used);
    if (head < 0)
        return -1;
    mem_read(c->d.mem, P9C_IN + (gpa_t)(head / 2) * P9C_STEP, c->reply, P9C_ROOM);
    c->in = (struct p9_in){ .p = c->reply, .n = c->used, .at = P9_HEADER };
    return head / 2;
}

/* What an answer of the right form says: 0 or -errno; -1000 for one that is not. */
static inline int p9c_result(struct p9c *c, uint8_t type, uint16_t tag)
{
    struct p9_in h = { .p = c->reply, .n = c->used };
    uint32_t size = p9_get32(&h);
    uint8_t t = p9_get8(&h);
    if (size != c->used || p9_get16(&h) != tag || h.bad)
        return -1000;
    if (t == P9_TLERROR + 1 && size == P9_IO_HEADER)
        return -(int)p9_get32(&c->in);
    return t == type + 1 ? 0 : -1000;
}

#define P9C_TAGGED(type, tag) ((uint32_t)(type) | (uint32_t)(tag) << 8)
static inline void p9c_send(struct p9c *c, unsigned slot, uint32_t tagged, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    p9c_post(c, slot, p9c_build(c, (uint8_t)tagged, (uint16_t)(tagged >> 8), fmt, ap));
    va_end(ap);
}

static inline int p9c_call(struct p9c *c, uint8_t type, const char *fmt, ...)
{
    va_list ap;
    uint16_t tag = type == P9_TVERSION ? (uint16_t)P9_NOTAG : (uint16_t)(c->tag++ & 0x7fff);
    va_start(ap, fmt);
    p9c_post(c, 0, p9c_build(c, type, tag, fmt, ap));
    va_end(ap);
    drv_quiet(&c->d);
    return p9c_next(c) == 0 ? p9c_result(c, type, tag) : -1000;
}

/* ---- messages ---- */

static inline int p9c_version(struct p9c *c)
{
    return p9c_call(c, P9_TVERSION, "4s", 65536U, "9P2000.L");
}
static inline int p9c_attach(struct p9c *c, uint32_t fid)
{
    return p9c_call(c, P9_TATTACH, "44ss4", fid, P9_NOFID, "", "", 0U);
}
static inline int p9c_walk1(struct p9c *c, uint32_t fid, uint32_t to, const char *name)
{
    return p9c_call(c, P9_TWALK, "442s", fid, to, 1, name);
}
static inline int p9c_clone(struct p9c *c, uint32_t fid, uint32_t to)
{
    return p9c_call(c, P9_TWALK, "442", fid, to, 0);
}
static inline int p9c_clunk(struct p9c *c, uint32_t fid)
{
    return p9c_call(c, P9_TCLUNK, "4", fid);
}
static inline int p9c_open(struct p9c *c, uint32_t fid, int flags)
{
    return p9c_call(c, P9_TLOPEN, "44", fid, (uint32_t)flags);
}
static inline int p9c_create(struct p9c *c, uint32_t fid, const char *name, int flags, unsigned mode)
{
    return p9c_call(c, P9_TLCREATE, "4s444", fid, name, (uint32_t)flags, (uint32_t)mode, 0U);
}
static inline int p9c_write(struct p9c *c, uint32_t fid, uint64_t off, const void *p, size_t n)
{
    int e = p9c_call(c, P9_TWRITE, "484z", fid, off, (uint32_t)n, n, p);
    return e < 0 ? e : (int)p9_get32(&c->in);
}
/* The data is at c->reply + P9_IO_HEADER. */
static inline int p9c_read(struct p9c *c, uint32_t fid, uint64_t off, uint32_t n)
{
    int e = p9c_call(c, P9_TREAD, "484", fid, off, n);
    return e < 0 ? e : (int)p9_get32(&c->in);
}
static inline int p9c_mkdir(struct p9c *c, uint32_t fid, const char *name, unsigned mode)
{
    return p9c_call(c, P9_TMKDIR, "4s44", fid, name, (uint32_t)mode, 0U);
}
static inline int p9c_setattr(struct p9c *c, uint32_t fid, uint32_t valid, uint32_t mode, uint64_t size)
{
    return p9c_call(c, P9_TSETATTR,
                    "444448"
                    "8888",
                    fid, valid, mode, 12U, 34U, size, 1000UL, 5UL, 2000UL, 6UL);
}

#endif
