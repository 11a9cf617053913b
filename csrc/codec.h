/* Every codec's loops for one dtype that kernels compute in and one instruction set, and the table of them: included once
 * for each pair by who has defined DTYPE (32 or 64), ISA (a suffix), TARGET (the function attribute of the instruction set)
 * and HALVES (how many float16 at once the target's own instructions convert: 16, 8 or 0).
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

#if DTYPE == 32
#define real float
#else
#define real double
#endif
#define STAMPED(name) PASTE(name, DTYPE, ISA)
#define SHARED(name) TARGET ALWAYS_INLINE void STAMPED(name)
#define EACH(i) for (int32_t i = 0; i < count; i++)

#define DECODE_ARGUMENTS void *const *parts, int64_t start, int32_t count, real *restrict values
#define ENCODE_ARGUMENTS                                                                  \
    const real *restrict values, int32_t count, void *const *parts, int64_t start,        \
        UNUSED const uint32_t *restrict noise, UNUSED int shift
#define DECODE(name) TARGET static void STAMPED(decode_##name)(DECODE_ARGUMENTS)
#define ENCODE(name) TARGET static void STAMPED(encode_##name)(ENCODE_ARGUMENTS)
#define ENCODE_STOCHASTIC(name) ENCODE(name##_stochastic)

#include "codecs/all.h"

/* Random words for the elements from `first`. */
TARGET static void STAMPED(fill_noise)(noise_key key, uint32_t first, int32_t count, uint32_t *restrict noise)
{
    EACH(i) noise[i] = random_word(key, first + (uint32_t)i);
}

/* By the storage's number; encode by whether to round stochastically. */
static const struct {
    void (*decode)(DECODE_ARGUMENTS);
    void (*encode[2])(ENCODE_ARGUMENTS);
} STAMPED(codecs)[] = {
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
#undef STAMPED
#undef real
#undef DTYPE
