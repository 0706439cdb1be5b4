/* SPDX-License-Identifier: MIT */
/* Bytes in host memory, and getting them out of the compressed forms that kernels come in. */
#ifndef GAZDA_VM_BOOT_UNPACK_H
#define GAZDA_VM_BOOT_UNPACK_H

#include "base/err.h"
#include "base/types.h"

/* A host copy of a file, or what became of it. Freed with boot_bytes_free. */
struct boot_bytes {
    uint8_t *p;
    size_t len;
};

void boot_bytes_free(struct boot_bytes *b);

enum boot_pack { PACK_NONE, PACK_GZIP, PACK_XZ, PACK_LZMA, PACK_ZSTD, PACK_LZ4_LEGACY, PACK_LZ4, PACK_BZIP2, PACK_LZO };

/* By magic. */
enum boot_pack boot_pack_kind(const uint8_t *p, size_t len);
const char *boot_pack_name(enum boot_pack k);
/* False for formats gazda has no library for. */
bool boot_pack_known(enum boot_pack k);
/*
 * Unpacks the one stream that in begins with into malloc'd memory; bytes after it are ignored. limit bounds the output.
 * -EINVAL damaged or truncated, -EFBIG more than limit, -ENOMEM; e is a clause ("the xz data is damaged").
 */
int boot_unpack(enum boot_pack k, const struct boot_bytes *in, size_t limit, struct boot_bytes *out, struct err *e);

#endif
