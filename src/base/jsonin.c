/* SPDX-License-Identifier: MIT */
#include "base/jsonin.h"

#include <errno.h>

/* Counts brackets and commas outside of strings; what is no JSON at all is left to the parser. */
static int check_shape(const char *text, size_t len, struct err *e)
{
    unsigned depth = 0, items = 0;
    for (size_t i = 0; i < len; i++) {
        switch (text[i]) {
        case '"':
            for (i++; i < len && text[i] != '"'; i++)
                i += text[i] == '\\';
            break;
        case '[':
        case '{':
            depth++;
            items++;
            break;
        case ',':
            items++;
            break;
        case ']':
        case '}':
            depth -= depth > 0;
            break;
        }
        if (depth > JSONIN_DEPTH)
            return err_set(e, EINVAL, "the JSON text nests deeper than %d", JSONIN_DEPTH);
        if (items > JSONIN_ITEMS)
            return err_set(e, EINVAL, "the JSON text has more than %d members and elements", JSONIN_ITEMS);
    }
    return 0;
}

json_t *jsonin_load(const char *text, size_t len, struct err *e)
{
    json_error_t je;
    if (check_shape(text, len, e) < 0)
        return NULL;
    json_t *j = json_loadb(text, len, JSON_REJECT_DUPLICATES, &je);
    if (!j) {
        err_set(e, EINVAL, "not JSON: %.160s (at byte %d)", je.text, je.position);
        return NULL;
    }
    if (!json_is_object(j)) {
        json_decref(j);
        err_set(e, EINVAL, "the JSON text is not an object");
        return NULL;
    }
    return j;
}
