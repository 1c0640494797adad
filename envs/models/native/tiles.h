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
#else
#define HAS_AMX 0
#endif
