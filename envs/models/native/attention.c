/* Attention within the sequences of a packed batch, with dropout, and its gradients. One thread.

   A block of queries at a time against all keys of their sequence and head, so that scores never
   leave the cache; the backward pass computes them again (FlashAttention, Dao et al. 2022,
   algorithms 2 and 4, without tiling the keys: sequences are short). attention.py has the
   equations; products, the softmax and their sums are in float32, operands of products in float32
   or, where the processor multiplies it, bfloat16. */

#include <stdint.h>

#define BLOCK 32 /* queries; even, and a multiple of every ROWS */

struct batch {
    int64_t sequences, heads, width; /* of a head */
    int64_t rows;                    /* of the tensors: those after the sequences are zeroed */
    int64_t low;                     /* tensors are bfloat16, else float32 */
    int64_t window;                  /* a query's keys are fewer places away than this; 0: all are */
    int64_t dropped;                 /* how many weights */
    const int64_t *lengths;          /* (sequences,) */
    const int64_t *counted;          /* (sequences,): keys, and queries, as places count them */
    const int64_t *places;           /* (dropped,), ascending, through all weights that count */
    float scale, kept;               /* of scores; 1 / (1 - rate) */
};

struct piece { /* what a head has of a sequence */
    long rows, width, low, size, stride; /* size of an element and stride of a row, in bytes */
};

static struct piece piece_of(const struct batch *batch)
{
    const long size = batch->low ? 2 : 4;
    return (struct piece){0, batch->width, batch->low, size, batch->heads * batch->width * size};
}

static long round_up(long n, long to) { return (n + to - 1) / to * to; }

#define KERNELS "attention.h"
#include "sets.h"

#include "tiles.h"
#if HAS_AMX
#include "amx.h"
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Whether the processor multiplies tiles of bfloat16, and Linux, which must be asked, lets it. */
static int takes_tiles(void)
{
    const unsigned bfloat16 = 1u << 22, tiles = 1u << 24;
    const long request = 0x1023, data = 18; /* ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA */
    unsigned a, b, c, d = 0;
    __get_cpuid_count(7, 0, &a, &b, &c, &d);
    return (d & bfloat16) && (d & tiles) && !syscall(SYS_arch_prctl, request, data);
}
#elif defined(__x86_64__)
static int takes_tiles(void) { return 0; }
#endif

/* The best instruction set that this processor has. */
int nmg_best(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        return !__builtin_cpu_supports("avx512bf16") ? AVX512 : takes_tiles() ? AMX : AVX512_BF16;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return AVX2;
#endif
    return ANY;
}

/* Units enough for the longest sequence; kept for the thread's next call. NULL without memory. */
static uint32_t *workspace(const struct batch *batch)
{
    static _Thread_local uint32_t *space;
    static _Thread_local long size;
    long longest = 0;
    for (long s = 0; s < batch->sequences; s++)
        if (batch->lengths[s] > longest) longest = batch->lengths[s];
    const long columns = round_up(longest, 32), wide = round_up(batch->width, 32);
    const long needed = 11 * columns * wide + 3 * BLOCK * columns + 512 * (columns + wide);
    if (needed > size) {
        free(space);
        space = aligned_alloc(64, 4 * needed);
        size = space ? needed : 0;
    }
    return space;
}

static void zero_filling(const struct batch *batch, char *tensor)
{
    const long stride = batch->heads * batch->width * (batch->low ? 2 : 4);
    long used = 0;
    for (long s = 0; s < batch->sequences; s++) used += batch->lengths[s];
    memset(tensor + used * stride, 0, (batch->rows - used) * stride);
}

/* Tensors are contiguous (tokens, heads, width), log_sums (tokens, heads) or NULL where no gradient
   is wanted. 1 if there is no memory, else 0. */
int nmg_forward(const struct batch *batch, int set, const char *query, const char *key,
                const char *value, char *output, float *log_sums)
{
    uint32_t *space = workspace(batch);
    if (!space) return 1;
#if HAS_AMX
    if (set == AMX && batch->low)
        forward_amx(batch, query, key, value, output, log_sums, space);
    else
#endif
        CALL(forward, set, batch->low, batch, query, key, value, output, log_sums, space);
    zero_filling(batch, output);
    return 0;
}

int nmg_backward(const struct batch *batch, int set, const char *query, const char *key,
                 const char *value, const float *log_sums, const char *grad, char *d_query,
                 char *d_key, char *d_value)
{
    uint32_t *space = workspace(batch);
    if (!space) return 1;
#if HAS_AMX
    if (set == AMX && batch->low)
        backward_amx(batch, query, key, value, log_sums, grad, d_query, d_key, d_value, space);
    else
#endif
        CALL(backward, set, batch->low, batch, query, key, value, log_sums, grad, d_query, d_key,
             d_value, space);
    zero_filling(batch, d_query);
    zero_filling(batch, d_key);
    zero_filling(batch, d_value);
    return 0;
}
