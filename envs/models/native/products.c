/* Products of float32 matrices by the matrix instructions for bfloat16 (AMX), as exact as float32.

   A float32 is the sum of three bfloat16, each of the rest that the ones before leave. Of the nine
   products of such parts the six largest are summed, in float32; the others are below its rounding
   (Henry, Tang and Heinecke 2019, "Leveraging the bfloat16 artificial intelligence datatype for
   higher-precision computations"). One thread. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "tiles.h"
#if HAS_AMX

#define PANEL (3 * 2 * 1024) /* bytes of 32 of the depth of 32 rows or columns: 3 parts, 2 tiles */
enum { ROWS = 128, COLUMNS = 512, DEPTH = 256 }; /* of a block that is packed at once */

struct matrix { /* one of the strides, in elements, is 1 */
    const float *at;
    long rows, columns, row, column;
};

/* 16 rows of 16 floats, transposed. */
INLINE void transpose_block(const float *from, long stride, float *to, long to_stride)
{
    __m512 a[16], b[16];
    for (int i = 0; i < 16; i++) a[i] = _mm512_loadu_ps(from + i * stride);
#pragma GCC unroll 16
    for (int i = 0; i < 16; i += 2) {
        b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; j++) {
            const __m512d first = (__m512d)b[i + j], second = (__m512d)b[i + j + 2];
            a[i + 2 * j] = (__m512)_mm512_unpacklo_pd(first, second);
            a[i + 2 * j + 1] = (__m512)_mm512_unpackhi_pd(first, second);
        }
#pragma GCC unroll 16
    for (int i = 0; i < 4; i++) { /* a[i], a[4 + i], ...: columns i, 4 + i, ... of four rows each */
        const __m512 low = _mm512_shuffle_f32x4(a[i], a[i + 4], 0x88);
        const __m512 high = _mm512_shuffle_f32x4(a[i], a[i + 4], 0xdd);
        const __m512 low2 = _mm512_shuffle_f32x4(a[i + 8], a[i + 12], 0x88);
        const __m512 high2 = _mm512_shuffle_f32x4(a[i + 8], a[i + 12], 0xdd);
        _mm512_storeu_ps(to + i * to_stride, _mm512_shuffle_f32x4(low, low2, 0x88));
        _mm512_storeu_ps(to + (i + 4) * to_stride, _mm512_shuffle_f32x4(high, high2, 0x88));
        _mm512_storeu_ps(to + (i + 8) * to_stride, _mm512_shuffle_f32x4(low, low2, 0xdd));
        _mm512_storeu_ps(to + (i + 12) * to_stride, _mm512_shuffle_f32x4(high, high2, 0xdd));
    }
}

static inline long least(long x, long y) { return x < y ? x : y; }

INLINE __mmask16 first_of(long n) { return n < 16 ? (1u << (n > 0 ? n : 0)) - 1 : 0xffff; }

/* Rows (rows, columns) with zeros around them to (all_rows, all_columns), a multiple of 16. */
INLINE void copy_with_zeros(const float *from, long stride, long rows, long columns, float *to,
                            long all_rows, long all_columns)
{
    for (long i = 0; i < all_rows; i++)
        for (long j = 0; j < all_columns; j += 16)
            _mm512_storeu_ps(to + i * all_columns + j,
                             _mm512_maskz_loadu_ps(i < rows ? first_of(columns - j) : 0,
                                                   from + i * stride + j));
}

/* A part of a matrix, (rows, columns) multiples of 16, in rows of `columns`, 512 elements; a pointer
   to it and its stride, or to its copy in `space` where it lies otherwise or reaches over the
   edge. */
INLINE const float *part_of(const struct matrix *m, long i, long j, long rows, long columns,
                            float *space, long *stride)
{
    const float *from = m->at + i * m->row + j * m->column;
    const long there = least(rows, m->rows - i), across = least(columns, m->columns - j);
    const int whole = there == rows && across == columns, in_rows = m->column == 1;
    float inside[512];
    long apart = in_rows ? m->row : m->column;
    if (!whole) {
        float *copy = in_rows ? space : inside;
        if (in_rows)
            copy_with_zeros(from, apart, there, across, copy, rows, columns);
        else
            copy_with_zeros(from, apart, across, there, copy, columns, rows);
        from = copy;
        apart = in_rows ? columns : rows;
    }
    *stride = apart;
    if (in_rows) return from;
    for (long k = 0; k < rows; k += 16)
        for (long l = 0; l < columns; l += 16)
            transpose_block(from + l * apart + k, apart, space + k * columns + l, columns);
    *stride = columns;
    return space;
}

/* Three parts of two vectors of 16, each (32,) of bfloat16. */
INLINE void split(__m512 first, __m512 second, __m512i parts[3])
{
    for (int i = 0; i < 3; i++) {
        parts[i] = (__m512i)_mm512_cvtne2ps_pbh(second, first);
        const __m256i low = _mm512_castsi512_si256(parts[i]);
        const __m256i high = _mm512_extracti64x4_epi64(parts[i], 1);
        first -= (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(low), 16);
        second -= (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16);
    }
}

/* (32, depth) of a left operand, as tiles: step by step, part by part, upper and lower. */
static TARGET void pack_left(const struct matrix *a, long i, long k, long depth, char *to)
{
    float space[16 * 32];
    for (long at = k; at < k + depth; at += 32, to += PANEL)
        for (long half = 0; half < 2; half++) {
            long stride;
            const float *from = part_of(a, i + 16 * half, at, 16, 32, space, &stride);
            for (long row = 0; row < 16; row++) {
                __m512i parts[3];
                split(_mm512_loadu_ps(from + row * stride),
                      _mm512_loadu_ps(from + row * stride + 16), parts);
                for (int part = 0; part < 3; part++)
                    _mm512_storeu_si512(to + (2 * part + half) * 1024 + row * 64, parts[part]);
            }
        }
}

/* (depth, 32) of a right operand, as tiles whose rows hold pairs of rows. */
static TARGET void pack_right(const struct matrix *b, long k, long j, long depth, char *to)
{
    const __m512i places = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9,
                                            24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1,
                                            16, 0);
    float space[32 * 16];
    for (long at = k; at < k + depth; at += 32, to += PANEL)
        for (long half = 0; half < 2; half++) {
            long stride;
            const float *from = part_of(b, at, j + 16 * half, 32, 16, space, &stride);
            for (long row = 0; row < 16; row++) {
                __m512i parts[3];
                split(_mm512_loadu_ps(from + 2 * row * stride),
                      _mm512_loadu_ps(from + (2 * row + 1) * stride), parts);
                for (int part = 0; part < 3; part++)
                    _mm512_storeu_si512(to + (2 * part + half) * 1024 + row * 64,
                                        _mm512_permutexvar_epi16(places, parts[part]));
            }
        }
}

#define LEFT(part)                                  \
    _tile_loadd(4, a + (2 * part) * 1024, 64);      \
    _tile_loadd(5, a + (2 * part + 1) * 1024, 64);
#define RIGHT(part)                                 \
    _tile_loadd(6, b + (2 * part) * 1024, 64);      \
    _tile_loadd(7, b + (2 * part + 1) * 1024, 64);
#define MULTIPLY                                    \
    _tile_dpbf16ps(0, 4, 6);                        \
    _tile_dpbf16ps(1, 4, 7);                        \
    _tile_dpbf16ps(2, 5, 6);                        \
    _tile_dpbf16ps(3, 5, 7);

/* c (32, 32) = a b or c += a b. */
INLINE void multiply_panels(long steps, const char *a, const char *b, float *c, long c_row, int add)
{
    MEMORY_IS_USED;
    if (add) {
        _tile_loadd(0, c, c_row * 4);
        _tile_loadd(1, c + 16, c_row * 4);
        _tile_loadd(2, c + 16 * c_row, c_row * 4);
        _tile_loadd(3, c + 16 * c_row + 16, c_row * 4);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (long k = 0; k < steps; k++, a += PANEL, b += PANEL) { /* the small ones first */
        LEFT(0) RIGHT(2) MULTIPLY
        RIGHT(1) MULTIPLY
        LEFT(1) MULTIPLY
        RIGHT(0) MULTIPLY
        LEFT(2) MULTIPLY
        LEFT(0) MULTIPLY
    }
    _tile_stored(0, c, c_row * 4);
    _tile_stored(1, c + 16, c_row * 4);
    _tile_stored(2, c + 16 * c_row, c_row * 4);
    _tile_stored(3, c + 16 * c_row + 16, c_row * 4);
    MEMORY_IS_USED;
}

static TARGET void multiply_block(long rows, long columns, long steps, const char *a,
                                  const char *b, float *c, long c_row, int add)
{
    for (long j = 0; j < columns; j += 32)
        for (long i = 0; i < rows; i += 32) {
            const char *left = a + i / 32 * steps * PANEL, *right = b + j / 32 * steps * PANEL;
            float *to = c + i * c_row + j;
            if (i + 32 <= rows && j + 32 <= columns) {
                multiply_panels(steps, left, right, to, c_row, add);
                continue;
            }
            float edge[32 * 32];
            multiply_panels(steps, left, right, edge, 32, 0);
            for (long k = 0; k < least(32, rows - i); k++)
                for (long l = 0; l < 32; l += 16) {
                    const __mmask16 real = first_of(columns - j - l);
                    float *place = to + k * c_row + l;
                    __m512 sum = _mm512_loadu_ps(edge + k * 32 + l);
                    if (add) sum += _mm512_maskz_loadu_ps(real, place);
                    _mm512_mask_storeu_ps(place, real, sum);
                }
        }
}

/* c (rows, columns) = a b or c += a b, a (rows, depth), b (depth, columns); strides are in elements,
   one of each operand's is 1, a row of c is contiguous. 1 without memory, else 0. */
TARGET int nmg_product(long rows, long columns, long depth, const float *a, long a_row,
                       long a_column, const float *b, long b_row, long b_column, float *c,
                       long c_row, int add)
{
    static _Thread_local char *space;
    const struct matrix left = {a, rows, depth, a_row, a_column};
    const struct matrix right = {b, depth, columns, b_row, b_column};
    const long packed = COLUMNS / 32 * (DEPTH / 32) * PANEL;
    if (!space) space = aligned_alloc(64, packed + ROWS / 32 * (DEPTH / 32) * PANEL);
    if (!space) return 1;
    struct tiles before;
    take_tiles(&before);
    for (long j = 0; j < columns; j += COLUMNS)
        for (long k = 0; k < depth; k += DEPTH) {
            const long wide = least(COLUMNS, columns - j), deep = least(DEPTH, depth - k);
            const long steps = (deep + 31) / 32;
            for (long p = 0; p < wide; p += 32)
                pack_right(&right, k, j + p, deep, space + p / 32 * steps * PANEL);
            for (long i = 0; i < rows; i += ROWS) {
                const long high = least(ROWS, rows - i);
                for (long p = 0; p < high; p += 32)
                    pack_left(&left, i + p, k, deep, space + packed + p / 32 * steps * PANEL);
                multiply_block(high, wide, steps, space + packed, space, c + i * c_row + j, c_row,
                               add || k > 0);
            }
        }
    give_tiles_back(&before);
    return 0;
}
#endif
