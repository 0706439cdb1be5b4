/* SPDX-License-Identifier: MIT */
/*
 * The OVF descriptor. Elements and attributes are found by their local names: writers disagree about prefixes and
 * versions of the namespaces, never about names.
 */
#include "appliance/ovf.h"

#include <errno.h>
#include <libxml/parser.h>
#include <libxml/tree.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* CIM_ResourceAllocationSettingData, ResourceType. */
enum { RASD_CPU = 3, RASD_MEMORY = 4, RASD_ETHERNET = 10, RASD_DISK = 17 };

static bool is(const xmlNode *n, const char *name)
{
    return n->type == XML_ELEMENT_NODE && strcmp((const char *)n->name, name) == 0;
}

/* The next element of this name, in document order, below top; from: the one before, or top. */
static xmlNode *next(xmlNode *top, xmlNode *from, const char *name)
{
    xmlNode *n = from;
    for (;;) {
        if (n->type == XML_ELEMENT_NODE && n->children) {
            n = n->children;
        } else {
            while (n != top && !n->next)
                n = n->parent;
            if (n == top)
                return NULL;
            n = n->next;
        }
        if (is(n, name))
            return n;
    }
}

/* A copy of an attribute; "" if it is not there or does not fit. */
static void attribute(xmlNode *n, const char *name, char *out, size_t cap)
{
    xmlChar *v = xmlGetProp(n, (const xmlChar *)name);
    *out = '\0';
    if (v && strlen((char *)v) < cap)
        strcpy(out, (char *)v);
    xmlFree(v);
}

/* Likewise the text of a child element. */
static void child_text(xmlNode *n, const char *name, char *out, size_t cap)
{
    *out = '\0';
    for (xmlNode *c = n->children; c; c = c->next) {
        if (!is(c, name))
            continue;
        xmlChar *v = xmlNodeGetContent(c);
        const char *s = v ? (const char *)v : "";
        s += strspn(s, " \t\r\n");
        size_t len = strlen(s);
        while (len && strchr(" \t\r\n", s[len - 1]))
            len--;
        if (len < cap) {
            memcpy(out, s, len);
            out[len] = '\0';
        }
        xmlFree(v);
        return;
    }
}

/* A decimal number that is all of the text, or fail. */
static uint64_t number(const char *text, uint64_t fail)
{
    char *end;
    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    return errno || end == text || *end || text[0] < '0' || text[0] > '9' ? fail : v;
}

/* log2 of the unit of memory; writers use the old words and the formula of DSP0004. -1: neither. */
static int unit_shift(const char *unit)
{
    static const struct {
        const char *text;
        int shift;
    } known[] = { { "", 20 },          { "MegaBytes", 20 }, { "megabytes", 20 }, { "MB", 20 },
                  { "byte*2^20", 20 }, { "byte*2^10", 10 }, { "KiloBytes", 10 }, { "byte*2^30", 30 },
                  { "GigaBytes", 30 }, { "byte", 0 },       { "bytes", 0 } };
    char bare[32];
    size_t n = 0;
    for (; *unit && n < sizeof(bare) - 1; unit++)
        if (*unit != ' ')
            bare[n++] = *unit;
    bare[n] = '\0';
    for (size_t i = 0; i < ARRAY_LEN(known); i++)
        if (strcmp(known[i].text, bare) == 0)
            return known[i].shift;
    return -1;
}

/* The element of this name whose attribute `key` is `value`. */
static xmlNode *find(xmlNode *root, const char *name, const char *key, const char *value)
{
    char text[256];
    for (xmlNode *n = next(root, root, name); n; n = next(root, n, name)) {
        attribute(n, key, text, sizeof(text));
        if (*value && strcmp(text, value) == 0)
            return n;
    }
    return NULL;
}

/* A name that can be looked up in a folder and be shown, and means no other folder. */
static bool href_ok(const char *s)
{
    if (!*s || *s == '.')
        return false;
    for (; *s; s++)
        if (*s == '/' || *s == '\\' || (unsigned char)*s < ' ' || *s == 0x7f)
            return false;
    return true;
}

/* ---- the items of the hardware section ---- */

static int add_disk(struct ovf_machine *m, xmlNode *root, xmlNode *item, struct err *e)
{
    char host[256], ref[256], text[32];
    child_text(item, "HostResource", host, sizeof(host));
    const char *id = strncmp(host, "ovf:", 4) == 0 ? host + 4 : host;
    if (strncmp(id, "/disk/", 6) == 0) {
        xmlNode *disk = find(root, "Disk", "diskId", id + 6);
        if (!disk)
            return err_set(e, EINVAL, "OVF: a drive refers to disk \"%.80s\", which is not there", id + 6);
        attribute(disk, "fileRef", ref, sizeof(ref));
        if (!*ref)
            return err_set(e, EINVAL, "OVF: disk \"%.80s\" has no file: empty disks are not made", id + 6);
        attribute(disk, "parentRef", text, sizeof(text));
        if (*text)
            return err_set(e, EINVAL, "OVF: disk \"%.80s\" is based on another one", id + 6);
    } else if (strncmp(id, "/file/", 6) == 0) {
        strcpy(ref, id + 6);
    } else {
        return err_set(e, EINVAL, "OVF: a drive's HostResource is \"%.80s\"; it must be ovf:/disk/ID or ovf:/file/ID",
                       host);
    }
    xmlNode *file = find(root, "File", "id", ref);
    if (!file)
        return err_set(e, EINVAL, "OVF: file \"%.80s\" is not among the references", ref);
    if (m->n_disks == APPLIANCE_DISKS_MAX)
        return err_set(e, EINVAL, "OVF: more than %d disks", APPLIANCE_DISKS_MAX);
    struct ovf_disk *d = &m->disk[m->n_disks++];
    attribute(file, "href", d->href, sizeof(d->href));
    if (!href_ok(d->href))
        return err_set(e, EINVAL, "OVF: file \"%.80s\" is no plain file name: \"%.80s\"", ref, d->href);
    for (unsigned i = 0; i + 1 < m->n_disks; i++)
        if (strcmp(m->disk[i].href, d->href) == 0)
            return err_set(e, EINVAL, "OVF: file \"%.80s\" is the disk of two drives", d->href);
    attribute(file, "compression", text, sizeof(text));
    if (*text && strcmp(text, "identity") != 0)
        return err_set(e, EINVAL, "OVF: file \"%.80s\" is compressed (%s): unpack it first", d->href, text);
    attribute(file, "size", text, sizeof(text));
    d->size = number(text, 0);
    return 0;
}

static int add_item(struct ovf_machine *m, xmlNode *root, xmlNode *item, struct err *e)
{
    char type[16], quantity[32], units[64];
    int shift;
    child_text(item, "ResourceType", type, sizeof(type));
    child_text(item, "VirtualQuantity", quantity, sizeof(quantity));
    child_text(item, "AllocationUnits", units, sizeof(units));
    uint64_t n = number(quantity, UINT64_MAX);
    switch (number(type, 0)) {
    case RASD_CPU:
        if (n < 1 || n > 32)
            return err_set(e, EINVAL, "OVF: %s CPUs; 1 to 32 are possible", quantity);
        m->cpus = (unsigned)n;
        return 0;
    case RASD_MEMORY:
        shift = unit_shift(units);
        if (shift < 0)
            return err_set(e, EINVAL, "OVF: memory is counted in \"%s\"; it must be \"byte * 2^20\" or its like",
                           units);
        if (n == 0 || n > (1UL << 42) >> shift || (n << shift) % PAGE_SIZE || n << shift < 4UL << 20)
            return err_set(e, EINVAL, "OVF: %s (%s) is no size of memory", quantity, units);
        m->mem = n << shift;
        return 0;
    case RASD_ETHERNET:
        m->nets += m->nets < APPLIANCE_NETS_MAX;
        return 0;
    case RASD_DISK:
        return add_disk(m, root, item, e);
    default:
        return 0; /* controllers, floppies, sound: the machine has its own */
    }
}

static void take_name(struct ovf_machine *m, xmlNode *system)
{
    char name[APPLIANCE_NAME_MAX + 1];
    child_text(system, "Name", name, sizeof(name));
    if (!*name)
        attribute(system, "id", name, sizeof(name));
    for (char *s = name; *s; s++) {
        char one[2] = { *s == '.' || *s == '_' || *s == '-' || *s == '+' ? 'x' : *s, 0 };
        if (!appliance_name_ok(one))
            *s = '-';
    }
    strcpy(m->name, appliance_name_ok(name) ? name : "imported");
}

static int parse_tree(struct ovf_machine *m, xmlNode *root, struct err *e)
{
    *m = (struct ovf_machine){ .cpus = 1, .mem = 512UL << 20 };
    if (!is(root, "Envelope"))
        return err_set(e, EINVAL, "OVF: the text is no OVF descriptor: its root must be Envelope");
    xmlNode *system = next(root, root, "VirtualSystem");
    if (!system)
        return err_set(e, EINVAL, "OVF: it has no VirtualSystem");
    if (next(root, system, "VirtualSystem"))
        return err_set(e, EINVAL, "OVF: it has several machines; one is possible");
    take_name(m, system);
    int r = 0;
    /* Items of later versions have names of their own for what they describe. */
    static const char *const kinds[] = { "Item", "StorageItem", "EthernetPortItem" };
    for (size_t k = 0; k < ARRAY_LEN(kinds); k++)
        for (xmlNode *n = next(system, system, kinds[k]); n && r == 0; n = next(system, n, kinds[k]))
            r = add_item(m, root, n, e);
    if (r == 0 && m->n_disks == 0)
        r = err_set(e, EINVAL, "OVF: the machine has no disk");
    return r;
}

int ovf_parse(struct ovf_machine *m, const char *text, size_t len, struct err *e)
{
    if (len > OVF_TEXT_MAX)
        return err_set(e, EINVAL, "OVF: the descriptor is longer than %d bytes", OVF_TEXT_MAX);
    struct ovf_machine *n = malloc(sizeof(*n));
    /* Neither NOENT nor DTDLOAD: entities are not replaced, nothing is fetched. */
    xmlDoc *doc =
        n ? xmlReadMemory(text, (int)len, NULL, NULL, XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING) : NULL;
    int r;
    if (!doc)
        r = err_set(e, EINVAL, "OVF: the descriptor is no XML");
    else if (xmlGetIntSubset(doc))
        r = err_set(e, EINVAL, "OVF: the descriptor has a DOCTYPE, which OVF does not know");
    else
        r = parse_tree(n, xmlDocGetRootElement(doc), e);
    if (r == 0)
        *m = *n;
    xmlFreeDoc(doc);
    free(n);
    return r;
}
