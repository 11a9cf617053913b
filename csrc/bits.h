/* Bit patterns of float32: what codecs compute with. */
#ifndef FASTOPT_BITS_H
#define FASTOPT_BITS_H
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h> /* conversions of float16, for targets that have them */
#endif

#define ALWAYS_INLINE static inline __attribute__((always_inline))
#define UNUSED __attribute__((unused))

#define SIGN 0x80000000u
#define MAGNITUDE 0x7fffffffu
#define INFINITY_BITS 0x7f800000u /* the magnitude of an infinity: that of a NaN is larger */
#define QUIET 0x00400000u
#define BIASED(exponent) ((uint32_t)(127 + (exponent)) << 23) /* the bits of 2^exponent */

ALWAYS_INLINE uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

ALWAYS_INLINE float float_of(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* bits / 2^dropped, to the nearest integer, ties to even. */
ALWAYS_INLINE uint32_t shifted(uint32_t bits, int dropped)
{
    return (bits + ((1u << (dropped - 1)) - 1) + (bits >> dropped & 1)) >> dropped;
}

#endif
