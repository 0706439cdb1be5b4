/* SPDX-License-Identifier: MIT */
/* See boot_fixture.h. */
#include "boot_fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "boot_images.h"

struct boot_fixture *boot_fixture_new(unsigned mib)
{
    struct boot_fixture *f = NULL;
    if (posix_memalign((void **)&f, 64, (sizeof(*f) + 63) & ~63UL) != 0)
        abort();
    memset(f, 0, sizeof(*f));
    snprintf(f->dir, sizeof(f->dir), "/tmp/gazda-boot-XXXXXX");
    f->mem = mem_new((uint64_t)mib << 20, &f->e);
    if (!f->mem || !mkdtemp(f->dir))
        abort();
    f->cfg.cpus = 1;
    f->cfg.kernel = f->kernel;
    f->cfg.initrds = f->initrd;
    return f;
}

void boot_fixture_free(struct boot_fixture *f)
{
    unlink(f->kernel);
    for (unsigned i = 0; i < f->cfg.n_initrds; i++) {
        unlink(f->initrd[i]);
        free((char *)(uintptr_t)f->initrd[i]);
    }
    rmdir(f->dir);
    mem_free(f->mem);
    free(f);
}

int boot_fixture_load(struct boot_fixture *f)
{
    mem_reset(f->mem);
    x86_cpu_reset(&f->cpu);
    memset(&f->e, 0, sizeof(f->e));
    return boot_load(&f->cfg, f->mem, &f->cpu, &f->info, &f->e);
}

void boot_fixture_kernel(struct boot_fixture *f, struct boot_bytes *b)
{
    if (!image_write(f->dir, "kernel", b, f->kernel))
        abort();
    boot_bytes_free(b);
}

void boot_fixture_initrd(struct boot_fixture *f, const void *p, size_t len)
{
    char name[16];
    const struct boot_bytes b = { (uint8_t *)(uintptr_t)p, len };
    snprintf(name, sizeof(name), "initrd%u", f->cfg.n_initrds);
    if (!image_write(f->dir, name, &b, f->path))
        abort();
    f->initrd[f->cfg.n_initrds++] = strdup(f->path);
}

uint64_t boot_fixture_peek(struct boot_fixture *f, gpa_t gpa, unsigned len)
{
    uint64_t v = 0;
    if (mem_read(f->mem, gpa, &v, len) < 0)
        abort();
    return v;
}
