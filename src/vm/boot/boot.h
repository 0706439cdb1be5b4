/* SPDX-License-Identifier: MIT */
/*
 * From files to a guest that is about to execute its first instruction: kernels, initrds, the command line, ACPI and
 * MP tables, and the boot processor's registers. Everything read here is hostile; it is refused, never trusted.
 */
#ifndef GAZDA_VM_BOOT_BOOT_H
#define GAZDA_VM_BOOT_BOOT_H

#include "base/err.h"
#include "base/types.h"

struct mem;
struct cpu_state;

/* What a Linux guest is told when the user says nothing (boot_config.append == NULL). */
#define BOOT_DEFAULT_APPEND "console=ttyS0 reboot=k pci=off"

enum boot_kind {
    BOOT_AUTO,      /* by content */
    BOOT_LINUX,     /* bzImage or vmlinux entered as the Linux boot protocol says */
    BOOT_STUB,      /* bzImage through its own decompressor */
    BOOT_PVH,       /* ELF (or a bzImage's vmlinux) through its PVH note */
    BOOT_MULTIBOOT, /* version 1 */
    BOOT_FLAT16,    /* raw bytes, entered in real mode */
    BOOT_FLAT32,    /* ... in protected mode with flat segments, paging off */
    BOOT_FLAT64,    /* ... in long mode with the low 4 GiB mapped to themselves */
};

enum boot_root { BOOT_ROOT_NONE, BOOT_ROOT_RO, BOOT_ROOT_RW };

struct boot_virtio {
    gpa_t base;
    uint32_t len;
    unsigned gsi;
};

/* Borrowed for the length of boot_load. Zeroes are the defaults but for kernel and cpus. */
struct boot_config {
    const char *kernel;
    const char *const *initrds; /* concatenated for Linux and PVH; one module each for multiboot */
    unsigned n_initrds;
    const char *append; /* NULL: BOOT_DEFAULT_APPEND for Linux and PVH, nothing for others */
    const char *extra;  /* more for Linux and PVH, behind it; NULL: nothing */
    unsigned cpus;      /* 1..32; APIC ids 0..cpus-1 */
    const struct boot_virtio *virtio;
    unsigned n_virtio;
    enum boot_root root; /* adds root=/dev/vda ro|rw unless append has a root= */
    enum boot_kind kind;
    gpa_t flat_addr, flat_entry; /* flat kinds: where the bytes go, where execution begins */
    bool no_acpi, no_mptable;
};

struct boot_info {
    enum boot_kind kind; /* never BOOT_AUTO */
    char how[160];       /* one line for a log: "bzImage 6.1.0-..., xz payload, 64-bit entry" */
    gpa_t entry;
    gpa_t kernel_start, kernel_end;
    gpa_t initrd;
    uint64_t initrd_len; /* 0: none */
    gpa_t cmdline;       /* the final text, NUL-terminated, in guest memory */
    uint32_t cmdline_len;
    gpa_t rsdp;
};

/*
 * Fills fresh guest memory (mem_new or mem_reset) and bsp, which is in RESET state. Files are read anew each time, so
 * a reset calls it again. 0 or -errno with e set; then memory and bsp hold rubbish and the guest must not run.
 * Thread: any, while no vCPU runs.
 */
int boot_load(const struct boot_config *cfg, struct mem *mem, struct cpu_state *bsp, struct boot_info *out,
              struct err *e);

/*
 * Parses what the user may say about the kind: auto, linux, stub, pvh, multiboot, or
 * flat:{real|prot|long}@ADDR[,entry=ADDR] (entry is ADDR unless given), and stores it in cfg. 0 or -EINVAL.
 */
int boot_parse_kind(const char *text, struct boot_config *cfg, struct err *e);

#endif
