/* SPDX-License-Identifier: MIT */
/* See boot_images.h. */
#include "boot_images.h"

#include <elf.h>
#include <lz4.h>
#include <lz4frame.h>
#include <lzma.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

static void put16(uint8_t *p, uint16_t v)
{
    memcpy(p, &v, 2);
}
static void put32(uint8_t *p, uint32_t v)
{
    memcpy(p, &v, 4);
}
static void put64(uint8_t *p, uint64_t v)
{
    memcpy(p, &v, 8);
}

static void multiboot_header(uint8_t *p, uint32_t flags, uint32_t load, uint32_t len)
{
    put32(p, 0x1badb002);
    put32(p + 4, flags);
    put32(p + 8, -(0x1badb002 + flags));
    put32(p + 12, load);
    put32(p + 16, load);
    put32(p + 20, load + len);
    put32(p + 24, load + len + 0x1000);
    put32(p + 28, load + 0x40);
}

static void elf_phdr(uint8_t *p, const struct image_elf *o, bool note)
{
    uint64_t off = note ? 0x800 : IMAGE_ELF_BODY, filesz = note ? 20 : o->filesz, memsz = note ? 20 : o->memsz;
    put32(p, note ? PT_NOTE : PT_LOAD);
    if (o->is64) {
        Elf64_Phdr h = { .p_type = note ? PT_NOTE : PT_LOAD,
                         .p_flags = PF_R | PF_X,
                         .p_offset = off,
                         .p_vaddr = o->vaddr,
                         .p_paddr = o->paddr,
                         .p_filesz = filesz,
                         .p_memsz = memsz,
                         .p_align = 4 };
        memcpy(p, &h, sizeof(h));
    } else {
        Elf32_Phdr h = { .p_type = note ? PT_NOTE : PT_LOAD,
                         .p_flags = PF_R | PF_X,
                         .p_offset = (uint32_t)off,
                         .p_vaddr = (uint32_t)o->vaddr,
                         .p_paddr = (uint32_t)o->paddr,
                         .p_filesz = (uint32_t)filesz,
                         .p_memsz = (uint32_t)memsz,
                         .p_align = 4 };
        memcpy(p, &h, sizeof(h));
    }
}

struct boot_bytes image_make_elf(const struct image_elf *o)
{
    size_t len = IMAGE_ELF_BODY + o->filesz;
    uint8_t *p = calloc(1, len);
    uint16_t phnum = o->pvh ? 2 : 1;
    if (o->is64) {
        Elf64_Ehdr h = { .e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT },
                         .e_type = ET_EXEC,
                         .e_machine = EM_X86_64,
                         .e_version = EV_CURRENT,
                         .e_entry = o->entry,
                         .e_phoff = IMAGE_ELF64_PHDR,
                         .e_ehsize = sizeof(h),
                         .e_phentsize = sizeof(Elf64_Phdr),
                         .e_phnum = phnum };
        memcpy(p, &h, sizeof(h));
    } else {
        Elf32_Ehdr h = { .e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS32, ELFDATA2LSB, EV_CURRENT },
                         .e_type = ET_EXEC,
                         .e_machine = EM_386,
                         .e_version = EV_CURRENT,
                         .e_entry = (uint32_t)o->entry,
                         .e_phoff = IMAGE_ELF32_PHDR,
                         .e_ehsize = sizeof(h),
                         .e_phentsize = sizeof(Elf32_Phdr),
                         .e_phnum = phnum };
        memcpy(p, &h, sizeof(h));
    }
    size_t ph = o->is64 ? IMAGE_ELF64_PHDR : IMAGE_ELF32_PHDR;
    elf_phdr(p + ph, o, false);
    if (o->pvh) {
        elf_phdr(p + ph + (o->is64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr)), o, true);
        put32(p + 0x800, 4);
        put32(p + 0x804, 4);
        put32(p + 0x808, 18); /* XEN_ELFNOTE_PHYS32_ENTRY */
        memcpy(p + 0x80c, "Xen", 4);
        put32(p + 0x810, o->pvh_entry);
    }
    for (size_t i = 0; i < o->filesz; i++)
        p[IMAGE_ELF_BODY + i] = image_byte(i);
    if (o->multiboot)
        multiboot_header(p + IMAGE_ELF_BODY, 3, 0, 0);
    return (struct boot_bytes){ p, len };
}

static size_t pack_gzip(const struct boot_bytes *in, uint8_t *out, size_t cap)
{
    z_stream z = { .next_in = in->p, .avail_in = (uInt)in->len, .next_out = out, .avail_out = (uInt)cap };
    if (deflateInit2(&z, 9, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY) != Z_OK)
        return 0;
    bool ok = deflate(&z, Z_FINISH) == Z_STREAM_END;
    deflateEnd(&z);
    return ok ? cap - z.avail_out : 0;
}

static size_t pack_lzma(enum boot_pack k, const struct boot_bytes *in, uint8_t *out, size_t cap)
{
    lzma_options_lzma opt;
    lzma_lzma_preset(&opt, 6);
    size_t n = 0;
    if (k == PACK_XZ) {
        lzma_filter f[] = { { LZMA_FILTER_X86, NULL }, { LZMA_FILTER_LZMA2, &opt }, { LZMA_VLI_UNKNOWN, NULL } };
        return lzma_stream_buffer_encode(f, LZMA_CHECK_CRC32, NULL, in->p, in->len, out, &n, cap) == LZMA_OK ? n : 0;
    }
    lzma_stream z = LZMA_STREAM_INIT;
    if (lzma_alone_encoder(&z, &opt) != LZMA_OK)
        return 0;
    z.next_in = in->p;
    z.avail_in = in->len;
    z.next_out = out;
    z.avail_out = cap;
    bool ok = lzma_code(&z, LZMA_FINISH) == LZMA_STREAM_END;
    n = cap - z.avail_out;
    lzma_end(&z);
    return ok ? n : 0;
}

static size_t pack_lz4(const struct boot_bytes *in, uint8_t *out, size_t cap)
{
    int n = LZ4_compress_default((const char *)in->p, (char *)out + 8, (int)in->len, (int)cap - 8);
    put32(out, 0x184c2102);
    put32(out + 4, (uint32_t)n);
    return n > 0 ? (size_t)n + 8 : 0;
}

struct boot_bytes image_pack(enum boot_pack k, const struct boot_bytes *in)
{
    size_t cap = in->len * 2 + 65536, n = 0;
    uint8_t *p = malloc(cap);
    if (k == PACK_GZIP)
        n = pack_gzip(in, p, cap);
    else if (k == PACK_XZ || k == PACK_LZMA)
        n = pack_lzma(k, in, p, cap);
    else if (k == PACK_ZSTD)
        n = ZSTD_compress(p, cap, in->p, in->len, 19);
    else if (k == PACK_LZ4_LEGACY)
        n = pack_lz4(in, p, cap);
    else if (k == PACK_LZ4)
        n = LZ4F_compressFrame(p, cap, in->p, in->len, NULL);
    if (n == 0 || n > cap)
        abort();
    if (k != PACK_GZIP && k != PACK_LZ4) { /* size_append in scripts/Makefile.lib */
        put32(p + n, (uint32_t)in->len);
        n += 4;
    }
    return (struct boot_bytes){ p, n };
}

struct boot_bytes image_make_bzimage(const struct image_bz *o, const struct boot_bytes *payload)
{
    size_t code = (IMAGE_BZ_PAYLOAD + payload->len + 15) & ~15UL;
    uint8_t *p = calloc(1, IMAGE_BZ_CODE + code);
    static const char release[] = "6.1.0-test (builder) #1";
    p[0x1f1] = 1; /* setup sectors */
    put32(p + 0x1f4, (uint32_t)(code / 16));
    put16(p + 0x1fe, 0xaa55);
    put16(p + 0x200, 0x66eb); /* header ends at 0x268 */
    memcpy(p + 0x202, "HdrS", 4);
    put16(p + 0x206, o->version);
    put16(p + 0x20e, 0x280 - 0x200);
    memcpy(p + 0x280, release, sizeof(release));
    p[0x211] = 1;
    put32(p + 0x214, 0x100000);
    put32(p + 0x22c, 0x7fffffff);
    put32(p + 0x230, 0x200000);
    p[0x234] = o->relocatable;
    put16(p + 0x236, o->entry64 ? 1 : 0);
    put32(p + 0x238, o->cmdline_size);
    put32(p + 0x248, IMAGE_BZ_PAYLOAD);
    put32(p + 0x24c, (uint32_t)payload->len);
    put64(p + 0x250, 0x1234567890); /* a setup_data of the file's own must not reach the guest */
    put64(p + 0x258, 0x1000000);
    put32(p + 0x260, 0x400000);
    memcpy(p + IMAGE_BZ_CODE + IMAGE_BZ_PAYLOAD, payload->p, payload->len);
    return (struct boot_bytes){ p, IMAGE_BZ_CODE + code };
}

struct boot_bytes image_make_multiboot(uint32_t load, uint32_t len, uint32_t flags)
{
    uint8_t *p = malloc(len);
    for (size_t i = 0; i < len; i++)
        p[i] = image_byte(i);
    multiboot_header(p, flags, load, len);
    return (struct boot_bytes){ p, len };
}

bool image_write(const char *dir, const char *name, const struct boot_bytes *b, char *path)
{
    snprintf(path, 4096, "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    if (!f)
        return false;
    bool ok = fwrite(b->p, 1, b->len, f) == b->len;
    return fclose(f) == 0 && ok;
}
