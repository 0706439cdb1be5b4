/* SPDX-License-Identifier: MIT */
/* Port and memory-mapped I/O dispatch: two sorted tables of regions, searched by bisection. */
#include "bus/bus.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { REGIONS_MAX = 128 };

struct region {
    uint64_t base, len;
    unsigned sizes;
    const struct dev_ops *ops;
    void *dev;
};

struct bus {
    struct space {
        unsigned n;
        struct region r[REGIONS_MAX]; /* by base, disjoint */
    } space[2];
};

struct bus *bus_new(void)
{
    return calloc(1, sizeof(struct bus));
}

void bus_free(struct bus *b)
{
    free(b);
}

int bus_map(struct bus *b, enum bus_space space, uint64_t base, uint64_t len, unsigned sizes, const struct dev_ops *ops,
            void *dev, struct err *e)
{
    struct space *s = &b->space[space];
    if (len == 0 || base + len - 1 < base || !sizes)
        return err_set(e, EINVAL, "%s: bad I/O range 0x%lx+0x%lx", ops->name, base, len);
    if (s->n == REGIONS_MAX)
        return err_set(e, ENOMEM, "%s: more than %d I/O ranges", ops->name, REGIONS_MAX);
    unsigned at = 0;
    for (unsigned i = 0; i < s->n; i++) {
        const struct region *o = &s->r[i];
        if (base <= o->base + (o->len - 1) && o->base <= base + (len - 1))
            return err_set(e, EEXIST, "%s at 0x%lx+0x%lx overlaps %s at 0x%lx+0x%lx", ops->name, base, len,
                           o->ops->name, o->base, o->len);
        if (o->base < base)
            at = i + 1;
    }
    memmove(&s->r[at + 1], &s->r[at], (s->n - at) * sizeof(s->r[0]));
    s->r[at] = (struct region){ .base = base, .len = len, .sizes = sizes, .ops = ops, .dev = dev };
    s->n++;
    return 0;
}

static const struct region *find(const struct space *s, uint64_t addr)
{
    unsigned lo = 0, hi = s->n;
    while (lo < hi) {
        unsigned mid = (lo + hi) / 2;
        const struct region *r = &s->r[mid];
        if (addr < r->base)
            hi = mid;
        else if (addr - r->base >= r->len)
            lo = mid + 1;
        else
            return r;
    }
    return NULL;
}

/* The largest piece at off that the region takes in one access; a device with only larger sizes gets its smallest. */
static unsigned piece(const struct region *r, uint64_t off, unsigned len)
{
    for (unsigned n = 8; n; n >>= 1)
        if (n <= len && (r->sizes & n) && n <= r->len - off)
            return n;
    return 0;
}

static unsigned smallest(const struct region *r)
{
    return r->sizes & (0U - r->sizes);
}

void bus_read(struct bus *b, enum bus_space space, uint64_t addr, void *buf, unsigned len)
{
    uint8_t *p = buf;
    while (len) {
        const struct region *r = find(&b->space[space], addr);
        if (!r) {
            *p++ = 0xff;
            addr++, len--;
            continue;
        }
        uint64_t off = addr - r->base;
        unsigned n = piece(r, off, len);
        if (n) {
            r->ops->read(r->dev, off, p, n);
        } else { /* narrower than the device knows: read the register around it and take the bytes */
            uint8_t wide[8];
            unsigned w = smallest(r);
            uint64_t at = off & ~(uint64_t)(w - 1);
            memset(wide, 0xff, sizeof(wide));
            if (w <= r->len - at)
                r->ops->read(r->dev, at, wide, w);
            n = w - (unsigned)(off - at);
            if (n > len)
                n = len;
            memcpy(p, wide + (off - at), n);
        }
        p += n, addr += n, len -= n;
    }
}

void bus_write(struct bus *b, enum bus_space space, uint64_t addr, const void *buf, unsigned len)
{
    const uint8_t *p = buf;
    while (len) {
        const struct region *r = find(&b->space[space], addr);
        unsigned n = 1;
        if (r) {
            uint64_t off = addr - r->base;
            n = piece(r, off, len);
            if (n) {
                r->ops->write(r->dev, off, p, n);
            } else { /* narrower than the device knows: the other bytes are written as zero, as on a bus without enables
                      */
                uint8_t wide[8] = { 0 };
                unsigned w = smallest(r);
                uint64_t at = off & ~(uint64_t)(w - 1);
                n = w - (unsigned)(off - at);
                if (n > len)
                    n = len;
                memcpy(wide + (off - at), p, n);
                if (w <= r->len - at)
                    r->ops->write(r->dev, at, wide, w);
            }
        }
        p += n, addr += n, len -= n;
    }
}
