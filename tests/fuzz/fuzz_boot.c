/* SPDX-License-Identifier: MIT */
/*
 * Hostile kernels, initrds, images and options. Each case of the corpus, which is made here and always the same, is
 * given to `gazda run`, which must end with status 1 and one line on stderr; never a signal, never a hang. Then random
 * mutants go to boot_load itself, which must answer, whatever it answers.
 *
 *   fuzz_boot [--keep DIR] [--seed N] [--mutants N]    prints TAP; GAZDA names the binary (default: beside this one)
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../unit/boot_fixture.h"
#include "../unit/boot_images.h"

#define MIB (1UL << 20)
enum { LIMIT_S = 60, ARGS_MAX = 96, CODE = 30000 };

struct fuzz {
    const char *gazda;
    char dir[256];
    bool keep;
    uint64_t seed;
    unsigned n, failed;
    char text[8192]; /* of the last run's stderr */
};

static uint64_t fuzz_random(struct fuzz *z)
{
    uint64_t x = z->seed += 0x9e3779b97f4a7c15;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return x ^ x >> 31;
}

/* ---- one run of the program ---- */

static pid_t run_start(struct fuzz *z, const char *const *args, int *err)
{
    const char *argv[ARGS_MAX + 4] = { z->gazda, "run" };
    unsigned n = 2;
    int p[2];
    for (; *args; args++)
        argv[n++] = *args;
    if (pipe(p) < 0)
        return -1;
    pid_t pid = fork();
    if (pid == 0) {
        int null = open("/dev/null", O_RDWR);
        dup2(null, 0);
        dup2(null, 1);
        dup2(p[1], 2);
        close(p[0]);
        close(p[1]);
        execv(z->gazda, (char **)(uintptr_t)argv);
        dprintf(2, "cannot run %s\nor anything\n", z->gazda);
        _exit(127);
    }
    close(p[1]);
    *err = p[0];
    return pid;
}

/* Reads stderr until it ends or the limit is over (then the program is killed). */
static void run_collect(struct fuzz *z, pid_t pid, int fd)
{
    size_t len = 0;
    time_t end = time(NULL) + LIMIT_S;
    for (;;) {
        struct pollfd f = { fd, POLLIN, 0 };
        if (poll(&f, 1, 1000) > 0) {
            ssize_t n = read(fd, z->text + len, sizeof(z->text) - 1 - len);
            if (n <= 0)
                break;
            len += (size_t)n;
            if (len == sizeof(z->text) - 1)
                break;
        }
        if (time(NULL) >= end)
            break;
    }
    z->text[len] = '\0';
    if (time(NULL) >= end)
        kill(pid, SIGKILL);
    close(fd);
}

static const char *run_verdict(struct fuzz *z, int status)
{
    if (WIFSIGNALED(status))
        return WTERMSIG(status) == SIGKILL ? "did not end" : "died of a signal";
    if (WEXITSTATUS(status) != 1)
        return "its exit status is not 1";
    char *nl = strchr(z->text, '\n');
    if (!nl || nl == z->text || nl[1])
        return "stderr is not exactly one line";
    *nl = '\0';
    for (const char *p = z->text; *p; p++)
        if ((unsigned char)*p < ' ')
            return "its line has control characters";
    return NULL;
}

static void run_case(struct fuzz *z, const char *name, const char *const *args)
{
    int fd, status;
    z->n++;
    pid_t pid = run_start(z, args, &fd);
    const char *bad = "cannot start it";
    if (pid > 0) {
        run_collect(z, pid, fd);
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
            ;
        bad = run_verdict(z, status);
    }
    printf("%sok %u - %s\n", bad ? "not " : "", z->n, name);
    if (!bad) {
        printf("#   %s\n", z->text);
    } else {
        z->failed++;
        printf("# %s (status %#x); args:", bad, status);
        for (; *args; args++)
            printf(" '%.200s'", *args);
        printf("\n# stderr: %s\n", z->text);
    }
    fflush(stdout);
}

/* ---- cases that are a kernel file ---- */

static void kernel_case(struct fuzz *z, const char *name, const struct boot_bytes *k, const char *boot)
{
    static char path[4096];
    char file[96];
    snprintf(file, sizeof(file), "%s.bin", name);
    for (char *p = file; *p; p++)
        if (*p == ' ' || *p == '/')
            *p = '_';
    if (!image_write(z->dir, file, k, path))
        abort();
    const char *args[] = { "--kernel", path, "--mem", "64M", boot ? "--boot" : NULL, boot, NULL };
    run_case(z, name, args);
    if (!z->keep)
        unlink(path);
}

static struct boot_bytes copy(const struct boot_bytes *b, size_t len)
{
    struct boot_bytes c = { malloc(len ? len : 1), len };
    memcpy(c.p, b->p, len < b->len ? len : b->len);
    return c;
}

static const struct image_elf elf_opt = { .is64 = true,
                                          .paddr = 16 * MIB,
                                          .vaddr = 0xffffffff81000000,
                                          .entry = 16 * MIB,
                                          .filesz = CODE,
                                          .memsz = CODE + 0x4000,
                                          .pvh = true,
                                          .pvh_entry = 16 * MIB };

static struct boot_bytes make_bz(enum boot_pack k)
{
    const struct image_bz o = { 0x020f, true, true, 2047 };
    struct boot_bytes v = image_make_elf(&elf_opt), packed = image_pack(k, &v);
    struct boot_bytes bz = image_make_bzimage(&o, &packed);
    boot_bytes_free(&v);
    boot_bytes_free(&packed);
    return bz;
}

static const enum boot_pack packs[] = { PACK_GZIP, PACK_XZ, PACK_LZMA, PACK_ZSTD, PACK_LZ4_LEGACY };

static void truncated(struct fuzz *z)
{
    char name[80];
    for (size_t i = 0; i < ARRAY_LEN(packs); i++) {
        struct boot_bytes bz = make_bz(packs[i]), v = image_make_elf(&elf_opt), whole = image_pack(packs[i], &v);
        for (size_t j = 0; j < 8; j++) {
            size_t len = j < 4 ? 0x1ff + j * 0x101 : 1 + bz.len * (j - 3) / 6;
            struct boot_bytes cut = copy(&bz, len);
            snprintf(name, sizeof(name), "bzImage %s cut at %zu", boot_pack_name(packs[i]), len);
            kernel_case(z, name, &cut, NULL);
            boot_bytes_free(&cut);
        }
        for (size_t j = 1; j < 5; j++) {
            struct boot_bytes cut = copy(&whole, whole.len * j / 5);
            snprintf(name, sizeof(name), "vmlinux.%s cut at %zu", boot_pack_name(packs[i]), cut.len);
            kernel_case(z, name, &cut, NULL);
            boot_bytes_free(&cut);
        }
        boot_bytes_free(&bz);
        boot_bytes_free(&whole);
        boot_bytes_free(&v);
    }
    struct boot_bytes v = image_make_elf(&elf_opt);
    for (size_t len = 1; len < v.len; len = len * 5 / 3 + 1) {
        struct boot_bytes cut = copy(&v, len);
        snprintf(name, sizeof(name), "vmlinux cut at %zu", len);
        kernel_case(z, name, &cut, NULL);
        boot_bytes_free(&cut);
    }
    boot_bytes_free(&v);
}

/* Fields of headers set to what no honest file has. */
struct poke {
    uint16_t off;
    uint8_t len;
    uint64_t val;
};

static void poked(struct fuzz *z, const char *what, const struct boot_bytes *img, const struct poke *p,
                  const char *boot)
{
    char name[80];
    struct boot_bytes c = copy(img, img->len);
    memcpy(c.p + p->off, &p->val, p->len);
    snprintf(name, sizeof(name), "%s %#x is %#lx", what, p->off, (unsigned long)p->val);
    kernel_case(z, name, &c, boot);
    boot_bytes_free(&c);
}

static void hostile_elf(struct fuzz *z)
{
    static const struct poke pokes[] = {
        { 4, 1, 0 },
        { 4, 1, 3 },
        { 5, 1, 2 },
        { 16, 2, 0 },
        { 16, 2, 1 },
        { 16, 2, 4 },
        { 18, 2, 40 },
        { 18, 2, 183 },
        { 18, 2, 243 },
        { 18, 2, 0xffff },
        { 32, 8, 0 },
        { 32, 8, ~0UL },
        { 32, 8, 1UL << 63 },
        { 32, 8, 0x7fffffff },
        { 54, 2, 0 },
        { 54, 2, 32 },
        { 54, 2, 0xffff },
        { 56, 2, 0 },
        { 56, 2, 0xffff },
        { 56, 2, 5000 },
        { 72, 8, ~0UL },
        { 72, 8, 1UL << 63 },
        { 72, 8, 0x800000 },
        { 88, 8, 0 },
        { 88, 8, 0x7000 },
        { 88, 8, 0x9000 },
        { 88, 8, 0x20000 },
        { 88, 8, 0xa0000 },
        { 88, 8, 0xe0000 },
        { 88, 8, 0xff000 },
        { 88, 8, 64 * MIB },
        { 88, 8, 0xc0000000 },
        { 88, 8, 0xfee00000 },
        { 88, 8, 1UL << 32 },
        { 88, 8, ~0UL },
        { 88, 8, ~0UL - CODE },
        { 96, 8, ~0UL },
        { 96, 8, 1UL << 63 },
        { 96, 8, CODE + MIB },
        { 104, 8, CODE - 1 },
        { 104, 8, ~0UL },
        { 104, 8, 1UL << 40 },
        { 104, 8, 48 * MIB + 1 },
        { 0x810, 4, 0 },
        { 0x810, 4, 0x9000 },
        { 0x810, 4, ~0U },
        { 128, 8, ~0UL },
        { 152, 8, ~0UL },
    };
    struct boot_bytes v = image_make_elf(&elf_opt);
    for (size_t i = 0; i < ARRAY_LEN(pokes); i++)
        poked(z, "ELF64", &v, &pokes[i], NULL);
    static const struct poke entries[] = {
        { 24, 8, 0 }, { 24, 8, 15 * MIB }, { 24, 8, ~0UL }, { 24, 8, 0xffffffff80000000 }
    };
    for (size_t i = 0; i < ARRAY_LEN(entries); i++)
        poked(z, "ELF64 entry", &v, &entries[i], "linux");
    boot_bytes_free(&v);

    static const struct poke pokes32[] = { { 28, 4, ~0U }, { 28, 4, 0x7ffffff0 }, { 42, 2, 56 },  { 44, 2, 0xffff },
                                           { 56, 4, ~0U }, { 64, 4, 0x9000 },     { 64, 4, ~0U }, { 64, 4, 0xfec00000 },
                                           { 68, 4, ~0U }, { 72, 4, ~0U },        { 72, 4, 1 } };
    struct image_elf o = elf_opt;
    o.is64 = false;
    o.vaddr = o.paddr;
    v = image_make_elf(&o);
    for (size_t i = 0; i < ARRAY_LEN(pokes32); i++)
        poked(z, "ELF32", &v, &pokes32[i], NULL);
    boot_bytes_free(&v);
}

/* More program headers than the loader takes, all of them the same segment. */
static void hostile_phdrs(struct fuzz *z)
{
    struct boot_bytes v = image_make_elf(&elf_opt), c = copy(&v, v.len + 65535 * 56);
    const uint64_t phoff = v.len;
    static const uint16_t counts[] = { 2, 65, 1000, 65535 };
    for (size_t i = 0; i < 65535; i++)
        memcpy(c.p + v.len + i * 56, v.p + 64, 56);
    memcpy(c.p + 32, &phoff, 8);
    for (size_t i = 0; i < ARRAY_LEN(counts); i++)
        poked(z, "ELF64 overlapping segments", &c, &(struct poke){ 56, 2, counts[i] }, NULL);
    boot_bytes_free(&c);
    boot_bytes_free(&v);
}

static void hostile_bzimage(struct fuzz *z)
{
    static const struct poke pokes[] = {
        { 0x1f1, 1, 255 },        { 0x1f1, 1, 64 },         { 0x1f4, 4, ~0U },        { 0x1f4, 4, 0x100000 },
        { 0x206, 2, 0 },          { 0x206, 2, 0x0100 },     { 0x206, 2, 0x0201 },     { 0x211, 1, 0 },
        { 0x248, 4, ~0U },        { 0x248, 4, 0x7fffffff }, { 0x248, 4, 0x10000000 }, { 0x24c, 4, ~0U },
        { 0x24c, 4, 0x80000000 }, { 0x24c, 4, 0x10000000 }, { 0x24c, 4, 1000 },       { 0x24c, 4, 40 },
    };
    struct boot_bytes bz = make_bz(PACK_XZ);
    for (size_t i = 0; i < ARRAY_LEN(pokes); i++)
        poked(z, "bzImage", &bz, &pokes[i], NULL);
    poked(z, "bzImage", &bz, &(struct poke){ 0x238, 4, 10 }, NULL); /* command line of ten bytes */
    static const struct poke stub[] = { { 0x230, 4, 0 },        { 0x230, 4, 3 },         { 0x230, 4, 0x80000000 },
                                        { 0x258, 8, ~0UL },     { 0x258, 8, 1UL << 32 }, { 0x258, 8, 0xc0000000 },
                                        { 0x258, 8, 64 * MIB }, { 0x260, 4, ~0U },       { 0x260, 4, 0x30000001 } };
    for (size_t i = 0; i < ARRAY_LEN(stub); i++)
        poked(z, "bzImage stub", &bz, &stub[i], "stub");
    for (size_t i = 0; i < 12; i++) {
        /* Both formats carry a check sum over what they hold. */
        struct boot_bytes d = make_bz(i & 1 ? PACK_XZ : PACK_GZIP);
        size_t at = IMAGE_BZ_CODE + IMAGE_BZ_PAYLOAD + 64 + fuzz_random(z) % 1500;
        poked(z, "bzImage payload", &d, &(struct poke){ (uint16_t)at, 1, (uint8_t)~d.p[at] }, NULL);
        boot_bytes_free(&d);
    }
    boot_bytes_free(&bz);
}

static void hostile_multiboot(struct fuzz *z)
{
    static const struct poke pokes[] = {
        { 12, 4, 0 },          { 12, 4, 0x1fffff }, { 12, 4, ~0U },      { 16, 4, 0x200001 },
        { 16, 4, ~0U },        { 16, 4, 0 },        { 20, 4, 1 },        { 20, 4, 0x1fffff },
        { 20, 4, ~0U },        { 24, 4, 1 },        { 24, 4, 0x200010 }, { 24, 4, ~0U },
        { 24, 4, 0xd0000000 }, { 28, 4, 0 },        { 28, 4, ~0U },      { 28, 4, 0x1fffff },
    };
    struct boot_bytes m = image_make_multiboot(2 * MIB, CODE, 0x10003);
    for (size_t i = 0; i < ARRAY_LEN(pokes); i++)
        poked(z, "multiboot", &m, &pokes[i], NULL);
    boot_bytes_free(&m);
    static const uint32_t where[] = { 0,       0x500,   0x7000,  0x9000,     0x1f000,
                                      0x9f000, 0xa0000, 0xf0000, 0xbfff0000, 0xc0000000 };
    for (size_t i = 0; i < ARRAY_LEN(where); i++) {
        char name[64];
        m = image_make_multiboot(where[i], CODE, 0x10003);
        snprintf(name, sizeof(name), "multiboot loaded at %#x", where[i]);
        kernel_case(z, name, &m, NULL);
        boot_bytes_free(&m);
    }
    static const uint32_t flags[] = { 0x8, 0x8000, 0xfff8, 0x10008, 3 };
    for (size_t i = 0; i < ARRAY_LEN(flags); i++) {
        char name[64];
        m = image_make_multiboot(2 * MIB, CODE, flags[i]);
        snprintf(name, sizeof(name), "multiboot flags %#x", flags[i]);
        kernel_case(z, name, &m, NULL);
        boot_bytes_free(&m);
    }
}

static void random_files(struct fuzz *z)
{
    static const struct {
        const char *name, *magic;
        uint8_t len;
    } heads[] = { { "nothing", "", 0 },
                  { "ELF64", "\177ELF\2\1\1\0\0\0\0\0\0\0\0\0\2\0\76", 20 },
                  { "ELF32", "\177ELF\1\1\1\0\0\0\0\0\0\0\0\0\2\0\3", 20 },
                  { "gzip", "\x1f\x8b\x08", 3 },
                  { "xz",
                    "\xfd"
                    "7zXZ\0\0\1",
                    8 },
                  { "lzma", "\x5d\0\0\x80\0", 5 },
                  { "zstd", "\x28\xb5\x2f\xfd", 4 },
                  { "lz4 legacy", "\x02\x21\x4c\x18", 4 },
                  { "lz4", "\x04\x22\x4d\x18", 4 },
                  { "bzip2", "BZh9", 4 },
                  { "lzo", "\x89LZO\0\r\n\x1a\n", 9 },
                  { "script", "#!/bin/sh\n", 10 },
                  { "PE", "MZ\x90\0", 4 },
                  { "cpio", "070701", 6 } };
    for (size_t i = 0; i < ARRAY_LEN(heads); i++) {
        for (unsigned j = 0; j < 4; j++) {
            char name[64];
            struct boot_bytes b = { malloc(70000), j == 0 ? heads[i].len + 1UL : 1UL << (6 + 3 * j) };
            for (size_t k = 0; k < b.len; k++)
                b.p[k] = (uint8_t)fuzz_random(z);
            memcpy(b.p, heads[i].magic, heads[i].len);
            snprintf(name, sizeof(name), "random bytes after %s, %zu", heads[i].name, b.len);
            kernel_case(z, name, &b, NULL);
            boot_bytes_free(&b);
        }
    }
}

static void bombs(struct fuzz *z)
{
    static const enum boot_pack kinds[] = { PACK_GZIP, PACK_XZ, PACK_LZMA, PACK_ZSTD };
    struct boot_bytes zero = { calloc(1, 80 * MIB), 80 * MIB };
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        char name[64];
        struct boot_bytes packed = image_pack(kinds[i], &zero);
        snprintf(name, sizeof(name), "80 MiB in %s for 64 MiB", boot_pack_name(kinds[i]));
        kernel_case(z, name, &packed, NULL);
        boot_bytes_free(&packed);
    }
    boot_bytes_free(&zero);
}

/* ---- cases that are file kinds and options ---- */

static void odd_files(struct fuzz *z)
{
    static char good[4096], fifo[4096], empty[4096], huge[4096], locked[4096], big[4096];
    struct boot_bytes k = make_bz(PACK_GZIP), none = { k.p, 0 };
    if (!image_write(z->dir, "good", &k, good) || !image_write(z->dir, "empty", &none, empty) ||
        !image_write(z->dir, "huge", &none, huge) || !image_write(z->dir, "locked", &k, locked) ||
        !image_write(z->dir, "big", &none, big) || truncate(huge, 1L << 40) < 0 || truncate(big, 47 * MIB) < 0)
        abort();
    snprintf(fifo, sizeof(fifo), "%s/fifo", z->dir);
    if (mkfifo(fifo, 0600) < 0 && errno != EEXIST)
        abort();
    const char *odd[] = { "/nonexistent", z->dir, fifo, empty, huge, "/dev/zero", "/dev/null", "" };
    for (size_t i = 0; i < ARRAY_LEN(odd); i++) {
        char name[320];
        const char *kernel[] = { "--kernel", odd[i], "--mem", "64M", NULL };
        const char *initrd[] = { "--kernel", good, "--mem", "64M", "--initrd", odd[i], NULL };
        const char *module[] = { "--kernel", good, "--mem", "64M", "--initrd", good, "--initrd", odd[i], NULL };
        const char *tail = strrchr(odd[i], '/') ? strrchr(odd[i], '/') : odd[i];
        snprintf(name, sizeof(name), "kernel is %s", i == 1 ? "a directory" : tail);
        run_case(z, name, kernel);
        snprintf(name, sizeof(name), "initrd is %s", i == 1 ? "a directory" : tail);
        run_case(z, name, initrd);
        snprintf(name, sizeof(name), "second initrd is %s", i == 1 ? "a directory" : tail);
        run_case(z, name, module);
    }
    const char *much[] = { "--kernel", good, "--mem", "64M", "--initrd", big, "--initrd", big, NULL };
    run_case(z, "initrds larger than memory", much);
    const char *small[] = { "--kernel", good, "--mem", "16M", NULL };
    run_case(z, "kernel above the end of memory", small);
    if (!z->keep) {
        const char *all[] = { good, fifo, empty, huge, locked, big };
        for (size_t i = 0; i < ARRAY_LEN(all); i++)
            unlink(all[i]);
    }
    boot_bytes_free(&k);
}

static void odd_options(struct fuzz *z)
{
    static char good[4096], text[70000];
    struct boot_bytes k = make_bz(PACK_GZIP);
    if (!image_write(z->dir, "good", &k, good))
        abort();
    static const size_t lens[] = { 2048, 2049, 4096, 60000 };
    for (size_t i = 0; i < ARRAY_LEN(lens); i++) {
        char name[64];
        memset(text, i & 1 ? '\x1b' : 'a', lens[i]);
        text[lens[i]] = '\0';
        const char *args[] = { "--kernel", good, "--mem", "64M", "--append", text, NULL };
        snprintf(name, sizeof(name), "command line of %zu bytes", lens[i]);
        run_case(z, name, args);
    }
    static const char *const bad[][2] = {
        { "--mem", "0" },
        { "--mem", "1" },
        { "--mem", "-5M" },
        { "--mem", "64X" },
        { "--mem", "99999999T" },
        { "--mem", "" },
        { "--cpus", "0" },
        { "--cpus", "33" },
        { "--cpus", "-1" },
        { "--cpus", "1x" },
        { "--cpus", "" },
        { "--boot", "" },
        { "--boot", "flat:real@" },
        { "--boot", "flat:x@1" },
        { "--boot", "\n\033[m" },
        { "--boot", "multiboot" },
        { "--boot", "pvh,x" },
        { "--engine", "" },
        { "--engine", "warp" },
        { "--disk", "" },
        { "--disk", "/nonexistent" },
        { "--disk", "/" },
        { "--disk", ",ro" },
        { "--boot", "flat:long@0xc0000000" },
        { "--nonsense", "1" },
        { "--boot", "flat:real@0x100000" },
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        char name[64];
        const char *args[] = { "--kernel", good, bad[i][0], bad[i][1], NULL };
        snprintf(name, sizeof(name), "option %s number %zu", bad[i][0] + 2, i);
        run_case(z, name, args);
    }
    const char *many[ARGS_MAX] = { "--kernel", good, "--mem", "64M", "--initrd" };
    unsigned n = 4;
    for (; n < ARGS_MAX - 1; n++)
        many[n] = n & 1 ? good : "--initrd";
    run_case(z, "ninety words and no last value", many);
    if (!z->keep)
        unlink(good);
    boot_bytes_free(&k);
}

/* ---- mutants of good files, to the loader itself ---- */

static struct boot_bytes mutant(struct fuzz *z)
{
    unsigned kind = (unsigned)(fuzz_random(z) % 8);
    struct boot_bytes b;
    if (kind < 5) {
        b = make_bz(packs[kind]);
    } else if (kind < 7) {
        struct image_elf o = elf_opt;
        o.is64 = kind == 5;
        o.multiboot = fuzz_random(z) & 1;
        b = image_make_elf(&o);
    } else {
        b = image_make_multiboot(2 * MIB, CODE, 0x10003);
    }
    for (unsigned n = (unsigned)(fuzz_random(z) % 6) + 1; n; n--) {
        uint64_t r = fuzz_random(z), v = fuzz_random(z);
        /* Headers are where it hurts; now and then the body. */
        size_t at = r & 7 ? (r >> 8) % 0x300 : (r >> 8) % b.len;
        static const uint64_t nasty[] = { 0, 1, 0x7fffffff, 0x80000000, 0xffffffff, ~0UL, 1UL << 63, 4096 };
        if (v & 1)
            v = nasty[(v >> 8) % ARRAY_LEN(nasty)];
        size_t len = 1UL << (r >> 4 & 3);
        if (at + len <= b.len)
            memcpy(b.p + at, &v, len);
    }
    if (fuzz_random(z) % 4 == 0)
        b.len = 1 + fuzz_random(z) % b.len;
    return b;
}

static void mutants(struct fuzz *z, unsigned count)
{
    struct boot_fixture *f = boot_fixture_new(64);
    unsigned accepted = 0, mute = 0;
    boot_fixture_initrd(f, "initrd", 6);
    for (unsigned i = 0; i < count; i++) {
        static const enum boot_kind kinds[] = { BOOT_AUTO, BOOT_AUTO,      BOOT_LINUX,  BOOT_STUB,
                                                BOOT_PVH,  BOOT_MULTIBOOT, BOOT_FLAT32, BOOT_FLAT64 };
        struct boot_bytes b = mutant(z);
        f->cfg.kind = kinds[fuzz_random(z) % ARRAY_LEN(kinds)];
        f->cfg.flat_addr = fuzz_random(z);
        f->cfg.flat_addr >>= fuzz_random(z) % 64;
        f->cfg.flat_entry = f->cfg.flat_addr;
        boot_fixture_kernel(f, &b);
        int r = boot_fixture_load(f);
        if (r == 0)
            accepted++;
        else if (!f->e.text[0])
            mute++;
    }
    boot_fixture_free(f);
    z->n++;
    z->failed += mute != 0;
    printf("%sok %u - %u mutants answered by the loader, %u accepted\n", mute ? "not " : "", z->n, count, accepted);
}

int main(int argc, char **argv)
{
    static struct fuzz z = { .seed = 1 };
    static char gazda[4096];
    unsigned count = 1500;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--keep"))
            z.keep = snprintf(z.dir, sizeof(z.dir), "%s", argv[i + 1]) > 0;
        else if (!strcmp(argv[i], "--seed"))
            z.seed = strtoull(argv[i + 1], NULL, 0);
        else if (!strcmp(argv[i], "--mutants"))
            count = (unsigned)strtoul(argv[i + 1], NULL, 0);
    }
    /* out/MODE/tests/fuzz_boot tests out/MODE/gazda; out/rel/tests/fuzz_boot tests out/gazda. */
    const char *slash = strrchr(argv[0], '/');
    snprintf(gazda, sizeof(gazda), "%.*s/../gazda", slash ? (int)(slash - argv[0]) : 1, slash ? argv[0] : ".");
    if (access(gazda, X_OK) < 0)
        snprintf(gazda, sizeof(gazda), "%.*s/../../gazda", slash ? (int)(slash - argv[0]) : 1, slash ? argv[0] : ".");
    z.gazda = getenv("GAZDA") ? getenv("GAZDA") : gazda;
    if (!z.keep) {
        snprintf(z.dir, sizeof(z.dir), "/tmp/gazda-fuzz-XXXXXX");
        if (!mkdtemp(z.dir))
            return 1;
    }
    signal(SIGPIPE, SIG_IGN);
    printf("# seed %lu, %s\n", (unsigned long)z.seed, z.gazda);
    truncated(&z);
    hostile_elf(&z);
    hostile_phdrs(&z);
    hostile_bzimage(&z);
    hostile_multiboot(&z);
    random_files(&z);
    bombs(&z);
    odd_files(&z);
    odd_options(&z);
    mutants(&z, count);
    printf("1..%u\n# %u failed\n", z.n, z.failed);
    if (!z.keep)
        rmdir(z.dir);
    return z.failed != 0;
}
