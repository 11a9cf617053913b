/* Every kernel's loop for one dtype and one instruction set, included by stamp.h, and the table of them. A kernel's file
 * gives its names and the body of the loop:
 *
 *     KERNEL(name, (states), (coefficients)) { body for element i } END_KERNEL
 *
 * In the body TERM(c, x) stands for c * x where the coefficient c may be zero: zero means that the term is not there, and
 * 0 * x would be NaN for an x that is infinite. To look at every coefficient for every element takes up to a third of a
 * loop's time in the cache, so the body is compiled three times: without the term of l2 (no coupled weight decay, the
 * usual case), with every term, and with the question, for rows that have a zero elsewhere. Where a coefficient is called
 * keep, it is compiled for both cases of keep_is, ABSENT and PRESENT: what is not kept need not even be read.
 *
 * Where all numbers lie in memory as bfloat16, name_bfloat16 decodes, steps and encodes CHUNK after CHUNK: without a call
 * in between, the processor works on one chunk while it waits for another.
 */
#ifndef TERM
#define TERM(c, x) (c##_is == ABSENT || (c##_is == UNKNOWN && c == 0) ? (c) : (c) * (x))
enum presence { ABSENT, PRESENT, UNKNOWN };

#define LOOP static inline __attribute__((always_inline)) void
#define IS(name, other) (__builtin_strcmp(#name, #other) == 0) /* known when compiled */
/* Which zeros take the loop with the question: l2 and keep have loops of their own, zero stands in comparisons, and
 * eps_root is added. Any other does, whether it stands in a TERM or not: the macros know no more than its name. */
#define IN_A_TERM(name) (!IS(name, l2) && !IS(name, keep) && !IS(name, zero) && !IS(name, eps_root))
#define OR_IS_ZERO(name) || (name == 0 && IN_A_TERM(name))
#define OR_NO_DECAY(name) || (IS(name, l2) && name == 0)
#define OR_NOT_KEPT(name) || (IS(name, keep) && name == 0)
#endif

#if !defined(__clang__)
/* No loop more than these three, and a coefficient that stands in two terms is no reason to branch. */
#pragma GCC push_options
#pragma GCC optimize("no-unswitch-loops", "no-thread-jumps")
#endif

#define STATE(name) real *restrict const name = (real *)*buffer++;
#define COEFFICIENT(name) const real name __attribute__((unused)) = *row++; /* a body asks keep_is, never keep */
#define PRESENCE(name) const enum presence name##_is __attribute__((unused)) = \
    IS(name, l2) ? decay : IS(name, keep) ? kept : others;
#define RUN(loop, coefficients, decay, others)                                                                 \
    if (0 FOR_EACH(OR_NOT_KEPT, UNWRAP coefficients))                                                          \
        STAMPED(loop)(buffer, (const real *)k, start, stop, decay, others, ABSENT);                            \
    else                                                                                                       \
        STAMPED(loop)(buffer, (const real *)k, start, stop, decay, others, PRESENT);

/* The function of a name: the loop, compiled for the terms that its row may leave. */
#define WITH_TERMS(name, loop, coefficients)                                                                   \
    TARGET static void STAMPED(name)(void *const *buffer, const void *k, int64_t start, int64_t stop)          \
    {                                                                                                          \
        const real *row = (const real *)k;                                                                     \
        FOR_EACH(COEFFICIENT, UNWRAP coefficients)                                                             \
        if (0 FOR_EACH(OR_IS_ZERO, UNWRAP coefficients)) {                                                     \
            RUN(loop, coefficients, UNKNOWN, UNKNOWN)                                                          \
        } else if (0 FOR_EACH(OR_NO_DECAY, UNWRAP coefficients)) {                                             \
            RUN(loop, coefficients, ABSENT, PRESENT)                                                           \
        } else {                                                                                               \
            RUN(loop, coefficients, PRESENT, PRESENT)                                                          \
        }                                                                                                      \
    }

#if DTYPE == 32
#define IN_CHUNKS(name, states, coefficients)                                                                  \
    TARGET LOOP STAMPED(name##_chunks)(void *const *buffer, const real *row, int64_t start, int64_t stop,      \
                                       enum presence decay, enum presence others, enum presence kept)          \
    {                                                                                                          \
        enum { STREAMS = 2 FOR_EACH(ONE_MORE, UNWRAP states) };                                                \
        _Alignas(LINE) real rows[STREAMS][CHUNK + LINE / sizeof(real)];                                        \
        void *numbers[STREAMS];                                                                                \
        for (int stream = 0; stream < STREAMS; stream++)                                                       \
            numbers[stream] = rows[stream];                                                                    \
        for (; start < stop; start += CHUNK) {                                                                 \
            for (int stream = 0; stream < STREAMS; stream++)                                                   \
                STAMPED(decode_bfloat16_body)(&buffer[stream], start, CHUNK, rows[stream]);                    \
            STAMPED(name##_loop)(numbers, row, 0, CHUNK, decay, others, kept);                                 \
            for (int stream = 0; stream < STREAMS; stream++)                                                   \
                if (stream != 1) /* the gradient */                                                            \
                    STAMPED(encode_bfloat16_body)(rows[stream], CHUNK, &buffer[stream], start, NULL, 0);       \
        }                                                                                                      \
    }                                                                                                          \
    WITH_TERMS(name##_bfloat16, name##_chunks, coefficients)
#else
#define IN_CHUNKS(name, states, coefficients)
#endif

#define KERNEL(name, states, coefficients)                                                                     \
    DESCRIBE(name, states, coefficients)                                                                       \
    TARGET LOOP STAMPED(name##_loop)(void *const *buffer, const real *row, int64_t start, int64_t stop,        \
                                     enum presence decay, enum presence others, enum presence kept);           \
    WITH_TERMS(name, name##_loop, coefficients)                                                                \
    IN_CHUNKS(name, states, coefficients)                                                                      \
    TARGET LOOP STAMPED(name##_loop)(void *const *buffer, const real *row, int64_t start, int64_t stop,        \
                                     enum presence decay, enum presence others, enum presence kept)            \
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

#if DTYPE == 32
static kernel_loop *const STAMPED(kernels_bfloat16)[] = {
#define ENTRY(name) STAMPED(name##_bfloat16),
    KERNELS(ENTRY)
#undef ENTRY
};
#endif

#if !defined(__clang__)
#pragma GCC pop_options
#endif
#undef KERNEL
#undef END_KERNEL
#undef STATE
#undef COEFFICIENT
#undef PRESENCE
#undef RUN
#undef WITH_TERMS
#undef IN_CHUNKS
