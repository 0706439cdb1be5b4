/* SPDX-License-Identifier: MIT */
/* A guest's memory and boot processor for one test, and a directory for its files. */
#ifndef GAZDA_TESTS_BOOT_FIXTURE_H
#define GAZDA_TESTS_BOOT_FIXTURE_H

#include "mem/mem.h"
#include "vm/boot/boot.h"
#include "vm/boot/layout.h"
#include "x86/cpu_state.h"

struct boot_fixture {
    struct mem *mem;
    struct cpu_state cpu;
    struct boot_config cfg;
    struct boot_info info;
    struct err e;
    const char *initrd[8];
    char dir[64], kernel[4096], path[4096];
};

/* ram in MiB; the directory is new. Aborts on failure. */
struct boot_fixture *boot_fixture_new(unsigned mib);
void boot_fixture_free(struct boot_fixture *f);
/* Fresh memory and registers, then boot_load. */
int boot_fixture_load(struct boot_fixture *f);
/* Writes a file and makes it the kernel or one more initrd. Frees b. */
struct boot_bytes;
void boot_fixture_kernel(struct boot_fixture *f, struct boot_bytes *b);
void boot_fixture_initrd(struct boot_fixture *f, const void *p, size_t len);

/* Guest memory, little-endian. */
uint64_t boot_fixture_peek(struct boot_fixture *f, gpa_t gpa, unsigned len);

#endif
