/* SPDX-License-Identifier: MIT */
#include "host/chardev.h"
#include "virtio/devices.h"
#include "vm/internal.h"
#include "vm/virtio.h"

static void free_chardev(void *ch)
{
    chardev_free(ch);
}

int vm_add_console(struct machine *m, struct err *e)
{
    const struct chardev_env ce = { .loop = m->loop };
    struct virtio_env env;
    if (!m->cfg.console)
        return 0;
    int r = vm_virtio_env(m, &env, e);
    if (r < 0)
        return r;
    struct chardev *ch = chardev_open(m->cfg.console, &ce, e);
    r = vm_own_backend(m, ch, free_chardev);
    return r < 0 ? r : vm_add_virtio(m, virtio_console_new(&env, ch, 0, 0), e);
}
