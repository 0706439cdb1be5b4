/* SPDX-License-Identifier: MIT */
/*
 * Host instructions as bytes. Knows no guest. Writing stops at the end of the buffer; `full` tells.
 */
#ifndef GAZDA_CPU_TRANSLATE_EMIT_H
#define GAZDA_CPU_TRANSLATE_EMIT_H

#include <string.h>

#include "base/types.h"

struct emit {
    uint8_t *p; /* where code is written */
    uint32_t n, max;
    bool full;
};

/* A host memory operand. base and index: register numbers, or -1; the index is not RSP. */
struct hmem {
    int8_t base, index;
    uint8_t scale; /* shift count */
    bool gs;
    bool vsib; /* the index is a vector register */
    int32_t disp;
};
#define HMEM(b, d) ((struct hmem){ .base = (int8_t)(b), .index = -1, .disp = (d) })
#define HMEM_X(b, i, s, d)                                                                                             \
    ((struct hmem){ .base = (int8_t)(b), .index = (int8_t)(i), .scale = (uint8_t)(s), .disp = (int32_t)(d) })
/* gs:[off], gs:[index * 8 + off] */
#define HGS(off) ((struct hmem){ .base = -1, .index = -1, .gs = true, .disp = (int32_t)(off) })
#define HGS_X(i, off)                                                                                                  \
    ((struct hmem){ .base = -1, .index = (int8_t)(i), .scale = 3, .gs = true, .disp = (int32_t)(off) })

static inline void em8(struct emit *e, unsigned b)
{
    if (e->n < e->max)
        e->p[e->n++] = (uint8_t)b;
    else
        e->full = true;
}
static inline void em_bytes(struct emit *e, const void *p, unsigned n)
{
    if (e->n + n <= e->max) {
        memcpy(e->p + e->n, p, n);
        e->n += n;
    } else {
        e->full = true;
    }
}
static inline void em32(struct emit *e, uint32_t v)
{
    em_bytes(e, &v, 4);
}
static inline void em64(struct emit *e, uint64_t v)
{
    em_bytes(e, &v, 8);
}
static inline void em_patch32(struct emit *e, uint32_t at, uint32_t v)
{
    if (at + 4 <= e->n)
        memcpy(e->p + at, &v, 4);
}
/* Makes the rel32 at `at` point to what comes next. */
static inline void em_land32(struct emit *e, uint32_t at)
{
    em_patch32(e, at, e->n - (at + 4));
}

/* ModRM, SIB and displacement of a memory operand. */
void em_mem(struct emit *e, unsigned reg, struct hmem m);
/*
 * A legacy-encoded instruction. op: the opcode byte | map << 8 (0, 1: 0F, 2: 0F38, 3: 0F3A) | mandatory or size prefix
 * << 16 | EM_W.
 */
#define EM_W (1U << 24)
#define EM_66 (0x66U << 16)
#define EM_F2 (0xf2U << 16)
#define EM_F3 (0xf3U << 16)
#define EM_0F (1U << 8)
void em_rm(struct emit *e, uint32_t op, unsigned reg, struct hmem m);
void em_rr(struct emit *e, uint32_t op, unsigned reg, unsigned rm);
/* VEX: pp 0 none, 1 66, 2 F3, 3 F2, | 4 for 256 bits; map as above; w. */
#define EM_VEX(pp, map, w, op) ((uint32_t)(w) << 23 | (uint32_t)(pp) << 16 | (uint32_t)(map) << 8 | (op))
enum { EM_VEX_256 = 4 };
void em_vex_rr(struct emit *e, uint32_t op, unsigned reg, unsigned v, unsigned rm);
void em_vex_rm(struct emit *e, uint32_t op, unsigned reg, unsigned v, struct hmem m);

/* ---- none of these touches flags ---- */

static inline void em_load(struct emit *e, unsigned reg, struct hmem m)
{
    em_rm(e, 0x8b | EM_W, reg, m);
}
static inline void em_store(struct emit *e, unsigned reg, struct hmem m)
{
    em_rm(e, 0x89 | EM_W, reg, m);
}
static inline void em_load32(struct emit *e, unsigned reg, struct hmem m)
{
    em_rm(e, 0x8b, reg, m);
}
static inline void em_store32(struct emit *e, unsigned reg, struct hmem m)
{
    em_rm(e, 0x89, reg, m);
}
static inline void em_mov(struct emit *e, unsigned to, unsigned from)
{
    em_rr(e, 0x8b | EM_W, to, from);
}
static inline void em_mov32(struct emit *e, unsigned to, unsigned from)
{
    em_rr(e, 0x8b, to, from);
}
static inline void em_lea(struct emit *e, unsigned reg, struct hmem m)
{
    em_rm(e, 0x8d | EM_W, reg, m);
}
static inline void em_lea32(struct emit *e, unsigned reg, struct hmem m)
{
    em_rm(e, 0x8d, reg, m);
}
/* The shortest move of a constant. */
void em_const(struct emit *e, unsigned reg, uint64_t v);
void em_rorx(struct emit *e, unsigned to, unsigned from, unsigned count, bool w);
/* jmp rel32 to an offset of this buffer's code memory; returns where the rel32 is. */
static inline uint32_t em_jmp(struct emit *e)
{
    em8(e, 0xe9);
    em32(e, 0);
    return e->n - 4;
}
static inline uint32_t em_jcc(struct emit *e, unsigned cc)
{
    em8(e, 0x0f);
    em8(e, 0x80 | cc);
    em32(e, 0);
    return e->n - 4;
}
/* jrcxz over the next n bytes */
static inline void em_jrcxz(struct emit *e, unsigned n)
{
    em8(e, 0xe3);
    em8(e, n);
}

#endif
