/* SPDX-License-Identifier: MIT */
/* Small kernels made in memory, for the tests of the boot loader and its fuzz corpus. No cmocka in here. */
#ifndef GAZDA_TESTS_BOOT_IMAGES_H
#define GAZDA_TESTS_BOOT_IMAGES_H

#include "vm/boot/unpack.h"

/* Caller frees with boot_bytes_free. Bytes of a segment are image_byte(index). */
struct image_elf {
    bool is64;
    uint64_t paddr, vaddr, entry;
    uint32_t filesz, memsz;
    bool pvh;
    uint32_t pvh_entry;
    bool multiboot; /* a header in the first bytes of the segment */
};

static inline uint8_t image_byte(size_t i)
{
    return (uint8_t)(i * 7 >> 3 ^ i >> 9);
}
struct boot_bytes image_make_elf(const struct image_elf *o);
/* Offset of the first program header, and of segment bytes in the file. */
enum { IMAGE_ELF32_PHDR = 52, IMAGE_ELF64_PHDR = 64, IMAGE_ELF_BODY = 0x1000 };

/* Compresses as a kernel's build does: xz with the x86 filter, legacy lz4; appended size where the format has none. */
struct boot_bytes image_pack(enum boot_pack k, const struct boot_bytes *in);

struct image_bz {
    uint16_t version;
    bool entry64, relocatable;
    uint32_t cmdline_size;
};
struct boot_bytes image_make_bzimage(const struct image_bz *o, const struct boot_bytes *payload);
enum { IMAGE_BZ_CODE = 1024, IMAGE_BZ_PAYLOAD = 0x300 }; /* of the code in the file, of the payload in the code */

/* 0x1badb002 header with load addresses; len bytes from load, of which the header is the first 32. */
struct boot_bytes image_make_multiboot(uint32_t load, uint32_t len, uint32_t flags);

/* Writes it to dir/name; returns the path in a static buffer of the caller's, path[4096]. False on failure. */
bool image_write(const char *dir, const char *name, const struct boot_bytes *b, char *path);

#endif
