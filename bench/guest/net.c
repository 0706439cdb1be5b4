/* SPDX-License-Identifier: MIT */
/*
 * A row of a network that iperf3 does not have: over TCP a byte to a server of the host, and one back. BENCH_NET is
 * ADDRESS:PORT of "bench serve", which is this program run natively, whoever the client is.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "guest/rows.h"

static void without_delay(int fd)
{
    const int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

/* ---- the host's side ---- */

static void serve_one(int fd)
{
    char byte;
    without_delay(fd);
    while (recv(fd, &byte, 1, 0) == 1 && send(fd, &byte, 1, MSG_NOSIGNAL) == 1)
        ;
    exit(0);
}

int net_serve(void)
{
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t len = sizeof(a);
    int s = socket(AF_INET, SOCK_STREAM, 0);
    if (s < 0 || bind(s, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(s, 8) < 0 ||
        getsockname(s, (struct sockaddr *)&a, &len) < 0)
        bench_die("network: listen");
    signal(SIGCHLD, SIG_IGN);
    printf("port %u\n", ntohs(a.sin_port));
    fflush(stdout);
    for (;;) {
        int fd = accept(s, NULL, NULL);
        if (fd < 0)
            continue;
        if (fork() == 0)
            serve_one(fd);
        close(fd);
    }
}

/* ---- the row ---- */

static int connected(void)
{
    const char *at = getenv("BENCH_NET"), *colon = at ? strchr(at, ':') : NULL;
    struct sockaddr_in a = { .sin_family = AF_INET };
    char host[32];
    if (!colon || colon - at >= (long)sizeof(host))
        bench_die("network: BENCH_NET");
    snprintf(host, sizeof(host), "%.*s", (int)(colon - at), at);
    a.sin_addr.s_addr = inet_addr(host);
    a.sin_port = htons((uint16_t)atoi(colon + 1));
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0)
        bench_die("network: connect");
    without_delay(fd);
    return fd;
}

uint64_t row_netrtt(uint64_t n)
{
    int fd = connected();
    char byte = 0;
    for (uint64_t i = 0; i < n; i++)
        if (send(fd, &byte, 1, MSG_NOSIGNAL) != 1 || recv(fd, &byte, 1, 0) != 1)
            bench_die("network");
    close(fd);
    return n;
}
