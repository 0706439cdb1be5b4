/* SPDX-License-Identifier: MIT */
/* Appliances: the manifest, the archive, OVF descriptors; what strangers may send. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <archive.h>
#include <archive_entry.h>
#include <dirent.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "appliance/archive.h"
#include "appliance/manifest.h"
#include "appliance/ovf.h"

/* ---- the manifest ---- */

#define FILES                                                                                                          \
    "\"files\":[{\"name\":\"k\",\"size\":3,\"sha256\":"                                                                \
    "\"2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae\"}]"
#define HEAD "\"format\":\"gazda-appliance\",\"version\":1,\"name\":\"a\",\"cpus\":1,\"mem\":67108864"
#define GOOD "{" HEAD ",\"kernel\":\"k\"," FILES "}"

static int parse(struct appliance_manifest *m, const char *text, struct err *e)
{
    return appliance_manifest_parse(m, text, strlen(text), e);
}

static void test_manifest_good(void **state)
{
    (void)state;
    static struct appliance_manifest m = { 0 }, n = { 0 };
    struct err e = { 0 };
    const char *text = "{" HEAD ",\"kernel\":\"k\",\"cmdline\":\"a b\",\"networks\":[{\"type\":\"user\",\"ports\":"
                       "[{\"protocol\":\"udp\",\"host\":53,\"guest\":54}]}]," FILES "}";
    assert_int_equal(parse(&m, text, &e), 0);
    assert_string_equal(m.name, "a");
    assert_int_equal(m.mem, 64 << 20);
    assert_int_equal(m.n_files, 1);
    assert_int_equal(m.file[0].sha256[0], 0x2c);
    assert_true(m.net[0].port[0].udp);
    assert_int_equal(m.net[0].port[0].guest, 54);
    char *again = appliance_manifest_print(&m);
    assert_int_equal(parse(&n, again, &e), 0);
    assert_memory_equal(&m, &n, sizeof(m));
    free(again);
}

static void test_manifest_bad(void **state)
{
    (void)state;
    static const struct {
        const char *text, *says;
    } bad[] = {
        { "", "no JSON" },
        { "[]", "object" },
        { "{\"format\":\"other\"}", "gazda-appliance" },
        { "{\"format\":\"gazda-appliance\",\"version\":2}", "version" },
        { "{" HEAD ",\"more\":1}", "does not know" },
        { "{" HEAD ",\"name\":\"b\"}", "no JSON" }, /* twice */
        { "{" HEAD ",\"kernel\":\"k\"}", "not listed" },
        { "{" HEAD "," FILES "}", "listed" },
        { "{" HEAD ",\"kernel\":\"../k\"," FILES "}", "plain name" },
        { "{" HEAD ",\"kernel\":\".k\"," FILES "}", "plain name" },
        { "{" HEAD ",\"kernel\":\"k\\u0000\"," FILES "}", "no JSON" },
        { "{" HEAD ",\"kernel\":5," FILES "}", "text" },
        { "{" HEAD ",\"initrd\":\"k\"," FILES "}", "without a kernel" },
        { "{" HEAD ",\"kernel\":\"k\",\"initrd\":\"k\"," FILES "}", "used twice" },
        { "{" HEAD ",\"kernel\":\"k\",\"cmdline\":\"a\\nb\"," FILES "}", "control" },
        { "{" HEAD ",\"kernel\":\"k\",\"files\":[{\"name\":\"k\",\"size\":-1,\"sha256\":\"\"}]}", "size" },
        { "{" HEAD ",\"kernel\":\"k\",\"files\":[{\"name\":\"k\",\"size\":1,\"sha256\":\"00\"}]}", "sha256" },
        { "{" HEAD ",\"networks\":[{\"type\":\"tap\"}]}", "user" },
        { "{" HEAD ",\"networks\":[{},{},{},{},{}]}", "at most" },
        { "{" HEAD ",\"networks\":[{\"type\":\"user\",\"ports\":[{\"protocol\":\"tcp\",\"host\":0,\"guest\":1}]}]}",
          "host" },
        { "{" HEAD ",\"disks\":[{\"file\":\"k\",\"readonly\":3}]," FILES "}", "true or false" },
        { "{\"format\":\"gazda-appliance\",\"version\":1,\"name\":\"a\",\"cpus\":33,\"mem\":67108864}", "cpus" },
        { "{\"format\":\"gazda-appliance\",\"version\":1,\"name\":\"a\",\"cpus\":1,\"mem\":67108865}", "4096" },
        { "{\"format\":\"gazda-appliance\",\"version\":1,\"cpus\":1,\"mem\":67108864}", "name" },
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        static struct appliance_manifest m;
        struct err e = { 0 };
        memset(&m, 0x5a, sizeof(m));
        int r = parse(&m, bad[i].text, &e);
        if (r != -EINVAL || !strstr(e.text, bad[i].says))
            fail_msg("%s: %d, \"%s\" without \"%s\"", bad[i].text, r, e.text, bad[i].says);
        assert_int_equal(m.cpus, 0x5a5a5a5a); /* untouched */
    }
}

/* ---- archives ---- */

struct place {
    char dir[64], file[96];
    int fd;
};

static int setup(void **state)
{
    struct place *p = calloc(1, sizeof(*p));
    strcpy(p->dir, "/tmp/gazda-unit-XXXXXX");
    assert_non_null(mkdtemp(p->dir));
    snprintf(p->file, sizeof(p->file), "%s.tar", p->dir);
    p->fd = open(p->dir, O_RDONLY | O_DIRECTORY);
    *state = p;
    return p->fd < 0;
}

static unsigned clear_dir(const struct place *p)
{
    unsigned n = 0;
    DIR *d = opendir(p->dir);
    for (struct dirent *e; (e = readdir(d)) != NULL;)
        if (unlinkat(p->fd, e->d_name, 0) == 0)
            n++;
    closedir(d);
    return n;
}

static int teardown(void **state)
{
    struct place *p = *state;
    clear_dir(p);
    close(p->fd);
    rmdir(p->dir);
    unlink(p->file);
    free(p);
    return 0;
}

static void put(int dirfd, const char *name, const void *data, size_t n)
{
    int fd = openat(dirfd, name, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    assert_int_equal(write(fd, data, n), n);
    close(fd);
}

/* A header that is enough for what is looked at. */
static void put_qcow2(const struct place *p, uint64_t backing, uint64_t incompatible)
{
    uint8_t h[104] = "QFI\xfb";
    uint32_t version = htobe32(3);
    backing = htobe64(backing);
    incompatible = htobe64(incompatible);
    memcpy(h + 4, &version, 4);
    memcpy(h + 8, &backing, 8);
    memcpy(h + 72, &incompatible, 8);
    put(p->fd, "d", h, sizeof(h));
}

static struct appliance_manifest *make(const struct place *p, struct appliance_manifest *m)
{
    memset(m, 0, sizeof(*m));
    strcpy(m->name, "a");
    m->cpus = 1;
    m->mem = 64 << 20;
    strcpy(m->kernel, "k");
    strcpy(m->disk[m->n_disks++].file, "d");
    appliance_manifest_add(m, "k");
    appliance_manifest_add(m, "d");
    put(p->fd, "k", "foo", 3);
    put_qcow2(p, 0, 0);
    return m;
}

static void test_round_trip(void **state)
{
    struct place *p = *state;
    static struct appliance_manifest m, n;
    struct err e = { 0 };
    assert_int_equal(appliance_pack(p->file, p->fd, make(p, &m), NULL, &e), 0);
    assert_int_equal(m.file[0].sha256[0], 0x2c);
    clear_dir(p);
    assert_int_equal(appliance_peek(p->file, &n, &e), 0);
    assert_memory_equal(&m, &n, sizeof(m));
    assert_int_equal(appliance_unpack(p->file, p->fd, &n, NULL, &e), 0);
    assert_memory_equal(&m, &n, sizeof(m));
    assert_int_equal(appliance_load(p->fd, &n, &e), 0);
    assert_memory_equal(&m, &n, sizeof(m));
    assert_int_equal(appliance_verify(p->fd, &m.file[0], NULL, &e), 0);
    put(p->fd, "k", "fop", 3);
    assert_int_equal(appliance_verify(p->fd, &m.file[0], NULL, &e), -EBADMSG);
    assert_int_equal(clear_dir(p), 3);
}

static void test_stop(void **state)
{
    struct place *p = *state;
    static struct appliance_manifest m;
    struct err e = { 0 };
    volatile sig_atomic_t stop = 1;
    struct appliance_progress progress = { .stop = &stop };
    assert_int_equal(appliance_pack(p->file, p->fd, make(p, &m), &progress, &e), -EINTR);
    assert_int_equal(access(p->file, F_OK), -1);
    assert_int_equal(appliance_pack(p->file, p->fd, &m, NULL, &e), 0);
    clear_dir(p);
    assert_int_equal(appliance_unpack(p->file, p->fd, &m, &progress, &e), -EINTR);
    assert_int_equal(clear_dir(p), 0);
}

static void test_disks(void **state)
{
    struct place *p = *state;
    struct err e = { 0 };
    put_qcow2(p, 0, 0);
    assert_int_equal(appliance_check_disk(p->fd, "d", &e), 0);
    put_qcow2(p, 512, 0);
    assert_int_equal(appliance_check_disk(p->fd, "d", &e), -EINVAL);
    put_qcow2(p, 0, 4);
    assert_int_equal(appliance_check_disk(p->fd, "d", &e), -EINVAL);
    put(p->fd, "d", "raw", 3);
    assert_int_equal(appliance_check_disk(p->fd, "d", &e), -EINVAL);
    assert_int_equal(symlinkat("/etc/passwd", p->fd, "l"), 0);
    assert_int_equal(appliance_check_disk(p->fd, "l", &e), -ELOOP);
}

/* An archive of what is in the folder and one entry more, as given. */
static void pack_with(const struct place *p, struct appliance_manifest *m, const char *name, unsigned type)
{
    struct archive *a = archive_write_new();
    char *text = appliance_manifest_print(m);
    const char *const names[] = { "manifest.json", name, "k", "d" };
    archive_write_set_format_gnutar(a);
    archive_write_open_filename(a, p->file);
    for (unsigned i = 0; i < 4; i++) {
        static uint8_t data[4096];
        int fd = openat(p->fd, names[i], O_RDONLY);
        ssize_t n = i == 0 ? (ssize_t)strlen(text) : i == 1 ? 0 : read(fd, data, sizeof(data));
        struct archive_entry *entry = archive_entry_new();
        archive_entry_set_pathname(entry, names[i]);
        archive_entry_set_perm(entry, 0644);
        archive_entry_set_filetype(entry, i == 1 ? type : AE_IFREG);
        if (i == 1 && type == AE_IFLNK)
            archive_entry_set_symlink(entry, "/tmp");
        if (i == 1 && type == 0)
            archive_entry_set_hardlink(entry, "/etc/passwd");
        archive_entry_set_size(entry, n);
        archive_write_header(a, entry);
        archive_write_data(a, i == 0 ? (void *)text : data, (size_t)n);
        archive_entry_free(entry);
        if (fd >= 0)
            close(fd);
    }
    archive_write_free(a);
    free(text);
}

static void test_hostile_entries(void **state)
{
    struct place *p = *state;
    static const struct {
        const char *name;
        unsigned type;
        const char *says;
    } bad[] = {
        { "../x", AE_IFREG, "has a name" }, { "/tmp/x", AE_IFREG, "has a name" },
        { "a/b", AE_IFREG, "has a name" },  { ".x", AE_IFREG, "has a name" },
        { "k", AE_IFREG, "0 bytes" },       { "x", AE_IFREG, "not in the" },
        { "k", AE_IFLNK, "regular" },       { "k", AE_IFDIR, "" },
        { "k", AE_IFIFO, "regular" },       { "k", 0, "regular" },
        { "d", AE_IFLNK, "regular" },       { "manifest.json", AE_IFREG, "not in" },
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        static struct appliance_manifest m;
        struct err e = { 0 };
        /* Sizes and checksums by a round that is right. */
        assert_int_equal(appliance_pack(p->file, p->fd, make(p, &m), NULL, &e), 0);
        pack_with(p, &m, bad[i].name, bad[i].type);
        clear_dir(p);
        int r = appliance_unpack(p->file, p->fd, &m, NULL, &e);
        if ((r != -EINVAL && r != -EBADMSG) || !strstr(e.text, bad[i].says))
            fail_msg("%s (%o): %d, %s", bad[i].name, bad[i].type, r, e.text);
        assert_int_equal(clear_dir(p), 0);
    }
}

static uint64_t next_random(uint64_t *x)
{
    *x = *x * 6364136223846793005UL + 1442695040888963407UL;
    return *x >> 33;
}

/* Damaged at random: refused or right, and never a file more than those of the manifest. */
static void test_archive_fuzz(void **state)
{
    struct place *p = *state;
    static struct appliance_manifest m;
    struct err e = { 0 };
    uint64_t x = 1;
    assert_int_equal(appliance_pack(p->file, p->fd, make(p, &m), NULL, &e), 0);
    int fd = open(p->file, O_RDONLY);
    struct appliance_file good_k = m.file[0];
    static uint8_t good[32768], bad[sizeof(good)];
    ssize_t len = read(fd, good, sizeof(good));
    close(fd);
    assert_in_range(len, 1024, sizeof(good) - 1);
    for (unsigned i = 0; i < 3000; i++) {
        size_t n = next_random(&x) % 8 ? (size_t)len : next_random(&x) % (size_t)len;
        memcpy(bad, good, sizeof(bad));
        for (unsigned k = 0; k <= next_random(&x) % 4; k++)
            bad[next_random(&x) % (size_t)len] = (uint8_t)next_random(&x);
        clear_dir(p);
        put(AT_FDCWD, p->file, bad, n);
        int r = appliance_unpack(p->file, p->fd, &m, NULL, &e);
        if (r == 0)
            assert_int_equal(appliance_verify(p->fd, &good_k, NULL, &e), 0);
        unsigned files = clear_dir(p);
        assert_true(r == 0 ? files == 3 : files == 0);
    }
    /* One bit of a file's data, which nothing but its checksum tells. */
    uint8_t *data = memmem(good, (size_t)len, "foo", 3);
    assert_non_null(data);
    data[2] ^= 1;
    put(AT_FDCWD, p->file, good, (size_t)len);
    assert_int_equal(appliance_unpack(p->file, p->fd, &m, NULL, &e), -EBADMSG);
}

/* ---- OVF ---- */

#define OVF(refs, disks, items)                                                                                        \
    "<Envelope xmlns:o=\"x\"><References>" refs "</References><DiskSection>" disks "</DiskSection>"                    \
    "<VirtualSystem o:id=\"my vm\"><VirtualHardwareSection>" items                                                     \
    "</VirtualHardwareSection></VirtualSystem></Envelope>"
#define REF "<File o:href=\"a b.vmdk\" o:id=\"f\" o:size=\"7\"/>"
#define DISK "<Disk o:diskId=\"d\" o:fileRef=\"f\"/>"
#define ITEM(type, more) "<Item><ResourceType>" type "</ResourceType>" more "</Item>"
#define DRIVE ITEM("17", "<HostResource>ovf:/disk/d</HostResource>")
#define N(n) "<VirtualQuantity>" n "</VirtualQuantity>"

static void test_ovf_good(void **state)
{
    (void)state;
    static struct ovf_machine m;
    struct err e = { 0 };
    const char *text = OVF(REF, DISK,
                           ITEM("3", N("4")) ITEM("4", N("2") "<AllocationUnits>byte * 2^30</AllocationUnits>")
                               ITEM("10", "") ITEM("10", "") ITEM("20", "") DRIVE);
    assert_int_equal(ovf_parse(&m, text, strlen(text), &e), 0);
    assert_string_equal(m.name, "my-vm");
    assert_int_equal(m.cpus, 4);
    assert_int_equal(m.mem, 2UL << 30);
    assert_int_equal(m.nets, 2);
    assert_int_equal(m.n_disks, 1);
    assert_string_equal(m.disk[0].href, "a b.vmdk");
    assert_int_equal(m.disk[0].size, 7);
}

static void test_ovf_bad(void **state)
{
    (void)state;
    static const struct {
        const char *text, *says;
    } bad[] = {
        { "", "no XML" },
        { "<a/>", "Envelope" },
        { "<Envelope/>", "VirtualSystem" },
        { "<!DOCTYPE x [<!ENTITY e SYSTEM \"file:///etc/passwd\">]>" OVF(REF, DISK, DRIVE), "DOCTYPE" },
        { OVF(REF, DISK, ""), "no disk" },
        { OVF(REF, "", DRIVE), "not there" },
        { OVF("", DISK, DRIVE), "references" },
        { OVF(REF, "<Disk o:diskId=\"d\"/>", DRIVE), "no file" },
        { OVF(REF, DISK, DRIVE DRIVE), "two drives" },
        { OVF("<File o:href=\"../x\" o:id=\"f\"/>", DISK, DRIVE), "plain file name" },
        { OVF("<File o:href=\"/etc/passwd\" o:id=\"f\"/>", DISK, DRIVE), "plain file name" },
        { OVF("<File o:href=\"x\" o:id=\"f\" o:compression=\"gzip\"/>", DISK, DRIVE), "compressed" },
        { OVF(REF, DISK, DRIVE ITEM("3", N("99"))), "CPUs" },
        { OVF(REF, DISK, DRIVE ITEM("4", N("18446744073709551615"))), "memory" },
        { OVF(REF, DISK, DRIVE ITEM("4", N("1") "<AllocationUnits>pages</AllocationUnits>")), "counted" },
        { "<Envelope><VirtualSystem/><VirtualSystem/></Envelope>", "several" },
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        static struct ovf_machine m;
        struct err e = { 0 };
        int r = ovf_parse(&m, bad[i].text, strlen(bad[i].text), &e);
        if (r != -EINVAL || !strstr(e.text, bad[i].says))
            fail_msg("%s: %d, \"%s\" without \"%s\"", bad[i].text, r, e.text, bad[i].says);
    }
}

static void test_parsers_fuzz(void **state)
{
    (void)state;
    static const char *const good[] = { OVF(REF, DISK, ITEM("3", N("4")) DRIVE), GOOD };
    uint64_t x = 2;
    for (unsigned i = 0; i < 20000; i++) {
        static struct ovf_machine o;
        static struct appliance_manifest m;
        struct err e = { 0 };
        bool json = i & 1;
        size_t len = strlen(good[json]);
        char *text = malloc(len);
        memcpy(text, good[json], len);
        for (unsigned k = 0; k <= next_random(&x) % 3; k++)
            text[next_random(&x) % len] =
                next_random(&x) % 2 ? "<>&\"/{}[]:,0"[next_random(&x) % 12] : (char)next_random(&x);
        size_t n = next_random(&x) % 4 ? len : next_random(&x) % len;
        int r = json ? appliance_manifest_parse(&m, text, n, &e) : ovf_parse(&o, text, n, &e);
        assert_true(r == 0 || r == -EINVAL);
        free(text);
    }
}

static void test_vmdk(void **state)
{
    struct place *p = *state;
    struct err e = { 0 };
    static uint8_t v[2048] = "KDMV";
    v[12] = 8; /* capacity */
    v[28] = 1; /* descriptor, in sectors */
    v[36] = 2;
    strcpy((char *)v + 512, "parentCID=ffffffff\ncreateType=\"streamOptimized\"\n");
    put(p->fd, "v", v, sizeof(v));
    assert_int_equal(ovf_check_disk(p->fd, "v", &e), OVF_VMDK);
    strcpy((char *)v + 512, "createType=\"streamOptimized\"\nparentFileNameHint=\"/etc/shadow\"\n");
    put(p->fd, "v", v, sizeof(v));
    assert_int_equal(ovf_check_disk(p->fd, "v", &e), -EINVAL);
    strcpy((char *)v + 512, "createType=\"monolithicFlat\"\nRW 8 FLAT \"/etc/shadow\" 0\n");
    put(p->fd, "v", v, sizeof(v));
    assert_int_equal(ovf_check_disk(p->fd, "v", &e), -EINVAL);
    v[12] = 0;
    put(p->fd, "v", v, sizeof(v));
    assert_int_equal(ovf_check_disk(p->fd, "v", &e), -EINVAL);
    put(p->fd, "v", "# Disk DescriptorFile\n", 22);
    assert_int_equal(ovf_check_disk(p->fd, "v", &e), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_manifest_good),
        cmocka_unit_test(test_manifest_bad),
        cmocka_unit_test_setup_teardown(test_round_trip, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stop, setup, teardown),
        cmocka_unit_test_setup_teardown(test_disks, setup, teardown),
        cmocka_unit_test_setup_teardown(test_hostile_entries, setup, teardown),
        cmocka_unit_test_setup_teardown(test_archive_fuzz, setup, teardown),
        cmocka_unit_test(test_ovf_good),
        cmocka_unit_test(test_ovf_bad),
        cmocka_unit_test(test_parsers_fuzz),
        cmocka_unit_test_setup_teardown(test_vmdk, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
