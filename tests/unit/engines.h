/* SPDX-License-Identifier: MIT */
/*
 * The engines that are tested: the one list for unit tests, instruction tests and fuzzers. A new engine is one line
 * here; what it must do is in cpu/engine.h.
 */
#ifndef GAZDA_TESTS_UNIT_ENGINES_H
#define GAZDA_TESTS_UNIT_ENGINES_H

#include <stdio.h>
#include <string.h>

#include "cpu/engine.h"

static const struct engine_ops *const engines[] = {
    &engine_interp,
    &engine_translate,
    &engine_translate_window,
};

/* An engine in another setting, which create makes. */
static inline const struct engine_ops *engine_variant(struct engine_ops *ops, const struct engine_ops *of,
                                                      const char *name, int (*create)(struct vcpu *v))
{
    *ops = *of;
    ops->name = name;
    ops->create = create;
    return ops;
}

/* The translator, verified by the interpreter; not in the list (special), but engine_find has it. */
static inline int engine_verify_create(struct vcpu *v)
{
    v->tuning.verify = true;
    return engine_translate.create(v);
}
static inline const struct engine_ops *engine_verify(void)
{
    static struct engine_ops ops;

    return engine_variant(&ops, &engine_translate, "translate-verify", engine_verify_create);
}

/* Likewise, with user code in processes of its own whenever that can be. */
static inline int engine_direct_create(struct vcpu *v)
{
    v->tuning.direct = ENGINE_DIRECT_ON;
    return engine_translate.create(v);
}
static inline const struct engine_ops *engine_direct(void)
{
    static struct engine_ops ops;

    return engine_variant(&ops, &engine_translate, "translate-direct", engine_direct_create);
}

/* Likewise, windows with half of all sites adapted. */
static inline int engine_adapted_create(struct vcpu *v)
{
    v->tuning.adapt_half = true;
    return engine_translate_window.create(v);
}
static inline const struct engine_ops *engine_adapted(void)
{
    static struct engine_ops ops;

    return engine_variant(&ops, &engine_translate_window, "translate-adapted", engine_adapted_create);
}

/* NULL if there is none of that name. */
static inline const struct engine_ops *engine_find(const char *name)
{
    if (!strcmp(name, engine_verify()->name))
        return engine_verify();
    if (!strcmp(name, engine_direct()->name))
        return engine_direct();
    if (!strcmp(name, engine_adapted()->name))
        return engine_adapted();
    for (unsigned i = 0; i < ARRAY_LEN(engines); i++)
        if (!strcmp(engines[i]->name, name))
            return engines[i];
    return NULL;
}

/* One a line, for tools/testrun. */
static inline void engines_list(void)
{
    for (unsigned i = 0; i < ARRAY_LEN(engines); i++)
        puts(engines[i]->name);
}

#endif
