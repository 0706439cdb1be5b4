/* SPDX-License-Identifier: MIT */
#include "base/base64.h"

#include <stdlib.h>
#include <string.h>

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

char *base64_encode(const void *data, size_t n)
{
    const uint8_t *p = data;
    char *text = malloc((n + 2) / 3 * 4 + 1), *t = text;
    if (!text)
        return NULL;
    for (size_t i = 0; i < n; i += 3) {
        size_t k = n - i < 3 ? n - i : 3;
        uint32_t x = (uint32_t)p[i] << 16 | (k > 1 ? (uint32_t)p[i + 1] << 8 : 0) | (k > 2 ? p[i + 2] : 0U);
        *t++ = digits[x >> 18];
        *t++ = digits[x >> 12 & 63];
        *t++ = k > 1 ? digits[x >> 6 & 63] : '=';
        *t++ = k > 2 ? digits[x & 63] : '=';
    }
    *t = '\0';
    return text;
}

static int value_of(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

uint8_t *base64_decode(const char *text, size_t *n)
{
    uint8_t *out = malloc(strlen(text) / 4 * 3 + 3), *o = out;
    uint32_t x = 0;
    unsigned have = 0, padding = 0;
    if (!out)
        return NULL;
    for (; *text; text++) {
        int v = value_of(*text);
        if (*text == '\n' || *text == '\r')
            continue;
        if (*text == '=')
            padding++;
        else if (v < 0 || padding)
            goto bad;
        x = x << 6 | (v < 0 ? 0U : (uint32_t)v);
        if (++have < 4)
            continue;
        if (padding > 2)
            goto bad;
        *o++ = (uint8_t)(x >> 16);
        if (padding < 2)
            *o++ = (uint8_t)(x >> 8);
        if (padding < 1)
            *o++ = (uint8_t)x;
        have = 0;
        x = 0;
    }
    if (have)
        goto bad;
    *n = (size_t)(o - out);
    return out;

bad:
    free(out);
    return NULL;
}
