/* SPDX-License-Identifier: MIT */
/*
 * Writes numbered, checksummed records and says which of them are on the disk:  durable DIR ROUND
 *
 * Three processes: 0 appends records of 4096 bytes to DIR/a0-ROUND, 1 of 1000 bytes to DIR/a1-ROUND, 2 overwrites the
 * 64 slots of DIR/slots in turn. "durable W N" on standard output means that fsync has returned after record N of
 * process W. Files of rounds before the last are removed. tests/e2e/cases_safety.py kills the machine under it and
 * looks.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { BLOCK = 4096, SMALL = 1000, SLOTS = 64, MAX = 4000 };

struct record {
    uint32_t crc; /* of what follows, as zlib has it */
    uint32_t round, worker, number;
    uint8_t fill[BLOCK - 16];
};

static uint32_t crc32(const uint8_t *p, size_t n)
{
    uint32_t c = ~0U;
    while (n--) {
        c ^= *p++;
        for (int k = 0; k < 8; k++)
            c = c & 1 ? c >> 1 ^ 0xedb88320U : c >> 1;
    }
    return ~c;
}

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static void make(struct record *r, uint32_t round, uint32_t worker, uint32_t number, size_t size)
{
    uint32_t x = round * 2654435761U + worker * 40503U + number;
    *r = (struct record){ .round = round, .worker = worker, .number = number };
    for (size_t i = 0; i < size - 16; i++) {
        x = x * 1664525U + 1013904223U;
        r->fill[i] = (uint8_t)(x >> 24);
    }
    r->crc = crc32((uint8_t *)r + 4, size - 4);
}

static void sync_dir(void)
{
    int d = open(".", O_RDONLY | O_DIRECTORY);
    if (d < 0 || fsync(d) < 0)
        die("fsync of the folder");
    close(d);
}

static void write_all(uint32_t round, uint32_t w)
{
    static struct record r;
    char name[40], line[40];
    size_t size = w == 1 ? SMALL : BLOCK;
    snprintf(name, sizeof(name), w == 2 ? "slots" : "a%u-%u", w, round);
    int fd = open(name, O_RDWR | O_CREAT, 0644);
    if (fd < 0)
        die(name);
    for (uint32_t n = 0; n < MAX; n++) {
        make(&r, round, w, n, size);
        if (pwrite(fd, &r, size, (off_t)size * (w == 2 ? n % SLOTS : n)) != (ssize_t)size)
            die("write");
        if (w == 2 ? fdatasync(fd) : fsync(fd))
            die("fsync");
        if (!n)
            sync_dir();
        int k = snprintf(line, sizeof(line), "durable %u %u\n", w, n);
        if (write(1, line, (size_t)k) != k)
            die("console");
    }
}

int main(int argc, char **argv)
{
    if (argc != 3 || chdir(argv[1]) < 0)
        die("usage: durable DIR ROUND");
    uint32_t round = (uint32_t)atoi(argv[2]);
    puts("writing");
    fflush(stdout);
    for (uint32_t w = 0; w < 3; w++)
        if (fork() == 0) {
            write_all(round, w);
            return 0;
        }
    for (uint32_t old = 0; old + 1 < round; old++)
        for (uint32_t w = 0; w < 2; w++) {
            char name[40];
            snprintf(name, sizeof(name), "a%u-%u", w, old);
            unlink(name);
        }
    while (wait(NULL) > 0)
        ;
    puts("all written");
    return 0;
}
