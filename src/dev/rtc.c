/* SPDX-License-Identifier: MIT */
/*
 * Real-time clock and CMOS RAM (Motorola MC146818A data sheet).
 *
 * The clock is the host's plus `offset`, which the guest moves by setting the time; while it is stopped (SET, or the
 * divider held in reset) the time registers keep what was written. Nothing ticks: the flags of register C are brought
 * up to date when somebody looks, and a host timer is armed only for the next event whose interrupt is enabled, and not
 * while one waits to be read from register C. Events missed by a late host are merged.
 *
 * Departures: daylight saving (DSE) and the square wave pin are ignored.
 */
#include "dev/rtc.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/lock.h"
#include "state/state.h"

enum { SECOND, SECOND_ALARM, MINUTE, MINUTE_ALARM, HOUR, HOUR_ALARM, WEEKDAY, DAY, MONTH, YEAR, A, B, C, D };
enum { CENTURY = 0x32, CMOS_SIZE = 128 };
enum { A_UIP = 0x80, A_DIVIDER = 0x70, A_RATE = 0x0f };
enum { B_SET = 0x80, B_PIE = 0x40, B_AIE = 0x20, B_UIE = 0x10, B_BINARY = 0x04, B_24H = 0x02 };
enum { C_IRQF = 0x80, C_PF = 0x40, C_AF = 0x20, C_UF = 0x10, C_FLAGS = 0x70 };
enum { D_VRT = 0x80 };

#define NS 1000000000LL
#define UIP_NS 244000LL /* how long before the update UIP is set */
#define NEVER INT64_MAX
#define SEC_LIMIT 4200000000LL
#define LOAD_LIMIT (7000000000LL * NS)

struct rtc {
    struct lock lock;
    struct rtc_cfg cfg;
    struct timer timer;
    int64_t offset;  /* guest time - host time, ns */
    int64_t stopped; /* the time in ns while the clock does not run */
    int64_t seen;    /* guest time up to which the flags are right */
    bool running;
    bool level; /* of the interrupt line */
    uint8_t index;
    uint8_t ram[CMOS_SIZE]; /* the time registers are valid while stopped, else refreshed on access */
};

static int64_t now_locked(const struct rtc *r)
{
    return r->running ? r->cfg.now_realtime(r->cfg.arg) + r->offset : r->stopped;
}

/* ---- the calendar; days are counted from 1970-01-01 ---- */

static int64_t floor_div(int64_t a, int64_t b)
{
    return a / b - (a % b < 0);
}

static int64_t days_of(int64_t y, int64_t m, int64_t d)
{
    y += floor_div(m - 1, 12);
    m = m - 1 - floor_div(m - 1, 12) * 12; /* months count from 0 here */
    int64_t sy = m < 2 ? y - 1 : y, era = floor_div(sy, 400), yoe = sy - era * 400;
    int64_t doy = (153 * ((m + 10) % 12) + 2) / 5 + d - 1;
    return era * 146097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719468;
}

static void civil_of(int64_t days, int64_t *y, int *m, int *d)
{
    int64_t z = days + 719468, era = floor_div(z, 146097), doe = z - era * 146097;
    int64_t yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
    int64_t doy = doe - (365 * yoe + yoe / 4 - yoe / 100), mp = (5 * doy + 2) / 153;
    *d = (int)(doy - (153 * mp + 2) / 5 + 1);
    *m = (int)(mp < 10 ? mp + 3 : mp - 9);
    *y = yoe + era * 400 + (*m <= 2);
}

static uint8_t encode(const struct rtc *r, int v)
{
    return (uint8_t)(r->ram[B] & B_BINARY ? v : v / 10 % 10 << 4 | v % 10);
}

static int decode(const struct rtc *r, uint8_t v)
{
    return r->ram[B] & B_BINARY ? v : (v >> 4) * 10 + (v & 15);
}

static uint8_t encode_hour(const struct rtc *r, int h)
{
    if (r->ram[B] & B_24H)
        return encode(r, h);
    return encode(r, h % 12 ? h % 12 : 12) | (h >= 12 ? 0x80 : 0);
}

static int decode_hour(const struct rtc *r, uint8_t v)
{
    if (r->ram[B] & B_24H)
        return decode(r, v);
    return decode(r, v & 0x7f) % 12 + (v & 0x80 ? 12 : 0);
}

static void time_to_regs(struct rtc *r, int64_t ns)
{
    int64_t sec = floor_div(ns, NS), days = floor_div(sec, 86400), y;
    int in_day = (int)(sec - days * 86400), m, d;
    civil_of(days, &y, &m, &d);
    r->ram[SECOND] = encode(r, in_day % 60);
    r->ram[MINUTE] = encode(r, in_day / 60 % 60);
    r->ram[HOUR] = encode_hour(r, in_day / 3600);
    r->ram[WEEKDAY] = encode(r, (int)((days % 7 + 11) % 7) + 1); /* day 0 was a Thursday; Sunday is 1 */
    r->ram[DAY] = encode(r, d);
    r->ram[MONTH] = encode(r, m);
    r->ram[YEAR] = encode(r, (int)((y % 100 + 100) % 100));
    r->ram[CENTURY] = encode(r, (int)((y / 100 % 100 + 100) % 100));
}

/* Whatever nonsense the registers hold becomes some time, within what ns in 64 bits can tell: 1836 to 2103. */
static int64_t regs_to_sec(const struct rtc *r)
{
    int64_t y = decode(r, r->ram[CENTURY]) * 100 + decode(r, r->ram[YEAR]);
    int64_t sec = days_of(y, decode(r, r->ram[MONTH]), decode(r, r->ram[DAY])) * 86400 +
                  decode_hour(r, r->ram[HOUR]) * 3600 + decode(r, r->ram[MINUTE]) * 60 + decode(r, r->ram[SECOND]);
    return sec > SEC_LIMIT ? SEC_LIMIT : sec < -SEC_LIMIT ? -SEC_LIMIT : sec;
}

/* ---- events ---- */

/* Period of PF in units of 1/32768 s; 0 = none. Data sheet, "Periodic Interrupt Rate and Square Wave Frequency". */
static int64_t period(const struct rtc *r)
{
    unsigned rate = r->ram[A] & A_RATE;
    if (!rate)
        return 0;
    return rate < 3 ? 1 << (rate + 6) : 1 << (rate - 1);
}

/* Start of the n-th period since 1970. */
static int64_t period_start(int64_t n, int64_t p)
{
    return (int64_t)((__int128)n * p * NS / 32768);
}

static int64_t next_periodic(const struct rtc *r, int64_t after)
{
    int64_t p = period(r);
    if (!p || after < 0)
        return NEVER;
    int64_t n = (int64_t)((__int128)after * 32768 / (p * NS));
    while (period_start(n, p) <= after)
        n++;
    return period_start(n, p);
}

static bool alarm_hit(uint8_t reg, int want, int have)
{
    return (reg & 0xc0) == 0xc0 || want == have;
}

/* The next second after `after` that matches the alarm; whole hours and minutes are skipped. */
static int64_t next_alarm(const struct rtc *r, int64_t after)
{
    int h = decode_hour(r, r->ram[HOUR_ALARM]), m = decode(r, r->ram[MINUTE_ALARM]),
        s = decode(r, r->ram[SECOND_ALARM]);
    int64_t sec = floor_div(after, NS) + 1;
    for (unsigned i = 0; i < 25 + 61 + 61; i++) {
        int in_day = (int)(sec - floor_div(sec, 86400) * 86400);
        if (!alarm_hit(r->ram[HOUR_ALARM], h, in_day / 3600))
            sec += 3600 - in_day % 3600;
        else if (!alarm_hit(r->ram[MINUTE_ALARM], m, in_day / 60 % 60))
            sec += 60 - in_day % 60;
        else if (!alarm_hit(r->ram[SECOND_ALARM], s, in_day % 60))
            sec++;
        else
            return sec * NS;
    }
    return NEVER;
}

/* Brings register C and the line up to date, and arms the timer for the next event that interrupts. */
static void update_locked(struct rtc *r)
{
    int64_t now = now_locked(r);
    if (now < r->seen) /* the host's clock was set back */
        r->seen = now;
    bool counting = r->running;
    if (counting) {
        if (floor_div(now, NS) != floor_div(r->seen, NS))
            r->ram[C] |= C_UF;
        if (next_alarm(r, r->seen) <= now)
            r->ram[C] |= C_AF;
    }
    if (next_periodic(r, r->seen) <= now)
        r->ram[C] |= C_PF;
    r->seen = now;
    if (r->ram[C] & r->ram[B] & C_FLAGS)
        r->ram[C] |= C_IRQF;
    bool level = r->ram[C] & C_IRQF;
    if (level != r->level) {
        r->level = level;
        irq_set(&r->cfg.irq, level);
    }

    int64_t at = NEVER, t;
    if (!(r->ram[C] & C_IRQF) && counting) {
        if ((r->ram[B] & B_UIE) && (t = (floor_div(now, NS) + 1) * NS) < at)
            at = t;
        if ((r->ram[B] & B_AIE) && (t = next_alarm(r, now)) < at)
            at = t;
        if ((r->ram[B] & B_PIE) && (t = next_periodic(r, now)) < at)
            at = t;
    }
    if (at != NEVER)
        timer_arm(&r->timer, timer_now(r->timer.svc) + (uint64_t)(at - now));
    else
        timer_disarm(&r->timer);
}

static void expired(void *arg)
{
    struct rtc *r = arg;
    lock_take(&r->lock);
    update_locked(r);
    lock_drop(&r->lock);
}

/* ---- registers ---- */

static bool is_time(unsigned i)
{
    return i == SECOND || i == MINUTE || i == HOUR || (i >= WEEKDAY && i <= YEAR) || i == CENTURY;
}

/* SET stops the registers, a divider of 11xb stops the chain; other divider values run at 32 kHz here. */
static bool should_run(const struct rtc *r)
{
    return !(r->ram[B] & B_SET) && (r->ram[A] & 0x60) != 0x60;
}

static void run_or_stop(struct rtc *r, bool divider_released)
{
    bool run = should_run(r);
    int64_t host = r->cfg.now_realtime(r->cfg.arg);
    if (r->running && !run) {
        r->stopped = host + r->offset;
        time_to_regs(r, r->stopped);
    } else if (!r->running && run) {
        /* "the first update cycle begins one-half second" after the divider is released */
        int64_t frac = divider_released ? NS / 2 : r->stopped - floor_div(r->stopped, NS) * NS;
        r->offset = regs_to_sec(r) * NS + frac - host;
        r->seen = regs_to_sec(r) * NS + frac;
    }
    r->running = run;
}

static uint8_t read_locked(struct rtc *r)
{
    unsigned i = r->index;
    update_locked(r);
    int64_t now = now_locked(r);
    if (is_time(i) && r->running)
        time_to_regs(r, now);
    uint8_t val = r->ram[i];
    if (i == A) {
        int64_t frac = now - floor_div(now, NS) * NS;
        val = (uint8_t)((val & ~A_UIP) | (r->running && NS - frac <= UIP_NS ? A_UIP : 0));
    } else if (i == C) {
        r->ram[C] = 0;
        update_locked(r);
    }
    return val;
}

static void write_locked(struct rtc *r, uint8_t val)
{
    unsigned i = r->index;
    update_locked(r);
    if (is_time(i)) {
        if (r->running) {
            /* Undefined by the data sheet without SET; here the write takes effect at once. */
            int64_t now = now_locked(r);
            time_to_regs(r, now);
            r->ram[i] = val;
            int64_t want = regs_to_sec(r) * NS + (now - floor_div(now, NS) * NS);
            r->offset = want - r->cfg.now_realtime(r->cfg.arg);
            r->seen = want;
        } else {
            r->ram[i] = val;
        }
    } else if (i == A) {
        bool held = (r->ram[A] & 0x60) == 0x60;
        r->ram[A] = val & (uint8_t)~A_UIP;
        run_or_stop(r, held && (val & 0x60) != 0x60);
    } else if (i == B) {
        if (val & B_SET)
            val &= (uint8_t)~B_UIE; /* "SET ... clears UIE" */
        /* Registers follow the new format when the clock runs; when it is stopped the guest rewrites them. */
        r->ram[B] = val;
        run_or_stop(r, false);
    } else if (i != C && i != D) {
        r->ram[i] = val;
    }
    update_locked(r);
}

static void dev_read(void *dev, uint64_t off, void *buf, unsigned len)
{
    struct rtc *r = dev;
    (void)len;
    lock_take(&r->lock);
    *(uint8_t *)buf = off & 1 ? read_locked(r) : 0xff; /* the index is write-only */
    lock_drop(&r->lock);
}

static void dev_write(void *dev, uint64_t off, const void *buf, unsigned len)
{
    struct rtc *r = dev;
    uint8_t val = *(const uint8_t *)buf;
    (void)len;
    lock_take(&r->lock);
    if (off & 1)
        write_locked(r, val);
    else
        r->index = val & 0x7f; /* bit 7 masks NMI, which nothing raises */
    lock_drop(&r->lock);
}

/* RESET clears the interrupt enables and flags; clock and RAM live on the battery. */
static void dev_reset(void *dev)
{
    struct rtc *r = dev;
    lock_take(&r->lock);
    r->index = 0;
    r->ram[B] &= (uint8_t) ~(B_PIE | B_AIE | B_UIE);
    r->ram[C] = 0;
    update_locked(r);
    lock_drop(&r->lock);
}

void rtc_set_cmos(struct rtc *r, uint8_t index, uint8_t val)
{
    lock_take(&r->lock);
    if (index > D && index < CMOS_SIZE && index != CENTURY)
        r->ram[index] = val;
    lock_drop(&r->lock);
}

void rtc_set_memory(struct rtc *r, uint64_t below_4g, uint64_t above_4g)
{
    uint64_t ext = below_4g > 1 << 20 ? (below_4g - (1 << 20)) >> 10 : 0;
    uint64_t high = below_4g > 16 << 20 ? (below_4g - (16 << 20)) >> 16 : 0, top = above_4g >> 16;
    if (ext > 0xffff)
        ext = 0xffff;
    if (high > 0xffff)
        high = 0xffff;
    if (top > 0xffffff)
        top = 0xffffff;
    const uint8_t set[][2] = {
        { 0x15, 640 & 0xff },           { 0x16, 640 >> 8 },
        { 0x17, (uint8_t)ext },         { 0x18, (uint8_t)(ext >> 8) },
        { 0x30, (uint8_t)ext },         { 0x31, (uint8_t)(ext >> 8) },
        { 0x34, (uint8_t)high },        { 0x35, (uint8_t)(high >> 8) },
        { 0x5b, (uint8_t)top },         { 0x5c, (uint8_t)(top >> 8) },
        { 0x5d, (uint8_t)(top >> 16) },
    };
    for (size_t i = 0; i < ARRAY_LEN(set); i++)
        rtc_set_cmos(r, set[i][0], set[i][1]);
    /* The checksum over 10h-2Dh, high byte first. */
    unsigned sum = 0;
    for (unsigned i = 0x10; i <= 0x2d; i++)
        sum += r->ram[i];
    rtc_set_cmos(r, 0x2e, (uint8_t)(sum >> 8));
    rtc_set_cmos(r, 0x2f, (uint8_t)sum);
}

/* The offset is saved, not the time: a restored guest's clock shows the host's time again. */
static int dev_save(const void *dev, struct state_out *s)
{
    struct rtc *r = (struct rtc *)(uintptr_t)dev; /* the lock is not part of the state */
    lock_take(&r->lock);
    update_locked(r);
    state_put_u8(s, r->index);
    state_put_u8(s, r->running);
    state_put_u64(s, (uint64_t)r->offset);
    state_put_u64(s, (uint64_t)r->stopped);
    state_put_bytes(s, r->ram, sizeof(r->ram));
    lock_drop(&r->lock);
    return s->oom ? -ENOMEM : 0;
}

static int dev_load(void *dev, struct state_in *s, unsigned version)
{
    struct rtc *r = dev;
    uint8_t ram[CMOS_SIZE];
    if (version != rtc_ops.version)
        return -EINVAL;
    uint8_t index = state_get_u8(s), running = state_get_u8(s);
    int64_t offset = (int64_t)state_get_u64(s), stopped = (int64_t)state_get_u64(s);
    state_get_bytes(s, ram, sizeof(ram));
    bool run = !(ram[B] & B_SET) && (ram[A] & 0x60) != 0x60;
    if (s->bad || index >= CMOS_SIZE || running > 1 || running != run || offset > LOAD_LIMIT || offset < -LOAD_LIMIT ||
        stopped > LOAD_LIMIT || stopped < -LOAD_LIMIT || (ram[A] & A_UIP) || (ram[C] & ~(C_IRQF | C_FLAGS)) ||
        ram[D] != D_VRT)
        return -EINVAL;
    lock_take(&r->lock);
    r->index = index;
    r->running = running;
    r->offset = offset;
    r->stopped = stopped;
    memcpy(r->ram, ram, sizeof(ram));
    r->seen = now_locked(r);
    update_locked(r);
    lock_drop(&r->lock);
    return 0;
}

const struct dev_ops rtc_ops = {
    .name = "rtc",
    .read = dev_read,
    .write = dev_write,
    .reset = dev_reset,
    .save = dev_save,
    .load = dev_load,
    .version = 1,
};

struct rtc *rtc_new(const struct rtc_cfg *cfg)
{
    struct rtc *r = calloc(1, sizeof(*r));
    if (!r)
        return NULL;
    lock_init(&r->lock, LOCK_DEVICE);
    r->cfg = *cfg;
    timer_init(&r->timer, cfg->timers, expired, r);
    r->ram[A] = 0x26; /* 32 kHz, 1024 Hz: what PC firmware sets */
    r->ram[B] = B_24H;
    r->ram[D] = D_VRT;
    r->ram[0x14] = 0x06; /* equipment: coprocessor, PS/2 mouse port */
    r->running = true;
    r->seen = now_locked(r);
    dev_reset(r);
    return r;
}

void rtc_free(struct rtc *r)
{
    if (!r)
        return;
    timer_disarm(&r->timer);
    lock_destroy(&r->lock);
    free(r);
}
