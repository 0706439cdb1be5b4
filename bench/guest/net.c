/* SPDX-License-Identifier: MIT */
/*
 * Rows of a network: TCP to a server of the host, out, in, and a byte back and forth. BENCH_NET is ADDRESS:PORT of
 * "bench serve", which is this program run natively, whoever the client is.
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

/* What the client asks for: bytes it will send (a byte answers), bytes it wants, or bytes it wants one by one. */
struct order {
    char what; /* 'S', 'G', 'E' */
    char pad[7];
    uint64_t bytes;
};

static uint8_t buf[NET_CHUNK];

static void put(int fd, const void *p, size_t n)
{
    for (size_t done = 0; done < n;) {
        ssize_t k = send(fd, (const char *)p + done, n - done, MSG_NOSIGNAL);
        if (k <= 0)
            bench_die("network: send");
        done += (size_t)k;
    }
}

/* At most sizeof(buf) at once, until n are there. */
static void get(int fd, uint64_t n)
{
    while (n) {
        ssize_t k = recv(fd, buf, n < sizeof(buf) ? n : sizeof(buf), 0);
        if (k <= 0)
            bench_die("network: receive");
        n -= (uint64_t)k;
    }
}

/* ---- the host's side ---- */

static void serve_one(int fd)
{
    struct order o;
    const int on = 1;
    if (recv(fd, &o, sizeof(o), MSG_WAITALL) != sizeof(o))
        exit(0);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    if (o.what == 'S') {
        get(fd, o.bytes);
        put(fd, "", 1);
    } else if (o.what == 'G') {
        for (uint64_t n; o.bytes; o.bytes -= n) {
            n = o.bytes < sizeof(buf) ? o.bytes : sizeof(buf);
            put(fd, buf, n);
        }
    } else {
        for (; o.bytes; o.bytes--) {
            get(fd, 1);
            put(fd, buf, 1);
        }
    }
    while (recv(fd, buf, sizeof(buf), 0) > 0) /* until the client has closed */
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

/* ---- the rows ---- */

static int order(char what, uint64_t bytes)
{
    const char *at = getenv("BENCH_NET"), *colon = at ? strchr(at, ':') : NULL;
    const struct order o = { .what = what, .bytes = bytes };
    struct sockaddr_in a = { .sin_family = AF_INET };
    char host[32];
    const int on = 1;
    if (!colon || colon - at >= (long)sizeof(host))
        bench_die("network: BENCH_NET");
    snprintf(host, sizeof(host), "%.*s", (int)(colon - at), at);
    a.sin_addr.s_addr = inet_addr(host);
    a.sin_port = htons((uint16_t)atoi(colon + 1));
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0)
        bench_die("network: connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    put(fd, &o, sizeof(o));
    return fd;
}

uint64_t row_nettx(uint64_t n)
{
    int fd = order('S', n * NET_CHUNK);
    for (uint64_t i = 0; i < n; i++)
        put(fd, buf, NET_CHUNK);
    get(fd, 1);
    close(fd);
    return n;
}

uint64_t row_netrx(uint64_t n)
{
    int fd = order('G', n * NET_CHUNK);
    get(fd, n * NET_CHUNK);
    close(fd);
    return n;
}

uint64_t row_netrtt(uint64_t n)
{
    int fd = order('E', n);
    for (uint64_t i = 0; i < n; i++) {
        put(fd, buf, 1);
        get(fd, 1);
    }
    close(fd);
    return n;
}
