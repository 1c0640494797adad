/* Vectors of one instruction set, for the kernels that follow in the same file; sets.h says what is
   defined here. */

typedef float NAME(vec) __attribute__((vector_size(4 * V), aligned(4)));
typedef int32_t NAME(bits) __attribute__((vector_size(4 * V), aligned(4)));
typedef uint16_t NAME(halves) __attribute__((vector_size(2 * V), aligned(2)));

/* e^x for x <= 0; 0 below -87. As 2^n e^r, |r| <= log(2) / 2, e^r by its series. */
INLINE vec NAME(exponential)(vec x)
{
    const float rounds = 12582912.0f; /* 1.5 * 2^23: added and taken away */
    vec n = x * 1.44269504f + rounds;
    bits power = (bits)n << 23;
    n -= rounds;
    vec r = x - n * 0.693145752f - n * 1.42860677e-6f; /* log(2) in two parts */
    vec sum = (vec){0} + 1.0f / 720;
    sum = sum * r + 1.0f / 120;
    sum = sum * r + 1.0f / 24;
    sum = sum * r + 1.0f / 6;
    sum = sum * r + 0.5f;
    sum = sum * r + 1.0f;
    sum = sum * r + 1.0f;
    return (vec)(((bits)sum + power) & ~(x < -87.0f));
}

INLINE float NAME(total)(vec x)
{
    float sum = 0;
    for (int i = 0; i < V; i++) sum += x[i];
    return sum;
}

INLINE vec NAME(greater)(vec x, vec y)
{
    const bits first = x > y;
    return (vec)(((bits)x & first) | ((bits)y & ~first));
}

INLINE float NAME(top)(vec x)
{
    float most = x[0];
    for (int i = 1; i < V; i++) most = x[i] > most ? x[i] : most;
    return most;
}

/* V elements, float32 or bfloat16. */
INLINE vec NAME(widened)(const char *from, int low)
{
    if (!low) return AT(from);
    return (vec)(__builtin_convertvector(*(const NAME(halves) *)from, bits) << 16);
}

INLINE void NAME(narrowed)(vec x, int low, char *to)
{
    if (!low) {
        AT(to) = x;
        return;
    }
    const bits whole = (bits)x;
    const bits rounded = whole + 0x7fff + ((whole >> 16) & 1); /* to nearest, ties to even */
    *(NAME(halves) *)to = __builtin_convertvector(rounded >> 16, NAME(halves));
}
