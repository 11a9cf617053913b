/* float8: floating point in a byte, four bits of it the exponent, in blocks of 256 that have a power of two as scale. Three
 * bits are the mantissa where there is a sign, else four. */
#ifndef FASTOPT_FLOAT8_H
#define FASTOPT_FLOAT8_H

enum {
    FLOAT8_BLOCK = 256,
    FLOAT8_SIGNED = 20,  /* bits that a mantissa of three drops from that of a float */
    FLOAT8_UNSIGNED = 19
};

/* The bits of a code's value from those of its exponent and mantissa, where a float has them: a subnormal one, read as if
 * it had a leading one, is taken twice and loses both. */
ALWAYS_INLINE uint32_t float8_value(uint32_t magnitude)
{
    const uint32_t normal = magnitude + BIASED(-7);
    const uint32_t subnormal = bits_of(float_of(magnitude + BIASED(-6)) - float_of(BIASED(-6)));
    return subnormal < normal ? subnormal : normal;
}

/* The nearest code of a value without its sign, at least `least`; ties go to the even one. The value is measured by the
 * block's scale and 2^-7: its octaves from 2^1 on have codes with a leading one, and exponents that are 0 modulo 256. */
ALWAYS_INLINE uint32_t float8_nearest(float value, int dropped, uint32_t least)
{
    const uint32_t own = bits_of(value) & INFINITY_BITS, octave = own < BIASED(1) ? BIASED(1) : own;
    /* The sum has as many bits behind the point as the code, and they are its lowest. */
    const uint32_t sum = bits_of(value + float_of(octave + ((uint32_t)dropped << 23)));
    const uint32_t code = (sum + (octave >> dropped)) & 0xff;
    return code < least ? least : code;
}

/* The code below a value, or the one above it if the 16 bits of noise at `shift`, 0 or 16, carry when they are added to the
 * bits that are dropped; at least `least`. */
ALWAYS_INLINE uint32_t float8_stochastic(float value, int dropped, uint32_t noise, int shift, uint32_t least)
{
    const uint32_t added = (shift ? noise >> (32 - dropped) : noise << (dropped - 16)) & 0xffffu << (dropped - 16);
    /* Half of the sum is above subnormal values, and below all others. */
    const int32_t normal = (int32_t)bits_of(value), half = (int32_t)(bits_of(value + float_of(BIASED(-6))) - (1u << 23));
    const uint32_t carried = (uint32_t)(half > normal ? half : normal) + (added | -BIASED(-7));
    return (carried < least << dropped ? least << dropped : carried) >> dropped;
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
    for (int32_t first = 0; first < count; first += FLOAT8_BLOCK) {
        const int32_t stop = count - first < FLOAT8_BLOCK ? count : first + FLOAT8_BLOCK;
        const float scale = scales[first / FLOAT8_BLOCK];
        for (int32_t i = first; i < stop; i++) {
            /* The sign of a code is extended, so that it is widened once. */
            const uint32_t code = dropped == FLOAT8_SIGNED ? (uint32_t)(int8_t)codes[i] : codes[i];
            const uint32_t bits = code << dropped;
            const float magnitude = scale * float_of(float8_value(bits & ((1u << 27) - 1)));
            values[i] = float_of(bits_of(magnitude) | (bits & SIGN));
        }
    }
}

SHARED(encode_float8)(const real *restrict values, int32_t count, void *const *parts, int64_t start,
                      const uint32_t *restrict noise, int shift, int dropped, int stochastic)
{
    uint8_t *restrict const codes = (uint8_t *)parts[0] + start;
    float *restrict const scales = (float *)parts[1] + start / FLOAT8_BLOCK;
    const int is_signed = dropped == FLOAT8_SIGNED;
    const uint32_t margin = stochastic ? (1u << dropped) - 1 : 1u << (dropped - 1);
    /* All scales first: no block waits for the largest magnitude of its own. */
    for (int32_t first = 0; first < count; first += FLOAT8_BLOCK) {
        const int32_t stop = count - first < FLOAT8_BLOCK ? count : first + FLOAT8_BLOCK;
        uint32_t largest = 0;
        for (int32_t i = first; i < stop; i++) {
            const uint32_t magnitude = bits_of((float)values[i]) & MAGNITUDE;
            largest = magnitude > largest ? magnitude : largest;
        }
        scales[first / FLOAT8_BLOCK] = float_of(float8_scale(largest, margin));
    }
    for (int32_t first = 0; first < count; first += FLOAT8_BLOCK) {
        const int32_t stop = count - first < FLOAT8_BLOCK ? count : first + FLOAT8_BLOCK;
        const uint32_t scale = bits_of(scales[first / FLOAT8_BLOCK]);
        if (scale > INFINITY_BITS) {
            memset(codes + first, 0, (size_t)(stop - first));
            continue;
        }
        const float inverse = float_of((stochastic ? 2 * BIASED(0) : 2 * BIASED(0) + (7u << 23)) - scale);
        for (int32_t i = first; i < stop; i++) {
            const uint32_t bits = bits_of((float)values[i]), magnitude = bits & MAGNITUDE;
            const float value = inverse * float_of(magnitude);
            const uint32_t code = stochastic ? float8_stochastic(value, dropped, noise[i], shift, !is_signed)
                                             : float8_nearest(value, dropped, !is_signed);
            /* The sign comes where a float has it: GCC would narrow each operand of what happens in a byte. */
            codes[i] = (uint8_t)(is_signed ? (code << 24 | (bits & SIGN)) >> 24 : magnitude ? code : 0);
        }
    }
}

DECODE(float8_signed) { STAMPED(decode_float8)(parts, start, count, values, FLOAT8_SIGNED); }
DECODE(float8_unsigned) { STAMPED(decode_float8)(parts, start, count, values, FLOAT8_UNSIGNED); }

ENCODE(float8_signed) { STAMPED(encode_float8)(values, count, parts, start, noise, shift, FLOAT8_SIGNED, 0); }
ENCODE(float8_unsigned) { STAMPED(encode_float8)(values, count, parts, start, noise, shift, FLOAT8_UNSIGNED, 0); }

/* Each loop knows the shift. */
ENCODE_STOCHASTIC(float8_signed)
{
    if (shift)
        STAMPED(encode_float8)(values, count, parts, start, noise, 16, FLOAT8_SIGNED, 1);
    else
        STAMPED(encode_float8)(values, count, parts, start, noise, 0, FLOAT8_SIGNED, 1);
}
ENCODE_STOCHASTIC(float8_unsigned)
{
    if (shift)
        STAMPED(encode_float8)(values, count, parts, start, noise, 16, FLOAT8_UNSIGNED, 1);
    else
        STAMPED(encode_float8)(values, count, parts, start, noise, 0, FLOAT8_UNSIGNED, 1);
}
