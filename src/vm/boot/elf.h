/* SPDX-License-Identifier: MIT */
/* ELF kernels: what their program headers and notes say, and putting them into guest memory. */
#ifndef GAZDA_VM_BOOT_ELF_H
#define GAZDA_VM_BOOT_ELF_H

#include "vm/boot/unpack.h"

struct boot;

enum { ELF_MAX_SEGS = 64 };
struct boot_elf {
    const uint8_t *p;
    size_t len;
    bool is64;
    uint64_t entry; /* as in the file */
    unsigned n;
    struct boot_elf_seg {
        uint64_t off, filesz, memsz, vaddr, paddr;
    } seg[ELF_MAX_SEGS]; /* PT_LOAD with memsz > 0 */
    bool has_pvh;
    uint64_t pvh_entry;
    gpa_t start, end; /* physical extent */
};

bool boot_is_elf(const uint8_t *p, size_t len);
/* Checks everything that does not depend on the machine. what begins the message: "kernel FILE". */
int boot_elf_parse(struct boot_elf *elf, const struct boot_bytes *file, const char *what, struct err *e);
/* Claims and copies the segments. min: lowest address allowed. */
int boot_elf_load(struct boot *b, const struct boot_elf *elf, gpa_t min, struct err *e);
/* The entry as a physical address inside a segment (a virtual one is translated). -EINVAL if it is in none. */
int boot_elf_entry(const struct boot_elf *elf, const char *what, gpa_t *entry, struct err *e);

#endif
