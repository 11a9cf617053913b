/* float16: IEEE 754's binary16, with subnormals. NaN is made quiet and keeps the upper bits of its payload. These are the
 * bits of the processor's own conversions, which are used where the target has them. */
#ifndef FASTOPT_FLOAT16_H
#define FASTOPT_FLOAT16_H

#define HALF_INFINITY 0x7c00u
#define REBIAS (112u << 23) /* added to the exponent: 127 - 15 */

ALWAYS_INLINE float half_to_float(uint32_t half)
{
    const uint32_t magnitude = half & 0x7fff;
    const uint32_t bits = (magnitude << 13) + REBIAS;
    /* A subnormal number, read as if it had a leading one, is taken twice and loses both ones: exactly. */
    const float normal = float_of(bits), subnormal = normal + normal - float_of(BIASED(-14));
    const uint32_t finite = bits_of(subnormal < normal ? subnormal : normal);
    const uint32_t infinite = bits + REBIAS;
    const uint32_t found = magnitude < HALF_INFINITY ? finite : infinite;
    return float_of((magnitude > HALF_INFINITY ? infinite | QUIET : found) | (half & 0x8000) << 16);
}

ALWAYS_INLINE uint32_t half_with_sign(uint32_t bits, uint32_t magnitude)
{
    const uint32_t quieted = (bits | QUIET) >> 13 & 0x3ff;
    return (bits >> 16 & 0x8000) | ((bits & MAGNITUDE) > INFINITY_BITS ? HALF_INFINITY | quieted : magnitude);
}

/* What is above every finite half becomes infinity. */
ALWAYS_INLINE uint32_t half_range(uint32_t magnitude)
{
    return (magnitude < BIASED(16) ? magnitude : BIASED(16)) - REBIAS;
}

ALWAYS_INLINE uint32_t float_to_half(float value)
{
    const uint32_t bits = bits_of(value), magnitude = bits & MAGNITUDE;
    /* The sum has as many bits behind the point as a subnormal half, and is rounded to nearest even. */
    const uint32_t subnormal = bits_of(float_of(magnitude) + 0.5f) - BIASED(-1);
    return half_with_sign(bits, magnitude < BIASED(-14) ? subnormal : shifted(half_range(magnitude), 13));
}

ALWAYS_INLINE uint32_t float_to_half_stochastic(float value, uint32_t noise)
{
    const uint32_t bits = bits_of(value), magnitude = bits & MAGNITUDE;
    const uint32_t subnormal = bits_of(float_of(magnitude) + float_of(BIASED(-14))) - BIASED(-14);
    const uint32_t fixed = magnitude < BIASED(-14) ? subnormal : half_range(magnitude);
    return half_with_sign(bits, (fixed + (noise >> 3)) >> 13);
}

#endif

DECODE(float16)
{
    const uint16_t *restrict const codes = (const uint16_t *)parts[0] + start;
    int32_t i = 0;
#if DTYPE == 32 && HALVES == 8
    for (; i + 8 <= count; i += 8)
        _mm256_storeu_ps(values + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(codes + i))));
#elif DTYPE == 32 && HALVES == 16
    for (; i + 16 <= count; i += 16)
        _mm512_storeu_ps(values + i, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(codes + i))));
#endif
    for (; i < count; i++)
        values[i] = half_to_float(codes[i]);
}

ENCODE(float16)
{
    uint16_t *restrict const codes = (uint16_t *)parts[0] + start;
    int32_t i = 0;
#if DTYPE == 32 && HALVES == 8
    for (; i + 8 <= count; i += 8)
        _mm_storeu_si128((__m128i *)(codes + i), _mm256_cvtps_ph(_mm256_loadu_ps(values + i), _MM_FROUND_TO_NEAREST_INT));
#elif DTYPE == 32 && HALVES == 16
    for (; i + 16 <= count; i += 16)
        _mm256_storeu_si256((__m256i *)(codes + i),
                            _mm512_cvtps_ph(_mm512_loadu_ps(values + i), _MM_FROUND_TO_NEAREST_INT));
#endif
    for (; i < count; i++)
        codes[i] = (uint16_t)float_to_half((float)values[i]);
}

ENCODE_STOCHASTIC(float16)
{
    uint16_t *restrict const codes = (uint16_t *)parts[0] + start;
    EACH(i) codes[i] = (uint16_t)float_to_half_stochastic((float)values[i], noise[i] >> shift & 0xffff);
}
