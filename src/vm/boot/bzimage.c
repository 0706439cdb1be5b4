/* SPDX-License-Identifier: MIT */
/*
 * bzImage: Linux Documentation/arch/x86/boot.rst. The payload is unpacked on the host, which is many times faster than
 * letting an emulated guest do it, and its vmlinux is entered directly. It lies at its preferred address, so
 * no relocations are needed (and the kernel's own address randomisation, which lives in the stub, does not happen). A
 * payload of unknown kind is left to the image's own stub.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vm/boot/internal.h"

enum {
    HDR_START = 0x1f1, /* setup_sects */
    HDR_SYSSIZE = 0x1f4,
    HDR_BOOT_FLAG = 0x1fe,
    HDR_JUMP_LEN = 0x201,
    HDR_MAGIC = 0x202,
    HDR_VERSION = 0x206,
    HDR_KERNEL_VERSION = 0x20e,
    HDR_LOADFLAGS = 0x211,
    HDR_CODE32_START = 0x214,
    HDR_INITRD_ADDR_MAX = 0x22c,
    HDR_KERNEL_ALIGNMENT = 0x230,
    HDR_RELOCATABLE = 0x234,
    HDR_XLOADFLAGS = 0x236,
    HDR_CMDLINE_SIZE = 0x238,
    HDR_PAYLOAD_OFFSET = 0x248,
    HDR_PAYLOAD_LENGTH = 0x24c,
    HDR_PREF_ADDRESS = 0x258,
    HDR_INIT_SIZE = 0x260,
    HDR_MIN = 0x268, /* so many bytes any bzImage has */
};
enum { LOADED_HIGH = 1, XLF_KERNEL_64 = 1, ENTRY64 = 0x200 };
#define UNPACKED_MAX (1UL << 30)

/* The header with the defaults of older protocols filled in. */
struct bz {
    uint8_t *code; /* the protected-mode part */
    size_t code_len;
    unsigned version;
    bool relocatable, entry64;
    uint64_t align, pref, init_size;
    size_t payload_off, payload_len; /* 0: not told */
    char release[64];
    struct boot_linux l;
};

bool boot_is_bzimage(const uint8_t *p, size_t len)
{
    return len >= HDR_VERSION && boot_le16(p + HDR_BOOT_FLAG) == 0xaa55 && !memcmp(p + HDR_MAGIC, "HdrS", 4);
}

static void bz_release(struct bz *z, const uint8_t *p, size_t setup_len)
{
    size_t off = boot_le16(p + HDR_KERNEL_VERSION), n = 0;
    if (off)
        for (off += 0x200; off < setup_len && n < sizeof(z->release) - 1 && p[off] > ' ' && p[off] < 0x7f; off++)
            z->release[n++] = (char)p[off];
    z->release[n] = '\0';
}

static void bz_fields(struct bz *z, const uint8_t *p)
{
    unsigned v = z->version;
    z->l.initrd_max = v >= 0x203 ? boot_le32(p + HDR_INITRD_ADDR_MAX) : 0x37ffffff;
    z->l.cmdline_max = v >= 0x206 ? boot_le32(p + HDR_CMDLINE_SIZE) : 255;
    z->relocatable = v >= 0x205 && p[HDR_RELOCATABLE];
    z->align = v >= 0x205 ? boot_le32(p + HDR_KERNEL_ALIGNMENT) : 0;
    z->pref = v >= 0x20a ? boot_le64(p + HDR_PREF_ADDRESS) : 0;
    z->init_size = v >= 0x20a ? boot_le32(p + HDR_INIT_SIZE) : 0;
    z->entry64 = v >= 0x20c && boot_le16(p + HDR_XLOADFLAGS) & XLF_KERNEL_64;
    if (v >= 0x208) {
        z->payload_off = boot_le32(p + HDR_PAYLOAD_OFFSET);
        z->payload_len = boot_le32(p + HDR_PAYLOAD_LENGTH);
    }
}

static int bz_parse(const struct boot *b, struct bz *z, struct err *e)
{
    uint8_t *p = b->kernel.p;
    size_t len = b->kernel.len;
    if (len < HDR_MIN)
        return err_set(e, EINVAL, "kernel '%.200s' is a truncated bzImage: %zu bytes do not hold its header", b->name,
                       len);
    z->version = boot_le16(p + HDR_VERSION);
    if (z->version < 0x202)
        return err_set(e, EINVAL,
                       "kernel '%.200s' has Linux boot protocol %u.%02u; 2.02 (Linux 2.4) or newer is needed", b->name,
                       z->version >> 8, z->version & 0xff);
    if (!(p[HDR_LOADFLAGS] & LOADED_HIGH))
        return err_set(e, EINVAL, "kernel '%.200s' is a zImage, which loads below 640 KiB; a bzImage is needed",
                       b->name);
    size_t setup = (size_t)((p[HDR_START] ? p[HDR_START] : 4) + 1) * 512;
    if (len <= setup)
        return err_set(e, EINVAL,
                       "kernel '%.200s' is a truncated bzImage: it ends inside its setup code, at %zu of %zu", b->name,
                       len, setup);
    z->code = p + setup;
    z->code_len = len - setup;
    size_t want = z->version >= 0x204 ? (size_t)boot_le32(p + HDR_SYSSIZE) * 16 : 0;
    if (want > z->code_len + 15)
        return err_set(e, EINVAL,
                       "kernel '%.200s' is a truncated bzImage: it has %zu bytes of code, its header says %zu", b->name,
                       z->code_len, want);
    bz_fields(z, p);
    if (z->payload_len && !boot_within(z->payload_off, z->payload_len, z->code_len))
        return err_set(e, EINVAL,
                       "kernel '%.200s' is damaged: its payload (%#zx+%#zx) is not inside its %#zx bytes of code",
                       b->name, z->payload_off, z->payload_len, z->code_len);
    bz_release(z, p, setup);
    z->l.setup = p + HDR_START;
    size_t end = (size_t)HDR_MAGIC + p[HDR_JUMP_LEN];
    z->l.setup_len = end - HDR_START; /* < len: setup code is at least 1 KiB */
    return 0;
}

/*
 * The vmlinux inside. out->p NULL: unknown to us, let the stub do it. A payload that is of a known kind but broken is
 * an error: the stub could only fail later and less clearly.
 */
static int bz_vmlinux(struct boot *b, const struct bz *z, struct boot_bytes *out, enum boot_pack *kind, struct err *e)
{
    *out = (struct boot_bytes){ 0 };
    *kind = PACK_NONE;
    if (!z->payload_len)
        return 0;
    const uint8_t *p = z->code + z->payload_off;
    if (boot_is_elf(p, z->payload_len)) {
        uint8_t *copy = malloc(z->payload_len);
        if (!copy)
            return err_set(e, ENOMEM, "no memory to read kernel '%.200s'", b->name);
        memcpy(copy, p, z->payload_len);
        *out = (struct boot_bytes){ copy, z->payload_len };
        return 0;
    }
    *kind = boot_pack_kind(p, z->payload_len);
    if (!boot_pack_known(*kind))
        return 0;
    struct err why = { 0 };
    const struct boot_bytes payload = { z->code + z->payload_off, z->payload_len };
    size_t limit = mem_low_end(b->mem) < UNPACKED_MAX ? mem_low_end(b->mem) : UNPACKED_MAX;
    int r = boot_unpack(*kind, &payload, limit, out, &why);
    if (r < 0)
        return err_set(e, -r, "kernel '%.200s': %.200s", b->name, why.text);
    if (!boot_is_elf(out->p, out->len))
        boot_bytes_free(out);
    return 0;
}

static int bz_direct(struct boot *b, struct bz *z, const struct boot_bytes *vmlinux, const char *pack, struct err *e)
{
    struct boot_elf *elf = calloc(1, sizeof(*elf));
    if (!elf)
        return err_set(e, ENOMEM, "no memory to read kernel '%.200s'", b->name);
    char what[256], from[128];
    gpa_t entry;
    snprintf(what, sizeof(what), "the vmlinux inside kernel '%.200s'", b->name);
    snprintf(from, sizeof(from), "bzImage %s, %s payload", z->release, pack);
    int r = boot_elf_parse(elf, vmlinux, what, e);
    if (r == 0 && b->cfg->kind == BOOT_PVH) {
        r = elf->has_pvh ? boot_pvh(b, elf, from, e)
                         : err_set(e, EINVAL, "kernel '%.200s' has no PVH entry note", b->name);
        goto out;
    }
    if (r == 0)
        r = boot_elf_load(b, elf, LAYOUT_HIGH, e);
    if (r == 0)
        r = boot_elf_entry(elf, what, &entry, e);
    if (r == 0)
        r = boot_linux_params(b, &z->l, e);
    if (r == 0)
        r = boot_linux_enter(b, entry, elf->is64, e);
    b->info->kind = BOOT_LINUX;
    snprintf(b->info->how, sizeof(b->info->how), "%s, %s-bit entry", from, elf->is64 ? "64" : "32");
out:
    free(elf);
    return r;
}

/* Where the stub goes: where the kernel wants to be if it can move, else where its header says (1 MiB). */
static int bz_stub_address(const struct boot *b, const struct bz *z, gpa_t *load, struct err *e)
{
    *load = boot_le32(b->kernel.p + HDR_CODE32_START);
    if (*load < LAYOUT_HIGH)
        *load = LAYOUT_HIGH;
    if (!z->relocatable)
        return 0;
    if (z->align == 0 || (z->align & (z->align - 1)) || z->align > 1UL << 30)
        return err_set(e, EINVAL,
                       "kernel '%.200s' is damaged: its alignment %#" PRIx64 " is no power of two up to 1 GiB", b->name,
                       z->align);
    gpa_t want = z->pref > LAYOUT_HIGH ? z->pref : LAYOUT_HIGH;
    if (want > UINT32_MAX)
        return err_set(e, EINVAL, "kernel '%.200s' is damaged: it prefers address %#" PRIx64 ", above 4 GiB", b->name,
                       z->pref);
    *load = (want + z->align - 1) & ~(z->align - 1);
    return 0;
}

static int bz_stub(struct boot *b, struct bz *z, const char *pack, struct err *e)
{
    gpa_t load;
    int r = bz_stub_address(b, z, &load, e);
    if (r < 0)
        return r;
    uint64_t room = z->code_len > z->init_size ? z->code_len : z->init_size;
    r = boot_claim(b, load, room, "the kernel", e);
    if (r == 0)
        r = boot_put(b, load, z->code, z->code_len, e);
    z->l.code32_start = load;
    if (r == 0)
        r = boot_linux_params(b, &z->l, e);
    if (r == 0)
        r = boot_linux_enter(b, z->entry64 ? load + ENTRY64 : load, z->entry64, e);
    b->info->kind = BOOT_STUB;
    b->info->kernel_start = load;
    b->info->kernel_end = load + room;
    snprintf(b->info->how, sizeof(b->info->how), "bzImage %s, %s payload, its own stub's %s-bit entry", z->release,
             pack, z->entry64 ? "64" : "32");
    return r;
}

int boot_bzimage(struct boot *b, struct err *e)
{
    struct bz z = { 0 };
    struct boot_bytes vmlinux = { 0 };
    enum boot_pack kind = PACK_NONE;
    int r = bz_parse(b, &z, e);
    if (r < 0)
        return r;
    if (b->cfg->kind != BOOT_STUB) {
        r = bz_vmlinux(b, &z, &vmlinux, &kind, e);
        if (r < 0)
            return r;
        if (!vmlinux.p && b->cfg->kind == BOOT_PVH)
            return err_set(e, EINVAL, "kernel '%.200s' has a payload that gazda cannot unpack, so no PVH entry",
                           b->name);
    } else if (z.payload_len) {
        kind = boot_pack_kind(z.code + z.payload_off, z.payload_len);
    }
    const char *pack = boot_pack_name(kind);
    r = vmlinux.p ? bz_direct(b, &z, &vmlinux, pack, e) : bz_stub(b, &z, pack, e);
    boot_bytes_free(&vmlinux);
    return r;
}
