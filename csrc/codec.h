/* Every codec's loops for one dtype and one instruction set, included by stamp.h, and the table of them.
 *
 * A codec's file gives three functions over `count` elements from `start`, which counts from the beginning of the arrays
 * `parts` and is a multiple of the storage's block:
 *
 *     DECODE(name) { parts to values }
 *     ENCODE(name) { values to parts, each to the nearest code }
 *     ENCODE_STOCHASTIC(name) { values to parts, up or down at random: 16 bits of noise[i] >> shift say which }
 *
 * The last one is missing where every value has a code. fastopt/storages/ defines the formats. Loops count in 32 bits, or
 * they would not be vectorized at full width. */
#include "bits.h"
#include "codecs/noise.h"

#define SHARED(name) TARGET ALWAYS_INLINE void STAMPED(name)
#define EACH(i) for (int32_t i = 0; i < count; i++)

#define DECODE_ARGUMENTS void *const *parts, int64_t start, int32_t count, real *restrict values
#define ENCODE_ARGUMENTS                                                                  \
    const real *restrict values, int32_t count, void *const *parts, int64_t start,        \
        UNUSED const uint32_t *restrict noise, UNUSED int shift

/* The table's functions take values of any dtype; what a codec's file gives is inlined into them. */
#define DECODE(name)                                                                                           \
    SHARED(decode_##name##_body)(DECODE_ARGUMENTS);                                                            \
    TARGET static void STAMPED(decode_##name)(void *const *parts, int64_t start, int32_t count, void *values)  \
    {                                                                                                          \
        STAMPED(decode_##name##_body)(parts, start, count, (real *)values);                                    \
    }                                                                                                          \
    SHARED(decode_##name##_body)(DECODE_ARGUMENTS)
#define ENCODE(name)                                                                                           \
    SHARED(encode_##name##_body)(ENCODE_ARGUMENTS);                                                            \
    TARGET static void STAMPED(encode_##name)(const void *values, int32_t count, void *const *parts,           \
                                              int64_t start, const uint32_t *noise, int shift)                 \
    {                                                                                                          \
        STAMPED(encode_##name##_body)((const real *)values, count, parts, start, noise, shift);                \
    }                                                                                                          \
    SHARED(encode_##name##_body)(ENCODE_ARGUMENTS)
#define ENCODE_STOCHASTIC(name) ENCODE(name##_stochastic)

#include "codecs/all.h"

/* Random words for the elements from `first`. */
TARGET static void STAMPED(fill_noise)(noise_key key, uint32_t first, int32_t count, uint32_t *restrict noise)
{
    EACH(i) noise[i] = random_word(key, first + (uint32_t)i);
}

/* By the storage's number; encode by whether to round stochastically. */
static const struct codec STAMPED(codecs)[] = {
#define ENTRY(name, nearest, stochastic) \
    {STAMPED(decode_##name), {STAMPED(encode_##nearest), STAMPED(encode_##stochastic)}},
    CODECS(ENTRY)
#undef ENTRY
};

#undef DECODE
#undef ENCODE
#undef ENCODE_STOCHASTIC
#undef DECODE_ARGUMENTS
#undef ENCODE_ARGUMENTS
#undef EACH
#undef SHARED
