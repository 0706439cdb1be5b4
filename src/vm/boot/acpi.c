/* SPDX-License-Identifier: MIT */
/*
 * ACPI tables of the default machine: ACPI 6.5, chapter 5 "ACPI Software Programming Model". Fixed hardware (not the
 * hardware-reduced profile), so that the power button, PM timer, S5 and reset register work for every system since
 * ACPI 1.0. All tables lie behind the RSDP at LAYOUT_ACPI, which the memory map reserves.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dev/acpi_pm.h"
#include "vm/boot/aml.h"
#include "vm/boot/internal.h"

enum { ACPI_MAX = LAYOUT_ACPI_END - LAYOUT_ACPI, HEADER = 36, ALIGN = 64 };
enum { RSDP_LEN = 36, FACS_LEN = 64, FADT_LEN = 244, FADT_REV = 4, MADT_REV = 3, DSDT_REV = 2 };
enum { GAS_IO = 1 };
enum { /* FADT flags */ F_WBINVD = 1 << 0,
       F_PROC_C1 = 1 << 2,
       F_SLP_BUTTON = 1 << 5, /* there is none among the fixed events */
       F_FIX_RTC = 1 << 6,    /* RTC wake is not in fixed register space */
       F_TMR_VAL_EXT = 1 << 8,
       F_RESET_REG = 1 << 10 };
enum { /* IAPC_BOOT_ARCH */ B_LEGACY = 1, B_8042 = 2, B_NO_VGA = 4 };
enum { MADT_PCAT = 1, LAPIC_ENABLED = 1 };
enum { INTI_BUS = 0, INTI_HIGH_LEVEL = 0xd, INTI_HIGH_EDGE = 5 };

/* The image of the ACPI area under construction; offsets are from LAYOUT_ACPI. */
struct acpi {
    const struct boot_config *cfg;
    struct aml a;
};

static uint8_t acpi_sum(const uint8_t *p, size_t n)
{
    uint8_t s = 0;
    while (n--)
        s = (uint8_t)(s + *p++);
    return (uint8_t)-s;
}

static void acpi_zero(struct acpi *t, size_t n)
{
    while (n--)
        aml_byte(&t->a, 0);
}

static uint32_t acpi_gpa(size_t off)
{
    return (uint32_t)(LAYOUT_ACPI + off);
}

/* Opens a table at the next aligned offset, which is returned. The checksum and length follow in acpi_close. */
static size_t acpi_open(struct acpi *t, const char *sig, uint8_t rev)
{
    while (t->a.len % ALIGN && !t->a.full)
        aml_byte(&t->a, 0);
    size_t at = t->a.len;
    uint8_t h[HEADER] = { 0 };
    memcpy(h, sig, 4);
    h[8] = rev;
    memcpy(h + 10, "GAZDA ", 6);
    memcpy(h + 16, "GAZDAVM ", 8);
    boot_st32(h + 24, 1);
    memcpy(h + 28, "GAZD", 4);
    boot_st32(h + 32, 1);
    aml_bytes(&t->a, h, sizeof(h));
    return at;
}

static void acpi_close(struct acpi *t, size_t at)
{
    if (t->a.full)
        return;
    uint8_t *p = t->a.p + at;
    size_t len = t->a.len - at;
    boot_st32(p + 4, (uint32_t)len);
    p[9] = acpi_sum(p, len);
}

/* ---- DSDT ---- */

struct isa_dev {
    const char *name, *hid;
    uint16_t port[2];
    uint8_t len[2];
    int irq; /* -1: none */
};

static void dsdt_isa(struct aml *a, const struct isa_dev *d)
{
    size_t dev = aml_device(a, d->name);
    aml_name(a, "_HID");
    aml_eisaid(a, d->hid);
    size_t crs = aml_crs(a);
    for (unsigned i = 0; i < ARRAY_LEN(d->port); i++)
        if (d->len[i])
            aml_res_io(a, d->port[i], d->len[i]);
    if (d->irq >= 0)
        aml_res_irq(a, (unsigned)d->irq);
    aml_crs_end(a, crs);
    aml_end(a, dev);
}

static void dsdt_isa_all(struct aml *a)
{
    static const struct isa_dev devs[] = {
        { "PIC", "PNP0000", { 0x20, 0xa0 }, { 2, 2 }, 2 }, { "TIMR", "PNP0100", { 0x40 }, { 4 }, 0 },
        { "RTC", "PNP0B00", { 0x70 }, { 2 }, 8 },          { "SPKR", "PNP0800", { 0x61 }, { 1 }, -1 },
        { "KBD", "PNP0303", { 0x60, 0x64 }, { 1, 1 }, 1 }, { "MOU", "PNP0F13", { 0 }, { 0 }, 12 },
        { "COM1", "PNP0501", { 0x3f8 }, { 8 }, 4 },
    };
    for (size_t i = 0; i < ARRAY_LEN(devs); i++)
        dsdt_isa(a, &devs[i]);
    /* The chipset's own ports, so that no driver takes them for free. */
    static const struct isa_dev board = {
        "MB", "PNP0C02", { ACPI_PM_BASE, ACPI_GPE0 }, { ACPI_PM_LEN, ACPI_GPE0_LEN }, -1
    };
    dsdt_isa(a, &board);
}

static void dsdt_cpus(struct aml *a, unsigned cpus)
{
    for (unsigned i = 0; i < cpus; i++) {
        char name[16];
        snprintf(name, sizeof(name), "C%03X", i & 0xfff);
        size_t dev = aml_device(a, name);
        aml_name(a, "_HID");
        aml_string(a, "ACPI0007");
        aml_name(a, "_UID");
        aml_int(a, i);
        aml_end(a, dev);
    }
}

static void dsdt_virtio(struct aml *a, const struct boot_config *cfg)
{
    for (unsigned i = 0; i < cfg->n_virtio; i++) {
        char name[16];
        snprintf(name, sizeof(name), "V%03X", i & 0xfff);
        size_t dev = aml_device(a, name);
        aml_name(a, "_HID");
        aml_string(a, "LNRO0005");
        aml_name(a, "_UID");
        aml_int(a, i);
        aml_name(a, "_CCA");
        aml_int(a, 1);
        size_t crs = aml_crs(a);
        aml_res_mem32(a, (uint32_t)cfg->virtio[i].base, cfg->virtio[i].len);
        aml_res_interrupt(a, cfg->virtio[i].gsi);
        aml_crs_end(a, crs);
        aml_end(a, dev);
    }
}

static size_t acpi_dsdt(struct acpi *t)
{
    struct aml *a = &t->a;
    size_t at = acpi_open(t, "DSDT", DSDT_REV);
    size_t sb = aml_scope(a, "\\_SB");
    dsdt_cpus(a, t->cfg->cpus);
    dsdt_isa_all(a);
    dsdt_virtio(a, t->cfg);
    aml_end(a, sb);
    aml_name(a, "\\_S5");
    size_t pkg = aml_package(a, 4);
    aml_int(a, ACPI_SLP_TYP_S5);
    aml_int(a, ACPI_SLP_TYP_S5);
    aml_int(a, 0);
    aml_int(a, 0);
    aml_end(a, pkg);
    acpi_close(t, at);
    return at;
}

/* ---- the fixed tables ---- */

static size_t acpi_facs(struct acpi *t)
{
    while (t->a.len % ALIGN && !t->a.full)
        aml_byte(&t->a, 0);
    size_t at = t->a.len;
    uint8_t f[FACS_LEN] = { 'F', 'A', 'C', 'S', FACS_LEN };
    f[32] = 2; /* version */
    aml_bytes(&t->a, f, sizeof(f));
    return at;
}

static void fadt_gas(uint8_t *p, uint16_t port, uint8_t bytes)
{
    p[0] = GAS_IO;
    p[1] = (uint8_t)(bytes * 8);
    p[3] = bytes == 1 ? 1 : bytes == 4 ? 3 : 2; /* access size: byte, word, dword */
    boot_st64(p + 4, port);
}

static size_t acpi_fadt(struct acpi *t, size_t facs, size_t dsdt)
{
    size_t at = acpi_open(t, "FACP", FADT_REV);
    acpi_zero(t, FADT_LEN - HEADER);
    if (t->a.full)
        return at;
    uint8_t *f = t->a.p + at;
    boot_st32(f + 36, acpi_gpa(facs));
    boot_st32(f + 40, acpi_gpa(dsdt));
    boot_st16(f + 46, ACPI_SCI_IRQ);
    boot_st32(f + 56, ACPI_PM1A_EVT);
    boot_st32(f + 64, ACPI_PM1A_CNT);
    boot_st32(f + 76, ACPI_PM_TMR);
    boot_st32(f + 80, ACPI_GPE0);
    f[88] = ACPI_PM1A_EVT_LEN;
    f[89] = ACPI_PM1A_CNT_LEN;
    f[91] = ACPI_PM_TMR_LEN;
    f[92] = ACPI_GPE0_LEN;
    boot_st16(f + 96, 101);  /* C2 latency: over 100 us means no C2 */
    boot_st16(f + 98, 1001); /* C3 likewise */
    f[108] = 0x32;           /* RTC century */
    boot_st16(f + 109, B_LEGACY | B_8042 | B_NO_VGA);
    boot_st32(f + 112, F_WBINVD | F_PROC_C1 | F_SLP_BUTTON | F_FIX_RTC | F_TMR_VAL_EXT | F_RESET_REG);
    fadt_gas(f + 116, ACPI_RESET_REG, ACPI_RESET_LEN);
    f[128] = ACPI_RESET_VALUE;
    boot_st64(f + 140, acpi_gpa(dsdt)); /* X_FIRMWARE_CTRL stays 0: the 32-bit field is in use */
    fadt_gas(f + 148, ACPI_PM1A_EVT, ACPI_PM1A_EVT_LEN);
    f[151] = 2; /* status and enable are words */
    fadt_gas(f + 172, ACPI_PM1A_CNT, ACPI_PM1A_CNT_LEN);
    fadt_gas(f + 208, ACPI_PM_TMR, ACPI_PM_TMR_LEN);
    fadt_gas(f + 220, ACPI_GPE0, ACPI_GPE0_LEN);
    f[223] = 1;
    acpi_close(t, at);
    return at;
}

static void madt_override(struct acpi *t, uint8_t irq, uint32_t gsi, uint16_t flags)
{
    uint8_t o[10] = { 2, 10, 0, irq };
    boot_st32(o + 4, gsi);
    boot_st16(o + 8, flags);
    aml_bytes(&t->a, o, sizeof(o));
}

static size_t acpi_madt(struct acpi *t)
{
    size_t at = acpi_open(t, "APIC", MADT_REV);
    uint8_t head[8];
    boot_st32(head, LAYOUT_LAPIC);
    boot_st32(head + 4, MADT_PCAT);
    aml_bytes(&t->a, head, sizeof(head));
    for (unsigned i = 0; i < t->cfg->cpus; i++) {
        const uint8_t lapic[8] = { 0, 8, (uint8_t)i, (uint8_t)i, LAPIC_ENABLED };
        aml_bytes(&t->a, lapic, sizeof(lapic));
    }
    uint8_t ioapic[12] = { 1, 12, (uint8_t)t->cfg->cpus };
    boot_st32(ioapic + 4, LAYOUT_IOAPIC);
    aml_bytes(&t->a, ioapic, sizeof(ioapic));
    madt_override(t, 0, 2, INTI_BUS);
    madt_override(t, ACPI_SCI_IRQ, ACPI_SCI_IRQ, INTI_HIGH_LEVEL);
    const uint8_t nmi[6] = { 4, 6, 0xff, INTI_HIGH_EDGE, 0, 1 }; /* every processor's LINT1 */
    aml_bytes(&t->a, nmi, sizeof(nmi));
    acpi_close(t, at);
    return at;
}

static size_t acpi_root(struct acpi *t, const char *sig, unsigned width, size_t fadt, size_t madt)
{
    size_t at = acpi_open(t, sig, 1);
    uint8_t v[16] = { 0 };
    boot_st32(v, acpi_gpa(fadt));
    boot_st32(v + width, acpi_gpa(madt));
    aml_bytes(&t->a, v, 2UL * width);
    acpi_close(t, at);
    return at;
}

int boot_acpi(struct boot *b, struct err *e)
{
    uint8_t *area = calloc(1, ACPI_MAX);
    if (!area)
        return err_set(e, ENOMEM, "no memory for the ACPI tables");
    struct acpi t = { .cfg = b->cfg, .a = { .p = area, .cap = ACPI_MAX } };
    acpi_zero(&t, RSDP_LEN);
    size_t facs = acpi_facs(&t);
    size_t dsdt = acpi_dsdt(&t);
    size_t fadt = acpi_fadt(&t, facs, dsdt);
    size_t madt = acpi_madt(&t);
    size_t rsdt = acpi_root(&t, "RSDT", 4, fadt, madt);
    size_t xsdt = acpi_root(&t, "XSDT", 8, fadt, madt);
    memcpy(area, "RSD PTR ", 8);
    memcpy(area + 9, "GAZDA ", 6);
    area[15] = 2;
    boot_st32(area + 16, acpi_gpa(rsdt));
    boot_st32(area + 20, RSDP_LEN);
    boot_st64(area + 24, acpi_gpa(xsdt));
    area[8] = acpi_sum(area, 20);
    area[32] = acpi_sum(area, RSDP_LEN);
    int r = t.a.full ? err_set(e, E2BIG, "the ACPI tables have no room for %u devices", b->cfg->n_virtio)
                     : boot_put(b, LAYOUT_ACPI, area, t.a.len, e);
    free(area);
    b->info->rsdp = LAYOUT_ACPI;
    return r;
}
