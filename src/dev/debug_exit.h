/* SPDX-License-Identifier: MIT */
/* Ports for test guests and firmware: isa-debug-exit, the debug console, the POST code port. */
#ifndef GAZDA_DEV_DEBUG_EXIT_H
#define GAZDA_DEV_DEBUG_EXIT_H

#include "bus/bus.h"
#include "host/chardev.h"

enum {
    DEBUG_EXIT_PORT = 0xf4, /* 4 ports, BUS_1|BUS_2|BUS_4 */
    DEBUG_EXIT_LEN = 4,
    DEBUG_CON_PORT = 0xe9, /* 1 port, BUS_1; SeaBIOS and OVMF use 0x402 */
    DEBUG_CON_PORT_FW = 0x402,
    POST_PORT = 0x80, /* 1 port, BUS_1 */
};

/* Owned and placed by its user. exit runs on the writing vCPU's thread, no lock held. Exit status: (value << 1) | 1. */
struct debug_exit {
    void (*exit)(void *arg, uint32_t value);
    void *arg;
};
struct debug_con {
    struct chardev *ch; /* not owned; NULL = drop */
};

extern const struct dev_ops debug_exit_ops; /* dev is a struct debug_exit */
extern const struct dev_ops debug_con_ops;  /* dev is a struct debug_con; reads as E9h */
extern const struct dev_ops post_ops;       /* dev is an _Atomic uint8_t: the last code; reads back */

#endif
