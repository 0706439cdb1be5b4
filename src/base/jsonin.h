/* SPDX-License-Identifier: MIT */
/* JSON from strangers: what would make the parser use much memory or stack for a short text is refused beforehand. */
#ifndef GAZDA_BASE_JSONIN_H
#define GAZDA_BASE_JSONIN_H

#include <jansson.h>
#include <stddef.h>

#include "base/err.h"

enum { JSONIN_DEPTH = 32, JSONIN_ITEMS = 4096 };

/*
 * Parses text of len bytes: one object, at most JSONIN_DEPTH deep, with at most JSONIN_ITEMS members and elements in
 * all, no member twice. The caller bounds len and owns the result. NULL with e set.
 */
json_t *jsonin_load(const char *text, size_t len, struct err *e);

#endif
