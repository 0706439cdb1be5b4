/* SPDX-License-Identifier: MIT */
/*
 * struct boot_params ("zero page") and bare vmlinux files: Linux Documentation/arch/x86/boot.rst and zero-page.rst.
 * Offsets are those of the documents; the page is all zero but for what is written here.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "vm/boot/internal.h"

enum {
    ZP_ACPI_RSDP = 0x070,
    ZP_E820_ENTRIES = 0x1e8,
    ZP_SETUP = 0x1f1, /* the setup header is copied here from the same offset of the file */
    ZP_BOOT_FLAG = 0x1fe,
    ZP_HEADER = 0x202,
    ZP_VERSION = 0x206,
    ZP_TYPE_OF_LOADER = 0x210,
    ZP_LOADFLAGS = 0x211,
    ZP_CODE32_START = 0x214,
    ZP_RAMDISK_IMAGE = 0x218,
    ZP_RAMDISK_SIZE = 0x21c,
    ZP_CMD_LINE_PTR = 0x228,
    ZP_KERNEL_ALIGNMENT = 0x230,
    ZP_SETUP_DATA = 0x250,
    ZP_SETUP_END = 0x290,
    ZP_E820_TABLE = 0x2d0,
};
enum { LOADER_UNDEFINED = 0xff, LOADED_HIGH = 1, CAN_USE_HEAP = 0x80 };
enum { SETUP_RNG_SEED = 9, SEED_LEN = 32, SETUP_DATA_HEAD = 16 };
enum { CMDLINE_MAX = 2047, VMLINUX_VERSION = 0x020c, SETUP_DATA_SINCE = 0x0209 };

/* Entropy for kernels since 6.0; older ones skip what they do not know. A seed less is no failure. */
static int linux_seed(struct boot *b, uint8_t *zp, struct err *e)
{
    uint8_t d[SETUP_DATA_HEAD + SEED_LEN] = { 0 };
    if (boot_le16(zp + ZP_VERSION) < SETUP_DATA_SINCE ||
        getrandom(d + SETUP_DATA_HEAD, SEED_LEN, GRND_NONBLOCK) != SEED_LEN)
        return 0;
    boot_st32(d + 8, SETUP_RNG_SEED);
    boot_st32(d + 12, SEED_LEN);
    boot_st64(zp + ZP_SETUP_DATA, LAYOUT_SETUP_DATA);
    return boot_put(b, LAYOUT_SETUP_DATA, d, sizeof(d), e);
}

static void linux_header(const struct boot_linux *l, uint8_t *zp)
{
    if (l->setup) {
        size_t n = l->setup_len < ZP_SETUP_END - ZP_SETUP ? l->setup_len : ZP_SETUP_END - ZP_SETUP;
        memcpy(zp + ZP_SETUP, l->setup, n);
    } else {
        boot_st16(zp + ZP_BOOT_FLAG, 0xaa55);
        memcpy(zp + ZP_HEADER, "HdrS", 4);
        boot_st16(zp + ZP_VERSION, VMLINUX_VERSION);
        boot_st32(zp + ZP_KERNEL_ALIGNMENT, 0x1000000);
    }
    zp[ZP_TYPE_OF_LOADER] = LOADER_UNDEFINED;
    zp[ZP_LOADFLAGS] = (uint8_t)((zp[ZP_LOADFLAGS] | LOADED_HIGH) & ~CAN_USE_HEAP);
    if (l->code32_start)
        boot_st32(zp + ZP_CODE32_START, (uint32_t)l->code32_start);
    boot_st64(zp + ZP_SETUP_DATA, 0); /* a pointer that the file brought along is not ours to pass on */
}

int boot_linux_params(struct boot *b, const struct boot_linux *l, struct err *e)
{
    uint8_t zp[PAGE_SIZE / 4] = { 0 }; /* all that is not zero is in the first kilobyte */
    struct boot_e820 map[E820_MAX];
    unsigned n = boot_e820(b->mem, map);
    _Static_assert(ZP_E820_TABLE + E820_MAX * 20 <= sizeof(zp), "the memory map fits");
    int r = boot_cmdline(b, "", true, l->cmdline_max, e);
    if (r == 0)
        r = boot_initrd(b, l->initrd_max + 1, e);
    if (r < 0)
        return r;
    linux_header(l, zp);
    boot_st64(zp + ZP_ACPI_RSDP, b->info->rsdp);
    boot_st32(zp + ZP_RAMDISK_IMAGE, (uint32_t)b->info->initrd);
    boot_st32(zp + ZP_RAMDISK_SIZE, (uint32_t)b->info->initrd_len);
    boot_st32(zp + ZP_CMD_LINE_PTR, (uint32_t)b->info->cmdline);
    zp[ZP_E820_ENTRIES] = (uint8_t)n;
    for (unsigned i = 0; i < n; i++) {
        uint8_t *p = zp + ZP_E820_TABLE + i * 20;
        boot_st64(p, map[i].addr);
        boot_st64(p + 8, map[i].len);
        boot_st32(p + 16, map[i].type);
    }
    r = linux_seed(b, zp, e);
    return r < 0 ? r : boot_put(b, LAYOUT_ZERO_PAGE, zp, sizeof(zp), e);
}

int boot_linux_enter(struct boot *b, gpa_t entry, bool is64, struct err *e)
{
    int r = is64 ? boot_enter_long(b, entry, e) : boot_enter_prot(b, entry, e);
    b->cpu->gpr[X86_RSI] = LAYOUT_ZERO_PAGE;
    b->info->entry = entry;
    return r;
}

int boot_vmlinux(struct boot *b, const struct boot_elf *elf, const char *from, struct err *e)
{
    const struct boot_linux l = { .initrd_max = elf->is64 ? UINT32_MAX : 0x37ffffff, .cmdline_max = CMDLINE_MAX };
    char what[256];
    snprintf(what, sizeof(what), "kernel '%.200s'", b->name);
    gpa_t entry;
    int r = boot_elf_load(b, elf, LAYOUT_HIGH, e);
    if (r == 0)
        r = boot_elf_entry(elf, what, &entry, e);
    if (r == 0)
        r = boot_linux_params(b, &l, e);
    if (r == 0)
        r = boot_linux_enter(b, entry, elf->is64, e);
    b->info->kind = BOOT_LINUX;
    snprintf(b->info->how, sizeof(b->info->how), "%s, Linux %s-bit entry", from, elf->is64 ? "64" : "32");
    return r;
}
