/* The codecs of csrc/ as a library of functions, for the tests. */
#include <stdint.h>
#include <string.h>

#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#else
#pragma GCC optimize("O3", "fp-contract=off", "no-trapping-math")
#endif
#define PASTE(a, b, c) PASTE_EXPANDED(a, b, c)
#define PASTE_EXPANDED(a, b, c) a##_##b##_##c

#define ISA baseline
#define TARGET
#define HALVES 0
#define DTYPE 32
#include "codec.h"
#define DTYPE 64
#include "codec.h"
#undef ISA
#undef TARGET
#undef HALVES

#if defined(__x86_64__)
#define ISA avx2
#define TARGET __attribute__((target("avx2,f16c")))
#define HALVES 8
#define DTYPE 32
#include "codec.h"
#define DTYPE 64
#include "codec.h"
#undef ISA
#undef TARGET
#undef HALVES

#define ISA avx512
#define TARGET __attribute__((target("avx512f,avx512vl,avx512dq,avx512bw,prefer-vector-width=512")))
#define HALVES 16
#define DTYPE 32
#include "codec.h"
#define DTYPE 64
#include "codec.h"
#undef ISA
#undef TARGET
#undef HALVES
#endif

#if defined(__x86_64__)
#define EACH_ISA(_, dtype) _(baseline, dtype) _(avx2, dtype) _(avx512, dtype)
#else
#define EACH_ISA(_, dtype) _(baseline, dtype)
#endif
#define EXPORT __attribute__((visibility("default")))

EXPORT int find_codec(const char *name)
{
#define ENTRY(name, nearest, stochastic) #name,
    static const char *const names[] = {CODECS(ENTRY)};
#undef ENTRY
    for (int number = 0; number < (int)(sizeof names / sizeof *names); number++)
        if (strcmp(names[number], name) == 0)
            return number;
    return -1;
}

#define CHOOSE(isa, dtype) if (strcmp(instructions, #isa) == 0) CALL(isa, dtype)

/* The functions take the name of an instruction set, which the processor must have, and a storage's number. */
#define CALL(isa, dtype) codecs_##dtype##_##isa[storage].decode(parts, start, count, values);
EXPORT void decode_32(const char *instructions, int storage, void *const *parts, int64_t start, int32_t count, float *values)
{
    EACH_ISA(CHOOSE, 32)
}

EXPORT void decode_64(const char *instructions, int storage, void *const *parts, int64_t start, int32_t count, double *values)
{
    EACH_ISA(CHOOSE, 64)
}
#undef CALL

#define CALL(isa, dtype) codecs_##dtype##_##isa[storage].encode[stochastic](values, count, parts, start, noise, shift);
EXPORT void encode_32(const char *instructions, int storage, const float *values, int32_t count, void *const *parts,
                      int64_t start, const uint32_t *noise, int shift, int stochastic)
{
    EACH_ISA(CHOOSE, 32)
}

EXPORT void encode_64(const char *instructions, int storage, const double *values, int32_t count, void *const *parts,
                      int64_t start, const uint32_t *noise, int shift, int stochastic)
{
    EACH_ISA(CHOOSE, 64)
}
#undef CALL

/* Through a pointer that nobody sees through: what is inlined cannot be read in the machine code. */
#define CALL(isa, dtype)                                                                                      \
    {                                                                                                         \
        void (*volatile fill)(noise_key, uint32_t, int32_t, uint32_t *) = fill_noise_##dtype##_##isa;         \
        fill(key, first, count, noise);                                                                       \
    }
EXPORT void noise_32(const char *instructions, uint64_t both, uint32_t first, int32_t count, uint32_t *noise)
{
    const noise_key key = {(uint32_t)both, (uint32_t)(both >> 32)};
    EACH_ISA(CHOOSE, 32)
}

EXPORT void noise_64(const char *instructions, uint64_t both, uint32_t first, int32_t count, uint32_t *noise)
{
    const noise_key key = {(uint32_t)both, (uint32_t)(both >> 32)};
    EACH_ISA(CHOOSE, 64)
}
#undef CALL
