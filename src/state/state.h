/* SPDX-License-Identifier: MIT */
/*
 * Bounded little-endian encoder and decoder for saved device state. Readers never trust the length or the
 * content: a read past the end sets `bad` and returns zeros, and load functions return -EINVAL then.
 */
#ifndef GAZDA_STATE_STATE_H
#define GAZDA_STATE_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct state_out {
    uint8_t *buf; /* owned, grows */
    size_t len, cap;
    bool oom;
};
struct state_in {
    const uint8_t *buf; /* not owned */
    size_t len, pos;
    bool bad;
};

void state_out_free(struct state_out *s);
void state_put_u8(struct state_out *s, uint8_t v);
void state_put_u16(struct state_out *s, uint16_t v);
void state_put_u32(struct state_out *s, uint32_t v);
void state_put_u64(struct state_out *s, uint64_t v);
void state_put_bytes(struct state_out *s, const void *p, size_t n);

uint8_t state_get_u8(struct state_in *s);
uint16_t state_get_u16(struct state_in *s);
uint32_t state_get_u32(struct state_in *s);
uint64_t state_get_u64(struct state_in *s);
void state_get_bytes(struct state_in *s, void *p, size_t n);

#endif
