/* Vectors of one instruction set, for the kernels that follow in the same file; sets.h says what is
   defined here. */

typedef float NAME(vec) __attribute__((vector_size(4 * V), aligned(4)));
typedef int32_t NAME(bits) __attribute__((vector_size(4 * V), aligned(4)));
typedef uint16_t NAME(halves) __attribute__((vector_size(2 * V), aligned(2)));

/* 2^x for x <= 0; 0 below -125.5. As 2^n 2^r, |r| <= 1 / 2, 2^r = e^(r log(2)) by its series. */
INLINE vec NAME(power_of_two)(vec x)
{
    const float rounds = 12582912.0f; /* 1.5 * 2^23: added and taken away */
    const vec n = x + rounds, r = x - (n - rounds);
    vec sum = (vec){0} + 1.54035304e-4f; /* log(2)^6 / 720 */
    sum = sum * r + 1.33335581e-3f;
    sum = sum * r + 9.61812911e-3f;
    sum = sum * r + 5.55041087e-2f;
    sum = sum * r + 2.40226507e-1f;
    sum = sum * r + 6.93147181e-1f;
    sum = sum * r + 1.0f;
    return (vec)(((bits)sum + ((bits)n << 23)) & ~(n < rounds - 125.0f));
}

/* e^x for x <= 0, relatively to |x| 2^-24. */
INLINE vec NAME(exponential)(vec x) { return NAME(power_of_two)(x * LOG2_E); }

INLINE float NAME(total)(vec x)
{
    const union { vec all; quad part[V / 4]; } parts = {x};
    quad sum = parts.part[0];
    for (int i = 1; i < V / 4; i++) sum += parts.part[i];
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

INLINE vec NAME(greater)(vec x, vec y)
{
    const bits first = x > y;
    return (vec)(((bits)x & first) | ((bits)y & ~first));
}

INLINE float NAME(top)(vec x)
{
    const union { vec all; quad part[V / 4]; } parts = {x};
    quad most = parts.part[0];
    for (int i = 1; i < V / 4; i++) {
        const quad_bits first = most > parts.part[i];
        most = (quad)(((quad_bits)most & first) | ((quad_bits)parts.part[i] & ~first));
    }
    const float one = most[0] > most[1] ? most[0] : most[1];
    const float other = most[2] > most[3] ? most[2] : most[3];
    return one > other ? one : other;
}

/* V elements, float32 or bfloat16. */
INLINE vec NAME(widened)(const char *from, int low)
{
    if (!low) return AT(from);
#if V == 16 /* GCC converts halves of it, and slowly */
    const __m256i halves = _mm256_loadu_si256((const __m256i *)from);
    return (vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16);
#else
    return (vec)(__builtin_convertvector(*(const NAME(halves) *)from, bits) << 16);
#endif
}

INLINE void NAME(narrowed)(vec x, int low, char *to)
{
    if (!low) {
        AT(to) = x;
        return;
    }
#if PAIRS
    _mm256_storeu_si256((__m256i *)to, (__m256i)_mm512_cvtneps_pbh((__m512)x));
#else
    const bits whole = (bits)x;
    const bits rounded = whole + 0x7fff + ((whole >> 16) & 1); /* to nearest, ties to even */
#if V == 16
    const __m512i shifted = _mm512_srli_epi32((__m512i)rounded, 16);
    _mm256_storeu_si256((__m256i *)to, _mm512_cvtepi32_epi16(shifted));
#else
    *(NAME(halves) *)to = __builtin_convertvector(rounded >> 16, NAME(halves));
#endif
#endif
}
