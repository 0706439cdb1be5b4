/* SPDX-License-Identifier: MIT */
/*
 * PVH direct boot: Xen docs/misc/pvh.pandoc and public/arch-x86/hvm/start_info.h. 32-bit protected mode, paging off,
 * EBX = hvm_start_info. All initrds form one module.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "vm/boot/internal.h"

enum { PVH_MAGIC = 0x336ec578, PVH_VERSION = 1, MODLIST = 0x40, MEMMAP_ENTRY = 24, CMDLINE_MAX = 2047 };

int boot_pvh(struct boot *b, const struct boot_elf *elf, const char *from, struct err *e)
{
    uint8_t info[MODLIST + 32] = { 0 }, memmap[E820_MAX * MEMMAP_ENTRY] = { 0 };
    struct boot_e820 map[E820_MAX];
    unsigned n = boot_e820(b->mem, map);
    int r = boot_elf_load(b, elf, LAYOUT_HIGH, e);
    if (r == 0 && (elf->pvh_entry < elf->start || elf->pvh_entry >= elf->end))
        r = err_set(e, EINVAL, "kernel '%.200s': its PVH entry %#" PRIx64 " is outside its segments", b->name,
                    elf->pvh_entry);
    if (r == 0)
        r = boot_cmdline(b, "", true, CMDLINE_MAX, e);
    if (r == 0)
        r = boot_initrd(b, elf->is64 ? MEM_GAP_END : 0x38000000, e);
    if (r < 0)
        return r;
    boot_st32(info, PVH_MAGIC);
    boot_st32(info + 4, PVH_VERSION);
    boot_st64(info + 24, b->info->cmdline);
    boot_st64(info + 32, b->info->rsdp);
    boot_st64(info + 40, LAYOUT_PVH_MEMMAP);
    boot_st32(info + 48, n);
    if (b->info->initrd_len) {
        boot_st32(info + 12, 1);
        boot_st64(info + 16, LAYOUT_PVH_INFO + MODLIST);
        boot_st64(info + MODLIST, b->info->initrd);
        boot_st64(info + MODLIST + 8, b->info->initrd_len);
    }
    for (unsigned i = 0; i < n; i++) {
        boot_st64(memmap + i * MEMMAP_ENTRY, map[i].addr);
        boot_st64(memmap + i * MEMMAP_ENTRY + 8, map[i].len);
        boot_st32(memmap + i * MEMMAP_ENTRY + 16, map[i].type);
    }
    r = boot_put(b, LAYOUT_PVH_INFO, info, sizeof(info), e);
    if (r == 0)
        r = boot_put(b, LAYOUT_PVH_MEMMAP, memmap, (uint64_t)n * MEMMAP_ENTRY, e);
    if (r == 0)
        r = boot_enter_prot(b, elf->pvh_entry, e);
    b->cpu->gpr[X86_RBX] = LAYOUT_PVH_INFO;
    b->info->kind = BOOT_PVH;
    b->info->entry = elf->pvh_entry;
    snprintf(b->info->how, sizeof(b->info->how), "%.120s, PVH entry", from);
    return r;
}
