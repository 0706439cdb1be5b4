/* SPDX-License-Identifier: MIT */
/* Scalar types for the three kinds of address, and a few helpers used everywhere. */
#ifndef GAZDA_BASE_TYPES_H
#define GAZDA_BASE_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint64_t gpa_t;  /* guest physical address, bytes */
typedef uint64_t gva_t;  /* guest linear (virtual) address, bytes */
typedef uintptr_t hva_t; /* host virtual address of a byte of guest memory */

#define PAGE_SHIFT 12
#define PAGE_SIZE 4096UL
#define PAGE_MASK (~(PAGE_SIZE - 1))

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define container_of(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

/* A full memory fence. Not the compiler's: gcc refuses that one under -fsanitize=thread. */
static inline void full_fence(void)
{
    __asm__ volatile("mfence" ::: "memory");
}

#endif
