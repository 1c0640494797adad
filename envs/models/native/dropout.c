/* Which elements dropout drops; dropout.py says what is drawn, and draws the same without this. */

#include <stdint.h>

/* The number that follows `seed` in splitmix64 (Steele et al. 2014) by `step` numbers. */
static inline uint64_t splitmix64(uint64_t seed, uint64_t step)
{
    uint64_t x = seed + step * 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* Writes ascending places below `count`; how many, or -1 if they are more than `room`. Gaps are of
   one byte or of two. */
int64_t nmg_draw_dropped(uint64_t seed, int64_t count, const void *gaps, int wide, int64_t room,
                         int64_t *places)
{
    int64_t drawn = 0, last = -1;
    for (uint64_t step = 1; drawn + 4 <= room; step++) {
        const uint64_t word = splitmix64(seed, step);
        for (int i = 0; i < 64; i += 16) {
            const uint16_t quantile = word >> i;
            last += wide ? ((const uint16_t *)gaps)[quantile] : ((const uint8_t *)gaps)[quantile];
            if (last >= count) return drawn;
            places[drawn++] = last;
        }
    }
    return -1;
}
