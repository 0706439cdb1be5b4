/* SPDX-License-Identifier: MIT */
/*
 * Port and memory-mapped I/O dispatch. Regions are mapped while the machine is built and never change while it
 * runs, so dispatch takes no lock; each device locks itself.
 */
#ifndef GAZDA_BUS_BUS_H
#define GAZDA_BUS_BUS_H

#include "base/err.h"
#include "base/types.h"

struct state_out;
struct state_in;

/* A chip: it sees offsets, never addresses. read fills len bytes; write takes len bytes. Any vCPU thread. */
struct dev_ops {
    const char *name;
    void (*read)(void *dev, uint64_t off, void *buf, unsigned len);
    void (*write)(void *dev, uint64_t off, const void *buf, unsigned len);
    void (*reset)(void *dev); /* power-on state; no vCPU runs */
    int (*save)(const void *dev, struct state_out *s);
    int (*load)(void *dev, struct state_in *s, unsigned version); /* hostile input: 0 or -EINVAL, device unchanged */
    unsigned version;                                             /* of what save writes */
};

enum bus_space { BUS_PIO, BUS_MMIO };

/* Access sizes a region takes, in bytes; others are split or joined by the bus into the largest that fits. */
enum bus_sizes { BUS_1 = 1, BUS_2 = 2, BUS_4 = 4, BUS_8 = 8 };

struct bus;

struct bus *bus_new(void);
void bus_free(struct bus *b);

/* Claims [base, base+len) of a space. 0, -EEXIST on overlap (the text names both), -ENOMEM. */
int bus_map(struct bus *b, enum bus_space space, uint64_t base, uint64_t len, unsigned sizes, const struct dev_ops *ops,
            void *dev, struct err *e);

/* len is 1, 2, 4 or 8. Unclaimed bytes read as ones and swallow writes. Any thread. */
void bus_read(struct bus *b, enum bus_space space, uint64_t addr, void *buf, unsigned len);
void bus_write(struct bus *b, enum bus_space space, uint64_t addr, const void *buf, unsigned len);

#endif
