/* The registers of matrix instructions (AMX), of 16 rows of 64 bytes each. */

#if defined(__x86_64__) && defined(__linux__) && (defined(__clang__) || __GNUC__ > 10)
#define HAS_AMX 1
#include <immintrin.h>

#undef TARGET
#define TARGET \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma,amx-tile,amx-bf16")))
#undef INLINE
#define INLINE static inline __attribute__((always_inline)) TARGET

struct tiles { /* as the processor reads it */
    uint8_t palette, start, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
};

/* The compiler does not know which memory tiles are read from and written to. */
#define MEMORY_IS_USED __asm__ volatile("" ::: "memory")

/* The eight tiles become 16 x 64 bytes; `before` is to be given back. */
INLINE void take_tiles(struct tiles *before)
{
    struct tiles ours = {.palette = 1};
    for (int i = 0; i < 8; i++) ours.bytes[i] = 64, ours.rows[i] = 16;
    _tile_storeconfig(before);
    MEMORY_IS_USED;
    _tile_loadconfig(&ours);
}

INLINE void give_tiles_back(const struct tiles *before)
{
    MEMORY_IS_USED;
    if (before->palette)
        _tile_loadconfig(before);
    else
        _tile_release();
}

/* Two rows of bfloat16, (2, 32), as units of 32 bits that hold one of each, (16,) and (16,). */
INLINE void pair(__m512i first, __m512i second, uint32_t *units, uint32_t *more)
{
    const __m512i places = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9,
                                            40, 8, 39, 7, 38, 6, 37, 5, 36, 4, 35, 3, 34, 2, 33, 1,
                                            32, 0);
    const __m512i half = _mm512_set1_epi16(16);
    _mm512_storeu_si512(units, _mm512_permutex2var_epi16(first, places, second));
    _mm512_storeu_si512(
        more, _mm512_permutex2var_epi16(first, _mm512_add_epi16(places, half), second));
}
#else
#define HAS_AMX 0
#endif
