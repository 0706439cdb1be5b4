/* SPDX-License-Identifier: MIT */
/* Bounded little-endian encoder and decoder; see state.h. */
#include "state/state.h"

#include <stdlib.h>
#include <string.h>

void state_out_free(struct state_out *s)
{
    free(s->buf);
    *s = (struct state_out){ 0 };
}

void state_put_bytes(struct state_out *s, const void *p, size_t n)
{
    if (s->oom || n == 0)
        return;
    if (n > s->cap - s->len) {
        size_t cap = s->cap ? s->cap * 2 : 256;
        while (cap - s->len < n)
            cap *= 2;
        uint8_t *b = realloc(s->buf, cap);
        if (!b) {
            s->oom = true;
            return;
        }
        s->buf = b;
        s->cap = cap;
    }
    memcpy(s->buf + s->len, p, n);
    s->len += n;
}

static void put_le(struct state_out *s, uint64_t v, unsigned n)
{
    uint8_t b[8];
    for (unsigned i = 0; i < n; i++)
        b[i] = (uint8_t)(v >> (8 * i));
    state_put_bytes(s, b, n);
}

void state_put_u8(struct state_out *s, uint8_t v)
{
    put_le(s, v, 1);
}
void state_put_u16(struct state_out *s, uint16_t v)
{
    put_le(s, v, 2);
}
void state_put_u32(struct state_out *s, uint32_t v)
{
    put_le(s, v, 4);
}
void state_put_u64(struct state_out *s, uint64_t v)
{
    put_le(s, v, 8);
}

void state_get_bytes(struct state_in *s, void *p, size_t n)
{
    if (s->bad || n > s->len - s->pos) {
        s->bad = true;
        memset(p, 0, n);
        return;
    }
    if (n)
        memcpy(p, s->buf + s->pos, n);
    s->pos += n;
}

static uint64_t get_le(struct state_in *s, unsigned n)
{
    uint8_t b[8] = { 0 };
    uint64_t v = 0;
    state_get_bytes(s, b, n);
    for (unsigned i = 0; i < n; i++)
        v |= (uint64_t)b[i] << (8 * i);
    return v;
}

uint8_t state_get_u8(struct state_in *s)
{
    return (uint8_t)get_le(s, 1);
}
uint16_t state_get_u16(struct state_in *s)
{
    return (uint16_t)get_le(s, 2);
}
uint32_t state_get_u32(struct state_in *s)
{
    return (uint32_t)get_le(s, 4);
}
uint64_t state_get_u64(struct state_in *s)
{
    return get_le(s, 8);
}
