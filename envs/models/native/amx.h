/* Attention in bfloat16 where the processor multiplies matrices (AMX). As attention.h, but for the
   products, which are of tiles: 16 rows of 64 bytes.

   A left operand, (rows, depth), lies in rows of bfloat16; a right one, (depth / 2, columns), in
   rows of units of 32 bits, two bfloat16 that follow one another in the dimension that is summed
   over. All sizes are multiples of 32, with zeros behind what is real.

   The backward pass computes scores with a row for each key: weights and their gradients are then
   left operands as they are, and sums over keys need no sum over a vector. */

#define MANY 256 /* queries whose weights the backward pass holds */

/* c = a b or c += a b; `steps` of 32 are summed, strides are in bytes. */
static TARGET void multiply_tiles(long rows, long columns, long steps, const void *a, long a_stride,
                                  const void *b, long b_stride, float *c, long c_stride, int add)
{
    MEMORY_IS_USED;
    for (long i = 0; i < rows; i += 32)
        for (long j = 0; j < columns; j += 32) {
            char *to = (char *)c + i * c_stride + j * 4, *below = to + 16 * c_stride;
            if (add) {
                _tile_loadd(0, to, c_stride);
                _tile_loadd(1, to + 64, c_stride);
                _tile_loadd(2, below, c_stride);
                _tile_loadd(3, below + 64, c_stride);
            } else {
                _tile_zero(0);
                _tile_zero(1);
                _tile_zero(2);
                _tile_zero(3);
            }
            for (long k = 0; k < steps; k++) {
                const char *left = (const char *)a + i * a_stride + k * 64;
                const char *right = (const char *)b + k * 16 * b_stride + j * 4;
                _tile_loadd(4, left, a_stride);
                _tile_loadd(5, left + 16 * a_stride, a_stride);
                _tile_loadd(6, right, b_stride);
                _tile_loadd(7, right + 64, b_stride);
                _tile_dpbf16ps(0, 4, 6);
                _tile_dpbf16ps(1, 4, 7);
                _tile_dpbf16ps(2, 5, 6);
                _tile_dpbf16ps(3, 5, 7);
            }
            _tile_stored(0, to, c_stride);
            _tile_stored(1, to + 64, c_stride);
            _tile_stored(2, below, c_stride);
            _tile_stored(3, below + 64, c_stride);
        }
    MEMORY_IS_USED;
}

/* Units (rows, columns) to (columns, rows), both multiples of 16. */
static TARGET void transpose_units(long rows, long columns, const uint32_t *from, uint32_t *to)
{
    const __m512i step = _mm512_mullo_epi32(
        _mm512_set1_epi32(columns),
        _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
    for (long i = 0; i < rows; i += 16)
        for (long j = 0; j < columns; j++)
            _mm512_storeu_si512(to + j * rows + i,
                                _mm512_i32gather_epi32(step, from + i * columns + j, 4));
}

/* A head's rows of a sequence, (n, width), as a left operand (n + zeros, wide). */
static TARGET void pack_rows(const struct piece *piece, const char *from, long wide, uint16_t *to)
{
    for (long i = 0; i < piece->rows; i++) {
        const char *row = from + i * piece->stride;
        __builtin_prefetch(row + 12 * piece->stride);
        for (long j = 0; j < piece->width; j += 32) {
            const long rest = piece->width - j;
            const __mmask32 real = rest < 32 ? (1u << rest) - 1 : ~0u;
            _mm512_storeu_si512(to + i * wide + j, _mm512_maskz_loadu_epi16(real, row + j * 2));
        }
    }
    memset(to + piece->rows * wide, 0, (round_up(piece->rows, 32) - piece->rows) * wide * 2);
}

/* Rows of bfloat16, (rows, wide), as a right operand that is summed over them. */
static TARGET void pair_rows(long rows, long wide, const uint16_t *from, uint32_t *to)
{
    for (long i = 0; i < rows; i += 2)
        for (long j = 0; j < wide; j += 32)
            pair(_mm512_loadu_si512(from + i * wide + j),
                 _mm512_loadu_si512(from + (i + 1) * wide + j), to + i / 2 * wide + j,
                 to + i / 2 * wide + j + 16);
}

INLINE __m512i to_bfloat16(vec first, vec second)
{
    return (__m512i)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
}

static TARGET void forward_amx(const struct batch *batch, const char *query, const char *key,
                               const char *value, char *output, float *log_sums, uint32_t *space)
{
    const long heads = batch->heads, wide = round_up(batch->width, 32);
    const float scale = batch->scale * LOG2_E;
    struct dropped dropped = {batch->places, batch->places + batch->dropped, 0};
    struct piece piece = piece_of(batch);
    struct tiles before;
    take_tiles(&before);
    for (long s = 0, first = 0; s < batch->sequences; first += batch->lengths[s++]) {
        const long n = piece.rows = batch->lengths[s], counted = batch->counted[s];
        const long columns = round_up(n, 32), matrix = columns * wide / 2;
        uint32_t *q = space, *rows = q + matrix, *k_t = rows + matrix, *v = k_t + matrix;
        uint32_t *low = v + matrix;
        float *weights = (float *)(low + 16 * columns), *out = weights + 32 * columns;
        for (long h = 0; h < heads; h++) {
            const long at = first * piece.stride + h * piece.width * piece.size;
            pack_rows(&piece, query + at, wide, (uint16_t *)q);
            pack_rows(&piece, key + at, wide, (uint16_t *)rows);
            transpose_units(columns, wide / 2, rows, k_t);
            pack_rows(&piece, value + at, wide, (uint16_t *)rows);
            pair_rows(columns, wide, (const uint16_t *)rows, v);
            for (long r = 0; r < n; r += 32) {
                const long real = n - r < 32 ? n - r : 32;
                float factors[32];
                multiply_tiles(32, columns, wide / 32, q + r * wide / 2, wide * 2, k_t, columns * 4,
                               weights, columns * 4, 0);
                for (long i = 0; i < real; i++) {
                    float *row = weights + i * columns;
                    leave_out_avx512_bf16(row, r + i, n, columns, batch->window);
                    vec most = AT(row), sum = {0};
                    for (long j = V; j < columns; j += V)
                        most = greater_avx512_bf16(AT(row + j), most);
                    const float top = top_avx512_bf16(most) * scale;
                    for (long j = 0; j < columns; j += V) {
                        AT(row + j) = power_of_two_avx512_bf16(AT(row + j) * scale - top);
                        sum += AT(row + j);
                    }
                    const float all = total_avx512_bf16(sum);
                    factors[i] = batch->kept / all;
                    if (log_sums) log_sums[(first + r + i) * heads + h] = top + log2f(all);
                    zero(row, n, next_row(&dropped, counted), &dropped, counted);
                    for (long j = 0; j < columns; j += 32)
                        _mm512_storeu_si512(low + (i * columns + j) / 2,
                                            to_bfloat16(AT(row + j), AT(row + j + V)));
                }
                multiply_tiles(32, wide, columns / 32, low, columns * 2, v, wide * 4, out, wide * 4,
                               0);
                for (long i = 0; i < real; i++)
                    store_avx512_bf16(piece.width, out + i * wide, factors[i], 1,
                                      output + at + (r + i) * piece.stride);
            }
            next_row(&dropped, (counted - n) * counted);
        }
    }
    give_tiles_back(&before);
}

struct block { /* of 32 queries, and all keys, in the backward pass */
    long keys, first, window;
    float scale;
    const float *scores; /* (keys, 32), not scaled */
    const float *d_weights;
    const float *log_sums; /* (32,), infinite for queries that are not there */
};

/* Weights, and gradients of scores, as rows of bfloat16 (keys, stride), and the latter also as a
   right operand that is summed over keys. */
INLINE void gradients_of_scores(const struct block *block, long stride, float *weights,
                                uint16_t *low_weights, uint16_t *d_scores, uint32_t *d_pairs)
{
    vec mean[2] = {{0}, {0}};
    for (long i = 0; i < block->keys; i++)
        for (long j = 0; j < 2; j++) {
            const long at = i * 32 + j * V;
            vec scores = AT(block->scores + at);
            if (block->window)
                for (long k = 0; k < V; k++)
                    if (labs(i - (block->first + j * V + k)) >= block->window)
                        scores[k] = -INFINITY;
            AT(weights + at) = power_of_two_avx512_bf16(scores * block->scale -
                                                        AT(block->log_sums + j * V));
            mean[j] += AT(weights + at) * AT(block->d_weights + at);
        }
    for (long i = 0; i < round_up(block->keys, 32); i += 2) {
        __m512i both[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
        for (long j = 0; j < 2; j++) {
            __m512i row = both[j];
            if (i + j < block->keys) {
                const float *w = weights + (i + j) * 32, *d = block->d_weights + (i + j) * 32;
                row = to_bfloat16(AT(w), AT(w + V));
                both[j] = to_bfloat16((AT(d) - mean[0]) * AT(w), (AT(d + V) - mean[1]) * AT(w + V));
            }
            _mm512_storeu_si512(low_weights + (i + j) * stride, row);
            _mm512_storeu_si512(d_scores + (i + j) * stride, both[j]);
        }
        uint32_t *units = d_pairs + i / 2 * stride;
        pair(both[0], both[1], units, units + 16);
    }
}

static TARGET void backward_amx(const struct batch *batch, const char *query, const char *key,
                                const char *value, const float *log_sums, const char *grad,
                                char *d_query, char *d_key, char *d_value, uint32_t *space)
{
    const long heads = batch->heads, wide = round_up(batch->width, 32);
    const float factor = batch->scale * batch->kept;
    struct dropped dropped = {batch->places, batch->places + batch->dropped, 0};
    struct piece piece = piece_of(batch);
    struct tiles before;
    take_tiles(&before);
    for (long s = 0, first = 0; s < batch->sequences; first += batch->lengths[s++]) {
        const long n = piece.rows = batch->lengths[s], counted = batch->counted[s];
        const long columns = round_up(n, 32), matrix = columns * wide / 2;
        const long most = columns < MANY ? columns : MANY;
        uint32_t *rows = space, *k = rows + matrix, *v = k + matrix, *k_t = v + matrix;
        uint32_t *q_t = k_t + matrix, *g_t = q_t + matrix, *q = g_t + matrix, *g = q + matrix;
        uint32_t *low = g + matrix, *d_low = low + columns * most / 2;
        uint32_t *d_pairs = d_low + columns * most / 2;
        float *scores = (float *)(d_pairs + columns * most / 2), *d_weights = scores + 32 * columns;
        float *d_k = d_weights + 32 * columns, *d_v = d_k + columns * wide;
        float *d_q_t = d_v + columns * wide, *d_q = d_q_t + most * wide;
        for (long h = 0; h < heads; h++) {
            const long at = first * piece.stride + h * piece.width * piece.size;
            pack_rows(&piece, key + at, wide, (uint16_t *)k);
            pair_rows(columns, wide, (const uint16_t *)k, rows);
            transpose_units(columns / 2, wide, rows, k_t);
            pack_rows(&piece, value + at, wide, (uint16_t *)v);
            pack_rows(&piece, query + at, wide, (uint16_t *)rows);
            transpose_units(columns, wide / 2, rows, q_t);
            pair_rows(columns, wide, (const uint16_t *)rows, q);
            pack_rows(&piece, grad + at, wide, (uint16_t *)rows);
            transpose_units(columns, wide / 2, rows, g_t);
            pair_rows(columns, wide, (const uint16_t *)rows, g);
            for (long c = 0; c < n; c += most) {
                const long held = columns - c < most ? columns - c : most;
                for (long r = c; r < c + held; r += 32) {
                    const long real = n - r < 32 ? n - r : 32;
                    const int64_t *places[33];
                    float sums[32];
                    multiply_tiles(columns, 32, wide / 32, k, wide * 2, q_t + r, columns * 4,
                                   scores, 128, 0);
                    multiply_tiles(columns, 32, wide / 32, v, wide * 2, g_t + r, columns * 4,
                                   d_weights, 128, 0);
                    const int64_t start = dropped.seen;
                    for (long i = 0; i < 32; i++) {
                        places[i] = i < real ? next_row(&dropped, counted) : dropped.next;
                        sums[i] = i < real ? log_sums[(first + r + i) * heads + h] : INFINITY;
                    }
                    places[32] = dropped.next;
                    for (long i = 0; i < real; i++)
                        for (const int64_t *place = places[i]; place < places[i + 1]; place++) {
                            const int64_t which = *place - start - i * counted;
                            if (which < n) d_weights[which * 32 + i] = 0;
                        }
                    const struct block block = {n, r, batch->window, batch->scale * LOG2_E, scores,
                                                d_weights, sums};
                    uint16_t *kept = (uint16_t *)low + (r - c);
                    gradients_of_scores(&block, held, scores, kept, (uint16_t *)d_low + (r - c),
                                        d_pairs + (r - c));
                    for (long i = 0; i < real; i++)
                        for (const int64_t *place = places[i]; place < places[i + 1]; place++) {
                            const int64_t which = *place - start - i * counted;
                            if (which < n) kept[which * held + i] = 0;
                        }
                }
                multiply_tiles(columns, wide, held / 32, low, held * 2, g + c / 2 * wide, wide * 4,
                               d_v, wide * 4, c > 0);
                multiply_tiles(columns, wide, held / 32, d_low, held * 2, q + c / 2 * wide,
                               wide * 4, d_k, wide * 4, c > 0);
                multiply_tiles(wide, held, columns / 32, k_t, columns * 2, d_pairs, held * 4, d_q_t,
                               held * 4, 0);
                transpose_units(wide, held, (const uint32_t *)d_q_t, (uint32_t *)d_q);
                for (long i = 0; i < held && c + i < n; i++)
                    store_avx512_bf16(piece.width, d_q + i * wide, factor, 1,
                                      d_query + at + (c + i) * piece.stride);
            }
            for (long i = 0; i < n; i++) {
                const long row = at + i * piece.stride;
                store_avx512_bf16(piece.width, d_k + i * wide, factor, 1, d_key + row);
                store_avx512_bf16(piece.width, d_v + i * wide, batch->kept, 1, d_value + row);
            }
            next_row(&dropped, (counted - n) * counted);
        }
    }
    give_tiles_back(&before);
}
