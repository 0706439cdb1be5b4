/* SPDX-License-Identifier: MIT */
/*
 * ELF kernels, 32- and 64-bit: System V ABI, "Object Files" and "Program Loading". Sections are ignored; only program
 * headers count. All sizes come from a hostile file: sums are checked before they are used, and the segments together
 * may not be larger than RAM, so loading takes bounded time.
 */
#include <elf.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "vm/boot/internal.h"

#define XEN_ELFNOTE_PHYS32_ENTRY 18

bool boot_is_elf(const uint8_t *p, size_t len)
{
    return len >= SELFMAG && !memcmp(p, ELFMAG, SELFMAG);
}

struct phdr {
    uint32_t type;
    uint64_t off, vaddr, paddr, filesz, memsz, align;
};

static struct phdr elf_phdr(const uint8_t *p, bool is64)
{
    struct phdr h = { .type = boot_le32(p) };
    if (is64) {
        h.off = boot_le64(p + offsetof(Elf64_Phdr, p_offset));
        h.vaddr = boot_le64(p + offsetof(Elf64_Phdr, p_vaddr));
        h.paddr = boot_le64(p + offsetof(Elf64_Phdr, p_paddr));
        h.filesz = boot_le64(p + offsetof(Elf64_Phdr, p_filesz));
        h.memsz = boot_le64(p + offsetof(Elf64_Phdr, p_memsz));
        h.align = boot_le64(p + offsetof(Elf64_Phdr, p_align));
    } else {
        h.off = boot_le32(p + offsetof(Elf32_Phdr, p_offset));
        h.vaddr = boot_le32(p + offsetof(Elf32_Phdr, p_vaddr));
        h.paddr = boot_le32(p + offsetof(Elf32_Phdr, p_paddr));
        h.filesz = boot_le32(p + offsetof(Elf32_Phdr, p_filesz));
        h.memsz = boot_le32(p + offsetof(Elf32_Phdr, p_memsz));
        h.align = boot_le32(p + offsetof(Elf32_Phdr, p_align));
    }
    return h;
}

/* Looks for the PVH entry among the notes at [p, p+len). A malformed note ends the search; it harms nobody. */
static void elf_notes(struct boot_elf *elf, const uint8_t *p, uint64_t len, uint64_t align)
{
    uint64_t pad = align == 8 ? 7 : 3, off = 0;
    while (boot_within(off, 12, len)) {
        uint64_t namesz = boot_le32(p + off), descsz = boot_le32(p + off + 4);
        uint32_t type = boot_le32(p + off + 8);
        uint64_t name = off + 12;
        uint64_t desc = (name + namesz + pad) & ~pad; /* 32-bit sizes: no overflow */
        if (!boot_within(name, namesz, len) || !boot_within(desc, descsz, len))
            return;
        if (type == XEN_ELFNOTE_PHYS32_ENTRY && namesz == 4 && !memcmp(p + name, "Xen", 4) && descsz >= 4) {
            elf->has_pvh = true;
            elf->pvh_entry = descsz >= 8 ? boot_le64(p + desc) : boot_le32(p + desc);
            return;
        }
        off = (desc + descsz + pad) & ~pad;
    }
}

static const char *elf_machine(unsigned m)
{
    return m == EM_AARCH64 ? " (AArch64)"
           : m == EM_ARM   ? " (ARM)"
           : m == EM_RISCV ? " (RISC-V)"
           : m == EM_PPC64 ? " (PowerPC)"
           : m == EM_S390  ? " (S/390)"
                           : "";
}

static int elf_header(struct boot_elf *elf, const char *what, struct err *e)
{
    const uint8_t *p = elf->p;
    if (elf->len < sizeof(Elf32_Ehdr) || (p[EI_CLASS] == ELFCLASS64 && elf->len < sizeof(Elf64_Ehdr)))
        return err_set(e, EINVAL, "%s is a truncated ELF file: %zu bytes do not hold its header", what, elf->len);
    if ((p[EI_CLASS] != ELFCLASS32 && p[EI_CLASS] != ELFCLASS64) || p[EI_DATA] != ELFDATA2LSB)
        return err_set(e, EINVAL, "%s is not a little-endian 32- or 64-bit ELF file", what);
    elf->is64 = p[EI_CLASS] == ELFCLASS64;
    unsigned type = boot_le16(p + offsetof(Elf64_Ehdr, e_type));
    unsigned machine = boot_le16(p + offsetof(Elf64_Ehdr, e_machine));
    if (machine != EM_386 && machine != EM_X86_64)
        return err_set(e, EINVAL, "%s is an ELF file for machine %u%s, not for x86", what, machine,
                       elf_machine(machine));
    if (type != ET_EXEC && type != ET_DYN)
        return err_set(e, EINVAL, "%s is an ELF file of type %u%s; an executable is needed", what, type,
                       type == ET_REL    ? " (object file)"
                       : type == ET_CORE ? " (core dump)"
                                         : "");
    return 0;
}

static int elf_segment(struct boot_elf *elf, const struct phdr *h, unsigned i, const char *what, struct err *e)
{
    if (h->filesz > h->memsz)
        return err_set(e, EINVAL,
                       "%s: segment %u has more bytes in the file (%#" PRIx64 ") than in memory (%#" PRIx64 ")", what,
                       i, h->filesz, h->memsz);
    if (h->memsz > UINT64_MAX - h->paddr)
        return err_set(e, EINVAL, "%s: segment %u wraps around the address space", what, i);
    if (elf->n == ELF_MAX_SEGS)
        return err_set(e, EINVAL, "%s has more than %d segments", what, ELF_MAX_SEGS);
    elf->seg[elf->n++] = (struct boot_elf_seg){ h->off, h->filesz, h->memsz, h->vaddr, h->paddr };
    if (elf->n == 1 || h->paddr < elf->start)
        elf->start = h->paddr;
    if (h->paddr + h->memsz > elf->end)
        elf->end = h->paddr + h->memsz;
    return 0;
}

int boot_elf_parse(struct boot_elf *elf, const struct boot_bytes *file, const char *what, struct err *e)
{
    *elf = (struct boot_elf){ .p = file->p, .len = file->len };
    int r = elf_header(elf, what, e);
    if (r < 0)
        return r;
    const uint8_t *p = elf->p;
    uint64_t phoff;
    unsigned phentsize, phnum;
    if (elf->is64) {
        elf->entry = boot_le64(p + offsetof(Elf64_Ehdr, e_entry));
        phoff = boot_le64(p + offsetof(Elf64_Ehdr, e_phoff));
        phentsize = boot_le16(p + offsetof(Elf64_Ehdr, e_phentsize));
        phnum = boot_le16(p + offsetof(Elf64_Ehdr, e_phnum));
    } else {
        elf->entry = boot_le32(p + offsetof(Elf32_Ehdr, e_entry));
        phoff = boot_le32(p + offsetof(Elf32_Ehdr, e_phoff));
        phentsize = boot_le16(p + offsetof(Elf32_Ehdr, e_phentsize));
        phnum = boot_le16(p + offsetof(Elf32_Ehdr, e_phnum));
    }
    if (phnum == 0)
        return err_set(e, EINVAL, "%s is an ELF file without program headers", what);
    if (phentsize != (elf->is64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr)))
        return err_set(e, EINVAL, "%s: its ELF program headers have %u bytes each, which is wrong", what, phentsize);
    if (!boot_within(phoff, (uint64_t)phnum * phentsize, elf->len))
        return err_set(e, EINVAL, "%s is truncated or damaged: its ELF program headers reach beyond its %zu bytes",
                       what, elf->len);
    for (unsigned i = 0; i < phnum; i++) {
        struct phdr h = elf_phdr(p + phoff + (uint64_t)i * phentsize, elf->is64);
        if (h.type != PT_LOAD && h.type != PT_NOTE)
            continue;
        if (h.filesz && !boot_within(h.off, h.filesz, elf->len))
            return err_set(e, EINVAL,
                           "%s is truncated or damaged: segment %u has file bytes %#" PRIx64 "+%#" PRIx64
                           ", the file has %#zx",
                           what, i, h.off, h.filesz, elf->len);
        if (h.type == PT_NOTE && h.filesz && !elf->has_pvh)
            elf_notes(elf, p + h.off, h.filesz, h.align);
        else if (h.type == PT_LOAD && h.memsz && (r = elf_segment(elf, &h, i, what, e)) < 0)
            return r;
    }
    return elf->n ? 0 : err_set(e, EINVAL, "%s is an ELF file with nothing to load", what);
}

int boot_elf_load(struct boot *b, const struct boot_elf *elf, gpa_t min, struct err *e)
{
    /* Claims are disjoint and in RAM, so the total is bounded by RAM before a byte is copied. */
    for (unsigned i = 0; i < elf->n; i++) {
        const struct boot_elf_seg *s = &elf->seg[i];
        if (s->paddr < min)
            return err_set(e, EINVAL,
                           "kernel '%.200s' wants to be loaded at %#" PRIx64
                           "; this kind of kernel belongs at %#" PRIx64 " or above",
                           b->name, s->paddr, min);
        int r = boot_claim(b, s->paddr, s->memsz, "a segment of the kernel", e);
        if (r < 0)
            return r;
    }
    for (unsigned i = 0; i < elf->n; i++) {
        const struct boot_elf_seg *s = &elf->seg[i];
        int r = boot_put(b, s->paddr, elf->p + s->off, s->filesz, e); /* the rest is zero: memory is fresh */
        if (r < 0)
            return r;
    }
    b->info->kernel_start = elf->start;
    b->info->kernel_end = elf->end;
    return 0;
}

int boot_elf_entry(const struct boot_elf *elf, const char *what, gpa_t *entry, struct err *e)
{
    for (unsigned i = 0; i < elf->n; i++) {
        const struct boot_elf_seg *s = &elf->seg[i];
        if (elf->entry >= s->paddr && elf->entry - s->paddr < s->memsz) {
            *entry = elf->entry;
            return 0;
        }
    }
    for (unsigned i = 0; i < elf->n; i++) {
        const struct boot_elf_seg *s = &elf->seg[i];
        if (elf->entry >= s->vaddr && elf->entry - s->vaddr < s->memsz) {
            *entry = s->paddr + (elf->entry - s->vaddr);
            return 0;
        }
    }
    return err_set(e, EINVAL, "%s: its entry point %#" PRIx64 " is in none of its segments", what, elf->entry);
}
