/* SPDX-License-Identifier: MIT */
/* Base64 (RFC 4648, with padding). */
#ifndef GAZDA_BASE_BASE64_H
#define GAZDA_BASE_BASE64_H

#include <stddef.h>
#include <stdint.h>

/* A malloc'ed string, or NULL without memory. */
char *base64_encode(const void *data, size_t n);
/* Malloc'ed bytes, their number in *n; NULL if text is not Base64 (newlines are skipped), or without memory. */
uint8_t *base64_decode(const char *text, size_t *n);

#endif
