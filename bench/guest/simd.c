/* SPDX-License-Identifier: MIT */
/* Rows of floating point and SIMD. All but libm's are IEEE operations whose results are the same on every machine. */
#define _GNU_SOURCE
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "guest/rows.h"

/* The vector rows' operands: VECTOR_LEN elements, which fit the first-level cache. */
static _Alignas(32) double xs[VECTOR_LEN], ys[VECTOR_LEN], zs[VECTOR_LEN];
static _Alignas(32) uint32_t is[VECTOR_LEN], js[VECTOR_LEN];

static uint64_t bits(double d)
{
    uint64_t u;
    memcpy(&u, &d, sizeof(u));
    return u;
}

/* Sets the operands; noinline keeps the rows from being computed when they are compiled. */
static __attribute__((noinline)) void fill(void)
{
    for (uint32_t i = 0; i < VECTOR_LEN; i++) {
        xs[i] = 1.0 + i / 512.0;
        ys[i] = 0.5 - i / 2048.0;
        zs[i] = 0;
        is[i] = i * 2654435761u;
        js[i] = i * 40503u % VECTOR_LEN;
    }
}

static uint64_t sum_of(const double *v)
{
    double sum = 0;
    for (int i = 0; i < VECTOR_LEN; i++)
        sum += v[i];
    return bits(sum);
}

static uint64_t sum_of_ints(const uint32_t *v)
{
    uint64_t sum = 0;
    for (int i = 0; i < VECTOR_LEN; i++)
        sum = sum * 31 + v[i];
    return sum;
}

/* One iteration: 13 scalar operations, one division and one square root among them. */
#define STEPS(type, root)                                                                                              \
    type x = (type)1.0, y = (type)0.5, z = (type)0.25;                                                                 \
    for (; n; n--) {                                                                                                   \
        type d = x * x + y * y + z * z + (type)0.01;                                                                   \
        type f = (type)1.0 / (d * root(d));                                                                            \
        x = y - x * f;                                                                                                 \
        y = z + y * f;                                                                                                 \
        z = (type)0.5 * (x + y);                                                                                       \
    }                                                                                                                  \
    return bits((double)(x + y + z))

uint64_t row_float(uint64_t n)
{
    STEPS(double, sqrt);
}

uint64_t row_x87(uint64_t n)
{
    STEPS(long double, sqrtl);
}

/* Two doubles at a time: load, multiply, add, min, max, shuffle, store. */
__attribute__((target("sse2"))) uint64_t row_sse2(uint64_t n)
{
    fill();
    for (; n; n--)
        for (int i = 0; i < VECTOR_LEN; i += 2) {
            __m128d x = _mm_load_pd(xs + i), y = _mm_load_pd(ys + i), z = _mm_load_pd(zs + i);
            z = _mm_add_pd(_mm_mul_pd(x, y), _mm_mul_pd(z, _mm_set1_pd(0.75)));
            z = _mm_max_pd(_mm_min_pd(z, _mm_set1_pd(100)), _mm_shuffle_pd(y, y, 1));
            _mm_store_pd(zs + i, z);
        }
    return sum_of(zs);
}

/* Four integers at a time: add, multiply-add of halves, unpack, compare, shift, logic, shuffle. */
__attribute__((target("sse2"))) uint64_t row_sse2i(uint64_t n)
{
    fill();
    for (; n; n--)
        for (int i = 0; i < VECTOR_LEN; i += 4) {
            __m128i a = _mm_load_si128((const __m128i *)(const void *)(is + i));
            __m128i b = _mm_load_si128((const __m128i *)(const void *)(js + i));
            __m128i m = _mm_cmpgt_epi32(a, b);
            a = _mm_add_epi32(_mm_madd_epi16(a, b), _mm_unpacklo_epi16(a, b));
            a = _mm_xor_si128(a, _mm_srli_epi32(a, 13));
            a = _mm_or_si128(_mm_and_si128(m, a), _mm_andnot_si128(m, _mm_shuffle_epi32(a, 0x1b)));
            _mm_store_si128((__m128i *)(void *)(is + i), a);
        }
    return sum_of_ints(is);
}

__attribute__((target("avx2"))) uint64_t row_avx2(uint64_t n)
{
    fill();
    for (; n; n--)
        for (int i = 0; i < VECTOR_LEN; i += 4) {
            __m256d x = _mm256_load_pd(xs + i), y = _mm256_load_pd(ys + i), z = _mm256_load_pd(zs + i);
            z = _mm256_add_pd(_mm256_mul_pd(x, y), _mm256_mul_pd(z, _mm256_set1_pd(0.75)));
            z = _mm256_max_pd(_mm256_min_pd(z, _mm256_set1_pd(100)), _mm256_permute_pd(y, 5));
            _mm256_store_pd(zs + i, z);
        }
    return sum_of(zs);
}

__attribute__((target("avx2"))) uint64_t row_avx2i(uint64_t n)
{
    fill();
    for (; n; n--)
        for (int i = 0; i < VECTOR_LEN; i += 8) {
            __m256i a = _mm256_load_si256((const __m256i *)(const void *)(is + i));
            __m256i b = _mm256_load_si256((const __m256i *)(const void *)(js + i));
            __m256i m = _mm256_cmpgt_epi32(a, b);
            a = _mm256_add_epi32(_mm256_mullo_epi32(a, b), _mm256_unpacklo_epi16(a, b));
            a = _mm256_xor_si256(a, _mm256_srlv_epi32(a, _mm256_and_si256(b, _mm256_set1_epi32(15))));
            a = _mm256_blendv_epi8(_mm256_permutevar8x32_epi32(a, b), a, m);
            _mm256_store_si256((__m256i *)(void *)(is + i), a);
        }
    return sum_of_ints(is);
}

/* Elements fetched by index, four doubles and eight integers. */
__attribute__((target("avx2"))) uint64_t row_gather(uint64_t n)
{
    fill();
    for (; n; n--)
        for (int i = 0; i < VECTOR_LEN; i += 8) {
            __m256i at = _mm256_load_si256((const __m256i *)(const void *)(js + i));
            __m256i a = _mm256_i32gather_epi32((const int *)(const void *)is, at, 4);
            __m256d x = _mm256_i32gather_pd(xs, _mm256_castsi256_si128(at), 8);
            __m256d z = _mm256_load_pd(zs + i);
            _mm256_store_pd(zs + i, _mm256_add_pd(x, _mm256_mul_pd(z, _mm256_set1_pd(0.5))));
            a = _mm256_add_epi32(a, _mm256_set1_epi32(1));
            _mm256_store_si256((__m256i *)(void *)(is + i), a);
        }
    return sum_of(zs) ^ sum_of_ints(is);
}

/* Five functions. What differs between processors with and without FMA is rounded off. */
uint64_t row_libm(uint64_t n)
{
    double x = 0.5, sum = 0;
    for (; n; n--) {
        double y = sin(x) + cos(x * 3) + exp(-x) + log(x + 1) + pow(x + 0.5, 1.7);
        sum += y;
        x += 0.37;
        if (x > 20)
            x -= 19.6;
    }
    return (uint64_t)(int64_t)llround(sum * 1e4);
}
