/* SPDX-License-Identifier: MIT */
/* The two PS/2 devices behind the i8042. They are parts of it: under its lock, saved with it. */
#ifndef GAZDA_DEV_I8042_INT_H
#define GAZDA_DEV_I8042_INT_H

#include "dev/i8042.h"

enum { PS2_QUEUE = 64 };

struct ps2_queue {
    uint8_t n, b[PS2_QUEUE];
};

struct ps2_kbd {
    struct ps2_queue out;
    uint8_t arg_of;           /* command that waits for its argument; 0 = none */
    uint8_t set;              /* scan code set it sends: 1 or 2 */
    uint8_t leds, rate, last; /* last: the byte sent last, for RESEND */
    bool scanning;
};

struct ps2_mouse {
    struct ps2_queue out;
    uint8_t arg_of, rate, resolution, id, last;
    uint8_t knock[2]; /* the last two sample rates: 200, 100, 80 turn the wheel on */
    bool streaming, remote, scaling, wrap;
};

/* A full queue drops the byte. */
void ps2_put(struct ps2_queue *q, uint8_t byte);
bool ps2_take(struct ps2_queue *q, uint8_t *byte);
void ps2_queue_save(const struct ps2_queue *q, struct state_out *s);
bool ps2_queue_load(struct ps2_queue *q, struct state_in *s);
uint8_t ps2_to_set1(uint8_t code);

void ps2_kbd_reset(struct ps2_kbd *k);
void ps2_kbd_write(struct ps2_kbd *k, uint8_t val);
int ps2_kbd_type(struct ps2_kbd *k, const uint8_t *codes, size_t n); /* set 2; 0 or -ENOSPC */
void ps2_kbd_save(const struct ps2_kbd *k, struct state_out *s);
bool ps2_kbd_load(struct ps2_kbd *k, struct state_in *s);

void ps2_mouse_reset(struct ps2_mouse *m);
void ps2_mouse_write(struct ps2_mouse *m, uint8_t val);
void ps2_mouse_save(const struct ps2_mouse *m, struct state_out *s);
bool ps2_mouse_load(struct ps2_mouse *m, struct state_in *s);

#endif
