/* SPDX-License-Identifier: MIT */
/* Real-time clock and CMOS RAM (Motorola MC146818A data sheet; PC layout of the CMOS): ports 70h and 71h. */
#ifndef GAZDA_DEV_RTC_H
#define GAZDA_DEV_RTC_H

#include "base/timer.h"
#include "bus/bus.h"
#include "bus/irq.h"

enum { RTC_PORT = 0x70, RTC_LEN = 2 };

struct rtc_cfg {
    struct timer_svc *timers;
    struct irq_line irq;                /* IRQ 8 */
    int64_t (*now_realtime)(void *arg); /* ns since 1970-01-01 UTC; any thread */
    void *arg;
};

struct rtc;

struct rtc *rtc_new(const struct rtc_cfg *cfg); /* NULL: no memory */
void rtc_free(struct rtc *r);
/* Fills the memory sizes (15h-18h, 30h/31h, 34h/35h, 5bh-5dh): bytes of RAM below and above 4 GiB. Kept over reset. */
void rtc_set_memory(struct rtc *r, uint64_t below_4g, uint64_t above_4g);
/* A byte of CMOS RAM, index 0Eh..7Fh. */
void rtc_set_cmos(struct rtc *r, uint8_t index, uint8_t val);

extern const struct dev_ops rtc_ops; /* BUS_1 */

#endif
