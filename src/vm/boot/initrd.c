/* SPDX-License-Identifier: MIT */
/*
 * Initial RAM disks: several files become one image, each padded with zeroes to four bytes, which is what the kernel's
 * unpacker expects between archives (Documentation/driver-api/early-userspace/buffer-format.rst). As high as possible
 * below the limit, so that the kernel can grow upwards from its load address.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <unistd.h>

#include "vm/boot/internal.h"

static uint64_t initrd_pad(uint64_t len)
{
    return (len + 3) & ~3UL;
}

static int initrd_open_all(struct boot *b, struct boot_file *f, uint64_t *total, struct err *e)
{
    *total = 0;
    for (unsigned i = 0; i < b->cfg->n_initrds; i++) {
        f[i].path = b->cfg->initrds[i];
        int r = boot_file_open(&f[i], "initrd", mem_low_end(b->mem), e);
        if (r < 0)
            return r;
        *total += initrd_pad(f[i].len);
        if (*total > mem_low_end(b->mem))
            return err_set(e, EFBIG, "the initrds together have more than the guest's %" PRIu64 " MiB of low memory",
                           mem_low_end(b->mem) >> 20);
    }
    return 0;
}

int boot_initrd(struct boot *b, gpa_t limit, struct err *e)
{
    unsigned n = b->cfg->n_initrds;
    if (n == 0)
        return 0;
    struct boot_file *f = calloc(n, sizeof(*f));
    if (!f)
        return err_set(e, ENOMEM, "no memory to read %u initrds", n);
    for (unsigned i = 0; i < n; i++)
        f[i].fd = -1;
    uint64_t total;
    int r = initrd_open_all(b, f, &total, e);
    if (r < 0)
        goto out;
    gpa_t start = boot_find_high(b, total, limit);
    if (!start) {
        r = err_set(e, EFBIG,
                    "no room for the initrd: %" PRIu64 " KiB do not fit beside the kernel below %#" PRIx64
                    "; give the guest more memory",
                    total >> 10, mem_low_end(b->mem) < limit ? mem_low_end(b->mem) : limit);
        goto out;
    }
    r = boot_claim(b, start, total, "the initrd", e);
    gpa_t at = start;
    for (unsigned i = 0; i < n && r == 0; i++) {
        r = boot_file_to_mem(b, &f[i], at, e);
        at += initrd_pad(f[i].len);
    }
    if (r == 0) {
        b->info->initrd = start;
        b->info->initrd_len = total;
    }
out:
    for (unsigned i = 0; i < n; i++)
        if (f[i].fd >= 0)
            close(f[i].fd);
    free(f);
    return r;
}
