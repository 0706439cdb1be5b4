/* SPDX-License-Identifier: MIT */
#include <ctype.h>
#include <errno.h>
#include <string.h>

#include "cli/options.h"
#include "vm/agent.h"

enum { PORT_NAME_MAX = 64 };

/* What udev makes a file name of: printable, no slash, no blank. */
static bool name_ok(const char *name)
{
    size_t n = strlen(name);
    for (size_t i = 0; i < n; i++)
        if (!isalnum((unsigned char)name[i]) && !strchr("._-", name[i]))
            return false;
    return n > 0 && n <= PORT_NAME_MAX && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

/* NAME=SPEC; the argument is cut in place. */
int opt_port(struct run_options *o, char *arg, struct err *e)
{
    struct machine_port *p = &o->mc.port[o->mc.n_ports];
    char *spec = strchr(arg, '=');
    if (o->mc.n_ports == MACHINE_PORTS_MAX)
        return err_set(e, EINVAL, "--port: more than %d", MACHINE_PORTS_MAX);
    if (!spec || !spec[1])
        return err_set(e, EINVAL, "--port: \"%.200s\" must be NAME=SPEC, for example org.example.log=unix:log.sock",
                       arg);
    *spec++ = '\0';
    if (!name_ok(arg))
        return err_set(e, EINVAL, "--port: the name \"%.200s\" must be 1 to %d of A-Z, a-z, 0-9, '.', '_' and '-'", arg,
                       PORT_NAME_MAX);
    for (unsigned i = 0; i < o->mc.n_ports; i++)
        if (strcmp(o->mc.port[i].name, arg) == 0)
            return err_set(e, EINVAL, "--port: there are two of the name \"%s\"", arg);
    if (strcmp(arg, AGENT_PORT) == 0)
        o->mc.agent = false; /* somebody else speaks to it */
    *p = (struct machine_port){ .name = arg, .spec = spec };
    o->mc.n_ports++;
    return 0;
}
