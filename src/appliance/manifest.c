/* SPDX-License-Identifier: MIT */
/*
 * manifest.json of an appliance. A key that this version does not know is an error, not something to skip: whoever
 * wrote it meant something by it. New keys come with a new version.
 */
#include "appliance/manifest.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CPUS_MAX = 32 };
#define MEM_MIN (4UL << 20)
#define MEM_MAX (1UL << 42)
#define FILE_SIZE_MAX (1UL << 46)

bool appliance_name_ok(const char *name)
{
    static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-+";
    size_t len = strlen(name);
    return len >= 1 && len <= APPLIANCE_NAME_MAX && strspn(name, plain) == len && !strchr("._-+", name[0]);
}

/* ---- values of an object ---- */

/* An object, where it is, and the keys that it may have, ended by NULL. */
struct object {
    const json_t *json;
    const char *where;
};

static int open_object(struct object *o, const json_t *json, const char *where, const char *const *keys, struct err *e)
{
    const char *key;
    json_t *value;
    if (!json_is_object(json))
        return err_set(e, EINVAL, "manifest: %s must be an object", where);
    json_object_foreach((json_t *)json, key, value)
    {
        unsigned i = 0;
        while (keys[i] && strcmp(keys[i], key) != 0)
            i++;
        if (!keys[i])
            return err_set(e, EINVAL, "manifest: %s has the key \"%.40s\", which version %d does not know", where, key,
                           APPLIANCE_VERSION);
    }
    *o = (struct object){ json, where };
    return 0;
}

/* A text of printable characters that fits into out; when the key is not there, out becomes empty. */
static int get_text(const struct object *o, const char *key, char *out, size_t cap, struct err *e)
{
    const json_t *v = json_object_get(o->json, key);
    const char *s = json_string_value(v);
    *out = '\0';
    if (!v || json_is_null(v))
        return 0;
    if (!s || json_string_length(v) >= cap)
        return err_set(e, EINVAL, "manifest: %s: \"%s\" must be a text of less than %zu bytes", o->where, key, cap);
    for (size_t i = 0; i < json_string_length(v); i++)
        if ((unsigned char)s[i] < ' ' || s[i] == 0x7f)
            return err_set(e, EINVAL, "manifest: %s: \"%s\" has control characters", o->where, key);
    memcpy(out, s, json_string_length(v) + 1);
    return 0;
}

static int get_name(const struct object *o, const char *key, char *out, struct err *e)
{
    int r = get_text(o, key, out, APPLIANCE_NAME_MAX + 1, e);
    if (r == 0 && *out && !appliance_name_ok(out))
        return err_set(e, EINVAL, "manifest: %s: \"%s\" is \"%s\"; it must be a plain name: letters, digits, . _ - +",
                       o->where, key, out);
    return r;
}

static int get_number(const struct object *o, const char *key, const uint64_t range[2], uint64_t *out, struct err *e)
{
    const json_t *v = json_object_get(o->json, key);
    json_int_t n = json_integer_value(v);
    if (!json_is_integer(v) || n < 0 || (uint64_t)n < range[0] || (uint64_t)n > range[1])
        return err_set(e, EINVAL, "manifest: %s: \"%s\" must be a number from %lu to %lu", o->where, key, range[0],
                       range[1]);
    *out = (uint64_t)n;
    return 0;
}

static int get_bool(const struct object *o, const char *key, bool *out, struct err *e)
{
    const json_t *v = json_object_get(o->json, key);
    if (v && !json_is_boolean(v))
        return err_set(e, EINVAL, "manifest: %s: \"%s\" must be true or false", o->where, key);
    *out = json_is_true(v);
    return 0;
}

/* The array of this key, which may be missing. */
static int get_array(const struct object *o, const char *key, size_t max, const json_t **out, struct err *e)
{
    *out = json_object_get(o->json, key);
    if (*out && (!json_is_array(*out) || json_array_size(*out) > max))
        return err_set(e, EINVAL, "manifest: %s: \"%s\" must be a list of at most %zu", o->where, key, max);
    return 0;
}

/* ---- the parts ---- */

static int hex(const char *text, uint8_t *out, size_t n)
{
    static const char digits[] = "0123456789abcdef";
    if (strlen(text) != 2 * n)
        return -EINVAL;
    for (size_t i = 0; i < n; i++) {
        const char *hi = strchr(digits, text[2 * i]), *lo = strchr(digits, text[2 * i + 1]);
        if (!hi || !lo)
            return -EINVAL;
        out[i] = (uint8_t)((hi - digits) << 4 | (lo - digits));
    }
    return 0;
}

static int parse_file(struct appliance_manifest *m, const json_t *json, struct err *e)
{
    static const char *const keys[] = { "name", "size", "sha256", NULL };
    static const uint64_t range[2] = { 0, FILE_SIZE_MAX };
    struct object o;
    char name[APPLIANCE_NAME_MAX + 1], sha[2 * APPLIANCE_SHA256_LEN + 1];
    uint64_t size;
    int r = open_object(&o, json, "a file", keys, e);
    r = r ? r : get_name(&o, "name", name, e);
    r = r ? r : get_number(&o, "size", range, &size, e);
    r = r ? r : get_text(&o, "sha256", sha, sizeof(sha), e);
    if (r)
        return r;
    if (!*name)
        return err_set(e, EINVAL, "manifest: a file has no name");
    struct appliance_file *f = appliance_manifest_add(m, name);
    if (!f)
        return err_set(e, EINVAL, "manifest: file \"%s\" is listed twice", name);
    f->size = size;
    if (hex(sha, f->sha256, sizeof(f->sha256)) < 0)
        return err_set(e, EINVAL, "manifest: file \"%s\": \"sha256\" must be 64 digits 0-9a-f", name);
    return 0;
}

static int parse_disk(struct appliance_manifest *m, const json_t *json, struct err *e)
{
    static const char *const keys[] = { "file", "readonly", NULL };
    struct appliance_disk *d = &m->disk[m->n_disks++];
    struct object o;
    int r = open_object(&o, json, "a disk", keys, e);
    r = r ? r : get_name(&o, "file", d->file, e);
    return r ? r : get_bool(&o, "readonly", &d->read_only, e);
}

static int parse_port(struct appliance_net *n, const json_t *json, struct err *e)
{
    static const char *const keys[] = { "protocol", "host", "guest", NULL };
    static const uint64_t range[2] = { 1, 65535 };
    struct appliance_port *p = &n->port[n->n_ports++];
    struct object o;
    char protocol[8];
    uint64_t host = 0, guest = 0;
    int r = open_object(&o, json, "a port", keys, e);
    r = r ? r : get_text(&o, "protocol", protocol, sizeof(protocol), e);
    r = r ? r : get_number(&o, "host", range, &host, e);
    r = r ? r : get_number(&o, "guest", range, &guest, e);
    if (r)
        return r;
    if (strcmp(protocol, "tcp") != 0 && strcmp(protocol, "udp") != 0)
        return err_set(e, EINVAL, "manifest: a port's \"protocol\" must be tcp or udp");
    *p = (struct appliance_port){ protocol[0] == 'u', (uint16_t)host, (uint16_t)guest };
    return 0;
}

static int parse_net(struct appliance_manifest *m, const json_t *json, struct err *e)
{
    static const char *const keys[] = { "type", "ports", NULL };
    struct appliance_net *n = &m->net[m->n_nets++];
    struct object o;
    char type[16];
    const json_t *ports = NULL, *v;
    size_t i;
    int r = open_object(&o, json, "a network", keys, e);
    r = r ? r : get_text(&o, "type", type, sizeof(type), e);
    r = r ? r : get_array(&o, "ports", APPLIANCE_PORTS_MAX, &ports, e);
    if (r == 0 && strcmp(type, "user") != 0)
        return err_set(e, EINVAL, "manifest: a network's \"type\" must be user");
    json_array_foreach(ports, i, v) if (r == 0) r = parse_port(n, v, e);
    return r;
}

typedef int (*parse_fn)(struct appliance_manifest *m, const json_t *json, struct err *e);

static int parse_list(struct appliance_manifest *m, const struct object *o, const char *key, parse_fn fn, struct err *e)
{
    size_t max = fn == parse_file ? APPLIANCE_FILES_MAX : fn == parse_disk ? APPLIANCE_DISKS_MAX : APPLIANCE_NETS_MAX;
    const json_t *list, *v;
    size_t i;
    int r = get_array(o, key, max, &list, e);
    json_array_foreach(list, i, v) if (r == 0) r = fn(m, v, e);
    return r;
}

/* Every file that is used is listed, and every file that is listed is used, by one. */
static int check_files(struct appliance_manifest *m, struct err *e)
{
    const char *used[APPLIANCE_FILES_MAX];
    unsigned n = 0;
    if (*m->initrd && !*m->kernel)
        return err_set(e, EINVAL, "manifest: an initrd without a kernel");
    if (*m->kernel)
        used[n++] = m->kernel;
    if (*m->initrd)
        used[n++] = m->initrd;
    for (unsigned i = 0; i < m->n_disks; i++)
        used[n++] = m->disk[i].file;
    for (unsigned i = 0; i < n; i++) {
        if (!appliance_manifest_file(m, used[i]))
            return err_set(e, EINVAL, "manifest: file \"%s\" is used but not listed in \"files\"", used[i]);
        for (unsigned j = 0; j < i; j++)
            if (strcmp(used[i], used[j]) == 0)
                return err_set(e, EINVAL, "manifest: file \"%s\" is used twice", used[i]);
    }
    if (n != m->n_files)
        return err_set(e, EINVAL, "manifest: %u files are listed, %u are used", m->n_files, n);
    return 0;
}

static int parse_root(struct appliance_manifest *m, const json_t *json, struct err *e)
{
    static const char *const keys[] = { "format", "version", "name",  "description", "cpus",  "mem", "kernel",
                                        "initrd", "cmdline", "disks", "networks",    "files", NULL };
    static const uint64_t cpus[2] = { 1, CPUS_MAX }, mem[2] = { MEM_MIN, MEM_MAX };
    static const uint64_t version[2] = { APPLIANCE_VERSION, APPLIANCE_VERSION };
    struct object o = { json, "the top" };
    char format[32];
    uint64_t n_cpus = 0, v;
    /* First what says whether the rest can be understood. */
    int r = get_text(&o, "format", format, sizeof(format), e);
    if (r == 0 && strcmp(format, "gazda-appliance") != 0)
        return err_set(e, EINVAL, "manifest: \"format\" must be gazda-appliance");
    r = r ? r : get_number(&o, "version", version, &v, e);
    r = r ? r : open_object(&o, json, "the top", keys, e);
    r = r ? r : get_name(&o, "name", m->name, e);
    r = r ? r : get_text(&o, "description", m->description, sizeof(m->description), e);
    r = r ? r : get_number(&o, "cpus", cpus, &n_cpus, e);
    r = r ? r : get_number(&o, "mem", mem, &m->mem, e);
    r = r ? r : get_name(&o, "kernel", m->kernel, e);
    r = r ? r : get_name(&o, "initrd", m->initrd, e);
    r = r ? r : get_text(&o, "cmdline", m->cmdline, sizeof(m->cmdline), e);
    r = r ? r : parse_list(m, &o, "files", parse_file, e);
    r = r ? r : parse_list(m, &o, "disks", parse_disk, e);
    r = r ? r : parse_list(m, &o, "networks", parse_net, e);
    m->cpus = (unsigned)n_cpus;
    if (r == 0 && !*m->name)
        return err_set(e, EINVAL, "manifest: it has no \"name\"");
    if (r == 0 && m->mem % PAGE_SIZE)
        return err_set(e, EINVAL, "manifest: \"mem\" must be a multiple of 4096");
    return r ? r : check_files(m, e);
}

int appliance_manifest_parse(struct appliance_manifest *m, const char *text, size_t len, struct err *e)
{
    json_error_t je;
    if (len > APPLIANCE_MANIFEST_MAX)
        return err_set(e, EINVAL, "manifest: it is longer than %d bytes", APPLIANCE_MANIFEST_MAX);
    json_t *json = json_loadb(text, len, JSON_REJECT_DUPLICATES, &je);
    struct appliance_manifest *n = json ? calloc(1, sizeof(*n)) : NULL;
    if (!n) {
        json_decref(json);
        return err_set(e, EINVAL, "manifest: it is no JSON: line %d: %.100s", je.line,
                       json ? "out of memory" : je.text);
    }
    int r = json_is_object(json) ? parse_root(n, json, e) : err_set(e, EINVAL, "manifest: it must be an object");
    if (r == 0)
        *m = *n;
    free(n);
    json_decref(json);
    return r;
}

/* ---- printing ---- */

static void hex_of(const uint8_t *in, char out[2 * APPLIANCE_SHA256_LEN + 1])
{
    for (unsigned i = 0; i < APPLIANCE_SHA256_LEN; i++)
        snprintf(out + 2 * i, 3, "%02x", in[i]);
}

static json_t *print_lists(const struct appliance_manifest *m, json_t *root)
{
    json_t *disks = json_array(), *nets = json_array(), *files = json_array();
    for (unsigned i = 0; i < m->n_disks; i++)
        json_array_append_new(disks,
                              json_pack("{s:s, s:b}", "file", m->disk[i].file, "readonly", m->disk[i].read_only));
    for (unsigned i = 0; i < m->n_nets; i++) {
        json_t *ports = json_array();
        for (unsigned j = 0; j < m->net[i].n_ports; j++) {
            const struct appliance_port *p = &m->net[i].port[j];
            json_array_append_new(ports, json_pack("{s:s, s:i, s:i}", "protocol", p->udp ? "udp" : "tcp", "host",
                                                   (int)p->host, "guest", (int)p->guest));
        }
        json_array_append_new(nets, json_pack("{s:s, s:o}", "type", "user", "ports", ports));
    }
    for (unsigned i = 0; i < m->n_files; i++) {
        const struct appliance_file *f = &m->file[i];
        char sha[2 * APPLIANCE_SHA256_LEN + 1];
        hex_of(f->sha256, sha);
        json_array_append_new(
            files, json_pack("{s:s, s:I, s:s}", "name", f->name, "size", (json_int_t)f->size, "sha256", sha));
    }
    json_object_set_new(root, "disks", disks);
    json_object_set_new(root, "networks", nets);
    json_object_set_new(root, "files", files);
    return root;
}

char *appliance_manifest_print(const struct appliance_manifest *m)
{
    json_t *root =
        json_pack("{s:s, s:i, s:s, s:s, s:i, s:I}", "format", "gazda-appliance", "version", APPLIANCE_VERSION, "name",
                  m->name, "description", m->description, "cpus", (int)m->cpus, "mem", (json_int_t)m->mem);
    if (!root)
        return NULL;
    if (*m->kernel)
        json_object_set_new(root, "kernel", json_string(m->kernel));
    if (*m->initrd)
        json_object_set_new(root, "initrd", json_string(m->initrd));
    if (*m->cmdline)
        json_object_set_new(root, "cmdline", json_string(m->cmdline));
    char *text = json_dumps(print_lists(m, root), JSON_INDENT(2)), *out = NULL;
    json_decref(root);
    if (text && asprintf(&out, "%s\n", text) < 0)
        out = NULL;
    free(text);
    return out;
}

struct appliance_file *appliance_manifest_file(struct appliance_manifest *m, const char *name)
{
    for (unsigned i = 0; i < m->n_files; i++)
        if (strcmp(m->file[i].name, name) == 0)
            return &m->file[i];
    return NULL;
}

struct appliance_file *appliance_manifest_add(struct appliance_manifest *m, const char *name)
{
    if (m->n_files == APPLIANCE_FILES_MAX || appliance_manifest_file(m, name) || strlen(name) > APPLIANCE_NAME_MAX)
        return NULL;
    struct appliance_file *f = &m->file[m->n_files++];
    strcpy(f->name, name);
    return f;
}
