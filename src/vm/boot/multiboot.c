/* SPDX-License-Identifier: MIT */
/*
 * Multiboot Specification 0.6.96 (version 1): header in the first 8 KiB, image by the header's addresses or as ELF,
 * one module per initrd. We give: memory sizes and map, command line, modules, loader name. We have no video mode to
 * give; a header that asks for one is served without (the information structure says so).
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vm/boot/internal.h"

#define MB_MAGIC 0x1badb002U
#define MB_BOOTED 0x2badb002U

enum { MB_SEARCH = 8192, MB_MODULES_MAX = 64, MB_MMAP_ENTRY = 24, MB_MOD_ENTRY = 16 };
enum { HDR_PAGE_ALIGN = 1, HDR_MEMINFO = 2, HDR_VIDEO = 4, HDR_KLUDGE = 1 << 16, HDR_REQUIRED = 0xffff };
enum { INFO_MEM = 1, INFO_CMDLINE = 4, INFO_MODS = 8, INFO_MMAP = 64, INFO_LOADER = 512 };
enum { /* inside LAYOUT_MB_INFO */ INFO_AT = 0, MMAP_AT = 0x80, MODS_AT = 0x200, NAME_AT = 0x700 };
static const char mb_name[] = "gazda";

bool boot_multiboot_find(const uint8_t *p, size_t len, size_t *off)
{
    size_t end = len < MB_SEARCH ? len : MB_SEARCH;
    for (size_t o = 0; o + 12 <= end; o += 4)
        if (boot_le32(p + o) == MB_MAGIC && boot_le32(p + o) + boot_le32(p + o + 4) + boot_le32(p + o + 8) == 0) {
            *off = o;
            return true;
        }
    return false;
}

/* Image placed by the addresses of the header ("a.out kludge"). */
static int mb_load_kludge(struct boot *b, size_t header, gpa_t *entry, struct err *e)
{
    const uint8_t *p = b->kernel.p + header;
    if (!boot_within(header, 32, b->kernel.len))
        return err_set(e, EINVAL, "kernel '%.200s': its multiboot header is truncated", b->name);
    uint64_t header_addr = boot_le32(p + 12), load = boot_le32(p + 16), load_end = boot_le32(p + 20);
    uint64_t bss_end = boot_le32(p + 24);
    *entry = boot_le32(p + 28);
    if (header_addr < load || header_addr - load > header)
        return err_set(e, EINVAL,
                       "kernel '%.200s': its multiboot header lies at file offset %#zx, which does not fit its "
                       "addresses (header %#" PRIx64 ", load %#" PRIx64 ")",
                       b->name, header, header_addr, load);
    uint64_t from = header - (header_addr - load);
    uint64_t n = load_end ? load_end - load : b->kernel.len - from;
    if (load_end && load_end < load)
        return err_set(e, EINVAL, "kernel '%.200s' is damaged: its multiboot header ends loading before it begins",
                       b->name);
    if (!boot_within(from, n, b->kernel.len))
        return err_set(e, EINVAL,
                       "kernel '%.200s' is truncated or damaged: its multiboot header asks for %#" PRIx64
                       " bytes from offset %#" PRIx64 ", the file has %#zx",
                       b->name, n, from, b->kernel.len);
    uint64_t total = n;
    if (bss_end && bss_end >= load + n)
        total = bss_end - load;
    else if (bss_end)
        return err_set(e, EINVAL, "kernel '%.200s' is damaged: its multiboot bss ends before its data", b->name);
    if (*entry < load || *entry - load >= total)
        return err_set(e, EINVAL, "kernel '%.200s': its entry %#" PRIx64 " is outside the image", b->name, *entry);
    int r = boot_claim(b, load, total, "the kernel", e);
    if (r == 0)
        r = boot_put(b, load, b->kernel.p + from, n, e);
    b->info->kernel_start = load;
    b->info->kernel_end = load + total;
    return r;
}

static int mb_load_elf(struct boot *b, gpa_t *entry, struct err *e)
{
    struct boot_elf *elf = calloc(1, sizeof(*elf));
    if (!elf)
        return err_set(e, ENOMEM, "no memory to read kernel '%.200s'", b->name);
    char what[256];
    snprintf(what, sizeof(what), "kernel '%.200s'", b->name);
    int r = boot_elf_parse(elf, &b->kernel, what, e);
    if (r == 0)
        r = boot_elf_load(b, elf, 0, e);
    if (r == 0)
        r = boot_elf_entry(elf, what, entry, e);
    free(elf);
    return r;
}

/*
 * "FILE ARGUMENT..." names a file and is the module's whole string, as with GRUB and QEMU, unless a file has that very
 * name. Returns the length of the path.
 */
static size_t mb_path_len(const char *text)
{
    const char *space = strchr(text, ' ');
    return space && access(text, F_OK) < 0 ? (size_t)(space - text) : strlen(text);
}

static int mb_module_open(struct boot *b, const char *text, struct boot_file *f, struct err *e)
{
    char *path = strndup(text, mb_path_len(text));
    if (!path)
        return err_set(e, ENOMEM, "no memory to read module '%.200s'", text);
    f->path = path;
    int r = boot_file_open(f, "module", mem_low_end(b->mem), e);
    f->path = text; /* for messages */
    free(path);
    return r;
}

/* Loads the modules downwards from the end of low RAM, page-aligned, and writes their list and strings. */
static int mb_modules(struct boot *b, struct err *e)
{
    const struct boot_config *cfg = b->cfg;
    gpa_t str = LAYOUT_CMDLINE + b->info->cmdline_len + 1;
    if (cfg->n_initrds > MB_MODULES_MAX)
        return err_set(e, EINVAL, "%u modules: at most %d are possible", cfg->n_initrds, MB_MODULES_MAX);
    for (unsigned i = 0; i < cfg->n_initrds; i++) {
        const char *path = cfg->initrds[i];
        size_t n = strlen(path) + 1;
        if (n > LAYOUT_CMDLINE + LAYOUT_CMDLINE_LEN - str)
            return err_set(e, EINVAL, "the names of the modules are too long");
        struct boot_file f;
        int r = mb_module_open(b, path, &f, e);
        if (r < 0)
            return r;
        gpa_t at = boot_find_high(b, f.len, MEM_GAP_START);
        r = at ? boot_claim(b, at, f.len, "a module", e)
               : err_set(e, EFBIG, "no room for module '%.200s': %" PRIu64 " KiB do not fit beside the kernel", path,
                         f.len >> 10);
        if (r == 0)
            r = boot_file_to_mem(b, &f, at, e);
        close(f.fd);
        uint8_t mod[MB_MOD_ENTRY] = { 0 };
        boot_st32(mod, (uint32_t)at);
        boot_st32(mod + 4, (uint32_t)(at + f.len));
        boot_st32(mod + 8, (uint32_t)str);
        if (r == 0)
            r = boot_put(b, str, path, n, e);
        if (r == 0)
            r = boot_put(b, LAYOUT_MB_INFO + MODS_AT + i * MB_MOD_ENTRY, mod, sizeof(mod), e);
        if (r < 0)
            return r;
        str += n;
        b->info->initrd = at;
        b->info->initrd_len += f.len;
    }
    return 0;
}

static int mb_info(struct boot *b, struct err *e)
{
    uint8_t info[MMAP_AT + E820_MAX * MB_MMAP_ENTRY] = { 0 };
    struct boot_e820 map[E820_MAX];
    unsigned n = boot_e820(b->mem, map);
    _Static_assert(sizeof(info) <= MODS_AT && MODS_AT + MB_MODULES_MAX * MB_MOD_ENTRY <= NAME_AT, "the parts fit");
    boot_st32(info, INFO_MEM | INFO_CMDLINE | INFO_MODS | INFO_MMAP | INFO_LOADER);
    boot_st32(info + 4, LAYOUT_EBDA >> 10);
    boot_st32(info + 8, (uint32_t)((mem_low_end(b->mem) - LAYOUT_HIGH) >> 10));
    boot_st32(info + 16, (uint32_t)b->info->cmdline);
    boot_st32(info + 20, b->cfg->n_initrds);
    boot_st32(info + 24, LAYOUT_MB_INFO + MODS_AT);
    boot_st32(info + 44, n * MB_MMAP_ENTRY);
    boot_st32(info + 48, LAYOUT_MB_INFO + MMAP_AT);
    boot_st32(info + 64, LAYOUT_MB_INFO + NAME_AT);
    for (unsigned i = 0; i < n; i++) {
        uint8_t *m = info + MMAP_AT + i * MB_MMAP_ENTRY;
        boot_st32(m, MB_MMAP_ENTRY - 4); /* the size does not count itself */
        boot_st64(m + 4, map[i].addr);
        boot_st64(m + 12, map[i].len);
        boot_st32(m + 20, map[i].type);
    }
    int r = boot_put(b, LAYOUT_MB_INFO, info, sizeof(info), e);
    return r < 0 ? r : boot_put(b, LAYOUT_MB_INFO + NAME_AT, mb_name, sizeof(mb_name), e);
}

int boot_multiboot(struct boot *b, size_t header, struct err *e)
{
    uint32_t flags = boot_le32(b->kernel.p + header + 4);
    uint32_t unknown = flags & HDR_REQUIRED & ~(uint32_t)(HDR_PAGE_ALIGN | HDR_MEMINFO | HDR_VIDEO);
    if (unknown)
        return err_set(e, EINVAL, "kernel '%.200s' requires multiboot features %#" PRIx32 " that gazda does not have",
                       b->name, unknown);
    gpa_t entry;
    int r;
    if (flags & HDR_KLUDGE)
        r = mb_load_kludge(b, header, &entry, e);
    else if (boot_is_elf(b->kernel.p, b->kernel.len))
        r = mb_load_elf(b, &entry, e);
    else
        r = err_set(e, EINVAL, "kernel '%.200s' has a multiboot header but neither load addresses nor an ELF image",
                    b->name);
    char prefix[256];
    snprintf(prefix, sizeof(prefix), "%.200s%s", b->name, b->cfg->append && *b->cfg->append ? " " : "");
    if (r == 0)
        r = boot_cmdline(b, prefix, false, LAYOUT_CMDLINE_LEN / 2, e);
    if (r == 0)
        r = mb_modules(b, e);
    if (r == 0)
        r = mb_info(b, e);
    if (r == 0)
        r = boot_enter_prot(b, entry, e);
    if (r < 0)
        return r;
    b->cpu->gpr[X86_RAX] = MB_BOOTED;
    b->cpu->gpr[X86_RBX] = LAYOUT_MB_INFO;
    b->info->kind = BOOT_MULTIBOOT;
    b->info->entry = entry;
    snprintf(b->info->how, sizeof(b->info->how), "multiboot image, %s, %u modules",
             flags & HDR_KLUDGE ? "loaded by its header" : "ELF", b->cfg->n_initrds);
    return 0;
}
