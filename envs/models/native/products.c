/* Products by the matrix instructions for bfloat16 (AMX), summed in float32. One thread.

   Of float32 matrices, as exact as float32: a float32 is the sum of three bfloat16, each of the
   rest that the ones before leave. Of the nine products of such parts the six largest are summed;
   the others are below float32's rounding (Henry, Tang and Heinecke 2019, "Leveraging the bfloat16
   artificial intelligence datatype for higher-precision computations").

   Of bfloat16 matrices, a weight's gradient: both operands are summed over their rows, which the
   library does more slowly than other products. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "tiles.h"
#if HAS_AMX

#define PANEL(parts) ((parts) * 2 * 1024) /* bytes of 32 of the depth of 32 rows or columns */
enum { ROWS = 128, COLUMNS = 512 };       /* of a block, which is packed at once */
#define DEPTH(parts) ((parts) == 1 ? 256 : 128) /* panels of it fit the cache nearest by */

struct matrix { /* one of the strides, in elements, is 1 */
    const void *at;
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
    const float *from = (const float *)m->at + i * m->row + j * m->column;
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

/* Three parts of two vectors of 16, as units of 32 bits that hold one of each. The first part is
   rounded to nearest, so that the rest has either sign. */
INLINE void split(__m512 first, __m512 second, __m512i parts[3])
{
    const __m512i high = _mm512_set1_epi32(0xffff0000), half = _mm512_set1_epi32(0x8000);
    for (int i = 0; i < 3; i++) {
        __m512i a = (__m512i)first, b = (__m512i)second;
        if (i == 0) a = _mm512_add_epi32(a, half), b = _mm512_add_epi32(b, half);
        const __m512i low = _mm512_srli_epi32(a, 16);
        parts[i] = _mm512_ternarylogic_epi32(high, b, low, 0xca); /* high ? b : low */
        first -= (__m512)_mm512_and_si512(a, high);
        second -= (__m512)_mm512_and_si512(b, high);
    }
}

/* (32, depth) of a left operand, as tiles: step by step, part by part, upper and lower. A unit holds
   elements that are 16 apart in the depth, here and in the right operand. */
static TARGET void pack_left(const struct matrix *a, long i, long k, long depth, char *to)
{
    float space[16 * 32];
    for (long at = k; at < k + depth; at += 32, to += PANEL(3))
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

/* (depth, 32) of a right operand, as tiles. */
static TARGET void pack_right(const struct matrix *b, long k, long j, long depth, char *to)
{
    float space[32 * 16];
    for (long at = k; at < k + depth; at += 32, to += PANEL(3))
        for (long half = 0; half < 2; half++) {
            long stride;
            const float *from = part_of(b, at, j + 16 * half, 32, 16, space, &stride);
            for (long row = 0; row < 16; row++) {
                __m512i parts[3];
                split(_mm512_loadu_ps(from + row * stride),
                      _mm512_loadu_ps(from + (row + 16) * stride), parts);
                for (int part = 0; part < 3; part++)
                    _mm512_storeu_si512(to + (2 * part + half) * 1024 + row * 64, parts[part]);
            }
        }
}

/* Rows k to k + 32 and columns j to j + 32 of bfloat16, zeros over the edge, as units of two
   rows. */
INLINE void pair_part(const struct matrix *m, long k, long j, uint32_t units[2][16][16])
{
    const long across = m->columns - j;
    const __mmask32 real = across < 32 ? (1u << across) - 1 : ~0u;
    const uint16_t *from = (const uint16_t *)m->at + k * m->row + j;
    for (long i = 0; i < 16; i++, from += 2 * m->row) {
        const long left = m->rows - k - 2 * i;
        const __m512i first = _mm512_maskz_loadu_epi16(left > 0 ? real : 0, from);
        const __m512i second = _mm512_maskz_loadu_epi16(left > 1 ? real : 0, from + m->row);
        pair(first, second, units[0][i], units[1][i]);
    }
}

/* pack_left of one part: of bfloat16 whose transpose has its elements in rows. */
static TARGET void pack_left_low(const struct matrix *a, long i, long k, long depth, char *to)
{
    const struct matrix rows = {a->at, a->columns, a->rows, a->column, 1};
    uint32_t units[2][16][16];
    for (long at = k; at < k + depth; at += 32, to += PANEL(1)) {
        pair_part(&rows, at, i, units);
        for (long half = 0; half < 2; half++)
            transpose_block((const float *)units[half], 16, (float *)(to + half * 1024), 16);
    }
}

/* pack_right of one part, of bfloat16 in rows. */
static TARGET void pack_right_low(const struct matrix *b, long k, long j, long depth, char *to)
{
    for (long at = k; at < k + depth; at += 32, to += PANEL(1))
        pair_part(b, at, j, (uint32_t(*)[16][16])to);
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

/* c (32, 32) = a b, or from + a b; strides are in elements. */
INLINE void multiply_panels(const int parts, long steps, const char *a, const char *b,
                            const float *from, long from_row, float *c, long c_row)
{
    MEMORY_IS_USED;
    if (from) {
        _tile_loadd(0, from, from_row * 4);
        _tile_loadd(1, from + 16, from_row * 4);
        _tile_loadd(2, from + 16 * from_row, from_row * 4);
        _tile_loadd(3, from + 16 * from_row + 16, from_row * 4);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (long k = 0; k < steps; k++, a += PANEL(parts), b += PANEL(parts)) {
        if (parts == 1) {
            LEFT(0) RIGHT(0) MULTIPLY
        } else { /* the small ones first */
            LEFT(0) RIGHT(2) MULTIPLY
            RIGHT(1) MULTIPLY
            LEFT(1) MULTIPLY
            RIGHT(0) MULTIPLY
            LEFT(2) MULTIPLY
            LEFT(0) MULTIPLY
        }
    }
    _tile_stored(0, c, c_row * 4);
    _tile_stored(1, c + 16, c_row * 4);
    _tile_stored(2, c + 16 * c_row, c_row * 4);
    _tile_stored(3, c + 16 * c_row + 16, c_row * 4);
    MEMORY_IS_USED;
}

struct sum { /* c (rows, columns) = a b, or from + a b; strides are in elements */
    float *c;
    long c_row;
    const float *from; /* c, a row that is added to all (its stride is 0), or NULL */
    long from_row;
};

INLINE void multiply_block(const int parts, long rows, long columns, long steps, const char *a,
                           const char *b, const struct sum *sum)
{
    for (long i = 0; i < rows; i += 32)
        for (long j = 0; j < columns; j += 32) {
            const char *left = a + i / 32 * steps * PANEL(parts);
            const char *right = b + j / 32 * steps * PANEL(parts);
            const float *from = sum->from ? sum->from + i * sum->from_row + j : NULL;
            float *to = sum->c + i * sum->c_row + j;
            if (i + 32 <= rows && j + 32 <= columns) {
                multiply_panels(parts, steps, left, right, from, sum->from_row, to, sum->c_row);
                continue;
            }
            float edge[32 * 32];
            multiply_panels(parts, steps, left, right, NULL, 0, edge, 32);
            for (long k = 0; k < least(32, rows - i); k++)
                for (long l = 0; l < 32; l += 16) {
                    const __mmask16 real = first_of(columns - j - l);
                    __m512 row = _mm512_loadu_ps(edge + k * 32 + l);
                    if (from) row += _mm512_maskz_loadu_ps(real, from + k * sum->from_row + l);
                    _mm512_mask_storeu_ps(to + k * sum->c_row + l, real, row);
                }
        }
}

INLINE void multiply(const int parts, const struct matrix *a, const struct matrix *b,
                     const struct sum *sum, char *space)
{
    char *const lefts = space + COLUMNS / 32 * (DEPTH(parts) / 32) * PANEL(parts);
    struct tiles before;
    take_tiles(&before);
    for (long j = 0; j < b->columns; j += COLUMNS)
        for (long k = 0; k < b->rows; k += DEPTH(parts)) {
            const long wide = least(COLUMNS, b->columns - j);
            const long deep = least(DEPTH(parts), b->rows - k), steps = (deep + 31) / 32;
            for (long p = 0; p < wide; p += 32)
                (parts == 1 ? pack_right_low : pack_right)(b, k, j + p, deep,
                                                           space + p / 32 * steps * PANEL(parts));
            for (long i = 0; i < a->rows; i += ROWS) {
                const long high = least(ROWS, a->rows - i);
                for (long p = 0; p < high; p += 32)
                    (parts == 1 ? pack_left_low : pack_left)(
                        a, i + p, k, deep, lefts + p / 32 * steps * PANEL(parts));
                struct sum part = *sum;
                part.c += i * sum->c_row + j;
                if (k > 0)
                    part.from = part.c, part.from_row = sum->c_row;
                else if (sum->from)
                    part.from += i * sum->from_row + j;
                multiply_block(parts, high, wide, steps, lefts, space, &part);
            }
        }
    give_tiles_back(&before);
}

static TARGET void multiply_float(const struct matrix *a, const struct matrix *b,
                                  const struct sum *sum, char *space)
{
    multiply(3, a, b, sum, space);
}

static TARGET void multiply_low(const struct matrix *a, const struct matrix *b,
                                const struct sum *sum, char *space)
{
    multiply(1, a, b, sum, space);
}

/* c (rows, columns) = a b or from + a b, a (rows, depth), b (depth, columns). Strides are in
   elements, one of each operand's is 1, a row of c and `from` is contiguous. Operands are float32;
   or bfloat16, a contiguous in its columns, b in its rows. 1 without memory, else 0. */
int nmg_product(long rows, long columns, long depth, int low, const void *a, long a_row,
                long a_column, const void *b, long b_row, long b_column, float *c, long c_row,
                const float *from, long from_row)
{
    static _Thread_local char *space;
    const struct matrix left = {a, rows, depth, a_row, a_column};
    const struct matrix right = {b, depth, columns, b_row, b_column};
    const struct sum sum = {c, c_row, from, from_row};
    if (!space) space = aligned_alloc(64, (COLUMNS + ROWS) / 32 * (DEPTH(3) / 32) * PANEL(3));
    if (!space) return 1;
    (low ? multiply_low : multiply_float)(&left, &right, &sum, space);
    return 0;
}
#endif
