/* SPDX-License-Identifier: MIT */
/*
 * The kernel command line: what the user gave, then what Firecracker would append. The order matters to nobody but
 * people who compare: append, root=, virtio_mmio.device=. Arguments after " -- " belong to init, so ours go before it.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vm/boot/internal.h"

/* Does the text hold `key` as the beginning of a word? Quotes do not hide words here: the kernel's do not either. */
static bool cmdline_has(const char *s, const char *key)
{
    size_t n = strlen(key);
    for (const char *p = s; (p = strstr(p, key)); p += n)
        if (p == s || p[-1] == ' ' || p[-1] == '\t' || p[-1] == '\n')
            return true;
    return false;
}

static void cmdline_extras(struct boot *b, const char *append, FILE *f)
{
    const struct boot_config *cfg = b->cfg;
    if (cfg->root != BOOT_ROOT_NONE && !cmdline_has(append, "root="))
        fprintf(f, " root=/dev/vda %s", cfg->root == BOOT_ROOT_RO ? "ro" : "rw");
    if (cfg->extra)
        fprintf(f, " %s", cfg->extra);
    for (unsigned i = 0; i < cfg->n_virtio; i++)
        fprintf(f, " virtio_mmio.device=%" PRIu32 "K@0x%08" PRIx64 ":%u", cfg->virtio[i].len >> 10, cfg->virtio[i].base,
                cfg->virtio[i].gsi);
}

/* Where " --" ends the kernel's own arguments; the end of the text if nowhere. */
static const char *cmdline_init_args(const char *s)
{
    for (const char *p = s; (p = strstr(p, "--")); p += 2)
        if ((p == s || p[-1] == ' ') && (p[2] == ' ' || p[2] == '\0'))
            return p > s ? p - 1 : p;
    return s + strlen(s);
}

int boot_cmdline(struct boot *b, const char *prefix, bool linux_args, uint32_t max, struct err *e)
{
    const char *append = b->cfg->append ? b->cfg->append : linux_args ? BOOT_DEFAULT_APPEND : "";
    size_t len;
    FILE *f = open_memstream(&b->cmdline, &len);
    if (!f)
        return err_set(e, ENOMEM, "no memory for the command line");
    const char *tail = linux_args ? cmdline_init_args(append) : append + strlen(append);
    fputs(prefix, f);
    fwrite(append, 1, (size_t)(tail - append), f);
    if (linux_args)
        cmdline_extras(b, append, f);
    if (tail == append && *tail)
        fputc(' ', f);
    fputs(tail, f);
    if (fclose(f) != 0)
        return err_set(e, ENOMEM, "no memory for the command line");
    if (len > max || len >= LAYOUT_CMDLINE_LEN)
        return err_set(
            e, EINVAL,
            "the command line is too long: %zu bytes with what gazda appends; this kernel takes at most %" PRIu32, len,
            max);
    b->info->cmdline = LAYOUT_CMDLINE;
    b->info->cmdline_len = (uint32_t)len;
    return boot_put(b, LAYOUT_CMDLINE, b->cmdline, len + 1, e);
}
