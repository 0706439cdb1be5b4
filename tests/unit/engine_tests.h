/* SPDX-License-Identifier: MIT */
/*
 * A group of tests run once for each engine; the results are called "test_x (engine)". Include it behind cmocka.h.
 *
 * A test's set-up, or the test if it has none, finds the const struct engine_ops * in *state. A test whose
 * initial_state is set runs on that engine only: for what looks inside an engine, or holds for one engine and is not in
 * the contract. TEST_ENGINE=NAME in the environment leaves only that engine; translate-verify, translate-direct
 * and translate-adapted are not run else. TEST_ONLY=PATTERN (with * and ?) leaves only the tests of such a name.
 */
#ifndef GAZDA_TESTS_UNIT_ENGINE_TESTS_H
#define GAZDA_TESTS_UNIT_ENGINE_TESTS_H

#include <stdio.h>
#include <stdlib.h>

#include "engines.h"

static inline struct CMUnitTest engine_test_of(const struct CMUnitTest *t, const struct engine_ops *ops)
{
    struct CMUnitTest one = *t;
    char *name = NULL;

    if (asprintf(&name, "%s (%s)", t->name, ops->name) < 0)
        abort();
    one.name = name;
    one.initial_state = (void *)ops;
    return one;
}

/* What main returns. */
static inline int engine_tests_run(const char *group, const struct CMUnitTest *tests, size_t n)
{
    const char *only = getenv("TEST_ENGINE");
    struct CMUnitTest *all = calloc(n * (ARRAY_LEN(engines) + 1), sizeof(*all));
    const struct engine_ops *special = only ? engine_find(only) : NULL;
    size_t m = 0;
    int failed;

    if (!all)
        abort();
    for (unsigned e = 0; e < ARRAY_LEN(engines); e++)
        for (size_t i = 0; i < n; i++)
            if ((!tests[i].initial_state || tests[i].initial_state == engines[e]) &&
                (!only || !strcmp(only, engines[e]->name)))
                all[m++] = engine_test_of(&tests[i], engines[e]);
    if (m)
        special = NULL;
    for (size_t i = 0; i < n && special; i++)
        if (!tests[i].initial_state)
            all[m++] = engine_test_of(&tests[i], special);
    if (getenv("TEST_ONLY"))
        cmocka_set_test_filter(getenv("TEST_ONLY"));
    if (!m)
        fprintf(stderr, "%s: no test for TEST_ENGINE=%s\n", group, only ? only : "");
    failed = m ? _cmocka_run_group_tests(group, all, m, NULL, NULL) : 1;
    for (size_t i = 0; i < m; i++)
        free((void *)all[i].name);
    free(all);
    return failed;
}

#define ENGINE_TESTS_RUN(group, tests) engine_tests_run((group), (tests), ARRAY_LEN(tests))

#endif
