/* SPDX-License-Identifier: MIT */
/* The translator's counters by name, for --stats. */
#include <stdio.h>

#include <Zydis/Zydis.h>

#include "cpu/translate/translate.h"

typedef void put_fn(void *arg, const char *name, uint64_t value);

static void put_opcodes(put_fn *put, void *arg, const char *group, const uint32_t *n)
{
    char name[64];

    for (unsigned k = 0; k < ARRAY_LEN(((struct xl_stats *)0)->step_op); k++) {
        if (!n[k])
            continue;
        snprintf(name, sizeof(name), "%s.%s", group, ZydisMnemonicGetString((ZydisMnemonic)k));
        put(arg, name, n[k]);
    }
}

/* Code memory in use: what regions hold, dropped blocks among it. */
static uint64_t used(const struct codemem *m)
{
    uint64_t sum = 0;

    for (unsigned g = 0; g < CODE_REGIONS; g++)
        if (m->r[g].n) {
            const struct tblock *last = m->r[g].block[m->r[g].n - 1];

            sum += last->end - g * (uint64_t)CODE_REGION + last->cold_end - (g * (uint64_t)CODE_REGION + CODE_HOT);
        }
    return sum ? sum : m->keep;
}

static void put_code(const struct xlate *x, put_fn *put, void *arg)
{
    const struct xl_stats *s = &x->st;

    put(arg, "blocks", s->blocks);
    put(arg, "translated_instructions", s->insns);
    put(arg, "code_bytes", s->code_bytes);
    put(arg, "code_memory.used", used(&x->code));
    put(arg, "code_memory.total", (uint64_t)CODE_REGIONS * CODE_REGION);
    put(arg, "code_memory.flushes", s->code_flushes);
    put(arg, "evictions", s->evictions);
    put(arg, "dropped_blocks", s->dead_blocks);
    put(arg, "links", s->links);
    put(arg, "lookups", s->lookups);
    put(arg, "entries", s->entries);
    put(arg, "kicks", s->kicks);
}

static void put_memory(const struct xl_stats *s, put_fn *put, void *arg)
{
    static const char *const why[MISS_REASONS] = { [MISS_CROSSES] = "missed_by_reason.crosses_page",
                                                   [MISS_NOT_CANONICAL] = "missed_by_reason.not_canonical",
                                                   [MISS_FAULTS] = "missed_by_reason.faults",
                                                   [MISS_NO_RAM] = "missed_by_reason.no_ram",
                                                   [MISS_CODE] = "missed_by_reason.holds_code" };

    put(arg, "tlb_misses", s->misses);
    put(arg, "tlb_fills", s->fills);
    put(arg, "tlb_flushes", s->flushes);
    put(arg, "code_moves.user", s->code_moves[0]);
    put(arg, "code_moves.kernel", s->code_moves[1]);
    for (unsigned k = 0; k < MISS_REASONS; k++)
        put(arg, why[k], s->miss_why[k]);
    put(arg, "windows.misses", s->win_misses);
    put(arg, "windows.pages_filled", s->win_fills);
    put(arg, "windows.large_pages_mapped", s->win_large);
    put(arg, "windows.pages_protected_by_userfaultfd", s->win_uffd);
    put(arg, "windows.flushes", s->win_flushes);
    put(arg, "windows.promotions", s->win_promotions);
    put(arg, "windows.filled_on_return", s->win_returns);
    put(arg, "adapted_sites", s->adapted);
}

static void put_direct(const struct xlate *x, put_fn *put, void *arg)
{
    const struct xl_stats *s = &x->st;

    put(arg, "direct.promotions", s->direct_promotions);
    put(arg, "direct.entries_for_new_code", s->direct_cold);
    put(arg, "direct.demotions", s->direct_demotions);
    put(arg, "direct.kilocycles", s->direct_cycles / 1000);
    put(arg, "direct.cycles_of_a_trap", x->direct.trap_cycles);
    put(arg, "direct.pages_mapped", s->direct_fills);
    put(arg, "direct.flushes", s->direct_flushes);
    put(arg, "direct.lost_processes", s->direct_lost);
    put(arg, "direct_traps.all", s->direct_traps);
    put(arg, "direct_traps.kicks", s->direct_kicks);
    put(arg, "direct_traps.system_calls", s->direct_calls);
    put(arg, "direct_traps.page_faults_of_the_guest", s->direct_faults);
    put(arg, "direct_traps.unfit_code", s->direct_unfit);
}

void xl_stats_put(const struct vcpu *v, void (*put)(void *arg, const char *name, uint64_t value), void *arg)
{
    const struct xlate *x = v->engine;
    const struct xl_stats *s = &x->st;
    char name[64];

    put_code(x, put, arg);
    put_memory(s, put, arg);
    put_direct(x, put, arg);
    put(arg, "host_faults", s->faults);
    for (unsigned k = 0; k < ARRAY_LEN(s->fault_vector); k++) {
        if (!s->fault_vector[k])
            continue;
        snprintf(name, sizeof(name), "host_faults_by_vector.%u", k);
        put(arg, name, s->fault_vector[k]);
    }
    put(arg, "interpreted", s->steps);
    put(arg, "missed_to_interpreter", s->miss_steps);
    put_opcodes(put, arg, "interpreted_by_opcode", s->step_op);
    put_opcodes(put, arg, "done_in_c_by_opcode", s->fast_op);
    if (!x->verify)
        return;
    put(arg, "verify.instructions", s->verified);
    put(arg, "verify.not_compared", s->verify_skipped);
    put(arg, "verify.memory_changed_meanwhile", s->verify_races);
}
