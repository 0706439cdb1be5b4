/* SPDX-License-Identifier: MIT */
/*
 * ACPI fixed hardware: PM1a event and control blocks, PM timer, GPE block 0, reset register (ACPI 6.5, chapter 4
 * "ACPI Hardware Specification"). The FADT is built from the constants here. FADT.SMI_CMD is 0: the machine is always
 * in ACPI mode and SCI_EN always reads as one.
 */
#ifndef GAZDA_DEV_ACPI_PM_H
#define GAZDA_DEV_ACPI_PM_H

#include "base/timer.h"
#include "bus/bus.h"
#include "bus/irq.h"

enum {
    ACPI_PM_BASE = 0x600, /* one region of ACPI_PM_LEN ports: acpi_pm_ops */
    ACPI_PM_LEN = 0x0c,
    ACPI_PM1A_EVT = 0x600, /* status (2), enable (2): PM1_EVT_LEN 4 */
    ACPI_PM1A_EVT_LEN = 4,
    ACPI_PM1A_CNT = 0x604,
    ACPI_PM1A_CNT_LEN = 2,
    ACPI_PM_TMR = 0x608, /* 32 bits: FADT flag TMR_VAL_EXT is set */
    ACPI_PM_TMR_LEN = 4,
    ACPI_GPE0 = 0x620, /* status (2), enable (2): GPE0_BLK_LEN 4, 16 events; acpi_gpe_ops */
    ACPI_GPE0_LEN = 4,
    ACPI_CF8_PORT = 0xcf8, /* one region of ACPI_CF8_LEN ports: acpi_reset_ops, sizes BUS_1|BUS_2|BUS_4 */
    ACPI_CF8_LEN = 8,
    ACPI_RESET_REG = 0xcf9, /* a byte inside it; FADT flag RESET_REG_SUP is set */
    ACPI_RESET_LEN = 1,
    ACPI_RESET_VALUE = 0x06,
    ACPI_SCI_IRQ = 9,    /* level, active high: the MADT has an override that says so */
    ACPI_SLP_TYP_S5 = 5, /* \_S5 = Package { 5, 5, 0, 0 } */
    ACPI_GPE_GED = 0,    /* GPE 0: free for the machine's notifications (VMGenID) */
    ACPI_PM_HZ = 3579545,
};

struct acpi_pm_cfg {
    struct timer_svc *timers;
    struct irq_line sci;
    /* Called by the vCPU that wrote the register, no lock held. They only flag: the write returns to the guest. */
    void (*poweroff)(void *arg);
    void (*reset)(void *arg);
    void *arg;
};

struct acpi_pm;

struct acpi_pm *acpi_pm_new(const struct acpi_pm_cfg *cfg); /* NULL: no memory */
void acpi_pm_free(struct acpi_pm *p);
/* Presses the power button: PWRBTN_STS, and an SCI if the guest listens, which is returned. Any thread. */
bool acpi_pm_power_button(struct acpi_pm *p);
/* Raises general-purpose event n (0..15). Any thread. */
void acpi_pm_gpe(struct acpi_pm *p, unsigned n);

extern const struct dev_ops acpi_pm_ops;    /* all state; sizes BUS_1|BUS_2|BUS_4 */
extern const struct dev_ops acpi_gpe_ops;   /* same device; no reset, save or load of its own */
extern const struct dev_ops acpi_reset_ops; /* likewise */

#endif
