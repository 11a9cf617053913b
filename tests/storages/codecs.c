/* The codecs of csrc/ as a library of functions, for the tests. */
#define KERNELS(_) _(sgd)
#define SUMS(_) _(sum_squares)
#include "stamped.c"

#define EXPORT __attribute__((visibility("default")))

EXPORT int find_codec(const char *name)
{
#define ENTRY(name, parts, nearest, stochastic) #name,
    static const char *const names[] = {CODECS(ENTRY)};
#undef ENTRY
    for (int number = 0; number < (int)(sizeof names / sizeof *names); number++)
        if (strcmp(names[number], name) == 0)
            return number;
    return -1;
}

/* The loops of an instruction set, which the processor must have, for one dtype. */
static const struct loops *find(const char *instructions, int dtype)
{
    for (int isa = 0; isa < isa_count; isa++)
        if (strcmp(isas[isa]->name, instructions) == 0)
            return isas[isa]->loops[dtype];
    return NULL;
}

EXPORT void decode(const char *instructions, int dtype, int storage, void *const *parts, int64_t start, int32_t count,
                   void *values)
{
    find(instructions, dtype)->codecs[storage].decode(parts, start, count, values);
}

EXPORT void encode(const char *instructions, int dtype, int storage, const void *values, int32_t count, void *const *parts,
                   int64_t start, const uint32_t *noise, int shift, int stochastic)
{
    find(instructions, dtype)->codecs[storage].encode[stochastic](values, count, parts, start, noise, shift);
}

EXPORT void noise(const char *instructions, uint64_t both, uint32_t first, int32_t count, uint32_t *words)
{
    const noise_key key = {(uint32_t)both, (uint32_t)(both >> 32)};
    find(instructions, 0)->fill_noise(key, first, count, words);
}
