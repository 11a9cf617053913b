/* Every kernel's loop for one dtype and one instruction set. fastopt.c includes this file once for each pair, after it
 * has defined DTYPE (32 or 64), ISA (a suffix) and TARGET (the function attribute of the instruction set).
 *
 * A kernel's file gives its names and the body of the loop:
 *
 *     KERNEL(name, (states), (coefficients)) { body for element i } END_KERNEL
 */
#if DTYPE == 32
#define real float
#define SQRT __builtin_sqrtf
#define ABS __builtin_fabsf
#else
#define real double
#define SQRT __builtin_sqrt
#define ABS __builtin_fabs
#endif
#define STAMPED(name) PASTE(name, DTYPE, ISA)

#define STATE(name) real *restrict const name = (real *)*buffer++;
#define COEFFICIENT(name) const real name = *row++;

#define KERNEL(name, states, coefficients)                                                            \
    DESCRIBE(name, states, coefficients)                                                              \
    TARGET static void STAMPED(name)(void *const *buffer, const void *k, int64_t start, int64_t stop) \
    {                                                                                                 \
        const real *row = (const real *)k;                                                            \
        real *restrict const p = (real *)*buffer++;                                                   \
        const real *restrict const g = (const real *)*buffer++;                                       \
        FOR_EACH(STATE, UNWRAP states)                                                                \
        FOR_EACH(COEFFICIENT, UNWRAP coefficients)                                                    \
        NO_DEPENDENCIES                                                                               \
        for (int64_t i = start; i < stop; i++)

#define END_KERNEL }

#include "kernels/all.h"

static const kernel_loop STAMPED(kernels)[] = {
#define ENTRY(name) STAMPED(name),
    KERNELS(ENTRY)
#undef ENTRY
};

/* The sum of (scale * g[i])^2 over one block: LANES sums side by side, then folded in halves, so that the order of the
 * additions is the same for every instruction set. */
TARGET static double STAMPED(sum_squares)(const void *gradient, double scale, int64_t start, int64_t stop)
{
    const real *const g = (const real *)gradient + start;
    const int64_t n = stop - start;
    const int64_t whole = n - n % LANES;
    double sums[LANES] = {0};
    for (int64_t i = 0; i < whole; i += LANES) {
        for (int lane = 0; lane < LANES; lane++) {
            const double x = scale * (double)g[i + lane];
            sums[lane] += x * x;
        }
    }
    for (int64_t i = whole; i < n; i++) {
        const double x = scale * (double)g[i];
        sums[i - whole] += x * x;
    }
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int lane = 0; lane < half; lane++)
            sums[lane] += sums[lane + half];
    return sums[0];
}

#undef KERNEL
#undef END_KERNEL
#undef DESCRIBE
#define DESCRIBE(name, states, coefficients)
#undef STATE
#undef COEFFICIENT
#undef STAMPED
#undef SQRT
#undef ABS
#undef real
#undef DTYPE
