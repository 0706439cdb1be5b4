/* SPDX-License-Identifier: MIT */
/*
 * MultiProcessor Specification 1.4: floating pointer and configuration table in the EBDA, for guests without ACPI or
 * with acpi=off. One ISA bus; every IOAPIC pin has an entry, because virtio devices sit on any of them.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vm/boot/internal.h"

enum { FLOATING = 16, HEADER = 44, PROCESSOR = 20, ENTRY = 8, EBDA_LEN = 1024 };
enum { T_PROCESSOR, T_BUS, T_IOAPIC, T_IOINT, T_LINT };
enum { INT_VECTORED = 0, INT_NMI = 1, INT_EXTINT = 3 };
enum { CPU_ENABLED = 1, CPU_BOOT = 2, IOAPIC_ENABLED = 1, LAPIC_VERSION = 0x14, IOAPIC_VERSION = 0x11 };
enum { MODE_HIGH_LEVEL = 0xd, SCI_IRQ = 9 };
/* What CPUID gives is the truth; this is the signature old systems print. */
enum { CPU_SIGNATURE = 0x600, CPU_FEATURES = 0x201 /* FPU, APIC */ };

static uint8_t mp_sum(const uint8_t *p, size_t n)
{
    uint8_t s = 0;
    while (n--)
        s = (uint8_t)(s + *p++);
    return (uint8_t)-s;
}

static uint8_t *mp_intr(uint8_t *p, uint8_t type, uint8_t kind, uint8_t flags, const uint8_t ids[4])
{
    p[0] = type;
    p[1] = kind;
    p[2] = flags;
    memcpy(p + 4, ids, 4); /* source bus, source IRQ, destination APIC, destination pin */
    return p + ENTRY;
}

/* Writes the entries behind the header; returns their end and counts them. */
static uint8_t *mp_entries(uint8_t *p, unsigned cpus, unsigned *count)
{
    const uint8_t ioapic_id = (uint8_t)cpus;
    for (unsigned i = 0; i < cpus; i++, p += PROCESSOR) {
        p[0] = T_PROCESSOR;
        p[1] = (uint8_t)i;
        p[2] = LAPIC_VERSION;
        p[3] = (uint8_t)(CPU_ENABLED | (i == 0 ? CPU_BOOT : 0));
        boot_st32(p + 4, CPU_SIGNATURE);
        boot_st32(p + 8, CPU_FEATURES);
    }
    p[0] = T_BUS;
    memcpy(p + 2, "ISA   ", 6);
    p += ENTRY;
    p[0] = T_IOAPIC;
    p[1] = ioapic_id;
    p[2] = IOAPIC_VERSION;
    p[3] = IOAPIC_ENABLED;
    boot_st32(p + 4, LAYOUT_IOAPIC);
    p += ENTRY;
    *count = cpus + 2;
    for (uint8_t irq = 0; irq < LAYOUT_IOAPIC_PINS; irq++) {
        if (irq == 2)
            continue; /* the cascade: its pin carries the timer */
        const uint8_t ids[4] = { 0, irq, ioapic_id, irq == 0 ? 2 : irq };
        p = mp_intr(p, T_IOINT, INT_VECTORED, irq == SCI_IRQ ? MODE_HIGH_LEVEL : 0, ids);
        ++*count;
    }
    const uint8_t lint0[4] = { 0, 0, 0xff, 0 }, lint1[4] = { 0, 0, 0xff, 1 };
    p = mp_intr(p, T_LINT, INT_EXTINT, 0, lint0);
    p = mp_intr(p, T_LINT, INT_NMI, 0, lint1);
    *count += 2;
    return p;
}

int boot_mptable(struct boot *b, struct err *e)
{
    uint8_t area[EBDA_LEN] = { 0 }, *head = area + FLOATING;
    _Static_assert(FLOATING + HEADER + 32 * PROCESSOR + (4 + LAYOUT_IOAPIC_PINS) * ENTRY <= EBDA_LEN, "it fits");
    unsigned count;
    size_t len = (size_t)(mp_entries(head + HEADER, b->cfg->cpus, &count) - head);

    memcpy(head, "PCMP", 4);
    boot_st16(head + 4, (uint16_t)len);
    head[6] = 4; /* revision 1.4 */
    memcpy(head + 8, "GAZDA   ", 8);
    memcpy(head + 16, "GAZDAVM     ", 12);
    boot_st16(head + 34, (uint16_t)count);
    boot_st32(head + 36, LAYOUT_LAPIC);
    head[7] = mp_sum(head, len);

    memcpy(area, "_MP_", 4);
    boot_st32(area + 4, LAYOUT_EBDA + FLOATING);
    area[8] = 1; /* sixteen bytes long */
    area[9] = 4;
    area[10] = mp_sum(area, FLOATING);
    return boot_put(b, LAYOUT_EBDA, area, FLOATING + len, e);
}
