/* Every sum's loop for one dtype and one instruction set. A sum's file gives what the element i adds to each of its
 * numbers, in double:
 *
 *     SUM(name, (streams), (coefficients), (numbers)) { body for element i, with ADD(number, x) } END_SUM
 *
 * Streams are the first of a kernel's, p, g and then its states; or g alone. Terms are as in kernels (kernel.h), and the
 * body is compiled for the same three cases. The element i of a block is added to lane i % LANES, in order, so that the
 * order of the additions is the same for every instruction set; who calls starts at a multiple of LANES, and folds the
 * lanes of a block in halves. */
#define READ_ONLY(name) const real *restrict const name __attribute__((unused)) = (const real *)*buffer++;
#define SUM_COEFFICIENT(name) const real name __attribute__((unused)) = *row++;
#define SUM_PRESENCE(name) const enum presence name##_is __attribute__((unused)) = IS(name, l2) ? coupled : others;
#define ASK_AHEAD(name) ask_ahead(name + first, LANES * sizeof(real));
#define NUMBER(name) double *restrict const name = *number++;
#define ADD(number, x) number[lane] += (x)

#define SUM(name, streams, coefficients, numbers)                                                              \
    DESCRIBE_SUM(name, streams, coefficients, numbers)                                                         \
    TARGET LOOP STAMPED(name##_rows)(void *const *buffer, const real *row, int32_t start, int32_t stop,        \
                                     int32_t width, double (*restrict number)[LANES], enum presence coupled,   \
                                     enum presence others);                                                    \
    TARGET LOOP STAMPED(name##_lanes)(void *const *buffer, const real *row, int32_t count,                     \
                                      double (*number)[LANES], enum presence coupled, enum presence others)    \
    {                                                                                                          \
        const int32_t whole = count - count % LANES;                                                           \
        double lanes[0 FOR_EACH(ONE_MORE, UNWRAP numbers)][LANES];                                             \
        memcpy(lanes, number, sizeof lanes);                                                                   \
        STAMPED(name##_rows)(buffer, row, 0, whole, LANES, lanes, coupled, others);                            \
        STAMPED(name##_rows)(buffer, row, whole, count, count - whole, lanes, coupled, others);                \
        memcpy(number, lanes, sizeof lanes);                                                                   \
    }                                                                                                          \
    TARGET static void STAMPED(name##_sum)(void *const *buffer, const void *k, int32_t count,                  \
                                           double (*number)[LANES])                                            \
    {                                                                                                          \
        const real *row = (const real *)k;                                                                     \
        FOR_EACH(SUM_COEFFICIENT, UNWRAP coefficients)                                                         \
        if (0 FOR_EACH(OR_IS_ZERO, UNWRAP coefficients))                                                       \
            STAMPED(name##_lanes)(buffer, (const real *)k, count, number, UNKNOWN, UNKNOWN);                   \
        else if (0 FOR_EACH(OR_NO_DECAY, UNWRAP coefficients))                                                 \
            STAMPED(name##_lanes)(buffer, (const real *)k, count, number, ABSENT, PRESENT);                    \
        else                                                                                                   \
            STAMPED(name##_lanes)(buffer, (const real *)k, count, number, PRESENT, PRESENT);                   \
    }                                                                                                          \
    TARGET LOOP STAMPED(name##_rows)(void *const *buffer, const real *row, int32_t start, int32_t stop,        \
                                     int32_t width, double (*restrict number)[LANES], enum presence coupled,   \
                                     enum presence others)                                                     \
    {                                                                                                          \
        FOR_EACH(READ_ONLY, UNWRAP streams)                                                                    \
        FOR_EACH(SUM_COEFFICIENT, UNWRAP coefficients)                                                         \
        FOR_EACH(SUM_PRESENCE, UNWRAP coefficients)                                                            \
        FOR_EACH(NUMBER, UNWRAP numbers)                                                                       \
        for (int32_t first = start; first < stop; first += LANES) {                                            \
            FOR_EACH(ASK_AHEAD, UNWRAP streams)                                                                \
            NO_DEPENDENCIES                                                                                    \
            for (int32_t lane = 0, i = first; lane < width; lane++, i++)

#define END_SUM }}

#include "sums/all.h"

static sum_loop *const STAMPED(sums)[] = {
#define ENTRY(name) STAMPED(name##_sum),
    SUMS(ENTRY)
#undef ENTRY
};

#undef SUM
#undef END_SUM
#undef READ_ONLY
#undef ASK_AHEAD
#undef SUM_COEFFICIENT
#undef SUM_PRESENCE
#undef NUMBER
#undef ADD
