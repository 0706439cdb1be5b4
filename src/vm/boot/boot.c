/* SPDX-License-Identifier: MIT */
/*
 * The order of a boot: read the kernel, find out what it is, put platform tables, let its format load and enter it.
 * Formats are told apart by content only; a new one adds its test in boot_detect and its loader in boot_dispatch.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vm/boot/internal.h"

#define KERNEL_FILE_MAX (1UL << 30)
#define KERNEL_UNPACKED_MAX (1UL << 30)

int boot_claim(struct boot *b, gpa_t start, uint64_t len, const char *what, struct err *e)
{
    if (len == 0)
        return 0;
    if (len > UINT64_MAX - start || !mem_is_ram(b->mem, start, len))
        return err_set(e, EINVAL,
                       "%s wants addresses %#" PRIx64 "..%#" PRIx64 ", which are not all RAM (RAM is 0..%#" PRIx64
                       "%s); give the guest more memory or use another kernel",
                       what, start, len > UINT64_MAX - start ? UINT64_MAX : start + len - 1, mem_low_end(b->mem) - 1,
                       mem_high_end(b->mem) > MEM_GAP_END ? " and from 4 GiB" : "");
    for (unsigned i = 0; i < b->n_claims; i++) {
        const struct boot_claim *c = &b->claims[i];
        if (start < c->end && c->start < start + len)
            return err_set(e, EINVAL,
                           "%s wants addresses %#" PRIx64 "..%#" PRIx64 ", but %#" PRIx64 "..%#" PRIx64 " hold %s",
                           what, start, start + len - 1, c->start, c->end - 1, c->what);
    }
    if (b->n_claims == BOOT_CLAIMS_MAX)
        return err_set(e, EINVAL, "%s: too many pieces to load (at most %d)", what, BOOT_CLAIMS_MAX);
    b->claims[b->n_claims++] = (struct boot_claim){ start, start + len, what };
    return 0;
}

gpa_t boot_find_high(const struct boot *b, uint64_t len, gpa_t limit)
{
    gpa_t top = mem_low_end(b->mem) < limit ? mem_low_end(b->mem) : limit;
    for (;;) {
        if (top < LAYOUT_HIGH || len > top - LAYOUT_HIGH)
            return 0;
        gpa_t start = (top - len) & PAGE_MASK;
        const struct boot_claim *hit = NULL;
        for (unsigned i = 0; i < b->n_claims; i++) {
            const struct boot_claim *c = &b->claims[i];
            if (start < c->end && c->start < start + len && (!hit || c->start < hit->start))
                hit = c;
        }
        if (!hit)
            return start >= LAYOUT_HIGH ? start : 0;
        top = hit->start; /* strictly lower each time round */
    }
}

int boot_put(struct boot *b, gpa_t gpa, const void *p, uint64_t len, struct err *e)
{
    int r = mem_write(b->mem, gpa, p, len);
    return r < 0 ? err_set(e, -r, "cannot write guest memory at %#" PRIx64, gpa) : 0;
}

unsigned boot_e820(const struct mem *m, struct boot_e820 map[E820_MAX])
{
    unsigned n = 0;
    map[n++] = (struct boot_e820){ 0, LAYOUT_EBDA, E820_RAM };
    map[n++] = (struct boot_e820){ LAYOUT_EBDA, LAYOUT_VGA_HOLE - LAYOUT_EBDA, E820_RESERVED };
    map[n++] = (struct boot_e820){ LAYOUT_ACPI, LAYOUT_ACPI_END - LAYOUT_ACPI, E820_RESERVED };
    if (mem_low_end(m) > LAYOUT_HIGH)
        map[n++] = (struct boot_e820){ LAYOUT_HIGH, mem_low_end(m) - LAYOUT_HIGH, E820_RAM };
    if (mem_high_end(m) > MEM_GAP_END)
        map[n++] = (struct boot_e820){ MEM_GAP_END, mem_high_end(m) - MEM_GAP_END, E820_RAM };
    return n;
}

/* A kernel that was compressed as a whole (vmlinux.gz and the like) is replaced by what it holds. */
static int boot_unwrap(struct boot *b, const char **wrap, struct err *e)
{
    enum boot_pack k = boot_pack_kind(b->kernel.p, b->kernel.len);
    *wrap = "";
    if (k == PACK_NONE)
        return 0;
    if (!boot_pack_known(k))
        return err_set(e, EINVAL, "kernel '%.200s' is compressed with %s; unpack it first", b->name, boot_pack_name(k));
    struct boot_bytes out;
    struct err why = { 0 };
    uint64_t limit = mem_low_end(b->mem) < KERNEL_UNPACKED_MAX ? mem_low_end(b->mem) : KERNEL_UNPACKED_MAX;
    int r = boot_unpack(k, &b->kernel, limit, &out, &why);
    if (r < 0)
        return err_set(e, -r, "kernel '%.200s': %.200s", b->name, why.text);
    boot_bytes_free(&b->kernel);
    b->kernel = out;
    *wrap = boot_pack_name(k);
    return 0;
}

/* The sentence for a file that is nothing we can boot, naming what it looks like. */
static int boot_unknown(const struct boot *b, const char *wrap, struct err *e)
{
    const uint8_t *p = b->kernel.p;
    size_t len = b->kernel.len;
    const char *looks = "";
    if (len >= 2 && p[0] == '#' && p[1] == '!')
        looks = "; it looks like a script";
    else if (len >= 2 && p[0] == 'M' && p[1] == 'Z')
        looks = "; it looks like an EFI or DOS program without a Linux header";
    else if (len >= 512 && boot_le16(p + 0x1fe) == 0xaa55)
        looks = "; it looks like a boot sector or a disk image (a raw image needs flat:real@0x7c00)";
    else if (len >= 6 && (!memcmp(p, "070701", 6) || !memcmp(p, "070702", 6)))
        looks = "; it looks like a cpio archive, which is an initrd";
    return err_set(e, EINVAL, "kernel '%.200s'%s%s is neither a bzImage, an x86 ELF kernel nor a multiboot image%s",
                   b->name, *wrap ? " unpacked from " : "", wrap, looks);
}

static int boot_elf_kernel(struct boot *b, enum boot_kind kind, struct err *e)
{
    struct boot_elf *elf = calloc(1, sizeof(*elf));
    if (!elf)
        return err_set(e, ENOMEM, "no memory to read kernel '%.200s'", b->name);
    char what[256];
    snprintf(what, sizeof(what), "kernel '%.200s'", b->name);
    size_t header;
    int r = boot_elf_parse(elf, &b->kernel, what, e);
    if (r < 0)
        goto out;
    if (kind == BOOT_PVH && !elf->has_pvh)
        r = err_set(e, EINVAL, "kernel '%.200s' has no PVH entry note", b->name);
    else if (kind == BOOT_PVH || (kind == BOOT_AUTO && elf->has_pvh))
        r = boot_pvh(b, elf, "vmlinux", e);
    else if (kind == BOOT_AUTO && boot_multiboot_find(b->kernel.p, b->kernel.len, &header))
        r = boot_multiboot(b, header, e);
    else
        r = boot_vmlinux(b, elf, "vmlinux", e);
out:
    free(elf);
    return r;
}

static int boot_dispatch(struct boot *b, struct err *e)
{
    enum boot_kind kind = b->cfg->kind;
    if (kind == BOOT_FLAT16 || kind == BOOT_FLAT32 || kind == BOOT_FLAT64)
        return boot_flat(b, e);

    const char *wrap;
    size_t header;
    int r = boot_unwrap(b, &wrap, e);
    if (r < 0)
        return r;
    const uint8_t *p = b->kernel.p;
    size_t len = b->kernel.len;
    bool bz = boot_is_bzimage(p, len);
    if (kind == BOOT_MULTIBOOT) {
        if (!boot_multiboot_find(p, len, &header))
            return err_set(e, EINVAL, "kernel '%.200s' has no multiboot header in its first 8 KiB", b->name);
        return boot_multiboot(b, header, e);
    }
    if (bz)
        return boot_bzimage(b, e);
    if (kind == BOOT_STUB)
        return err_set(e, EINVAL, "kernel '%.200s' is not a bzImage, so it has no decompressor stub", b->name);
    if (boot_is_elf(p, len))
        return boot_elf_kernel(b, kind, e);
    if (kind == BOOT_AUTO && boot_multiboot_find(p, len, &header))
        return boot_multiboot(b, header, e);
    return boot_unknown(b, wrap, e);
}

/* What every guest gets, whatever it is: the low memory we use, BIOS data area, MP table, ACPI. */
static int boot_platform(struct boot *b, struct err *e)
{
    int r = boot_claim(b, 0, LAYOUT_LOW_END, "the interrupt vectors and BIOS data area", e);
    if (r == 0)
        r = boot_claim(b, LAYOUT_PVH_INFO, LAYOUT_BOOT_END - LAYOUT_PVH_INFO, "the boot information and page tables",
                       e);
    if (r == 0)
        r = boot_claim(b, LAYOUT_CMDLINE, LAYOUT_CMDLINE_LEN, "the command line", e);
    if (r == 0)
        r = boot_claim(b, LAYOUT_EBDA, LAYOUT_ACPI_END - LAYOUT_EBDA, "the EBDA, video hole and ACPI tables", e);
    if (r < 0)
        return r;
    uint8_t word[2];
    boot_st16(word, LAYOUT_EBDA >> 4);
    r = boot_put(b, LAYOUT_BDA + 0x0e, word, 2, e); /* segment of the EBDA */
    boot_st16(word, LAYOUT_EBDA >> 10);
    if (r == 0)
        r = boot_put(b, LAYOUT_BDA + 0x13, word, 2, e); /* base memory in KiB */
    if (r == 0 && !b->cfg->no_mptable)
        r = boot_mptable(b, e);
    if (r == 0 && !b->cfg->no_acpi)
        r = boot_acpi(b, e);
    return r;
}

int boot_load(const struct boot_config *cfg, struct mem *mem, struct cpu_state *bsp, struct boot_info *out,
              struct err *e)
{
    if (!cfg->kernel)
        return err_set(e, EINVAL, "no kernel given");
    if (cfg->cpus < 1 || cfg->cpus > 32)
        return err_set(e, EINVAL, "%u CPUs: 1 to 32 are possible", cfg->cpus);
    struct boot *b = calloc(1, sizeof(*b));
    if (!b)
        return err_set(e, ENOMEM, "no memory to boot");
    memset(out, 0, sizeof(*out));
    b->cfg = cfg;
    b->mem = mem;
    b->cpu = bsp;
    b->info = out;
    b->name = cfg->kernel;
    int r = boot_platform(b, e);
    if (r == 0)
        r = boot_file_read(cfg->kernel, "kernel", KERNEL_FILE_MAX < mem_size(mem) ? KERNEL_FILE_MAX : mem_size(mem),
                           &b->kernel, e);
    if (r == 0)
        r = boot_dispatch(b, e);
    boot_bytes_free(&b->kernel);
    free(b->cmdline);
    free(b);
    return r;
}

/* "0x100000" or "65536" up to end; false on anything else. */
static bool parse_addr(const char *s, char end, const char **rest, gpa_t *out)
{
    char *stop;
    if (*s < '0' || *s > '9')
        return false;
    errno = 0;
    unsigned long long v = strtoull(s, &stop, 0);
    if (errno || (*stop && *stop != end))
        return false;
    *out = v;
    *rest = stop;
    return true;
}

int boot_parse_kind(const char *text, struct boot_config *cfg, struct err *e)
{
    static const struct {
        const char *name;
        enum boot_kind kind;
    } kinds[] = { { "auto", BOOT_AUTO },
                  { "linux", BOOT_LINUX },
                  { "stub", BOOT_STUB },
                  { "pvh", BOOT_PVH },
                  { "multiboot", BOOT_MULTIBOOT } },
      flats[] = { { "flat:real@", BOOT_FLAT16 }, { "flat:prot@", BOOT_FLAT32 }, { "flat:long@", BOOT_FLAT64 } };
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
        if (!strcmp(text, kinds[i].name)) {
            cfg->kind = kinds[i].kind;
            return 0;
        }
    for (size_t i = 0; i < ARRAY_LEN(flats); i++) {
        size_t n = strlen(flats[i].name);
        const char *rest;
        gpa_t addr, entry;
        if (strncmp(text, flats[i].name, n) || !parse_addr(text + n, ',', &rest, &addr))
            continue;
        entry = addr;
        if (*rest && (strncmp(rest, ",entry=", 7) || !parse_addr(rest + 7, '\0', &rest, &entry)))
            continue;
        cfg->kind = flats[i].kind;
        cfg->flat_addr = addr;
        cfg->flat_entry = entry;
        return 0;
    }
    return err_set(e, EINVAL,
                   "'%.100s' is no way to boot; auto, linux, stub, pvh, multiboot and "
                   "flat:{real|prot|long}@ADDR[,entry=ADDR] are",
                   text);
}
