/* Attention for one instruction set.

   Operands of products are arrays of units of 32 bits: a float, or two bfloat16 that follow one
   another in the dimension that is summed over. A left operand may be read along either of its
   dimensions; a right one, (depth, columns), is read in vectors along its columns. */

INLINE vec NAME(multiplied)(vec sum, uint32_t left, vec right)
{
#if PAIRS
    return (vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(left), (__m512bh)right);
#else
    return sum + as_float(left) * right;
#endif
}

/* A tile of c = a b or c += a b, (ROWS, vectors * V). */
INLINE void NAME(tile)(const int vectors, long depth, const uint32_t *a, long a_row, long a_column,
                       const uint32_t *b, long b_row, float *c, long c_row, int add)
{
    vec sum[ROWS][2];
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < vectors; j++) sum[i][j] = add ? AT(c + i * c_row + j * V) : (vec){0};
    for (long k = 0; k < depth; k++) {
        vec right[2];
        for (int j = 0; j < vectors; j++) right[j] = AT(b + k * b_row + j * V);
#pragma GCC unroll 16
        for (int i = 0; i < ROWS; i++)
            for (int j = 0; j < vectors; j++)
                sum[i][j] = NAME(multiplied)(sum[i][j], a[i * a_row + k * a_column], right[j]);
    }
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < vectors; j++) AT(c + i * c_row + j * V) = sum[i][j];
}

/* c = a b or c += a b, a (rows, depth), b (depth, columns); rows in ROWS, columns in V. */
static TARGET void NAME(product)(long rows, long columns, long depth, const uint32_t *a, long a_row,
                                 long a_column, const uint32_t *b, float *c, int add)
{
    for (long j = 0; j < columns; j += 2 * V)
        for (long i = 0; i < rows; i += ROWS) {
            const uint32_t *left = a + i * a_row;
            float *to = c + i * columns + j;
            if (j + 2 * V <= columns)
                NAME(tile)(2, depth, left, a_row, a_column, b + j, columns, to, columns, add);
            else
                NAME(tile)(1, depth, left, a_row, a_column, b + j, columns, to, columns, add);
        }
}

INLINE void NAME(load)(long n, const char *from, int low, float *to)
{
    if (low)
        for (long i = 0; i < n; i++) to[i] = as_float((uint32_t)((const uint16_t *)from)[i] << 16);
    else
        memcpy(to, from, n * 4);
}

INLINE void NAME(store)(long n, const float *from, float factor, int low, char *to)
{
    long i = 0;
    for (; i + V <= n; i += V)
        NAME(narrowed)(AT(from + i) * factor, low, to + i * (low ? 2 : 4));
    for (; i < n; i++) set_element(from[i] * factor, to, i, low);
}

/* A head's matrix of a sequence, as operands whose rows are `wide` units: `across` is summed over
   its columns, `down` over its rows. They are the same array but for pairs. */
static TARGET void NAME(pack)(const struct piece *piece, const char *from, long wide,
                              uint32_t *across, uint32_t *down)
{
    for (long i = 0; i < piece->rows; i++) {
        const char *row = from + i * piece->stride;
        __builtin_prefetch(row + 12 * piece->stride);
#if PAIRS
        if (across) memcpy(across + i * wide, row, piece->width * 2);
        if (down && i % 2) {
            const uint16_t *second = (const uint16_t *)row;
            const uint16_t *first = (const uint16_t *)(row - piece->stride);
            for (long j = 0; j < piece->width; j++)
                down[i / 2 * wide + j] = first[j] | (uint32_t)second[j] << 16;
        } else if (down && i + 1 == piece->rows)
            for (long j = 0; j < piece->width; j++)
                down[i / 2 * wide + j] = ((const uint16_t *)row)[j];
#else
        NAME(load)(piece->width, row, piece->low, (float *)across + i * wide);
#endif
    }
}

/* Of the units of (n, wide) the first `depth` of each row, as (depth, columns). */
static TARGET void NAME(transpose)(long n, long depth, const uint32_t *from, long wide,
                                   uint32_t *to, long columns)
{
    for (long i = 0; i < n; i += 8)
        for (long j = 0; j < depth; j++)
            for (long k = i; k < (i + 8 < n ? i + 8 : n); k++)
                to[j * columns + k] = from[k * wide + j];
    for (long j = 0; j < depth; j++) memset(to + j * columns + n, 0, (columns - n) * 4);
}

/* Floats (rows, columns) as a left operand that is summed over its columns; pairs are written to
   `space`, (rows, columns / 2). */
static TARGET const uint32_t *NAME(by_columns)(long rows, long columns, const float *from,
                                               uint32_t *space)
{
#if PAIRS
    for (long at = 0; at < rows * columns; at += V)
        _mm256_storeu_si256((__m256i *)(space + at / 2),
                            (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(from + at)));
    return space;
#else
    return (const uint32_t *)from;
#endif
}

/* The same, summed over its rows; pairs are (rows / 2, columns). */
static TARGET const uint32_t *NAME(by_rows)(long rows, long columns, const float *from,
                                            uint32_t *space)
{
#if PAIRS
    for (long i = 0; i < rows; i += 2)
        for (long j = 0; j < columns; j += V) {
            const float *x = from + i * columns + j;
            __m512i first = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(x)));
            __m512i second = _mm512_cvtepu16_epi32(
                (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(x + columns)));
            _mm512_storeu_si512(space + i / 2 * columns + j,
                                _mm512_or_si512(first, _mm512_slli_epi32(second, 16)));
        }
    return space;
#else
    return (const uint32_t *)from;
#endif
}

/* The scores of query i for keys that it does not look at, made negligible. */
INLINE void NAME(leave_out)(float *row, long i, long n, long columns, long window)
{
    for (long j = n; j < columns; j++) row[j] = -INFINITY;
    if (!window) return;
    for (long j = 0; j <= i - window; j++) row[j] = -INFINITY;
    for (long j = i + window; j < n; j++) row[j] = -INFINITY;
}

static TARGET void NAME(forward)(const struct batch *batch, const char *query, const char *key,
                                 const char *value, char *output, float *log_sums, uint32_t *space)
{
    const long heads = batch->heads, wide = round_up(batch->width, V);
    const long depth = PAIRS ? (batch->width + 1) / 2 : batch->width;
    const float scale = batch->scale * LOG2_E; /* weights are powers of two */
    struct dropped dropped = {batch->places, batch->places + batch->dropped, 0};
    struct piece piece = piece_of(batch);
    for (long s = 0, first = 0; s < batch->sequences; first += batch->lengths[s++]) {
        const long n = piece.rows = batch->lengths[s], counted = batch->counted[s];
        const long columns = round_up(n, V), matrix = columns * wide;
        uint32_t *q = space, *v = q + matrix, *k = v + matrix, *k_t = k + matrix;
        float *weights = (float *)(k_t + matrix), *out = weights + BLOCK * columns;
        uint32_t *left = (uint32_t *)(out + BLOCK * wide);
        memset(space, 0, 3 * matrix * 4);
        for (long h = 0; h < heads; h++) {
            const long at = first * piece.stride + h * piece.width * piece.size;
            NAME(pack)(&piece, query + at, wide, q, NULL);
            NAME(pack)(&piece, key + at, wide, k, NULL);
            NAME(pack)(&piece, value + at, wide, PAIRS ? NULL : v, v);
            NAME(transpose)(n, depth, k, wide, k_t, columns);
            for (long r = 0; r < n; r += BLOCK) {
                const long real = n - r < BLOCK ? n - r : BLOCK, rows = round_up(real, ROWS);
                float factors[BLOCK];
                NAME(product)(rows, columns, depth, q + r * wide, wide, 1, k_t, weights, 0);
                for (long i = 0; i < real; i++) {
                    float *row = weights + i * columns;
                    NAME(leave_out)(row, r + i, n, columns, batch->window);
                    vec most = AT(row), sum = {0};
                    for (long j = V; j < columns; j += V) most = NAME(greater)(AT(row + j), most);
                    const float top = NAME(top)(most) * scale;
                    for (long j = 0; j < columns; j += V) {
                        AT(row + j) = NAME(power_of_two)(AT(row + j) * scale - top);
                        sum += AT(row + j);
                    }
                    const float all = NAME(total)(sum);
                    factors[i] = batch->kept / all;
                    if (log_sums) log_sums[(first + r + i) * heads + h] = top + log2f(all);
                    zero(row, n, next_row(&dropped, counted), &dropped, counted);
                }
                NAME(product)(rows, wide, PAIRS ? (n + 1) / 2 : n,
                              NAME(by_columns)(rows, columns, weights, left),
                              PAIRS ? columns / 2 : columns, 1, v, out, 0);
                for (long i = 0; i < real; i++)
                    NAME(store)(piece.width, out + i * wide, factors[i], piece.low,
                                output + at + (r + i) * piece.stride);
            }
            next_row(&dropped, (counted - n) * counted);
        }
    }
}

static TARGET void NAME(backward)(const struct batch *batch, const char *query, const char *key,
                                  const char *value, const float *log_sums, const char *grad,
                                  char *d_query, char *d_key, char *d_value, uint32_t *space)
{
    const long heads = batch->heads, wide = round_up(batch->width, V);
    const long depth = PAIRS ? (batch->width + 1) / 2 : batch->width;
    const float factor = batch->scale * batch->kept;
    const float scale = batch->scale * LOG2_E; /* weights are powers of two */
    struct dropped dropped = {batch->places, batch->places + batch->dropped, 0};
    struct piece piece = piece_of(batch);
    for (long s = 0, first = 0; s < batch->sequences; first += batch->lengths[s++]) {
        const long n = piece.rows = batch->lengths[s], counted = batch->counted[s];
        const long columns = round_up(n, V), matrix = columns * wide, block = BLOCK * columns;
        uint32_t *q = space, *g = q + matrix, *k = g + matrix, *v = k + matrix;
        uint32_t *q_down = PAIRS ? v + matrix : q, *g_down = PAIRS ? q_down + matrix : g;
        uint32_t *k_down = PAIRS ? g_down + matrix : k;
        uint32_t *k_t = (PAIRS ? k_down : v) + matrix, *v_t = k_t + matrix;
        float *d_k = (float *)(v_t + matrix), *d_v = d_k + matrix;
        float *weights = d_v + matrix, *d_scores = weights + block, *d_q = d_scores + block;
        uint32_t *left = (uint32_t *)(d_q + BLOCK * wide);
        memset(space, 0, (PAIRS ? 7 : 4) * matrix * 4);
        for (long h = 0; h < heads; h++) {
            const long at = first * piece.stride + h * piece.width * piece.size;
            NAME(pack)(&piece, query + at, wide, q, q_down);
            NAME(pack)(&piece, grad + at, wide, g, g_down);
            NAME(pack)(&piece, key + at, wide, k, k_down);
            NAME(pack)(&piece, value + at, wide, v, NULL);
            NAME(transpose)(n, depth, k, wide, k_t, columns);
            NAME(transpose)(n, depth, v, wide, v_t, columns);
            memset(d_k, 0, 2 * matrix * 4);
            for (long r = 0; r < n; r += BLOCK) {
                const long real = n - r < BLOCK ? n - r : BLOCK, rows = round_up(real, ROWS);
                const long down = PAIRS ? r / 2 : r, summed = PAIRS ? (real + 1) / 2 : real;
                NAME(product)(rows, columns, depth, q + r * wide, wide, 1, k_t, weights, 0);
                NAME(product)(rows, columns, depth, g + r * wide, wide, 1, v_t, d_scores, 0);
                for (long i = 0; i < real; i++) {
                    float *w = weights + i * columns, *d = d_scores + i * columns;
                    const float log_sum = log_sums[(first + r + i) * heads + h];
                    const int64_t *places = next_row(&dropped, counted);
                    zero(d, n, places, &dropped, counted);
                    NAME(leave_out)(w, r + i, n, columns, batch->window);
                    vec both = {0};
                    for (long j = 0; j < columns; j += V) {
                        AT(w + j) = NAME(power_of_two)(AT(w + j) * scale - log_sum);
                        both += AT(w + j) * AT(d + j);
                    }
                    const float mean = NAME(total)(both);
                    for (long j = 0; j < columns; j += V)
                        AT(d + j) = (AT(d + j) - mean) * AT(w + j);
                    zero(w, n, places, &dropped, counted);
                }
                NAME(product)(columns, wide, summed, NAME(by_rows)(rows, columns, weights, left),
                              1, columns, g_down + down * wide, d_v, 1);
                NAME(product)(columns, wide, summed, NAME(by_rows)(rows, columns, d_scores, left),
                              1, columns, q_down + down * wide, d_k, 1);
                NAME(product)(rows, wide, PAIRS ? (n + 1) / 2 : n,
                              NAME(by_columns)(rows, columns, d_scores, left),
                              PAIRS ? columns / 2 : columns, 1, k_down, d_q, 0);
                for (long i = 0; i < real; i++)
                    NAME(store)(piece.width, d_q + i * wide, factor, piece.low,
                                d_query + at + (r + i) * piece.stride);
            }
            for (long i = 0; i < n; i++) {
                const long row = at + i * piece.stride;
                NAME(store)(piece.width, d_k + i * wide, factor, piece.low, d_key + row);
                NAME(store)(piece.width, d_v + i * wide, batch->kept, piece.low, d_value + row);
            }
            next_row(&dropped, (counted - n) * counted);
        }
    }
}
