/* SPDX-License-Identifier: MIT */
#include "virtio/p9_msg.h"

#include <errno.h>
#include <string.h>

static void get(struct p9_in *m, void *x, size_t n)
{
    if (m->bad || n > m->n - m->at) {
        m->bad = true;
        memset(x, 0, n);
        return;
    }
    memcpy(x, m->p + m->at, n);
    m->at += n;
}

uint8_t p9_get8(struct p9_in *m)
{
    uint8_t x;
    get(m, &x, sizeof(x));
    return x;
}
uint16_t p9_get16(struct p9_in *m)
{
    uint16_t x;
    get(m, &x, sizeof(x));
    return x;
}
uint32_t p9_get32(struct p9_in *m)
{
    uint32_t x;
    get(m, &x, sizeof(x));
    return x;
}
uint64_t p9_get64(struct p9_in *m)
{
    uint64_t x;
    get(m, &x, sizeof(x));
    return x;
}

int p9_get_str(struct p9_in *m, char *out, size_t size)
{
    size_t n = p9_get16(m);
    *out = '\0';
    if (m->bad || n > m->n - m->at || memchr(m->p + m->at, 0, n)) {
        m->bad = true;
        return -EINVAL;
    }
    m->at += n;
    if (n >= size)
        return -ENAMETOOLONG;
    memcpy(out, m->p + m->at - n, n);
    out[n] = '\0';
    return 0;
}

static void put(struct p9_out *m, const void *x, size_t n)
{
    if (m->bad || n > m->n - m->at) {
        m->bad = true;
        return;
    }
    memcpy(m->p + m->at, x, n);
    m->at += n;
}

void p9_put8(struct p9_out *m, uint8_t x)
{
    put(m, &x, sizeof(x));
}
void p9_put16(struct p9_out *m, uint16_t x)
{
    put(m, &x, sizeof(x));
}
void p9_put32(struct p9_out *m, uint32_t x)
{
    put(m, &x, sizeof(x));
}
void p9_put64(struct p9_out *m, uint64_t x)
{
    put(m, &x, sizeof(x));
}

void p9_put_str(struct p9_out *m, const char *s, size_t n)
{
    p9_put16(m, (uint16_t)n);
    put(m, s, n);
}

void p9_put_qid(struct p9_out *m, const struct p9_qid *q)
{
    p9_put8(m, q->type);
    p9_put32(m, q->version);
    p9_put64(m, q->path);
}
