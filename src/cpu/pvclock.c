/* SPDX-License-Identifier: MIT */
/* kvm-clock; see pvclock.h. */
#include "cpu/pvclock.h"

#include <time.h>
#include <x86intrin.h>

#include "mem/mem.h"

enum {
    MSR_WALL_OLD = 0x11,
    MSR_SYSTEM_OLD = 0x12,
    MSR_WALL = 0x4b564d00,
    MSR_SYSTEM = 0x4b564d01,
};
enum { PVCLOCK_TSC_STABLE = 1 };

struct pvclock_vcpu_time_info {
    uint32_t version;
    uint32_t pad0;
    uint64_t tsc_timestamp;
    uint64_t system_time;
    uint32_t tsc_to_system_mul;
    int8_t tsc_shift;
    uint8_t flags;
    uint8_t pad[2];
} __attribute__((packed));

struct pvclock_wall_clock {
    uint32_t version, sec, nsec;
} __attribute__((packed));

static uint64_t clock_ns(clockid_t id)
{
    struct timespec ts;
    clock_gettime(id, &ts);
    return (uint64_t)ts.tv_sec * 1000000000UL + (uint64_t)ts.tv_nsec;
}

/* One reading of both clocks, the closest pair of several: the thread may be descheduled between the two. */
static void read_pair(uint64_t *ns, uint64_t *tsc)
{
    uint64_t best = UINT64_MAX;
    for (int i = 0; i < 16; i++) {
        uint64_t a = __rdtsc();
        uint64_t n = clock_ns(CLOCK_MONOTONIC_RAW);
        uint64_t b = __rdtsc();
        if (b - a < best) {
            best = b - a;
            *ns = n;
            *tsc = a + (b - a) / 2;
        }
    }
}

uint32_t pv_clock_host_khz(void)
{
    uint64_t n0, t0, n1, t1;
    read_pair(&n0, &t0);
    struct timespec ts = { .tv_nsec = 20000000 };
    nanosleep(&ts, NULL);
    read_pair(&n1, &t1);
    return (uint32_t)((unsigned __int128)(t1 - t0) * 1000000 / (n1 - n0));
}

void pv_clock_init(struct pv_clock *c, uint32_t tsc_khz)
{
    /* Any rate from 1 GHz up has a multiplier below 2^32; slower clocks shift left until it has. */
    uint64_t hz = (uint64_t)tsc_khz * 1000;
    int8_t shift = 0;
    while (hz < 1000000000UL) {
        hz <<= 1;
        shift++;
    }
    c->tsc_khz = tsc_khz;
    c->shift = shift;
    uint64_t mul = (uint64_t)(((unsigned __int128)1000000000UL << 32) / hz);
    c->mul = mul > UINT32_MAX ? UINT32_MAX : (uint32_t)mul;
    c->tsc0 = __rdtsc();
}

uint64_t pv_clock_ns(const struct pv_clock *c, uint64_t host_tsc)
{
    uint64_t d = host_tsc - c->tsc0;
    return (uint64_t)((unsigned __int128)(d << c->shift) * c->mul >> 32);
}

/* Version odd while it changes, so that a reader on another vCPU retries. */
static bool write_versioned(struct mem *mem, gpa_t gpa, void *rec, size_t len)
{
    uint32_t version = 0;
    if (mem_read(mem, gpa, &version, sizeof(version)) < 0)
        return false;
    version = (version | 1) + 2;
    if (mem_write(mem, gpa, &version, sizeof(version)) < 0)
        return false;
    full_fence();
    if (mem_write(mem, gpa + 4, (uint8_t *)rec + 4, len - 4) < 0)
        return false;
    full_fence();
    version++;
    return mem_write(mem, gpa, &version, sizeof(version)) == 0;
}

static bool write_system(const struct pv_clock_cpu *p, gpa_t gpa, uint64_t tsc_offset)
{
    const struct pv_clock *c = p->clock;
    struct pvclock_vcpu_time_info t = {
        .tsc_timestamp = c->tsc0 + tsc_offset,
        .system_time = 0,
        .tsc_to_system_mul = c->mul,
        .tsc_shift = c->shift,
        .flags = PVCLOCK_TSC_STABLE,
    };
    return write_versioned(p->mem, gpa, &t, sizeof(t));
}

static bool write_wall(const struct pv_clock_cpu *p, gpa_t gpa)
{
    uint64_t boot = clock_ns(CLOCK_REALTIME) - pv_clock_ns(p->clock, __rdtsc());
    struct pvclock_wall_clock w = {
        .sec = (uint32_t)(boot / 1000000000UL),
        .nsec = (uint32_t)(boot % 1000000000UL),
    };
    return write_versioned(p->mem, gpa, &w, sizeof(w));
}

bool pv_clock_read(const struct pv_clock_cpu *p, uint32_t msr, uint64_t *val)
{
    if (msr == MSR_WALL || msr == MSR_WALL_OLD)
        *val = p->wall_msr;
    else if (msr == MSR_SYSTEM || msr == MSR_SYSTEM_OLD)
        *val = p->system_msr;
    else
        return false;
    return true;
}

bool pv_clock_write(struct pv_clock_cpu *p, uint64_t tsc_offset, uint32_t msr, uint64_t val)
{
    if (msr == MSR_WALL || msr == MSR_WALL_OLD) {
        /* A bad address is the guest's own loss, as under KVM: the write takes, nothing is stored. */
        write_wall(p, val);
        p->wall_msr = val;
        return true;
    }
    if (msr == MSR_SYSTEM || msr == MSR_SYSTEM_OLD) {
        if (val & 1)
            write_system(p, val & ~1UL, tsc_offset);
        p->system_msr = val;
        return true;
    }
    return false;
}
