/* SPDX-License-Identifier: MIT */
/*
 * ACPI fixed hardware (ACPI 6.5, "ACPI Hardware Specification": "PM1 Event Grouping", "PM1 Control Grouping", "Power
 * Management Timer", "General-Purpose Event Register Blocks", "Reset Register").
 *
 * The PM timer is computed from the clock; a host timer runs only while the guest has enabled the interrupt of its
 * bit 31. Only S5 of the sleep types is known; others are ignored.
 */
#include "dev/acpi_pm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/lock.h"
#include "state/state.h"

enum { STS_TMR = 1 << 0, STS_GBL = 1 << 5, STS_PWRBTN = 1 << 8, STS_SLPBTN = 1 << 9, STS_RTC = 1 << 10 };
enum { STS_WAK = 1 << 15, STS_BITS = STS_TMR | STS_GBL | STS_PWRBTN | STS_SLPBTN | STS_RTC | STS_WAK };
enum { EN_BITS = STS_TMR | STS_GBL | STS_PWRBTN | STS_SLPBTN | STS_RTC };
enum { CNT_SCI_EN = 1, CNT_BITS = 0x1c02 | CNT_SCI_EN, CNT_SLP_TYP_SHIFT = 10, CNT_SLP_EN = 1 << 13 };
enum { RESET_CPU = 4 }; /* of port CF9h, as the chip sets have it */

#define NS 1000000000U

struct acpi_pm {
    struct lock lock;
    struct acpi_pm_cfg cfg;
    struct timer timer;
    uint64_t start; /* ns when the PM timer was 0 */
    uint64_t turns; /* how often bit 31 had changed when TMR_STS was last brought up to date */
    uint16_t sts, en, cnt, gpe_sts, gpe_en;
    uint8_t reset_ctl;
    bool level; /* of the SCI */
};

static uint64_t ticks(const struct acpi_pm *p)
{
    return (uint64_t)((unsigned __int128)(timer_now(p->timer.svc) - p->start) * ACPI_PM_HZ / NS);
}

static void update_locked(struct acpi_pm *p)
{
    uint64_t turns = ticks(p) >> 31;
    if (turns != p->turns) {
        p->turns = turns;
        p->sts |= STS_TMR;
    }
    bool level = (p->sts & p->en & EN_BITS) || (p->gpe_sts & p->gpe_en);
    if (level != p->level) {
        p->level = level;
        irq_set(&p->cfg.sci, level);
    }
    if ((p->en & STS_TMR) && !(p->sts & STS_TMR)) {
        unsigned __int128 ns = ((unsigned __int128)(turns + 1) << 31) * NS / ACPI_PM_HZ + 1;
        timer_arm(&p->timer, p->start + (uint64_t)ns);
    } else {
        timer_disarm(&p->timer);
    }
}

static void expired(void *arg)
{
    struct acpi_pm *p = arg;
    lock_take(&p->lock);
    update_locked(p);
    lock_drop(&p->lock);
}

bool acpi_pm_power_button(struct acpi_pm *p)
{
    lock_take(&p->lock);
    bool listens = p->en & STS_PWRBTN;
    p->sts |= STS_PWRBTN;
    update_locked(p);
    lock_drop(&p->lock);
    return listens;
}

void acpi_pm_gpe(struct acpi_pm *p, unsigned n)
{
    if (n > 15)
        return;
    lock_take(&p->lock);
    p->gpe_sts |= (uint16_t)(1U << n);
    update_locked(p);
    lock_drop(&p->lock);
}

/* The block as bytes. Accesses of any size and alignment within it are taken from or put into this image. */
static void image_locked(struct acpi_pm *p, uint8_t b[ACPI_PM_LEN])
{
    uint16_t cnt = p->cnt | CNT_SCI_EN;
    uint32_t tmr = (uint32_t)ticks(p);
    memset(b, 0, ACPI_PM_LEN);
    memcpy(b, &p->sts, 2);
    memcpy(b + 2, &p->en, 2);
    memcpy(b + ACPI_PM1A_CNT - ACPI_PM_BASE, &cnt, 2);
    memcpy(b + ACPI_PM_TMR - ACPI_PM_BASE, &tmr, 4);
}

static void pm_read(void *dev, uint64_t off, void *buf, unsigned len)
{
    struct acpi_pm *p = dev;
    uint8_t b[ACPI_PM_LEN];
    lock_take(&p->lock);
    update_locked(p);
    image_locked(p, b);
    lock_drop(&p->lock);
    memset(buf, 0, len);
    if (off < sizeof(b))
        memcpy(buf, b + off, len < sizeof(b) - off ? len : sizeof(b) - off);
}

/* Which bytes of the 16-bit register at reg the write covers, and with what. */
static uint16_t covered(uint64_t off, const void *buf, unsigned len, unsigned reg, uint16_t *mask)
{
    uint16_t val = 0;
    *mask = 0;
    for (unsigned i = 0; i < len; i++) {
        if (off + i == reg) {
            *mask |= 0xff;
            val |= ((const uint8_t *)buf)[i];
        } else if (off + i == reg + 1) {
            *mask |= 0xff00;
            val |= (uint16_t)(((const uint8_t *)buf)[i] << 8);
        }
    }
    return val;
}

static void pm_write(void *dev, uint64_t off, const void *buf, unsigned len)
{
    struct acpi_pm *p = dev;
    uint16_t mask, val;
    lock_take(&p->lock);
    update_locked(p);
    val = covered(off, buf, len, 0, &mask);
    p->sts &= (uint16_t) ~(val & mask); /* write one to clear */
    val = covered(off, buf, len, 2, &mask);
    p->en = (uint16_t)((p->en & ~mask) | (val & mask & EN_BITS));
    val = covered(off, buf, len, ACPI_PM1A_CNT - ACPI_PM_BASE, &mask);
    p->cnt = (uint16_t)((p->cnt & ~mask) | (val & mask & CNT_BITS));
    bool sleep = val & mask & CNT_SLP_EN;
    bool off_now = sleep && (p->cnt >> CNT_SLP_TYP_SHIFT & 7) == ACPI_SLP_TYP_S5;
    update_locked(p);
    lock_drop(&p->lock);
    if (off_now)
        p->cfg.poweroff(p->cfg.arg);
}

static void gpe_read(void *dev, uint64_t off, void *buf, unsigned len)
{
    struct acpi_pm *p = dev;
    lock_take(&p->lock);
    uint16_t b[2] = { p->gpe_sts, p->gpe_en };
    lock_drop(&p->lock);
    memset(buf, 0, len);
    if (off < sizeof(b))
        memcpy(buf, (const uint8_t *)b + off, len < sizeof(b) - off ? len : sizeof(b) - off);
}

static void gpe_write(void *dev, uint64_t off, const void *buf, unsigned len)
{
    struct acpi_pm *p = dev;
    uint16_t mask, val;
    lock_take(&p->lock);
    val = covered(off, buf, len, 0, &mask);
    p->gpe_sts &= (uint16_t) ~(val & mask);
    val = covered(off, buf, len, 2, &mask);
    p->gpe_en = (uint16_t)((p->gpe_en & ~mask) | (val & mask));
    update_locked(p);
    lock_drop(&p->lock);
}

/*
 * The register is one byte inside the PCI configuration address port, which is a dword at 0xcf8. As in chipsets, only a
 * byte access to 0xcf9 itself is the register's; everything else is a probe for PCI, which is not there.
 */
static bool is_reset_reg(uint64_t off, unsigned len)
{
    return off == ACPI_RESET_REG - ACPI_CF8_PORT && len == 1;
}

static void reset_read(void *dev, uint64_t off, void *buf, unsigned len)
{
    struct acpi_pm *p = dev;
    memset(buf, 0xff, len);
    if (!is_reset_reg(off, len))
        return;
    lock_take(&p->lock);
    *(uint8_t *)buf = p->reset_ctl;
    lock_drop(&p->lock);
}

/* Reset happens when RST_CPU rises; bit 1 chooses between hard and soft, which are the same here. */
static void reset_write(void *dev, uint64_t off, const void *buf, unsigned len)
{
    struct acpi_pm *p = dev;
    uint8_t val = *(const uint8_t *)buf;
    if (!is_reset_reg(off, len))
        return;
    lock_take(&p->lock);
    bool now = (val & RESET_CPU) && !(p->reset_ctl & RESET_CPU);
    p->reset_ctl = val & 0xe;
    lock_drop(&p->lock);
    if (now)
        p->cfg.reset(p->cfg.arg);
}

static void dev_reset(void *dev)
{
    struct acpi_pm *p = dev;
    lock_take(&p->lock);
    p->start = timer_now(p->timer.svc);
    p->turns = 0;
    p->sts = p->en = p->cnt = p->gpe_sts = p->gpe_en = 0;
    p->reset_ctl = 0;
    update_locked(p);
    lock_drop(&p->lock);
}

static int dev_save(const void *dev, struct state_out *s)
{
    struct acpi_pm *p = (struct acpi_pm *)(uintptr_t)dev; /* the lock is not part of the state */
    lock_take(&p->lock);
    state_put_u64(s, timer_now(p->timer.svc) - p->start);
    state_put_u64(s, p->turns);
    state_put_u16(s, p->sts);
    state_put_u16(s, p->en);
    state_put_u16(s, p->cnt);
    state_put_u16(s, p->gpe_sts);
    state_put_u16(s, p->gpe_en);
    state_put_u8(s, p->reset_ctl);
    lock_drop(&p->lock);
    return s->oom ? -ENOMEM : 0;
}

static int dev_load(void *dev, struct state_in *s, unsigned version)
{
    struct acpi_pm *p = dev;
    if (version != acpi_pm_ops.version)
        return -EINVAL;
    uint64_t age = state_get_u64(s), turns = state_get_u64(s);
    uint16_t sts = state_get_u16(s), en = state_get_u16(s), cnt = state_get_u16(s);
    uint16_t gpe_sts = state_get_u16(s), gpe_en = state_get_u16(s);
    uint8_t reset_ctl = state_get_u8(s);
    if (s->bad || age >> 63 || (sts & ~STS_BITS) || (en & ~EN_BITS) || (cnt & ~CNT_BITS) || (reset_ctl & ~0xe))
        return -EINVAL;
    lock_take(&p->lock);
    p->start = timer_now(p->timer.svc) - age;
    p->turns = turns;
    p->sts = sts;
    p->en = en;
    p->cnt = cnt;
    p->gpe_sts = gpe_sts;
    p->gpe_en = gpe_en;
    p->reset_ctl = reset_ctl;
    update_locked(p);
    lock_drop(&p->lock);
    return 0;
}

const struct dev_ops acpi_pm_ops = {
    .name = "acpi-pm",
    .read = pm_read,
    .write = pm_write,
    .reset = dev_reset,
    .save = dev_save,
    .load = dev_load,
    .version = 1,
};
const struct dev_ops acpi_gpe_ops = { .name = "acpi-gpe", .read = gpe_read, .write = gpe_write };
const struct dev_ops acpi_reset_ops = { .name = "reset-register", .read = reset_read, .write = reset_write };

struct acpi_pm *acpi_pm_new(const struct acpi_pm_cfg *cfg)
{
    struct acpi_pm *p = calloc(1, sizeof(*p));
    if (!p)
        return NULL;
    lock_init(&p->lock, LOCK_DEVICE);
    p->cfg = *cfg;
    timer_init(&p->timer, cfg->timers, expired, p);
    dev_reset(p);
    return p;
}

void acpi_pm_free(struct acpi_pm *p)
{
    if (!p)
        return;
    timer_disarm(&p->timer);
    lock_destroy(&p->lock);
    free(p);
}
