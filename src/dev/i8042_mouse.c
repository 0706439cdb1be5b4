/* SPDX-License-Identifier: MIT */
/*
 * The PS/2 mouse (IBM PS/2 Hardware Interface Technical Reference, "Mouse"; the wheel as the IntelliMouse has it). It
 * answers every command but never moves: nothing on the host points yet.
 */
#include "dev/i8042_int.h"

#include <string.h>

#include "state/state.h"

enum { ACK = 0xfa, NAK = 0xfe, BAT_OK = 0xaa };
enum { ID_PLAIN = 0, ID_WHEEL = 3 };

static void defaults(struct ps2_mouse *m)
{
    m->rate = 100;
    m->resolution = 2;
    m->streaming = m->remote = m->scaling = m->wrap = false;
}

void ps2_mouse_reset(struct ps2_mouse *m)
{
    *m = (struct ps2_mouse){ .id = ID_PLAIN };
    defaults(m);
}

static void answer(struct ps2_mouse *m, uint8_t byte)
{
    m->last = byte;
    ps2_put(&m->out, byte);
}

/* A packet that says: no buttons, no movement. */
static void packet(struct ps2_mouse *m)
{
    answer(m, 0x08);
    answer(m, 0);
    answer(m, 0);
    if (m->id == ID_WHEEL)
        answer(m, 0);
}

static void status(struct ps2_mouse *m)
{
    answer(m, (uint8_t)(m->remote << 6 | m->streaming << 5 | m->scaling << 4));
    answer(m, m->resolution);
    answer(m, m->rate);
}

static void argument(struct ps2_mouse *m, uint8_t val)
{
    if (m->arg_of == 0xe8) {
        m->resolution = val & 3;
    } else {
        if (m->knock[0] == 200 && m->knock[1] == 100 && val == 80)
            m->id = ID_WHEEL;
        m->knock[0] = m->knock[1];
        m->knock[1] = val;
        m->rate = val;
    }
    m->arg_of = 0;
    answer(m, ACK);
}

void ps2_mouse_write(struct ps2_mouse *m, uint8_t val)
{
    if (m->arg_of) {
        argument(m, val);
        return;
    }
    if (m->wrap && val != 0xec && val != 0xff) {
        answer(m, val);
        return;
    }
    if (val == 0xfe) {
        ps2_put(&m->out, m->last);
        return;
    }
    bool known =
        (val >= 0xe6 && val <= 0xec) || val == 0xee || (val >= 0xf0 && val <= 0xf6 && val != 0xf1) || val == 0xff;
    answer(m, known ? ACK : NAK);
    switch (val) {
    case 0xe6:
    case 0xe7:
        m->scaling = val & 1;
        break;
    case 0xe8:
    case 0xf3:
        m->arg_of = val;
        break;
    case 0xe9:
        status(m);
        break;
    case 0xea:
        m->remote = false;
        break;
    case 0xeb:
        packet(m);
        break;
    case 0xec:
    case 0xee:
        m->wrap = val == 0xee;
        break;
    case 0xf0:
        m->remote = true;
        break;
    case 0xf2:
        answer(m, m->id);
        break;
    case 0xf4:
    case 0xf5:
        m->streaming = val == 0xf4;
        break;
    case 0xf6:
        defaults(m);
        break;
    case 0xff:
        ps2_mouse_reset(m);
        answer(m, ACK);
        answer(m, BAT_OK);
        answer(m, ID_PLAIN);
        break;
    default:
        break;
    }
}

void ps2_mouse_save(const struct ps2_mouse *m, struct state_out *s)
{
    ps2_queue_save(&m->out, s);
    const uint8_t b[] = { m->arg_of,     m->rate,
                          m->resolution, m->id,
                          m->last,       m->knock[0],
                          m->knock[1],   (uint8_t)(m->streaming | m->remote << 1 | m->scaling << 2 | m->wrap << 3) };
    state_put_bytes(s, b, sizeof(b));
}

bool ps2_mouse_load(struct ps2_mouse *m, struct state_in *s)
{
    uint8_t b[8];
    bool ok = ps2_queue_load(&m->out, s);
    state_get_bytes(s, b, sizeof(b));
    m->arg_of = b[0];
    m->rate = b[1];
    m->resolution = b[2];
    m->id = b[3];
    m->last = b[4];
    m->knock[0] = b[5];
    m->knock[1] = b[6];
    m->streaming = b[7] & 1;
    m->remote = b[7] >> 1 & 1;
    m->scaling = b[7] >> 2 & 1;
    m->wrap = b[7] >> 3 & 1;
    return ok && (!m->arg_of || m->arg_of == 0xe8 || m->arg_of == 0xf3) && m->resolution < 4 &&
           (m->id == ID_PLAIN || m->id == ID_WHEEL) && b[7] < 16;
}
