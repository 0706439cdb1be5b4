/* SPDX-License-Identifier: MIT */
/* The machine's counters as JSON (--stats). */
#include <errno.h>
#include <jansson.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "mem/mem.h"
#include "virtio/stats.h"
#include "virtio/transport_mmio.h"
#include "vm/balloon.h"
#include "vm/internal.h"

static const char *const exit_names[EXIT_KINDS] = {
    [EXIT_KICKED] = "kicked",     [EXIT_PIO] = "pio",     [EXIT_MMIO] = "mmio",
    [EXIT_MSR] = "msr",           [EXIT_TPR] = "tpr",     [EXIT_HYPERCALL] = "hypercall",
    [EXIT_HLT] = "hlt",           [EXIT_PAUSE] = "pause", [EXIT_IRQ_WINDOW] = "irq_window",
    [EXIT_SHUTDOWN] = "shutdown", [EXIT_DEBUG] = "debug", [EXIT_FATAL] = "fatal",
    [EXIT_STEPPED] = "stepped",
};

static void put(json_t *o, const char *key, uint64_t v)
{
    json_object_set_new(o, key, json_integer((json_int_t)v));
}

static void add(struct vcpu_stats *sum, const struct vcpu_stats *s)
{
    for (unsigned i = 0; i < EXIT_KINDS; i++)
        sum->exits[i] += s->exits[i];
    for (unsigned i = 0; i < ARRAY_LEN(s->faults); i++)
        sum->faults[i] += s->faults[i];
    sum->insns += s->insns;
    sum->intr += s->intr;
    sum->tlb_misses += s->tlb_misses;
    sum->tlb_flushes += s->tlb_flushes;
    sum->blocks_decoded += s->blocks_decoded;
    sum->cache_flushes += s->cache_flushes;
    sum->code_invalidations += s->code_invalidations;
    sum->vector_decoded += s->vector_decoded;
}

/* Adds a counter of an engine: "a.b" goes into an object a. */
static void put_sum(void *arg, const char *name, uint64_t v)
{
    json_t *o = arg;
    const char *dot = strchr(name, '.');
    if (dot) {
        char group[64];
        snprintf(group, sizeof(group), "%.*s", (int)(dot - name), name);
        json_t *in = json_object_get(o, group);
        if (!in) {
            in = json_object();
            json_object_set_new(o, group, in);
        }
        o = in;
        name = dot + 1;
    }
    put(o, name, v + (uint64_t)json_integer_value(json_object_get(o, name)));
}

static json_t *stats_json(const struct vcpu_stats *s)
{
    json_t *o = json_object(), *exits = json_object(), *faults = json_object();
    char key[16];
    put(o, "interpreted_instructions", s->insns);
    put(o, "vector_decoded", s->vector_decoded);
    put(o, "interrupts", s->intr);
    put(o, "tlb_misses", s->tlb_misses);
    put(o, "tlb_flushes", s->tlb_flushes);
    put(o, "blocks_decoded", s->blocks_decoded);
    put(o, "cache_flushes", s->cache_flushes);
    put(o, "code_invalidations", s->code_invalidations);
    for (unsigned i = 0; i < EXIT_KINDS; i++)
        put(exits, exit_names[i], s->exits[i]);
    for (unsigned i = 0; i < ARRAY_LEN(s->faults); i++) {
        if (!s->faults[i])
            continue;
        snprintf(key, sizeof(key), "%u", i);
        put(faults, key, s->faults[i]);
    }
    json_object_set_new(o, "exits", exits);
    json_object_set_new(o, "faults", faults);
    return o;
}

/* Resident set of this process in bytes, from /proc/self/statm; 0 where there is no /proc. */
static uint64_t resident_bytes(uint64_t *shared)
{
    unsigned long size = 0, res = 0, shr = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    *shared = 0;
    if (!f)
        return 0;
    if (fscanf(f, "%lu %lu %lu", &size, &res, &shr) != 3)
        res = shr = 0;
    fclose(f);
    *shared = shr * (uint64_t)sysconf(_SC_PAGESIZE);
    return res * (uint64_t)sysconf(_SC_PAGESIZE);
}

static json_t *memory_json(struct machine *m)
{
    struct mem_stats s;
    uint64_t shared;
    json_t *o = json_object();
    mem_get_stats(m->mem, &s);
    uint64_t touched = s.private_frames * PAGE_SIZE;
    uint64_t res = resident_bytes(&shared);
    put(o, "granted_bytes", s.ram_bytes);
    put(o, "touched_bytes", touched);
    put(o, "occupied_bytes", mem_occupied(m->mem));
    put(o, "code_frames", s.code_frames);
    put(o, "code_writes", s.code_writes);
    put(o, "resident_bytes", res);
    put(o, "overhead_bytes", res > touched ? res - touched : 0);
    return o;
}

static void put_counter(void *o, const char *name, uint64_t v)
{
    put(o, name, v);
}

/* In the order of their addresses, which is that of their kinds and options. */
static json_t *virtio_json(struct machine *m)
{
    json_t *all = json_array();
    for (unsigned i = 0; i < m->n_dev; i++) {
        struct virtio_dev *v = m->dev[i].dev;
        if (m->dev[i].ops != &virtio_mmio_ops)
            continue;
        json_t *o = json_object();
        const struct virtio_put put_all = { put_counter, o };
        json_object_set_new(o, "device", json_string(v->ops->name));
        virtio_stats(v, &put_all);
        json_array_append_new(all, o);
    }
    return all;
}

int machine_write_stats(struct machine *m, FILE *f)
{
    struct vcpu_stats sum = { 0 };
    struct rusage ru;
    json_t *o = json_object(), *cpus = json_array();
    for (unsigned i = 0; i < m->cfg.cpus; i++) {
        const struct vcpu_stats *s = &vcpu_of(m->cpu[i])->stats;
        add(&sum, s);
        json_array_append_new(cpus, stats_json(s));
    }
    json_object_set_new(o, "name", json_string(m->cfg.name ? m->cfg.name : "gazda"));
    json_object_set_new(o, "engine", json_string(m->cfg.engine->name));
    put(o, "guest_ns", pv_clock_ns(&m->clock, __builtin_ia32_rdtsc()));
    if (getrusage(RUSAGE_SELF, &ru) == 0) {
        put(o, "user_us", (uint64_t)ru.ru_utime.tv_sec * 1000000 + (uint64_t)ru.ru_utime.tv_usec);
        put(o, "system_us", (uint64_t)ru.ru_stime.tv_sec * 1000000 + (uint64_t)ru.ru_stime.tv_usec);
    }
    json_object_set_new(o, "total", stats_json(&sum));
    json_object_set_new(o, "cpus", cpus);
    if (m->cfg.engine->stats) {
        json_t *own = json_object();
        for (unsigned i = 0; i < m->cfg.cpus; i++)
            m->cfg.engine->stats(vcpu_of(m->cpu[i]), put_sum, own);
        json_object_set_new(o, m->cfg.engine->name, own);
    }
    json_object_set_new(o, "memory", memory_json(m));
    json_object_set_new(o, "virtio", virtio_json(m));
    if (m->balloon)
        json_object_set_new(o, "balloon", machine_balloon_json(m));
    int r = json_dumpf(o, f, JSON_INDENT(2)) < 0 || fputc('\n', f) == EOF ? -EIO : 0;
    json_decref(o);
    return r;
}
