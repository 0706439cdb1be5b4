/* SPDX-License-Identifier: MIT */
/* Kernel formats: what is loaded where, how it is entered, and what is refused with which words. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "boot_fixture.h"
#include "boot_images.h"

#define MIB (1UL << 20)
enum { CODE = 100000 };

static const struct image_elf elf64 = { .is64 = true,
                                        .paddr = 16 * MIB,
                                        .vaddr = 0xffffffff81000000,
                                        .entry = 16 * MIB + 0x20,
                                        .filesz = CODE,
                                        .memsz = CODE + 0x5000 };
static const struct image_elf elf32 = {
    .paddr = 16 * MIB, .vaddr = 0xc1000000, .entry = 16 * MIB + 0x20, .filesz = CODE, .memsz = CODE + 0x5000
};

static int setup(void **st)
{
    *st = boot_fixture_new(64);
    return 0;
}
static int teardown(void **st)
{
    boot_fixture_free(*st);
    return 0;
}

static void put32(struct boot_bytes *b, size_t off, uint32_t v)
{
    memcpy(b->p + off, &v, 4);
}

/* The segment is at gpa, from byte `skip` on. */
static void check_code(struct boot_fixture *f, gpa_t gpa, size_t skip)
{
    uint8_t *p = malloc(CODE);
    assert_int_equal(mem_read(f->mem, gpa + skip, p, CODE - skip), 0);
    for (size_t i = 0; i < CODE - skip; i++)
        if (p[i] != image_byte(skip + i))
            fail_msg("byte %zu of the kernel is %#x, not %#x", skip + i, p[i], image_byte(skip + i));
    free(p);
}

static void check_refused(struct boot_fixture *f, const char *word)
{
    assert_true(boot_fixture_load(f) < 0);
    if (!strstr(f->e.text, word))
        fail_msg("\"%s\" does not mention \"%s\"", f->e.text, word);
}

static void check_long(struct boot_fixture *f)
{
    const struct cpu_state *c = &f->cpu;
    assert_int_equal(c->cr0, X86_CR0_PE | X86_CR0_PG | X86_CR0_ET);
    assert_int_equal(c->cr4, X86_CR4_PAE);
    assert_int_equal(c->cr3, LAYOUT_PML4);
    assert_int_equal(c->msr.efer, X86_EFER_LME | X86_EFER_LMA);
    assert_int_equal(x86_code_mode(c), X86_MODE_64);
    assert_int_equal(c->seg[X86_CS].sel, 0x10);
    assert_int_equal(c->seg[X86_DS].sel, 0x18);
    assert_int_equal(c->rflags, X86_FL_1);
    /* Page tables: the last 2 MiB below 4 GiB map to themselves. */
    uint64_t pdpt = boot_fixture_peek(f, c->cr3, 8) & ~0xfffUL;
    uint64_t pd = boot_fixture_peek(f, pdpt + 3 * 8, 8) & ~0xfffUL;
    assert_int_equal(boot_fixture_peek(f, pd + 511 * 8, 8), 0xffe00083);
}

static void check_prot(struct boot_fixture *f)
{
    const struct cpu_state *c = &f->cpu;
    assert_int_equal(c->cr0, X86_CR0_PE | X86_CR0_ET);
    assert_int_equal(c->cr4, 0);
    assert_int_equal(c->msr.efer, 0);
    assert_int_equal(x86_code_mode(c), X86_MODE_32);
    assert_int_equal(c->seg[X86_CS].limit, UINT32_MAX);
    assert_int_equal(c->seg[X86_SS_SEG].attr, X86_SEG_P | X86_SEG_S | X86_SEG_DB | X86_SEG_G | 3);
    assert_int_equal(c->tr.attr & X86_SEG_TYPE, 0xb);
    assert_int_equal(c->tr.limit, 0x67);
    /* The GDT says what the cached segments say. */
    assert_int_equal(boot_fixture_peek(f, c->gdtr.base + 0x10, 8), 0x00cf9b000000ffff);
    assert_int_equal(boot_fixture_peek(f, c->gdtr.base + 0x18, 8), 0x00cf93000000ffff);
}

static void bzimage(struct boot_fixture *f, const struct image_elf *elf, enum boot_pack k)
{
    struct boot_bytes v = image_make_elf(elf), packed = k ? image_pack(k, &v) : v;
    const struct image_bz o = { 0x020f, elf->is64, true, 2047 };
    struct boot_bytes bz = image_make_bzimage(&o, &packed);
    boot_fixture_kernel(f, &bz);
    if (k)
        boot_bytes_free(&packed);
    boot_bytes_free(&v);
}

static void test_bzimage_payloads(void **st)
{
    struct boot_fixture *f = *st;
    static const enum boot_pack kinds[] = { PACK_NONE, PACK_GZIP, PACK_XZ, PACK_LZMA, PACK_ZSTD, PACK_LZ4_LEGACY };
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        bzimage(f, &elf64, kinds[i]);
        if (boot_fixture_load(f) < 0)
            fail_msg("%s: %s", boot_pack_name(kinds[i]), f->e.text);
        assert_int_equal(f->info.kind, BOOT_LINUX);
        assert_non_null(strstr(f->info.how, "6.1.0-test"));
        assert_non_null(strstr(f->info.how, boot_pack_name(kinds[i])));
        assert_int_equal(f->info.kernel_start, 16 * MIB);
        assert_int_equal(f->cpu.rip, elf64.entry);
        assert_int_equal(f->cpu.gpr[X86_RSI], LAYOUT_ZERO_PAGE);
        check_long(f);
        check_code(f, 16 * MIB, 0);
        assert_int_equal(boot_fixture_peek(f, 16 * MIB + CODE, 8), 0);
        /* The file's header is in the zero page, but not its setup_data pointer. */
        assert_int_equal(boot_fixture_peek(f, LAYOUT_ZERO_PAGE + 0x206, 2), 0x020f);
        assert_int_not_equal(boot_fixture_peek(f, LAYOUT_ZERO_PAGE + 0x250, 8), 0x1234567890);
    }
}

static void test_bzimage_32(void **st)
{
    struct boot_fixture *f = *st;
    bzimage(f, &elf32, PACK_XZ);
    assert_int_equal(boot_fixture_load(f), 0);
    assert_int_equal(f->cpu.rip, elf32.entry);
    assert_int_equal(f->cpu.gpr[X86_RSI], LAYOUT_ZERO_PAGE);
    check_prot(f);
    check_code(f, 16 * MIB, 0);
}

/* The same file again after a reset gives the same machine. */
static void test_repeat(void **st)
{
    struct boot_fixture *f = *st;
    static struct cpu_state first;
    bzimage(f, &elf64, PACK_GZIP);
    assert_int_equal(boot_fixture_load(f), 0);
    first = f->cpu;
    assert_int_equal(boot_fixture_load(f), 0);
    assert_memory_equal(first.gpr, f->cpu.gpr, sizeof(first.gpr));
    assert_memory_equal(first.seg, f->cpu.seg, sizeof(first.seg));
    unlink(f->kernel);
    check_refused(f, "No such file");
}

static void test_bzimage_stub(void **st)
{
    struct boot_fixture *f = *st;
    struct boot_bytes junk = { malloc(5000), 5000 };
    memset(junk.p, 0x5a, junk.len);
    memcpy(junk.p, "BZh9", 4);
    const struct image_bz o64 = { 0x020f, true, true, 2047 }, o32 = { 0x020f, false, false, 2047 },
                          old = { 0x0204, false, false, 0 };
    struct boot_bytes bz = image_make_bzimage(&o64, &junk);
    boot_fixture_kernel(f, &bz);
    assert_int_equal(boot_fixture_load(f), 0);
    assert_int_equal(f->info.kind, BOOT_STUB);
    assert_non_null(strstr(f->info.how, "bzip2"));
    assert_int_equal(f->cpu.rip, 16 * MIB + 0x200);
    check_long(f);
    assert_int_equal(boot_fixture_peek(f, 16 * MIB + IMAGE_BZ_PAYLOAD, 4), 0x39685a42);
    assert_int_equal(boot_fixture_peek(f, LAYOUT_ZERO_PAGE + 0x214, 4), 16 * MIB);

    bz = image_make_bzimage(&o32, &junk);
    boot_fixture_kernel(f, &bz);
    assert_int_equal(boot_fixture_load(f), 0);
    assert_int_equal(f->cpu.rip, MIB);
    check_prot(f);

    bz = image_make_bzimage(&old, &junk); /* no payload fields, 255 bytes of command line */
    boot_fixture_kernel(f, &bz);
    assert_int_equal(boot_fixture_load(f), 0);
    assert_int_equal(f->info.kind, BOOT_STUB);

    bzimage(f, &elf64, PACK_XZ);
    f->cfg.kind = BOOT_STUB;
    assert_int_equal(boot_fixture_load(f), 0);
    assert_int_equal(f->info.kind, BOOT_STUB);
    boot_bytes_free(&junk);
}

static void test_bzimage_refused(void **st)
{
    struct boot_fixture *f = *st;
    struct boot_bytes v = image_make_elf(&elf64), packed = image_pack(PACK_XZ, &v), bz;
    const struct image_bz o = { 0x020f, true, true, 2047 }, ancient = { 0x0201, true, true, 2047 };
    static const struct {
        size_t off;
        uint32_t val;
        const char *word;
    } bad[] = {
        { 0x248, 0xfffffff0, "payload" }, { 0x24c, 0x7fffffff, "payload" },  { 0x1f4, 0xffffff, "truncated" },
        { 0x210, 0, "zImage" },           { 0x1f1, 0x001f1ff, "truncated" }, { 0x1f1, 0xff, "truncated" },
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        bz = image_make_bzimage(&o, &packed);
        put32(&bz, bad[i].off, bad[i].val);
        boot_fixture_kernel(f, &bz);
        check_refused(f, bad[i].word);
    }
    bz = image_make_bzimage(&ancient, &packed);
    boot_fixture_kernel(f, &bz);
    check_refused(f, "protocol 2.01");
    bz = image_make_bzimage(&o, &packed);
    bz.p[IMAGE_BZ_CODE + IMAGE_BZ_PAYLOAD + packed.len / 2] ^= 0x10;
    boot_fixture_kernel(f, &bz);
    check_refused(f, "xz data is damaged");
    for (size_t len = 0x210; len < IMAGE_BZ_CODE + packed.len; len += 97) {
        bz = image_make_bzimage(&o, &packed);
        bz.len = len;
        boot_fixture_kernel(f, &bz);
        check_refused(f, "truncated");
    }
    boot_bytes_free(&packed);
    boot_bytes_free(&v);
}

/* A few kilobytes that unpack to more zeroes than the guest has RAM. */
static void test_bomb(void **st)
{
    struct boot_fixture *f = *st;
    static const enum boot_pack kinds[] = { PACK_GZIP, PACK_XZ, PACK_LZMA, PACK_ZSTD, PACK_LZ4 };
    struct boot_bytes zero = { calloc(1, 9 * MIB), 9 * MIB };
    mem_free(f->mem);
    f->mem = mem_new(8 * MIB, &f->e);
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        struct boot_bytes packed = image_pack(kinds[i], &zero), bz;
        const struct image_bz o = { 0x020f, true, true, 2047 };
        bz = image_make_bzimage(&o, &packed);
        boot_fixture_kernel(f, &bz);
        if (kinds[i] != PACK_LZ4) /* kernels use the legacy frame */
            check_refused(f, "unpacks to more");
        boot_fixture_kernel(f, &packed); /* as a whole file */
        check_refused(f, "unpacks to more");
    }
    boot_bytes_free(&zero);
}

static void test_vmlinux(void **st)
{
    struct boot_fixture *f = *st;
    struct boot_bytes k = image_make_elf(&elf64);
    boot_fixture_kernel(f, &k);
    assert_int_equal(boot_fixture_load(f), 0);
    check_long(f);
    check_code(f, 16 * MIB, 0);
    assert_int_equal(f->cpu.rip, elf64.entry);
    assert_int_equal(boot_fixture_peek(f, LAYOUT_ZERO_PAGE + 0x202, 4), 0x53726448);
    assert_int_equal(boot_fixture_peek(f, LAYOUT_ZERO_PAGE + 0x1fe, 2), 0xaa55);

    k = image_make_elf(&elf32);
    boot_fixture_kernel(f, &k);
    assert_int_equal(boot_fixture_load(f), 0);
    check_prot(f);
    assert_int_equal(f->cpu.gpr[X86_RSI], LAYOUT_ZERO_PAGE);

    struct image_elf virt = elf64; /* the entry may be virtual */
    virt.entry = virt.vaddr + 0x40;
    k = image_make_elf(&virt);
    boot_fixture_kernel(f, &k);
    assert_int_equal(boot_fixture_load(f), 0);
    assert_int_equal(f->cpu.rip, 16 * MIB + 0x40);

    static const enum boot_pack kinds[] = { PACK_GZIP, PACK_XZ, PACK_ZSTD, PACK_LZ4, PACK_LZ4_LEGACY };
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        struct boot_bytes v = image_make_elf(&elf64);
        k = image_pack(kinds[i], &v);
        boot_bytes_free(&v);
        boot_fixture_kernel(f, &k);
        assert_int_equal(boot_fixture_load(f), 0);
        check_code(f, 16 * MIB, 0);
    }
}

static void test_pvh(void **st)
{
    struct boot_fixture *f = *st;
    struct image_elf pvh = elf64;
    pvh.pvh = true;
    pvh.pvh_entry = 16 * MIB + 0x80;
    struct boot_bytes k = image_make_elf(&pvh);
    boot_fixture_kernel(f, &k);
    boot_fixture_initrd(f, "12345", 5);
    assert_int_equal(boot_fixture_load(f), 0);
    assert_int_equal(f->info.kind, BOOT_PVH);
    check_prot(f);
    assert_int_equal(f->cpu.rip, pvh.pvh_entry);
    gpa_t si = f->cpu.gpr[X86_RBX];
    assert_int_equal(boot_fixture_peek(f, si, 8), 0x1336ec578);
    assert_int_equal(boot_fixture_peek(f, si + 12, 4), 1);
    gpa_t mod = boot_fixture_peek(f, si + 16, 8);
    assert_int_equal(boot_fixture_peek(f, mod, 8), f->info.initrd);
    assert_int_equal(boot_fixture_peek(f, mod + 8, 8), 8);
    assert_int_equal(boot_fixture_peek(f, f->info.initrd, 8), 0x3534333231);
    assert_int_equal(boot_fixture_peek(f, si + 24, 8), LAYOUT_CMDLINE);
    assert_int_equal(boot_fixture_peek(f, boot_fixture_peek(f, si + 32, 8), 8), 0x2052545020445352); /* RSD PTR */
    gpa_t map = boot_fixture_peek(f, si + 40, 8);
    uint64_t n = boot_fixture_peek(f, si + 48, 4);
    assert_int_equal(n, 4);
    assert_int_equal(boot_fixture_peek(f, map + 3 * 24, 8), MIB);
    assert_int_equal(boot_fixture_peek(f, map + 3 * 24 + 8, 8), 63 * MIB);
    assert_int_equal(boot_fixture_peek(f, map + 3 * 24 + 16, 4), 1);

    f->cfg.kind = BOOT_LINUX; /* the note is a preference, not a duty */
    assert_int_equal(boot_fixture_load(f), 0);
    check_long(f);
    bzimage(f, &pvh, PACK_ZSTD);
    f->cfg.kind = BOOT_PVH;
    assert_int_equal(boot_fixture_load(f), 0);
    assert_int_equal(f->cpu.rip, pvh.pvh_entry);
    bzimage(f, &elf64, PACK_ZSTD);
    check_refused(f, "no PVH");

    pvh.pvh_entry = 0x1000;
    k = image_make_elf(&pvh);
    boot_fixture_kernel(f, &k);
    check_refused(f, "PVH entry");
}

static void test_elf_refused(void **st)
{
    struct boot_fixture *f = *st;
    static const struct {
        size_t off;
        uint32_t val;
        const char *word;
    } bad[] = {
        { 0x10, EM_AARCH64 << 16 | ET_EXEC, "AArch64" },
        { 0x10, EM_X86_64 << 16 | ET_REL, "object file" },
        { 0x20, 0xfffffff0, "program headers" },
        { 0x24, 0xffffffff, "program headers" },
        { 0x36, 1 << 16 | 55, "program headers" },
        { 0x36, 0 << 16 | 56, "program headers" },
        { 0x36, 0xffffU << 16 | 56, "program headers" },
        { IMAGE_ELF64_PHDR, PT_NULL, "nothing to load" },
        { IMAGE_ELF64_PHDR + 0x08, 0xfffff000, "truncated" },
        { IMAGE_ELF64_PHDR + 0x0c, 0xffffffff, "truncated" },
        { IMAGE_ELF64_PHDR + 0x24, 0xffffffff, "truncated" },
        { IMAGE_ELF64_PHDR + 0x28, 1, "more bytes in the file" },
        { IMAGE_ELF64_PHDR + 0x2c, 0x7fffffff, "not all RAM" },
        { IMAGE_ELF64_PHDR + 0x18, 0x7000, "or above" },
        { IMAGE_ELF64_PHDR + 0x18, 0xc0000000, "not all RAM" },
        { IMAGE_ELF64_PHDR + 0x1c, 0xffffffff, "not all RAM" },
        { IMAGE_ELF64_PHDR + 0x18, 0x3ff0000, "not all RAM" },
        { 0x18, 0x500000, "entry" },
        { 0x04, ELFCLASS64 | ELFDATA2MSB << 8, "little-endian" },
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct image_elf o = elf64;
        struct boot_bytes k = image_make_elf(&o);
        put32(&k, bad[i].off, bad[i].val);
        boot_fixture_kernel(f, &k);
        check_refused(f, bad[i].word);
    }
    struct image_elf wrap = elf64;
    wrap.paddr = UINT64_MAX - 0x1000;
    struct boot_bytes k = image_make_elf(&wrap);
    boot_fixture_kernel(f, &k);
    check_refused(f, "wraps");
}

static void test_multiboot(void **st)
{
    struct boot_fixture *f = *st;
    struct boot_bytes k = image_make_multiboot(2 * MIB, CODE, 0x10003);
    boot_fixture_kernel(f, &k);
    boot_fixture_initrd(f, "first", 5);
    boot_fixture_initrd(f, "second!", 7);
    f->cfg.append = "a=b c";
    assert_int_equal(boot_fixture_load(f), 0);
    assert_int_equal(f->info.kind, BOOT_MULTIBOOT);
    check_prot(f);
    check_code(f, 2 * MIB, 32);
    assert_int_equal(f->cpu.rip, 2 * MIB + 0x40);
    assert_int_equal(f->cpu.gpr[X86_RAX], 0x2badb002);
    gpa_t mbi = f->cpu.gpr[X86_RBX];
    assert_int_equal(boot_fixture_peek(f, mbi, 4), 0x24d);
    assert_int_equal(boot_fixture_peek(f, mbi + 4, 4), 639);
    assert_int_equal(boot_fixture_peek(f, mbi + 8, 4), 63 * 1024);
    static char text[8192];
    assert_int_equal(mem_read(f->mem, boot_fixture_peek(f, mbi + 16, 4), text, f->info.cmdline_len + 1), 0);
    assert_true(strlen(text) == f->info.cmdline_len && strstr(text, "/kernel a=b c"));
    assert_int_equal(boot_fixture_peek(f, mbi + 20, 4), 2);
    gpa_t mods = boot_fixture_peek(f, mbi + 24, 4), at = boot_fixture_peek(f, mods + 16, 4);
    assert_int_equal(at & 0xfff, 0);
    assert_int_equal(boot_fixture_peek(f, mods + 20, 4), at + 7);
    assert_int_equal(boot_fixture_peek(f, at, 7), 0x21646e6f636573);
    mem_read(f->mem, boot_fixture_peek(f, mods + 24, 4), text, strlen(f->initrd[1]) + 1);
    assert_string_equal(text, f->initrd[1]);
    /* A module's string may carry arguments behind the file name. */
    static char args[5000];
    const char *plain = f->initrd[1];
    snprintf(args, sizeof(args), "%s x=y z", plain);
    f->initrd[1] = args;
    assert_int_equal(boot_fixture_load(f), 0);
    mem_read(f->mem, boot_fixture_peek(f, mods + 24, 4), text, strlen(args) + 1);
    assert_string_equal(text, args);
    assert_int_equal(boot_fixture_peek(f, at, 7), 0x21646e6f636573);
    f->initrd[1] = plain;
    assert_int_equal(boot_fixture_peek(f, mbi + 44, 4), 4 * 24);
    gpa_t map = boot_fixture_peek(f, mbi + 48, 4);
    assert_int_equal(boot_fixture_peek(f, map, 4), 20);
    assert_int_equal(boot_fixture_peek(f, map + 4, 8), 0);
    assert_int_equal(boot_fixture_peek(f, map + 12, 8), 0x9fc00);
}

static void test_multiboot_elf(void **st)
{
    struct boot_fixture *f = *st;
    for (unsigned is64 = 0; is64 < 2; is64++) {
        struct image_elf o = is64 ? elf64 : elf32;
        o.multiboot = true;
        o.paddr = MIB;
        o.entry = MIB + 0x40;
        struct boot_bytes k = image_make_elf(&o);
        boot_fixture_kernel(f, &k);
        assert_int_equal(boot_fixture_load(f), 0);
        assert_int_equal(f->info.kind, BOOT_MULTIBOOT);
        check_prot(f);
        assert_int_equal(f->cpu.rip, MIB + 0x40);
        check_code(f, MIB, 32);
    }
}

static void test_multiboot_refused(void **st)
{
    struct boot_fixture *f = *st;
    static const struct {
        uint32_t flags;
        size_t off;
        uint32_t val;
        const char *word;
    } bad[] = {
        { 0x10013, 0, 0x1badb002, "features 0x10" },
        { 0x10003, 16, 0x300000, "does not fit" },
        { 0x10003, 20, 0x100000, "ends loading" },
        { 0x10003, 20, 0x4000000, "truncated" },
        { 0x10003, 24, 0x200001, "bss" },
        { 0x10003, 24, 0xffffffff, "not all RAM" },
        { 0x10003, 28, 0x100000, "entry" },
        { 0x00003, 0, 0x1badb002, "neither load addresses nor" },
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct boot_bytes k = image_make_multiboot(2 * MIB, CODE, bad[i].flags);
        put32(&k, bad[i].off, bad[i].val);
        boot_fixture_kernel(f, &k);
        check_refused(f, bad[i].word);
    }
    /* Not onto what we put there. */
    static const uint32_t taken[] = { 0, 0x6800, 0x9000, 0x20000, 0x9f000, 0xb0000, 0xe0000 };
    for (size_t i = 0; i < ARRAY_LEN(taken); i++) {
        struct boot_bytes k = image_make_multiboot(taken[i], CODE, 0x10003);
        boot_fixture_kernel(f, &k);
        check_refused(f, "hold");
    }
    struct boot_bytes cut = image_make_multiboot(2 * MIB, CODE, 0x10003);
    cut.len = 28;
    boot_fixture_kernel(f, &cut);
    check_refused(f, "truncated");
}

static void test_flat(void **st)
{
    struct boot_fixture *f = *st;
    struct boot_bytes k = { malloc(CODE), CODE };
    for (size_t i = 0; i < CODE; i++)
        k.p[i] = image_byte(i);
    boot_fixture_kernel(f, &k);

    assert_int_equal(boot_parse_kind("flat:real@0x7c00", &f->cfg, &f->e), 0);
    assert_int_equal(boot_fixture_load(f), 0);
    assert_int_equal(x86_code_mode(&f->cpu), X86_MODE_16);
    assert_true(x86_real_mode(&f->cpu));
    assert_int_equal(f->cpu.rip, 0x7c00);
    assert_int_equal(f->cpu.seg[X86_CS].base, 0);
    check_code(f, 0x7c00, 0);

    assert_int_equal(boot_parse_kind("flat:real@0xe8000,entry=0xffff0", &f->cfg, &f->e), 0);
    assert_int_equal(boot_fixture_load(f), 0);
    assert_int_equal(f->cpu.seg[X86_CS].sel, 0xf000);
    assert_int_equal(f->cpu.seg[X86_CS].base + f->cpu.rip, 0xffff0);
    check_code(f, 0xe8000, 0); /* over where tables of ours would be */

    assert_int_equal(boot_parse_kind("flat:prot@1048576,entry=0x100100", &f->cfg, &f->e), 0);
    assert_int_equal(boot_fixture_load(f), 0);
    check_prot(f);
    assert_int_equal(f->cpu.rip, 0x100100);

    assert_int_equal(boot_parse_kind("flat:long@0x100000", &f->cfg, &f->e), 0);
    assert_int_equal(boot_fixture_load(f), 0);
    check_long(f);
    check_code(f, MIB, 0);

    static const char *const refused[] = { "flat:long@0x1000",   "flat:long@0x100000,entry=0x0",
                                           "flat:prot@0x100",    "flat:long@0xfffffffffffffff0",
                                           "flat:real@0x100000", "flat:prot@0xbfffffff" };
    for (size_t i = 0; i < ARRAY_LEN(refused); i++) {
        assert_int_equal(boot_parse_kind(refused[i], &f->cfg, &f->e), 0);
        assert_true(boot_fixture_load(f) < 0);
    }
}

static void test_parse_kind(void **st)
{
    struct boot_config cfg = { 0 };
    struct err e = { 0 };
    (void)st;
    assert_int_equal(boot_parse_kind("pvh", &cfg, &e), 0);
    assert_int_equal(cfg.kind, BOOT_PVH);
    static const char *const bad[] = { "",
                                       "flat",
                                       "flat:real",
                                       "flat:real@",
                                       "flat:real@x",
                                       "flat:x@0",
                                       "flat:real@1,",
                                       "flat:real@1,e=2",
                                       "flat:real@1,entry=",
                                       "flat:real@-1",
                                       "PVH",
                                       "flat:real@ 1",
                                       "flat:real@99999999999999999999" };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_true(boot_parse_kind(bad[i], &cfg, &e) < 0);
    assert_int_equal(cfg.kind, BOOT_PVH);
}

static void test_files(void **st)
{
    struct boot_fixture *f = *st;
    snprintf(f->kernel, sizeof(f->kernel), "%s/kernel", f->dir);
    check_refused(f, "No such file");
    assert_int_equal(mkfifo(f->kernel, 0600), 0);
    check_refused(f, "a FIFO");
    unlink(f->kernel);
    struct boot_bytes empty = { malloc(1), 0 };
    boot_fixture_kernel(f, &empty);
    check_refused(f, "empty");
    assert_int_equal(truncate(f->kernel, 1L << 40), 0);
    check_refused(f, "at most");
    assert_int_equal(truncate(f->kernel, 4096), 0);
    check_refused(f, "neither");
    f->cfg.kernel = f->dir;
    check_refused(f, "a directory");
    f->cfg.kernel = "/dev/zero";
    check_refused(f, "a character device");
    f->cfg.kernel = "/nonexistent/\n\033[31mred";
    check_refused(f, "No such");
    assert_null(strchr(f->e.text, '\n'));
    f->cfg.kernel = f->kernel;
    f->cfg.cpus = 33;
    check_refused(f, "CPUs");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_bzimage_payloads, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bzimage_32, setup, teardown),
        cmocka_unit_test_setup_teardown(test_repeat, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bzimage_stub, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bzimage_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bomb, setup, teardown),
        cmocka_unit_test_setup_teardown(test_vmlinux, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pvh, setup, teardown),
        cmocka_unit_test_setup_teardown(test_elf_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_multiboot, setup, teardown),
        cmocka_unit_test_setup_teardown(test_multiboot_elf, setup, teardown),
        cmocka_unit_test_setup_teardown(test_multiboot_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_flat, setup, teardown),
        cmocka_unit_test(test_parse_kind),
        cmocka_unit_test_setup_teardown(test_files, setup, teardown),
    };
    return cmocka_run_group_tests_name("boot_kernels", tests, NULL, NULL);
}
