/* SPDX-License-Identifier: MIT */
#include <errno.h>

#include "mem/mem.h"
#include "virtio/devices.h"
#include "vm/balloon.h"
#include "vm/internal.h"
#include "vm/virtio.h"

static int check_target(const struct machine *m, uint64_t bytes, struct err *e)
{
    if (bytes <= mem_size(m->mem))
        return 0;
    return err_set(e, EINVAL, "a balloon of %lu MiB: the guest has %lu MiB of memory", bytes >> 20,
                   mem_size(m->mem) >> 20);
}

int vm_add_balloon(struct machine *m, struct err *e)
{
    const struct machine_balloon *b = &m->cfg.balloon;
    const struct virtio_balloon_cfg cfg = { .target = b->target,
                                            .deflate_on_oom = b->deflate_on_oom,
                                            .reporting = b->free_page_reporting,
                                            .stats_seconds = b->stats_seconds };
    struct virtio_env env;
    if (!b->on)
        return 0;
    int r = check_target(m, b->target, e);
    if (r == 0)
        r = vm_virtio_env(m, &env, e);
    if (r < 0)
        return r;
    m->balloon = virtio_balloon_new(&env, &cfg);
    return vm_add_virtio(m, m->balloon, e);
}

static int there(const struct machine *m, struct err *e)
{
    return m->balloon ? 0 : err_set(e, ENODEV, "the machine has no balloon; it must be started with --balloon");
}

int machine_balloon_set(struct machine *m, uint64_t bytes, struct err *e)
{
    int r = there(m, e);
    if (r == 0)
        r = check_target(m, bytes, e);
    return r < 0 ? r : virtio_balloon_set(m->balloon, bytes);
}

int machine_balloon_poll(struct machine *m, unsigned seconds, struct err *e)
{
    int r = there(m, e);
    if (r == 0 && virtio_balloon_poll(m->balloon, seconds) < 0)
        r = err_set(e, EINVAL, "statistics of the balloon cannot be switched on or off while the machine runs");
    return r;
}

int machine_balloon_get(struct machine *m, struct virtio_balloon_info *out, struct err *e)
{
    int r = there(m, e);
    if (r == 0)
        virtio_balloon_get(m->balloon, out);
    return r;
}

static void put(json_t *o, const char *key, uint64_t v)
{
    json_object_set_new(o, key, json_integer((json_int_t)v));
}

json_t *machine_balloon_json(struct machine *m)
{
    struct virtio_balloon_info i;
    if (machine_balloon_get(m, &i, NULL) < 0)
        return NULL;
    json_t *o = json_object(), *guest = json_object();
    put(o, "target_bytes", i.target);
    put(o, "actual_bytes", i.actual);
    put(o, "inflated_bytes", i.inflated);
    put(o, "deflated_bytes", i.deflated);
    put(o, "reported_bytes", i.reported);
    put(o, "given_back_bytes", i.given_back);
    put(o, "statistics_updates", i.stats_updates);
    for (unsigned k = 0; k < VIRTIO_BALLOON_STATS; k++)
        if (i.stats_known >> k & 1)
            put(guest, virtio_balloon_stat_name(k), i.stats[k]);
    json_object_set_new(o, "guest", guest);
    return o;
}
