/* SPDX-License-Identifier: MIT */
/* One multiport console: --console is port 0, then comes the guest agent's, then those of the --port options. */
#include <errno.h>

#include "host/chardev.h"
#include "virtio/devices.h"
#include "vm/agent.h"
#include "vm/internal.h"
#include "vm/virtio.h"

static void free_chardev(void *ch)
{
    chardev_free(ch);
}

static int open_port(struct machine *m, const char *spec, struct chardev **ch, struct err *e)
{
    const struct chardev_env ce = { .loop = m->loop };
    *ch = chardev_open(spec, &ce, e);
    return vm_own_backend(m, *ch, free_chardev);
}

static int add_agent(struct machine *m, struct virtio_console_port *port, struct err *e)
{
    m->agent = agent_new(m->control_loop);
    if (!m->agent)
        return err_set(e, ENOMEM, "out of memory");
    *port = (struct virtio_console_port){ .name = AGENT_PORT, .ch = agent_chardev(m->agent) };
    return vm_own_backend(m, port->ch, free_chardev);
}

struct agent *machine_agent(struct machine *m)
{
    return m->agent;
}

int vm_add_console(struct machine *m, struct err *e)
{
    struct virtio_console_port port[VIRTIO_CONSOLE_PORTS_MAX] = { 0 };
    struct virtio_env env;
    unsigned n = 1, max = VIRTIO_CONSOLE_PORTS_MAX - 1 - m->cfg.agent;
    if (!m->cfg.console && !m->cfg.n_ports && !m->cfg.agent)
        return 0;
    if (m->cfg.n_ports > max)
        return err_set(e, EINVAL, "%u ports: at most %u%s", m->cfg.n_ports, max,
                       m->cfg.agent ? " beside that of the guest agent (see --no-agent)" : "");
    int r = vm_virtio_env(m, &env, e);
    if (r == 0 && m->cfg.console)
        r = open_port(m, m->cfg.console, &port[0].ch, e);
    if (r == 0 && m->cfg.agent)
        r = add_agent(m, &port[n++], e);
    for (unsigned i = 0; i < m->cfg.n_ports && r == 0; i++, n++) {
        port[n].name = m->cfg.port[i].name;
        r = open_port(m, m->cfg.port[i].spec, &port[n].ch, e);
    }
    return r < 0 ? r : vm_add_virtio(m, virtio_console_new(&env, port, n), e);
}
