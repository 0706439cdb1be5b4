/* SPDX-License-Identifier: MIT */
/* The AML writer; see aml.h. */
#include "vm/boot/aml.h"

#include <string.h>

enum {
    OP_ZERO = 0x00,
    OP_ONE = 0x01,
    OP_NAME = 0x08,
    OP_BYTE = 0x0a,
    OP_WORD = 0x0b,
    OP_DWORD = 0x0c,
    OP_STRING = 0x0d,
    OP_QWORD = 0x0e,
    OP_SCOPE = 0x10,
    OP_BUFFER = 0x11,
    OP_PACKAGE = 0x12,
    OP_EXT = 0x5b,
    OP_EXT_DEVICE = 0x82,
};
enum { PKG_LENGTH = 3 };            /* every PkgLength is written in its three-byte form */
enum { CRS_SIZE = PKG_LENGTH + 1 }; /* from a buffer's mark to its 16-bit size */
enum { RES_IRQ = 0x22, RES_IO = 0x47, RES_END = 0x79, RES_MEM32 = 0x86, RES_INTERRUPT = 0x89 };

void aml_bytes(struct aml *a, const void *p, size_t n)
{
    if (a->full || n > a->cap - a->len) {
        a->full = true;
        return;
    }
    memcpy(a->p + a->len, p, n);
    a->len += n;
}

void aml_byte(struct aml *a, uint8_t v)
{
    aml_bytes(a, &v, 1);
}

static void aml_le(struct aml *a, uint64_t v, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        aml_byte(a, (uint8_t)(v >> 8 * i));
}

void aml_int(struct aml *a, uint64_t v)
{
    if (v <= 1) {
        aml_byte(a, v ? OP_ONE : OP_ZERO);
        return;
    }
    unsigned n = v <= 0xff ? 1 : v <= 0xffff ? 2 : v <= UINT32_MAX ? 4 : 8;
    aml_byte(a, n == 1 ? OP_BYTE : n == 2 ? OP_WORD : n == 4 ? OP_DWORD : OP_QWORD);
    aml_le(a, v, n);
}

void aml_string(struct aml *a, const char *s)
{
    aml_byte(a, OP_STRING);
    aml_bytes(a, s, strlen(s) + 1);
}

static unsigned aml_hex(char c)
{
    return (unsigned)(c <= '9' ? c - '0' : c - 'A' + 10);
}

void aml_eisaid(struct aml *a, const char *id)
{
    uint32_t v = (uint32_t)(id[0] - '@') << 26 | (uint32_t)(id[1] - '@') << 21 | (uint32_t)(id[2] - '@') << 16 |
                 aml_hex(id[3]) << 12 | aml_hex(id[4]) << 8 | aml_hex(id[5]) << 4 | aml_hex(id[6]);
    aml_byte(a, OP_DWORD);
    aml_le(a, __builtin_bswap32(v), 4); /* big-endian, alone in all of ACPI */
}

static void aml_seg(struct aml *a, const char *seg)
{
    if (*seg == '\\')
        aml_byte(a, (uint8_t)*seg++);
    for (unsigned i = 0; i < 4; i++)
        aml_byte(a, *seg ? (uint8_t)*seg++ : '_');
}

void aml_name(struct aml *a, const char *seg)
{
    aml_byte(a, OP_NAME);
    aml_seg(a, seg);
}

/* Room for a PkgLength; the mark is where it begins. */
static size_t aml_open(struct aml *a)
{
    size_t mark = a->len;
    aml_bytes(a, "\0\0\0", PKG_LENGTH);
    return mark;
}

size_t aml_scope(struct aml *a, const char *seg)
{
    aml_byte(a, OP_SCOPE);
    size_t mark = aml_open(a);
    aml_seg(a, seg);
    return mark;
}

size_t aml_device(struct aml *a, const char *seg)
{
    aml_byte(a, OP_EXT);
    aml_byte(a, OP_EXT_DEVICE);
    size_t mark = aml_open(a);
    aml_seg(a, seg);
    return mark;
}

size_t aml_package(struct aml *a, unsigned n)
{
    aml_byte(a, OP_PACKAGE);
    size_t mark = aml_open(a);
    aml_byte(a, (uint8_t)n);
    return mark;
}

void aml_end(struct aml *a, size_t mark)
{
    if (a->full)
        return;
    size_t n = a->len - mark;
    a->p[mark] = (uint8_t)(2 << 6 | (n & 0xf));
    a->p[mark + 1] = (uint8_t)(n >> 4);
    a->p[mark + 2] = (uint8_t)(n >> 12);
}

size_t aml_crs(struct aml *a)
{
    aml_name(a, "_CRS");
    aml_byte(a, OP_BUFFER);
    size_t mark = aml_open(a);
    aml_byte(a, OP_WORD);
    aml_le(a, 0, 2);
    return mark;
}

void aml_crs_end(struct aml *a, size_t mark)
{
    aml_byte(a, RES_END);
    aml_byte(a, 0); /* checksum: zero means none */
    if (a->full)
        return;
    size_t n = a->len - (mark + CRS_SIZE + 2);
    a->p[mark + CRS_SIZE] = (uint8_t)n;
    a->p[mark + CRS_SIZE + 1] = (uint8_t)(n >> 8);
    aml_end(a, mark);
}

void aml_res_io(struct aml *a, uint16_t port, uint8_t len)
{
    aml_byte(a, RES_IO);
    aml_byte(a, 1); /* decodes 16 bits */
    aml_le(a, port, 2);
    aml_le(a, port, 2);
    aml_byte(a, 1);
    aml_byte(a, len);
}

void aml_res_irq(struct aml *a, unsigned irq)
{
    aml_byte(a, RES_IRQ);
    aml_le(a, 1U << irq, 2);
}

void aml_res_interrupt(struct aml *a, uint32_t gsi)
{
    aml_byte(a, RES_INTERRUPT);
    aml_le(a, 6, 2);
    aml_byte(a, 3); /* consumer, edge */
    aml_byte(a, 1);
    aml_le(a, gsi, 4);
}

void aml_res_mem32(struct aml *a, uint32_t base, uint32_t len)
{
    aml_byte(a, RES_MEM32);
    aml_le(a, 9, 2);
    aml_byte(a, 1);
    aml_le(a, base, 4);
    aml_le(a, len, 4);
}
