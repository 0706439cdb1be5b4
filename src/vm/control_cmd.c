/* SPDX-License-Identifier: MIT */
/* The commands of docs/control.md. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "dev/acpi_pm.h"
#include "virtio/transport_mmio.h"
#include "virtio/virtio.h"
#include "vm/agent.h"
#include "vm/balloon.h"
#include "vm/control.h"
#include "vm/internal.h"

/* A command's place to work: arguments in, an answer out. */
struct call {
    struct machine *m;
    const json_t *args;
    json_t *ret; /* an object */
};

static void put_int(json_t *o, const char *key, uint64_t v)
{
    json_object_set_new(o, key, json_integer((json_int_t)v));
}

static json_t *devices_json(const struct machine *m)
{
    json_t *list = json_array();
    for (unsigned i = 0; i < m->n_dev; i++)
        if (m->dev[i].ops == &virtio_mmio_ops)
            json_array_append_new(list, json_string(((const struct virtio_dev *)m->dev[i].dev)->ops->name));
    return list;
}

static json_t *disks_json(const struct machine *m)
{
    json_t *list = json_array();
    for (unsigned i = 0; i < m->cfg.n_disks; i++) {
        json_t *d = json_object();
        json_object_set_new(d, "path", json_string(m->cfg.disk[i].path)); /* NULL, dropped, if it is no UTF-8 */
        json_object_set_new(d, "read_only", json_boolean(m->cfg.disk[i].read_only));
        json_array_append_new(list, d);
    }
    return list;
}

static int cmd_info(struct call *c, struct err *e)
{
    struct machine *m = c->m;
    struct timer_svc *t = loop_timers(m->loop);
    (void)e;
    lock_take(&m->lock);
    bool paused = m->user_paused;
    lock_drop(&m->lock);
    put_int(c->ret, "pid", (uint64_t)getpid());
    json_object_set_new(c->ret, "name", json_string(m->control_name));
    json_object_set_new(c->ret, "version", json_string(GAZDA_VERSION));
    json_object_set_new(c->ret, "state", json_string(paused ? "paused" : "running"));
    put_int(c->ret, "cpus", m->cfg.cpus);
    put_int(c->ret, "memory_bytes", m->cfg.mem_bytes);
    json_object_set_new(c->ret, "uptime_s", json_real((double)(timer_now(t) - m->started_ns) / 1e9));
    json_object_set_new(c->ret, "engine", json_string(m->cfg.engine->name));
    const char *serial = m->cfg.serial ? m->cfg.serial : "null";
    bool ours = strncmp(serial, "socket:/proc/", 13) == 0; /* the path is of no use to anybody else */
    json_object_set_new(c->ret, "serial", json_string(ours ? "socket" : serial));
    if (m->agent)
        json_object_set_new(c->ret, "agent", json_boolean(agent_is_open(m->agent)));
    json_object_set_new(c->ret, "devices", devices_json(m));
    json_object_set_new(c->ret, "disks", disks_json(m));
    return 0;
}

static int cmd_powerbutton(struct call *c, struct err *e)
{
    (void)e;
    json_object_set_new(c->ret, "guest_listens", json_boolean(machine_power_button(c->m)));
    return 0;
}

static int cmd_quit(struct call *c, struct err *e)
{
    (void)e;
    machine_quit(c->m, 0);
    return 0;
}

/* Pauses do not nest here: somebody who says "pause" twice means one pause. */
static bool set_user_paused(struct machine *m, bool on)
{
    lock_take(&m->lock);
    bool changed = m->user_paused != on;
    m->user_paused = on;
    lock_drop(&m->lock);
    return changed;
}

static int cmd_pause(struct call *c, struct err *e)
{
    const json_t *frozen = json_object_get(c->args, "frozen");
    if (frozen && !json_is_boolean(frozen))
        return err_set(e, EINVAL, "argument \"frozen\" must be true or false");
    if (json_is_true(frozen))
        c->m->user_frozen = true;
    if (set_user_paused(c->m, true))
        machine_pause(c->m);
    return 0;
}

static int cmd_resume(struct call *c, struct err *e)
{
    (void)e;
    if (!set_user_paused(c->m, false))
        return 0;
    machine_resume(c->m);
    bool thaw = c->m->user_frozen && c->m->agent;
    c->m->user_frozen = false;
    json_object_set_new(c->ret, "thaws", json_boolean(thaw));
    if (thaw)
        agent_thaw(c->m->agent); /* first: a frozen agent takes no other command */
    if (c->m->agent)
        agent_set_time(c->m->agent);
    return 0;
}

static int cmd_stats(struct call *c, struct err *e)
{
    char *text = NULL;
    size_t len = 0;
    FILE *f = open_memstream(&text, &len);
    if (!f)
        return err_set(e, ENOMEM, "out of memory");
    machine_pause(c->m);
    int r = machine_write_stats(c->m, f);
    machine_resume(c->m);
    fclose(f);
    json_t *stats = r == 0 ? json_loads(text, 0, NULL) : NULL;
    free(text);
    if (!stats)
        return err_set(e, EIO, "the statistics could not be made");
    json_object_update(c->ret, stats);
    json_decref(stats);
    return 0;
}

/* A number that the arguments may have: 1, 0 = it is not there, -EINVAL. */
static int get_int(const struct call *c, const char *key, uint64_t max, uint64_t *out, struct err *e)
{
    const json_t *v = json_object_get(c->args, key);
    if (!v)
        return 0;
    if (!json_is_integer(v) || json_integer_value(v) < 0 || (uint64_t)json_integer_value(v) > max)
        return err_set(e, EINVAL, "argument \"%s\" must be a number from 0 to %lu", key, max);
    *out = (uint64_t)json_integer_value(v);
    return 1;
}

static int cmd_balloon(struct call *c, struct err *e)
{
    uint64_t target, seconds;
    int set = get_int(c, "target_bytes", INT64_MAX, &target, e);
    int poll = set < 0 ? set : get_int(c, "statistics_s", 65535, &seconds, e);
    if (poll < 0)
        return poll;
    int r = set ? machine_balloon_set(c->m, target, e) : 0;
    if (r == 0 && poll)
        r = machine_balloon_poll(c->m, (unsigned)seconds, e);
    struct virtio_balloon_info info;
    if (r == 0)
        r = machine_balloon_get(c->m, &info, e);
    if (r < 0)
        return r;
    json_t *o = machine_balloon_json(c->m);
    json_object_update(c->ret, o);
    json_decref(o);
    return 0;
}

static const struct {
    const char *name;
    int (*fn)(struct call *c, struct err *e);
} commands[] = {
    { "info", cmd_info },       { "powerbutton", cmd_powerbutton }, { "quit", cmd_quit },
    { "pause", cmd_pause },     { "resume", cmd_resume },           { "stats", cmd_stats },
    { "balloon", cmd_balloon },
};

int control_execute(struct machine *m, const char *command, const json_t *args, json_t **ret, struct err *e)
{
    struct call c = { .m = m, .args = args };
    for (unsigned i = 0; i < ARRAY_LEN(commands); i++) {
        if (strcmp(commands[i].name, command) != 0)
            continue;
        c.ret = json_object();
        int r = commands[i].fn(&c, e);
        if (r == 0)
            *ret = c.ret;
        else
            json_decref(c.ret);
        return r;
    }
    return err_set(e, ENOSYS, "there is no command \"%.60s\"", command);
}
