/* SPDX-License-Identifier: MIT */
/* The options of --net user. For the files net_user*.c only. */
#ifndef GAZDA_HOST_NET_USER_H
#define GAZDA_HOST_NET_USER_H

#include <arpa/inet.h>
#include <errno.h>

#include "host/net_thread.h"

enum { FORWARDS_MAX = 64 };

struct net_user_cfg {
    struct in_addr net, mask, host, dhcp, dns;
    const char *hostname, *domain;
    bool restricted, no_ipv6;
    unsigned n_fwd;
    struct net_user_fwd {
        bool udp;
        struct in_addr host, guest; /* guest 0: the first address that DHCP gives */
        uint16_t host_port, guest_port;
    } fwd[FORWARDS_MAX];
};

struct Slirp;

/* 0 or -EINVAL with e set. Strings point into options. */
int net_user_parse(char *options, struct net_user_cfg *c, struct err *e);
/* Opens the ports. 0 or -errno with e set. */
int net_user_forward(struct Slirp *s, const struct net_user_cfg *c, struct err *e);

#endif
