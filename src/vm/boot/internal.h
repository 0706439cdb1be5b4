/* SPDX-License-Identifier: MIT */
/*
 * What the boot files share. Every byte that goes into guest memory goes through boot_claim first, so nothing that a
 * file says can land on page tables, tables of ours, the legacy hole or outside RAM.
 */
#ifndef GAZDA_VM_BOOT_INTERNAL_H
#define GAZDA_VM_BOOT_INTERNAL_H

#include "mem/mem.h"
#include "vm/boot/boot.h"
#include "vm/boot/elf.h"
#include "vm/boot/layout.h"
#include "vm/boot/unpack.h"
#include "x86/cpu_state.h"

enum { BOOT_CLAIMS_MAX = 192 };
struct boot_claim {
    gpa_t start, end;
    const char *what; /* a literal */
};

/* One boot_load call. */
struct boot {
    const struct boot_config *cfg;
    struct mem *mem;
    struct cpu_state *cpu;
    struct boot_info *info;
    const char *name;         /* of the kernel, for messages */
    struct boot_bytes kernel; /* as read; unpacked when the file was compressed as a whole */
    char *cmdline;            /* built by boot_cmdline; malloc'd */
    unsigned n_claims;
    struct boot_claim claims[BOOT_CLAIMS_MAX];
};

/* ---- boot.c ---- */

/* Reserves [start, start+len). -EINVAL with e set: not RAM, or taken (the text names both). len 0 succeeds. */
int boot_claim(struct boot *b, gpa_t start, uint64_t len, const char *what, struct err *e);
/* Highest page-aligned start for len bytes in [LAYOUT_HIGH, limit) that no claim touches; 0 if there is none. */
gpa_t boot_find_high(const struct boot *b, uint64_t len, gpa_t limit);
/* mem_write into claimed memory: cannot fail but for our own bugs; returned as -EFAULT with e set. */
int boot_put(struct boot *b, gpa_t gpa, const void *p, uint64_t len, struct err *e);

/* Little-endian fields of a file; the caller has checked the bounds. */
static inline uint16_t boot_le16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}
static inline uint32_t boot_le32(const uint8_t *p)
{
    return (uint32_t)boot_le16(p) | (uint32_t)boot_le16(p + 2) << 16;
}
static inline uint64_t boot_le64(const uint8_t *p)
{
    return (uint64_t)boot_le32(p) | (uint64_t)boot_le32(p + 4) << 32;
}
static inline void boot_st16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}
static inline void boot_st32(uint8_t *p, uint32_t v)
{
    boot_st16(p, (uint16_t)v);
    boot_st16(p + 2, (uint16_t)(v >> 16));
}
static inline void boot_st64(uint8_t *p, uint64_t v)
{
    boot_st32(p, (uint32_t)v);
    boot_st32(p + 4, (uint32_t)(v >> 32));
}
/* True if [off, off+len) lies within total. */
static inline bool boot_within(uint64_t off, uint64_t len, uint64_t total)
{
    return off <= total && len <= total - off;
}

/* ---- file.c ---- */

struct boot_file {
    int fd;
    const char *path;
    uint64_t len;
};

/* Opens the regular, non-empty file f->path of at most max bytes. what: "kernel", "initrd". Sets fd and len. */
int boot_file_open(struct boot_file *f, const char *what, uint64_t max, struct err *e);
int boot_file_read(const char *path, const char *what, uint64_t max, struct boot_bytes *out, struct err *e);
/* Copies exactly f->len bytes of f->fd to guest memory. */
int boot_file_to_mem(struct boot *b, const struct boot_file *f, gpa_t gpa, struct err *e);

/* ---- the formats; each loads, enters and fills b->info ---- */

bool boot_is_bzimage(const uint8_t *p, size_t len);
int boot_bzimage(struct boot *b, struct err *e);
bool boot_multiboot_find(const uint8_t *p, size_t len, size_t *off);
int boot_multiboot(struct boot *b, size_t header, struct err *e);
int boot_flat(struct boot *b, struct err *e);
/* elf parsed; image is what it points into. from: how the ELF was come by, for info->how ("vmlinux", ...). */
int boot_pvh(struct boot *b, const struct boot_elf *elf, const char *from, struct err *e);
int boot_vmlinux(struct boot *b, const struct boot_elf *elf, const char *from, struct err *e);

/* ---- linux.c: boot_params ---- */

struct boot_linux {
    const uint8_t *setup; /* the file's setup header from 0x1f1 on, or NULL for a bare vmlinux */
    size_t setup_len;     /* bytes from 0x1f1 */
    gpa_t initrd_max;     /* highest byte the initrd may occupy */
    uint32_t cmdline_max; /* without the NUL */
    gpa_t code32_start;   /* 0: leave */
};
/* Command line, initrd and zero page. The kernel must have been claimed before. */
int boot_linux_params(struct boot *b, const struct boot_linux *l, struct err *e);
/* Registers as the 64-bit or 32-bit boot protocol has them; sets info->entry. */
int boot_linux_enter(struct boot *b, gpa_t entry, bool is64, struct err *e);

enum { E820_RAM = 1, E820_RESERVED = 2, E820_ACPI = 3 };
struct boot_e820 {
    uint64_t addr, len;
    uint32_t type;
};
enum { E820_MAX = 8 };
/* The machine's memory map, in rising order. Returns the number of entries. */
unsigned boot_e820(const struct mem *m, struct boot_e820 map[E820_MAX]);

/* ---- cmdline.c ---- */

/* Builds b->cmdline (append, virtio_mmio.device=, root=) and puts it at LAYOUT_CMDLINE. max: without the NUL. */
int boot_cmdline(struct boot *b, const char *prefix, bool linux_args, uint32_t max, struct err *e);

/* ---- initrd.c ---- */

/* Concatenates the initrds as high as possible but below limit; sets info->initrd and initrd_len. */
int boot_initrd(struct boot *b, gpa_t limit, struct err *e);

/* ---- entry.c: the boot processor's registers ---- */

void boot_enter_real(struct boot *b, uint16_t cs, uint16_t ip);
int boot_enter_prot(struct boot *b, gpa_t eip, struct err *e);
/* Long mode, the low 4 GiB mapped to themselves by 2 MiB pages at LAYOUT_PML4. */
int boot_enter_long(struct boot *b, gpa_t rip, struct err *e);

/* ---- acpi.c, mptable.c ---- */

int boot_acpi(struct boot *b, struct err *e);
int boot_mptable(struct boot *b, struct err *e);

#endif
