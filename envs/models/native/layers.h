/* What stands between a layer's matrix products, for one instruction set. */

INLINE float NAME(row_mean)(const float *row, long n)
{
    vec sum = {0};
    for (long j = 0; j < n; j += V) sum += AT(row + j);
    return NAME(total)(sum) / n;
}

static TARGET void NAME(join_forward)(const struct join *join, const char *x, const float *bias,
                                      const float *residual, const float *gain, const float *shift,
                                      float *normal, float *inverse, float *output,
                                      char *low_output)
{
    const long n = join->width, size = join->low ? 2 : 4;
    struct dropped dropped = {join->places, join->places + join->dropped, 0};
    for (long i = 0; i < join->rows; i++) {
        float *row = output + i * n, *kept = normal ? normal + i * n : row;
        for (long j = 0; j < n; j += V)
            AT(row + j) = (NAME(widened)(x + (i * n + j) * size, join->low) + AT(bias + j)) *
                          join->kept;
        zero(row, n, next_row(&dropped, n), &dropped, n);
        for (long j = 0; j < n; j += V) AT(row + j) += AT(residual + i * n + j);
        const float mean = NAME(row_mean)(row, n);
        vec squares = {0};
        for (long j = 0; j < n; j += V) {
            AT(row + j) -= mean;
            squares += AT(row + j) * AT(row + j);
        }
        const float by = 1.0f / sqrtf(NAME(total)(squares) / n + join->epsilon);
        if (inverse) inverse[i] = by;
        for (long j = 0; j < n; j += V) {
            const vec unit = AT(row + j) * by;
            AT(kept + j) = unit;
            AT(row + j) = unit * AT(gain + j) + AT(shift + j);
            if (low_output) NAME(narrowed)(AT(row + j), 1, low_output + (i * n + j) * 2);
        }
    }
}

static TARGET void NAME(join_backward)(const struct join *join, const float *grad,
                                       const float *normal, const float *inverse,
                                       const float *gain, char *d_x, float *d_residual,
                                       float *d_bias, float *d_gain, float *d_shift)
{
    const long n = join->width, size = join->low ? 2 : 4;
    struct dropped dropped = {join->places, join->places + join->dropped, 0};
    for (long i = 0; i < join->rows; i++) {
        const float *g = grad + i * n, *unit = normal + i * n;
        float row[n];
        vec sum = {0}, both = {0};
        for (long j = 0; j < n; j += V) {
            const vec at = AT(g + j), product = at * AT(unit + j);
            AT(d_shift + j) += at;
            AT(d_gain + j) += product;
            sum += at * AT(gain + j);
            both += product * AT(gain + j);
        }
        const float mean = NAME(total)(sum) / n, slope = NAME(total)(both) / n;
        for (long j = 0; j < n; j += V) {
            const vec d = (AT(g + j) * AT(gain + j) - mean - AT(unit + j) * slope) * inverse[i];
            AT(d_residual + i * n + j) = d;
            AT(row + j) = d * join->kept;
        }
        zero(row, n, next_row(&dropped, n), &dropped, n);
        for (long j = 0; j < n; j += V) {
            AT(d_bias + j) += AT(row + j);
            NAME(narrowed)(AT(row + j), join->low, d_x + (i * n + j) * size);
        }
    }
}

/* The normal distribution's share below x: erfc by Abramowitz and Stegun 7.1.26 (error 1.5e-7);
   `density` is e^(-x^2 / 2). */
INLINE vec NAME(share_below)(vec x, vec *density)
{
    const bits negative = x < 0;
    const vec size = (vec)((bits)x & 0x7fffffff);
    *density = NAME(exponential)(x * x * -0.5f);
    const vec t = 1.0f / (1.0f + 0.231641888f * size); /* 0.3275911 / sqrt(2) */
    vec sum = (vec){0} + 0.5307027145f; /* half of the coefficients */
    sum = sum * t - 0.7265760135f;
    sum = sum * t + 0.7107068705f;
    sum = sum * t - 0.142248368f;
    sum = sum * t + 0.127414796f;
    const vec tail = sum * t * *density;
    return (vec)(((bits)tail & negative) | ((bits)(1.0f - tail) & ~negative));
}

static TARGET void NAME(gelu_forward)(long rows, long n, int low, const char *x, const float *bias,
                                      char *output)
{
    const long size = low ? 2 : 4;
    for (long i = 0; i < rows; i++)
        for (long j = 0; j < n; j += V) {
            const long at = (i * n + j) * size;
            const vec in = NAME(widened)(x + at, low) + AT(bias + j);
            vec density;
            NAME(narrowed)(in * NAME(share_below)(in, &density), low, output + at);
        }
}

static TARGET void NAME(gelu_backward)(long rows, long n, int low, const char *grad, const char *x,
                                       const float *bias, char *d_x, float *d_bias)
{
    const long size = low ? 2 : 4;
    for (long i = 0; i < rows; i++)
        for (long j = 0; j < n; j += V) {
            const long at = (i * n + j) * size;
            const vec in = NAME(widened)(x + at, low) + AT(bias + j);
            vec density;
            const vec share = NAME(share_below)(in, &density);
            const vec d = NAME(widened)(grad + at, low) *
                          (share + in * density * 0.398942280f); /* 1 / sqrt(2 pi) */
            AT(d_bias + j) += d;
            NAME(narrowed)(d, low, d_x + at);
        }
}

/* The last elements of a row, fewer than V of them, and `fill`. */
INLINE vec NAME(rest)(long count, const char *from, int low, float fill)
{
    vec x = (vec){0} + fill;
    for (long j = 0; j < count; j++) x[j] = element(from, j, low);
    return x;
}

static TARGET void NAME(losses_forward)(long rows, long n, int low, const char *logits,
                                        const int64_t *targets, float *log_sums, float *losses)
{
    const long size = low ? 2 : 4, whole = n / V * V;
    for (long i = 0; i < rows; i++) {
        const char *row = logits + i * n * size;
        const vec rest = NAME(rest)(n - whole, row + whole * size, low, -INFINITY);
        vec most = rest;
        for (long j = 0; j < whole; j += V)
            most = NAME(greater)(NAME(widened)(row + j * size, low), most);
        const float top = NAME(top)(most);
        vec sum = NAME(exponential)(rest - top);
        for (long j = 0; j < whole; j += V)
            sum += NAME(exponential)(NAME(widened)(row + j * size, low) - top);
        log_sums[i] = top + logf(NAME(total)(sum));
        losses[i] = log_sums[i] - element(row, targets[i], low);
    }
}

static TARGET void NAME(losses_backward)(long rows, long n, int low, const char *logits,
                                         const int64_t *targets, const float *log_sums,
                                         const float *grad, char *d_logits)
{
    const long size = low ? 2 : 4, whole = n / V * V;
    for (long i = 0; i < rows; i++) {
        const char *row = logits + i * n * size;
        char *to = d_logits + i * n * size;
        for (long j = 0; j < whole; j += V) {
            const vec at = NAME(widened)(row + j * size, low);
            NAME(narrowed)(NAME(exponential)(at - log_sums[i]) * grad[i], low, to + j * size);
        }
        const vec rest = NAME(rest)(n - whole, row + whole * size, low, -INFINITY);
        const vec last = NAME(exponential)(rest - log_sums[i]) * grad[i];
        for (long j = whole; j < n; j++) set_element(last[j - whole], to, j, low);
        const float right = expf(element(row, targets[i], low) - log_sums[i]);
        set_element((right - 1.0f) * grad[i], to, targets[i], low);
    }
}
