/* SPDX-License-Identifier: MIT */
/*
 * Raw bytes at an address, for tests and firmware-like images. The image may cover the platform tables (a BIOS image
 * at 0xf0000 does); it then simply wins. Registers hold no boot information.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "vm/boot/internal.h"

int boot_flat(struct boot *b, struct err *e)
{
    const struct boot_config *cfg = b->cfg;
    gpa_t entry = cfg->flat_entry;
    int r;
    b->n_claims = 0;
    if (cfg->flat_addr > UINT64_MAX - b->kernel.len || entry < cfg->flat_addr ||
        entry >= cfg->flat_addr + b->kernel.len)
        return err_set(e, EINVAL, "entry %#" PRIx64 " is not inside image '%.200s' at %#" PRIx64 "+%#zx", entry,
                       b->name, cfg->flat_addr, b->kernel.len);
    if (cfg->kind == BOOT_FLAT16) {
        if (entry > 0xfffff)
            return err_set(e, EINVAL, "entry %#" PRIx64 " cannot be reached in real mode (at most 0xfffff)", entry);
        uint16_t cs = entry < 0x10000 ? 0 : (uint16_t)(entry >> 4 & 0xf000);
        boot_enter_real(b, cs, (uint16_t)(entry - ((gpa_t)cs << 4)));
        r = 0;
    } else {
        bool pm = cfg->kind == BOOT_FLAT32;
        if (entry >= MEM_GAP_END)
            return err_set(e, EINVAL, "entry %#" PRIx64 " lies above 4 GiB, where this entry mode cannot reach", entry);
        r = boot_claim(b, LAYOUT_GDT, LAYOUT_GDT_LEN, "the boot GDT", e);
        if (r == 0 && !pm)
            r = boot_claim(b, LAYOUT_PML4, LAYOUT_PGTABLES_LEN, "the boot page tables", e);
        if (r == 0)
            r = pm ? boot_enter_prot(b, entry, e) : boot_enter_long(b, entry, e);
    }
    if (r == 0)
        r = boot_claim(b, cfg->flat_addr, b->kernel.len, "the image", e);
    if (r == 0)
        r = boot_put(b, cfg->flat_addr, b->kernel.p, b->kernel.len, e);
    if (r < 0)
        return r;
    b->info->kind = cfg->kind;
    b->info->entry = entry;
    b->info->kernel_start = cfg->flat_addr;
    b->info->kernel_end = cfg->flat_addr + b->kernel.len;
    snprintf(b->info->how, sizeof(b->info->how), "flat image, %s mode",
             cfg->kind == BOOT_FLAT16   ? "real"
             : cfg->kind == BOOT_FLAT32 ? "protected"
                                        : "long");
    return 0;
}
