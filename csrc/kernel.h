/* Every kernel's loop for one dtype and one instruction set, included by stamp.h, and the table of them. A kernel's file
 * gives its names and the body of the loop:
 *
 *     KERNEL(name, (states), (coefficients)) { body for element i } END_KERNEL
 *
 * In the body TERM(c, x) stands for c * x where the coefficient c may be zero: zero means that the term is not there, and
 * 0 * x would be NaN for an x that is infinite. To look at every coefficient for every element takes up to a third of a
 * loop's time in the cache, so the body is compiled three times: without the term of l2 (no coupled weight decay, the
 * usual case), with every term, and with the question, for rows that have a zero elsewhere.
 */
#ifndef TERM
#define TERM(c, x) (c##_is == ABSENT || (c##_is == UNKNOWN && c == 0) ? (c) : (c) * (x))
enum presence { ABSENT, PRESENT, UNKNOWN };

#define LOOP static inline __attribute__((always_inline)) void
#define IS(name, other) (__builtin_strcmp(#name, #other) == 0) /* known when compiled */
/* Which zeros take the loop with the question: l2 has a loop of its own, and keep and zero stand in comparisons alone. */
#define IN_A_TERM(name) (!IS(name, l2) && !IS(name, keep) && !IS(name, zero))
#define OR_IS_ZERO(name) || (name == 0 && IN_A_TERM(name))
#endif

#if !defined(__clang__)
/* No loop more than these three, and a coefficient that stands in two terms is no reason to branch. */
#pragma GCC push_options
#pragma GCC optimize("no-unswitch-loops", "no-thread-jumps")
#endif

#define STATE(name) real *restrict const name = (real *)*buffer++;
#define COEFFICIENT(name) const real name = *row++;
#define PRESENCE(name) const enum presence name##_is __attribute__((unused)) = IS(name, l2) ? decay : others;

#define KERNEL(name, states, coefficients)                                                                     \
    DESCRIBE(name, states, coefficients)                                                                       \
    TARGET LOOP STAMPED(name##_loop)(void *const *buffer, const real *row, int64_t start, int64_t stop,        \
                                     enum presence decay, enum presence others);                               \
    TARGET static void STAMPED(name)(void *const *buffer, const void *k, int64_t start, int64_t stop)          \
    {                                                                                                          \
        const real *row = (const real *)k;                                                                     \
        FOR_EACH(COEFFICIENT, UNWRAP coefficients)                                                             \
        if (0 FOR_EACH(OR_IS_ZERO, UNWRAP coefficients))                                                       \
            STAMPED(name##_loop)(buffer, (const real *)k, start, stop, UNKNOWN, UNKNOWN);                      \
        else if (l2 == 0)                                                                                      \
            STAMPED(name##_loop)(buffer, (const real *)k, start, stop, ABSENT, PRESENT);                       \
        else                                                                                                   \
            STAMPED(name##_loop)(buffer, (const real *)k, start, stop, PRESENT, PRESENT);                      \
    }                                                                                                          \
    TARGET LOOP STAMPED(name##_loop)(void *const *buffer, const real *row, int64_t start, int64_t stop,        \
                                     enum presence decay, enum presence others)                                \
    {                                                                                                          \
        real *restrict const p = (real *)*buffer++;                                                            \
        const real *restrict const g = (const real *)*buffer++;                                                \
        FOR_EACH(STATE, UNWRAP states)                                                                         \
        FOR_EACH(COEFFICIENT, UNWRAP coefficients)                                                             \
        FOR_EACH(PRESENCE, UNWRAP coefficients)                                                                \
        NO_DEPENDENCIES                                                                                        \
        for (int64_t i = start; i < stop; i++)

#define END_KERNEL }

#include "kernels/all.h"

static kernel_loop *const STAMPED(kernels)[] = {
#define ENTRY(name) STAMPED(name),
    KERNELS(ENTRY)
#undef ENTRY
};

#if !defined(__clang__)
#pragma GCC pop_options
#endif
#undef KERNEL
#undef END_KERNEL
#undef STATE
#undef COEFFICIENT
#undef PRESENCE
