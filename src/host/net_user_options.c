/* SPDX-License-Identifier: MIT */
/* The options of --net user: addresses and forwarded ports. */
#include <slirp/libslirp.h>
#include <stdlib.h>
#include <string.h>

#include "host/net_user.h"

static int address(const char *key, const char *value, struct in_addr *out, struct err *e)
{
    if (value && inet_pton(AF_INET, value, out) == 1)
        return 0;
    return err_set(e, EINVAL, "--net user,%s: \"%s\" is not an IPv4 address, such as 10.0.2.2", key,
                   value ? value : "");
}

static int on_off(const char *key, const char *value, bool *out, struct err *e)
{
    if (!value || strcmp(value, "on") == 0)
        *out = true;
    else if (strcmp(value, "off") == 0)
        *out = false;
    else
        return err_set(e, EINVAL, "--net user,%s: \"%s\" is neither on nor off", key, value);
    return 0;
}

/* A.B.C.D/N: a network with room for the addresses that libslirp gives out. */
static int network(char *value, struct net_user_cfg *c, struct err *e)
{
    char *slash = value ? strchr(value, '/') : NULL, *end = NULL;
    unsigned long bits = slash ? strtoul(slash + 1, &end, 10) : 0;
    if (slash)
        *slash = '\0';
    if (!slash || end == slash + 1 || *end || bits < 8 || bits > 27 || inet_pton(AF_INET, value, &c->net) != 1) {
        if (slash)
            *slash = '/';
        return err_set(e, EINVAL, "--net user,net: \"%s\" is not a network from /8 to /27, such as 10.0.2.0/24",
                       value ? value : "");
    }
    c->mask.s_addr = htonl((uint32_t)(0xffffffffUL << (32 - bits)));
    c->net.s_addr &= c->mask.s_addr;
    return 0;
}

/* [ADDR]:PORT, cut in place. */
static bool endpoint(char *text, struct in_addr *addr, uint16_t *port)
{
    char *colon = strrchr(text, ':'), *end;
    if (!colon)
        return false;
    *colon = '\0';
    unsigned long p = strtoul(colon + 1, &end, 10);
    if (end == colon + 1 || *end || colon[1] < '0' || colon[1] > '9' || p < 1 || p > 65535)
        return false;
    *port = (uint16_t)p;
    return !*text || inet_pton(AF_INET, text, addr) == 1;
}

static int forward(char *value, struct net_user_cfg *c, struct err *e)
{
    char copy[128];
    struct net_user_fwd *f = &c->fwd[c->n_fwd];
    if (c->n_fwd == FORWARDS_MAX)
        return err_set(e, EINVAL, "--net user,hostfwd: more than %d forwarded ports", FORWARDS_MAX);
    *f = (struct net_user_fwd){ .host.s_addr = htonl(INADDR_LOOPBACK) };
    if (value && strlen(value) < sizeof(copy)) {
        strcpy(copy, value);
        char *dash = strchr(copy, '-');
        f->udp = strncmp(copy, "udp:", 4) == 0;
        if (dash && (f->udp || strncmp(copy, "tcp:", 4) == 0)) {
            *dash = '\0';
            if (endpoint(copy + 4, &f->host, &f->host_port) && endpoint(dash + 1, &f->guest, &f->guest_port)) {
                c->n_fwd++;
                return 0;
            }
        }
    }
    return err_set(e, EINVAL,
                   "--net user,hostfwd: \"%.100s\" is not {tcp|udp}:[ADDR]:PORT-[ADDR]:PORT, such as "
                   "tcp:127.0.0.1:2222-:22",
                   value ? value : "");
}

static int option(char *key, char *value, struct net_user_cfg *c, struct err *e)
{
    if (strcmp(key, "net") == 0)
        return network(value, c, e);
    if (strcmp(key, "host") == 0)
        return address(key, value, &c->host, e);
    if (strcmp(key, "dns") == 0)
        return address(key, value, &c->dns, e);
    if (strcmp(key, "dhcp") == 0)
        return address(key, value, &c->dhcp, e);
    if (strcmp(key, "hostfwd") == 0)
        return forward(value, c, e);
    if (strcmp(key, "restrict") == 0)
        return on_off(key, value, &c->restricted, e);
    if (strcmp(key, "ipv6") == 0) {
        bool on = true;
        int r = on_off(key, value, &on, e);
        c->no_ipv6 = !on;
        return r;
    }
    if (strcmp(key, "hostname") == 0 && value) {
        c->hostname = value;
        return 0;
    }
    if (strcmp(key, "domain") == 0 && value) {
        c->domain = value;
        return 0;
    }
    return err_set(e, EINVAL,
                   "--net user: unknown option \"%s\"; it takes hostfwd, net, host, dns, dhcp, hostname, domain, "
                   "restrict, ipv6, mac, mtu, dump and limits",
                   key);
}

/* Those that were not named, at their usual places, and all of them inside of the network. */
static int complete(struct net_user_cfg *c, struct err *e)
{
    struct {
        const char *key;
        struct in_addr *addr;
        uint32_t usual;
    } a[] = { { "host", &c->host, 2 }, { "dns", &c->dns, 3 }, { "dhcp", &c->dhcp, 15 } };
    for (unsigned i = 0; i < ARRAY_LEN(a); i++) {
        if (!a[i].addr->s_addr)
            a[i].addr->s_addr = c->net.s_addr | htonl(a[i].usual);
        if ((a[i].addr->s_addr & c->mask.s_addr) != c->net.s_addr) {
            char text[2][INET_ADDRSTRLEN];
            return err_set(e, EINVAL, "--net user,%s: %s lies outside of the network %s", a[i].key,
                           inet_ntop(AF_INET, a[i].addr, text[0], sizeof(text[0])),
                           inet_ntop(AF_INET, &c->net, text[1], sizeof(text[1])));
        }
    }
    return c->host.s_addr != c->dns.s_addr ? 0 : err_set(e, EINVAL, "--net user: host and dns must differ");
}

int net_user_parse(char *options, struct net_user_cfg *c, struct err *e)
{
    char *key, *value;
    *c = (struct net_user_cfg){ .net.s_addr = htonl(0x0a000200), .mask.s_addr = htonl(0xffffff00) };
    while (net_next_option(&options, &key, &value)) {
        int r = option(key, value, c, e);
        if (r < 0)
            return r;
    }
    return complete(c, e);
}

static int explain(const struct net_user_fwd *f, int code, struct err *e)
{
    char addr[INET_ADDRSTRLEN];
    const char *proto = f->udp ? "UDP" : "TCP";
    inet_ntop(AF_INET, &f->host, addr, sizeof(addr));
    switch (code) {
    case EADDRINUSE:
        return err_set(e, code, "--net user,hostfwd: %s port %u of %s is in use by another process; choose another",
                       proto, f->host_port, addr);
    case EACCES:
        return err_set(e, code,
                       "--net user,hostfwd: an ordinary user may not listen on port %u; choose one from 1024 up",
                       f->host_port);
    case EADDRNOTAVAIL:
        return err_set(e, code, "--net user,hostfwd: this host has no address %s; 127.0.0.1 and 0.0.0.0 always exist",
                       addr);
    default:
        return err_set(e, code ? code : EIO, "--net user,hostfwd: cannot listen on %s port %u of %s: %s", proto,
                       f->host_port, addr, strerror(code));
    }
}

int net_user_forward(struct Slirp *s, const struct net_user_cfg *c, struct err *e)
{
    for (unsigned i = 0; i < c->n_fwd; i++) {
        const struct net_user_fwd *f = &c->fwd[i];
        errno = 0;
        if (slirp_add_hostfwd(s, f->udp, f->host, f->host_port, f->guest, f->guest_port) < 0)
            return explain(f, errno, e);
    }
    return 0;
}
