/* SPDX-License-Identifier: MIT */
/* Rows of integer computation in user mode. */
#include <stdlib.h>
#include <string.h>

#include "guest/rows.h"

/*
 * INT_LOOP_INSNS instructions an iteration, counted: arithmetic, logic, shifts, a multiplication, two loads, a store,
 * a call's worth of branches. In assembly, so that the number of instructions a second can be told exactly; of the
 * machine's word size, so that the 32-bit build has the same instructions.
 */
#ifdef __x86_64__
#define SLOT "8"
#else
#define SLOT "4"
#endif

uint64_t row_int(uint64_t count)
{
    static unsigned long table[256];
    unsigned long a = 1, b = 2, c, d, n = (unsigned long)count;
    memset(table, 0, sizeof(table));
    __asm__ volatile("1:\n\t"
                     "mov %[a], %[c]\n\t"
                     "and $255, %[c]\n\t"
                     "mov (%[t],%[c]," SLOT "), %[d]\n\t"
                     "add %[b], %[d]\n\t"
                     "imul $33, %[d], %[d]\n\t"
                     "mov %[d], (%[t],%[c]," SLOT ")\n\t"
                     "xor %[d], %[a]\n\t"
                     "mov %[a], %[d]\n\t"
                     "shr $7, %[d]\n\t"
                     "lea 5(%[a],%[d],2), %[a]\n\t"
                     "test $1, %b[a]\n\t"
                     "jz 2f\n\t"
                     "2: add (%[t]), %[b]\n\t"
                     "inc %[b]\n\t"
                     "dec %[n]\n\t"
                     "jnz 1b\n\t"
                     : [a] "+q"(a), [b] "+r"(b), [c] "=&r"(c), [d] "=&r"(d), [n] "+r"(n)
                     : [t] "r"(table)
                     : "cc", "memory");
    return a + b;
}

/* ---- SHA-256 (FIPS 180-4), plain C ---- */

static const uint32_t sha_k[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static uint32_t ror(uint32_t x, int n)
{
    return x >> n | x << (32 - n);
}

static void sha_block(uint32_t h[8], const uint8_t *p)
{
    uint32_t w[64], v[8];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)p[4 * i] << 24 | (uint32_t)p[4 * i + 1] << 16 | (uint32_t)p[4 * i + 2] << 8 | p[4 * i + 3];
    for (int i = 16; i < 64; i++)
        w[i] = w[i - 16] + w[i - 7] + (ror(w[i - 15], 7) ^ ror(w[i - 15], 18) ^ w[i - 15] >> 3) +
               (ror(w[i - 2], 17) ^ ror(w[i - 2], 19) ^ w[i - 2] >> 10);
    memcpy(v, h, sizeof(v));
    for (int i = 0; i < 64; i++) {
        uint32_t t1 =
            v[7] + (ror(v[4], 6) ^ ror(v[4], 11) ^ ror(v[4], 25)) + ((v[4] & v[5]) ^ (~v[4] & v[6])) + sha_k[i] + w[i];
        uint32_t t2 = (ror(v[0], 2) ^ ror(v[0], 13) ^ ror(v[0], 22)) + ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
        memmove(v + 1, v, 7 * sizeof(v[0]));
        v[4] += t1;
        v[0] = t1 + t2;
    }
    for (int i = 0; i < 8; i++)
        h[i] += v[i];
}

static const uint32_t sha_init[8] = { 0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19 };

uint64_t row_sha256(uint64_t n)
{
    static uint8_t data[SHA_BYTES];
    uint32_t h[8];
    memcpy(h, sha_init, sizeof(h));
    for (; n; n--)
        for (int i = 0; i < SHA_BYTES; i += 64)
            sha_block(h, data + i);
    return h[0];
}

uint64_t sha256_of(const uint8_t *data, size_t len)
{
    uint32_t h[8];
    uint8_t last[128] = { 0 };
    size_t rest = len % 64, end = rest < 56 ? 64 : 128;
    memcpy(h, sha_init, sizeof(h));
    for (size_t i = 0; i + 64 <= len; i += 64)
        sha_block(h, data + i);
    if (rest)
        memcpy(last, data + len - rest, rest);
    last[rest] = 0x80;
    for (size_t i = 0; i < 8; i++)
        last[end - 1 - i] = (uint8_t)((uint64_t)len * 8 >> 8 * i);
    for (size_t i = 0; i < end; i += 64)
        sha_block(h, last + i);
    return (uint64_t)h[0] << 32 | h[1];
}

static int by_int(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

uint64_t row_sort(uint64_t n)
{
    static uint32_t v[SORT_LEN];
    uint32_t seed = 1, sum = 0;
    for (; n; n--) {
        for (int i = 0; i < SORT_LEN; i++)
            v[i] = seed = seed * 1664525 + 1013904223;
        qsort(v, SORT_LEN, sizeof(v[0]), by_int);
        sum = sum * 31 + v[SORT_LEN / 2];
    }
    return sum;
}

bool compute_check(void)
{
    uint32_t v[64];
    for (uint32_t i = 0; i < 64; i++)
        v[i] = (i * 37 + 11) % 64;
    qsort(v, 64, sizeof(v[0]), by_int);
    for (uint32_t i = 0; i < 64; i++)
        if (v[i] != i)
            return false;
    return sha256_of((const uint8_t *)"abc", 3) == 0xba7816bf8f01cfeaULL;
}
