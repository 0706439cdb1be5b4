/* SPDX-License-Identifier: MIT */
/* What the guest is told: memory map, command line, initrd, ACPI and MP tables. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "boot_fixture.h"
#include "boot_images.h"

#define MIB (1UL << 20)
#define ZP LAYOUT_ZERO_PAGE

static const struct boot_virtio virtio[] = { { 0xc0001000, 4096, 5 },
                                             { 0xc0002000, 4096, 6 },
                                             { 0xc0003000, 8192, 23 } };

static struct boot_fixture *fixture_mib(unsigned mib, uint32_t cmdline_size)
{
    static const struct image_elf elf = {
        .is64 = true, .paddr = 16 * MIB, .entry = 16 * MIB, .filesz = 5000, .memsz = 8000
    };
    const struct image_bz o = { 0x020f, true, true, cmdline_size };
    struct boot_fixture *f = boot_fixture_new(mib);
    struct boot_bytes v = image_make_elf(&elf), bz = image_make_bzimage(&o, &v);
    boot_bytes_free(&v);
    boot_fixture_kernel(f, &bz);
    return f;
}

static int setup(void **st)
{
    *st = fixture_mib(64, 2047);
    return 0;
}
static int teardown(void **st)
{
    boot_fixture_free(*st);
    return 0;
}

static void check_refused(struct boot_fixture *f, const char *word)
{
    assert_true(boot_fixture_load(f) < 0);
    if (!strstr(f->e.text, word))
        fail_msg("\"%s\" does not mention \"%s\"", f->e.text, word);
}

static void check_e820(struct boot_fixture *f, unsigned i, const uint64_t want[3])
{
    gpa_t at = ZP + 0x2d0 + i * 20;
    assert_int_equal(boot_fixture_peek(f, at, 8), want[0]);
    assert_int_equal(boot_fixture_peek(f, at + 8, 8), want[1]);
    assert_int_equal(boot_fixture_peek(f, at + 16, 4), want[2]);
}

static void test_e820(void **st)
{
    (void)st;
    static const struct {
        unsigned mib, n;
        uint64_t low, high; /* lengths of RAM from 1 MiB and from 4 GiB */
    } sizes[] = { { 64, 4, 63 * MIB, 0 },
                  { 3072, 4, 3071 * MIB, 0 },
                  { 3073, 5, 3071 * MIB, MIB },
                  { 6144, 5, 3071 * MIB, 3072 * MIB } };
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        struct boot_fixture *f = fixture_mib(sizes[i].mib, 2047);
        assert_int_equal(boot_fixture_load(f), 0);
        assert_int_equal(boot_fixture_peek(f, ZP + 0x1e8, 1), sizes[i].n);
        check_e820(f, 0, (const uint64_t[]){ 0, 0x9fc00, 1 });
        check_e820(f, 1, (const uint64_t[]){ 0x9fc00, 0x400, 2 });
        check_e820(f, 2, (const uint64_t[]){ 0xe0000, 0x20000, 2 });
        check_e820(f, 3, (const uint64_t[]){ MIB, sizes[i].low, 1 });
        if (sizes[i].high)
            check_e820(f, 4, (const uint64_t[]){ 4096 * MIB, sizes[i].high, 1 });
        boot_fixture_free(f);
    }
}

static const char *cmdline(struct boot_fixture *f)
{
    static char text[4096];
    memset(text, 0x55, sizeof(text));
    assert_int_equal(boot_fixture_load(f), 0);
    assert_int_equal(boot_fixture_peek(f, ZP + 0x228, 4), LAYOUT_CMDLINE);
    assert_int_equal(mem_read(f->mem, LAYOUT_CMDLINE, text, f->info.cmdline_len + 1), 0);
    assert_int_equal(strlen(text), f->info.cmdline_len);
    return text;
}

static void test_cmdline(void **st)
{
    struct boot_fixture *f = *st;
    struct boot_config *c = &f->cfg;
    assert_string_equal(cmdline(f), BOOT_DEFAULT_APPEND);
    c->append = "";
    assert_string_equal(cmdline(f), "");
    c->append = "quiet";
    c->virtio = virtio;
    c->n_virtio = 3;
#define DEVS                                                                                                           \
    " virtio_mmio.device=4K@0xc0001000:5 virtio_mmio.device=4K@0xc0002000:6 virtio_mmio.device=8K@0xc0003000:23"
    assert_string_equal(cmdline(f), "quiet" DEVS);
    c->root = BOOT_ROOT_RO;
    assert_string_equal(cmdline(f), "quiet root=/dev/vda ro" DEVS);
    c->root = BOOT_ROOT_RW;
    assert_string_equal(cmdline(f), "quiet root=/dev/vda rw" DEVS);
    c->append = "ro root=UUID=1 quiet";
    assert_string_equal(cmdline(f), "ro root=UUID=1 quiet" DEVS);
    c->append = "nfsroot=x";
    assert_string_equal(cmdline(f), "nfsroot=x root=/dev/vda rw" DEVS);
    c->append = "quiet -- single";
    assert_string_equal(cmdline(f), "quiet root=/dev/vda rw" DEVS " -- single");
    c->append = "-- single";
    assert_string_equal(cmdline(f), " root=/dev/vda rw" DEVS " -- single");
    c->append = "x--y";
    assert_string_equal(cmdline(f), "x--y root=/dev/vda rw" DEVS);
}

static void test_cmdline_bounds(void **st)
{
    struct boot_fixture *f = *st;
    char *text = malloc(200000);
    memset(text, 'x', 200000);
    f->cfg.append = text;
    text[2047] = '\0';
    assert_string_equal(cmdline(f), text);
    text[2047] = 'x';
    text[2048] = '\0';
    check_refused(f, "2048 bytes");
    text[2048] = 'x';
    text[199999] = '\0';
    check_refused(f, "too long");
    /* A kernel that claims to take anything does not get more than there is room for. */
    struct boot_fixture *big = fixture_mib(64, UINT32_MAX);
    big->cfg.append = text;
    check_refused(big, "too long");
    text[60000] = '\0';
    assert_int_equal(boot_fixture_load(big), 0);
    boot_fixture_free(big);
    text[2030] = '\0'; /* fits, but not with the devices */
    f->cfg.virtio = virtio;
    f->cfg.n_virtio = 3;
    check_refused(f, "with what gazda appends");
    free(text);
}

static void test_initrd(void **st)
{
    struct boot_fixture *f = *st;
    boot_fixture_initrd(f, "abcde", 5);
    boot_fixture_initrd(f, "fghi", 4);
    boot_fixture_initrd(f, "j", 1);
    assert_int_equal(boot_fixture_load(f), 0);
    gpa_t at = f->info.initrd;
    assert_int_equal(f->info.initrd_len, 16);
    assert_int_equal(at, 64 * MIB - 4096);
    char text[17] = { 0 };
    mem_read(f->mem, at, text, 16);
    assert_memory_equal(text, "abcde\0\0\0fghij\0\0\0", 16);
    assert_int_equal(boot_fixture_peek(f, ZP + 0x218, 4), at);
    assert_int_equal(boot_fixture_peek(f, ZP + 0x21c, 4), 16);
}

/* An initrd keeps clear of the kernel and below the limit of the kernel's header. */
static void test_initrd_room(void **st)
{
    struct boot_fixture *f = *st;
    uint8_t *p = malloc(47 * MIB + 1);
    memset(p, 0xa5, 47 * MIB + 1);
    boot_fixture_initrd(f, p, 47 * MIB);
    assert_int_equal(boot_fixture_load(f), 0);
    assert_int_equal(f->info.initrd, 17 * MIB);
    assert_int_equal(boot_fixture_peek(f, 64 * MIB - 8, 8), 0xa5a5a5a5a5a5a5a5);
    assert_int_equal(boot_fixture_peek(f, 16 * MIB + 4096, 1), image_byte(4096));
    boot_fixture_initrd(f, p, 2 * MIB);
    check_refused(f, "no room for the initrd");
    boot_fixture_initrd(f, p, 40 * MIB);
    check_refused(f, "more than the guest's");
    free(p);

    struct boot_fixture *big = fixture_mib(3000, 2047);
    boot_fixture_initrd(big, "x", 1);
    assert_int_equal(boot_fixture_load(big), 0);
    assert_int_equal(big->info.initrd, 0x7ffff000);
    assert_int_equal(unlink(big->initrd[0]), 0);
    check_refused(big, "cannot open initrd");
    boot_fixture_free(big);
}

/* ---- tables ---- */

static unsigned sum(struct boot_fixture *f, gpa_t at, uint64_t len)
{
    unsigned s = 0;
    for (uint64_t i = 0; i < len; i++)
        s += (unsigned)boot_fixture_peek(f, at + i, 1);
    return s & 0xff;
}

/* Address of the table with this signature among those of the XSDT; checks that the RSDT agrees. */
static gpa_t acpi_table(struct boot_fixture *f, const char *sig)
{
    gpa_t rsdt = boot_fixture_peek(f, f->info.rsdp + 16, 4), xsdt = boot_fixture_peek(f, f->info.rsdp + 24, 8);
    uint64_t n = (boot_fixture_peek(f, xsdt + 4, 4) - 36) / 8;
    assert_int_equal((boot_fixture_peek(f, rsdt + 4, 4) - 36) / 4, n);
    for (uint64_t i = 0; i < n; i++) {
        gpa_t at = boot_fixture_peek(f, xsdt + 36 + i * 8, 8);
        uint32_t name = (uint32_t)boot_fixture_peek(f, at, 4);
        assert_int_equal(boot_fixture_peek(f, rsdt + 36 + i * 4, 4), at);
        assert_int_equal(sum(f, at, boot_fixture_peek(f, at + 4, 4)), 0);
        if (!memcmp(&name, sig, 4))
            return at;
    }
    fail_msg("no table %s", sig);
    return 0;
}

static void test_acpi(void **st)
{
    struct boot_fixture *f = *st;
    f->cfg.cpus = 32;
    f->cfg.virtio = virtio;
    f->cfg.n_virtio = 3;
    assert_int_equal(boot_fixture_load(f), 0);
    assert_int_equal(f->info.rsdp, 0xe0000);
    assert_int_equal(boot_fixture_peek(f, ZP + 0x70, 8), 0xe0000);
    assert_int_equal(sum(f, f->info.rsdp, 20), 0);
    assert_int_equal(sum(f, f->info.rsdp, 36), 0);
    gpa_t fadt = acpi_table(f, "FACP"), madt = acpi_table(f, "APIC");
    gpa_t dsdt = boot_fixture_peek(f, fadt + 40, 4), facs = boot_fixture_peek(f, fadt + 36, 4);
    assert_int_equal(boot_fixture_peek(f, dsdt, 4), 0x54445344);
    assert_int_equal(sum(f, dsdt, boot_fixture_peek(f, dsdt + 4, 4)), 0);
    assert_int_equal(facs % 64, 0);
    assert_int_equal(boot_fixture_peek(f, facs, 4), 0x53434146);
    /* MADT: 32 processors, one IOAPIC, two overrides, one NMI, and nothing else. */
    unsigned count[16] = { 0 };
    gpa_t end = madt + boot_fixture_peek(f, madt + 4, 4), at = madt + 44;
    while (at < end) {
        unsigned type = (unsigned)boot_fixture_peek(f, at, 1);
        assert_true(type < 16);
        if (type == 0)
            assert_int_equal(boot_fixture_peek(f, at + 3, 1), count[0]);
        if (type == 1)
            assert_int_equal(boot_fixture_peek(f, at + 4, 8), 0xfec00000);
        count[type]++;
        at += boot_fixture_peek(f, at + 1, 1);
    }
    assert_int_equal(at, end);
    assert_true(count[0] == 32 && count[1] == 1 && count[2] == 2 && count[4] == 1);
    f->cfg.no_acpi = true;
    assert_int_equal(boot_fixture_load(f), 0);
    assert_int_equal(boot_fixture_peek(f, 0xe0000, 8), 0);
    assert_int_equal(boot_fixture_peek(f, ZP + 0x70, 8), 0);
}

static void save_table(struct boot_fixture *f, gpa_t at, const char *name)
{
    static char path[4096];
    struct boot_bytes b = { malloc(65536), boot_fixture_peek(f, at + 4, 4) };
    assert_true(b.len < 65536);
    mem_read(f->mem, at, b.p, b.len);
    assert_true(image_write(f->dir, name, &b, path));
    boot_bytes_free(&b);
}

/* The reference compiler takes every table apart, and compiles the DSDT's source again without an error. */
static void test_acpi_iasl(void **st)
{
    struct boot_fixture *f = *st;
    static char cmd[1024];
    if (system("command -v iasl >/dev/null") != 0)
        skip();
    f->cfg.cpus = 32;
    f->cfg.virtio = virtio;
    f->cfg.n_virtio = 3;
    assert_int_equal(boot_fixture_load(f), 0);
    gpa_t fadt = acpi_table(f, "FACP");
    save_table(f, fadt, "FACP.aml");
    save_table(f, acpi_table(f, "APIC"), "APIC.aml");
    save_table(f, boot_fixture_peek(f, fadt + 40, 4), "DSDT.aml");
    snprintf(cmd, sizeof(cmd),
             "cd %s && for t in FACP APIC DSDT; do iasl -d $t.aml || echo Error; done >log 2>&1;"
             "iasl -ve -tc DSDT.dsl >>log 2>&1 || echo Error >>log; ! grep -iE '\\berror\\b|invalid' log | "
             "grep -v '0 Errors' && test -s DSDT.hex && test $(grep -c '_CRS, ResourceTemplate' DSDT.dsl) = 11; r=$?;"
             "rm -f *.aml *.dsl *.hex log; exit $r",
             f->dir);
    assert_int_equal(system(cmd), 0);
}

static void test_mptable(void **st)
{
    struct boot_fixture *f = *st;
    for (unsigned cpus = 1; cpus <= 32; cpus += 31) {
        f->cfg.cpus = cpus;
        assert_int_equal(boot_fixture_load(f), 0);
        gpa_t fp = boot_fixture_peek(f, 0x40e, 2) << 4;
        assert_int_equal(boot_fixture_peek(f, 0x413, 2), 639);
        assert_int_equal(fp, 0x9fc00);
        assert_int_equal(boot_fixture_peek(f, fp, 4), 0x5f504d5f); /* _MP_ */
        assert_int_equal(sum(f, fp, 16), 0);
        gpa_t t = boot_fixture_peek(f, fp + 4, 4);
        uint64_t len = boot_fixture_peek(f, t + 4, 2);
        assert_int_equal(boot_fixture_peek(f, t, 4), 0x504d4350); /* PCMP */
        assert_int_equal(sum(f, t, len), 0);
        assert_true(t + len <= 0xa0000);
        unsigned count[5] = { 0 };
        gpa_t at = t + 44;
        for (uint64_t n = boot_fixture_peek(f, t + 34, 2); n; n--) {
            unsigned type = (unsigned)boot_fixture_peek(f, at, 1);
            assert_true(type < 5);
            if (type == 0)
                assert_int_equal(boot_fixture_peek(f, at + 3, 1), count[0] ? 1 : 3);
            if (type == 3 && boot_fixture_peek(f, at + 5, 1) == 0)
                assert_int_equal(boot_fixture_peek(f, at + 7, 1), 2); /* the timer is on pin 2 */
            count[type]++;
            at += type == 0 ? 20 : 8;
        }
        assert_int_equal(at, t + len);
        assert_true(count[0] == cpus && count[1] == 1 && count[2] == 1 && count[3] == 23 && count[4] == 2);
    }
    f->cfg.no_mptable = true;
    assert_int_equal(boot_fixture_load(f), 0);
    assert_int_equal(boot_fixture_peek(f, 0x9fc00, 8), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_e820),
        cmocka_unit_test_setup_teardown(test_cmdline, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cmdline_bounds, setup, teardown),
        cmocka_unit_test_setup_teardown(test_initrd, setup, teardown),
        cmocka_unit_test_setup_teardown(test_initrd_room, setup, teardown),
        cmocka_unit_test_setup_teardown(test_acpi, setup, teardown),
        cmocka_unit_test_setup_teardown(test_acpi_iasl, setup, teardown),
        cmocka_unit_test_setup_teardown(test_mptable, setup, teardown),
    };
    return cmocka_run_group_tests_name("boot_params", tests, NULL, NULL);
}
