/* SPDX-License-Identifier: MIT */
/*
 * Telling what is translated, for people: lines about blocks and notable events, and symbols for perf (struct
 * engine_tuning). It costs a test of a pointer where nobody asked for it.
 */
#ifndef GAZDA_CPU_TRANSLATE_TRACE_H
#define GAZDA_CPU_TRANSLATE_TRACE_H

#include "cpu/translate/translate.h"

struct trans;

enum xl_event {
    EVENT_FLUSH, /* code memory is emptied; a: its blocks */
    EVENT_EVICT, /* a region of it is used again; a: which, b: its blocks */
    EVENT_DROP,  /* a frame's code has changed; a: its address, b: its blocks */
    EVENT_TLB,   /* all of the TLBs is dropped, global entries too */
};

/* The stubs' symbols. */
void xl_trace_start(struct xlate *x);
/* The block that was just translated. */
void xl_trace_block(const struct trans *t);
void xl_trace_event(struct xlate *x, enum xl_event e, uint64_t a, uint64_t b);
/* trace_exec: code is about to be entered at pc; the interpreter is about to step. */
void xl_trace_enter(struct xlate *x, const uint8_t *pc);
void xl_trace_step(struct xlate *x);

static inline bool xl_traced(const struct xlate *x)
{
    return unlikely(x->v->tuning.trace || x->v->tuning.perf_map);
}
static inline void xl_event(struct xlate *x, enum xl_event e, uint64_t a, uint64_t b)
{
    if (xl_traced(x))
        xl_trace_event(x, e, a, b);
}

#endif
