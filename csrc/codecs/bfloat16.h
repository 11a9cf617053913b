/* bfloat16: the upper half of a float32. */
DECODE(bfloat16)
{
    const uint16_t *restrict const codes = (const uint16_t *)parts[0] + start;
    EACH(i) values[i] = float_of((uint32_t)codes[i] << 16);
}

ENCODE(bfloat16)
{
    uint16_t *restrict const codes = (uint16_t *)parts[0] + start;
    EACH(i)
    {
        const float value = (float)values[i];
        const uint32_t bits = bits_of(value);
        const uint32_t quieted = bits >> 16 | QUIET >> 16;
        codes[i] = (uint16_t)(value != value ? quieted : shifted(bits, 16));
    }
}

ENCODE_STOCHASTIC(bfloat16)
{
    uint16_t *restrict const codes = (uint16_t *)parts[0] + start;
    EACH(i)
    {
        const float value = (float)values[i];
        const uint32_t bits = bits_of(value);
        const uint32_t quieted = bits >> 16 | QUIET >> 16;
        const uint32_t moved = (bits + (noise[i] >> shift & 0xffff)) >> 16;
        codes[i] = (uint16_t)(value != value ? quieted : moved);
    }
}
