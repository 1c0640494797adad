/* Includes the file that KERNELS names once for each instruction set, with

       NAME(x)   the name that x has for it
       TARGET    the attribute that lets the compiler use it
       V         floats in a vector
       ROWS      rows of a tile of a matrix product; divides V
       PAIRS     1 if products are of bfloat16: it multiplies pairs and sums in float32 */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define vec NAME(vec)
#define bits NAME(bits)
#define INLINE static inline __attribute__((always_inline)) TARGET
#define AT(x) (*(vec *)(x))

typedef float quad __attribute__((vector_size(16)));
typedef int32_t quad_bits __attribute__((vector_size(16)));

#define LOG2_E 1.44269504f

enum { ANY, AVX2, AVX512, AVX512_BF16, AMX };

static inline float as_float(uint32_t whole)
{
    float x;
    memcpy(&x, &whole, 4);
    return x;
}

static inline uint16_t bfloat16(float x)
{
    uint32_t whole;
    memcpy(&whole, &x, 4);
    return (whole + 0x7fff + ((whole >> 16) & 1)) >> 16; /* to nearest, ties to even */
}

static inline float element(const char *from, long at, int low)
{
    return low ? as_float((uint32_t)((const uint16_t *)from)[at] << 16) : ((const float *)from)[at];
}

static inline void set_element(float x, char *to, long at, int low)
{
    if (low)
        ((uint16_t *)to)[at] = bfloat16(x);
    else
        ((float *)to)[at] = x;
}

struct dropped { /* places, ascending, of elements that are laid in rows */
    const int64_t *next, *end;
    int64_t seen; /* places */
};

/* Goes on by `counted` places; the first that is dropped of them. */
static inline const int64_t *next_row(struct dropped *dropped, int64_t counted)
{
    const int64_t *first = dropped->next;
    dropped->seen += counted;
    while (dropped->next < dropped->end && *dropped->next < dropped->seen) dropped->next++;
    return first;
}

/* What is dropped of the first n places of the row just entered. */
static inline void zero(float *row, long n, const int64_t *place, const struct dropped *dropped,
                        int64_t counted)
{
    for (; place < dropped->next; place++) {
        const int64_t at = *place - (dropped->seen - counted);
        if (at < n) row[at] = 0;
    }
}

#define NAME(x) x##_any
#define TARGET
#define V 4
#define ROWS 4
#define PAIRS 0
#include "vectors.h"
#include KERNELS

#if defined(__x86_64__)
#include <immintrin.h>
#undef NAME
#undef TARGET
#undef V
#define NAME(x) x##_avx2
#define TARGET __attribute__((target("avx2,fma")))
#define V 8
#include "vectors.h"
#include KERNELS

#undef NAME
#undef TARGET
#undef V
#undef ROWS
#define NAME(x) x##_avx512
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma")))
#define V 16
#define ROWS 8
#include "vectors.h"
#include KERNELS

#undef NAME
#undef TARGET
#undef PAIRS
#define NAME(x) x##_avx512_bf16
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma")))
#define PAIRS 1
#include "vectors.h"
#include KERNELS
#endif

/* Calls f of the set; where there is a choice, `low` says whether anything is bfloat16. */
#if defined(__x86_64__)
#define CALL(f, set, low, ...)                                                       \
    ((set) >= AVX512_BF16 && (low) ? f##_avx512_bf16(__VA_ARGS__)                    \
     : (set) >= AVX512             ? f##_avx512(__VA_ARGS__)                         \
     : (set) == AVX2               ? f##_avx2(__VA_ARGS__)                           \
                                   : f##_any(__VA_ARGS__))
#else
#define CALL(f, set, low, ...) f##_any(__VA_ARGS__)
#endif
