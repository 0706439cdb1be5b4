/* SPDX-License-Identifier: MIT */
/* Encoding. SDM Vol. 2A, "Instruction Format". */
#include "cpu/translate/emit.h"

#include <assert.h>

void em_mem(struct emit *e, unsigned reg, struct hmem m)
{
    unsigned r = (reg & 7) << 3;

    assert(m.index != 4 || m.vsib); /* RSP: that encoding means no index */
    if (m.base < 0) {
        em8(e, r | 4);
        em8(e, (unsigned)m.scale << 6 | (m.index < 0 ? 4U << 3 : (unsigned)(m.index & 7) << 3) | 5);
        em32(e, (uint32_t)m.disp);
        return;
    }
    bool sib = m.index >= 0 || (m.base & 7) == 4;
    unsigned mod = m.disp == 0 && (m.base & 7) != 5 ? 0 : m.disp == (int8_t)m.disp ? 0x40 : 0x80;

    em8(e, mod | r | (sib ? 4U : (unsigned)m.base & 7));
    if (sib)
        em8(e,
            (unsigned)m.scale << 6 | (m.index < 0 ? 4U << 3 : (unsigned)(m.index & 7) << 3) | ((unsigned)m.base & 7));
    if (mod == 0x40)
        em8(e, (uint8_t)m.disp);
    else if (mod == 0x80)
        em32(e, (uint32_t)m.disp);
}

static void head(struct emit *e, uint32_t op, unsigned rex)
{
    if (op >> 16 & 0xff)
        em8(e, op >> 16 & 0xff);
    if (op & EM_W)
        rex |= 8;
    if (rex)
        em8(e, 0x40 | rex);
    switch (op >> 8 & 0xff) {
    case 1:
        em8(e, 0x0f);
        break;
    case 2:
        em8(e, 0x0f);
        em8(e, 0x38);
        break;
    case 3:
        em8(e, 0x0f);
        em8(e, 0x3a);
        break;
    default:
        break;
    }
    em8(e, op & 0xff);
}

static unsigned rex_xb(struct hmem m)
{
    return (m.index >= 8 ? 2U : 0) | (m.base >= 8 ? 1U : 0);
}

void em_rm(struct emit *e, uint32_t op, unsigned reg, struct hmem m)
{
    if (m.gs)
        em8(e, 0x65);
    head(e, op, (reg & 8) >> 1 | rex_xb(m));
    em_mem(e, reg, m);
}

void em_rr(struct emit *e, uint32_t op, unsigned reg, unsigned rm)
{
    head(e, op, (reg & 8) >> 1 | rm >> 3);
    em8(e, 0xc0 | (reg & 7) << 3 | (rm & 7));
}

static void vex(struct emit *e, uint32_t op, unsigned rxb, unsigned v)
{
    em8(e, 0xc4);
    em8(e, (~rxb & 7) << 5 | (op >> 8 & 0x1f));
    em8(e, (op >> 16 & 0x87) | (~v & 15) << 3);
    em8(e, op & 0xff);
}

void em_vex_rr(struct emit *e, uint32_t op, unsigned reg, unsigned v, unsigned rm)
{
    vex(e, op, (reg & 8) >> 1 | rm >> 3, v);
    em8(e, 0xc0 | (reg & 7) << 3 | (rm & 7));
}

void em_vex_rm(struct emit *e, uint32_t op, unsigned reg, unsigned v, struct hmem m)
{
    if (m.gs)
        em8(e, 0x65);
    vex(e, op, (reg & 8) >> 1 | rex_xb(m), v);
    em_mem(e, reg, m);
}

void em_const(struct emit *e, unsigned reg, uint64_t v)
{
    if (v <= UINT32_MAX) {
        if (reg & 8)
            em8(e, 0x41);
        em8(e, 0xb8 | (reg & 7));
        em32(e, (uint32_t)v);
    } else if ((int64_t)v == (int32_t)v) {
        em8(e, 0x48 | reg >> 3);
        em8(e, 0xc7);
        em8(e, 0xc0 | (reg & 7));
        em32(e, (uint32_t)v);
    } else {
        em8(e, 0x48 | reg >> 3);
        em8(e, 0xb8 | (reg & 7));
        em64(e, v);
    }
}

void em_rorx(struct emit *e, unsigned to, unsigned from, unsigned count, bool w)
{
    em_vex_rr(e, EM_VEX(3, 3, w, 0xf0), to, 0, from);
    em8(e, count);
}
