/* SPDX-License-Identifier: MIT */
/* gazda appliance import of an OVA or OVF: its disks become qcow2 by qemu-img. */
#include "cli/appliance_ova.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include "appliance/ovf.h"

/* diskN.src of the folder becomes diskN.qcow2. */
static int convert(const struct work_dir *w, unsigned i, struct err *e)
{
    char src[32], dst[32], *from = NULL, *to = NULL;
    snprintf(src, sizeof(src), "disk%u.src", i);
    snprintf(dst, sizeof(dst), "disk%u.qcow2", i);
    int r = ovf_check_disk(w->fd, src, e);
    if (r < 0)
        return r;
    if (r == OVF_QCOW2)
        return renameat(w->fd, src, w->fd, dst) < 0 ? err_set(e, errno, "%s: %s", src, strerror(errno)) : 0;
    if (asprintf(&from, "%s/%s", w->path, src) < 0 || asprintf(&to, "%s/%s", w->path, dst) < 0) {
        free(from);
        return err_set(e, ENOMEM, "out of memory");
    }
    char *argv[] = { "qemu-img", "convert", "-f", "vmdk", "-O", "qcow2", from, to, NULL };
    r = work_run(argv, -1, "qemu-img cannot convert the VMDK (see above)", e);
    if (r == -ENOENT)
        r = err_set(e, ENOENT, "the disks are VMDK: qemu-img converts them, and is not installed (package qemu-utils)");
    if (r == 0)
        unlinkat(w->fd, src, 0);
    free(from);
    free(to);
    return r;
}

/* Copies a file of the user's into the folder under a name of ours. */
static int take(const char *path, const struct work_dir *w, const char *name, struct err *e)
{
    struct stat st;
    int in = open(path, O_RDONLY | O_CLOEXEC);
    int out = in < 0 ? -1 : openat(w->fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    int r = out < 0 || fstat(in, &st) < 0 ? err_set(e, errno, "%.300s: %s", path, strerror(errno)) : 0;
    while (r == 0) {
        ssize_t n = sendfile(out, in, NULL, 64 << 20);
        if (n == 0)
            break;
        if (n < 0)
            r = err_set(e, errno, "cannot copy %.300s: %s", path, strerror(errno));
    }
    if (in >= 0)
        close(in);
    if (out >= 0)
        close(out);
    return r;
}

/* Sizes and checksums of all files. */
static int measure(const struct work_dir *w, struct appliance_manifest *m, struct err *e)
{
    int r = 0;
    for (unsigned i = 0; r == 0 && i < m->n_files; i++)
        r = appliance_hash(w->fd, &m->file[i], work_progress(), e);
    return r ? r : appliance_save(w->fd, m, e);
}

int ova_import(const char *file, struct work_dir *w, struct appliance_manifest *m, const struct ova_options *o,
               struct err *e)
{
    struct ovf_machine *ovf = calloc(1, sizeof(*ovf));
    int r = ovf ? ovf_unpack(file, w->fd, ovf, work_progress(), e) : err_set(e, ENOMEM, "out of memory");
    for (unsigned i = 0; r == 0 && i < ovf->n_disks; i++) {
        struct appliance_disk *d = &m->disk[m->n_disks++];
        r = convert(w, i, e);
        snprintf(d->file, sizeof(d->file), "disk%u.qcow2", i);
        appliance_manifest_add(m, d->file);
    }
    if (r == 0 && o->kernel) {
        strcpy(m->kernel, "vmlinuz");
        appliance_manifest_add(m, m->kernel);
        r = take(o->kernel, w, m->kernel, e);
    }
    if (r == 0 && o->initrd) {
        strcpy(m->initrd, "initrd");
        appliance_manifest_add(m, m->initrd);
        r = o->kernel ? take(o->initrd, w, m->initrd, e) : err_set(e, EINVAL, "--initrd needs --kernel");
    }
    if (r == 0) {
        strcpy(m->name, ovf->name);
        m->cpus = ovf->cpus;
        m->mem = ovf->mem;
        m->n_nets = ovf->nets;
        /* Installed systems are on the first partition more often than not. */
        const char *append = o->append ? o->append : o->kernel ? "" : "console=ttyS0 root=/dev/vda1 rw";
        if ((size_t)snprintf(m->cmdline, sizeof(m->cmdline), "%s", append) >= sizeof(m->cmdline))
            r = err_set(e, EINVAL, "--append: longer than %zu bytes", sizeof(m->cmdline) - 1);
        snprintf(m->description, sizeof(m->description), "imported from OVF");
    }
    r = r ? r : measure(w, m, e);
    if (r == 0 && !o->kernel)
        fprintf(stderr,
                "gazda: OVF machines start by firmware, which gazda has not: %s starts with the default "
                "appliance's kernel and %s; --kernel, --initrd and --append say otherwise\n",
                m->name, m->cmdline);
    free(ovf);
    return r;
}
