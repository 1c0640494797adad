/* Passes over a layer's states that torch makes one after another, made one: a product's bias,
   dropout, the residual and the normalisation; a bias and GELU; cross-entropy over a vocabulary.
   One thread. States are float32 or bfloat16 (`low`), all else is float32; widths are multiples of
   16 but for the vocabulary's. layers.py has the shapes. */

#include <stdint.h>

struct join {
    int64_t rows, width, low, dropped; /* low: x is bfloat16; dropped: how many places */
    const int64_t *places;             /* of x, ascending */
    float kept, epsilon;               /* 1 / (1 - rate) */
};

#define KERNELS "layers.h"
#include "sets.h"

/* output = normalised(dropout(x + bias) + residual) * gain + shift; `normal`, which may be x, and
   `inverse` are what the backward pass needs, or NULL. */
void nmg_join_forward(const struct join *join, int set, const char *x, const float *bias,
                      const float *residual, const float *gain, const float *shift, float *normal,
                      float *inverse, float *output, char *low_output)
{
    CALL(join_forward, set, join->low, join, x, bias, residual, gain, shift, normal, inverse,
         output, low_output);
}

/* Gradients of parameters are added; d_x may be `normal`. */
void nmg_join_backward(const struct join *join, int set, const float *grad, const float *normal,
                       const float *inverse, const float *gain, char *d_x, float *d_residual,
                       float *d_bias, float *d_gain, float *d_shift)
{
    CALL(join_backward, set, join->low, join, grad, normal, inverse, gain, d_x, d_residual, d_bias,
         d_gain, d_shift);
}

/* output = gelu(x + bias); the output may be x. */
void nmg_gelu_forward(int set, long rows, long width, int low, const char *x, const float *bias,
                      char *output)
{
    CALL(gelu_forward, set, low, rows, width, low, x, bias, output);
}

/* The bias's gradient is added; d_x may be x. */
void nmg_gelu_backward(int set, long rows, long width, int low, const char *grad, const char *x,
                       const float *bias, char *d_x, float *d_bias)
{
    CALL(gelu_backward, set, low, rows, width, low, grad, x, bias, d_x, d_bias);
}

/* 1 if a target is no column, else 0. */
int nmg_losses_forward(int set, long rows, long width, int low, const char *logits,
                       const int64_t *targets, float *log_sums, float *losses)
{
    for (long i = 0; i < rows; i++)
        if (targets[i] < 0 || targets[i] >= width) return 1;
    CALL(losses_forward, set, low, rows, width, low, logits, targets, log_sums, losses);
    return 0;
}

void nmg_losses_backward(int set, long rows, long width, int low, const char *logits,
                         const int64_t *targets, const float *log_sums, const float *grad,
                         char *d_logits)
{
    CALL(losses_backward, set, low, rows, width, low, logits, targets, log_sums, grad, d_logits);
}
