/* SPDX-License-Identifier: MIT */
/*
 * Decompression of kernels on the host. Every decoder writes into one growing buffer that never passes the caller's
 * limit, so a bomb costs its limit at most; every decoder stops at the end of its stream and ignores what follows
 * (a kernel's build appends the unpacked size to the payload).
 */
#include <errno.h>
#include <lz4.h>
#include <lz4frame.h>
#include <lzma.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "vm/boot/internal.h"

#define LZ4_LEGACY_MAGIC 0x184c2102U
#define LZ4_LEGACY_BLOCK (8U << 20) /* each block of the legacy format unpacks to at most 8 MiB */
#define LZMA_MEMORY (256UL << 20)   /* dictionaries beyond this are not for kernels */
#define ZSTD_WINDOW_LOG 27          /* what zstd --ultra -22 uses */

enum boot_pack boot_pack_kind(const uint8_t *p, size_t len)
{
    static const struct {
        enum boot_pack kind;
        uint8_t n, magic[9];
    } magics[] = {
        { PACK_GZIP, 3, { 0x1f, 0x8b, 8 } },
        { PACK_XZ, 6, { 0xfd, '7', 'z', 'X', 'Z', 0 } },
        { PACK_ZSTD, 4, { 0x28, 0xb5, 0x2f, 0xfd } },
        { PACK_LZ4_LEGACY, 4, { 0x02, 0x21, 0x4c, 0x18 } },
        { PACK_LZ4, 4, { 0x04, 0x22, 0x4d, 0x18 } },
        { PACK_BZIP2, 3, { 'B', 'Z', 'h' } },
        { PACK_LZO, 9, { 0x89, 'L', 'Z', 'O', 0, 0x0d, 0x0a, 0x1a, 0x0a } },
        /* LZMA-alone has no magic; the usual properties byte and the low bytes of a power-of-two dictionary. */
        { PACK_LZMA, 3, { 0x5d, 0, 0 } },
    };
    for (size_t i = 0; i < ARRAY_LEN(magics); i++)
        if (len >= magics[i].n && !memcmp(p, magics[i].magic, magics[i].n))
            return magics[i].kind;
    return PACK_NONE;
}

const char *boot_pack_name(enum boot_pack k)
{
    static const char *const names[] = { "uncompressed", "gzip", "xz", "lzma", "zstd", "lz4", "lz4", "bzip2", "lzo" };
    return names[k];
}

bool boot_pack_known(enum boot_pack k)
{
    return k != PACK_NONE && k != PACK_BZIP2 && k != PACK_LZO;
}

/* The output: len bytes written, cap allocated, limit the bound. */
struct sink {
    uint8_t *p;
    size_t len, cap, limit;
};

/* Makes room for at least one more byte. 0, -EFBIG or -ENOMEM. */
static int sink_grow(struct sink *s)
{
    if (s->len < s->cap)
        return 0;
    if (s->cap >= s->limit)
        return -EFBIG;
    size_t cap = s->cap ? s->cap * 2 : 8UL << 20;
    if (cap > s->limit)
        cap = s->limit;
    uint8_t *p = realloc(s->p, cap);
    if (!p)
        return -ENOMEM;
    s->p = p;
    s->cap = cap;
    return 0;
}

static int unpack_gzip(const uint8_t *p, size_t len, struct sink *s)
{
    z_stream z = { 0 };
    if (inflateInit2(&z, 16 + MAX_WBITS) != Z_OK)
        return -ENOMEM;
    int r = 0, zr = Z_OK;
    z.next_in = (Bytef *)p; /* zlib's prototype lacks const; it does not write */
    size_t left = len;
    while (r == 0 && zr != Z_STREAM_END) {
        r = sink_grow(s);
        if (r < 0)
            break;
        /* avail_in and avail_out are 32 bits wide. */
        size_t in = left < (1U << 30) ? left : (1U << 30);
        size_t room = s->cap - s->len < (1U << 30) ? s->cap - s->len : (1U << 30);
        z.avail_in = (uInt)in;
        z.next_out = s->p + s->len;
        z.avail_out = (uInt)room;
        zr = inflate(&z, Z_NO_FLUSH);
        left -= in - z.avail_in;
        s->len += room - z.avail_out;
        if (zr == Z_MEM_ERROR)
            r = -ENOMEM;
        else if (zr != Z_OK && zr != Z_STREAM_END)
            r = -EINVAL; /* Z_BUF_ERROR: no progress, so the input ended early */
    }
    inflateEnd(&z);
    return r;
}

static int unpack_lzma(enum boot_pack k, const uint8_t *p, size_t len, struct sink *s)
{
    lzma_stream z = LZMA_STREAM_INIT;
    lzma_ret zr = k == PACK_XZ ? lzma_stream_decoder(&z, LZMA_MEMORY, 0) : lzma_alone_decoder(&z, LZMA_MEMORY);
    if (zr != LZMA_OK)
        return -ENOMEM;
    int r = 0;
    z.next_in = p;
    z.avail_in = len;
    while (r == 0 && zr != LZMA_STREAM_END) {
        r = sink_grow(s);
        if (r < 0)
            break;
        z.next_out = s->p + s->len;
        z.avail_out = s->cap - s->len;
        zr = lzma_code(&z, LZMA_FINISH);
        s->len = s->cap - z.avail_out;
        if (zr == LZMA_MEM_ERROR || zr == LZMA_MEMLIMIT_ERROR)
            r = -ENOMEM;
        else if (zr != LZMA_OK && zr != LZMA_STREAM_END)
            r = -EINVAL;
    }
    lzma_end(&z);
    return r;
}

static int unpack_zstd(const uint8_t *p, size_t len, struct sink *s)
{
    ZSTD_DCtx *z = ZSTD_createDCtx();
    if (!z)
        return -ENOMEM;
    ZSTD_DCtx_setParameter(z, ZSTD_d_windowLogMax, ZSTD_WINDOW_LOG);
    ZSTD_inBuffer in = { p, len, 0 };
    int r = 0;
    size_t zr = 1;
    while (r == 0 && zr != 0) {
        r = sink_grow(s);
        if (r < 0)
            break;
        ZSTD_outBuffer out = { s->p, s->cap, s->len };
        size_t in_before = in.pos;
        zr = ZSTD_decompressStream(z, &out, &in);
        if (ZSTD_isError(zr))
            r = -EINVAL;
        else if (zr != 0 && out.pos == s->len && in.pos == in_before)
            r = -EINVAL; /* no progress although there is room: the input ended early */
        s->len = out.pos;
    }
    ZSTD_freeDCtx(z);
    return r;
}

/*
 * Legacy frame: magic, then (32-bit length, block) until the input ends. What is left after the last block may be the
 * appended size, a length that reaches beyond the end.
 */
static int unpack_lz4_legacy(const uint8_t *p, size_t len, struct sink *s)
{
    size_t off = 4;
    unsigned blocks = 0;
    while (boot_within(off, 4, len)) {
        uint32_t n = boot_le32(p + off);
        off += 4;
        if (n == LZ4_LEGACY_MAGIC)
            continue; /* concatenated streams */
        if (off == len && blocks)
            break; /* the size that the kernel's build appends */
        if (n == 0 || !boot_within(off, n, len) || n > (uint32_t)LZ4_COMPRESSBOUND(LZ4_LEGACY_BLOCK))
            return -EINVAL;
        size_t room = s->limit - s->len < LZ4_LEGACY_BLOCK ? s->limit - s->len : LZ4_LEGACY_BLOCK;
        while (s->cap - s->len < room) {
            size_t had = s->len;
            s->len = s->cap; /* sink_grow grows a full buffer */
            int r = sink_grow(s);
            s->len = had;
            if (r < 0)
                return r;
        }
        int got = LZ4_decompress_safe((const char *)p + off, (char *)s->p + s->len, (int)n, (int)room);
        if (got < 0)
            return room < LZ4_LEGACY_BLOCK ? -EFBIG : -EINVAL;
        s->len += (size_t)got;
        off += n;
        blocks++;
    }
    return blocks ? 0 : -EINVAL;
}

static int unpack_lz4_frame(const uint8_t *p, size_t len, struct sink *s)
{
    LZ4F_dctx *z;
    if (LZ4F_isError(LZ4F_createDecompressionContext(&z, LZ4F_VERSION)))
        return -ENOMEM;
    size_t off = 0, zr = 1;
    int r = 0;
    while (r == 0 && zr != 0) {
        r = sink_grow(s);
        if (r < 0)
            break;
        size_t in = len - off, out = s->cap - s->len;
        zr = LZ4F_decompress(z, s->p + s->len, &out, p + off, &in, NULL);
        if (LZ4F_isError(zr) || (zr != 0 && in == 0 && out == 0))
            r = -EINVAL;
        off += in;
        s->len += out;
    }
    LZ4F_freeDecompressionContext(z);
    return r;
}

int boot_unpack(enum boot_pack k, const struct boot_bytes *in, size_t limit, struct boot_bytes *out, struct err *e)
{
    const uint8_t *p = in->p;
    size_t len = in->len;
    struct sink s = { .limit = limit };
    int r;
    switch (k) {
    case PACK_GZIP:
        r = unpack_gzip(p, len, &s);
        break;
    case PACK_XZ:
    case PACK_LZMA:
        r = unpack_lzma(k, p, len, &s);
        break;
    case PACK_ZSTD:
        r = unpack_zstd(p, len, &s);
        break;
    case PACK_LZ4_LEGACY:
        r = unpack_lz4_legacy(p, len, &s);
        break;
    case PACK_LZ4:
        r = unpack_lz4_frame(p, len, &s);
        break;
    default:
        r = -EINVAL;
    }
    if (r == 0 && s.len == 0)
        r = -EINVAL;
    if (r < 0) {
        free(s.p);
        const char *name = boot_pack_name(k);
        if (r == -EFBIG)
            return err_set(e, EFBIG, "its %s data unpacks to more than %zu MiB, which this guest cannot hold", name,
                           limit >> 20);
        if (r == -ENOMEM)
            return err_set(e, ENOMEM, "there is not enough memory to unpack its %s data", name);
        return err_set(e, EINVAL, "its %s data is damaged or truncated", name);
    }
    *out = (struct boot_bytes){ s.p, s.len };
    return 0;
}
