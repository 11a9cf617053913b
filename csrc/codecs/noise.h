/* Random words for stochastic rounding: a hash of the element's number and of the key of a step, see
 * fastopt/storages/noise.py. */
#ifndef FASTOPT_NOISE_H
#define FASTOPT_NOISE_H
#include <stdint.h>

#include "../bits.h"

typedef struct noise_key {
    uint32_t first, second;
} noise_key;

ALWAYS_INLINE uint32_t random_word(noise_key key, uint32_t element)
{
    uint32_t x = element + key.first;
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= x >> 15 ^ key.second;
    x *= 0x846ca68bu;
    return x ^ x >> 16;
}

#endif
