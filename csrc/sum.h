/* Every sum's loop for one dtype and one instruction set. A sum's file gives what the element i contributes to each of its
 * numbers, in double:
 *
 *     SUM(name, (streams), (coefficients), (numbers)) { body for element i } END_SUM
 *
 * Streams are the first of a kernel's, p, g and then its states; or g alone. Terms are as in kernels (kernel.h), with the
 * question. The element i of a block is then added to lane i % LANES, in order, so that the order of the additions is
 * the same for every instruction set; who calls starts at a multiple of LANES, and folds the lanes of a block in halves. */
#define READ_ONLY(name) const real *restrict const name = (const real *)*buffer++;
#define SUM_COEFFICIENT(name) const real name __attribute__((unused)) = *row++; \
    const enum presence name##_is __attribute__((unused)) = UNKNOWN;
#define NUMBER(name) double *restrict const name = *number++;

#define SUM(name, streams, coefficients, numbers)                                                              \
    DESCRIBE_SUM(name, streams, coefficients, numbers)                                                         \
    TARGET static void STAMPED(name##_sum)(void *const *buffer, const void *k, int32_t count, double *const *number) \
    {                                                                                                          \
        const real *row __attribute__((unused)) = (const real *)k;                                             \
        FOR_EACH(READ_ONLY, UNWRAP streams)                                                                    \
        FOR_EACH(SUM_COEFFICIENT, UNWRAP coefficients)                                                         \
        FOR_EACH(NUMBER, UNWRAP numbers)                                                                       \
        NO_DEPENDENCIES                                                                                        \
        for (int32_t i = 0; i < count; i++)

#define END_SUM }

#include "sums/all.h"

static sum_loop *const STAMPED(sums)[] = {
#define ENTRY(name) STAMPED(name##_sum),
    SUMS(ENTRY)
#undef ENTRY
};

/* Adds what `count` elements contribute to a number. */
TARGET static void STAMPED(add)(const double *contributions, int32_t count, double *lanes)
{
    const int32_t whole = count - count % LANES;
    double sums[LANES];
    memcpy(sums, lanes, sizeof sums);
    for (int32_t i = 0; i < whole; i += LANES)
        for (int lane = 0; lane < LANES; lane++)
            sums[lane] += contributions[i + lane];
    for (int32_t i = whole; i < count; i++)
        sums[i - whole] += contributions[i];
    memcpy(lanes, sums, sizeof sums);
}

#undef SUM
#undef END_SUM
#undef READ_ONLY
#undef SUM_COEFFICIENT
#undef NUMBER
