/* float8: floating point in a byte, four bits of it the exponent, in blocks of 256 that have a power of two as scale. Three
 * bits are the mantissa where there is a sign, else four. */
#ifndef FASTOPT_FLOAT8_H
#define FASTOPT_FLOAT8_H

enum {
    FLOAT8_BLOCK = 256,
    FLOAT8_SIGNED = 20,  /* bits that a mantissa of three drops from that of a float */
    FLOAT8_UNSIGNED = 19
};

/* A code without its sign, as a float: a subnormal one, read as if it had a leading one, is taken twice and loses both. */
ALWAYS_INLINE float float8_value(uint32_t code, int dropped)
{
    const float normal = float_of((code << dropped) + BIASED(-7)), subnormal = normal + normal - float_of(BIASED(-6));
    return subnormal < normal ? subnormal : normal;
}

/* The nearest code of a value without its sign, both measured by the block's scale; ties go to the even one. */
ALWAYS_INLINE uint32_t float8_nearest(float value, int dropped)
{
    /* The sum has as many bits behind the point as a subnormal code. */
    const uint32_t bits = bits_of(value), subnormal = bits_of(value + float_of(BIASED(dropped - 6))) - BIASED(dropped - 6);
    return bits < BIASED(-6) ? subnormal : shifted(bits - BIASED(-7), dropped);
}

/* The code below a value, or the one above it if the 16 bits of noise, added to the bits that are dropped, carry. */
ALWAYS_INLINE uint32_t float8_stochastic(float value, int dropped, uint32_t noise)
{
    const uint32_t bits = bits_of(value), subnormal = bits_of(value + float_of(BIASED(-6))) - BIASED(-6);
    return ((bits < BIASED(-6) ? subnormal : bits - BIASED(-7)) + (noise << (dropped - 16))) >> dropped;
}

/* The least code of a number: where there is no sign, only zero becomes zero. */
ALWAYS_INLINE uint32_t float8_least(uint32_t bits, uint32_t sign)
{
    return sign == 0 && (bits & MAGNITUDE) != 0;
}

/* The bits of a block's scale, from those of its largest magnitude: that one comes into the highest octave of the codes,
 * also when adding `margin` takes it to the next octave of floats. The scale is at least 2^-116, so that no code becomes
 * subnormal, and NaN if the block is not finite. */
ALWAYS_INLINE uint32_t float8_scale(uint32_t largest, uint32_t margin)
{
    const uint32_t octave = (largest + margin) & INFINITY_BITS;
    if (largest >= INFINITY_BITS)
        return INFINITY_BITS | QUIET;
    return octave < BIASED(-108) ? BIASED(-116) : octave - (8u << 23);
}

#endif

SHARED(decode_float8)(void *const *parts, int64_t start, int32_t count, real *restrict values, int dropped)
{
    const uint8_t *restrict const codes = (const uint8_t *)parts[0] + start;
    const float *restrict const scales = (const float *)parts[1] + start / FLOAT8_BLOCK;
    const uint32_t sign = dropped == FLOAT8_SIGNED ? 0x80 : 0;
    for (int32_t first = 0; first < count; first += FLOAT8_BLOCK) {
        const int32_t stop = count - first < FLOAT8_BLOCK ? count : first + FLOAT8_BLOCK;
        const float scale = scales[first / FLOAT8_BLOCK];
        for (int32_t i = first; i < stop; i++) {
            const uint32_t code = codes[i];
            const float magnitude = scale * float8_value(code & ~sign, dropped);
            values[i] = float_of(bits_of(magnitude) | (code & sign) << 24);
        }
    }
}

SHARED(encode_float8)(const real *restrict values, int32_t count, void *const *parts, int64_t start,
                      const uint32_t *restrict noise, int shift, int dropped, int stochastic)
{
    uint8_t *restrict const codes = (uint8_t *)parts[0] + start;
    float *restrict const scales = (float *)parts[1] + start / FLOAT8_BLOCK;
    const uint32_t sign = dropped == FLOAT8_SIGNED ? 0x80 : 0;
    for (int32_t first = 0; first < count; first += FLOAT8_BLOCK) {
        const int32_t stop = count - first < FLOAT8_BLOCK ? count : first + FLOAT8_BLOCK;
        uint32_t largest = 0;
        for (int32_t i = first; i < stop; i++) {
            const uint32_t magnitude = bits_of((float)values[i]) & MAGNITUDE;
            largest = magnitude > largest ? magnitude : largest;
        }
        const uint32_t scale = float8_scale(largest, stochastic ? (1u << dropped) - 1 : 1u << (dropped - 1));
        scales[first / FLOAT8_BLOCK] = float_of(scale);
        if (scale > INFINITY_BITS) {
            memset(codes + first, 0, (size_t)(stop - first));
            continue;
        }
        const float inverse = float_of(2 * BIASED(0) - scale);
        for (int32_t i = first; i < stop; i++) {
            const uint32_t bits = bits_of((float)values[i]);
            const float magnitude = inverse * float_of(bits & MAGNITUDE);
            const uint32_t code = stochastic ? float8_stochastic(magnitude, dropped, noise[i] >> shift & 0xffff)
                                             : float8_nearest(magnitude, dropped);
            const uint32_t least = float8_least(bits, sign);
            codes[i] = (uint8_t)((code < least ? least : code) | (bits >> 24 & sign));
        }
    }
}

DECODE(float8_signed) { STAMPED(decode_float8)(parts, start, count, values, FLOAT8_SIGNED); }
DECODE(float8_unsigned) { STAMPED(decode_float8)(parts, start, count, values, FLOAT8_UNSIGNED); }

ENCODE(float8_signed) { STAMPED(encode_float8)(values, count, parts, start, noise, shift, FLOAT8_SIGNED, 0); }
ENCODE(float8_unsigned) { STAMPED(encode_float8)(values, count, parts, start, noise, shift, FLOAT8_UNSIGNED, 0); }

ENCODE_STOCHASTIC(float8_signed) { STAMPED(encode_float8)(values, count, parts, start, noise, shift, FLOAT8_SIGNED, 1); }
ENCODE_STOCHASTIC(float8_unsigned)
{
    STAMPED(encode_float8)(values, count, parts, start, noise, shift, FLOAT8_UNSIGNED, 1);
}
