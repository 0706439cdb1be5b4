/* SPDX-License-Identifier: MIT */
/* Errors that a user will read: a negative errno for the program, a sentence for the person. */
#ifndef GAZDA_BASE_ERR_H
#define GAZDA_BASE_ERR_H

/* Caller owns it, zero-initialised. Callees write at most once and never read it. */
struct err {
    char text[512]; /* one line without the final newline: what was wrong, where, what would be right */
};

/* Formats the text and returns -code, so that `return err_set(e, EINVAL, ...)` reads well. e may be NULL. */
int err_set(struct err *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#endif
