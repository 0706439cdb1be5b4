/* SPDX-License-Identifier: MIT */
/*
 * Where things are in guest physical memory before the guest decides otherwise. The numbers that Firecracker guests
 * know (command line, zero page, page tables, start_info, MP table, RSDP) are Firecracker's.
 */
#ifndef GAZDA_VM_BOOT_LAYOUT_H
#define GAZDA_VM_BOOT_LAYOUT_H

#define LAYOUT_BDA 0x400UL /* BIOS data area: EBDA segment and base memory size only */
#define LAYOUT_GDT 0x500UL /* five descriptors */
#define LAYOUT_GDT_LEN 0x28UL
#define LAYOUT_LOW_END 0x1000UL    /* the first page is ours and the BIOS's */
#define LAYOUT_PVH_INFO 0x6000UL   /* hvm_start_info, then its module list at +0x40 */
#define LAYOUT_PVH_MEMMAP 0x7000UL /* PVH only */
#define LAYOUT_MB_INFO 0x7000UL    /* multiboot only: info, memory map, module list */
#define LAYOUT_ZERO_PAGE 0x7000UL  /* Linux only: struct boot_params */
#define LAYOUT_STACK 0x8ff0UL
#define LAYOUT_PML4 0x9000UL /* PML4, PDPT, four page directories: 0x9000..0xefff */
#define LAYOUT_PGTABLES_LEN 0x6000UL
#define LAYOUT_SETUP_DATA 0xf000UL
#define LAYOUT_BOOT_END 0x10000UL /* of start info .. setup data */
#define LAYOUT_CMDLINE 0x20000UL
#define LAYOUT_CMDLINE_LEN 0x10000UL /* room for it and, with multiboot, the modules' strings */
#define LAYOUT_EBDA 0x9fc00UL        /* MP table; end of base memory */
#define LAYOUT_VGA_HOLE 0xa0000UL
#define LAYOUT_ACPI 0xe0000UL /* RSDP first, the tables behind it */
#define LAYOUT_ACPI_END 0x100000UL
#define LAYOUT_HIGH 0x100000UL /* kernels live from here */
#define LAYOUT_IOAPIC 0xfec00000UL
#define LAYOUT_LAPIC 0xfee00000UL
#define LAYOUT_IOAPIC_PINS 24

#endif
