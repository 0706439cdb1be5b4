/* SPDX-License-Identifier: MIT */
/* What the compiler compiles for its row: the same few programs under several names. No headers, so that the work is
 * always the same. */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;
extern void *memcpy(void *, const void *, u64);
extern void *memset(void *, int, u64);
extern int memcmp(const void *, const void *, u64);
extern u64 strlen(const char *);
extern void *malloc(u64);
extern void free(void *);
extern int printf(const char *, ...);

#define N2(a, b) a##_##b
#define N1(a, b) N2(a, b)
#define N(name) N1(name, PART)

#define PART 1
#define WORD u32
#include "cc1.inc"
#undef PART
#undef WORD
#define PART 2
#define WORD u64
#include "cc1.inc"
#undef PART
#undef WORD
#define PART 3
#define WORD u16
#include "cc1.inc"

int main(void)
{
    return test_1() + test_2() + test_3();
}
