/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cli/options.h"
#include "virtio/devices.h"

#define TEXT_USE "it must be DIR:TAG with ,ro, ,map=root or ,map=none behind it"

/* "ro", "map=root" and so on; takes them off the end, so that a directory's name may have commas. 0 or -errno. */
static int take_words(struct machine_share *s, const char *option, char *arg, struct err *e)
{
    for (char *comma; (comma = strrchr(arg, ',')) != NULL; *comma = '\0') {
        if (strcmp(comma, ",ro") == 0 || strcmp(comma, ",rw") == 0)
            s->read_only = comma[2] == 'o';
        else if (strcmp(comma, ",map=root") == 0 || strcmp(comma, ",map=none") == 0)
            s->map_root = comma[5] == 'r';
        else if (strncmp(comma, ",map=", 5) == 0)
            return err_set(e, EINVAL, "%s: \"%s\": map is root or none", option, comma + 1);
        else
            break;
    }
    return 0;
}

static int add(struct run_options *o, const struct machine_share *s, const char *option, struct err *e)
{
    if (!*s->dir)
        return err_set(e, EINVAL, "%s: the directory's name is empty", option);
    for (unsigned i = 0; i < o->mc.n_shares; i++)
        if (strcmp(o->mc.share[i].tag, s->tag) == 0)
            return err_set(e, EINVAL, "%s: the tag \"%s\" is used twice", option, s->tag);
    if (o->mc.n_shares == MACHINE_SHARES_MAX)
        return err_set(e, EINVAL, "%s: more than %d shared directories", option, MACHINE_SHARES_MAX);
    o->mc.share[o->mc.n_shares++] = *s;
    return 0;
}

/* DIR:TAG[,ro][,map=root|none] */
int opt_share(struct run_options *o, char *arg, struct err *e)
{
    struct machine_share s = { .dir = arg };
    int r = take_words(&s, "--share", arg, e);
    if (r < 0)
        return r;
    char *colon = strrchr(arg, ':');
    if (!colon || strchr(colon, '/'))
        return err_set(e, EINVAL, "--share: \"%s\" has no tag; " TEXT_USE, arg);
    *colon = '\0';
    s.tag = colon + 1;
    size_t n = strlen(s.tag);
    if (n == 0 || n > VIRTIO_9P_TAG_MAX || strchr(s.tag, ','))
        return err_set(e, EINVAL, "--share: the tag \"%s\" must be 1 to %d bytes without a comma; " TEXT_USE, s.tag,
                       VIRTIO_9P_TAG_MAX);
    return add(o, &s, "--share", e);
}

/* DIR[,ro][,cache=KIND][,map=root|none]: the appliance's init makes it the root. */
int opt_root(struct run_options *o, char *arg, struct err *e)
{
    static const char *const caches[] = { ",cache=loose", ",cache=mmap", ",cache=none" };
    struct machine_share s = { .dir = arg, .tag = "root", .map_root = true };
    const char *cache = "";
    int r = take_words(&s, "--root", arg, e);
    char *comma = r < 0 ? NULL : strrchr(arg, ',');
    for (unsigned i = 0; comma && i < ARRAY_LEN(caches); i++)
        if (strcmp(comma, caches[i]) == 0) {
            cache = caches[i];
            *comma = '\0';
            r = take_words(&s, "--root", arg, e);
            break;
        }
    if (r < 0)
        return r;
    snprintf(o->root_arg, sizeof(o->root_arg), "gazda.root=9p%s%s", s.read_only ? ",ro" : "", cache);
    o->boot.extra = o->root_arg;
    return add(o, &s, "--root", e);
}
