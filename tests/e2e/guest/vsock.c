/* SPDX-License-Identifier: MIT */
/*
 * The guest's end of the vsock tests.
 *
 *   vsock echo PORT            serves for ever: gives back what comes, until the end of it
 *   vsock sum PORT             serves for ever: answers "BYTES CRC" at the end of what comes
 *   vsock source PORT BYTES    serves for ever: sends so much, then "BYTES CRC" of it is what a reader must find
 *   vsock hold PORT            serves for ever: accepts, and reads nothing
 *   vsock send PORT BYTES      to the host: sends, ends its half, prints what it sent and what comes back
 *   vsock recv PORT            from the host: prints "BYTES CRC"
 *   vsock many PORT N          N connections to the host at once, each sends a line and expects it back
 *   vsock try CID PORT         prints "connected" or the error
 */
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

enum { CHUNK = 1 << 16 };

static uint32_t table[256], crc = ~0U;
static unsigned long total;
static uint8_t buf[CHUNK];

static void count(const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        crc = table[(crc ^ p[i]) & 255] ^ crc >> 8;
    total += n;
}

static int result(char *line)
{
    return sprintf(line, "%lu %08x\n", total, ~crc);
}

static void die(const char *what)
{
    printf("%s: %s\n", what, strerror(errno));
    exit(1);
}

static void put(int fd, const void *p, size_t n)
{
    for (size_t k = 0; k < n;) {
        ssize_t r = write(fd, (const char *)p + k, n - k);
        if (r <= 0)
            die("write");
        k += (size_t)r;
    }
}

static void fill(unsigned long at)
{
    uint64_t x = at + 88172645463325252UL;
    for (size_t i = 0; i < CHUNK; i += 8) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        memcpy(buf + i, &x, 8);
    }
}

static void send_bytes(int fd, unsigned long n)
{
    while (total < n) {
        size_t k = n - total < CHUNK ? n - total : CHUNK;
        fill(total);
        put(fd, buf, k);
        count(buf, k);
    }
}

static void drain(int fd, int echo)
{
    ssize_t r;
    while ((r = read(fd, buf, CHUNK)) > 0) {
        if (echo)
            put(fd, buf, (size_t)r);
        else
            count(buf, (size_t)r);
    }
    if (r < 0)
        die("read");
}

static int dial(unsigned cid, unsigned port)
{
    struct sockaddr_vm a = { .svm_family = AF_VSOCK, .svm_cid = cid, .svm_port = port };
    int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
    if (fd < 0)
        die("socket");
    if (connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0)
        die("connect");
    return fd;
}

static void serve_one(int fd, const char *what, unsigned long n)
{
    char line[64];
    if (strcmp(what, "echo") == 0)
        drain(fd, 1);
    else if (strcmp(what, "source") == 0)
        send_bytes(fd, n);
    else if (strcmp(what, "hold") == 0)
        pause();
    else {
        drain(fd, 0);
        put(fd, line, (size_t)result(line));
    }
}

static void serve(const char *what, unsigned port, unsigned long n)
{
    struct sockaddr_vm a = { .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = port };
    int l = socket(AF_VSOCK, SOCK_STREAM, 0);
    if (l < 0 || bind(l, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(l, 256) < 0)
        die("listen");
    signal(SIGCHLD, SIG_IGN);
    printf("serving %u\n", port);
    fflush(stdout);
    for (;;) {
        int fd = accept(l, NULL, NULL);
        if (fd < 0)
            die("accept");
        if (fork() == 0) {
            close(l);
            serve_one(fd, what, n);
            exit(0);
        }
        close(fd);
    }
}

static void many(unsigned port, unsigned n)
{
    static int fd[1024];
    char line[64], got[64];
    for (unsigned i = 0; i < n; i++)
        fd[i] = dial(VMADDR_CID_HOST, port);
    for (unsigned i = 0; i < n; i++)
        put(fd[i], line, (size_t)sprintf(line, "connection %u\n", i));
    for (unsigned i = 0; i < n; i++) {
        int k = sprintf(line, "connection %u\n", i), at = 0;
        while (at < k) {
            ssize_t r = read(fd[i], got + at, (size_t)(k - at));
            if (r <= 0)
                die("read");
            at += (int)r;
        }
        if (memcmp(got, line, (size_t)k) != 0)
            die("wrong bytes");
    }
    printf("%u connections\n", n);
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    unsigned port = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : 0;
    unsigned long n = argc > 3 ? strtoul(argv[3], NULL, 10) : 0;
    char line[64];
    for (unsigned i = 0; i < 256; i++) {
        table[i] = i;
        for (int k = 0; k < 8; k++)
            table[i] = table[i] >> 1 ^ (table[i] & 1 ? 0xedb88320U : 0);
    }
    signal(SIGPIPE, SIG_IGN);
    if (strcmp(what, "send") == 0) {
        int fd = dial(VMADDR_CID_HOST, port);
        send_bytes(fd, n);
        shutdown(fd, SHUT_WR);
        result(line);
        printf("sent %s", line);
        ssize_t r = read(fd, line, sizeof(line) - 1);
        printf("back %.*s\n", r > 0 ? (int)r : 0, line);
    } else if (strcmp(what, "recv") == 0) {
        drain(dial(VMADDR_CID_HOST, port), 0);
        result(line);
        printf("got %s", line);
    } else if (strcmp(what, "many") == 0) {
        many(port, (unsigned)n);
    } else if (strcmp(what, "try") == 0) {
        dial(port, (unsigned)n);
        puts("connected");
    } else {
        serve(what, port, n);
    }
    return 0;
}
