/* split: a float32 in two halves, the upper one rounded half away from zero, so that it can be read as bfloat16. */
DECODE(split)
{
    const uint16_t *restrict const upper = (const uint16_t *)parts[0] + start;
    const uint16_t *restrict const lower = (const uint16_t *)parts[1] + start;
    EACH(i) values[i] = float_of(((uint32_t)upper[i] << 16) + (lower[i] ^ 0x8000u) - 0x8000u);
}

ENCODE(split)
{
    uint16_t *restrict const upper = (uint16_t *)parts[0] + start;
    uint16_t *restrict const lower = (uint16_t *)parts[1] + start;
    EACH(i)
    {
        const uint32_t bits = bits_of((float)values[i]);
        const uint32_t whole = (bits & MAGNITUDE) > INFINITY_BITS ? (bits | QUIET) & 0xffff0000u : bits;
        upper[i] = (uint16_t)((whole + 0x8000) >> 16);
        lower[i] = (uint16_t)whole;
    }
}
