/* SPDX-License-Identifier: MIT */
/*
 * The PS/2 keyboard and the byte queue both PS/2 devices use (IBM PS/2 Hardware Interface Technical Reference,
 * "Keyboards (101- and 102-Key)"). Scan code set 3 is refused; typematic repeat is left to whoever types.
 */
#include "dev/i8042_int.h"

#include <errno.h>
#include <string.h>

#include "state/state.h"

enum { ACK = 0xfa, RESEND = 0xfe, BAT_OK = 0xaa };
enum { QUEUE_KEYS = PS2_QUEUE - 8 }; /* room is kept for replies */

void ps2_put(struct ps2_queue *q, uint8_t byte)
{
    if (q->n < PS2_QUEUE)
        q->b[q->n++] = byte;
}

bool ps2_take(struct ps2_queue *q, uint8_t *byte)
{
    if (!q->n)
        return false;
    *byte = q->b[0];
    memmove(q->b, q->b + 1, --q->n);
    return true;
}

void ps2_queue_save(const struct ps2_queue *q, struct state_out *s)
{
    state_put_u8(s, q->n);
    state_put_bytes(s, q->b, q->n);
}

bool ps2_queue_load(struct ps2_queue *q, struct state_in *s)
{
    q->n = state_get_u8(s);
    if (q->n > PS2_QUEUE) {
        q->n = 0;
        return false;
    }
    state_get_bytes(s, q->b, q->n);
    return true;
}

static void defaults(struct ps2_kbd *k)
{
    k->set = 2;
    k->rate = 0x2b; /* 10.9 characters a second after 500 ms */
}

void ps2_kbd_reset(struct ps2_kbd *k)
{
    *k = (struct ps2_kbd){ .scanning = true };
    defaults(k);
}

static void answer(struct ps2_kbd *k, uint8_t byte)
{
    k->last = byte;
    ps2_put(&k->out, byte);
}

static void argument(struct ps2_kbd *k, uint8_t val)
{
    uint8_t cmd = k->arg_of;
    k->arg_of = 0;
    switch (cmd) {
    case 0xed:
        k->leds = val & 7;
        answer(k, ACK);
        break;
    case 0xf3:
        k->rate = val & 0x7f;
        answer(k, ACK);
        break;
    case 0xf0:
        if (val > 2) {
            answer(k, RESEND);
            break;
        }
        answer(k, ACK);
        if (val)
            k->set = val;
        else
            answer(k, k->set);
        break;
    default: /* key types of set 3 */
        answer(k, ACK);
        break;
    }
}

void ps2_kbd_write(struct ps2_kbd *k, uint8_t val)
{
    if (k->arg_of && val < 0x80) { /* a command in place of an argument ends the waiting */
        argument(k, val);
        return;
    }
    k->arg_of = 0;
    switch (val) {
    case 0xed:
    case 0xf0:
    case 0xf3:
    case 0xfb ... 0xfd:
        k->arg_of = val;
        answer(k, ACK);
        break;
    case 0xee: /* echo */
        answer(k, 0xee);
        break;
    case 0xf2:
        answer(k, ACK);
        answer(k, 0xab);
        answer(k, 0x83);
        break;
    case 0xf4:
        k->out.n = 0;
        k->scanning = true;
        answer(k, ACK);
        break;
    case 0xf5:
    case 0xf6:
        k->out.n = 0;
        defaults(k);
        k->scanning = val == 0xf6;
        answer(k, ACK);
        break;
    case 0xf7 ... 0xfa: /* all keys of set 3 */
        answer(k, ACK);
        break;
    case 0xfe:
        ps2_put(&k->out, k->last);
        break;
    case 0xff:
        ps2_kbd_reset(k);
        answer(k, ACK);
        answer(k, BAT_OK);
        break;
    default:
        answer(k, RESEND);
        break;
    }
}

int ps2_kbd_type(struct ps2_kbd *k, const uint8_t *codes, size_t n)
{
    if (!k->scanning)
        return 0; /* keys pressed while the keyboard is off are lost, as on a real one */
    if (n > QUEUE_KEYS || k->out.n > QUEUE_KEYS - n)
        return -ENOSPC;
    uint8_t up = 0;
    for (size_t i = 0; i < n; i++) {
        if (k->set == 1 && codes[i] == 0xf0) {
            up = 0x80;
            continue;
        }
        k->last = k->set == 1 ? ps2_to_set1(codes[i]) | (codes[i] < 0xe0 ? up : 0) : codes[i];
        if (codes[i] < 0xe0)
            up = 0;
        ps2_put(&k->out, k->last);
    }
    return 0;
}

void ps2_kbd_save(const struct ps2_kbd *k, struct state_out *s)
{
    ps2_queue_save(&k->out, s);
    const uint8_t b[] = { k->arg_of, k->set, k->leds, k->rate, k->last, k->scanning };
    state_put_bytes(s, b, sizeof(b));
}

bool ps2_kbd_load(struct ps2_kbd *k, struct state_in *s)
{
    uint8_t b[6];
    bool ok = ps2_queue_load(&k->out, s);
    state_get_bytes(s, b, sizeof(b));
    k->arg_of = b[0];
    k->set = b[1];
    k->leds = b[2];
    k->rate = b[3];
    k->last = b[4];
    k->scanning = b[5] & 1;
    return ok && (k->set == 1 || k->set == 2) && k->leds < 8 && k->rate < 0x80 && b[5] < 2;
}
